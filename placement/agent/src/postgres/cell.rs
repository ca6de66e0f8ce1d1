//! The driver: every tenant that this cell knows, and what they share.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use cell_client::Link;
use cell_model::{CellId, Lineage, Seq, TenantId, Term};
use cell_protos::v1 as wire;
use cell_protos::v1::step_request::Step;
use cell_protos::v1::step_response::Result as Answer;
use cell_trust::TrustedKeys;
use futures::future::BoxFuture;
use tokio::time::Instant;
use tokio_postgres::Client;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::{Request, Status, Streaming};

use super::captures::Standing;
use super::connect::Database;
use super::fault::Fault;
use super::options::DatabaseOptions;
use super::replication::Replication;
use super::tenant::{Core, Tenant};
use super::{feed, follower, look, records, steps};
use crate::board::Board;
use crate::capture::digest_to_wire;
use crate::driver::{Driver, Granted, Responses, Said, Sender, Surroundings};
use crate::error::AgentError;
use crate::options::Limits;
use crate::record::{AgentRecord, Role};
use crate::refusal::Refusal;

/// Held by the agent of a database for as long as it lives.
const AGENT_LOCK: i64 = 0x0063_656c_6c61_6774;
/// A stopped agent's session may end a moment after it.
const LOCK_PATIENCE: Duration = Duration::from_secs(5);
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// See the module.
pub(crate) struct Cell {
    around: Surroundings,
    pub(crate) database: Arc<Database>,
    pub(crate) replication: Replication,
    pub(crate) limits: Limits,
    agent: Mutex<AgentRecord>,
    // One at a time tells the database of a newer leader.
    term_turn: tokio::sync::Mutex<()>,
    known: RwLock<BTreeMap<TenantId, Arc<Tenant>>>,
    keeper: tokio::sync::Mutex<Client>,
}

impl std::ops::Deref for Cell {
    type Target = Surroundings;

    fn deref(&self) -> &Surroundings {
        &self.around
    }
}

/// The lock that says that an agent runs on this database.
async fn keep(database: &Database) -> Result<Client, Fault> {
    let deadline = tokio::time::Instant::now() + LOCK_PATIENCE;
    let client = database.session().await?;
    loop {
        if client.query_one("SELECT pg_try_advisory_lock($1)", &[&AGENT_LOCK]).await?.get(0) {
            return Ok(client);
        }
        if tokio::time::Instant::now() >= deadline {
            let reason = "another agent runs on this database: stop it, or give this cell a database of its own";
            return Err(Fault::new("AGENT_RUNNING", reason));
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

impl Cell {
    pub(crate) async fn open(
        here: CellId,
        limits: Limits,
        trusted: TrustedKeys,
        link: Link,
        options: DatabaseOptions,
    ) -> Result<Arc<Self>, AgentError> {
        let database = Arc::new(Database::new(options)?);
        let keeper = keep(&database).await?;
        let mut client = database.session().await?;
        let agent = records::open_agent(&mut client, &here, &database).await?;
        let replication = Replication::new(Arc::clone(&database), &here, limits.captured_bytes_max);
        let replication = replication.with_slot_of(&client).await?;
        let known = records::load(&client).await?;
        look::at_the_beginning(&database, &replication, &mut client, &known).await?;
        let known = known.into_iter().map(|(id, (control, copied))| {
            // What is captured goes on from where the slot stands; what has changed before is not known any more.
            if let Some(capture) = &control.capture {
                replication.capture(&id, capture.from, false);
            } else if control.reverse.is_some() {
                replication.want(&id);
            }
            (id.clone(), Arc::new(Tenant::new(id, Some(control), copied)))
        });
        let known = known.collect();
        let cell = Arc::new(Self {
            around: Surroundings {
                here,
                generation: agent.generation,
                board: Board::new(limits.lease()),
                trusted: RwLock::new(trusted),
                link,
                tasks: TaskTracker::new(),
                stop: CancellationToken::new(),
            },
            database,
            replication,
            limits,
            agent: Mutex::new(agent),
            term_turn: tokio::sync::Mutex::default(),
            known: RwLock::new(known),
            keeper: tokio::sync::Mutex::new(keeper),
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
        Arc::clone(known.entry(id.clone()).or_insert_with(|| Arc::new(Tenant::new(id.clone(), None, None))))
    }

    fn all(&self) -> Vec<Arc<Tenant>> {
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
        {
            let mut core = tenant.lock();
            (core.control, core.copied) = found.map_or((None, None), |(control, copied)| (Some(control), copied));
            core.doubted = false;
        }
        self.post(tenant);
        Ok(())
    }

    /// Tells the gates what this cell is to the tenant now, and wakes whoever waits for it.
    pub(crate) fn post(&self, tenant: &Tenant) {
        tenant.lock().post(&tenant.id, &self.board);
        tenant.notify();
    }

    /// Whether a step's leader is still the newest.
    pub(crate) fn check_term(&self, lineage: Lineage, term: Term) -> Result<(), Refusal> {
        let agent = self.agent.lock().unwrap_or_else(PoisonError::into_inner);
        let known = (agent.lineage, agent.term);
        if (lineage, term) < known { Err(stale_term(known)) } else { Ok(()) }
    }

    async fn remember_term(&self, lineage: Lineage, term: Term) -> Result<(), Refusal> {
        self.check_term(lineage, term)?;
        let _turn = self.term_turn.lock().await;
        let known = self.agent.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if (lineage, term) > (known.lineage, known.term) {
            let next = AgentRecord { lineage, term, ..known };
            records::store_term(&*self.database.client().await?, &next).await?;
            *self.agent.lock().unwrap_or_else(PoisonError::into_inner) = next;
        }
        self.check_term(lineage, term)
    }
}

fn stale_term((lineage, term): (Lineage, Term)) -> Refusal {
    Refusal::new("STALE_TERM", format!("a step of lineage {lineage}, term {term} has been here"))
}

impl Driver for Cell {
    fn surroundings(&self) -> &Surroundings {
        self
    }

    fn resume(self: Arc<Self>) {
        for tenant in self.all() {
            follower::ensure(&self, &tenant);
            let emptying = tenant.lock().control.as_ref().is_some_and(|control| control.emptying);
            if emptying {
                let cell = Arc::clone(&self);
                self.tasks.spawn(async move {
                    if let Err(refusal) = steps::empty(&cell, &tenant).await {
                        tracing::warn!(tenant = %tenant.id, %refusal, "what is left of a copy could not be deleted");
                    }
                });
            }
        }
    }

    fn sustain(self: Arc<Self>, stop: CancellationToken) -> BoxFuture<'static, Result<(), AgentError>> {
        Box::pin(async move {
            let reading = self.replication.run(&stop);
            let keeping = async {
                loop {
                    tokio::time::sleep(LOOK_EVERY).await;
                    let mut keeper = self.keeper.lock().await;
                    if !keeper.is_closed() {
                        continue;
                    }
                    match keep(&self.database).await {
                        Ok(client) => *keeper = client,
                        Err(fault) if fault.code == "AGENT_RUNNING" => return Err(AgentError::Database(fault)),
                        Err(fault) => tracing::warn!(%fault, "the database cannot be reached"),
                    }
                }
            };
            let ended = tokio::select! {
                () = reading => Ok(()),
                ended = keeping => ended,
                () = stop.cancelled() => Ok(()),
            };
            self.database.close();
            ended
        })
    }

    fn take_term(&self, lineage: Lineage, term: Term) -> BoxFuture<'_, Result<(), Refusal>> {
        Box::pin(self.remember_term(lineage, term))
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
        Box::pin(feed::serve(self, request))
    }

    fn storage<'a>(
        &'a self,
        tenant: Option<&'a TenantId>,
        counted: bool,
    ) -> BoxFuture<'a, Vec<wire::TenantStorage>> {
        Box::pin(async move {
            let asked = || tenant.map_or_else(|| self.all(), |id| self.get(id).into_iter().collect());
            if counted && let Err(fault) = look::count(&self.database, &asked()).await {
                tracing::debug!(%fault, "rows could not be counted: what was counted before is told");
            }
            asked().iter().filter_map(|tenant| self.storage_of(tenant)).collect()
        })
    }

    fn page<'a>(&'a self, after: &'a str, most: usize) -> BoxFuture<'a, Result<Vec<Said>, Refusal>> {
        Box::pin(async move {
            let mut said = Vec::new();
            for tenant in self.behind(after) {
                if said.len() == most {
                    break;
                }
                // A step asks for its leader and has its change committed in one turn: it is over now, or will be refused.
                let _turn = tenant.turn.lock().await;
                self.refresh(&tenant).await?;
                let standing = self.standing(&tenant.id);
                let core = tenant.lock();
                let now = Instant::now();
                let grant = core.posted(now).map(|posted| posted.to_wire(&tenant.id, now));
                said.extend(grant.zip(storage_in(&tenant.id, &core, standing)));
            }
            Ok(said)
        })
    }

    fn existing(&self) -> BoxFuture<'_, Result<Option<wire::Existing>, Refusal>> {
        Box::pin(async move { Ok(Some(super::existing::look(self).await?)) })
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
        ..wire::TenantStorage::default()
    })
}
