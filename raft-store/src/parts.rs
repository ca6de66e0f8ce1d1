//! Single parts of the store: for benchmarks that measure one at a time (`make bench-parts`), and for engines of others that have to
//! pass the tests of ours. Nobody else has any use for them.

use std::sync::Arc;

use cell_model::Envelope;
use openraft::StorageError;
use openraft::testing::log::{StoreBuilder, Suite};

use crate::codec;
use crate::consensus::{Batch, TypeConfig};
use crate::disk::Disk;
use crate::entropy;
use crate::error::EngineError;
use crate::fault::Fault;
use crate::hub::{Hub, SharedFleet};
use crate::log::Log;
use crate::machine::{Machine, MachineShared};
use crate::mirror::Mirror;
use crate::options::Bounds;
use crate::wire::{WireEntry, WireLogId, WirePayload};

/// An entry of these commands, as it is written to the log and sent to followers.
#[must_use]
pub fn written(index: u64, commands: Vec<Envelope>) -> Vec<u8> {
    let payload = WirePayload::Commands(Batch(Arc::new(commands)));
    codec::seal(&WireEntry { id: WireLogId { term: 1, node: 1, index }, payload })
}

/// The commands of an entry that was written.
///
/// # Errors
/// [`EngineError::Corrupt`] where it is none.
pub fn read(entry: &[u8]) -> Result<Arc<Vec<Envelope>>, EngineError> {
    match codec::open::<WireEntry>(entry, || "an entry".into())?.payload {
        WirePayload::Commands(commands) => Ok(commands.0),
        WirePayload::Blank | WirePayload::Membership(_) => Ok(Arc::default()),
    }
}

/// Log and state machine on a disk, without a node around them.
pub(crate) fn assemble(disk: &Disk) -> Result<(Log, Machine), EngineError> {
    let fault = Fault::new();
    let log = Log::open(Arc::clone(&disk.log), fault.clone())?;
    let (mirror, loaded) = Mirror::open(Arc::clone(&disk.state), &disk.depot)?;
    let hub = Arc::new(Hub::new(&loaded.fleet, &Bounds::default()));
    let fleet = Arc::new(SharedFleet::new(loaded.fleet));
    let shared = MachineShared::new(mirror, loaded.head, fleet, hub, disk.depot.clone(), &log, fault);
    Ok((log, Machine::new(Arc::new(shared))))
}

struct Disks<F>(F);

impl<F, K> StoreBuilder<TypeConfig, Log, Machine, (K, Disk)> for Disks<F>
where
    F: Fn() -> (K, Disk) + Send + Sync,
    K: Send + Sync,
{
    async fn build(&self) -> Result<((K, Disk), Log, Machine), StorageError<TypeConfig>> {
        let (kept, disk) = self.0();
        let (log, machine) = assemble(&disk).expect("nothing is wrong with a new disk");
        Ok(((kept, disk), log, machine))
    }
}

/// openraft's own tests of log and state machine, each on a new disk; what `disk` makes beside it is kept as long.
///
/// # Errors
/// What has failed.
///
/// # Panics
/// Where a new disk cannot be opened, or a test of openraft fails by itself.
pub async fn pass_openrafts_suite<K: Send + Sync>(
    disk: impl Fn() -> (K, Disk) + Send + Sync,
) -> Result<(), String> {
    entropy::scope(1, Suite::test_all(Disks(disk))).await.map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use cell_model::{Command, Limits, UnixMillis};

    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let commands = vec![Envelope::new(UnixMillis(7), Command::SetLimits(Limits::default())); 3];
        assert_eq!(*read(&written(9, commands.clone())).unwrap(), commands);
    }
}
