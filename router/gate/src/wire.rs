//! The words between a router and a gate: header names and codes, so that both sides spell them once.
//!
//! ```text
//! router ──► gate   cell-tenant: t-0001   cell-uid: 7   cell-epoch: 3   cell-request-id: …
//! router ◄── gate   421  cell-not-executed: 1  cell-mapping: …   you are stale, here is the newest signed mapping
//!                   503  cell-not-executed: 1  cell-code: HOLD   surely not executed: try again, or refresh
//!                   410  cell-not-executed: 1  cell-code: TENANT_DELETED
//!                   400  cell-not-executed: 1  cell-code: STAMP_MISSING | STAMP_MALFORMED
//!                   403  cell-not-executed: 1  cell-code: CONTEXT_MISSING | CONTEXT_INVALID
//!                   …    without any `cell-*` header: the application's own answer
//! ```

use std::fmt;
use std::str::FromStr;

use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderName, HeaderValue, Method};

/// Whose request it is.
pub static TENANT: HeaderName = HeaderName::from_static("cell-tenant");
/// The incarnation of the tenant that the router believes in, in decimal.
pub static UID: HeaderName = HeaderName::from_static("cell-uid");
/// The epoch that the router believes in, in decimal.
pub static EPOCH: HeaderName = HeaderName::from_static("cell-epoch");
/// `TenantContext::to_header()`: the same under the router's signature, where routers sign.
pub static CONTEXT: HeaderName = HeaderName::from_static("cell-context");
/// The request's name in logs, from the client's edge to the cell.
pub static REQUEST_ID: HeaderName = HeaderName::from_static("cell-request-id");
/// `SignedMapping::to_header()` of the newest mapping that the cell knows. Only with 421.
pub static MAPPING: HeaderName = HeaderName::from_static("cell-mapping");
/// `1`: the application has not run, so that even a POST may be sent again.
pub static NOT_EXECUTED: HeaderName = HeaderName::from_static("cell-not-executed");
/// The stable code of a gate's refusal, see [`Code`].
pub static CODE: HeaderName = HeaderName::from_static("cell-code");

/// The value of [`NOT_EXECUTED`].
pub const NOT_EXECUTED_YES: &str = "1";
/// How many fields a router puts on a request, at the most. A gate takes so many more than it takes of a client.
pub const ADDED_FIELDS_MAX: usize = 16;
/// Every header that belongs to Cellway begins with this. Neither a client's nor an application's are passed on.
pub const RESERVED_PREFIX: &str = "cell-";

/// Why a gate has not executed a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Code {
    /// The router knows a newer epoch than this cell: the grant is on its way.
    NotYet,
    /// The tenant's writes are held for a cutover, and the request's time is up.
    Hold,
    /// The tenant is between two owners; a decision of the control plane ends that.
    Fenced,
    /// The tenant is being copied to this cell, which does not own it yet.
    Importing,
    /// This cell does not own the tenant and has no newer mapping to hand out.
    NotOwner,
    /// The gate has lost its agent, so it may not know of a fence.
    NoLease,
    /// More requests of this tenant are waiting than the gate lets wait.
    TooManyWaiting,
    /// The gate is shutting down.
    ShuttingDown,
    /// The application is another process, and takes no connections.
    ApplicationDown,
    /// The application is another process, and has as many requests as it may.
    ApplicationBusy,
    /// The router is stale; the newest mapping comes with the answer.
    Stale,
    /// The tenant is deleted.
    TenantDeleted,
    /// A header of the stamp is missing: the request did not come through a router.
    StampMissing,
    /// A header of the stamp cannot be read.
    StampMalformed,
    /// The router has not signed whose request it is, and this gate wants that.
    ContextMissing,
    /// What the router has signed is not believed, is over, or says something else than the stamp.
    ContextInvalid,
}

impl Code {
    /// Every code there is.
    pub const ALL: [Self; 16] = [
        Self::NotYet,
        Self::Hold,
        Self::Fenced,
        Self::Importing,
        Self::NotOwner,
        Self::NoLease,
        Self::TooManyWaiting,
        Self::ShuttingDown,
        Self::ApplicationDown,
        Self::ApplicationBusy,
        Self::Stale,
        Self::TenantDeleted,
        Self::StampMissing,
        Self::StampMalformed,
        Self::ContextMissing,
        Self::ContextInvalid,
    ];

    /// As it stands in [`CODE`].
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NotYet => "NOT_YET",
            Self::Hold => "HOLD",
            Self::Fenced => "FENCED",
            Self::Importing => "IMPORTING",
            Self::NotOwner => "NOT_OWNER",
            Self::NoLease => "NO_LEASE",
            Self::TooManyWaiting => "TOO_MANY_WAITING",
            Self::ShuttingDown => "SHUTTING_DOWN",
            Self::ApplicationDown => "APPLICATION_DOWN",
            Self::ApplicationBusy => "APPLICATION_BUSY",
            Self::Stale => "STALE",
            Self::TenantDeleted => "TENANT_DELETED",
            Self::StampMissing => "STAMP_MISSING",
            Self::StampMalformed => "STAMP_MALFORMED",
            Self::ContextMissing => "CONTEXT_MISSING",
            Self::ContextInvalid => "CONTEXT_INVALID",
        }
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A text that is no [`Code`]; a newer gate may know more of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a code of a gate")]
pub struct UnknownCode;

impl FromStr for Code {
    type Err = UnknownCode;

    fn from_str(text: &str) -> Result<Self, UnknownCode> {
        Self::ALL.into_iter().find(|code| code.as_str() == text).ok_or(UnknownCode)
    }
}

/// Whether a request may change something: all but GET, HEAD and OPTIONS may.
#[must_use]
pub fn is_write(method: &Method) -> bool {
    !matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS)
}

/// Whether a message is of gRPC: `application/grpc`, with or without what its messages are written in.
#[must_use]
pub fn is_grpc(headers: &HeaderMap) -> bool {
    let after = headers.get(CONTENT_TYPE).and_then(|value| value.as_bytes().strip_prefix(b"application/grpc"));
    after.is_some_and(|rest| matches!(rest.first(), None | Some(b'+' | b';')))
}

/// Whether an answer says that the application has surely not run.
#[must_use]
pub fn is_not_executed(headers: &HeaderMap) -> bool {
    headers.get(&NOT_EXECUTED).is_some_and(|value| value == NOT_EXECUTED_YES)
}

/// Removes every header that belongs to Cellway.
pub fn strip_reserved(headers: &mut HeaderMap) {
    let reserved: Vec<HeaderName> =
        headers.keys().filter(|name| name.as_str().starts_with(RESERVED_PREFIX)).cloned().collect();
    for name in reserved {
        headers.remove(name);
    }
}

/// Marks an answer as surely not executed, with the reason.
pub fn mark_not_executed(headers: &mut HeaderMap, code: Code) {
    headers.insert(&NOT_EXECUTED, HeaderValue::from_static(NOT_EXECUTED_YES));
    headers.insert(&CODE, HeaderValue::from_static(code.as_str()));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_reads_back_as_it_is_written() {
        for code in Code::ALL {
            assert_eq!(code.as_str().parse(), Ok(code));
        }
        assert_eq!("hold".parse::<Code>(), Err(UnknownCode));
    }

    #[test]
    fn only_the_reserved_headers_are_stripped() {
        let mut headers = HeaderMap::new();
        headers.append("cell-tenant", HeaderValue::from_static("t"));
        headers.append("cell-anything", HeaderValue::from_static("a"));
        headers.append("cell-anything", HeaderValue::from_static("b"));
        headers.append("cellar", HeaderValue::from_static("wine"));
        strip_reserved(&mut headers);
        assert_eq!(headers.len(), 1);
        assert!(headers.contains_key("cellar"));
    }

    #[test]
    fn what_is_not_a_read_is_a_write() {
        for read in [Method::GET, Method::HEAD, Method::OPTIONS] {
            assert!(!is_write(&read));
        }
        for write in ["POST", "PUT", "DELETE", "PATCH", "TRACE", "CONNECT", "LOCK"] {
            assert!(is_write(&Method::from_bytes(write.as_bytes()).unwrap()));
        }
    }
}
