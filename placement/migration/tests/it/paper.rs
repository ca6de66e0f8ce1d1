//! A control plane on paper: one `Fleet` behind a lock, leaders by decree.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use cell_migration::{ControlPlane, Coordinator, Leadership, Options, ProposeError, RoutersStood, Setbacks, Wake};
use cell_model::{
    CellId, CellRecord, CellTraits, Change, ClusterId, Command, Declaration, Envelope, Event, Fleet, FleetView,
    Hold, Life, Lineage, MoveOptions, MoveRecord, NewCell, NewTenant, Phase, Reply, Revision, TenantId,
    TenantRecord, Term, Tier, UnixMillis,
};
use cell_trust::{RoutedMapping, SignedMapping, SigningKey};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::cells::Cells;

struct Inner {
    fleet: Fleet,
    listeners: Vec<mpsc::Sender<Wake>>,
    /// Every change, in order: what a test asks afterwards.
    history: Vec<TenantRecord>,
    /// Only this term may propose.
    term: Term,
    /// How far the leaders' wall clock is ahead.
    clock_ahead_ms: u64,
    /// So many holds find a router that may still send writes.
    routers_behind: u32,
    /// So many looks before a hold find one that has just gone.
    routers_gone: u32,
}

#[derive(Clone)]
pub(crate) struct Paper {
    inner: Arc<Mutex<Inner>>,
    key: Arc<SigningKey>,
    changed: watch::Sender<u64>,
}

/// The store as one leader sees it: proposals of a deposed one are refused.
struct Seat {
    paper: Paper,
    term: Term,
    leadership: watch::Sender<Leadership>,
}

pub(crate) fn tenant() -> TenantId {
    TenantId::new("t").unwrap()
}

pub(crate) fn cell(name: &str) -> CellId {
    CellId::new(name).unwrap()
}

/// A tenant that is live on cell a, and who leads.
pub(crate) async fn started() -> (Cells, Paper, Leader) {
    let cells = Cells::start().await;
    let paper = Paper::new(&cells);
    let leader = paper.elect();
    paper.until("t is live", |paper| paper.record().life == Life::Live).await;
    (cells, paper, leader)
}

pub(crate) fn phase(paper: &Paper) -> Option<Phase> {
    paper.record().movement.map(|movement| movement.phase)
}

impl Paper {
    /// Cells a and b at the addresses of `cells`, and tenant t on a, being provisioned.
    pub(crate) fn new(cells: &Cells) -> Self {
        let inner = Inner {
            fleet: Fleet::new(ClusterId(7), Lineage(1)),
            listeners: Vec::new(),
            history: Vec::new(),
            term: Term(0),
            clock_ahead_ms: 0,
            routers_behind: 0,
            routers_gone: 0,
        };
        let paper = Self {
            inner: Arc::new(Mutex::new(inner)),
            key: Arc::new(SigningKey::generate()),
            changed: watch::Sender::new(0),
        };
        for (name, agent) in [("a", &cells.a), ("b", &cells.b)] {
            paper.ok(Command::CreateCell(NewCell {
                id: cell(name),
                gates: vec![],
                agent: agent.clone(),
                region: String::new(),
                residency: String::new(),
                traits: CellTraits::default(),
            }));
        }
        paper.create(tenant(), "a");
        paper
    }

    pub(crate) fn create(&self, id: TenantId, on: &str) {
        let residency = String::new();
        self.ok(Command::CreateTenant(NewTenant { id, cell: Some(cell(on)), tier: Tier::Bronze, residency }));
    }

    pub(crate) fn set_clock_ahead(&self, ahead: Duration) {
        self.inner.lock().unwrap().clock_ahead_ms = u64::try_from(ahead.as_millis()).unwrap();
    }

    /// What the agent of the cell says of its gates.
    pub(crate) fn gates_of(&self, name: &str, gates: &[&str]) {
        let known = self.inner.lock().unwrap().fleet.cell(&cell(name)).expect("it is there").clone();
        self.ok(Command::ReportCell {
            cell: known.id,
            generation: known.generation,
            gates: gates.iter().map(ToString::to_string).collect(),
            agent: known.agent,
            partial: false,
        });
    }

    /// The cell has no gate.
    pub(crate) fn without_gate(&self, name: &str) {
        let declaration = Declaration { ungated: Some(true), ..Declaration::default() };
        self.ok(Command::DeclareCell { cell: cell(name), declaration, only: None });
    }

    pub(crate) fn keep_routers_behind(&self, holds: u32) {
        self.inner.lock().unwrap().routers_behind = holds;
    }

    /// The next looks before a hold find a router that has just gone.
    pub(crate) fn let_a_router_go(&self, looks: u32) {
        self.inner.lock().unwrap().routers_gone = looks;
    }

    pub(crate) fn looks_left(&self) -> u32 {
        self.inner.lock().unwrap().routers_gone
    }

    pub(crate) fn ok(&self, command: Command) -> Reply {
        let reply = self.apply(&Envelope::new(now(), command));
        assert!(reply.result.is_ok(), "{:?}", reply.result);
        reply
    }

    fn apply(&self, envelope: &Envelope) -> Reply {
        let mut inner = self.inner.lock().unwrap();
        let (reply, changes) = inner.fleet.apply(envelope);
        for change in changes {
            if let Change::Tenant(record) = change {
                inner.listeners.retain(|listener| listener.try_send(Wake::Tenant(record.id.clone())).is_ok());
                inner.history.push(TenantRecord::clone(&record));
            }
        }
        drop(inner);
        self.changed.send_modify(|count| *count += 1);
        reply
    }

    pub(crate) fn record(&self) -> TenantRecord {
        self.inner.lock().unwrap().fleet.tenant(&tenant()).expect("t is there").clone()
    }

    pub(crate) fn life(&self, of: &TenantId) -> Life {
        self.inner.lock().unwrap().fleet.tenant(of).expect("it is there").life
    }

    /// Nothing is to be done for anybody.
    pub(crate) fn is_settled(&self) -> bool {
        self.inner.lock().unwrap().fleet.unsettled().next().is_none()
    }

    pub(crate) fn history(&self) -> Vec<TenantRecord> {
        self.inner.lock().unwrap().history.clone()
    }

    pub(crate) fn ended(&self) -> Option<MoveRecord> {
        self.inner.lock().unwrap().fleet.ended_moves_before(None).next().map(|ended| MoveRecord::clone(ended))
    }

    /// Whether the audit trail has these words.
    pub(crate) fn has_said(&self, words: &str) -> bool {
        self.inner.lock().unwrap().fleet.audit().after(0).any(|entry| entry.detail.contains(words))
    }

    pub(crate) fn start_move(&self) {
        let options =
            MoveOptions { sync_steady_ms: 5, soak_ms: 5, retain_ms: 5, retries: 20, ..MoveOptions::default() };
        self.ok(Command::MoveTenant { tenant: tenant(), target: cell("b"), options });
    }

    /// Waits until the store says so.
    pub(crate) async fn until(&self, what: &str, holds: impl Fn(&Self) -> bool) {
        let mut changed = self.changed.subscribe();
        let wait = async {
            while !holds(self) {
                changed.changed().await.expect("the paper stays");
            }
        };
        let waited = tokio::time::timeout(Duration::from_secs(20), wait).await;
        waited.unwrap_or_else(|_| panic!("not in time: {what}; {:?}", self.record().movement));
    }

    /// A new leader; whoever led before cannot propose any more.
    pub(crate) fn elect(&self) -> Leader {
        self.elect_looking_every(Options::default().shadow_every)
    }

    /// One that compares some rows so often while a move soaks.
    pub(crate) fn elect_looking_every(&self, shadow_every: Duration) -> Leader {
        let term = {
            let mut inner = self.inner.lock().unwrap();
            inner.term = Term(inner.term.0 + 1);
            inner.term
        };
        let leadership = watch::Sender::new(Leadership::Leader { term, lineage: Lineage(1) });
        let seat = Arc::new(Seat { paper: self.clone(), term, leadership });
        let quick = Duration::from_millis(2);
        let options = Options {
            poll: quick,
            retry: (quick, quick * 10),
            hold_backoff: quick,
            quarantine_every: quick,
            preflight_patience: Duration::from_millis(500),
            gain_patience: Duration::from_millis(200),
            shadow_every,
            ..Options::default()
        };
        let setbacks = Setbacks::default();
        let pool = cell_client::AgentPool::new(cell_client::AgentOptions::default());
        let shutdown = CancellationToken::new();
        let task = tokio::spawn(Coordinator::new(options, seat, pool, setbacks.clone()).run(shutdown.clone()));
        Leader { shutdown, task, setbacks }
    }
}

/// A coordinator at work.
pub(crate) struct Leader {
    pub(crate) setbacks: Setbacks,
    shutdown: CancellationToken,
    task: tokio::task::JoinHandle<()>,
}

impl Leader {
    /// Ends it where it stands, as a SIGKILL would.
    pub(crate) fn kill(self) {
        self.task.abort();
    }

    pub(crate) async fn stop(self) {
        self.shutdown.cancel();
        self.task.await.expect("the coordinator ends quietly");
    }
}

fn now() -> UnixMillis {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    UnixMillis(u64::try_from(since.as_millis()).unwrap())
}

impl ControlPlane for Seat {
    async fn propose(&self, commands: Vec<Envelope>) -> Result<Vec<Reply>, ProposeError> {
        // Another task may get in between, as in the real store.
        tokio::task::yield_now().await;
        if self.paper.inner.lock().unwrap().term != self.term {
            return Err(ProposeError::NotLeader);
        }
        Ok(commands.iter().map(|envelope| self.paper.apply(envelope)).collect())
    }

    async fn confirm(&self) -> Result<(), ProposeError> {
        if self.paper.inner.lock().unwrap().term == self.term { Ok(()) } else { Err(ProposeError::NotLeader) }
    }

    fn record(&self, tenant: &TenantId) -> Option<TenantRecord> {
        self.paper.inner.lock().unwrap().fleet.tenant(tenant).cloned()
    }

    fn cell(&self, cell: &CellId) -> Option<CellRecord> {
        self.paper.inner.lock().unwrap().fleet.cell(cell).cloned()
    }

    fn unsettled(&self) -> Vec<TenantId> {
        self.paper.inner.lock().unwrap().fleet.unsettled().map(|record| record.id.clone()).collect()
    }

    fn routers_at_hand(&self) -> bool {
        let mut inner = self.paper.inner.lock().unwrap();
        let left = inner.routers_gone.checked_sub(1);
        inner.routers_gone = left.unwrap_or(0);
        left.is_none()
    }

    async fn routers_hold_back(
        &self,
        tenant: &TenantId,
        revision: Revision,
        _deadline: Instant,
    ) -> Result<RoutersStood, String> {
        let mut inner = self.paper.inner.lock().unwrap();
        let record = inner.fleet.tenant(tenant).expect("who is held is there");
        assert_eq!((record.mapping().hold, record.revision), (Hold::All, revision), "the hold that is to be seen");
        match inner.routers_behind.checked_sub(1) {
            None => Ok(RoutersStood { seen: 3, fenced: 1 }),
            Some(left) => {
                inner.routers_behind = left;
                Err("routers may send it writes".into())
            }
        }
    }

    fn sign(&self, record: &TenantRecord) -> SignedMapping {
        let routed = RoutedMapping {
            cluster: ClusterId(7),
            mapping: record.mapping(),
            owner_gates: vec![],
            owner_agent: String::new(),
        };
        SignedMapping::sign(&self.paper.key, &routed)
    }

    fn wakes(&self) -> mpsc::Receiver<Wake> {
        let (sender, receiver) = mpsc::channel(1_024);
        self.paper.inner.lock().unwrap().listeners.push(sender);
        receiver
    }

    fn leadership(&self) -> watch::Receiver<Leadership> {
        self.leadership.subscribe()
    }

    fn now(&self) -> UnixMillis {
        UnixMillis(now().0 + self.paper.inner.lock().unwrap().clock_ahead_ms)
    }
}

/// An event that the test itself reports, outside of a move.
pub(crate) fn record_outside(paper: &Paper, event: Event) -> Reply {
    let uid = paper.record().uid;
    paper.apply(&Envelope::new(now(), Command::Record { tenant: tenant(), uid, move_id: None, leg: None, event }))
}
