//! What a router does by what its table says, and how the control plane takes it that a router holds back.
//!
//! Of an owner with a gate the cell decides, whatever a router has believed. Of one without a gate nobody decides but the router: it sends
//! writes only under a lease, believes a hold at any age, and a hold waits for what it says of itself ([`RouterSight`]).

use crate::{Hold, Lineage, Mapping, MappingState, Revision, Sight, TenantId};

/// How far a router may go by its table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TableAge {
    /// The control plane has confirmed it lately and, where the owner has no gate, has granted a lease.
    Fresh,
    /// It is not fresh, and young enough to say where to read.
    Aging,
    /// Neither, or nobody has ever confirmed it.
    Old,
}

/// What a router does with a request by its table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RouterVerdict {
    /// It goes to the owner.
    Go,
    /// It waits for the move.
    Held,
    /// It waits until the table is fresh.
    Stale,
}

impl Mapping {
    /// Whether a request has to wait for the mapping to change.
    #[must_use]
    pub fn must_wait(&self, is_write: bool) -> bool {
        let held = match self.hold {
            Hold::None => false,
            Hold::Writes => is_write,
            Hold::All => true,
        };
        held || self.state == MappingState::Provisioning
    }

    /// What a router does with a request by this mapping. `ungated`: the owner has no gate.
    #[must_use]
    pub fn verdict(&self, ungated: bool, is_write: bool, age: TableAge) -> RouterVerdict {
        match (ungated, self.must_wait(is_write), age) {
            (false, true, TableAge::Fresh) | (true, true, _) => RouterVerdict::Held,
            // The cell decides.
            (false, _, _) | (true, false, TableAge::Fresh) => RouterVerdict::Go,
            (true, false, TableAge::Aging) if !is_write => RouterVerdict::Go,
            (true, false, _) => RouterVerdict::Stale,
        }
    }
}

/// What a router says of writes of tenants that are held, in cells without a gate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Holds {
    /// It knows of no such cells.
    Nothing,
    /// It has writes on their way of these tenants and of no others.
    AllBut(Vec<TenantId>),
    /// It has writes on their way of more tenants than it can name.
    Unknown,
}

/// How a router stands to a tenant that is held, in a cell without a gate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HoldSight {
    /// It has seen the hold, and none of the tenant's writes is on its way.
    Back,
    /// Its lease has run out: it sends no writes by itself.
    Fenced,
    /// It has not said that it has seen the hold.
    Behind,
    /// It has seen the hold, and writes that it sent before are on their way.
    Sending,
    /// It knows of no such cells.
    Unable,
}

impl HoldSight {
    /// A hold need not wait for it.
    #[must_use]
    pub const fn is_done(self) -> bool {
        matches!(self, Self::Back | Self::Fenced)
    }
}

/// What the leader knows of a router.
#[derive(Debug, Clone, Copy)]
pub struct RouterSight<'a> {
    /// What it said last that its table holds.
    pub table: (Lineage, Revision),
    /// It may hold a lease.
    pub leased: bool,
    /// What it said that it holds back.
    pub holds: &'a Holds,
}

impl RouterSight<'_> {
    /// How it stands to a revision.
    #[must_use]
    pub fn sight(&self, (lineage, revision): (Lineage, Revision)) -> Sight {
        let (of, table) = self.table;
        if of == lineage && table >= revision {
            Sight::Seen
        } else if self.leased {
            Sight::Waiting
        } else {
            Sight::Fenced
        }
    }

    /// How it stands to a tenant that is held since a revision.
    #[must_use]
    pub fn holds_back(&self, tenant: &TenantId, at: (Lineage, Revision)) -> HoldSight {
        match (self.sight(at), self.holds) {
            // Of one that knows of no such cells a lease says nothing: it sends writes without one.
            (_, Holds::Nothing) => HoldSight::Unable,
            (_, _) if !self.leased => HoldSight::Fenced,
            (Sight::Seen, Holds::AllBut(sending)) if !sending.contains(tenant) => HoldSight::Back,
            (Sight::Seen, _) => HoldSight::Sending,
            (Sight::Waiting | Sight::Fenced, _) => HoldSight::Behind,
        }
    }
}
