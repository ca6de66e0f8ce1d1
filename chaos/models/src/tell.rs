//! What a check is told as: a line, and what was wrong below it.

use std::io::{self, Write};

use cell_models::Verdict;

/// Writes the line.
pub(crate) fn report(out: &mut impl Write, name: &str, verdict: &Verdict) -> io::Result<()> {
    let rate = verdict.states as f64 / verdict.time.as_secs_f64().max(f64::EPSILON);
    let word = match (verdict.passes(), verdict.complete) {
        (false, _) => "FAILED",
        (true, true) => "ok",
        (true, false) => "ok, not all of it",
    };
    writeln!(
        out,
        "{:<16} {:>12} states, {:>11} unique, depth {:>3}, {:>6.1} s, {:>8.0} states/s  {word}",
        name,
        verdict.states,
        verdict.unique,
        verdict.depth,
        verdict.time.as_secs_f64(),
        rate,
    )?;
    for (promise, path) in &verdict.broken {
        writeln!(out, "  broken: {promise}")?;
        for action in path {
            writeln!(out, "    {action}")?;
        }
    }
    let unreached = verdict.unreached.iter().filter(|_| verdict.complete);
    for situation in unreached {
        writeln!(out, "  never reached: {situation}")?;
    }
    Ok(())
}
