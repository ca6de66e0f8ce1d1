//! Drills: experiments on a fleet of real processes, each with a hypothesis and a verdict.
//!
//! ```text
//! start the fleet ► steady state ► script (faults, moves, commands) ► heal ► recovery ► read everything back ► judge
//! ```
//!
//! A drill is data: what fleet, what happens when, what must hold ([`catalogue`]). One engine runs it ([`engine`], whose
//! acts are in [`script`]), one judge reads the evidence ([`verdict`]), one page tells of it ([`page`]). Clients,
//! history and checker are the demo's.
//!
//! A drill has three verdicts. *Not exercised* is the third: a cut that swallowed nothing, an outage that nobody felt,
//! proves nothing, whatever else was green.

pub mod catalogue;
mod clocks;
mod database;
mod disk;
pub mod engine;
mod evidence;
mod keys;
pub mod leftovers;
mod machine;
mod meeting;
mod notes;
pub mod page;
pub mod report;
mod script;
mod steer;
mod syscalls;
pub mod verdict;
mod whom;

use cell_model::Phase;
pub use meeting::{Blow, Way};

use crate::link::Condition;
use crate::wiring::Net;

/// One experiment.
#[derive(Debug, Clone)]
pub struct Drill {
    /// By which it is run.
    pub name: &'static str,
    /// A line for people.
    pub title: &'static str,
    /// What is believed to hold.
    pub hypothesis: &'static str,
    /// What the fleet does before anything happens.
    pub steady: &'static str,
    /// What is done to it.
    pub fault: &'static str,
    /// What it needs of the machine.
    pub needs: Needs,
    /// What fleet there is.
    pub stage: Stage,
    /// What happens, in order.
    pub script: Vec<Act>,
    /// What must hold.
    pub expects: Vec<Expect>,
}

/// What a drill needs of the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Needs {
    /// Any wiring.
    Any,
    /// Fronts in user space: the kernel here may have no delay and loss of its own.
    Proxy,
    /// Namespaces or mounts: root.
    Root,
    /// `strace`, which fails and delays calls of the kernel.
    Tracer,
    /// `libfaketime`, which sets the wall clock of a process.
    Clock,
    /// Time namespaces: root.
    TimeSpace,
    /// PostgreSQL, whose servers listen on loopback: any wiring but namespaces.
    Database,
}

impl Needs {
    /// The wiring that a drill gets where this one was asked for, or none.
    #[must_use]
    pub const fn wiring(self, asked: Net) -> Option<Net> {
        match (self, asked) {
            (Self::Any | Self::Tracer | Self::Clock | Self::TimeSpace, net) => Some(net),
            (Self::Proxy | Self::Database, _) => Some(Net::Proxy),
            (Self::Root, Net::Namespaces) => Some(Net::Namespaces),
            (Self::Root, _) => None,
        }
    }

    /// As the list prints it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Any => "any",
            Self::Proxy => "proxy",
            Self::Root | Self::TimeSpace => "root",
            Self::Tracer => "strace",
            Self::Clock => "libfaketime",
            Self::Database => "PostgreSQL",
        }
    }

    /// What of it is missing on this machine, as a sentence.
    pub async fn missing(self) -> Option<String> {
        match self {
            Self::Any | Self::Proxy | Self::Root => None,
            Self::Tracer => syscalls::missing().await,
            Self::Clock => clocks::missing(),
            Self::TimeSpace => clocks::missing_spaces().await,
            Self::Database => cell_pg_server::installed().err().map(|error| error.to_string()),
        }
    }
}

/// The fleet and the load of a drill.
#[derive(Debug, Clone)]
pub struct Stage {
    /// Cells, with region and residency.
    pub cells: Vec<(&'static str, &'static str)>,
    /// Routers.
    pub routers: usize,
    /// Tenants that begin on each cell; they get its residency.
    pub tenants_per_cell: usize,
    /// Writing clients of each tenant; each has one reading client beside them.
    pub writers: u32,
    /// Pause of a client after each answer, in milliseconds.
    pub gap_ms: u64,
    /// Documents, and bytes of each, that every tenant is filled with.
    pub filling: (u32, usize),
    /// The same for the first tenant, where it is to be larger.
    pub first_filling: Option<(u32, usize)>,
    /// Which control node or cell has a disk of its own, and of which kind.
    pub disk: Option<(Who, Disk)>,
    /// The wall clocks of its processes can be set.
    pub clocks: bool,
    /// Each tenant has a key, without which its cell serves nothing of it.
    pub keys: bool,
    /// So many cells, from the first on, keep their tenants in PostgreSQL, each on a server of its own.
    pub databases: usize,
}

impl Default for Stage {
    fn default() -> Self {
        Self {
            cells: vec![("north", ""), ("north", ""), ("south", "")],
            routers: 2,
            tenants_per_cell: 4,
            writers: 2,
            gap_ms: 90,
            filling: (10, 1_000),
            first_filling: None,
            disk: None,
            clocks: false,
            keys: false,
            databases: 0,
        }
    }
}

/// A disk of its own for one control node or cell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Disk {
    /// In memory: it can be filled.
    Memory {
        /// Its room.
        megabytes: u32,
    },
    /// A file system in a file: its power can be cut.
    Image {
        /// Its room.
        megabytes: u32,
    },
}

/// What is wrong with the syncs of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SyncFault {
    /// One of them fails, and never again: whoever tries it again is told that all is well.
    Fail {
        /// Which one of each thread.
        nth: u32,
    },
    /// Each takes so many milliseconds longer.
    Slow {
        /// How many.
        ms: u64,
    },
}

/// Some processes. Routers, cells and tenants are counted from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Who {
    /// The control node that leads at this moment.
    Leader,
    /// What [`Who::Leader`] was when it was said last.
    Victim,
    /// The control nodes but the victim.
    OtherControls,
    /// A certain control node.
    Control(usize),
    /// All control nodes.
    Controls,
    /// A certain router.
    Router(usize),
    /// All routers.
    Routers,
    /// A certain cell.
    Cell(usize),
    /// All cells but this one.
    OtherCells(usize),
    /// All cells.
    Cells,
}

/// One thing that happens.
#[derive(Debug, Clone)]
pub enum Act {
    /// Time passes: about so many milliseconds, the seed decides.
    Wait(u64),
    /// Nothing gets through between both, in either direction.
    Cut(Who, Who),
    /// Nothing that the first sends reaches the second.
    CutOneWay(Who, Who),
    /// Delay, loss and jitter between both, in either direction.
    Shape(Who, Who, Condition),
    /// What it sends passes a pipe of so many bytes per second.
    Narrow(Who, u64),
    /// Every fault of the network ends.
    Heal,
    /// SIGSTOP.
    Freeze(Who),
    /// SIGCONT.
    Thaw(Who),
    /// Frozen and thawed in turns: so many milliseconds each.
    Stutter {
        /// Who.
        who: Who,
        /// It runs.
        run_ms: u64,
        /// It stands.
        stop_ms: u64,
    },
    /// Ends that.
    Steady(Who),
    /// SIGKILL.
    Kill(Who),
    /// Starts what was killed.
    Start(Who),
    /// A router ends gracefully and starts again; clients are sent to the others meanwhile, as a balancer does it.
    Restart(Who),
    /// Its disk is filled to the last byte.
    FillDisk(Who),
    /// There is room again.
    EmptyDisk(Who),
    /// Its syncs fail or are slow, until [`Act::Mend`].
    Syncs(Who, SyncFault),
    /// Ends that.
    Mend(Who),
    /// It must end by itself.
    Fall(Who),
    /// The power goes: what was not on its disk at that moment is lost. [`Act::Start`] starts it again.
    CutPower(Who),
    /// Its wall clock is wrong by so many seconds from now on; 0 sets it right.
    Clock(Who, i64),
    /// What was killed is started with a monotonic clock that is so many seconds ahead.
    StartAhead(Who, u64),
    /// So many more clients of each of these tenants, without manners: the next request follows each answer at once.
    Crowd(Group, u32),
    /// They go.
    Disperse,
    /// The key of a tenant is disabled.
    DisableKey(usize),
    /// It is enabled again.
    EnableKey(usize),
    /// Somebody locks a row that each write of a tenant changes, in the database of the cell that it began on, and keeps it.
    LockRows(usize),
    /// Somebody takes every session that a cell's database has left.
    TakeSessions(Who),
    /// Whoever has locked rows or taken sessions lets go of them.
    LetGo,
    /// A cell's database ends as in a power cut.
    KillDatabase(Who),
    /// It is started again.
    StartDatabase(Who),
    /// A tenant begins to move to a cell.
    Move {
        /// Which tenant.
        tenant: usize,
        /// To which cell.
        to: usize,
        /// It stops after this phase until [`Act::Resume`].
        until: Option<Phase>,
    },
    /// What had stopped goes on.
    Resume,
    /// Moves of this tenant, a few at the most, until this falls into this phase of one.
    Meet {
        /// Which tenant.
        tenant: usize,
        /// Which phase.
        phase: Phase,
        /// How a move comes there.
        way: Way,
        /// What is done to it.
        blow: Blow,
    },
    /// The newest move has entered this phase, or a later one.
    Reach(Phase),
    /// Every move has ended.
    Settle,
    /// Tenants move from cell to cell, so many moves in all, some at the same time.
    Moves(usize),
    /// A client calls the cell that a tenant has left, under the epoch that it had there.
    Haunt(usize),
    /// The log knows that the newest move's target holds everything that is acknowledged.
    InSync,
    /// The newest move has come to where it was to stop, and rests.
    Rest,
    /// Make the other cell of a tenant's move the owner by force, once the owner has been silent for long enough.
    TakeOver {
        /// Which tenant, by its number.
        tenant: usize,
        /// Which cell, by its number.
        to: usize,
    },
    /// A tenant is made: the control plane takes a command.
    Command,
    /// Moving this tenant there must be refused with this code.
    Forbidden {
        /// Which tenant.
        tenant: usize,
        /// To which cell.
        to: usize,
        /// The code.
        code: &'static str,
    },
    /// A node leads that is not the victim.
    Elect,
    /// If it leads, it hands that over to another one, and does not lead from here on.
    HandOver(Who),
    /// Whoever leads becomes the victim, so that it can be met later without asking who leads.
    Aim,
}

/// Some tenants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Group {
    /// All.
    All,
    /// Who began on this cell.
    On(usize),
    /// Everybody else.
    NotOn(usize),
    /// This one.
    One(usize),
    /// All but this one.
    AllBut(usize),
    /// Who began on the same cell as this one.
    Beside(usize),
    /// Who was asked to move.
    Moving,
    /// Who was not.
    NotMoving,
}

/// A part of the run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Span {
    /// Before anything has happened.
    Steady,
    /// From the first fault to the last heal.
    Fault,
    /// From the beginning to the end.
    Whole,
}

/// What must hold.
#[derive(Debug, Clone)]
pub enum Expect {
    /// So many of a hundred requests are answered; 100 is every single one.
    Served(Group, Span, u32),
    /// 99 of 100 requests take no longer, in milliseconds, or hardly longer than before.
    Quick(Group, Span, u64),
    /// Requests of exactly these tenants failed, of nobody else.
    Radius(Group),
    /// After the last heal nobody's request fails, once so many milliseconds have passed.
    Back(u64),
    /// Every move ends so.
    Ends(&'static str),
    /// Every move ends as it was asked to: completed, or, where it was steered, cancelled or rolled back.
    EndsAsAsked,
    /// Commands are acknowledged within so many milliseconds, and are there at the end.
    Commands(u64),
    /// What was to be refused was.
    Forbidden,
    /// Every request of these tenants that came while their key was disabled was refused with this code.
    Refused(Group, &'static str),
    /// Every request of these tenants that was sent during the fault was done, or refused with a code, within so many milliseconds.
    Bounded(Group, u64),
    /// The former owner served nobody.
    NotHaunted,
    /// Routers have sent at most so many of a hundred requests again.
    RetriesBounded(u32),
    /// At the end every router is as fresh as it is without faults.
    Fresh,
    /// All control nodes have the same revision in the end.
    Agreed,
    /// The fault took place: the network has swallowed something.
    Swallowed,
    /// The fault took place: bytes have passed the lanes that were made slow.
    Slowed,
    /// The fault took place: the network has lost something.
    Lost,
    /// The fault took place: requests of these tenants failed, or waited for half a second.
    Hurt(Group),
    /// The fault took place: another node led afterwards.
    Elected,
    /// The fault took place: cells have sent routers on, at least so often.
    Redirected(u64),
    /// The fault took place: a fault began while a move was in one of these phases.
    FaultIn(Vec<Phase>),
    /// The fault took place: a fault began while a move was in this phase of its way back.
    FaultOnTheWayBack(Phase),
    /// The fault took place: these tenants have sent at least so many times as many requests as before.
    Flooded(Group, u32),
    /// The fault took place: a node without room has said so, or has ended.
    DiskFull,
    /// The fault took place: at least so many syncs have failed or waited.
    Injected(u64),
    /// Who could not keep what it was told has ended by itself, and has said why.
    Fell,
    /// The fault took place: at least so many times the power went.
    PowerCuts(usize),
    /// The fault took place: clocks of at least so many processes were wrong.
    Clocked(usize),
    /// The fault took place: so many statements of a database waited for a lock at once, and a database had no session left.
    Overloaded(u64),
    /// The load took place: writes of each of these tenants were acknowledged meanwhile.
    Busy(Group),
}

impl Expect {
    /// Whether it says that the experiment took place, and not what came of it.
    #[must_use]
    pub const fn is_exercise(&self) -> bool {
        matches!(
            self,
            Self::Swallowed
                | Self::Slowed
                | Self::Lost
                | Self::Hurt(_)
                | Self::Elected
                | Self::Redirected(_)
                | Self::FaultIn(_)
                | Self::FaultOnTheWayBack(_)
                | Self::Flooded(..)
                | Self::DiskFull
                | Self::Injected(_)
                | Self::PowerCuts(_)
                | Self::Clocked(_)
                | Self::Overloaded(_)
                | Self::Busy(_)
        )
    }
}
