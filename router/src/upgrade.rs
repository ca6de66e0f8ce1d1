//! The stage that makes a WebSocket of a request: what asks for one, on HTTP/1.1 (RFC 6455) or HTTP/2 (RFC 8441), becomes
//! an HTTP/1.1 upgrade at the cell, and what the cell agrees to becomes a tunnel.
//!
//! No other protocol is switched to: a request that asks for one is answered as if it had not asked (RFC 9110, 7.8).

use std::rc::Rc;

use http::header::{CONNECTION, CONTENT_LENGTH, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, UPGRADE};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Version};
use hyper::ext::Protocol;
use hyper::upgrade::OnUpgrade;

use crate::answer::Download;
use crate::context::{RequestCtx, Worker};
use crate::refusal::{Code, Refusal};
use crate::strict::{Field, Fields, Next, Rule};
use crate::tunnel;

/// How a client asks for a WebSocket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Upgrade {
    /// `Upgrade: websocket`.
    Http1,
    /// `:method CONNECT`, `:protocol websocket`.
    ExtendedConnect,
}

impl Upgrade {
    pub(crate) fn asked_for<B>(request: &Request<B>, fields: Fields) -> Option<Self> {
        if request.method() == Method::CONNECT {
            let protocol = request.extensions().get::<Protocol>()?;
            return protocol.as_str().eq_ignore_ascii_case("websocket").then_some(Self::ExtendedConnect);
        }
        let websocket = names_upgrade(request.headers(), fields, request.version())
            && request.method() == Method::GET
            && !fields.repeats(Field::Upgrade)
            && request
                .headers()
                .get(UPGRADE)
                .is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"websocket"));
        websocket.then_some(Self::Http1)
    }
}

/// Whether the strict reader waits to be told what follows: it sees the same of a head.
fn names_upgrade(headers: &HeaderMap, fields: Fields, version: Version) -> bool {
    let named = |option: &str| option.trim().eq_ignore_ascii_case("upgrade");
    version == Version::HTTP_11
        && fields.has(Field::Upgrade)
        && fields.has(Field::Connection)
        && headers.get_all(UPGRADE).iter().any(|value| value.as_bytes().eq_ignore_ascii_case(b"websocket"))
        && headers
            .get_all(CONNECTION)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .any(|value| value.split(',').any(named))
}

/// The client's half, and the obligation to tell the strict reader what follows.
pub(crate) struct Pending {
    client: Option<OnUpgrade>,
    told: Told,
}

/// Tells the strict reader that another request follows, unless it is told otherwise before.
struct Told(Option<std::sync::Arc<crate::strict::Said>>);

impl Drop for Told {
    fn drop(&mut self) {
        if let Some(said) = self.0.take() {
            said.decide(Next::Request);
        }
    }
}

/// Takes the client's half out of a request, and turns an extended CONNECT into what a cell understands.
pub(crate) fn prepare(worker: &Worker, ctx: &RequestCtx, parts: &mut Parts) -> Result<Pending, Refusal> {
    let waits = names_upgrade(&parts.headers, ctx.fields, parts.version);
    let told = Told(ctx.conn.said.clone().filter(|_| waits));
    let Some(upgrade) = ctx.upgrade else {
        if parts.method == Method::CONNECT {
            return Err(Refusal::new(
                Code::MethodUnsupported,
                "of the protocols of CONNECT only websocket is forwarded",
            ));
        }
        return Ok(Pending { client: None, told });
    };
    let client = parts.extensions.remove::<OnUpgrade>();
    if upgrade == Upgrade::ExtendedConnect {
        parts.method = Method::GET;
        parts.headers.insert(SEC_WEBSOCKET_KEY, worker.dice.websocket_key());
    }
    Ok(Pending { client, told })
}

/// Puts on a request to a cell what asks for the upgrade.
pub(crate) fn ask(headers: &mut HeaderMap) {
    headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
}

/// Whether there is room for another tunnel of the tenant.
pub(crate) fn has_room(worker: &Worker, ctx: &RequestCtx) -> Result<(), Refusal> {
    let Some(tenant) = ctx.tenant.as_ref().filter(|_| ctx.upgrade.is_some()) else { return Ok(()) };
    match worker.directory.tunnels.enter(tenant) {
        Ok(_place) => Ok(()),
        Err(full) => {
            let detail = match full {
                crate::waiting::Full::Tenant(limit) => {
                    format!("tenant {tenant} has {limit} WebSockets, which is the limit")
                }
                crate::waiting::Full::Router(limit) => {
                    format!("this router has {limit} WebSockets, which is the limit")
                }
            };
            Err(Refusal::new(Code::TunnelsFull, detail))
        }
    }
}

/// Makes the tunnel, where the cell has agreed to one.
pub(crate) fn establish(
    worker: &Rc<Worker>,
    ctx: &RequestCtx,
    pending: Pending,
    mut response: Response<Download>,
) -> Result<Response<Download>, Refusal> {
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        return Ok(response);
    }
    let Pending { client, mut told } = pending;
    let (Some(client), Some(entry), Some(upgrade)) = (client, ctx.entry.clone(), ctx.upgrade) else {
        return Err(Refusal::new(Code::CellFailed, "the cell switches to a protocol that nobody has asked for"));
    };
    if ctx.conn.said.as_ref().is_some_and(|said| said.has_early_bytes()) {
        return Err(Rule::BytesBeforeUpgrade.refusal());
    }
    let cell = response.extensions_mut().remove::<OnUpgrade>();
    let Some(cell) = cell else {
        return Err(Refusal::new(Code::CellFailed, "the cell's connection cannot be switched"));
    };
    if let Some(said) = told.0.take() {
        said.decide(Next::Tunnel);
    }
    let headers = response.headers_mut();
    headers.remove(CONTENT_LENGTH);
    match upgrade {
        Upgrade::Http1 => ask(headers),
        Upgrade::ExtendedConnect => {
            headers.remove(CONNECTION);
            headers.remove(UPGRADE);
            headers.remove(SEC_WEBSOCKET_ACCEPT);
            *response.status_mut() = StatusCode::OK;
        }
    }
    let (worker, conn) = (Rc::clone(worker), Rc::clone(&ctx.conn));
    tokio::task::spawn_local(async move {
        tunnel::run(worker, entry, client, cell).await;
        // The connection keeps its place among the others until here.
        drop(conn);
    });
    Ok(response)
}
