//! Entries on their way to a follower: one stream of messages, many of them at once, answered in their order.
//!
//! ```text
//! leader   request ─► request ─► request ─►        follower   ─► openraft ─► log, one sync for what has come
//!          ◄─ matched up to 7 ◄─ matched up to 9              ◄─ when it is on disk, before it is applied
//! ```
//!
//! A message does not wait for the answer to the one before. Each answer has a deadline; a stream that has failed is given
//! up, and openraft begins another one from what the follower has. What brings no entry but only the news of a commit is
//! put off for a moment, because the next entry mostly comes before and brings it along ([`Pace`]).

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use cell_model::layout::LAYOUT;
use cell_protos::v1::RaftMessage;
use futures::stream::{self, BoxStream, Stream, StreamExt};
use openraft::RPCTypes;
use openraft::raft::{AppendEntriesRequest, StreamAppendResult};
use tokio::sync::mpsc::{self, Permit, Sender};
use tokio::time::{Instant, timeout_at};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

use crate::codec;
use crate::consensus::TypeConfig;
use crate::level::Said;
use crate::log::Written;
use crate::network::{APPEND_DEADLINE, Peer, Rpc};
use crate::service::{Node, RaftEndpoint, fatal, read};
use crate::wire::{WireAppend, WireLogId, WireMatched, WireVote};

#[cfg(test)]
mod tests;

type Append = AppendEntriesRequest<TypeConfig>;

/// Messages that are on their way at once.
const IN_FLIGHT_MAX: usize = 32;
/// Those of them that the connection has not taken yet: an entry of a message may be large.
const QUEUED_MAX: usize = 4;

/// For how long the news of a commit may wait for an entry. It is by how much what a follower serves is later than what
/// its leader does.
const COMMIT_WAITS: Duration = Duration::from_millis(1);

/// A message that has no answer yet.
#[derive(Debug)]
struct Sent {
    at: Instant,
    /// The last entry that the follower has when it has this message.
    last: Option<WireLogId>,
}

/// The messages without an answer, the oldest first.
#[derive(Debug, Default)]
struct InFlight(VecDeque<Sent>);

impl InFlight {
    fn has_room(&self) -> bool {
        self.0.len() < IN_FLIGHT_MAX
    }

    /// Answers the last entry that the follower has when it has this message.
    fn push(&mut self, append: &WireAppend) -> Option<WireLogId> {
        let last = append.entries.last().map(|entry| entry.id).or(append.previous);
        self.0.push_back(Sent { at: Instant::now(), last });
        last
    }

    /// Takes the answer to the oldest. Whether openraft may see it: from `up to 6` it concludes that the follower has got
    /// every message that ends at entry 6 or before, the one that only brings a commit as well, and counts the lease of
    /// reads from the sending of the last. So `up to 6` waits for the answer to the last message that ends there.
    fn answered(&mut self, answer: &WireMatched) -> bool {
        self.0.pop_front();
        match answer {
            WireMatched::UpTo(matched) => self.0.front().is_none_or(|next| next.last > *matched),
            WireMatched::Conflict(_) | WireMatched::HigherVote(_) => true,
        }
    }

    /// When the oldest must have been answered.
    fn due(&self) -> Option<Instant> {
        self.0.front().map(|sent| sent.at + APPEND_DEADLINE)
    }
}

/// When openraft is to be asked for the next message: at once where there are entries that were not sent, otherwise, as it
/// could only be a commit, a moment after the last message. It is asked later rather than its message kept back, because
/// it counts its lease from when it gave the message away.
struct Pace {
    written: Written,
    /// The last entry that was sent.
    sent: u64,
    until: Instant,
}

impl Pace {
    fn new(written: Written) -> Self {
        Self { written, sent: 0, until: Instant::now() }
    }

    fn sent(&mut self, last: Option<WireLogId>) {
        self.sent = last.map_or(0, |last| last.index);
        self.until = Instant::now() + COMMIT_WAITS;
    }

    async fn wait(&mut self) {
        while self.written.get() <= self.sent {
            if !matches!(timeout_at(self.until, self.written.changed()).await, Ok(true)) {
                return;
            }
        }
    }
}

/// The leader's end of one stream. All of it is polled by whoever waits for the answers, and goes with them: openraft
/// gives no request to a stream that it has given up, nor while it still looks at an answer.
struct Sending<'p, S> {
    peer: &'p Peer,
    input: S,
    /// To that node, with nothing in it.
    envelope: RaftMessage,
    /// The leader's.
    vote: WireVote,
    /// None when there will be no more requests.
    messages: Option<Sender<RaftMessage>>,
    in_flight: InFlight,
    pace: Pace,
}

/// Sends what `input` gives, for as long as it gives and the follower answers.
pub(crate) async fn send<S>(peer: &Peer, mut input: S) -> Rpc<BoxStream<'_, Rpc<StreamAppendResult<TypeConfig>>>>
where
    S: Stream<Item = Append> + Send + Unpin + 'static,
{
    let mut client = peer.client()?;
    // openraft waits before it gives the first request to a follower that has failed: nobody is called before that.
    let Some(first) = input.next().await else { return Ok(stream::empty().boxed()) };
    // It names the cluster, which does not change any more.
    let envelope = peer.envelope()?;
    let (messages, queue) = mpsc::channel(QUEUED_MAX);
    let (in_flight, pace) = (InFlight::default(), Pace::new(peer.written.clone()));
    let (vote, to) = ((&first.vote).into(), Some(messages.clone()));
    let mut sending = Sending { peer, input, envelope, vote, messages: to, in_flight, pace };
    sending.put(messages.try_reserve().expect("it is new and has room"), &first);
    drop((first, messages));
    let begun = tokio::time::timeout(APPEND_DEADLINE, client.append_stream(ReceiverStream::new(queue))).await;
    let begun = begun.map_err(|_| peer.timed_out(RPCTypes::AppendEntries, APPEND_DEADLINE))?;
    let answers = begun.map_err(|status| peer.refused(&status))?.into_inner();
    let answers = stream::unfold(Some((sending, answers)), |state| async move {
        let (mut sending, mut answers) = state?;
        match sending.next(&mut answers).await {
            Ok(None) => None,
            Ok(Some(matched)) => {
                // A refusal is the last word of a stream.
                let goes_on = matches!(matched, WireMatched::UpTo(_));
                Some((Ok(matched.into()), goes_on.then_some((sending, answers))))
            }
            Err(error) => Some((Err(error), None)),
        }
    });
    Ok(answers.boxed())
}

/// Waits for room and for a request. None when no more will come, or nobody takes them.
async fn take<'m, S: Stream<Item = Append> + Unpin>(
    messages: Option<&'m Sender<RaftMessage>>,
    input: &mut S,
    pace: &mut Pace,
) -> Option<(Permit<'m, RaftMessage>, Append)> {
    let room = messages?.reserve().await.ok()?;
    pace.wait().await;
    Some((room, input.next().await?))
}

impl<S: Stream<Item = Append> + Unpin> Sending<'_, S> {
    fn put(&mut self, room: Permit<'_, RaftMessage>, request: &Append) {
        let append = WireAppend::from(request);
        self.pace.sent(self.in_flight.push(&append));
        room.send(RaftMessage { payload: codec::seal(&append).into(), ..self.envelope.clone() });
    }

    /// The next answer that openraft may see; none at the end. Requests are sent meanwhile.
    async fn next(&mut self, answers: &mut Streaming<RaftMessage>) -> Rpc<Option<WireMatched>> {
        loop {
            let until = self.in_flight.due().unwrap_or_else(|| Instant::now() + APPEND_DEADLINE);
            let messages = self.messages.clone();
            let takes = messages.is_some() && self.in_flight.has_room();
            let answer = tokio::select! {
                biased;
                answer = timeout_at(until, answers.message()) => answer,
                taken = take(messages.as_ref(), &mut self.input, &mut self.pace), if takes => {
                    match taken {
                        Some((room, request)) => self.put(room, &request),
                        // The stream ends when the follower has answered what was sent.
                        None => self.messages = None,
                    }
                    continue;
                }
            };
            match answer {
                Ok(Ok(Some(answer))) => {
                    let matched = self.peer.read(&answer)?;
                    self.peer.notice(self.vote, &matched);
                    if self.in_flight.answered(&matched) {
                        return Ok(Some(matched));
                    }
                }
                Ok(Ok(None)) => return Ok(None),
                Ok(Err(status)) => return Err(self.peer.refused(&status)),
                Err(_) if self.in_flight.due().is_some_and(|due| due <= Instant::now()) => {
                    return Err(self.peer.timed_out(RPCTypes::AppendEntries, APPEND_DEADLINE));
                }
                // Nothing was on its way.
                Err(_) => {}
            }
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
    let (level, machine) = (node.level.clone(), Arc::clone(&node.machine));
    let cluster_id = node.identity.cluster().unwrap_or_default().0;
    let refused: Arc<Mutex<Option<Status>>> = Arc::default();
    let last_word = Arc::clone(&refused);
    // What the leader says of commits, until the message that says it is answered: each one is, in their order.
    let said: Arc<Mutex<VecDeque<Said>>> = Arc::default();
    let said_before = Arc::clone(&said);
    // Of the leader at the other end: it is answered as it asks.
    let layout = Arc::new(AtomicU8::new(LAYOUT));
    let asked_in = Arc::clone(&layout);
    let begin = (messages, endpoint, refused, asked_in, said);
    let requests = stream::unfold(begin, |(mut messages, endpoint, refused, asked_in, said)| async move {
        match accept(&mut messages, &endpoint, &asked_in).await {
            Ok(request) => {
                let request = request?;
                let committed = request.leader_commit.as_ref().map_or(0, |commit| commit.index);
                said.lock().unwrap_or_else(PoisonError::into_inner).push_back(Said::now(committed));
                Some((request, (messages, endpoint, refused, asked_in, said)))
            }
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
        let said = said_before.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
        if let (WireMatched::UpTo(_), Some(said)) = (&matched, said) {
            level.heard(said, machine.pace.applied_index());
        }
        let payload = codec::seal_as(layout.load(Ordering::Relaxed), &matched);
        Ok(RaftMessage { cluster_id, payload: payload.into(), ..RaftMessage::default() })
    });
    let last = stream::once(async move { last_word.lock().unwrap_or_else(PoisonError::into_inner).take() });
    answers
        .chain(last.filter_map(|refused| async move { refused.map(Err) }))
        .take_until(stopped.cancelled_owned())
        .boxed()
}

/// The next request; none at the end.
async fn accept(
    messages: &mut Streaming<RaftMessage>,
    endpoint: &RaftEndpoint,
    asked_in: &AtomicU8,
) -> Result<Option<Append>, Status> {
    let Some(message) = messages.message().await? else { return Ok(None) };
    let node = endpoint.admit(&message)?;
    let append: WireAppend = read(&message)?;
    asked_in.store(codec::layout_of(&message.payload), Ordering::Relaxed);
    if !append.entries.is_empty() {
        node.may_write()?;
    }
    append.try_into().map(Some).map_err(Status::invalid_argument)
}
