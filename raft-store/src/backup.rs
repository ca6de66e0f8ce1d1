//! Backup, restore, and the check of a backup.
//!
//! A backup is a snapshot at one revision, in the format in which nodes send each other theirs: every block has a
//! checksum, the whole has a digest. It is made while the store runs, and verified without it.
//!
//! Restoring makes a *new* cluster of one node: another cluster id, a fresh node id, and a higher lineage, so that
//! nobody takes the one history for the other; the revision jumps ahead by [`REVISIONS_SKIPPED`], past whatever the old
//! cluster may have handed out after the backup. Other nodes join it as they join any cluster. Records keep the lineage
//! and epoch under which cells have granted them: a cell that has seen a newer epoch refuses what is older.

use std::fs::{self, File};
use std::io::{self, BufReader, Read};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use cell_model::{
    AuditEntry, BrokenChain, Change, ClusterId, Command, Envelope, Fleet, FleetHead, Lineage, Revision,
    StoreAction, StoreNote, UnixMillis,
};
use openraft::async_runtime::WatchReceiver;

use crate::codec;
use crate::disk::Disk;
use crate::engine::LogKind;
use crate::entropy;
use crate::error::{BackupError, CompactError, EngineError};
use crate::identity::Identity;
use crate::log::META_HARD_STATE;
use crate::mirror::head_of;
use crate::offload::{offload, sync_log};
use crate::snapshot::{self, Contents, SnapshotData};
use crate::store::Store;
use crate::wire::{WireHardState, WireHead, WireLogId, WireMembership, WireStored, WireVote};

/// How far a restore moves the revision ahead, for each lineage that it is higher.
pub const REVISIONS_SKIPPED: u64 = 1 << 32;
const CHUNK_BYTES: u64 = 1024 * 1024;
/// A snapshot that is not there by then is asked for again.
const ASKED_AGAIN: Duration = Duration::from_millis(250);

/// What a backup or a data directory holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Summary {
    /// Of which cluster.
    pub cluster: ClusterId,
    /// Of which history.
    pub lineage: Lineage,
    /// As of which revision.
    pub revision: Revision,
    /// Tenants, tombstones included.
    pub tenants: usize,
    /// All records.
    pub records: usize,
    /// Remembered answers.
    pub answers: usize,
    /// Length of the backup; 0 of a directory.
    pub bytes: u64,
    /// Entries of the log; 0 of a backup.
    pub log_entries: u64,
    /// Those of them behind the state that all of the above is of: the next start applies what of them is committed.
    pub log_ahead: u64,
}

impl Summary {
    pub(crate) fn of(fleet: &Fleet, bytes: u64, log_entries: u64) -> Self {
        let head = fleet.head();
        Self {
            cluster: head.cluster,
            lineage: head.lineage,
            revision: head.revision,
            tenants: fleet.tenant_count(),
            records: fleet.records().count(),
            answers: head.answered.len(),
            bytes,
            log_entries,
            log_ahead: 0,
        }
    }
}

/// A backup that was made and waits to be read. Dropping it removes it from the node's disk.
#[derive(Debug)]
pub struct Backup {
    data: SnapshotData,
    /// As of which revision.
    pub revision: Revision,
    /// Its length.
    pub bytes: u64,
    read: u64,
}

impl Backup {
    /// The next piece; none at the end.
    ///
    /// # Errors
    /// [`BackupError::Engine`] where the disk refuses.
    pub async fn chunk(&mut self) -> Result<Option<Vec<u8>>, BackupError> {
        let (data, from) = (self.data.clone(), self.read);
        let chunk = offload(self.data.blocks(), "reading a backup", move || {
            let mut chunk = Vec::new();
            let read = data.reader_from(from).take(CHUNK_BYTES).read_to_end(&mut chunk);
            read.map_err(|error| EngineError::Io { operation: "reading a backup", reason: error.to_string() })?;
            Ok(chunk)
        })
        .await
        .map_err(BackupError::Engine)?;
        self.read += chunk.len() as u64;
        Ok(Some(chunk).filter(|chunk| !chunk.is_empty()))
    }
}

impl Store {
    /// Makes a backup of what this node has applied: call [`Store::read_index`] first to have everything that was
    /// acknowledged before. Nothing waits for it.
    ///
    /// # Errors
    /// [`BackupError`] where the disk has no room or refuses.
    pub async fn backup(&self) -> Result<Backup, BackupError> {
        let node = &self.inner.node;
        node.space.check().map_err(|full| BackupError::Full { reason: full.to_string() })?;
        let machine = Arc::clone(&node.machine);
        let (head, fleet) = machine.image();
        let revision = head.revision;
        let blocks = machine.depot().blocks();
        let written = offload(blocks, "writing a backup", move || machine.depot().write(&head, &fleet));
        let data = written.await.map_err(BackupError::Engine)?;
        let bytes = data.length().map_err(BackupError::Read)?;
        Ok(Backup { data, revision, bytes, read: 0 })
    }

    /// Writes a snapshot of what is applied, so that the log before it can go. Answers the entry that it covers.
    ///
    /// # Errors
    /// [`CompactError`]
    pub async fn snapshot(&self) -> Result<u64, CompactError> {
        self.inner.node.space.check().map_err(|full| CompactError::Full { reason: full.to_string() })?;
        let mut metrics = self.raft().metrics();
        let applied = metrics.borrow_watched().last_applied.map_or(0, |applied| applied.index);
        let covered = async {
            loop {
                self.raft().trigger().snapshot().await.map_err(|_| CompactError::Stopped)?;
                let covers = async {
                    loop {
                        let covers = metrics.borrow_watched().snapshot.map_or(0, |covered| covered.index);
                        if covers >= applied {
                            return Ok(covers);
                        }
                        metrics.changed().await.map_err(|_| CompactError::Stopped)?;
                    }
                };
                // Raft forgets what it is asked for while it writes one that was begun earlier, and may cover less.
                if let Ok(covers) = tokio::time::timeout(ASKED_AGAIN, covers).await {
                    return covers;
                }
            }
        };
        let patience = self.inner.options.timers.install_snapshot;
        tokio::time::timeout(patience, covered).await.map_err(|_| CompactError::TimedOut)?
    }

    /// Writes a snapshot and drops the log that it covers. A follower that lags then needs a snapshot. Answers the
    /// newest entry that is gone.
    ///
    /// # Errors
    /// [`CompactError`]
    pub async fn compact(&self) -> Result<u64, CompactError> {
        let covered = self.snapshot().await?;
        let mut metrics = self.raft().metrics();
        self.raft().trigger().purge_log(covered).await.map_err(|_| CompactError::Stopped)?;
        let purged = async {
            loop {
                let purged = metrics.borrow_watched().purged.map_or(0, |purged| purged.index);
                if purged >= covered {
                    return Ok(purged);
                }
                metrics.changed().await.map_err(|_| CompactError::Stopped)?;
            }
        };
        let patience = self.inner.options.timers.install_snapshot;
        tokio::time::timeout(patience, purged).await.map_err(|_| CompactError::TimedOut)?
    }
}

fn read_backup(path: &Path) -> Result<(Contents, u64), BackupError> {
    let file = File::open(path).map_err(BackupError::Read)?;
    let bytes = file.metadata().map_err(BackupError::Read)?.len();
    let contents = snapshot::read(&mut BufReader::with_capacity(1 << 17, file)).map_err(BackupError::Engine)?;
    Ok((contents, bytes))
}

/// Reads a whole backup and checks every part of it. Blocks.
///
/// # Errors
/// [`BackupError`] names what is wrong.
pub fn verify_backup(path: &Path) -> Result<Summary, BackupError> {
    let (contents, bytes) = read_backup(path)?;
    Ok(Summary::of(&contents.fleet, bytes, 0))
}

/// What a restore has made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Restored {
    /// The new cluster.
    pub cluster: ClusterId,
    /// Its history.
    pub lineage: Lineage,
    /// The revision that it goes on from.
    pub revision: Revision,
    /// The node of the new directory.
    pub node_id: u64,
}

/// Where a restored history goes on. Ids are revisions: those of a second restore of the same backup lie above whatever the
/// first, of a lower lineage, has given out.
fn revision_of(lineage: Lineage, old: &FleetHead) -> Result<Revision, BackupError> {
    /// So that a revision stays far from what other programs take for a number (2⁵³), whatever is restored.
    const LINEAGES_MAX: u64 = 1 << 15;
    let higher = lineage.get() - old.lineage.get();
    if higher > LINEAGES_MAX {
        return Err(BackupError::LineageTooHigh {
            wanted: lineage,
            most: Lineage(old.lineage.get() + LINEAGES_MAX),
        });
    }
    Ok(Revision(old.revision.get().saturating_add(REVISIONS_SKIPPED * higher)))
}

/// The restore itself, for the audit trail of what it makes.
fn told(old: &FleetHead, lineage: Lineage, advertise: &str) -> Envelope {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let at = UnixMillis(u64::try_from(now.as_millis()).unwrap_or(u64::MAX));
    let detail = format!(
        "from-cluster={} from-lineage={} from-revision={} lineage={lineage}",
        old.cluster, old.lineage, old.revision
    );
    let note = StoreNote {
        action: StoreAction::Restore,
        subject: format!("node/{advertise}"),
        detail,
        outcome: StoreNote::DONE.into(),
    };
    // Nobody has to say who he is where he has the files.
    Envelope { actor: "local".into(), ..Envelope::new(at, Command::Noted(note)) }
}

/// Makes a data directory out of a backup: the one voter of a new cluster, reached at `advertise`. Its lineage is one
/// more than the backup's, or the one that is given: cells follow no lower one than they have.
///
/// # Errors
/// [`BackupError`]; the directory must not exist or be empty.
pub async fn restore(
    backup: &Path,
    data_dir: &Path,
    advertise: &str,
    lineage: Option<Lineage>,
) -> Result<Restored, BackupError> {
    let (contents, _) = read_backup(backup)?;
    let old = contents.fleet.head();
    let lineage = lineage.unwrap_or(Lineage(old.lineage.get().saturating_add(1)));
    if lineage <= old.lineage {
        return Err(BackupError::Lineage { wanted: lineage, backup: old.lineage });
    }
    let revision = revision_of(lineage, old)?;
    let empty = |mut entries: fs::ReadDir| entries.next().is_none();
    if !fs::read_dir(data_dir).map_or(true, empty) {
        return Err(BackupError::NotEmpty { path: data_dir.to_owned() });
    }
    let disk = Disk::directory(data_dir, LogKind::default()).map_err(BackupError::Open)?;
    let identity = Identity::open(Arc::clone(&disk.log), data_dir, None).await.map_err(BackupError::Open)?;
    let node_id = identity.node_id();
    let cluster = ClusterId(entropy::seed(None, "choosing a cluster id").map_err(BackupError::Engine)?.max(1));
    let mut fleet = Fleet::from_head(FleetHead { cluster, lineage, revision, ..old.clone() });
    contents.fleet.records().for_each(|record| fleet.install(record));
    // Cells have gone on since the backup: nothing is moved before they have said what they hold.
    fleet.install(Change::Reconciled(false));
    // Who asked for what before goes along: the chain is checked once more on its way.
    let mut trail = contents.fleet.audit().after(0).map(|entry| AuditEntry::clone(entry));
    let broken = |broken: BrokenChain| BackupError::Read(io::Error::other(broken));
    trail.try_for_each(|entry| fleet.restore_audit(entry)).map_err(broken)?;
    fleet.apply(&told(old, lineage, advertise));
    let first = WireLogId { term: 1, node: node_id, index: 1 };
    let membership =
        WireMembership { configs: vec![[node_id].into()], nodes: [(node_id, advertise.to_owned())].into() };
    let membership = WireStored { at: Some(first), membership };
    let head = head_of(&fleet, &WireHead { applied: Some(first), membership, ..WireHead::default() });
    let written = disk.depot.write(&head, &fleet.image()).and_then(|data| disk.depot.adopt(&data));
    written.map_err(BackupError::Engine)?;
    let vote = WireVote { term: first.term, node: node_id, committed: false };
    let hard_state = WireHardState { vote: Some(vote), committed: None };
    disk.log.put_meta(META_HARD_STATE, &codec::seal(&hard_state)).map_err(BackupError::Engine)?;
    sync_log(&disk.log).await.map_err(BackupError::Engine)?;
    // Last: without it the directory is that of a node which waits to be claimed.
    identity.claim(cluster).await.map_err(BackupError::Claim)?;
    Ok(Restored { cluster, lineage, revision, node_id })
}
