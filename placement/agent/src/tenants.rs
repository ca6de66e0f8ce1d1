//! Every tenant that this cell knows, and what they share: the store, the board, the highest term.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use cell_client::Link;
use cell_model::{CellId, Generation, Lineage, TenantId, Term};
use cell_trust::TrustedKeys;
use prometheus_client::metrics::counter::Counter;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::board::Board;
use crate::driver::Surroundings;
use crate::durable::{Durable, NotDurable, Ticket};
use crate::engine::{Batch, Engine, EngineError};
use crate::error::AgentError;
use crate::keys::{self, TenantKeys};
use crate::options::Limits;
use crate::record::{AgentRecord, Control, Position, Record, TailRecord};
use crate::refusal::Refusal;
use crate::tenant::Tenant;

/// How many grants are read at once when the agent opens.
const PAGE: usize = 1_000;

/// What the handles of an agent share.
pub(crate) struct Tenants {
    pub(crate) durable: Durable,
    pub(crate) limits: Limits,
    around: Surroundings,
    #[cfg(feature = "planted")]
    pub(crate) planted: Option<crate::planted::Planted>,
    /// Changes that a planted fault delivers a second time.
    #[cfg(feature = "planted")]
    pub(crate) delivered: Mutex<BTreeMap<TenantId, std::collections::VecDeque<Vec<cell_protos::v1::Mutation>>>>,
    agent: Mutex<(AgentRecord, Ticket)>,
    known: RwLock<BTreeMap<TenantId, Arc<Tenant>>>,
}

// What the agent around a driver shares with it is read as if it were the driver's own.
impl std::ops::Deref for Tenants {
    type Target = Surroundings;

    fn deref(&self) -> &Surroundings {
        &self.around
    }
}

impl Tenants {
    /// Reads everything that the store knows. `trusted` are the keys whose signatures on mappings are believed.
    pub(crate) fn open(
        here: CellId,
        limits: Limits,
        trusted: TrustedKeys,
        link: Link,
        engine: Arc<dyn Engine>,
    ) -> Result<Self, AgentError> {
        let agent = open_agent(&here, &*engine)?;
        let known = read_grants(&*engine)?;
        let tenants = Self {
            durable: Durable::new(engine),
            around: Surroundings {
                here,
                generation: agent.generation,
                board: Board::new(limits.lease()),
                trusted: RwLock::new(trusted),
                link,
                tasks: TaskTracker::new(),
                stop: CancellationToken::new(),
                ended_writers: Counter::default(),
            },
            limits,
            #[cfg(feature = "planted")]
            planted: None,
            #[cfg(feature = "planted")]
            delivered: Mutex::default(),
            agent: Mutex::new((agent, Ticket::default())),
            known: RwLock::new(known),
        };
        for tenant in tenants.all() {
            tenants.post(&tenant, &tenant.lock());
        }
        Ok(tenants)
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

    /// Every tenant, by name.
    pub(crate) fn all(&self) -> Vec<Arc<Tenant>> {
        self.known.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    /// Those with names behind `after`, by name.
    pub(crate) fn behind(&self, after: &str) -> Vec<Arc<Tenant>> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        known.values().filter(|tenant| tenant.id.as_str() > after).cloned().collect()
    }

    /// Tells the gates what this cell is to the tenant now, and wakes whoever waits for it.
    pub(crate) fn post(&self, tenant: &Tenant, core: &crate::tenant::Core) {
        #[cfg(feature = "planted")]
        let posted = crate::planted::post(self, tenant, core);
        #[cfg(not(feature = "planted"))]
        let posted = false;
        if !posted {
            core.post(&tenant.id, &self.board);
        }
        tenant.notify();
    }

    fn agent(&self) -> MutexGuard<'_, (AgentRecord, Ticket)> {
        self.agent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Refuses a step of an older leader; remembers a newer one durably before anything is done for it.
    pub(crate) async fn remember_term(&self, lineage: Lineage, term: Term) -> Result<(), Refusal> {
        #[cfg(feature = "planted")]
        if crate::planted::is(self, crate::planted::Planted::IgnoredTerm) {
            return Ok(());
        }
        let ticket = {
            let mut agent = self.agent();
            let known = (agent.0.lineage, agent.0.term);
            if (lineage, term) < known {
                return Err(stale_term(known));
            }
            if (lineage, term) > known {
                let next = AgentRecord { lineage, term, ..agent.0.clone() };
                let mut batch = Batch::default();
                batch.put(keys::AGENT.to_vec(), next.encode());
                let ticket = self.durable.apply(&batch)?.expect("a batch without preconditions is applied");
                *agent = (next, ticket);
            }
            agent.1
        };
        self.wait(ticket).await
    }

    /// Whether a step's leader is still the newest. Checked again under the tenant's lock, because a newer one may have
    /// come while the step waited.
    pub(crate) fn check_term(&self, lineage: Lineage, term: Term) -> Result<(), Refusal> {
        #[cfg(feature = "planted")]
        if crate::planted::is(self, crate::planted::Planted::IgnoredTerm) {
            return Ok(());
        }
        let agent = self.agent();
        let known = (agent.0.lineage, agent.0.term);
        if (lineage, term) < known { Err(stale_term(known)) } else { Ok(()) }
    }

    /// Returns when a batch is durable.
    pub(crate) async fn wait(&self, ticket: Ticket) -> Result<(), Refusal> {
        if ticket == Ticket::default() {
            return Ok(());
        }
        self.durable.wait(ticket).await.map_err(|NotDurable { .. }| Refusal::internal("the store was not synced"))
    }
}

fn stale_term((lineage, term): (Lineage, Term)) -> Refusal {
    Refusal::new("STALE_TERM", format!("a step of lineage {lineage}, term {term} has been here"))
}

fn open_agent(here: &CellId, engine: &dyn Engine) -> Result<AgentRecord, AgentError> {
    let known = engine.get(keys::AGENT)?.map(|bytes| AgentRecord::decode(&bytes)).transpose()?;
    let agent = match known {
        Some(known) if known.cell != *here => {
            return Err(AgentError::OtherCell { found: known.cell, here: here.clone() });
        }
        Some(known) => AgentRecord { generation: known.generation.next(), ..known },
        None => AgentRecord { cell: here.clone(), generation: Generation(1), lineage: Lineage(0), term: Term(0) },
    };
    let mut batch = Batch::default();
    batch.put(keys::AGENT.to_vec(), agent.encode());
    let crate::engine::Applied::Yes = engine.apply(&batch)? else {
        return Err(EngineError::Write("a batch without preconditions was not applied".into()).into());
    };
    engine.sync()?;
    Ok(agent)
}

fn read_grants(engine: &dyn Engine) -> Result<BTreeMap<TenantId, Arc<Tenant>>, AgentError> {
    let mut known = BTreeMap::new();
    let mut from = keys::GRANTS.to_vec();
    loop {
        let page = engine.scan(&from, keys::GRANTS_END, PAGE)?;
        for (key, bytes) in &page {
            let name = std::str::from_utf8(&key[keys::GRANTS.len()..]).unwrap_or_default();
            let id = TenantId::new(name)?;
            let control = Control::decode(bytes)?;
            let position = engine.get(&TenantKeys::new(&id, control.uid).position())?;
            let position = position.map(|bytes| Position::decode(&bytes)).transpose()?;
            let tail = engine.get(&TenantKeys::new(&id, control.uid).tail())?;
            let tail = tail.map(|bytes| TailRecord::decode(&bytes)).transpose()?;
            let tenant = Tenant::new(id.clone(), Some(control), position);
            tenant.lock().tail = tail;
            known.insert(id, Arc::new(tenant));
        }
        match page.last() {
            Some((last, _)) if page.len() == PAGE => from = [last.as_slice(), &[0]].concat(),
            _ => return Ok(known),
        }
    }
}
