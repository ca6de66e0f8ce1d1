//! Finds the moves of a plan, one after the other.
//!
//! Every target is chosen by the one path of this crate ([`choose`] for a tenant that must go; its filter for one that
//! relieves its cell), so a plan and a placement never disagree. A tenant moves at most once in a plan. Each relieving
//! move lowers the fuller of its two cells, so the search ends.

mod relieve;

use std::fmt;

use cell_model::CellState;

use super::{Goal, Left, Reason, Request, bound};
use crate::explain::{Decision, choose, explain};
use crate::filter::{Question, RefusalCode};
use crate::fleet::{CellIx, TenantIx};
use crate::layout::{Layout, Peak};
use crate::resource::{HOURS, Resource};
use crate::ring::HomeRing;

/// How many tenants that stay are listed with what each cell said; those after them only with a sentence ...
const LEFT_EXPLAINED_MAX: usize = 20;
/// ... and those after these are only counted.
const LEFT_LISTED_MAX: usize = 1_000;

/// One move.
#[derive(Debug, Clone)]
pub(super) struct Step {
    pub(super) tenant: TenantIx,
    pub(super) source: CellIx,
    pub(super) target: CellIx,
    pub(super) bytes: u64,
    pub(super) reason: Reason,
}

/// What the search came to.
pub(super) struct Found {
    pub(super) steps: Vec<Step>,
    pub(super) left: Vec<Left>,
    pub(super) left_unlisted: usize,
    pub(super) draining: Vec<bool>,
    /// Something was to be done.
    pub(super) wanted: bool,
    /// No cell stayed above where it should be.
    pub(super) reached: bool,
    pub(super) why: String,
    pub(super) curve: Vec<f64>,
}

pub(super) struct Search<'a> {
    layout: Layout<'a>,
    ring: Option<&'a HomeRing>,
    request: &'a Request,
    draining: Vec<bool>,
    moved: Vec<bool>,
    steps: Vec<Step>,
    bytes: u64,
    left: Vec<Left>,
    left_unlisted: usize,
    curve: Vec<f64>,
    wanted: bool,
    reached: bool,
    notes: Vec<String>,
}

/// Why a tenant is not touched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fixed {
    Moving,
    Moved,
    Pinned,
}

impl fmt::Display for Fixed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Moving => "it is moving already",
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
    ) -> Self {
        let curve = vec![bound::hottest(&layout)];
        let moved = vec![false; layout.fleet().tenants().len()];
        Self {
            layout,
            ring,
            request,
            draining,
            moved,
            steps: Vec::new(),
            bytes: 0,
            left: Vec::new(),
            left_unlisted: 0,
            curve,
            wanted: false,
            reached: true,
            notes: Vec::new(),
        }
    }

    pub(super) fn run(mut self) -> Found {
        match &self.request.goal {
            Goal::Repair => self.repair(),
            Goal::Drain { .. } => self.drain(),
            Goal::Rebalance => {
                self.repair();
                self.cool();
            }
        }
        let why = self.notes.join("; ");
        let Self { steps, left, left_unlisted, draining, wanted, reached, curve, .. } = self;
        Found { steps, left, left_unlisted, draining, wanted, reached, why, curve }
    }

    // --- repair

    fn repair(&mut self) {
        let mut violations = self.violations();
        let found = violations.len();
        violations
            .sort_by_key(|&(code, tenant)| (code, self.layout.fleet().tenant(tenant).pin().is_some(), tenant));
        // A move may make the room that another one needs, so those that found none ask again while anything moves.
        loop {
            let before = self.steps.len();
            violations.retain(|&(_, tenant)| {
                // A move before this one may have put it right: of two that may not be together, one goes.
                let violation = self.violation(tenant);
                violation.is_some_and(|filter| !self.relocate(tenant, &Reason::Violation { filter }))
            });
            if self.steps.len() == before {
                break;
            }
        }
        violations.into_iter().for_each(|(_, tenant)| self.refuse(tenant));
        let over: Vec<CellIx> = self.cells_above(Peak::is_over_budget);
        for &cell in &over {
            self.wanted = true;
            self.relieve(cell, relieve::Level::OverBudget);
        }
        self.notes.push(match (found, over.len()) {
            (0, 0) => "every tenant may be where it is and no cell is above its budget".to_owned(),
            (found, over) => format!("{found} tenants may not be where they are, {over} cells above their budget"),
        });
    }

    fn violations(&self) -> Vec<(RefusalCode, TenantIx)> {
        let tenants = self.layout.fleet().tenants();
        tenants.filter_map(|tenant| self.violation(tenant).map(|code| (code, tenant))).collect()
    }

    fn violation(&self, tenant: TenantIx) -> Option<RefusalCode> {
        let question = Question::new(&self.layout, tenant, &[]);
        question.ask_but_for_capacity(question.home?).err()
    }

    /// Living cells that meet `condition`, fullest first. (Nobody can be moved off a dead one.)
    fn cells_above(&self, condition: impl Fn(Peak) -> bool) -> Vec<CellIx> {
        let cells = self.layout.fleet().cells();
        let alive = |cell: &CellIx| self.layout.fleet().cell(*cell).state != CellState::Dead;
        let mut cells: Vec<CellIx> =
            cells.filter(|cell| alive(cell) && condition(self.layout.peak(*cell))).collect();
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
            0 => format!("{} hold no tenant", names(&cells)),
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
                None if self.relocate(tenant, &Reason::Drain) => {}
                None => self.refuse(tenant),
            }
        }
    }

    /// The share of a cell that a tenant alone would take.
    fn weight(&self, cell: CellIx, tenant: TenantIx) -> f64 {
        let profile = self.layout.fleet().demand(tenant);
        let budget = &self.layout.fleet().cell(cell).budget;
        let risk = self.layout.policy().risk;
        let share = |dim: usize| profile.need(dim, risk) / budget[dim].max(1.0);
        (0..budget.len()).map(share).fold(0.0, f64::max)
    }

    // --- rebalance

    fn cool(&mut self) {
        let high_water = self.layout.policy().high_water;
        let hot = self.cells_above(|peak| peak.share > high_water);
        let Some(&hottest) = hot.first() else {
            let note = format!("no cell is above the high water of {:.0} %", high_water * 100.0);
            self.notes.push(format!("{note}: {}", self.hottest_told()));
            return;
        };
        self.wanted = true;
        let peak = self.layout.peak(hottest).report();
        self.notes.push(format!(
            "{} cells are above the high water of {:.0} %, the hottest is {} at {:.1} % ({})",
            hot.len(),
            high_water * 100.0,
            self.layout.cell_id(hottest),
            peak.share * 100.0,
            peak.at
        ));
        let mut given_up = vec![false; self.layout.fleet().cells().len()];
        // Every turn gives a cell up or makes at least one move, and a tenant moves once.
        loop {
            let hot = self.cells_above(|peak| peak.share > high_water);
            let Some(&cell) = hot.iter().find(|cell| !given_up[cell.index()]) else { break };
            given_up[cell.index()] = !self.relieve(cell, relieve::Level::Hot);
        }
    }

    fn hottest_told(&self) -> String {
        let hottest = self.cells_above(|peak| peak.share > 0.0);
        hottest.first().map_or_else(
            || "no cell is loaded".to_owned(),
            |&cell| {
                let peak = self.layout.peak(cell).report();
                let id = self.layout.cell_id(cell);
                format!("the fullest is {id} at {:.1} % ({})", peak.share * 100.0, peak.at)
            },
        )
    }

    // --- moving one tenant

    /// Moves a tenant that must go to the cell that placing would choose, or notes why it may not move. Says whether
    /// that settles it: not so where no cell admits it as things stand.
    fn relocate(&mut self, tenant: TenantIx, reason: &Reason) -> bool {
        self.wanted = true;
        let fleet = self.layout.fleet();
        let source = self.layout.home(tenant).expect("only tenants with a home are relocated");
        if fleet.cell(source).state == CellState::Dead {
            self.stay(tenant, source, "its cell is dead and a move needs a living source: take it over by force");
            return true;
        }
        let pinned_here = fleet.tenant(tenant).pin() == Some(source);
        if let Some(fixed) = self.fixed(tenant).filter(|fixed| *fixed != Fixed::Pinned || pinned_here) {
            self.stay(tenant, source, &fixed.to_string());
            return true;
        }
        let bytes = self.bytes_of(tenant);
        if let Err(bound) = self.afford(bytes) {
            self.stay(tenant, source, &bound);
            return true;
        }
        let question = Question::new(&self.layout, tenant, &self.draining);
        let Some((score, _)) = choose(&question, self.ring).best() else { return false };
        self.make(Step { tenant, source, target: score.cell, bytes, reason: reason.clone() });
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
        self.bytes += step.bytes;
        self.steps.push(step);
        self.curve.push(bound::hottest(&self.layout));
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

    /// Whether one more move of that size is within the bounds; which bound it breaks otherwise.
    fn afford(&self, bytes: u64) -> Result<(), String> {
        let bounds = &self.request.bounds;
        if self.steps.len() >= bounds.moves_max as usize {
            return Err(format!("the bound of {} moves is reached", bounds.moves_max));
        }
        if self.bytes.saturating_add(bytes) > bounds.bytes_max {
            return Err(format!("its {bytes} bytes would pass the bound of {} bytes", bounds.bytes_max));
        }
        Ok(())
    }

    fn fixed(&self, tenant: TenantIx) -> Option<Fixed> {
        let of = self.layout.fleet().tenant(tenant);
        if of.moving_to().is_some() {
            Some(Fixed::Moving)
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

    /// What a move copies: the storage that the tenant is expected to have at its largest.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "at most 2 × 10^15, not negative")]
    fn bytes_of(&self, tenant: TenantIx) -> u64 {
        const BYTES_PER_THOUSANDTH: f64 = 1e6;
        let mean = self.layout.fleet().demand(tenant).mean;
        let dims = Resource::Storage.first_dim()..Resource::Storage.first_dim() + HOURS;
        let megabytes = mean[dims].iter().copied().fold(0.0, f64::max);
        (megabytes * BYTES_PER_THOUSANDTH) as u64
    }

    fn name(&self, tenant: TenantIx) -> &'a str {
        self.layout.fleet().tenant_name(tenant)
    }
}
