//! An application of somebody's own, in a process of its own, on the cell's database: requests are passed on to it.
//!
//! It begins its transactions with `cellway.enter`, or lets the triggers look after it. What it has answered in Sync the copying cell
//! holds, too: that is waited for here.

use cell_agent::{Committed, TenantDatabase};
use cell_gate::{Application, NotExecuted, Relay, RequestBody, RequestStamp, ResponseBody, wire};
use http::{Request, Response, StatusCode};

use crate::problem::Problem;

/// The application behind one gate.
#[derive(Debug, Clone)]
pub(crate) struct Elsewhere {
    relay: Relay,
    data: TenantDatabase,
}

impl Elsewhere {
    pub(crate) const fn new(relay: Relay, data: TenantDatabase) -> Self {
        Self { relay, data }
    }
}

impl Application for Elsewhere {
    async fn call(&self, request: Request<RequestBody>) -> Response<ResponseBody> {
        let stamp = request.extensions().get::<RequestStamp>().cloned();
        let writes = stamp.filter(|_| wire::is_write(request.method()));
        let response = self.relay.call(request).await;
        let Some(stamp) = writes else { return response };
        if response.extensions().get::<NotExecuted>().is_some() {
            return response;
        }
        match self.data.committed(&stamp).await {
            Committed::Yes => response,
            Committed::Unknown => Problem::new(
                StatusCode::GATEWAY_TIMEOUT,
                "OUTCOME_UNKNOWN",
                "the write may or may not last: the copying cell has not confirmed it in time",
                "read before you write again, or send it again under the same Idempotency-Key",
            )
            .into_response(),
        }
    }

    async fn is_ready(&self) -> bool {
        self.relay.is_ready().await
    }
}
