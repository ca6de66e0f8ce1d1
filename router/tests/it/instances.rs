//! A cell with several instances.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use cell_router::Options;
use http::StatusCode;

use crate::client::get;
use crate::control::FakeControl;
use crate::fleet::Fleet;
use crate::gate::{FakeGate, text};

/// Instances that say who they are, and are ready for as long as is said.
async fn instances(count: usize, change: impl FnOnce(&mut Options)) -> (Vec<(FakeGate, Arc<AtomicBool>)>, Fleet) {
    let mut gates = Vec::new();
    for n in 0..count {
        let ready = Arc::new(AtomicBool::new(true));
        let is_ready = Arc::clone(&ready);
        let gate = FakeGate::start(move |request, _| {
            let ready = is_ready.load(Ordering::SeqCst);
            async move {
                match request.uri().path() {
                    "/readyz" if !ready => text(StatusCode::SERVICE_UNAVAILABLE, "not ready"),
                    _ => text(StatusCode::OK, &format!("instance {n}")),
                }
            }
        });
        gates.push((gate.await, ready));
    }
    let control = FakeControl::new(1);
    control.set_cell("a", &gates.iter().map(|(gate, _)| gate.address.clone()).collect::<Vec<_>>());
    for n in 0..40 {
        control.set_tenant(&format!("t-{n}"), "a", 1, |_| {});
    }
    let fleet = Fleet::start(control, change).await;
    (gates, fleet)
}

async fn answers(fleet: &Fleet, tenant: &str) -> String {
    let answer = get(fleet.address(), tenant, "/").await;
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.body);
    answer.body
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_keeps_to_its_instance_and_tenants_spread() {
    let (_gates, fleet) = instances(3, |_| {}).await;
    let mut homes = std::collections::BTreeSet::new();
    for n in 0..40 {
        let tenant = format!("t-{n}");
        let home = answers(&fleet, &tenant).await;
        assert_eq!(answers(&fleet, &tenant).await, home);
        homes.insert(home);
    }
    assert_eq!(homes.len(), 3);
    fleet.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_that_is_not_ready_gets_no_requests_until_it_is() {
    let (gates, fleet) = instances(2, |options| {
        options.instances.check_interval = Duration::from_millis(20);
        options.instances.slow_start = Duration::ZERO;
    })
    .await;
    let home = answers(&fleet, "t-1").await;
    let (_, ready) = gates.iter().enumerate().find(|(n, _)| home == format!("instance {n}")).unwrap().1;
    ready.store(false, Ordering::SeqCst);
    let elsewhere = async { while answers(&fleet, "t-1").await == home {} };
    tokio::time::timeout(Duration::from_secs(10), elsewhere).await.unwrap();
    for n in 0..20 {
        assert_ne!(answers(&fleet, &format!("t-{n}")).await, home);
    }
    ready.store(true, Ordering::SeqCst);
    let back = async { while answers(&fleet, "t-1").await != home {} };
    tokio::time::timeout(Duration::from_secs(10), back).await.unwrap();
    assert!(fleet.metric("cell_router_instance_check_failures_total", "").await >= 2.0);
    fleet.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_that_goes_costs_nobody_a_request_and_is_asked_last() {
    let (mut gates, fleet) = instances(3, |_| {}).await;
    let home = answers(&fleet, "t-1").await;
    let n = (0..3).find(|n| home == format!("instance {n}")).unwrap();
    drop(gates.remove(n));
    for n in 0..40 {
        for _ in 0..2 {
            answers(&fleet, &format!("t-{n}")).await;
        }
    }
    assert!(fleet.metric("cell_router_instance_ejections_total", "").await >= 1.0);
    fleet.stop().await;
}
