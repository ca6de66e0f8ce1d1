//! The long run: so many states in all.
//!
//! ```text
//! configurations of CI, to their ends ► larger ones, as far as memory goes ► random walks through everything, until the sum
//! ```
//!
//! What a walk generates is counted as it comes, repetitions included, as for the configurations.

use std::io::{self, Write};
use std::time::{Duration, Instant};

use cell_models::configurations::{CI, EVERYTHING, LONG};
use cell_models::{Bounds, Search, check_telling};

use crate::tell::report;

/// How many, where nobody says.
pub(crate) const STATES: usize = 1_000_000_000;
/// A depth-first search keeps a fingerprint of each different state: with so many generated it stays below two gigabytes.
const STATES_OF_ONE: usize = 150_000_000;
/// One seed walks for so long before the next one does.
const STATES_OF_A_WALK: usize = 50_000_000;
/// A walk may take this long at the most.
const WALK_MAX: Duration = Duration::from_secs(3_600);

/// Runs it. Answers whether no promise was broken. The first that is ends the run.
pub(crate) fn run(out: &mut impl Write, wanted: usize, threads: usize) -> io::Result<bool> {
    let begun = Instant::now();
    let mut sum = 0;
    let exhausted = CI.iter().map(|bounds| (*bounds, Search::Exhaustive));
    let larger = LONG.iter().map(|bounds| (*bounds, Search::Within { states: STATES_OF_ONE }));
    let walks = (1..).map(|seed| {
        let (states, time) = (STATES_OF_A_WALK, WALK_MAX);
        (EVERYTHING, Search::Random { seed, states, time })
    });
    let mut passed = true;
    for (bounds, search) in exhausted.chain(larger).chain(walks) {
        if sum >= wanted || !passed {
            break;
        }
        let search = match search {
            Search::Within { states } => Search::Within { states: states.min(wanted - sum) },
            Search::Random { seed, states, time } => {
                writeln!(out, "walk {seed}")?;
                Search::Random { seed, states: states.min(wanted - sum), time }
            }
            Search::Exhaustive | Search::Shortest => search,
        };
        let verdict = check_telling(bounds, search, threads, &mut |states| {
            progress(&bounds, states, sum + states, wanted, begun);
        });
        report(out, bounds.name, &verdict)?;
        out.flush()?;
        passed = verdict.passes();
        sum += verdict.states;
    }
    let seconds = begun.elapsed().as_secs_f64();
    let word = if passed { "no promise broken" } else { "FAILED" };
    writeln!(out, "{:<16} {sum:>12} states in {seconds:.1} s: {word}", "sum")?;
    Ok(passed)
}

fn progress(bounds: &Bounds, states: usize, sum: usize, wanted: usize, begun: Instant) {
    let millions = |states: usize| states as f64 / 1e6;
    let rate = sum as f64 / begun.elapsed().as_secs_f64().max(f64::EPSILON);
    let left = (wanted.saturating_sub(sum)) as f64 / rate.max(1.0) / 60.0;
    // Nobody may read it.
    let _unread = writeln!(
        io::stderr(),
        "{}: {:.1} million states; in all {:.1} of {:.0} million, {rate:.0} states/s, {left:.0} min left{}",
        bounds.name,
        millions(states),
        millions(sum),
        millions(wanted),
        memory().map(|kilobytes| format!(", {} MB", kilobytes / 1_024)).unwrap_or_default(),
    );
}

/// Resident memory of this process, in kilobytes, where the kernel tells it.
fn memory() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.split_whitespace().next()?.parse().ok()
}
