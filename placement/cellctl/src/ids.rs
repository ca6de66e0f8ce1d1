//! `cell ids`: each cell hands out numbers of its own, so that rows of two cells can meet in one table.
//!
//! The truth stands in the cells' sequences themselves: a cell has residue *k* of a stride when every one of its
//! sequences counts in steps of the stride and stands at *k* modulo it. Cells without one get the lowest that is free, and
//! the SQL that brings it about. Nothing is written down elsewhere that could say something else.

use std::collections::{BTreeMap, BTreeSet};

use cell_client::wire::SequenceStanding;
use cell_model::CellId;
use serde::Serialize;

use crate::adopt::existing;
use crate::cli::Output;
use crate::commands::Control;
use crate::console;
use crate::failure::{Exit, Failure};
use crate::pages::all;
use crate::view::View;

/// How ids are to be told apart.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wanted {
    pub stride: i64,
    pub headroom: i64,
}

/// One cell's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct IdsView {
    cell: String,
    /// Its ids leave this rest when they are divided by the stride.
    residue: i64,
    stride: i64,
    sequences: usize,
    /// ready, or what is to be done.
    state: &'static str,
    /// What brings it about, one statement for each sequence that is not so yet.
    sql: Vec<String>,
    /// Why the SQL would not be enough.
    findings: Vec<String>,
}

impl View for IdsView {
    const KIND: &'static str = "CellIds";
    const COLUMNS: &'static [&'static str] = &["CELL", "IDS", "SEQUENCES", "STATE"];

    fn row(&self) -> Vec<String> {
        let ids = format!("{} mod {}", self.residue, self.stride);
        vec![self.cell.clone(), ids, self.sequences.to_string(), self.state.to_owned()]
    }

    fn name(&self) -> String {
        format!("cell/{}", self.cell)
    }
}

pub(crate) async fn run(control: Control, wanted: Wanted, of: Option<CellId>) -> Result<Exit, Failure> {
    let cells = all(|options| control.client.list_cells(options)).await?;
    let mut sequences = BTreeMap::new();
    for (cell, told) in existing(&control, cells.iter()).await {
        match told {
            Ok(Some(existing)) => {
                sequences.insert(cell, existing.sequences);
            }
            Ok(None) => console::note(&format!("cell {cell} keeps no tables: its ids are its own already")),
            Err(reason) => {
                let message = format!("cell {cell} does not say where its sequences stand: {reason}");
                let hint = "start its agent: without all cells nobody knows which numbers are free";
                return Err(Failure::new("CELL_UNREACHABLE", message, hint));
            }
        }
    }
    let views = assign(&sequences, wanted).map_err(|full| {
        let message = format!("{full} cells do not fit into a stride of {}", wanted.stride);
        Failure::new("STRIDE_TOO_SMALL", message, "choose a larger --stride; it must be the same for every cell")
    })?;
    if let Some(cell) = of {
        let view = views.iter().find(|view| view.cell == cell.as_str()).ok_or_else(|| {
            let message = format!("there is no cell {cell} with tables");
            Failure::new("CELL_UNKNOWN", message, "`cellctl get cells` lists the cells")
        })?;
        console::data(&script(view));
        return Ok(Exit::Done);
    }
    if views.is_empty() && control.global.output == Output::Table {
        // Each of them has been named above.
        console::note("no cell has sequences that could hand out the same ids as another one's");
        return Ok(Exit::Done);
    }
    control.print_list(&views);
    if control.global.output == Output::Table {
        for view in &views {
            for finding in &view.findings {
                console::note(&format!("{}: {finding}", view.cell));
            }
        }
        if let Some(view) = views.iter().find(|view| !view.sql.is_empty()) {
            console::note(&format!(
                "`cellctl cell ids --stride {} --sql {}` prints the SQL",
                wanted.stride, view.cell
            ));
        }
    }
    Ok(Exit::Done)
}

/// As psql takes it: all or nothing.
fn script(view: &IdsView) -> String {
    let mut text = format!("-- cell {}: ids that are {} modulo {}\n", view.cell, view.residue, view.stride);
    for finding in &view.findings {
        text.push_str(&format!("-- look at this first: {finding}\n"));
    }
    if view.sql.is_empty() {
        let done =
            if view.findings.is_empty() { "-- nothing is to be done\n" } else { "-- no statement helps here\n" };
        return text + done;
    }
    text + "BEGIN;\n" + &view.sql.join("\n") + "\nCOMMIT;\n"
}

/// One that counts downwards is left alone: nothing here is for it, and it does not speak for the cell.
const fn counts_upwards(sequence: &SequenceStanding) -> bool {
    sequence.increment > 0
}

/// The residue that all of a cell's sequences have that count upwards.
fn residue(sequences: &[SequenceStanding], stride: i64) -> Option<i64> {
    let residues: BTreeSet<Option<i64>> = sequences
        .iter()
        .filter(|sequence| counts_upwards(sequence))
        .map(|sequence| (sequence.increment == stride).then(|| sequence.last_value.rem_euclid(stride)))
        .collect();
    match residues.into_iter().collect::<Vec<_>>().as_slice() {
        [Some(residue)] => Some(*residue),
        _ => None,
    }
}

/// Gives each cell a residue; those that have one keep it. Where there are more cells than residues, their number.
fn assign(cells: &BTreeMap<String, Vec<SequenceStanding>>, wanted: Wanted) -> Result<Vec<IdsView>, usize> {
    let stride = wanted.stride;
    if i64::try_from(cells.len()).unwrap_or(i64::MAX) > stride {
        return Err(cells.len());
    }
    let mut taken: BTreeMap<i64, &str> = BTreeMap::new();
    for (cell, sequences) in cells {
        if let Some(residue) = residue(sequences, stride) {
            // The first by name keeps it; the other one gets a residue of its own.
            taken.entry(residue).or_insert(cell);
        }
    }
    let kept: BTreeMap<&str, i64> = taken.iter().map(|(residue, cell)| (*cell, *residue)).collect();
    let mut free = (1..=stride).map(|residue| residue % stride).filter(|residue| !taken.contains_key(residue));
    let beyond = beyond(cells, wanted.headroom);
    let mut views = Vec::new();
    for (cell, sequences) in cells {
        let ready = kept.get(cell.as_str()).copied();
        let residue = ready.or_else(|| free.next()).ok_or(cells.len())?;
        let (mut sql, mut findings) = (Vec::new(), Vec::new());
        let (upwards, downwards): (Vec<_>, Vec<_>) =
            sequences.iter().partition(|sequence| counts_upwards(sequence));
        for sequence in upwards.iter().filter(|_| ready.is_none()) {
            let from = beyond.get(sequence.name.as_str()).copied().unwrap_or_default();
            match statement(sequence, residue, stride, from) {
                Ok(statement) => sql.push(statement),
                Err(finding) => findings.push(finding),
            }
        }
        findings.extend(downwards.iter().map(|sequence| {
            format!("{} counts downwards: change it by hand, or let it count upwards", sequence.name)
        }));
        let state = match (ready, upwards.is_empty(), downwards.is_empty()) {
            (Some(_), ..) => "ready",
            (None, true, true) => "no sequences",
            (None, true, false) => "by hand",
            (None, false, _) => "to be changed",
        };
        views.push(IdsView {
            cell: cell.clone(),
            residue,
            stride,
            sequences: sequences.len(),
            state,
            sql,
            findings,
        });
    }
    Ok(views)
}

/// For each sequence, by name: what no cell has handed out, with room for what is handed out meanwhile.
fn beyond(cells: &BTreeMap<String, Vec<SequenceStanding>>, headroom: i64) -> BTreeMap<&str, i64> {
    let mut beyond: BTreeMap<&str, i64> = BTreeMap::new();
    for sequence in cells.values().flatten().filter(|sequence| counts_upwards(sequence)) {
        let reached = beyond.entry(&sequence.name).or_default();
        *reached = (*reached).max(sequence.last_value.saturating_add(headroom));
    }
    beyond
}

fn statement(sequence: &SequenceStanding, residue: i64, stride: i64, beyond: i64) -> Result<String, String> {
    let name = &sequence.name;
    let step = (residue - (beyond + 1)).rem_euclid(stride);
    let next = beyond.checked_add(1 + step).filter(|next| *next <= sequence.max_value);
    let next = next.ok_or_else(|| {
        let (reached, most) = (sequence.last_value, sequence.max_value);
        format!(
            "{name} stands at {reached} and ends at {most}: ids would run out; make column and sequence bigint \
             (ALTER TABLE … ALTER COLUMN … TYPE bigint; ALTER SEQUENCE {name} AS bigint), or choose less --headroom"
        )
    })?;
    Ok(format!("ALTER SEQUENCE {name} INCREMENT BY {stride} RESTART WITH {next};"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const WANTED: Wanted = Wanted { stride: 8, headroom: 1_000 };

    fn sequence(name: &str, increment: i64, last_value: i64) -> SequenceStanding {
        SequenceStanding { name: name.into(), increment, last_value, is_called: true, max_value: i64::MAX }
    }

    fn cells(of: &[(&str, &[SequenceStanding])]) -> BTreeMap<String, Vec<SequenceStanding>> {
        of.iter().map(|(cell, sequences)| ((*cell).to_owned(), sequences.to_vec())).collect()
    }

    #[test]
    fn cells_that_count_by_one_get_residues_beyond_everything_handed_out() {
        let there = cells(&[
            ("a", &[sequence("orders", 1, 700)]),
            ("b", &[sequence("orders", 1, 90), sequence("items", 1, 3)]),
        ]);
        let views = assign(&there, WANTED).unwrap();
        assert_eq!((views[0].residue, views[1].residue), (1, 2));
        assert_eq!(views[0].sql, ["ALTER SEQUENCE orders INCREMENT BY 8 RESTART WITH 1705;"]);
        assert_eq!(
            views[1].sql,
            [
                "ALTER SEQUENCE orders INCREMENT BY 8 RESTART WITH 1706;",
                "ALTER SEQUENCE items INCREMENT BY 8 RESTART WITH 1010;",
            ]
        );
        assert!(script(&views[0]).starts_with("-- cell a: ids that are 1 modulo 8\nBEGIN;\n"));
    }

    #[test]
    fn what_a_cell_has_it_keeps_and_a_new_cell_gets_the_lowest_free_one() {
        let there = cells(&[
            ("a", &[sequence("orders", 8, 1_705)]),
            ("b", &[sequence("orders", 1, 5)]),
            ("c", &[sequence("orders", 8, 1_706), sequence("items", 8, 1_010)]),
        ]);
        let views = assign(&there, WANTED).unwrap();
        let told: Vec<(i64, &str, usize)> =
            views.iter().map(|view| (view.residue, view.state, view.sql.len())).collect();
        assert_eq!(told, [(1, "ready", 0), (3, "to be changed", 1), (2, "ready", 0)]);
    }

    #[test]
    fn of_two_cells_with_the_same_residue_one_is_changed() {
        let there = cells(&[("a", &[sequence("orders", 8, 17)]), ("b", &[sequence("orders", 8, 25)])]);
        let views = assign(&there, WANTED).unwrap();
        assert_eq!((views[0].state, views[0].residue), ("ready", 1));
        assert_eq!((views[1].state, views[1].residue), ("to be changed", 2));
    }

    #[test]
    fn a_cell_that_is_half_changed_is_changed_again() {
        let there = cells(&[("a", &[sequence("orders", 8, 17), sequence("items", 1, 9)])]);
        assert_eq!(assign(&there, WANTED).unwrap()[0].sql.len(), 2);
    }

    #[test]
    fn ids_that_would_run_out_are_told() {
        let short = SequenceStanding { max_value: 2_000, ..sequence("orders", 1, 1_500) };
        let downwards = sequence("items", -1, -5);
        let views = assign(&cells(&[("a", &[short, downwards])]), WANTED).unwrap();
        assert!(views[0].sql.is_empty());
        assert!(views[0].findings[0].contains("bigint") && views[0].findings[1].contains("downwards"));
        assert!(script(&views[0]).contains("-- look at this first: orders"));
    }

    #[test]
    fn a_sequence_that_counts_downwards_leaves_its_cell_ready_and_keeps_its_residue_taken() {
        let there = cells(&[
            ("a", &[sequence("orders", 8, 1_705), sequence("items", -1, -5)]),
            ("b", &[sequence("orders", 1, 5)]),
            ("c", &[sequence("items", -8, -5)]),
        ]);
        let views = assign(&there, WANTED).unwrap();
        assert_eq!((views[0].state, views[0].residue, views[0].sql.len()), ("ready", 1, 0));
        assert!(views[0].findings[0].contains("items counts downwards"));
        assert_eq!((views[1].state, views[1].residue), ("to be changed", 2));
        assert_eq!((views[2].state, views[2].sql.len(), views[2].findings.len()), ("by hand", 0, 1));
        assert!(script(&views[2]).ends_with("-- no statement helps here\n"));
    }

    #[test]
    fn a_cell_that_is_changed_beside_one_that_counts_downwards_is_ready_when_asked_again() {
        let downwards = || sequence("items", -1, -5);
        let before = cells(&[("a", &[sequence("orders", 1, 700), downwards()])]);
        let sql = assign(&before, WANTED).unwrap().remove(0).sql;
        assert_eq!(sql, ["ALTER SEQUENCE orders INCREMENT BY 8 RESTART WITH 1705;"]);
        let after = cells(&[("a", &[sequence("orders", 8, 1_705), downwards()])]);
        let view = assign(&after, WANTED).unwrap().remove(0);
        assert_eq!((view.state, view.residue, view.sql.len()), ("ready", 1, 0));
    }

    #[test]
    fn more_cells_than_the_stride_has_room_for_are_refused() {
        let there: BTreeMap<String, Vec<SequenceStanding>> =
            (0..9).map(|n| (format!("c{n}"), Vec::new())).collect();
        assert_eq!(assign(&there, WANTED), Err(9));
    }
}
