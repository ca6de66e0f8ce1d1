//! What the application says when it does not do what was asked: a problem document (RFC 9457) with a stable code.

use cell_agent::{ReadError, RowError, WriteError};
use cell_gate::wire::Code;
use cell_gate::{NotExecuted, ResponseBody, full};
use http::header::{CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderValue, Response, StatusCode};

/// Why a request has no ordinary answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Problem {
    /// The application refuses, or does not know.
    Said {
        /// HTTP status.
        status: StatusCode,
        /// Stable code.
        code: &'static str,
        /// What is wrong.
        detail: String,
        /// What to do next.
        hint: &'static str,
    },
    /// The data layer has refused because of the tenant's owner: the gate answers.
    NotExecuted(Code),
}

impl Problem {
    pub(crate) fn new(
        status: StatusCode,
        code: &'static str,
        detail: impl Into<String>,
        hint: &'static str,
    ) -> Self {
        Self::Said { status, code, detail: detail.into(), hint }
    }

    pub(crate) fn bad_request(code: &'static str, detail: impl Into<String>, hint: &'static str) -> Self {
        Self::new(StatusCode::BAD_REQUEST, code, detail, hint)
    }

    /// What the request needs is taken by others, for now. Nothing was executed, or all of it is undone.
    pub(crate) fn busy(code: &'static str, detail: impl Into<String>) -> Self {
        let hint =
            "try again after a moment; if it lasts, look at what the database is busy with (pg_stat_activity)";
        Self::new(StatusCode::SERVICE_UNAVAILABLE, code, detail, hint)
    }

    pub(crate) fn not_found(code: &'static str, detail: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, code, detail, "list what there is with GET /docs")
    }

    /// A row of the application's own that it cannot read.
    pub(crate) fn damaged(what: &str) -> Self {
        let detail = format!("the stored {what} cannot be read");
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "ROW_DAMAGED", detail, "verify the tenant and restore it")
    }

    pub(crate) fn refused(code: &str) -> Self {
        // A newer data layer may know codes that this one does not; none of them has executed anything.
        Self::NotExecuted(code.parse().unwrap_or(Code::NotOwner))
    }

    pub(crate) fn into_response(self) -> Response<ResponseBody> {
        match self {
            Self::NotExecuted(code) => {
                let mut response = Response::new(full(""));
                *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
                response.extensions_mut().insert(NotExecuted(code));
                response
            }
            Self::Said { status, code, detail, hint } => {
                let document = serde_json::json!({
                    "status": status.as_u16(),
                    "title": status.canonical_reason().unwrap_or("error"),
                    "code": code,
                    "detail": detail,
                    "hint": hint,
                });
                let mut response = Response::new(full(document.to_string()));
                *response.status_mut() = status;
                let headers = response.headers_mut();
                headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
                headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
                if status == StatusCode::SERVICE_UNAVAILABLE {
                    headers.insert(RETRY_AFTER, HeaderValue::from_static("1"));
                }
                response
            }
        }
    }
}

impl From<RowError> for Problem {
    fn from(error: RowError) -> Self {
        tracing::error!(%error, code = error.code(), "the data layer failed");
        let hint = "nothing was written: look at the cell's log and try again";
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, error.code(), error.to_string(), hint)
    }
}

impl From<ReadError> for Problem {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Refused { code, .. } => Self::refused(code),
            ReadError::Store(error) => error.into(),
        }
    }
}

impl From<WriteError<Problem>> for Problem {
    fn from(error: WriteError<Problem>) -> Self {
        match error {
            WriteError::Refused { code, .. } => Self::refused(code),
            WriteError::App(problem) => problem,
            WriteError::Store(error) => error.into(),
            WriteError::Unknown { reason } => Self::new(
                StatusCode::GATEWAY_TIMEOUT,
                "OUTCOME_UNKNOWN",
                format!("the write may or may not last: {reason}"),
                "read before you write again, or send it again under the same Idempotency-Key",
            ),
        }
    }
}
