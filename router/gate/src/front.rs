//! One request at the gate: stamp, decision, application, answer.
//!
//! The decision needs the head alone. The body of a refused request is handed back unread.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use cell_trust::TenantContext;
use http::header::CONTENT_LENGTH;
use http::request::Parts;
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body::Body;
use http_body_util::{BodyExt as _, Limited};
use tokio_util::task::TaskTracker;

use crate::admission::{Admission, Gatekeeper, Refusal, Standing};
use crate::answer;
use crate::application::{Application, BoxError, NotExecuted, RequestBody, ResponseBody, full};
use crate::context::Contexts;
use crate::interim::EarlyAnswers;
use crate::patience::Patience;
use crate::stamp::RequestStamp;
use crate::tunnel;
use crate::tunnel::Upgrade;
use crate::unread::{Left, Unread};
use crate::wire;

/// What stands between a listener and the application.
pub(crate) struct Front<A> {
    pub(crate) gatekeeper: Arc<Gatekeeper>,
    pub(crate) contexts: Option<Contexts>,
    pub(crate) application: Arc<A>,
    pub(crate) body_bytes_max: u64,
    pub(crate) application_deadline: Duration,
    /// The writes that are running: they go on when their client goes away.
    pub(crate) writes: TaskTracker,
}

/// A request that is let in.
struct Admitted {
    stamp: RequestStamp,
    context: Option<Arc<TenantContext>>,
    admission: Admission,
}

/// The answer, and what nobody has read of the request's body.
pub(crate) struct Served<B> {
    pub(crate) response: Response<ResponseBody>,
    pub(crate) unread: Option<Left<B>>,
}

impl<A: Application> Front<A> {
    /// Answers one request.
    pub(crate) async fn serve<B>(&self, request: Request<B>) -> Served<B>
    where
        B: Body<Data = Bytes> + Send + Unpin + 'static,
        B::Error: Into<BoxError>,
    {
        let (mut parts, body) = request.into_parts();
        let Admitted { stamp, context, admission } = match self.let_in(&parts).await {
            Ok(admitted) => admitted,
            Err(response) => return Served { response: *response, unread: Some(Left { body, begun: false }) },
        };
        let (is_write, is_grpc) = (wire::is_write(&parts.method), wire::is_grpc(&parts.headers));
        if let Some(early) = parts.extensions.get_mut::<EarlyAnswers>().filter(|_| !is_write) {
            early.while_it_stands(Standing::of(&self.gatekeeper, &admission));
        }
        parts.extensions.insert(stamp.clone());
        if let Some(context) = context {
            parts.extensions.insert(context);
        }
        if tunnel::asks(&parts) {
            return Served { response: self.run_upgrade(parts, stamp, admission).await, unread: None };
        }
        let most = if is_grpc { usize::MAX } else { usize::try_from(self.body_bytes_max).unwrap_or(usize::MAX) };
        let (unread, patience) = (Unread::new(), Patience::new(self.application_deadline));
        let request =
            Request::from_parts(parts, Limited::new(patience.listen(unread.lend(body)), most).boxed_unsync());
        let response = if is_write {
            self.run_write(request, stamp, admission, &patience).await
        } else {
            self.run_read(request, stamp, admission, &patience).await
        };
        let response = if is_grpc { answer::to_grpc(response) } else { response };
        Served { response, unread: unread.take() }
    }

    async fn let_in(&self, parts: &Parts) -> Result<Admitted, Box<Response<ResponseBody>>> {
        if let Some(response) = self.probe(parts).await {
            return Err(Box::new(response));
        }
        let stamp =
            RequestStamp::from_headers(&parts.headers).map_err(|error| Box::new(answer::unstamped(&error)))?;
        let context = match &self.contexts {
            None => None,
            Some(contexts) => {
                let refused = |code| Box::new(answer::refused(&Refusal::Refused(code)));
                Some(contexts.check(&parts.headers, &stamp).map_err(refused)?)
            }
        };
        // A stream of messages has no length.
        if !wire::is_grpc(&parts.headers)
            && announced_length(&parts.headers).is_some_and(|length| length > self.body_bytes_max)
        {
            return Err(Box::new(answer::too_large(self.body_bytes_max)));
        }
        match self.gatekeeper.admit(&stamp, wire::is_write(&parts.method) || tunnel::asks(parts)).await {
            Ok(admission) => {
                if let Some(request_id) = parts.headers.get(&wire::REQUEST_ID) {
                    admission.is_of(request_id);
                }
                Ok(Admitted { stamp, context, admission })
            }
            Err(refusal) => {
                tracing::debug!(tenant = %stamp.tenant, epoch = %stamp.epoch, code = %refusal.code(), "refused");
                Err(Box::new(answer::refused(&refusal)))
            }
        }
    }

    /// `/livez` and `/readyz`, which no router asks for: its requests carry a stamp.
    async fn probe(&self, parts: &Parts) -> Option<Response<ResponseBody>> {
        if parts.headers.contains_key(&wire::TENANT) || parts.method != Method::GET {
            return None;
        }
        let (status, text) = match parts.uri.path() {
            "/livez" => (StatusCode::OK, "ok\n"),
            "/readyz" if !self.gatekeeper.is_open() => {
                (StatusCode::SERVICE_UNAVAILABLE, "not attached to the agent, or closing\n")
            }
            "/readyz" if !self.application.is_ready().await => {
                (StatusCode::SERVICE_UNAVAILABLE, "the application takes no connections\n")
            }
            "/readyz" => (StatusCode::OK, "ok\n"),
            _ => return None,
        };
        let mut response = Response::new(full(text));
        *response.status_mut() = status;
        Some(response)
    }

    /// Runs a write in a task of its own, so that a client that goes away does not cut it in half.
    async fn run_write(
        &self,
        request: Request<RequestBody>,
        stamp: RequestStamp,
        mut admission: Admission,
        patience: &Patience,
    ) -> Response<ResponseBody> {
        let application = Arc::clone(&self.application);
        let task = self.writes.spawn(async move {
            let response = application.call(request).await;
            admission.finish();
            (response, admission)
        });
        match patience.wait(task).await {
            Some(Ok((response, admission))) => self.finish(response, &stamp, admission).await,
            Some(Err(error)) => {
                tracing::error!(tenant = %stamp.tenant, %error, "the application failed in a write");
                answer::unknown_outcome(true, "the application failed while it ran the write")
            }
            None => answer::unknown_outcome(true, "the application has not answered the write in time"),
        }
    }

    /// Runs a request that asks for another protocol. Its admission is the tunnel's, if one comes of it.
    async fn run_upgrade(
        &self,
        mut parts: Parts,
        stamp: RequestStamp,
        admission: Admission,
    ) -> Response<ResponseBody> {
        let watched = admission.slot();
        let connection = parts.extensions.remove::<hyper::upgrade::OnUpgrade>();
        let upgrade = Upgrade::new(connection, admission);
        parts.extensions.insert(upgrade.clone());
        let request = Request::from_parts(parts, full(""));
        let answered = tokio::time::timeout(self.application_deadline, self.application.call(request)).await;
        let Ok(mut response) = answered else {
            return answer::unknown_outcome(true, "the application has not answered in time");
        };
        if response.status() == StatusCode::SWITCHING_PROTOCOLS {
            let (gatekeeper, cut, ended) = (Arc::clone(&self.gatekeeper), upgrade.cut(), upgrade.ended());
            self.writes.spawn(async move {
                tokio::select! {
                    () = gatekeeper.until_withdrawn(&stamp, &watched) => cut.cancel(),
                    () = ended.cancelled() => {}
                }
            });
            wire::strip_reserved(response.headers_mut());
            return response;
        }
        match upgrade.take_admission() {
            Some(admission) => self.finish(response, &stamp, admission).await,
            // The application holds a tunnel that will never open.
            None => answer::unknown_outcome(true, "the application opened a tunnel and refused it"),
        }
    }

    async fn run_read(
        &self,
        request: Request<RequestBody>,
        stamp: RequestStamp,
        admission: Admission,
        patience: &Patience,
    ) -> Response<ResponseBody> {
        match patience.wait(self.application.call(request)).await {
            Some(response) => match self.gatekeeper.confirm_read(&stamp, &admission) {
                Ok(()) => self.finish(response, &stamp, admission).await,
                Err(code) => answer::refused(&self.gatekeeper.after_refusal(&stamp, admission, code).await),
            },
            None => answer::unknown_outcome(false, "the application has not answered in time"),
        }
    }

    /// Passes the application's answer on, unless its data layer has refused the request.
    async fn finish(
        &self,
        mut response: Response<ResponseBody>,
        stamp: &RequestStamp,
        admission: Admission,
    ) -> Response<ResponseBody> {
        if let Some(NotExecuted(code)) = response.extensions_mut().remove::<NotExecuted>() {
            return answer::refused(&self.gatekeeper.after_refusal(stamp, admission, code).await);
        }
        wire::strip_reserved(response.headers_mut());
        response
    }
}

fn announced_length(headers: &HeaderMap) -> Option<u64> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

#[cfg(test)]
mod tests;
