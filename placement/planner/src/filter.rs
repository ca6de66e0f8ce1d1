//! May this tenant be on that cell? One table of filters, each with a stable code; its order is the order of asking.

use std::fmt;

use cell_model::CellState;
use serde::{Deserialize, Serialize};

use crate::demand::Profile;
use crate::document::CellKind;
use crate::fleet::{Cell, CellIx, Label, NONE, Tenant, TenantIx};
use crate::layout::Layout;
use crate::load::{Delta, Peak, Reach};
use crate::resource::{HOURS, RESOURCES, Resource};

/// Why a cell does not admit a tenant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum RefusalCode {
    /// The tenant's data may not be in the cell's legal zone. Nothing overrides this.
    ResidencyViolated,
    /// An operator has said that the cell is gone.
    CellDead,
    /// The tenant must be in another region.
    RegionMismatch,
    /// The tenant is pinned to another cell.
    PinnedElsewhere,
    /// Platinum wants a dedicated cell, and nobody else may have one; gold wants a database of its own.
    TierMismatch,
    /// The cell takes no new tenants.
    CellCordoned,
    /// This plan empties the cell.
    CellDraining,
    /// A dedicated cell that already has its tenant.
    CellOccupied,
    /// A member of the tenant's anti-affinity group is there.
    AntiAffinity,
    /// A resource would be over its budget at some hour.
    CapacityExceeded,
}

impl RefusalCode {
    /// Every code, in the order of asking.
    pub const ALL: [Self; 10] = [
        Self::ResidencyViolated,
        Self::CellDead,
        Self::RegionMismatch,
        Self::PinnedElsewhere,
        Self::TierMismatch,
        Self::CellCordoned,
        Self::CellDraining,
        Self::CellOccupied,
        Self::AntiAffinity,
        Self::CapacityExceeded,
    ];

    /// The code as text.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::ResidencyViolated => "RESIDENCY_VIOLATED",
            Self::CellDead => "CELL_DEAD",
            Self::RegionMismatch => "REGION_MISMATCH",
            Self::PinnedElsewhere => "PINNED_ELSEWHERE",
            Self::TierMismatch => "TIER_MISMATCH",
            Self::CellCordoned => "CELL_CORDONED",
            Self::CellDraining => "CELL_DRAINING",
            Self::CellOccupied => "CELL_OCCUPIED",
            Self::AntiAffinity => "ANTI_AFFINITY",
            Self::CapacityExceeded => "CAPACITY_EXCEEDED",
        }
    }
}

impl fmt::Display for RefusalCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// A tenant that says nothing takes any.
fn wants_other(wanted: Label, offered: Label) -> bool {
    wanted != NONE && wanted != offered
}

/// One tenant and the cell that it is on, if any: all that every filter but capacity looks at.
#[derive(Clone, Copy)]
pub(crate) struct Wish<'a> {
    pub(crate) layout: &'a Layout<'a>,
    pub(crate) index: TenantIx,
    pub(crate) tenant: &'a Tenant,
    /// The cell that it is on. That cell counts it already, and is asked whether it may stay.
    pub(crate) home: Option<CellIx>,
    /// By cell: whether this plan empties it. Empty where it empties none.
    draining: &'a [bool],
}

impl<'a> Wish<'a> {
    pub(crate) fn new(layout: &'a Layout<'a>, index: TenantIx, draining: &'a [bool]) -> Self {
        Self { layout, index, tenant: layout.fleet().tenant(index), home: layout.home(index), draining }
    }

    pub(crate) fn is_home(&self, cell: CellIx) -> bool {
        self.home == Some(cell)
    }

    /// The first filter that refuses, capacity aside: what a repair of one tenant's place looks for.
    pub(crate) fn ask(&self, cell: CellIx) -> Result<(), RefusalCode> {
        let of = self.layout.fleet().cell(cell);
        if self.is_plain(of) {
            return Ok(());
        }
        RefusalCode::ALL.into_iter().find(|&code| self.refuses(code, cell, of)).map_or(Ok(()), Err)
    }

    /// None of the filters has anything to look at: the case of most tenants and cells, without asking one by one.
    fn is_plain(&self, of: &Cell) -> bool {
        let tenant = self.tenant;
        of.state == CellState::Active
            && of.kind == CellKind::Pooled
            && of.is_for(tenant.tier)
            && !wants_other(tenant.residency(), of.residency)
            && !wants_other(tenant.region(), of.region)
            && tenant.pin().is_none()
            && tenant.group().is_none()
            && self.draining.is_empty()
    }

    /// The first filter that says that its data may not be on that cell at all, whoever else is there.
    pub(crate) fn never(&self, cell: CellIx) -> Option<RefusalCode> {
        let of = self.layout.fleet().cell(cell);
        let lasting = [
            RefusalCode::ResidencyViolated,
            RefusalCode::CellDead,
            RefusalCode::RegionMismatch,
            RefusalCode::PinnedElsewhere,
            RefusalCode::TierMismatch,
        ];
        lasting.into_iter().find(|&code| self.refuses(code, cell, of))
    }

    fn refuses(&self, code: RefusalCode, cell: CellIx, of: &Cell) -> bool {
        let tenant = self.tenant;
        match code {
            RefusalCode::ResidencyViolated => wants_other(tenant.residency(), of.residency),
            RefusalCode::CellDead => of.state == CellState::Dead,
            RefusalCode::RegionMismatch => wants_other(tenant.region(), of.region),
            RefusalCode::PinnedElsewhere => tenant.pin().is_some_and(|pin| pin != cell),
            RefusalCode::TierMismatch => !of.is_for(tenant.tier),
            RefusalCode::CellCordoned => of.state == CellState::Cordoned && !self.is_home(cell),
            RefusalCode::CellDraining => self.draining.get(cell.index()).copied().unwrap_or(false),
            RefusalCode::CellOccupied => {
                of.kind == CellKind::Dedicated
                    && self.layout.members(cell).iter().any(|&member| member != self.index)
            }
            RefusalCode::AntiAffinity => tenant.group().is_some_and(|group| {
                let copies = self.layout.group_cells(group).iter().filter(|&&of| of == cell).count();
                copies > usize::from(self.is_home(cell))
            }),
            // Asked of a `Question`, which knows the demand.
            RefusalCode::CapacityExceeded => false,
        }
    }
}

/// The first filter by which a tenant may never be on a cell, whoever else is there: residency, a dead cell, region, a pin, its
/// tier. Nothing where it may.
#[must_use]
pub fn never(layout: &Layout<'_>, tenant: TenantIx, cell: CellIx) -> Option<RefusalCode> {
    Wish::new(layout, tenant, &[]).never(cell)
}

/// Whether a cell has room for a tenant, as far as a first look tells.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Room {
    /// Surely not: it would be at least so full.
    None { least: f64 },
    /// Surely, and it would be at least so full.
    Enough { least: f64 },
    /// That has to be asked.
    Unsure,
}

/// One tenant asking cells to admit it.
pub(crate) struct Question<'a> {
    wish: Wish<'a>,
    profile: Profile,
}

impl<'a> std::ops::Deref for Question<'a> {
    type Target = Wish<'a>;
    fn deref(&self) -> &Wish<'a> {
        &self.wish
    }
}

impl<'a> Question<'a> {
    pub(crate) fn new(layout: &'a Layout<'a>, index: TenantIx, draining: &'a [bool]) -> Self {
        Self { wish: Wish::new(layout, index, draining), profile: layout.fleet().demand(index) }
    }

    /// The same question of a tenant as it would be.
    pub(crate) fn of(self, tenant: &'a Tenant) -> Self {
        Self { wish: Wish { tenant, ..self.wish }, ..self }
    }

    /// Itself, as one more on a cell.
    pub(crate) fn joining(&self) -> Delta<'_> {
        Delta { profile: &self.profile, cluster: self.tenant.spike_cluster(), sign: 1.0 }
    }

    /// Itself, as one less.
    pub(crate) fn leaving(&self) -> Delta<'_> {
        Delta { sign: -1.0, ..self.joining() }
    }

    /// Itself, as what it would add to `cell`: nothing where it is at home.
    pub(crate) fn arriving(&self, cell: CellIx) -> Delta<'_> {
        if self.is_home(cell) { Delta { sign: 0.0, ..self.joining() } } else { self.joining() }
    }

    /// Where `cell` would be fullest with the tenant on it.
    pub(crate) fn peak_after(&self, cell: CellIx) -> Peak {
        if self.is_home(cell) { self.layout.peak(cell) } else { self.layout.peak_with(cell, self.joining()) }
    }

    /// The tenant's wish: what every filter but capacity looks at.
    pub(crate) const fn wish(&self) -> &Wish<'a> {
        &self.wish
    }

    /// By resource: when it wants the most, and how much that is on average.
    pub(crate) fn heaviest(&self) -> [(usize, f64); RESOURCES] {
        Resource::ALL.map(|resource| {
            let dims = resource.first_dim()..resource.first_dim() + HOURS;
            let most = dims.max_by(|&a, &b| self.profile.mean[a].total_cmp(&self.profile.mean[b]));
            let dim = most.expect("a day has hours");
            (dim, self.profile.mean[dim])
        })
    }

    /// How full the cell would be, or the first filter that refuses. This is the hot path.
    pub(crate) fn ask(&self, cell: CellIx) -> Result<Peak, RefusalCode> {
        self.wish.ask(cell)?;
        let peak = self.peak_after(cell);
        if self.exceeds(cell, peak) { Err(RefusalCode::CapacityExceeded) } else { Ok(peak) }
    }

    /// A first look at a cell whose other filters admit the tenant: does it have room?
    pub(crate) fn look(&self, cell: CellIx, reach: &mut Reach) -> Room {
        if self.is_home(cell) {
            return Room::Unsure;
        }
        match self.layout.range_within(cell, self.joining(), reach) {
            (least, _) if least > 1.0 => Room::None { least },
            (least, most) if most < 1.0 => Room::Enough { least },
            _ => Room::Unsure,
        }
    }

    /// The same answer for the many cells that one tenant asks; `reach` is carried from one to the next.
    pub(crate) fn ask_within(&self, cell: CellIx, reach: &mut Reach) -> Result<Peak, RefusalCode> {
        self.wish.ask(cell)?;
        let peak = if self.is_home(cell) {
            self.layout.peak(cell)
        } else {
            self.layout.peak_within(cell, self.joining(), reach)
        };
        if self.exceeds(cell, peak) { Err(RefusalCode::CapacityExceeded) } else { Ok(peak) }
    }

    /// All filters that refuse, for an explanation.
    pub(crate) fn refusals(&self, cell: CellIx) -> Vec<RefusalCode> {
        let of = self.layout.fleet().cell(cell);
        let mut codes: Vec<_> =
            RefusalCode::ALL.into_iter().filter(|&code| self.wish.refuses(code, cell, of)).collect();
        if self.exceeds(cell, self.peak_after(cell)) {
            codes.push(RefusalCode::CapacityExceeded);
        }
        codes
    }

    /// An overfull cell may keep what it has; it admits nothing more.
    fn exceeds(&self, cell: CellIx, peak: Peak) -> bool {
        if self.is_home(cell) { peak.is_over_budget() } else { peak.share > 1.0 }
    }
}
