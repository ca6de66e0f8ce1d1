//! A copy makes room for its source's own commits, and is let go of when they are quick again.

use super::ground::*;
use super::server::Own;
use cell_protos::v1::TenantStorage;

/// Bytes in a second.
const RATE: u64 = 2_000_000;

async fn storage(ground: &Ground, cell: &Cell) -> TenantStorage {
    let described = ground.pool.describe_uncounted(&cell.agent, Some(&tenant())).await.unwrap();
    described.storage.into_iter().next().expect("the cell knows the tenant")
}

async fn storage_when(ground: &Ground, cell: &Cell, is: impl Fn(&TenantStorage) -> bool) -> TenantStorage {
    let reached = async {
        loop {
            let storage = storage(ground, cell).await;
            if is(&storage) {
                return storage;
            }
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, reached).await.expect("in time")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_is_slowed_down_while_commits_of_its_source_wait_for_a_standby_and_goes_on() {
    let (ground, server) = (Ground::new(), Own::start("").await);
    let url = server.database().await;
    let client = session(&url).await;
    client.batch_execute(TABLES).await.unwrap();
    let limit = |database: &mut cell_agent::DatabaseOptions| database.source_latency_ms_max = 100;
    let a = ground.open_with("a", &url, "127.0.0.1:0", limit).await.unwrap();
    let b = ground.open("b").await;
    ground.pool.grant(&a.agent, &outside(1)).await.unwrap();
    accounts(&client, 20_000).await;
    let step = context(1, 1);
    ground.capture(&a, &step).await;
    assert_eq!(storage(&ground, &a).await.slowed_to, 0);
    // From now on no commit there ends; what only reads goes on.
    client.batch_execute("ALTER SYSTEM SET synchronous_standby_names = 'nobody'").await.unwrap();
    client.execute("SELECT pg_reload_conf()", &[]).await.unwrap();
    until_true(&client, "SELECT current_setting('synchronous_standby_names') = 'nobody'").await;
    // After one chunk it is as good as at rest, so that there is something to be slowed down on every machine.
    ground.import_at(&a, &b, &step, CRAWL).await;
    let slowed = storage_when(&ground, &a, |storage| storage.slowed_to > 0).await;
    assert!(slowed.commit_us > 100_000, "{slowed:?}");
    let before = ground.progress_at(&b, &step, CRAWL, |progress| progress.copied_rows > 0).await;
    assert!(!before.backfilled, "{before:?}");
    ground.progress_at(&b, &step, RATE, |progress| progress.copied_bytes > before.copied_bytes).await;

    client.batch_execute("ALTER SYSTEM RESET synchronous_standby_names").await.unwrap();
    client.execute("SELECT pg_reload_conf()", &[]).await.unwrap();
    ground.hurry(&b, &step).await;
    storage_when(&ground, &a, |storage| storage.slowed_to == 0).await;
    ground.verify(&a, &b, &step).await;
    assert_eq!(b.rows().await, a.rows().await);
    a.close().await;
    b.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn chunks_wait_while_changes_are_not_applied_and_come_when_they_are() {
    let ground = Ground::new();
    let (a, b) = ground.pair().await;
    let client = a.session().await;
    accounts(&client, 20_000).await;
    let step = context(1, 1);
    let before = ground.copy_half(&a, &b, &step).await;
    // Nothing is applied while somebody has the tables.
    let holder = b.session().await;
    holder.batch_execute("BEGIN; LOCK TABLE accounts IN ACCESS EXCLUSIVE MODE").await.unwrap();
    // An eighth of 64 MiB, and more.
    for turn in 0..3 {
        let sql = format!(
            "UPDATE accounts SET big = (SELECT string_agg(md5('{turn}/' || id || '/' || i), '') FROM generate_series(1, 160) i) \
             WHERE id <= 1000"
        );
        client.batch_execute(&sql).await.unwrap();
    }
    // As fast as it goes, from now on.
    ground.pool.import_status_at(&b.agent, &step, 0).await.unwrap();
    storage_when(&ground, &a, |storage| storage.held_back).await;
    holder.batch_execute("ROLLBACK").await.unwrap();
    ground.hurry(&b, &step).await;
    storage_when(&ground, &a, |storage| !storage.held_back).await;
    let after = ground.progress(&b, &step, |progress| progress.backfilled).await;
    assert!(after.copied_rows > before.copied_rows, "{after:?}");
    ground.verify(&a, &b, &step).await;
    assert_eq!(b.rows().await, a.rows().await);
    a.close().await;
    b.close().await;
}
