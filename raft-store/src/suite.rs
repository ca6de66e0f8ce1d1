//! openraft's own tests of log and state machine, on every engine; and what a damaged byte does.

use std::sync::Arc;

use openraft::StorageError;
use openraft::testing::log::{StoreBuilder, Suite};
use tempfile::TempDir;

use crate::consensus::TypeConfig;
use crate::disk::Disk;
use crate::engine::LogKind;
use crate::entropy;
use crate::fault::Fault;
use crate::hub::{Hub, SharedFleet};
use crate::log::Log;
use crate::machine::{Machine, MachineShared};
use crate::mirror::Mirror;
use crate::options::Bounds;

fn assemble(disk: &Disk) -> (Log, Machine) {
    let fault = Fault::new();
    let log = Log::open(Arc::clone(&disk.log), Arc::clone(&disk.state), fault.clone()).unwrap();
    let (mirror, loaded) = Mirror::open(Arc::clone(&disk.state), &disk.depot).unwrap();
    let hub = Arc::new(Hub::new(&loaded.fleet, &Bounds::default()));
    let fleet = Arc::new(SharedFleet::new(loaded.fleet));
    let shared = MachineShared::new(mirror, loaded.head, fleet, hub, disk.depot.clone(), log.synced(), fault);
    (log, Machine::new(Arc::new(shared)))
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
