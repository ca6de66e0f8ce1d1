//! A node among nodes of the version before, as in the course of a rolling upgrade: `tests/layouts/4` has the log of one.

use std::time::{Duration, Instant};

use cell_model::ClusterId;
use cell_model::layout::{EARLIEST, LAYOUT};

use super::*;
use crate::codec::seal_as;
use crate::disk::Disk;
use crate::engine::{MemoryLog, MemoryState};
use crate::network::tcp_dialer;
use crate::options::StoreOptions;
use crate::store::Store;
use crate::wire::WireEntry;

/// What a node of that version has left behind.
struct Left {
    /// Entries as they were written.
    rows: Vec<Vec<u8>>,
    revision: u64,
    audit: String,
}

fn left() -> Left {
    let unhex = |text: &str| -> Vec<u8> {
        let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
        text.as_bytes().chunks(2).map(byte).collect()
    };
    let mut left = Left { rows: Vec::new(), revision: 0, audit: String::new() };
    for line in include_str!("../../tests/layouts/4").lines() {
        let words: Vec<&str> = line.split(' ').collect();
        match words[..] {
            ["end", revision, audit] => (left.revision, left.audit) = (revision.parse().unwrap(), audit.into()),
            ["log", _, row] => left.rows.push(unhex(row)),
            _ => {}
        }
    }
    left
}

fn body(sealed: &[u8]) -> &[u8] {
    &sealed[5..]
}

/// What that version would have sealed: parts one behind the other, each as it wrote it.
fn sealed_then(parts: &[&[u8]]) -> Vec<u8> {
    let body = parts.concat();
    let mut sealed = vec![EARLIEST];
    sealed.extend(crc32c::crc32c(&body).to_le_bytes());
    sealed.extend(body);
    sealed
}

const CLUSTER: ClusterId = ClusterId(0xce11);

async fn open() -> (Store, RaftEndpoint) {
    let options = StoreOptions::new("in memory", "127.0.0.1:1");
    let disk = Disk::of(Arc::new(MemoryLog::default()), Arc::new(MemoryState::default()));
    let store = Store::open_on(options, disk, tcp_dialer()).await.unwrap();
    store.claim(CLUSTER).await.unwrap();
    let endpoint = RaftEndpoint::new(Arc::downgrade(&store.inner.node));
    (store, endpoint)
}

fn message(payload: Vec<u8>) -> Request<RaftMessage> {
    Request::new(RaftMessage { cluster_id: CLUSTER.0, payload: payload.into(), ..RaftMessage::default() })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_follows_a_leader_of_the_version_before_and_answers_in_its_layout() {
    let left = left();
    let (store, endpoint) = open().await;
    assert_eq!(store.age(), None, "it has heard from nobody");
    let last: WireEntry = codec::open(left.rows.last().unwrap(), || "the last entry".into()).unwrap();
    let first: WireEntry = codec::open(&left.rows[0], || "the first entry".into()).unwrap();
    assert_eq!(first.id.index, 0, "it is the whole log");
    let leader = WireVote { term: last.id.term, node: last.id.node, committed: true };
    let parts = [
        seal_as(EARLIEST, &leader),
        seal_as(EARLIEST, &None::<WireLogId>),
        seal_as(EARLIEST, &left.rows.len()),
        seal_as(EARLIEST, &Some(last.id)),
    ];
    let [vote, previous, count, commit] = parts.each_ref().map(|part| body(part));
    let entries: Vec<u8> = left.rows.iter().flat_map(|row| body(row)).copied().collect();
    let append = sealed_then(&[vote, previous, count, &entries, commit]);
    let answer = endpoint.append(message(append)).await.unwrap().into_inner();
    assert_eq!(answer.payload[0], EARLIEST, "the leader reads no other");
    let appended: WireAppended = codec::open(&answer.payload, || "the answer".into()).unwrap();
    assert_eq!(appended, WireAppended::Success);
    let begun = Instant::now();
    let told = || {
        store.view(|fleet| {
            let tip = fleet.audit().last().map(|last| last.hash.to_string()).unwrap_or_default();
            (fleet.head().revision.get(), tip)
        })
    };
    while told() != (left.revision, left.audit.clone()) {
        assert!(begun.elapsed() < Duration::from_secs(20), "it came to {:?}", told());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(store.age().is_some_and(|age| age < Duration::from_secs(20)));

    // It is asked for its vote, and hears of the next commit.
    let candidate = WireVote { term: last.id.term + 1, node: 7, committed: false };
    let asked = WireVoteRequest { pre: true, vote: candidate, last: Some(last.id), transfer: false };
    let answer = endpoint.vote(message(seal_as(EARLIEST, &asked))).await.unwrap().into_inner();
    assert_eq!(answer.payload[0], EARLIEST);
    let heartbeat =
        WireAppend { vote: leader, previous: Some(last.id), entries: Vec::new(), commit: Some(last.id) };
    let answer = endpoint.append(message(seal_as(EARLIEST, &heartbeat))).await.unwrap().into_inner();
    assert_eq!(answer.payload[0], EARLIEST);
    let answer = endpoint.append(message(codec::seal(&heartbeat))).await.unwrap().into_inner();
    assert_eq!(answer.payload[0], LAYOUT, "one of today's is answered as today");
    store.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_of_a_later_version_is_refused_by_its_layout() {
    let (store, endpoint) = open().await;
    let vote = WireVote { term: 1, node: 7, committed: true };
    let append = WireAppend { vote, previous: None, entries: Vec::new(), commit: None };
    for layout in [EARLIEST - 1, LAYOUT + 1] {
        let refused = endpoint.append(message(seal_as(layout, &append))).await.unwrap_err();
        assert_eq!(refused.code(), tonic::Code::InvalidArgument);
        let told = format!("it has layout {layout}, and this program reads {EARLIEST} to {LAYOUT}");
        assert!(refused.message().contains(&told), "{refused}");
    }
    store.stop().await;
}
