//! Entries on their way to a follower: one stream of messages, many of them at once, answered in their order.
//!
//! ```text
//! leader   request ─► request ─► request ─►        follower   ─► openraft ─► log, one sync for what has come
//!          ◄─ matched up to 7 ◄─ matched up to 9              ◄─ when it is on disk, before it is applied
//! ```
//!
//! A message does not wait for the answer to the one before, nor the news of a commit for the next entry. Each answer has
//! a deadline; a stream that has failed is given up, and openraft begins another one from what the follower has.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use cell_protos::v1::RaftMessage;
use futures::stream::{self, BoxStream, Stream, StreamExt};
use openraft::RPCTypes;
use openraft::raft::{AppendEntriesRequest, StreamAppendResult};
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout_at};
use tonic::{Status, Streaming};

use crate::codec;
use crate::consensus::TypeConfig;
use crate::network::{APPEND_DEADLINE, Peer, Rpc};
use crate::service::{Node, RaftEndpoint, fatal, read};
use crate::wire::{WireAppend, WireMatched};

/// Messages that are on their way at once.
const IN_FLIGHT_MAX: usize = 32;

/// When the messages were sent that have no answer yet.
#[derive(Clone)]
struct InFlight {
    sent: Arc<Mutex<VecDeque<Instant>>>,
    room: Arc<Semaphore>,
}

impl InFlight {
    fn new() -> Self {
        Self { sent: Arc::default(), room: Arc::new(Semaphore::new(IN_FLIGHT_MAX)) }
    }

    fn sent(&self) -> MutexGuard<'_, VecDeque<Instant>> {
        self.sent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until another message may go.
    async fn enter(&self) {
        if let Ok(room) = self.room.acquire().await {
            room.forget();
        }
    }

    fn answered(&self) {
        self.sent().pop_front();
        self.room.add_permits(1);
    }

    /// When the oldest must have been answered.
    fn due(&self) -> Option<Instant> {
        self.sent().front().map(|sent| *sent + APPEND_DEADLINE)
    }
}

/// Sends what `input` gives, for as long as it gives and the follower answers.
pub(crate) async fn send<S>(
    peer: &Peer,
    mut input: S,
) -> Rpc<impl Stream<Item = Rpc<StreamAppendResult<TypeConfig>>> + Send + use<'_, S>>
where
    S: Stream<Item = AppendEntriesRequest<TypeConfig>> + Send + Unpin + 'static,
{
    let (in_flight, mut client) = (InFlight::new(), peer.client()?);
    // openraft waits before it gives the first request to a follower that has failed: nobody is called before that.
    let first = input.next().await;
    let input = stream::iter(first).chain(input);
    // It names the cluster, which does not change any more.
    let envelope = peer.message(&())?;
    let requests = stream::unfold((input, in_flight.clone()), move |(mut input, in_flight)| {
        let cluster_id = envelope.cluster_id;
        async move {
            in_flight.enter().await;
            let payload = codec::seal(&WireAppend::from(&input.next().await?));
            in_flight.sent().push_back(Instant::now());
            Some((RaftMessage { cluster_id, payload: payload.into() }, (input, in_flight)))
        }
    });
    let begun = tokio::time::timeout(APPEND_DEADLINE, client.append_stream(requests)).await;
    let begun = begun.map_err(|_| peer.timed_out(RPCTypes::AppendEntries, APPEND_DEADLINE))?;
    let answers = begun.map_err(|status| peer.refused(&status))?.into_inner();
    Ok(stream::unfold(Some((peer, answers, in_flight)), |state| async move {
        let (peer, mut answers, in_flight) = state?;
        match next(peer, &mut answers, &in_flight).await {
            Ok(None) => None,
            Ok(Some(matched)) => {
                // A refusal is the last word of a stream.
                let goes_on = matches!(matched, WireMatched::UpTo(_));
                Some((Ok(matched.into()), goes_on.then_some((peer, answers, in_flight))))
            }
            Err(error) => Some((Err(error), None)),
        }
    }))
}

/// The next answer; none at the end.
async fn next(peer: &Peer, answers: &mut Streaming<RaftMessage>, in_flight: &InFlight) -> Rpc<Option<WireMatched>> {
    loop {
        let until = in_flight.due().unwrap_or_else(|| Instant::now() + APPEND_DEADLINE);
        match timeout_at(until, answers.message()).await {
            Ok(Ok(Some(answer))) => {
                in_flight.answered();
                return peer.read(&answer).map(Some);
            }
            Ok(Ok(None)) => return Ok(None),
            Ok(Err(status)) => return Err(peer.refused(&status)),
            Err(_) if in_flight.due().is_some_and(|due| due <= Instant::now()) => {
                return Err(peer.timed_out(RPCTypes::AppendEntries, APPEND_DEADLINE));
            }
            // Nothing was on its way.
            Err(_) => {}
        }
    }
}

/// The follower's end: hands what comes to openraft, and answers when it is on disk. It ends with the node.
pub(crate) fn receive(
    node: &Arc<Node>,
    endpoint: RaftEndpoint,
    messages: Streaming<RaftMessage>,
) -> BoxStream<'static, Result<RaftMessage, Status>> {
    let (raft, stopped) = (node.raft.clone(), node.stop.clone());
    let cluster_id = node.identity.cluster().unwrap_or_default().0;
    let refused: Arc<Mutex<Option<Status>>> = Arc::default();
    let said = Arc::clone(&refused);
    let requests = stream::unfold((messages, endpoint, refused), |(mut messages, endpoint, refused)| async move {
        match accept(&mut messages, &endpoint).await {
            Ok(request) => Some((request?, (messages, endpoint, refused))),
            Err(status) => {
                *refused.lock().unwrap_or_else(PoisonError::into_inner) = Some(status);
                None
            }
        }
    });
    // With the node its end of both directions goes: whoever serves them does not wait for the leader to go first.
    let requests = requests.take_until(stopped.clone().cancelled_owned());
    let answers = raft.stream_append(requests).map(move |answer| {
        let matched = WireMatched::from(answer.map_err(|error| fatal(&error))?);
        Ok(RaftMessage { cluster_id, payload: codec::seal(&matched).into() })
    });
    let last = stream::once(async move { said.lock().unwrap_or_else(PoisonError::into_inner).take() });
    answers
        .chain(last.filter_map(|refused| async move { refused.map(Err) }))
        .take_until(stopped.cancelled_owned())
        .boxed()
}

/// The next request; none at the end.
async fn accept(
    messages: &mut Streaming<RaftMessage>,
    endpoint: &RaftEndpoint,
) -> Result<Option<AppendEntriesRequest<TypeConfig>>, Status> {
    let Some(message) = messages.message().await? else { return Ok(None) };
    let node = endpoint.admit(&message)?;
    let append: WireAppend = read(&message)?;
    if !append.entries.is_empty() {
        node.may_write()?;
    }
    append.try_into().map(Some).map_err(Status::invalid_argument)
}
