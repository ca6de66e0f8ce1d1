//! What an agent needs of the store under it: the same steps, the same change stream, the same grants, whether the
//! tenants' rows lie in the embedded store or in PostgreSQL.
//!
//! ```text
//! grpc ──► Driver ──► embedded: steps, follow, engine
//!             └─────► postgres: steps, feed, follower, replication
//! ```
//! What a step makes of a tenant says [`crate::transition`] for both; a driver makes it durable.

use std::sync::{Arc, RwLock};

use cell_client::{ControlClient, Link};
use cell_model::{Attempt, CellId, Epoch, Generation, Leg, Lineage, MoveId, Seq, TenantId, Term, Uid};
use cell_protos::v1 as wire;
use cell_protos::v1::step_request::Step;
use cell_protos::v1::step_response::Result as Answer;
use cell_trust::{SignedMapping, TrustedKeys};
use futures::future::BoxFuture;
use prometheus_client::metrics::counter::Counter;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::{Request, Status, Streaming};

use crate::board::Board;
use crate::error::AgentError;
use crate::refusal::Refusal;
use crate::transition::Context;

/// What `Follow` answers with.
pub(crate) type Responses = ReceiverStream<Result<wire::FollowResponse, Status>>;

/// A step's header, read.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sender {
    pub(crate) lineage: Lineage,
    pub(crate) term: Term,
    pub(crate) context: Context,
}

/// What a cell was last granted of a tenant.
pub(crate) struct Granted {
    pub(crate) uid: Uid,
    pub(crate) epoch: Epoch,
    /// What a stale router is told, where the cell redirects.
    pub(crate) mapping: Option<SignedMapping>,
}

/// What a cell is to a tenant and what it keeps of it, at one moment.
pub(crate) type Said = (wire::TenantGrant, wire::TenantStorage);

/// What the parts of an agent share, whatever driver it has.
pub(crate) struct Surroundings {
    pub(crate) here: CellId,
    pub(crate) generation: Generation,
    pub(crate) board: Board,
    /// Whose signatures on mappings are believed.
    pub(crate) trusted: RwLock<TrustedKeys>,
    /// How other agents are called, and call.
    pub(crate) link: Link,
    /// Followers and lapse timers run here, until
    pub(crate) tasks: TaskTracker,
    /// this.
    pub(crate) stop: CancellationToken,
    /// Transactions of writers that no gate has let in which holds have ended, since the agent was started.
    pub(crate) ended_writers: Counter,
}

/// See the module.
pub(crate) trait Driver: Send + Sync + 'static {
    /// What it shares with the agent around it.
    fn surroundings(&self) -> &Surroundings;

    /// Goes on with what was under way when the agent was closed.
    fn resume(self: Arc<Self>);

    /// Makes durable what waits for it, until `stop`. An error ends the process.
    fn sustain(self: Arc<Self>, stop: CancellationToken) -> BoxFuture<'static, Result<(), AgentError>>;

    /// Refuses a step of an older leader; remembers a newer one durably before anything is done for it.
    fn take_term(&self, lineage: Lineage, term: Term) -> BoxFuture<'_, Result<(), Refusal>>;

    /// Does one step, durably.
    fn step(
        self: Arc<Self>,
        sender: Sender,
        tenant: TenantId,
        step: Step,
    ) -> BoxFuture<'static, Result<Answer, Refusal>>;

    /// Serves a follower.
    fn follow(
        self: Arc<Self>,
        request: Request<Streaming<wire::FollowRequest>>,
    ) -> BoxFuture<'static, Result<Responses, Status>>;

    /// What is kept of one tenant, or of every one. `counted`: rows and bytes as they are now, where that costs
    /// something.
    fn storage<'a>(
        &'a self,
        tenant: Option<&'a TenantId>,
        counted: bool,
    ) -> BoxFuture<'a, Vec<wire::TenantStorage>>;

    /// What the cell is to tenants with names behind `after`, by name, at most `most`, as it is durable. Once a newer
    /// leader is known, a step of an older one either is in what is said here or is refused.
    fn page<'a>(&'a self, after: &'a str, most: usize) -> BoxFuture<'a, Result<Vec<Said>, Refusal>>;

    /// What the database has, whether Cellway knows it or not; nothing of a store that is Cellway's own.
    fn existing(&self) -> BoxFuture<'_, Result<Option<wire::Existing>, Refusal>> {
        Box::pin(std::future::ready(Ok(None)))
    }

    /// Asks the control plane for what may have been decided while this process was not there: see [`crate::confirm`].
    fn confirm(self: Arc<Self>, _control: ControlClient) -> BoxFuture<'static, ()> {
        Box::pin(std::future::ready(()))
    }

    /// Part of what was put aside of a tenant since this cell was taken over; none where nothing was.
    fn read_tail<'a>(
        &'a self,
        _tenant: &'a TenantId,
        _after: Seq,
    ) -> BoxFuture<'a, Result<Option<wire::ReadTailResponse>, Refusal>> {
        Box::pin(std::future::ready(Ok(None)))
    }

    /// What this cell was last granted.
    fn granted(&self, tenant: &TenantId) -> Option<Granted>;
}

/// Reads a step and does it.
pub(crate) async fn run(driver: Arc<dyn Driver>, request: wire::StepRequest) -> Result<Answer, Refusal> {
    let invalid = |reason: &str| Refusal::new("INVALID", reason);
    let header = request.header.ok_or_else(|| invalid("the step has no header"))?;
    let step =
        request.step.ok_or_else(|| invalid("the request names no step, or one that this agent does not know"))?;
    let id = TenantId::new(&header.tenant).map_err(|error| invalid(&error.to_string()))?;
    let leg = match header.leg() {
        wire::Leg::Unspecified => None,
        wire::Leg::Forward => Some(Leg::Forward),
        wire::Leg::Back => Some(Leg::Back),
    };
    let context = Context {
        uid: Uid(header.uid),
        epoch: Epoch(header.epoch),
        move_id: MoveId(header.move_id),
        attempt: Attempt(header.attempt),
        leg,
    };
    let in_a_move = !matches!(step, Step::Grant(_) | Step::Revoke(_) | Step::Preflight(_));
    if in_a_move && context.move_id == MoveId(0) {
        return Err(invalid("this step belongs to a move, and none is named"));
    }
    let sender = Sender { lineage: Lineage(header.lineage), term: Term(header.term), context };
    driver.take_term(sender.lineage, sender.term).await?;
    let answer = driver.step(sender, id.clone(), step).await;
    if let Err(refusal) = &answer {
        tracing::debug!(tenant = %id, move_id = %context.move_id, attempt = %context.attempt, %refusal, "step refused");
    }
    answer
}
