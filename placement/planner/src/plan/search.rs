//! Finds the moves of a plan, one after the other.
//!
//! Every target is chosen by the one path of this crate ([`best`] for a tenant that must go; its filter for one that
//! relieves its cell), so a plan and a placement never disagree. A tenant moves at most once in a plan. Each relieving
//! move lowers the fuller of its two cells, so the search ends.
//!
//! * `search.rs` repairs and drains: tenants that must go, each to its best cell.
//! * `search/cool.rs` rebalances: how far down can all hot cells be brought within the bounds?
//! * `search/relieve.rs` takes one tenant off one cell, the one that helps most.
//! * `search/even.rs` evens all cells out together, where cells are full at so many hours that none can be relieved alone.
//! * `search/admit.rs` lets in newcomers for whom somebody makes room.
//! * `search/exchange.rs` is for when no single move helps: changing places, and making room.

mod admit;
mod cool;
mod even;
mod exchange;
mod relieve;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use cell_model::CellState;

use super::{Bound, Goal, Left, Reason, Request};
use crate::explain::{Decision, best, choose, explain};
use crate::filter::{Question, RefusalCode, Wish};
use crate::fleet::{CellIx, Fleet, TenantIx};
use crate::layout::Layout;
use crate::load::Peak;
use crate::ring::HomeRing;
use crate::zone::Zones;
use relieve::Ranked;

/// How many tenants that stay are listed with what each cell said; those after them only with a sentence ...
const LEFT_EXPLAINED_MAX: usize = 20;
/// ... and those after these are only counted.
const LEFT_LISTED_MAX: usize = 1_000;

/// How many pairs of moves are tried in one attempt to bring cells down: some ten microseconds each.
const TRIES_MAX: u32 = 4_000;

/// Why a tenant moves, with numbers instead of names.
#[derive(Debug, Clone, Copy)]
pub(super) enum Why {
    Violation(RefusalCode),
    Overloaded { source_per_mille: u32, after_per_mille: u32 },
    Drain,
    Hot { source_per_mille: u32, after_per_mille: u32 },
    Exchange(TenantIx),
    MakeRoom(TenantIx),
}

impl Why {
    pub(super) fn told(self, fleet: &Fleet) -> Reason {
        match self {
            Self::Violation(filter) => Reason::Violation { filter },
            Self::Overloaded { source_per_mille, after_per_mille } => {
                Reason::Overloaded { source_per_mille, after_per_mille }
            }
            Self::Drain => Reason::Drain,
            Self::Hot { source_per_mille, after_per_mille } => Reason::Hot { source_per_mille, after_per_mille },
            Self::Exchange(with) => Reason::Exchange { with: fleet.tenant_id(with) },
            Self::MakeRoom(waits) => Reason::MakeRoom { waits: fleet.tenant_id(waits) },
        }
    }
}

/// One move.
#[derive(Debug, Clone)]
pub(super) struct Step {
    pub(super) tenant: TenantIx,
    pub(super) source: CellIx,
    pub(super) target: CellIx,
    pub(super) bytes: u64,
    pub(super) why: Why,
}

/// What the search came to.
pub(super) struct Found<'a> {
    /// As it is after all steps.
    pub(super) layout: Layout<'a>,
    pub(super) steps: Vec<Step>,
    pub(super) left: Vec<Left>,
    pub(super) left_unlisted: usize,
    pub(super) draining: Vec<bool>,
    /// Something was to be done.
    pub(super) wanted: bool,
    /// No cell stayed above where it should be.
    pub(super) reached: bool,
    pub(super) why: String,
}

pub(super) struct Search<'a> {
    layout: Layout<'a>,
    ring: Option<&'a HomeRing>,
    request: &'a Request,
    draining: Vec<bool>,
    zones: &'a Zones,
    bound: &'a Bound,
    moved: Vec<bool>,
    /// By cell: steps that it takes part in.
    parts: Vec<u32>,
    steps: Vec<Step>,
    bytes: u64,
    left: Vec<Left>,
    left_unlisted: usize,
    wanted: bool,
    reached: bool,
    notes: Vec<String>,
    /// By cell and dimension: who weighs most there.
    ranked: BTreeMap<(CellIx, usize, bool), Ranked>,
    /// How many more pairs of moves may be tried.
    tries_left: u32,
}

/// Why a tenant is not touched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fixed {
    Moving,
    Arrived,
    Moved,
    Pinned,
}

impl fmt::Display for Fixed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Moving => "it is moving already",
            Self::Arrived => "it has just come here, and that move is not over: plan again after its end",
            Self::Moved => "this plan has moved it already",
            Self::Pinned => "it is pinned",
        })
    }
}

impl<'a> Search<'a> {
    pub(super) fn new(
        layout: Layout<'a>,
        ring: Option<&'a HomeRing>,
        request: &'a Request,
        draining: Vec<bool>,
        bound: &'a Bound,
    ) -> Self {
        let zones = &layout.fleet().standing().zones;
        let moved = vec![false; layout.fleet().tenants().len()];
        let parts = vec![0; layout.fleet().cells().len()];
        Self {
            layout,
            ring,
            request,
            draining,
            zones,
            bound,
            moved,
            parts,
            steps: Vec::new(),
            bytes: 0,
            left: Vec::new(),
            left_unlisted: 0,
            wanted: false,
            reached: true,
            notes: Vec::new(),
            ranked: BTreeMap::new(),
            tries_left: TRIES_MAX,
        }
    }

    pub(super) fn run(mut self) -> Found<'a> {
        match &self.request.goal {
            Goal::Repair => self.repair(),
            Goal::Drain { .. } => self.drain(),
            Goal::Rebalance => {
                // What is above its budget is above the high water, too: the bounds are spent on all of it together.
                self.repair();
                self.cool();
            }
        }
        let why = self.notes.join("; ");
        let Self { layout, steps, left, left_unlisted, draining, wanted, reached, .. } = self;
        Found { layout, steps, left, left_unlisted, draining, wanted, reached, why }
    }

    // --- repair

    fn repair(&mut self) {
        let astray = self.note_copies_astray();
        let mut violations = self.violations();
        violations.retain(|(_, tenant)| !astray.contains(tenant));
        let found = violations.len() + astray.len();
        violations
            .sort_by_key(|&(code, tenant)| (code, self.layout.fleet().tenant(tenant).pin().is_some(), tenant));
        // A move may make the room that another one needs, so those that found none ask again while anything moves.
        loop {
            let before = self.steps.len();
            violations.retain(|&(_, tenant)| {
                // A move before this one may have put it right: of two that may not be together, one goes.
                let violation = self.violation(tenant);
                violation.is_some_and(|filter| !self.relocate(tenant, Why::Violation(filter)))
            });
            if self.steps.len() == before {
                break;
            }
        }
        for (code, tenant) in violations {
            if !self.make_room(tenant, Why::Violation(code)) {
                self.refuse(tenant);
            }
        }
        let over: Vec<CellIx> = self.cells_above(Peak::is_over_budget);
        self.wanted |= !over.is_empty();
        if self.request.goal == Goal::Repair {
            over.iter().for_each(|&cell| self.bring_into_budget(cell));
        }
        self.notes.push(match (found, over.len()) {
            (0, 0) => "every tenant may be where it is and no cell is above its budget".to_owned(),
            (found, over) => {
                let (who, is) = if found == 1 { ("tenant", "it is") } else { ("tenants", "they are") };
                let (what, its) = if over == 1 { ("cell", "its") } else { ("cells", "their") };
                format!("{found} {who} may not be where {is}, {over} {what} above {its} budget")
            }
        });
    }

    /// Whoever is where it may not be, but for who leaves with a move under way: that one puts it right, unless its source is dead.
    fn violations(&self) -> Vec<(RefusalCode, TenantIx)> {
        let fleet = self.layout.fleet();
        let leaves = |tenant| fleet.tenant(tenant).moving_to().is_some();
        let found = fleet.tenants().filter_map(|tenant| self.violation(tenant).map(|code| (code, tenant)));
        found.filter(|&(code, tenant)| code == RefusalCode::CellDead || !leaves(tenant)).collect()
    }

    fn violation(&self, tenant: TenantIx) -> Option<RefusalCode> {
        let wish = Wish::new(&self.layout, tenant, &[]);
        wish.ask(wish.home?).err()
    }

    /// Notes who is on the way to where it may never be. A plan moves nobody who is moving.
    fn note_copies_astray(&mut self) -> BTreeSet<TenantIx> {
        let fleet = self.layout.fleet();
        let mut astray = Vec::new();
        for tenant in fleet.tenants() {
            let Some(target) = fleet.tenant(tenant).moving_to() else { continue };
            if let Some(code) = Wish::new(&self.layout, tenant, &[]).never(target) {
                astray.push((tenant, target, code));
            }
        }
        for &(tenant, target, code) in &astray {
            let source = self.layout.home(tenant).expect("who moves has a home");
            let why = format!(
                "it is moving to {}, where it may not be ({code}): cancel that move",
                fleet.cell_id(target)
            );
            self.stay(tenant, source, &why);
        }
        astray.into_iter().map(|(tenant, ..)| tenant).collect()
    }

    /// Nobody can be moved off a dead one.
    fn is_alive(&self, cell: CellIx) -> bool {
        self.layout.fleet().cell(cell).state != CellState::Dead
    }

    /// Living cells that meet `condition`, fullest first.
    fn cells_above(&self, condition: impl Fn(Peak) -> bool) -> Vec<CellIx> {
        let cells = self.layout.fleet().cells();
        let mut cells: Vec<CellIx> =
            cells.filter(|&cell| self.is_alive(cell) && condition(self.layout.peak(cell))).collect();
        cells.sort_by(|&a, &b| self.layout.peak(b).share.total_cmp(&self.layout.peak(a).share).then(a.cmp(&b)));
        cells
    }

    // --- drain

    fn drain(&mut self) {
        let cells: Vec<CellIx> = self.layout.fleet().cells().filter(|cell| self.draining[cell.index()]).collect();
        let mut tenants: Vec<(CellIx, TenantIx)> = Vec::new();
        for &cell in &cells {
            tenants.extend(self.layout.members(cell).iter().map(|&tenant| (cell, tenant)));
        }
        let names = |cells: &[CellIx]| {
            let names: Vec<&str> = cells.iter().map(|&cell| self.layout.cell_id(cell).as_str()).collect();
            names.join(", ")
        };
        self.notes.push(match tenants.len() {
            0 => format!("{} hold{} no tenant", names(&cells), if cells.len() == 1 { "s" } else { "" }),
            1 => format!("1 tenant is on {}", names(&cells)),
            count => format!("{count} tenants are on {}", names(&cells)),
        });
        // The hardest to place first, while there is the most room.
        tenants.sort_by(|&(a_cell, a), &(b_cell, b)| {
            let weight = |cell, tenant| self.weight(cell, tenant);
            weight(b_cell, b).total_cmp(&weight(a_cell, a)).then(a.cmp(&b))
        });
        for (cell, tenant) in tenants {
            let of = self.layout.fleet().tenant(tenant);
            match of.moving_to() {
                Some(target) if target == cell => self.stay(tenant, cell, "it is moving there: cancel that move"),
                Some(_) => self.notes.push(format!("{} is on its way already", self.name(tenant))),
                None if of.arrived_from() == Some(cell) => {
                    let note = "leaves with the move that has taken it away, which is not over: its old copy is here until then";
                    self.notes.push(format!("{} {note}", self.name(tenant)));
                }
                None if self.relocate(tenant, Why::Drain) || self.make_room(tenant, Why::Drain) => {}
                None => self.refuse(tenant),
            }
        }
    }

    /// The share of a cell that a tenant alone would take.
    fn weight(&self, cell: CellIx, tenant: TenantIx) -> f64 {
        let profile = self.layout.fleet().demand(tenant);
        let budget = &self.layout.fleet().cell(cell).budget.amounts;
        let risk = self.layout.policy().risk;
        let share = |dim: usize| profile.need(dim, risk) / budget[dim].max(1.0);
        (0..budget.len()).map(share).fold(0.0, f64::max)
    }

    // --- moving one tenant

    /// Moves a tenant that must go to the cell that placing would choose, or notes why it may not move. Says whether
    /// that settles it: not so where no cell admits it as things stand.
    fn relocate(&mut self, tenant: TenantIx, why: Why) -> bool {
        self.wanted = true;
        let fleet = self.layout.fleet();
        let source = self.layout.home(tenant).expect("only tenants with a home are relocated");
        if fleet.cell(source).state == CellState::Dead {
            // A takeover goes on from a copy: without a move there is none.
            let way = match fleet.tenant(tenant).elsewhere() {
                Some(target) => format!("take it over by force on {}", fleet.cell_id(target)),
                None => "start the cell again, or restore its backup".to_owned(),
            };
            self.stay(tenant, source, &format!("its cell is dead and a move needs a living source: {way}"));
            return true;
        }
        let pinned_here = fleet.tenant(tenant).pin() == Some(source);
        if let Some(fixed) = self.fixed(tenant).filter(|fixed| *fixed != Fixed::Pinned || pinned_here) {
            self.stay(tenant, source, &fixed.to_string());
            return true;
        }
        let bytes = self.bytes_of(tenant);
        if let Err(bound) = self.afford(bytes, source) {
            self.stay(tenant, source, &bound);
            return true;
        }
        let question = Question::new(&self.layout, tenant, &self.draining);
        let open = |cell| self.has_part_left(cell);
        let Some((score, _)) = best(&question, self.ring, open) else { return false };
        self.make(Step { tenant, source, target: score.cell, bytes, why });
        true
    }

    /// Notes that no cell admits a tenant that must go.
    fn refuse(&mut self, tenant: TenantIx) {
        let source = self.layout.home(tenant).expect("only tenants with a home are relocated");
        let explained = self.left.len() < LEFT_EXPLAINED_MAX;
        let decision = explained.then(|| {
            let question = Question::new(&self.layout, tenant, &self.draining);
            Box::new(explain(&question, &choose(&question, self.ring)))
        });
        self.leave(tenant, source, "no other cell admits it", decision);
    }

    fn make(&mut self, step: Step) {
        self.layout.shift(step.tenant, step.target);
        self.moved[step.tenant.index()] = true;
        self.parts[step.source.index()] += 1;
        self.parts[step.target.index()] += 1;
        self.bytes += step.bytes;
        self.steps.push(step);
    }

    /// Takes back every step after the first `keep`.
    fn take_back(&mut self, keep: usize) {
        while self.steps.len() > keep {
            let step = self.steps.pop().expect("there are more than that");
            self.layout.shift(step.tenant, step.source);
            self.moved[step.tenant.index()] = false;
            self.parts[step.source.index()] -= 1;
            self.parts[step.target.index()] -= 1;
            self.bytes -= step.bytes;
        }
    }

    fn stay(&mut self, tenant: TenantIx, cell: CellIx, why: &str) {
        self.leave(tenant, cell, why, None);
    }

    fn leave(&mut self, tenant: TenantIx, cell: CellIx, why: &str, decision: Option<Box<Decision>>) {
        self.wanted = true;
        self.reached = false;
        if self.left.len() >= LEFT_LISTED_MAX {
            self.left_unlisted += 1;
            return;
        }
        let fleet = self.layout.fleet();
        let (tenant, cell) = (fleet.tenant_id(tenant), fleet.cell_id(cell).clone());
        self.left.push(Left { tenant, cell, why: why.into(), decision });
    }

    /// Whether one more move of that size off that cell is within the bounds; which bound it breaks otherwise.
    fn afford(&self, bytes: u64, source: CellIx) -> Result<(), String> {
        let bounds = &self.request.bounds;
        if self.steps.len() >= bounds.moves_max as usize {
            let s = if bounds.moves_max == 1 { "" } else { "s" };
            return Err(format!("the bound of {} move{s} is reached", bounds.moves_max));
        }
        if self.bytes.saturating_add(bytes) > bounds.bytes_max {
            return Err(format!("its {bytes} bytes would pass the bound of {} bytes", bounds.bytes_max));
        }
        if self.layout.policy().seconds_for(bytes) > bounds.seconds_max {
            return Err(format!("copying its {bytes} bytes takes longer than {} s", bounds.seconds_max));
        }
        if !self.has_part_left(source) {
            return Err(format!("its cell takes part in {} moves already", bounds.moves_per_cell_max));
        }
        Ok(())
    }

    /// Whether a cell may take part in one more move.
    fn has_part_left(&self, cell: CellIx) -> bool {
        self.draining[cell.index()] || self.parts[cell.index()] < self.request.bounds.moves_per_cell_max
    }

    fn fixed(&self, tenant: TenantIx) -> Option<Fixed> {
        let of = self.layout.fleet().tenant(tenant);
        if of.moving_to().is_some() {
            Some(Fixed::Moving)
        } else if of.arrived_from().is_some() {
            Some(Fixed::Arrived)
        } else if self.moved[tenant.index()] {
            Some(Fixed::Moved)
        } else if of.pin().is_some() {
            Some(Fixed::Pinned)
        } else {
            None
        }
    }

    fn is_cooling(&self, tenant: TenantIx) -> bool {
        self.layout.fleet().tenant(tenant).cooldown_until > self.request.now
    }

    fn bytes_of(&self, tenant: TenantIx) -> u64 {
        self.layout.fleet().bytes_of(tenant)
    }

    fn name(&self, tenant: TenantIx) -> &'a str {
        self.layout.fleet().tenant_name(tenant)
    }
}
