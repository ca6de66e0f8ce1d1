//! Disks that fail, lie or rot: the node stops and says what is wrong; it never serves what was not written.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use cell_model::{Fleet, Revision};
use cell_store::engine::{LogEngine, LogKind, MemoryLog, MemoryState};
use cell_store::{Bounds, Disk, EngineError, Member, OpenError, Store, StoreError, StoreOptions, tcp_dialer};
use tokio_util::sync::CancellationToken;

use crate::fixture::{CLUSTER, Cluster, create_cell, envelope, eventually};
use crate::single::copy_directory;

/// A log whose sync can be made to fail and whose rows can be made to rot.
#[derive(Debug, Default)]
struct BadLog {
    inner: MemoryLog,
    sync_fails: AtomicBool,
    rots: AtomicBool,
}

impl LogEngine for BadLog {
    fn append(&self, rows: &[(u64, Vec<u8>)]) -> Result<(), EngineError> {
        self.inner.append(rows)
    }

    fn range(&self, from: u64, until: u64, bytes_max: usize) -> Result<Vec<(u64, Vec<u8>)>, EngineError> {
        let mut rows = self.inner.range(from, until, bytes_max)?;
        if self.rots.load(Ordering::Relaxed)
            && let Some((_, row)) = rows.iter_mut().find(|(index, _)| *index == 3)
            && let Some(byte) = row.last_mut()
        {
            *byte ^= 1;
        }
        Ok(rows)
    }

    fn last(&self) -> Result<Option<(u64, Vec<u8>)>, EngineError> {
        self.inner.last()
    }

    fn truncate_from(&self, index: u64) -> Result<(), EngineError> {
        self.inner.truncate_from(index)
    }

    fn purge_to(&self, index: u64) -> Result<(), EngineError> {
        self.inner.purge_to(index)
    }

    fn put_meta(&self, name: &'static str, value: &[u8]) -> Result<(), EngineError> {
        self.inner.put_meta(name, value)
    }

    fn get_meta(&self, name: &'static str) -> Result<Option<Vec<u8>>, EngineError> {
        self.inner.get_meta(name)
    }

    fn sync(&self) -> Result<(), EngineError> {
        if self.sync_fails.load(Ordering::Relaxed) {
            return Err(EngineError::Io { operation: "syncing", reason: "Input/output error".into() });
        }
        Ok(())
    }

    fn sync_blocks(&self) -> bool {
        false
    }
}

fn options() -> StoreOptions {
    StoreOptions::new("in memory", "127.0.0.1:1")
}

async fn leading(disk: &Disk) -> Store {
    let store = Store::open_on(options(), disk.clone(), tcp_dialer()).await.unwrap();
    let node_id = store.claim(CLUSTER).await.unwrap();
    let member = Member { node_id, address: "127.0.0.1:1".into(), voter: true };
    store.initialize(CLUSTER, vec![member]).await.unwrap();
    // Reads are answered a moment before it takes commands.
    let leads = async || store.read_index().await.is_ok() && store.leadership().borrow().is_leader;
    eventually("it leads", async || leads().await.then_some(())).await;
    store
}

#[tokio::test]
async fn a_failed_sync_acknowledges_nothing_and_stops_the_node_for_good() {
    let log = Arc::new(BadLog::default());
    let disk = Disk::of(log.clone(), Arc::new(MemoryState::default()));
    let store = leading(&disk).await;
    assert!(store.submit(envelope(create_cell(1))).await.unwrap().result.is_ok());
    let running = tokio::spawn({
        let store = store.clone();
        async move { store.run(CancellationToken::new()).await }
    });
    log.sync_fails.store(true, Ordering::Relaxed);
    store.submit(envelope(create_cell(2))).await.expect_err("it is not on disk");
    let ended = tokio::time::timeout(Duration::from_secs(10), running).await.expect("it ends").unwrap();
    let error = ended.expect_err("it failed");
    assert!(matches!(&error, StoreError::Storage { reason } if reason.contains("Input/output error")), "{error}");
    // Never tried again: the next sync of a real disk would lie.
    log.sync_fails.store(false, Ordering::Relaxed);
    store.submit(envelope(create_cell(3))).await.expect_err("it has stopped");
    assert_eq!(store.view(|fleet| fleet.head().revision), Revision(1));
}

#[tokio::test]
async fn a_flipped_byte_in_the_log_is_named_when_the_node_opens() {
    let log = Arc::new(BadLog::default());
    let disk = Disk::of(log.clone(), Arc::new(MemoryState::default()));
    let store = leading(&disk).await;
    for number in 1..=5 {
        store.submit(envelope(create_cell(number))).await.unwrap();
    }
    store.stop().await;
    drop(store);
    log.rots.store(true, Ordering::Relaxed);
    // The state is lost, so the log has to be read again.
    let disk = Disk::of(log, Arc::new(MemoryState::default()));
    let refused = Store::open_on(options(), disk, tcp_dialer()).await.expect_err("entry 3 is not what was written");
    assert_eq!(refused.code(), "STORE_CORRUPT", "{refused:?}");
    let OpenError::Storage { source, .. } = &refused else { panic!("{refused:?}") };
    assert!(source.to_string().starts_with("log entry 3 is corrupt"), "{source}");
}

/// Flips bytes all over a file, one in each copy of the directory. Answers how many copies are refused; each of the others
/// serves what was written.
async fn refused_flips(options: &StoreOptions, name: &str, expected: &Fleet) -> usize {
    let mut refused = 0;
    let original = std::fs::read(options.data_dir.join(name)).unwrap();
    let used = original.iter().rposition(|byte| *byte != 0).unwrap() + 1;
    for position in (0..used).step_by(used / 12) {
        // A directory of its own: what an earlier one has gone on to write must not be mixed with this one.
        let case = tempfile::tempdir().unwrap();
        copy_directory(&options.data_dir, case.path());
        let mut bytes = original.clone();
        bytes[position] ^= 0x04;
        std::fs::write(case.path().join(name), &bytes).unwrap();
        match Store::open(StoreOptions { data_dir: case.path().to_owned(), ..options.clone() }).await {
            Err(error) => {
                refused += 1;
                assert!(!error.to_string().is_empty());
            }
            // The byte was in a part that nobody needs.
            Ok(store) => {
                let leads = eventually("it leads", async || store.read_index().await.ok()).await;
                let fleet = store.view(Fleet::clone);
                assert_eq!((leads, &fleet), (expected.head().revision, expected), "{name} at {position}");
                store.stop().await;
            }
        }
    }
    refused
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_is_put_back_to_an_older_copy_gets_everything_again_and_the_leader_goes_on() {
    let mut cluster = Cluster::start(3, Bounds::default()).await;
    let made = cluster.submit(1, create_cell(1)).await;
    cluster.agree_on(made.revision).await;
    let leader = cluster.leader().await;
    let back = (leader + 1) % 3;
    let (data_dir, older) = (cluster.nodes[back].options().data_dir, tempfile::tempdir().unwrap());
    cluster.nodes[back].stop().await;
    copy_directory(&data_dir, older.path());
    cluster.nodes[back].restart().await;
    let mut last = made.revision;
    for number in 2..=20 {
        last = cluster.submit(number, create_cell(number)).await.revision;
    }
    cluster.agree_on(last).await;
    let term = cluster.nodes[leader].store().status().term;
    cluster.nodes[back].stop().await;
    eventually("the directory is free", async || std::fs::remove_dir_all(&data_dir).ok()).await;
    copy_directory(older.path(), &data_dir);
    cluster.nodes[back].restart().await;
    let made = cluster.submit(21, create_cell(21)).await;
    cluster.agree_on(made.revision).await;
    let status = cluster.nodes[leader].store().status();
    assert_eq!((status.is_leader, status.term), (true, term), "it has led all the time");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bytes_flipped_anywhere_in_the_files_are_never_served() {
    let bounds = Bounds { snapshot_after: 20, log_kept: 5, ..Bounds::default() };
    let mut cluster = Cluster::start(1, bounds).await;
    for number in 1..=60 {
        cluster.submit(number, create_cell(number)).await;
    }
    let expected = cluster.nodes[0].store().view(Fleet::clone);
    let options = cluster.nodes[0].options();
    cluster.nodes[0].stop().await;
    for kind in [LogKind::Segments, LogKind::Sled] {
        let options = StoreOptions { log: kind, ..options.clone() };
        // It goes over to that engine.
        let store = eventually("the directory is free", async || Store::open(options.clone()).await.ok()).await;
        store.stop().await;
        drop(store);
        let log = match kind {
            LogKind::Segments => "segments/0000000000000001.log",
            LogKind::Sled => "log/db",
        };
        let mut refused = 0;
        for name in [log, "sm/db", "snapshot/current.snapshot"] {
            let here = refused_flips(&options, name, &expected).await;
            assert!(name != log || here > 0, "some bytes of the log in {kind} matter");
            refused += here;
        }
        assert!(refused > 0, "some of these bytes matter");
    }
}
