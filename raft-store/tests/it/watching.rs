//! The watch: no gap, no duplicate, across restarts and leaders, for the slow and for the late.

use std::time::Duration;

use cell_model::{Lineage, Revision};
use cell_store::{Bounds, Feed, ResetCause, Store, Subscription};

use crate::fixture::{Cluster, Replica, create_cell, create_tenant, envelope, eventually};

async fn next(subscription: &mut Subscription) -> Feed {
    let next = tokio::time::timeout(Duration::from_secs(10), subscription.next()).await;
    next.expect("something comes").expect("the node runs")
}

async fn follow_to(subscription: &mut Subscription, replica: &mut Replica, revision: Revision) {
    while replica.revision < revision {
        replica.take(next(subscription).await);
    }
}

fn revision_of(store: &Store) -> Revision {
    store.view(|fleet| fleet.head().revision)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watcher_gets_a_snapshot_and_then_every_change_while_writers_write() {
    let cluster = Cluster::start(1, Bounds::default()).await;
    let store = cluster.nodes[0].store().clone();
    assert!(store.submit(envelope(create_cell(0))).await.unwrap().result.is_ok());
    let writer = {
        let store = store.clone();
        tokio::spawn(async move {
            for batch in 0..20 {
                let submits = (0..50).map(|number| store.submit(envelope(create_tenant(batch * 50 + number))));
                for reply in futures::future::join_all(submits).await {
                    assert!(reply.unwrap().result.is_ok());
                }
            }
        })
    };
    let mut watchers = Vec::new();
    for _ in 0..5 {
        let (mut subscription, store) = (store.subscribe(None), store.clone());
        watchers.push(tokio::spawn(async move {
            let mut replica = Replica::default();
            follow_to(&mut subscription, &mut replica, Revision(1_001)).await;
            assert!(store.view(|fleet| replica.equals(fleet)));
            assert_eq!(subscription.position(), Some((Lineage(1), Revision(1_001))));
            replica.resets
        }));
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    writer.await.unwrap();
    for watcher in watchers {
        assert_eq!(watcher.await.unwrap(), 1, "one snapshot is enough");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watcher_resumes_where_it_was_on_another_node_after_the_leader_is_gone() {
    let mut cluster = Cluster::start(3, Bounds::default()).await;
    let leader = cluster.leader().await;
    let mut subscription = cluster.nodes[leader].store().subscribe(None);
    let mut replica = Replica::default();
    for number in 1..=10 {
        cluster.submit(number, create_cell(number)).await;
    }
    follow_to(&mut subscription, &mut replica, Revision(10)).await;
    cluster.nodes[leader].crash().await;
    let closed =
        tokio::time::timeout(Duration::from_secs(10), async { while subscription.next().await.is_ok() {} });
    closed.await.expect("a stopped node ends its watches");
    for number in 11..=20 {
        cluster.submit(number, create_cell(number)).await;
    }
    for other in (0..3).filter(|index| *index != leader) {
        let store = cluster.nodes[other].store();
        let mut resumed = store.subscribe(Some((replica.lineage, Revision(10))));
        let mut copy = Replica {
            lineage: replica.lineage,
            revision: Revision(10),
            fleet: replica.fleet.clone(),
            ..Replica::default()
        };
        follow_to(&mut resumed, &mut copy, Revision(20)).await;
        assert_eq!(copy.resets, 0, "a resume needs no snapshot");
        assert!(store.view(|fleet| copy.equals(fleet)));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watcher_that_is_too_slow_or_comes_from_before_the_restart_begins_anew() {
    let bounds = Bounds { history_revisions: 10, ..Bounds::default() };
    let mut cluster = Cluster::start(1, bounds).await;
    let store = cluster.nodes[0].store().clone();
    let mut slow = store.subscribe(Some((Lineage(1), Revision(0))));
    for number in 1..=50 {
        cluster.submit(number, create_cell(number)).await;
    }
    assert_eq!(next(&mut slow).await, Feed::Reset { cause: ResetCause::Compacted, lineage: Lineage(1) });
    let mut replica = Replica { lineage: Lineage(1), ..Replica::default() };
    let mut anew = store.subscribe(Some((Lineage(1), Revision(39))));
    replica.take(next(&mut anew).await);
    assert_eq!(replica.resets, 1, "revision 40 is forgotten");
    follow_to(&mut anew, &mut replica, Revision(50)).await;
    assert!(store.view(|fleet| replica.equals(fleet)));
    let mut kept = store.subscribe(Some((Lineage(1), Revision(40))));
    assert!(matches!(next(&mut kept).await, Feed::Changes(changes) if changes.len() == 10));

    drop((store, slow, anew, kept));
    cluster.nodes[0].crash().await;
    cluster.nodes[0].restart().await;
    let store = cluster.nodes[0].store();
    eventually("it has applied", async || (revision_of(store) == Revision(50)).then_some(())).await;
    let mut resumed = store.subscribe(Some((Lineage(1), Revision(10))));
    assert!(matches!(next(&mut resumed).await, Feed::Reset { cause: ResetCause::Compacted, .. }));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_history_is_announced_and_a_revision_to_come_is_waited_for() {
    let cluster = Cluster::start(1, Bounds::default()).await;
    let store = cluster.nodes[0].store();
    cluster.submit(1, create_cell(1)).await;
    let mut foreign = store.subscribe(Some((Lineage(9), Revision(1))));
    let reset = next(&mut foreign).await;
    assert_eq!(reset, Feed::Reset { cause: ResetCause::LineageChanged, lineage: Lineage(1) });

    let mut ahead = store.subscribe(Some((Lineage(1), Revision(3))));
    cluster.submit(2, create_cell(2)).await;
    cluster.submit(3, create_cell(3)).await;
    let early = tokio::time::timeout(Duration::from_millis(50), ahead.next()).await;
    assert!(early.is_err(), "it has seen all of this elsewhere: {early:?}");
    cluster.submit(4, create_cell(4)).await;
    let Feed::Changes(changes) = next(&mut ahead).await else { panic!("changes") };
    assert_eq!(changes.iter().map(|committed| committed.revision).collect::<Vec<_>>(), vec![Revision(4)]);
}
