//! The fence inside the transaction: nothing commits at the source after it, whoever writes and however.

use std::time::Duration;

use super::ground::*;

const LEVELS: [&str; 3] = ["READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"];

/// A pair of cells, ready for the hold.
async fn ready(ground: &Ground) -> (Cell, Cell) {
    let (a, b) = ground.pair().await;
    accounts(&a.session().await, 3).await;
    let step = context(1, 1);
    ground.copy(&a, &b, &step).await;
    ground.verify(&a, &b, &step).await;
    ground.pool.engage_sync(&a.agent, &step, true).await.unwrap();
    ground.reverse(&b.agent, &step).await;
    (a, b)
}

/// Runs `write` while the exclusive lock is held, lets it wait there, fences, and says what became of it.
async fn across_the_fence(isolation: &str, write: &'static str) -> Vec<String> {
    let ground = Ground::new();
    let (a, b) = ready(&ground).await;
    let step = context(1, 1);
    let client = a.session().await;
    client.batch_execute(&format!("BEGIN ISOLATION LEVEL {isolation}")).await.unwrap();
    // The snapshot of the stricter levels is older than the fence.
    client.batch_execute("SELECT count(*) FROM accounts").await.unwrap();
    let pid: i32 = client.query_one("SELECT pg_backend_pid()", &[]).await.unwrap().get(0);
    let before = a.rows().await;
    let sealed = ground.pool.hold_writes(&a.agent, &step, HOLD).await.unwrap();
    let writer = tokio::spawn(async move {
        let written = client.batch_execute(write).await;
        let _ended = client.batch_execute("COMMIT").await;
        written
    });
    let watcher = a.session().await;
    let waits = format!("SELECT EXISTS (SELECT 1 FROM pg_locks WHERE pid = {pid} AND NOT granted)");
    until_true(&watcher, &waits).await;
    ground.pool.await_applied(&b.agent, &step, sealed, HOLD).await.unwrap();
    ground.pool.fence(&a.agent, &step, sealed).await.unwrap();
    let error = writer.await.unwrap().expect_err("it must not be written");
    assert_eq!(a.rows().await, before, "nothing is written after the fence");
    let state = error.code().unwrap().code().to_owned();
    vec![state, error.as_db_error().unwrap().message().to_owned()]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_writer_that_waits_across_the_fence_is_refused_at_every_isolation_level_through_the_function() {
    for isolation in LEVELS {
        let refusal = across_the_fence(
            isolation,
            "SELECT cellway.enter('t-1', 7, 1); INSERT INTO accounts (tenant_id, name) VALUES ('t-1', 'late')",
        )
        .await;
        // The stricter levels see the old grant and fail because its row has changed since.
        let expected = if isolation == "READ COMMITTED" { "CW003" } else { "40001" };
        assert_eq!(refusal[0], expected, "{isolation}: {refusal:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_writer_that_waits_across_the_fence_is_refused_at_every_isolation_level_through_the_trigger() {
    for isolation in LEVELS {
        for write in [
            "UPDATE accounts SET name = 'late' WHERE tenant_id = 't-1'",
            "INSERT INTO accounts (tenant_id, name) VALUES ('t-1', 'late')",
        ] {
            let refusal = across_the_fence(isolation, write).await;
            let expected = if isolation == "READ COMMITTED" { "CW003" } else { "40001" };
            assert_eq!(refusal[0], expected, "{isolation}: {write}: {refusal:?}");
        }
    }
}

/// A table that *has* a trigger before each insert, silent or not, takes COPY row by row.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_insert_is_judged_after_the_row_before_its_foreign_keys_and_older_triggers_give_way() {
    const SLOW: &str = "SELECT count(*) FROM pg_trigger WHERE NOT tgisinternal AND tgtype & 7 = 7";
    const OLD: &str = "DROP TRIGGER \"CW_guard_new\" ON accounts; DROP TRIGGER cellway_guard ON accounts; \
                       CREATE TRIGGER cellway_guard BEFORE INSERT OR UPDATE OR DELETE ON accounts \
                       FOR EACH ROW EXECUTE FUNCTION cellway.guard()";
    let ground = Ground::new();
    let b = ground.open("b").await;
    let client = b.session().await;
    let slow = async || client.query_one(SLOW, &[]).await.unwrap().get::<_, i64>(0);
    assert_eq!(slow().await, 0);
    let orphan = "INSERT INTO entries (tenant_id, account) VALUES ('t-1', 1)";
    assert_eq!(code(&client.batch_execute(orphan).await.unwrap_err()), "NOT_OWNER");
    let partitioned = "INSERT INTO \"Odd \"\" name\" VALUES ('k', 't-1', 'v')";
    assert_eq!(code(&client.batch_execute(partitioned).await.unwrap_err()), "NOT_OWNER");
    client.batch_execute(OLD).await.unwrap();
    assert_eq!(slow().await, 1);
    let url = b.url.clone();
    b.close().await;
    let b = ground.try_open("b", &url, "127.0.0.1:0").await.unwrap();
    assert_eq!(slow().await, 0);
    assert_eq!(code(&account(&client, "nobody's").await.unwrap_err()), "NOT_OWNER");
    b.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_psql_writes_directly_is_fenced_too_and_served_by_the_owner_only() {
    let ground = Ground::new();
    let (a, b) = ground.pair().await;
    let (at_a, at_b) = (a.session().await, b.session().await);
    account(&at_a, "first").await.unwrap();
    assert_eq!(code(&account(&at_b, "elsewhere").await.unwrap_err()), "NOT_OWNER");
    let step = context(1, 1);
    ground.copy(&a, &b, &step).await;
    assert_eq!(code(&account(&at_b, "rogue").await.unwrap_err()), "IMPORTING");
    ground.verify(&a, &b, &step).await;
    ground.reverse(&b.agent, &step).await;
    ground.cut_over(&a, &b, 1, 1, cell_model::Leg::Forward).await;
    for write in [
        "INSERT INTO accounts (tenant_id, name) VALUES ('t-1', 'late')",
        "UPDATE accounts SET name = 'late'",
        "DELETE FROM entries; DELETE FROM accounts",
    ] {
        assert_eq!(code(&at_a.batch_execute(write).await.unwrap_err()), "NOT_OWNER", "{write}");
    }
    account(&at_b, "second").await.unwrap();
    let refused = at_b.batch_execute("TRUNCATE accounts CASCADE").await.unwrap_err();
    assert_eq!(code(&refused), "TRUNCATE_REFUSED");
    let refused = at_b.batch_execute("UPDATE accounts SET tenant_id = 'other'").await.unwrap_err();
    assert_eq!(code(&refused), "TENANT_CHANGED");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_enters_only_at_the_epoch_of_the_grant() {
    let ground = Ground::new();
    let (a, b) = ready(&ground).await;
    let client = a.session().await;
    enter(&client, 1).await.unwrap();
    let seen: String = client.query_one("SELECT cellway.tenant()", &[]).await.unwrap().get(0);
    client.batch_execute("COMMIT").await.unwrap();
    assert_eq!(seen, "t-1");
    let left: Option<String> = client.query_one("SELECT cellway.tenant()", &[]).await.unwrap().get(0);
    assert_eq!(left, None, "nothing of the tenant stays on a pooled connection");
    for (epoch, expected) in [(0, "STALE"), (2, "NOT_YET")] {
        assert_eq!(enter(&client, epoch).await.unwrap_err(), expected);
        client.batch_execute("ROLLBACK").await.unwrap();
    }
    ground.cut_over(&a, &b, 1, 1, cell_model::Leg::Forward).await;
    assert_eq!(enter(&client, 1).await.unwrap_err(), "NOT_OWNER");
    client.batch_execute("ROLLBACK").await.unwrap();
    assert_eq!(enter(&b.session().await, 1).await.unwrap_err(), "STALE");
    enter(&b.session().await, 2).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transaction_open_before_the_hold_is_waited_for_and_moves_with_the_tenant() {
    let ground = Ground::new();
    let (a, b) = ready(&ground).await;
    let (pool, step, agent) = (ground.pool.clone(), context(1, 1), a.agent.clone());
    let client = a.session().await;
    client.batch_execute("BEGIN").await.unwrap();
    account(&client, "open before the hold").await.unwrap();
    let holding = tokio::spawn(async move { pool.hold_writes(&agent, &step, HOLD).await });
    until_true(&a.session().await, "SELECT EXISTS (SELECT 1 FROM pg_locks WHERE NOT granted AND mode = 'ExclusiveLock' AND database = (SELECT oid FROM pg_database WHERE datname = current_database()))").await;
    client.batch_execute("COMMIT").await.unwrap();
    let sealed = holding.await.unwrap().unwrap();
    ground.pool.await_applied(&b.agent, &context(1, 1), sealed, HOLD).await.unwrap();
    let rows = b.rows().await;
    assert!(rows["accounts"].iter().any(|row| row.contains("open before the hold")), "{rows:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transaction_that_outlives_the_budget_makes_the_hold_miss_and_says_who_it_was() {
    let ground = Ground::new();
    let (a, _b) = ready(&ground).await;
    let client = a.session().await;
    client.batch_execute("SET application_name = 'nightly report'; BEGIN").await.unwrap();
    account(&client, "slow").await.unwrap();
    let missed = ground.pool.hold_writes(&a.agent, &context(1, 1), Duration::from_millis(200)).await.unwrap_err();
    assert!(missed.to_string().contains("nightly report"), "{missed}");
    client.batch_execute("COMMIT").await.unwrap();
    // The hold has lapsed; others write, and the next attempt succeeds.
    account(&a.session().await, "after").await.unwrap();
    ground.pool.hold_writes(&a.agent, &context(1, 2), HOLD).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hold_that_lapses_between_seal_and_fence_is_never_fenced() {
    let ground = Ground::new();
    let (a, _b) = ready(&ground).await;
    let step = context(1, 1);
    let sealed = ground.pool.hold_writes(&a.agent, &step, Duration::from_millis(300)).await.unwrap();
    // Waits for the lock, and gets it when the hold lapses.
    account(&a.session().await, "after the lapse").await.unwrap();
    assert_eq!(refused(ground.pool.fence(&a.agent, &step, sealed).await), "NOT_SEALED");
    account(&a.session().await, "still served").await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_seal_whose_session_was_lost_is_never_fenced() {
    let ground = Ground::new();
    let (a, _b) = ready(&ground).await;
    let step = context(1, 1);
    let sealed = ground.pool.hold_writes(&a.agent, &step, HOLD).await.unwrap();
    let kill = "SELECT pg_terminate_backend(pid) FROM pg_locks JOIN pg_database d ON d.oid = database \
                WHERE locktype = 'advisory' AND mode = 'ExclusiveLock' AND datname = current_database() \
                  AND (classid::bigint << 32 | objid::bigint) = cellway.lock_key('t-1')";
    let killed = a.session().await.query(kill, &[]).await.unwrap();
    assert_eq!(killed.len(), 1);
    account(&a.session().await, "let in by the lost lock").await.unwrap();
    ground.pool.fence(&a.agent, &step, sealed).await.unwrap_err();
    account(&a.session().await, "still served").await.unwrap();
}
