//! `store reconcile`: after a restore, adopt what the cells hold.

use cell_client::wire;
use cell_model::CellId;
use serde::Serialize;

use crate::commands::Control;
use crate::console;
use crate::failure::{Exit, Failure};
use crate::view::View;

/// A tenant about which record and cells do not agree.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
struct HeldView {
    tenant: String,
    verdict: String,
    detail: String,
}

impl From<wire::ReconcileTenant> for HeldView {
    fn from(found: wire::ReconcileTenant) -> Self {
        Self { tenant: found.tenant, verdict: found.verdict, detail: found.detail }
    }
}

impl View for HeldView {
    const KIND: &'static str = "ReconcileFinding";
    const COLUMNS: &'static [&'static str] = &["TENANT", "VERDICT", "DETAIL"];

    fn row(&self) -> Vec<String> {
        vec![self.tenant.clone(), self.verdict.clone(), self.detail.clone()]
    }

    fn name(&self) -> String {
        format!("tenant/{}", self.tenant)
    }
}

pub(super) async fn reconcile(control: &Control, yes: bool, without: &[CellId]) -> Result<Exit, Failure> {
    let mut answer = control.client.reconcile(false, without).await?;
    if !answer.needed {
        console::note(&format!("nothing to reconcile: lineage {} is confirmed by its cells", answer.lineage));
        return Ok(Exit::Done);
    }
    if yes {
        let seen = std::mem::take(&mut answer.findings);
        answer = control.client.reconcile(true, without).await?;
        if answer.findings.is_empty() {
            // Somebody else was faster.
            answer.findings = seen;
        }
    }
    for cell in &answer.cells {
        console::note(&told(cell));
    }
    let findings: Vec<HeldView> = std::mem::take(&mut answer.findings).into_iter().map(HeldView::from).collect();
    if !findings.is_empty() || control.global.output != crate::Output::Table {
        control.print_list(&findings);
    }
    console::note(&summary(&answer));
    let in_the_way =
        answer.contradictory > 0 || answer.cells.iter().any(|cell| !cell.failure.is_empty() && !cell.left_out);
    Ok(if in_the_way && !answer.done { Exit::Failed } else { Exit::Done })
}

fn told(cell: &wire::ReconcileCell) -> String {
    let name = &cell.cell;
    match (cell.left_out, cell.failure.is_empty()) {
        (true, _) => format!("cell {name} is left out"),
        (false, true) => format!("cell {name} knows of {} tenants", cell.grants),
        (false, false) => format!("cell {name} was not heard: {}", cell.failure),
    }
}

fn summary(answer: &wire::ReconcileResponse) -> String {
    let wire::ReconcileResponse { tenants, confirmed, adopted, unheld, contradictory, .. } = answer;
    let silent: Vec<&str> = answer
        .cells
        .iter()
        .filter(|cell| !cell.failure.is_empty() && !cell.left_out)
        .map(|cell| cell.cell.as_str())
        .collect();
    let unheard = if answer.unheard > 0 {
        format!(", {} on cells that were not heard", answer.unheard)
    } else {
        String::new()
    };
    let counts = format!(
        "{tenants} tenants: {confirmed} confirmed, {adopted} {}, {unheld} held by nobody{unheard}, {contradictory} contradictory",
        if answer.done { "adopted" } else { "to adopt" }
    );
    let next = if answer.done {
        "done: tenants may be made, moved and deleted again".to_owned()
    } else if let [first, ..] = silent.as_slice() {
        format!("next: start cell {first}, or answer for it: `cellctl store reconcile --without {first}`")
    } else if *contradictory > 0 {
        "next: look at the cells that contradict each other; `--without CELL` goes without the one that is wrong"
            .to_owned()
    } else {
        "next: `cellctl store reconcile --yes` adopts it; nothing was changed yet".to_owned()
    };
    format!("{counts}\n{next}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_summary_names_what_is_in_the_way_first() {
        let cell = |name: &str, failure: &str, left_out| wire::ReconcileCell {
            cell: name.into(),
            grants: 3,
            failure: failure.into(),
            left_out,
        };
        let mut answer = wire::ReconcileResponse { tenants: 5, confirmed: 4, adopted: 1, ..Default::default() };
        answer.cells = vec![cell("c1", "", false), cell("c2", "no answer", true)];
        assert!(summary(&answer).ends_with("`cellctl store reconcile --yes` adopts it; nothing was changed yet"));
        answer.contradictory = 1;
        assert!(summary(&answer).contains("contradict each other"));
        answer.cells.push(cell("c3", "no answer", false));
        answer.unheard = 2;
        assert!(summary(&answer).contains("2 on cells that were not heard"));
        assert!(summary(&answer).ends_with("`cellctl store reconcile --without c3`"));
        answer.done = true;
        assert!(summary(&answer).starts_with("5 tenants: 4 confirmed, 1 adopted, 0 held by nobody"));
        let lines: Vec<String> = answer.cells.iter().map(told).collect();
        assert_eq!(lines[..2], ["cell c1 knows of 3 tenants", "cell c2 is left out"]);
        assert_eq!(lines[2], "cell c3 was not heard: no answer");
    }
}
