//! Whether what two cells have said of themselves goes together.

use cell_model::CellId;
use cell_protos::v1::Storage;

use super::{Finding, PreflightReport};

/// What is otherwise in the tables of the one cell than in those of the other, each told in lines; none where they are alike.
#[must_use]
pub fn tables_differ(source: &[String], target: &[String]) -> Option<String> {
    let only = |of: &[String], others: &[String]| of.iter().find(|line| !others.contains(line)).cloned();
    match (only(source, target), only(target, source)) {
        (Some(theirs), Some(ours)) => Some(format!("source has {theirs}; target has {ours}")),
        (Some(theirs), None) => Some(format!("the target lacks {theirs}")),
        (None, Some(ours)) => Some(format!("the source lacks {ours}")),
        (None, None) => None,
    }
}

/// What a copy may take beyond what its source takes: pages that are filled less well, and what is written meanwhile.
const SPARE: u64 = 10;

fn told(bytes: u64) -> String {
    const MIB: u64 = 1 << 20;
    if bytes < 10 * MIB { format!("{bytes} bytes") } else { format!("{} MiB", bytes / MIB) }
}

impl PreflightReport {
    /// What is in the way of a move because nobody stands before the application of the cell that has said this: its fence is
    /// its database, so it has to have one.
    #[must_use]
    pub fn without_fence(&self, cell: &CellId) -> Option<Finding> {
        if self.storage == Some(Storage::Postgres) {
            return None;
        }
        let reason = format!(
            "cell {cell} has no gate, and no database that would refuse who writes past a fence: put a gate before its application and \
             say so (`cellctl cell declare {cell} --gated`), or keep its tenants in PostgreSQL"
        );
        Some(Finding { code: "NO_FENCE".into(), reason })
    }

    /// What is in the way of a move from a cell that has said this to one that has said `target`, although of each alone
    /// nothing is.
    #[must_use]
    pub fn apart_from(&self, target: &Self) -> Option<Finding> {
        self.unlike(target).or_else(|| self.lacks_room_at(target))
    }

    /// Whether the target's disk would be filled by the copy. The log of what is written is on it, too, as far as anybody knows.
    fn lacks_room_at(&self, target: &Self) -> Option<Finding> {
        let free = target.free_bytes?;
        let rows = self.disk_bytes.saturating_add(self.disk_bytes / SPARE);
        let log = rows.min(target.log_bytes_max);
        let needed = rows.saturating_add(log);
        if needed <= free {
            return None;
        }
        let (needed, free, rows, log) = (told(needed), told(free), told(rows), told(log));
        let reason = format!(
            "the copy needs {needed} on the target's disk ({rows} with indexes, and {log} for the log of what is written), and {free} \
             are free: make room there, raise the cell's disk_bytes_max if its disk has grown, or move to another cell"
        );
        Some(Finding { code: "DISK_TOO_SMALL".into(), reason })
    }

    /// What is in the way of a move from a cell that has said this to one that has said `target`, although of each alone
    /// nothing is. A cell that keeps no tables, or has found something before it looked at them, has said nothing of any.
    #[must_use]
    pub fn unlike(&self, target: &Self) -> Option<Finding> {
        if let (Some(source), Some(target)) = (self.storage, target.storage)
            && source != target
        {
            let [source, target] = [source, target].map(|storage| match storage {
                Storage::Embedded => "in its own store",
                Storage::Postgres => "in PostgreSQL",
            });
            let reason = format!(
                "the source keeps its tenants {source}, the target {target}: move to a cell of the source's kind"
            );
            return Some(Finding { code: "STORAGE_DIFFERS".into(), reason });
        }
        if self.tables.is_empty() || target.tables.is_empty() {
            return None;
        }
        let difference = tables_differ(&self.tables, &target.tables)?;
        let reason = format!("the tables of the two cells are not alike: {difference}");
        Some(Finding { code: "SCHEMA_DIFFERS".into(), reason })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(tables: &[&str]) -> PreflightReport {
        let tables = tables.iter().map(|line| (*line).to_owned()).collect();
        PreflightReport { tables, ..PreflightReport::default() }
    }

    #[test]
    fn what_only_one_cell_has_is_named() {
        let both = report(&["a: x", "b: y"]);
        assert_eq!(both.unlike(&report(&["b: y", "a: x"])), None);
        let told = |source: &PreflightReport, target| source.unlike(&target).unwrap().reason;
        assert!(told(&both, report(&["a: x"])).ends_with("the target lacks b: y"));
        assert!(told(&report(&["a: x"]), both.clone()).ends_with("the source lacks b: y"));
        assert!(told(&both, report(&["a: x", "b: z"])).ends_with("source has b: y; target has b: z"));
    }

    #[test]
    fn a_cell_without_tables_is_compared_by_its_kind_alone() {
        assert_eq!(report(&[]).unlike(&report(&["a: x"])), None);
        assert_eq!(report(&["a: x"]).unlike(&report(&[])), None);
        let of = |storage, tables| PreflightReport { storage: Some(storage), ..report(tables) };
        let (postgres, embedded) = (of(Storage::Postgres, &["a: x"]), of(Storage::Embedded, &[]));
        for (source, target) in [(&postgres, &embedded), (&embedded, &postgres)] {
            assert_eq!(source.unlike(target).unwrap().code, "STORAGE_DIFFERS");
        }
        assert!(postgres.unlike(&embedded).unwrap().reason.contains("the target in its own store"));
        assert_eq!(embedded.unlike(&embedded), None);
        assert_eq!(postgres.unlike(&of(Storage::Postgres, &["a: y"])).unwrap().code, "SCHEMA_DIFFERS");
    }

    #[test]
    fn a_cell_without_a_gate_has_to_have_a_database_that_fences() {
        let cell = CellId::new("c1").unwrap();
        let of = |storage| PreflightReport { storage, ..PreflightReport::default() }.without_fence(&cell);
        assert_eq!(of(Some(Storage::Postgres)), None);
        for storage in [Some(Storage::Embedded), None] {
            let found = of(storage).unwrap();
            assert_eq!(found.code, "NO_FENCE");
            assert!(found.reason.contains("cellctl cell declare c1 --gated"), "{}", found.reason);
        }
    }

    #[test]
    fn a_copy_that_would_fill_the_targets_disk_is_told_with_both_sizes() {
        const MIB: u64 = 1 << 20;
        let source = PreflightReport { disk_bytes: 100 * MIB, ..PreflightReport::default() };
        let target = |free: Option<u64>, log_bytes_max| PreflightReport {
            free_bytes: free,
            log_bytes_max,
            ..PreflightReport::default()
        };
        let lacks = |free, log| source.apart_from(&target(free, log)).map(|found| (found.code, found.reason));
        assert_eq!(lacks(None, MIB), None, "nobody knows");
        assert_eq!(lacks(Some(110 * MIB), 0), None);
        assert_eq!(lacks(Some(112 * MIB), 2 * MIB), None);
        let (code, reason) = lacks(Some(111 * MIB), 2 * MIB).unwrap();
        assert_eq!(code, "DISK_TOO_SMALL");
        assert!(reason.contains("needs 112 MiB") && reason.contains("111 MiB are free"), "{reason}");
        let (_, reason) = lacks(Some(0), 1 << 40).unwrap();
        assert!(reason.contains("needs 220 MiB") && reason.contains("0 bytes are free"), "{reason}");
        assert_eq!(PreflightReport::default().apart_from(&target(Some(0), MIB)), None, "nothing is to be copied");
    }
}
