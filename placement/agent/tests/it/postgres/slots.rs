//! The slot and its log: what was given up is written down before anything would look whole without it, and nothing is kept for nobody.

use std::time::Duration;

use super::ground::*;
use super::server::Own;

const SLOT: &str = "SELECT EXISTS (SELECT 1 FROM pg_replication_slots WHERE database = current_database())";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_slot_is_made_before_it_is_written_down_that_the_last_one_was_lost() {
    let ground = Ground::new();
    let (a, b) = ground.pair().await;
    accounts(&a.session().await, 10).await;
    let step = context(1, 1);
    ground.copy(&a, &b, &step).await;
    let (url, listen) = (a.url.clone(), a.kill());
    let client = session(&url).await;
    let free =
        "SELECT NOT EXISTS (SELECT 1 FROM pg_replication_slots WHERE database = current_database() AND active)";
    until_true(&client, free).await;
    let lose =
        "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE database = current_database()";
    client.query(lose, &[]).await.unwrap();
    client.batch_execute("UPDATE accounts SET name = 'in nobody''s log'").await.unwrap();
    // Without a number of its own: a slot would wait for a transaction that has one.
    let in_the_way = session(&url).await;
    in_the_way.batch_execute("BEGIN; LOCK TABLE cellway.controls IN SHARE MODE").await.unwrap();
    let a = ground.try_open("a", &url, &listen).await.unwrap();
    let writes = "SELECT EXISTS (SELECT 1 FROM pg_stat_activity WHERE application_name = 'cellway agent' \
                  AND datname = current_database() AND wait_event_type = 'Lock' AND query LIKE '%cellway.controls%')";
    until_true(&client, writes).await;
    // Time enough for a slot, if one was made.
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(
        !client.query_one(SLOT, &[]).await.unwrap().get::<_, bool>(0),
        "it would look as if nothing was missing"
    );
    let listen = a.kill();
    in_the_way.batch_execute("COMMIT").await.unwrap();
    let a = ground.try_open("a", &url, &listen).await.unwrap();
    let failure = ground.failure(&b, &step).await;
    assert!(failure.starts_with("CAPTURE_GAP"), "{failure}");
    ground.pool.stop_capture(&a.agent, &step).await.unwrap();
}

/// The server's own limit has taken the log away: the move ends, and the next one has a slot of its own.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slot_whose_log_the_server_has_let_go_of_ends_the_move_and_is_made_anew() {
    let ground = Ground::new();
    let server = Own::start("max_slot_wal_keep_size = 16MB\nmin_wal_size = 32MB\nmax_wal_size = 32MB\n").await;
    let a = ground.open_on("a", &server.database().await).await;
    ground.pool.grant(&a.agent, &outside(1)).await.unwrap();
    let b = ground.open("b").await;
    let step = context(1, 1);
    ground.copy(&a, &b, &step).await;
    let (url, listen) = (a.url.clone(), a.kill());
    let client = session(&url).await;
    let fill =
        "SELECT pg_logical_emit_message(false, 'test', repeat('x', 1024 * 1024)) FROM generate_series(1, 100)";
    client.execute(fill, &[]).await.unwrap();
    client.batch_execute("CHECKPOINT").await.unwrap();
    let lost = "SELECT EXISTS (SELECT 1 FROM pg_replication_slots WHERE wal_status = 'lost')";
    until_true(&client, lost).await;
    let a = ground.try_open("a", &url, &listen).await.unwrap();
    let failure = ground.failure(&b, &step).await;
    assert!(failure.contains("max_slot_wal_keep_size"), "{failure}");
    // Nobody has told it yet that the move is over, and other tenants' moves find a slot that can be read.
    let whole = "SELECT EXISTS (SELECT 1 FROM pg_replication_slots WHERE active AND wal_status <> 'lost')";
    until_true(&client, whole).await;
    ground.pool.stop_capture(&a.agent, &step).await.unwrap();
    a.close().await;
    b.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_capture_whose_end_was_done_and_not_answered_keeps_no_log() {
    let ground = Ground::new();
    let (a, b) = ground.pair().await;
    let client = a.session().await;
    let before: Vec<u8> = {
        let sql = "SELECT control FROM cellway.controls WHERE tenant = 't-1'";
        client.query_one(sql, &[]).await.unwrap().get(0)
    };
    let step = context(1, 1);
    ground.copy(&a, &b, &step).await;
    ground.pool.drop_import(&b.agent, &step).await.unwrap();
    // Somebody else's transaction stands for the one whose answer is lost.
    let running = a.session().await;
    running.batch_execute("BEGIN; SELECT 1 FROM cellway.controls FOR UPDATE").await.unwrap();
    let (pool, agent, stop) = (ground.pool.clone(), a.agent.clone(), step.clone());
    let stopping = tokio::spawn(async move { pool.stop_capture(&agent, &stop).await });
    let blocked = "SELECT EXISTS (SELECT 1 FROM pg_stat_activity WHERE application_name = 'cellway agent' \
                   AND datname = current_database() AND wait_event_type = 'Lock')";
    until_true(&client, blocked).await;
    let cut = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'cellway agent' \
               AND datname = current_database() AND wait_event_type = 'Lock'";
    client.query(cut, &[]).await.unwrap();
    assert!(stopping.await.unwrap().is_err(), "its connection was lost");
    let ended = "UPDATE cellway.controls SET control = $1, number = number + 1 WHERE tenant = 't-1'";
    running.execute(ended, &[&before]).await.unwrap();
    running.batch_execute("COMMIT").await.unwrap();
    // Whoever asks next what the cell is to the tenant finds that nothing is captured.
    let held = async {
        while ground.pool.held(&a.agent).await.is_err() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, held).await.expect("in time");
    let none = "SELECT NOT EXISTS (SELECT 1 FROM pg_replication_slots WHERE database = current_database()) \
                   AND NOT EXISTS (SELECT 1 FROM cellway.made)";
    until_true(&client, none).await;
}
