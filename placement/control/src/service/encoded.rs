//! The control service as our server offers it: the generated one, but a watch sends frames as the bytes that were made for
//! everybody. The generated code would encode each of them once more for each watcher.

use std::convert::Infallible;
use std::task::{Context, Poll};

use cell_protos::Encoded;
use cell_protos::v1;
use cell_protos::v1::control_service_server::ControlServiceServer;
use futures::future::BoxFuture;
use tonic::body::Body;
use tonic::codegen::{Service, http};
use tonic::server::{Grpc, NamedService, ServerStreamingService};
use tonic::{Request, Response, Status};

use super::{ControlEndpoint, Ground, watch};

/// The control service.
#[derive(Debug, Clone)]
pub(crate) struct ControlServer {
    ground: Ground,
    others: ControlServiceServer<ControlEndpoint>,
}

impl ControlServer {
    pub(crate) fn new(ground: Ground) -> Self {
        Self { others: ControlServiceServer::new(ControlEndpoint(ground.clone())), ground }
    }
}

impl NamedService for ControlServer {
    const NAME: &'static str = <ControlServiceServer<ControlEndpoint> as NamedService>::NAME;
}

impl Service<http::Request<Body>> for ControlServer {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let method = request.uri().path().strip_prefix('/').and_then(|path| path.strip_prefix(Self::NAME));
        if method != Some("/Watch") {
            return self.others.call(request);
        }
        let watch = Watch(self.ground.clone());
        Box::pin(async move { Ok(Grpc::new(Encoded::default()).server_streaming(watch, request).await) })
    }
}

struct Watch(Ground);

impl ServerStreamingService<v1::WatchRequest> for Watch {
    type Response = prost::bytes::Bytes;
    type ResponseStream = watch::Frames;
    type Future = BoxFuture<'static, Result<Response<Self::ResponseStream>, Status>>;

    fn call(&mut self, request: Request<v1::WatchRequest>) -> Self::Future {
        let frames = watch::begin(&self.0, &request.into_inner());
        Box::pin(std::future::ready(frames.map(Response::new)))
    }
}
