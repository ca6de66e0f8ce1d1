//! What an operator has declared of a cell, so that tenants are placed by it. The control plane measures none of it.

use serde::{Deserialize, Serialize};

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
    /// Nobody stands before its application: routers reach it at [`crate::CellRecord::gates`], which are declared, too. Its fence
    /// is its database, and what routers hold back.
    #[serde(deserialize_with = "crate::layout::since_5")]
    pub ungated: bool,
}

impl CellTraits {
    /// The whole, in thousandths.
    pub const WHOLE: u16 = 1_000;

    /// Whether so many tenants may have room: each takes a connection at the least, and more is not known here. A cell of
    /// which nobody has said how many connections it has always may.
    #[must_use]
    pub fn may_hold(&self, tenants: u64) -> bool {
        let usable = u128::from(Self::WHOLE.saturating_sub(self.reserve));
        let connections = u128::from(self.capacity.connections);
        connections == 0 || u128::from(tenants) * 1_000 * u128::from(Self::WHOLE) <= connections * usable
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
}
