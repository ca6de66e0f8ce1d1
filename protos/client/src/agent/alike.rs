//! Whether what two cells have said of themselves goes together.

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

impl PreflightReport {
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
        PreflightReport { findings: Vec::new(), notes: Vec::new(), rows: 0, bytes: 0, tables, storage: None }
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
}
