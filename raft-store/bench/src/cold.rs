//! A router that comes up cold: real nodes that sign, the client that routers have, every signature verified.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use cell_client::{ClientOptions, ControlClient, WatchEvent, WatchItem, WatchOptions};
use cell_protos::v1;
use cell_protos::v1::control_service_client::ControlServiceClient;
use cell_trust::{PublicKey, TrustedKeys};
use futures::StreamExt;
use serde::Serialize;

use crate::fanout;
use crate::load::Keys;
use crate::nodes::{Kind, NodeOptions, Nodes, connect};

const FILLING_CLIENTS: usize = 512;
const FILLING_CONNECTIONS: usize = 16;

/// Every mapping to a router that has none: signed by the control plane, verified and decoded by its client
#[derive(Debug, clap::Args)]
pub(crate) struct Cold {
    /// How many mappings
    #[arg(long, default_value_t = 1_000_000)]
    mappings: u64,
    /// How many routers, one after the other
    #[arg(long, default_value_t = 3)]
    routers: usize,
    /// The nodes' program [default: `cell-control` beside this one]
    #[arg(long)]
    control: Option<PathBuf>,
    /// Where the report goes
    #[arg(long, default_value = "target/bench/store-cold.json")]
    out: PathBuf,
}

#[derive(Debug, Serialize)]
struct Taken {
    mappings: u64,
    /// Until the client has handed out the end of the snapshot.
    seconds: f64,
    /// Processor time of all nodes meanwhile.
    node_cpu_seconds: f64,
    verified: bool,
}

pub(crate) async fn run(cold: Cold) -> anyhow::Result<()> {
    let parent = cold.out.parent().context("the report has a directory")?;
    std::fs::create_dir_all(parent)?;
    let temporary = tempfile::tempdir_in(parent)?;
    let options = NodeOptions { control: Some(fanout::program(cold.control.as_ref())?), ..NodeOptions::default() };
    let nodes = Nodes::start(Kind::Control, temporary.path(), 3, options).await?;
    let address = nodes.addresses[nodes.leader().await?].clone();
    fanout::make_cell(&address).await?;
    let (keys, begun) = (Keys::default(), Instant::now());
    fill(&address, cold.mappings, &keys).await?;
    crate::say(&format!("{} mappings made in {:.1} s\n", keys.used(), begun.elapsed().as_secs_f64()));
    let trusted = TrustedKeys::new([nodes.public_key.parse::<PublicKey>()?]);
    let mut report = Vec::new();
    for trusted in std::iter::repeat_n(Some(trusted), cold.routers).chain([None]) {
        let taken = take(&nodes, &address, keys.used(), trusted).await?;
        crate::say(&format!("{taken:?}\n"));
        report.push(taken);
    }
    std::fs::write(&cold.out, serde_json::to_string_pretty(&report)? + "\n")?;
    Ok(())
}

async fn take(nodes: &Nodes, address: &str, expected: u64, trusted: Option<TrustedKeys>) -> anyhow::Result<Taken> {
    let (cpu, begun, verified) = (nodes.cpu()?, Instant::now(), trusted.is_some());
    let options = WatchOptions { client: "bench".into(), trusted, ..WatchOptions::default() };
    let client = ControlClient::new(vec![address.to_owned()], ClientOptions::default());
    let (mut events, mut mappings) = (client.watch(options), 0);
    while let Some(event) = events.next().await {
        match event {
            WatchEvent::Snapshot(items) => {
                mappings += items.iter().filter(|item| matches!(item, WatchItem::Mapping(_))).count() as u64;
            }
            WatchEvent::SnapshotEnd { .. } => break,
            WatchEvent::Disconnected { reason } => anyhow::bail!("cut off within the snapshot: {reason}"),
            WatchEvent::Reset | WatchEvent::Changes { .. } | WatchEvent::Progress { .. } => {}
        }
    }
    let seconds = begun.elapsed().as_secs_f64();
    ensure!(mappings == expected, "{mappings} mappings came of {expected}");
    Ok(Taken { mappings, seconds, node_cpu_seconds: (nodes.cpu()? - cpu).as_secs_f64(), verified })
}

async fn fill(address: &str, count: u64, keys: &Keys) -> anyhow::Result<()> {
    let channels = (0..FILLING_CONNECTIONS).map(|_| connect(address)).collect::<Result<Vec<_>, _>>()?;
    let running = (0..FILLING_CLIENTS).map(|client| {
        let mut service = ControlServiceClient::new(channels[client % channels.len()].clone());
        let keys = keys.clone();
        tokio::spawn(async move {
            while keys.used() + (FILLING_CLIENTS as u64) <= count {
                let tenant = keys.next();
                // What is turned away because too much waits was not run, and is asked again.
                while let Err(status) = service.create_tenant(tenant_of(&tenant)).await {
                    ensure!(status.code() == tonic::Code::ResourceExhausted, "a tenant was not made: {status}");
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            }
            anyhow::Ok(())
        })
    });
    for client in futures::future::join_all(running).await {
        client??;
    }
    Ok(())
}

pub(crate) fn tenant_of(name: &str) -> v1::CreateTenantRequest {
    v1::CreateTenantRequest {
        tenant: name.to_owned(),
        cell: "cell-1".into(),
        tier: v1::Tier::Bronze.into(),
        ..v1::CreateTenantRequest::default()
    }
}
