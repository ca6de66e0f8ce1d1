//! The copy: sync waits for it, limits bound it, what does not fit is refused.

use std::time::Duration;

use cell_agent::WriteError;

use crate::cells::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_sync_a_write_waits_for_the_copy_until_the_degradation_is_committed() {
    let ground = Ground::new();
    let (a, b) = (ground.open("a").await, ground.open("b").await);
    ground.pool.grant(&a.agent, &outside(1)).await.unwrap();
    let step = context(1, 1);
    copy(&ground, &a, &b, &step).await;
    ground.pool.engage_sync(&a.agent, &step, true).await.unwrap();
    let seq = a.put(1, "k", "both").await.unwrap();
    assert!(
        ground.pool.import_status(&b.agent, &step).await.unwrap().applied >= seq,
        "acknowledged, so held by both"
    );

    b.close().await;
    let data = a.data.clone();
    let waiting = tokio::spawn(async move { data.write(&stamp(1), |rows| rows.put(b"k", "alone")).await });
    let asked = async {
        while !ground.pool.sync_status(&a.agent, &step).await.unwrap().wants_degrade {
            assert!(!waiting.is_finished(), "answered though the copy does not hold it");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, asked).await.unwrap();
    assert!(!waiting.is_finished());
    ground.pool.engage_sync(&a.agent, &context(1, 2), false).await.unwrap();
    waiting.await.unwrap().unwrap();
    assert_eq!(refused(ground.pool.engage_sync(&a.agent, &step, true).await), "STALE_ATTEMPT");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_that_the_copy_never_confirms_is_unknown() {
    let ground = Ground::new();
    let (a, b) = (ground.open("a").await, ground.open("b").await);
    ground.pool.grant(&a.agent, &outside(1)).await.unwrap();
    copy(&ground, &a, &b, &context(1, 1)).await;
    ground.pool.engage_sync(&a.agent, &context(1, 1), true).await.unwrap();
    b.close().await;
    assert!(matches!(a.put(1, "k", "alone").await, Err(WriteError::Unknown { .. })));
}

#[tokio::test]
async fn a_row_beyond_the_limits_is_refused_and_writes_nothing() {
    let ground = Ground::new();
    let a = ground.open("a").await;
    ground.pool.grant(&a.agent, &outside(1)).await.unwrap();
    let too_long = vec![b'k'; cell_agent::KEY_BYTES_MAX + 1];
    let put = |key: Vec<u8>, value: Vec<u8>| {
        let data = a.data.clone();
        async move {
            let own = stamp(1);
            let written = data.write(&own, |rows| {
                rows.put(b"first", "v")?;
                rows.put(&key, value)
            });
            match written.await {
                Err(WriteError::App(error)) => error.code(),
                other => panic!("not refused: {other:?}"),
            }
        }
    };
    assert_eq!(put(too_long, vec![]).await, "KEY_LENGTH");
    assert_eq!(put(vec![], vec![]).await, "KEY_LENGTH");
    assert_eq!(put(b"k".to_vec(), vec![0; cell_agent::VALUE_BYTES_MAX + 1]).await, "VALUE_LENGTH");
    assert!(a.rows(1).await.is_empty());
    let largest = a.write(1, |rows| {
        for number in 0..15 {
            rows.put(&[number; cell_agent::KEY_BYTES_MAX], vec![number; cell_agent::VALUE_BYTES_MAX])?;
        }
        rows.put(b"z", vec![1])
    });
    largest.await.unwrap();
    assert_eq!(a.rows(1).await.len(), 16);
}

#[tokio::test]
async fn a_write_sees_its_own_changes() {
    let ground = Ground::new();
    let a = ground.open("a").await;
    ground.pool.grant(&a.agent, &outside(1)).await.unwrap();
    for key in ["b", "d", "f", "h"] {
        a.put(1, key, "stored").await.unwrap();
    }
    let seen = a.write(1, |rows| {
        rows.put(b"a", "own")?;
        rows.put(b"g", "own")?;
        rows.delete(b"d")?;
        assert_eq!(rows.get(b"d")?, None);
        assert_eq!(rows.get(b"a")?.as_deref(), Some(&b"own"[..]));
        let keys = |rows: Vec<(Vec<u8>, Vec<u8>)>| rows.into_iter().flat_map(|(key, _)| key).collect::<Vec<u8>>();
        assert_eq!(keys(rows.scan(b"", None, 10)?), b"abfgh");
        assert_eq!(keys(rows.scan(b"", None, 3)?), b"abf");
        assert_eq!(keys(rows.scan(b"b", Some(b"g"), 10)?), b"bf");
        Ok::<_, cell_agent::RowError>(())
    });
    seen.await.unwrap();
    let seq = a.put(1, "i", "x").await.unwrap();
    let ((), same) = a.write(1, |rows| rows.delete(b"not-there")).await.unwrap();
    assert_eq!(seq, same, "what changes nothing has no number of its own");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_changes_than_are_kept_end_the_copy_and_not_the_tenant() {
    let ground = Ground::new();
    let (a, b) = (ground.open("a").await, ground.open("b").await);
    ground.pool.grant(&a.agent, &outside(1)).await.unwrap();
    let step = context(1, 1);
    ground.pool.start_capture(&a.agent, &step).await.unwrap();
    for number in 0..70_u8 {
        let write =
            a.write(1, |rows| (0..15_u8).try_for_each(|part| rows.put(&[number % 3, part], vec![number; 65_000])));
        write.await.unwrap();
    }
    assert_eq!(refused(ground.pool.start_capture(&a.agent, &step).await), "CAPTURE_OVERFLOW");
    assert_eq!(refused(ground.pool.hold_writes(&a.agent, &step, HOLD).await), "CAPTURE_OVERFLOW");
    ground.pool.prepare_import(&b.agent, &step, &a.id, &a.agent).await.unwrap();
    let failed = async {
        loop {
            let progress = ground.pool.import_status(&b.agent, &step).await.unwrap();
            if !progress.failure_code.is_empty() {
                return progress.failure_code;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let failure = tokio::time::timeout(PATIENCE, failed).await.unwrap();
    assert_eq!(failure, "CAPTURE_OVERFLOW");
    ground.pool.drop_import(&b.agent, &step).await.unwrap();
    ground.pool.stop_capture(&a.agent, &step).await.unwrap();
    a.put(1, "k", "still served").await.unwrap();
}
