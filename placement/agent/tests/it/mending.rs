//! Copies in the embedded store whose rows have become others: found, named, taken from the owner anew, and compared again. The test
//! reaches into the copying cell's store past its agent.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use cell_agent::engine::{Applied, Batch, Engine, MemoryEngine};
use cell_model::{Difference, Digest, Phase};

use crate::cells::*;

/// More than two pages of them.
const ROWS: usize = 700;

/// A tenant with its rows in cell a, copied to cell b, whose store is there for the test.
struct Copied {
    ground: Ground,
    a: Cell,
    b: Cell,
    store: Arc<MemoryEngine>,
}

impl Copied {
    async fn start() -> Self {
        let ground = Ground::new();
        let store = Arc::new(MemoryEngine::default());
        let a = ground.open("a").await;
        let b = ground.open_on("b", store.clone()).await;
        ground.pool.grant(&a.agent, &outside(1)).await.unwrap();
        let rows = |from: usize| {
            a.write(1, move |rows| {
                (from..from + 100).try_for_each(|n| rows.put(format!("k/{n:04}").as_bytes(), format!("value {n}")))
            })
        };
        for from in (0..ROWS).step_by(100) {
            rows(from).await.unwrap();
        }
        let copied = Self { ground, a, b, store };
        copy(&copied.ground, &copied.a, &copied.b, &context(1, 1)).await;
        copied
    }

    /// How the store of b has a row.
    fn stored(&self, key: &str) -> (Vec<u8>, Vec<u8>) {
        let all = self.store.scan(b"r", b"s", usize::MAX).unwrap();
        all.into_iter().find(|(stored, _)| stored.ends_with(key.as_bytes())).expect("the row is there")
    }

    fn spoil(&self, change: impl FnOnce(&mut Batch)) {
        let mut batch = Batch::default();
        change(&mut batch);
        assert_eq!(self.store.apply(&batch).unwrap(), Applied::Yes);
    }

    /// One row is missing, one is another, one is too much.
    fn spoil_three(&self) {
        let (missing, changed, beside) = (self.stored("k/0100"), self.stored("k/0300"), self.stored("k/0699"));
        self.spoil(|batch| {
            batch.delete(missing.0);
            batch.put(changed.0, b"something else".to_vec());
            batch.put([beside.0.as_slice(), b"x"].concat(), b"nobody wrote it".to_vec());
        });
    }

    async fn examined(&self) -> Difference {
        self.ground.pool.examine(&self.b.agent, &context(1, 1)).await.unwrap()
    }

    /// The digest of both, read again row by row.
    async fn compared(&self) -> (Digest, Digest) {
        let (pool, step) = (&self.ground.pool, context(1, 1));
        let (seq, ours) = pool.scan_digest(&self.a.agent, &step, None).await.unwrap();
        let (_, theirs) = pool.scan_digest(&self.b.agent, &step, Some(seq)).await.unwrap();
        (ours, theirs)
    }

    /// b takes over as it would at the end of a move, and has what a had.
    async fn cut_over(self) {
        let before = self.a.rows(1).await;
        cut_over(&self.ground, &self.a, &self.b, 1, 1).await;
        assert_eq!(self.b.rows(2).await, before);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_that_have_become_others_are_found_and_taken_anew_while_writers_go_on() {
    let copied = Copied::start().await;
    let stop = Arc::new(AtomicBool::new(false));
    let (data, until) = (copied.a.data.clone(), stop.clone());
    let writer = tokio::spawn(async move {
        let mut written = 0_u32;
        while !until.load(Ordering::SeqCst) {
            let key = format!("w/{}", written % 40);
            data.write(&stamp(1), |rows| rows.put(key.as_bytes(), written.to_be_bytes())).await.unwrap();
            written += 1;
        }
        written
    });
    copied.spoil_three();
    let (pool, step) = (&copied.ground.pool, context(1, 1));
    let (seq, _) = pool.scan_digest(&copied.a.agent, &step, None).await.unwrap();
    assert_eq!(refused(pool.scan_digest(&copied.b.agent, &step, Some(seq)).await), "MISMATCH");
    let found = copied.examined().await;
    assert_eq!((found.phase, found.missing, found.extra, found.changed), (Phase::Verify, 1, 1, 1), "{found}");
    let named: Vec<String> = found.rows.iter().map(ToString::to_string).collect();
    assert_eq!(named, ["row(k/0100) missing", "row(k/0300) changed", "row(k/0699x) extra"]);
    assert_ne!(found.owner, found.copy);
    pool.recopy(&copied.b.agent, &step, found.seq).await.unwrap();
    let (ours, theirs) = copied.compared().await;
    assert_eq!(ours, theirs);
    let again = copied.examined().await;
    assert_eq!((again.count(), again.owner == again.copy), (0, true), "{again}");
    stop.store(true, Ordering::SeqCst);
    assert!(writer.await.unwrap() > 0);
    copied.cut_over().await;
}

/// The change itself brings the row into order; what all add up to is not, until the owner has said it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_digest_that_differs_after_a_change_waits_for_the_comparison_of_all_rows() {
    let copied = Copied::start().await;
    let changed = copied.stored("k/0300").0;
    copied.spoil(|batch| batch.put(changed, b"something else".to_vec()));
    let seq = copied.a.put(1, "k/0300", "newer").await.unwrap();
    let (pool, step) = (&copied.ground.pool, context(1, 1));
    pool.await_applied(&copied.b.agent, &step, seq, PATIENCE).await.unwrap();
    let progress = pool.import_status(&copied.b.agent, &step).await.unwrap();
    assert_eq!(progress.failure_code, "", "{progress:?}");
    let seen = pool.look_at_copy(&copied.b.agent, &step).await.unwrap();
    assert!(!seen.complete, "nobody takes it for whole: {seen:?}");
    let (_, ours) = pool.scan_digest(&copied.a.agent, &step, None).await.unwrap();
    assert_eq!(refused(pool.scan_digest(&copied.b.agent, &step, Some(seq)).await), "MISMATCH");
    let found = copied.examined().await;
    assert_eq!(found.count(), 0, "{found}");
    pool.recopy(&copied.b.agent, &step, found.seq).await.unwrap();
    assert_eq!(copied.compared().await, (ours, ours));
    assert!(pool.look_at_copy(&copied.b.agent, &step).await.unwrap().complete);
    copied.cut_over().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_that_may_soon_own_fails_at_the_first_digest_that_differs() {
    let copied = Copied::start().await;
    let (pool, step) = (&copied.ground.pool, context(1, 1));
    pool.prepare_reverse(&copied.b.agent, &step).await.unwrap();
    let changed = copied.stored("k/0300").0;
    copied.spoil(|batch| batch.put(changed, b"something else".to_vec()));
    copied.a.put(1, "k/0300", "newer").await.unwrap();
    let failed = async {
        loop {
            let progress = pool.import_status(&copied.b.agent, &step).await.unwrap();
            if !progress.failure_code.is_empty() {
                return progress.failure_code;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    assert_eq!(tokio::time::timeout(PATIENCE, failed).await.unwrap(), "DIGEST_MISMATCH");
    assert_eq!(refused(pool.examine(&copied.b.agent, &step).await), "DIGEST_MISMATCH");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_of_which_much_differs_is_mended_whole() {
    let copied = Copied::start().await;
    let all = copied.store.scan(b"r", b"s", usize::MAX).unwrap();
    assert_eq!(all.len(), ROWS);
    copied.spoil(|batch| {
        for (key, _) in &all[..400] {
            batch.delete(key.clone());
        }
        for number in 0..1_500 {
            batch.put([all[500].0.as_slice(), format!("-{number}").as_bytes()].concat(), vec![b'x'; 100]);
        }
    });
    let found = copied.examined().await;
    assert_eq!((found.missing, found.extra, found.changed), (400, 1_500, 0), "{found}");
    assert_eq!(found.rows.len(), Difference::ROWS_MAX);
    let (pool, step) = (&copied.ground.pool, context(1, 1));
    pool.recopy(&copied.b.agent, &step, found.seq).await.unwrap();
    let (ours, theirs) = copied.compared().await;
    assert_eq!((ours, ours.rows), (theirs, ROWS as u64));
    copied.cut_over().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_are_taken_anew_only_where_they_were_found_to_differ() {
    let copied = Copied::start().await;
    let (pool, step) = (&copied.ground.pool, context(1, 1));
    let somewhere = cell_model::Seq(99);
    assert_eq!(refused(pool.recopy(&copied.b.agent, &step, somewhere).await), "NOT_EXAMINED");
    assert_eq!(refused(pool.examine(&copied.a.agent, &step).await), "NOT_IMPORTING", "a copies nothing");
    let found = copied.examined().await;
    assert_eq!(found.count(), 0, "{found}");
    pool.recopy(&copied.b.agent, &step, found.seq).await.unwrap();
    let (ours, theirs) = copied.compared().await;
    assert_eq!(ours, theirs);
}

/// As `move tenant --exact` asks for.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_row_is_compared_with_its_original_where_that_is_asked_for() {
    let copied = Copied::start().await;
    let (pool, step) = (&copied.ground.pool, context(1, 1));
    let found = pool.compare_rows(&copied.b.agent, &step).await.unwrap();
    assert_eq!((found.count(), found.owner.rows), (0, ROWS as u64), "{found}");
    copied.spoil_three();
    let found = pool.compare_rows(&copied.b.agent, &step).await.unwrap();
    assert_eq!((found.missing, found.extra, found.changed), (1, 1, 1), "{found}");
}

/// As the old owner's copy is looked at in soak: one page after the other, and then from the beginning.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn samples_come_round_to_every_row() {
    let copied = Copied::start().await;
    copied.spoil_three();
    let (pool, step) = (&copied.ground.pool, context(1, 1));
    let mut found = Vec::new();
    for look in 0..6 {
        let sample = pool.compare_sample(&copied.b.agent, &step, look).await.unwrap();
        assert_eq!(sample.phase, Phase::Soak);
        found.push((sample.missing, sample.changed, sample.extra));
    }
    let round = [(1, 0, 0), (0, 1, 0), (0, 0, 1)];
    assert_eq!(found, [round, round].concat());
}
