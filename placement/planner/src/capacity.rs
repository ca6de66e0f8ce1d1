//! Capacity: how long is there room, how many cells are missing, and what if some are lost?
//!
//! Demand grows by rules. For each zone (cells between which tenants may move) two days are looked for: the one on which
//! the first *cell* passes its budget if nobody is moved, so that its reserve is eaten, and the one on which the *zone*
//! does, however well its tenants are spread. Cells to add are counted so that at the horizon the zone stays below the
//! high water even while its largest cell, or failure domain, is lost, and so that who waits for a cell finds one.

mod ahead;
mod loss;
mod waiting;

use cell_model::{CellId, Revision, Tier};
use serde::{Deserialize, Serialize};

use crate::document::Amounts;
use crate::fleet::Fleet;
use crate::layout::PeakReport;
use crate::policy::{Policy, PolicyInvalid};
use crate::resource::{Dim, Resource};
use crate::ring::HomeRing;
use ahead::Ahead;

pub use loss::{Loss, LossReport, NewHome};

/// The farthest that is looked ahead: ten years.
const HORIZON_DAYS_MAX: u32 = 3_650;
/// The most rules of growth, and the most losses, of one question.
const RULES_MAX: usize = 64;

/// Demand of some tenants that grows at a rate of its own.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct GrowthRule {
    /// Tenants of this region, and on cells of this region; empty: any.
    pub region: String,
    /// Tenants of this tier; nothing: any.
    pub tier: Option<Tier>,
    /// Share by which demand grows in 30 days: 0.05 is five per cent.
    pub monthly: f64,
}

/// How demand grows.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Growth {
    /// Share by which demand grows in 30 days, where no rule fits.
    pub monthly: f64,
    /// The first rule that fits a tenant counts.
    pub rules: Vec<GrowthRule>,
}

/// What a zone must be able to lose without passing the high water.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Survive {
    /// Nothing.
    Nothing,
    /// Its largest cell.
    #[default]
    Cell,
    /// Its largest failure domain. A cell without one is a domain by itself.
    Domain,
}

/// A question about capacity.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CapacityRequest {
    /// How demand grows.
    pub growth: Growth,
    /// How far to look ahead.
    pub horizon_days: u32,
    /// What each zone must be able to lose.
    pub survive: Survive,
    /// Capacity of a cell to add; nothing: that of the zone's largest cell.
    pub shape: Option<Amounts>,
    /// What is lost in thought, each for itself.
    pub losses: Vec<Loss>,
}

impl Default for CapacityRequest {
    fn default() -> Self {
        Self {
            growth: Growth::default(),
            horizon_days: 365,
            survive: Survive::default(),
            shape: None,
            losses: Vec::new(),
        }
    }
}

/// A day on which something passes its budget.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Breach {
    /// Days from now; 0: it is so today.
    pub days: u32,
    /// Which cell, where it is one.
    pub cell: Option<CellId>,
    /// What is short, and when.
    pub peak: PeakReport,
}

/// One resource of a zone at the hour at which it is shortest.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ZoneUse {
    /// Which resource, at which hour.
    pub at: Dim,
    /// What all cells need together, in units of the resource.
    pub need: f64,
    /// What they may be planned with together.
    pub budget: f64,
    /// Need by budget.
    pub share: f64,
    /// Need by budget at the horizon.
    pub share_at_horizon: f64,
}

/// How a zone stands.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ZoneCapacity {
    /// What its cells have in common.
    pub zone: String,
    /// How many cells may hold tenants.
    pub cells: usize,
    /// How many copies of tenants are on them.
    pub tenants: usize,
    /// Tenants on no cell that belong here. They count in everything that follows, but for the first cell's breach.
    pub waiting: usize,
    /// How many of them no cell admits as things stand.
    pub stranded: usize,
    /// Resource by resource.
    pub uses: Vec<ZoneUse>,
    /// When the first cell passes its budget if nobody is moved; nothing: not before the horizon.
    pub cell_breach: Option<Breach>,
    /// When the zone does, however well its tenants are spread.
    pub zone_breach: Option<Breach>,
    /// Cells to add, so that it stays below the high water up to the horizon, whatever it must survive.
    pub cells_to_add: u32,
    /// The shape of the cells to add.
    pub shape: Amounts,
    /// What asks for them: the resource and hour.
    pub because: Option<Dim>,
    /// What is short, and not had by cells of that shape: another shape is needed.
    #[serde(default)]
    pub lacking: Option<Dim>,
    /// All of it in a sentence.
    pub sentence: String,
}

/// The answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CapacityReport {
    /// Revision of the fleet that it was made on.
    pub parent: Revision,
    /// What was asked.
    pub request: CapacityRequest,
    /// What it was judged by.
    pub policy: Policy,
    /// Zone by zone.
    pub zones: Vec<ZoneCapacity>,
    /// Tenants on no cell that belong into no zone: no cell of their region, residency and kind is there.
    pub nowhere: usize,
    /// Loss by loss.
    pub losses: Vec<LossReport>,
}

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CapacityError {
    /// A rate that cannot be.
    #[error("growth of {given} a month: give a share from 0 to 10, such as 0.05")]
    GrowthInvalid {
        /// As given.
        given: String,
    },
    /// A rule that no tenant can fit.
    #[error("a growth rule is for region {region}, where no cell stands")]
    RegionUnknown {
        /// Which.
        region: String,
    },
    /// Too far ahead, or not at all.
    #[error("a horizon of {given} days: give 1 to {HORIZON_DAYS_MAX}")]
    HorizonInvalid {
        /// As given.
        given: u32,
    },
    /// Too many rules or losses.
    #[error("{given} growth rules or losses: at most {RULES_MAX} are taken")]
    TooMany {
        /// How many.
        given: usize,
    },
    /// A shape of nothing.
    #[error("the shape of a cell to add has {given} {}: give more than 0", resource.unit())]
    ShapeInvalid {
        /// Of what.
        resource: Resource,
        /// As given.
        given: String,
    },
    /// Nothing of that name can be lost.
    #[error("there is no {what} {name} in the fleet to be lost")]
    LossUnknown {
        /// Cell, domain or region.
        what: &'static str,
        /// Its name.
        name: String,
    },
    /// The policy cannot hold.
    #[error(transparent)]
    Policy(#[from] PolicyInvalid),
}

impl CapacityError {
    /// Stable code.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::GrowthInvalid { .. } => "GROWTH_INVALID",
            Self::RegionUnknown { .. } => "REGION_UNKNOWN",
            Self::HorizonInvalid { .. } => "HORIZON_INVALID",
            Self::TooMany { .. } => "RULES_TOO_MANY",
            Self::ShapeInvalid { .. } => "SHAPE_INVALID",
            Self::LossUnknown { .. } => "LOSS_UNKNOWN",
            Self::Policy(_) => "POLICY_INVALID",
        }
    }
}

/// Answers a question about capacity. The same input gives the same bytes.
///
/// # Errors
/// [`CapacityError`] where the question makes no sense.
pub fn capacity(
    fleet: &Fleet,
    policy: Policy,
    ring: Option<&HomeRing>,
    request: &CapacityRequest,
) -> Result<CapacityReport, CapacityError> {
    policy.check()?;
    check(fleet, request)?;
    let losses = losses(fleet, policy, ring, &request.losses)?;
    let zones = &fleet.standing().zones;
    let mut ahead = Ahead::new(fleet, policy, &request.growth, zones);
    Ok(CapacityReport {
        parent: fleet.revision(),
        request: request.clone(),
        policy,
        zones: (0..zones.all.len()).map(|zone| ahead.zone(zone, request)).collect(),
        nowhere: ahead.nowhere(),
        losses,
    })
}

/// What losses would do, each for itself. Nothing is looked at but today.
///
/// # Errors
/// [`CapacityError`] where nothing of that name can be lost.
pub fn losses(
    fleet: &Fleet,
    policy: Policy,
    ring: Option<&HomeRing>,
    losses: &[Loss],
) -> Result<Vec<LossReport>, CapacityError> {
    policy.check()?;
    if losses.len() > RULES_MAX {
        return Err(CapacityError::TooMany { given: losses.len() });
    }
    losses.iter().map(|of| loss::lose(fleet, policy, ring, of)).collect()
}

fn check(fleet: &Fleet, request: &CapacityRequest) -> Result<(), CapacityError> {
    let growth = &request.growth;
    let rates = growth.rules.iter().map(|rule| rule.monthly).chain([growth.monthly]);
    if let Some(rate) = rates.into_iter().find(|rate| !(0.0..=10.0).contains(rate)) {
        return Err(CapacityError::GrowthInvalid { given: rate.to_string() });
    }
    let unknown = |rule: &&GrowthRule| !rule.region.is_empty() && fleet.find_region(&rule.region).is_none();
    if let Some(rule) = growth.rules.iter().find(unknown) {
        return Err(CapacityError::RegionUnknown { region: rule.region.clone() });
    }
    if !(1..=HORIZON_DAYS_MAX).contains(&request.horizon_days) {
        return Err(CapacityError::HorizonInvalid { given: request.horizon_days });
    }
    if growth.rules.len() > RULES_MAX {
        return Err(CapacityError::TooMany { given: growth.rules.len() });
    }
    for resource in Resource::ALL {
        let given = request.shape.map_or(1.0, |shape| shape.of(resource));
        if !(given > 0.0 && given <= 2e6) {
            return Err(CapacityError::ShapeInvalid { resource, given: given.to_string() });
        }
    }
    Ok(())
}
