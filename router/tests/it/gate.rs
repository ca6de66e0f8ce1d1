//! A gate and its application, made of hyper and of what a test says.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use cell_gate::wire;
use cell_trust::SignedMapping;
use futures::future::BoxFuture;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, combinators::BoxBody};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use tokio::net::TcpListener;

pub(crate) type Body = BoxBody<Bytes, hyper::Error>;
type Handler = dyn Fn(Request<Incoming>, usize) -> BoxFuture<'static, Response<Body>> + Send + Sync;

/// The head of a request, as the gate has seen it.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    pub(crate) method: Method,
    pub(crate) version: http::Version,
    pub(crate) path: String,
    pub(crate) headers: HeaderMap,
}

pub(crate) struct FakeGate {
    pub(crate) address: String,
    seen: Arc<Mutex<Vec<Seen>>>,
    accepting: tokio::task::JoinHandle<()>,
}

impl FakeGate {
    /// Answers with what `handler` makes of a request and of its number (from 0) at this gate.
    pub(crate) async fn start<F>(handler: impl Fn(Request<Incoming>, usize) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = Response<Body>> + Send + 'static,
    {
        let handler: Arc<Handler> = Arc::new(move |request, number| Box::pin(handler(request, number)));
        let listener = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let seen: Arc<Mutex<Vec<Seen>>> = Arc::default();
        let heads = Arc::clone(&seen);
        let accepting = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (handler, heads) = (Arc::clone(&handler), Arc::clone(&heads));
                let service = service_fn(move |request: Request<Incoming>| {
                    let number = {
                        let mut heads = heads.lock().unwrap();
                        heads.push(Seen {
                            method: request.method().clone(),
                            version: request.version(),
                            path: request.uri().to_string(),
                            headers: request.headers().clone(),
                        });
                        heads.len() - 1
                    };
                    let answer = handler(request, number);
                    async move { Ok::<_, Infallible>(answer.await) }
                });
                tokio::spawn(async move {
                    let builder = auto::Builder::new(TokioExecutor::new());
                    let _broken = builder.serve_connection_with_upgrades(TokioIo::new(stream), service).await;
                });
            }
        });
        Self { address, seen, accepting }
    }

    /// Answers 200 with its name and the body that came.
    pub(crate) async fn echo(name: &'static str) -> Self {
        Self::start(move |request, _| async move {
            let body = request.into_body().collect().await.unwrap().to_bytes();
            text(StatusCode::OK, &format!("{name}:{}", String::from_utf8_lossy(&body)))
        })
        .await
    }

    /// Agrees to every WebSocket and gives back whatever comes on it; answers everything else with `plain`.
    pub(crate) async fn echo_websocket() -> Self {
        Self::start(move |mut request, _| async move {
            if request.headers().get("upgrade").is_none_or(|upgrade| upgrade != "websocket") {
                return text(StatusCode::OK, "plain");
            }
            let upgrade = hyper::upgrade::on(&mut request);
            tokio::spawn(async move {
                let (mut read, mut write) = tokio::io::split(TokioIo::new(upgrade.await.unwrap()));
                let _ended = tokio::io::copy(&mut read, &mut write).await;
                let _gone = tokio::io::AsyncWriteExt::shutdown(&mut write).await;
            });
            agreed()
        })
        .await
    }

    /// Agrees to every WebSocket, and cuts it after the first piece: as a gate does where a tenant's writes are held.
    pub(crate) async fn cut_websocket() -> Self {
        Self::start(move |mut request, _| async move {
            let upgrade = hyper::upgrade::on(&mut request);
            tokio::spawn(async move {
                let mut upgraded = TokioIo::new(upgrade.await.unwrap());
                let mut piece = [0; 1_024];
                let length = tokio::io::AsyncReadExt::read(&mut upgraded, &mut piece).await.unwrap();
                tokio::io::AsyncWriteExt::write_all(&mut upgraded, &piece[..length]).await.unwrap();
            });
            agreed()
        })
        .await
    }

    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }
}

impl Drop for FakeGate {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

/// To the WebSocket of `websocket::ASK`.
fn agreed() -> Response<Body> {
    let mut response = text(StatusCode::SWITCHING_PROTOCOLS, "");
    let headers = response.headers_mut();
    headers.insert("connection", HeaderValue::from_static("upgrade"));
    headers.insert("upgrade", HeaderValue::from_static("websocket"));
    headers.insert("sec-websocket-accept", HeaderValue::from_static("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="));
    response
}

pub(crate) fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed()
}

pub(crate) fn text(status: StatusCode, text: &str) -> Response<Body> {
    let mut response = Response::new(full(text.to_owned()));
    *response.status_mut() = status;
    response
}

/// 503, surely not executed.
pub(crate) fn not_executed(code: wire::Code) -> Response<Body> {
    let mut response = text(StatusCode::SERVICE_UNAVAILABLE, "not now");
    wire::mark_not_executed(response.headers_mut(), code);
    response
}

/// 421 with the newest mapping.
pub(crate) fn stale(mapping: &SignedMapping) -> Response<Body> {
    let mut response = text(StatusCode::MISDIRECTED_REQUEST, "not here");
    wire::mark_not_executed(response.headers_mut(), wire::Code::Stale);
    response.headers_mut().insert(&wire::MAPPING, HeaderValue::from_str(&mapping.to_header()).unwrap());
    response
}
