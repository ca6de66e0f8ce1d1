//! `bench-move`: moves of tenants in PostgreSQL, measured on two servers of its own (`make bench-move`).
//!
//! * `copy`: the backfill beside `COPY … | COPY …` between the same two servers, in turns, idle and beside writers;
//! * `hold`: a small tenant moves back and forth under load, through a router; then several at once; then a larger one;
//! * `overhead`: what each phase of a move costs the tenant that moves, and a neighbour;
//! * `cost`: what the fence in the transaction, and the capture, cost the writers;
//! * `abort`: moves are called off at any moment, under load; then it is looked for what is left of them;
//! * `all`: one after the other.
//!
//! Servers, control plane, cells and router run on this machine and share its cores, so ratios say more than figures. The exit
//! code is 0 only if every figure holds what it must.

mod aborting;
mod clients;
mod copying;
mod costing;
mod figures;
mod fleet;
mod holding;
mod load;
mod overhead;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, anyhow};
use cell_figures::Figures;
use clap::{Args, Parser, Subcommand};

use fleet::Fleet;

/// Moves, measured.
#[derive(Debug, Parser)]
#[command(name = "bench-move", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    /// Write the figures here, as JSON
    #[arg(long, global = true, value_name = "FILE")]
    out: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// The backfill beside COPY | COPY
    Copy(Copy),
    /// Holds under load, and moves per hour
    Hold(Hold),
    /// What each phase costs the tenant that moves, and a neighbour
    Overhead(Overhead),
    /// What fence and capture cost
    Cost(Cost),
    /// Whether moves that are called off leave anything
    Abort(Abort),
    /// Everything
    All(All),
}

#[derive(Debug, Clone, Args)]
struct Copy {
    /// Size of the tenant, in megabytes
    #[arg(long, default_value_t = 128, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    megabytes: u32,
    /// How often each is measured
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
}

#[derive(Debug, Clone, Args)]
struct Hold {
    /// How many moves of the small tenant
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    moves: u32,
    /// Writers and readers of it, each waiting a little between two requests
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=256))]
    clients: u32,
}

#[derive(Debug, Clone, Args)]
struct Overhead {
    /// Seconds of each window, one in each phase
    #[arg(id = "phase-seconds", long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=600))]
    seconds: u32,
    /// Moves of the tenant
    #[arg(id = "phase-rounds", long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
}

#[derive(Debug, Clone, Args)]
struct Cost {
    /// Seconds of each window
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=600))]
    seconds: u32,
    /// Windows of each kind
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=100))]
    windows: u32,
}

#[derive(Debug, Clone, Args)]
struct Abort {
    /// Moves that are called off before their cutover
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(4..=100_000))]
    aborts: u32,
    /// The same one calls off at the same moments
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

#[derive(Debug, Clone, Args)]
struct All {
    #[command(flatten)]
    copy: Copy,
    #[command(flatten)]
    hold: Hold,
    #[command(flatten)]
    overhead: Overhead,
    #[command(flatten)]
    cost: Cost,
    #[command(flatten)]
    abort: Abort,
    /// A look, in a few minutes: fewer moves, rounds and aborts, whatever else is said
    #[arg(long)]
    quick: bool,
}

impl All {
    /// What is measured with `--quick`. What has to hold stays the same.
    fn looked_at(&self) -> Self {
        if !self.quick {
            return self.clone();
        }
        Self {
            copy: Copy { megabytes: 32, rounds: 1 },
            hold: Hold { moves: 40, ..self.hold.clone() },
            overhead: Overhead { seconds: 2, rounds: 1 },
            cost: Cost { seconds: 1, windows: 2 },
            abort: Abort { aborts: 40, ..self.abort.clone() },
            quick: true,
        }
    }
}

fn main() -> Result<ExitCode> {
    let cli = Cli::parse();
    // Errors, or what the environment says.
    let wanted = tracing_subscriber::EnvFilter::from_default_env();
    tracing_subscriber::fmt().with_env_filter(wanted).with_writer(std::io::stderr).init();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let mut figures = Figures::default();
    let measured = runtime.block_on(async {
        tokio::select! {
            measured = measure(&cli.command, &mut figures) => measured,
            interrupted = tokio::signal::ctrl_c() => Err(interrupted.err().map_or_else(|| anyhow!("interrupted"), Into::into)),
        }
    });
    // What was measured before something failed is told all the same.
    figures::say(&format!("\n{}", figures.table()));
    if let Some(out) = &cli.out {
        figures.write(out).with_context(|| format!("cannot write {}", out.display()))?;
    }
    measured?;
    Ok(match figures.hold() {
        Ok(()) => ExitCode::SUCCESS,
        Err(missed) => {
            figures::say(&missed.to_string());
            ExitCode::FAILURE
        }
    })
}

async fn measure(command: &Command, figures: &mut Figures) -> Result<()> {
    let fleet = Fleet::start().await?;
    // A part that fails is a figure that does not hold; the others are measured all the same.
    match command {
        Command::Hold(hold) => {
            let ended = holding::run(&fleet, hold, figures).await;
            figures.ended("hold", ended);
        }
        Command::Copy(copy) => {
            let ended = copying::run(&fleet, copy, figures).await;
            figures.ended("copy", ended);
        }
        Command::Overhead(overhead) => {
            let ended = overhead::run(&fleet, overhead, figures).await;
            figures.ended("overhead", ended);
        }
        Command::Cost(cost) => {
            let ended = costing::run(&fleet, cost, figures).await;
            figures.ended("cost", ended);
        }
        Command::Abort(abort) => {
            let ended = aborting::run(&fleet, abort, figures).await;
            figures.ended("abort", ended);
        }
        Command::All(all) => {
            let All { copy, hold, overhead, cost, abort, .. } = all.looked_at();
            let ended = holding::run(&fleet, &hold, figures).await;
            figures.ended("hold", ended);
            let ended = copying::run(&fleet, &copy, figures).await;
            figures.ended("copy", ended);
            let ended = overhead::run(&fleet, &overhead, figures).await;
            figures.ended("overhead", ended);
            let ended = costing::run(&fleet, &cost, figures).await;
            figures.ended("cost", ended);
            let ended = aborting::run(&fleet, &abort, figures).await;
            figures.ended("abort", ended);
        }
    }
    fleet.stop().await
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn every_command_is_whole_and_a_quick_look_is_smaller() {
        Cli::command().debug_assert();
        let Command::All(all) = Cli::parse_from(["bench-move", "all", "--quick"]).command else {
            panic!("another")
        };
        assert_eq!((all.copy.rounds, all.overhead.rounds, all.cost.seconds, all.overhead.seconds), (3, 3, 3, 4));
        let look = all.looked_at();
        assert!(look.hold.moves < all.hold.moves && look.overhead.rounds < all.overhead.rounds);
    }
}
