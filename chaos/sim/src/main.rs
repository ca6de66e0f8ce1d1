//! `cell-sim`: runs seeds, each in a process of its own, and names those that fail.

use std::io::Write;
use std::process::ExitCode;

use anyhow::Context;
use cell_sim::{Arguments, Program, Said, simulate};
use clap::Parser;
use tokio::signal::unix::{SignalKind, signal};

/// A seventh of a run was glibc's allocator.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Simulates the store under faults that follow from a seed.
#[derive(Debug, Parser)]
#[command(name = "cell-sim")]
struct Line {
    #[command(flatten)]
    arguments: Arguments,
}

fn main() -> anyhow::Result<ExitCode> {
    let Line { arguments } = Line::parse();
    let filter = tracing_subscriber::EnvFilter::from_default_env();
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).without_time().init();
    let path = std::env::current_exe().context("finding this program")?;
    let program = Program { path, words: Vec::new(), typed: "cargo run -p cell-sim --".into() };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("making a runtime")?;
    let passed = runtime.block_on(async {
        let simulated = simulate(arguments, program, |said| match said {
            // A reader that has gone away is no error.
            Said::Result(text) => drop(std::io::stdout().lock().write_all(text.as_bytes())),
            Said::Progress(line) => drop(writeln!(std::io::stderr().lock(), "{line}")),
        });
        let mut terminate = signal(SignalKind::terminate()).context("listening for SIGTERM")?;
        // What runs seeds ends with what is dropped here.
        tokio::select! {
            passed = simulated => passed.map_err(anyhow::Error::from),
            _ = terminate.recv() => anyhow::bail!("the simulation was stopped"),
        }
    })?;
    Ok(if passed { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
