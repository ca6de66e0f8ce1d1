//! What the gRPC library refuses by itself, before anybody of ours sees it, is refused as everything else is: with a code, and with
//! what to do next.

use std::task::{Context, Poll};

use cell_protos::Malformed;
use futures::future::{MapOk, TryFutureExt};
use tonic::body::Body;
use tonic::codegen::{Service, http};
use tonic::server::NamedService;
use tonic::{Code, Status};

use crate::refusal::refusal;

/// A service of ours.
#[derive(Debug, Clone)]
pub(crate) struct Refusing<S>(pub(crate) S);

impl<S: NamedService> NamedService for Refusing<S> {
    const NAME: &'static str = S::NAME;
}

type Answer = http::Response<Body>;

impl<S, B> Service<http::Request<B>> for Refusing<S>
where
    S: Service<http::Request<B>, Response = Answer>,
    S::Future: TryFutureExt<Ok = Answer, Error = S::Error>,
{
    type Response = Answer;
    type Error = S::Error;
    type Future = MapOk<S::Future, fn(Answer) -> Answer>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, request: http::Request<B>) -> Self::Future {
        self.0.call(request).map_ok(with_code)
    }
}

fn with_code(answer: Answer) -> Answer {
    // Only a refusal says its status before the body.
    let said = Status::from_header_map(answer.headers());
    said.and_then(|status| named(&status)).map_or(answer, Status::into_http)
}

fn named(status: &Status) -> Option<Status> {
    let message = status.message();
    match status.code() {
        Code::Internal if message.starts_with("failed to decode Protobuf message") => Some(refusal(
            Code::InvalidArgument,
            Malformed::CODE,
            format!("the request is no message of this call: {message}"),
            "encode it as the .proto file of this version says",
        )),
        Code::OutOfRange if message.contains("message length too large") => {
            Some(refusal(Code::InvalidArgument, "COMMAND_TOO_LARGE", message, "name fewer or shorter things"))
        }
        _ => None,
    }
}
