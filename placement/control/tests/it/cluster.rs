//! Making a cluster, and losing its leader.

use std::time::Duration;

use cell_client::cluster::{self, InitializeError};
use cell_client::wire::change_members_request::Change;
use cell_client::{AsOf, ClientError, ListOptions, WriteOptions, wire};
use cell_model::ClusterId;
use tonic_health::pb::health_check_response::ServingStatus;

use crate::nodes::{CONTROL_SERVICE, Nodes, PATIENCE, cell_id, create_cell, eventually, health, new_cell};

/// For so long a leader answers reads by itself.
const LEASE: Duration = Duration::from_millis(300);

#[tokio::test(flavor = "multi_thread")]
async fn made_twice_it_is_the_same_cluster() {
    let (nodes, made) = Nodes::cluster(3).await;
    assert_ne!(made, ClusterId(0));
    assert_eq!(cluster::initialize(&nodes.endpoints()).await, Ok(made));
    for node in &nodes.nodes {
        assert_eq!(node.handle().store().cluster(), Some(made));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn five_runs_at_once_make_one_cluster() {
    let nodes = Nodes::start(3).await;
    let endpoints = nodes.endpoints();
    let runs = (0..5).map(|turn| {
        let mut endpoints = endpoints.clone();
        endpoints.rotate_left(turn % 3);
        tokio::spawn(async move { cluster::initialize(&endpoints).await })
    });
    let mut made = Vec::new();
    for run in runs.collect::<Vec<_>>() {
        made.push(run.await.unwrap().expect("a cluster"));
    }
    made.dedup();
    assert_eq!(made.len(), 1, "{made:?}");
    assert_eq!(nodes.nodes[0].handle().store().cluster(), Some(made[0]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_of_another_cluster_is_refused_by_name() {
    let (nodes, made) = Nodes::cluster(1).await;
    let (other, theirs) = Nodes::cluster(1).await;
    let both = [nodes.endpoints(), other.endpoints()].concat();
    let refused = cluster::initialize(&both).await.unwrap_err();
    assert_eq!(refused.code(), "OTHER_CLUSTER");
    let InitializeError::OtherCluster { found, expected, .. } = refused else { panic!("{refused}") };
    assert!([made, theirs].contains(&found) && [made, theirs].contains(&expected));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_made_cluster_does_not_take_a_node_by_being_made_again() {
    let (nodes, made) = Nodes::cluster(1).await;
    let fresh = Nodes::start(1).await;
    let both = [nodes.endpoints(), fresh.endpoints()].concat();
    let refused = cluster::initialize(&both).await.unwrap_err();
    assert_eq!(refused, InitializeError::OtherMembers { cluster: made, members: nodes.endpoints().join(", ") });
    assert_eq!(fresh.nodes[0].handle().store().cluster(), None, "the fresh node was not claimed");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_node_named_twice_is_refused() {
    let nodes = Nodes::start(1).await;
    let twice = [nodes.endpoints(), nodes.endpoints()].concat();
    assert_eq!(cluster::initialize(&twice).await.unwrap_err().code(), "CLUSTER_ENDPOINTS");
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_that_say_the_same_address_are_refused_before_any_of_them_is_claimed() {
    let mut nodes = Nodes::start(2).await;
    for node in &mut nodes.nodes {
        node.stop().await;
        node.options_mut().advertise = Some("node.example:7401".into());
        node.start().await;
    }
    let refused = cluster::initialize(&nodes.endpoints()).await.unwrap_err();
    assert_eq!(refused.code(), "CLUSTER_ENDPOINTS");
    assert!(refused.to_string().contains("both say that they are reached at node.example:7401"), "{refused}");
    assert!(nodes.nodes.iter().all(|node| node.handle().store().cluster().is_none()));
}

#[tokio::test(flavor = "multi_thread")]
async fn before_there_is_a_cluster_a_client_is_told_so() {
    let nodes = Nodes::start(1).await;
    let options = cell_client::ClientOptions {
        deadline: std::time::Duration::from_millis(300),
        ..cell_client::ClientOptions::default()
    };
    let client = cell_client::ControlClient::new(nodes.endpoints(), options);
    let refused = client.create_cell(new_cell("c1"), WriteOptions::default()).await.unwrap_err();
    let ClientError::Unavailable { reason } = &refused else { panic!("{refused:?}") };
    assert!(reason.contains("belongs to no cluster yet"), "{reason}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_knows_only_a_follower_finds_the_leader() {
    let (nodes, _) = Nodes::cluster(3).await;
    let leader = nodes.leader().await;
    let follower = (leader + 1) % 3;
    let client = nodes.client_of(follower);
    let cell = create_cell(&client, "c1").await;
    assert_eq!(client.get_cell(&cell.id).await.unwrap(), cell);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_goes_on_when_the_leader_stops_and_a_restarted_node_catches_up() {
    let (mut nodes, _) = Nodes::cluster(3).await;
    let client = nodes.client();
    create_cell(&client, "c1").await;
    let leader = nodes.leader().await;
    nodes.nodes[leader].stop().await;
    let second = create_cell(&client, "c2").await;
    assert_eq!(client.get_cell(&cell_id("c1")).await.unwrap().id, cell_id("c1"));

    nodes.nodes[leader].start().await;
    let restarted = nodes.nodes[leader].handle().store().clone();
    let caught_up = || async { (restarted.status().revision >= second.revision).then_some(()) };
    eventually("the restarted node catches up", caught_up).await;
    let stale = nodes.client_of(leader).allowing_stale_reads();
    assert_eq!(stale.get_cell(&cell_id("c2")).await.unwrap(), second);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_majority_reads_are_refused_and_stale_reads_are_answered() {
    let (mut nodes, _) = Nodes::cluster(3).await;
    create_cell(&nodes.client(), "c1").await;
    let all_have_it = || async {
        let there = |node: &crate::nodes::Node| {
            node.handle().store().view(|fleet| cell_model::FleetView::cell(fleet, &cell_id("c1")).is_some())
        };
        nodes.nodes.iter().all(there).then_some(())
    };
    eventually("every node has the cell", all_have_it).await;
    let kept = nodes.leader().await;
    for other in (0..3).filter(|other| *other != kept) {
        nodes.nodes[other].stop().await;
    }
    let options =
        cell_client::ClientOptions { deadline: Duration::from_secs(2), ..cell_client::ClientOptions::default() };
    let client = cell_client::ControlClient::new(vec![nodes.nodes[kept].endpoint()], options);
    // For as long as its lease lasts it may answer: nobody else can have been elected.
    let refused = eventually("its lease runs out", || async { client.get_cell(&cell_id("c1")).await.err() }).await;
    assert_eq!(refused.code(), "UNAVAILABLE", "{refused:?}");
    // What it may still do is told as what it is.
    let stale = client.clone().allowing_stale_reads();
    assert_eq!(stale.get_cell(&cell_id("c1")).await.unwrap().id, cell_id("c1"));
    assert_eq!(stale.limits().await.unwrap(), cell_model::Limits::default());
    let store = nodes.nodes[kept].handle().store();
    let [told]: [AsOf; 1] = stale.stale_answers().try_into().unwrap();
    assert_eq!((told.node, told.revision), (nodes.nodes[kept].endpoint(), store.status().revision));
    assert!(told.age.is_some_and(|ago| ago >= LEASE), "{:?}", told.age);
    // A backup is for the day on which no majority is left; members are not changed without one.
    let mut backup = stale.backup().await.unwrap();
    while backup.chunk().await.unwrap().is_some() {}
    let gone = store.status().members.iter().find(|member| member.node_id != store.node_id()).unwrap().node_id;
    let remove = Change::Remove(wire::RemoveMember { node_id: gone });
    assert_eq!(client.change_members(remove).await.unwrap_err().code(), "UNAVAILABLE");
    // It leads as far as it knows, and says of its list that nobody has confirmed it.
    let members = nodes.client_of(kept);
    eventually("its list says as of when it is", || async {
        members.members().await.unwrap();
        members.stale_answers().pop()
    })
    .await;
    let endpoint = &nodes.nodes[kept].endpoint();
    eventually("it says that it does not serve", || async move {
        health(endpoint, CONTROL_SERVICE).await.filter(|said| *said == ServingStatus::NotServing)
    })
    .await;
    assert_eq!(store.status().members.len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_the_members_are_is_known_without_a_leader_and_told_as_what_it_is() {
    let (mut nodes, _) = Nodes::cluster(3).await;
    create_cell(&nodes.client(), "c1").await;
    let kept = (nodes.leader().await + 1) % 3;
    let heard = nodes.client_of(kept).allowing_stale_reads();
    // As long as there is a leader, another member says who it is, and of nobody how far he is.
    let leading = |members: &[wire::StoreMember]| members.iter().filter(|member| member.leader).count();
    let members = heard.members().await.unwrap();
    assert_eq!((members.len(), leading(&members)), (3, 1), "{members:?}");
    assert!(members.iter().all(|member| member.lag.is_none() && member.heard_ms.is_none()), "{members:?}");
    let [told]: [AsOf; 1] = heard.stale_answers().try_into().unwrap();
    assert_eq!(told.node, nodes.nodes[kept].endpoint());
    let led = nodes.client().members().await.unwrap();
    assert!(led.iter().all(|member| member.voter && member.lag.is_some()), "{led:?}");

    for other in (0..3).filter(|other| *other != kept) {
        nodes.nodes[other].stop().await;
    }
    // Whoever was left last may lead, as far as it knows. Started again it does not, and knows of nobody who does.
    nodes.nodes[kept].stop().await;
    nodes.nodes[kept].start().await;
    let only = nodes.client_of(kept);
    let refused = only.clone().within(Duration::from_millis(500)).members().await.unwrap_err();
    assert_eq!(refused.code(), "UNAVAILABLE", "{refused:?}");
    let stale = only.allowing_stale_reads();
    let members = stale.members().await.unwrap();
    assert_eq!((members.len(), leading(&members)), (3, 0), "{members:?}");
    assert!(members.iter().all(|member| member.lag.is_none()), "{members:?}");
    let [told]: [AsOf; 1] = stale.stale_answers().try_into().unwrap();
    assert_eq!(told.age, None, "it has heard of no leader since it was started");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_follower_says_as_of_when_its_answers_are() {
    let (nodes, _) = Nodes::cluster(3).await;
    let cell = create_cell(&nodes.client(), "c1").await;
    let follower = (nodes.leader().await + 1) % 3;
    let client = nodes.client_of(follower).allowing_stale_reads();
    eventually("it has the cell", || async { client.get_cell(&cell.id).await.ok() }).await;
    let listed = client.list_cells(ListOptions::default()).await.unwrap().items;
    assert_eq!(listed, std::slice::from_ref(&cell));
    client.list_audit(0, None).await.unwrap();
    let [told]: [AsOf; 1] = client.stale_answers().try_into().unwrap();
    assert_eq!(told.node, nodes.nodes[follower].endpoint());
    // The leader is heard all the time.
    assert!(told.revision <= cell.revision && told.age.is_some_and(|ago| ago < PATIENCE), "{told:?}");
    let fresh = nodes.client();
    fresh.get_cell(&cell.id).await.unwrap();
    assert_eq!(fresh.stale_answers(), [], "what is as of now says nothing");
}
