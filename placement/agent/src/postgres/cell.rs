//! The driver: every tenant that this cell knows, and what they share.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use cell_client::{ControlClient, Link};
use cell_model::{CellId, Generation, Lineage, Seq, TenantId, Term};
use cell_protos::v1 as wire;
use cell_protos::v1::step_request::Step;
use cell_protos::v1::step_response::Result as Answer;
use cell_trust::TrustedKeys;
use futures::future::BoxFuture;
use prometheus_client::metrics::counter::Counter;
use tokio::time::Instant;
use tokio_postgres::Client;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::{Request, Status, Streaming};

use super::captures::Standing;
use super::connect::Database;
use super::failover;
use super::floor::{Floor, Verdict};
use super::keeper::{self, Keeper};
use super::layout::Layout;
use super::leader::Leader;
use super::options::DatabaseOptions;
use super::records::Known;
use super::replication::Replication;
use super::tenant::{Core, Tenant};
use super::{asking, feed, follower, inspect, look, records, standbys, steps, tails};
use crate::board::Board;
use crate::capture::digest_to_wire;
use crate::driver::{Driver, Granted, Responses, Said, Sender, Surroundings};
use crate::error::AgentError;
use crate::options::Limits;
use crate::record::{AgentRecord, Role};
use crate::refusal::Refusal;

/// What is under way in a database that is let go of may take so long to end.
const CLOSE_MAX: Duration = Duration::from_secs(5);

/// See the module.
pub(crate) struct Cell {
    around: Arc<Surroundings>,
    pub(super) leader: Arc<Leader>,
    /// The agent's generation in this database: whatever it writes here expects it.
    pub(crate) incarnation: Generation,
    /// Followers, feeds and timers of this database run here, until
    pub(crate) tasks: TaskTracker,
    /// this.
    pub(crate) stop: CancellationToken,
    pub(crate) database: Arc<Database>,
    pub(crate) replication: Replication,
    pub(crate) limits: Limits,
    known: RwLock<BTreeMap<TenantId, Arc<Tenant>>>,
    pub(crate) keeper: Keeper,
    /// What was answered, outside of the database.
    pub(crate) floor: Arc<Floor>,
    /// There is a control plane that can be asked who owns.
    asks: bool,
}

impl std::ops::Deref for Cell {
    type Target = Surroundings;

    fn deref(&self) -> &Surroundings {
        &self.around
    }
}

/// A database that this agent has the lock of, and has made its own: no older one writes there any more.
pub(crate) struct Begun {
    pub(crate) database: Arc<Database>,
    pub(crate) keeper: Client,
    pub(crate) agent: AgentRecord,
}

impl Begun {
    async fn on(database: Arc<Database>, here: &CellId, floor: &Floor) -> Result<Self, AgentError> {
        let keeper = keeper::keep(&database).await?;
        failover::arrive(floor, &keeper, &database).await?;
        if matches!(database.layout, Layout::Databases { .. }) {
            inspect::can_choose_oids(&keeper).await?;
        }
        let begun = Self::under(keeper, database, here, floor.agent()).await?;
        floor.note_agent(&begun.agent).await.map_err(failover::as_fault)?;
        Ok(begun)
    }

    /// As [`Begun::on`], for whoever has the lock already. In its session: an agent that has lost it meanwhile changes nothing.
    pub(crate) async fn under(
        mut keeper: Client,
        database: Arc<Database>,
        here: &CellId,
        noted: Option<AgentRecord>,
    ) -> Result<Self, AgentError> {
        let agent = records::open_agent(&mut keeper, here, &database, noted).await?;
        Ok(Self { database, keeper, agent })
    }
}

/// What the databases of one agent share, and what each has for itself.
struct Shared {
    around: Arc<Surroundings>,
    leader: Arc<Leader>,
    floor: Arc<Floor>,
    limits: Limits,
    tasks: TaskTracker,
    stop: CancellationToken,
    asks: bool,
}

impl Cell {
    /// `asks`: there is a control plane that can be asked who owns.
    pub(crate) async fn open(
        here: CellId,
        limits: Limits,
        trusted: TrustedKeys,
        link: Link,
        (options, directory, asks): (DatabaseOptions, &Path, bool),
    ) -> Result<Arc<Self>, AgentError> {
        let database = Arc::new(Database::new(options)?);
        let floor = Arc::new(Floor::open(directory, &here).await?);
        let begun = Begun::on(database, &here, &floor).await?;
        let around = Arc::new(Surroundings {
            here,
            generation: begun.agent.generation,
            board: Board::new(limits.lease()),
            trusted: RwLock::new(trusted),
            link,
            tasks: TaskTracker::new(),
            stop: CancellationToken::new(),
            ended_writers: Counter::default(),
        });
        let (tasks, stop) = (around.tasks.clone(), around.stop.clone());
        let leader = Arc::new(Leader::new(begun.agent.clone()));
        Self::with(begun, Shared { around, leader, floor, limits, tasks, stop, asks }).await
    }

    /// Another database of the same agent.
    pub(crate) async fn beside(&self, begun: Begun) -> Result<Arc<Self>, AgentError> {
        let shared = Shared {
            around: Arc::clone(&self.around),
            leader: Arc::clone(&self.leader),
            floor: Arc::clone(&self.floor),
            limits: self.limits.clone(),
            tasks: TaskTracker::new(),
            stop: self.stop.child_token(),
            asks: self.asks,
        };
        Self::with(begun, shared).await
    }

    async fn with(begun: Begun, shared: Shared) -> Result<Arc<Self>, AgentError> {
        let Begun { database, mut keeper, agent } = begun;
        let Shared { around, leader, floor, limits, tasks, stop, asks } = shared;
        let replication = Replication::new(Arc::clone(&database), &around.here, limits.captured_bytes_max);
        let replication = replication.with_slot_of(&keeper).await?.by(agent.generation);
        let known = failover::at_the_beginning(&floor, &mut keeper, (&database, agent.generation)).await?;
        let kept = failover::kept(&keeper).await?;
        let end = standbys::log_end(&keeper).await?;
        let mut tails = tails::load(&keeper).await?;
        let under_way = tails::under_way(&known, &tails);
        let unpublished = look::at_the_beginning(&database, &replication, &mut keeper, &under_way).await?;
        let known = known.into_iter().map(|(id, known)| {
            let tail = tails.remove(&id);
            replication.go_on(&id, (&known.control, tail.as_ref()), unpublished.contains(&id));
            let tenant = Tenant::new(id.clone(), Some(known));
            {
                let mut core = tenant.lock();
                core.kept = kept.get(&id).cloned();
                core.tail = tail;
                if asks {
                    core.begin_asking(&id);
                }
                // An agent that has ended may not have answered for it yet.
                core.unconfirmed = (database.options.standbys_confirm > 0).then_some(end);
            }
            (id, Arc::new(tenant))
        });
        let known = known.collect();
        let cell = Arc::new(Self {
            around,
            leader,
            incarnation: agent.generation,
            tasks,
            stop,
            database,
            replication,
            limits,
            known: RwLock::new(known),
            keeper: Keeper::new(agent.generation, keeper),
            floor,
            asks,
        });
        for tenant in cell.all() {
            cell.post(&tenant);
        }
        Ok(cell)
    }

    /// A tenant that the cell knows.
    pub(crate) fn get(&self, id: &TenantId) -> Option<Arc<Tenant>> {
        self.known.read().unwrap_or_else(PoisonError::into_inner).get(id).cloned()
    }

    /// A tenant, known or not.
    pub(crate) fn entry(&self, id: &TenantId) -> Arc<Tenant> {
        if let Some(tenant) = self.get(id) {
            return tenant;
        }
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(known.entry(id.clone()).or_insert_with(|| Arc::new(Tenant::new(id.clone(), None))))
    }

    pub(crate) fn all(&self) -> Vec<Arc<Tenant>> {
        self.known.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    /// Those with names behind `after`, by name; also those that a step has only begun to make something of.
    fn behind(&self, after: &str) -> Vec<Arc<Tenant>> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        known.values().filter(|tenant| tenant.id.as_str() > after).cloned().collect()
    }

    /// After a change whose outcome is not known, the database is asked what it has. For whoever has the turn.
    pub(crate) async fn refresh(&self, tenant: &Tenant) -> Result<(), Refusal> {
        if !tenant.lock().doubted {
            return Ok(());
        }
        let mut client = self.database.client().await?;
        let found = records::load_one(&mut client, &tenant.id).await?;
        match &found {
            // Where each has a database, what this one does not know may be in another.
            None if matches!(self.database.layout, Layout::Databases { .. }) => {}
            found => self.expect_no_less(&tenant.id, found.as_ref())?,
        }
        if let Some(found) = &found {
            self.floor.note(&tenant.id, failover::least(found)).await?;
        }
        let tail = tails::find(&client, &tenant.id).await?;
        // What was put aside lets go of the log itself, once standbys have it.
        let needs_log = found.as_ref().is_some_and(|found| found.control.needs_log()) || tail.is_some();
        {
            let mut core = tenant.lock();
            core.takes(found);
            core.tail = tail;
        }
        if !needs_log {
            self.replication.unwant(&tenant.id);
        }
        self.post(tenant);
        self.is_to_be_confirmed(tenant).await.inspect_err(|_| tenant.lock().doubted = true)
    }

    /// Standbys have to have whatever is in the log by now before it is answered for, where that is asked for.
    pub(crate) async fn is_to_be_confirmed(&self, tenant: &Tenant) -> Result<(), Refusal> {
        if self.database.options.standbys_confirm > 0 {
            let end = standbys::log_end(&**self.database.client().await?).await?;
            tenant.lock().unconfirmed = Some(end);
        }
        Ok(())
    }

    /// A database that was put back is raised first, by whoever holds its lock.
    fn expect_no_less(&self, tenant: &TenantId, found: Option<&Known>) -> Result<(), Refusal> {
        match self.floor.judge(tenant, found) {
            Verdict::Stands => Ok(()),
            Verdict::Less(raised) => Err(failover::failed_over(tenant, &raised.what)),
        }
    }

    /// Tells the gates what this cell is to the tenant now, and wakes whoever waits for it.
    pub(crate) fn post(&self, tenant: &Tenant) {
        tenant.lock().post(&tenant.id, &self.board);
        tenant.notify();
    }

    /// Whether a step's leader is still the newest.
    pub(crate) fn check_term(&self, lineage: Lineage, term: Term) -> Result<(), Refusal> {
        self.leader.check(lineage, term)
    }

    /// Goes on with what was under way with a tenant.
    pub(crate) fn resume_one(self: &Arc<Self>, tenant: &Arc<Tenant>) {
        follower::ensure(self, tenant);
        if tenant.lock().puts_aside() {
            let (cell, tenant) = (Arc::clone(self), Arc::clone(tenant));
            self.tasks.spawn(async move { cell.stop.run_until_cancelled(steps::go_on(&cell, &tenant)).await });
        }
        let emptying = tenant.lock().control.as_ref().is_some_and(|control| control.emptying);
        if emptying {
            let (cell, tenant) = (Arc::clone(self), Arc::clone(tenant));
            self.tasks.spawn(async move {
                if let Err(refusal) = steps::empty(&cell, &tenant).await {
                    tracing::warn!(tenant = %tenant.id, %refusal, "what is left of a copy could not be deleted");
                }
            });
        }
    }

    /// Reads the log and holds the lock, until `stop`. An error: the database is not this agent's any more, or, where it is one
    /// tenant's, it has to be looked at anew.
    pub(crate) async fn watch(self: &Arc<Self>, stop: &CancellationToken) -> Result<(), AgentError> {
        let over = stop.child_token();
        let mut reading = std::pin::pin!(self.replication.run(&over));
        let keeping = async {
            if !self.database.layout.is_whole() {
                return Box::pin(self.stay()).await;
            }
            // Behind the same name may be another database by now.
            self.keeper.lost(&self.database, self.look_for_kept()).await;
            super::fault::Fault::new("DATABASE_UNREACHABLE", "the session that holds the agent's lock was lost")
        };
        let ended = tokio::select! {
            () = &mut reading => return Ok(()),
            fault = keeping => Err(AgentError::Database(fault)),
            () = self.note_given_up() => Ok(()),
            () = stop.cancelled() => Ok(()),
        };
        // A slot that is being made waits for the whole server: the waiting is ended there, too.
        over.cancel();
        let _over = tokio::time::timeout(CLOSE_MAX, reading).await;
        ended
    }

    /// Ends everything that is under way in this database. False: something has not ended yet.
    pub(crate) async fn quiesce(&self) -> bool {
        self.stop.cancel();
        self.tasks.close();
        let ended = tokio::time::timeout(CLOSE_MAX, self.tasks.wait()).await.is_ok();
        for tenant in self.all() {
            let seal = tenant.lock().seal.take();
            if let Some(seal) = seal {
                seal.release().await;
            }
            if let Ok(mut feed) = tenant.feed.try_lock() {
                *feed = None;
            }
        }
        ended
    }

    /// What this cell is to a tenant and what it keeps of it, as it is durable.
    pub(crate) async fn said(&self, tenant: &Tenant) -> Result<Option<Said>, Refusal> {
        // A step asks for its leader and has its change committed in one turn: it is over now, or will be refused.
        let _turn = tenant.turn.lock().await;
        self.refresh(tenant).await?;
        let standing = self.standing(&tenant.id);
        let core = tenant.lock();
        let now = Instant::now();
        let grant = core.posted(now).map(|posted| posted.to_wire(&tenant.id, now));
        Ok(grant.zip(storage_in(&tenant.id, &core, standing)))
    }
}

impl Driver for Cell {
    fn surroundings(&self) -> &Surroundings {
        self
    }

    fn resume(self: Arc<Self>) {
        for tenant in self.all() {
            self.resume_one(&tenant);
        }
    }

    fn sustain(self: Arc<Self>, stop: CancellationToken) -> BoxFuture<'static, Result<(), AgentError>> {
        Box::pin(async move {
            let ended = self.watch(&stop).await;
            self.database.close();
            ended
        })
    }

    fn take_term(&self, lineage: Lineage, term: Term) -> BoxFuture<'_, Result<(), Refusal>> {
        Box::pin(self.leader.remember(&self.database, &self.floor, lineage, term))
    }

    fn step(
        self: Arc<Self>,
        sender: Sender,
        tenant: TenantId,
        step: Step,
    ) -> BoxFuture<'static, Result<Answer, Refusal>> {
        Box::pin(async move { steps::run(&self, sender, &tenant, step).await })
    }

    fn follow(
        self: Arc<Self>,
        request: Request<Streaming<wire::FollowRequest>>,
    ) -> BoxFuture<'static, Result<Responses, Status>> {
        Box::pin(feed::serve(move |_: &TenantId| Ok(Arc::clone(&self)), request))
    }

    fn storage<'a>(
        &'a self,
        tenant: Option<&'a TenantId>,
        counted: bool,
    ) -> BoxFuture<'a, Vec<wire::TenantStorage>> {
        Box::pin(async move {
            let asked = || tenant.map_or_else(|| self.all(), |id| self.get(id).into_iter().collect());
            let mut not_counted = false;
            if counted && let Err(fault) = look::count(&self.database, &asked()).await {
                tracing::debug!(%fault, "rows could not be counted: what was counted before is told");
                not_counted = true;
            }
            let told = |storage| wire::TenantStorage { not_counted, ..storage };
            asked().iter().filter_map(|tenant| self.storage_of(tenant)).map(told).collect()
        })
    }

    fn page<'a>(&'a self, after: &'a str, most: usize) -> BoxFuture<'a, Result<Vec<Said>, Refusal>> {
        Box::pin(async move {
            let mut said = Vec::new();
            for tenant in self.behind(after) {
                if said.len() == most {
                    break;
                }
                said.extend(self.said(&tenant).await?);
            }
            Ok(said)
        })
    }

    fn existing(&self) -> BoxFuture<'_, Result<Option<wire::Existing>, Refusal>> {
        Box::pin(async move { Ok(Some(super::existing::look(self).await?)) })
    }

    fn confirm(self: Arc<Self>, control: ControlClient) -> BoxFuture<'static, ()> {
        Box::pin(async move { asking::ask(|| vec![Arc::clone(&self)], &control, false).await })
    }

    fn read_tail<'a>(
        &'a self,
        tenant: &'a TenantId,
        after: Seq,
    ) -> BoxFuture<'a, Result<Option<wire::ReadTailResponse>, Refusal>> {
        Box::pin(steps::read_tail(self, tenant, after))
    }

    fn granted(&self, tenant: &TenantId) -> Option<Granted> {
        let tenant = self.get(tenant)?;
        let core = tenant.lock();
        let control = core.control.as_ref()?;
        Some(Granted { uid: control.uid, epoch: control.epoch, mapping: control.mapping.clone() })
    }
}

impl Cell {
    /// Where the capture stands: asked before the tenant's lock is taken, never under it.
    fn standing(&self, tenant: &TenantId) -> Option<Standing> {
        self.replication.captures().standing(tenant).and_then(Result::ok)
    }

    fn storage_of(&self, tenant: &Tenant) -> Option<wire::TenantStorage> {
        let standing = self.standing(&tenant.id);
        let mut storage = storage_in(&tenant.id, &tenant.lock(), standing)?;
        if storage.captures {
            let source = self.replication.throttle.standing();
            let micros = source.latency.map(|latency| u64::try_from(latency.as_micros()).unwrap_or(u64::MAX));
            (storage.commit_us, storage.slowed_to) = (micros.unwrap_or_default(), source.rate.unwrap_or_default());
        }
        Some(storage)
    }
}

fn storage_in(tenant: &TenantId, core: &Core, standing: Option<Standing>) -> Option<wire::TenantStorage> {
    let control = core.control.as_ref()?;
    let follows = control.follow.is_some();
    let last = match control.role {
        Role::Owner | Role::Fenced { .. } => standing.map_or(Seq(0), |standing| standing.last),
        _ => core.applied(),
    };
    Some(wire::TenantStorage {
        tenant: tenant.to_string(),
        uid: control.uid.get(),
        rows: core.counted.0,
        bytes: core.counted.1,
        last_seq: last.get(),
        applied_seq: if follows { core.applied().get() } else { 0 },
        digest: Some(digest_to_wire(core.digest)),
        captured: standing.map_or(0, |standing| standing.kept as u64),
        copied_rows: core.progress.copied.0,
        copied_bytes: core.progress.copied.1,
        // Positions in the log are bytes of it.
        lag_bytes: if follows { core.progress.source_seq.get().saturating_sub(core.applied().get()) } else { 0 },
        lag_ms: if follows { core.progress.lag_ms() } else { 0 },
        move_id: control.move_id.0,
        has_copy: core.has_copy(),
        captures: control.capture.is_some(),
        held_back: control.capture.is_some() && core.held_back,
        rows_kept: core.kept.clone().unwrap_or_default(),
        ..wire::TenantStorage::default()
    })
}
