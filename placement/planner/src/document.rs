//! A fleet as people and programs hand it over: one JSON document.
//!
//! The same entries come from tables (see `table.rs`) and go one by one into [`FleetBuilder`](crate::FleetBuilder), so
//! that a fleet of a million tenants needs no document of a million entries.

pub use cell_model::{CellKind, Databases};
use cell_model::{CellState, Revision, Tier, UnixMillis};
use serde::{Deserialize, Serialize};

mod amount;

use crate::fleet::{Fleet, FleetBuilder};
use crate::problem::{FleetError, Place, ProblemCode};
use crate::resource::Resource;

/// One amount of each resource: cores, connections, gigabytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Amounts {
    /// Cores.
    pub cpu: f64,
    /// Database connections.
    pub connections: f64,
    /// Gigabytes.
    pub storage: f64,
}

impl Amounts {
    /// The amount of one resource.
    #[must_use]
    pub const fn of(&self, resource: Resource) -> f64 {
        match resource {
            Resource::Cpu => self.cpu,
            Resource::Connections => self.connections,
            Resource::Storage => self.storage,
        }
    }
}

/// The same amount all day, or one for each hour (UTC).
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Hourly {
    /// All day.
    Flat(f64),
    /// 24 amounts, from 00:00.
    ByHour(Vec<f64>),
}

impl Default for Hourly {
    fn default() -> Self {
        Self::Flat(0.0)
    }
}

/// What a tenant wants of one resource.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ResourceDemand {
    /// Expected amount.
    pub mean: Hourly,
    /// Standard deviation (the root of the variance) within the hour.
    #[serde(default)]
    pub deviation: Hourly,
}

/// What a tenant wants of all resources.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Demand {
    /// Cores.
    pub cpu: ResourceDemand,
    /// Database connections.
    pub connections: ResourceDemand,
    /// Gigabytes.
    pub storage: ResourceDemand,
}

impl Demand {
    /// What it wants of one resource.
    #[must_use]
    pub const fn of(&self, resource: Resource) -> &ResourceDemand {
        match resource {
            Resource::Cpu => &self.cpu,
            Resource::Connections => &self.connections,
            Resource::Storage => &self.storage,
        }
    }
}

/// A cell of a fleet document. Texts are empty where nobody said.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CellEntry {
    /// Its name.
    pub id: String,
    /// Whether it takes tenants.
    pub state: CellState,
    /// What it is for.
    pub kind: CellKind,
    /// Where it stands.
    pub region: String,
    /// Legal zone of its data.
    pub residency: String,
    /// What fails together with it: a rack, a building, a zone.
    pub domain: String,
    /// What it has.
    pub capacity: Amounts,
    /// Share of the capacity that is not to be planned with. The rest is the cell's budget.
    pub reserve: f64,
    /// How its tenants' data is kept apart: gold wants a database of its own. Nothing where nobody said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub databases: Option<Databases>,
}

/// A tenant of a fleet document. Texts are empty where nobody said.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TenantEntry {
    /// Its name.
    pub id: String,
    /// What it has paid for. Platinum wants a dedicated cell.
    pub tier: Tier,
    /// Region that it must be in; empty: any.
    pub region: String,
    /// Legal zone that its data may not leave; empty: any.
    pub residency: String,
    /// Anti-affinity: no two tenants of a group share a cell.
    pub group: String,
    /// Tenants whose demand rises together: their deviations add up instead of evening out.
    pub spike_cluster: String,
    /// The only cell that it may be on.
    pub pin: String,
    /// No rebalancing move before this time.
    pub cooldown_until: UnixMillis,
    /// Where it is; empty: nowhere yet.
    pub cell: String,
    /// Where a move under way takes it. It counts on both cells until that is over.
    pub moving_to: String,
    /// Where a move under way has brought it from, once `cell` has taken over. It counts on both cells until that is over.
    pub arrived_from: String,
    /// What it wants.
    pub demand: Demand,
}

/// A whole fleet.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct FleetDocument {
    /// Revision of the store that this is a picture of. A plan carries it as its parent.
    pub revision: Revision,
    /// The store, and its history, that this is a picture of; empty where it is of none. A plan carries it, too.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub cluster: String,
    /// The cells.
    pub cells: Vec<CellEntry>,
    /// The tenants.
    pub tenants: Vec<TenantEntry>,
}

impl FleetDocument {
    /// Reads a JSON document.
    ///
    /// # Errors
    /// [`FleetError`] with line and column where the text does not parse or is cut short.
    pub fn from_json(text: &str) -> Result<Self, FleetError> {
        serde_json::from_str(text).map_err(|error| {
            let place = Place::Text { line: error.line(), column: error.column() };
            if error.is_eof() {
                let remedy = "the text ends too early: copy the file again, whole";
                return FleetError::one(ProblemCode::FleetSyntax, place, error.to_string(), remedy);
            }
            match amount::no_number_at(text, error.line(), error.column()) {
                Some(sentence) => {
                    let remedy = "correct it there: give one amount, or 24, each from 0";
                    FleetError::one(ProblemCode::FleetSyntax, place, sentence, remedy)
                }
                None => FleetError::one(ProblemCode::FleetSyntax, place, error.to_string(), "correct it there"),
            }
        })
    }

    /// Writes a JSON document, the same bytes for the same fleet.
    #[must_use]
    pub fn to_json(&self) -> String {
        let mut text = serde_json::to_string_pretty(self).expect("a document has string keys only");
        text.push('\n');
        text
    }

    /// Checks everything and packs it.
    ///
    /// # Errors
    /// [`FleetError`] lists what is wrong, where, and what to do about it.
    pub fn build(&self) -> Result<Fleet, FleetError> {
        let mut builder = FleetBuilder::new(
            self.revision,
            self.cells.iter().enumerate().map(|(index, cell)| (Place::Cell(index), cell)),
        )
        .of_cluster(&self.cluster);
        for (index, tenant) in self.tenants.iter().enumerate() {
            builder.tenant(Place::Tenant(index), tenant);
        }
        builder.finish()
    }
}
