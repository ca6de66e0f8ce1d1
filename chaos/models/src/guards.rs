//! The rules of the store, each switched off: what `docs/guards.md` says of it, and the search that holds it to that.
//!
//! Whoever is without a rule meets everything that can go wrong in a configuration, and beside it one proposal that the
//! rule alone would have refused ([`crate::Rogue`]).

use cell_model::Rule;

use crate::configurations::SMALL;
use crate::{Bounds, Budget, Off, Search, Verdict, check, check_incarnations_without};

const PAGE: &str = include_str!("../../../docs/guards.md");

/// How it is known that a rule cannot go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Known {
    /// The checker finds a counterexample.
    Found {
        /// The promise that is broken.
        promise: &'static str,
        /// Where.
        configuration: &'static str,
        /// What is off: the rule, and those that stand behind it.
        off: Off,
    },
    /// A test of `cell-model` fails.
    Test(&'static str),
}

fn rule(id: &str) -> Option<Rule> {
    Rule::ALL.iter().copied().find(|rule| rule.id() == id)
}

/// One line of the page.
fn row(line: &'static str) -> Result<(Rule, Known), String> {
    let broken = |why: &str| format!("docs/guards.md: {why}: {line}");
    let cells: Vec<&'static str> = line.trim_matches('|').split(" | ").map(str::trim).collect();
    let [id, refuses, how, what] = cells[..] else { return Err(broken("a line has four cells")) };
    let rule = |id: &str| rule(id.trim_matches('`')).ok_or_else(|| broken(&format!("there is no rule {id}")));
    let named = rule(id)?;
    if named.refuses() != refuses {
        return Err(broken(&format!("it refuses {:?}", named.refuses())));
    }
    let quoted: Vec<&'static str> = what.split('`').skip(1).step_by(2).collect();
    let known = match (how, &quoted[..]) {
        ("model", [configuration, with @ ..]) => {
            let promise = what.split_whitespace().next().unwrap_or_default();
            let mut off: Off = [Some(named), None, None, None];
            for (place, id) in off.iter_mut().skip(1).zip(with) {
                *place = Some(rule(id)?);
            }
            Known::Found { promise, configuration, off }
        }
        ("test", [test, ..]) => Known::Test(test),
        _ => return Err(broken("it names neither a configuration of the model nor a test")),
    };
    Ok((named, known))
}

/// The page.
///
/// # Errors
/// A line that cannot be understood, and a rule without one.
pub fn page() -> Result<Vec<(Rule, Known)>, String> {
    let rows: Vec<_> = PAGE.lines().filter(|line| line.starts_with("| `")).map(row).collect::<Result<_, _>>()?;
    let listed: Vec<Rule> = rows.iter().map(|(rule, _)| *rule).collect();
    if listed == Rule::ALL {
        return Ok(rows);
    }
    let missing = Rule::ALL.iter().find(|rule| !listed.contains(rule)).map(|rule| rule.id());
    Err(format!(
        "docs/guards.md: the rules are not listed once each and in their order; without a line: {missing:?}"
    ))
}

/// Where rules are switched off.
#[derive(Debug, Clone, Copy)]
pub enum Configuration {
    /// A configuration of moves.
    Moves(&'static Bounds),
    /// A name that is deleted and created again.
    Names,
}

impl Configuration {
    /// All.
    pub fn all() -> impl Iterator<Item = Self> {
        SMALL.iter().map(Self::Moves).chain([Self::Names])
    }

    /// Its name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Moves(bounds) => bounds.name,
            Self::Names => "incarnations",
        }
    }

    /// Looks for the shortest counterexample without these rules.
    #[must_use]
    pub fn search(self, off: Off) -> Verdict {
        match self {
            Self::Moves(bounds) => {
                // Where rules stand behind each other it takes more to get past them.
                let rogues = if off.iter().flatten().count() > 1 { 3 } else { 1 };
                let budget = Budget { rogues, ..bounds.budget };
                // One thread: the same counterexample each time.
                check(Bounds { budget, off, reaches: &[], ..*bounds }, Search::Shortest, 1)
            }
            Self::Names => check_incarnations_without(off),
        }
    }
}

/// The promise that the shortest counterexample breaks, by its id, and the steps to it.
#[must_use]
pub fn found(verdict: &Verdict) -> Option<(&'static str, &[String])> {
    let shortest = verdict.broken.iter().min_by_key(|(_, path)| path.len())?;
    let (promise, path) = shortest;
    let id = if *promise == crate::model::ENDS { "ENDS" } else { promise.split(':').next().unwrap_or_default() };
    Some((id, path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_rule_has_a_line_that_can_be_held() {
        let page = page().unwrap();
        for (rule, known) in page {
            if let Known::Found { promise, configuration, .. } = known {
                let known = Configuration::all().any(|known| known.name() == configuration);
                assert!(known, "{rule:?}: there is no configuration {configuration}");
                let judged = crate::judge::IDS.iter().any(|(id, _)| *id == promise) || promise == "ENDS";
                assert!(judged, "{rule:?}: nobody judges {promise}");
            }
        }
    }
}
