//! A gate before an application that it speaks HTTP with: here a server beside it, in the same process.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use cell_gate::{BoxError, Gate, GateOptions, NoMappings, Relay, ResponseBody, full};
use cell_protos::v1::Role;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Version};
use http_body::Frame;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, oneshot};
use tokio::task::{JoinHandle, JoinSet};
use tokio_util::sync::CancellationToken;

use crate::{FakeAgent, code, eventually, send, stamped};

/// Where it listens, and what ends it and its connections when it is aborted.
struct App {
    address: SocketAddr,
    running: JoinHandle<()>,
    /// Requests that it will never answer.
    hanging: Arc<AtomicUsize>,
}

impl App {
    async fn at(address: &str) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let hanging = Arc::<AtomicUsize>::default();
        let hang = Arc::clone(&hanging);
        let running = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let hang = Arc::clone(&hang);
                connections.spawn(async move {
                    let answer = service_fn(move |request| answer(request, Arc::clone(&hang)));
                    let builder = auto::Builder::new(TokioExecutor::new());
                    let served = builder.serve_connection_with_upgrades(TokioIo::new(stream), answer);
                    // A connection that breaks on purpose is what some of the tests are about.
                    let _ended = served.await;
                });
            }
        });
        Self { address, running, hanging }
    }

    async fn end(self) {
        self.running.abort();
        let _aborted = self.running.await;
    }
}

/// Gives back what it got, and tells what it saw of the head.
async fn answer(
    mut request: Request<Incoming>,
    hanging: Arc<AtomicUsize>,
) -> Result<Response<ResponseBody>, BoxError> {
    let seen = format!("{} {} {:?}", request.method(), request.uri().path_and_query().unwrap(), request.version());
    let fields = request.headers().clone();
    let mut response = match request.uri().path() {
        // Until its connection ends.
        "/hang" => {
            hanging.fetch_add(1, Ordering::SeqCst);
            std::future::pending().await
        }
        "/fenced" => {
            let mut response = Response::new(full("refused"));
            *response.status_mut() = StatusCode::CONFLICT;
            response.headers_mut().insert("cell-not-executed", HeaderValue::from_static("1"));
            response.headers_mut().insert("cell-code", HeaderValue::from_static("FENCED"));
            response
        }
        "/break" => {
            request.into_body().collect().await?;
            return Err("broken on purpose".into());
        }
        "/chat" => {
            let upgraded = hyper::upgrade::on(&mut request);
            tokio::spawn(async move {
                let (mut read, mut write) = tokio::io::split(TokioIo::new(upgraded.await.unwrap()));
                let _ended = tokio::io::copy(&mut read, &mut write).await;
                // It does not close its side: the gate has to let go by itself.
                std::future::pending::<()>().await;
            });
            let mut response = Response::new(full(""));
            *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
            response.headers_mut().insert("connection", HeaderValue::from_static("upgrade"));
            response.headers_mut().insert("upgrade", HeaderValue::from_static("websocket"));
            response
        }
        "/shop.Orders/Watch" => {
            let mut trailers = HeaderMap::new();
            trailers.insert("grpc-status", HeaderValue::from_static("0"));
            let frames = [Frame::data(Bytes::from_static(b"message")), Frame::trailers(trailers)];
            let frames = futures::stream::iter(frames.map(Ok::<_, BoxError>));
            Response::new(StreamBody::new(frames).boxed_unsync())
        }
        _ => Response::new(request.into_body().map_err(Into::into).boxed_unsync()),
    };
    let headers = response.headers_mut();
    headers.insert("x-seen", seen.parse().unwrap());
    for name in ["cell-tenant", "cell-uid", "cell-epoch", "host", "x-mine", "x-forwarded-host"] {
        if let Some(value) = fields.get(name) {
            headers.insert(http::HeaderName::try_from(format!("x-seen-{name}")).unwrap(), value.clone());
        }
    }
    headers.insert("cell-made-up", HeaderValue::from_static("1"));
    Ok(response)
}

struct Relayed {
    agent: FakeAgent,
    gate: Gate,
    shutdown: CancellationToken,
}

impl Relayed {
    async fn to(application: SocketAddr) -> Self {
        Self::by(Relay::to(&format!("http://{application}")).unwrap()).await
    }

    async fn by(relay: Relay) -> Self {
        let agent = FakeAgent::start(Duration::from_secs(3)).await;
        let shutdown = CancellationToken::new();
        let mut options = GateOptions::new(agent.address.to_string(), "g1", "127.0.0.1:0");
        options.wait.wait_ms = 50;
        options.http.body_bytes = 2_048;
        let gate = Gate::start(options, Arc::new(NoMappings), relay, shutdown.clone()).await.unwrap();
        let handle = gate.handle();
        eventually("the gate is attached", || handle.is_open()).await;
        agent.grant("t", (1, 1), Role::Owner);
        eventually("the grant has come", || handle.counts().tenants == 1).await;
        Self { agent, gate, shutdown }
    }

    async fn ask(&self, method: Method, path: &str, body: &'static str) -> Response<Incoming> {
        send(self.gate.address(), stamped(method, path, "t", 1, body)).await
    }

    async fn readiness(&self) -> (StatusCode, String) {
        let request = Request::get("/readyz").header("host", "gate").body(Full::default()).unwrap();
        let response = send(self.gate.address(), request).await;
        (response.status(), text(response).await)
    }

    async fn end(self) {
        self.shutdown.cancel();
        self.gate.stopped().await;
    }
}

async fn text(response: Response<Incoming>) -> String {
    String::from_utf8(response.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap()
}

async fn problem(response: Response<Incoming>) -> (StatusCode, String) {
    let status = response.status();
    let document: serde_json::Value = serde_json::from_str(&text(response).await).unwrap();
    (status, document["code"].as_str().unwrap().to_owned())
}

#[tokio::test]
async fn a_request_goes_on_to_the_application_and_its_answer_comes_back() {
    let app = App::at("127.0.0.1:0").await;
    let cell = Relayed::to(app.address).await;
    let mut request = stamped(Method::POST, "/things/1?a=b%20c", "t", 1, "hello");
    request.headers_mut().insert("connection", HeaderValue::from_static("x-mine"));
    request.headers_mut().insert("x-mine", HeaderValue::from_static("of this connection"));
    let answered = send(cell.gate.address(), request).await;
    assert_eq!(answered.status(), StatusCode::OK);
    let headers = answered.headers().clone();
    assert_eq!(headers["x-seen"], "POST /things/1?a=b%20c HTTP/1.1");
    assert_eq!(
        (&headers["x-seen-cell-tenant"], &headers["x-seen-cell-epoch"]),
        (&"t".parse().unwrap(), &"1".parse().unwrap())
    );
    assert_eq!(headers["x-seen-host"], "cell", "as the client has said it");
    assert!(!headers.contains_key("x-seen-x-mine") && !headers.contains_key("cell-made-up"), "{headers:?}");
    assert_eq!(text(answered).await, "hello");
    assert_eq!(cell.readiness().await.0, StatusCode::OK);
    cell.end().await;
    app.end().await;
}

/// An application that takes one request, says something before its answer, waits until it may go on, says it again, and answers.
struct Hinting {
    address: SocketAddr,
    go_on: oneshot::Sender<()>,
    running: JoinHandle<TcpStream>,
}

impl Hinting {
    async fn start() -> Self {
        const HINT: &[u8] =
            b"HTTP/1.1 103 Early Hints\r\nlink: </a.css>\r\ncell-made-up: 1\r\nkeep-alive: timeout=5\r\n\r\n";
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (go_on, goes_on) = oneshot::channel();
        let running = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut head = [0; 1_024];
            assert!(stream.read(&mut head).await.unwrap() > 0);
            stream.write_all(HINT).await.unwrap();
            goes_on.await.unwrap();
            stream.write_all(HINT).await.unwrap();
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\ndone").await.unwrap();
            stream
        });
        Self { address, go_on, running }
    }
}

type Hints = mpsc::UnboundedReceiver<(StatusCode, HeaderMap)>;

/// Asks, and hears what comes before the answer.
fn ask_for_hints(cell: &Relayed, method: Method) -> (Hints, JoinHandle<Response<Incoming>>) {
    let (heard, hints) = mpsc::unbounded_channel();
    let mut request = stamped(method, "/page", "t", 1, "");
    hyper::ext::on_informational(&mut request, move |said| {
        heard.send((said.status(), said.headers().clone())).unwrap();
    });
    let address = cell.gate.address();
    (hints, tokio::spawn(async move { send(address, request).await }))
}

#[tokio::test]
async fn what_the_application_says_before_its_answer_comes_before_it() {
    let app = Hinting::start().await;
    let cell = Relayed::to(app.address).await;
    let (mut hints, answered) = ask_for_hints(&cell, Method::POST);
    let (status, hint) = hints.recv().await.unwrap();
    assert_eq!((status, &hint["link"], hint.len()), (StatusCode::EARLY_HINTS, &"</a.css>".parse().unwrap(), 1));
    app.go_on.send(()).unwrap();
    let answered = answered.await.unwrap();
    assert_eq!(answered.status(), StatusCode::OK);
    assert_eq!(text(answered).await, "done");
    assert_eq!(hints.recv().await.unwrap().0, StatusCode::EARLY_HINTS);
    app.running.await.unwrap();
    cell.end().await;
}

#[tokio::test]
async fn what_a_read_says_once_its_tenant_is_fenced_is_left_out() {
    let app = Hinting::start().await;
    let cell = Relayed::to(app.address).await;
    let (mut hints, answered) = ask_for_hints(&cell, Method::GET);
    assert_eq!(hints.recv().await.unwrap().0, StatusCode::EARLY_HINTS);
    cell.agent.grant("t", (1, 1), Role::Fenced);
    cell.agent.grant("u", (1, 1), Role::Owner);
    let handle = cell.gate.handle();
    eventually("both have come", || handle.counts().tenants == 2).await;
    app.go_on.send(()).unwrap();
    let answered = answered.await.unwrap();
    assert_eq!((answered.status(), code(&answered)), (StatusCode::SERVICE_UNAVAILABLE, "FENCED"));
    assert!(hints.recv().await.is_none(), "it may be what a former owner has read");
    app.running.await.unwrap();
    cell.end().await;
}

#[tokio::test]
async fn what_the_data_layer_behind_it_has_refused_the_gate_answers() {
    let app = App::at("127.0.0.1:0").await;
    let cell = Relayed::to(app.address).await;
    let refused = cell.ask(Method::POST, "/fenced", "").await;
    assert_eq!((refused.status(), code(&refused)), (StatusCode::SERVICE_UNAVAILABLE, "FENCED"));
    assert_eq!(refused.headers()["cell-not-executed"], "1");
    assert_ne!(text(refused).await, "refused");
    cell.end().await;
    app.end().await;
}

#[tokio::test]
async fn an_application_that_is_down_has_executed_nothing_and_is_met_again_when_it_is_back() {
    let app = App::at("127.0.0.1:0").await;
    let address = app.address;
    let cell = Relayed::to(address).await;
    assert_eq!(cell.ask(Method::POST, "/a", "").await.status(), StatusCode::OK);
    app.end().await;
    // A connection that rests may take the first of them along; no more than that.
    let mut refused = cell.ask(Method::POST, "/a", "").await;
    if code(&refused).is_empty() {
        refused = cell.ask(Method::POST, "/a", "").await;
    }
    assert_eq!((refused.status(), code(&refused)), (StatusCode::SERVICE_UNAVAILABLE, "APPLICATION_DOWN"));
    assert_eq!(refused.headers()["cell-not-executed"], "1");
    let (status, says) = cell.readiness().await;
    assert_eq!(
        (status, says.as_str()),
        (StatusCode::SERVICE_UNAVAILABLE, "the application takes no connections\n")
    );
    let app = App::at(&address.to_string()).await;
    assert_eq!(cell.ask(Method::POST, "/a", "").await.status(), StatusCode::OK);
    assert_eq!(cell.readiness().await.0, StatusCode::OK);
    cell.end().await;
    app.end().await;
}

#[tokio::test]
async fn a_write_whose_connection_breaks_may_have_run_and_a_read_may_be_asked_again() {
    let app = App::at("127.0.0.1:0").await;
    let cell = Relayed::to(app.address).await;
    let broken = cell.ask(Method::POST, "/break", "x").await;
    assert_eq!(problem(broken).await, (StatusCode::GATEWAY_TIMEOUT, "OUTCOME_UNKNOWN".into()));
    let broken = cell.ask(Method::GET, "/break", "").await;
    assert_eq!(problem(broken).await, (StatusCode::BAD_GATEWAY, "APPLICATION_FAILED".into()));
    eventually("nothing runs", || cell.gate.handle().counts().writes == 0).await;
    cell.end().await;
    app.end().await;
}

#[tokio::test]
async fn a_body_that_turns_out_too_long_is_the_clients_fault() {
    let app = App::at("127.0.0.1:0").await;
    let cell = Relayed::to(app.address).await;
    // Its length is not announced.
    let frames = (0..8).map(|_| Ok::<_, BoxError>(Frame::data(Bytes::from(vec![b'x'; 1_024]))));
    let body = StreamBody::new(futures::stream::iter(frames)).boxed_unsync();
    let (parts, _) = stamped(Method::PUT, "/break", "t", 1, "").into_parts();
    let stream = TcpStream::connect(cell.gate.address()).await.unwrap();
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let refused = sender.send_request(Request::from_parts(parts, body)).await.unwrap();
    assert_eq!(problem(refused).await, (StatusCode::PAYLOAD_TOO_LARGE, "BODY_TOO_LARGE".into()));
    cell.end().await;
    app.end().await;
}

/// A call of gRPC, as a router sends it.
async fn call(cell: &Relayed, path: &str, body: impl Into<Bytes>) -> Response<Incoming> {
    let mut request = stamped(Method::POST, path, "t", 1, body);
    request.headers_mut().insert("content-type", HeaderValue::from_static("application/grpc"));
    request.headers_mut().insert("te", HeaderValue::from_static("trailers"));
    *request.uri_mut() = format!("http://shop.example{path}").parse().unwrap();
    request.headers_mut().remove("host");
    let stream = TcpStream::connect(cell.gate.address()).await.unwrap();
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    sender.send_request(request).await.unwrap()
}

#[tokio::test]
async fn grpc_goes_over_http2_with_its_trailers_however_long_it_becomes() {
    let app = App::at("127.0.0.1:0").await;
    let cell = Relayed::to(app.address).await;
    let answered = call(&cell, "/shop.Orders/Watch", "").await;
    assert_eq!(answered.headers()["x-seen"], "POST /shop.Orders/Watch HTTP/2.0");
    let body = answered.into_body().collect().await.unwrap();
    assert_eq!(body.trailers().unwrap()["grpc-status"], "0");
    assert_eq!(body.to_bytes(), "message");
    let long = call(&cell, "/shop.Orders/Chat", vec![b'x'; 10_000]).await;
    assert_eq!(text(long).await.len(), 10_000, "more than a body may have: messages of a stream are no body");
    cell.end().await;
    app.end().await;
}

/// Clients of gRPC send again by themselves what was answered 502, 503 or 504.
#[tokio::test]
async fn a_call_that_may_have_run_is_answered_as_unknown() {
    let app = App::at("127.0.0.1:0").await;
    let cell = Relayed::to(app.address).await;
    let broken = call(&cell, "/break", "x").await;
    let headers = broken.headers();
    assert_eq!((broken.status(), &headers["grpc-status"]), (StatusCode::OK, &"2".parse().unwrap()));
    assert_eq!(
        (&headers["content-type"], &headers["cellway-code"]),
        (&"application/grpc".parse().unwrap(), &"OUTCOME_UNKNOWN".parse().unwrap())
    );
    assert!(!headers["grpc-message"].is_empty() && text(broken).await.is_empty());
    app.end().await;
    let mut refused = call(&cell, "/break", "x").await;
    if code(&refused).is_empty() {
        refused = call(&cell, "/break", "x").await;
    }
    assert_eq!(
        (refused.status(), code(&refused)),
        (StatusCode::SERVICE_UNAVAILABLE, "APPLICATION_DOWN"),
        "for the router"
    );
    cell.end().await;
}

#[tokio::test]
async fn a_tunnel_goes_on_to_the_application_and_a_hold_cuts_it() {
    let app = App::at("127.0.0.1:0").await;
    let cell = Relayed::to(app.address).await;
    let mut asking = stamped(Method::GET, "/chat", "t", 1, "");
    asking.headers_mut().insert("connection", HeaderValue::from_static("upgrade"));
    asking.headers_mut().insert("upgrade", HeaderValue::from_static("websocket"));
    let stream = TcpStream::connect(cell.gate.address()).await.unwrap();
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection.with_upgrades());
    let response = sender.send_request(asking).await.unwrap();
    assert_eq!(
        (response.status(), &response.headers()["upgrade"]),
        (StatusCode::SWITCHING_PROTOCOLS, &"websocket".parse().unwrap())
    );
    let mut tunnel = TokioIo::new(hyper::upgrade::on(response).await.unwrap());
    tunnel.write_all(b"hello").await.unwrap();
    let mut back = [0; 5];
    tunnel.read_exact(&mut back).await.unwrap();
    assert_eq!(&back, b"hello");
    assert_eq!(cell.gate.handle().counts().writes, 1);
    cell.agent.hold("t", (1, 1), 77);
    assert_eq!(tunnel.read(&mut back).await.unwrap(), 0, "it has ended");
    eventually("the hold is quiesced", || cell.agent.quiesced().contains(&77)).await;
    assert_eq!(cell.gate.handle().counts().writes, 0);
    cell.end().await;
    app.end().await;
}

/// A write goes on when its client has left: what hangs must not become more and more, nor keep others out.
#[tokio::test]
async fn an_application_that_does_not_answer_is_not_given_more_and_more() {
    let app = App::at("127.0.0.1:0").await;
    let cell = Relayed::by(Relay::to(&format!("http://{}", app.address)).unwrap().with_requests_max(4)).await;
    cell.agent.grant("u", (1, 1), Role::Owner);
    eventually("the other grant has come", || cell.gate.handle().counts().tenants == 2).await;
    for hung in 1..=2 {
        let mut client = crate::connect(cell.gate.address()).await;
        let asking = tokio::spawn(client.send_request(stamped(Method::POST, "/hang", "t", 1, "x")));
        eventually("the application has it", || app.hanging.load(Ordering::SeqCst) == hung).await;
        asking.abort();
    }
    let refused = cell.ask(Method::POST, "/a", "").await;
    assert_eq!((refused.status(), code(&refused)), (StatusCode::SERVICE_UNAVAILABLE, "APPLICATION_BUSY"));
    assert_eq!(refused.headers()["cell-not-executed"], "1");
    let other = send(cell.gate.address(), stamped(Method::POST, "/a", "u", 1, "hello")).await;
    assert_eq!((other.status(), text(other).await.as_str()), (StatusCode::OK, "hello"), "another tenant has room");
    let handle = cell.gate.handle();
    assert_eq!(handle.counts().writes, 2, "nobody waits for them, and they may still run");
    app.end().await;
    eventually("what hung has ended with the application", || handle.counts().writes == 0).await;
    // A connection that rests may take the first of them along.
    let mut again = cell.ask(Method::POST, "/a", "").await;
    if code(&again).is_empty() {
        again = cell.ask(Method::POST, "/a", "").await;
    }
    assert_eq!(code(&again), "APPLICATION_DOWN", "there is room again");
    cell.end().await;
}

/// Python's `http.server` for one: it speaks HTTP/1.0 unless it is told otherwise.
#[tokio::test]
async fn an_application_of_an_older_http_is_answered_for_in_the_gate_s_own() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let cell = Relayed::to(listener.local_addr().unwrap()).await;
    let app = tokio::spawn(async move {
        for answer in [
            "HTTP/1.0 200 OK\r\n\r\nwhole",
            "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n5\r\nwhole\r\n0\r\n\r\n",
            "220 mail.example ESMTP\r\n\r\n",
        ] {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut read = Vec::new();
            while !read.ends_with(b"\r\n\r\n") {
                assert!(stream.read_buf(&mut read).await.unwrap() > 0);
            }
            stream.write_all(answer.as_bytes()).await.unwrap();
        }
    });
    for _ in 0..2 {
        let answered = cell.ask(Method::GET, "/", "").await;
        assert_eq!((answered.status(), answered.version()), (StatusCode::OK, Version::HTTP_11));
        let headers = answered.headers().clone();
        assert!(!headers.contains_key("connection") && !headers.contains_key("content-length"), "{headers:?}");
        assert_eq!(text(answered).await, "whole");
    }
    let unread = text(cell.ask(Method::GET, "/", "").await).await;
    assert!(unread.contains("APPLICATION_FAILED") && unread.contains("is not HTTP"), "{unread}");
    app.await.unwrap();
    cell.end().await;
}
