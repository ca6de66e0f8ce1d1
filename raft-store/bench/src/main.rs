//! `bench-store`: the store as processes, under load beside etcd, under SIGKILL, and under power cuts.
//!
//! * `compare` puts, gets and watches on both stores in turns (`make bench-store`);
//! * `fanout` has many routers watch real nodes;
//! * `million` weighs a full store;
//! * `kill` ends nodes at any instant, `cut` takes the power from a disk; a history checker judges both;
//! * `node` is one of the processes, started by the others.

mod cold;
mod compare;
mod fanout;
mod history;
mod load;
mod million;
mod node;
mod nodes;
mod ordeal;
mod watching;

use std::io::Write;

use clap::{Parser, Subcommand};

/// As `cell-control` has it.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Generated from `proto/kv.proto`.
#[expect(
    unreachable_pub,
    clippy::pedantic,
    clippy::allow_attributes_without_reason,
    reason = "generated; the .proto file says what it is"
)]
mod kv {
    tonic::include_proto!("etcdserverpb");
}

/// The store under load and under failure.
#[derive(Debug, Parser)]
#[command(name = "bench-store", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Puts, gets and watches beside etcd
    Compare(compare::Compare),
    /// Many routers that watch beside a steady writer
    Fanout(fanout::Fanout),
    /// A million signed mappings to routers that have none
    Cold(cold::Cold),
    /// A million mappings: memory, disk, cold watch, restart
    Million(million::Million),
    /// End nodes with SIGKILL while clients put, and judge what they were told
    Kill(ordeal::Kill),
    /// How long writes wait when a leader stops, is killed, or a cut-off member comes back
    Gaps(ordeal::Gaps),
    /// Copy the disk of a stopped node as a power cut would leave it, and open the copy
    Cut(ordeal::Cut),
    /// One node
    #[command(hide = true)]
    Node(node::Node),
}

/// A line for whoever reads along. Nobody may.
fn say(text: &str) {
    let mut out = std::io::stdout().lock();
    drop(out.write_all(text.as_bytes()).and_then(|()| out.flush()));
}

fn main() -> anyhow::Result<()> {
    let filter = tracing_subscriber::EnvFilter::from_default_env();
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    let command = Cli::parse().command;
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    if matches!(command, Command::Node(_)) {
        runtime.worker_threads(cell_store::worker_threads());
    }
    runtime.enable_all().build()?.block_on(run(command))
}

async fn run(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Compare(compare) => compare::run(compare).await,
        Command::Fanout(fanout) => fanout::run(fanout).await,
        Command::Cold(cold) => cold::run(cold).await,
        Command::Million(million) => million::million(million).await,
        Command::Kill(kill) => ordeal::kill(kill).await,
        Command::Gaps(gaps) => ordeal::gaps(gaps).await,
        Command::Cut(cut) => ordeal::cut(cut).await,
        Command::Node(node) => node::run(node).await,
    }
}
