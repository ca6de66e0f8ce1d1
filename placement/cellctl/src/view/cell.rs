//! Cells.

use cell_client::wire;
use serde::Serialize;

use super::{View, dash, some_number, word};

/// A cell.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct CellView {
    /// Its name.
    pub cell: String,
    /// active, cordoned, dead.
    pub state: String,
    /// Its agent.
    pub agent: String,
    /// Its gates; of a cell without one, the instances of its application.
    pub gates: Vec<String>,
    /// It has no gate.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub ungated: bool,
    /// Where it stands.
    pub region: String,
    /// Legal zone.
    pub residency: String,
    /// pooled, dedicated.
    pub cell_kind: String,
    /// What fails together with it.
    pub domain: String,
    /// What it was declared to have.
    pub capacity: Option<CapacityView>,
    /// Share of that which is not planned with.
    pub reserve: f64,
    /// shared, own; nothing where nobody said.
    pub databases: Option<String>,
    /// Incarnation of its agent.
    pub generation: u64,
    /// Revision of the record.
    pub revision: u64,
}

/// What a cell has; nothing where nobody said.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct CapacityView {
    /// Cores.
    pub cpu: Option<f64>,
    /// Connections to its database.
    pub connections: Option<f64>,
    /// Gigabytes.
    pub storage: Option<f64>,
}

impl CapacityView {
    fn of(wire: wire::Capacity) -> Option<Self> {
        let [cpu, connections, storage] =
            [wire.cpu, wire.connections, wire.storage].map(|of| some_number(of).map(units));
        (wire != wire::Capacity::default()).then_some(Self { cpu, connections, storage })
    }

    /// As `cell declare` takes it.
    #[must_use]
    pub fn text(&self) -> String {
        let named = [("cpu", self.cpu), ("connections", self.connections), ("storage", self.storage)];
        let said = named.iter().filter_map(|(name, amount)| amount.map(|amount| format!("{name}={amount}")));
        said.collect::<Vec<_>>().join(",")
    }
}

#[expect(clippy::cast_precision_loss, reason = "the model bounds it far below")]
fn units(thousandths: u64) -> f64 {
    thousandths as f64 / 1e3
}

impl From<wire::Cell> for CellView {
    fn from(cell: wire::Cell) -> Self {
        Self {
            state: word("CELL_STATE_", cell.state, |state: wire::CellState| state.as_str_name()),
            cell: cell.id,
            agent: cell.agent,
            gates: cell.gates,
            ungated: cell.ungated,
            region: cell.region,
            residency: cell.residency,
            cell_kind: if cell.kind == 0 {
                "pooled".into()
            } else {
                word("CELL_KIND_", cell.kind, |kind: wire::CellKind| kind.as_str_name())
            },
            domain: cell.domain,
            capacity: cell.capacity.and_then(CapacityView::of),
            reserve: units(cell.reserve.into()),
            databases: (cell.databases != 0)
                .then(|| word("DATABASES_", cell.databases, |of: wire::Databases| of.as_str_name())),
            generation: cell.generation,
            revision: cell.revision,
        }
    }
}

impl View for CellView {
    const KIND: &'static str = "Cell";
    const COLUMNS: &'static [&'static str] =
        &["CELL", "STATE", "KIND", "AGENT", "GATES", "REGION", "RESIDENCY", "DOMAIN", "CAPACITY", "GENERATION"];

    fn row(&self) -> Vec<String> {
        vec![
            self.cell.clone(),
            self.state.clone(),
            self.cell_kind.clone(),
            dash(&self.agent),
            dash(&self.gates.join(",")),
            dash(&self.region),
            dash(&self.residency),
            dash(&self.domain),
            self.capacity.map_or_else(|| "-".into(), |capacity| capacity.text()),
            self.generation.to_string(),
        ]
    }

    fn name(&self) -> String {
        format!("cell/{}", self.cell)
    }
}
