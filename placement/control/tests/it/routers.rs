//! Routers as the leader knows them, and the barrier that names each as seen or fenced.

use std::time::{Duration, Instant};

use cell_client::{ControlClient, RouterReport, WriteOptions};
use cell_control::Routers;
use cell_model::{Lineage, Revision};

use crate::nodes::{Nodes, create_cell, eventually, new_tenant, tenant_id};

fn report(name: &str, lineage: Lineage, revision: Revision) -> RouterReport {
    RouterReport {
        name: name.into(),
        instance: 1,
        lineage: lineage.get(),
        revision: revision.get(),
        staleness_ms: Some(12),
        version: "0.1.0".into(),
        holds_back: true,
        ..RouterReport::default()
    }
}

/// Pings as a router does whose table stays at a revision.
async fn ping(client: &ControlClient, name: &str, lineage: Lineage, revision: Revision) {
    let confirmed = client.confirm_revision(1, Some(report(name, lineage, revision))).await.unwrap();
    assert_eq!(confirmed.lease, Some(Routers::LEASE));
}

#[tokio::test(flavor = "multi_thread")]
async fn who_lags_is_listed_and_which_epoch_each_holds_of_a_tenant() {
    let (nodes, _) = Nodes::cluster(3).await;
    let client = nodes.client();
    create_cell(&client, "c1").await;
    let old = client.confirm_revision(1, None).await.unwrap();
    assert_eq!(old.lease, None, "who does not say who he is gets no lease");
    client.create_tenant(new_tenant("t-1", "c1"), WriteOptions::default()).await.unwrap();
    let new = client.confirm_revision(2, None).await.unwrap();
    ping(&client, "ahead", new.lineage, new.revision).await;
    ping(&client, "behind", old.lineage, old.revision).await;

    let known = client.list_routers(Some(&tenant_id("t-1"))).await.unwrap();
    let seen: Vec<(&str, u64, u64)> =
        known.routers.iter().map(|router| (router.name.as_str(), router.revision, router.epoch)).collect();
    assert_eq!(seen, [("ahead", new.revision.get(), 1), ("behind", old.revision.get(), 0)]);
    assert_eq!((known.revision, known.tenant_epoch), (new.revision.get(), 1));
    assert_eq!(known.routers[0].staleness_ms, Some(12));
    assert!(known.routers.iter().all(|router| router.lease_ms > 0 && router.silent_ms < 1_000), "{known:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_barrier_waits_for_a_router_that_is_behind_and_then_names_all() {
    let (nodes, _) = Nodes::cluster(3).await;
    let client = nodes.client();
    let old = client.confirm_revision(1, None).await.unwrap();
    create_cell(&client, "c1").await;
    let new = client.confirm_revision(2, None).await.unwrap();
    ping(&client, "r1", new.lineage, new.revision).await;
    ping(&client, "r2", old.lineage, old.revision).await;
    // As long as it goes on pinging, and does not move, it is waited for.
    let waiting = client.await_seen(new.revision, Duration::from_millis(100)).await.unwrap();
    let states: Vec<i32> = waiting.routers.iter().map(|router| router.state).collect();
    assert_eq!((waiting.complete, states), (false, vec![1, 3]));
    let (barrier, _) = tokio::join!(client.await_seen(new.revision, Duration::from_secs(10)), async {
        tokio::time::sleep(Duration::from_millis(50)).await;
        ping(&client, "r2", new.lineage, new.revision).await;
    });
    let barrier = barrier.unwrap();
    assert!(barrier.complete && barrier.routers.iter().any(|router| router.state == 1), "{barrier:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_router_is_fenced_when_its_lease_has_run_out() {
    let (nodes, _) = Nodes::cluster(1).await;
    let client = nodes.client();
    let old = client.confirm_revision(1, None).await.unwrap();
    create_cell(&client, "c1").await;
    let new = client.confirm_revision(2, None).await.unwrap();
    let paused_at = Instant::now();
    ping(&client, "paused", old.lineage, old.revision).await;
    let barrier = client.await_seen(new.revision, Duration::from_secs(10)).await.unwrap();
    assert!(barrier.complete && barrier.routers[0].state == 2, "{barrier:?}");
    assert!(paused_at.elapsed() >= Routers::LEASE);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_leader_waits_out_the_leases_of_the_one_before_and_hears_of_routers_again() {
    let (mut nodes, _) = Nodes::cluster(3).await;
    let client = nodes.client();
    let old = client.confirm_revision(1, None).await.unwrap();
    create_cell(&client, "c1").await;
    let new = client.confirm_revision(2, None).await.unwrap();
    let granted_at = Instant::now();
    ping(&client, "r1", old.lineage, old.revision).await;
    let leader = nodes.leader().await;
    nodes.nodes[leader].stop().await;
    let barrier = client.await_seen(new.revision, Duration::from_secs(10)).await.unwrap();
    assert!(barrier.complete && granted_at.elapsed() >= Routers::LEASE, "{:?}", granted_at.elapsed());
    ping(&client, "r1", new.lineage, new.revision).await;
    eventually("the new leader knows it", || async {
        let known = client.list_routers(None).await.unwrap();
        known.routers.iter().any(|router| router.name == "r1").then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revision_that_is_not_reached_is_not_waited_for() {
    let (nodes, _) = Nodes::cluster(1).await;
    let refused = nodes.client().await_seen(Revision(1_000_000), Duration::from_secs(1)).await.unwrap_err();
    assert_eq!(refused.code(), "REVISION_UNKNOWN");
    let refused = nodes.client().await_seen(Revision(0), Duration::from_secs(3_600)).await.unwrap_err();
    assert_eq!(refused.code(), "INVALID_ARGUMENT");
}
