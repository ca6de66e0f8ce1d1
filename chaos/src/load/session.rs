//! One client: sends one request at a time and notes what it was told.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HOST, LOCATION, RETRY_AFTER};
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use serde::Deserialize;

use super::documents::{posted, recognise, register};
use super::{LoadOptions, Withdrawn};
use crate::check::FinalDoc;
use crate::clock::RunClock;
use crate::history::{Action, Nonce, Op, Outcome, Recorder, Seen, SessionId};
use crate::http_client::{CallError, Connection, code_of};
use crate::seed::Choices;

/// What a router says to a gate of a tenant's owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    /// Incarnation of the tenant.
    pub uid: u64,
    /// Fencing token of its owner.
    pub epoch: u64,
}

/// One client.
#[derive(Debug)]
pub struct Session {
    /// Who it is in the history.
    pub id: SessionId,
    /// Its own choices.
    pub choices: Choices,
    connections: Vec<Connection>,
    domain: String,
    stamp: Option<Stamp>,
    sent: usize,
    withdrawn: Withdrawn,
    clock: RunClock,
    recorder: Recorder,
}

/// What a request says besides its path.
struct Asked<'a> {
    tenant: &'a Arc<str>,
    method: Method,
    path: String,
    body: Vec<u8>,
    idempotency_key: Option<&'a str>,
}

impl Session {
    pub(super) fn new(
        id: SessionId,
        options: &LoadOptions,
        clock: RunClock,
        recorder: Recorder,
        choices: Choices,
    ) -> Self {
        let connect = |address: &String| Connection::new(address.clone(), options.deadline).over(&options.network);
        let connections = options.routers.iter().map(connect).collect();
        // Clients begin at different routers.
        let sent = usize::try_from(id).unwrap_or(0);
        let (domain, withdrawn) = (options.domain.clone(), Withdrawn::default());
        Self { id, choices, connections, domain, stamp: None, sent, withdrawn, clock, recorder }
    }

    /// The same client, sent to no router that is withdrawn.
    pub(super) fn avoiding(self, withdrawn: Withdrawn) -> Self {
        Self { withdrawn, ..self }
    }

    /// The same client, but past the routers: it calls gates, under a stamp of its own.
    pub(super) fn direct(mut self, gates: &[String], deadline: Duration, stamp: Stamp) -> Self {
        self.connections = gates.iter().map(|gate| Connection::new(gate.clone(), deadline)).collect();
        self.stamp = Some(stamp);
        self
    }

    /// Writes a version of a key. True where it was acknowledged.
    pub async fn put(
        &mut self,
        tenant: &Arc<str>,
        key: &Arc<str>,
        version: u64,
        bytes: usize,
        idem: Option<&str>,
    ) -> bool {
        let body = register(tenant, key, version, bytes);
        let asked =
            Asked { tenant, method: Method::PUT, path: format!("/docs/{key}"), body, idempotency_key: idem };
        self.run(asked, Action::Put { key: key.clone(), version }).await
    }

    /// Deletes a key. True where it was acknowledged.
    pub async fn delete(&mut self, tenant: &Arc<str>, key: &Arc<str>, version: u64, idem: Option<&str>) -> bool {
        let path = format!("/docs/{key}");
        let asked = Asked { tenant, method: Method::DELETE, path, body: Vec::new(), idempotency_key: idem };
        self.run(asked, Action::Delete { key: key.clone(), version }).await
    }

    /// Makes a document. True where it was acknowledged.
    pub async fn post(&mut self, tenant: &Arc<str>, nonce: Nonce, bytes: usize, idem: Option<&str>) -> bool {
        let body = posted(tenant, nonce, bytes);
        let asked = Asked { tenant, method: Method::POST, path: "/docs".into(), body, idempotency_key: idem };
        self.run(asked, Action::Post { nonce }).await
    }

    /// Adds one to a counter. True where it was acknowledged.
    pub async fn increment(
        &mut self,
        tenant: &Arc<str>,
        counter: &Arc<str>,
        nonce: Nonce,
        idem: Option<&str>,
    ) -> bool {
        let path = format!("/counters/{counter}/increment");
        let body = br#"{"by":1}"#.to_vec();
        let asked = Asked { tenant, method: Method::POST, path, body, idempotency_key: idem };
        self.run(asked, Action::Increment { counter: counter.clone(), nonce }).await
    }

    /// Reads a key. True where it was answered.
    pub async fn get(&mut self, tenant: &Arc<str>, key: &Arc<str>) -> bool {
        let path = format!("/docs/{key}");
        let asked = Asked { tenant, method: Method::GET, path, body: Vec::new(), idempotency_key: None };
        self.run(asked, Action::Get { key: key.clone() }).await
    }

    /// Sends what is about no document, and notes nothing.
    pub(crate) async fn ask(
        &mut self,
        tenant: &Arc<str>,
        method: Method,
        path: String,
        body: Vec<u8>,
        idempotency_key: Option<&str>,
    ) -> Result<Response<Bytes>, CallError> {
        let (request, router) = self.prepare(Asked { tenant, method, path, body, idempotency_key });
        self.connections[router].call(request).await
    }

    async fn run(&mut self, asked: Asked<'_>, action: Action) -> bool {
        let tenant = asked.tenant.clone();
        let (request, router) = self.prepare(asked);
        let invoked = self.clock.now();
        let answer = self.connections[router].call(request).await;
        let returned = self.clock.now();
        let (outcome, failed) = match &self.stamp {
            None => judge(&action, answer),
            Some(_) => (judge_direct(&action, answer), false),
        };
        if failed {
            tracing::warn!(session = self.id, %tenant, ?action, ?outcome, "a request has failed");
        }
        let op = Op { session: self.id, tenant, action, invoked, returned, outcome, failed };
        let done = op.is_done();
        self.recorder.record(op);
        done
    }

    fn prepare(&mut self, asked: Asked<'_>) -> (Request<Full<Bytes>>, usize) {
        self.sent += 1;
        let routers = self.connections.len();
        let mut turn = (self.sent..self.sent + routers).map(|turn| turn % routers);
        let is_in = |router: &usize| self.stamp.is_some() || !self.withdrawn.is_out(*router);
        let router = turn.find(is_in).unwrap_or(self.sent % routers);
        let connection = &self.connections[router];
        if let Some(stamp) = self.stamp {
            return (stamped(&asked, connection.address(), stamp), router);
        }
        // Each way of naming the tenant at each router.
        let by_host = (self.sent / routers).is_multiple_of(2);
        let mut request = Request::new(Full::new(Bytes::from(asked.body)));
        *request.method_mut() = asked.method;
        *request.uri_mut() = asked.path.parse().expect("paths are made of plain letters");
        let host =
            if by_host { format!("{}.{}", asked.tenant, self.domain) } else { connection.address().to_owned() };
        let headers = request.headers_mut();
        headers.insert(HOST, host.parse().expect("a host name is a header value"));
        headers.insert(CONTENT_TYPE, http::HeaderValue::from_static("application/json"));
        if !by_host {
            headers.insert("x-tenant-id", asked.tenant.parse().expect("a tenant id is a header value"));
        }
        if let Some(key) = asked.idempotency_key {
            headers.insert("idempotency-key", key.parse().expect("keys are made of plain letters"));
        }
        (request, router)
    }
}

/// A request as a router sends it on.
fn stamped(asked: &Asked<'_>, gate: &str, stamp: Stamp) -> Request<Full<Bytes>> {
    let request = Request::builder()
        .method(asked.method.clone())
        .uri(&asked.path)
        .header(HOST, gate)
        .header(CONTENT_TYPE, "application/json")
        .header("cell-tenant", &**asked.tenant)
        .header("cell-uid", stamp.uid)
        .header("cell-epoch", stamp.epoch);
    request
        .body(Full::new(Bytes::from(asked.body.clone())))
        .expect("names, numbers and addresses are header values")
}

/// A gate's answer: it says by itself where nothing has run. A probe that is refused has not failed.
fn judge_direct(action: &Action, answer: Result<Response<Bytes>, CallError>) -> Outcome {
    match answer {
        Ok(answer) if answer.headers().contains_key("cell-not-executed") => {
            Outcome::Refused { code: code_of(answer.status(), answer.body()).into() }
        }
        answer => judge(action, answer).0,
    }
}

/// What an answer means for the history, and whether the request counts as failed.
fn judge(action: &Action, answer: Result<Response<Bytes>, CallError>) -> (Outcome, bool) {
    let answer = match answer {
        Ok(answer) => answer,
        Err(CallError::NotSent { .. }) => return (Outcome::Refused { code: "NO_CONNECTION".into() }, true),
        Err(CallError::NoAnswer { reason, .. }) => return (Outcome::Unknown { reason: reason.into() }, true),
    };
    let status = answer.status();
    let code = || Arc::<str>::from(code_of(status, answer.body()));
    if status.is_success() {
        return understand(action, &answer)
            .map_or_else(|reason| (Outcome::Unknown { reason: reason.into() }, true), |outcome| (outcome, false));
    }
    match (action, status) {
        // A router's or a gate's 404 speaks of the tenant, the application's of the document.
        (Action::Get { .. } | Action::Delete { .. }, StatusCode::NOT_FOUND) if !code().starts_with("TENANT_") => {
            (if action.is_write() { Outcome::Written } else { Outcome::Read(None) }, false)
        }
        (_, StatusCode::TOO_MANY_REQUESTS) => (Outcome::Refused { code: code() }, false),
        (_, StatusCode::SERVICE_UNAVAILABLE) if answer.headers().contains_key(RETRY_AFTER) => {
            (Outcome::Refused { code: code() }, true)
        }
        (_, status) if status.is_server_error() => (Outcome::Unknown { reason: code() }, true),
        _ => (Outcome::Refused { code: code() }, true),
    }
}

fn understand(action: &Action, answer: &Response<Bytes>) -> Result<Outcome, String> {
    #[derive(Deserialize)]
    struct Counted {
        value: u64,
    }
    match action {
        Action::Put { .. } | Action::Delete { .. } => Ok(Outcome::Written),
        Action::Get { key } => Ok(Outcome::Read(Some(match recognise(answer.body()) {
            FinalDoc::Register(seen) if seen.key == *key => seen,
            // Shows as a version that nobody wrote.
            FinalDoc::Register(Seen { tenant, .. }) | FinalDoc::Posted { tenant, .. } => {
                Seen { tenant, key: key.clone(), version: u64::MAX }
            }
            FinalDoc::Foreign { text } => return Err(format!("the answer is no document of this load: {text}")),
        }))),
        Action::Post { .. } => {
            let location = answer.headers().get(LOCATION).and_then(|location| location.to_str().ok());
            let id = location.and_then(|location| location.rsplit('/').next()).filter(|id| !id.is_empty());
            id.map(|id| Outcome::Created { id: id.into() }).ok_or_else(|| "the answer names no document".into())
        }
        Action::Increment { .. } => serde_json::from_slice::<Counted>(answer.body())
            .map(|counted| Outcome::Counted { value: counted.value })
            .map_err(|error| format!("the answer has no value: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(status: u16, body: &'static str) -> Response<Bytes> {
        Response::builder().status(status).body(Bytes::from_static(body.as_bytes())).unwrap()
    }

    fn get() -> Action {
        Action::Get { key: "k".into() }
    }

    fn post() -> Action {
        Action::Post { nonce: 1 }
    }

    #[test]
    fn an_answer_that_never_came_is_unknown_and_one_that_was_never_sent_is_not() {
        let (address, reason) = (String::from("a"), String::from("r"));
        let unknown = judge(&post(), Err(CallError::NoAnswer { address: address.clone(), reason: reason.clone() }));
        assert!(matches!(unknown, (Outcome::Unknown { .. }, true)));
        let refused = judge(&post(), Err(CallError::NotSent { address, reason }));
        assert!(matches!(refused, (Outcome::Refused { .. }, true)));
    }

    #[test]
    fn overload_has_not_failed_and_unavailable_has() {
        assert!(matches!(judge(&post(), Ok(answer(429, "{}"))), (Outcome::Refused { .. }, false)));
        let mut moving = answer(503, r#"{"code":"TENANT_MOVING"}"#);
        assert!(matches!(judge(&post(), Ok(moving.clone())), (Outcome::Unknown { .. }, true)));
        moving.headers_mut().insert(RETRY_AFTER, http::HeaderValue::from_static("1"));
        assert_eq!(judge(&post(), Ok(moving)), (Outcome::Refused { code: "TENANT_MOVING".into() }, true));
        assert!(matches!(judge(&post(), Ok(answer(502, ""))), (Outcome::Unknown { .. }, true)));
        assert!(matches!(judge(&post(), Ok(answer(400, ""))), (Outcome::Refused { .. }, true)));
    }

    #[test]
    fn no_document_is_not_the_same_as_no_tenant() {
        assert_eq!(judge(&get(), Ok(answer(404, r#"{"code":"NOT_FOUND"}"#))), (Outcome::Read(None), false));
        let unknown_tenant = judge(&get(), Ok(answer(404, r#"{"code":"TENANT_UNKNOWN"}"#)));
        assert_eq!(unknown_tenant, (Outcome::Refused { code: "TENANT_UNKNOWN".into() }, true));
    }

    #[test]
    fn an_answer_that_lacks_what_it_should_say_is_unknown() {
        assert!(matches!(judge(&post(), Ok(answer(201, "{}"))), (Outcome::Unknown { .. }, true)));
        let mut created = answer(201, "{}");
        created.headers_mut().insert(LOCATION, http::HeaderValue::from_static("/docs/d-9"));
        assert_eq!(judge(&post(), Ok(created)), (Outcome::Created { id: "d-9".into() }, false));
        let increment = Action::Increment { counter: "n".into(), nonce: 1 };
        assert_eq!(judge(&increment, Ok(answer(200, r#"{"value":4}"#))), (Outcome::Counted { value: 4 }, false));
        assert!(matches!(judge(&increment, Ok(answer(200, "4"))), (Outcome::Unknown { .. }, true)));
    }
}
