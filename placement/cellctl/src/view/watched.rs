//! Something that a watch has told, one line each.

use cell_client::{WatchItem, wire};
use cell_model::Revision;
use serde::Serialize;

use super::{CellView, MoveView, View};
use crate::cli::Output;

/// A record, as it stands or as it has become.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct WatchedView {
    /// Up to which revision changes are told with it; nothing where it is part of what there is.
    pub revision: Option<u64>,
    /// `tenant/acme`, `cell/c1`, `move/m-7`, `limits`.
    pub name: String,
    /// In the word of its kind: ACTIVE …, active …, completed ….
    pub state: String,
    /// A tenant's owner; the source of a move.
    pub cell: Option<String>,
    /// The other cell of a move.
    pub peer: Option<String>,
    /// A tenant's fencing token.
    pub epoch: Option<u64>,
    /// Revision of the record, where it has one.
    pub record_revision: Option<u64>,
}

impl WatchedView {
    /// What was told.
    #[must_use]
    pub fn new(revision: Option<Revision>, item: WatchItem) -> Self {
        let view = match item {
            WatchItem::Mapping(routed) => {
                let mapping = routed.mapping;
                Self {
                    name: format!("tenant/{}", mapping.tenant),
                    state: mapping.state.as_str().into(),
                    cell: Some(mapping.owner.into()),
                    peer: mapping.peer.map(String::from),
                    epoch: Some(mapping.epoch.get()),
                    record_revision: Some(mapping.revision.get()),
                    revision: None,
                }
            }
            WatchItem::Cell(record) => {
                let cell = CellView::from(wire::Cell::from(&record));
                Self { record_revision: Some(cell.revision), ..Self::named(cell.name(), cell.state) }
            }
            WatchItem::MoveEnded(ended) => {
                let movement = MoveView::from(*ended);
                let (cell, peer) = (Some(movement.source.clone()), Some(movement.target.clone()));
                Self { cell, peer, ..Self::named(movement.name(), movement.status) }
            }
            WatchItem::Limits(limits) => {
                let state = format!(
                    "moves: {} at once, {} per cell, {} queued",
                    limits.moves_total, limits.moves_per_cell, limits.moves_queued
                );
                Self::named("limits".into(), state)
            }
        };
        Self { revision: revision.map(Revision::get), ..view }
    }

    const fn named(name: String, state: String) -> Self {
        Self { revision: None, name, state, cell: None, peer: None, epoch: None, record_revision: None }
    }

    /// Above the lines.
    #[must_use]
    pub fn header() -> String {
        columns(["REVISION", "NAME", "STATE", "CELL", "PEER", "EPOCH"])
    }

    /// One line: each is printed when it comes, so columns do not wait for the widest.
    #[must_use]
    pub fn line(&self, output: Output) -> String {
        match output {
            Output::Table | Output::Html => {
                let number = |number: Option<u64>| number.map_or_else(|| "-".into(), |number| number.to_string());
                let text = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".into());
                let (revision, epoch) = (number(self.revision), number(self.epoch));
                columns([&revision, &self.name, &self.state, &text(&self.cell), &text(&self.peer), &epoch])
            }
            Output::Json => serde_json::to_string(self).expect("views are made of text and numbers") + "\n",
            Output::Name => format!("{}\n", self.name),
        }
    }
}

fn columns([revision, name, state, cell, peer, epoch]: [&str; 6]) -> String {
    format!("{revision:<10} {name:<32} {state:<12} {cell:<16} {peer:<16} {epoch}\n")
}

#[cfg(test)]
mod tests {
    use cell_model::{ClusterId, Epoch, Hold, Lineage, Mapping, MappingState, Rev, Tier, Uid};
    use cell_trust::RoutedMapping;

    use super::*;

    #[test]
    fn a_mapping_is_one_line_in_each_form() {
        let mapping = Mapping {
            lineage: Lineage(1),
            tenant: "acme".parse().unwrap(),
            uid: Uid(1),
            epoch: Epoch(3),
            rev: Rev(2),
            revision: Revision(40),
            state: MappingState::Active,
            owner: "c1".parse().unwrap(),
            peer: None,
            hold: Hold::None,
            tier: Tier::Bronze,
        };
        let routed =
            RoutedMapping { cluster: ClusterId(1), mapping, owner_gates: Vec::new(), owner_agent: String::new() };
        let view = WatchedView::new(Some(Revision(42)), WatchItem::Mapping(routed));
        let words: Vec<String> = view.line(Output::Table).split_whitespace().map(str::to_owned).collect();
        assert_eq!(words, ["42", "tenant/acme", "ACTIVE", "c1", "-", "3"]);
        assert_eq!(view.line(Output::Name), "tenant/acme\n");
        let json: serde_json::Value = serde_json::from_str(&view.line(Output::Json)).unwrap();
        assert_eq!((json["revision"].as_u64(), json["recordRevision"].as_u64()), (Some(42), Some(40)));
        assert!(json["peer"].is_null(), "{json}");
    }
}
