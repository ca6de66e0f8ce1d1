//! Choose a cell for one tenant, and say why: the one path filter → score → explain.
//!
//! For a tenant that is nowhere yet this is its placement; for one that is somewhere it answers where it would be best,
//! its own cell included. Planning uses the same [`choose`].

use std::fmt;

use cell_model::{CellId, Revision, TenantId};
use serde::{Deserialize, Serialize};

use crate::filter::{Question, RefusalCode, Room};
use crate::fleet::{CellIx, TenantIx, budget_of};
use crate::layout::{Layout, PeakReport};
use crate::load::{Peak, Reach};
use crate::resource::{Amount, DIMS, HOURS, Resource, SCALE};
use crate::ring::HomeRing;
use crate::score::{Score, Terms};

/// How much of a tenant's walk round the ring the score looks at.
const WALK: usize = 8;
/// So few of the cells may be open to a tenant that its home is not looked for any longer.
const WALK_LOOKED_AT: usize = 16 * WALK;
/// How many counterfactuals an explanation has.
const COUNTERFACTUALS_MAX: usize = 3;

/// All cells as one tenant sees them.
pub(crate) struct Assessment {
    /// Best first; those after the ones that are shown are left out.
    pub(crate) admitted: Vec<(Score, Peak)>,
    pub(crate) refused: Vec<Refused>,
}

/// A cell that does not admit the tenant.
pub(crate) struct Refused {
    pub(crate) cell: CellIx,
    /// The first filter that said so.
    pub(crate) code: RefusalCode,
    /// With the tenant it would be at least so full; 0 where that has not been asked.
    least: f64,
}

impl Assessment {
    /// Puts a cell into its place, if it is among the best.
    fn admit(&mut self, shown: usize, of: (Score, Peak)) {
        let at = self.admitted.partition_point(|(better, _)| *better < of.0);
        if at < shown {
            self.admitted.insert(at, of);
            self.admitted.truncate(shown);
        }
    }

    pub(crate) fn best(&self) -> Option<(Score, Peak)> {
        self.admitted.first().copied()
    }
}

/// The beginning of the tenant's walk round the ring, without cells where it may never be.
fn walk(question: &Question<'_>, ring: Option<&HomeRing>) -> Vec<CellIx> {
    let fleet = question.layout.fleet();
    let name = fleet.tenant_name(question.index);
    ring.map_or_else(Vec::new, |ring| {
        let cells = ring.walk(name).take(WALK_LOOKED_AT).filter_map(|cell| fleet.find_cell(cell.as_str()));
        cells.filter(|&cell| question.never(cell).is_none()).take(WALK).collect()
    })
}

/// Asks every cell and orders the best of those that admit the tenant, as many as an explanation shows.
///
/// Most cells surely have room, and surely are not among the best: of those nobody has to know exactly how full they
/// would be.
pub(crate) fn choose(question: &Question<'_>, ring: Option<&HomeRing>) -> Assessment {
    let walk = walk(question, ring);
    let cells = question.layout.fleet().cells();
    let shown = question.layout.policy().candidates_shown.clamp(2, cells.len().max(2));
    let mut assessment = Assessment { admitted: Vec::with_capacity(2 * shown), refused: Vec::new() };
    let mut waiting: Vec<Score> = Vec::with_capacity(cells.len());
    let mut reach = Reach::NOTHING;
    for cell in cells {
        let mut refuse = |code, least| assessment.refused.push(Refused { cell, code, least });
        if let Err(code) = question.wish().ask(cell) {
            refuse(code, 0.0);
            continue;
        }
        match question.look(cell, &mut reach) {
            Room::Enough { least } => waiting.push(Score::at_least(question, cell, least, &walk)),
            Room::None { least } => refuse(RefusalCode::CapacityExceeded, least),
            Room::Unsure => match question.ask_within(cell, &mut reach) {
                Ok(peak) => assessment.admit(shown, (Score::new(question, cell, peak, &walk), peak)),
                Err(code) => refuse(code, 0.0),
            },
        }
    }
    // The most promising first, so that all others need only a glance.
    let first = (2 * shown).min(waiting.len());
    if first < waiting.len() {
        waiting.select_nth_unstable(first);
    }
    waiting[..first].sort_unstable();
    for at_best in waiting {
        if assessment.admitted.get(shown - 1).is_none_or(|(worst, _)| at_best <= *worst) {
            let peak = question.layout.peak_within(at_best.cell, question.joining(), &mut reach);
            assessment.admit(shown, (Score::new(question, at_best.cell, peak, &walk), peak));
        }
    }
    assessment
}

/// The best of the cells that are `open`, as [`choose`] would say, for when nobody asks why. A cell that cannot be
/// better than the best so far, even if the tenant weighed nothing, is passed over.
pub(crate) fn best(
    question: &Question<'_>,
    ring: Option<&HomeRing>,
    open: impl Fn(CellIx) -> bool,
) -> Option<(Score, Peak)> {
    let walk = walk(question, ring);
    let mut reach = Reach::NOTHING;
    let mut best: Option<(Score, Peak)> = None;
    for cell in question.layout.fleet().cells().filter(|&cell| open(cell)) {
        if best.is_some_and(|(best, _)| Score::at_best(question, cell, &walk) > best) {
            continue;
        }
        let Ok(peak) = question.ask_within(cell, &mut reach) else { continue };
        let score = Score::new(question, cell, peak, &walk);
        if best.is_none_or(|(best, _)| score < best) {
            best = Some((score, peak));
        }
    }
    best
}

/// A cell that admits the tenant.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Candidate {
    /// Which.
    pub cell: CellId,
    /// Where it would be fullest with the tenant on it.
    pub peak: PeakReport,
    /// What is said for and against it.
    pub terms: Terms,
}

/// How many cells one filter refused first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RefusedCells {
    /// Which filter.
    pub code: RefusalCode,
    /// How many cells.
    pub cells: u32,
}

/// By what the best cell is better than the next.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Margin {
    /// The next.
    pub over: CellId,
    /// First term in which they differ; `cell` where only the name decides.
    pub term: String,
    /// Difference in that term; 0 where only the name decides.
    pub by: u32,
}

/// What would let a cell admit the tenant. Residency, death of a cell and pins are never offered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counterfactual {
    /// Which cell.
    pub cell: CellId,
    /// The only filter in the way.
    pub code: RefusalCode,
    /// What would change the answer.
    pub sentence: String,
}

/// Where a tenant should be, with everything that led there. Kept with the decision in the audit log.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Decision {
    /// Who.
    pub tenant: TenantId,
    /// Revision of the fleet that it was decided on.
    pub parent: Revision,
    /// The best cell, if any admits it.
    pub chosen: Option<CellId>,
    /// The cell that would be best for it alone, where another one is chosen so that all who are placed together do well.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub best_alone: Option<CellId>,
    /// How many cells were asked.
    pub cells_asked: u32,
    /// How many of them each filter refused, in the order of asking.
    pub refused: Vec<RefusedCells>,
    /// The best cells, best first.
    pub candidates: Vec<Candidate>,
    /// By what the best is better than the next, where there is a next.
    pub margin: Option<Margin>,
    /// What would admit it elsewhere, nearest first.
    pub counterfactuals: Vec<Counterfactual>,
}

impl Decision {
    /// Another cell is chosen for the sake of those who are placed together with it.
    pub(crate) fn for_the_others(&mut self, cell: Option<CellId>) {
        self.best_alone = std::mem::replace(&mut self.chosen, cell);
        self.margin = None;
    }
}

/// Why there is no decision at all.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlaceError {
    /// It is between two cells.
    #[error("tenant {tenant} is moving to cell {target}: wait for the move to end, or cancel it")]
    TenantMoving {
        /// Who.
        tenant: TenantId,
        /// Where to.
        target: CellId,
    },
    /// It is where it was taken to, and its old copy follows.
    #[error(
        "tenant {tenant} has come from cell {origin}, and its move is not over: wait for its end, or roll it back"
    )]
    TenantArrived {
        /// Who.
        tenant: TenantId,
        /// Where from.
        origin: CellId,
    },
}

/// Decides where a tenant should be.
///
/// # Errors
/// [`PlaceError`] where the tenant is moving already. That no cell admits it is a decision, not an error.
pub fn place(layout: &Layout<'_>, ring: Option<&HomeRing>, tenant: TenantIx) -> Result<Decision, PlaceError> {
    let fleet = layout.fleet();
    if let Some(target) = fleet.tenant(tenant).moving_to() {
        let target = fleet.cell_id(target).clone();
        return Err(PlaceError::TenantMoving { tenant: fleet.tenant_id(tenant), target });
    }
    if let Some(origin) = fleet.tenant(tenant).arrived_from() {
        let origin = fleet.cell_id(origin).clone();
        return Err(PlaceError::TenantArrived { tenant: fleet.tenant_id(tenant), origin });
    }
    let question = Question::new(layout, tenant, &[]);
    Ok(explain(&question, &choose(&question, ring)))
}

pub(crate) fn explain(question: &Question<'_>, assessment: &Assessment) -> Decision {
    let layout = question.layout;
    let fleet = layout.fleet();
    let candidate = |(score, peak): &(Score, Peak)| Candidate {
        cell: fleet.cell_id(score.cell).clone(),
        peak: peak.report(),
        terms: score.terms,
    };
    let mut counts = [0; RefusalCode::ALL.len()];
    assessment.refused.iter().for_each(|refused| counts[refused.code as usize] += 1);
    let count = |code: RefusalCode| RefusedCells { code, cells: counts[code as usize] };
    Decision {
        tenant: fleet.tenant_id(question.index),
        parent: fleet.revision(),
        chosen: assessment.best().map(|(score, _)| fleet.cell_id(score.cell).clone()),
        best_alone: None,
        cells_asked: u32::try_from(fleet.cells().len()).expect("the builder bounds the cells"),
        refused: RefusalCode::ALL.into_iter().map(count).filter(|refused| refused.cells > 0).collect(),
        candidates: assessment.admitted.iter().take(layout.policy().candidates_shown).map(candidate).collect(),
        margin: margin(layout, assessment),
        counterfactuals: counterfactuals(question, assessment),
    }
}

fn margin(layout: &Layout<'_>, assessment: &Assessment) -> Option<Margin> {
    let [(best, _), (next, _), ..] = assessment.admitted.as_slice() else { return None };
    let pairs = best.terms.listed().into_iter().zip(next.terms.listed());
    let differs = pairs.into_iter().find(|((_, a), (_, b))| a != b);
    let (term, by) = differs.map_or(("cell", 0), |((name, a), (_, b))| (name, b - a));
    Some(Margin { over: layout.cell_id(next.cell).clone(), term: term.into(), by })
}

/// Cells with one filter in the way, those nearest to admitting first. Where a cell has been found, only capacity is
/// of interest: it says how close the next best thing was.
fn counterfactuals(question: &Question<'_>, assessment: &Assessment) -> Vec<Counterfactual> {
    let found = assessment.best().is_some();
    let told_max = if found { 1 } else { COUNTERFACTUALS_MAX };
    let mut near: Vec<(f64, CellIx, RefusalCode)> = Vec::new();
    if !found {
        let liftable = |of: &&Refused| in_the_way_of_an_operator(of.code) && is_not_capacity(of);
        let alone = assessment.refused.iter().filter(liftable).filter(|of| question.refusals(of.cell) == [of.code]);
        near.extend(alone.map(|of| (question.peak_after(of.cell).share, of.cell, of.code)));
        near.sort_unstable_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
        near.truncate(told_max);
    }
    let room = told_max - near.len();
    near.extend(nearly_roomy(question, assessment, room));
    let told = near.into_iter().map(|(_, cell, code)| Counterfactual {
        cell: question.layout.cell_id(cell).clone(),
        code,
        sentence: remedy(question, cell, code),
    });
    told.collect()
}

/// The cells that lack nothing but room, those that lack least first. Only those that may be among them are asked
/// exactly.
fn nearly_roomy(question: &Question<'_>, assessment: &Assessment, most: usize) -> Vec<(f64, CellIx, RefusalCode)> {
    let mut full: Vec<&Refused> = assessment.refused.iter().filter(|of| !is_not_capacity(of)).collect();
    full.sort_unstable_by(|a, b| a.least.total_cmp(&b.least).then(a.cell.cmp(&b.cell)));
    let mut near: Vec<(f64, CellIx, RefusalCode)> = Vec::with_capacity(most + 1);
    for of in full {
        if near.len() == most && near.last().is_none_or(|(share, ..)| of.least > *share) {
            break;
        }
        let share = question.peak_after(of.cell).share;
        let at =
            near.partition_point(|(nearer, cell, _)| nearer.total_cmp(&share).then(cell.cmp(&of.cell)).is_lt());
        near.insert(at, (share, of.cell, of.code));
        near.truncate(most);
    }
    near
}

fn is_not_capacity(of: &Refused) -> bool {
    of.code != RefusalCode::CapacityExceeded
}

/// Filters that an operator may lift. Residency is never among them.
const fn in_the_way_of_an_operator(code: RefusalCode) -> bool {
    matches!(
        code,
        RefusalCode::CellCordoned
            | RefusalCode::CellDraining
            | RefusalCode::CellOccupied
            | RefusalCode::AntiAffinity
            | RefusalCode::CapacityExceeded
    )
}

fn remedy(question: &Question<'_>, cell: CellIx, code: RefusalCode) -> String {
    let fleet = question.layout.fleet();
    let id = fleet.cell_id(cell);
    match code {
        RefusalCode::CapacityExceeded => {
            let short: Vec<String> =
                shortfalls(question, cell).map(|(amount, hour)| format!("{amount} more at {hour:02}:00")).collect();
            format!("{} on {id} would admit it", short.join(" and "))
        }
        RefusalCode::CellCordoned => format!("lifting the cordon of {id} would admit it"),
        RefusalCode::CellDraining => format!("not draining {id} would admit it"),
        RefusalCode::CellOccupied => format!("moving the tenant off dedicated cell {id} would admit it"),
        RefusalCode::AntiAffinity => {
            let group = fleet.group_name(question.index);
            format!("moving the other member of group {group} off {id} would admit it")
        }
        other => format!("{id} refuses with {other}, which nothing here lifts"),
    }
}

/// Per resource that is short: how much more capacity the worst hour wants, in whole thousandths. What is added gives
/// its share to the reserve, too.
fn shortfalls<'a>(question: &'a Question<'_>, cell: CellIx) -> impl Iterator<Item = (Amount, usize)> + 'a {
    let short = move |dim: usize| question.layout.shortfall_at(cell, dim, Some(question.arriving(cell)));
    Resource::ALL.into_iter().filter_map(move |resource| {
        let dims = resource.first_dim()..resource.first_dim() + HOURS;
        debug_assert!(dims.end <= DIMS);
        let worst = dims.map(|dim| (short(dim), dim)).max_by(|a, b| a.0.total_cmp(&b.0).then(b.1.cmp(&a.1)))?;
        let fleet = question.layout.fleet();
        let (capacity, reserve) = (fleet.capacity(cell).of(resource), fleet.reserve(cell));
        let need = fleet.cell(cell).budget.amounts[worst.1] + worst.0;
        let amount = Amount { resource, thousandths: missing(capacity, reserve, need) };
        (worst.0 > 0.0).then_some((amount, worst.1 % HOURS))
    })
}

/// The least to add to a capacity, in whole thousandths, so that its budget holds the need.
fn missing(capacity: f64, reserve: f64, need: f64) -> f64 {
    let thousandths = capacity * SCALE;
    let about = (need.ceil() / (1.0 - reserve) - thousandths).ceil().max(0.0);
    // A division by the share is not exactly the product with it: the budget itself has the last word.
    let holds = |more: f64| budget_of((thousandths + more).round() / SCALE, reserve) >= need;
    let mut nearby = (-2..=2).map(|off| about + f64::from(off)).filter(|more| *more > 0.0);
    nearby.find(|more| holds(*more)).unwrap_or(about)
}

impl fmt::Display for Decision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.chosen {
            Some(cell) => writeln!(f, "tenant {} → cell {cell}", self.tenant)?,
            None => {
                let s = if self.cells_asked == 1 { "" } else { "s" };
                writeln!(f, "tenant {}: none of {} cell{s} admits it", self.tenant, self.cells_asked)?;
            }
        }
        for refused in &self.refused {
            writeln!(f, "  {:>5} refused by {}", refused.cells, refused.code)?;
        }
        for candidate in &self.candidates {
            let percent = candidate.peak.share * 100.0;
            write!(f, "  {} {percent:.1} % ({})", candidate.cell, candidate.peak.at)?;
            for (name, value) in candidate.terms.listed() {
                write!(f, " {name}={value}")?;
            }
            writeln!(f)?;
        }
        if let Some(margin) = &self.margin {
            writeln!(f, "  better than {} by {} of {}", margin.over, margin.by, margin.term)?;
        }
        for counterfactual in &self.counterfactuals {
            writeln!(f, "  {}", counterfactual.sentence)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::document::{Amounts, CellEntry, Demand, FleetDocument, Hourly, ResourceDemand, TenantEntry};
    use crate::policy::Policy;
    use crate::ring::RingOptions;
    use proptest::prelude::*;

    fn cell((id, capacity, domain): (usize, f64, usize)) -> CellEntry {
        CellEntry {
            id: format!("c-{id:02}"),
            domain: format!("rack-{domain}"),
            capacity: Amounts { cpu: capacity, connections: capacity, storage: capacity },
            ..CellEntry::default()
        }
    }

    fn tenant((id, cpu, deviation, cell): (usize, f64, f64, usize)) -> TenantEntry {
        let of = |mean, deviation| ResourceDemand { mean: Hourly::Flat(mean), deviation: Hourly::Flat(deviation) };
        TenantEntry {
            id: format!("t-{id:03}"),
            group: if id % 5 == 0 { "g".into() } else { String::new() },
            spike_cluster: if id % 3 == 0 { "s".into() } else { String::new() },
            cell: if cell < 12 { format!("c-{cell:02}") } else { String::new() },
            demand: Demand { cpu: of(cpu, deviation), connections: of(cpu / 2.0, 0.0), storage: of(1.0, 0.0) },
            ..TenantEntry::default()
        }
    }

    proptest! {
        #![proptest_config(proptest::test_runner::Config::with_cases(60))]

        #[test]
        fn the_short_way_to_the_best_cell_ends_where_the_long_one_does(
            capacities in prop::collection::vec((20.0f64..120.0, 0usize..3), 12),
            demands in prop::collection::vec((0.0f64..30.0, 0.0f64..6.0, 0usize..14), 1..60),
        ) {
            let cells = capacities.into_iter().enumerate().map(|(id, (capacity, domain))| cell((id, capacity, domain)));
            let tenants = demands.into_iter().enumerate();
            let tenants = tenants.map(|(id, (cpu, deviation, at))| tenant((id, cpu, deviation, at)));
            let document = FleetDocument {
                cells: cells.collect(),
                tenants: tenants.collect(),
                ..FleetDocument::default()
            };
            let fleet = document.build().unwrap();
            let cells = fleet.cells().map(|cell| fleet.cell_id(cell).clone());
            let ring = HomeRing::build(cells, RingOptions::default()).unwrap();
            let layout = Layout::new(&fleet, Policy::default());
            for tenant in fleet.tenants() {
                let question = Question::new(&layout, tenant, &[]);
                for ring in [None, Some(&ring)] {
                    let all = choose(&question, ring);
                    let long = all.best().map(|(score, peak)| (score, peak.share.to_bits()));
                    let walk = walk(&question, ring);
                    let ask = |cell| question.ask(cell).map(|peak| (Score::new(&question, cell, peak, &walk), peak));
                    let mut plainly: Vec<(Score, Peak)> = fleet.cells().filter_map(|cell| ask(cell).ok()).collect();
                    plainly.sort_unstable_by_key(|(score, _)| *score);
                    plainly.truncate(5);
                    prop_assert_eq!(&all.admitted, &plainly);
                    let short = best(&question, ring, |_| true).map(|(score, peak)| (score, peak.share.to_bits()));
                    prop_assert_eq!(short, long);
                    let mut reach = Reach::NOTHING;
                    for cell in fleet.cells() {
                        prop_assert_eq!(question.ask_within(cell, &mut reach), question.ask(cell));
                    }
                }
            }
        }
    }
}
