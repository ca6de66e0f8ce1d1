//! openraft's own tests of log and state machine, on every engine; and what a damaged byte does.

use std::ops::RangeInclusive;
use std::sync::Arc;

use cell_model::{Command, Envelope, Limits, Revision, UnixMillis};
use openraft::storage::{RaftSnapshotBuilder, RaftStateMachine};
use openraft::testing::log::{StoreBuilder, Suite};
use openraft::{EntryPayload, StorageError};
use tempfile::TempDir;

use crate::consensus::{Batch, Entry, TypeConfig};
use crate::disk::Disk;
use crate::engine::LogKind;
use crate::entropy;
use crate::fault::Fault;
use crate::hub::{Hub, SharedFleet};
use crate::log::Log;
use crate::machine::{Machine, MachineShared};
use crate::mirror::Mirror;
use crate::options::Bounds;
use crate::wire::WireLogId;

fn assemble(disk: &Disk) -> (Log, Machine) {
    let fault = Fault::new();
    let log = Log::open(Arc::clone(&disk.log), fault.clone()).unwrap();
    let (mirror, loaded) = Mirror::open(Arc::clone(&disk.state), &disk.depot).unwrap();
    let hub = Arc::new(Hub::new(&loaded.fleet, &Bounds::default()));
    let fleet = Arc::new(SharedFleet::new(loaded.fleet));
    let shared = MachineShared::new(mirror, loaded.head, fleet, hub, disk.depot.clone(), &log, fault);
    (log, Machine::new(Arc::new(shared)))
}

/// An entry with one command that changes something.
fn entry(index: u64) -> Entry {
    let limits = Limits { moves_total: u32::try_from(index).unwrap(), ..Limits::default() };
    let envelope = Envelope::new(UnixMillis(index), Command::SetLimits(limits));
    let log_id = WireLogId { term: 1, node: 1, index }.into();
    Entry { log_id, payload: EntryPayload::Normal(Batch(Arc::new(vec![envelope]))) }
}

async fn apply(machine: &mut Machine, indices: RangeInclusive<u64>) {
    machine.apply(futures::stream::iter(indices.map(|index| Ok((entry(index), None))))).await.unwrap();
}

#[tokio::test]
async fn a_snapshot_that_is_overtaken_by_one_of_the_leader_while_it_is_written_does_not_take_its_place() {
    let disk = Disk::memory();
    let ((_, mut machine), (_, mut leader)) = (assemble(&disk), assemble(&Disk::memory()));
    apply(&mut machine, 1..=10).await;
    let mut ours = machine.get_snapshot_builder().await;
    apply(&mut leader, 1..=20).await;
    let theirs = leader.get_snapshot_builder().await.build_snapshot().await.unwrap();
    machine.install_snapshot(&theirs.meta, theirs.snapshot.clone()).await.unwrap();
    assert_eq!(ours.build_snapshot().await.unwrap().meta, theirs.meta);
    apply(&mut machine, 21..=21).await;
    let (_, loaded) = Mirror::open(Arc::clone(&disk.state), &disk.depot).unwrap();
    assert_eq!((loaded.head.revision, loaded.head.applied.map(|applied| applied.index)), (Revision(21), Some(21)));
}

struct InMemory;

impl StoreBuilder<TypeConfig, Log, Machine, ()> for InMemory {
    async fn build(&self) -> Result<((), Log, Machine), StorageError<TypeConfig>> {
        let (log, machine) = assemble(&Disk::memory());
        Ok(((), log, machine))
    }
}

struct OnDisk(LogKind);

impl StoreBuilder<TypeConfig, Log, Machine, (TempDir, Disk)> for OnDisk {
    async fn build(&self) -> Result<((TempDir, Disk), Log, Machine), StorageError<TypeConfig>> {
        let directory = tempfile::tempdir().unwrap();
        let disk = Disk::directory(directory.path(), self.0).unwrap();
        let (log, machine) = assemble(&disk);
        Ok(((directory, disk), log, machine))
    }
}

#[tokio::test]
async fn the_memory_engine_passes_openrafts_suite() {
    entropy::scope(1, Suite::test_all(InMemory)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_sled_engine_passes_openrafts_suite() {
    entropy::scope(1, Suite::test_all(OnDisk(LogKind::Sled))).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_engine_of_segments_passes_openrafts_suite() {
    entropy::scope(1, Suite::test_all(OnDisk(LogKind::Segments))).await.unwrap();
}
