//! Cells: how they join, what is declared and reported of them, and which tenants may be on them because of that.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::options::{check_endpoints, invalid};
use super::{check_residency, check_taking, known_cell};
use crate::rule::require;
use crate::{
    Capacity, CellId, CellKind, CellRecord, CellState, CellTraits, Change, Declaration, Envelope, FleetView,
    Generation, Life, NewCell, NewTenant, Rejected, Rule, Stamp, TenantId, Tier,
};

pub(super) fn create(fleet: &dyn FleetView, cell: &NewCell, stamp: Stamp) -> Result<Vec<Change>, Rejected> {
    require(Rule::CreateCellExists, fleet.cell(&cell.id).is_none(), || Rejected::CellExists {
        cell: cell.id.clone(),
    })?;
    check_endpoints(&cell.gates, &cell.agent)?;
    check_traits(&cell.traits)?;
    Ok(vec![Change::Cell(Arc::new(CellRecord {
        id: cell.id.clone(),
        state: CellState::Active,
        gates: cell.gates.clone(),
        agent: cell.agent.clone(),
        region: cell.region.clone(),
        residency: cell.residency.clone(),
        traits: cell.traits.clone(),
        generation: Generation(0),
        revision: stamp.revision,
    }))])
}

pub(super) fn change(
    fleet: &dyn FleetView,
    cell: &CellId,
    stamp: Stamp,
    change: impl FnOnce(&mut CellRecord),
) -> Result<Vec<Change>, Rejected> {
    let before = known_cell(fleet, cell)?;
    let mut record = before.clone();
    change(&mut record);
    if record == *before {
        return Ok(Vec::new());
    }
    record.revision = stamp.revision;
    Ok(vec![Change::Cell(Arc::new(record))])
}

/// The gates that are known, and those that have come to an agent since it started. The known ones are kept until it
/// says that all of its gates have had the time to come.
pub(super) fn with_known(known: &[String], come: &[String]) -> Vec<String> {
    let new = come.iter().filter(|gate| !known.contains(gate));
    known.iter().chain(new).cloned().collect()
}

pub(super) fn report(
    fleet: &dyn FleetView,
    cell: &CellId,
    generation: Generation,
    gates: &[String],
    agent: &str,
    stamp: Stamp,
) -> Result<Vec<Change>, Rejected> {
    check_endpoints(gates, agent)?;
    let known = known_cell(fleet, cell)?.generation;
    // A process that was paused, with a younger one in its place, must not point routers back to itself.
    require(Rule::ReportGeneration, generation >= known, || Rejected::StaleGeneration {
        cell: cell.clone(),
        expected: generation,
        actual: known,
    })?;
    change(fleet, cell, stamp, |record| {
        record.generation = generation;
        // Where nobody stands before the application, an operator says where it is.
        if !record.traits.ungated {
            record.gates = gates.to_vec();
        }
        record.agent = agent.to_owned();
    })
}

// --- what is declared

/// The longest name of a region, a legal zone or a failure domain.
const LABEL_BYTES_MAX: usize = 63;

pub(super) fn check_traits(traits: &CellTraits) -> Result<(), Rejected> {
    let Capacity { cpu, connections, storage } = traits.capacity;
    require(Rule::CellCapacity, [cpu, connections, storage].iter().all(|of| *of <= Capacity::MAX), || {
        invalid("capacity", format!("at most {} of each", Capacity::MAX / 1_000))
    })?;
    require(Rule::CellReserve, traits.reserve < CellTraits::WHOLE, || {
        invalid("reserve", format!("{} thousandths leave nothing to plan with: less than 100 %", traits.reserve))
    })?;
    check_label("domain", &traits.domain)
}

fn check_label(option: &str, label: &str) -> Result<(), Rejected> {
    require(Rule::CellLabel, label.len() <= LABEL_BYTES_MAX, || {
        invalid(option, format!("at most {LABEL_BYTES_MAX} bytes"))
    })
}

/// A cell is declared anew. `only` is the tenant that is to be the only one of a dedicated cell.
pub(super) fn declare(
    fleet: &dyn FleetView,
    cell: &CellId,
    declaration: &Declaration,
    only: Option<&TenantId>,
    stamp: Stamp,
) -> Result<Vec<Change>, Rejected> {
    let before = known_cell(fleet, cell)?;
    let mut record = before.clone();
    let Declaration { kind, domain, capacity, reserve, region, residency, databases, ungated, instances } =
        declaration.clone();
    let traits = &mut record.traits;
    traits.kind = kind.unwrap_or(traits.kind);
    traits.domain = domain.unwrap_or_else(|| std::mem::take(&mut traits.domain));
    traits.capacity = capacity.unwrap_or(traits.capacity);
    traits.reserve = reserve.unwrap_or(traits.reserve);
    traits.databases = databases.or(traits.databases);
    traits.ungated = ungated.unwrap_or(traits.ungated);
    if let Some(instances) = instances {
        require(Rule::DeclareInstances, traits.ungated, || {
            invalid(
                "gates",
                "the agent of a cell with gates says where they are: only of a cell without they are declared",
            )
        })?;
        check_endpoints(&instances, &record.agent)?;
        record.gates = instances;
    } else if before.traits.ungated && !traits.ungated {
        // They are no gates: the agent will say which there are.
        record.gates = Vec::new();
    }
    record.region = region.unwrap_or(record.region);
    record.residency = residency.unwrap_or(record.residency);
    check_traits(&record.traits)?;
    check_label("region", &record.region)?;
    check_label("residency", &record.residency)?;
    if record == *before {
        return Ok(Vec::new());
    }
    // Nobody who needs a legal zone is on a cell that has none, so that naming one takes nothing from anybody.
    if record.residency != before.residency && !before.residency.is_empty() {
        check_empty(fleet, before, "residency", None)?;
    }
    if record.traits.kind != before.traits.kind {
        let only = only.filter(|_| record.traits.kind == CellKind::Dedicated);
        check_empty(fleet, before, "kind", only)?;
    }
    // A move stands on the fences that its cells had when it was asked for.
    if record.traits.ungated != before.traits.ungated {
        let is_left_alone = !is_moved_to_or_from(fleet, cell, None);
        require(Rule::DeclareGate, is_left_alone, || Rejected::CellInUse {
            cell: cell.clone(),
            tenants: 0,
            what: "gate".into(),
        })?;
    }
    record.revision = stamp.revision;
    Ok(vec![Change::Cell(Arc::new(record))])
}

/// What decides who may be on a cell is not declared anew while somebody is, or will be.
fn check_empty(
    fleet: &dyn FleetView,
    cell: &CellRecord,
    what: &str,
    only: Option<&TenantId>,
) -> Result<(), Rejected> {
    let tenants = fleet.tenants_on(&cell.id);
    let belongs = only.and_then(|id| fleet.tenant(id)).is_some_and(|record| {
        let lives = matches!(record.life, Life::Live | Life::Provisioning);
        record.owner == cell.id && record.tier == Tier::Platinum && lives
    });
    let is_left_alone = !is_moved_to_or_from(fleet, &cell.id, None);
    require(Rule::DeclareInUse, is_left_alone && tenants == u64::from(belongs), || Rejected::CellInUse {
        cell: cell.id.clone(),
        tenants,
        what: what.into(),
    })
}

/// A move of anybody but `besides` begins or ends there.
fn is_moved_to_or_from(fleet: &dyn FleetView, cell: &CellId, besides: Option<&TenantId>) -> bool {
    fleet.moving().filter(|(_, record)| Some(&record.id) != besides).any(|(_, record)| {
        record.movement.as_ref().is_some_and(|movement| movement.source == *cell || movement.target == *cell)
    })
}

/// Whether it counts what a cell is declared to be. What was decided before there were kinds is decided once more in the same way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kinds {
    Count,
    Unknown,
}

impl Kinds {
    pub(super) const fn of(envelope: &Envelope) -> Self {
        if envelope.layout < 5 { Self::Unknown } else { Self::Count }
    }

    /// Platinum has a cell of its own, nobody else comes to such a cell, and gold has a database of its own.
    pub(super) fn check_tier(
        self,
        fleet: &dyn FleetView,
        tenant: &TenantId,
        tier: Tier,
        cell: &CellRecord,
    ) -> Result<(), Rejected> {
        if self == Self::Unknown {
            return Ok(());
        }
        let kind = cell.traits.kind;
        require(Rule::TierKind, cell.traits.is_for(tier), || Rejected::TierMismatch {
            tenant: tenant.clone(),
            tier,
            cell: cell.id.clone(),
            kind,
        })?;
        let is_free = || fleet.tenants_on(&cell.id) == 0 && !is_moved_to_or_from(fleet, &cell.id, Some(tenant));
        require(Rule::TierAlone, kind == CellKind::Pooled || is_free(), || Rejected::CellOccupied {
            tenant: tenant.clone(),
            cell: cell.id.clone(),
        })
    }
}

/// Tenants on cells that do not own them: by cell, how many a move under way takes there, or has brought from there while the
/// copy that they have left follows. They take room there as well.
#[must_use]
pub fn copies_under_way(fleet: &dyn FleetView) -> BTreeMap<&CellId, u64> {
    let mut copies = BTreeMap::new();
    for (_, record) in fleet.moving() {
        let Some(movement) = &record.movement else { continue };
        let other = if record.owner == movement.source { &movement.target } else { &movement.source };
        *copies.entry(other).or_default() += 1;
    }
    copies
}

/// Which cells take a new tenant that names none.
pub(super) struct Choice<'a> {
    fleet: &'a dyn FleetView,
    kinds: Kinds,
    new: &'a NewTenant,
    copies: BTreeMap<&'a CellId, u64>,
}

impl<'a> Choice<'a> {
    pub(super) fn new(fleet: &'a dyn FleetView, kinds: Kinds, new: &'a NewTenant) -> Self {
        let copies = if kinds == Kinds::Count { copies_under_way(fleet) } else { BTreeMap::new() };
        Self { fleet, kinds, new, copies }
    }

    /// The tenants that it has, and those that are on their way.
    pub(super) fn load(&self, cell: &CellRecord) -> u64 {
        self.fleet.tenants_on(&cell.id).saturating_add(self.copies.get(&cell.id).copied().unwrap_or_default())
    }

    /// Why the tenant is not placed there; the codes are those of the planner's filters.
    fn refusal(&self, cell: &CellRecord) -> Option<&'static str> {
        let Self { fleet, kinds, new, .. } = self;
        let checked = check_residency(Rule::CreateTenantResidency, &new.id, &new.residency, cell)
            .and_then(|()| check_taking(Rule::CreateTenantTaking, cell))
            .and_then(|()| kinds.check_tier(*fleet, &new.id, new.tier, cell));
        match checked {
            Err(rejected) => Some(rejected.code()),
            Ok(()) if cell.traits.may_hold(self.load(cell).saturating_add(1)) => None,
            Ok(()) => Some("CAPACITY_EXCEEDED"),
        }
    }

    pub(super) fn takes(&self, cell: &CellRecord) -> bool {
        self.refusal(cell).is_none()
    }

    /// No cell takes the tenant: how many of them refuse it for what.
    pub(super) fn none_takes(&self) -> Rejected {
        let mut refused: Vec<(String, u32)> = Vec::new();
        for code in self.fleet.cells().filter_map(|cell| self.refusal(cell)) {
            match refused.iter_mut().find(|(known, _)| known == code) {
                Some((_, cells)) => *cells += 1,
                None => refused.push((code.into(), 1)),
            }
        }
        Rejected::NoEligibleCell { residency: self.new.residency.clone(), tier: self.new.tier, refused }
    }
}
