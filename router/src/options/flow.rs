//! How requests share a cell: `[fairness]`, `[containment]` and `[instances]`. All of it can be changed while the router
//! runs.

use std::collections::BTreeMap;
use std::time::Duration;

use cell_model::{TenantId, Tier};
use serde::{Deserialize, Serialize};

use super::duration;
use crate::contain::breaker::BreakerOptions;
use crate::contain::budget::BudgetOptions;
use crate::contain::dependency::Dependencies;
use crate::fair::adaptive::LimitRange;
use crate::fair::queue::QueueLimits;
use crate::fair::scheduler::ScheduleOptions;
use crate::instance::InstanceOptions;
use crate::instance::check::CheckOptions;

/// Who may ask how much, and who is next where a cell cannot do everything at once.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct Fairness {
    /// Requests that a cell gets at once, to begin with; then it is found out.
    pub cell_concurrency_initial: u32,
    /// At least so many.
    pub cell_concurrency_min: u32,
    /// At most so many.
    pub cell_concurrency_max: u32,
    /// What waiting in the cell may add to an answer; a seventh of what one takes without it, where that is more.
    #[serde(with = "duration")]
    pub cell_latency_slack: Duration,
    /// How long a request waits for its turn.
    #[serde(with = "duration")]
    pub queue_wait: Duration,
    /// Most requests of one tenant that wait for a cell.
    pub queue_per_tenant_max: usize,
    /// Most requests that wait for a cell.
    pub queue_per_cell_max: usize,
    /// Most requests of one tenant that go on without a place in the cell: answers of which no end is in sight, and requests
    /// of which only the client is awaited. More than that keep their places.
    pub streams_per_tenant_max: u32,
    /// `host:port` of the admin ports of the other routers of the fleet, so that rates hold for all of them together.
    pub peers: Vec<String>,
    /// By what a tenant has paid for.
    pub tiers: Tiers,
    /// For single tenants; what is not said is as in the tier.
    pub tenants: BTreeMap<String, Policy>,
}

/// A policy for each tier.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct Tiers {
    /// Weight 1, unless it is given.
    pub bronze: Policy,
    /// Weight 2.
    pub silver: Policy,
    /// Weight 4.
    pub gold: Policy,
    /// Weight 8.
    pub platinum: Policy,
}

/// What one tenant may have.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct Policy {
    /// Requests a second, in the whole fleet. Absent: no limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate: Option<u32>,
    /// Requests at once before the rate counts. Absent: those of one second.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub burst: Option<u32>,
    /// Requests on their way at once, in this router. Absent: 2,000.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub concurrency: Option<u32>,
    /// Its part where a cell is pressed, beside those of others. Absent: by the tier.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub weight: Option<u32>,
}

/// What is left alone when it fails, and how much is tried again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct Containment {
    /// Failures in a window that open the breaker of a tenant in its cell, or of a cell. 0: none does.
    pub breaker_failures_min: u32,
    /// And the part of all requests in the window, in per cent.
    pub breaker_failures_percent: u32,
    /// The window.
    #[serde(with = "duration")]
    pub breaker_window: Duration,
    /// For how long it is open at first; twice as long after each probe that fails.
    #[serde(with = "duration")]
    pub breaker_open: Duration,
    /// And at most.
    #[serde(with = "duration")]
    pub breaker_open_max: Duration,
    /// Probes in a row that close it.
    pub breaker_probes: u32,
    /// Retries for a hundred requests, of a tenant and of a cell.
    pub retry_percent: u32,
    /// Retries a second that there are in any case.
    pub retry_floor_per_second: u32,
    /// What requests depend on beside their cell, each with the paths that need it.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub dependencies: BTreeMap<String, Dependency>,
}

/// What some requests depend on. Their failures close the way to these paths in their cell, and to no others.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Dependency {
    /// Each stands for itself and all paths below it.
    pub paths: Vec<String>,
}

/// Which instance of a cell a request goes to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct Instances {
    /// Failures in a row after which an instance is asked last for a while. 0: never.
    pub eject_after: u32,
    /// For how long at first; longer by as much each time.
    #[serde(with = "duration")]
    pub eject: Duration,
    /// And at most.
    #[serde(with = "duration")]
    pub eject_max: Duration,
    /// How long an instance that is new, or back, takes to get its full part.
    #[serde(with = "duration")]
    pub slow_start: Duration,
    /// To how many instances a tenant keeps. 0: all of its cell.
    pub subset: usize,
    /// How often each instance is asked whether it takes requests. 0s: never.
    #[serde(with = "duration")]
    pub check_interval: Duration,
    /// How long it may take to answer.
    #[serde(with = "duration")]
    pub check_timeout: Duration,
    /// What it is asked for.
    pub check_path: String,
}

impl Default for Fairness {
    fn default() -> Self {
        Self {
            cell_concurrency_initial: 16,
            cell_concurrency_min: 5,
            cell_concurrency_max: 4_096,
            cell_latency_slack: Duration::from_millis(3),
            queue_wait: Duration::from_secs(1),
            queue_per_tenant_max: 64,
            queue_per_cell_max: 1_024,
            streams_per_tenant_max: 1_000,
            peers: Vec::new(),
            tiers: Tiers::default(),
            tenants: BTreeMap::new(),
        }
    }
}

impl Default for Containment {
    fn default() -> Self {
        Self {
            breaker_failures_min: 20,
            breaker_failures_percent: 50,
            breaker_window: Duration::from_secs(10),
            breaker_open: Duration::from_secs(1),
            breaker_open_max: Duration::from_secs(30),
            breaker_probes: 3,
            retry_percent: 20,
            retry_floor_per_second: 3,
            dependencies: BTreeMap::new(),
        }
    }
}

impl Default for Instances {
    fn default() -> Self {
        Self {
            eject_after: 5,
            eject: Duration::from_secs(1),
            eject_max: Duration::from_secs(30),
            slow_start: Duration::from_secs(10),
            subset: 0,
            check_interval: Duration::from_secs(2),
            check_timeout: Duration::from_secs(1),
            check_path: "/readyz".into(),
        }
    }
}

const CONCURRENCY: u32 = 2_000;

impl Policy {
    /// What is said here, and where nothing is, what is said there.
    pub(crate) fn or(self, other: Self) -> Self {
        Self {
            rate: self.rate.or(other.rate),
            burst: self.burst.or(other.burst),
            concurrency: self.concurrency.or(other.concurrency),
            weight: self.weight.or(other.weight),
        }
    }

    pub(crate) fn concurrency_max(self) -> u32 {
        self.concurrency.unwrap_or(CONCURRENCY)
    }
}

impl Tiers {
    /// The policy of a tier, with its weight.
    pub(crate) fn policy(&self, tier: Tier) -> Policy {
        let (policy, weight) = match tier {
            Tier::Bronze => (self.bronze, 1),
            Tier::Silver => (self.silver, 2),
            Tier::Gold => (self.gold, 4),
            Tier::Platinum => (self.platinum, 8),
        };
        policy.or(Policy { weight: Some(weight), ..Policy::default() })
    }
}

impl Fairness {
    pub(crate) fn schedule(&self) -> ScheduleOptions {
        ScheduleOptions {
            range: LimitRange {
                initial: self.cell_concurrency_initial,
                min: self.cell_concurrency_min,
                max: self.cell_concurrency_max,
                slack: self.cell_latency_slack,
            },
            queue: QueueLimits { per_flow_max: self.queue_per_tenant_max, total_max: self.queue_per_cell_max },
            wait_max: self.queue_wait,
            outside_max: self.streams_per_tenant_max,
        }
    }

    /// The first rule that is broken: option and rule.
    pub(crate) fn broken(&self) -> Option<(String, String)> {
        if self.cell_concurrency_min == 0 {
            return rule("fairness.cell-concurrency-min", "must be at least 1");
        }
        if self.cell_concurrency_max < self.cell_concurrency_min {
            return rule("fairness.cell-concurrency-max", "must not be less than fairness.cell-concurrency-min");
        }
        if let Some(rule_of_peer) = self.peers.iter().find_map(|peer| super::check_endpoint(peer).err()) {
            return rule("fairness.peers", &rule_of_peer);
        }
        let tiers = [
            ("bronze", self.tiers.bronze),
            ("silver", self.tiers.silver),
            ("gold", self.tiers.gold),
            ("platinum", self.tiers.platinum),
        ];
        for (name, policy) in tiers {
            if let Some(broken) = policy.broken(&format!("fairness.tiers.{name}")) {
                return Some(broken);
            }
        }
        self.tenants.iter().find_map(|(tenant, policy)| {
            let option = format!("fairness.tenants.{tenant}");
            match TenantId::new(tenant.as_str()) {
                Err(invalid) => rule(&option, &invalid.to_string()),
                Ok(_) => policy.broken(&option),
            }
        })
    }
}

impl Policy {
    fn broken(self, option: &str) -> Option<(String, String)> {
        let parts = [
            ("rate", self.rate),
            ("burst", self.burst),
            ("concurrency", self.concurrency),
            ("weight", self.weight),
        ];
        let zero = parts.into_iter().find(|(_, value)| *value == Some(0));
        if let Some((part, _)) = zero {
            return rule(&format!("{option}.{part}"), "must be at least 1; leave it out for no limit");
        }
        let too_fast = self.rate.is_some_and(|rate| rate > 1_000_000);
        if too_fast { rule(&format!("{option}.rate"), "must be at most 1,000,000") } else { None }
    }
}

impl Containment {
    pub(crate) fn breaker(&self) -> BreakerOptions {
        BreakerOptions {
            failures_min: self.breaker_failures_min,
            failures_percent: self.breaker_failures_percent,
            window: self.breaker_window,
            open: self.breaker_open,
            open_max: self.breaker_open_max,
            probes: self.breaker_probes,
        }
    }

    pub(crate) fn budget(&self) -> BudgetOptions {
        BudgetOptions { percent: self.retry_percent, floor_per_second: self.retry_floor_per_second }
    }

    pub(crate) fn dependencies(&self) -> Dependencies {
        Dependencies::new(self.dependencies.iter().map(|(name, dependency)| (name, &dependency.paths)))
    }

    pub(crate) fn broken(&self) -> Option<(String, String)> {
        for (name, Dependency { paths }) in &self.dependencies {
            let option = format!("containment.dependencies.{name}.paths");
            if paths.is_empty() || paths.iter().any(|path| !path.starts_with('/') || path == "/") {
                return rule(&option, "must be paths that begin with '/' and are longer");
            }
        }
        if !(1..=31).contains(&self.breaker_probes) {
            return rule("containment.breaker-probes", "must be from 1 to 31");
        }
        let percents = [
            ("containment.breaker-failures-percent", self.breaker_failures_percent),
            ("containment.retry-percent", self.retry_percent),
        ];
        if let Some((option, _)) = percents.into_iter().find(|(_, percent)| *percent > 100) {
            return rule(option, "must be at most 100");
        }
        if self.breaker_window < Duration::from_millis(100) || self.breaker_open < Duration::from_millis(1) {
            return rule("containment.breaker-window", "must be at least 100ms, and breaker-open at least 1ms");
        }
        if self.breaker_open_max < self.breaker_open {
            return rule("containment.breaker-open-max", "must not be less than containment.breaker-open");
        }
        None
    }
}

impl Instances {
    pub(crate) fn picking(&self) -> InstanceOptions {
        InstanceOptions {
            eject_after: self.eject_after,
            eject: self.eject,
            eject_max: self.eject_max,
            slow_start: self.slow_start,
            subset: self.subset,
        }
    }

    pub(crate) fn checking(&self) -> CheckOptions {
        CheckOptions { interval: self.check_interval, timeout: self.check_timeout, path: self.check_path.clone() }
    }

    pub(crate) fn broken(&self) -> Option<(String, String)> {
        let path_and_query = self.check_path.starts_with('/') && self.check_path.parse::<http::Uri>().is_ok();
        if !path_and_query {
            return rule("instances.check-path", "must be a path that begins with '/'");
        }
        if !self.check_interval.is_zero() && self.check_timeout.is_zero() {
            return rule("instances.check-timeout", "must be more than nothing");
        }
        None
    }
}

pub(super) fn rule(option: &str, rule: &str) -> Option<(String, String)> {
    Some((option.to_owned(), rule.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tenant_s_own_policy_says_what_it_says_and_the_tier_the_rest() {
        let text = "[tiers.gold]\nrate = 100\nburst = 5\n[tenants.t-1]\nrate = 7";
        let fairness: Fairness = toml::from_str(text).unwrap();
        assert_eq!(fairness.broken(), None);
        let gold = fairness.tiers.policy(Tier::Gold);
        assert_eq!((gold.rate, gold.weight, gold.concurrency_max()), (Some(100), Some(4), CONCURRENCY));
        let own = fairness.tenants["t-1"].or(gold);
        assert_eq!((own.rate, own.burst, own.weight), (Some(7), Some(5), Some(4)));
    }

    #[test]
    fn each_broken_rule_is_named() {
        for (text, option) in [
            ("cell-concurrency-min = 0", "fairness.cell-concurrency-min"),
            ("peers = [\"nowhere\"]", "fairness.peers"),
            ("cell-concurrency-max = 1", "fairness.cell-concurrency-max"),
            ("[tiers.gold]\nrate = 0", "fairness.tiers.gold.rate"),
            ("[tenants.t-1]\nrate = 2000000", "fairness.tenants.t-1.rate"),
            ("[tenants.\"no tenant\"]\nrate = 2", "fairness.tenants.no tenant"),
        ] {
            let fairness: Fairness = toml::from_str(text).unwrap();
            assert_eq!(fairness.broken().unwrap().0, option);
        }
        let containment: Containment = toml::from_str("[dependencies.pay]\npaths = [\"pay\"]").unwrap();
        assert_eq!(containment.broken().unwrap().0, "containment.dependencies.pay.paths");
        assert!(Containment { breaker_probes: 0, ..Containment::default() }.broken().is_some());
        assert!(Containment { breaker_open_max: Duration::ZERO, ..Containment::default() }.broken().is_some());
        assert!(Instances { check_path: "readyz".into(), ..Instances::default() }.broken().is_some());
        assert_eq!((Containment::default().broken(), Instances::default().broken()), (None, None));
    }
}
