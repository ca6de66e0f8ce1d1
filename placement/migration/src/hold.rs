//! The cutover: the steps between the moment writes begin to wait and the moment the other cell owns.
//!
//! Every millisecond here is one that clients wait, so acknowledgements of one step are proposed together: one entry of
//! the log between hold and fence, one between fence and activation.

use std::time::Duration;

use cell_client::{StepContext, StepError};
use cell_model::{Attempt, Difference, Digest, Event, Generation, Leg, Phase, Rejected, Seq, UnixMillis};
use tokio::time::Instant;

use crate::ControlPlane;
use crate::steps::{Run, Setback, accepted};

/// Everything that a hold has to bring.
struct Held {
    sealed: Seq,
    generation: Generation,
    digest: Digest,
    /// Transactions that were ended for it, or for an earlier one.
    ended_writers: u32,
    /// That routers hold back, where the owner has no gate.
    routers: Option<Event>,
}

/// A cell whose time is up a moment later than ours says then what it has waited for. By that time it was told to let go, but routers
/// were not.
const TELLING_MAX: Duration = Duration::from_millis(100);

/// Why a hold was missed.
enum Missed {
    /// A cell has refused, or not answered.
    Step(&'static str, StepError),
    /// It was late, or what was answered does not fit.
    Reason(String),
    /// The copy is not the original.
    Differs(Difference),
}

impl<P: ControlPlane> Run<'_, P> {
    pub(crate) async fn hold(&self, attempt: Attempt, budget_ms: u32) -> Result<(), Setback> {
        let budget = Duration::from_millis(u64::from(budget_ms));
        let deadline = Instant::now() + budget;
        let (context, from, to) = (self.context(), self.from()?, self.to()?);
        let mut held = std::pin::pin!(self.held(&context, (&from, &to), attempt, (budget, deadline)));
        let missed = match tokio::time::timeout_at(deadline, held.as_mut()).await {
            Ok(Ok(held)) => {
                let Held { sealed: seq, generation, digest, ended_writers, routers } = held;
                if self.stops_here() {
                    // Before it is told: once the record says that the hold is over, this task is, too.
                    self.let_go(&from, &context).await;
                }
                let mut events: Vec<Event> = routers.into_iter().chain(self.writers_ended(ended_writers)).collect();
                events.extend([
                    Event::Sealed { attempt, seq },
                    Event::Applied { attempt, seq, generation },
                    Event::Verified { attempt, seq, digest },
                ]);
                return accepted(self.propose(events).await?);
            }
            Ok(Err(missed)) => {
                self.let_go(&from, &context).await;
                missed
            }
            Err(_) => {
                let telling = tokio::time::timeout(TELLING_MAX, held);
                match tokio::join!(self.let_go(&from, &context), telling).1 {
                    Ok(Err(told @ Missed::Step(..))) => told,
                    _ => Missed::Reason(format!("not done within the budget of {budget_ms} ms")),
                }
            }
        };
        self.keep_in_mind(&missed);
        let (differs, reason) = match missed {
            Missed::Differs(found) => (Some(found.clone()), found.to_string()),
            Missed::Step(step, error) => (None, format!("{step}: {error}")),
            Missed::Reason(reason) => (None, reason),
        };
        tracing::warn!(tenant = %self.record.id, %attempt, reason, "hold missed");
        // On the way back there is no copy to mend: the owner keeps the tenant.
        let is_forward = self.movement()?.leg == Leg::Forward;
        if let Some(found) = differs.filter(|_| is_forward) {
            return self.happened(Event::Differed(Box::new(found))).await;
        }
        let mut events = Vec::new();
        if self.terminates_writers() {
            // What is not heard of now is told with the next hold.
            let told = self.of.agents.sync_status_with_writes(&from, &context).await;
            events.extend(told.ok().and_then(|sync| self.writers_ended(sync.ended_writers)));
        }
        let not_before = self.after_backoff(attempt);
        events.push(Event::HoldMissed { attempt, reason, not_before });
        accepted(self.propose(events).await?)
    }

    /// Why it was missed is shown where the move waits for the next one.
    fn keep_in_mind(&self, missed: &Missed) {
        let is_back = self.record.movement.as_ref().is_some_and(|movement| movement.leg == Leg::Back);
        let waits_in = (Leg::Forward, if is_back { Phase::Soak } else { Phase::Sync });
        match missed {
            Missed::Step(step, error) => self.met_in(waits_in, step, error),
            Missed::Reason(reason) => self.met_as(waits_in, "HOLD_MISSED", reason),
            // The record has it.
            Missed::Differs(_) => {}
        }
    }

    fn terminates_writers(&self) -> bool {
        self.record.movement.as_ref().is_some_and(|movement| movement.terminate_writers)
    }

    /// If that is more than the record knows of.
    fn writers_ended(&self, count: u32) -> Option<Event> {
        let known = self.record.movement.as_ref().map_or(0, |movement| movement.ended_writers);
        (count > known).then_some(Event::WritersEnded { count })
    }

    /// The move was told to stop when its hold is measured.
    fn stops_here(&self) -> bool {
        let movement = self.record.movement.as_ref();
        movement.is_some_and(|movement| movement.leg == Leg::Forward && movement.until == Some(Phase::Hold))
    }

    /// The hold lapses by itself; letting go early only spares the writers some waiting.
    async fn let_go(&self, from: &str, context: &StepContext) {
        if let Err(error) = self.of.agents.release_hold(from, context).await {
            tracing::debug!(tenant = %self.record.id, %error, "hold not released, it lapses");
        }
    }

    async fn held(
        &self,
        context: &StepContext,
        (from, to): (&str, &str),
        attempt: Attempt,
        (budget, deadline): (Duration, Instant),
    ) -> Result<Held, Missed> {
        let agents = &self.of.agents;
        let began = Instant::now();
        // First, so that nobody whom they have let pass comes to an owner that lets nobody wait.
        let routers = self.routers_hold_back(attempt, deadline).await.map_err(Missed::Reason)?;
        // A hold lapses by itself where it would end here.
        let budget = if routers.is_some() { deadline.saturating_duration_since(Instant::now()) } else { budget };
        let terminates = self.terminates_writers();
        let held = agents.hold_writes_of(from, context, budget, terminates).await;
        let (sealed, ended_writers) = held.map_err(|error| Missed::Step("hold", error))?;
        let quiesced = began.elapsed();
        let left = deadline.saturating_duration_since(Instant::now());
        // All at once: each answer that waited for another would be a round trip longer for the writers.
        let (applied, ours, theirs) = tokio::join!(
            agents.await_applied(to, context, sealed, left),
            agents.digest_at(from, context, sealed, left),
            agents.digest_at(to, context, sealed, left),
        );
        let (applied, generation) = applied.map_err(|error| Missed::Step("apply", error))?;
        if applied != sealed {
            return Err(Missed::Reason(format!("sealed at {sealed}, but applied is {applied}")));
        }
        let ours = ours.map_err(|error| Missed::Step("digest of the owner", error))?;
        let theirs = theirs.map_err(|error| Missed::Step("digest of the follower", error))?;
        if ours != theirs {
            return Err(Missed::Differs(Difference::of_digests(Phase::Hold, sealed, ours, theirs)));
        }
        tracing::debug!(tenant = %self.record.id, ?quiesced, took = ?began.elapsed(), "writes held, copies equal");
        Ok(Held { sealed, generation, digest: ours, ended_writers, routers })
    }

    pub(crate) async fn fence(&self, attempt: Attempt, sealed: Seq) -> Result<(), Setback> {
        let (context, agent) = (self.context(), self.from()?);
        match self.insist("fence", || self.of.agents.fence(&agent, &context, sealed)).await {
            Ok(seq) => self.commit(attempt, vec![Event::Fenced { attempt, seq }]).await,
            // The hold had lapsed: writes above S* may exist. Raising the epoch settles it whatever the cell did.
            Err(Setback::Step(StepError::Refused { code, reason })) if code != "STALE_TERM" => {
                self.abort(attempt, format!("the fence was refused: {code}: {reason}")).await
            }
            Err(setback) => Err(setback),
        }
    }

    /// Proposes COMMIT behind `first`, in one entry; where the store refuses it for good, ABORT.
    pub(crate) async fn commit(&self, attempt: Attempt, first: Vec<Event>) -> Result<(), Setback> {
        let mut events = first;
        events.push(Event::Commit { attempt });
        let replies = self.propose(events).await?;
        let Err(Setback::Rejected(rejected)) = accepted(replies) else { return Ok(()) };
        match rejected {
            Rejected::CellCordoned { .. }
            | Rejected::CellDead { .. }
            | Rejected::CellUnknown { .. }
            | Rejected::ResidencyViolated { .. }
            | Rejected::StaleGeneration { .. }
            | Rejected::MissingAck { .. }
            | Rejected::AckMismatch { .. } => {
                self.abort(attempt, format!("the commit was refused: {rejected}")).await
            }
            // Somebody else has decided meanwhile: the record says what.
            rejected => Err(rejected.into()),
        }
    }

    async fn abort(&self, attempt: Attempt, reason: String) -> Result<(), Setback> {
        tracing::warn!(tenant = %self.record.id, %attempt, reason, "aborting after the fence");
        let not_before = self.after_backoff(attempt);
        self.happened(Event::Abort { attempt, reason, not_before }).await
    }

    fn after_backoff(&self, attempt: Attempt) -> UnixMillis {
        let doublings = attempt.0.saturating_sub(2).min(4);
        let pause = self.of.options.hold_backoff * 2_u32.pow(doublings);
        let millis = u64::try_from(pause.as_millis()).unwrap_or(u64::MAX);
        UnixMillis(self.of.control.now().0.saturating_add(millis))
    }
}
