//! Changes of a tenant's record whose outcome nobody has heard, because the session on which they were committed was lost: whoever asks
//! again, a later leader, gets what the database has, or has it done anew where it has nothing.

use std::time::Duration;

use cell_client::{StepContext, StepError};
use cell_model::{Leg, Seq, Term};
use tokio::task::JoinHandle;

use super::ground::*;
use super::server::Own;

/// A session of the agent that waits for a lock to change a tenant's record.
const KEPT_WAITING: &str = "FROM pg_stat_activity WHERE application_name = 'cellway agent' AND datname = current_database() \
    AND wait_event_type = 'Lock' AND query LIKE '%cellway.controls%'";
/// One that has committed, and is kept from saying so.
const KEPT_SILENT: &str = "FROM pg_stat_activity WHERE application_name = 'cellway agent' AND datname = current_database() \
    AND wait_event = 'SyncRep' AND query = 'COMMIT'";

/// Ends the agent's sessions that are found so, until the step has come to nothing because of that.
async fn lost<T: std::fmt::Debug>(cell: &Cell, which: &str, asking: JoinHandle<Result<T, StepError>>) -> StepError {
    let client = cell.session().await;
    let ended = async {
        while !asking.is_finished() {
            client.query(&format!("SELECT pg_terminate_backend(pid) {which}"), &[]).await.unwrap();
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, ended).await.expect("it is not answered");
    asking.await.unwrap().unwrap_err()
}

/// What is committed on the server waits for a standby that there is not: it is there, and nobody is told.
async fn answer_nobody(url: &str) {
    let client = session(url).await;
    client.batch_execute("ALTER SYSTEM SET synchronous_standby_names = 'nobody'").await.unwrap();
    client.batch_execute("SELECT pg_reload_conf()").await.unwrap();
    // Until it is so for everybody.
    let probe = session(url).await;
    let committing = tokio::spawn(async move {
        while probe.batch_execute("SELECT pg_logical_emit_message(true, 'probe', '')").await.is_ok() {}
    });
    let silent = "FROM pg_stat_activity WHERE wait_event = 'SyncRep' AND query LIKE '%''probe''%' AND pid <> pg_backend_pid()";
    until_true(&client, &format!("SELECT EXISTS (SELECT 1 {silent})")).await;
    client.query(&format!("SELECT pg_terminate_backend(pid) {silent}"), &[]).await.unwrap();
    committing.await.unwrap();
}

async fn answer_again(url: &str) {
    let client = session(url).await;
    client.batch_execute("ALTER SYSTEM RESET synchronous_standby_names").await.unwrap();
    client.batch_execute("SELECT pg_reload_conf()").await.unwrap();
    client.batch_execute("SELECT pg_logical_emit_message(true, 'probe', '')").await.unwrap();
}

/// Asks as a coordinator does, until it is answered: whoever had the lost session may have to find out first.
async fn insist<T>(ask: impl AsyncFn() -> Result<T, StepError>) -> T {
    let answered = async {
        loop {
            match ask().await {
                Ok(answer) => return answer,
                Err(error) => assert!(["DATABASE_UNREACHABLE", "BUSY"].contains(&&*refused::<()>(Err(error)))),
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, answered).await.expect("a session is made anew")
}

async fn log_end(cell: &Cell) -> Seq {
    let sql = "SELECT (pg_current_wal_insert_lsn() - '0/0'::pg_lsn)::bigint";
    Seq(cell.session().await.query_one(sql, &[]).await.unwrap().get::<_, i64>(0).cast_unsigned())
}

/// A tenant of cell a, and the log of a's database being read already, for another one of its tenants.
async fn with_a_log_that_is_read(ground: &Ground, url: &str) -> (Cell, Cell) {
    let (a, b) = (ground.open_on("a", url).await, ground.open("b").await);
    let of_other = |step: StepContext| StepContext { tenant: "other".parse().unwrap(), ..step };
    for step in [outside(1), of_other(outside(1))] {
        ground.pool.grant(&a.agent, &step).await.unwrap();
    }
    ground.capture(&a, &of_other(context(1, 1))).await;
    accounts(&a.session().await, 50).await;
    (a, b)
}

fn by_the_next_leader(step: &StepContext) -> StepContext {
    StepContext { term: Term(step.term.0 + 1), ..step.clone() }
}

/// The copy, the comparison, the cutover.
async fn is_moved(ground: &Ground, a: &Cell, b: &Cell, step: &StepContext) {
    ground.pool.prepare_import(&b.agent, step, &a.id, &a.agent).await.unwrap();
    ground.progress(b, step, |progress| progress.backfilled).await;
    ground.verify(a, b, step).await;
    assert_eq!(b.rows().await, a.rows().await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_capture_that_was_begun_unheard_is_the_one_that_the_next_leader_is_told_of() {
    let (server, ground) = (Own::start("").await, Ground::new());
    let url = server.database().await;
    let (a, b) = with_a_log_that_is_read(&ground, &url).await;
    let step = context(1, 1);
    answer_nobody(&url).await;
    let asking = tokio::spawn({
        let (pool, agent, step) = (ground.pool.clone(), a.agent.clone(), step.clone());
        async move { pool.start_capture(&agent, &step).await }
    });
    lost(&a, KEPT_SILENT, asking).await;
    answer_again(&url).await;

    let begun_by = log_end(&a).await;
    account(&a.session().await, "between").await.unwrap();
    let next = by_the_next_leader(&step);
    let from = insist(async || ground.pool.start_capture(&a.agent, &next).await).await;
    assert!(from <= begun_by, "{from} is behind what was written since, at {begun_by}");
    assert_eq!(ground.pool.start_capture(&a.agent, &next).await.unwrap(), from, "and whoever asks once more");
    is_moved(&ground, &a, &b, &next).await;
    assert!(b.rows().await["accounts"].iter().any(|row| row.contains("between")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_capture_that_was_not_begun_though_nobody_heard_so_is_begun_for_the_next_leader() {
    let ground = Ground::new();
    let (a, b) = with_a_log_that_is_read(&ground, &database().await).await;
    let step = context(1, 1);
    let in_the_way = a.session().await;
    in_the_way.batch_execute("BEGIN; LOCK TABLE cellway.controls IN SHARE MODE").await.unwrap();
    let asking = tokio::spawn({
        let (pool, agent, step) = (ground.pool.clone(), a.agent.clone(), step.clone());
        async move { pool.start_capture(&agent, &step).await }
    });
    lost(&a, KEPT_WAITING, asking).await;
    in_the_way.batch_execute("ROLLBACK").await.unwrap();

    account(&a.session().await, "between").await.unwrap();
    let written = log_end(&a).await;
    let next = by_the_next_leader(&step);
    let from = insist(async || ground.pool.start_capture(&a.agent, &next).await).await;
    assert!(from >= written, "{from} is from before {written}, when nothing was begun");
    account(&a.session().await, "after").await.unwrap();
    is_moved(&ground, &a, &b, &next).await;
}

/// Until the source may be held.
async fn comes_to_sync(ground: &Ground, a: &Cell, b: &Cell) {
    ground.pool.grant(&a.agent, &outside(1)).await.unwrap();
    accounts(&a.session().await, 50).await;
    let step = context(1, 1);
    ground.copy(a, b, &step).await;
    ground.verify(a, b, &step).await;
    ground.pool.engage_sync(&a.agent, &step, true).await.unwrap();
    ground.reverse(&b.agent, &step).await;
}

/// A hold, as far as the fence asks for it.
async fn held(ground: &Ground, a: &Cell, b: &Cell, step: &StepContext) -> Result<Seq, StepError> {
    let sealed = ground.pool.hold_writes(&a.agent, step, HOLD).await?;
    ground.pool.await_applied(&b.agent, step, sealed, HOLD).await?;
    Ok(sealed)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fence_that_was_made_unheard_is_the_one_that_the_next_leader_is_told_of() {
    let (server, ground) = (Own::start("").await, Ground::new());
    let url = server.database().await;
    let (a, b) = (ground.open_on("a", &url).await, ground.open("b").await);
    comes_to_sync(&ground, &a, &b).await;
    let mut step = context(1, 1);
    let sealed = loop {
        // Whose attempt it is is written down while that is answered.
        ground.pool.engage_sync(&a.agent, &step, true).await.unwrap();
        answer_nobody(&url).await;
        let held = held(&ground, &a, &b, &step).await;
        let mut made = None;
        if let Ok(sealed) = held {
            let asking = tokio::spawn({
                let (pool, agent, step) = (ground.pool.clone(), a.agent.clone(), step.clone());
                async move { pool.fence(&agent, &step, sealed).await }
            });
            let error = lost(&a, KEPT_SILENT, asking).await.to_string();
            made = (!error.contains("NOT_SEALED")).then_some(sealed);
        }
        answer_again(&url).await;
        if let Some(sealed) = made {
            break sealed;
        }
        // On a slow machine the hold has lapsed before.
        let _lapsed = ground.pool.release_hold(&a.agent, &step).await;
        step.attempt.0 += 1;
        assert!(step.attempt.0 < 20, "{held:?}");
    };

    let next = by_the_next_leader(&step);
    assert_eq!(insist(async || ground.pool.fence(&a.agent, &next, sealed).await).await, sealed);
    assert_eq!(code(&account(&a.session().await, "late").await.unwrap_err()), "FENCED");
    assert_eq!(a.rows().await, b.rows().await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_target_that_owns_unheard_captures_for_the_old_owner_from_its_first_write_on() {
    let (server, ground) = (Own::start("").await, Ground::new());
    let url = server.database().await;
    let (a, b) = (ground.open("a").await, ground.open_on("b", &url).await);
    comes_to_sync(&ground, &a, &b).await;
    let (fenced, _) = ground.fence(&a, &b, &context(1, 1)).await;
    let step = context(2, fenced.attempt.0);
    answer_nobody(&url).await;
    let asking = tokio::spawn({
        let (pool, step) = (ground.pool.clone(), step.clone());
        let (to, from, follower) = (b.agent.clone(), a.agent.clone(), a.id.clone());
        async move { pool.activate(&to, &step, Some((&follower, from.as_str()))).await }
    });
    lost(&b, KEPT_SILENT, asking).await;
    answer_again(&url).await;

    // The database lets in whom the agent does not know yet to be let in.
    account(&b.session().await, "before anybody knew").await.unwrap();
    let next = by_the_next_leader(&step);
    insist(async || ground.pool.activate(&b.agent, &next, Some((&a.id, a.agent.as_str()))).await).await;
    let follows = Some((&b.id, b.agent.as_str()));
    ground.pool.deliver_mapping(&a.agent, &next, &ground.mapping(&b, 2), follows).await.unwrap();
    account(&b.session().await, "after").await.unwrap();
    ground.verify(&b, &a, &next).await;
    assert_eq!(a.rows().await, b.rows().await);
    assert!(a.rows().await["accounts"].iter().any(|row| row.contains("before anybody knew")));
}

/// What is found to need no log lets go of it: that comes before the log is wanted for the way back, and not behind it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_way_back_that_was_not_made_ready_though_nobody_heard_so_keeps_its_slot_when_it_is() {
    let ground = Ground::new();
    let (a, b) = ground.pair().await;
    accounts(&a.session().await, 50).await;
    let step = context(1, 1);
    ground.copy(&a, &b, &step).await;
    ground.verify(&a, &b, &step).await;
    ground.pool.engage_sync(&a.agent, &step, true).await.unwrap();
    let in_the_way = b.session().await;
    // Without a number of its own: a slot would wait for a transaction that has one.
    in_the_way.batch_execute("BEGIN; LOCK TABLE cellway.controls IN SHARE MODE").await.unwrap();
    let asking = tokio::spawn({
        let (pool, agent, step) = (ground.pool.clone(), b.agent.clone(), step.clone());
        async move {
            // A slot waits for transactions of other tests.
            loop {
                match pool.prepare_reverse(&agent, &step).await {
                    Err(StepError::Refused { code, .. }) if code == "BUSY" => {}
                    other => return other,
                }
            }
        }
    });
    lost(&b, KEPT_WAITING, asking).await;
    in_the_way.batch_execute("ROLLBACK").await.unwrap();

    insist(async || ground.pool.prepare_reverse(&b.agent, &step).await).await;
    for _ in 0..20 {
        assert_eq!(b.slots().await, 2, "a slot, and that it was made");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    ground.cut_over(&a, &b, 1, 1, Leg::Forward).await;
    account(&b.session().await, "by the new owner").await.unwrap();
    ground.verify(&b, &a, &context(2, 1)).await;
    assert_eq!(a.rows().await, b.rows().await);
}
