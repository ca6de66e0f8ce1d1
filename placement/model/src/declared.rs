//! What an operator has declared of a cell, so that tenants are placed by it. The control plane measures none of it.

use serde::{Deserialize, Serialize};

use crate::Tier;

/// What a cell is for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CellKind {
    /// Shared by tenants.
    #[default]
    Pooled,
    /// For one platinum tenant.
    Dedicated,
}

impl CellKind {
    /// As it is written.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pooled => "pooled",
            Self::Dedicated => "dedicated",
        }
    }
}

/// How a cell keeps the data of its tenants apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Databases {
    /// Several tenants lie in one database.
    Shared,
    /// Each tenant has one of its own, as gold is sold.
    Own,
}

impl Databases {
    /// As it is written.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Shared => "shared",
            Self::Own => "own",
        }
    }
}

/// What a cell has, in thousandths: of a core, of a connection, of a gigabyte (10⁹ bytes). 0: nobody said.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Capacity {
    /// Of a core.
    pub cpu: u64,
    /// Of a connection to the database.
    pub connections: u64,
    /// Of a gigabyte.
    pub storage: u64,
}

impl Capacity {
    /// The most of each; the planner computes with it exactly.
    pub const MAX: u64 = 2_000_000_000;
}

/// What is declared of a cell besides its region and residency.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CellTraits {
    /// What it is for.
    pub kind: CellKind,
    /// What fails together with it: a rack, a building, a zone; empty where nobody said.
    pub domain: String,
    /// What it has.
    pub capacity: Capacity,
    /// Thousandths of the capacity that are not planned with; below 1,000.
    pub reserve: u16,
    /// How its tenants' data is kept apart; nothing where nobody said.
    pub databases: Option<Databases>,
    /// Nobody stands before its application: routers reach it at [`crate::CellRecord::gates`], which are declared, too. Its fence
    /// is its database, and what routers hold back.
    #[serde(deserialize_with = "crate::layout::since_5")]
    pub ungated: bool,
}

impl CellTraits {
    /// The whole, in thousandths.
    pub const WHOLE: u16 = 1_000;

    /// Whether a tier belongs on the cell: platinum has one to itself and nobody else comes to such a cell, and gold has a database
    /// of its own. A cell of which nobody has said how it keeps tenants apart is believed to do it as gold wants.
    #[must_use]
    pub const fn is_for(&self, tier: Tier) -> bool {
        is_for(tier, self.kind, self.databases)
    }

    /// Whether so many tenants may have room: each takes a connection at the least, and more is not known here. A cell of
    /// which nobody has said how many connections it has always may.
    #[must_use]
    pub fn may_hold(&self, tenants: u64) -> bool {
        let usable = u128::from(Self::WHOLE.saturating_sub(self.reserve));
        let connections = u128::from(self.capacity.connections);
        connections == 0 || u128::from(tenants) * 1_000 * u128::from(Self::WHOLE) <= connections * usable
    }
}

/// The same of a cell of which nothing else is known.
#[must_use]
#[inline]
pub const fn is_for(tier: Tier, kind: CellKind, databases: Option<Databases>) -> bool {
    match tier {
        Tier::Platinum => matches!(kind, CellKind::Dedicated),
        Tier::Gold => matches!((kind, databases), (CellKind::Pooled, None | Some(Databases::Own))),
        Tier::Bronze | Tier::Silver => matches!(kind, CellKind::Pooled),
    }
}

/// What is declared anew of a cell. What is not named stays as it is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Declaration {
    /// What it is for.
    pub kind: Option<CellKind>,
    /// What fails together with it.
    pub domain: Option<String>,
    /// What it has, all of it.
    pub capacity: Option<Capacity>,
    /// Thousandths of it that are not planned with.
    pub reserve: Option<u16>,
    /// Where it stands.
    pub region: Option<String>,
    /// Legal zone of its data.
    pub residency: Option<String>,
    /// How its tenants' data is kept apart.
    pub databases: Option<Databases>,
    /// Whether nobody stands before its application.
    #[serde(deserialize_with = "crate::layout::since_5")]
    pub ungated: Option<bool>,
    /// `host:port` of each instance of it, where that is so.
    #[serde(deserialize_with = "crate::layout::since_5")]
    pub instances: Option<Vec<String>>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tenant_takes_a_connection_of_what_the_reserve_leaves() {
        let of = |connections, reserve| CellTraits {
            capacity: Capacity { connections, ..Capacity::default() },
            reserve,
            ..CellTraits::default()
        };
        assert!(of(10_000, 100).may_hold(9) && !of(10_000, 100).may_hold(10));
        assert!(of(10_000, 0).may_hold(10) && !of(9_999, 0).may_hold(10));
        assert!(of(0, 999).may_hold(u64::MAX), "nobody said");
        assert!(!of(Capacity::MAX, 0).may_hold(u64::MAX));
    }

    #[test]
    fn a_tier_belongs_where_it_gets_what_was_paid_for() {
        let all = [Tier::Bronze, Tier::Silver, Tier::Gold, Tier::Platinum];
        let on = |kind, databases| all.map(|tier| is_for(tier, kind, databases));
        assert_eq!(on(CellKind::Pooled, None), [true, true, true, false], "nobody said");
        assert_eq!(on(CellKind::Pooled, Some(Databases::Own)), [true, true, true, false]);
        assert_eq!(on(CellKind::Pooled, Some(Databases::Shared)), [true, true, false, false]);
        for databases in [None, Some(Databases::Own), Some(Databases::Shared)] {
            assert_eq!(on(CellKind::Dedicated, databases), [false, false, false, true], "it is alone there");
        }
    }
}
