//! The guard before every gRPC server of the house: who calls is read from the certificate of the connection, what is
//! called from the path, and [`cell_trust::Rpc::callers`] says whether that may be. What the table does not name is refused.

use std::future::Ready;
use std::task::{Context, Poll};
use std::time::Duration;

use cell_trust::{Principal, Rpc};
use futures::future::Either;
use http::{Request, Response};
use tonic::metadata::MetadataValue;
use tonic::transport::server::{TcpConnectInfo, TlsConnectInfo};
use tonic::{Code, Status};
use tower::{Layer, Service};

use crate::identity::principal_of;
use crate::trailer;

/// Layer of a tonic server. Handlers find the caller's [`Principal`] among a request's extensions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Guard {
    /// By certificate and table.
    ByCertificate,
    /// Everybody may everything and nobody has a name: for plaintext on the loopback interface only.
    Open,
}

impl<S> Layer<S> for Guard {
    type Service = Guarded<S>;
    fn layer(&self, inner: S) -> Guarded<S> {
        Guarded { guard: *self, inner }
    }
}

/// A server behind the guard.
#[derive(Debug, Clone)]
pub struct Guarded<S> {
    guard: Guard,
    inner: S,
}

impl<S, B, A> Service<Request<B>> for Guarded<S>
where
    S: Service<Request<B>, Response = Response<A>>,
    A: Default,
{
    type Response = Response<A>;
    type Error = S::Error;
    type Future = Either<S::Future, Ready<Result<Response<A>, S::Error>>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        // Nobody but this guard says who calls.
        request.extensions_mut().remove::<Principal>();
        if self.guard == Guard::Open {
            return Either::Left(self.inner.call(request));
        }
        match admit(&request) {
            Ok(principal) => {
                request.extensions_mut().insert(principal);
                Either::Left(self.inner.call(request))
            }
            Err(status) => Either::Right(std::future::ready(Ok(status.into_http()))),
        }
    }
}

fn admit<B>(request: &Request<B>) -> Result<Principal, Status> {
    let path = request.uri().path();
    let connection = request.extensions().get::<TlsConnectInfo<TcpConnectInfo>>();
    let certificates = connection.and_then(TlsConnectInfo::peer_certs);
    let leaf = certificates.as_ref().and_then(|chain| chain.first());
    let leaf = leaf.ok_or_else(|| {
        refused(Code::Unauthenticated, "CERTIFICATE_MISSING", "the connection has no certificate".into(), ISSUE)
    })?;
    let principal = principal_of(leaf).map_err(|why| {
        refused(
            Code::Unauthenticated,
            "CERTIFICATE_NAMELESS",
            format!("the certificate names nobody: {why}"),
            ISSUE,
        )
    })?;
    if Rpc::of_path(path).is_some_and(|rpc| rpc.allows(principal.role())) {
        return Ok(principal);
    }
    let path: String = path.chars().filter(|c| c.is_ascii_graphic()).take(100).collect();
    tracing::warn!(%principal, path, "a call was denied");
    let allowed = Rpc::of_path(&path).map(Rpc::callers).unwrap_or_default();
    let allowed: Vec<&str> = allowed.iter().map(|role| role.as_str()).collect();
    let message = format!("{principal} may not call {path}");
    let hint = match allowed.as_slice() {
        [] => "nobody may: there is no such call here".to_owned(),
        allowed => format!("call with a certificate of role {}", allowed.join(" or ")),
    };
    Err(refused(Code::PermissionDenied, "ROLE_DENIED", message, &hint))
}

const ISSUE: &str = "`cellctl ca issue` makes a certificate; name its directory with --identity";

fn refused(code: Code, cellway_code: &'static str, message: String, hint: &str) -> Status {
    let mut status = Status::new(code, message);
    status.metadata_mut().insert(trailer::CODE, MetadataValue::from_static(cellway_code));
    if let Ok(hint) = hint.parse() {
        status.metadata_mut().insert(trailer::HINT, hint);
    }
    status
}

/// Who calls, as the audit trail writes it; empty where nobody had to say.
#[must_use]
pub fn actor<T>(request: &tonic::Request<T>) -> String {
    caller(request).map(ToString::to_string).unwrap_or_default()
}

/// How long ago the caller has tried the same first; none where this is the first time. What cannot be read counts as long ago.
#[must_use]
pub fn tried_ago<T>(request: &tonic::Request<T>) -> Option<Duration> {
    let said = request.metadata().get(trailer::TRIED_AGO)?;
    let millis = said.to_str().ok().and_then(|said| said.parse().ok());
    Some(millis.map_or(Duration::MAX, Duration::from_millis))
}

/// Who calls; none behind an open guard.
#[must_use]
pub fn caller<T>(request: &tonic::Request<T>) -> Option<&Principal> {
    request.extensions().get()
}

/// Refuses an agent that speaks for another cell than the one in its certificate.
///
/// # Errors
/// A status with code `OTHER_CELLS_NAME`.
pub fn check_cell(caller: Option<&Principal>, cell: &str) -> Result<(), Status> {
    match caller {
        Some(principal) if principal.name() != cell => Err(refused(
            Code::PermissionDenied,
            "OTHER_CELLS_NAME",
            format!("{principal} may not speak for cell {cell}"),
            "give each cell a certificate of role agent in its own name",
        )),
        Some(_) | None => Ok(()),
    }
}
