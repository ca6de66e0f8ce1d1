//! `guards`: rules of the store switched off, and what the checker finds.

use std::io::{self, Write};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use cell_model::Rule;
use cell_models::guards::{Configuration, Known, found, page};
use cell_models::{Off, Verdict};

/// What is to be looked at.
pub(crate) enum Asked {
    /// What the page says that the checker finds.
    Page,
    /// These rules, in every configuration.
    Rules(Off),
}

impl Asked {
    /// From the command line.
    pub(crate) fn of(words: &[&str]) -> Option<Self> {
        let rule = |id: &str| Rule::ALL.iter().copied().find(|rule| rule.id() == id);
        match words {
            [] => Some(Self::Page),
            ids if ids.len() <= 4 => {
                let mut off = [None; 4];
                for (place, id) in off.iter_mut().zip(ids.iter()) {
                    *place = Some(rule(id)?);
                }
                Some(Self::Rules(off))
            }
            _ => None,
        }
    }
}

/// Answers whether everything was found that has to be.
pub(crate) fn run(out: &mut impl Write, asked: Asked, threads: usize) -> io::Result<bool> {
    match asked {
        Asked::Page => hold(out, threads),
        Asked::Rules(off) => explore(out, off),
    }
}

/// One search after the other on each thread: a search on one thread finds the same each time.
fn hold(out: &mut impl Write, threads: usize) -> io::Result<bool> {
    let rows = page().map_err(io::Error::other)?;
    let searched = |row: &(Rule, Known)| matches!(row.1, Known::Found { .. });
    let rows: Vec<(Rule, Known)> = rows.into_iter().filter(searched).collect();
    let (next, told) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while let Some((rule, known)) = rows.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let line = one(*rule, *known);
                    told.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(line);
                }
            });
        }
    });
    let told = told.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    for (_, line) in &told {
        writeln!(out, "{line}")?;
    }
    let caught = told.iter().filter(|(caught, _)| *caught).count();
    writeln!(out, "{caught} of {} rules are missed by the checker as the page says", told.len())?;
    Ok(caught == told.len())
}

fn one(rule: Rule, known: Known) -> (bool, String) {
    let Known::Found { promise, configuration, off } = known else { return (true, String::new()) };
    let Some(within) = Configuration::all().find(|within| within.name() == configuration) else {
        return (false, format!("{:<28} there is no configuration {configuration}", rule.id()));
    };
    let verdict = within.search(off);
    let line = told(&verdict, configuration);
    let others = off.map(|other| other.filter(|other| *other != rule));
    let broken = |verdict: &Verdict| found(verdict).is_some_and(|(broken, _)| broken == promise);
    if others != [None; 4] && broken(&within.search(others)) {
        return (false, format!("{:<28} IS NOT MISSED: {promise} is broken without the others, too", rule.id()));
    }
    match found(&verdict) {
        Some((broken, _)) if broken == promise => (true, format!("{:<28} {line}", rule.id())),
        _ => (false, format!("{:<28} NOT AS THE PAGE SAYS ({promise}): {line}", rule.id())),
    }
}

fn told(verdict: &Verdict, configuration: &str) -> String {
    let (states, seconds) = (verdict.states, verdict.time.as_secs_f64());
    match found(verdict) {
        Some((promise, path)) => {
            let steps = path.len();
            format!("{promise} in {configuration} ({steps} steps, {states} states, {seconds:.1} s)")
        }
        None => format!("nothing in {configuration} ({states} states, {seconds:.1} s)"),
    }
}

fn explore(out: &mut impl Write, off: Off) -> io::Result<bool> {
    let mut caught = false;
    for within in Configuration::all() {
        let verdict = within.search(off);
        writeln!(out, "{}", told(&verdict, within.name()))?;
        for step in found(&verdict).into_iter().flat_map(|(_, path)| path) {
            writeln!(out, "    {step}")?;
        }
        caught |= !verdict.broken.is_empty();
        if caught {
            break;
        }
    }
    Ok(caught)
}
