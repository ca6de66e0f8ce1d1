//! What a router refuses, each time with a code and nothing forwarded.

use std::time::Duration;

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body::Frame;
use http_body_util::StreamBody;

use crate::client::{post, raw, request, send, send_h2};
use crate::control::FakeControl;
use crate::fleet::Fleet;
use crate::gate::FakeGate;

async fn fleet(change: impl FnOnce(&mut cell_router::Options)) -> (FakeGate, Fleet) {
    let gate = FakeGate::echo("a").await;
    let control = FakeControl::new(1);
    control.set_cell("a", std::slice::from_ref(&gate.address));
    control.set_tenant("t-1", "a", 1, |_| {});
    let fleet = Fleet::start(control, change).await;
    (gate, fleet)
}

#[tokio::test(flavor = "multi_thread")]
async fn ambiguous_and_malformed_requests_get_a_code_and_go_nowhere() {
    let (gate, fleet) = fleet(|_| {}).await;
    let cases = [
        ("GET / HTTP/1.1\r\nHost: t-1.example.com\r\nX-Tenant-ID: t-2\r\n\r\n", "400", "TENANT_AMBIGUOUS"),
        ("GET / HTTP/1.1\r\nHost: x\r\nX-Tenant-ID: t-1\r\nX-Tenant-ID: t-1\r\n\r\n", "400", "TENANT_AMBIGUOUS"),
        ("GET / HTTP/1.1\r\nHost: x\r\n\r\n", "400", "TENANT_MISSING"),
        ("GET / HTTP/1.1\r\nHost: T_1.example.com\r\n\r\n", "400", "TENANT_INVALID"),
        ("GET / HTTP/1.1\r\nHost: x\r\nX-Tenant-ID: ../t-1\r\n\r\n", "400", "TENANT_INVALID"),
        ("GET / HTTP/1.1\r\nX-Tenant-ID: t-1\r\n\r\n", "400", "MESSAGE_AMBIGUOUS"),
        ("GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\nX-Tenant-ID: t-1\r\n\r\n", "400", "MESSAGE_AMBIGUOUS"),
        ("GET http://b/ HTTP/1.1\r\nHost: a\r\nX-Tenant-ID: t-1\r\n\r\n", "400", "MESSAGE_AMBIGUOUS"),
        ("GET / HTTP/1.1\r\nHost: t-1.example.com\r\nX_Tenant_ID: t-1\r\n\r\n", "400", "MESSAGE_AMBIGUOUS"),
        ("GET / HTTP/1.1\r\nHost: t-1.example.com\r\nConnection: x-tenant-id\r\n\r\n", "400", "MESSAGE_AMBIGUOUS"),
        ("CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n", "501", "METHOD_UNSUPPORTED"),
    ];
    for (message, status, code) in cases {
        let answer = raw(fleet.address(), message.as_bytes(), code).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{message:?}: {answer}");
        assert!(answer.contains(&format!("\"code\":\"{code}\"")), "{message:?}: {answer}");
        let head = answer.to_ascii_lowercase();
        assert!(head.contains("application/problem+json") && head.contains("x-request-id"), "{answer}");
    }
    for malformed in ["GET /\r\n\r\n", "GET / HTTP/1.1\r\nHost: a\r\nbad header\r\n\r\n", "\0\0\0\0\r\n\r\n"] {
        let answer = raw(fleet.address(), malformed.as_bytes(), "HTTP/1.1 400").await;
        assert!(answer.starts_with("HTTP/1.1 400"), "{malformed:?}: {answer}");
    }
    assert!(gate.seen().is_empty());
    fleet.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_over_the_limit_is_refused_by_its_length_and_by_its_size() {
    let (gate, fleet) = fleet(|options| options.limits.body_bytes_max = 100_000).await;
    assert_eq!(post(fleet.address(), "t-1", "/", vec![0; 100_000]).await.status, StatusCode::OK);
    let answer = post(fleet.address(), "t-1", "/", vec![0; 100_001]).await;
    assert_eq!((answer.status, answer.code().as_str()), (StatusCode::PAYLOAD_TOO_LARGE, "BODY_TOO_LARGE"));
    assert_eq!(gate.seen().len(), 1, "refused by its length, it was not forwarded");
    let pieces = (0..20).map(|_| Ok::<_, std::io::Error>(Frame::data(Bytes::from(vec![0; 10_000]))));
    let body = StreamBody::new(futures::stream::iter(pieces));
    let unknown_length =
        Request::post("http://t-1.example.com/").body(http_body_util::BodyExt::boxed(body)).unwrap();
    let answer = send_h2(fleet.address(), unknown_length).await;
    assert_eq!((answer.status, answer.code().as_str()), (StatusCode::PAYLOAD_TOO_LARGE, "BODY_TOO_LARGE"));
    fleet.stop().await;
}

/// A reset behind the answer would be taken for the answer by clients that are still sending (curl 7.88).
#[tokio::test(flavor = "multi_thread")]
async fn over_http_2_who_is_refused_within_a_body_may_send_on_for_a_while() {
    const SENT: usize = 300_000;
    let (_gate, fleet) = fleet(|options| options.limits.body_bytes_max = 100_000).await;
    for sends_on in [true, false] {
        let stream = tokio::net::TcpStream::connect(fleet.address()).await.unwrap();
        let (mut client, connection) = h2::client::handshake(stream).await.unwrap();
        let driving = tokio::spawn(connection);
        let head = Request::post("http://t-1.example.com/").header("content-length", SENT).body(()).unwrap();
        let (answer, mut sending) = client.send_request(head, false).unwrap();
        assert_eq!(answer.await.unwrap().status(), StatusCode::PAYLOAD_TOO_LARGE);
        let mut left = if sends_on { SENT } else { 0 };
        while left > 0 {
            sending.reserve_capacity(left.min(16 << 10));
            let room = std::future::poll_fn(|cx| sending.poll_capacity(cx)).await.unwrap().unwrap();
            left -= room;
            sending.send_data(vec![0; room].into(), left == 0).unwrap();
        }
        if !sends_on {
            // Not for ever.
            let reset = std::future::poll_fn(|cx| sending.poll_reset(cx));
            let reset = tokio::time::timeout(std::time::Duration::from_secs(20), reset).await.unwrap().unwrap();
            assert_eq!(reset, h2::Reason::NO_ERROR);
        }
        driving.abort();
    }
    fleet.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn heads_that_are_too_large_or_too_many_are_431() {
    let (gate, fleet) = fleet(|options| options.limits.header_bytes_max = 8_192).await;
    let mut large = request("GET", "t-1", "/", "");
    large.headers_mut().insert("x-large", "x".repeat(20_000).parse().unwrap());
    assert_eq!(send(fleet.address(), large).await.status, 431);
    let mut many = request("GET", "t-1", "/", "");
    for n in 0..101 {
        many.headers_mut().insert(http::HeaderName::try_from(format!("x-{n}")).unwrap(), "1".parse().unwrap());
    }
    assert_eq!(send(fleet.address(), many).await.status, 431);
    // Over HTTP/2 the same is said, of heads of up to four times the limit; what is larger h2 answers itself.
    let over_h2 = |name: String, bytes: usize| {
        let target = Request::get("http://t-1.example.com/").header(name, "y".repeat(bytes));
        target.body(http_body_util::Empty::<Bytes>::new()).unwrap()
    };
    let mut many = over_h2("x-0".into(), 1);
    for n in 1..=101 {
        many.headers_mut().insert(http::HeaderName::try_from(format!("x-{n}")).unwrap(), "1".parse().unwrap());
    }
    for head in [over_h2("x-large".into(), 8_192), over_h2("x-large".into(), 30_000), many] {
        let answer = send_h2(fleet.address(), head).await;
        assert_eq!((answer.status.as_u16(), answer.code().as_str()), (431, "HEADER_TOO_LARGE"));
        assert_eq!(answer.headers["content-type"], "application/problem+json");
        assert!(answer.headers.contains_key("x-request-id"), "{answer:?}");
    }
    let counted = fleet.metric("cell_router_requests_total", "outcome=\"HEADER_TOO_LARGE\"").await;
    assert!((counted - 5.0).abs() < 0.5, "{counted}");
    let bare = send_h2(fleet.address(), over_h2("x-large".into(), 60_000)).await;
    assert_eq!((bare.status.as_u16(), bare.body.as_str()), (431, ""), "that is h2's own");
    assert_eq!(send_h2(fleet.address(), over_h2("x-small".into(), 7_000)).await.status, StatusCode::OK);
    assert_eq!(gate.seen().len(), 1);
    fleet.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_stops_in_the_middle_of_a_body_or_a_head_is_not_waited_for_for_ever() {
    let (_gate, fleet) = fleet(|options| {
        options.timeouts.body_idle = Duration::from_millis(200);
        options.timeouts.header = Duration::from_millis(200);
    })
    .await;
    let half = "POST / HTTP/1.1\r\nHost: t-1.example.com\r\nContent-Length: 10\r\n\r\nhalf";
    let answer = raw(fleet.address(), half.as_bytes(), "BODY_TIMEOUT").await;
    assert!(answer.starts_with("HTTP/1.1 408"), "{answer}");
    // The reads end because the router closes: `raw` waits ten seconds at the most.
    for half in ["", "P", "PRI * HTTP/2.0\r\n", "GET / HTTP/1.1\r\nHost: t-1"] {
        raw(fleet.address(), half.as_bytes(), "never").await;
    }
    fleet.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cell_that_does_not_answer_in_time_is_504() {
    let gate = FakeGate::start(|_, _| std::future::pending()).await;
    let control = FakeControl::new(1);
    control.set_cell("a", std::slice::from_ref(&gate.address));
    control.set_tenant("t-1", "a", 1, |_| {});
    let fleet = Fleet::start(control, |options| options.timeouts.answer = Duration::from_millis(100)).await;
    let answer = post(fleet.address(), "t-1", "/", "x").await;
    assert_eq!((answer.status, answer.code().as_str()), (StatusCode::GATEWAY_TIMEOUT, "CELL_TIMEOUT"));
    assert_eq!(gate.seen().len(), 1, "it may have run, so it is not sent again");
    fleet.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_admin_server_says_what_it_does_not_know() {
    let (_gate, fleet) = fleet(|_| {}).await;
    for (path, status, code) in [
        ("/nothing", StatusCode::NOT_FOUND, "PATH_UNKNOWN"),
        ("/debug/tenant/nobody", StatusCode::NOT_FOUND, "TENANT_UNKNOWN"),
        ("/debug/tenant/NO", StatusCode::BAD_REQUEST, "TENANT_INVALID"),
    ] {
        let answer = fleet.admin(path).await;
        assert_eq!((answer.status, answer.code().as_str()), (status, code));
    }
    assert_eq!(fleet.admin("/livez").await.status, StatusCode::OK);
    fleet.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_router_that_is_full_says_so_and_lets_clients_in_once_others_leave() {
    let (_gate, fleet) = fleet(|options| {
        options.threads = 1;
        options.limits.connections_max = 1;
    })
    .await;
    let mut first = tokio::net::TcpStream::connect(fleet.address()).await.unwrap();
    let ask = "GET / HTTP/1.1\r\nhost: t-1.example.com\r\n\r\n";
    tokio::io::AsyncWriteExt::write_all(&mut first, ask.as_bytes()).await.unwrap();
    crate::client::read_until(&mut first, "a:").await;
    assert!((fleet.metric("cell_router_connections_full_total", "").await - 1.0).abs() < f64::EPSILON);
    let address = fleet.address();
    let second = tokio::spawn(async move { crate::client::get(address, "t-1", "/").await });
    drop(first);
    assert_eq!(second.await.unwrap().status, StatusCode::OK);
    fleet.stop().await;
}
