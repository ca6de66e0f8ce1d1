//! What a copy may take: of the source's disk, and of its time.

use std::time::{Duration, Instant};

use cell_agent::DatabaseOptions;

use super::ground::*;
use super::server::Own;

const MIB: u64 = 1024 * 1024;

/// The tenant's owner, on a server that may keep 64 MiB of its log for a copy.
pub(super) async fn with_little_log(ground: &Ground, own: &Own) -> Cell {
    let url = own.database().await;
    session(&url).await.batch_execute(TABLES).await.unwrap();
    let small = |database: &mut DatabaseOptions| {
        database.wal_bytes_max = 64 * MIB;
        database.wal_grace_seconds = 1;
    };
    let cell = ground.open_with("a", &url, "127.0.0.1:0", small).await.unwrap();
    ground.pool.grant(&cell.agent, &outside(1)).await.unwrap();
    cell
}

/// With more than that, of which nothing is a tenant's.
pub(super) async fn fill_log(client: &tokio_postgres::Client) {
    let fill =
        "SELECT pg_logical_emit_message(false, 'test', repeat('x', 1024 * 1024)) FROM generate_series(1, 80)";
    client.execute(fill, &[]).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transaction_that_is_never_ended_ends_the_move_before_the_log_fills_the_disk() {
    let ground = Ground::new();
    let own = Own::start("").await;
    let a = with_little_log(&ground, &own).await;
    let b = ground.open("b").await;
    let step = context(1, 1);
    ground.copy(&a, &b, &step).await;
    // Somebody else's: it holds the log from its beginning on, and no change of the tenant is in it.
    let forgotten = a.session().await;
    forgotten.batch_execute("CREATE TABLE other (n int); BEGIN; INSERT INTO other VALUES (1)").await.unwrap();
    let client = a.session().await;
    fill_log(&client).await;
    let failure = ground.failure(&b, &step).await;
    assert!(
        failure.starts_with("CAPTURE_OVERFLOW") && failure.contains("bytes of the database's log"),
        "{failure}"
    );
    ground.pool.drop_import(&b.agent, &step).await.unwrap();
    ground.pool.stop_capture(&a.agent, &step).await.unwrap();
    let deadline = Instant::now() + Duration::from_secs(10);
    while a.slots().await > 0 {
        assert!(Instant::now() < deadline, "the slot, which keeps the log, is still there");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Nobody can read the slot, so no change arrives and nothing of the log is let go of.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_log_has_its_budget_also_while_it_cannot_be_read() {
    let ground = Ground::new();
    let own = Own::start("").await;
    let a = with_little_log(&ground, &own).await;
    let b = ground.open("b").await;
    let step = context(1, 1);
    ground.copy(&a, &b, &step).await;
    own.restart_with([("postgresql.auto.conf", "max_wal_senders = 0\n".to_owned())]).await;
    let client = session(&a.url).await;
    fill_log(&client).await;
    // Everything that it was kept for is given up, and so it goes, and no other is made for nobody.
    until_true(&client, "SELECT NOT EXISTS (SELECT 1 FROM pg_replication_slots WHERE restart_lsn < pg_current_wal_lsn() - 67108864)")
        .await;
    let failure = ground.failure(&b, &step).await;
    assert!(failure.starts_with("CAPTURE_OVERFLOW"), "{failure}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_keeps_to_its_rate_and_goes_on_at_full_speed_when_that_is_lifted() {
    let ground = Ground::new();
    let url = database().await;
    session(&url).await.batch_execute(TABLES).await.unwrap();
    let a = ground.open_with("a", &url, "127.0.0.1:0", |database| database.chunk_bytes = 64 * 1024).await.unwrap();
    ground.pool.grant(&a.agent, &outside(1)).await.unwrap();
    let b = ground.open("b").await;
    accounts(&a.session().await, 3_000).await;
    let step = context(1, 1);
    ground.begin(&a, &b, &step).await;
    // Before much is copied; the same is said with each look, as the coordinator does.
    let slow = async || ground.pool.import_status_at(&b.agent, &step, 64 * 1024).await.unwrap();
    let (began, first) = (Instant::now(), slow().await.copied_bytes);
    let mut last = first;
    while began.elapsed() < Duration::from_secs(2) {
        last = slow().await.copied_bytes;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let rate = (last - first) / 2;
    // Whole chunks of 64 KiB, and one may have been on its way.
    assert!(rate <= 128 * 1024, "{rate} bytes a second");
    assert!(!slow().await.backfilled, "there are more than two megabytes");
    ground.progress(&b, &step, |progress| progress.backfilled).await;
    assert_eq!(ground.verify(&a, &b, &step).await.rows, 3_000);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_oldest_open_write_of_a_tenant_is_told_and_that_of_others_is_not() {
    let ground = Ground::new();
    let (a, b) = ground.pair().await;
    let step = context(1, 1);
    ground.copy(&a, &b, &step).await;
    let oldest = async || ground.pool.sync_status_with_writes(&a.agent, &step).await.unwrap().oldest_write;
    assert_eq!(oldest().await, Duration::ZERO);
    let client = a.session().await;
    enter(&client, 1).await.unwrap();
    let deadline = Instant::now() + Duration::from_secs(10);
    while oldest().await < Duration::from_millis(100) {
        assert!(Instant::now() < deadline, "an open transaction grows old");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    client.batch_execute("COMMIT").await.unwrap();
    assert_eq!(oldest().await, Duration::ZERO);
}
