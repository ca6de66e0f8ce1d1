//! `cell-sim`: runs seeds, each in a process of its own, and names those that fail.

use std::io::Write;
use std::process::{Command, ExitCode};
use std::time::Duration;

use anyhow::{Context, bail};
use cell_sim::{Flaw, Options, Verdict};
use clap::Parser;

/// Simulates the store under faults that follow from a seed.
#[derive(Debug, Parser)]
#[command(name = "cell-sim")]
struct Arguments {
    /// Seeds to run, one process each: from A up to and without B.
    #[arg(long, value_name = "A..B", value_parser = seeds, required_unless_present = "seed")]
    seeds: Option<std::ops::Range<u64>>,
    /// One seed to run in this process.
    #[arg(long, value_name = "N", conflicts_with = "seeds")]
    seed: Option<u64>,
    /// How long things break, in seconds of simulated time.
    #[arg(long, value_name = "S", default_value_t = 20)]
    faults: u64,
    /// Print what happens.
    #[arg(long)]
    trace: bool,
    /// Plant a fault into the harness, which must then be found.
    #[arg(long, value_enum)]
    flaw: Option<Flaw>,
}

fn seeds(text: &str) -> Result<std::ops::Range<u64>, String> {
    let (from, until) = text.split_once("..").ok_or("seeds are written A..B")?;
    let number = |part: &str| part.parse::<u64>().map_err(|error| format!("{part}: {error}"));
    let range = number(from)?..number(until)?;
    if range.is_empty() { Err("there is no seed between them".into()) } else { Ok(range) }
}

fn main() -> anyhow::Result<ExitCode> {
    let arguments = Arguments::parse();
    let filter = tracing_subscriber::EnvFilter::from_default_env();
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).without_time().init();
    let passed = match (&arguments.seed, &arguments.seeds) {
        (Some(seed), _) => run_here(*seed, &arguments)?,
        (None, Some(seeds)) => run_each(seeds.clone(), &arguments)?,
        (None, None) => bail!("name a seed or some seeds"),
    };
    Ok(if passed { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The line that runs a seed again.
fn reproduction(seed: u64, arguments: &Arguments) -> String {
    let flaw = arguments.flaw.map(|flaw| format!(" --flaw {flaw}")).unwrap_or_default();
    format!("cargo run -p cell-sim -- --seed {seed} --faults {}{flaw} --trace", arguments.faults)
}

fn run_here(seed: u64, arguments: &Arguments) -> anyhow::Result<bool> {
    let faults = Duration::from_secs(arguments.faults);
    let verdict = cell_sim::run(&Options { seed, faults, flaw: arguments.flaw });
    let mut out = std::io::stdout().lock();
    if arguments.trace {
        for line in &verdict.trace {
            writeln!(out, "{line}")?;
        }
    }
    let Verdict { violations, trace_hash, figures, .. } = &verdict;
    let word = if violations.is_empty() { "passed" } else { "FAILED" };
    writeln!(out, "seed {seed} {word}: {figures}, trace {trace_hash}")?;
    for violation in violations {
        writeln!(out, "  {violation}")?;
    }
    if !violations.is_empty() {
        writeln!(out, "  again: {}", reproduction(seed, arguments))?;
    }
    Ok(violations.is_empty())
}

fn run_each(seeds: std::ops::Range<u64>, arguments: &Arguments) -> anyhow::Result<bool> {
    let program = std::env::current_exe().context("finding this program")?;
    let mut failed = Vec::new();
    for seed in seeds.clone() {
        let mut command = Command::new(&program);
        command.args(["--seed", &seed.to_string(), "--faults", &arguments.faults.to_string()]);
        if arguments.trace {
            command.arg("--trace");
        }
        if let Some(flaw) = arguments.flaw {
            command.args(["--flaw", &flaw.to_string()]);
        }
        let status = command.status().context("starting a run")?;
        if status.success() {
            continue;
        }
        failed.push(seed);
        if status.code() != Some(1) {
            let mut out = std::io::stdout().lock();
            writeln!(out, "seed {seed} FAILED: the run ended with {status}")?;
            writeln!(out, "  again: {}", reproduction(seed, arguments))?;
        }
    }
    let mut out = std::io::stdout().lock();
    writeln!(out, "{} of {} seeds failed {failed:?}", failed.len(), seeds.count())?;
    Ok(failed.is_empty())
}
