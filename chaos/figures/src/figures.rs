//! The figures of one run, in the order in which they were measured.

use std::fmt::{Display, Write as _};
use std::path::Path;

use crate::figure::{Figure, Standing};

/// See the module.
#[derive(Debug, Default)]
pub struct Figures {
    all: Vec<Figure>,
    left_out: Vec<String>,
}

/// Figures that miss what they must hold.
#[derive(Debug, thiserror::Error)]
#[error("{} of {all} figures miss what they must hold: {}", .missed.len(), .missed.join("; "))]
pub struct Missed {
    /// What they measure.
    pub missed: Vec<String>,
    /// How many figures there are.
    pub all: usize,
}

impl Figures {
    /// One more.
    pub fn add(&mut self, figure: Figure) {
        self.all.push(figure);
    }

    /// Says that something was not measured, or not judged, and why.
    pub fn leave_out(&mut self, what: impl Into<String>) {
        self.left_out.push(what.into());
    }

    /// Notes how a part of the run has ended. One that has failed is a figure that does not hold, so that whatever reads
    /// the list sees it.
    pub fn ended<E: Display>(&mut self, part: &str, outcome: Result<(), E>) {
        if let Err(why) = outcome {
            self.leave_out(format!("the rest of {part}, which has failed: {why:#}"));
            self.add(Figure::at_least(format!("{part}: measured to its end"), "", 0.0, Some(1.0)));
        }
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &Figure> {
        self.all.iter()
    }

    /// As a table, and below it what was left out. The columns of a peer are there where one of them has a peer.
    #[must_use]
    pub fn table(&self) -> String {
        let widest = |of: fn(&Figure) -> usize, least: usize| self.all.iter().map(of).max().unwrap_or(0).max(least);
        let width = widest(|figure| figure.measure.chars().count(), 34);
        let names = widest(|figure| figure.peer_name.as_ref().map_or(0, |name| name.chars().count()), 0);
        let beside = |peer: &str, name: &str, ratio: &str| {
            if names > 0 { format!(" {peer:>10} {name:names$} {ratio:>8}") } else { String::new() }
        };
        let mut text = format!(
            "{:width$} {:>14}{} {:>8} {:>8}\n",
            "measure",
            "ours",
            beside("peer", "", "better"),
            "limit",
            "goal"
        );
        let shown = |limit: Option<f64>| limit.map_or_else(|| "-".to_owned(), number);
        for figure in &self.all {
            let ours = format!("{} {}", number(figure.ours), figure.unit);
            let ratio = figure.ratio.map_or_else(|| "-".into(), |ratio| format!("{ratio:.2}×"));
            let peer = beside(&shown(figure.peer), figure.peer_name.as_deref().unwrap_or_default(), &ratio);
            let (limit, goal, mark) = (shown(figure.floor), shown(figure.goal), figure.mark());
            // Writing to a string does not fail.
            let _ = writeln!(text, "{:width$} {ours:>14}{peer} {limit:>8} {goal:>8}{mark}", figure.measure);
        }
        for what in &self.left_out {
            let _ = writeln!(text, "left out: {what}");
        }
        let not_judged = self.all.iter().filter(|figure| figure.standing() == Standing::NotJudged).count();
        if not_judged > 0 {
            let _ = writeln!(text, "{not_judged} figures were not judged: their peer is not here");
        }
        text
    }

    /// The list as JSON.
    ///
    /// # Errors
    /// Where the folder cannot be made or the file cannot be written.
    pub fn write(&self, out: &Path) -> std::io::Result<()> {
        if let Some(folder) = out.parent() {
            std::fs::create_dir_all(folder)?;
        }
        std::fs::write(out, serde_json::to_string_pretty(&self.all)? + "\n")
    }

    /// Whether every figure holds what it must.
    ///
    /// # Errors
    /// [`Missed`] names those that do not.
    pub fn hold(&self) -> Result<(), Missed> {
        let missed = self.all.iter().filter(|figure| !figure.holds());
        let missed: Vec<String> = missed.map(Figure::name).collect();
        if missed.is_empty() { Ok(()) } else { Err(Missed { missed, all: self.all.len() }) }
    }
}

/// With as many digits as say something.
fn number(value: f64) -> String {
    match value.abs() {
        whole if whole.fract() == 0.0 || whole >= 100.0 => format!("{value:.0}"),
        some if some >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.3}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_figure_that_misses_its_floor_is_marked_and_ends_the_run_in_an_error_that_names_it() {
        let mut figures = Figures::default();
        figures.add(Figure::at_most("failed requests", "", 0.0, Some(0.0), None));
        figures.add(Figure::less_beside("cpu", "µs", (5.0, None), "nobody", 1.0));
        assert!(figures.hold().is_ok(), "a peer that is not here is no shortfall");
        assert!(figures.table().contains("1 figures were not judged"), "and it is said");
        figures.add(Figure::beside("backfill", "MB/s", (20.0, 70.0), "COPY | COPY", 0.9));
        let said = figures.hold().unwrap_err().to_string();
        assert!(said.starts_with("1 of 3 figures") && said.ends_with("backfill (beside COPY | COPY)"), "{said}");
        let table = figures.table();
        let marked: Vec<&str> = table.lines().filter(|line| line.contains("the limit")).collect();
        assert!(matches!(marked[..], [line] if line.starts_with("backfill")), "{table}");
    }

    #[test]
    fn a_part_that_fails_does_not_hold_and_is_in_the_list() {
        let mut figures = Figures::default();
        figures.ended("fanout", Ok::<(), String>(()));
        assert!(figures.hold().is_ok() && figures.iter().count() == 0);
        figures.ended("fanout", Err("no node leads"));
        assert_eq!(figures.hold().unwrap_err().missed, ["fanout: measured to its end"]);
        assert!(figures.table().contains("left out: the rest of fanout, which has failed: no node leads"));
    }

    #[test]
    fn numbers_have_as_many_digits_as_say_something() {
        assert_eq!([0.0, 3.0, 0.123_4, 12.34, 123.4].map(number), ["0", "3", "0.123", "12.3", "123"]);
        assert_eq!(number(f64::NAN), "NaN");
    }
}
