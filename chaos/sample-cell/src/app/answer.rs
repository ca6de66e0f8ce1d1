//! The answer to a write, in a form that can be stored and given again.

use bytes::Bytes;
use cell_gate::{ResponseBody, full};
use http::header::{CONTENT_TYPE, ETAG, LOCATION};
use http::{HeaderValue, Response, StatusCode};
use serde::{Deserialize, Serialize};

/// Status, the headers that matter, and body.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Answer {
    status: u16,
    location: Option<String>,
    version: Option<u64>,
    /// JSON; empty where there is none.
    body: String,
}

impl Answer {
    pub(crate) const fn new(status: StatusCode) -> Self {
        Self { status: status.as_u16(), location: None, version: None, body: String::new() }
    }

    pub(crate) fn at(mut self, location: String) -> Self {
        self.location = Some(location);
        self
    }

    pub(crate) const fn with_version(mut self, version: u64) -> Self {
        self.version = Some(version);
        self
    }

    pub(crate) fn with_body(mut self, body: &serde_json::Value) -> Self {
        self.body = body.to_string();
        self
    }

    /// As HTTP; `again` says that the write was executed earlier.
    pub(crate) fn into_response(self, again: bool) -> Response<ResponseBody> {
        let mut response = Response::new(full(self.body.clone()));
        *response.status_mut() = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let headers = response.headers_mut();
        if !self.body.is_empty() {
            headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        }
        if let Some(location) = self.location.and_then(|location| HeaderValue::try_from(location).ok()) {
            headers.insert(LOCATION, location);
        }
        if let Some(version) = self.version {
            headers.insert(ETAG, etag(version));
        }
        if again {
            headers.insert("idempotent-replayed", HeaderValue::from_static("true"));
        }
        response
    }
}

/// The ETag of a version.
pub(crate) fn etag(version: u64) -> HeaderValue {
    HeaderValue::try_from(format!("\"{version}\"")).expect("digits between quotes are a header value")
}

/// A JSON text as an answer to a read.
pub(crate) fn json(text: impl Into<Bytes>, version: Option<u64>) -> Response<ResponseBody> {
    let mut response = Response::new(full(text));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    if let Some(version) = version {
        headers.insert(ETAG, etag(version));
    }
    response
}
