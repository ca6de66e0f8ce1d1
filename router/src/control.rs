//! The real control plane, over gRPC.

use std::time::Duration;

use cell_client::{ClientOptions, ControlClient, WatchEvent, WatchOptions};
use cell_model::{ClusterId, Lineage, Revision};
use cell_trust::TrustedKeys;
use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::BoxStream;

use crate::feed::{Confirmed, ControlPlane};
use crate::options::Options;

/// How often the watch says that it is alive.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(1);
/// A ping that takes longer says too little about now.
const CONFIRM_TIME_MAX: Duration = Duration::from_secs(1);
const CONFIRM_ATTEMPT_TIME_MAX: Duration = Duration::from_millis(400);

pub(crate) struct Control {
    name: String,
    trusted: TrustedKeys,
    endpoints: Vec<String>,
    watching: ControlClient,
    confirming: ControlClient,
}

impl Control {
    pub(crate) fn new(options: &Options, trusted: TrustedKeys) -> Self {
        let impatient = ClientOptions {
            deadline: CONFIRM_TIME_MAX,
            attempt: CONFIRM_ATTEMPT_TIME_MAX,
            ..ClientOptions::default()
        };
        Self {
            name: options.name.clone(),
            trusted,
            endpoints: options.control.clone(),
            watching: ControlClient::new(options.control.clone(), ClientOptions::default()),
            confirming: ControlClient::new(options.control.clone(), impatient),
        }
    }
}

impl ControlPlane for Control {
    fn cluster(&self) -> BoxFuture<'static, Result<ClusterId, String>> {
        let endpoints = self.endpoints.clone();
        Box::pin(async move {
            let mut reasons = Vec::new();
            for endpoint in &endpoints {
                match cell_client::cluster::status(endpoint, CONFIRM_TIME_MAX).await {
                    Ok(status) if status.cluster_id != 0 => return Ok(ClusterId(status.cluster_id)),
                    Ok(_) => reasons.push(format!("{endpoint} belongs to no cluster yet")),
                    Err(error) => reasons.push(error.to_string()),
                }
            }
            Err(reasons.join("; "))
        })
    }

    fn watch(&self, after: Option<(Lineage, Revision)>) -> BoxStream<'static, WatchEvent> {
        let options = WatchOptions {
            client: self.name.clone(),
            include_moves: false,
            resume: after,
            progress: PROGRESS_INTERVAL,
            trusted: Some(self.trusted.clone()),
        };
        self.watching.watch(options).boxed()
    }

    fn confirm(&self, nonce: u64) -> BoxFuture<'static, Result<Confirmed, String>> {
        let client = self.confirming.clone();
        Box::pin(async move {
            let confirmed = client.confirm_revision(nonce).await.map_err(|error| error.to_string())?;
            if confirmed.nonce != nonce {
                return Err(format!("asked with {nonce}, answered for {}", confirmed.nonce));
            }
            Ok(Confirmed { lineage: confirmed.lineage, revision: confirmed.revision })
        })
    }
}
