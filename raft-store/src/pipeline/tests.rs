//! What openraft is told of a follower that gets, answers or loses messages.

use std::net::SocketAddr;

use cell_model::ClusterId;
use cell_protos::v1::raft_service_server::{RaftService, RaftServiceServer};
use openraft::{BasicNode, EntryPayload, RaftNetworkFactory};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response};

use super::*;
use crate::consensus::{Entry, LogId, Vote};
use crate::engine::MemoryLog;
use crate::identity::Identity;
use crate::network::{Network, tcp_dialer};

const LEADER: u64 = 1;

/// A follower that says what the test has it say. What it gets, the test is told.
struct Follower {
    answers: Mutex<Option<mpsc::Receiver<WireMatched>>>,
    got: Sender<WireAppend>,
}

#[tonic::async_trait]
impl RaftService for Follower {
    type AppendStreamStream = BoxStream<'static, Result<RaftMessage, Status>>;

    async fn append_stream(
        &self,
        request: Request<Streaming<RaftMessage>>,
    ) -> Result<Response<Self::AppendStreamStream>, Status> {
        let (mut messages, got) = (request.into_inner(), self.got.clone());
        tokio::spawn(async move {
            while let Ok(Some(message)) = messages.message().await {
                got.send(read(&message).unwrap()).await.unwrap();
            }
        });
        let answers = ReceiverStream::new(self.answers.lock().unwrap().take().expect("one stream"));
        let sealed = |matched| {
            Ok(RaftMessage { cluster_id: 7, payload: codec::seal(&matched).into(), ..RaftMessage::default() })
        };
        Ok(Response::new(answers.map(sealed).boxed()))
    }

    async fn append(&self, _: Request<RaftMessage>) -> Result<Response<RaftMessage>, Status> {
        Err(Status::unimplemented("only the stream"))
    }

    async fn vote(&self, _: Request<RaftMessage>) -> Result<Response<RaftMessage>, Status> {
        Err(Status::unimplemented("only the stream"))
    }

    async fn snapshot_progress(&self, _: Request<RaftMessage>) -> Result<Response<RaftMessage>, Status> {
        Err(Status::unimplemented("only the stream"))
    }

    async fn install_snapshot(&self, _: Request<Streaming<RaftMessage>>) -> Result<Response<RaftMessage>, Status> {
        Err(Status::unimplemented("only the stream"))
    }

    async fn transfer_leader(&self, _: Request<RaftMessage>) -> Result<Response<RaftMessage>, Status> {
        Err(Status::unimplemented("only the stream"))
    }
}

async fn peer(address: SocketAddr) -> Peer {
    let identity = Identity::open(Arc::new(MemoryLog::default()), "in memory".as_ref(), Some(1)).await.unwrap();
    identity.claim(ClusterId(7)).await.unwrap();
    // Nothing is put off: more is always written.
    let written = watch::channel(u64::MAX).1.into();
    Network::new(Arc::new(identity), tcp_dialer(), written).new_client(2, &BasicNode::new(address)).await
}

/// A peer, where its answers come from, and what it got.
async fn follower() -> (Peer, Sender<WireMatched>, mpsc::Receiver<WireAppend>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (answer, answers) = mpsc::channel(64);
    let (got, all) = mpsc::channel(64);
    let follower = RaftServiceServer::new(Follower { answers: Mutex::new(Some(answers)), got });
    let server = tonic::transport::Server::builder().add_service(follower);
    tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
    (peer(address).await, answer, all)
}

fn id(index: u64) -> WireLogId {
    WireLogId { term: 1, node: LEADER, index }
}

fn up_to(index: u64) -> WireMatched {
    WireMatched::UpTo(Some(id(index)))
}

/// The entries behind `previous` up to `last`; only a commit where there are none.
fn append(previous: u64, last: u64) -> Append {
    let blank = |index| Entry { log_id: id(index).into(), payload: EntryPayload::Blank };
    Append {
        vote: Vote::new_committed(1, LEADER),
        prev_log_id: Some(id(previous).into()),
        entries: (previous + 1..=last).map(blank).collect(),
        leader_commit: Some(id(previous).into()),
    }
}

fn input(requests: impl IntoIterator<Item = Append>) -> (Sender<Append>, ReceiverStream<Append>) {
    let (sender, receiver) = mpsc::channel(64);
    requests.into_iter().for_each(|request| sender.try_send(request).unwrap());
    (sender, ReceiverStream::new(receiver))
}

fn matched(answer: Option<Rpc<StreamAppendResult<TypeConfig>>>) -> u64 {
    answer
        .expect("the stream goes on")
        .expect("it was answered")
        .expect("it matched")
        .map_or(0, |id: LogId| id.index)
}

#[tokio::test]
async fn an_answer_to_entries_does_not_count_for_a_commit_that_was_sent_behind_them_and_lost() {
    let (peer, answer, mut got) = follower().await;
    let (more, requests) = input([append(5, 6), append(6, 6)]);
    let mut answers = send(&peer, requests).await.unwrap();
    let (said, ()) = tokio::join!(answers.next(), async {
        let sent = [got.recv().await.unwrap(), got.recv().await.unwrap()];
        assert_eq!(sent.map(|append| append.entries.len()), [1, 0]);
        answer.send(up_to(6)).await.unwrap();
    });
    let error = said.expect("it says why it ends").expect_err("the second message has no answer");
    assert!(matches!(error, openraft::errors::RPCError::Timeout(_)), "{error:?}");
    assert!(answers.next().await.is_none());
    assert!(more.is_closed(), "a stream that was given up takes no request any more");
}

#[tokio::test]
async fn the_answer_to_the_last_message_that_ends_at_an_entry_counts_for_all_of_them() {
    let (peer, answer, mut got) = follower().await;
    let (more, requests) = input([append(5, 6), append(6, 6), append(6, 6), append(6, 8)]);
    let mut answers = send(&peer, requests).await.unwrap();
    let (first, ()) = tokio::join!(answers.next(), async {
        while got.recv().await.unwrap().entries.len() < 2 {}
        for index in [6, 6, 6] {
            answer.send(up_to(index)).await.unwrap();
        }
    });
    assert_eq!(matched(first), 6, "the message behind it ends at another entry");
    answer.send(up_to(8)).await.unwrap();
    assert_eq!(matched(answers.next().await), 8, "and nothing was said twice");
    drop((more, answer));
    assert!(answers.next().await.is_none());
}

#[tokio::test]
async fn no_request_is_taken_while_openraft_looks_at_an_answer() {
    let (peer, answer, mut got) = follower().await;
    let (more, requests) = input([append(5, 6)]);
    let mut answers = send(&peer, requests).await.unwrap();
    answer.send(up_to(6)).await.unwrap();
    assert_eq!(matched(answers.next().await), 6);
    got.recv().await.unwrap();
    // Had it been taken now, openraft would believe that it was answered as well.
    more.send(append(6, 6)).await.unwrap();
    for _ in 0..1_000 {
        tokio::task::yield_now().await;
    }
    assert_eq!((more.capacity(), got.try_recv().is_err()), (63, true), "it waits");
    answer.send(up_to(6)).await.unwrap();
    let (said, sent) = tokio::join!(answers.next(), got.recv());
    assert_eq!((matched(said), sent.unwrap().entries.len()), (6, 0));
}

#[tokio::test]
async fn a_refusal_is_told_at_once_and_is_the_last_word() {
    let (peer, answer, _got) = follower().await;
    let (more, requests) = input([append(5, 6), append(6, 6)]);
    let mut answers = send(&peer, requests).await.unwrap();
    answer.send(WireMatched::Conflict(id(5))).await.unwrap();
    let refused = answers.next().await.unwrap().unwrap().expect_err("a conflict");
    assert!(matches!(refused, openraft::raft::StreamAppendError::Conflict(at) if at.index == 5), "{refused:?}");
    assert!(answers.next().await.is_none());
    assert!(more.is_closed());
}

#[tokio::test]
async fn where_nothing_is_to_be_sent_nobody_is_called() {
    let port = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let (more, requests) = input([]);
    drop(more);
    let peer = peer(port).await;
    let answers = send(&peer, requests).await.expect("nobody listens there").collect::<Vec<_>>().await;
    assert!(answers.is_empty());
}

#[tokio::test]
async fn the_news_of_a_commit_waits_a_moment_for_an_entry_and_an_entry_for_nothing() {
    const HOUR: Duration = Duration::from_secs(3_600);
    let (log, written) = watch::channel(6);
    let mut pace = Pace::new(written.into());
    pace.until += HOUR;
    pace.wait().await;
    let sent = Instant::now();
    pace.sent(Some(id(6)));
    pace.wait().await;
    assert!(sent.elapsed() >= COMMIT_WAITS, "everything was sent");
    pace.until += HOUR;
    log.send_replace(7);
    pace.wait().await;
    pace.sent(Some(id(7)));
    pace.until += HOUR;
    tokio::join!(pace.wait(), async {
        tokio::task::yield_now().await;
        log.send_replace(8);
    });
    pace.sent(Some(id(8)));
    pace.until += HOUR;
    drop(log);
    pace.wait().await;
}
