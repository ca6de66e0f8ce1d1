//! An application that is a process of its own: what the gate lets in is passed on to it over HTTP, and what it answers comes back.
//!
//! ```text
//! gate ── cell-tenant, cell-uid, cell-epoch, cell-request-id ──► application
//! gate ◄── its own answer ────────────────────────────────────── application
//! gate ◄── cell-not-executed: 1, cell-code: FENCED ───────────── its data layer has refused: the gate answers instead
//! ```
//! HTTP/1.1, and HTTP/2 with prior knowledge for gRPC. Bodies stream in both directions, with their trailers. A write counts as running
//! until the head of its answer is there, so it has to be committed by then.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use http::header::{CONNECTION, CONTENT_TYPE, EXPECT, HOST, TRANSFER_ENCODING, UPGRADE};
use http::request::Parts;
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode, Uri, Version};
use http_body_util::{BodyExt as _, LengthLimitError};
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::{Client, Error};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::net::TcpStream;

use crate::answer;
use crate::application::{Application, NotExecuted, RequestBody, ResponseBody, full};
use crate::tunnel::Upgrade;
use crate::wire;
use crate::wire::Code;

const CONNECT: Duration = Duration::from_secs(1);
/// Less than servers keep a connection that rests (gunicorn 2 s, Node.js 5 s): one that they close just then may take a request along.
const IDLE: Duration = Duration::from_secs(1);
const IDLE_MAX: usize = 128;
/// How soon a machine is missed that has gone without a word.
const ALIVE: Duration = Duration::from_secs(10);
const ALIVE_TRIES: u32 = 2;

static KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
static PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
static FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");

/// Why nothing can be passed on to an address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{address:?} is not http://host:port")]
pub struct NoSuchApplication {
    /// As given.
    pub address: String,
}

/// See the module. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Relay {
    application: Authority,
    http1: Client<HttpConnector, RequestBody>,
    http2: Client<HttpConnector, RequestBody>,
    /// It has taken no connection the last time, and that has been said.
    is_down: Arc<AtomicBool>,
}

impl Relay {
    /// To the application at `http://host:port`. Nothing is asked of it yet.
    ///
    /// # Errors
    /// [`NoSuchApplication`] where the address is something else.
    pub fn to(address: &str) -> Result<Self, NoSuchApplication> {
        let uri = address.parse::<Uri>().ok();
        let plain =
            uri.filter(|uri| uri.scheme() == Some(&Scheme::HTTP) && uri.path().len() <= 1 && uri.query().is_none());
        let application = plain.and_then(|uri| uri.into_parts().authority);
        let application = application.filter(|authority| {
            authority.port_u16().is_some_and(|port| port != 0) && !authority.as_str().contains('@')
        });
        let application = application.ok_or_else(|| NoSuchApplication { address: address.to_owned() })?;
        Ok(Self { application, http1: client(false), http2: client(true), is_down: Arc::default() })
    }

    /// The request as it goes to the application.
    fn addressed(
        &self,
        parts: Parts,
        body: RequestBody,
        asks_upgrade: bool,
        is_grpc: bool,
    ) -> Request<RequestBody> {
        let mut uri = http::uri::Parts::default();
        uri.scheme = Some(Scheme::HTTP);
        uri.authority = Some(self.application.clone());
        let path = parts.uri.path_and_query().cloned();
        uri.path_and_query = Some(path.unwrap_or_else(|| PathAndQuery::from_static("/")));
        let mut request = Request::new(body);
        *request.method_mut() = parts.method;
        *request.uri_mut() = Uri::from_parts(uri).expect("scheme, authority and path are a URI");
        let mut headers = parts.headers;
        strip(&mut headers, asks_upgrade);
        // Whoever waits to be asked for the body is asked by the gate.
        headers.remove(EXPECT);
        if is_grpc {
            *request.version_mut() = Version::HTTP_2;
            // Beside an `:authority` of its own it would be a contradiction.
            if let Some(host) = headers.remove(HOST) {
                headers.insert(&FORWARDED_HOST, host);
            }
        }
        *request.headers_mut() = headers;
        request
    }

    fn failed(&self, error: &Error, is_write: bool) -> Response<ResponseBody> {
        if error.is_connect() {
            if !self.is_down.swap(true, Ordering::Relaxed) {
                tracing::warn!(application = %self.application, error = %chain(error), "the application takes no connections");
            }
            return not_executed(Code::ApplicationDown);
        }
        if is_too_long(error) {
            let detail = "the body is longer than this gate takes";
            return answer::problem(StatusCode::PAYLOAD_TOO_LARGE, "BODY_TOO_LARGE", detail, "send less at once");
        }
        tracing::warn!(application = %self.application, error = %chain(error), "the application has not answered");
        let detail = "the connection to the application broke before it had answered";
        if is_write {
            return answer::unknown_outcome(true, detail);
        }
        answer::problem(StatusCode::BAD_GATEWAY, "APPLICATION_FAILED", detail, "try again")
    }
}

impl Application for Relay {
    async fn call(&self, request: Request<RequestBody>) -> Response<ResponseBody> {
        let (mut parts, body) = request.into_parts();
        let upgrade = parts.extensions.remove::<Upgrade>();
        let is_write = wire::is_write(&parts.method) || upgrade.is_some();
        let is_grpc = is_grpc(&parts.headers);
        let client = if is_grpc { &self.http2 } else { &self.http1 };
        let answered = client.request(self.addressed(parts, body, upgrade.is_some(), is_grpc)).await;
        match answered {
            Ok(response) => {
                if self.is_down.swap(false, Ordering::Relaxed) {
                    tracing::info!(application = %self.application, "the application takes connections again");
                }
                passed_back(response, upgrade)
            }
            Err(error) => self.failed(&error, is_write),
        }
    }

    async fn is_ready(&self) -> bool {
        let connected = tokio::time::timeout(CONNECT, TcpStream::connect(self.application.as_str())).await;
        matches!(connected, Ok(Ok(_)))
    }
}

fn client(is_http2: bool) -> Client<HttpConnector, RequestBody> {
    let mut connector = HttpConnector::new();
    connector.set_nodelay(true);
    connector.set_connect_timeout(Some(CONNECT));
    connector.set_keepalive(Some(ALIVE));
    connector.set_keepalive_interval(Some(ALIVE));
    connector.set_keepalive_retries(Some(ALIVE_TRIES));
    Client::builder(TokioExecutor::new())
        .timer(TokioTimer::new())
        .pool_timer(TokioTimer::new())
        .pool_idle_timeout(IDLE)
        .pool_max_idle_per_host(IDLE_MAX)
        .http2_only(is_http2)
        .http2_keep_alive_interval(ALIVE)
        .build(connector)
}

fn is_grpc(headers: &HeaderMap) -> bool {
    headers.get(CONTENT_TYPE).is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"))
}

/// Takes out what belongs to one connection (RFC 9110, 7.6.1).
fn strip(headers: &mut HeaderMap, upgrades: bool) {
    let named: Vec<HeaderName> = headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|text| text.split(','))
        .filter_map(|option| option.trim().parse().ok())
        .collect();
    for name in named.iter().chain([&CONNECTION, &KEEP_ALIVE, &PROXY_CONNECTION, &TRANSFER_ENCODING, &UPGRADE]) {
        if !(upgrades && name == UPGRADE) {
            headers.remove(name);
        }
    }
    if upgrades {
        headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    }
}

/// The application's answer as the gate gives it.
fn passed_back(mut response: Response<Incoming>, upgrade: Option<Upgrade>) -> Response<ResponseBody> {
    if wire::is_not_executed(response.headers()) {
        let code = response.headers().get(&wire::CODE).and_then(|code| code.to_str().ok()?.parse().ok());
        // A newer data layer may know codes that this gate does not; none of them has executed anything.
        return not_executed(code.unwrap_or(Code::NotOwner));
    }
    let switches = response.status() == StatusCode::SWITCHING_PROTOCOLS;
    match upgrade.filter(|_| switches) {
        Some(upgrade) => {
            tokio::spawn(join(hyper::upgrade::on(&mut response), upgrade));
            strip(response.headers_mut(), true);
            response.map(|_| full(""))
        }
        None if switches => {
            let detail = "the application switches to a protocol that nobody has asked for";
            answer::problem(StatusCode::BAD_GATEWAY, "APPLICATION_FAILED", detail, "correct the application")
        }
        None => {
            strip(response.headers_mut(), false);
            response.map(|body| body.map_err(Into::into).boxed_unsync())
        }
    }
}

fn not_executed(code: Code) -> Response<ResponseBody> {
    let mut response = Response::new(full(""));
    *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
    response.extensions_mut().insert(NotExecuted(code));
    response
}

/// Carries bytes both ways until one side has ended, or the gate cuts the tunnel. Then both are let go of at once: a hold waits for that.
async fn join(application: OnUpgrade, upgrade: Upgrade) {
    let (application, client) = tokio::join!(application, upgrade.open());
    match (application, client) {
        (Ok(application), Ok(client)) => {
            let (mut from_client, mut to_client) = tokio::io::split(client);
            let (mut from_application, mut to_application) = tokio::io::split(TokioIo::new(application));
            let ended = tokio::select! {
                ended = tokio::io::copy(&mut from_client, &mut to_application) => ended,
                ended = tokio::io::copy(&mut from_application, &mut to_client) => ended,
            };
            if let Err(error) = ended {
                tracing::debug!(%error, "a tunnel broke");
            }
        }
        (Err(error), _) => tracing::debug!(%error, "the application's connection broke before it was upgraded"),
        (_, Err(error)) => tracing::debug!(%error, "a client's connection broke before it was upgraded"),
    }
}

fn is_too_long(error: &Error) -> bool {
    let mut cause = std::error::Error::source(error);
    while let Some(next) = cause {
        if next.is::<LengthLimitError>() {
            return true;
        }
        cause = next.source();
    }
    false
}

/// The sentence with its causes.
fn chain(error: &Error) -> String {
    let mut sentence = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(next) = cause {
        sentence.push_str(": ");
        sentence.push_str(&next.to_string());
        cause = next.source();
    }
    sentence
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_application_is_at_a_host_and_a_port() {
        for good in ["http://127.0.0.1:3000", "http://localhost:3000/", "http://[::1]:3000"] {
            assert!(Relay::to(good).is_ok(), "{good}");
        }
        for bad in [
            "",
            "127.0.0.1:3000",
            "https://127.0.0.1:3000",
            "http://127.0.0.1",
            "http://127.0.0.1:0",
            "http://h:3000/app",
            "http://h:3000?a",
            "http://me@h:3000",
            "http://",
        ] {
            assert_eq!(Relay::to(bad).unwrap_err().to_string(), format!("{bad:?} is not http://host:port"));
        }
    }

    #[test]
    fn what_belongs_to_a_connection_stays_behind() {
        let fields = [
            ("connection", "close, x-mine"),
            ("x-mine", "1"),
            ("keep-alive", "timeout=5"),
            ("transfer-encoding", "chunked"),
            ("upgrade", "websocket"),
            ("te", "trailers"),
            ("cell-tenant", "t"),
        ];
        let headers = || -> HeaderMap {
            fields
                .into_iter()
                .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)))
                .collect()
        };
        let mut passed = headers();
        strip(&mut passed, false);
        let mut names: Vec<&str> = passed.keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        assert_eq!(names, ["cell-tenant", "te"]);
        let mut upgraded = headers();
        strip(&mut upgraded, true);
        assert_eq!(
            (&upgraded["connection"], &upgraded["upgrade"]),
            (&"upgrade".parse().unwrap(), &"websocket".parse().unwrap())
        );
    }
}
