//! Asks each instance whether it takes requests, on the runtime beside the one that serves them: `GET /readyz` of its gate,
//! on a connection of its own, never in a queue behind requests.

use std::sync::Arc;
use std::time::Duration;

use cell_client::net::Network;
use futures::StreamExt;
use prometheus_client::metrics::counter::Counter;

use super::{Instance, Instances};
use crate::flow::Flow;
use crate::tls::TlsBack;

/// How often and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct CheckOptions {
    /// Zero: never.
    pub(crate) interval: Duration,
    pub(crate) timeout: Duration,
    pub(crate) path: String,
}

/// How many are asked at once.
const AT_ONCE: usize = 64;
/// So many in a row change the verdict.
const IN_ROW: u8 = 2;
/// How often to look whether checks were switched on.
const IDLE: Duration = Duration::from_secs(1);

/// Asks all instances, again and again.
pub(crate) async fn run(
    instances: Arc<Instances>,
    flow: Arc<Flow>,
    tls: Option<TlsBack>,
    network: Network,
    failures: Counter,
) {
    let clock = flow.clock;
    let mut streaks: Vec<(Arc<Instance>, Streak)> = Vec::new();
    loop {
        let now = flow.live.load().check.clone();
        if now.interval.is_zero() {
            for (instance, _) in streaks.drain(..) {
                instance.set_healthy(true, clock.now());
            }
            tokio::time::sleep(IDLE).await;
            continue;
        }
        let all = instances.all();
        streaks.retain(|(known, _)| all.iter().any(|instance| Arc::ptr_eq(known, instance)));
        for instance in all {
            if !streaks.iter().any(|(known, _)| Arc::ptr_eq(known, &instance)) {
                streaks.push((instance, Streak::default()));
            }
        }
        let asked = futures::stream::iter(&mut streaks).for_each_concurrent(AT_ONCE, |(instance, streak)| {
            let (options, tls, network, failures) = (&now, tls.as_ref(), &network, &failures);
            async move {
                let asking = ask(network, instance.address(), &options.path, tls);
                let answer =
                    tokio::time::timeout(options.timeout, asking).await.unwrap_or(Err("no answer in time".into()));
                if answer.is_err() {
                    failures.inc();
                }
                if let Some(healthy) = streak.count(answer.is_ok())
                    && instance.set_healthy(healthy, clock.now())
                {
                    let address = instance.address();
                    match answer {
                        Ok(()) => tracing::info!(%address, "an instance takes requests again"),
                        Err(reason) => {
                            tracing::warn!(%address, reason, "an instance is not healthy: it is asked last")
                        }
                    }
                }
            }
        });
        asked.await;
        tokio::time::sleep(now.interval).await;
    }
}

/// The same answer so many times in a row.
#[derive(Debug, Default)]
struct Streak {
    good: u8,
    bad: u8,
}

impl Streak {
    /// The verdict, once there are enough.
    fn count(&mut self, good: bool) -> Option<bool> {
        (self.good, self.bad) =
            if good { ((self.good + 1).min(IN_ROW), 0) } else { (0, (self.bad + 1).min(IN_ROW)) };
        (self.good.max(self.bad) >= IN_ROW).then_some(good)
    }
}

/// Its answer says nothing but its status.
const ANSWER_BYTES_MAX: usize = 64 << 10;

async fn ask(network: &Network, address: &str, path: &str, tls: Option<&TlsBack>) -> Result<(), String> {
    let (status, _) = crate::ask::get(network, address, path, tls, ANSWER_BYTES_MAX).await?;
    if status.is_success() { Ok(()) } else { Err(format!("it answered {status} to {path}")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_bad_answer_is_no_verdict_and_two_are() {
        let mut streak = Streak::default();
        assert_eq!([true, true, false, true].map(|good| streak.count(good)), [None, Some(true), None, None]);
        assert_eq!([false, false, false].map(|good| streak.count(good)), [None, Some(false), Some(false)]);
    }
}
