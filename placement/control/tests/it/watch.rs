//! The watch, across reconnections and restarts.

use std::collections::BTreeMap;
use std::time::Duration;

use cell_client::{ControlClient, WatchEvent, WatchFilter, WatchItem, WatchOptions, WriteOptions};
use cell_model::{CellState, Lineage, Mapping, Revision, TenantId};
use cell_trust::{SigningKey, TrustedKeys};
use futures::{Stream, StreamExt};

use crate::nodes::{Nodes, PATIENCE, cell_id, create_cell, new_tenant};

fn options(nodes: &Nodes) -> WatchOptions {
    WatchOptions {
        client: "test".into(),
        progress: Duration::from_millis(100),
        trusted: Some(nodes.trusted()),
        ..WatchOptions::default()
    }
}

/// What a router would hold, and every revision in the order in which it came.
#[derive(Default)]
struct Table {
    mappings: BTreeMap<TenantId, Mapping>,
    cells: usize,
    revisions: Vec<Revision>,
    resets: usize,
    position: Option<(Lineage, Revision)>,
}

impl Table {
    fn take(&mut self, event: WatchEvent) {
        match event {
            WatchEvent::Reset => {
                self.resets += 1;
                self.mappings.clear();
            }
            WatchEvent::Snapshot(items) => self.install(items),
            WatchEvent::SnapshotEnd { revision, lineage } => self.position = Some((lineage, revision)),
            WatchEvent::Changes { revision, items } => {
                let (lineage, before) = self.position.expect("changes come after a snapshot");
                assert!(revision > before, "{revision} after {before}");
                self.position = Some((lineage, revision));
                for item in &items {
                    if let WatchItem::Mapping(routed) = item {
                        self.revisions.push(routed.mapping.revision);
                    }
                }
                self.install(items);
            }
            WatchEvent::Progress { revision } => {
                let (lineage, before) = self.position.expect("progress comes after a snapshot");
                assert!(revision >= before);
                self.position = Some((lineage, revision));
            }
            WatchEvent::Disconnected { .. } => {}
        }
    }

    fn install(&mut self, items: Vec<WatchItem>) {
        for item in items {
            match item {
                WatchItem::Mapping(routed) => {
                    self.mappings.insert(routed.mapping.tenant.clone(), routed.mapping);
                }
                WatchItem::Cell(_) => self.cells += 1,
                WatchItem::Limits(_) => {}
                WatchItem::MoveEnded(ended) => panic!("not asked for: {ended:?}"),
            }
        }
    }

    /// Takes what comes until `revision` is reached.
    async fn follow(&mut self, events: &mut (impl Stream<Item = WatchEvent> + Unpin), revision: Revision) {
        let reached = async {
            while self.position.is_none_or(|(_, at)| at < revision) {
                self.take(events.next().await.expect("a watch never ends"));
            }
        };
        tokio::time::timeout(PATIENCE, reached).await.expect("the revision is reached");
    }
}

async fn create_tenants(client: &ControlClient, numbers: std::ops::Range<usize>) -> Revision {
    let mut last = Revision(0);
    for number in numbers {
        let tenant = new_tenant(&format!("t-{number}"), "c1");
        let made = client.create_tenant(tenant, WriteOptions::default()).await.unwrap();
        last = Revision(made.mapping.unwrap().revision);
    }
    last
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_is_a_snapshot_and_then_every_change() {
    let (nodes, _) = Nodes::cluster(3).await;
    let client = nodes.client();
    create_cell(&client, "c1").await;
    let before = create_tenants(&client, 0..5).await;
    let mut events = client.watch(options(&nodes));
    let mut table = Table::default();
    table.follow(&mut events, before).await;
    assert_eq!((table.mappings.len(), table.resets, table.cells), (5, 1, 1));
    let after = create_tenants(&client, 5..9).await;
    table.follow(&mut events, after).await;
    assert_eq!(table.mappings.len(), 9);
    assert_eq!(table.revisions.len(), 4);
    assert!(table.revisions.is_sorted());
}

#[tokio::test(flavor = "multi_thread")]
async fn across_a_stopped_leader_every_change_comes_once_and_in_order() {
    let (mut nodes, _) = Nodes::cluster(3).await;
    let client = nodes.client();
    let cell = create_cell(&client, "c1").await;
    // The leader is also the node that is watched.
    let mut events = client.watch(options(&nodes));
    let mut table = Table::default();
    table.follow(&mut events, cell.revision).await;
    for round in 0..3 {
        create_tenants(&client, round * 10..round * 10 + 5).await;
        let leader = nodes.leader().await;
        nodes.nodes[leader].stop().await;
        let last = create_tenants(&client, round * 10 + 5..round * 10 + 10).await;
        table.follow(&mut events, last).await;
        nodes.nodes[leader].start().await;
        assert_eq!(table.mappings.len(), (round + 1) * 10);
    }
    // A node that was restarted remembers what it has applied since, and the watch has seen all that came before.
    assert_eq!(table.resets, 1);
    assert_eq!(table.revisions.len(), 30);
    assert!(table.revisions.is_sorted_by(|a, b| a < b), "{:?}", table.revisions);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_that_is_begun_again_goes_on_where_it_was_left() {
    let (nodes, _) = Nodes::cluster(1).await;
    let client = nodes.client();
    let cell = create_cell(&client, "c1").await;
    let mut table = Table::default();
    table.follow(&mut client.watch(options(&nodes)), cell.revision).await;
    for number in 0..40 {
        let last = create_tenants(&client, number..number + 1).await;
        // Left after a few changes each time, and begun anew with what is known.
        let mut events = client.watch(WatchOptions { resume: table.position, ..options(&nodes) });
        table.follow(&mut events, last).await;
    }
    assert_eq!((table.resets, table.mappings.len()), (1, 40));
    assert_eq!(table.revisions.len(), 40);
    assert!(table.revisions.is_sorted_by(|a, b| a < b));
}

#[tokio::test(flavor = "multi_thread")]
async fn watchers_that_come_at_any_moment_get_every_change_behind_them_once_and_in_order() {
    let (nodes, _) = Nodes::cluster(1).await;
    let client = nodes.client();
    let cell = create_cell(&client, "c1").await;
    let mut table = Table::default();
    table.follow(&mut client.watch(options(&nodes)), cell.revision).await;
    let (lineage, mut last) = table.position.unwrap();
    let mut made = Vec::new();
    let mut watching = tokio::task::JoinSet::new();
    for number in 0..40 {
        // Each begins behind an earlier change than the newest, and so within what was sent to the others as one.
        let behind = made.len().checked_sub(1 + number % 7).map_or(cell.revision, |place| made[place]);
        let mut events = client.watch(WatchOptions { resume: Some((lineage, behind)), ..options(&nodes) });
        watching.spawn(async move {
            let mut table = Table { position: Some((lineage, behind)), ..Table::default() };
            table.follow(&mut events, Revision(cell.revision.get() + 40)).await;
            (behind, table)
        });
        last = create_tenants(&client, number..number + 1).await;
        made.push(last);
    }
    assert_eq!(last, Revision(cell.revision.get() + 40), "every tenant is one revision");
    while let Some(watched) = watching.join_next().await {
        let (behind, table) = watched.unwrap();
        let wanted: Vec<Revision> = made.iter().copied().filter(|revision| *revision > behind).collect();
        assert_eq!((table.revisions, table.resets), (wanted, 0), "behind {behind}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn another_history_begins_with_a_snapshot() {
    let (nodes, _) = Nodes::cluster(1).await;
    let client = nodes.client();
    create_cell(&client, "c1").await;
    let last = create_tenants(&client, 0..3).await;
    let elsewhere = Some((Lineage(999), Revision(1)));
    let mut events = client.watch(WatchOptions { resume: elsewhere, ..options(&nodes) });
    let mut table = Table::default();
    table.follow(&mut events, last).await;
    assert_eq!((table.resets, table.mappings.len()), (1, 3));
    assert_ne!(table.position.unwrap().0, Lineage(999));
}

#[tokio::test(flavor = "multi_thread")]
async fn progress_is_told_while_nothing_changes() {
    let (nodes, _) = Nodes::cluster(1).await;
    let client = nodes.client();
    let cell = create_cell(&client, "c1").await;
    let mut events = client.watch(options(&nodes));
    let told = async { while events.next().await != Some(WatchEvent::Progress { revision: cell.revision }) {} };
    tokio::time::timeout(PATIENCE, told).await.expect("progress is told");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frame_that_nobody_trusted_has_signed_is_not_handed_out() {
    let (nodes, _) = Nodes::cluster(1).await;
    let client = nodes.client();
    create_cell(&client, "c1").await;
    create_tenants(&client, 0..1).await;
    let somebody = TrustedKeys::new([SigningKey::generate().public()]);
    let mut events = client.watch(WatchOptions { trusted: Some(somebody), ..options(&nodes) });
    let first = tokio::time::timeout(PATIENCE, events.next()).await.unwrap().unwrap();
    let WatchEvent::Disconnected { reason } = first else { panic!("{first:?}") };
    assert!(reason.contains("not trusted here"), "{reason}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_without_a_cluster_hands_out_no_empty_table() {
    let nodes = Nodes::start(1).await;
    let mut events = nodes.client().watch(options(&nodes));
    let first = tokio::time::timeout(PATIENCE, events.next()).await.unwrap().unwrap();
    let WatchEvent::Disconnected { reason } = first else { panic!("{first:?}") };
    assert!(reason.contains("belongs to no cluster yet"), "{reason}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_of_a_cell_is_told_as_the_cell() {
    let (nodes, _) = Nodes::cluster(1).await;
    let client = nodes.client();
    let cell = create_cell(&client, "c1").await;
    let mut events = client.watch(options(&nodes));
    let mut table = Table::default();
    table.follow(&mut events, cell.revision).await;
    client.set_cell_state(&cell_id("c1"), CellState::Cordoned, WriteOptions::default()).await.unwrap();
    loop {
        let event = tokio::time::timeout(PATIENCE, events.next()).await.unwrap().unwrap();
        if let WatchEvent::Changes { items, .. } = event {
            let [WatchItem::Cell(changed)] = items.as_slice() else { panic!("{items:?}") };
            assert_eq!(changed.state, CellState::Cordoned);
            break;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_watches_some_tenants_gets_those_and_learns_how_far_it_is_with_all() {
    let (nodes, _) = Nodes::cluster(1).await;
    let client = nodes.client();
    for cell in ["c1", "c2"] {
        create_cell(&client, cell).await;
    }
    client.create_tenant(new_tenant("acme-eu", "c1"), WriteOptions::default()).await.unwrap();
    let before = create_tenants(&client, 0..3).await;
    let watch = |filter| client.watch(WatchOptions { filter, ..options(&nodes) });
    let filters = [
        WatchFilter { prefix: "acme-".into(), ..WatchFilter::default() },
        WatchFilter { tenant: "acme-eu".parse().ok(), ..WatchFilter::default() },
        WatchFilter { cell: Some(cell_id("c2")), ..WatchFilter::default() },
        WatchFilter { prefix: "acme-".into(), cell: Some(cell_id("c2")), ..WatchFilter::default() },
    ];
    let mut watched = Vec::new();
    for filter in filters {
        let (mut events, mut table) = (watch(filter), Table::default());
        table.follow(&mut events, before).await;
        watched.push((events, table));
    }
    client.create_tenant(new_tenant("acme-us", "c2"), WriteOptions::default()).await.unwrap();
    let last = create_tenants(&client, 3..6).await;
    let mut held = Vec::new();
    for (events, table) in &mut watched {
        // Nothing of the last revision is for any of them.
        table.follow(events, last).await;
        held.push((table.mappings.keys().map(TenantId::as_str).collect::<Vec<_>>(), table.cells));
    }
    let wanted =
        [(vec!["acme-eu", "acme-us"], 2), (vec!["acme-eu"], 2), (vec!["acme-us"], 1), (vec!["acme-us"], 1)];
    assert_eq!(held, wanted);
    for (bad, field) in [
        (WatchFilter { prefix: "Acme".into(), ..WatchFilter::default() }, "filter.prefix"),
        (WatchFilter { prefix: "a".repeat(64), ..WatchFilter::default() }, "filter.prefix"),
    ] {
        let first = tokio::time::timeout(PATIENCE, watch(bad).next()).await.unwrap().unwrap();
        let WatchEvent::Disconnected { reason } = first else { panic!("{first:?}") };
        assert!(reason.contains(field), "{reason}");
    }
}
