//! Looking at the directory of a node that does not run: whatever is found, and whatever the node has left behind, not one byte
//! of it changes, nor a time.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use cell_model::Revision;
use cell_store::engine::LogKind;
use cell_store::{Bounds, OpenError, Store, StoreOptions, Summary, verify_directory};
use tempfile::TempDir;

use crate::fixture::{CLUSTER, Cluster, create_cell};
use crate::single::copy_directory;

/// What is seen of a directory: of each path below it when it was changed last, and its bytes where it is a file.
type Seen = BTreeMap<PathBuf, (SystemTime, Option<Vec<u8>>)>;

fn seen(path: &Path) -> Seen {
    fn look(path: &Path, seen: &mut Seen) {
        let changed = path.metadata().unwrap().modified().unwrap();
        let bytes = path.is_file().then(|| std::fs::read(path).unwrap());
        seen.insert(path.to_owned(), (changed, bytes));
        if path.is_dir() {
            std::fs::read_dir(path).unwrap().for_each(|entry| look(&entry.unwrap().path(), seen));
        }
    }
    let mut all = Seen::new();
    look(path, &mut all);
    all
}

/// Verifies, and sees that nothing has changed.
async fn verify(path: &Path) -> Result<Summary, OpenError> {
    let before = seen(path);
    let verified = verify_directory(path).await;
    let after = seen(path);
    let paths = |seen: &Seen| seen.keys().cloned().collect::<Vec<_>>();
    assert_eq!(paths(&before), paths(&after));
    for (path, was) in &before {
        assert!(after.get(path) == Some(was), "{} has changed", path.display());
    }
    verified
}

/// What a node of one leaves behind that is killed: a snapshot at revision 60, and five commands behind it, with its log in
/// `log`.
async fn killed(log: LogKind) -> TempDir {
    let bounds = Bounds { snapshot_after: 20, log_kept: 5, ..Bounds::default() };
    let mut cluster = Cluster::start(1, bounds).await;
    if log == LogKind::Sled {
        cluster.nodes[0].stop().await;
        cluster.nodes[0].log = log;
        cluster.nodes[0].restart().await;
    }
    for number in 1..=60 {
        cluster.submit(number, create_cell(number)).await;
    }
    // So few more that no snapshot is on its way: nobody writes while this copies.
    cluster.nodes[0].store().snapshot().await.unwrap();
    for number in 61..=65 {
        cluster.submit(number, create_cell(number)).await;
    }
    // As a SIGKILL would leave it: what the kernel has, and nothing that only the process has.
    let copy = tempfile::tempdir().unwrap();
    copy_directory(&cluster.nodes[0].options().data_dir, copy.path());
    copy
}

/// The file that the newest records are in.
fn newest(path: &Path) -> PathBuf {
    let logs = std::fs::read_dir(path.join("segments")).unwrap().map(|entry| entry.unwrap().path());
    logs.filter(|path| path.extension().is_some_and(|ending| ending == "log"))
        .filter(|path| std::fs::read(path).unwrap().iter().any(|byte| *byte != 0))
        .max()
        .unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_directory_is_as_it_was_after_it_was_verified() {
    for log in [LogKind::Segments, LogKind::Sled] {
        let directory = killed(log).await;
        let summary = verify(directory.path()).await.unwrap();
        assert_eq!((summary.cluster, summary.revision, summary.records), (CLUSTER, Revision(60), 60), "{log}");
        assert_eq!(summary.log_ahead, 5, "of the last five only the log is on the disk");
        assert_eq!(verify(directory.path()).await.unwrap(), summary, "and may be verified again");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_start_would_tidy_up_stays() {
    let directory = killed(LogKind::Segments).await;
    let summary = verify(directory.path()).await.unwrap();
    let at = |name: &str| directory.path().join(name);
    // A snapshot and a segment that were never finished, and a record of which only a part got to the disk.
    std::fs::write(at("snapshot/0000000000000001.part"), "half").unwrap();
    std::fs::write(at("segments/00000000000000ff.new"), "half").unwrap();
    let torn = newest(directory.path());
    let mut bytes = std::fs::read(&torn).unwrap();
    let end = bytes.iter().rposition(|byte| *byte != 0).unwrap() + 9;
    bytes[end..end + 40].copy_from_slice(&[7; 40]);
    std::fs::write(&torn, bytes).unwrap();
    assert_eq!(verify(directory.path()).await.unwrap(), summary);
    // A change of engines that was cut off behind its second step.
    std::fs::rename(at("segments"), at("segments.new")).unwrap();
    std::fs::create_dir(at("log.retired")).unwrap();
    assert_eq!(verify(directory.path()).await.unwrap(), summary);
    // A start does tidy up.
    let before = seen(directory.path());
    let store = Store::open(StoreOptions::new(directory.path(), "127.0.0.1:1")).await.unwrap();
    store.stop().await;
    assert!(seen(directory.path()) != before, "or this test would see nothing");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn damage_is_named_and_left_as_it_is() {
    let directory = killed(LogKind::Segments).await;
    let newest = newest(directory.path());
    let newest = newest.strip_prefix(directory.path()).unwrap().to_owned();
    // Where its second record begins; within the first block of records; the layout.
    for (file, at, code) in [
        (newest, 40, "STORE_CORRUPT"),
        ("snapshot/current.snapshot".into(), 100, "STORE_CORRUPT"),
        ("segments/synced".into(), 1, "DATA_DIRECTORY_FORMAT"),
    ] {
        let case = tempfile::tempdir().unwrap();
        copy_directory(directory.path(), case.path());
        let mut bytes = std::fs::read(case.path().join(&file)).unwrap();
        bytes[at] ^= 0x04;
        std::fs::write(case.path().join(&file), bytes).unwrap();
        let refused = verify(case.path()).await.expect_err("a byte is flipped");
        assert_eq!(refused.code(), code, "{}: {refused:?}", file.display());
        assert!(refused.to_string().contains(case.path().to_str().unwrap()), "{refused}");
    }
}
