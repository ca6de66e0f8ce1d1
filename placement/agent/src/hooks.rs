//! What lives beside a tenant's rows – files, search, queues – is told what becomes of the tenant in this cell.
//!
//! ```text
//! step ──► driver: done, durable ──► is it one that hooks are told of? ──► each is called, signed ──► answer
//!                                         prepare, hold: one says no ──► the step is refused (a hold is let go of)
//!                                         fence … reclaim: it is logged, and the step stands
//! ```
//! The call is part of the step: an agent that dies in between has not answered, so the coordinator asks again, and the hook
//! is told the same thing under the same `webhook-id`. It may hear of a thing more than once, and out of order; never of
//! something that was not done.

mod call;
mod options;

pub use options::{HookInvalid, HookOptions, HookPhase, HooksOptions};

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use cell_model::{Attempt, CellId};
use cell_protos::v1 as wire;
use cell_protos::v1::step_request::Step;
use cell_protos::v1::step_response::Result as Answer;
use cell_trust::{HookCall, SigningKey};
use futures::future::join_all;
use serde::Serialize;
use tokio::time::Instant;

use crate::driver::{self, Driver};
use crate::refusal::Refusal;
use call::{Letter, Place, Said};

/// How the coordinator names no attempt: it is later than every one that the move can have had.
const ENDED: Attempt = Attempt(u32::MAX);
/// Before a hook is tried again; twice as long each time.
const PAUSE: Duration = Duration::from_millis(20);
/// Of a hold's budget, this much is left for what comes after the hooks.
const LEFT_OF_HOLD: Duration = Duration::from_millis(50);

/// See the module.
pub(crate) struct Hooks {
    here: CellId,
    key: Option<SigningKey>,
    hooks: Vec<(HookOptions, Place)>,
}

/// What a hook is told.
#[derive(Debug, Serialize)]
struct Told {
    phase: HookPhase,
    step: &'static str,
    cell: String,
    tenant: String,
    uid: u64,
    epoch: u64,
    #[serde(rename = "move")]
    movement: String,
    /// Nothing of a move that has ended: what is left of it is of no attempt.
    attempt: Option<u32>,
    leg: Option<&'static str>,
    /// Until when writes wait at the most, from when they began to: then the hold is over, unless a fence has come.
    #[serde(skip_serializing_if = "Option::is_none")]
    budget_ms: Option<u32>,
}

impl Told {
    /// Nothing where hooks have no part in the step.
    fn of(request: &wire::StepRequest, here: &CellId) -> Option<Self> {
        let header = request.header.as_ref()?;
        let (phase, step, budget_ms) = match request.step.as_ref()? {
            Step::StartCapture(_) => (HookPhase::Prepare, "start-capture", None),
            Step::PrepareImport(_) => (HookPhase::Prepare, "prepare-import", None),
            Step::HoldWrites(hold) => (HookPhase::Hold, "hold-writes", Some(hold.budget_ms)),
            Step::Fence(_) => (HookPhase::Fence, "fence", None),
            Step::Activate(_) => (HookPhase::Activate, "activate", None),
            Step::OwnByForce(_) => (HookPhase::Activate, "own-by-force", None),
            Step::Unfence(_) => (HookPhase::Abort, "unfence", None),
            Step::DropImport(_) => (HookPhase::Abort, "drop-import", None),
            // Of a move that has ended well, the capture for the old copy ends, too: nothing is taken back.
            Step::StopCapture(_) if Attempt(header.attempt) != ENDED => (HookPhase::Abort, "stop-capture", None),
            Step::Reclaim(_) => (HookPhase::Reclaim, "reclaim", None),
            _ => return None,
        };
        let leg = match header.leg() {
            wire::Leg::Unspecified => None,
            wire::Leg::Forward => Some("forward"),
            wire::Leg::Back => Some("back"),
        };
        Some(Self {
            phase,
            step,
            cell: here.to_string(),
            tenant: header.tenant.clone(),
            uid: header.uid,
            epoch: header.epoch,
            movement: cell_model::MoveId(header.move_id).to_string(),
            attempt: Some(header.attempt).filter(|attempt| *attempt != ENDED.0),
            leg,
            budget_ms,
        })
    }

    /// A late order to take away what has gone already finds a tenant that is here for another reason: nothing was done,
    /// and whoever deleted its files on hearing of it would delete those of the living.
    fn is_overtaken(&self, driver: &Arc<dyn Driver>) -> bool {
        let takes_away = matches!(self.step, "drop-import" | "reclaim");
        let role =
            cell_model::TenantId::new(&self.tenant).ok().and_then(|id| driver.surroundings().board.role(&id));
        let is_gone =
            matches!(role, None | Some(wire::Role::Unspecified | wire::Role::None | wire::Role::Redirect));
        takes_away && !is_gone && role != Some(wire::Role::Deleted)
    }

    /// The same for each time that the same thing is told.
    fn id(&self) -> String {
        let Self { movement, phase, step, cell, .. } = self;
        let attempt = self.attempt.map_or_else(|| "ended".to_owned(), |attempt| attempt.to_string());
        format!("{movement}.{attempt}.{}.{step}.{cell}", phase.as_str())
    }
}

impl Hooks {
    pub(crate) fn new(options: Option<&HooksOptions>, here: &CellId) -> Result<Self, HookInvalid> {
        let Some(options) = options else {
            return Ok(Self { here: here.clone(), key: None, hooks: Vec::new() });
        };
        let key = Some(options.read()?);
        let place = |hook: &HookOptions| {
            Ok::<_, HookInvalid>((hook.clone(), Place::new(&hook.url, hook.ca_file.as_deref())?))
        };
        Ok(Self { here: here.clone(), key, hooks: options.hooks.iter().map(place).collect::<Result<_, _>>()? })
    }

    /// Does a step, and tells the hooks that it was done.
    pub(crate) async fn run(
        &self,
        driver: &Arc<dyn Driver>,
        request: wire::StepRequest,
    ) -> Result<Answer, Refusal> {
        let told = if self.hooks.is_empty() { None } else { Told::of(&request, &self.here) };
        let (header, began) = (request.header.clone(), Instant::now());
        let answer = driver::run(Arc::clone(driver), request).await?;
        let Some(told) = told.filter(|told| !told.is_overtaken(driver)) else { return Ok(answer) };
        let Err(refusal) = self.tell(&told, driver, began).await else { return Ok(answer) };
        if !told.phase.may_refuse() {
            tracing::error!(
                tenant = told.tenant,
                r#move = told.movement,
                phase = told.phase.as_str(),
                %refusal,
                "a hook was not told, or did not want to hear it; the move goes on"
            );
            return Ok(answer);
        }
        tracing::warn!(tenant = told.tenant, r#move = told.movement, phase = told.phase.as_str(), %refusal, "refused by a hook");
        if told.phase == HookPhase::Hold {
            let release = Some(Step::ReleaseHold(wire::ReleaseHold {}));
            let released = driver::run(Arc::clone(driver), wire::StepRequest { header, step: release }).await;
            if let Err(error) = released {
                tracing::debug!(tenant = told.tenant, %error, "the hold is not let go of, it lapses");
            }
        }
        Err(refusal)
    }

    /// Calls every hook that is told of it, at once. The first one that says no speaks for all.
    async fn tell(&self, told: &Told, driver: &Arc<dyn Driver>, began: Instant) -> Result<(), Refusal> {
        let Some(key) = &self.key else { return Ok(()) };
        let body = bytes::Bytes::from(serde_json::to_vec(told).map_err(Refusal::internal)?);
        let at = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let id = told.id();
        let signature = HookCall { id: &id, at, body: &body }.sign(key);
        let letter = Letter { id, at, signature, body };
        let concerned = self.hooks.iter().filter(|(hook, _)| hook.is_told_of(told.phase));
        let calls = concerned.map(async |(hook, place)| {
            let mut deadline = Instant::now() + hook.deadline(told.phase);
            if let Some(budget) = told.budget_ms {
                let budget = Duration::from_millis(budget.into());
                deadline = deadline.min(began + budget.saturating_sub(LEFT_OF_HOLD));
            }
            (place.name(), insist(hook, place, &letter, deadline, || told.is_overtaken(driver)).await)
        });
        for (name, said) in join_all(calls).await {
            let (code, how, reason) = match said {
                Said::Done => continue,
                Said::Refused(reason) => ("HOOK_REFUSED", "has refused", reason),
                Said::Failed(reason) => ("HOOK_FAILED", "could not be told of", reason),
            };
            let what = told.phase.as_str();
            return Err(Refusal::new(code, format!("the hook {name} {how} {what} at {}: {reason}", self.here)));
        }
        Ok(())
    }
}

/// Tries until it is told, or says no, or the tries or the time are spent, or until what it would be told is over. The
/// first try may take half of the time.
async fn insist(
    hook: &HookOptions,
    place: &Place,
    letter: &Letter,
    deadline: Instant,
    is_over: impl Fn() -> bool,
) -> Said {
    let left = || deadline.saturating_duration_since(Instant::now());
    let (mut pause, mut tries) = (PAUSE, hook.tries);
    let mut patience = if tries > 1 { left() / 2 } else { left() };
    loop {
        tries -= 1;
        let said = place.call(letter, patience).await;
        let again = matches!(said, Said::Failed(_)) && tries > 0 && left() > pause;
        if !again {
            return said;
        }
        tokio::time::sleep(pause).await;
        if is_over() {
            return Said::Done;
        }
        pause *= 2;
        patience = left();
    }
}
