//! What became of single requests: the last ones of each thread, to be asked for by request id, and a log of all of them.
//!
//! A request's record is made of what its context holds anyway; the text is made by whoever reads it.

pub(crate) mod log;
pub(crate) mod recent;
pub(crate) mod spans;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use cell_model::{Revision, TenantId};
use http::{HeaderValue, Method, StatusCode, Version};
use serde_json::{Value, json};

use crate::refusal::Code;
use crate::table::Entry;

/// Of the sentence of a refusal, of a path, and of a method that nobody has registered: clients say what is in them.
pub(crate) const DETAIL_BYTES_MAX: usize = 512;
const PATH_BYTES_MAX: usize = 1_024;
const METHOD_BYTES_MAX: usize = 32;

/// Of a request that has no answer because nobody is there for one; others write the same.
pub(crate) const CLIENT_LEFT: StatusCode = match StatusCode::from_u16(499) {
    Ok(status) => status,
    Err(_) => StatusCode::BAD_REQUEST,
};

/// At most so many bytes of a text, and a sign where there were more.
pub(crate) fn bounded(mut text: String, most: usize) -> String {
    if text.len() > most {
        text.truncate(text.floor_char_boundary(most));
        text.push('…');
    }
    text
}

pub(crate) fn bounded_method(method: Method) -> Method {
    match method.as_str().as_bytes().get(..METHOD_BYTES_MAX) {
        Some(first) => Method::from_bytes(first).unwrap_or_default(),
        None => method,
    }
}

/// What became of one request.
#[derive(Debug, Clone)]
pub(crate) struct Record {
    pub(crate) at: SystemTime,
    pub(crate) request_id: HeaderValue,
    /// From where and how it came.
    pub(crate) client: IpAddr,
    pub(crate) version: Version,
    pub(crate) secure: bool,
    pub(crate) method: Method,
    /// Where requests are logged.
    pub(crate) path: Option<Box<str>>,
    pub(crate) tenant: Option<TenantId>,
    /// By what it was routed last.
    pub(crate) entry: Option<Arc<Entry>>,
    /// Up to where the table was complete.
    pub(crate) table_revision: Revision,
    /// Where it was sent last.
    pub(crate) instance: Option<Arc<str>>,
    pub(crate) attempts: u32,
    /// How long it waited for a move, and for its turn in the cell.
    pub(crate) held: Duration,
    pub(crate) queued: Duration,
    /// Requests that the cell got at once then.
    pub(crate) cell_limit: u32,
    pub(crate) status: StatusCode,
    /// Code and sentence, where the answer was the router's own.
    pub(crate) refusal: Option<(Code, String)>,
    /// From the head of the request to the head of the answer.
    pub(crate) took: Duration,
}

impl Record {
    /// As operators read it: without the path, which only the log has.
    pub(crate) fn to_json(&self) -> Value {
        let since = self.at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let millis = |duration: Duration| duration.as_secs_f64() * 1_000.0;
        let mapping = self.entry.as_ref().map(|entry| &entry.mapping);
        json!({
            "at_ms": u64::try_from(since.as_millis()).unwrap_or(u64::MAX),
            "request_id": self.request_id.to_str().unwrap_or_default(),
            "client": self.client.to_string(),
            "protocol": format!("{:?}", self.version),
            "tls": self.secure,
            "method": self.method.as_str(),
            "tenant": self.tenant,
            "tier": mapping.map(|mapping| mapping.tier),
            "cell": mapping.map(|mapping| &mapping.owner),
            "epoch": mapping.map(|mapping| mapping.epoch),
            "mapping_revision": mapping.map(|mapping| mapping.revision),
            "table_revision": self.table_revision,
            "instance": self.instance.as_deref(),
            "attempts": self.attempts,
            "held_ms": millis(self.held),
            "queued_ms": millis(self.queued),
            "cell_limit": self.cell_limit,
            "status": self.status.as_u16(),
            "code": self.refusal.as_ref().map(|(code, _)| code.as_str()),
            "detail": self.refusal.as_ref().map(|(_, detail)| detail),
            "took_ms": millis(self.took),
        })
    }
}
