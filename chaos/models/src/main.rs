//! `cell-models list | ci | long | mutants | guards | NAME`: checks configurations and says what came of it.

mod long;
mod tell;
#[cfg(feature = "planted")]
mod unguarded;

use std::io::{self, Write};
use std::process::ExitCode;
use std::time::Duration;

use cell_models::configurations::{CI, EVERYTHING, LONG, SMALL};
use cell_models::{Bounds, Guard, Search, Verdict, check, check_incarnations};

use tell::report;

const USAGE: &str = "usage: cell-models COMMAND

  list            configurations and mutants
  small           every configuration with the least room
  ci              every configuration of CI, exhaustively
  long [STATES]   the same, the larger ones within memory, and random walks until there were so many states in all
                  (default 1000000000); says every ten seconds how far it is
  mutants         each guard of cells and routers switched off, and some of the store: the checker must find a counterexample
  guards          each rule of the store switched off, as docs/guards.md has it (--features planted)
  guards RULE...  up to four rules at once, in every configuration until something is found
  walk SECONDS SEED   random walks through everything at once
  NAME            one configuration, exhaustively
";

/// The model beside the configurations of moves.
const INCARNATIONS: &str = "incarnations";

fn main() -> io::Result<ExitCode> {
    let mut out = io::stdout().lock();
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let passed = match words[..] {
        ["list"] => list(&mut out)?,
        ["small"] => all(&mut out, SMALL, threads)?,
        ["ci"] => all(&mut out, CI, threads)?,
        ["long"] => long::run(&mut out, long::STATES, threads)?,
        ["long", states] => match states.parse() {
            Ok(states) => long::run(&mut out, states, threads)?,
            Err(_) => return usage(),
        },
        ["mutants"] => mutants(&mut out, threads)?,
        #[cfg(feature = "planted")]
        ["guards", ref rest @ ..] => match unguarded::Asked::of(rest) {
            Some(asked) => unguarded::run(&mut out, asked, threads)?,
            None => return usage(),
        },
        ["walk", seconds, seed] => match (seconds.parse(), seed.parse()) {
            (Ok(seconds), Ok(seed)) => {
                let search = Search::Random { seed, states: usize::MAX, time: Duration::from_secs(seconds) };
                one(&mut out, EVERYTHING, search, threads)?
            }
            _ => return usage(),
        },
        [INCARNATIONS] => names(&mut out, threads)?.passes(),
        [name] => match CI.iter().chain(LONG).find(|bounds| bounds.name == name) {
            Some(bounds) => one(&mut out, *bounds, Search::Exhaustive, threads)?,
            None => return usage(),
        },
        _ => return usage(),
    };
    Ok(if passed { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn usage() -> io::Result<ExitCode> {
    io::stderr().write_all(USAGE.as_bytes())?;
    Ok(ExitCode::from(2))
}

fn list(out: &mut impl Write) -> io::Result<bool> {
    for bounds in CI.iter().chain(LONG).chain([&EVERYTHING]) {
        writeln!(out, "{:<16} {}", bounds.name, bounds.about)?;
    }
    writeln!(out, "{INCARNATIONS:<16} a name is deleted and created again, steps, reports and requests come late")?;
    for guard in Guard::all() {
        writeln!(out, "without {:<24} caught in {}", guard.name(), guard.configuration())?;
    }
    Ok(true)
}

fn all(out: &mut impl Write, configurations: &[Bounds], threads: usize) -> io::Result<bool> {
    let (mut passed, mut states, mut time) = (true, 0, Duration::ZERO);
    for bounds in configurations {
        let verdict = check(*bounds, Search::Exhaustive, threads);
        report(out, bounds.name, &verdict)?;
        passed &= verdict.passes();
        states += verdict.states;
        time += verdict.time;
    }
    let verdict = names(out, threads)?;
    passed &= verdict.passes();
    states += verdict.states;
    time += verdict.time;
    writeln!(out, "{:<16} {states:>12} states in {:.1} s", "sum", time.as_secs_f64())?;
    Ok(passed)
}

fn names(out: &mut impl Write, threads: usize) -> io::Result<Verdict> {
    let verdict = check_incarnations(None, threads);
    report(out, INCARNATIONS, &verdict)?;
    Ok(verdict)
}

fn one(out: &mut impl Write, bounds: Bounds, search: Search, threads: usize) -> io::Result<bool> {
    let verdict = check(bounds, search, threads);
    report(out, bounds.name, &verdict)?;
    Ok(verdict.passes())
}

fn mutants(out: &mut impl Write, threads: usize) -> io::Result<bool> {
    let mut caught = true;
    for guard in Guard::all() {
        let verdict = guard.check_without(threads);
        match verdict.broken.iter().min_by_key(|(_, path)| path.len()) {
            Some((promise, path)) => {
                writeln!(
                    out,
                    "{:<24} caught: {promise} ({} steps, {} states, {:.1} s)",
                    guard.name(),
                    path.len(),
                    verdict.states,
                    verdict.time.as_secs_f64()
                )?;
            }
            None => {
                caught = false;
                let (name, within) = (guard.name(), guard.configuration());
                writeln!(out, "{name:<24} NOT CAUGHT in {within} ({} states)", verdict.states)?;
            }
        }
    }
    Ok(caught)
}
