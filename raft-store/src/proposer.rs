//! Many commands in one Raft entry: the largest single gain in throughput, because an entry costs one sync.
//!
//! ```text
//! submit ─► queue (bounded) ─► gather what is there ─► at most n entries on their way ─► answers
//! ```
//!
//! Nobody lingers: a command that comes alone goes alone. While an entry is on its way the queue fills, and the next one takes it
//! all.

use std::sync::Arc;
use std::time::Duration;

use cell_model::{Envelope, Reply};
use openraft::errors::{ClientWriteError, ForwardReason};
use openraft::impls::ProgressResponder;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use crate::consensus::{Batch, Raft, TypeConfig};
use crate::error::SubmitError;
use crate::options::{Bounds, StoreOptions};
use crate::space::Space;

struct Proposal {
    envelope: Envelope,
    bytes: usize,
    answer: oneshot::Sender<Result<Reply, SubmitError>>,
}

/// The way in.
#[derive(Debug, Clone)]
pub(crate) struct Proposer {
    queue: mpsc::Sender<Proposal>,
    capacity: usize,
    deadline: Duration,
    space: Space,
}

type WriteResult = Result<openraft::raft::ClientWriteResponse<TypeConfig>, ClientWriteError<TypeConfig>>;

impl Proposer {
    /// Starts the task that gathers; it ends with `stop`.
    pub(crate) fn start(raft: Raft, options: &StoreOptions, space: Space, stop: CancellationToken) -> Self {
        let bounds = options.bounds;
        let capacity = bounds.submit_queue.max(1);
        let (queue, proposals) = mpsc::channel(capacity);
        let stalled_after = options.timers.election_max * 2;
        tokio::spawn(Gatherer { raft, bounds, stalled_after, stop }.run(proposals));
        Self { queue, capacity, deadline: options.timers.submit, space }
    }

    /// Has one command run.
    pub(crate) async fn submit(&self, envelope: Envelope) -> Result<Reply, SubmitError> {
        let bytes = postcard::experimental::serialized_size(&envelope).unwrap_or(usize::MAX);
        if bytes > Bounds::COMMAND_BYTES_MAX {
            return Err(SubmitError::TooLarge { bytes, limit: Bounds::COMMAND_BYTES_MAX });
        }
        self.space.check().map_err(|full| SubmitError::DiskFull { reason: full.to_string() })?;
        let (answer, answered) = oneshot::channel();
        self.queue.try_send(Proposal { envelope, bytes, answer }).map_err(|refused| match refused {
            mpsc::error::TrySendError::Full(_) => SubmitError::Busy { queued: self.capacity },
            mpsc::error::TrySendError::Closed(_) => SubmitError::Stopped,
        })?;
        let unknown = |reason: String| Err(SubmitError::Unknown { reason });
        match tokio::time::timeout(self.deadline, answered).await {
            Ok(Ok(result)) => result,
            Ok(Err(_)) => unknown("this node stopped on the way".into()),
            Err(_) => unknown(format!("there was no answer within {} ms", self.deadline.as_millis())),
        }
    }
}

/// The task behind the queue.
struct Gatherer {
    raft: Raft,
    bounds: Bounds,
    /// Entries that have been on their way for so long have no majority: what waits behind them is sent away.
    stalled_after: Duration,
    stop: CancellationToken,
}

/// Why no entry can be sent now.
enum NoSlot {
    Stopped,
    Stalled,
}

impl Gatherer {
    async fn slot(&self, in_flight: &Arc<Semaphore>) -> Result<OwnedSemaphorePermit, NoSlot> {
        tokio::select! {
            () = self.stop.cancelled() => Err(NoSlot::Stopped),
            permit = tokio::time::timeout(self.stalled_after, Arc::clone(in_flight).acquire_owned()) => match permit {
                Ok(Ok(permit)) => Ok(permit),
                Ok(Err(_)) => Err(NoSlot::Stopped),
                Err(_) => Err(NoSlot::Stalled),
            },
        }
    }

    fn stalled(&self) -> SubmitError {
        let waited = self.stalled_after.as_millis();
        SubmitError::NoQuorum { reason: format!("what came before has been on its way for {waited} ms") }
    }

    async fn run(self, mut queue: mpsc::Receiver<Proposal>) {
        let in_flight = Arc::new(Semaphore::new(self.bounds.entries_in_flight.max(1)));
        let mut carried: Option<Proposal> = None;
        loop {
            let first = match carried.take() {
                Some(carried) => carried,
                None => tokio::select! {
                    () = self.stop.cancelled() => break,
                    next = queue.recv() => match next {
                        Some(next) => next,
                        None => break,
                    },
                },
            };
            match self.slot(&in_flight).await {
                Ok(slot) => {
                    let proposals = fill(first, &mut queue, &mut carried, &self.bounds);
                    self.propose(proposals, slot).await;
                }
                Err(NoSlot::Stalled) => refuse_all(first, &mut queue, &self.stalled()),
                Err(NoSlot::Stopped) => {
                    carried = Some(first);
                    break;
                }
            }
        }
        queue.close();
        if let Some(left) = carried.take().or_else(|| queue.try_recv().ok()) {
            refuse_all(left, &mut queue, &SubmitError::Stopped);
        }
    }

    /// Sends one entry. Entries are sent one after another, so that they keep the order of their commands.
    async fn propose(&self, proposals: Vec<Proposal>, slot: OwnedSemaphorePermit) {
        let (envelopes, answers): (Vec<_>, Vec<_>) =
            proposals.into_iter().map(|proposal| (proposal.envelope, proposal.answer)).unzip();
        if envelopes.is_empty() {
            return;
        }
        let (responder, written) = ProgressResponder::complete_only();
        if self.raft.client_write_ff(Batch(Arc::new(envelopes)), Some(responder)).await.is_err() {
            answer_all(answers, &SubmitError::Stopped);
            return;
        }
        let node_id = *self.raft.node_id();
        tokio::spawn(async move {
            deliver(written.await.ok(), answers, node_id);
            drop(slot);
        });
    }
}

/// What is waiting, as far as it fits into one entry. Whoever does not wait any more is left out.
fn fill(
    first: Proposal,
    queue: &mut mpsc::Receiver<Proposal>,
    carried: &mut Option<Proposal>,
    bounds: &Bounds,
) -> Vec<Proposal> {
    let mut bytes = 0;
    let mut proposals = Vec::new();
    let mut next = Some(first);
    while let Some(proposal) = next {
        if !proposal.answer.is_closed() {
            if !proposals.is_empty() && bytes + proposal.bytes > bounds.entry_bytes {
                *carried = Some(proposal);
                break;
            }
            bytes += proposal.bytes;
            proposals.push(proposal);
        }
        if proposals.len() >= bounds.entry_commands.max(1) {
            break;
        }
        next = queue.try_recv().ok();
    }
    proposals
}

fn deliver(written: Option<WriteResult>, answers: Vec<oneshot::Sender<Result<Reply, SubmitError>>>, node_id: u64) {
    let unknown = |reason: String| SubmitError::Unknown { reason };
    match written {
        Some(Ok(response)) => {
            let replies = response.data.0;
            debug_assert_eq!(replies.len(), answers.len(), "each command gets a reply");
            for (answer, reply) in answers.into_iter().zip(replies) {
                drop(answer.send(Ok(reply)));
            }
        }
        // Until a majority answers again nothing is accepted: another leader may have been elected.
        Some(Err(ClientWriteError::ForwardToLeader(forward))) if forward.reason == ForwardReason::LeaseExpired => {
            answer_all(answers, &SubmitError::NoQuorum { reason: "its lease has run out".into() });
        }
        Some(Err(ClientWriteError::ForwardToLeader(forward))) => {
            let other = forward.leader_id.is_some_and(|leader| leader != node_id);
            let leader = forward.leader_node.filter(|_| other).map(|node| node.addr);
            answer_all(answers, &SubmitError::NotLeader { leader });
        }
        Some(Err(
            error @ (ClientWriteError::LogEntryDiscarded(_)
            | ClientWriteError::ChangeMembershipError(_)
            | ClientWriteError::PreconditionFailed(_)),
        )) => answer_all(answers, &unknown(error.to_string())),
        None => answer_all(answers, &unknown("this node stopped on the way".into())),
    }
}

fn answer_all(answers: Vec<oneshot::Sender<Result<Reply, SubmitError>>>, error: &SubmitError) {
    for answer in answers {
        // A caller that is gone has no use for the answer.
        drop(answer.send(Err(error.clone())));
    }
}

/// Sends away `first` and everybody behind it. None of them was proposed.
fn refuse_all(first: Proposal, queue: &mut mpsc::Receiver<Proposal>, error: &SubmitError) {
    let mut next = Some(first);
    while let Some(proposal) = next {
        drop(proposal.answer.send(Err(error.clone())));
        next = queue.try_recv().ok();
    }
}

#[cfg(test)]
mod tests {
    use openraft::BasicNode;
    use openraft::errors::ForwardToLeader;

    use super::*;

    /// What each of two commands of one entry is told.
    async fn told(forward: ForwardToLeader<TypeConfig>) -> SubmitError {
        let (answers, asked): (Vec<_>, Vec<_>) = (0..2).map(|_| oneshot::channel()).unzip();
        deliver(Some(Err(ClientWriteError::ForwardToLeader(forward))), answers, 1);
        let mut told = futures::future::join_all(asked).await.into_iter().map(|told| told.unwrap().unwrap_err());
        let first = told.next().unwrap();
        assert!(told.all(|other| other == first));
        first
    }

    #[tokio::test]
    async fn a_leader_without_a_majority_is_told_from_a_node_that_does_not_lead() {
        let expired = ForwardToLeader::empty().with_reason(ForwardReason::LeaseExpired);
        assert!(matches!(told(expired).await, SubmitError::NoQuorum { .. }));
        assert_eq!(told(ForwardToLeader::empty()).await, SubmitError::NotLeader { leader: None });
        let other = ForwardToLeader::new(2, BasicNode::new("n2:1"));
        assert_eq!(told(other).await, SubmitError::NotLeader { leader: Some("n2:1".into()) });
        let itself = ForwardToLeader::new(1, BasicNode::new("n1:1"));
        assert_eq!(told(itself).await, SubmitError::NotLeader { leader: None });
    }
}
