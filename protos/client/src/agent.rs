//! Steps on cell agents, one typed method each. See agent.proto for what each step promises.
//!
//! A step has three outcomes, and [`StepError`] keeps them apart: the agent refused, the step was surely not run, or
//! nobody knows. Nothing is tried again here.

use std::time::Duration;

use cell_model::{Attempt, CellId, Epoch, Generation, Held, Leg, Lineage, MoveId, Seq, TenantId, Term, Uid};
use cell_protos::v1;
use cell_protos::v1::agent_service_client::AgentServiceClient;
use cell_protos::v1::step_request::Step;
use cell_protos::v1::step_response::Result as Answer;
use tonic::{Code, Request, Status};

use crate::channel::{Channels, surely_not_sent, told};
use crate::{Link, Server, StepError};

mod alike;
mod held;
mod mending;
mod steps;
mod takeover;

pub use alike::tables_differ;

/// Tenants of one page of what a cell holds.
const HELD_PAGE: u32 = 1_000;
/// What a cell says of all of its tenants at once may be so large: a few hundred bytes for each.
const DESCRIPTION_BYTES_MAX: usize = 256 << 20;

/// How patient a pool is.
#[derive(Debug, Clone)]
pub struct AgentOptions {
    /// To connect.
    pub connect: Duration,
    /// For a step that writes a few records.
    pub step: Duration,
    /// For a step that reads or deletes every row of a tenant.
    pub scan: Duration,
    /// For the answer to travel, beyond what the step itself may take.
    pub travel: Duration,
    /// Over which link agents are called.
    pub link: Link,
}

impl Default for AgentOptions {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(1),
            step: Duration::from_secs(5),
            scan: Duration::from_secs(120),
            travel: Duration::from_secs(1),
            link: Link::default(),
        }
    }
}

/// Who asks for a step, and for what: a cell refuses what comes from an older leader, tenant or attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StepContext {
    /// Incarnation of the control plane's history.
    pub lineage: Lineage,
    /// The leader's term.
    pub term: Term,
    /// Whose.
    pub tenant: TenantId,
    /// Which incarnation.
    pub uid: Uid,
    /// The move that it belongs to; none for what happens outside a move.
    pub move_id: Option<MoveId>,
    /// The attempt that it belongs to.
    pub attempt: Attempt,
    /// The tenant's epoch in the record from which the step was computed.
    pub epoch: Epoch,
    /// Which way the move goes.
    pub leg: Option<Leg>,
}

impl StepContext {
    fn header(&self) -> v1::StepHeader {
        v1::StepHeader {
            lineage: self.lineage.get(),
            term: self.term.get(),
            tenant: self.tenant.to_string(),
            uid: self.uid.get(),
            move_id: self.move_id.map(|id| id.0).unwrap_or_default(),
            attempt: self.attempt.get(),
            epoch: self.epoch.get(),
            leg: self.leg.map_or(v1::Leg::Unspecified, v1::Leg::from).into(),
        }
    }
}

/// What a cell says before a move.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PreflightReport {
    /// What stands in the way; empty: nothing.
    pub findings: Vec<Finding>,
    /// What does not, and is better mended.
    pub notes: Vec<Finding>,
    /// Of the tenant.
    pub rows: u64,
    /// Of the tenant.
    pub bytes: u64,
    /// What the tables are like that its rows are in, or will be: one line each.
    pub tables: Vec<String>,
    /// Where the cell keeps its tenants; an older agent does not say.
    pub storage: Option<v1::Storage>,
    /// Of a source: bytes that the tenant takes of a disk, with indexes; 0: it is not said.
    pub disk_bytes: u64,
    /// Of a target: bytes that are free on its disk, where that is known.
    pub free_bytes: Option<u64>,
    /// Of a target: the log of what is written takes up to so many bytes beside it.
    pub log_bytes_max: u64,
}

/// One thing that stands in the way of a move.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// Stable code.
    pub code: String,
    /// A sentence.
    pub reason: String,
}

/// How far a copy has come.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ImportProgress {
    /// The frontier has reached the end.
    pub backfilled: bool,
    /// Everything up to here is held durably.
    pub applied: Seq,
    /// The owner's last change.
    pub source: Seq,
    /// How much has not been applied yet.
    pub lag_bytes: u64,
    /// How old the oldest change is that has not been applied yet.
    pub lag_ms: u64,
    /// Rows that the backfill has copied.
    pub copied_rows: u64,
    /// Bytes that the backfill has copied.
    pub copied_bytes: u64,
    /// Empty, or why the copy cannot go on.
    pub failure_code: String,
    /// A sentence.
    pub failure: String,
    /// Requests that this cell has turned away because they came under an older epoch, since it redirects.
    pub stale_rejected: u64,
}

/// How the owner stands to its follower while it waits for it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SyncProgress {
    /// Writes are answered only when the follower holds them.
    pub engaged: bool,
    /// The follower was too slow: writes wait until the degradation is committed.
    pub wants_degrade: bool,
    /// The owner's last change.
    pub last: Seq,
    /// What the follower has acknowledged.
    pub acked: Seq,
    /// Age of the oldest transaction that a hold would have to wait for.
    pub oldest_write: Duration,
    /// Transactions that holds of this move have ended, where the database was asked.
    pub ended_writers: u32,
}

/// Runs steps on agents. Cheap to clone; clones share connections.
#[derive(Debug, Clone)]
pub struct AgentPool {
    options: AgentOptions,
    channels: Channels,
}

impl AgentPool {
    /// A pool without connections; they are made when they are needed.
    #[must_use]
    pub fn new(options: AgentOptions) -> Self {
        Self { channels: Channels::new(options.link.clone(), Server::Agent, options.connect), options }
    }

    /// What an agent holds: of one tenant, or of every tenant.
    ///
    /// # Errors
    /// [`StepError`]
    pub async fn describe(
        &self,
        agent: &str,
        tenant: Option<&TenantId>,
    ) -> Result<v1::DescribeResponse, StepError> {
        let tenant = tenant.map(ToString::to_string).unwrap_or_default();
        self.described(agent, v1::DescribeRequest { tenant, ..v1::DescribeRequest::default() }).await
    }

    /// As [`Self::describe`], but for rows and bytes, which are as they were counted last: in a database counting reads every row, so
    /// this is what may be asked often.
    ///
    /// # Errors
    /// [`StepError`]
    pub async fn describe_uncounted(
        &self,
        agent: &str,
        tenant: Option<&TenantId>,
    ) -> Result<v1::DescribeResponse, StepError> {
        let tenant = tenant.map(ToString::to_string).unwrap_or_default();
        self.described(agent, v1::DescribeRequest { tenant, uncounted: true, ..v1::DescribeRequest::default() })
            .await
    }

    /// What the cell's database had before Cellway came, and has besides; nothing of a cell without one.
    ///
    /// # Errors
    /// [`StepError`]
    pub async fn existing(&self, agent: &str) -> Result<Option<v1::Existing>, StepError> {
        let request = v1::DescribeRequest { uncounted: true, existing: true, ..v1::DescribeRequest::default() };
        Ok(self.described(agent, request).await?.existing)
    }

    /// What the cell holds of every tenant, as far as it is durable, and the name by which it says so: another cell may
    /// answer at that address.
    ///
    /// # Errors
    /// [`StepError`]
    pub async fn held(&self, agent: &str) -> Result<(CellId, Vec<(TenantId, Held)>), StepError> {
        let (mut all, mut said_by) = (Vec::new(), None);
        let mut after = String::new();
        loop {
            let request = v1::DescribeRequest {
                uncounted: true,
                after: after.clone(),
                most: HELD_PAGE,
                ..v1::DescribeRequest::default()
            };
            let page = self.described(agent, request).await?;
            let ended = page.grants.len() < HELD_PAGE as usize;
            let last = page.grants.last().map(|grant| grant.tenant.clone());
            let (cell, held) = held::of_page(page).map_err(|error| unfitting(agent, &error.to_string()))?;
            if said_by.as_ref().is_some_and(|first| *first != cell) {
                return Err(unfitting(agent, "its pages are of different cells"));
            }
            all.extend(held);
            match last {
                Some(last) if !ended && last > after => (after, said_by) = (last, Some(cell)),
                _ => return Ok((cell, all)),
            }
        }
    }

    async fn described(
        &self,
        agent: &str,
        request: v1::DescribeRequest,
    ) -> Result<v1::DescribeResponse, StepError> {
        let mut client = self.client(agent)?.max_decoding_message_size(DESCRIPTION_BYTES_MAX);
        let answer = tokio::time::timeout(self.options.step, client.describe(request)).await;
        let answer = answer.map_err(|_| no_answer(agent, self.options.step))?;
        Ok(answer.map_err(|status| failed(agent, &status))?.into_inner())
    }

    fn client(&self, agent: &str) -> Result<AgentServiceClient<tonic::transport::Channel>, StepError> {
        match self.channels.to(agent) {
            Ok(channel) => Ok(AgentServiceClient::new(channel)),
            Err(status) => {
                Err(StepError::Unreachable { agent: agent.to_owned(), reason: status.message().to_owned() })
            }
        }
    }

    async fn run(
        &self,
        agent: &str,
        context: &StepContext,
        step: Step,
        patience: Duration,
    ) -> Result<(Generation, Answer), StepError> {
        let mut client = self.client(agent)?;
        let mut request = Request::new(v1::StepRequest { header: Some(context.header()), step: Some(step) });
        request.set_timeout(patience);
        let patience = patience + Duration::from_millis(20);
        let answer = tokio::time::timeout(patience, client.run(request)).await;
        let answer = answer.map_err(|_| no_answer(agent, patience))?;
        let response = answer.map_err(|status| failed(agent, &status))?.into_inner();
        match response.result {
            Some(Answer::Refused(refused)) => {
                Err(StepError::Refused { code: refused.code, reason: refused.reason })
            }
            Some(result) => Ok((Generation(response.generation), result)),
            None => Err(unfitting(agent, "it is empty")),
        }
    }
}

fn no_answer(agent: &str, patience: Duration) -> StepError {
    StepError::Unknown { agent: agent.to_owned(), reason: format!("nothing was heard for {patience:?}") }
}

/// The step has run, but its answer is of no use: as good as not known.
fn unfitting(agent: &str, what: &str) -> StepError {
    StepError::Unknown { agent: agent.to_owned(), reason: format!("the answer makes no sense: {what}") }
}

fn failed(agent: &str, status: &Status) -> StepError {
    let agent = agent.to_owned();
    match status.code() {
        // An agent answers so before it runs anything.
        Code::InvalidArgument | Code::Unimplemented => {
            StepError::Refused { code: cell_protos::Malformed::CODE.into(), reason: status.message().to_owned() }
        }
        _ if surely_not_sent(status) => StepError::Unreachable { agent, reason: told(status) },
        _ => StepError::Unknown { agent, reason: told(status) },
    }
}
