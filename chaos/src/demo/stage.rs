//! The demo from its first process to its verdict.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use cell_client::net::Network;
use cell_client::{ControlClient, WriteOptions};
use cell_model::{CellId, Limits, NewTenant, TenantId};
use futures::{StreamExt, TryStreamExt};
use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;

use super::moves::{Driven, Driver};
use super::plan::Plan;
use super::trade::Trade;
use super::{DemoOptions, Progress, STALE_REDIRECTS, Tell};
use crate::check::check;
use crate::clock::RunClock;
use crate::exercise::{Exercise, served_early};
use crate::fleet::{Fleet, FleetError, FleetOptions};
use crate::gauge::Gauges;
use crate::history::{Op, Recorder, SessionId};
use crate::load::{Filling, Load, LoadOptions};
use crate::observe::{End, Places, read_end};
use crate::report::{Evidence, Failed, Latencies, MoveReport, Observed, ProcessReport, Report};
use crate::wiring::Net;

const DOMAIN: &str = "cells.example";

/// Why there is no verdict at all.
#[derive(Debug, thiserror::Error)]
pub enum DemoError {
    /// There is no fleet.
    #[error(transparent)]
    Fleet(#[from] FleetError),
    /// A tenant could not be made.
    #[error("tenant {tenant} could not be made")]
    CreateTenant {
        /// Which.
        tenant: String,
        /// Why not.
        #[source]
        source: cell_client::ClientError,
    },
    /// The tenants did not become live.
    #[error("{count} tenants were not live within {waited:?}, the first is {first}")]
    NotLive {
        /// How many.
        count: usize,
        /// One of them.
        first: String,
        /// How long was waited.
        waited: Duration,
    },
    /// There is no shop for somebody.
    #[error("{reason}")]
    Shop {
        /// Whose, and why not.
        reason: String,
    },
    /// Somebody has asked to stop.
    #[error("the demo was stopped")]
    Stopped,
}

/// Runs a demo. Every process that it starts has ended when this returns.
///
/// # Errors
/// [`DemoError`]; a demo that comes to an end has a report, whatever its verdict.
pub async fn run(options: DemoOptions, tell: Tell, stop: CancellationToken) -> Result<Report, DemoError> {
    let began = Instant::now();
    let plan = Arc::new(Plan::new(&options));
    tell(Progress::Stage(format!(
        "starting {} control nodes, {} routers, {} cells with {} gates each",
        3, options.routers, options.cells, options.gates_per_cell
    )));
    let fleet = Fleet::start(FleetOptions {
        program: options.program.clone(),
        directory: options.directory.clone(),
        controls: 3,
        routers: options.routers,
        cells: options.cells,
        gates_per_cell: options.gates_per_cell,
        domain: DOMAIN.into(),
        plant: options.plant.clone(),
        databases: options.databases.clone(),
        tenant_schema: options.tenant_schema.clone(),
        tenant_database: options.tenant_database.clone(),
        shop: options.shop,
        keys: None,
        net: Net::Loopback,
        run: String::new(),
        regions: Vec::new(),
        disks: BTreeMap::new(),
        behind: BTreeMap::new(),
    })
    .await?;
    let fleet = Arc::new(Mutex::new(fleet));
    let done = tokio::select! {
        done = on_fleet(&options, &plan, &fleet, &tell, &stop, began) => done,
        () = stop.cancelled() => Err(DemoError::Stopped),
    };
    fleet.lock().await.stop().await;
    done
}

async fn on_fleet(
    options: &DemoOptions,
    plan: &Arc<Plan>,
    fleet: &Arc<Mutex<Fleet>>,
    tell: &Tell,
    stop: &CancellationToken,
    began: Instant,
) -> Result<Report, DemoError> {
    let (control, cells, routers) = {
        let fleet = fleet.lock().await;
        let cells: Arc<[CellId]> = fleet.cells.iter().map(|cell| cell.id.clone()).collect();
        let routers: Vec<String> = fleet.routers.iter().map(|router| router.listen.clone()).collect();
        (fleet.control(Duration::from_secs(15)), cells, routers)
    };
    tell(Progress::Stage(format!("making {} tenants", plan.tenants.len())));
    make_tenants(&control, plan, &cells, stop).await?;
    let names: Arc<[Arc<str>]> = plan.tenants.iter().map(|tenant| Arc::from(tenant.name.as_str())).collect();
    let load = Load::new(load_options(options, routers.clone()), RunClock::start(), Recorder::default());
    let trade = open_shops(options, &load, &names, tell).await?;
    let background = load.background(&names);
    let tills = trade.everywhere(&names);
    let reporting = report_load(&load, tell.clone());

    let driver = Driver {
        names: names.clone(),
        fleet: fleet.clone(),
        control: control.clone(),
        cells,
        load: load.clone(),
        trade: trade.clone(),
        tell: tell.clone(),
        stop: stop.clone(),
        hold_max_ms: options.hold_max_ms,
        ended: Arc::new(AtomicUsize::new(0)),
        in_all: plan.moves().count(),
    };
    tell(Progress::Stage("filling the tenants".into()));
    fill(&load, plan, &names, tell, stop).await;
    let machine = gauge(options, fleet, &control).await;
    tell(Progress::Stage(format!("moving tenants: {} moves", driver.in_all)));
    let herald = load.herald_holds(&control, "demo", &names);
    let driven = drive_all(&driver, plan, options.moves_at_once).await;
    herald.abort();
    background.stop().await;
    tills.stop().await;
    let load_seconds = load.clock().elapsed().as_secs_f64();
    reporting.abort();

    tell(Progress::Stage("reading everything back, through the routers and at its owners".into()));
    let mut observed = Observed { machine, ..Observed::default() };
    let end = {
        let fleet = fleet.lock().await;
        match read_end(&Places::of(&fleet), &control, &names).await {
            Ok(end) => end,
            Err(error) => {
                observed.trouble.push(format!("what is there at the end could not be read: {error}"));
                End::default()
            }
        }
    };
    observe_fleet(fleet, &mut observed).await;
    tell(Progress::Stage("comparing it with what clients were told".into()));
    let ops = load.recorder().snapshot();
    let (mut findings, mut failed) = (check(&ops, &end.tenants), Failed::of(&ops));
    match trade.close(&routers, &names, &driven, &mut findings, &mut failed).await {
        Ok(shop) => observed.shop = shop,
        Err(error) => observed.trouble.push(format!("the shops could not be audited: {error}")),
    }
    observed.mismatches.extend(end.mismatches);
    observed.trouble.extend(driven.iter().flat_map(|driven| driven.trouble.iter().cloned()));
    let moves: Vec<MoveReport> = reports(&driven, plan, &ops, &mut observed);
    Ok(Report::new(Evidence {
        seed: options.seed,
        planted: options.plant.clone(),
        seconds: began.elapsed().as_secs_f64(),
        load_seconds,
        tenants: names.len(),
        writes_per_second_wanted: options.writes_per_second,
        findings,
        failed,
        request_ms: Latencies::of(ops.iter().filter(|op| !driven.iter().any(|one| one.prober == Some(op.session)))),
        moves,
        observed,
    }))
}

async fn open_shops(
    options: &DemoOptions,
    load: &Load,
    names: &Arc<[Arc<str>]>,
    tell: &Tell,
) -> Result<Trade, DemoError> {
    if !options.shop {
        return Ok(Trade::none());
    }
    tell(Progress::Stage("opening a shop for each tenant".into()));
    Trade::open(load, names, options.writes_per_second).await.map_err(|reason| DemoError::Shop { reason })
}

/// Under the background load and before the first move: neither shall be taken for the other.
async fn gauge(options: &DemoOptions, fleet: &Mutex<Fleet>, control: &ControlClient) -> Option<Gauges> {
    let fleet = fleet.lock().await;
    let taken = Gauges::take(&options.directory, control, fleet.routers.first()?).await;
    taken.inspect_err(|error| tracing::warn!(error, "the machine could not be measured")).ok()
}

fn load_options(options: &DemoOptions, routers: Vec<String>) -> LoadOptions {
    LoadOptions {
        routers,
        domain: DOMAIN.into(),
        // A little more than promised, so that holds and a lost leader do not take it below.
        writes_per_second: options.writes_per_second + options.writes_per_second / 8,
        reads_per_second: 150,
        writers: 24,
        readers: 4,
        deadline: Duration::from_secs(10),
        network: Network::default(),
        seed: options.seed,
    }
}

async fn make_tenants(
    control: &ControlClient,
    plan: &Plan,
    cells: &[CellId],
    stop: &CancellationToken,
) -> Result<(), DemoError> {
    let limits = Limits { moves_total: 8, moves_per_cell: 6, moves_queued: 1_000 };
    if let Err(error) = control.set_limits(limits, WriteOptions::default()).await {
        tracing::warn!(%error, "the limits of moves stay as they are");
    }
    let made = futures::stream::iter(&plan.tenants).map(|planned| async move {
        let tenant = NewTenant {
            id: TenantId::new(&planned.name).expect("planned names are labels"),
            cell: Some(cells[planned.cell].clone()),
            tier: planned.tier,
            residency: String::new(),
        };
        let made = control.create_tenant(tenant, WriteOptions::default()).await;
        made.map_err(|source| DemoError::CreateTenant { tenant: planned.name.clone(), source })
    });
    made.buffer_unordered(16).try_for_each(|_| async { Ok(()) }).await?;
    let began = Instant::now();
    loop {
        let waiting = not_live(control, plan).await;
        let Some(first) = waiting.first() else { return Ok(()) };
        if began.elapsed() > Duration::from_secs(30) || stop.is_cancelled() {
            let (count, first) = (waiting.len(), first.clone());
            return Err(DemoError::NotLive { count, first, waited: began.elapsed() });
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

async fn not_live(control: &ControlClient, plan: &Plan) -> Vec<String> {
    let mut live = std::collections::BTreeSet::new();
    let mut options = cell_client::ListOptions { page_size: 1_000, ..cell_client::ListOptions::default() };
    while let Ok(page) = control.list_tenants(options.clone()).await {
        let names = page.items.into_iter().filter(|tenant| tenant.life == "live");
        live.extend(names.filter_map(|tenant| tenant.mapping.map(|mapping| mapping.tenant)));
        options.page_token = page.next_page_token;
        if options.page_token.is_empty() {
            break;
        }
    }
    plan.tenants.iter().map(|tenant| &tenant.name).filter(|name| !live.contains(*name)).cloned().collect()
}

async fn fill(load: &Load, plan: &Plan, names: &[Arc<str>], tell: &Tell, stop: &CancellationToken) {
    let filling = |(tenant, name): (&super::plan::TenantPlan, &Arc<str>)| Filling {
        tenant: name.clone(),
        docs: tenant.docs,
        doc_bytes: tenant.doc_bytes,
    };
    let (big, others): (Vec<_>, Vec<_>) = plan
        .tenants
        .iter()
        .zip(names)
        .map(filling)
        .partition(|filling| filling.doc_bytes as u64 >= DemoOptions::BIG_DOC_BYTES);
    let total = big.iter().chain(&others).map(|filling| u64::from(filling.docs) * filling.doc_bytes as u64).sum();
    let bytes = AtomicU64::new(0);
    let done = |more: usize| {
        let so_far = bytes.fetch_add(more as u64, Ordering::Relaxed) + more as u64;
        tell(Progress::Filled { bytes: so_far, total });
    };
    tokio::join!(load.fill(big, 6, stop, done), load.fill(others, 10, stop, done));
}

/// Lanes beside each other, then one by one what is done alone.
async fn drive_all(driver: &Driver, plan: &Plan, at_once: usize) -> Vec<Driven> {
    let lanes = plan.lanes.iter().map(|lane| async move {
        let mut driven = Vec::new();
        for planned in lane {
            driven.push(driver.drive(*planned).await);
        }
        driven
    });
    let mut driven: Vec<Driven> =
        futures::stream::iter(lanes).buffer_unordered(at_once.max(1)).collect::<Vec<_>>().await.concat();
    for planned in &plan.alone {
        driven.push(driver.drive(*planned).await);
    }
    driven
}

fn report_load(load: &Load, tell: Tell) -> tokio::task::JoinHandle<()> {
    let recorder = load.recorder().clone();
    tokio::spawn(async move {
        let (mut from, mut acked_writes, mut failed) = (0, 0, 0);
        let mut every = tokio::time::interval(Duration::from_secs(1));
        loop {
            every.tick().await;
            let tally = recorder.tally_from(from);
            from = tally.next;
            acked_writes += tally.acked_writes;
            failed += tally.failed;
            tell(Progress::Load { acked_writes, per_second: tally.acked_writes, failed });
        }
    })
}

async fn observe_fleet(fleet: &Mutex<Fleet>, observed: &mut Observed) {
    let mut fleet = fleet.lock().await;
    for router in &fleet.routers {
        match router.counter(STALE_REDIRECTS).await {
            Ok(count) => observed.stale_redirects += count,
            Err(error) => observed.trouble.push(format!("{} does not tell of itself: {error}", router.name)),
        }
    }
    for (name, status) in fleet.processes.fallen() {
        let log = fleet.processes.log_of(&name);
        observed.trouble.push(format!("{name} has ended by itself ({status}); its log is {}", log.display()));
    }
    let mib = |kib: u64| Duration::from_millis(kib).as_secs_f64() * 1_000.0 / 1_024.0;
    let memory = fleet.processes.memory().into_iter();
    observed.processes = memory
        .map(|(name, memory)| {
            (name, ProcessReport { rss_mib: mib(memory.resident_kib), peak_mib: mib(memory.peak_kib) })
        })
        .collect();
}

fn reports(driven: &[Driven], plan: &Plan, ops: &[Op], observed: &mut Observed) -> Vec<MoveReport> {
    let probes: BTreeSet<SessionId> = driven.iter().filter_map(|driven| driven.prober).collect();
    let movers = plan.movers();
    let mut by_tenant: BTreeMap<&str, (Vec<&Op>, Vec<&Op>)> =
        movers.iter().map(|&index| (plan.tenants[index].name.as_str(), Default::default())).collect();
    for op in ops {
        if let Some((of_clients, of_probes)) = by_tenant.get_mut(&*op.tenant) {
            // A probe waits on purpose: what it felt says nothing of the move.
            if probes.contains(&op.session) { of_probes.push(op) } else { of_clients.push(op) }
        }
    }
    let nothing = Default::default();
    let report = |driven: &Driven| {
        let tenant = &plan.tenants[driven.planned.tenant].name;
        let twist = driven.planned.twist;
        let (of_clients, of_probes) = by_tenant.get(tenant.as_str()).unwrap_or(&nothing);
        let exercise = Exercise::of(of_clients, &driven.entered, driven.ended);
        let early = driven.prober.map_or(0, |probe| served_early(of_probes, probe, &driven.entered));
        let movement = driven.movement.clone().unwrap_or_default();
        if movement.end_code.contains("MISMATCH") {
            observed.mismatches.push(format!("{} of {tenant}: {}", movement.id, movement.end_reason));
        }
        let rows = movement.digest.split(':').next().and_then(|rows| rows.parse().ok());
        MoveReport {
            id: movement.id,
            tenant: tenant.clone(),
            source: movement.source,
            target: movement.target,
            twist: twist.as_str().into(),
            fault: twist.is_fault(),
            end: if movement.end.is_empty() { "unfinished".into() } else { movement.end },
            wanted_end: twist.wanted_end().into(),
            reason: [movement.end_code, movement.end_reason]
                .into_iter()
                .filter(|text| !text.is_empty())
                .collect::<Vec<_>>()
                .join(": "),
            attempts: movement.attempt,
            seconds: driven.took.as_secs_f64(),
            rows: rows.unwrap_or(0),
            served_early: early,
            not_exercised: exercise.missing(twist.wanted()),
            exercise,
        }
    };
    driven.iter().map(report).collect()
}
