//! The end of a router: the requests in flight finish, within two deadlines.

use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use crate::worker::Phase;

/// Waits for the requests in flight, in two steps.
pub(super) async fn quiesce(
    phase: &watch::Sender<Phase>,
    first: Phase,
    ended: &mut mpsc::Receiver<()>,
    (min, max): (Duration, Duration),
) {
    let began = Instant::now();
    if first == Phase::HandedOver {
        tracing::info!("another process has taken over: what is open here is finished");
    } else {
        tracing::info!("quiescing: new connections are still taken, and asked to go elsewhere");
    }
    phase.send_replace(first);
    tokio::time::sleep_until(began + min).await;
    phase.send_replace(Phase::Closing);
    tokio::select! {
        () = all_ended(ended) => {}
        () = tokio::time::sleep_until(began + max) => {
            tracing::warn!("requests in flight have not finished in time and are cut");
        }
    }
}

pub(super) async fn all_ended(ended: &mut mpsc::Receiver<()>) {
    while ended.recv().await.is_some() {}
}
