//! What a client is told when the router itself answers: RFC 9457 problem details with a stable code, a sentence, and
//! what to do next.

mod grpc;

use std::time::Duration;

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderValue, Response, StatusCode};
use serde::Serialize;

pub(crate) use grpc::grpc_trailers;

/// Every code that the router answers with. Each has a page under `docs/errors`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Code {
    /// No part of the request says whose it is.
    TenantMissing,
    /// Parts of the request disagree about whose it is.
    TenantAmbiguous,
    /// What should name a tenant cannot be a tenant's name.
    TenantInvalid,
    /// Two readers of this message could understand different things.
    MessageAmbiguous,
    /// A method or protocol that the router does not forward.
    MethodUnsupported,
    /// The body is larger than the limit.
    BodyTooLarge,
    /// The client stopped sending its body.
    BodyTimeout,
    /// No such tenant, as of now.
    TenantUnknown,
    /// No such tenant in a table that is not up to date.
    TenantUnknownYet,
    /// The tenant is deleted.
    TenantDeleted,
    /// The tenant is between two cells, and the time to wait is over or too many wait already.
    TenantMoving,
    /// The tenant's cell has no gate, and nobody says whether the tenant is still there.
    TableStale,
    /// No instance of the tenant's cell takes connections.
    CellUnreachable,
    /// With no instance of the tenant's cell TLS comes about.
    CellUntrusted,
    /// The tenant's cell has refused the request until the deadline; it has not run.
    CellRefused,
    /// The connection broke after the request was sent: it may or may not have run.
    CellFailed,
    /// The cell has not answered in time: the request may or may not have run.
    CellTimeout,
    /// The cell refused the request, and its body is too large to be sent again from here; it has not run.
    BodyNotReplayable,
    /// The tenant asks more often than it may.
    RateLimited,
    /// The tenant has as many requests on their way as it may.
    TenantBusy,
    /// The tenant's cell has as many requests as it can do, and the turn has not come.
    CellBusy,
    /// Requests like this one have failed lately, and none is sent for a while.
    BreakerOpen,
    /// The head of the request is larger than the limit.
    HeaderTooLarge,
    /// The head of the request did not come in time.
    HeaderTimeout,
    /// What proves who sends the request names another tenant than the request.
    TenantMismatch,
    /// There is no token, and one is needed.
    TokenMissing,
    /// The token is not accepted.
    TokenInvalid,
    /// No token can be verified yet.
    TokenKeysUnavailable,
    /// No more WebSockets are taken.
    TunnelsFull,
}

impl Code {
    /// Every code there is.
    pub const ALL: [Self; 29] = [
        Self::TenantMissing,
        Self::TenantAmbiguous,
        Self::TenantInvalid,
        Self::MessageAmbiguous,
        Self::MethodUnsupported,
        Self::BodyTooLarge,
        Self::BodyTimeout,
        Self::TenantUnknown,
        Self::TenantUnknownYet,
        Self::TenantDeleted,
        Self::TenantMoving,
        Self::TableStale,
        Self::CellUnreachable,
        Self::CellUntrusted,
        Self::CellRefused,
        Self::CellFailed,
        Self::CellTimeout,
        Self::BodyNotReplayable,
        Self::RateLimited,
        Self::TenantBusy,
        Self::CellBusy,
        Self::BreakerOpen,
        Self::HeaderTooLarge,
        Self::HeaderTimeout,
        Self::TenantMismatch,
        Self::TokenMissing,
        Self::TokenInvalid,
        Self::TokenKeysUnavailable,
        Self::TunnelsFull,
    ];

    /// As it stands in answers and metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::TenantMissing => "TENANT_MISSING",
            Self::TenantAmbiguous => "TENANT_AMBIGUOUS",
            Self::TenantInvalid => "TENANT_INVALID",
            Self::MessageAmbiguous => "MESSAGE_AMBIGUOUS",
            Self::MethodUnsupported => "METHOD_UNSUPPORTED",
            Self::BodyTooLarge => "BODY_TOO_LARGE",
            Self::BodyTimeout => "BODY_TIMEOUT",
            Self::TenantUnknown => "TENANT_UNKNOWN",
            Self::TenantUnknownYet => "TENANT_UNKNOWN_YET",
            Self::TenantDeleted => "TENANT_DELETED",
            Self::TenantMoving => "TENANT_MOVING",
            Self::TableStale => "TABLE_STALE",
            Self::CellUnreachable => "CELL_UNREACHABLE",
            Self::CellUntrusted => "CELL_UNTRUSTED",
            Self::CellRefused => "CELL_REFUSED",
            Self::CellFailed => "CELL_FAILED",
            Self::CellTimeout => "CELL_TIMEOUT",
            Self::BodyNotReplayable => "BODY_NOT_REPLAYABLE",
            Self::RateLimited => "RATE_LIMITED",
            Self::TenantBusy => "TENANT_BUSY",
            Self::CellBusy => "CELL_BUSY",
            Self::BreakerOpen => "BREAKER_OPEN",
            Self::HeaderTooLarge => "HEADER_TOO_LARGE",
            Self::HeaderTimeout => "HEADER_TIMEOUT",
            Self::TenantMismatch => "TENANT_MISMATCH",
            Self::TokenMissing => "TOKEN_MISSING",
            Self::TokenInvalid => "TOKEN_INVALID",
            Self::TokenKeysUnavailable => "TOKEN_KEYS_UNAVAILABLE",
            Self::TunnelsFull => "TUNNELS_FULL",
        }
    }

    /// The status that goes with it.
    #[must_use]
    pub const fn status(self) -> StatusCode {
        match self {
            Self::TenantMissing | Self::TenantAmbiguous | Self::TenantInvalid | Self::MessageAmbiguous => {
                StatusCode::BAD_REQUEST
            }
            Self::MethodUnsupported => StatusCode::NOT_IMPLEMENTED,
            Self::BodyTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::BodyTimeout | Self::HeaderTimeout => StatusCode::REQUEST_TIMEOUT,
            Self::HeaderTooLarge => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Self::TenantMismatch => StatusCode::FORBIDDEN,
            Self::TokenMissing | Self::TokenInvalid => StatusCode::UNAUTHORIZED,
            Self::TenantUnknown => StatusCode::NOT_FOUND,
            Self::TenantDeleted => StatusCode::GONE,
            Self::TenantUnknownYet
            | Self::TenantMoving
            | Self::TableStale
            | Self::CellUnreachable
            | Self::CellUntrusted
            | Self::CellRefused
            | Self::TokenKeysUnavailable
            | Self::TunnelsFull
            | Self::BodyNotReplayable
            | Self::TenantBusy
            | Self::CellBusy
            | Self::BreakerOpen => StatusCode::SERVICE_UNAVAILABLE,
            Self::RateLimited => StatusCode::TOO_MANY_REQUESTS,
            Self::CellFailed => StatusCode::BAD_GATEWAY,
            Self::CellTimeout => StatusCode::GATEWAY_TIMEOUT,
        }
    }

    /// The status of gRPC that goes with it.
    #[must_use]
    pub const fn grpc_status(self) -> u16 {
        match self.status().as_u16() {
            // INVALID_ARGUMENT
            400 => 3,
            // DEADLINE_EXCEEDED
            408 | 504 => 4,
            // NOT_FOUND
            404 | 410 => 5,
            // PERMISSION_DENIED
            403 => 7,
            // RESOURCE_EXHAUSTED
            413 | 429 | 431 => 8,
            // UNIMPLEMENTED
            501 => 12,
            // UNAVAILABLE
            503 => 14,
            // UNAUTHENTICATED
            401 => 16,
            // UNKNOWN: it may or may not have run. Clients repeat UNAVAILABLE by themselves.
            _ => 2,
        }
    }

    /// What the client may do next.
    #[must_use]
    pub const fn hint(self) -> &'static str {
        match self {
            Self::TenantMissing => {
                "name the tenant, usually as `Host: <tenant>.<domain>` or as `X-Tenant-ID: <tenant>`"
            }
            Self::TenantAmbiguous => "name one tenant, once: by host, by header, or by both with the same value",
            Self::TenantInvalid => {
                "a tenant is 1 to 63 characters of a-z, 0-9 and '-', as `cellctl get tenants` prints it"
            }
            Self::MessageAmbiguous => "send the request in a form that every reader understands alike",
            Self::MethodUnsupported => "use another method; of tunnels, only WebSockets are forwarded",
            Self::BodyTooLarge => "send less, or raise `limits.body-bytes-max` of the router",
            Self::BodyTimeout => {
                "send the body faster and without long pauses, or raise `timeouts.body-idle` or lower `limits.body-rate-min` of the router"
            }
            Self::TenantUnknown => "`cellctl get tenants` lists what there is",
            Self::TenantUnknownYet => "try again: the router cannot reach the control plane and may not know yet",
            Self::TenantDeleted => "the tenant is gone for good; `cellctl create tenant` makes a new, empty one",
            Self::TenantMoving => "try again: the request has not run",
            Self::TableStale => {
                "try again: the request has not run; `cellctl get routers` shows what the router has heard of the control plane"
            }
            Self::CellUnreachable => "try again: the request has not run; `cellctl get cells` shows the cell",
            Self::CellUntrusted => {
                "the request has not run: an operator finds in the router's log, by the request's id, which gate it is and what is wrong"
            }
            Self::CellRefused => "try again: the request has not run",
            Self::CellFailed => {
                "it may or may not have run: read before you write again, or send an `Idempotency-Key` from the start"
            }
            Self::CellTimeout => {
                "it may or may not have run: read before you write again, or send an `Idempotency-Key` from the start"
            }
            Self::BodyNotReplayable => "send the request again: it has not run",
            Self::RateLimited => "wait for as long as `Retry-After` says; the request has not run",
            Self::TenantBusy => "have fewer requests at once, and try again: the request has not run",
            Self::CellBusy => "try again: the request has not run",
            Self::BreakerOpen => {
                "try again after `Retry-After`: the request has not run; `cellctl get cells` shows the cell"
            }
            Self::HeaderTooLarge => {
                "send fewer or shorter header fields, or raise `limits.header-bytes-max` and `limits.headers-max` of the router"
            }
            Self::HeaderTimeout => "send the head without pauses, or raise `timeouts.header` of the router",
            Self::TenantMismatch => {
                "use the host, path or header of the tenant that the token or certificate is for"
            }
            Self::TokenMissing => "send `Authorization: Bearer <token>`",
            Self::TokenInvalid => "get a new token from the issuer that the router is told of in `tenant.token`",
            Self::TokenKeysUnavailable => {
                "try again: the router has not reached the issuer's keys yet; its log says why"
            }
            Self::TunnelsFull => {
                "try again later, or raise `limits.tunnels-per-tenant-max` and `limits.tunnels-max` of the router"
            }
        }
    }

    /// When to try again, where that helps.
    #[must_use]
    pub const fn retry_after(self) -> Option<Duration> {
        match self.status() {
            StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS => Some(Duration::from_secs(1)),
            _ => None,
        }
    }
}

/// One refusal: a code and the sentence for this case.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The stable code.
    pub code: Code,
    /// What happened, in one sentence.
    pub detail: String,
    /// When to try again, where that is known better than from the code.
    pub retry_after: Option<Duration>,
    /// What the client may do next, where that is known better than from the code: then trying again does not help.
    pub hint: Option<Box<str>>,
    /// What is behind it and only for operators: addresses, and errors of the machine.
    pub cause: Option<Box<str>>,
}

/// Of the sentence, in a header.
const CHALLENGE_CHARS_MAX: usize = 300;

#[derive(Serialize)]
struct Problem<'a> {
    title: &'a str,
    status: u16,
    code: &'a str,
    detail: &'a str,
    hint: &'a str,
    instance: &'a str,
}

impl Refusal {
    /// A refusal with its sentence.
    pub fn new(code: Code, detail: impl Into<String>) -> Self {
        Self { code, detail: detail.into(), retry_after: None, hint: None, cause: None }
    }

    /// With the time after which it may be tried again.
    #[must_use]
    pub fn after(self, retry_after: Duration) -> Self {
        Self { retry_after: Some(retry_after), ..self }
    }

    /// With what may be done next, where trying again does not help.
    #[must_use]
    pub fn hinting(self, hint: &str) -> Self {
        Self { hint: Some(hint.into()), ..self }
    }

    /// With what operators are told beside the sentence.
    #[must_use]
    pub fn because(self, cause: impl Into<Box<str>>) -> Self {
        Self { cause: Some(cause.into()), ..self }
    }

    /// The sentence as operators are told it.
    pub(crate) fn in_full(&self) -> String {
        match &self.cause {
            Some(cause) => format!("{}: {cause}", self.detail),
            None => self.detail.clone(),
        }
    }

    /// What a 401 asks for (RFC 6750, 3): who has shown no token is told of no error.
    fn challenge(&self) -> HeaderValue {
        if self.code != Code::TokenInvalid {
            return HeaderValue::from_static("Bearer");
        }
        // What may not stand in a quoted text there.
        let plain = |c: char| if matches!(c, ' '..='~') && !matches!(c, '"' | '\\') { c } else { '\'' };
        let detail: String = self.detail.chars().take(CHALLENGE_CHARS_MAX).map(plain).collect();
        let text = format!("Bearer error=\"invalid_token\", error_description=\"{detail}\"");
        HeaderValue::try_from(text).unwrap_or(HeaderValue::from_static("Bearer error=\"invalid_token\""))
    }

    fn next_step(&self) -> &str {
        self.hint.as_deref().unwrap_or(self.code.hint())
    }

    /// When to try again, where that helps.
    fn again_after(&self) -> Option<Duration> {
        if self.hint.is_some() { None } else { self.retry_after.or(self.code.retry_after()) }
    }

    /// The answer to the client; `request_id` is its `instance`.
    pub(crate) fn into_response(self, request_id: &str) -> Response<Bytes> {
        let status = self.code.status();
        let problem = Problem {
            title: status.canonical_reason().unwrap_or("Refused"),
            status: status.as_u16(),
            code: self.code.as_str(),
            detail: &self.detail,
            hint: self.next_step(),
            instance: request_id,
        };
        let body = serde_json::to_vec(&problem).expect("a struct of strings and a number is JSON");
        let mut response = Response::new(Bytes::from(body));
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if status == StatusCode::UNAUTHORIZED {
            headers.insert(WWW_AUTHENTICATE, self.challenge());
        }
        if let Some(after) = self.again_after() {
            headers.insert(RETRY_AFTER, HeaderValue::from(after.as_secs()));
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_refusal_is_a_problem_with_a_code_a_sentence_and_a_hint() {
        for code in Code::ALL {
            let response = Refusal::new(code, "something happened").into_response("r-1");
            assert!(response.status().is_client_error() || response.status().is_server_error());
            assert_eq!(response.headers()[CACHE_CONTROL], "no-store");
            let problem: serde_json::Value = serde_json::from_slice(response.body()).unwrap();
            assert_eq!(problem["code"], code.as_str());
            assert_eq!(problem["status"], response.status().as_u16());
            assert_eq!(problem["instance"], "r-1");
            assert!(!problem["hint"].as_str().unwrap().is_empty());
        }
    }

    #[test]
    fn a_token_that_is_not_accepted_is_challenged_with_the_error_of_rfc_6750_and_none_that_is_missing() {
        let challenge = |code, detail: &str| {
            let response = Refusal::new(code, detail).into_response("r");
            response.headers()[WWW_AUTHENTICATE].to_str().unwrap().to_owned()
        };
        assert_eq!(challenge(Code::TokenMissing, "x"), "Bearer");
        assert_eq!(
            challenge(Code::TokenInvalid, "no claim \"exp\"\\\u{e9}\n"),
            "Bearer error=\"invalid_token\", error_description=\"no claim 'exp''''\""
        );
    }

    #[test]
    fn what_is_for_operators_is_in_no_answer() {
        let refusal = Refusal::new(Code::CellUnreachable, "nobody is there").because("10.1.2.3:80: refused");
        assert_eq!(refusal.in_full(), "nobody is there: 10.1.2.3:80: refused");
        let answers = [refusal.clone().into_response("r"), refusal.into_grpc()];
        for answer in answers {
            let said = format!("{:?} {}", answer.headers(), String::from_utf8_lossy(answer.body()));
            assert!(said.contains("nobody") && !said.contains("10.1.2.3"), "{said}");
        }
    }

    #[test]
    fn where_trying_again_does_not_help_nobody_is_told_when() {
        let response =
            Refusal::new(Code::CellRefused, "a key is missing").hinting("give it one").into_response("r");
        assert!(!response.headers().contains_key(RETRY_AFTER));
        let problem: serde_json::Value = serde_json::from_slice(response.body()).unwrap();
        assert_eq!(problem["hint"], "give it one");
    }

    #[test]
    fn only_what_may_pass_by_itself_says_when_to_try_again() {
        for code in Code::ALL {
            let response = Refusal::new(code, "x").into_response("r");
            let passes = response.status() == 503 || response.status() == 429;
            assert_eq!(response.headers().contains_key(RETRY_AFTER), passes, "{}", code.as_str());
        }
    }
}
