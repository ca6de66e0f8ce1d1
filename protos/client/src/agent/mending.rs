//! Steps for a copy that was found to differ: which rows, and these anew.

use std::time::Duration;

use cell_model::{Difference, Differing, DifferingRow, Digest, Phase, Seq};
use cell_protos::v1;
use cell_protos::v1::step_request::Step;
use cell_protos::v1::step_response::Result as Answer;

use super::{AgentPool, StepContext, unfitting};
use crate::StepError;

/// All rows are read up to twice, and some of them once more.
const SCANS: u32 = 3;
/// One by one takes longer, for the pages of it.
const SCANS_ROW_BY_ROW: u32 = 30;

fn row(row: v1::ExaminedRow) -> Option<DifferingRow> {
    let differing = match row.differs() {
        v1::RowDiffers::Unspecified => return None,
        v1::RowDiffers::Missing => Differing::Missing,
        v1::RowDiffers::Extra => Differing::Extra,
        v1::RowDiffers::Changed => Differing::Changed,
    };
    Some(DifferingRow { table: row.table, key: row.key, differing })
}

fn difference(phase: Phase, examined: v1::Examined) -> Option<Difference> {
    let digest = |digest: Option<v1::Digest>| Digest::try_from(digest?).ok();
    let (owner, copy) = (digest(examined.owner)?, digest(examined.copy)?);
    let found = Difference {
        missing: examined.missing,
        extra: examined.extra,
        changed: examined.changed,
        more: examined.more,
        rows: examined.rows.into_iter().map(row).collect::<Option<_>>()?,
        ..Difference::of_digests(phase, Seq(examined.seq), owner, copy)
    };
    Some(found.cut())
}

impl AgentPool {
    /// The copying cell finds the rows in which its copy differs from the owner's, and remembers them.
    ///
    /// # Errors
    /// [`StepError`]; refused also where the cell's storage cannot be narrowed down.
    pub async fn examine(&self, agent: &str, context: &StepContext) -> Result<Difference, StepError> {
        let step = Step::Examine(v1::Examine { every_row: false });
        Ok(self.examined(agent, context, (step, Phase::Verify), self.options.scan * SCANS).await?.0)
    }

    /// The copying cell compares every row of its copy with the owner's, one by one, and remembers those that differ.
    ///
    /// # Errors
    /// [`StepError`]; refused also, with `EXACT_UNSUPPORTED`, where it does less than that.
    pub async fn compare_rows(&self, agent: &str, context: &StepContext) -> Result<Difference, StepError> {
        let step = Step::Examine(v1::Examine { every_row: true });
        let patience = self.options.scan * SCANS_ROW_BY_ROW;
        match self.examined(agent, context, (step, Phase::Verify), patience).await? {
            (found, true) => Ok(found),
            (_, false) => Err(StepError::Refused {
                code: "EXACT_UNSUPPORTED".into(),
                reason: format!(
                    "the agent at {agent} compares sums of rows, and not each: it is of an earlier version"
                ),
            }),
        }
    }

    /// The cell that follows in soak compares some rows of its copy with the owner's: other ones with another `seed`.
    ///
    /// # Errors
    /// [`StepError`]; refused also where the cell's storage cannot be compared so.
    pub async fn compare_sample(
        &self,
        agent: &str,
        context: &StepContext,
        seed: u64,
    ) -> Result<Difference, StepError> {
        let step = Step::CompareSample(v1::CompareSample { seed });
        Ok(self.examined(agent, context, (step, Phase::Soak), self.options.scan).await?.0)
    }

    /// And whether every row was compared.
    async fn examined(
        &self,
        agent: &str,
        context: &StepContext,
        (step, phase): (Step, Phase),
        patience: Duration,
    ) -> Result<(Difference, bool), StepError> {
        match self.run(agent, context, step, patience).await? {
            (_, Answer::Examined(examined)) => {
                let every_row = examined.every_row;
                let found = difference(phase, examined).map(|found| (found, every_row));
                found.ok_or_else(|| unfitting(agent, "a digest or a row of it cannot be read"))
            }
            _ => Err(unfitting(agent, "it should be what differs")),
        }
    }

    /// The copying cell takes the rows that it has found at `at` from the owner anew; the change at which they were read.
    ///
    /// # Errors
    /// [`StepError`]
    pub async fn recopy(&self, agent: &str, context: &StepContext, at: Seq) -> Result<Seq, StepError> {
        let step = Step::Recopy(v1::Recopy { at_seq: at.get() });
        Ok(self.position(agent, context, step, self.options.scan).await?.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_agent_has_found_is_read_or_refused_whole() {
        let digest = |rows| Some(v1::Digest { rows, sum: vec![0; 16].into() });
        let row = |differs: v1::RowDiffers| v1::ExaminedRow {
            table: "orders".into(),
            key: "(7)".into(),
            differs: differs.into(),
        };
        let told = v1::Examined {
            seq: 9,
            owner: digest(2),
            copy: digest(1),
            missing: 1,
            rows: vec![row(v1::RowDiffers::Missing)],
            ..v1::Examined::default()
        };
        let found = difference(Phase::Verify, told.clone()).unwrap();
        assert_eq!((found.seq, found.owner.rows, found.copy.rows, found.count()), (Seq(9), 2, 1, 1));
        assert_eq!(found.rows[0].to_string(), "orders(7) missing");
        assert_eq!(difference(Phase::Verify, v1::Examined { owner: None, ..told.clone() }), None);
        let odd = vec![row(v1::RowDiffers::Unspecified)];
        assert_eq!(difference(Phase::Verify, v1::Examined { rows: odd, ..told.clone() }), None);
        let many = vec![row(v1::RowDiffers::Extra); 50];
        assert!(difference(Phase::Verify, v1::Examined { rows: many, ..told }).unwrap().is_cut());
    }
}
