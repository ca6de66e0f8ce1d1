//! Many tenants that are nowhere yet, placed together.
//!
//! Each is placed by the one path of this crate, the hardest first, while there is the most room. Where that leaves one
//! without a cell, another newcomer makes room, which costs nothing; where none can, somebody who is at home moves first,
//! within bounds, and that is proposed. Then the newcomers on hot cells are arranged as a rebalancing would do it: who
//! has just been placed is not to be moved again by the very next plan.

use cell_model::UnixMillis;

use super::bound::Bound;
use super::make::tell;
use super::search::{Search, Step};
use super::{Bounds, CellChange, Goal, PlannedMove, Request};
use crate::explain::{Decision, PlaceError, best, place};
use crate::filter::Question;
use crate::fleet::{CellIx, Fleet, TenantIx};
use crate::layout::Layout;
use crate::policy::Policy;
use crate::resource::DIMS;
use crate::ring::HomeRing;

/// How often newcomers are arranged anew. Each time begins where the one before has ended, and most need two.
const ROUNDS_MAX: usize = 8;
/// Newcomers cost nothing to move.
const FREE: Bounds = Bounds {
    moves_max: u32::MAX,
    bytes_max: u64::MAX,
    at_once_max: u32::MAX,
    at_once_per_cell_max: u32::MAX,
    at_once_per_domain_max: u32::MAX,
    moves_per_cell_max: u32::MAX,
    seconds_max: u64::MAX,
};

/// What may be moved to make room for newcomers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Room {
    /// How much of it: moves, bytes, and moves for each cell. With 0 moves nobody is moved.
    pub bounds: Bounds,
    /// The time for cooldowns: who is cooling down is not moved.
    pub now: UnixMillis,
}

impl Room {
    fn request(&self) -> Request {
        Request { goal: Goal::Rebalance, bounds: self.bounds, now: self.now }
    }
}

/// Where many newcomers belong.
#[derive(Debug, Clone, PartialEq)]
pub struct Batch {
    /// Moves of others that make room, one after the other, before anybody is placed. Each is feasible when its turn comes.
    pub moves: Vec<PlannedMove>,
    /// Each made with the moves and the decisions before it carried out.
    pub decisions: Vec<Decision>,
    /// The cells that take part.
    pub cells: Vec<CellChange>,
}

/// Decides where all these tenants should be together. Who is at home already is decided last, and counts where it is.
/// `progress` is told of each decision. The same input gives the same answer, in whatever order it names the tenants.
///
/// # Errors
/// [`PlaceError`] where a tenant is moving already. That no cell admits one is a decision, not an error.
pub fn place_all(
    fleet: &Fleet,
    policy: Policy,
    ring: Option<&HomeRing>,
    tenants: &[TenantIx],
    room: &Room,
    progress: &mut dyn FnMut(),
) -> Result<Batch, PlaceError> {
    let (new, others): (Vec<TenantIx>, Vec<TenantIx>) =
        tenants.iter().copied().partition(|&tenant| fleet.tenant(tenant).cell().is_none());
    let Arranged { homes, moves } = arrange(fleet, policy, ring, &new, Some(room));
    let mut layout = Layout::new(fleet, policy);
    moves.iter().for_each(|step| layout.shift(step.tenant, step.target));
    let mut decisions = Vec::with_capacity(tenants.len());
    let (placed, waiting): (Vec<_>, Vec<_>) = homes.into_iter().partition(|(_, home)| home.is_some());
    let rest = others.into_iter().map(|tenant| (tenant, None));
    for (tenant, home) in placed.into_iter().chain(waiting).chain(rest) {
        let mut decision = place(&layout, ring, tenant)?;
        let alone = decision.chosen.as_ref().and_then(|cell| fleet.find_cell(cell.as_str()));
        if home.is_some() && home != alone {
            decision.for_the_others(home.map(|home| fleet.cell_id(home).clone()));
        }
        if let Some(cell) = home.or(alone).filter(|_| layout.home(tenant).is_none()) {
            layout.settle(tenant, cell);
        }
        decisions.push(decision);
        progress();
    }
    let before = Layout::new(fleet, policy);
    let differs = |of: &CellChange| of.tenants_before != of.tenants_after || of.before != of.after;
    let cells = fleet.cells().map(|cell| CellChange::between(&before, &layout, cell)).filter(differs).collect();
    Ok(Batch { cells, moves: moves.iter().map(|step| tell(fleet, step)).collect(), decisions })
}

/// Newcomers with their homes, and what has to be moved before.
pub(crate) struct Arranged {
    /// The hardest first.
    pub(crate) homes: Vec<(TenantIx, Option<CellIx>)>,
    moves: Vec<Step>,
}

/// Finds homes for tenants that have none. Without a `room`, nobody else is moved.
pub(crate) fn arrange(
    fleet: &Fleet,
    policy: Policy,
    ring: Option<&HomeRing>,
    new: &[TenantIx],
    room: Option<&Room>,
) -> Arranged {
    let mut layout = Layout::new(fleet, policy);
    let order = hardest_first(&layout, new);
    let mut waiting = Vec::new();
    for &tenant in &order {
        match best(&Question::new(&layout, tenant, &[]), ring, |_| true) {
            Some((score, _)) => layout.settle(tenant, score.cell),
            None => waiting.push(tenant),
        }
    }
    let hot = |layout: &Layout<'_>| {
        let mut cells = order.iter().filter_map(|&tenant| layout.home(tenant));
        cells.any(|cell| layout.peak(cell).share > policy.high_water)
    };
    let homes = |layout: &Layout<'_>| order.iter().map(|&tenant| (tenant, layout.home(tenant))).collect();
    let (mut arranged, is_hot) = if waiting.is_empty() {
        (Arranged { homes: homes(&layout), moves: Vec::new() }, hot(&layout))
    } else {
        let is_new = marks(fleet, new);
        let bound = Bound::new(&layout, &vec![false; fleet.cells().len()], false);
        let free = Request { goal: Goal::Rebalance, bounds: FREE, now: UnixMillis(0) };
        let paid = room.map(Room::request);
        let mut search = search(layout, ring, &free, &bound);
        search.hold_all_but(|tenant| is_new[tenant.index()]);
        waiting.retain(|&tenant| !search.admit(tenant));
        let (mut layout, _) = search.finish();
        let mut moves = Vec::new();
        if let Some(paid) = paid.as_ref().filter(|_| !waiting.is_empty()) {
            let mut search = self::search(layout, ring, paid, &bound);
            search.hold_all_but(|tenant| !is_new[tenant.index()]);
            waiting.retain(|&tenant| !search.admit(tenant));
            (layout, moves) = search.finish();
        }
        (Arranged { homes: homes(&layout), moves }, hot(&layout))
    };
    if is_hot {
        cool(fleet, policy, ring, &mut arranged);
    }
    arranged
}

fn search<'a>(
    layout: Layout<'a>,
    ring: Option<&'a HomeRing>,
    request: &'a Request,
    bound: &'a Bound,
) -> Search<'a> {
    let draining = vec![false; layout.fleet().cells().len()];
    Search::new(layout, ring, request, draining, bound)
}

fn marks(fleet: &Fleet, tenants: &[TenantIx]) -> Vec<bool> {
    let mut marks = vec![false; fleet.tenants().len()];
    tenants.iter().for_each(|tenant| marks[tenant.index()] = true);
    marks
}

/// Who is pinned, then who takes the largest share of the largest cell that there is for it.
fn hardest_first(layout: &Layout<'_>, tenants: &[TenantIx]) -> Vec<TenantIx> {
    let fleet = layout.fleet();
    let zones = &fleet.standing().zones;
    let largest: Vec<[f64; DIMS]> = zones
        .all
        .iter()
        .map(|zone| {
            let mut most = [0.0f64; DIMS];
            for &cell in &zone.cells {
                let budget = &fleet.cell(cell).budget.amounts;
                most.iter_mut().zip(budget).for_each(|(most, budget)| *most = most.max(*budget));
            }
            most
        })
        .collect();
    let share = |tenant: TenantIx| {
        let Some(zone) = zones.of_tenant(fleet.tenant(tenant)) else { return f64::INFINITY };
        let profile = fleet.demand(tenant);
        let of = |dim: usize| profile.need(dim, layout.policy().risk) / largest[zone][dim].max(1.0);
        (0..DIMS).map(of).fold(0.0, f64::max)
    };
    let mut order: Vec<(bool, f64, TenantIx)> =
        tenants.iter().map(|&tenant| (fleet.tenant(tenant).pin().is_none(), share(tenant), tenant)).collect();
    order.sort_unstable_by(|a, b| a.0.cmp(&b.0).then(b.1.total_cmp(&a.1)).then(a.2.cmp(&b.2)));
    order.dedup_by_key(|(.., tenant)| *tenant);
    order.into_iter().map(|(.., tenant)| tenant).collect()
}

/// Makes the moves of newcomers that a rebalancing of the fleet as it is then would make, until it makes none.
fn cool(fleet: &Fleet, policy: Policy, ring: Option<&HomeRing>, arranged: &mut Arranged) {
    let mut then = fleet.clone();
    arranged.moves.iter().for_each(|step| then.set_home(step.tenant, Some(step.target)));
    arranged.homes.iter().for_each(|&(tenant, home)| then.set_home(tenant, home));
    let new: Vec<TenantIx> = arranged.homes.iter().map(|(tenant, _)| *tenant).collect();
    let is_new = marks(fleet, &new);
    // So far ahead nobody is cooling down any more.
    let request = Request { goal: Goal::Rebalance, bounds: FREE, now: UnixMillis(u64::MAX) };
    for _ in 0..ROUNDS_MAX {
        let layout = Layout::new(&then, policy);
        let bound = Bound::new(&layout, &vec![false; fleet.cells().len()], policy.high_water <= 0.0);
        let mut search = search(layout, ring, &request, &bound);
        search.hold_all_but(|tenant| is_new[tenant.index()]);
        let steps = search.run().steps;
        if steps.is_empty() {
            break;
        }
        steps.iter().for_each(|step| then.set_home(step.tenant, Some(step.target)));
    }
    arranged.homes.iter_mut().for_each(|(tenant, home)| *home = then.tenant(*tenant).cell());
}
