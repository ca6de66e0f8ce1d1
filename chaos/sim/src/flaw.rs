//! Faults that are put into the harness itself, to prove that the oracle sees them.

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
}

impl Flaw {
    /// All of them.
    pub const ALL: [Self; 4] =
        [Self::LyingDisk, Self::MisrecordingClient, Self::CarelessRetry, Self::SkippingWatcher];
}

impl fmt::Display for Flaw {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::LyingDisk => "lying-disk",
            Self::MisrecordingClient => "misrecording-client",
            Self::CarelessRetry => "careless-retry",
            Self::SkippingWatcher => "skipping-watcher",
        })
    }
}
