//! The control plane is gone, has always been gone, or is another one.

use std::time::Duration;

use cell_model::{Hold, MappingState};
use http::StatusCode;

use crate::client::{get, post};
use crate::control::FakeControl;
use crate::fleet::{Fleet, until};
use crate::gate::FakeGate;

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_tenant_is_404_while_the_table_is_fresh_and_503_when_it_is_not() {
    let control = FakeControl::new(1);
    let fleet = Fleet::start(control, |options| options.timeouts.fresh = Duration::from_millis(200)).await;
    let fresh = get(fleet.address(), "nobody", "/").await;
    assert_eq!((fresh.status, fresh.code().as_str()), (StatusCode::NOT_FOUND, "TENANT_UNKNOWN"));
    fleet.control.cut_off();
    until("the table is stale", || fleet.router.staleness().unwrap() > Duration::from_millis(250)).await;
    let stale = get(fleet.address(), "nobody", "/").await;
    assert_eq!((stale.status, stale.code().as_str()), (StatusCode::SERVICE_UNAVAILABLE, "TENANT_UNKNOWN_YET"));
    fleet.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_made_a_moment_ago_is_never_said_to_be_unknown() {
    let gate = FakeGate::echo("a").await;
    let control = FakeControl::new(1);
    control.set_cell("a", std::slice::from_ref(&gate.address));
    let fleet = Fleet::start(control, |_| {}).await;
    for n in 0..50 {
        fleet.control.set_tenant(&format!("new-{n}"), "a", 1, |_| {});
        let answer = get(fleet.address(), &format!("new-{n}"), "/").await;
        assert_eq!(answer.status, StatusCode::OK, "{}", answer.body);
    }
    fleet.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_router_that_is_cut_off_goes_on_and_does_not_hold_on_old_news() {
    let gate = FakeGate::echo("a").await;
    let control = FakeControl::new(1);
    control.set_cell("a", std::slice::from_ref(&gate.address));
    control.set_tenant("t-1", "a", 1, |mapping| {
        mapping.state = MappingState::Migrating;
        mapping.hold = Hold::Writes;
    });
    let fleet = Fleet::start(control, |options| options.timeouts.fresh = Duration::from_millis(300)).await;
    fleet.control.cut_off();
    // It waits for as long as the hold can be believed, and then lets the cell decide.
    let answer = post(fleet.address(), "t-1", "/", "w").await;
    assert_eq!((answer.status, answer.body.as_str()), (StatusCode::OK, "a:w"));
    let ready = fleet.admin("/readyz").await;
    assert_eq!(ready.status, StatusCode::OK);
    fleet.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_router_starts_from_its_file_with_the_control_plane_dead() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("table");
    let gate = FakeGate::echo("a").await;
    let control = FakeControl::new(1);
    control.set_cell("a", std::slice::from_ref(&gate.address));
    control.set_tenant("t-1", "a", 4, |_| {});
    Fleet::start(control, |options| options.snapshot_file = Some(path.clone())).await.stop().await;

    let dead = FakeControl::new(1);
    dead.cut_off();
    let fleet = Fleet::start_without_waiting(dead, |options| options.snapshot_file = Some(path.clone()));
    assert_eq!(fleet.epoch_of("t-1"), Some(4));
    assert_eq!(fleet.admin("/readyz").await.status, StatusCode::OK);
    assert_eq!(post(fleet.address(), "t-1", "/", "w").await.body, "a:w");
    assert_eq!(get(fleet.address(), "t-2", "/").await.code(), "TENANT_UNKNOWN_YET");
    let shown = fleet.admin("/debug/tenant/t-1").await.body;
    let shown: serde_json::Value = serde_json::from_str(&shown).unwrap();
    assert_eq!(shown["mapping"]["epoch"], 4);
    assert_eq!(shown["gates"][0], gate.address);
    assert_eq!(shown["table"]["staleness_seconds"], serde_json::Value::Null);
    let metrics = fleet.admin("/metrics").await.body;
    assert!(metrics.contains("\ncell_router_table_revision "), "{metrics}");
    fleet.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_file_is_written_while_the_router_runs() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("table");
    let control = FakeControl::new(1);
    control.set_tenant("t-1", "a", 4, |_| {});
    let fleet = Fleet::start(control, |options| {
        options.snapshot_file = Some(path.clone());
        options.timeouts.snapshot_interval = Duration::from_millis(20);
    })
    .await;
    until("the file is there", || path.exists()).await;
    let first = std::fs::read(&path).unwrap();
    fleet.control.set_tenant("t-2", "a", 1, |_| {});
    until("the file is written again", || std::fs::read(&path).unwrap().len() > first.len()).await;
    // Killed, not stopped: what is on file is whole.
    fleet.running.abort();
    let dead = FakeControl::new(1);
    dead.cut_off();
    let fleet = Fleet::start_without_waiting(dead, |options| options.snapshot_file = Some(path.clone()));
    assert_eq!((fleet.epoch_of("t-1"), fleet.epoch_of("t-2")), (Some(4), Some(1)));
    fleet.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_router_that_starts_from_its_file_is_told_only_what_has_changed_since() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("table");
    let control = FakeControl::new(1);
    control.set_tenant("t-1", "a", 4, |_| {});
    Fleet::start(control.clone(), |options| options.snapshot_file = Some(path.clone())).await.stop().await;
    control.set_tenant("t-2", "a", 1, |_| {});
    control.set_tenant("t-1", "b", 5, |_| {});
    let fleet = Fleet::start(control.clone(), |options| options.snapshot_file = Some(path.clone())).await;
    assert_eq!((fleet.epoch_of("t-1"), fleet.epoch_of("t-2")), (Some(5), Some(1)));
    assert_eq!(control.watched_after(), [None, Some(cell_model::Revision(1))]);
    fleet.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_truncated_file_is_set_aside_and_the_control_plane_gives_the_table() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("table");
    let gate = FakeGate::echo("a").await;
    let control = FakeControl::new(1);
    control.set_cell("a", std::slice::from_ref(&gate.address));
    control.set_tenant("t-1", "a", 4, |_| {});
    Fleet::start(control.clone(), |options| options.snapshot_file = Some(path.clone())).await.stop().await;
    let whole = std::fs::read(&path).unwrap();
    std::fs::write(&path, &whole[..whole.len() - 7]).unwrap();

    let dead = FakeControl::new(1);
    dead.cut_off();
    let fleet = Fleet::start_without_waiting(dead, |options| options.snapshot_file = Some(path.clone()));
    assert_eq!(fleet.admin("/readyz").await.status, StatusCode::SERVICE_UNAVAILABLE, "there is no table");
    assert_eq!(get(fleet.address(), "t-1", "/").await.code(), "TENANT_UNKNOWN_YET");
    assert_eq!(std::fs::read(dir.path().join("table.corrupt")).unwrap(), &whole[..whole.len() - 7]);
    fleet.stop().await;

    let fleet = Fleet::start(control, |options| options.snapshot_file = Some(path.clone())).await;
    assert_eq!(post(fleet.address(), "t-1", "/", "w").await.body, "a:w");
    fleet.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_of_another_cluster_gives_way_to_the_control_plane() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("table");
    let control = FakeControl::new(1);
    control.set_tenant("theirs", "a", 4, |_| {});
    Fleet::start(control, |options| options.snapshot_file = Some(path.clone())).await.stop().await;

    let other = FakeControl::new(2);
    other.set_tenant("ours", "a", 1, |_| {});
    let fleet = Fleet::start_without_waiting(other, |options| options.snapshot_file = Some(path.clone()));
    until("the other cluster's table is there", || fleet.epoch_of("ours") == Some(1)).await;
    assert_eq!(fleet.epoch_of("theirs"), None);
    fleet.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cell_that_nobody_reaches_is_503_and_says_when_to_try_again() {
    let gone = FakeGate::echo("gone").await;
    let address = gone.address.clone();
    drop(gone);
    let control = FakeControl::new(1);
    control.set_cell("a", std::slice::from_ref(&address));
    control.set_tenant("t-1", "a", 1, |_| {});
    let fleet = Fleet::start(control, |_| {}).await;
    let answer = post(fleet.address(), "t-1", "/", "w").await;
    assert_eq!((answer.status, answer.code().as_str()), (StatusCode::SERVICE_UNAVAILABLE, "CELL_UNREACHABLE"));
    assert_eq!(answer.headers["retry-after"], "1");
    assert!(!answer.body.contains(&address), "where a cell is is nobody's business: {}", answer.body);
    fleet.stop().await;
}
