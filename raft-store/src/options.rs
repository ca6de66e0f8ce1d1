//! What a store is told when it is opened. Every number has a default that suits a local network.

use std::path::PathBuf;
use std::time::Duration;

use crate::engine::LogKind;

/// How many threads a process that is one node should run its tasks on: one for each two cores, at least two, four at the
/// most.
///
/// A write is a line of tasks that hand it on to each other, and with more threads than work each hand-over wakes one that
/// sleeps. With a single thread a put by one client is 1.4 times as fast; but then 200 watchers of 2,000 changes a second
/// keep Raft from its heartbeats.
#[must_use]
pub fn worker_threads() -> usize {
    std::thread::available_parallelism().map_or(2, |cores| (cores.get() / 2).clamp(2, 4))
}

/// How one node of the store is set up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoreOptions {
    /// Where log, state and snapshot are kept. Made where it does not exist.
    pub data_dir: PathBuf,
    /// `host:port` under which this node's gRPC server is reached by its peers and named to clients as the leader.
    pub advertise: String,
    /// What keeps the log. A directory whose log is kept otherwise goes over to it when it is opened.
    pub log: LogKind,
    /// Raft's timers.
    pub timers: Timers,
    /// What bounds the growth of queues, log and watch history.
    pub bounds: Bounds,
    /// What this node's random choices follow: its node id, if it has none yet, and Raft's time-outs. Only for a
    /// simulation, and then another one for each node and each start; none asks the operating system.
    pub seed: Option<u64>,
}

impl StoreOptions {
    /// A node in `data_dir` that is reached at `advertise`, with defaults for all else.
    #[must_use]
    pub fn new(data_dir: impl Into<PathBuf>, advertise: impl Into<String>) -> Self {
        Self {
            data_dir: data_dir.into(),
            advertise: advertise.into(),
            log: LogKind::default(),
            timers: Timers::default(),
            bounds: Bounds::default(),
            seed: None,
        }
    }
}

/// Raft's timers and the store's own deadlines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timers {
    /// How often a leader shows that it lives.
    pub heartbeat: Duration,
    /// The shortest time without a leader after which a node stands for election.
    pub election_min: Duration,
    /// The longest, and at the same time the leader's lease.
    pub election_max: Duration,
    /// For how long after a majority has confirmed its leader that answers linearizable reads by itself, because none of
    /// them elects another one for [`Self::election_max`]. What lies between covers clocks that run at different rates. 0:
    /// every read asks a majority.
    pub read_lease: Duration,
    /// How long a submitted command may take before its outcome is given up as unknown.
    pub submit: Duration,
    /// How long a linearizable read may take.
    pub read: Duration,
    /// How long a snapshot may take to reach another node and be installed there.
    pub install_snapshot: Duration,
}

impl Default for Timers {
    fn default() -> Self {
        Self {
            heartbeat: Duration::from_millis(50),
            election_min: Duration::from_millis(200),
            election_max: Duration::from_millis(400),
            read_lease: Duration::from_millis(300),
            submit: Duration::from_secs(5),
            read: Duration::from_secs(2),
            install_snapshot: Duration::from_secs(60),
        }
    }
}

/// What bounds the growth of everything that grows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// Commands that wait to be proposed; beyond it a submit is refused as busy.
    pub submit_queue: usize,
    /// Commands in one Raft entry.
    pub entry_commands: usize,
    /// Bytes of commands in one Raft entry.
    pub entry_bytes: usize,
    /// Raft entries on their way at once. An entry costs a node several times what a command in it does, so one that takes all that has
    /// come meanwhile is worth more than two that go at once with half of it each.
    pub entries_in_flight: usize,
    /// A snapshot is made after this many Raft entries, or up to a quarter earlier: each node has its own distance.
    pub snapshot_after: u64,
    /// Raft entries that are kept behind a snapshot for followers that lag.
    pub log_kept: u64,
    /// Revisions that the watch remembers.
    pub history_revisions: usize,
    /// Bytes of changes that the watch remembers.
    pub history_bytes: usize,
    /// Bytes that are kept free on the disk, besides room for a snapshot: with less nothing is accepted. 0: not kept.
    pub disk_reserve_bytes: u64,
}

impl Bounds {
    /// The largest command, encoded. A larger one is refused.
    pub const COMMAND_BYTES_MAX: usize = 64 * 1024;
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            submit_queue: 4_096,
            entry_commands: 256,
            entry_bytes: 256 * 1024,
            entries_in_flight: 1,
            snapshot_after: 5_000,
            log_kept: 5_000,
            history_revisions: 100_000,
            history_bytes: 64 * 1024 * 1024,
            disk_reserve_bytes: 128 * 1024 * 1024,
        }
    }
}
