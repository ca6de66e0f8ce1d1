//! An application that is a process of its own: what the gate lets in is passed on to it over HTTP, and what it answers comes back.
//!
//! ```text
//! gate ── cell-tenant, cell-uid, cell-epoch, cell-request-id ──► application
//! gate ◄── its own answer ────────────────────────────────────── application
//! gate ◄── cell-not-executed: 1, cell-code: FENCED ───────────── its data layer has refused: the gate answers instead
//! ```
//! HTTP/1.1, and HTTP/2 with prior knowledge for gRPC. Bodies stream in both directions, with their trailers; interim answers go
//! before the answer. A write counts as running until the head of its answer is there, so it has to be committed by then. A request
//! has its place ([`room`]) until the last byte of its answer, and one that becomes a tunnel until that ends.

mod room;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use http::header::{CONNECTION, CONTENT_LENGTH, EXPECT, HOST, TRANSFER_ENCODING, UPGRADE};
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

use self::room::{NoRoom, Place, Room};
use crate::answer;
use crate::application::{Application, NotExecuted, RequestBody, ResponseBody, full};
use crate::interim::EarlyAnswers;
use crate::stamp::RequestStamp;
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
/// Of an answer's head, and of what is read ahead of its body.
const READ_BUFFER_BYTES: usize = 64 << 10;
/// Small beside the connection's, so that one client that does not read stops none of the others.
const STREAM_WINDOW_BYTES: u32 = 64 << 10;
const CONNECTION_WINDOW_BYTES: u32 = 4 << 20;

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
    room: Room,
    /// It has taken no connection the last time, and that has been said.
    is_down: Arc<AtomicBool>,
}

impl Relay {
    /// How many requests an application has at once, unless [`Relay::with_requests_max`] says it.
    pub const REQUESTS_MAX: usize = 4_096;

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
        let (http1, http2) = (client(false), client(true));
        Ok(Self { application, http1, http2, room: Room::new(Self::REQUESTS_MAX), is_down: Arc::default() })
    }

    /// With so many requests at once, tunnels and streams among them, and half as many of one tenant. What comes beyond has not run
    /// (`APPLICATION_BUSY`), and routers send it again.
    #[must_use]
    pub fn with_requests_max(self, most: usize) -> Self {
        Self { room: Room::new(most), ..self }
    }

    /// A place for a request, or what is answered where there is none.
    fn place(&self, request: &Request<RequestBody>) -> Result<Place, Box<Response<ResponseBody>>> {
        let Some(stamp) = request.extensions().get::<RequestStamp>() else {
            // No gate lets it in like this: whoever calls has to say whose it is.
            return Err(Box::new(not_executed(Code::StampMissing)));
        };
        self.room.enter(&stamp.tenant).map_err(|NoRoom { most, is_news }| {
            if is_news {
                let (application, tenant) = (&self.application, &stamp.tenant);
                tracing::warn!(%application, %tenant, most, "the application has as many requests as it may: further ones are not passed on");
            }
            Box::new(not_executed(Code::ApplicationBusy))
        })
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
        let detail = if cannot_be_read(error) {
            "what the application answered is not HTTP, or its head is longer than 64 KiB or has more than 100 fields"
        } else {
            "the connection to the application broke before it had answered"
        };
        if is_write {
            return answer::unknown_outcome(true, detail);
        }
        answer::problem(StatusCode::BAD_GATEWAY, "APPLICATION_FAILED", detail, "try again")
    }
}

impl Application for Relay {
    async fn call(&self, request: Request<RequestBody>) -> Response<ResponseBody> {
        let place = match self.place(&request) {
            Ok(place) => place,
            Err(refusal) => return *refusal,
        };
        let (mut parts, body) = request.into_parts();
        let upgrade = parts.extensions.remove::<Upgrade>();
        let is_write = wire::is_write(&parts.method) || upgrade.is_some();
        let is_grpc = upgrade.is_none() && wire::is_grpc(&parts.headers);
        let client = if is_grpc { &self.http2 } else { &self.http1 };
        let early = parts.extensions.remove::<EarlyAnswers>().filter(|_| upgrade.is_none());
        let mut request = self.addressed(parts, body, upgrade.is_some(), is_grpc);
        if let Some(early) = early {
            hyper::ext::on_informational(&mut request, move |said| {
                early.send(said.status(), said.headers().clone());
            });
        }
        let answered = client.request(request).await;
        match answered {
            Ok(response) => {
                if self.is_down.swap(false, Ordering::Relaxed) {
                    tracing::info!(application = %self.application, "the application takes connections again");
                }
                passed_back(response, upgrade, place)
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
        .http1_max_buf_size(READ_BUFFER_BYTES)
        .http2_only(is_http2)
        .http2_initial_stream_window_size(STREAM_WINDOW_BYTES)
        .http2_initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .http2_keep_alive_interval(ALIVE)
        .build(connector)
}

/// Takes out what belongs to one connection (RFC 9110, 7.6.1). Whose the request is does not, whatever `Connection` says.
pub(crate) fn strip(headers: &mut HeaderMap, upgrades: bool) {
    if headers.contains_key(TRANSFER_ENCODING) {
        // It was read by the other (RFC 9112, 6.3), and would say something else of the body than is sent.
        headers.remove(CONTENT_LENGTH);
    }
    let named: Vec<HeaderName> = headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|text| text.split(','))
        .filter_map(|option| option.trim().parse().ok())
        .filter(|name: &HeaderName| !name.as_str().starts_with(wire::RESERVED_PREFIX))
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
fn passed_back(mut response: Response<Incoming>, upgrade: Option<Upgrade>, place: Place) -> Response<ResponseBody> {
    // Ours, and not the application's, which may be HTTP/1.0 (RFC 9110, 2.5).
    *response.version_mut() = Version::HTTP_11;
    if wire::is_not_executed(response.headers()) {
        let code = response.headers().get(&wire::CODE).and_then(|code| code.to_str().ok()?.parse().ok());
        // A newer data layer may know codes that this gate does not; none of them has executed anything.
        return not_executed(code.unwrap_or(Code::NotOwner));
    }
    let switches = response.status() == StatusCode::SWITCHING_PROTOCOLS;
    match upgrade.filter(|_| switches) {
        Some(upgrade) => {
            let joined = join(hyper::upgrade::on(&mut response), upgrade);
            tokio::spawn(async move {
                joined.await;
                drop(place);
            });
            strip(response.headers_mut(), true);
            response.map(|_| full(""))
        }
        None if switches => {
            let detail = "the application switches to a protocol that nobody has asked for";
            answer::problem(StatusCode::BAD_GATEWAY, "APPLICATION_FAILED", detail, "correct the application")
        }
        None => {
            strip(response.headers_mut(), false);
            let kept = move |frame| {
                let _place = &place;
                frame
            };
            response.map(|body| body.map_frame(kept).map_err(Into::into).boxed_unsync())
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

/// What is behind an error, the nearest first.
fn causes(error: &Error) -> impl Iterator<Item = &(dyn std::error::Error + 'static)> {
    std::iter::successors(std::error::Error::source(error), |cause| cause.source())
}

fn is_too_long(error: &Error) -> bool {
    causes(error).any(<dyn std::error::Error>::is::<LengthLimitError>)
}

fn cannot_be_read(error: &Error) -> bool {
    causes(error).filter_map(|cause| cause.downcast_ref::<hyper::Error>()).any(hyper::Error::is_parse)
}

/// The sentence with its causes.
fn chain(error: &Error) -> String {
    causes(error).fold(error.to_string(), |sentence, cause| format!("{sentence}: {cause}"))
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
        let mut contradicts = headers();
        contradicts.insert("content-length", HeaderValue::from_static("7"));
        contradicts.insert("connection", HeaderValue::from_static("cell-tenant"));
        strip(&mut contradicts, false);
        assert!(!contradicts.contains_key("content-length") && contradicts.contains_key("cell-tenant"));
        let mut upgraded = headers();
        strip(&mut upgraded, true);
        assert_eq!(
            (&upgraded["connection"], &upgraded["upgrade"]),
            (&"upgrade".parse().unwrap(), &"websocket".parse().unwrap())
        );
    }
}
