//! What fails is left alone, and only that.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use cell_router::Options;
use http::StatusCode;

use crate::client::{self, get};
use crate::control::FakeControl;
use crate::fleet::{Fleet, until};
use crate::gate::{FakeGate, text};

fn quick(options: &mut Options) {
    options.containment.breaker_failures_min = 5;
    options.containment.breaker_open = Duration::from_millis(200);
    options.containment.breaker_open_max = Duration::from_millis(400);
    options.containment.breaker_probes = 1;
}

/// A cell in which requests of t-1 fail for as long as is said, and those of t-2 do not.
async fn sick_for_one(change: impl FnOnce(&mut Options)) -> (FakeGate, Arc<AtomicBool>, Fleet) {
    let sick = Arc::new(AtomicBool::new(true));
    let is_sick = Arc::clone(&sick);
    let gate =
        FakeGate::start(move |request, _| {
            let fails = is_sick.load(Ordering::SeqCst) && request.headers()["cell-tenant"] == "t-1";
            async move {
                if fails { text(StatusCode::INTERNAL_SERVER_ERROR, "no") } else { text(StatusCode::OK, "yes") }
            }
        })
        .await;
    let control = FakeControl::of_two_tenants(&gate.address);
    let fleet = Fleet::start(control, |options| {
        quick(options);
        change(options);
    })
    .await;
    (gate, sick, fleet)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_breaker_of_one_tenant_opens_for_that_tenant_alone_and_closes_after_a_probe() {
    let (gate, sick, fleet) = sick_for_one(|_| {}).await;
    let address = fleet.address();
    for _ in 0..5 {
        assert_eq!(
            get(address, "t-1", "/").await.status,
            StatusCode::INTERNAL_SERVER_ERROR,
            "the application's own"
        );
    }
    let answer = get(address, "t-1", "/").await;
    assert_eq!((answer.status, answer.code().as_str()), (StatusCode::SERVICE_UNAVAILABLE, "BREAKER_OPEN"));
    assert!(answer.headers.contains_key("retry-after"));
    assert_eq!(gate.seen().len(), 5);
    assert_eq!(get(address, "t-2", "/").await.status, StatusCode::OK);
    sick.store(false, Ordering::SeqCst);
    let healed = async { while get(address, "t-1", "/").await.status != StatusCode::OK {} };
    tokio::time::timeout(Duration::from_secs(10), healed).await.unwrap();
    for _ in 0..10 {
        assert_eq!(get(address, "t-1", "/").await.status, StatusCode::OK, "closed");
    }
    fleet.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_that_has_moved_to_another_cell_passes_at_once() {
    let (_gate, _sick, fleet) = sick_for_one(|options| {
        options.containment.breaker_open = Duration::from_secs(60);
        options.containment.breaker_open_max = Duration::from_secs(60);
    })
    .await;
    let other = FakeGate::echo("b").await;
    let address = fleet.address();
    for _ in 0..5 {
        get(address, "t-1", "/").await;
    }
    assert_eq!(get(address, "t-1", "/").await.code(), "BREAKER_OPEN");
    fleet.control.set_cell("b", std::slice::from_ref(&other.address));
    let moved = fleet.control.set_tenant("t-1", "b", 3, |_| {});
    fleet.until_believed(&moved).await;
    assert_eq!(get(address, "t-1", "/").await.body, "b:");
    fleet.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cell_that_takes_no_connections_is_left_alone_for_a_while_and_found_again() {
    let gone = FakeGate::echo("a").await;
    let dead = gone.address.clone();
    drop(gone);
    let control = FakeControl::of_two_tenants(&dead);
    let fleet = Fleet::start(control, |options| {
        quick(options);
        options.containment.retry_percent = 0;
        options.containment.retry_floor_per_second = 0;
    })
    .await;
    let address = fleet.address();
    for _ in 0..5 {
        assert_eq!(get(address, "t-1", "/").await.code(), "CELL_UNREACHABLE");
    }
    assert_eq!(get(address, "t-2", "/").await.code(), "BREAKER_OPEN", "for every tenant of it");
    assert!(fleet.metric("cell_router_cell_breaker_open", "cell=\"a\"").await > 0.5);
    let back = FakeGate::echo("back").await;
    fleet.control.set_cell("a", std::slice::from_ref(&back.address));
    let healed = async { while get(address, "t-2", "/").await.status != StatusCode::OK {} };
    tokio::time::timeout(Duration::from_secs(10), healed).await.unwrap();
    assert!(fleet.metric("cell_router_cell_breaker_open", "cell=\"a\"").await < 0.5);
    fleet.stop().await;
}

/// A cell that takes every request and breaks the connection, and how many it has taken.
async fn breaking() -> (Arc<FakeControl>, Arc<AtomicUsize>) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let taken = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&taken);
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let count = Arc::clone(&count);
            tokio::spawn(async move {
                let _head = client::read_until(&mut stream, "\r\n\r\n").await;
                count.fetch_add(1, Ordering::SeqCst);
            });
        }
    });
    let control = FakeControl::new(1);
    control.set_cell("a", &[address]);
    control.set_tenant("t-1", "a", 1, |_| {});
    (control, taken)
}

/// Of many that break off at once, none comes back at once: each pauses for a while by lot, or not at all where there is no time.
#[tokio::test(flavor = "multi_thread")]
async fn what_has_broken_off_is_sent_again_after_a_pause_and_not_where_there_is_no_time_for_one() {
    for (hold, times) in [(Duration::from_secs(5), 3), (Duration::from_millis(1), 1)] {
        let (control, taken) = breaking().await;
        let fleet = Fleet::start(control, |options| options.timeouts.hold = hold).await;
        let answer = get(fleet.address(), "t-1", "/").await;
        assert_eq!(answer.code(), "CELL_FAILED");
        assert!(!answer.body.contains("127.0.0.1"), "{}", answer.body);
        assert_eq!(taken.load(Ordering::SeqCst), times, "{hold:?}");
        fleet.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_tried_again_stays_within_its_budget() {
    let (control, taken) = breaking().await;
    let fleet = Fleet::start(control, |options| {
        options.containment.breaker_failures_min = 0;
        options.containment.retry_floor_per_second = 0;
        options.containment.retry_percent = 10;
    })
    .await;
    for _ in 0..50 {
        assert_eq!(get(fleet.address(), "t-1", "/").await.code(), "CELL_FAILED");
    }
    let sent = taken.load(Ordering::SeqCst);
    assert!(
        (57..=58).contains(&sent),
        "{sent} for 50 requests that may be repeated: three to begin with, and a tenth"
    );
    assert!(fleet.metric("cell_router_retries_denied_total", "").await > 40.0);
    fleet.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_gate_does_not_take_comes_with_the_gate_s_own_hint_and_without_a_time_to_try_again() {
    let gate = FakeGate::start(|_, _| async {
        let hint = "give the router a key: `context.key-file`";
        let mut response = text(StatusCode::FORBIDDEN, &format!("{{\"hint\":\"{hint}\"}}"));
        cell_gate::wire::mark_not_executed(response.headers_mut(), cell_gate::wire::Code::ContextMissing);
        response
    })
    .await;
    let control = FakeControl::of_two_tenants(&gate.address);
    let fleet = Fleet::start(control, |_| {}).await;
    let answer = get(fleet.address(), "t-1", "/").await;
    assert_eq!((answer.status, answer.code().as_str()), (StatusCode::SERVICE_UNAVAILABLE, "CELL_REFUSED"));
    let problem: serde_json::Value = serde_json::from_str(&answer.body).unwrap();
    assert_eq!(problem["hint"], "give the router a key: `context.key-file`");
    assert!(problem["detail"].as_str().unwrap().contains("CONTEXT_MISSING"), "{problem}");
    assert!(!answer.headers.contains_key("retry-after"), "{answer:?}");
    fleet.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_probe_whose_client_goes_leaves_room_for_the_next() {
    let (gate, sick, fleet) = sick_for_one(|_| {}).await;
    let address = fleet.address();
    for _ in 0..6 {
        get(address, "t-1", "/").await;
    }
    sick.store(false, Ordering::SeqCst);
    until("five have reached the cell", || gate.seen().len() == 5).await;
    for _ in 0..20 {
        let gone = tokio::spawn(async move { get(address, "t-1", "/").await });
        tokio::time::sleep(Duration::from_millis(10)).await;
        gone.abort();
    }
    let healed = async { while get(address, "t-1", "/").await.status != StatusCode::OK {} };
    tokio::time::timeout(Duration::from_secs(10), healed).await.unwrap();
    fleet.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dependency_that_fails_closes_the_way_to_what_needs_it_and_to_nothing_else() {
    let sick = Arc::new(std::sync::atomic::AtomicBool::new(true));
    let pays = Arc::clone(&sick);
    let gate = FakeGate::start(move |request, _| {
        let fails = matches!(request.uri().path(), "/pay" | "/pay/1") && pays.load(Ordering::SeqCst);
        async move { text(if fails { StatusCode::BAD_GATEWAY } else { StatusCode::OK }, "answered") }
    })
    .await;
    let control = FakeControl::of_two_tenants(&gate.address);
    let fleet = Fleet::start(control, |options| {
        quick(options);
        let payments = cell_router::Dependency { paths: vec!["/pay".into()] };
        options.containment.dependencies.insert("payments".into(), payments);
    })
    .await;
    let address = fleet.address();
    for _ in 0..5 {
        assert_eq!(get(address, "t-1", "/pay/1").await.status, StatusCode::BAD_GATEWAY);
    }
    let refused = get(address, "t-2", "/pay").await;
    assert_eq!(refused.code(), "BREAKER_OPEN", "for every tenant of the cell: {refused:?}");
    assert!(refused.body.contains("depend on payments"), "{}", refused.body);
    assert_eq!(get(address, "t-1", "/payroll").await.status, StatusCode::OK, "not even for the tenant that failed");
    let cells: serde_json::Value = serde_json::from_str(&fleet.admin("/debug/cells").await.body).unwrap();
    let shown = cells["cells"]["a"]["dependencies"]["payments"].as_str().unwrap();
    assert!(shown == "open" || shown == "half-open", "{cells}");
    sick.store(false, Ordering::SeqCst);
    let healed = async { while get(address, "t-2", "/pay").await.status != StatusCode::OK {} };
    tokio::time::timeout(Duration::from_secs(10), healed).await.unwrap();
    fleet.stop().await;
}
