//! Agents that stop and start, sessions that are cut, slots that are lost: the move goes on, or ends and says why.

use std::time::Duration;

use super::ground::*;
use super::server::Own;

/// Ends every session of the agents with a cell's database.
async fn cut_sessions(cell: &Cell) {
    let sql = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
               WHERE datname = current_database() AND application_name LIKE 'cellway%'";
    cell.session().await.query(sql, &[]).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn functions_that_an_older_version_has_put_back_are_installed_again() {
    let ground = Ground::new();
    let a = ground.open("a").await;
    let (url, listen) = (a.url.clone(), a.close().await);
    let client = session(&url).await;
    let body = async || -> String {
        let sql = "SELECT prosrc FROM pg_proc WHERE oid = 'cellway.fence_check(text)'::regprocedure";
        client.query_one(sql, &[]).await.unwrap().get(0)
    };
    let before = body().await;
    let older =
        "CREATE OR REPLACE FUNCTION cellway.fence_check(who text) RETURNS void LANGUAGE plpgsql AS 'BEGIN END'";
    client.batch_execute(older).await.unwrap();
    assert_ne!(body().await, before);
    let _a = ground.try_open("a", &url, &listen).await.unwrap();
    assert_eq!(body().await, before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_source_agent_that_is_killed_goes_on_where_it_was() {
    let ground = Ground::new();
    let (a, b) = ground.pair().await;
    accounts(&a.session().await, 2_000).await;
    let step = context(1, 1);
    ground.copy(&a, &b, &step).await;
    let url = a.url.clone();
    let listen = a.kill();
    // Written while the agent is away: the slot keeps it.
    let client = session(&url).await;
    client.batch_execute("UPDATE accounts SET name = 'while away' WHERE id <= 100").await.unwrap();
    let a = ground.try_open("a", &url, &listen).await.unwrap();
    ground.verify(&a, &b, &step).await;
    assert_eq!(b.rows().await, a.rows().await);
    ground.pool.engage_sync(&a.agent, &step, true).await.unwrap();
    ground.reverse(&b.agent, &step).await;
    ground.cut_over(&a, &b, 1, 1, cell_model::Leg::Forward).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_target_agent_that_is_killed_in_the_middle_of_the_copy_redoes_at_most_a_chunk() {
    let ground = Ground::new();
    let (a, b) = ground.pair().await;
    accounts(&a.session().await, 5_000).await;
    let step = context(1, 1);
    ground.begin(&a, &b, &step).await;
    ground.progress(&b, &step, |progress| progress.copied_rows > 500).await;
    let url = b.url.clone();
    let listen = b.kill();
    let there: i64 = session(&url).await.query_one("SELECT count(*) FROM accounts", &[]).await.unwrap().get(0);
    assert!(there > 500, "what was loaded is durable");
    let client = a.session().await;
    client.batch_execute("DELETE FROM accounts WHERE id % 10 = 0").await.unwrap();
    let b = ground.try_open("b", &url, &listen).await.unwrap();
    let progress = ground.progress(&b, &step, |progress| progress.backfilled).await;
    assert!(progress.copied_rows.cast_signed() <= 5_000 - there, "{progress:?}, {there} were there");
    ground.verify(&a, &b, &step).await;
    assert_eq!(b.rows().await, a.rows().await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slot_that_a_copied_database_has_written_down_is_left_to_the_database_that_it_belongs_to() {
    let ground = Ground::new();
    let (a, b) = ground.pair().await;
    accounts(&a.session().await, 50).await;
    let step = context(1, 1);
    ground.capture(&a, &step).await;
    let at_a = a.session().await;
    let slot: String = at_a.query_one("SELECT name FROM cellway.made", &[]).await.unwrap().get(0);
    // What of a dump of the one database would be in the other.
    let at_b = b.session().await;
    at_b.execute("INSERT INTO cellway.made (kind, name) VALUES ('slot', $1)", &[&slot]).await.unwrap();
    let url = b.url.clone();
    let listen = b.close().await;
    let b = ground.try_open("b", &url, &listen).await.unwrap();
    ground.copy(&a, &b, &step).await;
    ground.reverse(&b.agent, &step).await;
    let its_own = "SELECT count(*) = 1 FROM pg_replication_slots WHERE database = current_database()";
    until_true(&at_b, its_own).await;
    until_true(&at_a, its_own).await;
    ground.cut_over(&a, &b, 1, 1, cell_model::Leg::Forward).await;
    account(&at_b, "of b").await.unwrap();
    ground.verify(&b, &a, &context(2, 1)).await;
    b.close().await;
    a.close().await;
}

/// Commits of chunks are not waited for: a crash takes some of them away, and nothing that the source has let go of.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_target_server_that_crashes_in_the_middle_of_the_copy_loses_only_what_comes_again() {
    let ground = Ground::new();
    let server = super::server::Own::start("").await;
    let url = server.database().await;
    session(&url).await.batch_execute(TABLES).await.unwrap();
    let a = ground.open("a").await;
    let b = ground.try_open("b", &url, "127.0.0.1:0").await.unwrap();
    ground.pool.grant(&a.agent, &outside(1)).await.unwrap();
    let client = a.session().await;
    accounts(&client, 30_000).await;
    let step = context(1, 1);
    // Until the next chunk nothing asks for a commit that is waited for.
    ground.copy_half(&a, &b, &step).await;
    server.crash().await;
    client.batch_execute("DELETE FROM accounts WHERE id % 9 = 0").await.unwrap();
    client.batch_execute("UPDATE accounts SET name = 'after' WHERE id % 11 = 0").await.unwrap();
    let behind = ground.progress_at(&b, &step, CRAWL, |_| true).await;
    assert!(!behind.backfilled, "it has crashed in the middle: {behind:?}");
    ground.hurry(&b, &step).await;
    ground.verify(&a, &b, &step).await;
    assert_eq!(b.rows().await, a.rows().await);
    b.close().await;
    a.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sessions_that_are_cut_again_and_again_cost_nothing_but_time() {
    let ground = Ground::new();
    let (a, b) = ground.pair().await;
    accounts(&a.session().await, 4_000).await;
    let step = context(1, 1);
    ground.begin(&a, &b, &step).await;
    let client = a.session().await;
    for round in 0..4 {
        let sql = format!("UPDATE accounts SET name = 'round {round}' WHERE id % 7 = {round}");
        client.batch_execute(&sql).await.unwrap();
        cut_sessions(&a).await;
        cut_sessions(&b).await;
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    ground.progress(&b, &step, |progress| progress.backfilled).await;
    ground.verify(&a, &b, &step).await;
    assert_eq!(b.rows().await, a.rows().await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slot_that_is_lost_ends_the_move_instead_of_leaving_a_gap() {
    let ground = Ground::new();
    let (a, b) = ground.pair().await;
    accounts(&a.session().await, 10).await;
    let step = context(1, 1);
    ground.copy(&a, &b, &step).await;
    let url = a.url.clone();
    let listen = a.kill();
    let client = session(&url).await;
    let free =
        "SELECT NOT EXISTS (SELECT 1 FROM pg_replication_slots WHERE database = current_database() AND active)";
    until_true(&client, free).await;
    let lose =
        "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE database = current_database()";
    client.query(lose, &[]).await.unwrap();
    client.batch_execute("UPDATE accounts SET name = 'in nobody''s log'").await.unwrap();
    let a = ground.try_open("a", &url, &listen).await.unwrap();
    let failure = ground.failure(&b, &step).await;
    assert!(failure.starts_with("CAPTURE_GAP"), "{failure}");
    ground.pool.stop_capture(&a.agent, &step).await.unwrap();
    ground.pool.drop_import(&b.agent, &step).await.unwrap();
    assert!(b.rows().await.values().all(Vec::is_empty));
}

/// A failover to a standby that was behind, or a restore: the source has thrown away what the target had acknowledged.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_target_whose_database_was_put_back_ends_the_move_instead_of_leaving_a_gap() {
    let ground = Ground::new();
    let (a, b) = ground.pair().await;
    accounts(&a.session().await, 10).await;
    let step = context(1, 1);
    ground.copy(&a, &b, &step).await;
    account(&a.session().await, "later").await.unwrap();
    ground.verify(&a, &b, &step).await;
    let url = b.url.clone();
    let listen = b.kill();
    session(&url).await.batch_execute("UPDATE cellway.copies SET applied = applied - 1").await.unwrap();
    let b = ground.try_open("b", &url, &listen).await.unwrap();
    let failure = ground.failure(&b, &step).await;
    assert!(failure.starts_with("CAPTURE_GAP"), "{failure}");
    b.close().await;
    a.close().await;
}

/// The same while the agent runs: it knows of a copy of which the database knows nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_that_its_database_knows_nothing_of_any_more_applies_nothing_and_ends_the_move() {
    let ground = Ground::new();
    let (a, b) = ground.pair().await;
    accounts(&a.session().await, 10).await;
    let step = context(1, 1);
    ground.copy(&a, &b, &step).await;
    let before = b.rows().await;
    b.session().await.batch_execute("DELETE FROM cellway.copies").await.unwrap();
    account(&a.session().await, "later").await.unwrap();
    let failure = ground.failure(&b, &step).await;
    assert!(failure.starts_with("NOT_IMPORTING: the database knows nothing of the copy"), "{failure}");
    assert_eq!(b.rows().await, before, "a change without its position would come a second time");
    b.close().await;
    a.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fenced_cell_stays_fenced_when_its_agent_is_started_again() {
    let ground = Ground::new();
    let (a, b) = ground.pair().await;
    let step = context(1, 1);
    ground.copy(&a, &b, &step).await;
    ground.verify(&a, &b, &step).await;
    ground.reverse(&b.agent, &step).await;
    let (step, sealed) = ground.fence(&a, &b, &step).await;
    let url = a.url.clone();
    let listen = a.kill();
    assert_eq!(code(&account(&session(&url).await, "late").await.unwrap_err()), "FENCED");
    let a = ground.try_open("a", &url, &listen).await.unwrap();
    assert_eq!(code(&account(&a.session().await, "late").await.unwrap_err()), "FENCED");
    // Asked again, the fence answers the same; only a decision ends it.
    assert_eq!(ground.pool.fence(&a.agent, &step, sealed).await.unwrap(), sealed);
    ground.pool.unfence(&a.agent, &context(2, step.attempt.0)).await.unwrap();
    account(&a.session().await, "served again").await.unwrap();
    assert_eq!(enter(&a.session().await, 1).await.unwrap_err(), "STALE");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_sync_a_commit_that_the_other_cell_does_not_hold_is_answered_as_unknown() {
    let ground = Ground::new();
    let (a, b) = ground.pair().await;
    let step = context(1, 1);
    ground.copy(&a, &b, &step).await;
    ground.verify(&a, &b, &step).await;
    ground.pool.engage_sync(&a.agent, &step, true).await.unwrap();
    let client = a.session().await;
    account(&client, "both").await.unwrap();
    assert_eq!(a.data.committed(&stamp(1)).await, cell_agent::Committed::Yes);
    assert_eq!(b.rows().await["accounts"].len(), 1, "acknowledged, so it is in both");
    b.close().await;
    account(&client, "one").await.unwrap();
    let unsure = tokio::spawn({
        let data = a.data.clone();
        async move { data.committed(&stamp(1)).await }
    });
    let degraded = async {
        while !ground.pool.sync_status(&a.agent, &step).await.unwrap().wants_degrade {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, degraded).await.unwrap();
    assert!(!unsure.is_finished(), "nothing is acknowledged before the degradation is committed");
    ground.pool.engage_sync(&a.agent, &step, false).await.unwrap();
    assert_eq!(unsure.await.unwrap(), cell_agent::Committed::Yes);
}

/// A process that does nothing, until this is dropped.
pub(super) struct Paused {
    pid: i32,
}

impl Paused {
    fn signal(&self, name: &str) {
        let sent = std::process::Command::new("kill").args([name, &self.pid.to_string()]).status();
        assert!(sent.is_ok_and(|status| status.success()), "{name} {}", self.pid);
    }

    pub(super) fn begin(pid: i32) -> Self {
        let paused = Self { pid };
        paused.signal("-STOP");
        paused
    }
}

impl Drop for Paused {
    fn drop(&mut self) {
        let _ended = std::process::Command::new("kill").args(["-CONT", &self.pid.to_string()]).status();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writers_that_wait_for_the_log_to_be_decoded_keep_the_agent_from_nothing_else() {
    // More than the agent has connections.
    const WRITERS: usize = 24;
    let ground = Ground::new();
    let (a, b) = ground.pair().await;
    let step = context(1, 1);
    ground.copy(&a, &b, &step).await;
    ground.verify(&a, &b, &step).await;
    ground.pool.engage_sync(&a.agent, &step, true).await.unwrap();
    let client = a.session().await;
    let reader = "SELECT active_pid FROM pg_replication_slots WHERE database = current_database()";
    let paused = Paused::begin(client.query_one(reader, &[]).await.unwrap().get(0));
    let mut waiting = Vec::new();
    for number in 0..WRITERS {
        account(&client, &format!("n{number}")).await.unwrap();
        let data = a.data.clone();
        waiting.push(tokio::spawn(async move { data.committed(&stamp(1)).await }));
    }
    let helped = "SELECT EXISTS (SELECT 1 FROM pg_stat_activity WHERE application_name = 'cellway agent' \
                  AND datname = current_database() AND query LIKE '%pg_logical_emit_message%')";
    until_true(&client, helped).await;
    for _ in 0..20 {
        let asked = ground.pool.sync_status(&a.agent, &step);
        let asked = tokio::time::timeout(std::time::Duration::from_secs(2), asked).await;
        assert!(asked.expect("the agent answers").unwrap().engaged);
    }
    assert!(waiting.iter().all(|writer| !writer.is_finished()), "nothing is answered that the copy may lack");
    drop(paused);
    for writer in waiting {
        assert_eq!(writer.await.unwrap(), cell_agent::Committed::Yes);
    }
    assert_eq!(b.rows().await["accounts"].len(), WRITERS);
}

/// What it changes is in the server's hands, and a question must not be answered as if it were nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_cell_says_of_itself_waits_for_a_commit_whose_connection_was_lost() {
    let ground = Ground::new();
    // Of its own: an open transaction keeps new slots of all databases waiting.
    let own = Own::start("").await;
    let a = ground.open_on("a", &own.database().await).await;
    ground.pool.grant(&a.agent, &outside(1)).await.unwrap();
    let other = cell_client::StepContext { tenant: "other".parse().unwrap(), ..outside(1) };
    ground.pool.grant(&a.agent, &other).await.unwrap();
    ground.pool.revoke(&a.agent, &other).await.unwrap();
    let watcher = a.session().await;
    let blocked = "SELECT EXISTS (SELECT 1 FROM pg_stat_activity WHERE application_name = 'cellway agent' \
                   AND datname = current_database() AND wait_event_type = 'Lock')";
    // Somebody else's transaction stands for the one that is on its way.
    let running = a.session().await;
    running.batch_execute("BEGIN; SELECT 1 FROM cellway.controls FOR UPDATE").await.unwrap();
    let (pool, agent) = (ground.pool.clone(), a.agent.clone());
    let step = tokio::spawn(async move { pool.revoke(&agent, &outside(1)).await });
    until_true(&watcher, blocked).await;
    let cut = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'cellway agent' \
               AND datname = current_database() AND wait_event_type = 'Lock'";
    watcher.query(cut, &[]).await.unwrap();
    assert!(step.await.unwrap().is_err(), "its connection was lost");
    let revoked = "UPDATE cellway.controls c SET control = o.control, number = c.number + 1 FROM cellway.controls o \
                   WHERE c.tenant = 't-1' AND o.tenant = 'other'; DELETE FROM cellway.copies";
    running.batch_execute(revoked).await.unwrap();
    let (pool, agent) = (ground.pool.clone(), a.agent.clone());
    let asked = tokio::spawn(async move {
        loop {
            // The pool may hand out a connection that was cut, too.
            if let Ok(answer) = pool.held(&agent).await {
                return answer;
            }
        }
    });
    until_true(&watcher, blocked).await;
    assert!(!asked.is_finished());
    running.batch_execute("COMMIT").await.unwrap();
    let (_, held) = asked.await.unwrap();
    let deleted = held.iter().filter(|(_, held)| held.role == cell_model::HeldRole::Deleted).count();
    assert_eq!((held.len(), deleted), (2, 2), "it has said what is there: {held:?}");
    a.close().await;
}
