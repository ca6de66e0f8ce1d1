//! What stands in the way of adopting, line by line; and what does not, but should be known. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use cell_client::wire;
use cell_model::{CellId, CellKind, CellRecord, CellState, Tier};
use serde::Serialize;

use super::manifest::Entry;
use super::some;

/// A tenant that the store knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Standing {
    pub owner: String,
    pub life: String,
}

/// What there is.
#[derive(Debug, Default)]
pub(super) struct Ground {
    pub cells: BTreeMap<CellId, CellRecord>,
    pub tenants: BTreeMap<String, Standing>,
    /// Of each cell that the file names: what its database has; nothing where it has none of its own; why it is not known.
    pub existing: BTreeMap<String, Result<Option<wire::Existing>, String>>,
}

/// Something found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Found {
    /// Of the file; none where it concerns a cell as a whole.
    pub line: Option<usize>,
    pub code: &'static str,
    pub reason: String,
}

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            Some(line) => write!(f, "line {line}: {}: {}", self.code, self.reason),
            None => write!(f, "{}: {}", self.code, self.reason),
        }
    }
}

/// The verdict.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Judged {
    pub findings: Vec<Found>,
    pub notes: Vec<Found>,
    /// Tenants to be made known.
    pub new: usize,
    /// Tenants that are, where the file says.
    pub known: usize,
    #[serde(skip)]
    adopted: BTreeSet<String>,
}

impl Judged {
    /// Whether this one is still to be made known.
    pub(super) fn is_new(&self, entry: &Entry) -> bool {
        !self.adopted.contains(entry.tenant.as_str())
    }
}

/// Judges every line, then every cell.
pub(super) fn judge(entries: &[Entry], ground: &Ground) -> Judged {
    let mut judged = Judged::default();
    let rows = rows_by_tenant(ground);
    for entry in entries {
        let found = |code, reason| Found { line: Some(entry.line), code, reason };
        match ground.tenants.get(entry.tenant.as_str()) {
            Some(known) if known.owner == entry.cell.as_str() && known.life != "deleting" => {
                judged.adopted.insert(entry.tenant.to_string());
                judged.known += 1;
                continue;
            }
            Some(known) if known.life == "deleting" => {
                let reason = format!("tenant {} is being deleted from {}", entry.tenant, known.owner);
                judged.findings.push(found("TENANT_NOT_LIVE", reason));
            }
            Some(known) => {
                let reason = format!(
                    "tenant {} is owned by {} already, not by {}: `cellctl move tenant {} --to {}` moves it",
                    entry.tenant, known.owner, entry.cell, entry.tenant, entry.cell
                );
                judged.findings.push(found("TENANT_ELSEWHERE", reason));
            }
            None => {
                judged.new += 1;
                of_cell(entry, ground, |code, reason| judged.findings.push(found(code, reason)));
                of_rows(entry, ground, &rows, &mut judged);
            }
        }
    }
    for (cell, told) in &ground.existing {
        of_database(cell, told, entries, ground, &mut judged);
    }
    judged
}

/// In which of the cells' databases each tenant has rows that no grant covers.
fn rows_by_tenant(ground: &Ground) -> BTreeMap<&str, Vec<&str>> {
    let mut rows: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (cell, told) in &ground.existing {
        for tenant in told.iter().flatten().flat_map(|existing| &existing.strangers) {
            rows.entry(tenant).or_default().push(cell);
        }
    }
    rows
}

/// The rules that the store itself will apply.
fn of_cell(entry: &Entry, ground: &Ground, mut find: impl FnMut(&'static str, String)) {
    let Some(cell) = ground.cells.get(&entry.cell) else {
        let reason =
            format!("there is no cell {}: `cellctl cell enroll {} --agent HOST:PORT`", entry.cell, entry.cell);
        return find("CELL_UNKNOWN", reason);
    };
    match cell.state {
        CellState::Active => {}
        CellState::Cordoned => {
            find("CELL_CORDONED", format!("cell {0} takes no tenants: `cellctl uncordon cell {0}`", cell.id));
        }
        CellState::Dead => find("CELL_DEAD", format!("cell {} has been declared dead", cell.id)),
    }
    if !entry.residency.is_empty() && entry.residency != cell.residency {
        let reason = format!(
            "data of tenant {} may not leave {:?}, and cell {} lies in {:?}",
            entry.tenant, entry.residency, cell.id, cell.residency
        );
        find("RESIDENCY_VIOLATED", reason);
    }
    let kind = cell.traits.kind;
    if entry.tier == Tier::Gold && kind == CellKind::Pooled && !cell.traits.is_for(entry.tier) {
        let reason = format!(
            "tenant {} is gold, and cell {} keeps its tenants in databases that they share: adopt it as silver, and move it with \
             --tier gold to a cell that gives each tenant one of its own",
            entry.tenant, cell.id
        );
        find("TIER_MISMATCH", reason);
    } else if !cell.traits.is_for(entry.tier) {
        let other = if kind == CellKind::Dedicated { CellKind::Pooled } else { CellKind::Dedicated };
        let reason = format!(
            "tenant {} and cell {}, which is {}, do not go together: platinum alone has a cell of its own; \
             `cellctl cell declare {} --kind {}` makes an empty cell another one",
            entry.tenant,
            cell.id,
            kind.as_str(),
            cell.id,
            other.as_str()
        );
        find("TIER_MISMATCH", reason);
    }
}

/// What the databases say of where the rows are.
fn of_rows(entry: &Entry, ground: &Ground, rows: &BTreeMap<&str, Vec<&str>>, judged: &mut Judged) {
    let found = |code, reason| Found { line: Some(entry.line), code, reason };
    let in_cells = rows.get(entry.tenant.as_str()).map(Vec::as_slice).unwrap_or_default();
    let others: Vec<&str> = in_cells.iter().copied().filter(|cell| *cell != entry.cell.as_str()).collect();
    let here = in_cells.contains(&entry.cell.as_str());
    let told = ground.existing.get(entry.cell.as_str());
    let complete = matches!(told, Some(Ok(Some(existing))) if !existing.more_strangers);
    if !others.is_empty() {
        let others = others.join(", ");
        let reason = if here {
            format!(
                "tenant {} has rows in {} and in {others}: delete the ones that are stale",
                entry.tenant, entry.cell
            )
        } else {
            format!("the rows of tenant {} are in {others}, not in {}", entry.tenant, entry.cell)
        };
        judged.findings.push(found("ROWS_ELSEWHERE", reason));
    } else if complete && !here {
        let reason = format!("tenant {} has no rows in {}: it begins empty", entry.tenant, entry.cell);
        judged.notes.push(found("NO_ROWS", reason));
    }
}

/// What concerns a cell's database as a whole.
fn of_database(
    cell: &str,
    told: &Result<Option<wire::Existing>, String>,
    entries: &[Entry],
    ground: &Ground,
    judged: &mut Judged,
) {
    let found = |code, reason| Found { line: None, code, reason };
    let existing = match told {
        Ok(Some(existing)) => existing,
        Ok(None) => return,
        Err(reason) => {
            let reason = format!("cell {cell} does not say what it has: {reason}; start its agent");
            judged.findings.push(found("CELL_UNREACHABLE", reason));
            return;
        }
    };
    let listed: BTreeSet<&str> = entries.iter().map(|entry| entry.tenant.as_str()).collect();
    let known = |tenant: &str| listed.contains(tenant) || ground.tenants.contains_key(tenant);
    let missing: Vec<&str> = existing.strangers.iter().map(String::as_str).filter(|name| !known(name)).collect();
    if !missing.is_empty() {
        let more = if existing.more_strangers { ", and there are more" } else { "" };
        let reason = format!(
            "{} tenants have rows in {cell} and stand in no line{more}: {}",
            missing.len(),
            some(missing.iter().copied())
        );
        judged.notes.push(found("UNLISTED", reason));
    }
    let writers: Vec<String> = existing
        .observed
        .iter()
        .filter(|observed| !known(&observed.tenant))
        .map(|observed| format!("{} ({})", observed.tenant, observed.writer))
        .collect();
    if !writers.is_empty() {
        let reason = format!(
            "{cell} has let in writers of tenants that stand in no line: {}; they are refused once it enforces",
            some(writers.iter().map(String::as_str))
        );
        judged.notes.push(found("UNLISTED_WRITERS", reason));
    }
    if let Some(reason) = untold(cell, existing) {
        judged.notes.push(found("NOT_ALL_TOLD", reason));
    }
    if existing.observes {
        let reason = format!(
            "{cell} observes: writers of tenants that nobody has granted are let in; start its agent without \
             --observe to enforce"
        );
        judged.notes.push(found("OBSERVES", reason));
    } else if judged.new > 0 {
        let reason = format!("{cell} enforces: writers of tenants that are not adopted yet are refused");
        judged.notes.push(found("ENFORCES", reason));
    }
}

/// What a cell has more of than it tells: what is concluded from the rest is not the whole truth.
fn untold(cell: &str, existing: &wire::Existing) -> Option<String> {
    let (strangers, observed) = (existing.strangers.len(), existing.observed.len());
    let told = match (existing.more_strangers, existing.more_observed) {
        (false, false) => return None,
        (true, false) => format!("more tenants with rows than the {strangers} that it tells"),
        (false, true) => format!("more writers than the {observed} that it tells"),
        (true, true) => {
            format!(
                "more tenants with rows than the {strangers} and more writers than the {observed} that it tells"
            )
        }
    };
    Some(format!(
        "{cell} has {told}: of the others it is not known whether they stand in a line, or have rows in another \
         cell, too; adopt those that are told, then ask again"
    ))
}

#[cfg(test)]
mod tests {
    use cell_model::{Generation, Revision};

    use super::super::manifest;
    use super::*;

    fn cell(name: &str, state: CellState, residency: &str) -> (CellId, CellRecord) {
        let id = CellId::new(name).unwrap();
        let record = CellRecord {
            id: id.clone(),
            state,
            gates: Vec::new(),
            agent: "127.0.0.1:1".into(),
            region: String::new(),
            residency: residency.into(),
            traits: cell_model::CellTraits::default(),
            generation: Generation(1),
            revision: Revision(1),
        };
        (id, record)
    }

    fn existing(strangers: &[&str], observes: bool) -> Result<Option<wire::Existing>, String> {
        let strangers = strangers.iter().map(|name| (*name).to_owned()).collect();
        Ok(Some(wire::Existing { strangers, observes, ..wire::Existing::default() }))
    }

    fn ground() -> Ground {
        let standing = |owner: &str, life: &str| Standing { owner: owner.into(), life: life.into() };
        Ground {
            cells: [
                cell("c1", CellState::Active, "eu"),
                cell("c2", CellState::Cordoned, ""),
                cell("c3", CellState::Active, ""),
            ]
            .into(),
            tenants: [
                ("known".to_owned(), standing("c1", "live")),
                ("moved".to_owned(), standing("c3", "live")),
                ("going".to_owned(), standing("c1", "deleting")),
            ]
            .into(),
            existing: [
                ("c1".to_owned(), existing(&["acme", "both", "forgotten", "strayed"], true)),
                ("c3".to_owned(), existing(&["both", "lost"], false)),
            ]
            .into(),
        }
    }

    fn judged(text: &str) -> Judged {
        judge(&manifest::read(text).unwrap(), &ground())
    }

    fn codes(found: &[Found]) -> Vec<(Option<usize>, &str)> {
        found.iter().map(|found| (found.line, found.code)).collect()
    }

    #[test]
    fn what_is_where_the_file_says_is_adopted_and_the_rest_is_told() {
        let judged = judged("acme,c1\nknown,c1\n");
        assert_eq!(codes(&judged.findings), []);
        assert_eq!((judged.new, judged.known), (1, 1));
        let entries = manifest::read("acme,c1\nknown,c1\n").unwrap();
        assert_eq!(entries.iter().map(|entry| judged.is_new(entry)).collect::<Vec<_>>(), [true, false]);
        let unlisted = judged.notes.iter().find(|note| note.code == "UNLISTED").unwrap();
        assert!(unlisted.reason.contains("3 tenants") && unlisted.reason.contains("forgotten"), "{unlisted}");
        assert!(judged.notes.iter().any(|note| note.code == "OBSERVES"));
        assert!(judged.notes.iter().any(|note| note.code == "ENFORCES" && note.reason.starts_with("c3")));
    }

    #[test]
    fn each_thing_in_the_way_is_told_by_its_line() {
        let text = "moved,c1\ngoing,c1\na,c9\nb,c2\nacme,c1,gold,us\nlost,c1\nboth,c1\nstrayed,c3\nempty,c3\nprem,c3,platinum\n";
        let judged = judged(text);
        assert_eq!(
            codes(&judged.findings),
            [
                (Some(1), "TENANT_ELSEWHERE"),
                (Some(2), "TENANT_NOT_LIVE"),
                (Some(3), "CELL_UNKNOWN"),
                (Some(4), "CELL_CORDONED"),
                (Some(5), "RESIDENCY_VIOLATED"),
                (Some(6), "ROWS_ELSEWHERE"),
                (Some(7), "ROWS_ELSEWHERE"),
                (Some(8), "ROWS_ELSEWHERE"),
                (Some(10), "TIER_MISMATCH"),
            ]
        );
        assert!(judged.findings[5].reason.contains("are in c3, not in c1"), "{}", judged.findings[5]);
        assert!(judged.findings[6].reason.contains("in c1 and in c3"), "{}", judged.findings[6]);
        assert!(codes(&judged.notes).contains(&(Some(9), "NO_ROWS")));
    }

    #[test]
    fn a_cell_that_says_nothing_is_a_finding() {
        let mut ground = ground();
        ground.existing.insert("c1".into(), Err("connection refused".into()));
        let judged = judge(&manifest::read("acme,c1\n").unwrap(), &ground);
        assert_eq!(codes(&judged.findings), [(None, "CELL_UNREACHABLE")]);
        // Nothing is concluded from what was not said.
        assert!(!judged.notes.iter().any(|note| note.code == "NO_ROWS"));
        ground.existing.insert("c1".into(), Ok(None));
        assert_eq!(judge(&manifest::read("acme,c1\n").unwrap(), &ground).findings, []);
    }

    #[test]
    fn writers_that_were_let_in_and_stand_in_no_line_are_told() {
        let mut ground = ground();
        let observed = wire::ObservedWriter { tenant: "cron".into(), first_at_unix_ms: 1, writer: "psql x".into() };
        let told = wire::Existing { observes: true, observed: vec![observed], ..wire::Existing::default() };
        ground.existing.insert("c1".into(), Ok(Some(told)));
        let judged = judge(&manifest::read("acme,c1\n").unwrap(), &ground);
        let note = judged.notes.iter().find(|note| note.code == "UNLISTED_WRITERS").unwrap();
        assert!(note.reason.contains("cron (psql x)"), "{note}");
    }

    #[test]
    fn a_cell_that_has_more_than_it_tells_is_noted_even_where_all_that_it_tells_is_listed() {
        let mut ground = ground();
        let noted = |ground: &Ground| {
            let judged = judge(&manifest::read("acme,c1\n").unwrap(), ground);
            judged.notes.into_iter().find(|note| note.code == "NOT_ALL_TOLD").map(|note| note.reason)
        };
        assert_eq!(noted(&ground), None);
        for (more_strangers, more_observed, word) in [
            (true, false, "than the 1 that"),
            (false, true, "more writers than the 0"),
            (true, true, "and more writers"),
        ] {
            let strangers = vec!["acme".to_owned()];
            let told = wire::Existing { strangers, more_strangers, more_observed, ..wire::Existing::default() };
            ground.existing.insert("c1".into(), Ok(Some(told)));
            let reason = noted(&ground).unwrap();
            assert!(reason.starts_with("c1 has more") && reason.contains(word), "{reason}");
        }
    }
}
