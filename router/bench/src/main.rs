//! `bench-router`: the router under load, beside others and alone. See docs/router-figures.md for what was measured.
//!
//! * `origin` answers at once, or so many at a time and slowly;
//! * `fleet` is a router of this build with a control plane of its own: so many tenants, so many changes a second;
//! * `load` asks at a fixed rate, whatever the answers do (open loop), and says how long they took; `hold` keeps connections open;
//! * `compare` runs proxies by turns and reports CPU for each request; `fair` is the scenario of two tenants; `visible`
//!   measures how long a change takes to be seen by requests; `idle` what a connection costs that says nothing; `size`
//!   what a tenant costs; `instructions` counts, where the others measure;
//! * `train` is what a build led by a profile is trained by (`make edge`);
//! * `all` is one after the other (`make bench-router`).
//!
//! The exit code is 0 only if every figure holds what it must.
#![expect(clippy::print_stdout, reason = "a bench that prints what it has measured")]

mod all;
mod compare;
mod fair;
mod fleet;
mod ground;
mod hold;
mod idle;
mod instructions;
mod load;
mod origin;
mod processes;
mod proxies;
mod raw;
mod size;
mod train;
mod visible;

use std::process::ExitCode;

use cell_figures::Figures;
use clap::{Parser, Subcommand};

use crate::ground::Ground;

/// As in `cell-router`.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[derive(Parser)]
#[command(name = "bench-router", version, about = "The router under load, beside others and alone")]
struct Cli {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    ground: Ground,
}

#[derive(Subcommand)]
enum Command {
    /// Answers every request with so many bytes
    Origin(origin::Origin),
    /// A router with a control plane of its own
    Fleet(fleet::Fleet),
    /// Asks at a fixed rate and prints what came of it
    Load(load::Load),
    /// Opens connections, asks once on each, and holds them
    Hold(hold::Hold),
    /// Everything, one after the other
    All(all::All),
    /// CPU for each request, requests a second and times of all proxies that are here, by turns
    Compare(compare::Compare),
    /// Two tenants at an origin of 500 a second: A asks 1,000 times, B ten times
    Fair(fair::Fair),
    /// How long until a change is seen by a request, and what 10,000 changes a second do to requests
    Visible(visible::Visible),
    /// Memory of a connection that has asked once and says nothing more
    Idle(idle::Idle),
    /// Instructions for each request, as callgrind counts them: for comparing builds, and for a limit
    Instructions(instructions::Instructions),
    /// Memory and CPU with ten, a hundred thousand and a million tenants
    Size(size::Size),
    /// Sends requests of every kind through a router of this build alone: training for a build that is led by a profile
    Train(train::Train),
}

fn main() -> anyhow::Result<ExitCode> {
    let cli = Cli::parse();
    let threads = if matches!(cli.command, Command::Visible(_) | Command::All(_)) { 2 } else { 1 };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(threads).enable_all().build()?;
    runtime.block_on(run(cli.command, &cli.ground))
}

async fn run(command: Command, ground: &Ground) -> anyhow::Result<ExitCode> {
    let mut figures = Figures::default();
    let (part, outcome) = match command {
        Command::Origin(origin) => return origin.serve().await.map(|()| ExitCode::SUCCESS),
        Command::Fleet(fleet) => return fleet.serve().await.map(|()| ExitCode::SUCCESS),
        Command::Hold(hold) => return hold.run().await.map(|()| ExitCode::SUCCESS),
        Command::Train(train) => return train.run(ground).await.map(|()| ExitCode::SUCCESS),
        Command::Load(load) => {
            println!("{}", serde_json::to_string_pretty(&load.run().await?)?);
            return Ok(ExitCode::SUCCESS);
        }
        Command::All(all) => {
            all::run(&all, ground, &mut figures).await;
            ("all", Ok(()))
        }
        Command::Compare(compare) => ("compare", compare.measure(ground, &mut figures)),
        Command::Fair(fair) => ("fair", fair.measure(ground, &mut figures)),
        Command::Visible(visible) => ("visible", visible.measure(&mut figures).await),
        Command::Idle(idle) => ("idle", idle.measure(ground, &mut figures)),
        Command::Instructions(counted) => ("instructions", counted.measure(ground, &mut figures).await),
        Command::Size(size) => ("size", size.measure(ground, &mut figures)),
    };
    figures.ended(part, outcome);
    println!("\n{}", figures.table());
    ground.write(&figures)?;
    Ok(match figures.hold() {
        Ok(()) => ExitCode::SUCCESS,
        Err(missed) => {
            println!("{missed}");
            ExitCode::FAILURE
        }
    })
}
