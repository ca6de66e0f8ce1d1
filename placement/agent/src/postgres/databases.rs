//! The driver of a cell in which each tenant has a database of its own: drivers of one database each, and a home.
//!
//! ```text
//!                    ┌─ home, the cell's own: agent, newest leader, tombstones, and the registry: whose database is which,
//! steps ─► Databases ┤                        and what was known of it when a step was last answered (its *floor*)
//!                    └─ one for each tenant:  a [`Cell`] with lock, generation, grants, slot and triggers of its own
//!
//! nothing ──make──► making ──► ready ──leave──► dropping ──► nothing         what this cell is to a tenant that has no database
//!                                                                            stands in the home
//! ```
//! * A database is in the registry, with the oid that it is made with, before it is made, and after it is dropped. One that this agent
//!   has not made it neither takes nor drops. All are opened when the agent starts, and stay open.
//! * One that cannot be opened is not "nothing": its steps are refused, and so is the page that it would be on.
//! * One that has less than its floor was put back to an older state, and may make a second owner: it is refused.
//! * What cannot expect a record – `CREATE DATABASE`, `DROP DATABASE` – is said in the session that holds the home's lock.

mod inside;
mod leaving;
mod looking;
mod making;
mod opening;
mod registry;
mod template;
mod whole;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use cell_client::{ControlClient, Link};
use cell_model::{CellId, Lineage, Seq, TenantId, Term};
use cell_protos::v1 as wire;
use cell_protos::v1::step_request::Step;
use cell_protos::v1::step_response::Result as Answer;
use cell_trust::TrustedKeys;
use futures::StreamExt as _;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Status, Streaming};

pub(crate) use inside::of_whole;
pub(crate) use template::look as look_at_template;

use super::cell::Cell;
use super::options::DatabaseOptions;
use super::{asking, feed, steps};
use crate::driver::{Driver, Granted, Responses, Said, Sender, Surroundings};
use crate::error::AgentError;
use crate::options::Limits;
use crate::refusal::Refusal;
use crate::transition;
use registry::Stage;
use whole::{Slot, State, Whole, Word, opening};

/// Databases that are opened, or counted, at once.
const AT_ONCE: usize = 4;
/// How often those that are not open are looked at.
const MIND_EVERY: Duration = Duration::from_millis(250);
/// Databases that are looked at, at once,
const MINDED_MAX: usize = 16;
/// and for how long: nobody waits for one of which nothing is heard.
const REVIVE_MAX: Duration = Duration::from_secs(30);
/// A database may be made and gone again between two looks, by other steps of the tenant.
const TURNS: usize = 4;

/// See the module.
pub(crate) struct Databases {
    home: Arc<Cell>,
    slots: RwLock<BTreeMap<TenantId, Arc<Slot>>>,
    /// One database is made at a time: the template can be copied only while nobody is connected to it.
    making: tokio::sync::Mutex<()>,
    /// Whether what was under way goes on by now.
    resumed: AtomicBool,
}

/// A tenant whose database is not open: nobody knows what this cell is to it, so it is never nothing.
fn unopened(tenant: &TenantId, why: &Refusal) -> Refusal {
    let reason = format!("the database of tenant {tenant} is not open ({why}): it is tried again");
    Refusal::new("DATABASE_UNOPENED", reason)
}

impl Databases {
    /// Opens the home, and every database in its registry. One that cannot be opened is tried again while the agent runs.
    pub(crate) async fn open(
        here: CellId,
        limits: Limits,
        trusted: TrustedKeys,
        link: Link,
        options: (DatabaseOptions, &Path, bool),
    ) -> Result<Arc<Self>, AgentError> {
        let home = Cell::open(here, limits, trusted, link, options).await?;
        let rows = registry::load(&home).await?;
        let slots = rows
            .into_iter()
            .map(|row| (row.tenant.clone(), Arc::new(Slot::new(row.tenant.clone(), State::closed(row)))));
        let slots = RwLock::new(slots.collect());
        let databases =
            Self { home, slots, making: tokio::sync::Mutex::default(), resumed: AtomicBool::new(false) };
        databases.find_forgotten().await?;
        let all = databases.all();
        futures::stream::iter(&all).for_each_concurrent(AT_ONCE, |slot| databases.revive(slot)).await;
        Ok(Arc::new(databases))
    }

    fn slot(&self, tenant: &TenantId) -> Arc<Slot> {
        if let Some(slot) = self.known(tenant) {
            return slot;
        }
        let mut slots = self.slots.write().unwrap_or_else(PoisonError::into_inner);
        let new = || Arc::new(Slot::new(tenant.clone(), State::Nothing));
        Arc::clone(slots.entry(tenant.clone()).or_insert_with(new))
    }

    fn known(&self, tenant: &TenantId) -> Option<Arc<Slot>> {
        self.slots.read().unwrap_or_else(PoisonError::into_inner).get(tenant).cloned()
    }

    fn all(&self) -> Vec<Arc<Slot>> {
        self.slots.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    fn state(&self, tenant: &TenantId) -> State {
        self.known(tenant).map_or(State::Nothing, |slot| slot.state())
    }

    /// The driver that has the tenant's rows; none where it has no database here.
    pub(crate) fn cell_of(&self, tenant: &TenantId) -> Option<Arc<Cell>> {
        match self.state(tenant) {
            State::Open(whole) => Some(Arc::clone(&whole.cell)),
            State::Nothing | State::Closed(_) => None,
        }
    }

    async fn run(&self, sender: Sender, tenant: &TenantId, step: Step) -> Result<Answer, Refusal> {
        let slot = self.slot(tenant);
        for _ in 0..TURNS {
            let life = slot.life.read().await;
            match slot.state() {
                // Behind its name may be another one by now.
                State::Open(whole) if whole.has_ended() => return Err(unopened(tenant, &opening())),
                State::Open(whole) => {
                    let answer = steps::run(&whole.cell, sender, tenant, step).await;
                    // Before the answer: whoever has heard it must never find less here.
                    let noted = self.note(&whole).await;
                    drop(life);
                    let left = if whole.is_over() { self.leave(&slot).await } else { Ok(()) };
                    let answer = answer?;
                    noted?;
                    left?;
                    return Ok(answer);
                }
                State::Closed(closed) if closed.word == Word::Home => {
                    drop(life);
                    self.revived(&slot).await?;
                }
                State::Closed(closed) => return Err(unopened(tenant, &closed.why)),
                State::Nothing => {
                    self.settle(tenant).await?;
                    if self.needs_rows(sender, tenant, &step)? {
                        drop(life);
                        self.make(&slot, sender, &step).await?;
                        continue;
                    }
                    let answer = steps::run(&self.home, sender, tenant, step).await?;
                    return Ok(self.with_room(answer));
                }
            }
        }
        Err(Refusal::new("BUSY", "the tenant's database is made and dropped by other steps"))
    }

    /// What the home knows of a tenant, beyond doubt.
    async fn settle(&self, tenant: &TenantId) -> Result<(), Refusal> {
        let known = self.home.entry(tenant);
        if !known.lock().doubted {
            return Ok(());
        }
        let _turn = known.turn.lock().await;
        self.home.refresh(&known).await
    }

    /// Whether a step makes something of a tenant that has to have a database for it.
    fn needs_rows(&self, sender: Sender, tenant: &TenantId, step: &Step) -> Result<bool, Refusal> {
        self.home.check_term(sender.lineage, sender.term)?;
        let context = &sender.context;
        let tenant = self.home.entry(tenant);
        let core = tenant.lock();
        let (control, has_copy) = (core.control.as_ref(), core.has_copy());
        match step {
            Step::Grant(_) => {
                transition::grant(control, context, has_copy)?;
                Ok(true)
            }
            Step::PrepareImport(import) => {
                let source = steps::cell_id(&import.source_cell)?;
                transition::prepare_import(control, context, has_copy, (&source, &import.source_agent))?;
                Ok(true)
            }
            _ => Ok(false),
        }
    }

    /// Those in the registry, and how many there may be.
    fn room(&self) -> (usize, usize) {
        let most = usize::try_from(self.home.database.options.tenant_databases_max).unwrap_or(usize::MAX);
        (self.all().iter().filter(|slot| !slot.is_nothing()).count(), most)
    }

    fn has_room(&self) -> Result<(), Refusal> {
        let (there, most) = self.room();
        if there < most {
            return Ok(());
        }
        let reason = format!(
            "{there} tenants have a database here, and tenant_databases_max is {most}: raise it, if the server has sessions for \
             more, or choose another cell"
        );
        Err(Refusal::new("TENANT_DATABASES_FULL", reason))
    }

    /// Preflight finds that, too.
    fn with_room(&self, answer: Answer) -> Answer {
        let Answer::Preflight(mut report) = answer else { return answer };
        if let Err(Refusal { code, reason }) = self.has_room() {
            report.findings.push(wire::Finding { code: code.into(), reason });
        }
        Answer::Preflight(report)
    }

    /// Opens what is not open, and ends what was begun, for ever.
    async fn mind(&self) {
        let (mut minded, mut under_way) = (FuturesUnordered::new(), BTreeSet::new());
        let mut look = tokio::time::interval(MIND_EVERY);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                Some(tenant) = minded.next() => {
                    under_way.remove(&tenant);
                }
                _ = look.tick() => {
                    let now = Instant::now();
                    for slot in self.all() {
                        if minded.len() < MINDED_MAX && slot.is_due(now) && under_way.insert(slot.tenant.clone()) {
                            minded.push(async move {
                                self.revive(&slot).await;
                                slot.tenant.clone()
                            });
                        }
                    }
                }
            }
        }
    }

    /// Where a step is under way, that comes first: whoever waits to be alone keeps later steps waiting, too.
    async fn revive(&self, slot: &Slot) {
        let Ok(_alone) = slot.life.try_write() else { return };
        if tokio::time::timeout(REVIVE_MAX, self.revived_alone(slot)).await.is_err() {
            slot.failed(&Refusal::new("BUSY", format!("it takes longer than {REVIVE_MAX:?}")));
        }
    }

    /// Brings a database that is not open to where it should be.
    async fn revived(&self, slot: &Slot) -> Result<(), Refusal> {
        let _alone = slot.life.write().await;
        self.revived_alone(slot).await
    }

    /// Closes what is open, and still has a session that pins it, or any.
    async fn close_all(&self, any: bool) {
        let mut open: Vec<Arc<Whole>> = self.all().iter().filter_map(|slot| slot.whole()).collect();
        open.retain(|whole| any || !whole.has_ended());
        let close = |whole: Arc<Whole>| async move {
            let _ended = whole.close().await;
        };
        futures::stream::iter(open).for_each_concurrent(None, close).await;
    }

    async fn revived_alone(&self, slot: &Slot) -> Result<(), Refusal> {
        self.brought_on(slot).await.inspect_err(|refusal| slot.failed(refusal))
    }

    async fn brought_on(&self, slot: &Slot) -> Result<(), Refusal> {
        let (row, word) = match slot.state() {
            State::Open(whole) if whole.has_ended() => {
                // Whatever has not ended writes under a generation that is not the newest any more.
                let _busy = whole.close().await;
                slot.set(State::closed(whole.row()));
                (whole.row(), Word::Unknown)
            }
            // It was to be left when it was opened, or after a step, and that could not be written down.
            State::Open(whole) => return self.leave_alone(slot, &whole).await,
            State::Nothing => return Ok(()),
            State::Closed(closed) => (closed.row, closed.word),
        };
        match row.stage {
            _ if word == Word::Unread => self.remember(slot, &row).await,
            Stage::Making => self.unmake(slot, &row).await,
            Stage::Dropping => self.drop_database(slot, &row).await,
            Stage::Ready => self.reopen_known(slot, &row).await,
        }
    }

    /// A tenant as it can be told of; none where there is nothing to tell.
    async fn said(&self, tenant: &TenantId) -> Result<Option<Said>, Refusal> {
        let slot = self.slot(tenant);
        let _life = slot.life.read().await;
        match slot.state() {
            State::Open(whole) if whole.has_ended() => Err(unopened(tenant, &opening())),
            State::Open(whole) => {
                let said = whole.cell.said(&whole.tenant).await?;
                // Whoever has heard this must never find less here, either.
                self.note(&whole).await?;
                Ok(said)
            }
            State::Closed(closed) if closed.word != Word::Home => Err(unopened(tenant, &closed.why)),
            State::Nothing | State::Closed(_) => match self.home.get(tenant) {
                Some(tenant) => self.home.said(&tenant).await,
                None => Ok(None),
            },
        }
    }
}

impl Driver for Databases {
    fn surroundings(&self) -> &Surroundings {
        &self.home
    }

    fn resume(self: Arc<Self>) {
        self.resumed.store(true, Ordering::SeqCst);
        for tenant in self.home.all() {
            if matches!(self.state(&tenant.id), State::Nothing) {
                self.home.resume_one(&tenant);
            }
        }
        for slot in self.all() {
            if let State::Open(whole) = slot.state() {
                whole.cell.resume_one(&whole.tenant);
            }
        }
    }

    fn sustain(self: Arc<Self>, stop: CancellationToken) -> BoxFuture<'static, Result<(), AgentError>> {
        Box::pin(async move {
            let ended = tokio::select! {
                ended = self.home.watch(&stop) => ended,
                () = self.mind() => Ok(()),
            };
            self.close_all(true).await;
            // From here on none is opened, whatever steps are under way still.
            self.home.keeper.release().await;
            self.close_all(false).await;
            self.home.database.close();
            ended
        })
    }

    fn take_term(&self, lineage: Lineage, term: Term) -> BoxFuture<'_, Result<(), Refusal>> {
        self.home.take_term(lineage, term)
    }

    fn step(
        self: Arc<Self>,
        sender: Sender,
        tenant: TenantId,
        step: Step,
    ) -> BoxFuture<'static, Result<Answer, Refusal>> {
        Box::pin(async move { self.run(sender, &tenant, step).await })
    }

    fn follow(
        self: Arc<Self>,
        request: Request<Streaming<wire::FollowRequest>>,
    ) -> BoxFuture<'static, Result<Responses, Status>> {
        let of = move |tenant: &TenantId| match self.state(tenant) {
            State::Open(whole) if whole.has_ended() => {
                Err(Status::unavailable(unopened(tenant, &opening()).to_string()))
            }
            State::Open(whole) => Ok(Arc::clone(&whole.cell)),
            State::Nothing => Ok(Arc::clone(&self.home)),
            State::Closed(closed) => Err(Status::unavailable(unopened(tenant, &closed.why).to_string())),
        };
        Box::pin(feed::serve(of, request))
    }

    fn storage<'a>(
        &'a self,
        tenant: Option<&'a TenantId>,
        counted: bool,
    ) -> BoxFuture<'a, Vec<wire::TenantStorage>> {
        Box::pin(async move {
            let cells: Vec<Arc<Cell>> = match tenant {
                Some(tenant) => vec![self.cell_of(tenant).unwrap_or_else(|| Arc::clone(&self.home))],
                None => {
                    let open = self.all().into_iter().filter_map(|slot| self.cell_of(&slot.tenant));
                    std::iter::once(Arc::clone(&self.home)).chain(open).collect()
                }
            };
            let asked = futures::stream::iter(cells).map(|cell| async move { cell.storage(tenant, counted).await });
            let mut told: Vec<wire::TenantStorage> =
                asked.buffer_unordered(AT_ONCE).collect::<Vec<_>>().await.into_iter().flatten().collect();
            told.sort_by(|one, other| one.tenant.cmp(&other.tenant));
            told
        })
    }

    fn page<'a>(&'a self, after: &'a str, most: usize) -> BoxFuture<'a, Result<Vec<Said>, Refusal>> {
        Box::pin(async move {
            let of_home = self.home.all().into_iter().map(|tenant| tenant.id.clone());
            let names: BTreeSet<TenantId> =
                of_home.chain(self.all().into_iter().map(|slot| slot.tenant.clone())).collect();
            let mut said = Vec::new();
            for tenant in names.iter().filter(|tenant| tenant.as_str() > after) {
                if said.len() == most {
                    break;
                }
                said.extend(self.said(tenant).await?);
            }
            Ok(said)
        })
    }

    fn existing(&self) -> BoxFuture<'_, Result<Option<wire::Existing>, Refusal>> {
        self.home.existing()
    }

    fn confirm(self: Arc<Self>, control: ControlClient) -> BoxFuture<'static, ()> {
        let cells = move || {
            let open = self.all().into_iter().filter_map(|slot| self.cell_of(&slot.tenant));
            std::iter::once(Arc::clone(&self.home)).chain(open).collect()
        };
        // Others are opened later.
        Box::pin(async move { asking::ask(cells, &control, true).await })
    }

    fn read_tail<'a>(
        &'a self,
        tenant: &'a TenantId,
        after: Seq,
    ) -> BoxFuture<'a, Result<Option<wire::ReadTailResponse>, Refusal>> {
        Box::pin(async move {
            match self.state(tenant) {
                State::Open(whole) => steps::read_tail(&whole.cell, tenant, after).await,
                State::Closed(closed) if closed.word != Word::Home => Err(unopened(tenant, &closed.why)),
                State::Nothing | State::Closed(_) => steps::read_tail(&self.home, tenant, after).await,
            }
        })
    }

    fn granted(&self, tenant: &TenantId) -> Option<Granted> {
        match self.state(tenant) {
            State::Open(whole) => whole.cell.granted(tenant),
            State::Nothing => self.home.granted(tenant),
            State::Closed(closed) => {
                let control = closed.row.control?;
                Some(Granted { uid: control.uid, epoch: control.epoch, mapping: control.mapping })
            }
        }
    }
}
