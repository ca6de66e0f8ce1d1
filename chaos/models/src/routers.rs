//! Routers of tenants whose cells have no gate, and what the leader knows of them.
//!
//! ```text
//! watch     ─► table: which change of the mapping it is at
//! Ping ─────── what the table holds, whether a write is on its way ──► Hear: known, and counted as holding a lease
//! Confirm ◄─── the newest change that was committed then ───────────── lease, once the table is as far as that
//! ```
//! A table is a number: that of a change in [`crate::Ledger::shown`]. There is no clock. What a lease promises is kept by what may happen when: the
//! leader's end of it ([`Turn::Expire`], and for leases of the leader before [`Turn::WaitOut`]) comes only when the router's own is over, and no answer is
//! taken any more that it stood on. How routers stand to a hold, and what one does by its table, is said by the production functions
//! ([`RouterSight`], [`cell_model::Mapping::verdict`]).
//!
//! Left out, because it only makes a hold wait for longer: what an incarnation of a router has told that is gone. Its writes that are still on
//! their way are among those that come past the routers.

use cell_model::{HoldSight, Holds, Lineage, Revision, RouterSight, TenantId};

use crate::{Mutant, Place};

/// One thing that happens to a router, or between it and the leader. Routers are alike, and named by their places.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    /// Its watch brings the next change.
    Watch(usize),
    /// It tells how far it is.
    Ping(usize),
    /// The leader hears what it told last, and answers.
    Hear {
        /// Whose.
        router: usize,
        /// It will come a second time.
        again: bool,
        /// The answer is lost.
        lost: bool,
    },
    /// A deposed leader does: only where that guard is missing.
    HearDeposed(usize),
    /// The answer comes, and the table is as far: it holds a lease.
    Confirm(usize),
    /// It sends a write to a cell without a gate.
    Send(usize),
    /// That comes to the cell's database.
    Land(usize),
    /// It is cut off, or stands still, until its lease has run out.
    Silence(usize),
    /// It is killed and starts again, with the oldest table that it may have kept.
    Restart(usize),
    /// Its lease has run out by the leader's clock, too.
    Expire(usize),
    /// The leader has led for longer than any lease of the one before.
    WaitOut,
    /// The leader finds that no router sends writes of the tenant.
    Stand,
}

/// A write on its way to a cell without a gate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Sending {
    /// The cell.
    pub to: Place,
    /// Its router has lost its lease meanwhile.
    pub cut: bool,
}

/// What a router tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Told {
    /// The change that its table is at.
    pub table: u8,
    /// It has a write on its way.
    pub sending: bool,
}

/// What it is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Answer {
    /// By the leader of this term.
    pub term: u8,
    /// The table is fresh once it has this change.
    pub upto: u8,
}

/// What the leader knows of a router.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Heard {
    /// What it told last.
    pub told: Told,
    /// Its lease may run.
    pub leased: bool,
}

impl Heard {
    /// How it stands to the tenant that is held since this change.
    #[must_use]
    pub fn stands(&self, tenant: &TenantId, since: u8, mutant: Option<Mutant>) -> HoldSight {
        let sending = self.told.sending && mutant != Some(Mutant::SendingUntold);
        let holds = Holds::AllBut(if sending { vec![tenant.clone()] } else { Vec::new() });
        let at = |change: u8| (Lineage(1), Revision(u64::from(change) + 1));
        let leased = self.leased && mutant != Some(Mutant::LeaseNotAwaited);
        RouterSight { table: at(self.told.table), leased, holds: &holds }.holds_back(tenant, at(since))
    }
}

/// One router.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Router {
    /// The change that its table is at.
    pub table: u8,
    /// It holds a lease of the leader of this term.
    pub lease: Option<u8>,
    /// Its write that is on its way.
    pub sending: Option<Sending>,
    /// What it has told, on its way.
    pub ping: Option<Told>,
    /// What it is answered, on its way.
    pub answer: Option<Answer>,
    /// What the leader knows of it.
    pub heard: Option<Heard>,
}

impl Router {
    /// What it would tell now.
    #[must_use]
    pub const fn told(&self) -> Told {
        Told { table: self.table, sending: self.sending.is_some() }
    }

    /// Whether it takes its table for one by which it may send writes.
    #[must_use]
    pub fn is_fresh(&self, mutant: Option<Mutant>) -> bool {
        self.lease.is_some() || mutant == Some(Mutant::LeaseIgnored)
    }
}

/// How the leader has found routers to stand to a hold: none sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Stood {
    /// The move and its attempt.
    pub held: (u8, u8),
    /// Routers that have seen the hold, and have nothing on its way.
    pub seen: u8,
    /// Routers without a lease.
    pub fenced: u8,
}

/// All of them.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Routers {
    /// In order: it does not matter which is which.
    pub each: Vec<Router>,
    /// The leader has led for longer than any lease of the one before.
    pub waited_out: bool,
    /// What the leader has found, and remembers until it leads no more.
    pub stood: Option<Stood>,
}

impl Routers {
    /// So many, each with a lease of the first leader.
    #[must_use]
    pub fn first(count: usize) -> Self {
        let router = Router { lease: Some(1), ..Router::default() };
        let heard = Some(Heard { told: router.told(), leased: true });
        Self { each: vec![Router { heard, ..router }; count], waited_out: true, stood: None }
    }

    /// Writes on their way.
    #[must_use]
    pub fn on_their_way(&self) -> usize {
        self.each.iter().filter(|router| router.sending.is_some()).count()
    }

    /// How routers stand to the tenant that is held since this change; none while a router may hold a lease that the leader does not
    /// know of, and while one may send.
    #[must_use]
    pub fn stand(&self, tenant: &TenantId, since: u8, held: (u8, u8), mutant: Option<Mutant>) -> Option<Stood> {
        let waited_out = self.waited_out || mutant == Some(Mutant::FormerLeasesForgotten);
        let known = self.each.iter().filter_map(|router| router.heard);
        let sights: Vec<HoldSight> = known.map(|heard| heard.stands(tenant, since, mutant)).collect();
        let count =
            |wanted| u8::try_from(sights.iter().filter(|sight| **sight == wanted).count()).unwrap_or(u8::MAX);
        let all = waited_out && sights.iter().all(|sight| sight.is_done());
        all.then(|| Stood { held, seen: count(HoldSight::Back), fenced: count(HoldSight::Fenced) })
    }

    /// Another leads, who has heard of nobody.
    pub fn elect(&mut self) {
        for router in &mut self.each {
            router.heard = None;
        }
        self.waited_out = false;
        self.stood = None;
        self.each.sort_unstable();
    }
}
