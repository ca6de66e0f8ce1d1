//! What is copied is what was there, whatever is written meanwhile.

use super::ground::*;
use super::server::Own;
use super::writers::Writers;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_kind_of_column_arrives_as_it_was() {
    let ground = Ground::new();
    let (a, b) = ground.pair().await;
    let client = a.session().await;
    let id = account(&client, "by copy").await.unwrap();
    client
        .batch_execute(
            "INSERT INTO \"Odd \"\" name\" VALUES ('a''\\ key', 't-1', NULL), ('', 't-1', '');
             INSERT INTO accounts (tenant_id, name, price, ratio, seen, big) VALUES
                ('t-1', '', 0.001, 'NaN', 'infinity', NULL), ('t-1', '\\N', 999999999.999, '-0', '-infinity', ''),
                ('t-1', E'tab\\there\\nline', 1.500, 1e-300, '0044-03-15 BC', repeat('x', 10000))",
        )
        .await
        .unwrap();
    let step = context(1, 1);
    ground.copy(&a, &b, &step).await;
    // The same again as changes.
    account(&client, "by change").await.unwrap();
    client
        .batch_execute(
            "UPDATE accounts SET ratio = '-Infinity', price = 7.100, doc = '[null, 1e3]' WHERE name = '';
             UPDATE \"Odd \"\" name\" SET value = 'v' || \"the key\";
             DELETE FROM accounts WHERE name = '\\N'",
        )
        .await
        .unwrap();
    let sql =
        format!("INSERT INTO entries (tenant_id, account, amount) VALUES ('t-1', {id}, 1.00), ('t-1', {id}, 1.0)");
    client.batch_execute(&sql).await.unwrap();
    let digest = ground.verify(&a, &b, &step).await;
    assert_eq!(b.rows().await, a.rows().await);
    assert_eq!(digest.rows, 8);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_row_of_another_tenant_is_touched() {
    let ground = Ground::new();
    let (a, b) = ground.pair().await;
    let other = cell_client::StepContext { tenant: cell_model::TenantId::new("other").unwrap(), ..outside(1) };
    for cell in [&a, &b] {
        ground.pool.grant(&cell.agent, &other).await.unwrap();
        let sql = "INSERT INTO accounts (tenant_id, id, name) OVERRIDING SYSTEM VALUE \
                   SELECT 'other', i, 'o' || i FROM generate_series(1, 50) i";
        cell.session().await.batch_execute(sql).await.unwrap();
    }
    accounts(&a.session().await, 50).await;
    let (before_a, before_b) = (a.rows_of("other").await, b.rows_of("other").await);
    let step = context(1, 1);
    ground.copy(&a, &b, &step).await;
    a.session()
        .await
        .batch_execute("UPDATE accounts SET name = name || '!' WHERE tenant_id = 't-1'")
        .await
        .unwrap();
    ground.verify(&a, &b, &step).await;
    ground.pool.stop_capture(&a.agent, &step).await.unwrap();
    ground.pool.drop_import(&b.agent, &step).await.unwrap();
    assert_eq!((a.rows_of("other").await, b.rows_of("other").await), (before_a, before_b));
    assert!(b.rows().await.values().all(Vec::is_empty), "what was copied is gone");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writers_that_go_on_while_the_rows_are_copied_lose_nothing() {
    let ground = Ground::new();
    let (a, b) = ground.pair().await;
    accounts(&a.session().await, 3_000).await;
    // Keys ahead of the copy and behind it; large values that are not logged again; keys that move.
    let changes = |turn| {
        format!(
            "UPDATE accounts SET name = 'u{turn}' WHERE tenant_id = 't-1' AND id = {turn} % 3000;
             DELETE FROM accounts WHERE tenant_id = 't-1' AND id = ({turn} * 13) % 3000;
             INSERT INTO accounts (tenant_id, id, name) OVERRIDING SYSTEM VALUE
               VALUES ('t-1', ({turn} * 13) % 3000, 'again {turn}') ON CONFLICT DO NOTHING;
             INSERT INTO accounts (tenant_id, name, big) VALUES ('t-1', 'new {turn}', repeat('y', 50))"
        )
    };
    let writers = Writers::start(&a, 4, changes).await;
    let step = context(1, 1);
    ground.copy(&a, &b, &step).await;
    ground.verify(&a, &b, &step).await;
    writers.stop().await;
    ground.verify(&a, &b, &step).await;
    assert_eq!(b.rows().await, a.rows().await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_that_moves_across_the_frontier_arrives_once() {
    let ground = Ground::new();
    let (a, b) = ground.pair().await;
    let client = a.session().await;
    client
        .batch_execute(
            "INSERT INTO entries (tenant_id, account, n, amount) SELECT 't-1', 0, i, i FROM generate_series(1, 0) i;
             INSERT INTO \"Odd \"\" name\" SELECT lpad(i::text, 5, '0'), 't-1', repeat('v', 200)
               FROM generate_series(1, 3000) i",
        )
        .await
        .unwrap();
    let step = context(1, 1);
    ground.begin(&a, &b, &step).await;
    let mover = tokio::spawn(async move {
        for i in 1..=150 {
            // From the end to the beginning, and from the beginning to the end.
            let sql = format!(
                "UPDATE \"Odd \"\" name\" SET \"the key\" = '0-{i:05}' WHERE \"the key\" = '{:05}';
                 UPDATE \"Odd \"\" name\" SET \"the key\" = 'z-{i:05}' WHERE \"the key\" = '{i:05}'",
                3001 - i
            );
            client.batch_execute(&sql).await.unwrap();
        }
    });
    ground.progress(&b, &step, |progress| progress.backfilled).await;
    mover.await.unwrap();
    ground.verify(&a, &b, &step).await;
    assert_eq!(b.rows().await, a.rows().await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transaction_that_was_open_before_the_capture_is_in_the_copy() {
    let ground = Ground::new();
    let (a, b) = ground.pair().await;
    let step = context(1, 1);
    // The slot is there already, so that its making does not wait for the transaction.
    ground.capture(&a, &step).await;
    let next = cell_client::StepContext { move_id: Some(cell_model::MoveId(21)), ..context(1, 1) };
    let late = a.session().await;
    late.batch_execute("BEGIN").await.unwrap();
    account(&late, "late").await.unwrap();
    ground.capture(&a, &next).await;
    ground.pool.prepare_import(&b.agent, &next, &a.id, &a.agent).await.unwrap();
    late.batch_execute("COMMIT").await.unwrap();
    ground.progress(&b, &next, |progress| progress.backfilled).await;
    ground.verify(&a, &b, &next).await;
    assert_eq!(b.rows().await["accounts"].len(), 1);
}

/// The race that makes positions in the log useless as labels: a commit is in the log, and decoded, while no snapshot
/// sees it yet, for as long as a synchronous standby takes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_that_is_logged_and_not_visible_yet_is_not_lost() {
    let own = Own::start("synchronous_standby_names = ''\n").await;
    let ground = Ground::new();
    let local = "?options=-c%20synchronous_commit%3Dlocal";
    let mut cells = Vec::new();
    for name in ["a", "b"] {
        let url = format!("{}{local}", own.database().await);
        session(&url).await.batch_execute(TABLES).await.unwrap();
        cells.push(ground.try_open(name, &url, "127.0.0.1:0").await.unwrap());
    }
    let (a, b) = (&cells[0], &cells[1]);
    ground.pool.grant(&a.agent, &outside(1)).await.unwrap();
    let client = a.session().await;
    accounts(&client, 10).await;
    let step = context(1, 1);
    ground.capture(a, &step).await;
    // A standby that never answers: the commit is in the log, and its transaction stays invisible.
    let nobody = "ALTER SYSTEM SET synchronous_standby_names = 'nobody'";
    client.batch_execute(nobody).await.unwrap();
    client.batch_execute("SELECT pg_reload_conf()").await.unwrap();
    until_true(&client, "SELECT current_setting('synchronous_standby_names') = 'nobody'").await;
    let waiting = a.session().await;
    waiting.batch_execute("SET synchronous_commit = on").await.unwrap();
    let writer = tokio::spawn(async move {
        waiting.batch_execute("UPDATE accounts SET name = 'NEW' WHERE tenant_id = 't-1' AND id = 5").await
    });
    until_true(&client, "SELECT EXISTS (SELECT 1 FROM pg_stat_activity WHERE wait_event = 'SyncRep')").await;
    let old: String = client.query_one("SELECT name FROM accounts WHERE id = 5", &[]).await.unwrap().get(0);
    assert_ne!(old, "NEW", "in the log, and not visible");
    ground.pool.prepare_import(&b.agent, &step, &a.id, &a.agent).await.unwrap();
    // Long enough for a chunk to be read, if one were read now.
    let early = ground.pool.import_status(&b.agent, &step).await.unwrap();
    assert!(!early.backfilled, "a snapshot that has not seen the commit must not be used: {early:?}");
    client.batch_execute("ALTER SYSTEM SET synchronous_standby_names = ''").await.unwrap();
    client.batch_execute("SELECT pg_reload_conf()").await.unwrap();
    writer.await.unwrap().unwrap();
    ground.progress(b, &step, |progress| progress.backfilled).await;
    ground.verify(a, b, &step).await;
    assert_eq!(b.rows().await, a.rows().await);
    assert!(b.rows().await["accounts"].iter().any(|row| row.contains("NEW")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_row_that_differs_is_found_by_the_verifier() {
    let ground = Ground::new();
    let (a, b) = ground.pair().await;
    accounts(&a.session().await, 20).await;
    let step = context(1, 1);
    ground.copy(&a, &b, &step).await;
    let same = ground.verify(&a, &b, &step).await;
    let client = b.session().await;
    let damage = "SET session_replication_role = replica; UPDATE accounts SET ratio = 1 WHERE id = 7";
    client.batch_execute(damage).await.unwrap();
    let (seq, ours) = ground.pool.scan_digest(&a.agent, &step, None).await.unwrap();
    let (_, theirs) = ground.pool.scan_digest(&b.agent, &step, Some(seq)).await.unwrap();
    assert_eq!(ours, same);
    assert_ne!(theirs, ours);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changes_do_not_wait_for_a_chunk_that_is_long_in_coming() {
    let ground = Ground::new();
    let (a, b) = ground.pair().await;
    let client = a.session().await;
    accounts(&client, 30_000).await;
    let step = context(1, 1);
    let before = ground.copy_half(&a, &b, &step).await;
    client.batch_execute("UPDATE accounts SET name = 'changed' WHERE id <= 10").await.unwrap();
    let after = ground.progress_at(&b, &step, CRAWL, |progress| progress.applied > before.applied).await;
    assert!(!after.backfilled, "{after:?}");
    let changed = "SELECT count(*) = 10 FROM accounts WHERE name = 'changed'";
    until_true(&b.session().await, changed).await;
    ground.hurry(&b, &step).await;
    ground.verify(&a, &b, &step).await;
    assert_eq!(b.rows().await, a.rows().await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_comes_no_faster_when_its_agent_is_started_again() {
    let ground = Ground::new();
    let (a, b) = ground.pair().await;
    accounts(&a.session().await, 30_000).await;
    let step = context(1, 1);
    ground.copy_half(&a, &b, &step).await;
    let url = b.url.clone();
    let listen = b.kill();
    let b = ground.try_open("b", &url, &listen).await.unwrap();
    // Nobody says anything to it: the move rests. One chunk is asked for at once, the next one when that is paid for.
    let count = "SELECT count(*) FROM accounts";
    let client = b.session().await;
    let rows = async || client.query_one(count, &[]).await.unwrap().get::<_, i64>(0);
    until_true(&client, "SELECT bytes_per_second = 1000 FROM cellway.copies").await;
    tokio::time::sleep(std::time::Duration::from_millis(500)).await;
    assert!(rows().await < 30_000, "it is copied no faster than it was");
    ground.hurry(&b, &step).await;
    ground.verify(&a, &b, &step).await;
    b.close().await;
    a.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_that_are_deleted_or_changed_before_their_chunk_comes_arrive_as_they_are_in_the_end() {
    let ground = Ground::new();
    let (a, b) = ground.pair().await;
    let client = a.session().await;
    accounts(&client, 30_000).await;
    // Too large for their pages and not to be compressed: the log of an update that leaves them alone does not have them.
    let large = "UPDATE accounts SET big = (SELECT string_agg(md5(id || '/' || i), '') FROM generate_series(1, 200) i) \
                 WHERE id % 3000 = 0";
    client.batch_execute(large).await.unwrap();
    let step = context(1, 1);
    let copied = ground.copy_half(&a, &b, &step).await.copied_rows;
    assert!(copied < 25_000, "the last rows have not come yet: {copied}");
    for change in [
        "DELETE FROM accounts WHERE id > 29900 AND id % 2 = 0",
        "UPDATE accounts SET name = 'unchanged and large' WHERE id % 3000 = 0",
        "UPDATE accounts SET name = 'small' WHERE id > 25000 AND id % 3 = 0",
        "DELETE FROM accounts WHERE id < 50",
    ] {
        client.batch_execute(change).await.unwrap();
    }
    let sent = ground.progress_at(&b, &step, CRAWL, |progress| progress.applied > cell_model::Seq(0)).await;
    assert!(!sent.backfilled);
    ground.hurry(&b, &step).await;
    client.batch_execute("UPDATE accounts SET price = 7 WHERE id % 3000 = 0").await.unwrap();
    ground.verify(&a, &b, &step).await;
    assert_eq!(b.rows().await, a.rows().await);
    b.close().await;
    a.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_partition_that_is_emptied_behind_the_log_is_found_at_the_seal() {
    let ground = Ground::new();
    let (a, b) = ground.pair().await;
    let client = a.session().await;
    let rows = "INSERT INTO \"Odd \"\" name\" SELECT 'k' || i, 't-1', 'v' FROM generate_series(1, 50) i";
    client.batch_execute(rows).await.unwrap();
    let step = context(1, 1);
    ground.copy(&a, &b, &step).await;
    ground.verify(&a, &b, &step).await;
    let (step, _) = ground.seal(&a, &b, &step).await;
    ground.pool.release_hold(&a.agent, &step).await.unwrap();
    client.batch_execute("TRUNCATE odd_0").await.unwrap();
    let next = cell_client::StepContext { attempt: cell_model::Attempt(step.attempt.0 + 1), ..step };
    ground.seal_finds_a_difference(&a, &b, &next).await;
}
