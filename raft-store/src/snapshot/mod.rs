//! Snapshots: the whole state at one log entry, as a checked stream of bytes.
//!
//! * [`format`](self::format) writes and reads the stream; every block has a checksum and the end has a digest of all.
//! * [`Depot`] keeps the one current snapshot of a node: a file that is put in place by a rename after it was synced,
//!   or bytes in memory for simulation.

mod depot;
mod format;

pub(crate) use depot::{Depot, Incoming, SnapshotData};
pub(crate) use format::{Contents, read, read_meta};
