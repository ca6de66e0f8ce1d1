//! A snapshot whose stream breaks goes on where it was; a bad one is refused and forgotten.

use std::net::SocketAddr;

use cell_model::{CellId, CellTraits, ClusterId, Command, Envelope, Fleet, NewCell, UnixMillis};
use cell_protos::v1::raft_service_client::RaftServiceClient;
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::Channel;

use super::*;
use crate::wire::{WireSnapshotHave, WireSnapshotReply};
use crate::{Disk, Member, Store, StoreOptions, tcp_dialer};

const CLUSTER: ClusterId = ClusterId(7);

/// A node in memory, served on a port of its own.
async fn node() -> (Store, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let options = StoreOptions::new("in memory", address.to_string());
    let store = Store::open_on(options, Disk::memory(), tcp_dialer()).await.unwrap();
    store.claim(CLUSTER).await.unwrap();
    let server = tonic::transport::Server::builder().add_service(store.raft_service());
    tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
    (store, address)
}

/// A leader with a snapshot of a few cells.
async fn source() -> (Store, SnapshotData, WireSnapshotName, WireVote) {
    let (store, address) = node().await;
    let member = Member { node_id: store.node_id(), address: address.to_string(), voter: true };
    store.initialize(CLUSTER, vec![member]).await.unwrap();
    while store.read_index().await.is_err() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    for number in 0..20 {
        let cell = NewCell {
            id: CellId::new(format!("c{number}")).unwrap(),
            gates: vec!["127.0.0.1:1".into()],
            agent: "127.0.0.1:2".into(),
            region: String::new(),
            residency: String::new(),
            traits: CellTraits::default(),
        };
        store.submit(Envelope::new(UnixMillis(1), Command::CreateCell(cell))).await.unwrap();
    }
    store.snapshot().await.unwrap();
    let data = store.inner.node.machine.depot().current().unwrap().unwrap();
    let meta = snapshot::read_meta(&mut data.reader()).unwrap();
    let name = name(&data, meta).await.unwrap();
    let vote = WireVote { term: 99, node: store.node_id(), committed: true };
    (store, data, name, vote)
}

fn envelope() -> RaftMessage {
    RaftMessage { cluster_id: CLUSTER.0, ..RaftMessage::default() }
}

fn message(part: &WireSnapshotPart) -> RaftMessage {
    RaftMessage { payload: codec::seal(part).into(), ..envelope() }
}

async fn have(client: &mut RaftServiceClient<Channel>, name: &WireSnapshotName) -> u64 {
    let asked = RaftMessage { payload: codec::seal(name).into(), ..envelope() };
    let answer = client.snapshot_progress(asked).await.unwrap().into_inner();
    codec::open::<WireSnapshotHave>(&answer.payload, || "an answer".into()).unwrap().bytes
}

fn parts(data: &SnapshotData, vote: WireVote, name: &WireSnapshotName, chunk: usize) -> Vec<RaftMessage> {
    let mut bytes = Vec::new();
    data.reader().read_to_end(&mut bytes).unwrap();
    let begin = WireSnapshotPart::Resume { vote, name: name.clone(), from: 0 };
    let chunks = bytes.chunks(chunk).map(|chunk| WireSnapshotPart::Chunk(chunk.to_vec()));
    let end = WireSnapshotPart::End { digest: name.digest };
    [begin].into_iter().chain(chunks).chain([end]).map(|part| message(&part)).collect()
}

#[tokio::test]
async fn a_stream_that_breaks_is_resumed_where_it_was() {
    let (source, data, name, vote) = source().await;
    let (target, address) = node().await;
    let mut client = RaftServiceClient::connect(format!("http://{address}")).await.unwrap();
    assert_eq!(have(&mut client, &name).await, 0);
    let broken = parts(&data, vote, &name, 100).into_iter().take(4);
    let refused = client.install_snapshot(tokio_stream::iter(broken)).await.expect_err("it was cut off");
    assert_eq!(refused.code(), tonic::Code::Unavailable, "{refused}");
    assert_eq!(have(&mut client, &name).await, 300);
    assert_eq!(target.view(|fleet| fleet.records().count()), 0);

    let (stream, fed) = send(data, envelope(), vote, name.clone(), 300);
    let stream = tokio_stream::wrappers::ReceiverStream::new(stream);
    let (fed, answer) = tokio::join!(fed, client.install_snapshot(stream));
    fed.unwrap();
    let answer = answer.unwrap().into_inner();
    codec::open::<WireSnapshotReply>(&answer.payload, || "an answer".into()).unwrap();
    let expected = source.view(Fleet::clone);
    while target.view(|fleet| fleet.head().revision) < expected.head().revision {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(target.view(Fleet::clone), expected);
    assert_eq!(have(&mut client, &name).await, 0, "nothing is left behind");
}

#[tokio::test]
async fn a_snapshot_that_is_not_what_it_says_is_refused_and_forgotten() {
    let (_source, data, name, vote) = source().await;
    let (target, address) = node().await;
    let mut client = RaftServiceClient::connect(format!("http://{address}")).await.unwrap();
    let mut flipped = parts(&data, vote, &name, 100);
    flipped[2] = message(&WireSnapshotPart::Chunk(vec![0; 100]));
    let other = WireSnapshotName { digest: [9; 32], ..name.clone() };
    let mut foreign = parts(&data, vote, &name, 1 << 20);
    foreign[1].cluster_id = 8;
    let begin =
        |name: &WireSnapshotName, from| message(&WireSnapshotPart::Resume { vote, name: name.clone(), from });
    let huge = WireSnapshotName { bytes: SNAPSHOT_BYTES_MAX + 1, ..name.clone() };
    for (bad, says) in [
        (flipped, "did not arrive as it was sent"),
        (parts(&data, vote, &other, 1 << 20), "did not arrive as it was sent"),
        (foreign, "WRONG_CLUSTER"),
        (vec![begin(&name, 1_000_000)], "not here any more"),
        (vec![begin(&huge, 0)], "too many for a snapshot"),
        (vec![begin(&name, 0), begin(&name, 0)], "a second beginning"),
        (vec![message(&WireSnapshotPart::End { digest: [0; 32] })], "begins with its name"),
    ] {
        let refused = client.install_snapshot(tokio_stream::iter(bad)).await.expect_err("it is bad");
        assert!(refused.message().contains(says), "{refused} does not say {says}");
    }
    assert_eq!(target.view(|fleet| fleet.records().count()), 0);
    assert_eq!(target.status().snapshot_index, 0);
}
