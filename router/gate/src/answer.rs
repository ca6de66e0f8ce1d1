//! What a gate says itself: problem documents (RFC 9457) with a stable code, a sentence, and what to do next.

use http::header::{CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderValue, Response, StatusCode};

use crate::admission::Refusal;
use crate::application::{ResponseBody, full};
use crate::stamp::StampError;
use crate::wire;
use crate::wire::Code;

/// What a problem document says, for those who read none.
#[derive(Clone)]
struct Said {
    code: String,
    detail: String,
}

/// A problem document.
pub(crate) fn problem(status: StatusCode, code: &str, detail: &str, hint: &str) -> Response<ResponseBody> {
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
    response.extensions_mut().insert(Said { code: code.to_owned(), detail: detail.to_owned() });
    response
}

/// The answer as a client of gRPC is given it. One that says 502 or 504 may have run, and its library takes both for leave to send
/// it again (UNAVAILABLE): it is told 2 UNKNOWN.
pub(crate) fn to_grpc(mut response: Response<ResponseBody>) -> Response<ResponseBody> {
    let may_have_run = matches!(response.status(), StatusCode::BAD_GATEWAY | StatusCode::GATEWAY_TIMEOUT);
    if !may_have_run || wire::is_not_executed(response.headers()) || wire::is_grpc(response.headers()) {
        return response;
    }
    let unknown = || Said {
        code: "OUTCOME_UNKNOWN".into(),
        detail: format!("the application answered {}", response.status()),
    };
    let said = response.extensions().get::<Said>().cloned().unwrap_or_else(unknown);
    let headers = response.headers_mut();
    headers.clear();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    headers.insert("grpc-status", HeaderValue::from_static("2"));
    for (name, text) in [("grpc-message", &said.detail), ("cellway-code", &said.code)] {
        if let Ok(text) = HeaderValue::try_from(text) {
            headers.insert(name, text);
        }
    }
    *response.status_mut() = StatusCode::OK;
    response.map(|_| full(""))
}

/// The answer to a request that was not let in.
pub(crate) fn refused(refusal: &Refusal) -> Response<ResponseBody> {
    let code = refusal.code();
    let (status, detail, hint) = explain(refusal);
    let mut response = problem(status, code.as_str(), detail, hint);
    let headers = response.headers_mut();
    wire::mark_not_executed(headers, code);
    if let Refusal::Stale(redirect) = refusal {
        headers.insert(&wire::MAPPING, redirect.header().clone());
    }
    if status == StatusCode::SERVICE_UNAVAILABLE {
        headers.insert(RETRY_AFTER, HeaderValue::from_static("1"));
    }
    response
}

/// The answer to a request without a usable stamp.
pub(crate) fn unstamped(error: &StampError) -> Response<ResponseBody> {
    let hint = "send the request to a router: it adds cell-tenant, cell-uid and cell-epoch";
    let mut response = problem(StatusCode::BAD_REQUEST, error.code().as_str(), &error.to_string(), hint);
    wire::mark_not_executed(response.headers_mut(), error.code());
    response
}

/// The answer to a request whose body is announced to be too long.
pub(crate) fn too_large(most: u64) -> Response<ResponseBody> {
    let detail = format!("the body is longer than {most} bytes");
    problem(StatusCode::PAYLOAD_TOO_LARGE, "BODY_TOO_LARGE", &detail, "send less at once")
}

/// The answer where the application has not come to an end in time, or has panicked.
pub(crate) fn unknown_outcome(is_write: bool, detail: &str) -> Response<ResponseBody> {
    if is_write {
        let hint = "the write may have been executed: read before you send it again, or use an Idempotency-Key";
        problem(StatusCode::GATEWAY_TIMEOUT, "OUTCOME_UNKNOWN", detail, hint)
    } else {
        problem(StatusCode::GATEWAY_TIMEOUT, "APPLICATION_SLOW", detail, "try again")
    }
}

fn explain(refusal: &Refusal) -> (StatusCode, &'static str, &'static str) {
    let again = "nothing was executed: try again";
    let code = match refusal {
        Refusal::Stale(_) => {
            let hint = "go to the owner that the header cell-mapping names";
            return (StatusCode::MISDIRECTED_REQUEST, "another owner serves the tenant since a newer epoch", hint);
        }
        Refusal::Refused(code) => *code,
    };
    let detail = match code {
        Code::TenantDeleted => {
            let hint = "create the tenant again, or ask for another one";
            return (StatusCode::GONE, "this incarnation of the tenant is deleted", hint);
        }
        Code::StampMissing | Code::StampMalformed => {
            return (StatusCode::BAD_REQUEST, "the request carries no usable stamp", "send it to a router");
        }
        Code::ContextMissing | Code::ContextInvalid => {
            let detail = "no router that is trusted here has signed whose request it is";
            let hint = "give the router a key (`context.key-file`) and the gate its public half";
            return (StatusCode::FORBIDDEN, detail, hint);
        }
        Code::NotYet => "this cell has not been told yet of the epoch that the router knows",
        Code::Hold => "the tenant's writes are held for a cutover, and the request waited its full time",
        Code::Fenced => "the tenant is between two owners",
        Code::Importing => "the tenant is being copied to this cell, which does not own it yet",
        Code::NotOwner => "this cell does not own the tenant",
        Code::NoLease => "the gate has lost its agent",
        Code::TooManyWaiting => "too many requests are waiting for a change of the tenant's owner",
        Code::ShuttingDown => "the gate is shutting down",
        Code::ApplicationDown => "the application behind this gate takes no connections",
        Code::ApplicationBusy => "the application behind this gate has as many requests as it may",
        Code::Stale => "the router believes an older epoch, and the newest mapping cannot be had now",
    };
    (StatusCode::SERVICE_UNAVAILABLE, detail, again)
}
