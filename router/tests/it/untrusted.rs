//! Gates with which TLS does not come about: the client is told what is wrong and not where, and the operator all of it.

use cell_router::{UpstreamProtocol, UpstreamTlsOptions};
use http::StatusCode;

use crate::client::{Answer, get, post};
use crate::control::FakeControl;
use crate::fleet::Fleet;
use crate::gate::FakeGate;
use crate::secure::Authority;

/// What a client is answered whose cell has this one instance, and what the router remembers of it.
async fn ask(instance: &str, upstream: UpstreamTlsOptions, protocol: UpstreamProtocol) -> (Answer, String) {
    let control = FakeControl::new(1);
    control.set_cell("a", &[instance.to_owned()]);
    control.set_tenant("t-1", "a", 1, |_| {});
    let fleet = Fleet::start(control, |options| {
        options.upstream.tls = Some(upstream);
        options.upstream.protocol = protocol;
    })
    .await;
    let answer = post(fleet.address(), "t-1", "/", "x").await;
    let id = answer.headers["x-request-id"].to_str().unwrap();
    let record: serde_json::Value =
        serde_json::from_str(&fleet.admin(&format!("/debug/request/{id}")).await.body).unwrap();
    fleet.stop().await;
    (answer, record["detail"].as_str().unwrap().to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_with_a_gate_s_certificate_is_named_and_its_address_is_for_operators() {
    let (authority, other) = (Authority::new(), Authority::new());
    let gate = FakeGate::echo("a").await;
    let ca = authority.path("ca.pem");
    let good = authority.sign("gate", &["gate.internal"]);
    let old = authority.sign_until("old", &["gate.internal"], 2_021);
    let tls = crate::tls_gate::start(&gate.address, &good, &ca).await;
    let expired = crate::tls_gate::start(&gate.address, &old, &ca).await;
    let own = authority.sign("router", &["router.internal"]);
    let upstream = |name: &str| UpstreamTlsOptions {
        ca_file: ca.clone(),
        certificate: Some(own.clone()),
        server_name: Some(name.into()),
    };
    let elsewhere = UpstreamTlsOptions { ca_file: other.path("ca.pem"), ..upstream("gate.internal") };
    let file = other.path("ca.pem").display().to_string();
    for (instance, options, code, text) in [
        (&tls, elsewhere, "GATE_CERTIFICATE_UNTRUSTED", file.as_str()),
        (&expired, upstream("gate.internal"), "GATE_CERTIFICATE_NOT_VALID", "expired at 2021-01-01T00:00:00Z"),
        (
            &tls,
            upstream("other.internal"),
            "GATE_CERTIFICATE_NAME",
            "for gate.internal, and not for other.internal",
        ),
        (&gate.address, upstream("gate.internal"), "GATE_NOT_TLS", "TLS"),
    ] {
        let (answer, told) = ask(instance, options, UpstreamProtocol::Auto).await;
        let said = (answer.status, answer.code());
        assert_eq!(said, (StatusCode::SERVICE_UNAVAILABLE, "CELL_UNTRUSTED".into()), "{code}: {told}");
        assert!(answer.body.contains(code) && !answer.body.contains("127.0.0.1"), "{}", answer.body);
        assert!(told.contains(code) && told.contains(text) && told.contains(instance.as_str()), "{code}: {told}");
    }
    assert!(gate.seen().is_empty());
}

/// With TLS 1.3 the gate's refusal comes after the handshake, where a request was sent already. No gate has read it.
#[tokio::test(flavor = "multi_thread")]
async fn a_gate_that_does_not_take_the_router_s_certificate_has_not_run_the_request() {
    let (authority, other) = (Authority::new(), Authority::new());
    let gate = FakeGate::echo("a").await;
    let files = authority.sign("gate", &["gate.internal"]);
    let front = crate::tls_gate::start(&gate.address, &files, &authority.path("ca.pem")).await;
    for protocol in [UpstreamProtocol::Http1, UpstreamProtocol::Http2] {
        for (certificate, text) in [
            (None, "it wants a certificate of this router"),
            (Some(other.sign("router", &["router"])), "does not accept"),
        ] {
            let ca_file = authority.path("ca.pem");
            let options = UpstreamTlsOptions { ca_file, certificate, server_name: Some("gate.internal".into()) };
            let (answer, told) = ask(&front, options, protocol).await;
            assert_eq!(answer.code(), "CELL_UNTRUSTED", "{protocol:?}: {told}");
            assert!(told.contains("ROUTER_CERTIFICATE_REFUSED") && told.contains(text), "{protocol:?}: {told}");
        }
    }
    assert!(gate.seen().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cell_that_takes_no_connections_is_not_located_for_clients() {
    let control = FakeControl::new(1);
    control.set_cell("a", &["127.0.0.1:1".to_owned(), "127.0.0.1:2".to_owned()]);
    control.set_tenant("t-1", "a", 1, |_| {});
    let fleet = Fleet::start(control, |_| {}).await;
    let answer = get(fleet.address(), "t-1", "/").await;
    assert_eq!((answer.status, answer.code().as_str()), (StatusCode::SERVICE_UNAVAILABLE, "CELL_UNREACHABLE"));
    assert!(answer.body.contains("2 tried") && !answer.body.contains("127.0.0.1"), "{}", answer.body);
    let id = answer.headers["x-request-id"].to_str().unwrap();
    let record = fleet.admin(&format!("/debug/request/{id}")).await.body;
    assert!(record.contains("127.0.0.1:1: ") && record.contains("127.0.0.1:2: "), "{record}");
    fleet.stop().await;
}
