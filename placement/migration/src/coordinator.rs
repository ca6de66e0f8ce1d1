//! From leadership and changed records to running tasks.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, DefaultHasher};
use std::sync::Arc;
use std::time::Duration;

use cell_client::AgentPool;
use cell_model::{Attempt, Effect, Leg, Lineage, MoveId, TenantId, TenantRecord, Term, Uid, pending_effects};
use tokio::sync::Semaphore;
use tokio::task::{AbortHandle, JoinSet};
use tokio_util::sync::CancellationToken;

use crate::lines::{Lines, Place, Turn};
use crate::telling::Telling;
use crate::{ControlPlane, Leadership, Setbacks, Wake};

/// How the coordinator goes about its work.
#[derive(Debug, Clone)]
pub struct Options {
    /// Effects of moves that may talk to agents at once, besides those that only wait.
    pub effects_max: usize,
    /// Effects outside of moves that may talk to agents at once: cells that are away are in no move's way.
    pub outside_max: usize,
    /// Those of them that are under way at one cell at once; others wait in the table.
    pub at_cell_max: usize,
    /// Old copies of which the end of their retention is waited for at once; others wait in the table.
    pub at_clock_max: usize,
    /// How often to look at a copy under way.
    pub poll: Duration,
    /// First and longest pause after a failed step; it doubles in between.
    pub retry: (Duration, Duration),
    /// How long preflight tries to reach both cells.
    pub preflight_patience: Duration,
    /// Pause after a missed hold; doubles with each further miss, up to sixteen times.
    pub hold_backoff: Duration,
    /// How often a cell that was taken over is asked whether it is back.
    pub quarantine_every: Duration,
    /// For how long a hold is put off because of transactions that are open.
    pub quiet_patience: Duration,
    /// How often some rows are compared in soak.
    pub shadow_every: Duration,
    /// A copy that applies changes for so long and comes no closer to its source is given up: the writers are too fast for it.
    pub gain_patience: Duration,
    /// A copy is close behind when it lags less than this,
    pub caught_up_lag: Duration,
    /// and less than this many bytes.
    pub caught_up_bytes: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            effects_max: 256,
            outside_max: 256,
            at_cell_max: 64,
            at_clock_max: 16_384,
            poll: Duration::from_millis(50),
            retry: (Duration::from_millis(50), Duration::from_secs(2)),
            preflight_patience: Duration::from_secs(5),
            hold_backoff: Duration::from_millis(500),
            quarantine_every: Duration::from_secs(1),
            quiet_patience: Duration::from_secs(30),
            shadow_every: Duration::from_secs(10),
            gain_patience: Duration::from_secs(120),
            caught_up_lag: Duration::from_secs(1),
            caught_up_bytes: 1 << 20,
        }
    }
}

/// Runs pending effects while this node leads.
pub struct Coordinator<P> {
    pub(crate) options: Options,
    pub(crate) control: Arc<P>,
    pub(crate) agents: AgentPool,
    pub(crate) setbacks: Setbacks,
    pub(crate) talking: Arc<Semaphore>,
    pub(crate) outside: Arc<Semaphore>,
    pub(crate) telling: Telling,
}

impl<P> Clone for Coordinator<P> {
    fn clone(&self) -> Self {
        Self {
            options: self.options.clone(),
            control: Arc::clone(&self.control),
            agents: self.agents.clone(),
            setbacks: self.setbacks.clone(),
            talking: Arc::clone(&self.talking),
            outside: Arc::clone(&self.outside),
            telling: self.telling.clone(),
        }
    }
}

/// One term of leadership: what every step of it carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Tenure {
    pub(crate) lineage: Lineage,
    pub(crate) term: Term,
}

/// What makes two effects the same work.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Work {
    tenant: TenantId,
    uid: Uid,
    within: Option<(MoveId, Leg, Attempt)>,
    effect: Effect,
}

/// Without a random seed, so that the tasks of a tenant are ended in the same order in each run of a simulation.
type Tasks = HashMap<Work, AbortHandle, BuildHasherDefault<DefaultHasher>>;

struct Running {
    tasks: JoinSet<Work>,
    by_tenant: HashMap<TenantId, Tasks>,
    lines: Lines,
}

impl<P: ControlPlane> Coordinator<P> {
    /// A coordinator over a store and the cells' agents, which tells `setbacks` what moves meet in their way. Nothing runs
    /// until [`Self::run`].
    #[must_use]
    pub fn new(options: Options, control: Arc<P>, agents: AgentPool, setbacks: Setbacks) -> Self {
        let talking = Arc::new(Semaphore::new(options.effects_max));
        let outside = Arc::new(Semaphore::new(options.outside_max));
        Self { options, control, agents, setbacks, talking, outside, telling: Telling::default() }
    }

    fn nothing_runs(&self) -> Running {
        let lines = Lines::new(self.options.at_cell_max, self.options.at_clock_max);
        Running { tasks: JoinSet::new(), by_tenant: HashMap::new(), lines }
    }

    /// Works whenever this node leads, until shut down.
    pub async fn run(self, shutdown: CancellationToken) {
        let mut leadership = self.control.leadership();
        loop {
            let now = *leadership.borrow_and_update();
            if let Leadership::Leader { term, lineage } = now {
                tracing::info!(%term, %lineage, "coordinating");
                let tenure = Tenure { lineage, term };
                tokio::select! {
                    () = self.lead(tenure) => {}
                    changed = leadership.wait_for(|seen| *seen != now) => {
                        tracing::info!(%term, "no longer coordinating");
                        if changed.is_err() { return }
                    }
                    () = shutdown.cancelled() => return,
                }
            }
            tokio::select! {
                changed = leadership.wait_for(|seen| *seen != now) => if changed.is_err() { return },
                () = shutdown.cancelled() => return,
            }
        }
    }

    /// One term. Dropping it ends every task.
    async fn lead(&self, tenure: Tenure) {
        let mut wakes = self.control.wakes();
        let mut running = self.nothing_runs();
        self.look_at_all(&mut running, tenure);
        loop {
            tokio::select! {
                wake = wakes.recv() => match wake {
                    Some(Wake::Tenant(tenant)) => self.look_at(&mut running, tenure, &tenant, None),
                    Some(Wake::All) => self.look_at_all(&mut running, tenure),
                    None => return,
                },
                Some(finished) = running.tasks.join_next() => match finished {
                    Ok(work) => {
                        let tenant = work.tenant.clone();
                        running.forget(&work);
                        self.look_at(&mut running, tenure, &tenant, None);
                    }
                    Err(error) if error.is_cancelled() => {}
                    Err(error) => {
                        // A task that panics leaves its key behind: start over with what the records say.
                        tracing::error!(%error, "an effect's task panicked");
                        running = self.nothing_runs();
                        self.look_at_all(&mut running, tenure);
                    }
                },
            }
            self.take_turns(&mut running, tenure);
        }
    }

    /// Those who have waited outside of moves, and have room now.
    fn take_turns(&self, running: &mut Running, tenure: Tenure) {
        while let Some(turn) = running.lines.next() {
            match turn {
                Turn::Of(place, tenant) => self.look_at(running, tenure, &tenant, Some(&place)),
                Turn::From(first) => {
                    let mut tenants = self.control.unsettled();
                    tenants.sort_unstable();
                    let begin = tenants.partition_point(|tenant| *tenant < first);
                    tenants.rotate_left(begin);
                    for tenant in tenants {
                        self.look_at(running, tenure, &tenant, None);
                    }
                }
            }
        }
    }

    fn look_at_all(&self, running: &mut Running, tenure: Tenure) {
        let mut tenants = self.control.unsettled();
        tenants.extend(running.by_tenant.keys().cloned());
        tenants.sort_unstable();
        tenants.dedup();
        for tenant in tenants {
            self.look_at(running, tenure, &tenant, None);
        }
    }

    /// Starts what is pending, not running and has room, or its turn at a place; ends what is running and no longer pending.
    fn look_at(&self, running: &mut Running, tenure: Tenure, tenant: &TenantId, turn: Option<&Place>) {
        let record = self.control.record(tenant);
        let pending: Vec<Work> = record.iter().flat_map(work_of).collect();
        running.keep_only(tenant, &pending);
        let Some(record) = record else { return };
        for work in pending {
            if running.has(&work) {
                continue;
            }
            if let Some(place) = Place::of(&work.effect)
                && !running.lines.enters(&place, tenant, turn == Some(&place))
            {
                continue;
            }
            let coordinator = self.clone();
            let record = record.clone();
            let key = work.clone();
            let task = running.tasks.spawn(async move {
                coordinator.execute(tenure, &record, &work.effect).await;
                work
            });
            running.by_tenant.entry(tenant.clone()).or_default().insert(key, task);
        }
    }
}

impl Running {
    fn has(&self, work: &Work) -> bool {
        self.by_tenant.get(&work.tenant).is_some_and(|tasks| tasks.contains_key(work))
    }

    fn forget(&mut self, work: &Work) {
        if let Some(tasks) = self.by_tenant.get_mut(&work.tenant) {
            if tasks.remove(work).is_some() {
                self.lines.leaves(&work.effect);
            }
            if tasks.is_empty() {
                self.by_tenant.remove(&work.tenant);
            }
        }
    }

    fn keep_only(&mut self, tenant: &TenantId, pending: &[Work]) {
        if let Some(tasks) = self.by_tenant.get_mut(tenant) {
            tasks.retain(|work, task| {
                let keep = pending.contains(work);
                if !keep {
                    task.abort();
                    self.lines.leaves(&work.effect);
                }
                keep
            });
            if tasks.is_empty() {
                self.by_tenant.remove(tenant);
            }
        }
    }
}

fn work_of(record: &TenantRecord) -> Vec<Work> {
    let within = record.movement.as_ref().map(|movement| (movement.id, movement.leg, movement.attempt));
    let work = |effect: Effect| {
        // What concerns a copy left behind, or the tenant's life, does not start over when a move goes on.
        let within = if Place::of(&effect).is_some() { None } else { within };
        Work { tenant: record.id.clone(), uid: record.uid, within, effect }
    };
    pending_effects(record).into_iter().map(work).collect()
}
