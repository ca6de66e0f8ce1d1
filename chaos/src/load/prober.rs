//! A client that does what no router should: it calls the target of a move directly, as the owner that the target is
//! about to become.
//!
//! An honest target lets it wait until COMMIT and refuses it after some time. Served before COMMIT, it has found a
//! cell that serves what it does not own. What it was told goes into the history like everybody's.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::Pace;
use super::session::Session;

pub(super) struct Prober {
    session: Session,
    tenant: Arc<str>,
}

impl Prober {
    pub(super) const fn new(session: Session, tenant: Arc<str>) -> Self {
        Self { session, tenant }
    }

    pub(super) async fn run(mut self, mut pace: Pace, stop: CancellationToken) {
        let key: Arc<str> = format!("p-{}", self.session.id).into();
        let mut version = 0;
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = pace.wait() => {}
            }
            version += 1;
            self.session.put(&self.tenant, &key, version, 200, None).await;
            self.session.get(&self.tenant, &key).await;
        }
    }
}
