//! The real control plane, over gRPC.

use std::time::Duration;

use cell_client::{ClientOptions, ControlClient, IdentityError, Link, RouterReport, WatchEvent, WatchOptions};
use cell_model::{ClusterId, Lineage, Revision};
use cell_trust::TrustedKeys;
use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::BoxStream;

use crate::feed::{Confirmed, ControlPlane, Held};
use crate::options::Options;

/// How often the watch says that it is alive.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(1);
/// A ping that takes longer says too little about now.
const CONFIRM_TIME_MAX: Duration = Duration::from_secs(1);
const CONFIRM_ATTEMPT_TIME_MAX: Duration = Duration::from_millis(400);

pub(crate) struct Control {
    link: Link,
    name: String,
    trusted: TrustedKeys,
    endpoints: Vec<String>,
    watching: ControlClient,
    confirming: ControlClient,
    /// Of this start: two routers under one name are told apart by it.
    instance: u64,
}

impl Control {
    /// # Errors
    /// Where the options do not say who this router is, or its certificate cannot be used.
    pub(crate) fn new(options: &Options, trusted: TrustedKeys) -> Result<Self, IdentityError> {
        let link = Link::open(options.identity.as_deref(), options.insecure_plaintext)?;
        Ok(Self::over(options, trusted, link))
    }

    pub(crate) fn over(options: &Options, trusted: TrustedKeys, link: Link) -> Self {
        let random = link.random();
        let patient =
            ClientOptions { only_given_endpoints: options.only_given_control, ..ClientOptions::over(link.clone()) };
        let impatient =
            ClientOptions { deadline: CONFIRM_TIME_MAX, attempt: CONFIRM_ATTEMPT_TIME_MAX, ..patient.clone() };
        Self {
            link,
            name: plain(&options.name),
            trusted,
            endpoints: options.control.clone(),
            watching: ControlClient::new(options.control.clone(), patient),
            confirming: ControlClient::new(options.control.clone(), impatient),
            instance: random.next(),
        }
    }
}

/// A name as the control plane takes it.
fn plain(name: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    let plain: String = name.chars().map(|c| if is_plain(c) { c } else { '-' }).take(63).collect();
    if plain.is_empty() { "router".into() } else { plain }
}

impl ControlPlane for Control {
    fn cluster(&self) -> BoxFuture<'static, Result<ClusterId, String>> {
        let (endpoints, link) = (self.endpoints.clone(), self.link.clone());
        Box::pin(async move {
            let mut reasons = Vec::new();
            for endpoint in &endpoints {
                match cell_client::cluster::status(endpoint, CONFIRM_TIME_MAX, &link).await {
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
            resume: after,
            progress: PROGRESS_INTERVAL,
            trusted: Some(self.trusted.clone()),
            ..WatchOptions::default()
        };
        self.watching.watch(options).boxed()
    }

    fn confirm(&self, nonce: u64, held: Held) -> BoxFuture<'static, Result<Confirmed, String>> {
        let client = self.confirming.clone();
        let staleness_ms = held.staleness.map(|age| u64::try_from(age.as_millis()).unwrap_or(u64::MAX));
        let report = RouterReport {
            name: self.name.clone(),
            instance: self.instance,
            lineage: held.lineage.get(),
            revision: held.revision.get(),
            staleness_ms,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            certificate_not_after_unix_s: self.link.certificate_not_after_unix_s(),
            sending: held.on_their_way.tenants.iter().map(ToString::to_string).collect(),
            all_sending: held.on_their_way.more,
            holds_back: true,
        };
        Box::pin(async move {
            let confirmed =
                client.confirm_revision(nonce, Some(report)).await.map_err(|error| error.to_string())?;
            if confirmed.nonce != nonce {
                return Err(format!("asked with {nonce}, answered for {}", confirmed.nonce));
            }
            Ok(Confirmed { lineage: confirmed.lineage, revision: confirmed.revision, lease: confirmed.lease })
        })
    }
}
