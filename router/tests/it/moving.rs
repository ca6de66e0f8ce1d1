//! Requests of tenants that move: redirects, refusals, holds.

use std::sync::Arc;
use std::time::Duration;

use cell_gate::wire;
use cell_model::{Hold, MappingState};
use http::StatusCode;
use http_body_util::BodyExt;
use tokio::io::AsyncWriteExt;

use crate::client::{get, post, read_until};
use crate::control::FakeControl;
use crate::fleet::{Fleet, until};
use crate::gate::{FakeGate, not_executed, stale, text};

/// Two cells; the tenant is on `a`, and `a` answers everything with 421 once `b` owns at epoch 2.
async fn moved(signed_by: &Arc<FakeControl>) -> (FakeGate, FakeGate, Arc<FakeControl>) {
    let control = FakeControl::new(1);
    let b = FakeGate::echo("b").await;
    control.set_cell("b", std::slice::from_ref(&b.address));
    signed_by.set_cell("b", std::slice::from_ref(&b.address));
    let newer = signed_by.set_tenant("t-1", "b", 2, |mapping| mapping.rev = cell_model::Rev(9));
    let signed = signed_by.signed(&newer);
    let a = FakeGate::start(move |_, _| {
        let signed = signed.clone();
        async move { stale(&signed) }
    })
    .await;
    control.set_cell("a", std::slice::from_ref(&a.address));
    control.set_tenant("t-1", "a", 1, |_| {});
    (a, b, control)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stale_router_is_told_the_new_cell_and_the_write_arrives_there_once() {
    let (a, b, control) = moved(&FakeControl::new(1)).await;
    let fleet = Fleet::start(control, |_| {}).await;
    fleet.control.cut_off();
    let body = "x".repeat(100_000);
    let answer = post(fleet.address(), "t-1", "/docs", body.clone()).await;
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.body);
    assert_eq!(answer.body, format!("b:{body}"));
    assert_eq!(b.seen()[0].headers["cell-epoch"], "2");
    assert_eq!(fleet.epoch_of("t-1"), Some(2), "learned");
    post(fleet.address(), "t-1", "/docs", "again").await;
    assert_eq!((a.seen().len(), b.seen().len()), (1, 2), "and not asked again");
    fleet.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_larger_than_what_is_kept_follows_a_redirect_too() {
    let (_a, b, control) = moved(&FakeControl::new(1)).await;
    let fleet = Fleet::start(control, |options| options.limits.replay_bytes_max = 70_000).await;
    fleet.control.cut_off();
    let body = "y".repeat(2_000_000);
    let answer = post(fleet.address(), "t-1", "/docs", body.clone()).await;
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.code());
    assert_eq!(answer.body.len(), body.len() + 2);
    assert_eq!(b.seen().len(), 1);
    fleet.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_refusal_is_lost_whatever_the_size_of_the_write() {
    for size in [0, 1, 8_191, 8_192, 8_193, 30_000, 65_536, 300_000, 1_000_000] {
        let (_a, b, control) = moved(&FakeControl::new(1)).await;
        let fleet = Fleet::start(control, |_| {}).await;
        let answer = post(fleet.address(), "t-1", "/docs", vec![b'z'; size]).await;
        assert_eq!(answer.status, StatusCode::OK, "{size}: {}", answer.body);
        assert_eq!((answer.body.len(), b.seen().len()), (size + 2, 1));
        fleet.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_refusal_is_lost_while_many_write_at_once() {
    let gate = FakeGate::start(|request, number| async move {
        if number % 2 == 0 {
            return not_executed(wire::Code::Hold);
        }
        let length = request.into_body().collect().await.unwrap().to_bytes().len();
        text(StatusCode::OK, &length.to_string())
    })
    .await;
    let control = FakeControl::new(1);
    control.set_cell("a", std::slice::from_ref(&gate.address));
    control.set_tenant("t-1", "a", 1, |_| {});
    let fleet = Fleet::start(control, |_| {}).await;
    let address = fleet.address();
    let writers = (0..8).map(|writer: usize| async move {
        for n in 0..25 {
            let size = [8_192, 20_000, 100, 300_000][(writer + n) % 4];
            let answer = post(address, "t-1", "/", vec![b'w'; size]).await;
            assert_eq!((answer.status, answer.body), (StatusCode::OK, size.to_string()));
        }
    });
    futures::future::join_all(writers).await;
    fleet.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mapping_that_is_not_signed_by_a_trusted_key_is_not_followed() {
    let (a, b, control) = moved(&FakeControl::new(1)).await;
    // Not the key that signed what the gate hands out.
    let other = cell_trust::SigningKey::from_bytes(&[1; 32]);
    let fleet = Fleet::start(control, |options| {
        options.trusted_keys = vec![other.public().to_string()];
        options.timeouts.hold = Duration::from_millis(200);
    })
    .await;
    let answer = post(fleet.address(), "t-1", "/docs", "x").await;
    assert_eq!((answer.status, answer.code().as_str()), (StatusCode::SERVICE_UNAVAILABLE, "CELL_REFUSED"));
    assert_eq!(answer.headers["retry-after"], "1");
    assert!(!a.seen().is_empty() && b.seen().is_empty());
    assert_eq!(fleet.epoch_of("t-1"), Some(1));
    fleet.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mapping_of_another_cluster_is_not_followed_though_the_key_is_the_same() {
    let (_a, b, control) = moved(&FakeControl::new(2)).await;
    let fleet = Fleet::start(control, |options| options.timeouts.hold = Duration::from_millis(200)).await;
    let answer = post(fleet.address(), "t-1", "/docs", "x").await;
    assert_eq!(answer.code(), "CELL_REFUSED");
    assert!(b.seen().is_empty());
    assert!(fleet.admin("/metrics").await.body.contains("cell_router_untrusted_mappings"));
    fleet.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_that_a_gate_could_not_let_in_is_sent_again_until_it_is() {
    let gate = FakeGate::start(|request, number| async move {
        if number < 5 {
            return not_executed(wire::Code::Fenced);
        }
        let body = request.into_body().collect().await.unwrap().to_bytes();
        text(StatusCode::OK, &String::from_utf8_lossy(&body))
    })
    .await;
    let control = FakeControl::new(1);
    control.set_cell("a", std::slice::from_ref(&gate.address));
    control.set_tenant("t-1", "a", 1, |_| {});
    let fleet = Fleet::start(control, |_| {}).await;
    let answer = post(fleet.address(), "t-1", "/docs", "whole").await;
    assert_eq!((answer.status, answer.body.as_str()), (StatusCode::OK, "whole"));
    assert_eq!(gate.seen().len(), 6);
    fleet.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_write_goes_to_the_new_owner_as_soon_as_the_table_knows_it() {
    let a = FakeGate::start(|_, _| async { not_executed(wire::Code::Fenced) }).await;
    let b = FakeGate::echo("b").await;
    let control = FakeControl::new(1);
    control.set_cell("a", std::slice::from_ref(&a.address));
    control.set_cell("b", std::slice::from_ref(&b.address));
    control.set_tenant("t-1", "a", 1, |_| {});
    let fleet = Fleet::start(control, |_| {}).await;
    let address = fleet.address();
    let write = tokio::spawn(async move { post(address, "t-1", "/", "x").await });
    until("the old owner has refused", || a.seen().len() > 1).await;
    fleet.control.set_tenant("t-1", "b", 2, |mapping| mapping.state = MappingState::Cutover);
    assert_eq!(write.await.unwrap().body, "b:x");
    fleet.stop().await;
}

async fn held(hold: Hold, change: impl FnOnce(&mut cell_router::Options)) -> (FakeGate, Fleet) {
    let gate = FakeGate::echo("a").await;
    let control = FakeControl::new(1);
    control.set_cell("a", std::slice::from_ref(&gate.address));
    let mapping = control.set_tenant("t-1", "a", 1, |mapping| {
        mapping.state = MappingState::Migrating;
        mapping.hold = hold;
    });
    control.set_tenant("t-2", "a", 1, |_| {});
    let fleet = Fleet::start(control, change).await;
    fleet.until_believed(&mapping).await;
    (gate, fleet)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_held_write_waits_with_its_body_unread_while_reads_and_others_pass() {
    let (gate, fleet) = held(Hold::Writes, |_| {}).await;
    let mut write = tokio::net::TcpStream::connect(fleet.address()).await.unwrap();
    let head = "POST /docs HTTP/1.1\r\nhost: t-1.example.com\r\ncontent-length: 4\r\nexpect: 100-continue\r\n\r\n";
    write.write_all(head.as_bytes()).await.unwrap();
    until("the write waits", || fleet.router.held_requests() == 1).await;
    assert_eq!(get(fleet.address(), "t-1", "/").await.status, StatusCode::OK);
    assert_eq!(post(fleet.address(), "t-2", "/", "other").await.body, "a:other");
    assert_eq!(gate.seen().len(), 2, "the write is not among them");
    let mut nothing = [0; 1];
    assert!(write.try_read(&mut nothing).is_err(), "no 100 Continue: nobody has asked for the body");
    fleet.control.set_tenant("t-1", "a", 1, |mapping| mapping.state = MappingState::Migrating);
    assert!(read_until(&mut write, "\r\n\r\n").await.starts_with("HTTP/1.1 100 Continue"));
    write.write_all(b"late").await.unwrap();
    assert!(read_until(&mut write, "a:late").await.starts_with("HTTP/1.1 200 OK"));
    assert_eq!(fleet.router.held_requests(), 0);
    fleet.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_waits_between_two_owners_and_goes_on_at_the_new_one() {
    let (_gate, fleet) = held(Hold::All, |_| {}).await;
    let b = FakeGate::echo("b").await;
    fleet.control.set_cell("b", std::slice::from_ref(&b.address));
    let address = fleet.address();
    let read = tokio::spawn(async move { get(address, "t-1", "/").await });
    let write = tokio::spawn(async move { post(address, "t-1", "/", "w").await });
    until("both wait", || fleet.router.held_requests() == 2).await;
    fleet.control.set_tenant("t-1", "b", 2, |mapping| mapping.state = MappingState::Cutover);
    assert_eq!(read.await.unwrap().body, "b:");
    assert_eq!(write.await.unwrap().body, "b:w");
    fleet.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn waiting_ends_at_its_deadline_and_is_bounded() {
    let (gate, fleet) = held(Hold::All, |options| {
        options.timeouts.hold = Duration::from_millis(400);
        options.limits.held_per_tenant_max = 2;
    })
    .await;
    let address = fleet.address();
    let waiting: Vec<_> =
        (0..2).map(|_| tokio::spawn(async move { post(address, "t-1", "/", "w").await })).collect();
    until("two wait", || fleet.router.held_requests() == 2).await;
    let overflow = post(fleet.address(), "t-1", "/", "w").await;
    assert_eq!((overflow.status, overflow.code().as_str()), (StatusCode::SERVICE_UNAVAILABLE, "TENANT_MOVING"));
    assert!(overflow.body.contains("2 of its requests wait"), "{}", overflow.body);
    for waiting in waiting {
        let late = waiting.await.unwrap();
        assert_eq!((late.status, late.code().as_str()), (StatusCode::SERVICE_UNAVAILABLE, "TENANT_MOVING"));
        assert!(late.body.contains("has waited for"), "{}", late.body);
        assert_eq!(late.headers["retry-after"], "1");
    }
    assert!(gate.seen().is_empty());
    fleet.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_leaves_does_not_go_on_waiting() {
    let (_gate, fleet) = held(Hold::All, |_| {}).await;
    let address = fleet.address();
    let reading = tokio::spawn(async move { get(address, "t-1", "/").await });
    until("it waits", || fleet.router.held_requests() == 1).await;
    reading.abort();
    until("it does not wait any more", || fleet.router.held_requests() == 0).await;
    fleet.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_that_is_just_being_made_is_waited_for() {
    let gate = FakeGate::echo("a").await;
    let control = FakeControl::new(1);
    control.set_cell("a", std::slice::from_ref(&gate.address));
    let fleet = Fleet::start(control, |_| {}).await;
    let placed = fleet.control.set_tenant("t-9", "a", 1, |mapping| mapping.state = MappingState::Provisioning);
    fleet.until_believed(&placed).await;
    let address = fleet.address();
    let write = tokio::spawn(async move { post(address, "t-9", "/", "first").await });
    until("it waits", || fleet.router.held_requests() == 1).await;
    fleet.control.set_tenant("t-9", "a", 1, |_| {});
    assert_eq!(write.await.unwrap().body, "a:first");
    fleet.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_tenant_is_gone() {
    let (gate, fleet) = held(Hold::None, |_| {}).await;
    let deleted = fleet.control.set_tenant("t-1", "a", 1, |mapping| mapping.state = MappingState::Deleted);
    fleet.until_believed(&deleted).await;
    let answer = get(fleet.address(), "t-1", "/").await;
    assert_eq!((answer.status, answer.code().as_str()), (StatusCode::GONE, "TENANT_DELETED"));
    assert!(gate.seen().is_empty());
    fleet.stop().await;
}

/// Bits of a signed mapping in flight: whatever arrives instead of it, the router believes only what was signed.
#[tokio::test(flavor = "multi_thread")]
async fn no_redirect_that_was_tampered_with_is_believed() {
    let control = FakeControl::new(1);
    let b = FakeGate::echo("b").await;
    control.set_cell("b", std::slice::from_ref(&b.address));
    let newer = control.set_tenant("t-1", "b", 2, |mapping| mapping.rev = cell_model::Rev(9));
    let good = control.signed(&newer).to_header();
    let tampered = move |number: usize| {
        let mut bytes = good.clone().into_bytes();
        match number % 4 {
            // Another letter of base64url, somewhere.
            0 => {
                let at = number * 7 % bytes.len();
                bytes[at] = if bytes[at] == b'A' { b'B' } else { b'A' };
            }
            1 => bytes.truncate(number * 5 % bytes.len()),
            2 => bytes.extend_from_slice(b"AAAA"),
            _ => bytes = vec![0xff; number % 300],
        }
        (bytes != good.as_bytes()).then_some(bytes)
    };
    let a = FakeGate::start(move |_, number| {
        let header = tampered(number);
        async move {
            let mut response = text(StatusCode::MISDIRECTED_REQUEST, "not here");
            wire::mark_not_executed(response.headers_mut(), wire::Code::Stale);
            if let Some(header) = header.and_then(|header| http::HeaderValue::from_bytes(&header).ok()) {
                response.headers_mut().insert(&wire::MAPPING, header);
            }
            response
        }
    })
    .await;
    let ours = FakeControl::new(1);
    ours.set_cell("a", std::slice::from_ref(&a.address));
    ours.set_tenant("t-1", "a", 1, |_| {});
    let fleet = Fleet::start(ours, |options| options.timeouts.hold = Duration::from_millis(300)).await;
    // Thirty at once are below what a cell is given before requests queue for their turn.
    let mut answers = Vec::new();
    for _ in 0..2 {
        answers.extend(futures::future::join_all((0..30).map(|_| get(fleet.address(), "t-1", "/"))).await);
    }
    let other = answers.iter().find(|answer| answer.code() != "CELL_REFUSED");
    assert!(other.is_none(), "{other:?}");
    assert!(a.seen().len() >= 120, "{} redirects", a.seen().len());
    assert_eq!((fleet.epoch_of("t-1"), b.seen().len()), (Some(1), 0));
    fleet.stop().await;
}
