//! One node: making a cluster, the claim, the lock, coming back after a crash.

use std::path::Path;

use cell_model::{ClusterId, Command, Fleet, Limits, Rejected, Revision};
use cell_protos::v1::RaftMessage;
use cell_protos::v1::raft_service_client::RaftServiceClient;
use cell_store::{
    Bounds, ClaimError, Disk, InitializeError, Member, OpenError, Store, StoreOptions, SubmitError, tcp_dialer,
};

use crate::fixture::{CLUSTER, Cluster, Node, create_cell, create_tenant, envelope, eventually};

pub(crate) fn copy_directory(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_directory(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_of_the_directory_taken_at_any_moment_holds_everything_acknowledged() {
    let bounds = Bounds { snapshot_after: 30, log_kept: 5, ..Bounds::default() };
    let cluster = Cluster::start(1, bounds).await;
    let node = &cluster.nodes[0];
    for round in 1..=5_u128 {
        for number in 1..=20 {
            let command = create_cell(round * 100 + number);
            assert!(node.store().submit(envelope(command)).await.unwrap().result.is_ok());
        }
        // As a SIGKILL would leave it: what the kernel has, and nothing that only the process has.
        let copy = tempfile::tempdir().unwrap();
        copy_directory(&node.directory.path().join("data"), copy.path());
        let acknowledged = node.store().view(Fleet::clone);
        let options = StoreOptions::new(copy.path(), node.address.to_string());
        let copied = Store::open(options).await.unwrap();
        let found = eventually("it has applied its log", async || {
            let found = copied.view(Fleet::clone);
            (found.head().revision >= acknowledged.head().revision).then_some(found)
        })
        .await;
        assert_eq!(found, acknowledged, "round {round}");
        assert_eq!(copied.node_id(), node.store().node_id());
        assert_eq!(copied.cluster(), Some(CLUSTER));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_state_is_made_again_from_snapshot_and_log() {
    let bounds = Bounds { snapshot_after: 30, log_kept: 5, ..Bounds::default() };
    let mut cluster = Cluster::start(1, bounds).await;
    for number in 1..=80 {
        cluster.submit(number, create_cell(number)).await;
    }
    let expected = cluster.nodes[0].store().view(Fleet::clone);
    let data_dir = cluster.nodes[0].options().data_dir;
    cluster.nodes[0].stop().await;
    eventually("nobody writes any more", async || std::fs::remove_dir_all(data_dir.join("sm")).ok()).await;
    cluster.nodes[0].restart().await;
    cluster.leader().await;
    assert_eq!(cluster.nodes[0].store().view(Fleet::clone), expected);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_command_changes_nothing_and_says_why() {
    let cluster = Cluster::start(1, Bounds::default()).await;
    let reply = cluster.submit(1, create_tenant(1)).await;
    assert!(matches!(reply.result, Err(Rejected::NoEligibleCell { .. })), "{reply:?}");
    assert_eq!(reply.revision, Revision(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_that_is_too_large_is_refused_before_it_is_proposed() {
    let cluster = Cluster::start(1, Bounds::default()).await;
    let mut large = create_cell(1);
    if let Command::CreateCell(cell) = &mut large {
        cell.gates = vec!["x".repeat(1_000); 100];
    }
    let refused = cluster.nodes[0].store().submit(envelope(large)).await.expect_err("too large");
    assert!(matches!(refused, SubmitError::TooLarge { limit: Bounds::COMMAND_BYTES_MAX, .. }), "{refused:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_directory_belongs_to_one_cluster_and_one_process() {
    let mut node = Node::start(Bounds::default(), cell_store::Timers::default()).await;
    let node_id = node.store().claim(CLUSTER).await.unwrap();
    assert_eq!(node.store().claim(CLUSTER).await.unwrap(), node_id);
    let refused = node.store().claim(ClusterId(5)).await.expect_err("another cluster");
    assert!(matches!(refused, ClaimError::OtherCluster { actual: CLUSTER, .. }), "{refused}");
    assert!(matches!(node.store().claim(ClusterId(0)).await, Err(ClaimError::Zero)));

    let second = Store::open(node.options()).await.expect_err("it is open");
    assert_eq!(second.code(), "DATA_DIRECTORY_LOCKED", "{second}");

    node.crash().await;
    node.restart().await;
    assert_eq!((node.store().node_id(), node.store().cluster()), (node_id, Some(CLUSTER)));
    assert!(node.store().claim(ClusterId(5)).await.is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_is_made_once_and_asking_again_is_no_error() {
    let node = Node::start(Bounds::default(), cell_store::Timers::default()).await;
    let store = node.store();
    let member = |node_id: u64, address: &str| Member { node_id, address: address.into(), voter: true };
    let own = member(store.node_id(), &node.address.to_string());
    let refused = store.initialize(CLUSTER, vec![own.clone()]).await.expect_err("not claimed");
    assert!(matches!(refused, InitializeError::NotClaimed { .. }), "{refused}");
    assert!(!store.status().initialized);
    assert!(matches!(store.submit(envelope(create_cell(1))).await, Err(SubmitError::NotLeader { leader: None })));

    store.claim(CLUSTER).await.unwrap();
    for bad in [vec![], vec![member(1, "127.0.0.1:1")], vec![own.clone(), own.clone()]] {
        let refused = store.initialize(CLUSTER, bad).await.expect_err("no cluster");
        assert!(matches!(refused, InitializeError::InvalidMembers { .. }), "{refused}");
    }
    store.initialize(CLUSTER, vec![own.clone()]).await.unwrap();
    store.initialize(CLUSTER, vec![own.clone()]).await.unwrap();
    let refused = store.initialize(CLUSTER, vec![own, member(1, "127.0.0.1:1")]).await.expect_err("it exists");
    assert!(matches!(refused, InitializeError::Exists), "{refused}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_of_another_cluster_or_without_sense_is_refused() {
    let cluster = Cluster::start(1, Bounds::default()).await;
    let address = format!("http://{}", cluster.nodes[0].address);
    let mut client = RaftServiceClient::connect(address).await.unwrap();
    let message = |cluster_id: u64, payload: &'static [u8]| RaftMessage {
        cluster_id,
        payload: payload.into(),
        ..RaftMessage::default()
    };
    let refused = client.append(message(1, b"")).await.expect_err("another cluster");
    assert_eq!(refused.code(), tonic::Code::FailedPrecondition);
    assert!(refused.message().starts_with("WRONG_CLUSTER"), "{refused}");
    let stranger = RaftMessage { node_id: cluster.nodes[0].store().node_id() ^ 1, ..message(CLUSTER.0, b"") };
    let stream = tokio_stream::iter([stranger.clone()]);
    let streamed = client.append_stream(stream).await.unwrap().into_inner().message().await;
    for refused in [
        client.append(stranger.clone()).await.map(drop),
        client.vote(stranger.clone()).await.map(drop),
        client.transfer_leader(stranger.clone()).await.map(drop),
        client.snapshot_progress(stranger.clone()).await.map(drop),
        client.install_snapshot(tokio_stream::iter([stranger.clone()])).await.map(drop),
        streamed.map(drop),
    ] {
        let refused = refused.expect_err("it is to another node");
        assert_eq!(refused.code(), tonic::Code::FailedPrecondition);
        assert!(refused.message().starts_with("WRONG_NODE"), "{refused}");
    }
    for payload in [&b""[..], b"\x01", b"\x01\0\0\0\0", b"\xff\xff\xff\xff\xff\xff\xff"] {
        for refused in [
            client.append(message(CLUSTER.0, payload)).await,
            client.vote(message(CLUSTER.0, payload)).await,
            client.transfer_leader(message(CLUSTER.0, payload)).await,
            client.install_snapshot(tokio_stream::iter([message(CLUSTER.0, payload)])).await,
        ] {
            assert_eq!(refused.expect_err("no sense").code(), tonic::Code::InvalidArgument);
        }
    }
    assert!(cluster.submit(1, create_cell(1)).await.result.is_ok());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_in_memory_goes_on_where_it_was() {
    let disk = Disk::memory();
    let options = StoreOptions::new("in memory", "127.0.0.1:1");
    let open = async || Store::open_on(options.clone(), disk.clone(), tcp_dialer()).await.unwrap();
    let store = open().await;
    let node_id = store.claim(CLUSTER).await.unwrap();
    let member = Member { node_id, address: "127.0.0.1:1".into(), voter: true };
    store.initialize(CLUSTER, vec![member]).await.unwrap();
    let limits = Limits { moves_total: 2, ..Limits::default() };
    let set = async || store.submit(envelope(Command::SetLimits(limits))).await.ok();
    let reply = eventually("it knows that it leads", set).await;
    assert_eq!(reply.revision, Revision(1));
    store.stop().await;
    assert!(matches!(store.submit(envelope(create_cell(1))).await, Err(SubmitError::Stopped)));
    drop(store);
    let store = open().await;
    assert_eq!(store.node_id(), node_id);
    eventually("it leads again", async || store.read_index().await.ok()).await;
    assert_eq!(store.view(|fleet| fleet.head().limits), limits);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn options_that_contradict_each_other_are_named() {
    let directory = tempfile::tempdir().unwrap();
    let mut options = StoreOptions::new(directory.path(), "127.0.0.1:1");
    options.timers.election_min = options.timers.election_max;
    let refused = Store::open(options).await.expect_err("no range");
    assert!(matches!(refused, OpenError::InvalidOption { .. }), "{refused:?}");
    let file = directory.path().join("file");
    std::fs::write(&file, "x").unwrap();
    let refused = Store::open(StoreOptions::new(file, "127.0.0.1:1")).await.expect_err("a file");
    assert_eq!(refused.code(), "DATA_DIRECTORY_UNUSABLE");
    assert!(refused.hint().contains("may be written"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_says_for_how_long_applying_stood_still_and_counts_its_snapshots() {
    let cluster = Cluster::start(1, Bounds::default()).await;
    for number in 1..=20 {
        cluster.submit(number, create_cell(number)).await;
    }
    let store = cluster.nodes[0].store();
    let before = store.status().pace;
    assert!(before.longest > std::time::Duration::ZERO, "an entry takes some time to apply");
    assert_eq!((before.snapshots, before.longest_in_snapshot), (0, std::time::Duration::ZERO));
    store.snapshot().await.unwrap();
    assert_eq!(store.status().pace.snapshots, 1);
}
