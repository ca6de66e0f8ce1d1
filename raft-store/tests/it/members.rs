//! Members come and go while commands run; what would lose the quorum is refused.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use cell_model::Revision;
use cell_store::{
    Bounds, Member, MemberChange, MemberProgress, MembershipError, OpenError, Store, StoreOptions, Timers,
};
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::service::interceptor::InterceptedService;

use crate::fixture::{CLUSTER, Cluster, Node, create_cell, envelope, eventually};

/// Starts a node, has it claimed and added. Answers its node id.
async fn join(cluster: &mut Cluster, bounds: Bounds) -> u64 {
    let node = Node::start(bounds, cell_store::Timers::default()).await;
    let node_id = node.store().claim(CLUSTER).await.unwrap();
    let add = MemberChange::Add { node_id, address: node.address.to_string() };
    cluster.nodes.push(node);
    change(cluster, &add).await.unwrap();
    node_id
}

async fn change(cluster: &Cluster, change: &MemberChange) -> Result<(), MembershipError> {
    let leader = cluster.leader().await;
    cluster.nodes[leader].store().change_members(change).await
}

/// Asks until it is allowed.
async fn change_soon(cluster: &Cluster, wanted: &MemberChange) {
    eventually("the change is allowed", async || match change(cluster, wanted).await {
        Ok(()) => Some(()),
        Err(
            MembershipError::Behind { .. }
            | MembershipError::Silent { .. }
            | MembershipError::Changing
            | MembershipError::QuorumAtRisk { .. }
            | MembershipError::NotLeader { .. },
        ) => None,
        Err(error) => panic!("{error}"),
    })
    .await;
}

async fn members(cluster: &Cluster) -> Vec<MemberProgress> {
    cluster.nodes[cluster.leader().await].store().members()
}

/// Waits until the leader has not heard of a member for longer than an election takes.
async fn is_silent(cluster: &Cluster, node_id: u64) {
    eventually("the leader misses it", async || {
        let all = members(cluster).await;
        let member = all.into_iter().find(|member| member.node_id == node_id)?;
        member.heard.is_none_or(|ago| ago > Duration::from_millis(800)).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_node_learns_votes_and_takes_the_place_of_a_dead_one() {
    let bounds = Bounds { snapshot_after: 40, log_kept: 10, ..Bounds::default() };
    let mut cluster = Cluster::start(3, bounds).await;
    for number in 1..=100 {
        cluster.submit(number, create_cell(number)).await;
    }
    let learner = join(&mut cluster, bounds).await;
    change_soon(&cluster, &MemberChange::Promote { node_id: learner }).await;
    assert_eq!(members(&cluster).await.iter().filter(|member| member.voter).count(), 4);

    let dead = (cluster.leader().await + 1) % 3;
    let dead_id = cluster.nodes[dead].store().node_id();
    cluster.nodes[dead].crash().await;
    let second = join(&mut cluster, bounds).await;
    is_silent(&cluster, dead_id).await;
    let replace = MemberChange::Replace { node_id: dead_id, by: second };
    change_soon(&cluster, &replace).await;
    change(&cluster, &replace).await.expect("asked again, it is done already");
    let now = members(&cluster).await;
    assert!(now.iter().all(|member| member.voter && member.node_id != dead_id) && now.len() == 4, "{now:?}");

    cluster.submit(101, create_cell(101)).await;
    let fleets = cluster.agree_on(Revision(101)).await;
    assert_eq!(fleets.len(), 4);
    assert!(fleets.iter().all(|fleet| *fleet == fleets[0]));
    change_soon(&cluster, &MemberChange::Remove { node_id: learner }).await;
    cluster.submit(102, create_cell(102)).await;
    assert_eq!(members(&cluster).await.len(), 3);

    // Whoever has left is another node when it comes back, whichever node leads by then.
    let add = MemberChange::Add { node_id: learner, address: cluster.nodes[3].address.to_string() };
    let refused = change(&cluster, &add).await.expect_err("its votes of before must not count");
    assert_eq!((refused.code(), refused.hint().contains("empty data directory")), ("MEMBER_REMOVED", true));
    let leader = cluster.leader().await;
    cluster.nodes[leader].store().transfer_leader().await.unwrap();
    assert_eq!(change(&cluster, &add).await.expect_err("it is replicated").code(), "MEMBER_REMOVED");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_that_would_lose_the_quorum_is_refused_and_names_who_is_silent() {
    let mut cluster = Cluster::start(3, Bounds::default()).await;
    let leader = cluster.leader().await;
    let (dead, other) = ((leader + 1) % 3, (leader + 2) % 3);
    let id_of = |cluster: &Cluster, index: usize| cluster.nodes[index].store().node_id();
    let (dead_id, other_id, leader_id) = (id_of(&cluster, dead), id_of(&cluster, other), id_of(&cluster, leader));
    let dead_address = cluster.nodes[dead].address.to_string();
    cluster.nodes[dead].crash().await;
    is_silent(&cluster, dead_id).await;
    let refused = change(&cluster, &MemberChange::Remove { node_id: other_id }).await.expect_err("one of two");
    assert_eq!(refused.code(), "QUORUM_AT_RISK");
    assert!(refused.to_string().contains(&dead_address), "{refused}");
    let refused = change(&cluster, &MemberChange::Remove { node_id: leader_id }).await.expect_err("it leads");
    assert!(refused.hint().contains("store members lead"), "{refused:?}");
    let follower = cluster.nodes[other].store();
    let refused = follower.change_members(&MemberChange::Promote { node_id: 1 }).await.expect_err("a follower");
    assert!(matches!(refused, MembershipError::NotLeader { leader: Some(_) }), "{refused:?}");
    cluster.submit(1, create_cell(1)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_leader_moves_to_the_node_that_is_named_and_a_rolling_restart_fails_no_command() {
    let mut cluster = Cluster::start(3, Bounds::default()).await;
    let mut request = 0;
    for node in 0..3 {
        let leader = cluster.leader().await;
        let wanted = (leader + 1) % 3;
        let (wanted_id, begin) = (cluster.nodes[wanted].store().node_id(), Instant::now());
        cluster.nodes[leader].store().transfer_leader_to(wanted_id).await.unwrap();
        assert!(begin.elapsed() < Duration::from_millis(400), "no election time-out is waited for");
        assert_eq!(cluster.leader().await, wanted);
        for _ in 0..5 {
            request += 1;
            assert!(cluster.submit(request, create_cell(request)).await.result.is_ok());
        }
        cluster.nodes[node].stop().await;
        for _ in 0..5 {
            request += 1;
            assert!(cluster.submit(request, create_cell(request)).await.result.is_ok());
        }
        cluster.nodes[node].restart().await;
    }
    let fleets = cluster.agree_on(Revision(30)).await;
    assert!(fleets.iter().all(|fleet| *fleet == fleets[0]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_is_not_started_where_the_members_do_not_look_for_it() {
    let mut cluster = Cluster::start(3, Bounds::default()).await;
    let made = cluster.submit(1, create_cell(1)).await;
    cluster.agree_on(made.revision).await;
    cluster.nodes[2].stop().await;
    let options = cluster.nodes[2].options();
    let moved = StoreOptions { advertise: "127.0.0.1:1".into(), ..options.clone() };
    let opened = eventually("the directory is free", async || match Store::open(moved.clone()).await {
        Err(OpenError::Locked { .. }) => None,
        opened => Some(opened),
    });
    let refused = opened.await.expect_err("the others call it elsewhere");
    assert_eq!(refused.code(), "MEMBER_ELSEWHERE");
    assert!(refused.hint().contains(&options.advertise), "{}", refused.hint());
    cluster.nodes[2].restart().await;
    let made = cluster.submit(2, create_cell(2)).await;
    cluster.agree_on(made.revision).await;
}

/// What an operator does who has lost a data directory and starts the node again as it was: it is claimed before the leader
/// refuses to add it, and from then on belongs to the cluster.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_empty_node_at_the_address_of_a_lost_member_does_not_count_for_it() {
    let timers = Timers { submit: Duration::from_secs(1), ..Timers::default() };
    let mut cluster = Cluster::start_with(3, Bounds::default(), timers).await;
    let made = cluster.submit(1, create_cell(1)).await;
    cluster.agree_on(made.revision).await;
    let leader = cluster.leader().await;
    let (lost, other) = ((leader + 1) % 3, (leader + 2) % 3);
    cluster.nodes[lost].crash().await;
    let data_dir = cluster.nodes[lost].options().data_dir;
    eventually("the directory is free", async || std::fs::remove_dir_all(&data_dir).ok()).await;
    cluster.nodes[lost].restart().await;
    let node_id = cluster.nodes[lost].store().claim(CLUSTER).await.unwrap();
    let add = MemberChange::Add { node_id, address: cluster.nodes[lost].address.to_string() };
    let refused = change(&cluster, &add).await;
    assert!(matches!(refused, Err(MembershipError::AddressTaken { .. })), "{refused:?}");
    cluster.nodes[other].crash().await;
    let submitted = cluster.nodes[leader].store().submit(envelope(create_cell(2))).await;
    assert!(submitted.is_err(), "one of three has it, and it was acknowledged: {submitted:?}");
    cluster.nodes[other].restart().await;
    assert!(cluster.submit(3, create_cell(3)).await.result.is_ok());
}

/// Two members are one node: the other one's address leads there, too.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_is_found_at_the_address_of_another_member_does_not_count_for_both() {
    let quick = Duration::from_millis(50);
    let timers = Timers {
        heartbeat: quick / 4,
        election_min: quick,
        election_max: quick * 2,
        read_lease: quick,
        ..Timers::default()
    };
    let node = Node::start(Bounds::default(), timers).await;
    let store = node.store().clone();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let alias = listener.local_addr().unwrap();
    let asked = Arc::new(AtomicU64::new(0));
    let counting = Arc::clone(&asked);
    let counted = InterceptedService::new(store.raft_service(), move |request| {
        counting.fetch_add(1, Ordering::Relaxed);
        Ok(request)
    });
    let server = tonic::transport::Server::builder().add_service(counted);
    let serving = tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));

    let node_id = store.claim(CLUSTER).await.unwrap();
    let itself = Member { node_id, address: node.address.to_string(), voter: true };
    let other = Member { node_id: node_id ^ 1, address: alias.to_string(), voter: true };
    store.initialize(CLUSTER, vec![itself, other]).await.unwrap();
    eventually("it stands for election, again and again", async || {
        (asked.load(Ordering::Relaxed) >= 6).then_some(())
    })
    .await;
    assert!(store.read_index().await.is_err(), "it has elected itself with two votes");
    let leadership = store.leadership().borrow().clone();
    assert!(!leadership.is_leader && leadership.leader.is_none(), "{leadership:?}");
    serving.abort();
}
