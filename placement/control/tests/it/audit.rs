//! The audit trail on three nodes: the same everywhere, and after a restart.

use cell_client::wire::change_members_request::Change;
use cell_client::{AuditPage, ControlClient, WriteOptions, wire};
use cell_model::{AuditEntry, CellState, RequestId, verify_chain};

use crate::nodes::{Nodes, cell_id, create_cell, eventually, new_cell, new_tenant, tenant_id};

async fn whole(client: &ControlClient) -> AuditPage {
    let page = client.list_audit(0, None).await.unwrap();
    verify_chain(&page.entries).unwrap();
    assert_eq!(page.entries.last().map(|entry| (entry.number, entry.hash)), Some((page.end.number, page.end.hash)));
    page
}

/// The first entry is told when there is a leader, which is waited for only so long.
async fn begun(client: &ControlClient) {
    let entries =
        || async { Some(client.list_audit(0, None).await.ok()?.entries).filter(|entries| !entries.is_empty()) };
    eventually("the new cluster is in the trail", entries).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_node_has_the_same_signed_chain_and_keeps_it_over_a_restart() {
    let (mut nodes, cluster) = Nodes::cluster(3).await;
    let client = nodes.client();
    begun(&client).await;
    create_cell(&client, "c1").await;
    let named = WriteOptions { request_id: Some(RequestId(9)), ..WriteOptions::default() };
    client.create_tenant(new_tenant("t-1", "c1"), named).await.unwrap();
    client.create_tenant(new_tenant("t-1", "c1"), named).await.unwrap();
    client.create_tenant(new_tenant("t-1", "c1"), WriteOptions::default()).await.unwrap_err();
    client.set_cell_state(&cell_id("c1"), CellState::Active, WriteOptions::default()).await.unwrap();
    let page = whole(&client).await;
    let told: Vec<(&str, &str)> =
        page.entries.iter().map(|entry| (entry.action.as_str(), entry.outcome.as_str())).collect();
    assert_eq!(
        told,
        [
            ("init-cluster", "done"),
            ("create-cell", "done"),
            ("create-tenant", "done"),
            ("create-tenant", "TENANT_EXISTS"),
            ("set-cell-state", "unchanged"),
        ],
        "a repeated request is in the trail once"
    );
    page.end.verify(&page.key_id, &page.signature, &nodes.trusted()).expect("signed by a node of this cluster");
    assert_eq!(page.end.cluster, cluster);
    for node in 0..3 {
        let one = nodes.client_of(node).allowing_stale_reads();
        eventually("the node has the same trail", || async {
            (one.list_audit(0, None).await.unwrap().end == page.end).then_some(())
        })
        .await;
    }
    for node in 0..3 {
        nodes.nodes[node].stop().await;
    }
    for node in 0..3 {
        nodes.nodes[node].start().await;
    }
    assert_eq!(whole(&nodes.client()).await.entries, page.entries);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_done_to_the_store_is_in_the_trail_whichever_node_does_it() {
    let (nodes, _) = Nodes::cluster(3).await;
    let client = nodes.client();
    begun(&client).await;
    let leader = nodes.leader().await;
    let follower = (leader + 1) % 3;
    let at = nodes.nodes[follower].endpoint();
    client.take_snapshot(&at, false).await.unwrap();
    client.take_snapshot(&at, true).await.unwrap();
    let mut backup = client.backup().await.unwrap();
    while backup.chunk().await.unwrap().is_some() {}
    let promote = Change::Promote(wire::PromoteMember { node_id: 9 });
    assert_eq!(client.change_members(promote).await.unwrap_err().code(), "MEMBER_UNKNOWN");
    let next = nodes.nodes[follower].handle().store().node_id();
    client.move_leader(next).await.unwrap();
    let trail = eventually("what has come of it is told to the new leader", || async {
        let page = whole(&client).await;
        let is_last = |entry: &AuditEntry| entry.action == "move-leader" && entry.outcome == "done";
        page.entries.last().is_some_and(is_last).then_some(page.entries)
    })
    .await;
    let told: Vec<(&str, &str, &str)> =
        trail.iter().map(|entry| (entry.action.as_str(), entry.subject.as_str(), entry.outcome.as_str())).collect();
    let (leading, following) = (format!("node/{}", nodes.nodes[leader].endpoint()), format!("node/{at}"));
    let (leading, following) = (leading.as_str(), following.as_str());
    assert_eq!(
        told,
        [
            ("init-cluster", "store", "done"),
            ("snapshot", following, "done"),
            ("compact", following, "done"),
            ("backup", leading, "done"),
            ("promote-member", "node/0000000000000009", "asked"),
            ("promote-member", "node/0000000000000009", "MEMBER_UNKNOWN"),
            ("move-leader", following, "asked"),
            ("move-leader", following, "done"),
        ]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_trail_is_read_page_by_page_and_by_tenant() {
    let (nodes, _) = Nodes::cluster(1).await;
    let client = nodes.client();
    create_cell(&client, "c1").await;
    client.create_cell(new_cell("c1"), WriteOptions::default()).await.unwrap_err();
    for number in 0..3 {
        client.create_tenant(new_tenant(&format!("t-{number}"), "c1"), WriteOptions::default()).await.unwrap();
    }
    client.delete_tenant(&tenant_id("t-1"), WriteOptions::default()).await.unwrap();
    let of_one = client.list_audit(0, Some(&tenant_id("t-1"))).await.unwrap();
    let told: Vec<&str> = of_one.entries.iter().map(|entry| entry.action.as_str()).collect();
    assert_eq!(told, ["create-tenant", "delete-tenant"]);
    let rest = client.list_audit(4, None).await.unwrap();
    assert_eq!(rest.entries.first().map(|entry| entry.number), Some(5));
    assert_eq!((rest.first, rest.next), (1, None));
    assert_eq!(client.list_audit(1_000, None).await.unwrap().entries, []);
}
