//! What is durable is there again, what is not has gone the safe way.

use cell_model::Epoch;

use crate::cells::*;

#[tokio::test]
async fn a_fence_outlives_a_restart_and_a_hold_does_not() {
    let ground = Ground::new();
    let (a, b) = (ground.open("a").await, ground.open("b").await);
    ground.pool.grant(&a.agent, &outside(1)).await.unwrap();
    a.put(1, "k", "v").await.unwrap();
    copy(&ground, &a, &b, &context(1, 1)).await;
    let sealed = ground.pool.hold_writes(&a.agent, &context(1, 1), HOLD).await.unwrap();
    let listen = a.close().await;
    let a = ground.open_at("a", &listen).await;
    assert_eq!(refused(ground.pool.fence(&a.agent, &context(1, 1), sealed).await), "NOT_SEALED");
    a.put(1, "k", "after the hold").await.unwrap();

    let sealed = ground.pool.hold_writes(&a.agent, &context(1, 2), HOLD).await.unwrap();
    ground.pool.fence(&a.agent, &context(1, 2), sealed).await.unwrap();
    let listen = a.close().await;
    let a = ground.open_at("a", &listen).await;
    assert_eq!(refused_write(a.put(1, "k", "late").await), "FENCED");
    assert_eq!(ground.pool.fence(&a.agent, &context(1, 2), sealed).await.unwrap(), sealed, "again, the same");
    // The copy gets what it lacks from the fenced source, after the restart, too.
    let (applied, _) = ground.pool.await_applied(&b.agent, &context(1, 2), sealed, PATIENCE).await.unwrap();
    assert_eq!(applied, sealed);
    ground.pool.activate(&b.agent, &context(2, 2), None).await.unwrap();
    assert_eq!(b.rows(2).await[&b"k"[..]], b"after the hold");
    let listen = b.close().await;
    let b = ground.open_at("b", &listen).await;
    b.put(2, "k", "owned").await.unwrap();
    assert_eq!(refused(ground.pool.reclaim(&a.agent, &context(2, 2), Epoch(1)).await), "OWNS");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_that_is_restarted_half_way_goes_on_from_its_frontier() {
    let ground = Ground::new();
    let (a, mut b) = (ground.open("a").await, ground.open("b").await);
    ground.pool.grant(&a.agent, &outside(1)).await.unwrap();
    for part in 0..40_u8 {
        let write = a
            .write(1, |rows| (0..200_u8).try_for_each(|number| rows.put(&[b's', part, number], vec![number; 400])));
        write.await.unwrap();
    }
    let step = context(1, 1);
    ground.pool.start_capture(&a.agent, &step).await.unwrap();
    ground.pool.prepare_import(&b.agent, &step, &a.id, &a.agent).await.unwrap();
    let mut interrupted = 0;
    for round in 0..4_u8 {
        let progress = ground.pool.import_status(&b.agent, &step).await.unwrap();
        interrupted += u32::from(!progress.backfilled);
        let listen = b.close().await;
        // Meanwhile rows change on both sides of the frontier.
        let write = a.write(1, |rows| {
            rows.delete(&[b's', round, 3])?;
            rows.put(&[b's', 39 - round, 7], "changed")?;
            rows.put(&[b'a', round], "before all")
        });
        write.await.unwrap();
        b = ground.open_at("b", &listen).await;
    }
    assert!(interrupted > 0, "the copy was never interrupted");
    await_backfill(&ground, &b, &step).await;
    let (sealed, digest) = seal(&ground, &a, &b, &step).await;
    assert_eq!(digest.rows, 40 * 200 - 4 + 4);
    assert_eq!(ground.pool.scan_digest(&b.agent, &step, Some(sealed)).await.unwrap(), (sealed, digest));
    let rows = a.rows(1).await;
    ground.pool.fence(&a.agent, &step, sealed).await.unwrap();
    ground.pool.activate(&b.agent, &context(2, 1), None).await.unwrap();
    assert_eq!(b.rows(2).await, rows);
}

#[tokio::test]
async fn a_directory_of_another_cell_and_a_port_in_use_are_named() {
    let ground = Ground::new();
    let a = ground.open("a").await;
    let directory = tempfile::tempdir().unwrap();
    let options = |name: &str, listen: &str| {
        let id = cell_model::CellId::new(name).unwrap();
        let options = cell_agent::AgentOptions::new(id, directory.path().to_owned(), listen);
        cell_agent::AgentOptions { insecure_plaintext: true, ..options }
    };
    let taken = cell_agent::Agent::open(options("c", &a.agent)).await.unwrap_err();
    assert_eq!(taken.code(), "PORT_IN_USE");
    let other = cell_agent::Agent::open(options("d", "127.0.0.1:0")).await.unwrap_err();
    assert_eq!(other.code(), "OTHER_CELL");
    assert!(other.to_string().contains('c') && other.to_string().contains('d'), "{other}");
}
