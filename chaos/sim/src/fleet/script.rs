//! What the field does: makes the fleet, lets clients work, moves a tenant to and fro, and reads everything back.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::fmt;
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use cell_chaos::check::{Findings, check};
use cell_chaos::clock::RunClock;
use cell_chaos::exercise::{Entered, Exercise};
use cell_chaos::fleet::CellNode;
use cell_chaos::history::{Op, Recorder};
use cell_chaos::load::{Load, LoadOptions, Running};
use cell_chaos::observe::{Places, read_end};
use cell_chaos::sights::{Looking, Lookout, Sights};
use cell_client::cluster::{self, InitializeOptions};
use cell_client::{AgentOptions, AgentPool, ClientOptions, ControlClient, Link, WriteOptions, wire};
use cell_model::{CellId, CellTraits, MoveId, MoveOptions, NewCell, NewTenant, Phase, TenantId, Tier};

use super::machine::{DOMAIN, agent_address, control_addresses, field, gate_addresses, router_address};
use super::{CELLS, MOVING, RENEWED, STAYING, fabric};
use crate::flaw::Flaw;
use crate::stage::{self, now};
use crate::trace::Trace;

/// How long a client waits for an answer.
const PATIENCE: Duration = Duration::from_secs(5);
pub(super) const POLL: Duration = Duration::from_millis(100);
const LOOK_EVERY: Duration = Duration::from_millis(300);
/// Clients of the moving tenant, beside those of both.
const WRITERS: u32 = 3;
const READERS: u32 = 2;
const GAP: Duration = Duration::from_millis(40);
/// When nothing breaks any more and a whole move is done, every tenant has to be served within this time.
const SERVED_WITHIN: Duration = Duration::from_secs(15);
/// After this time nothing is left of a move that has ended.
const TIDY_AFTER: Duration = Duration::from_secs(2);
/// One answer of a node, where everything is in order.
const STATUS_WITHIN: Duration = Duration::from_millis(500);

/// What everybody in a run shares.
#[derive(Default)]
pub(super) struct Scene {
    pub(super) phase: Cell<Option<stage::Phase>>,
    pub(super) trace: RefCell<Trace>,
    /// What the field is waiting for: the answer to why a run does not end.
    pub(super) waiting_for: RefCell<String>,
    pub(super) moves: RefCell<Moves>,
    pub(super) end: RefCell<Option<End>>,
    pub(super) recorder: Recorder,
    /// Looks at store and cells, for a run that does not come to its end.
    pub(super) looks: RefCell<Arc<Mutex<Sights>>>,
    /// What is to be done with the disk of a cell before the next tick.
    pub(super) image: Cell<Option<(&'static str, Image)>>,
}

/// What is done with an image of a cell's disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Image {
    /// It is taken.
    Taken,
    /// The cell starts again, from it.
    PutBack,
}

/// Moves, by how they ended.
#[derive(Debug, Default)]
pub(super) struct Moves {
    pub(super) ended: BTreeMap<String, usize>,
    pub(super) attempts: u32,
}

/// What there is at the end.
#[derive(Debug)]
pub(super) struct End {
    pub(super) ops: Vec<Op>,
    pub(super) findings: Findings,
    pub(super) mismatches: Vec<String>,
    /// What clients felt of the last move, which nothing has disturbed.
    pub(super) last: Exercise,
    /// Looks at store and cells, from the first write on.
    pub(super) sights: Sights,
    /// Tenants of which no write was acknowledged, in time, that was sent after everything had healed.
    pub(super) silent: Vec<&'static str>,
    /// What a cell has done for a leader that is gone.
    pub(super) obeyed: Option<String>,
}

impl Scene {
    pub(super) fn note(&self, line: fmt::Arguments<'_>) {
        self.trace.borrow_mut().note(now(), line);
    }

    pub(super) fn wait_for(&self, what: impl Into<String>) {
        *self.waiting_for.borrow_mut() = what.into();
    }

    /// Has something done with the disk of a cell, and waits until it is.
    async fn image(&self, cell: &'static str, image: Image) {
        self.image.set(Some((cell, image)));
        while self.image.get().is_some() {
            tokio::time::sleep(POLL).await;
        }
    }

    fn is_healed(&self) -> bool {
        self.phase.get() == Some(stage::Phase::Healed)
    }
}

/// Plays the whole script.
pub(super) async fn play(seed: u64, flaw: Option<Flaw>, scene: Rc<Scene>) -> turmoil::Result {
    let link = Link::Within(field(seed));
    let calls = ClientOptions { deadline: Duration::from_secs(4), ..ClientOptions::over(link.clone()) };
    let control = ControlClient::new(control_addresses(), calls);
    make(&control, &link, &scene).await?;
    let (script, load) = (Script { control, link, scene: Rc::clone(&scene) }, load(seed, &scene.recorder));
    script.fill_the_first(&self::load(seed, &Recorder::default())).await?;
    let tenants: Arc<[Arc<str>]> = [MOVING, STAYING].map(Arc::from).into();
    let looking = script.looking(&load.clock())?;
    *scene.looks.borrow_mut() = looking.shared();
    let background = load.background(&tenants);
    let focus = load.focus(&tenants[0], WRITERS, READERS, GAP);
    scene.note(format_args!("the fleet is made and used"));
    scene.phase.set(Some(stage::Phase::Faults));
    let mut target = 1;
    while !scene.is_healed() {
        script.bring_to(target).await?;
        target = 1 - target;
    }
    // Nothing breaks any more.
    let mut clients = vec![background, focus];
    if flaw == Some(Flaw::IdleClients) {
        stop_all(&mut clients).await;
    }
    let last = script.one_whole_move().await?;
    let silent = script.silent(&load.clock()).await?;
    let obeyed = script.obeyed_a_former_leader(&last).await?;
    script.renew(&load).await?;
    let last = if flaw == Some(Flaw::ClonedCell) { script.clone_the_owner(last).await? } else { last };
    stop_all(&mut clients).await;
    let everybody: Arc<[Arc<str>]> = [MOVING, STAYING, RENEWED].map(Arc::from).into();
    let end = script.read_back(&everybody, &load.clock(), &last).await?;
    // After everything was read: also of what is there at the end.
    let end = End { silent, obeyed, sights: looking.stop().await, ..end };
    *scene.end.borrow_mut() = Some(end);
    Ok(())
}

async fn stop_all(clients: &mut Vec<Running>) {
    for running in clients.drain(..) {
        running.stop().await;
    }
}

fn load(seed: u64, recorder: &Recorder) -> Load {
    let options = LoadOptions {
        routers: vec![router_address()],
        domain: DOMAIN.into(),
        writes_per_second: 20,
        reads_per_second: 20,
        writers: 2,
        readers: 2,
        deadline: PATIENCE,
        network: field(seed).network().clone(),
        seed,
    };
    Load::new(options, RunClock::start_at(fabric::wall_clock()), recorder.clone())
}

/// A cluster, two cells that have reported, and a tenant in each.
async fn make(control: &ControlClient, link: &Link, scene: &Scene) -> turmoil::Result {
    scene.wait_for("the cluster");
    let options = InitializeOptions { link: link.clone(), random: link.random(), ..InitializeOptions::default() };
    cluster::initialize_with(&control_addresses(), options).await?;
    for cell in CELLS {
        let cell = NewCell {
            id: CellId::new(cell)?,
            gates: gate_addresses(cell),
            agent: agent_address(cell),
            region: String::new(),
            residency: String::new(),
            traits: CellTraits::default(),
        };
        control.create_cell(cell, WriteOptions::default()).await?;
    }
    for (tenant, cell) in [MOVING, STAYING, RENEWED].into_iter().zip(CELLS.into_iter().cycle()) {
        let id = TenantId::new(tenant)?;
        control.create_tenant(new_tenant(tenant, cell)?, WriteOptions::default()).await?;
        scene.wait_for(format!("tenant {tenant} to live"));
        while control.get_tenant(&id).await?.life != "live" {
            tokio::time::sleep(POLL).await;
        }
    }
    Ok(())
}

pub(super) fn new_tenant(tenant: &str, cell: &str) -> Result<NewTenant, Box<dyn std::error::Error>> {
    let (id, cell) = (TenantId::new(tenant)?, Some(CellId::new(cell)?));
    Ok(NewTenant { id, cell, tier: Tier::Bronze, residency: String::new() })
}

pub(super) struct Script {
    pub(super) control: ControlClient,
    link: Link,
    pub(super) scene: Rc<Scene>,
}

impl Script {
    /// Moves the tenant to a cell, however often that takes. Given up when it has not begun once everything is healed.
    async fn bring_to(&self, target: usize) -> turmoil::Result {
        let (tenant, cell) = (TenantId::new(MOVING)?, CellId::new(CELLS[target])?);
        loop {
            self.scene.wait_for(format!("{tenant} to be in {cell}"));
            if let Ok(found) = self.control.get_tenant(&tenant).await {
                if let Some(under_way) = &found.r#move {
                    self.follow(under_way.id.parse()?).await;
                    continue;
                }
                let owner = found.mapping.map(|mapping| mapping.owner).unwrap_or_default();
                if owner == cell.as_str() || self.scene.is_healed() {
                    return Ok(());
                }
                self.ask(&tenant, &cell).await;
            }
            tokio::time::sleep(POLL).await;
        }
    }

    async fn ask(&self, tenant: &TenantId, cell: &CellId) {
        let how = MoveOptions {
            sync_steady_ms: 200,
            soak_ms: 400,
            retain_ms: 300,
            retries: 20,
            ..MoveOptions::default()
        };
        match self.control.move_tenant(tenant, cell, how, WriteOptions::default()).await {
            Ok((id, _)) => self.scene.note(format_args!("{id} is to bring {tenant} to {cell}")),
            Err(error) => self.scene.note(format_args!("{tenant} is not asked to {cell}: {}", error.code())),
        }
    }

    /// Until it has ended.
    async fn follow(&self, id: MoveId) -> wire::Move {
        self.scene.wait_for(format!("{id} to end"));
        let mut seen = 0;
        loop {
            if let Ok(movement) = self.control.get_move(id).await {
                for stamp in movement.history.iter().skip(seen) {
                    let phase = wire::Phase::try_from(stamp.phase).unwrap_or_default();
                    self.scene.note(format_args!("{id} in {}", phase.as_str_name()));
                }
                seen = seen.max(movement.history.len());
                self.scene.wait_for(format!(
                    "{id} to end, which is in {} at attempt {}",
                    wire::Phase::try_from(movement.phase).unwrap_or_default().as_str_name(),
                    movement.attempt
                ));
                if !movement.end.is_empty() {
                    self.scene.note(format_args!("{id} {} {}", movement.end, movement.end_code));
                    let mut moves = self.scene.moves.borrow_mut();
                    *moves.ended.entry(movement.end.clone()).or_default() += 1;
                    moves.attempts += movement.attempt;
                    return movement;
                }
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// A move that nothing disturbs, which has to complete.
    async fn one_whole_move(&self) -> Result<wire::Move, Box<dyn std::error::Error>> {
        let tenant = TenantId::new(MOVING)?;
        loop {
            self.scene.wait_for("a whole move to be accepted");
            if let Ok(found) = self.control.get_tenant(&tenant).await {
                if let Some(under_way) = &found.r#move {
                    let ended = self.follow(under_way.id.parse()?).await;
                    let begun = ended.history.first().map_or(0, |stamp| stamp.at_unix_ms);
                    let healed = u64::try_from(self.healed_at().as_millis())?;
                    if ended.end == "completed" && begun >= healed {
                        return Ok(ended);
                    }
                    continue;
                }
                let owner = found.mapping.map(|mapping| mapping.owner).unwrap_or_default();
                let other = if owner == CELLS[0] { CELLS[1] } else { CELLS[0] };
                self.ask(&tenant, &CellId::new(other)?).await;
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// Moves the tenant away from a cell, and starts that cell from an image of its disk that was taken before: then two
    /// own it. The other tenant is on the other cell and loses nothing by that. Answers the last move.
    async fn clone_the_owner(&self, last: wire::Move) -> Result<wire::Move, Box<dyn std::error::Error>> {
        if last.target != CELLS[0] {
            self.one_whole_move().await?;
        }
        // In the middle of a move a cell that starts asks whether it still owns.
        tokio::time::sleep(TIDY_AFTER).await;
        self.scene.image(CELLS[0], Image::Taken).await;
        let last = self.one_whole_move().await?;
        tokio::time::sleep(TIDY_AFTER).await;
        self.scene.image(CELLS[0], Image::PutBack).await;
        Ok(last)
    }

    /// Waits until of every tenant a write is acknowledged that was sent after everything had healed. A client that still
    /// waits for an answer from before then may take its patience for it. Answers whose clients are in vain.
    async fn silent(&self, clock: &RunClock) -> Result<Vec<&'static str>, Box<dyn std::error::Error>> {
        let healed = clock.of_unix_millis(u64::try_from(self.healed_at().as_millis())?);
        let until = now() + SERVED_WITHIN;
        let is_one = |tenant: &str, op: &Op| &*op.tenant == tenant && op.is_acked_write() && op.invoked > healed;
        loop {
            let since = self.scene.recorder.returned_since(healed);
            let wrote = |tenant: &&str| since.iter().any(|op| is_one(tenant, op));
            let silent: Vec<&str> = [MOVING, STAYING].into_iter().filter(|tenant| !wrote(tenant)).collect();
            if silent.is_empty() || now() > until {
                return Ok(silent);
            }
            self.scene.wait_for(format!("a write of {silent:?} to be acknowledged"));
            tokio::time::sleep(POLL).await;
        }
    }

    /// By the wall clock.
    fn healed_at(&self) -> Duration {
        crate::run::EPOCH + self.scene.trace.borrow().healed_at().unwrap_or_default()
    }

    /// What there is, once it is whole: cells, routers and control nodes may take a moment to agree.
    async fn read_back(
        &self,
        tenants: &Arc<[Arc<str>]>,
        clock: &RunClock,
        last: &wire::Move,
    ) -> Result<End, Box<dyn std::error::Error>> {
        self.until_the_nodes_agree().await;
        let places = self.places()?;
        let end = loop {
            match read_end(&places, &self.control, tenants).await {
                Ok(end) => break end,
                Err(error) => self.scene.wait_for(format!("everything to be read: {error}")),
            }
            tokio::time::sleep(POLL).await;
        };
        let ops = self.scene.recorder.snapshot();
        let findings = check(&ops, &end.tenants);
        let of_it: Vec<&Op> = ops.iter().filter(|op| &*op.tenant == MOVING).collect();
        let entered: Vec<Entered> = last
            .history
            .iter()
            .filter_map(|stamp| {
                let phase = Phase::try_from(wire::Phase::try_from(stamp.phase).ok()?).ok()?;
                Some(Entered { phase, at: clock.of_unix_millis(stamp.at_unix_ms) })
            })
            .collect();
        let last = Exercise::of(&of_it, &entered, clock.of_unix_millis(last.ended_unix_ms));
        let sights = Sights::default();
        Ok(End { ops, findings, mismatches: end.mismatches, last, sights, silent: Vec::new(), obeyed: None })
    }

    async fn until_the_nodes_agree(&self) {
        loop {
            let mut revisions = Vec::new();
            for address in control_addresses() {
                let status = cluster::status(&address, STATUS_WITHIN, &self.link).await;
                revisions.extend(status.ok().map(|status| status.revision));
            }
            if revisions.len() == control_addresses().len() && revisions.windows(2).all(|two| two[0] == two[1]) {
                return;
            }
            self.scene.wait_for(format!("the control nodes to agree, which are at {revisions:?}"));
            tokio::time::sleep(POLL).await;
        }
    }

    /// Looks at the fleet from now on.
    fn looking(&self, clock: &RunClock) -> Result<Looking, Box<dyn std::error::Error>> {
        let Places { cells, agents, .. } = self.places()?;
        let lookout = Lookout { control: self.control.clone(), cells, agents, patience: LOOK_EVERY };
        let clock = *clock;
        Ok(lookout.keep(LOOK_EVERY, move || Duration::from_micros(clock.now())))
    }

    pub(super) fn places(&self) -> Result<Places, Box<dyn std::error::Error>> {
        let cell = |cell: &str| {
            Ok::<_, Box<dyn std::error::Error>>(CellNode {
                id: CellId::new(cell)?,
                agent: agent_address(cell),
                gates: gate_addresses(cell),
            })
        };
        Ok(Places {
            routers: vec![router_address()],
            cells: CELLS.into_iter().map(cell).collect::<Result<_, _>>()?,
            agents: AgentPool::new(AgentOptions { link: self.link.clone(), ..AgentOptions::default() }),
            network: self.link.network().clone(),
        })
    }
}
