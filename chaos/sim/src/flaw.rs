//! Faults that are put into the harness itself, and in builds with the feature `planted` into store and cells, to prove that
//! the oracle sees them.

use std::fmt;

/// One planted fault. A run with it must fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Flaw {
    /// Disks say that they have synced, and lose it when the power of all nodes goes.
    LyingDisk,
    /// A client writes down another revision than it was told.
    MisrecordingClient,
    /// A client that does not know the outcome tries again under a new request id.
    CarelessRetry,
    /// A watcher drops a revision now and then.
    SkippingWatcher,
    /// Disks of cells say that they have written, and drop a document now and then, of the tenant that does not move.
    LosingDisk,
    /// Now and then a sync of a disk fails, and whoever asked for it is told that all is well.
    FailingDisk,
    /// A node loses its power when everything else heals, and never gets it back.
    DarkNode,
    /// A cell starts from an image of its disk that was taken before its tenant left: it owns it, and so does another one.
    ClonedCell,
    /// Clients of a fleet stop as soon as everything has healed: nobody proves that tenants are served again.
    IdleClients,
    /// Cells do steps of a leader that is gone.
    #[cfg(feature = "planted")]
    IgnoredTerm,
    /// Cells release a fence on a time-out.
    #[cfg(feature = "planted")]
    LapsingFence,
    /// A source cuts over without waiting for writes that are under way.
    #[cfg(feature = "planted")]
    UndrainedCutover,
    /// The store gives a name that is made again the uid that it had.
    #[cfg(feature = "planted")]
    ReusedUid,
}

impl Flaw {
    /// Those that there are where the store runs alone.
    pub const OF_STORE: &[Self] = &[
        Self::LyingDisk,
        Self::FailingDisk,
        Self::DarkNode,
        Self::MisrecordingClient,
        Self::CarelessRetry,
        Self::SkippingWatcher,
    ];
    /// Those that there are in a fleet.
    pub const OF_FLEET: &[Self] = &[
        Self::LyingDisk,
        Self::LosingDisk,
        Self::ClonedCell,
        Self::IdleClients,
        #[cfg(feature = "planted")]
        Self::IgnoredTerm,
        #[cfg(feature = "planted")]
        Self::LapsingFence,
        #[cfg(feature = "planted")]
        Self::UndrainedCutover,
        #[cfg(feature = "planted")]
        Self::ReusedUid,
    ];

    /// The part of it that lies in cells.
    #[cfg(feature = "planted")]
    pub(crate) const fn in_cells(self) -> Option<sample_cell::Plant> {
        match self {
            Self::IgnoredTerm => Some(sample_cell::Plant::IgnoredTerm),
            Self::LapsingFence => Some(sample_cell::Plant::LapsingFence),
            Self::UndrainedCutover => Some(sample_cell::Plant::UndrainedCutover),
            _ => None,
        }
    }
}

impl fmt::Display for Flaw {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::LyingDisk => "lying-disk",
            Self::MisrecordingClient => "misrecording-client",
            Self::CarelessRetry => "careless-retry",
            Self::SkippingWatcher => "skipping-watcher",
            Self::LosingDisk => "losing-disk",
            Self::FailingDisk => "failing-disk",
            Self::DarkNode => "dark-node",
            Self::ClonedCell => "cloned-cell",
            Self::IdleClients => "idle-clients",
            #[cfg(feature = "planted")]
            Self::IgnoredTerm => "ignored-term",
            #[cfg(feature = "planted")]
            Self::LapsingFence => "lapsing-fence",
            #[cfg(feature = "planted")]
            Self::UndrainedCutover => "undrained-cutover",
            #[cfg(feature = "planted")]
            Self::ReusedUid => "reused-uid",
        })
    }
}
