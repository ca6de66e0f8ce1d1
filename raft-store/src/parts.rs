//! Single parts of the store, for benchmarks that measure one at a time (`make bench-parts`). Nobody else has any use for them.

use std::sync::Arc;

use cell_model::Envelope;

use crate::codec;
use crate::consensus::Batch;
use crate::error::EngineError;
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
