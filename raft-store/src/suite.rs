//! openraft's own tests of log and state machine, on every engine. (The disk of the simulation passes them in its own crate.)

use std::ops::RangeInclusive;
use std::sync::Arc;

use cell_model::{Command, Envelope, Limits, Revision, UnixMillis};
use openraft::EntryPayload;
use openraft::storage::{RaftSnapshotBuilder, RaftStateMachine};

use crate::consensus::{Batch, Entry};
use crate::disk::Disk;
use crate::engine::LogKind;
use crate::machine::Machine;
use crate::mirror::Mirror;
use crate::parts::{assemble, pass_openrafts_suite};
use crate::wire::WireLogId;

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
    let ((_, mut machine), (_, mut leader)) = (assemble(&disk).unwrap(), assemble(&Disk::memory()).unwrap());
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

#[tokio::test]
async fn the_memory_engine_passes_openrafts_suite() {
    pass_openrafts_suite(|| ((), Disk::memory())).await.unwrap();
}

async fn pass_on_disk(log: LogKind) {
    let on_disk = || {
        let directory = tempfile::tempdir().unwrap();
        let disk = Disk::directory(directory.path(), log).unwrap();
        (directory, disk)
    };
    pass_openrafts_suite(on_disk).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_sled_engine_passes_openrafts_suite() {
    pass_on_disk(LogKind::Sled).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_engine_of_segments_passes_openrafts_suite() {
    pass_on_disk(LogKind::Segments).await;
}
