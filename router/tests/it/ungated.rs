//! Cells without a gate: the router holds back what a gate would.

use std::sync::Arc;
use std::time::Duration;

use cell_model::{Hold, Mapping, MappingState};
use http::StatusCode;
use http_body_util::BodyExt;
use tokio::sync::Notify;

use crate::client::{get, post};
use crate::control::FakeControl;
use crate::fleet::{Fleet, until};
use crate::gate::{FakeGate, text};

fn held(mapping: &mut Mapping) {
    mapping.state = MappingState::Migrating;
    mapping.hold = Hold::All;
}

/// The tenant t-1 in the cell a, which has no gate.
fn ungated(application: &FakeGate) -> Arc<FakeControl> {
    let control = FakeControl::new(1);
    control.set_cell("a", std::slice::from_ref(&application.address));
    control.without_gate("a");
    control.set_tenant("t-1", "a", 1, |_| {});
    control
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_on_its_way_is_told_until_it_is_answered_and_no_other_is_sent_meanwhile() {
    let (go_on, applications) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (going_on, come) = (Arc::clone(&go_on), Arc::clone(&applications));
    let application = FakeGate::start(move |_, number| {
        let (going_on, come) = (Arc::clone(&going_on), Arc::clone(&come));
        async move {
            if number == 0 {
                come.notify_one();
                going_on.notified().await;
            }
            text(StatusCode::OK, "done")
        }
    })
    .await;
    let fleet = Fleet::start(ungated(&application), |_| {}).await;
    let (address, control) = (fleet.address(), Arc::clone(&fleet.control));
    let first = tokio::spawn(async move { post(address, "t-1", "/", "first").await });
    applications.notified().await;
    let mapping = control.set_tenant("t-1", "a", 1, held);
    // Told as soon as the table has the hold, and as long as the write is on its way.
    let seen = || control.told().filter(|told| told.revision >= mapping.revision);
    until("the router says that it has seen the hold", || seen().is_some()).await;
    let told = seen().unwrap().on_their_way;
    assert_eq!((told.tenants, told.more), (vec![mapping.tenant.clone()], false));

    let second = tokio::spawn(async move { post(address, "t-1", "/", "second").await });
    let read = tokio::spawn(async move { get(address, "t-1", "/").await });
    until("both wait", || fleet.router.held_requests() == 2).await;
    go_on.notify_one();
    assert_eq!(first.await.unwrap().status, StatusCode::OK);
    until("the router says that nothing is on its way", || {
        seen().is_some_and(|told| told.on_their_way.tenants.is_empty())
    })
    .await;
    assert_eq!(application.seen().len(), 1, "nobody is sent to a cell that refuses nobody");
    control.set_tenant("t-1", "a", 2, |_| {});
    for answer in [second.await.unwrap(), read.await.unwrap()] {
        assert_eq!((answer.status, answer.body.as_str()), (StatusCode::OK, "done"));
    }
    fleet.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_waits_for_a_fresh_table_and_a_read_does_not() {
    let application = FakeGate::echo("a").await;
    let fleet = Fleet::start(ungated(&application), |options| {
        options.timeouts.fresh = Duration::from_millis(200);
        options.timeouts.hold = Duration::from_millis(300);
    })
    .await;
    assert_eq!(post(fleet.address(), "t-1", "/", "w").await.body, "a:w");
    fleet.control.cut_off();
    until("the table is stale", || fleet.router.staleness().unwrap() > Duration::from_millis(250)).await;
    let refused = post(fleet.address(), "t-1", "/", "w").await;
    assert_eq!((refused.status, refused.code().as_str()), (StatusCode::SERVICE_UNAVAILABLE, "TABLE_STALE"));
    assert_eq!(refused.headers["retry-after"], "1");
    assert_eq!(get(fleet.address(), "t-1", "/").await.status, StatusCode::OK);
    assert_eq!(application.seen().len(), 2, "one write, one read");
    fleet.control.heal();
    until("the table is fresh", || fleet.router.staleness().unwrap() < Duration::from_millis(150)).await;
    assert_eq!(post(fleet.address(), "t-1", "/", "w").await.body, "a:w");
    fleet.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_router_without_a_lease_sends_no_write_however_fresh_its_table_is() {
    let application = FakeGate::echo("a").await;
    let control = ungated(&application);
    control.count_nobody();
    let fleet = Fleet::start(control, |options| {
        options.timeouts.fresh = Duration::from_secs(60);
        options.timeouts.hold = Duration::from_millis(300);
    })
    .await;
    let refused = post(fleet.address(), "t-1", "/", "w").await;
    assert_eq!((refused.status, refused.code().as_str()), (StatusCode::SERVICE_UNAVAILABLE, "TABLE_STALE"));
    assert!(refused.body.contains("no lease"), "{}", refused.body);
    assert_eq!(get(fleet.address(), "t-1", "/").await.status, StatusCode::OK);
    assert_eq!(application.seen().len(), 1, "no write, one read");
    fleet.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hold_is_kept_though_nobody_confirms_it_any_more() {
    let application = FakeGate::echo("a").await;
    let fleet = Fleet::start(ungated(&application), |options| {
        options.timeouts.fresh = Duration::from_millis(200);
        options.timeouts.hold = Duration::from_millis(300);
    })
    .await;
    let mapping = fleet.control.set_tenant("t-1", "a", 1, held);
    fleet.until_believed(&mapping).await;
    fleet.control.cut_off();
    until("the table is stale", || fleet.router.staleness().unwrap() > Duration::from_millis(250)).await;
    for answer in [post(fleet.address(), "t-1", "/", "w").await, get(fleet.address(), "t-1", "/").await] {
        assert_eq!((answer.status, answer.code().as_str()), (StatusCode::SERVICE_UNAVAILABLE, "TENANT_MOVING"));
    }
    assert!(application.seen().is_empty());
    fleet.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_router_that_starts_from_its_file_knows_which_cells_have_no_gate() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("table");
    let application = FakeGate::echo("a").await;
    Fleet::start(ungated(&application), |options| options.snapshot_file = Some(path.clone())).await.stop().await;
    let dead = FakeControl::new(1);
    dead.cut_off();
    let fleet = Fleet::start_without_waiting(dead, |options| {
        options.snapshot_file = Some(path.clone());
        options.timeouts.hold = Duration::from_millis(100);
    });
    // Nobody knows how old it is, so nothing is read by it, either.
    for answer in [post(fleet.address(), "t-1", "/", "w").await, get(fleet.address(), "t-1", "/").await] {
        assert_eq!(answer.code(), "TABLE_STALE");
    }
    assert!(application.seen().is_empty());
    fleet.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_application_is_not_asked_to_say_that_it_wants_a_body() {
    let application = FakeGate::start(|request, _| async move {
        let expects = request.headers().contains_key("expect");
        let length = request.into_body().collect().await.unwrap().to_bytes().len();
        text(StatusCode::OK, &format!("{expects} {length}"))
    })
    .await;
    let fleet = Fleet::start(ungated(&application), |_| {}).await;
    assert_eq!(post(fleet.address(), "t-1", "/", vec![b'x'; 300_000]).await.body, "false 300000");
    fleet.stop().await;
}
