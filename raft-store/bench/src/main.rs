//! `bench-store`: the store as processes, under load beside etcd, under SIGKILL, and under power cuts.
//!
//! * `compare` puts, gets and watches on both stores in turns;
//! * `fanout` has many routers watch real nodes;
//! * `gaps` says how long writes wait when something happens to a node;
//! * `million` weighs a full store, `cold` fills routers from one, `recover` starts one that was killed;
//! * `kill` ends nodes at any instant, `cut` takes the power from a disk; a history checker judges both;
//! * `upgrade` replaces nodes of an earlier version one by one (`make upgrade`);
//! * `all` is one after the other (`make bench-store`);
//! * `node` is one of the processes, started by the others.
//!
//! The exit code is 0 only if every figure holds what it must.

mod all;
mod cell;
mod clients;
mod cold;
mod compare;
mod fanout;
mod ground;
mod history;
mod load;
mod million;
mod node;
mod nodes;
mod ordeal;
mod recover;
mod stall;
mod upgrade;
mod watching;

use std::io::Write;
use std::process::ExitCode;

use cell_figures::Figures;
use clap::{Parser, Subcommand};

use ground::Ground;

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
    #[command(flatten)]
    ground: Ground,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Everything, one after the other
    All(all::All),
    /// Puts, gets and watches beside etcd
    Compare(compare::Compare),
    /// Many routers that watch beside a steady writer
    Fanout(fanout::Fanout),
    /// How long writes wait when a leader stops, is killed, or a cut-off member comes back
    Gaps(ordeal::Gaps),
    /// A million mappings: memory, disk, cold watch, resumed watch, restart
    Million(million::Million),
    /// A million signed mappings to routers that have none, and what snapshots of them do to applying
    Cold(cold::Cold),
    /// How long a node needs that was killed on a large data directory
    Recover(recover::Recover),
    /// End nodes with SIGKILL while clients put, and judge what they were told
    Kill(ordeal::Kill),
    /// Copy the disk of a stopped node as a power cut would leave it, and open the copy
    Cut(ordeal::Cut),
    /// Replace nodes of an earlier version one by one while clients make tenants, and judge what they were told
    Upgrade(upgrade::Upgrade),
    /// One node
    #[command(hide = true)]
    Node(node::Node),
}

/// A line for whoever reads along. Nobody may.
fn say(text: &str) {
    let mut out = std::io::stdout().lock();
    drop(out.write_all(text.as_bytes()).and_then(|()| out.flush()));
}

/// A count as a figure.
fn number(count: impl TryInto<u32>) -> f64 {
    f64::from(count.try_into().unwrap_or(u32::MAX))
}

fn main() -> anyhow::Result<ExitCode> {
    let filter = tracing_subscriber::EnvFilter::from_default_env();
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    let Cli { command, ground } = Cli::parse();
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    if let Command::Node(node) = command {
        let runtime = runtime.worker_threads(node.threads()).enable_all().build()?;
        return runtime.block_on(node::run(node)).map(|()| ExitCode::SUCCESS);
    }
    let mut figures = Figures::default();
    runtime.enable_all().build()?.block_on(measure(command, &ground, &mut figures));
    say(&format!("\n{}", figures.table()));
    ground.write(&figures)?;
    Ok(match figures.hold() {
        Ok(()) => ExitCode::SUCCESS,
        Err(missed) => {
            say(&format!("{missed}\n"));
            ExitCode::FAILURE
        }
    })
}

async fn measure(command: Command, ground: &Ground, figures: &mut Figures) {
    let (part, outcome) = match command {
        Command::All(all) => return all::run(&all, ground, figures).await,
        Command::Compare(compare) => ("compare", compare::run(&compare, ground, figures).await),
        Command::Fanout(fanout) => ("fanout", fanout::run(&fanout, ground, figures).await),
        Command::Gaps(gaps) => ("gaps", ordeal::gaps(&gaps, ground, figures).await),
        Command::Million(million) => ("million", million::run(&million, ground, figures).await),
        Command::Cold(cold) => ("cold", cold::run(&cold, ground, figures).await),
        Command::Recover(recover) => ("recover", recover::run(&recover, ground, figures).await),
        Command::Kill(kill) => ("kill", ordeal::kill(&kill, ground, figures).await),
        Command::Upgrade(upgrade) => ("upgrade", upgrade::run(&upgrade, ground, figures).await),
        Command::Cut(cut) => ("cut", ordeal::cut(&cut, ground, figures).await),
        Command::Node(_) => unreachable!("a node measures nothing"),
    };
    figures.ended(part, outcome);
}
