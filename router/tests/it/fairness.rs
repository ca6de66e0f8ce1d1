//! Tenants that ask for more than there is.

use std::sync::Arc;
use std::time::Duration;

use cell_model::Tier;
use cell_router::{Options, Policy};
use http::StatusCode;
use tokio::sync::Semaphore;

use crate::client::{Answer, get, post};
use crate::control::FakeControl;
use crate::fleet::{Fleet, until};
use crate::gate::{FakeGate, text};

/// A cell that answers a request when it is let, and tenants t-1 and t-2 in it.
async fn patient(change: impl FnOnce(&mut Options)) -> (FakeGate, Arc<Semaphore>, Fleet) {
    let let_go = Arc::new(Semaphore::new(0));
    let waiting = Arc::clone(&let_go);
    let gate = FakeGate::start(move |_, _| {
        let waiting = Arc::clone(&waiting);
        async move {
            waiting.acquire().await.unwrap().forget();
            text(StatusCode::OK, "done")
        }
    })
    .await;
    let control = FakeControl::of_two_tenants(&gate.address);
    let fleet = Fleet::start(control, change).await;
    (gate, let_go, fleet)
}

fn places(options: &mut Options, places: u32) {
    options.fairness.cell_concurrency_initial = places;
    options.fairness.cell_concurrency_min = places;
    options.fairness.cell_concurrency_max = places;
    options.fairness.queue_wait = Duration::from_secs(10);
}

fn refused(answer: &Answer) -> (u16, String) {
    assert!(answer.headers.contains_key("retry-after"), "{answer:?}");
    (answer.status.as_u16(), answer.code())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_that_asks_too_often_is_told_when_to_come_again_and_nobody_else_is() {
    let gate = FakeGate::echo("a").await;
    let control = FakeControl::new(1);
    control.set_cell("a", std::slice::from_ref(&gate.address));
    control.set_tenant("t-1", "a", 1, |_| {});
    control.set_tenant("t-2", "a", 1, |mapping| mapping.tier = Tier::Gold);
    let fleet = Fleet::start(control, |options| {
        options.fairness.tiers.bronze = Policy { rate: Some(1), burst: Some(3), ..Policy::default() };
    })
    .await;
    for _ in 0..3 {
        assert_eq!(get(fleet.address(), "t-1", "/").await.status, StatusCode::OK);
    }
    let answer = get(fleet.address(), "t-1", "/").await;
    assert_eq!(refused(&answer), (429, "RATE_LIMITED".into()));
    assert!(answer.body.contains("3 times at once"), "{}", answer.body);
    for _ in 0..5 {
        assert_eq!(get(fleet.address(), "t-2", "/").await.status, StatusCode::OK, "another tier");
    }
    assert_eq!(gate.seen().len(), 8);
    fleet.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_has_no_more_requests_on_their_way_than_it_may() {
    let (gate, let_go, fleet) = patient(|options| {
        let policy = Policy { concurrency: Some(2), ..Policy::default() };
        options.fairness.tenants.insert("t-1".into(), policy);
    })
    .await;
    let address = fleet.address();
    let first: Vec<_> = (0..2).map(|_| tokio::spawn(async move { get(address, "t-1", "/").await })).collect();
    until("both are at the cell", || gate.seen().len() == 2).await;
    assert_eq!(refused(&get(address, "t-1", "/").await), (503, "TENANT_BUSY".into()));
    let other = tokio::spawn(async move { get(address, "t-2", "/").await });
    until("the other tenant's is at the cell, too", || gate.seen().len() == 3).await;
    let_go.add_permits(4);
    for answer in first.into_iter().chain([other]) {
        assert_eq!(answer.await.unwrap().status, StatusCode::OK);
    }
    assert_eq!(get(address, "t-1", "/").await.status, StatusCode::OK, "its places are free again");
    fleet.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn where_a_cell_is_full_tenants_take_turns() {
    let (gate, let_go, fleet) = patient(|options| places(options, 1)).await;
    let address = fleet.address();
    let many: Vec<_> = (0..12).map(|_| tokio::spawn(async move { post(address, "t-1", "/", "x").await })).collect();
    let waiting = async |count: f64| {
        while fleet.metric("cell_router_cell_queued_requests", "cell=\"a\"").await < count {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), waiting(11.0)).await.unwrap();
    let one = tokio::spawn(async move { post(address, "t-2", "/", "x").await });
    tokio::time::timeout(Duration::from_secs(10), waiting(12.0)).await.unwrap();
    assert_eq!(gate.seen().len(), 1, "one place, one request");
    let_go.add_permits(13);
    assert_eq!(one.await.unwrap().status, StatusCode::OK);
    for answer in many {
        assert_eq!(answer.await.unwrap().status, StatusCode::OK);
    }
    let turn = gate.seen().iter().position(|seen| seen.headers["cell-tenant"] == "t-2").unwrap();
    assert!(turn <= 2, "its turn is the {turn}th of 13");
    fleet.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_waits_too_long_or_behind_too_many_is_refused_and_has_not_run() {
    let (gate, let_go, fleet) = patient(|options| {
        places(options, 1);
        options.fairness.queue_wait = Duration::from_millis(300);
        options.fairness.queue_per_tenant_max = 1;
    })
    .await;
    let address = fleet.address();
    let first = tokio::spawn(async move { get(address, "t-1", "/").await });
    until("the first is at the cell", || gate.seen().len() == 1).await;
    let late = tokio::spawn(async move { get(address, "t-1", "/").await });
    while fleet.metric("cell_router_cell_queued_requests", "cell=\"a\"").await < 1.0 {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    let behind = get(address, "t-1", "/").await;
    assert_eq!(refused(&behind), (503, "CELL_BUSY".into()));
    assert!(behind.body.contains("1 of tenant t-1 wait already"), "{}", behind.body);
    let late = late.await.unwrap();
    assert_eq!(refused(&late), (503, "CELL_BUSY".into()));
    assert!(late.body.contains("the turn has not come in 3"), "{}", late.body);
    let_go.add_permits(1);
    assert_eq!(first.await.unwrap().status, StatusCode::OK);
    assert_eq!(gate.seen().len(), 1);
    fleet.stop().await;
}

/// A router that has just started knows nothing of its cells: a crowd waits for that, and is not turned away.
#[tokio::test(flavor = "multi_thread")]
async fn a_crowd_at_a_router_that_has_just_started_is_served_and_nobody_refused() {
    let gate = FakeGate::echo("a").await;
    let fleet = Fleet::start(FakeControl::of_two_tenants(&gate.address), |options| {
        // How fast this machine is now is not the question.
        options.fairness.queue_wait = Duration::from_secs(30);
        options.timeouts.hold = Duration::from_secs(30);
    })
    .await;
    let address = fleet.address();
    let crowd = (0..200).map(|n| {
        let tenant = if n % 20 == 19 { "t-2" } else { "t-1" };
        tokio::spawn(async move { get(address, tenant, "/").await })
    });
    for answer in futures::future::join_all(crowd.collect::<Vec<_>>()).await {
        let answer = answer.unwrap();
        assert_eq!(answer.status, StatusCode::OK, "{}", answer.body);
    }
    assert!(fleet.metric("cell_router_requests_total", "outcome=\"CELL_BUSY\"").await < 0.5);
    fleet.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_goes_leaves_the_queue() {
    let (gate, let_go, fleet) = patient(|options| places(options, 1)).await;
    let address = fleet.address();
    let first = tokio::spawn(async move { get(address, "t-1", "/").await });
    until("the first is at the cell", || gate.seen().len() == 1).await;
    let goes = tokio::spawn(async move { get(address, "t-1", "/").await });
    let queued = async |count: f64| {
        while (fleet.metric("cell_router_cell_queued_requests", "cell=\"a\"").await - count).abs() > 0.5 {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), queued(1.0)).await.unwrap();
    goes.abort();
    tokio::time::timeout(Duration::from_secs(10), queued(0.0)).await.unwrap();
    let_go.add_permits(2);
    assert_eq!(first.await.unwrap().status, StatusCode::OK);
    assert_eq!(get(address, "t-2", "/").await.status, StatusCode::OK);
    assert_eq!(gate.seen().len(), 2, "what was given up never ran");
    fleet.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn other_limits_are_taken_while_the_router_runs_and_wrong_ones_are_not() {
    let gate = FakeGate::echo("a").await;
    let control = FakeControl::new(1);
    control.set_cell("a", std::slice::from_ref(&gate.address));
    control.set_tenant("t-1", "a", 1, |_| {});
    let mut options = crate::fleet::options(&control);
    let fleet = Fleet::start(control, |_| {}).await;
    options.fairness.tiers.bronze = Policy { rate: Some(1), burst: Some(1), ..Policy::default() };
    let differences = fleet.router.reload(Ok(options.clone())).unwrap();
    let named: Vec<_> = differences.iter().map(|difference| difference.option.as_str()).collect();
    assert_eq!(named, ["fairness.tiers.bronze.burst", "fairness.tiers.bronze.rate"]);
    assert_eq!(get(fleet.address(), "t-1", "/").await.status, StatusCode::OK);
    assert_eq!(get(fleet.address(), "t-1", "/").await.status, StatusCode::TOO_MANY_REQUESTS);
    let mut wrong = options.clone();
    wrong.fairness.tiers.bronze = Policy::default();
    wrong.control.clear();
    fleet.router.reload(Ok(wrong)).unwrap_err();
    assert_eq!(get(fleet.address(), "t-1", "/").await.status, StatusCode::TOO_MANY_REQUESTS, "the old ones hold");
    options.fairness.tiers.bronze = Policy::default();
    fleet.router.reload(Ok(options)).unwrap();
    assert_eq!(get(fleet.address(), "t-1", "/").await.status, StatusCode::OK);
    assert!((fleet.metric("cell_router_reloads_total", "").await - 2.0).abs() < 0.5);
    assert!((fleet.metric("cell_router_reloads_refused_total", "").await - 1.0).abs() < 0.5);
    fleet.stop().await;
}
