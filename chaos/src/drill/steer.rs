//! Moves of a drill: asked for, followed to their ends, and haunted.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use cell_client::{ClientError, ControlClient, TakeoverWanted, WriteOptions, wire};
use cell_model::{CellId, MoveId, MoveIntent, MoveOptions, Phase, TenantId};
use futures::StreamExt;
use tokio::task::JoinHandle;

use super::evidence::{MoveTrace, phase_name};
use crate::history::SessionId;
use crate::load::session::Stamp;
use crate::load::{Load, Running};

const POLL: Duration = Duration::from_millis(20);
/// A move that is to be met in a certain phase: a cutover takes a few hundredths of a second.
const POLL_ONE: Duration = Duration::from_millis(4);
/// A move that has not ended by then is called unfinished.
const END_WITHIN: Duration = Duration::from_secs(60);
/// Moves that are asked for at the same time when there are many.
const AT_ONCE: usize = 6;

#[derive(Debug, Clone)]
struct Tracked {
    id: MoveId,
    tenant: usize,
    /// Owner and stamp before it.
    before: (CellId, Stamp),
    last: Option<wire::Move>,
    /// How it was asked to end; empty: to complete.
    asked: &'static str,
}

/// All moves of one drill. Clones are the same.
#[derive(Clone)]
pub(super) struct Moves {
    control: ControlClient,
    cells: Arc<[CellId]>,
    names: Arc<[Arc<str>]>,
    load: Load,
    tracked: Arc<Mutex<BTreeMap<MoveId, Tracked>>>,
    following: Arc<Mutex<Vec<JoinHandle<()>>>>,
    haunts: Arc<Mutex<Vec<(Running, SessionId)>>>,
}

fn locked<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Moves {
    pub(super) fn new(control: ControlClient, cells: Arc<[CellId]>, names: Arc<[Arc<str>]>, load: Load) -> Self {
        let (tracked, following, haunts) = Default::default();
        Self { control, cells, names, load, tracked, following, haunts }
    }

    pub(super) fn cell(&self, index: usize) -> CellId {
        self.cells[index % self.cells.len()].clone()
    }

    fn options(until: Option<Phase>) -> MoveOptions {
        MoveOptions {
            until,
            sync_steady_ms: 300,
            soak_ms: 1_500,
            retain_ms: 1_000,
            retries: 30,
            ..MoveOptions::default()
        }
    }

    /// Asks for a move and follows it from then on.
    pub(super) async fn begin(
        &self,
        tenant: usize,
        to: usize,
        until: Option<Phase>,
    ) -> Result<MoveId, ClientError> {
        self.begin_with(tenant, &self.cell(to), Self::options(until), POLL_ONE).await
    }

    async fn begin_with(
        &self,
        tenant: usize,
        to: &CellId,
        how: MoveOptions,
        every: Duration,
    ) -> Result<MoveId, ClientError> {
        let name = TenantId::new(&*self.names[tenant]).expect("a drill's names are labels");
        let before = self.control.get_tenant(&name).await?.mapping.unwrap_or_default();
        let (id, _) = self.control.move_tenant(&name, to, how, WriteOptions::default()).await?;
        let owner = CellId::new(&before.owner).unwrap_or_else(|_| self.cell(0));
        let stamp = Stamp { uid: before.uid, epoch: before.epoch };
        locked(&self.tracked).insert(id, Tracked { id, tenant, before: (owner, stamp), last: None, asked: "" });
        let moves = self.clone();
        let following = tokio::spawn(async move { moves.follow(id, every).await });
        locked(&self.following).push(following);
        Ok(id)
    }

    async fn follow(&self, id: MoveId, every: Duration) {
        let deadline = Instant::now() + END_WITHIN;
        while Instant::now() < deadline {
            // The control plane may be away for a while: that is part of drills.
            if let Ok(movement) = self.control.get_move(id).await {
                let over = !movement.end.is_empty();
                if let Some(tracked) = locked(&self.tracked).get_mut(&id) {
                    tracked.last = Some(movement);
                }
                if over {
                    return;
                }
            }
            tokio::time::sleep(every).await;
        }
    }

    /// Lets the newest move go on.
    pub(super) async fn resume(&self) -> Result<(), ClientError> {
        let Some(id) = self.newest().map(|tracked| tracked.id) else { return Ok(()) };
        self.control.steer_move(id, MoveIntent::Resume, WriteOptions::default()).await.map(|_| ())
    }

    /// Steers the newest move, which is asked by that to end so.
    pub(super) async fn steer(&self, intent: MoveIntent, end: &'static str) -> Result<(), ClientError> {
        let Some(id) = self.newest().map(|tracked| tracked.id) else { return Ok(()) };
        self.control.steer_move(id, intent, WriteOptions::default()).await?;
        if let Some(tracked) = locked(&self.tracked).get_mut(&id) {
            tracked.asked = end;
        }
        Ok(())
    }

    /// A cell that a tenant is not on.
    pub(super) async fn elsewhere(&self, tenant: usize) -> Result<usize, ClientError> {
        let name = TenantId::new(&*self.names[tenant]).expect("a drill's names are labels");
        let owner = self.control.get_tenant(&name).await?.mapping.unwrap_or_default().owner;
        let here = self.cells.iter().position(|cell| cell.as_str() == owner).unwrap_or(0);
        Ok((here + 1) % self.cells.len())
    }

    /// Makes the other cell of a move the owner, as soon as the store has not heard of the owner for long enough. Only if
    /// nothing is lost by it.
    pub(super) async fn take_over(
        &self,
        tenant: usize,
        to: usize,
        patience: Duration,
    ) -> Result<wire::TakeOverResponse, ClientError> {
        let name = TenantId::new(&*self.names[tenant]).expect("a drill's names are labels");
        let evidence = "killed by the drill".to_owned();
        let how = TakeoverWanted { target: self.cell(to), evidence, accept_data_loss: false, look_only: false };
        let deadline = Instant::now() + patience;
        loop {
            match self.control.take_over(&name, how.clone(), WriteOptions::default()).await {
                // It was heard of a moment ago; or the record has changed while it was looked at.
                Err(ClientError::Rejected { code, .. })
                    if matches!(code.as_str(), "OWNER_REACHABLE" | "STALE_REVISION")
                        && Instant::now() < deadline =>
                {
                    tokio::time::sleep(POLL * 10).await;
                }
                answer => return answer,
            }
        }
    }

    /// Waits until the log knows that the newest move's target holds everything.
    pub(super) async fn in_sync(&self, patience: Duration) -> bool {
        self.sees(patience, |movement| movement.in_sync).await
    }

    /// Waits until the newest move rests where it was told to stop.
    pub(super) async fn rests(&self, patience: Duration) -> bool {
        self.sees(patience, |movement| movement.intent() == wire::Intent::Pause).await
    }

    async fn sees(&self, patience: Duration, wanted: impl Fn(&wire::Move) -> bool) -> bool {
        let deadline = Instant::now() + patience;
        while Instant::now() < deadline {
            let last = self.newest().and_then(|tracked| tracked.last);
            if last.is_some_and(|movement| wanted(&movement)) {
                return true;
            }
            tokio::time::sleep(POLL).await;
        }
        false
    }

    fn newest(&self) -> Option<Tracked> {
        locked(&self.tracked).values().next_back().cloned()
    }

    /// Waits until the newest move has entered this phase or a later one. False where it has ended before.
    pub(super) async fn reach(&self, phase: Phase, patience: Duration) -> bool {
        let deadline = Instant::now() + patience;
        while Instant::now() < deadline {
            if let Some(movement) = self.newest().and_then(|tracked| tracked.last) {
                let seen = |stamp: &wire::PhaseStamp| phase_of(stamp.phase).is_some_and(|entered| entered >= phase);
                if movement.history.iter().any(seen) {
                    return true;
                }
                if !movement.end.is_empty() {
                    return false;
                }
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        false
    }

    /// Waits until the newest move, which has soaked, has entered this phase of its way back. False where it has ended before.
    pub(super) async fn reach_back(&self, phase: Phase, patience: Duration) -> bool {
        let deadline = Instant::now() + patience;
        while Instant::now() < deadline {
            if let Some(movement) = self.newest().and_then(|tracked| tracked.last) {
                let mut entered = movement.history.iter().filter_map(|stamp| phase_of(stamp.phase));
                if entered.any(|entered| entered == Phase::Soak) && entered.any(|entered| entered == phase) {
                    return true;
                }
                if !movement.end.is_empty() {
                    return false;
                }
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        false
    }

    /// Waits until every move has ended, or is given up.
    pub(super) async fn settle(&self) {
        let following = std::mem::take(&mut *locked(&self.following));
        for one in following {
            if let Err(error) = one.await {
                tracing::error!(%error, "a move is not followed any more");
            }
        }
    }

    /// So many moves, each tenant's one after the other, from cell to cell.
    pub(super) async fn many(&self, count: usize) -> Vec<String> {
        let tenants = self.names.len();
        let lanes = (0..tenants).map(|tenant| async move {
            let mut trouble = Vec::new();
            for round in 0..(count / tenants + usize::from(tenant < count % tenants)) {
                if let Err(error) = self.one_of_many(tenant, round).await {
                    trouble.push(format!("a move of {} could not be asked for: {error}", self.names[tenant]));
                }
            }
            trouble
        });
        let told: Vec<Vec<String>> = futures::stream::iter(lanes).buffer_unordered(AT_ONCE).collect().await;
        told.concat()
    }

    async fn one_of_many(&self, tenant: usize, round: usize) -> Result<(), ClientError> {
        let to = self.cell(tenant + round + 1);
        // A stale router shall meet a cell that the tenant has left, not one that still follows.
        let how = MoveOptions { sync_steady_ms: 50, soak_ms: 50, retain_ms: 50, ..Self::options(None) };
        let id = self.begin_with(tenant, &to, how, POLL).await?;
        let deadline = Instant::now() + END_WITHIN;
        let ended = || {
            let tracked = locked(&self.tracked);
            tracked.get(&id).and_then(|tracked| tracked.last.as_ref()).is_some_and(|last| !last.end.is_empty())
        };
        while !ended() && Instant::now() < deadline {
            tokio::time::sleep(POLL).await;
        }
        Ok(())
    }

    /// Calls the cell that the tenant's newest move has left as if nothing had happened.
    pub(super) fn haunt(&self, tenant: usize, gates: &BTreeMap<CellId, Vec<String>>) -> bool {
        let tracked = locked(&self.tracked).values().rev().find(|tracked| tracked.tenant == tenant).cloned();
        let Some((owner, stamp)) = tracked.map(|tracked| tracked.before) else { return false };
        let Some(gates) = gates.get(&owner) else { return false };
        locked(&self.haunts).push(self.load.probe(&self.names[tenant], gates, stamp));
        true
    }

    /// Who haunts.
    pub(super) fn ghosts(&self) -> Vec<SessionId> {
        locked(&self.haunts).iter().map(|(_, id)| *id).collect()
    }

    /// Lets the haunts end; they stay known as what they were.
    pub(super) async fn lay_ghosts(&self) {
        let haunts = std::mem::take(&mut *locked(&self.haunts));
        let mut laid = Vec::new();
        for (running, id) in haunts {
            running.stop().await;
            laid.push((Running::none(), id));
        }
        *locked(&self.haunts) = laid;
    }

    /// Tenants that were asked to move.
    pub(super) fn tenants(&self) -> Vec<usize> {
        locked(&self.tracked).values().map(|tracked| tracked.tenant).collect()
    }

    /// Each move as it went.
    pub(super) fn traces(&self) -> Vec<MoveTrace> {
        let clock = self.load.clock();
        let trace = |tracked: &Tracked| {
            let last = tracked.last.clone().unwrap_or_default();
            let phases = last.history.iter().filter_map(|stamp| {
                Some((phase_name(phase_of(stamp.phase)?), clock.of_unix_millis(stamp.at_unix_ms)))
            });
            let reason = [last.end_code, last.end_reason].into_iter().filter(|text| !text.is_empty());
            MoveTrace {
                id: tracked.id.to_string(),
                tenant: self.names[tracked.tenant].to_string(),
                source: last.source,
                target: last.target,
                phases: phases.collect(),
                ended: clock.of_unix_millis(last.ended_unix_ms),
                asked: tracked.asked.into(),
                end: last.end,
                reason: reason.collect::<Vec<_>>().join(": "),
            }
        };
        locked(&self.tracked).values().map(trace).collect()
    }

    /// Tells the load whenever a tenant's writes begin to be held.
    pub(super) fn herald_holds(&self) -> JoinHandle<()> {
        self.load.herald_holds(&self.control, "drill", &self.names)
    }
}

fn phase_of(phase: i32) -> Option<Phase> {
    Phase::try_from(wire::Phase::try_from(phase).ok()?).ok()
}
