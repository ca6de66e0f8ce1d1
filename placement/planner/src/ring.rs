//! Default homes: a hash ring over cells, so that a tenant has a computable home that moves little when cells come and
//! go. The ring orders candidates; capacity and residency decide.
//!
//! Two things are ours over `consistent_hash_ring`. Points come from a keyed SipHash-1-3 with a seed of ours, so that
//! they are the same in every build and nobody can choose names that crowd one cell. And the ring is built in a batch:
//! the crate inserts each virtual node into a sorted array, which is quadratic (14 s for 1,000 × 256); here every
//! virtual node is an entry of its own that *brings* its point, and entries are inserted in the order of points, so
//! that each goes to the end.

use std::hash::{BuildHasher, Hash, Hasher};

use cell_model::CellId;
use consistent_hash_ring::{Ring, RingBuilder, migrated_ranges};
use serde::{Deserialize, Serialize};
use siphasher::sip::SipHasher13;

/// The fewest virtual nodes of a cell: below this the fullest cell has twice the mean.
pub const VIRTUAL_NODES_MIN: usize = 256;
/// The most virtual nodes of a ring; each takes 32 bytes.
const VIRTUAL_NODES_TOTAL_MAX: usize = 1 << 25;
/// Steps of a walk after which a cell that has not come up is no longer waited for.
const WALK_STEPS_PER_CELL: usize = 64;

/// How a ring is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RingOptions {
    /// Key of the hash. Another seed gives every tenant another home.
    pub seed: u64,
    /// Virtual nodes of a cell of weight 1, at least [`VIRTUAL_NODES_MIN`].
    pub virtual_nodes: usize,
}

impl Default for RingOptions {
    fn default() -> Self {
        Self { seed: 0x0063_656c_6c77_6179, virtual_nodes: VIRTUAL_NODES_MIN }
    }
}

/// Why a ring is not made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RingError {
    /// Too uneven.
    #[error("{given} virtual nodes a cell: at least {VIRTUAL_NODES_MIN} are needed for an even ring")]
    TooFewVirtualNodes {
        /// As given.
        given: usize,
    },
    /// Too large.
    #[error("{cells} cells × {virtual_nodes} virtual nodes are more than the ring takes: use fewer virtual nodes")]
    TooManyVirtualNodes {
        /// Number of cells.
        cells: usize,
        /// Virtual nodes of each.
        virtual_nodes: usize,
    },
    /// Named twice.
    #[error("cell {cell} is named twice")]
    DuplicateCell {
        /// Which.
        cell: CellId,
    },
}

/// One virtual node: a point on the ring, and whose it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Virtual {
    point: u64,
    cell: u32,
}

impl Hash for Virtual {
    fn hash<H: Hasher>(&self, state: &mut H) {
        At(self.point).hash(state);
    }
}

/// A point that is hashed already.
struct At(u64);

impl Hash for At {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u128(self.0.into());
    }
}

#[derive(Debug, Clone, Copy)]
struct Points {
    seed: u64,
}

impl Points {
    fn of(self, kind: u8, name: &str, turn: u64) -> u64 {
        let mut hasher = SipHasher13::new_with_keys(self.seed, u64::from(kind));
        hasher.write(name.as_bytes());
        hasher.write(&turn.to_le_bytes());
        hasher.finish()
    }
}

impl BuildHasher for Points {
    type Hasher = PointHasher;
    fn build_hasher(&self) -> PointHasher {
        PointHasher { given: None, hasher: SipHasher13::new_with_keys(self.seed, u64::from(KIND_CHAIN)) }
    }
}

const KIND_CELL: u8 = 0;
const KIND_TENANT: u8 = 1;
const KIND_CHAIN: u8 = 2;

/// Takes a point as it is ([`At`]), and hashes everything else.
struct PointHasher {
    given: Option<u64>,
    hasher: SipHasher13,
}

impl Hasher for PointHasher {
    fn write(&mut self, bytes: &[u8]) {
        self.hasher.write(bytes);
    }

    fn write_u128(&mut self, point: u128) {
        self.given = u64::try_from(point).ok();
    }

    fn finish(&self) -> u64 {
        self.given.unwrap_or_else(|| self.hasher.finish())
    }
}

/// A ring over cells.
pub struct HomeRing {
    points: Points,
    cells: Vec<CellId>,
    ring: Ring<Virtual, Points>,
}

impl std::fmt::Debug for HomeRing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HomeRing").field("cells", &self.cells.len()).field("points", &self.ring.len()).finish()
    }
}

impl HomeRing {
    /// Builds a ring over cells of equal weight, in whatever order they come.
    ///
    /// # Errors
    /// [`RingError`] for too few or too many virtual nodes, or a cell named twice.
    pub fn build(cells: impl IntoIterator<Item = CellId>, options: RingOptions) -> Result<Self, RingError> {
        let mut cells: Vec<CellId> = cells.into_iter().collect();
        cells.sort();
        if let Some(pair) = cells.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(RingError::DuplicateCell { cell: pair[0].clone() });
        }
        let virtual_nodes = options.virtual_nodes;
        if virtual_nodes < VIRTUAL_NODES_MIN {
            return Err(RingError::TooFewVirtualNodes { given: virtual_nodes });
        }
        if cells.len().saturating_mul(virtual_nodes) > VIRTUAL_NODES_TOTAL_MAX {
            return Err(RingError::TooManyVirtualNodes { cells: cells.len(), virtual_nodes });
        }
        let points = Points { seed: options.seed };
        let mut all = Vec::with_capacity(cells.len() * virtual_nodes);
        for (index, cell) in cells.iter().enumerate() {
            let owner = u32::try_from(index).expect("bounded just above");
            for turn in 0..virtual_nodes as u64 {
                all.push(Virtual { point: points.of(KIND_CELL, cell.as_str(), turn), cell: owner });
            }
        }
        // In the order of points every insertion goes to the end. Of two on one point the lower id keeps it.
        all.sort_unstable_by_key(|at| (at.point, at.cell));
        all.dedup_by_key(|at| at.point);
        let ring = RingBuilder::new(points).vnodes(1).nodes_iter(all).build();
        Ok(Self { points, cells, ring })
    }

    /// The cells, in the order of their ids.
    #[must_use]
    pub fn cells(&self) -> &[CellId] {
        &self.cells
    }

    /// The cells in the order in which they are a tenant's default home: the first one is, the second where the first
    /// may not be, and so on. Each step is a fresh hash, so that the tenants of a lost cell spread over all others.
    /// Cells that do not come up within a bounded number of steps follow by highest random weight.
    pub fn walk<'a>(&'a self, tenant: &'a str) -> impl Iterator<Item = &'a CellId> + 'a {
        self.steps(tenant).map(|cell| &self.cells[cell as usize])
    }

    fn steps<'a>(&'a self, tenant: &'a str) -> Walk<'a> {
        Walk { ring: self, tenant, turn: 0, seen: Vec::new(), rest: None }
    }

    /// The first cell of the tenant's walk that is eligible.
    pub fn home(&self, tenant: &str, mut eligible: impl FnMut(&CellId) -> bool) -> Option<&CellId> {
        // Spelled out for the common case: no list of the cells seen.
        let first = &self.cells[self.at(tenant, 0)? as usize];
        if eligible(first) {
            return Some(first);
        }
        self.steps(tenant).skip(1).map(|cell| &self.cells[cell as usize]).find(|cell| eligible(cell))
    }

    /// Shuffle sharding: the `size` cells (or workers, or instances) that a tenant uses, out of all of them. Two
    /// tenants rarely have the same, so that one that breaks its own breaks few others.
    #[must_use]
    pub fn shard(&self, tenant: &str, size: usize) -> Vec<CellId> {
        let mut shard: Vec<CellId> = self.walk(tenant).take(size).cloned().collect();
        shard.sort();
        shard
    }

    /// What would change hands if this ring became `other`, as shares of all tenants.
    #[must_use]
    pub fn churn(&self, other: &Self) -> Churn {
        // The ranges are compared by owner: numbers of cells must mean the same on both sides.
        let mut names: Vec<&CellId> = self.cells.iter().chain(&other.cells).collect();
        names.sort();
        names.dedup();
        let (before, after) = (self.renumbered(&names), other.renumbered(&names));
        if before.is_empty() || after.is_empty() {
            return Churn { moved: 0.0, flows: Vec::new() };
        }
        let mut flows = std::collections::BTreeMap::<(u32, u32), f64>::new();
        for range in migrated_ranges(&before, &after) {
            let (source, target) = (range.src().cell, range.dst().cell);
            if source != target {
                let width = range.keys().end().wrapping_sub(*range.keys().start());
                *flows.entry((source, target)).or_default() += share_of_ring(width);
            }
        }
        let flows: Vec<Flow> = flows
            .into_iter()
            .map(|((source, target), share)| Flow {
                source: names[source as usize].clone(),
                target: names[target as usize].clone(),
                share,
            })
            .collect();
        // Not `sum`, which makes the nothing below nothing of nothing.
        Churn { moved: flows.iter().fold(0.0, |moved, flow| moved + flow.share), flows }
    }

    fn renumbered(&self, names: &[&CellId]) -> Ring<Virtual, Points> {
        let number = |cell: &CellId| {
            let at = names.binary_search(&cell).expect("every cell of both rings is named");
            u32::try_from(at).expect("bounded when the ring was built")
        };
        let numbers: Vec<u32> = self.cells.iter().map(number).collect();
        let renumber = |at: &Virtual| Virtual { point: at.point, cell: numbers[at.cell as usize] };
        let mut all: Vec<Virtual> = self.ring.resident_ranges().map(|range| renumber(range.node())).collect();
        all.sort_unstable_by_key(|at| at.point);
        RingBuilder::new(self.points).vnodes(1).nodes_iter(all).build()
    }

    fn at(&self, tenant: &str, turn: u64) -> Option<u32> {
        self.ring.try_get(At(self.points.of(KIND_TENANT, tenant, turn))).map(|at| at.cell)
    }
}

#[expect(clippy::cast_precision_loss, reason = "a share is a ratio of large numbers")]
fn share_of_ring(width: u64) -> f64 {
    (width as f64 + 1.0) / 18_446_744_073_709_551_616.0
}

/// What changes hands between two rings.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Churn {
    /// Share of all tenants whose default home changes.
    pub moved: f64,
    /// From where to where.
    pub flows: Vec<Flow>,
}

/// A share of all tenants that changes from one cell to another.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Flow {
    /// Old home.
    pub source: CellId,
    /// New home.
    pub target: CellId,
    /// Share of all tenants.
    pub share: f64,
}

struct Walk<'a> {
    ring: &'a HomeRing,
    tenant: &'a str,
    turn: u64,
    seen: Vec<u32>,
    /// Cells that did not come up in time, best last.
    rest: Option<Vec<u32>>,
}

impl Iterator for Walk<'_> {
    type Item = u32;

    fn next(&mut self) -> Option<u32> {
        let cells = self.ring.cells.len();
        let steps_max = (cells.min(16) * WALK_STEPS_PER_CELL) as u64;
        while self.rest.is_none() && self.seen.len() < cells && self.turn < steps_max {
            let cell = self.ring.at(self.tenant, self.turn)?;
            self.turn += 1;
            if !self.seen.contains(&cell) {
                self.seen.push(cell);
                return Some(cell);
            }
        }
        if self.rest.is_none() {
            let count = u32::try_from(cells).expect("bounded when the ring was built");
            let mut rest: Vec<u32> = (0..count).filter(|cell| !self.seen.contains(cell)).collect();
            let weight = |&cell: &u32| {
                let mut hasher = SipHasher13::new_with_keys(self.ring.points.seed, u64::from(KIND_CHAIN));
                hasher.write(self.tenant.as_bytes());
                hasher.write(&[0]);
                hasher.write(self.ring.cells[cell as usize].as_str().as_bytes());
                hasher.finish()
            };
            rest.sort_by_cached_key(weight);
            self.rest = Some(rest);
        }
        self.rest.as_mut().and_then(Vec::pop)
    }
}
