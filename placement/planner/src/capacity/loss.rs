//! What if a cell, a failure domain or a region is lost? Its tenants are placed anew, the largest first, by the same
//! path as any other tenant, on what is left.

use cell_model::{CellId, CellState, TenantId};
use serde::{Deserialize, Serialize};

use super::CapacityError;
use crate::explain::{best, choose, explain};
use crate::filter::Question;
use crate::fleet::{CellIx, Fleet, Label, TenantIx};
use crate::layout::{Layout, PeakReport, rounded};
use crate::plan::{CellChange, Left};
use crate::policy::Policy;
use crate::resource::DIMS;
use crate::ring::HomeRing;

/// How many stranded tenants are listed with what each cell said; how many with a sentence, or with their new home.
const EXPLAINED_MAX: usize = 20;
const LISTED_MAX: usize = 1_000;

/// What is lost.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Loss {
    /// One cell.
    Cell {
        /// Which.
        cell: CellId,
    },
    /// Every cell of a failure domain.
    Domain {
        /// Which.
        domain: String,
    },
    /// Every cell of a region.
    Region {
        /// Which.
        region: String,
    },
}

/// Another home for a tenant that has lost its own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewHome {
    /// Who.
    pub tenant: TenantId,
    /// The lost cell.
    pub source: CellId,
    /// The cell that takes it in.
    pub target: CellId,
}

/// What comes of a loss.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LossReport {
    /// What is lost.
    pub loss: Loss,
    /// The cells.
    pub cells: Vec<CellId>,
    /// Tenants that lose their home.
    pub tenants: usize,
    /// The same as a share of all that have one.
    pub tenants_share: f64,
    /// Share of all demand that they are, in the resource and hour in which that is most: the blast radius.
    pub blast_radius: f64,
    /// How many of them find another home.
    pub rehomed: usize,
    /// Who goes where, in the order in which they are taken in: the hardest first.
    pub homes: Vec<NewHome>,
    /// How many more of them there are.
    pub homes_unlisted: usize,
    /// Who does not, and why.
    pub stranded: Vec<Left>,
    /// How many more of them there are.
    pub stranded_unlisted: usize,
    /// Bytes to be restored.
    pub bytes: u64,
    /// The fullest cell then, of those that take somebody.
    pub hottest: Option<(CellId, PeakReport)>,
    /// The cells that take somebody.
    pub takers: Vec<CellChange>,
    /// All of it in a sentence.
    pub sentence: String,
}

/// The cells that a loss takes.
fn cells_of(fleet: &Fleet, loss: &Loss) -> Result<Vec<CellIx>, CapacityError> {
    let unknown = |what, name: &str| CapacityError::LossUnknown { what, name: name.to_owned() };
    let all = |of: fn(&crate::fleet::Cell) -> Label, label| {
        fleet.cells().filter(|&cell| of(fleet.cell(cell)) == label).collect::<Vec<_>>()
    };
    match loss {
        Loss::Cell { cell } => {
            let cell = fleet.find_cell(cell.as_str()).ok_or_else(|| unknown("cell", cell.as_str()))?;
            Ok(vec![cell])
        }
        Loss::Domain { domain } => {
            let label = fleet.find_domain(domain).ok_or_else(|| unknown("failure domain", domain))?;
            Ok(all(|cell| cell.domain, label))
        }
        Loss::Region { region } => {
            let label = fleet.find_region(region).ok_or_else(|| unknown("region", region))?;
            Ok(all(|cell| cell.region, label))
        }
    }
}

pub(super) fn lose(
    fleet: &Fleet,
    policy: Policy,
    ring: Option<&HomeRing>,
    loss: &Loss,
) -> Result<LossReport, CapacityError> {
    let cells = cells_of(fleet, loss)?;
    let mut after = fleet.clone();
    let mut homeless = Vec::new();
    for &cell in &cells {
        after.set_state(cell, CellState::Dead);
    }
    let is_lost = |cell: Option<CellIx>| cell.is_some_and(|cell| cells.contains(&cell));
    for tenant in fleet.tenants() {
        let of = fleet.tenant(tenant);
        if is_lost(of.cell()) {
            after.set_home(tenant, None);
            homeless.push(tenant);
        } else if is_lost(of.elsewhere()) {
            after.set_home(tenant, of.cell());
        }
    }
    let before = Layout::new(fleet, policy);
    let mut rescue = Rescue {
        layout: Layout::new(&after, policy),
        ring,
        rehomed: 0,
        homes: Vec::new(),
        takers: Vec::new(),
        stranded: Vec::new(),
        unlisted: 0,
    };
    rescue.run(&before, &homeless);
    Ok(rescue.report(fleet, &before, loss, &cells, &homeless))
}

struct Rescue<'a> {
    layout: Layout<'a>,
    ring: Option<&'a HomeRing>,
    rehomed: usize,
    homes: Vec<NewHome>,
    takers: Vec<CellIx>,
    stranded: Vec<Left>,
    unlisted: usize,
}

impl Rescue<'_> {
    /// Places the homeless, the hardest first, while there is the most room.
    fn run(&mut self, before: &Layout<'_>, homeless: &[TenantIx]) {
        let mut order: Vec<(f64, TenantIx)> =
            homeless.iter().map(|&tenant| (before.largest_share(tenant), tenant)).collect();
        order.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
        for (_, tenant) in order {
            let question = Question::new(&self.layout, tenant, &[]);
            let found = best(&question, self.ring, |_| true);
            match found {
                Some((score, _)) => {
                    self.layout.settle(tenant, score.cell);
                    self.takers.push(score.cell);
                    self.rehomed += 1;
                    self.tell(before, tenant, score.cell);
                }
                None => self.strand(before, tenant),
            }
        }
        self.takers.sort_unstable();
        self.takers.dedup();
    }

    fn tell(&mut self, before: &Layout<'_>, tenant: TenantIx, target: CellIx) {
        if self.homes.len() < LISTED_MAX {
            let fleet = before.fleet();
            let source = before.home(tenant).expect("who loses a home has one");
            let (source, target) = (fleet.cell_id(source).clone(), fleet.cell_id(target).clone());
            self.homes.push(NewHome { tenant: fleet.tenant_id(tenant), source, target });
        }
    }

    fn strand(&mut self, before: &Layout<'_>, tenant: TenantIx) {
        if self.stranded.len() >= LISTED_MAX {
            self.unlisted += 1;
            return;
        }
        let fleet = before.fleet();
        let home = before.home(tenant).expect("who loses a home has one");
        let decision = (self.stranded.len() < EXPLAINED_MAX).then(|| {
            let question = Question::new(&self.layout, tenant, &[]);
            Box::new(explain(&question, &choose(&question, self.ring)))
        });
        self.stranded.push(Left {
            tenant: fleet.tenant_id(tenant),
            cell: fleet.cell_id(home).clone(),
            why: "no cell that is left admits it".into(),
            decision,
        });
    }

    fn report(
        self,
        fleet: &Fleet,
        before: &Layout<'_>,
        loss: &Loss,
        cells: &[CellIx],
        homeless: &[TenantIx],
    ) -> LossReport {
        let placed = fleet.tenants().filter(|&tenant| before.home(tenant).is_some()).count();
        let hottest = self.takers.iter().copied().max_by(|&a, &b| {
            let share = |cell| self.layout.peak(cell).share;
            share(a).total_cmp(&share(b)).then(b.cmp(&a))
        });
        let change = |&cell: &CellIx| CellChange::between(before, &self.layout, cell);
        let stranded = self.stranded.len() + self.unlisted;
        let hottest = hottest.map(|cell| (fleet.cell_id(cell).clone(), self.layout.peak_report(cell)));
        let fullest = hottest.as_ref().map_or_else(String::new, |(cell, peak)| {
            format!("; the fullest taker is {cell} at {:.1} % ({})", peak.share * 100.0, peak.at)
        });
        let lose = match homeless.len() {
            1 => "1 tenant loses its home".to_owned(),
            count => format!("{count} tenants lose their home"),
        };
        let find = if self.rehomed == 1 { "finds" } else { "find" };
        let miss = if stranded == 1 { "does" } else { "do" };
        let sentence = format!("{lose}, {} {find} another, {stranded} {miss} not{fullest}", self.rehomed);
        LossReport {
            loss: loss.clone(),
            cells: cells.iter().map(|&cell| fleet.cell_id(cell).clone()).collect(),
            tenants: homeless.len(),
            tenants_share: share(homeless.len(), placed),
            blast_radius: rounded(blast_radius(fleet, homeless)),
            rehomed: self.rehomed,
            homes_unlisted: self.rehomed - self.homes.len(),
            homes: self.homes,
            bytes: homeless.iter().map(|&tenant| fleet.bytes_of(tenant)).sum(),
            hottest,
            takers: self.takers.iter().map(change).collect(),
            stranded: self.stranded,
            stranded_unlisted: self.unlisted,
            sentence,
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "counts of tenants need no 53 bits")]
fn share(part: usize, of: usize) -> f64 {
    rounded(part as f64 / of.max(1) as f64)
}

fn blast_radius(fleet: &Fleet, homeless: &[TenantIx]) -> f64 {
    let mut all = [0.0; DIMS];
    let mut lost = [0.0; DIMS];
    let add = |sums: &mut [f64; DIMS], tenant| {
        sums.iter_mut().zip(&fleet.demand(tenant).mean).for_each(|(sum, mean)| *sum += mean);
    };
    fleet.tenants().filter(|&tenant| fleet.tenant(tenant).cell().is_some()).for_each(|of| add(&mut all, of));
    homeless.iter().for_each(|&tenant| add(&mut lost, tenant));
    let shares = lost.iter().zip(&all).map(|(lost, all)| if *all > 0.0 { lost / all } else { 0.0 });
    shares.fold(0.0, f64::max)
}
