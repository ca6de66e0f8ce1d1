//! Rates of the whole fleet without a call for each request: routers tell each other four times a second how much each
//! tenant with a rate asks of them, and each takes its part of the rate by its part of the demand.
//!
//! ```text
//! share = own demand / demand of all            each a little raised, so that nobody starts from nothing
//! ```
//! The shares of routers that hear each other add up to one. A router that is not heard keeps an equal part for as long as
//! it stands in `fairness.peers`: so a partition makes the fleet's limit tighter and never looser.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use cell_client::net::Network;
use cell_model::TenantId;
use prometheus_client::metrics::counter::Counter;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::rate::WHOLE;
use crate::directory::Directory;
use crate::flow::Flow;

/// Where a router says at its admin port what it sees.
pub(crate) const PATH: &str = "/fairness/demand";
const INTERVAL: Duration = Duration::from_millis(250);
const ANSWER_TIME_MAX: Duration = Duration::from_millis(200);
/// Most tenants of one report: those that ask most.
const REPORTED_MAX: usize = 10_000;
pub(crate) const REPORT_BYTES_MAX: usize = 1 << 20;
/// For so long the last report of a router that is not heard stands for it.
const REPORT_AGE_MAX: Duration = Duration::from_secs(2);
/// By this part of the whole demand, and at least one request a second, each router's demand is raised.
const RAISED: f64 = 0.02;

/// Requests a second of each tenant that has a rate.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
struct Report {
    demand: HashMap<TenantId, f64>,
}

/// This router's part of a tenant's rate. `heard`: the demand at the routers that are heard; `silent`: how many are not.
#[expect(clippy::cast_possible_truncation, reason = "between 0 and 1, times WHOLE")]
pub(crate) fn part(own: f64, heard: &[f64], silent: usize) -> u32 {
    let routers = (1 + heard.len() + silent) as f64;
    let hearing = (1 + heard.len()) as f64;
    let total = own + heard.iter().sum::<f64>();
    let raise = (total * RAISED).max(1.0);
    let part = (own + raise) / (total + hearing * raise) * (hearing / routers);
    (part * f64::from(WHOLE)) as u32
}

/// Whether that is what a router tells others.
pub(crate) fn is_report(body: &[u8]) -> bool {
    serde_json::from_slice::<Report>(body).is_ok()
}

/// What this router sees, for the others.
pub(crate) fn report(flow: &Flow) -> String {
    let mut demand = Vec::new();
    flow.tenants.for_each(|tenant, active| {
        if active.demand() > 0.0 {
            demand.push((tenant.clone(), active.demand()));
        }
    });
    demand.sort_by(|a, b| b.1.total_cmp(&a.1));
    demand.truncate(REPORTED_MAX);
    let report = Report { demand: demand.into_iter().collect() };
    serde_json::to_string(&report).expect("names and numbers are JSON")
}

/// One other router, as it was last heard.
#[derive(Default)]
struct Peer {
    last: Option<(Instant, Report)>,
}

impl Peer {
    fn heard(&self, now: Instant) -> Option<&Report> {
        self.last.as_ref().filter(|(at, _)| now.duration_since(*at) <= REPORT_AGE_MAX).map(|(_, report)| report)
    }
}

/// Takes this router's part of each rate, again and again.
pub(crate) async fn share(flow: Arc<Flow>, directory: Arc<Directory>, network: Network, failures: Counter) {
    let mut peers: HashMap<String, Peer> = HashMap::new();
    let mut began = Instant::now();
    loop {
        tokio::time::sleep_until(began + INTERVAL).await;
        let lasted = began.elapsed();
        began = Instant::now();
        let live = flow.live.load_full();
        flow.tenants.for_each(|_, active| active.turn(lasted));
        peers.retain(|address, _| live.peers.contains(address));
        let network = &network;
        let asking = live.peers.iter().map(|address| async move { (address, ask(network, address).await) });
        for (address, answer) in futures::future::join_all(asking).await {
            let peer = peers.entry(address.clone()).or_default();
            match answer {
                Ok(report) => {
                    if peer.heard(began).is_none() {
                        tracing::info!(address, "another router says what it sees");
                    }
                    peer.last = Some((began, report));
                }
                Err(reason) => {
                    failures.inc();
                    tracing::debug!(address, reason, "another router does not say what it sees");
                }
            }
        }
        let now = Instant::now();
        let heard: Vec<&Report> = peers.values().filter_map(|peer| peer.heard(now)).collect();
        let silent = live.peers.len() - heard.len();
        flow.tenants.set_first_share(part(0.0, &vec![0.0; heard.len()], silent));
        flow.tenants.for_each(|tenant, active| {
            let has_rate = directory
                .find(tenant)
                .is_some_and(|entry| live.allowances.of(tenant, entry.mapping.tier).rate.is_some());
            if has_rate {
                let others: Vec<f64> =
                    heard.iter().map(|report| report.demand.get(tenant).copied().unwrap_or(0.0)).collect();
                active.set_share(part(active.demand(), &others, silent));
            }
        });
    }
}

async fn ask(network: &Network, address: &str) -> Result<Report, String> {
    let asking = crate::ask::get(network, address, PATH, None, REPORT_BYTES_MAX);
    let (status, body) = tokio::time::timeout(ANSWER_TIME_MAX, asking).await.map_err(|_| "no answer in time")??;
    if !status.is_success() {
        return Err(format!("it answered {status}"));
    }
    let report: Report = serde_json::from_slice(&body).map_err(|error| error.to_string())?;
    let sound = report.demand.values().all(|demand| demand.is_finite() && *demand >= 0.0);
    if sound { Ok(report) } else { Err("it reports a demand that is none".into()) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::fair::rate::{Bucket, Rate};
    use crate::moment::Moment;

    #[test]
    fn who_is_alone_has_all_of_it() {
        assert_eq!(part(0.0, &[], 0), WHOLE);
        assert_eq!(part(500.0, &[], 0), WHOLE);
    }

    #[test]
    fn the_part_follows_the_demand_and_nobody_is_left_with_nothing() {
        let most = f64::from(part(990.0, &[10.0], 0)) / f64::from(WHOLE);
        let least = f64::from(part(10.0, &[990.0], 0)) / f64::from(WHOLE);
        assert!(most > 0.95 && (0.02..0.05).contains(&least), "{most} {least}");
    }

    #[test]
    fn a_router_that_is_not_heard_keeps_its_part() {
        let alone = f64::from(part(100.0, &[], 1)) / f64::from(WHOLE);
        assert!((alone - 0.5).abs() < 0.001, "{alone}");
    }

    proptest! {
        #[test]
        fn the_parts_of_all_never_add_up_to_more_than_one(demands in proptest::collection::vec(0.0..10_000.0_f64, 1..9), silent in 0..4_usize) {
            let parts = (0..demands.len()).map(|own| {
                let others: Vec<f64> = demands.iter().enumerate().filter(|(n, _)| *n != own).map(|(_, demand)| *demand).collect();
                u64::from(part(demands[own], &others, silent))
            });
            prop_assert!(parts.sum::<u64>() <= u64::from(WHOLE));
        }
    }

    /// Three routers, a rate of 300 a second, ten times that asked, and the demand moves from one router to another: in every
    /// second the fleet lets in the rate and no more than five per cent above, once the burst is used.
    #[test]
    fn the_fleet_lets_in_its_rate_wherever_the_demand_is() {
        let rate = Rate::new(300, 15);
        let buckets = [Bucket::default(), Bucket::default(), Bucket::default()];
        let (mut shares, mut due) = ([WHOLE / 3; 3], [0.0; 3]);
        let mut let_in = Vec::new();
        for second in 0..12_u64 {
            let demands = if second < 6 { [2_000.0, 900.0, 100.0] } else { [100.0, 100.0, 2_800.0] };
            let mut count = 0;
            for ms in 0..1_000_u64 {
                if ms % 250 == 0 {
                    shares = std::array::from_fn(|own| {
                        let others: Vec<f64> = (0..3).filter(|n| *n != own).map(|n| demands[n]).collect();
                        part(demands[own], &others, 0)
                    });
                }
                let now = Moment::from_millis(second * 1_000 + ms);
                for (n, demand) in demands.iter().enumerate() {
                    due[n] += demand / 1_000.0;
                    while due[n] >= 1.0 {
                        due[n] -= 1.0;
                        count += u64::from(buckets[n].take(now, rate.shared(shares[n])).is_ok());
                    }
                }
            }
            let_in.push(count);
        }
        assert!(let_in.iter().skip(1).all(|count| (270..=315).contains(count)), "{let_in:?}");
    }
}
