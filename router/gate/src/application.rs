//! What a gate stands before: the application, as a function from request to response.

use std::future::Future;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full};

use crate::wire::Code;

/// Any cause for a body to break off.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// The body of a request. It fails with [`http_body_util::LengthLimitError`] (in its chain of sources or itself) where
/// it is longer than the gate allows.
pub type RequestBody = UnsyncBoxBody<Bytes, BoxError>;

/// The body of a response.
pub type ResponseBody = UnsyncBoxBody<Bytes, BoxError>;

/// An application behind a gate.
///
/// The gate leaves a [`crate::RequestStamp`] in the request's extensions. A write counts as running until the returned
/// future is done, also when its client has gone away; a read is dropped with its client.
pub trait Application: Send + Sync + 'static {
    /// Answers one request.
    fn call(&self, request: Request<RequestBody>) -> impl Future<Output = Response<ResponseBody>> + Send;

    /// Whether it takes requests, for the gate's `/readyz`.
    fn is_ready(&self) -> impl Future<Output = bool> + Send {
        std::future::ready(true)
    }
}

/// An application leaves this in its response's extensions where its data layer refused the request because of the
/// epoch, so that nothing has been executed. The gate then answers instead: 421, or 503 with this code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NotExecuted(pub Code);

/// A body that is there at once.
#[must_use]
pub fn full(bytes: impl Into<Bytes>) -> ResponseBody {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed_unsync()
}
