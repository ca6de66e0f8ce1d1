//! What clients did and were told, and what watchers were sent. The oracle judges nothing else.

use std::time::Duration;

use cell_model::{Change, Envelope, Lineage, Reply, Revision};

/// How an operation ended, as its client knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Ending {
    /// It was answered, then.
    Answered(Reply, Duration),
    /// A read was answered, then.
    Read(Revision, Duration),
    /// It may or may not have run, and may yet run.
    Unknown,
    /// Every attempt was told that it surely did not run.
    NotRun,
}

/// One operation of one client.
#[derive(Debug, Clone)]
pub(crate) struct Operation {
    pub(crate) client: usize,
    /// The command; none for a read.
    pub(crate) envelope: Option<Envelope>,
    pub(crate) begun: Duration,
    pub(crate) ending: Ending,
}

/// What one watcher was sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Sighting {
    /// To forget everything.
    Reset(Lineage),
    /// A whole snapshot.
    Snapshot(Revision, Vec<Change>),
    /// One revision.
    Revision(Revision, Vec<Change>),
}

/// The whole record of a run.
#[derive(Debug, Default)]
pub(crate) struct History {
    pub(crate) operations: Vec<Operation>,
    /// For each watcher.
    pub(crate) sightings: Vec<Vec<Sighting>>,
}

impl History {
    /// Snapshots that watchers got.
    pub(crate) fn snapshots(&self) -> usize {
        let all = self.sightings.iter().flatten();
        all.filter(|sighting| matches!(sighting, Sighting::Snapshot(..))).count()
    }
}
