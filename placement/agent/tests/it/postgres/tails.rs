//! What is put aside of a cell that was taken over: where something may be missing it says so, and what it waits for keeps no log beyond
//! the budget.

use cell_agent::Committed;
use cell_client::wire;
use cell_client::wire::agent_service_client::AgentServiceClient;
use cell_client::wire::step_request::Step;
use cell_client::wire::step_response::Result as Answer;
use cell_model::{Seq, Tail};
use tonic::transport::Endpoint;

use super::budget::{fill_log, with_little_log};
use super::forced::*;
use super::ground::*;
use super::layouts::{In, pair};
use super::server::Own;

/// Taken over by b in Sync, behind this change.
async fn taken_over(ground: &Ground) -> (Cell, Cell, Seq) {
    let (a, b) = pair(ground, In::Shared, In::Shared).await;
    in_sync(ground, &a, &b).await;
    let after = force(ground, &b, 2).await;
    (a, b, after)
}

/// What is put aside where this happens to the tables before the old owner hears of it.
async fn tail_behind(statements: &[&str], is_started_again: bool) -> Tail {
    let ground = Ground::new();
    let (a, b, after) = taken_over(&ground).await;
    let (door, url) = (a.door(), a.url.clone());
    let mut running = Some(a);
    let listen = if is_started_again { running.take().map(Cell::kill) } else { None };
    let client = door.open().await;
    for statement in statements {
        client.batch_execute(statement).await.unwrap();
    }
    let a = match (running, listen) {
        (Some(a), _) => a,
        (None, listen) => again(&ground, In::Shared, "a", (&url, &listen.unwrap())).await,
    };
    put_aside(&ground, &a, &b, 2, after).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tail_is_a_part_where_a_table_had_another_name_for_a_while() {
    let renamed = [
        "ALTER TABLE settings RENAME TO others",
        "UPDATE others SET value = 'under another name'",
        "ALTER TABLE others RENAME TO settings",
    ];
    assert!(!tail_behind(&renamed, false).await.whole);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tail_is_a_part_where_a_table_was_added_also_while_the_agent_was_stopped() {
    let added = [
        "CREATE TABLE added (tenant_id text, n int, PRIMARY KEY (tenant_id, n))",
        "INSERT INTO added VALUES ('t-1', 1)",
    ];
    for is_started_again in [false, true] {
        assert!(!tail_behind(&added, is_started_again).await.whole, "{is_started_again}");
        assert!(tail_behind(&[], is_started_again).await.whole, "{is_started_again}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tail_that_was_begun_with_other_tables_is_a_part() {
    let ground = Ground::new();
    let (a, b, after) = taken_over(&ground).await;
    write(&a.door(), false, "late").await.unwrap();
    let open = a.session().await;
    enter(&open, 1).await.unwrap();
    assert_eq!(refused(try_put_aside(&ground, &a, &b, 2, after).await), "BUSY");
    let (url, listen) = (a.url.clone(), a.kill());
    session(&url).await.batch_execute("ALTER TABLE entries ADD COLUMN more text").await.unwrap();
    let a = again(&ground, In::Shared, "a", (&url, &listen)).await;
    open.batch_execute("COMMIT").await.unwrap();
    assert!(!put_aside(&ground, &a, &b, 2, after).await.whole);
}

/// Somebody keeps a cell from putting changes aside, and nobody tells it anything more.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tail_that_waits_is_given_up_with_its_log_and_is_a_part_also_after_a_restart() {
    for is_started_again in [false, true] {
        let ground = Ground::with(|agents| agents.captured_bytes_max = Some(2 << 20));
        let (a, b, after) = taken_over(&ground).await;
        let (open, large) = (a.session().await, a.session().await);
        enter(&open, 1).await.unwrap();
        enter(&large, 1).await.unwrap();
        let sql = "INSERT INTO accounts (tenant_id, name, big) SELECT 't-1', 'n', repeat(md5(i::text), 2000)
                     FROM generate_series(1, 50) i";
        large.batch_execute(sql).await.unwrap();
        assert_eq!(refused(try_put_aside(&ground, &a, &b, 2, after).await), "BUSY");
        let client = a.session().await;
        let at = "SELECT pg_current_wal_insert_lsn()::text";
        let at: String = client.query_one(at, &[]).await.unwrap().get(0);
        // More than is captured.
        large.batch_execute("COMMIT").await.unwrap();
        let let_go = format!(
            "SELECT EXISTS (SELECT 1 FROM pg_replication_slots s JOIN cellway.made m ON m.name = s.slot_name \
              WHERE confirmed_flush_lsn >= '{at}'::pg_lsn)"
        );
        until_true(&client, &let_go).await;
        let a = if is_started_again {
            let (url, listen) = (a.url.clone(), a.kill());
            again(&ground, In::Shared, "a", (&url, &listen)).await
        } else {
            a
        };
        open.batch_execute("COMMIT").await.unwrap();
        let tail = put_aside(&ground, &a, &b, 2, after).await;
        assert!(!tail.whole, "{tail:?}");
        assert_eq!(a.contents("accounts").await.len(), 450, "the rows of the old copy are kept");
    }
}

/// The same where it is the log that has grown too long, of which little was captured.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_log_of_a_tail_that_waits_has_the_budget_of_a_moves() {
    let ground = Ground::new();
    let server = Own::start("").await;
    let a = with_little_log(&ground, &server).await;
    let b = ground.open("b").await;
    in_sync(&ground, &a, &b).await;
    let after = force(&ground, &b, 2).await;
    let open = a.session().await;
    enter(&open, 1).await.unwrap();
    write(&a.door(), false, "late").await.unwrap();
    assert_eq!(refused(try_put_aside(&ground, &a, &b, 2, after).await), "BUSY");
    let client = a.session().await;
    fill_log(&client).await;
    let let_go = "SELECT NOT EXISTS (SELECT 1 FROM pg_replication_slots \
                   WHERE database = current_database() AND confirmed_flush_lsn < pg_current_wal_lsn() - 67108864)";
    until_true(&client, let_go).await;
    open.batch_execute("COMMIT").await.unwrap();
    let tail = put_aside(&ground, &a, &b, 2, after).await;
    assert!(!tail.whole, "{tail:?}");
    assert!(
        a.contents("accounts").await.iter().any(|row| row.contains("late")),
        "the rows of the old copy are kept"
    );
}

/// A failover of the new owner's server, or a restore: it owns, and does not know any more where it took over.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_owner_by_force_that_was_put_back_says_that_nothing_is_certain_to_be_there() {
    let ground = Ground::new();
    let (a, b) = pair(&ground, In::Shared, In::Own).await;
    in_sync(&ground, &a, &b).await;
    write(&a.door(), false, "in both").await.unwrap();
    assert_eq!(a.data.committed(&stamp(1)).await, Committed::Yes);
    assert!(force(&ground, &b, 2).await > Seq(0));
    session(&b.url).await.batch_execute("DELETE FROM cellway.taken").await.unwrap();
    write(&a.door(), false, "late").await.unwrap();
    for _ in 0..2 {
        assert_eq!(force(&ground, &b, 2).await, Seq(0));
    }
    let tail = put_aside(&ground, &a, &b, 2, Seq(0)).await;
    assert!(!tail.whole, "the log of what was acknowledged is gone: {tail:?}");
    assert!(accounts_in_tail(&ground, &a).await.contains(&"late".to_owned()));
    // Nobody owns at the epoch of another move because of this one.
    session(&b.url).await.batch_execute("DELETE FROM cellway.taken").await.unwrap();
    let other = cell_client::StepContext { move_id: Some(cell_model::MoveId(21)), ..context(2, 1) };
    assert_eq!(refused(ground.pool.own_by_force(&b.agent, &other).await), "STALE_EPOCH");
}

/// One that has not heard that writers come who wait for nobody would take the copy for one that lacks nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_of_an_older_version_is_not_told_what_a_copy_holds() {
    let ground = Ground::new();
    let (a, b) = pair(&ground, In::Shared, In::Shared).await;
    in_sync(&ground, &a, &b).await;
    let channel = Endpoint::from_shared(format!("http://{}", b.agent)).unwrap().connect_lazy();
    let header = {
        let step = context(1, 1);
        wire::StepHeader {
            lineage: step.lineage.get(),
            term: step.term.get(),
            tenant: step.tenant.to_string(),
            uid: step.uid.get(),
            move_id: step.move_id.unwrap().0,
            attempt: step.attempt.get(),
            epoch: step.epoch.get(),
            leg: wire::Leg::Forward.into(),
        }
    };
    for knows_ungated in [false, true] {
        let step = Some(Step::LookAtCopy(wire::LookAtCopy { knows_ungated }));
        let asked = wire::StepRequest { header: Some(header.clone()), step };
        let answer = AgentServiceClient::new(channel.clone()).run(asked).await.unwrap().into_inner().result;
        match answer.unwrap() {
            Answer::Copy(copy) => assert!(knows_ungated && copy.ungated, "{copy:?}"),
            Answer::Refused(refused) => {
                assert!(!knows_ungated && refused.code == "CONTROL_OUTDATED", "{refused:?}");
                assert!(refused.reason.contains("upgrade"), "{refused:?}");
            }
            other => panic!("{other:?}"),
        }
    }
}
