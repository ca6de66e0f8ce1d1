//! One move of the demo: clients on its tenant, the command, what is done to it while it runs, and how it ended.

use std::sync::Arc;
use std::time::{Duration, Instant};

use cell_client::{ClientError, WriteOptions, wire};
use cell_model::{CellId, MoveId, MoveIntent, MoveOptions, Phase, TenantId};
use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;

use super::plan::{MovePlan, Twist};
use super::trade::Trade;
use super::{Progress, STALE_REDIRECTS, Tell};
use crate::exercise::Entered;
use crate::fleet::{Fleet, FleetError};
use crate::history::SessionId;
use crate::load::session::Stamp;
use crate::load::{Load, Running};

/// Clients on a tenant that moves.
const WRITERS: u32 = 6;
const READERS: u32 = 2;
/// Between two requests of one, outside a hold: often enough that the shortest phase is met by some of them.
const GAP: Duration = Duration::from_millis(25);
/// How long they run before the move is asked for.
const LEAD: Duration = Duration::from_millis(400);
const POLL: Duration = Duration::from_millis(60);
/// How long a move copies before it is called off: clients shall have met the copy.
const COPY_FIRST: Duration = Duration::from_millis(700);
/// A move that has not ended by then is called unfinished.
const END_WITHIN: Duration = Duration::from_secs(75);

/// A move that was driven, however it ended.
#[derive(Debug, Clone)]
pub(super) struct Driven {
    pub(super) planned: MovePlan,
    /// As the control plane has it at the end.
    pub(super) movement: Option<wire::Move>,
    /// Phases, on the clock of the history.
    pub(super) entered: Vec<Entered>,
    pub(super) ended: u64,
    pub(super) took: Duration,
    /// Who called the target before it owned.
    pub(super) prober: Option<SessionId>,
    /// What did not come about.
    pub(super) trouble: Vec<String>,
}

/// Everything that drives moves has in common.
#[derive(Clone)]
pub(super) struct Driver {
    pub(super) names: Arc<[Arc<str>]>,
    pub(super) fleet: Arc<Mutex<Fleet>>,
    pub(super) control: cell_client::ControlClient,
    pub(super) cells: Arc<[CellId]>,
    pub(super) load: Load,
    pub(super) trade: Trade,
    pub(super) tell: Tell,
    pub(super) stop: CancellationToken,
    pub(super) hold_max_ms: u32,
    pub(super) ended: Arc<std::sync::atomic::AtomicUsize>,
    pub(super) in_all: usize,
}

impl Driver {
    /// Drives one move to its end.
    pub(super) async fn drive(&self, planned: MovePlan) -> Driven {
        let clock = self.load.clock();
        let began = Instant::now();
        let name = self.names[planned.tenant].clone();
        let focus = self.load.focus(&name, WRITERS, READERS, GAP);
        let tills = self.trade.at(&name);
        tokio::time::sleep(LEAD).await;
        let mut trouble = Vec::new();
        let redirects = if planned.twist == Twist::CutRouter { Some(self.cut_router().await) } else { None };
        let mut prober = None;
        let movement = match self.start(&planned).await {
            Ok((id, tenant)) => {
                self.load.hurry(&name);
                let probing = self.probe(&name, &planned, tenant.mapping).await;
                let ended = self.to_the_end(id, &planned, &focus, &mut trouble).await;
                if let Some((running, id)) = probing {
                    prober = Some(id);
                    running.stop().await;
                }
                ended
            }
            Err(error) => {
                trouble.push(format!("the move of {name} could not be asked for: {error}"));
                None
            }
        };
        // Some time with the outcome, before the tenant is left alone.
        tokio::time::sleep(LEAD).await;
        focus.stop().await;
        tills.stop().await;
        if let Some(before) = redirects {
            trouble.extend(self.heal_router(before).await);
        }
        let stamps = movement.iter().flat_map(|movement| &movement.history);
        let entered = stamps.filter_map(|stamp| {
            let phase = Phase::try_from(wire::Phase::try_from(stamp.phase).ok()?).ok()?;
            Some(Entered { phase, at: clock.of_unix_millis(stamp.at_unix_ms) })
        });
        let entered = entered.collect();
        let ended = movement.as_ref().map_or(0, |movement| movement.ended_unix_ms);
        let ended = if ended == 0 { clock.now() } else { clock.of_unix_millis(ended) };
        Driven { planned, movement, entered, ended, took: began.elapsed(), prober, trouble }
    }

    async fn start(&self, planned: &MovePlan) -> Result<(MoveId, wire::Tenant), ClientError> {
        let tenant = TenantId::new(&*self.names[planned.tenant]).expect("planned names are labels");
        let how = MoveOptions {
            hold_max_ms: self.hold_max_ms,
            sync_steady_ms: 400,
            soak_ms: if planned.twist == Twist::RollBack { 20_000 } else { 1_200 },
            retain_ms: 1_000,
            retries: 20,
            ..MoveOptions::default()
        };
        let target = &self.cells[planned.target];
        self.control.move_tenant(&tenant, target, how, WriteOptions::default()).await
    }

    /// A client at the target's gates, under the epoch that the target will have after COMMIT.
    async fn probe(
        &self,
        name: &Arc<str>,
        planned: &MovePlan,
        mapping: Option<wire::Mapping>,
    ) -> Option<(Running, SessionId)> {
        let mapping = mapping?;
        let gates = self.fleet.lock().await.cells.get(planned.target)?.gates.clone();
        let stamp = Stamp { uid: mapping.uid, epoch: mapping.epoch + 1 };
        Some(self.load.probe(name, &gates, stamp))
    }

    /// Watches until it has ended and does on the way what the plan says.
    async fn to_the_end(
        &self,
        id: MoveId,
        planned: &MovePlan,
        focus: &Running,
        trouble: &mut Vec<String>,
    ) -> Option<wire::Move> {
        let deadline = Instant::now() + END_WITHIN;
        let mut told = None;
        let mut twisted = matches!(planned.twist, Twist::Plain | Twist::CutRouter);
        let mut last = None;
        while Instant::now() < deadline && !self.stop.is_cancelled() {
            // The control plane may be without a leader for a moment: that is part of the demo.
            if let Ok(movement) = self.look(id, focus).await {
                let phase =
                    wire::Phase::try_from(movement.phase).ok().and_then(|phase| Phase::try_from(phase).ok());
                if told != phase {
                    told = phase;
                    self.tell_phase(id, &movement, phase);
                }
                let over = !movement.end.is_empty();
                let rolls_back = twisted && planned.twist == Twist::RollBack;
                focus.press(!over && (rolls_back || phase.is_some_and(holds_soon)));
                if !twisted && (over || phase.is_some_and(|phase| is_due(planned.twist, phase))) {
                    twisted = true;
                    if over {
                        trouble.push(format!("{id} ended before it could be {}", planned.twist.as_str()));
                    } else {
                        self.twist(id, planned.twist, trouble).await;
                    }
                }
                last = Some(movement);
                if over {
                    break;
                }
            }
            tokio::time::sleep(if twisted { POLL } else { POLL / 6 }).await;
        }
        self.tell_end(id, last.as_ref());
        last
    }

    /// How far it is. While no answer comes, a hold may begin and be over unseen: somebody presses on until one does.
    async fn look(&self, id: MoveId, focus: &Running) -> Result<wire::Move, ClientError> {
        let mut asked = std::pin::pin!(self.control.get_move(id));
        match tokio::time::timeout(POLL, &mut asked).await {
            Ok(answer) => answer,
            Err(_) => {
                focus.press(true);
                asked.await
            }
        }
    }

    async fn twist(&self, id: MoveId, twist: Twist, trouble: &mut Vec<String>) {
        let steer = |intent| self.control.steer_move(id, intent, WriteOptions::default());
        let done = match twist {
            Twist::Cancel => {
                tokio::time::sleep(COPY_FIRST).await;
                steer(MoveIntent::Cancel).await.map(|_| ()).map_err(|error| error.to_string())
            }
            Twist::RollBack => steer(MoveIntent::Rollback).await.map(|_| ()).map_err(|error| error.to_string()),
            Twist::KillLeader(_) => self.kill_leader().await,
            Twist::Plain | Twist::CutRouter => return,
        };
        if let Err(error) = done {
            trouble.push(format!("{id} could not be {}: {error}", twist.as_str()));
        }
    }

    /// SIGKILL for the leader's process; it comes back two seconds later.
    async fn kill_leader(&self) -> Result<(), String> {
        let mut fleet = self.fleet.lock().await;
        let leader = fleet.leader().await.ok_or("no node leads")?;
        fleet.processes.kill(&leader.name).await.map_err(|error| error.to_string())?;
        drop(fleet);
        (self.tell)(Progress::Fault(format!("{}, which led, is killed", leader.name)));
        let (fleet, tell) = (self.fleet.clone(), self.tell.clone());
        tokio::spawn(async move {
            tokio::time::sleep(Duration::from_secs(2)).await;
            match fleet.lock().await.processes.start_again(&leader.name).map_err(FleetError::from) {
                Ok(()) => tell(Progress::Fault(format!("{} runs again", leader.name))),
                Err(error) => tracing::error!(%error, "the killed leader does not start again"),
            }
        });
        Ok(())
    }

    /// Cuts the last router off from the control plane; answers how many redirects it has had until then.
    async fn cut_router(&self) -> Result<u64, String> {
        let fleet = self.fleet.lock().await;
        let router = fleet.routers.last().ok_or("there is no router")?;
        let before = router.counter(STALE_REDIRECTS).await;
        router.cut();
        (self.tell)(Progress::Fault(format!("{} is cut off from the control plane", router.name)));
        before
    }

    /// Heals it. A cut that no redirect has come of proves nothing: that is said.
    async fn heal_router(&self, before: Result<u64, String>) -> Option<String> {
        let fleet = self.fleet.lock().await;
        let router = fleet.routers.last()?;
        let after = router.counter(STALE_REDIRECTS).await;
        router.heal();
        (self.tell)(Progress::Fault(format!("{} reaches the control plane again", router.name)));
        match (before, after) {
            (Ok(before), Ok(after)) if after > before => None,
            (Ok(_), Ok(_)) => Some(format!("{} was cut off and no cell had to redirect it", router.name)),
            (Err(error), _) | (_, Err(error)) => Some(format!("{} does not tell of itself: {error}", router.name)),
        }
    }

    fn tell_phase(&self, id: MoveId, movement: &wire::Move, phase: Option<Phase>) {
        (self.tell)(Progress::Move {
            id: id.to_string(),
            tenant: movement.tenant.clone(),
            route: format!("{} → {}", movement.source, movement.target),
            phase: phase.map_or("?", Phase::as_str).to_owned(),
        });
    }

    fn tell_end(&self, id: MoveId, movement: Option<&wire::Move>) {
        let ended = self.ended.fetch_add(1, std::sync::atomic::Ordering::Relaxed) + 1;
        let end = movement.map(|movement| movement.end.clone()).filter(|end| !end.is_empty());
        (self.tell)(Progress::Ended {
            id: id.to_string(),
            tenant: movement.map(|movement| movement.tenant.clone()).unwrap_or_default(),
            end: end.unwrap_or_else(|| "unfinished".into()),
            done: (ended, self.in_all),
        });
    }
}

/// Whether writes are held in this phase or may be in the next.
const fn holds_soon(phase: Phase) -> bool {
    matches!(phase, Phase::Sync | Phase::Hold | Phase::Fenced | Phase::Activate)
}

/// Whether it is time for the twist. A phase may be over before it is seen: later ones count, too.
fn is_due(twist: Twist, phase: Phase) -> bool {
    match twist {
        Twist::Cancel => matches!(phase, Phase::Backfill | Phase::CatchUp),
        Twist::RollBack => phase == Phase::Soak,
        Twist::KillLeader(wanted) => phase >= wanted,
        Twist::Plain | Twist::CutRouter => false,
    }
}
