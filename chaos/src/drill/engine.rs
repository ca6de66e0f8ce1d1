//! Runs a drill: a fleet, a steady state, the script, recovery, and everything read back.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use cell_client::WriteOptions;
use cell_client::net::Network;
use cell_model::{CellId, Limits, NewTenant, TenantId, Tier};
use futures::{StreamExt, TryStreamExt};
use tokio_util::sync::CancellationToken;

use super::clocks::{Clocks, Shared};
use super::database::Databases;
use super::disk::NodeDisk;
use super::evidence::{Evidence, Home};
use super::keys::Keys;
use super::report::DrillReport;
use super::script::Runner;
use super::steer::Moves;
use super::verdict::judge;
use super::{Drill, Stage, Who};
use crate::check::check;
use crate::clock::{Micros, RunClock};
use crate::fleet::{Fleet, FleetError, FleetOptions};
use crate::history::Recorder;
use crate::load::{Filling, Load, LoadOptions, Running};
use crate::observe::{End, Places, read_end};
use crate::seed::Choices;
use crate::wiring::Net;
use crate::wiring::spaces::{MARK, SpacesError};

const DOMAIN: &str = "cells.example";
const CONTROLS: usize = 3;
/// Before the steady state is looked at: connections are made, caches filled.
const WARM_UP: Duration = Duration::from_millis(1_200);
const STEADY: Duration = Duration::from_millis(3_000);
/// After the last heal, how long is waited at the most until everybody is served.
const RECOVERY_MAX: Duration = Duration::from_secs(25);
/// Everybody is served when nobody's request has failed for so long.
const QUIET: Duration = Duration::from_millis(1_500);
/// A client gives up after this.
const PATIENCE: Duration = Duration::from_secs(5);

/// How a drill is run.
#[derive(Debug, Clone)]
pub struct RunOptions {
    /// What choices follow.
    pub seed: u64,
    /// The wiring.
    pub net: Net,
    /// The program that runs a server: called as `<program> run control|router|cell --options FILE`.
    pub program: PathBuf,
    /// Where data, options and logs go.
    pub directory: PathBuf,
    /// What this run is called: [`run_name`].
    pub run: String,
    /// A fault to be planted in the cells, by name; only builds with the feature know any.
    pub plant: Option<String>,
}

/// A name for a run of this process: what it leaves on the machine begins with it.
#[must_use]
pub fn run_name() -> String {
    let started = super::leftovers::started(std::process::id()).unwrap_or(0);
    format!("{MARK}{:x}-{started:x}", std::process::id())
}

/// What a drill tells while it runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Told {
    /// A new part has begun.
    Part(String),
    /// Something was done.
    Act(String),
}

/// Where that goes.
pub type Tell = Arc<dyn Fn(Told) + Send + Sync>;

/// Why there is no verdict at all.
#[derive(Debug, thiserror::Error)]
pub enum DrillError {
    /// There is no fleet.
    #[error(transparent)]
    Fleet(#[from] FleetError),
    /// There is no disk.
    #[error("the disk of {node} could not be made")]
    Disk {
        /// Whose.
        node: String,
        /// Why not.
        #[source]
        source: SpacesError,
    },
    /// Clocks cannot be set.
    #[error("the clocks of the fleet cannot be set")]
    Clocks(#[source] std::io::Error),
    /// A cell has no database.
    #[error("a cell's PostgreSQL server could not be started")]
    Database(#[source] cell_pg_server::ServerError),
    /// Tenants have no keys.
    #[error("the keys of tenants could not be written")]
    Keys(#[source] std::io::Error),
    /// A tenant could not be made.
    #[error("tenant {tenant} could not be made")]
    CreateTenant {
        /// Which.
        tenant: String,
        /// Why not.
        #[source]
        source: cell_client::ClientError,
    },
    /// The fleet did not come to serve its tenants.
    #[error("the fleet did not reach its steady state within {waited:?}: {reason}")]
    NotSteady {
        /// What was missing.
        reason: String,
        /// How long was waited.
        waited: Duration,
    },
    /// Somebody has asked to stop.
    #[error("the drill was stopped")]
    Stopped,
}

/// Runs a drill. Everything that it has started has ended and everything that it has made is gone when this returns.
///
/// # Errors
/// [`DrillError`]; a drill that comes to an end has a report, whatever its verdict.
pub async fn run(
    drill: &Drill,
    options: &RunOptions,
    tell: Tell,
    stop: CancellationToken,
) -> Result<DrillReport, DrillError> {
    let began = Instant::now();
    let mut disk = disk_of(drill, options).await?;
    let clocks = clocks_of(drill, options)?;
    let keys = keys_of(drill, options)?;
    let databases = databases_of(drill, options, &tell).await?;
    let fleet = Fleet::start(fleet_options(drill, options, disk.as_ref(), clocks.as_ref(), &databases));
    tell(Told::Part(format!("{}: starting the fleet ({})", drill.name, options.net.as_str())));
    let done = tokio::select! {
        fleet = fleet => match fleet {
            Ok(fleet) => {
                let machine = Machine { disk: disk.take(), clocks, keys, databases };
                let (done, back) = on_fleet(drill, options, fleet, machine, tell, &stop).await;
                disk = back;
                done
            }
            Err(error) => Err(error.into()),
        },
        () = stop.cancelled() => Err(DrillError::Stopped),
    };
    if let Some(disk) = disk {
        disk.remove().await;
    }
    let evidence = done?;
    let findings = judge(drill, &evidence);
    Ok(DrillReport::new(drill, options, evidence, findings, began.elapsed()))
}

/// What of the machine a drill can break.
struct Machine {
    disk: Option<NodeDisk>,
    clocks: Option<Clocks>,
    keys: Option<Keys>,
    databases: Databases,
}

async fn on_fleet(
    drill: &Drill,
    options: &RunOptions,
    fleet: Fleet,
    machine: Machine,
    tell: Tell,
    stop: &CancellationToken,
) -> (Result<Evidence, DrillError>, Option<NodeDisk>) {
    fleet.wiring.seed(options.seed);
    let homes = homes(&drill.stage, options.seed);
    let control = fleet.control(Duration::from_secs(15));
    let cells: Arc<[CellId]> = fleet.cells.iter().map(|cell| cell.id.clone()).collect();
    let load = Load::new(load_options(drill, options, &fleet), RunClock::start(), Recorder::default());
    let names: Arc<[Arc<str>]> = homes.iter().map(|home| home.name.clone()).collect();
    let mut runner = Runner {
        moves: Moves::new(control.clone(), cells, names.clone(), load.clone()),
        evidence: Evidence { homes, ..Evidence::default() },
        choices: Choices::new(options.seed).part(7),
        disk: machine.disk,
        injections: BTreeMap::new(),
        clocks: machine.clocks,
        keys: machine.keys,
        databases: machine.databases,
        fleet,
        control,
        load,
        tell,
        victim: None,
        crowds: Vec::new(),
        stutters: BTreeMap::new(),
        looking: None,
        sampling: None,
    };
    let done = tokio::select! {
        done = experiment(drill, &mut runner, stop) => done,
        () = stop.cancelled() => Err(DrillError::Stopped),
    };
    runner.end_faults().await;
    let shared = runner.clocks.as_ref().map(Clocks::shared).unwrap_or_default();
    runner.fleet.stop().await;
    shared.iter().for_each(Shared::remove);
    std::mem::take(&mut runner.databases).remove().await;
    let disk = runner.disk.take();
    (done.map(|()| std::mem::take(&mut runner.evidence)), disk)
}

async fn experiment(drill: &Drill, runner: &mut Runner, stop: &CancellationToken) -> Result<(), DrillError> {
    let homes = runner.evidence.homes.clone();
    runner.part(format!("making {} tenants", homes.len()));
    make_tenants(runner, &drill.stage, &homes).await?;
    fill(runner, &drill.stage, stop).await;
    let clients = clients(runner, &drill.stage);
    let holds = runner.moves.herald_holds();
    tokio::time::sleep(WARM_UP).await;
    until_served(runner, Duration::from_secs(20)).await?;
    runner.sample();
    runner.part(format!("steady state: {}", drill.steady));
    let clock = runner.load.clock();
    let steady_from = clock.now();
    tokio::time::sleep(STEADY).await;
    runner.evidence.steady = (steady_from, clock.now());

    runner.part(format!("fault: {}", drill.fault));
    runner.evidence.fault.0 = clock.now();
    for act in &drill.script {
        runner.act(act).await;
    }
    runner.end_faults().await;
    runner.evidence.fault.1 = runner.last_heal().unwrap_or_else(|| clock.now());
    runner.part("recovery".into());
    recover(runner).await;
    runner.evidence.end = clock.now();
    holds.abort();
    futures::future::join_all(clients.into_iter().map(Running::stop)).await;
    read_back(runner).await;
    Ok(())
}

/// Which tenants there are, and where each begins.
fn homes(stage: &Stage, seed: u64) -> Vec<Home> {
    let mut choices = Choices::new(seed).part(1);
    let tenants = stage.cells.len() * stage.tenants_per_cell;
    let mut words: Vec<u64> = (0..tenants as u64).collect();
    choices.shuffle(&mut words);
    // Names say nothing of places: with another seed another tenant begins there.
    let home = |(index, word): (usize, u64)| Home {
        name: format!("tenant-{:02}", word + 1).into(),
        cell: index % stage.cells.len(),
    };
    words.into_iter().enumerate().map(home).collect()
}

/// The disk of its own that a control node or a cell of this drill has.
async fn disk_of(drill: &Drill, options: &RunOptions) -> Result<Option<NodeDisk>, DrillError> {
    let (node, kind) = match drill.stage.disk {
        Some((Who::Control(index), kind)) => (format!("control-{}", index + 1), kind),
        Some((Who::Cell(index), kind)) => (format!("cell-{}", index + 1), kind),
        Some(_) | None => return Ok(None),
    };
    let disk = NodeDisk::open(&node, kind, &options.run).await;
    disk.map(Some).map_err(|source| DrillError::Disk { node, source })
}

/// Clocks that this drill can set: those of everybody but its clients.
fn clocks_of(drill: &Drill, options: &RunOptions) -> Result<Option<Clocks>, DrillError> {
    if !drill.stage.clocks {
        return Ok(None);
    }
    Clocks::open(&options.directory, &names_of(&drill.stage)).map(Some).map_err(DrillError::Clocks)
}

fn names_of(stage: &Stage) -> Vec<String> {
    let counted = |word: &'static str, count: usize| (1..=count).map(move |number| format!("{word}-{number}"));
    let cells = counted("cell", stage.cells.len());
    counted("control", CONTROLS).chain(counted("router", stage.routers)).chain(cells).collect()
}

/// Where cells look for the keys of tenants.
fn keys_directory(drill: &Drill, options: &RunOptions) -> Option<PathBuf> {
    drill.stage.keys.then(|| options.directory.join("keys"))
}

/// A key for every tenant, where cells ask for one.
fn keys_of(drill: &Drill, options: &RunOptions) -> Result<Option<Keys>, DrillError> {
    let Some(directory) = keys_directory(drill, options) else { return Ok(None) };
    let names: Vec<Arc<str>> = homes(&drill.stage, options.seed).into_iter().map(|home| home.name).collect();
    Keys::make(directory, &names, &mut Choices::new(options.seed).part(8)).map(Some).map_err(DrillError::Keys)
}

/// Servers of the cells of this drill that keep their tenants in PostgreSQL.
async fn databases_of(drill: &Drill, options: &RunOptions, tell: &Tell) -> Result<Databases, DrillError> {
    let cells: Vec<String> = (1..=drill.stage.databases).map(|number| format!("cell-{number}")).collect();
    if !cells.is_empty() {
        tell(Told::Part(format!("{}: starting PostgreSQL for {}", drill.name, cells.join(", "))));
    }
    Databases::start(&cells, &options.run).await.map_err(DrillError::Database)
}

fn fleet_options(
    drill: &Drill,
    options: &RunOptions,
    disk: Option<&NodeDisk>,
    clocks: Option<&Clocks>,
    databases: &Databases,
) -> FleetOptions {
    let behind = |clocks: &Clocks| {
        let names = names_of(&drill.stage).into_iter();
        names.map(|name| (name.clone(), clocks.words(&name))).collect()
    };
    let regions = drill.stage.cells.iter().map(|(region, residency)| ((*region).into(), (*residency).into()));
    FleetOptions {
        program: options.program.clone(),
        directory: options.directory.clone(),
        controls: CONTROLS,
        routers: drill.stage.routers,
        cells: drill.stage.cells.len(),
        gates_per_cell: 2,
        domain: DOMAIN.into(),
        plant: options.plant.clone(),
        databases: databases.urls(),
        tenant_schema: None,
        tenant_database: None,
        shop: false,
        keys: keys_directory(drill, options),
        net: options.net,
        run: options.run.clone(),
        regions: regions.collect(),
        disks: disk.iter().map(|disk| (disk.node.clone(), disk.data())).collect(),
        behind: clocks.map(behind).unwrap_or_default(),
    }
}

fn load_options(drill: &Drill, options: &RunOptions, fleet: &Fleet) -> LoadOptions {
    LoadOptions {
        routers: fleet.routers.iter().map(|router| router.listen.clone()).collect(),
        domain: DOMAIN.into(),
        writes_per_second: 0,
        reads_per_second: 0,
        writers: drill.stage.writers,
        readers: 1,
        deadline: PATIENCE,
        network: Network::default(),
        seed: options.seed,
    }
}

async fn make_tenants(runner: &Runner, stage: &Stage, homes: &[Home]) -> Result<(), DrillError> {
    let control = &runner.control;
    let limits = Limits { moves_total: 8, moves_per_cell: 6, moves_queued: 1_000 };
    if let Err(error) = control.set_limits(limits, WriteOptions::default()).await {
        tracing::warn!(%error, "the limits of moves stay as they are");
    }
    let made = futures::stream::iter(homes).map(|home| async move {
        let tenant = NewTenant {
            id: TenantId::new(&*home.name).expect("letters, a hyphen and digits are a label"),
            cell: Some(runner.moves.cell(home.cell)),
            tier: Tier::Bronze,
            residency: stage.cells[home.cell].1.to_owned(),
        };
        let made = control.create_tenant(tenant, WriteOptions::default()).await;
        made.map_err(|source| DrillError::CreateTenant { tenant: home.name.to_string(), source })
    });
    made.buffer_unordered(8).try_for_each(|_| async { Ok(()) }).await
}

async fn fill(runner: &Runner, stage: &Stage, stop: &CancellationToken) {
    let filling = |(index, home): (usize, &Home)| {
        let (docs, doc_bytes) = stage.first_filling.filter(|_| index == 0).unwrap_or(stage.filling);
        Filling { tenant: home.name.clone(), docs, doc_bytes }
    };
    let fillings = runner.evidence.homes.iter().enumerate().map(filling).collect();
    runner.load.fill(fillings, 6, stop, |_| {}).await;
}

fn clients(runner: &Runner, stage: &Stage) -> Vec<Running> {
    let gap = Duration::from_millis(stage.gap_ms);
    let focus = |home: &Home| runner.load.focus(&home.name, stage.writers, 1, gap);
    runner.evidence.homes.iter().map(focus).collect()
}

/// Waits until nobody's request has failed for a while, and everybody has had one.
async fn until_served(runner: &Runner, patience: Duration) -> Result<(), DrillError> {
    let began = Instant::now();
    loop {
        let missing = runner.not_served(Duration::from_millis(800));
        let Some(first) = missing.first() else { return Ok(()) };
        if began.elapsed() > patience {
            let reason = format!("{} tenants are not served, the first is {first}", missing.len());
            return Err(DrillError::NotSteady { reason, waited: began.elapsed() });
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn recover(runner: &mut Runner) {
    let (began, least) = (Instant::now(), QUIET + PATIENCE / 4);
    while began.elapsed() < RECOVERY_MAX {
        tokio::time::sleep(Duration::from_millis(50)).await;
        if began.elapsed() > least && runner.not_served(QUIET).is_empty() {
            return;
        }
    }
    let missing = runner.not_served(QUIET);
    if let Some(first) = missing.first() {
        let count = missing.len();
        let waited = RECOVERY_MAX.as_secs();
        runner.trouble(format!("{count} tenants are not served {waited} s after the last heal, e.g. {first}"));
    }
}

async fn read_back(runner: &mut Runner) {
    runner.part("reading everything back and judging".into());
    runner.stop_sampling().await;
    runner.finish_moves().await;
    let names: Vec<Arc<str>> = runner.evidence.homes.iter().map(|home| home.name.clone()).collect();
    let end = match read_end(&Places::of(&runner.fleet), &runner.control, &names).await {
        Ok(end) => end,
        Err(error) => {
            runner.trouble(format!("what is there at the end could not be read: {error}"));
            End::default()
        }
    };
    runner.look_at_the_end().await;
    let ops = runner.load.recorder().snapshot();
    let evidence = &mut runner.evidence;
    evidence.mismatches.extend(end.mismatches);
    evidence.findings = check(&ops, &end.tenants);
    evidence.ops = ops;
    let ghosts = runner.moves.ghosts();
    evidence.set_apart(&ghosts);
}

impl Runner {
    /// Tenants that were refused, or not answered at all, within this time.
    fn not_served(&self, within: Duration) -> Vec<Arc<str>> {
        let now = self.load.clock().now();
        let since: Micros = now.saturating_sub(u64::try_from(within.as_micros()).unwrap_or(0));
        let ghosts = self.moves.ghosts();
        let recent = self.load.recorder().returned_since(since);
        let recent = || recent.iter().filter(|op| !ghosts.contains(&op.session));
        let homes = self.evidence.homes.iter();
        homes
            .map(|home| &home.name)
            .filter(|name| {
                let of_tenant = || recent().filter(|op| op.tenant == **name);
                of_tenant().any(|op| op.failed) || !of_tenant().any(|op| op.is_done())
            })
            .cloned()
            .collect()
    }
}
