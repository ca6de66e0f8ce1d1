//! Rows that nobody may delete before somebody has looked.

use super::findings::{FindingView, few, mark};
use super::survey::Cell;
use crate::cli::Category;

/// Rows that somebody may have written while a database was behind what its cell had answered with.
pub(super) fn of(cells: &[Cell]) -> FindingView {
    let answering = cells.iter().filter_map(|cell| Some((cell, cell.agent.as_ref().ok()?)));
    let kept: Vec<String> = answering
        .flat_map(|(cell, agent)| {
            let of_cell = agent.storage.iter().filter(|storage| !storage.rows_kept.is_empty());
            of_cell.map(|storage| format!("{} in {} ({})", storage.tenant, cell.record.id, storage.rows_kept))
        })
        .collect();
    let message = if kept.is_empty() {
        "no rows wait for somebody to look at them after a failover".into()
    } else {
        format!("rows are kept since a failover of {}", few(&kept))
    };
    let hint = "look at them, and let go of them in cellway.put_back: docs/postgresql.md";
    FindingView::new(Category::Orphans, "rows-looked-at", mark(false, !kept.is_empty()), message, hint)
}

#[cfg(test)]
mod tests {
    use cell_client::wire;
    use cell_model::{CellId, CellRecord, CellState, Generation, Revision};

    use super::super::findings::Mark;
    use super::*;

    #[test]
    fn rows_that_are_kept_since_a_failover_are_told_of() {
        let storage = |rows_kept: &str| wire::TenantStorage {
            tenant: "acme".into(),
            rows_kept: rows_kept.into(),
            ..wire::TenantStorage::default()
        };
        let cell = |rows_kept: &str| Cell {
            record: CellRecord {
                id: CellId::new("a").unwrap(),
                state: CellState::Active,
                gates: Vec::new(),
                agent: String::new(),
                region: String::new(),
                residency: String::new(),
                traits: cell_model::CellTraits::default(),
                generation: Generation(1),
                revision: Revision(1),
            },
            agent: Ok(wire::DescribeResponse {
                storage: vec![storage(rows_kept)],
                ..wire::DescribeResponse::default()
            }),
        };
        assert_eq!(of(&[cell("")]).mark, Mark::Holds);
        let found = of(&[cell("it had owner at epoch 1")]);
        assert_eq!(found.mark, Mark::Warns);
        assert!(found.message.contains("acme in a (it had owner at epoch 1)"), "{}", found.message);
    }
}
