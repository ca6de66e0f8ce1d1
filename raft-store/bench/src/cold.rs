//! A router that comes up cold: real nodes that sign, a whole router that verifies what it takes; and the same with no more
//! than the client that routers have.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use cell_client::{ClientOptions, ControlClient, WatchEvent, WatchItem, WatchOptions, trailer};
use cell_figures::{Figure, Figures, median};
use cell_model::TenantId;
use cell_protos::v1;
use cell_protos::v1::control_service_client::ControlServiceClient;
use cell_router::Router;
use cell_trust::{PublicKey, TrustedKeys};
use futures::StreamExt;
use prometheus_client::registry::Registry;
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;

use crate::cell::Cell;
use crate::ground::Ground;
use crate::load::{FILLING, Keys, key};
use crate::nodes::{Kind, NodeOptions, Nodes, connect};
use crate::{say, stall};

const FILLING_CLIENTS: usize = 512;
const FILLING_CONNECTIONS: usize = 16;
/// Of how many mappings the floors are.
const WHOLE: u64 = 1_000_000;
/// How long a router may take to have its table.
const FILLED_WITHIN: Duration = Duration::from_secs(120);

/// Every mapping to a router that has none: signed by the control plane, verified by the router
#[derive(Debug, clap::Args)]
pub(crate) struct Cold {
    /// How many mappings
    #[arg(long, default_value_t = WHOLE, value_parser = clap::value_parser!(u64).range(1..=10_000_000))]
    mappings: u64,
    /// How many routers, one after the other
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    routers: u32,
    /// How many snapshots the leader takes beside writers
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    snapshots: u32,
}

pub(crate) async fn run(cold: &Cold, ground: &Ground, figures: &mut Figures) -> anyhow::Result<()> {
    let directory = ground.directory()?;
    let options = NodeOptions { control: Some(ground.control()?), ..NodeOptions::default() };
    let nodes = Nodes::start(Kind::Control, directory.path(), 3, options).await?;
    let address = nodes.addresses[nodes.leader().await?].clone();
    let cell = Arc::new(Cell::make(&address).await?);
    let (keys, begun) = (Keys::default(), Instant::now());
    fill(&address, &cell, cold.mappings, &keys).await?;
    say(&format!("{} mappings made in {:.1} s\n", keys.used(), begun.elapsed().as_secs_f64()));
    let whole = cold.mappings >= WHOLE;
    if !whole {
        figures.leave_out(format!("cold: floors of {WHOLE} mappings, because there were {}", cold.mappings));
    }
    let mut routed = Vec::new();
    for _ in 0..cold.routers {
        let seconds = route(&nodes, &address, cold.mappings).await?;
        say(&format!("a cold router has {} mappings after {seconds:.2} s\n", cold.mappings));
        routed.push(seconds);
    }
    let measure = |what: &str| format!("{} signed mappings, {what}", cold.mappings);
    let floor = whole.then_some(5.0);
    figures.add(Figure::at_most(measure("in a cold router"), "s", median(routed), floor, None));
    let trusted = TrustedKeys::new([nodes.public_key.parse::<PublicKey>()?]);
    for (trusted, what) in [(Some(trusted), "verified by a client"), (None, "taken by a client unverified")] {
        let (seconds, cpu) = take(&nodes, &address, cold.mappings, trusted).await?;
        figures.add(Figure::free(measure(what), "s", seconds));
        figures.add(Figure::free(measure(&format!("{what}: processor time of the nodes")), "s", cpu));
    }
    stall::measure(&address, cold.snapshots, &keys, whole.then_some(5.0), figures).await
}

/// Starts a router without a table. Answers after how many seconds it has the first, the middle and the last mapping; it
/// shows none before it has all.
async fn route(nodes: &Nodes, address: &str, mappings: u64) -> anyhow::Result<f64> {
    let wanted = [0, mappings / 2, mappings - 1].map(|number| TenantId::new(key(number)));
    let wanted = wanted.into_iter().collect::<Result<Vec<_>, _>>()?;
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let options = cell_router::Options {
        name: "bench".into(),
        listen: any,
        admin_listen: any,
        control: vec![address.to_owned()],
        insecure_plaintext: true,
        trusted_keys: vec![nodes.public_key.clone()],
        domains: vec!["bench.test".into()],
        threads: 1,
        ..cell_router::Options::default()
    };
    let (begun, stop) = (Instant::now(), CancellationToken::new());
    let router = Router::bind(options, Registry::default())?;
    let handle = router.handle();
    let running = tokio::spawn(router.run(stop.clone()));
    while wanted.iter().any(|tenant| handle.mapping(tenant).is_none()) {
        ensure!(!running.is_finished(), "the router has ended");
        ensure!(begun.elapsed() < FILLED_WITHIN, "the router has not all of its table");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let seconds = begun.elapsed().as_secs_f64();
    stop.cancel();
    running.await??;
    Ok(seconds)
}

/// Takes the snapshot with the client alone. Answers its seconds, and those of the nodes' processors meanwhile.
async fn take(
    nodes: &Nodes,
    address: &str,
    expected: u64,
    trusted: Option<TrustedKeys>,
) -> anyhow::Result<(f64, f64)> {
    let (cpu, begun) = (nodes.cpu()?, Instant::now());
    let options = WatchOptions { client: "bench".into(), trusted, ..WatchOptions::default() };
    let client = ControlClient::new(vec![address.to_owned()], ClientOptions::default());
    let (mut events, mut mappings, mut ended) = (client.watch(options), 0, false);
    while let Some(event) =
        tokio::time::timeout(FILLED_WITHIN, events.next()).await.context("nothing more comes")?
    {
        match event {
            WatchEvent::Snapshot(items) => {
                mappings += items.iter().filter(|item| matches!(item, WatchItem::Mapping(_))).count() as u64;
            }
            WatchEvent::SnapshotEnd { .. } => {
                ended = true;
                break;
            }
            WatchEvent::Disconnected { reason } => anyhow::bail!("cut off within the snapshot: {reason}"),
            WatchEvent::Reset | WatchEvent::Changes { .. } | WatchEvent::Progress { .. } => {}
        }
    }
    let seconds = begun.elapsed().as_secs_f64();
    ensure!(ended && mappings == expected, "{mappings} mappings came of {expected}");
    Ok((seconds, (nodes.cpu()? - cpu).as_secs_f64()))
}

/// Makes `count` tenants, neither more nor less, and waits until each is granted.
async fn fill(address: &str, cell: &Arc<Cell>, count: u64, keys: &Keys) -> anyhow::Result<()> {
    let channels = (0..FILLING_CONNECTIONS).map(|_| connect(address)).collect::<Result<Vec<_>, _>>()?;
    let running = (0..FILLING_CLIENTS).map(|client| {
        let mut service = ControlServiceClient::new(channels[client % channels.len()].clone());
        let (cell, keys) = (Arc::clone(cell), keys.clone());
        tokio::spawn(async move {
            while let Some(tenant) = keys.next_below(count) {
                cell.keeps_up(keys.used()).await?;
                create(&mut service, tenant_of(&tenant)).await?;
            }
            anyhow::Ok(())
        })
    });
    for client in futures::future::join_all(running).await {
        client??;
    }
    ensure!(keys.used() == count, "{} tenants were made of {count}", keys.used());
    cell.owns(count).await
}

/// Makes a tenant. Answers at which revision. What is turned away because too much waits, or because the node has not heard of
/// a majority for a moment, was not run, and is asked again: not for ever, a full disk turns away, too, and so does who leads
/// no more.
pub(crate) async fn create(
    service: &mut ControlServiceClient<Channel>,
    tenant: v1::CreateTenantRequest,
) -> anyhow::Result<u64> {
    let begun = Instant::now();
    loop {
        let status = match service.create_tenant(tenant.clone()).await {
            Ok(made) => return Ok(made.into_inner().revision),
            Err(status) => status,
        };
        ensure!(turned_away(&status) && begun.elapsed() < FILLING, "a tenant was not made: {status}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Whether a node has said that it has not run a command. A connection that breaks is `Unavailable` as well, and says nothing.
fn turned_away(status: &tonic::Status) -> bool {
    use tonic::Code::{FailedPrecondition, ResourceExhausted, Unavailable};
    matches!(status.code(), ResourceExhausted | FailedPrecondition | Unavailable)
        && status.metadata().contains_key(trailer::CODE)
}

pub(crate) fn tenant_of(name: &str) -> v1::CreateTenantRequest {
    v1::CreateTenantRequest {
        tenant: name.to_owned(),
        cell: "cell-1".into(),
        tier: v1::Tier::Bronze.into(),
        ..v1::CreateTenantRequest::default()
    }
}
