//! What of the options may change while the router runs, worked out once: every thread reads it without a lock.

use std::collections::HashMap;

use cell_model::{TenantId, Tier};

use crate::contain::breaker::BreakerOptions;
use crate::contain::budget::BudgetOptions;
use crate::contain::dependency::Dependencies;
use crate::fair::rate::Rate;
use crate::fair::scheduler::ScheduleOptions;
use crate::instance::InstanceOptions;
use crate::instance::check::CheckOptions;
use crate::options::{Fairness, Options, Policy, Timeouts};

/// What one tenant may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Allowance {
    pub(crate) rate: Option<Rate>,
    /// The same as it was written: requests a second, and at once.
    pub(crate) per_second: u32,
    pub(crate) burst: u32,
    pub(crate) concurrency_max: u32,
    pub(crate) weight: u32,
}

/// What each tenant may have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Allowances {
    tiers: [Allowance; 4],
    tenants: HashMap<TenantId, Policy>,
    policies: [Policy; 4],
}

const TIERS: [Tier; 4] = [Tier::Bronze, Tier::Silver, Tier::Gold, Tier::Platinum];

impl Allowances {
    pub(crate) fn new(fairness: &Fairness) -> Self {
        let policies = TIERS.map(|tier| fairness.tiers.policy(tier));
        let named = fairness.tenants.iter();
        let tenants =
            named.filter_map(|(name, policy)| Some((TenantId::new(name.as_str()).ok()?, *policy))).collect();
        Self { tiers: policies.map(allowance), tenants, policies }
    }

    pub(crate) fn of(&self, tenant: &TenantId, tier: Tier) -> Allowance {
        let index = match tier {
            Tier::Bronze => 0,
            Tier::Silver => 1,
            Tier::Gold => 2,
            Tier::Platinum => 3,
        };
        match self.tenants.get(tenant) {
            Some(own) => allowance(own.or(self.policies[index])),
            _ => self.tiers[index],
        }
    }
}

fn allowance(policy: Policy) -> Allowance {
    let per_second = policy.rate.unwrap_or(0);
    let burst = policy.burst.unwrap_or(per_second.max(1));
    Allowance {
        rate: policy.rate.map(|rate| Rate::new(rate, burst)),
        per_second,
        burst,
        concurrency_max: policy.concurrency_max(),
        weight: policy.weight.unwrap_or(1),
    }
}

/// What may change.
#[derive(Debug, Clone)]
pub(crate) struct Live {
    pub(crate) allowances: Allowances,
    pub(crate) schedule: ScheduleOptions,
    pub(crate) breaker: BreakerOptions,
    pub(crate) budget: BudgetOptions,
    pub(crate) dependencies: Dependencies,
    pub(crate) instances: InstanceOptions,
    pub(crate) check: CheckOptions,
    pub(crate) peers: Vec<String>,
    pub(crate) timeouts: Timeouts,
}

impl Live {
    pub(crate) fn new(options: &Options) -> Self {
        Self {
            allowances: Allowances::new(&options.fairness),
            schedule: options.fairness.schedule(),
            breaker: options.containment.breaker(),
            budget: options.containment.budget(),
            dependencies: options.containment.dependencies(),
            instances: options.instances.picking(),
            check: options.instances.checking(),
            peers: options.fairness.peers.clone(),
            timeouts: options.timeouts.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tenant_of_its_own_policy_has_that_and_all_others_their_tier_s() {
        let options: Options =
            toml::from_str("[fairness.tiers.silver]\nrate = 10\n[fairness.tenants.t-1]\nconcurrency = 3").unwrap();
        let allowances = Allowances::new(&options.fairness);
        let of = |tenant, tier| allowances.of(&TenantId::new(tenant).unwrap(), tier);
        assert_eq!(of("t-2", Tier::Bronze).rate, None);
        assert_eq!(of("t-2", Tier::Silver).rate, Some(Rate::new(10, 10)));
        let own = of("t-1", Tier::Silver);
        assert_eq!((own.rate, own.concurrency_max, own.weight), (Some(Rate::new(10, 10)), 3, 2));
    }
}
