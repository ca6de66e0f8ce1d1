//! Backup while the store runs, verify without it, restore into a new cluster; compaction; a full disk.

use std::path::{Path, PathBuf};
use std::process::Command as Process;
use std::time::Duration;

use cell_model::{Change, Command, Fleet, FleetView, Lineage, Revision};
use cell_store::engine::LogKind;
use cell_store::{
    Bounds, Feed, Honesty, Member, REVISIONS_SKIPPED, ResetCause, Store, StoreOptions, SubmitError, restore,
    verify_backup, verify_directory,
};

use crate::fixture::{CLUSTER, Cluster, create_cell, create_tenant, envelope, eventually};

fn records(fleet: &Fleet) -> Vec<Change> {
    fleet.records().collect()
}

/// A cluster of one with a few records, and a backup of it.
async fn backed_up() -> (Cluster, tempfile::TempDir, PathBuf) {
    let cluster = Cluster::start(1, Bounds::default()).await;
    cluster.submit(1, create_cell(1)).await;
    for number in 2..=300 {
        cluster.submit(number, create_tenant(number)).await;
    }
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("backup");
    let mut backup = cluster.nodes[0].store().backup().await.unwrap();
    let mut bytes = Vec::new();
    while let Some(chunk) = backup.chunk().await.unwrap() {
        bytes.extend(chunk);
    }
    assert_eq!((bytes.len() as u64, backup.revision), (backup.bytes, Revision(300)));
    std::fs::write(&file, bytes).unwrap();
    (cluster, directory, file)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_is_restored_into_a_new_cluster_with_another_history() {
    let (cluster, directory, file) = backed_up().await;
    let original = cluster.nodes[0].store();
    let summary = verify_backup(&file).unwrap();
    assert_eq!((summary.cluster, summary.revision, summary.tenants), (CLUSTER, Revision(300), 299));
    // Written after the backup, and so not in it.
    let mut expected = records(&original.view(Fleet::clone));
    // Cells may hold more than a backup knows.
    expected.push(Change::Reconciled(false));
    cluster.submit(301, create_tenant(301)).await;

    let data_dir = directory.path().join("restored");
    let low = restore(&file, &data_dir, "127.0.0.1:1", Some(Lineage(1))).await.expect_err("not above the backup's");
    assert_eq!(low.code(), "LINEAGE_TOO_LOW");
    let higher = directory.path().join("higher");
    let restored = restore(&file, &higher, "127.0.0.1:1", Some(Lineage(7))).await.unwrap();
    assert_eq!((restored.lineage, restored.revision), (Lineage(7), Revision(300 + 6 * REVISIONS_SKIPPED)));
    let beyond = directory.path().join("beyond");
    let high = restore(&file, &beyond, "127.0.0.1:1", Some(Lineage(u64::MAX))).await.expect_err("no such revision");
    assert_eq!((high.code(), beyond.exists()), ("LINEAGE_TOO_HIGH", false));
    let restored = restore(&file, &data_dir, "127.0.0.1:1", None).await.unwrap();
    assert_eq!((restored.lineage, restored.revision), (Lineage(2), Revision(300 + REVISIONS_SKIPPED)));
    assert_ne!((restored.cluster, restored.node_id), (CLUSTER, original.node_id()));
    let again = restore(&file, &data_dir, "127.0.0.1:1", None).await.expect_err("nothing is overwritten");
    assert_eq!(again.code(), "DIRECTORY_NOT_EMPTY");

    let store =
        eventually("it opens", async || Store::open(StoreOptions::new(&data_dir, "127.0.0.1:1")).await.ok()).await;
    eventually("it leads", async || store.read_index().await.ok()).await;
    assert_eq!(records(&store.view(Fleet::clone)), expected);
    assert_eq!(store.cluster(), Some(restored.cluster));
    let mut watcher = store.subscribe(Some((Lineage(1), Revision(300))));
    let reset = watcher.next().await.unwrap();
    assert_eq!(reset, Feed::Reset { cause: ResetCause::LineageChanged, lineage: Lineage(2) });
    // It may stand for election once more where the machine has kept it waiting: then it refuses, and has done nothing.
    let submitted = async || store.submit(envelope(create_cell(9))).await.ok();
    let reply = eventually("it takes a command", submitted).await;
    assert_eq!(reply.revision, Revision(301 + REVISIONS_SKIPPED));
    // A request from before the restore is still known.
    let known = cluster.submit(7, create_tenant(7)).await;
    let mut repeated = envelope(create_tenant(7));
    repeated.request_id = Some(cell_model::RequestId(7));
    assert_eq!(store.submit(repeated).await.unwrap(), known);
    // Also after a restart nothing is made before the cells were heard, and once it was said it stays so.
    let refused = store.submit(envelope(create_tenant(400))).await.unwrap().result.unwrap_err();
    assert_eq!(refused.code(), "NOT_RECONCILED");
    store.stop().await;
    drop((store, watcher));
    let reopen = async || {
        let options = StoreOptions::new(&data_dir, "127.0.0.1:1");
        let store = eventually("it opens again", async || Store::open(options.clone()).await.ok()).await;
        eventually("it leads again", async || store.read_index().await.ok()).await;
        store
    };
    let store = reopen().await;
    let refused = store.submit(envelope(create_tenant(400))).await.unwrap().result.unwrap_err();
    assert_eq!(refused.code(), "NOT_RECONCILED");
    let heard = store.view(|fleet| fleet.cells().map(|cell| cell.id.clone()).collect());
    let reconciled = Command::Reconciled { heard, without: Vec::new() };
    assert!(store.submit(envelope(reconciled)).await.unwrap().result.is_ok());
    store.stop().await;
    drop(store);
    let store = reopen().await;
    assert!(!store.view(|fleet| fleet.unreconciled()));
    assert!(store.submit(envelope(create_tenant(400))).await.unwrap().result.is_ok());
    store.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_backup_is_named_wherever_it_is_damaged() {
    let (_cluster, _directory, file) = backed_up().await;
    let whole = std::fs::read(&file).unwrap();
    for position in (0..whole.len()).step_by(whole.len() / 40) {
        let mut bytes = whole.clone();
        bytes[position] ^= 0x10;
        std::fs::write(&file, &bytes).unwrap();
        let refused = verify_backup(&file).expect_err("a byte is flipped");
        assert_eq!(refused.code(), "BACKUP_CORRUPT", "at {position}: {refused}");
    }
    std::fs::write(&file, &whole[..whole.len() / 2]).unwrap();
    assert!(verify_backup(&file).unwrap_err().to_string().contains("cut off"));
    std::fs::write(&file, &whole).unwrap();
    verify_backup(&file).unwrap();
    assert_eq!(verify_backup(&file.with_extension("none")).unwrap_err().code(), "BACKUP_UNREADABLE");
}

/// Behind the eight bytes that a snapshot begins with, and the length of its first block.
const LAYOUT_OF_BACKUP: usize = 12;
/// Behind the length of the note.
const LAYOUT_OF_LOG: usize = 1;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_another_version_has_written_is_not_called_damaged() {
    let (mut cluster, directory, file) = backed_up().await;
    let options = cluster.nodes[0].options();
    cluster.nodes[0].stop().await;
    let of_another_layout = |path: &Path, at: usize| {
        let mut bytes = std::fs::read(path).unwrap();
        let length = match at {
            LAYOUT_OF_LOG => usize::from(bytes[0]),
            _ => u32::from_le_bytes(bytes[8..12].try_into().unwrap()).try_into().unwrap(),
        };
        // As that version has sealed it.
        let checksum = crc32c::crc32c(&bytes[at + 5..at + length]);
        bytes[at] = 2;
        bytes[at + 1..at + 5].copy_from_slice(&checksum.to_le_bytes());
        std::fs::write(path, bytes).unwrap();
    };
    of_another_layout(&file, LAYOUT_OF_BACKUP);
    let refused = verify_backup(&file).expect_err("another layout");
    assert_eq!(refused.code(), "BACKUP_FORMAT", "{refused}");
    assert!(refused.hint().contains("the version of the program that wrote it"), "{}", refused.hint());
    let restored = restore(&file, &directory.path().join("restored"), "127.0.0.1:1", None).await;
    assert_eq!(restored.expect_err("another layout").code(), "BACKUP_FORMAT");

    of_another_layout(&options.data_dir.join("segments/synced"), LAYOUT_OF_LOG);
    for log in [LogKind::Segments, LogKind::Sled] {
        let refused = Store::open(StoreOptions { log, ..options.clone() }).await.expect_err("another layout");
        assert_eq!(refused.code(), "DATA_DIRECTORY_FORMAT", "{refused:?}");
        assert!(refused.hint().starts_with("start the version of the program that wrote it"), "{}", refused.hint());
    }
    let refused = verify_directory(&options.data_dir).await.expect_err("another layout");
    assert_eq!(refused.code(), "DATA_DIRECTORY_FORMAT", "{refused:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_snapshot_that_is_asked_for_while_another_is_written_covers_what_was_applied_by_then() {
    let (cluster, _directory, _file) = backed_up().await;
    let store = cluster.nodes[0].store();
    for number in 0..20 {
        let first = tokio::spawn({
            let store = store.clone();
            async move { store.snapshot().await }
        });
        assert!(store.submit(envelope(create_tenant(1_000 + number))).await.unwrap().result.is_ok());
        let applied = store.status().applied_index;
        let second = tokio::time::timeout(Duration::from_secs(20), store.snapshot()).await;
        assert!(second.expect("it is not forgotten").unwrap() >= applied);
        first.await.unwrap().unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_compacted_log_is_short_and_the_directory_verifies() {
    let mut cluster = Cluster::start(1, Bounds::default()).await;
    for number in 1..=50 {
        cluster.submit(number, create_cell(number)).await;
    }
    let store = cluster.nodes[0].store();
    let covered = store.snapshot().await.unwrap();
    let gone = store.compact().await.unwrap();
    let status = store.status();
    assert!(gone >= covered && status.purged_index == gone && status.snapshot_index >= gone, "{status:?}");
    cluster.submit(51, create_cell(51)).await;
    let data_dir = cluster.nodes[0].options().data_dir;
    assert_eq!(verify_directory(&data_dir).await.expect_err("it is open").code(), "DATA_DIRECTORY_LOCKED");
    cluster.nodes[0].stop().await;
    let summary = eventually("nobody has it open", async || verify_directory(&data_dir).await.ok()).await;
    assert_eq!((summary.cluster, summary.revision, summary.records), (CLUSTER, Revision(51), 51));
    assert!(summary.log_entries < 10, "{summary:?}");
    assert_eq!(verify_directory(data_dir.parent().unwrap()).await.unwrap_err().code(), "DATA_DIRECTORY_UNUSABLE");
}

/// A file system in memory of its own. None where this process may not mount.
struct Tmpfs(PathBuf);

impl Tmpfs {
    fn mount(at: PathBuf, mebibytes: u32) -> Option<Self> {
        std::fs::create_dir_all(&at).unwrap();
        let mut command = Process::new("mount");
        command.args(["-t", "tmpfs", "-o", &format!("size={mebibytes}m"), "tmpfs"]).arg(&at);
        command.output().is_ok_and(|output| output.status.success()).then(|| Self(at))
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        let unmounted = Process::new("umount").arg("-l").arg(&self.0).status();
        assert!(unmounted.is_ok_and(|status| status.success()));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[expect(clippy::print_stderr, reason = "whoever reads the results must see that this one was not run")]
async fn a_full_disk_refuses_with_a_code_and_recovers_when_there_is_room() {
    let directory = tempfile::tempdir().unwrap();
    let Some(mounted) = Tmpfs::mount(directory.path().join("disk"), 64) else {
        eprintln!("skipped: a small file system can be mounted by root only");
        return;
    };
    let mut options = StoreOptions::new(mounted.0.join("data"), "127.0.0.1:1");
    options.bounds.disk_reserve_bytes = 16 * 1024 * 1024;
    let store = Store::open(options.clone()).await.unwrap();
    let node_id = store.claim(CLUSTER).await.unwrap();
    let member = Member { node_id, address: "127.0.0.1:1".into(), voter: true };
    store.initialize(CLUSTER, vec![member]).await.unwrap();
    // Reads are answered a moment before it takes commands.
    let leads = async || store.read_index().await.is_ok() && store.leadership().borrow().is_leader;
    eventually("it leads", async || leads().await.then_some(())).await;
    assert_eq!(store.status().sync_path.unwrap().honesty, Honesty::Volatile, "it says what it stands on");
    assert!(store.submit(envelope(create_cell(1))).await.unwrap().result.is_ok());

    let ballast = mounted.0.join("ballast");
    let free = store.status().disk_available.unwrap();
    let size = usize::try_from(free).unwrap() - 15 * 1024 * 1024;
    std::fs::write(&ballast, vec![1; size]).unwrap();
    let refused = eventually("it refuses", async || store.submit(envelope(create_cell(2))).await.err()).await;
    let SubmitError::DiskFull { reason } = &refused else { panic!("{refused:?}") };
    assert!(reason.contains("16 MiB are kept in reserve"), "{reason}");
    assert!(store.status().disk_full && store.backup().await.is_err() && store.snapshot().await.is_err());
    let leads = store.read_index().await.expect("it goes on reading and leading");

    std::fs::remove_file(&ballast).unwrap();
    eventually("it accepts again", async || store.submit(envelope(create_cell(3))).await.ok()).await;
    let revision = store.view(|fleet| fleet.head().revision);
    assert!(revision > leads);
    store.stop().await;
    drop(store);
    let store = eventually("it opens", async || Store::open(options.clone()).await.ok()).await;
    eventually("nothing is lost", async || (store.view(|fleet| fleet.head().revision) == revision).then_some(()))
        .await;
    store.stop().await;
    drop(store);
}
