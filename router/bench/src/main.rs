//! `bench-router`: the router under load, beside others and alone. See docs/router-operation.md for what was measured.
//!
//! * `origin` answers at once, or so many at a time and slowly;
//! * `fleet` is a router of this build with a control plane of its own: so many tenants, so many changes a second;
//! * `load` asks at a fixed rate, whatever the answers do (open loop), and says how long they took;
//! * `compare` runs proxies by turns and reports CPU for each request; `fair` is the scenario of two tenants; `visible`
//!   measures how long a change takes to be seen by requests.
#![expect(clippy::print_stdout, reason = "a bench that prints what it has measured")]

mod compare;
mod fleet;
mod load;
mod origin;
mod proxies;

use std::path::PathBuf;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "bench-router", version, about = "The router under load, beside others and alone")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Answers every request with so many bytes
    Origin(origin::Origin),
    /// A router with a control plane of its own
    Fleet(fleet::Fleet),
    /// Asks at a fixed rate and prints what came of it
    Load(load::Load),
    /// CPU for each request and requests a second of all proxies that are here, by turns
    Compare {
        /// Rounds; the order changes with each
        #[arg(long, default_value_t = 5)]
        rounds: u32,
        /// Seconds of a measurement
        #[arg(long, default_value_t = 4)]
        seconds: u32,
        /// Tenants in every proxy's table (Envoy: 10,000 at the most)
        #[arg(long, default_value_t = 100_000)]
        tenants: u32,
        /// Where the report goes
        #[arg(long)]
        out: Option<PathBuf>,
        /// Envoy's binary, where there is one
        #[arg(long)]
        envoy: Option<PathBuf>,
    },
    /// Two tenants at an origin of 500 a second: A asks 1,000 times, B ten times
    Fair {
        /// Seconds
        #[arg(long, default_value_t = 15)]
        seconds: u32,
        /// Where the report goes
        #[arg(long)]
        out: Option<PathBuf>,
        /// Envoy's binary, where there is one
        #[arg(long)]
        envoy: Option<PathBuf>,
    },
    /// How long until a change is seen by a request, and what 10,000 changes a second do to requests
    Visible {
        /// Tenants in the table
        #[arg(long, default_value_t = 1_000_000)]
        tenants: u32,
        /// Changes that are timed
        #[arg(long, default_value_t = 500)]
        changes: u32,
        /// Seconds of each measurement of requests
        #[arg(long, default_value_t = 10)]
        seconds: u32,
        /// Where the report goes
        #[arg(long)]
        out: Option<PathBuf>,
    },
}

fn main() -> anyhow::Result<()> {
    let cli = Cli::parse();
    let threads = if matches!(cli.command, Command::Visible { .. }) { 2 } else { 1 };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(threads).enable_all().build()?;
    runtime.block_on(async {
        match cli.command {
            Command::Origin(origin) => origin.serve().await,
            Command::Fleet(fleet) => fleet.serve().await,
            Command::Load(load) => {
                println!("{}", serde_json::to_string_pretty(&load.run().await?)?);
                Ok(())
            }
            Command::Compare { rounds, seconds, tenants, out, envoy } => {
                let report = compare::compare(rounds, seconds, tenants, envoy).await?;
                write(&report, out)
            }
            Command::Fair { seconds, out, envoy } => write(&compare::fair(seconds, envoy).await?, out),
            Command::Visible { tenants, changes, seconds, out } => {
                write(&fleet::visible(tenants, changes, seconds).await?, out)
            }
        }
    })
}

fn write(report: &serde_json::Value, out: Option<PathBuf>) -> anyhow::Result<()> {
    let text = serde_json::to_string_pretty(report)?;
    println!("{text}");
    if let Some(out) = out {
        if let Some(folder) = out.parent() {
            std::fs::create_dir_all(folder)?;
        }
        std::fs::write(out, text)?;
    }
    Ok(())
}
