//! A whole move under writers, forth and back.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use cell_agent::WriteError;
use cell_model::{Epoch, Leg, Seq};

use crate::cells::*;

/// Writers that go to whichever cell owns, as routers would send them, and remember what was acknowledged.
struct Writers {
    stop: Arc<AtomicBool>,
    owner: Arc<AtomicU64>,
    tasks: Vec<tokio::task::JoinHandle<Vec<(String, String, Seq)>>>,
    acknowledged: Arc<AtomicU64>,
}

impl Writers {
    /// Epoch 1 and 3 are served by the first cell, epoch 2 by the second.
    fn start(cells: [&Cell; 2], count: u64) -> Self {
        let (stop, owner, acknowledged) = <(Arc<AtomicBool>, Arc<AtomicU64>, Arc<AtomicU64>)>::default();
        owner.store(1, Ordering::SeqCst);
        let data = cells.map(|cell| cell.data.clone());
        let writer = |number: u64| {
            let (stop, owner, acknowledged) = (stop.clone(), owner.clone(), acknowledged.clone());
            let data = data.clone();
            tokio::spawn(async move {
                let mut done = Vec::new();
                let mut count = 0_u64;
                while !stop.load(Ordering::SeqCst) {
                    let epoch = owner.load(Ordering::SeqCst);
                    let cell = &data[usize::from(epoch == 2)];
                    let (key, value) = (format!("w{number}-{:03}", count % 50), format!("{number}:{count}"));
                    let own = stamp(epoch);
                    let write = cell.write(&own, |rows| {
                        if count % 17 == 16 {
                            rows.delete(key.as_bytes())
                        } else {
                            rows.put(key.as_bytes(), value.clone())
                        }
                    });
                    match write.await {
                        Ok(((), seq)) => {
                            let value = if count % 17 == 16 { String::new() } else { value };
                            done.push((key, value, seq));
                            acknowledged.fetch_add(1, Ordering::SeqCst);
                            count += 1;
                        }
                        // Surely not run: again, perhaps elsewhere.
                        Err(WriteError::Refused { .. }) => tokio::time::sleep(Duration::from_millis(2)).await,
                        Err(other) => panic!("{other:?}"),
                    }
                }
                done
            })
        };
        let tasks = (0..count).map(writer).collect();
        Self { stop, owner, tasks, acknowledged }
    }

    /// Waits until so many more writes were acknowledged.
    async fn advance(&self, more: u64) {
        let wanted = self.acknowledged.load(Ordering::SeqCst) + more;
        let advanced = async {
            while self.acknowledged.load(Ordering::SeqCst) < wanted {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        tokio::time::timeout(PATIENCE, advanced).await.expect("writers go on");
    }

    async fn end(self) -> Vec<(String, String, Seq)> {
        self.stop.store(true, Ordering::SeqCst);
        let mut all = Vec::new();
        for task in self.tasks {
            all.extend(task.await.unwrap());
        }
        all
    }
}

/// What the rows must be after these writes, which are acknowledged in the order of their sequence numbers.
fn expected(seed: usize, writes: &mut [(String, String, Seq)]) -> BTreeMap<Vec<u8>, Vec<u8>> {
    writes.sort_by_key(|(_, _, seq)| *seq);
    let mut rows: BTreeMap<Vec<u8>, Vec<u8>> = (0..seed).map(seeded).collect();
    for (key, value, _) in writes {
        match value.as_str() {
            "" => rows.remove(key.as_bytes()),
            value => rows.insert(key.as_bytes().to_vec(), value.as_bytes().to_vec()),
        };
    }
    rows
}

fn seeded(number: usize) -> (Vec<u8>, Vec<u8>) {
    (format!("s{number:05}").into_bytes(), vec![b'x'; 200 + number % 300])
}

async fn seed(cell: &Cell, rows: usize) {
    for part in (0..rows).collect::<Vec<_>>().chunks(500) {
        let write =
            cell.write(1, |txn| part.iter().copied().map(seeded).try_for_each(|(key, value)| txn.put(&key, value)));
        write.await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tenant_moves_and_is_rolled_back_under_writers_and_nothing_is_lost() {
    let ground = Ground::new();
    let (a, b) = (ground.open("a").await, ground.open("b").await);
    ground.pool.grant(&a.agent, &outside(1)).await.unwrap();
    seed(&a, 3_000).await;
    let writers = Writers::start([&a, &b], 6);
    writers.advance(20).await;

    let step = context(1, 1);
    copy(&ground, &a, &b, &step).await;
    writers.advance(20).await;
    let (cut, digest) = ground.pool.scan_digest(&a.agent, &step, None).await.unwrap();
    assert_eq!(ground.pool.scan_digest(&b.agent, &step, Some(cut)).await.unwrap(), (cut, digest));
    ground.pool.engage_sync(&a.agent, &step, true).await.unwrap();
    ground.pool.prepare_reverse(&b.agent, &step).await.unwrap();
    writers.advance(30).await;
    assert!(ground.pool.sync_status(&a.agent, &step).await.unwrap().engaged);

    cut_over(&ground, &a, &b, 1, 1).await;
    writers.owner.store(2, Ordering::SeqCst);
    writers.advance(30).await;
    assert_eq!(refused_write(a.put(1, "late", "x").await), "NOT_OWNER");

    // The way back is the same cutover, mirrored.
    let back = |epoch| cell_client::StepContext { leg: Some(Leg::Back), ..context(epoch, 2) };
    let (sealed, _) = seal(&ground, &b, &a, &back(2)).await;
    ground.pool.fence(&b.agent, &back(2), sealed).await.unwrap();
    ground.pool.activate(&a.agent, &back(3), None).await.unwrap();
    ground.pool.deliver_mapping(&b.agent, &back(3), &ground.mapping(&a.id, 3), None).await.unwrap();
    writers.owner.store(3, Ordering::SeqCst);
    writers.advance(30).await;
    ground.pool.drop_import(&b.agent, &back(3)).await.unwrap();
    ground.pool.stop_capture(&a.agent, &back(3)).await.unwrap();
    writers.advance(10).await;

    let mut writes = writers.end().await;
    let seqs: std::collections::BTreeSet<Seq> = writes.iter().map(|(_, _, seq)| *seq).collect();
    assert!(seqs.len() * 10 > writes.len() * 9, "each change has a number of its own");
    assert_eq!(a.rows(3).await, expected(3_000, &mut writes));
    let (_, kept) = ground.pool.scan_digest(&a.agent, &back(3), None).await.unwrap();
    assert_eq!(kept.rows, a.rows(3).await.len() as u64);
    a.close().await;
    b.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_old_copy_follows_until_it_is_retired_and_is_reclaimed_only_then() {
    let ground = Ground::new();
    let (a, b) = (ground.open("a").await, ground.open("b").await);
    ground.pool.grant(&a.agent, &outside(1)).await.unwrap();
    seed(&a, 700).await;
    copy(&ground, &a, &b, &context(1, 1)).await;
    ground.pool.prepare_reverse(&b.agent, &context(1, 1)).await.unwrap();
    cut_over(&ground, &a, &b, 1, 1).await;
    let step = context(2, 1);

    let seq = b.put(2, "after", "cutover").await.unwrap();
    let (applied, _) = ground.pool.await_applied(&a.agent, &step, seq, PATIENCE).await.unwrap();
    assert_eq!(applied, seq);
    assert_eq!(
        ground.pool.digest_at(&a.agent, &step, seq, PATIENCE).await.unwrap(),
        ground.pool.digest_at(&b.agent, &step, seq, PATIENCE).await.unwrap(),
    );
    assert_eq!(refused(ground.pool.reclaim(&a.agent, &step, Epoch(1)).await), "BUSY");
    assert_eq!(refused(ground.pool.reclaim(&b.agent, &step, Epoch(1)).await), "OWNS");
    assert_eq!(refused(ground.pool.drop_import(&b.agent, &step).await), "OWNS");
    ground.pool.retire(&a.agent, &step).await.unwrap();
    ground.pool.stop_capture(&b.agent, &step).await.unwrap();
    assert_eq!(refused(ground.pool.reclaim(&a.agent, &step, Epoch(3)).await), "NOT_FENCED");
    for _ in 0..2 {
        ground.pool.reclaim(&a.agent, &step, Epoch(1)).await.unwrap();
    }
    let report = ground.pool.preflight(&a.agent, &step, true).await.unwrap();
    assert_eq!((report.findings.len(), report.rows), (0, 0), "{report:?}");

    // There and back again, as a new move: the tombstone gives way to an import.
    let next = cell_client::StepContext { move_id: Some(cell_model::MoveId(30)), ..context(2, 1) };
    copy(&ground, &b, &a, &next).await;
    let (sealed, digest) = seal(&ground, &b, &a, &next).await;
    assert_eq!((sealed, digest.rows), (seq, 701));
    // A late reclaim of the copy of the first move does nothing to that of the second.
    ground.pool.reclaim(&a.agent, &step, Epoch(1)).await.unwrap();
    assert_eq!(ground.pool.digest_at(&a.agent, &next, seq, PATIENCE).await.unwrap(), digest);
    a.close().await;
    b.close().await;
}
