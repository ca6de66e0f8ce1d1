//! What tenants really use: made up by a seed, or recorded.

use serde::{Deserialize, Serialize};

use crate::fleet::{Fleet, TenantIx};
use crate::resource::{ByDim, DIMS, HOURS, RESOURCES, Resource, SCALE};

impl Fleet {
    /// What a tenant uses on a day on which it uses what the fleet says: its means.
    #[must_use]
    pub fn usual_day(&self, tenant: TenantIx) -> DayUsage {
        let mut day = DayUsage::default();
        let means = self.demand(tenant).mean;
        day.amounts.as_flattened_mut().iter_mut().zip(means).for_each(|(amount, mean)| *amount = mean / SCALE);
        day
    }
}

/// The largest amount that is taken, in units.
const AMOUNT_MAX: f64 = 2_000_000.0;

/// What one tenant uses on one day: in units of the resources (cores, connections, gigabytes), from 00:00.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct DayUsage {
    /// By resource, in the order of [`Resource::ALL`], and hour.
    pub amounts: [[f64; HOURS]; RESOURCES],
}

impl DayUsage {
    pub(super) fn clear(&mut self) {
        self.amounts = [[0.0; HOURS]; RESOURCES];
    }

    /// What is negative or no number counts as nothing.
    pub(super) fn thousandths(&self) -> ByDim {
        let mut all = [0.0; DIMS];
        for (into, amount) in all.iter_mut().zip(self.amounts.as_flattened()) {
            *into = if *amount > 0.0 { amount.min(AMOUNT_MAX) * SCALE } else { 0.0 };
        }
        all
    }
}

/// What really happens.
pub trait Usage {
    /// What a tenant uses on a day. `into` is zero when it is handed over.
    fn day(&self, day: u32, tenant: TenantIx, into: &mut DayUsage);

    /// The day on which a tenant arrives; 0: it is there from the start.
    fn arrives(&self, _tenant: TenantIx) -> u32 {
        0
    }

    /// The day on which a tenant is no longer there, if ever.
    fn leaves(&self, _tenant: TenantIx) -> Option<u32> {
        None
    }
}

/// Days made up by a seed. The demand that a fleet begins with is what tenants mean to use; what they do use differs by
/// their own deviations (tenants of one spike cluster together), grows, rests at weekends and now and then spikes.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Scenario {
    /// Another seed, other days.
    pub seed: u64,
    /// Share by which demand grows in 30 days.
    pub growth_monthly: f64,
    /// What is left of demand on two days of seven; storage does not rest.
    pub weekend: f64,
    /// The chance that a tenant has a spike on a day.
    pub spike_chance: f64,
    /// By what its demand is multiplied in the three hours of a spike.
    pub spike_factor: f64,
    /// The share of tenants that arrive on a day after the first; they are nowhere before.
    pub arrivals: f64,
    /// The days over which they arrive.
    pub arrival_days: u32,
    /// The share of tenants that leave within the same days.
    pub departures: f64,
}

impl Default for Scenario {
    fn default() -> Self {
        Self {
            seed: 1,
            growth_monthly: 0.0,
            weekend: 1.0,
            spike_chance: 0.0,
            spike_factor: 3.0,
            arrivals: 0.0,
            arrival_days: 30,
            departures: 0.0,
        }
    }
}

impl Scenario {
    /// Days of a fleet.
    #[must_use]
    pub const fn over(self, fleet: &Fleet) -> Synthetic<'_> {
        Synthetic { fleet, scenario: self }
    }
}

/// A [`Scenario`] over a fleet.
#[derive(Debug, Clone, Copy)]
pub struct Synthetic<'a> {
    fleet: &'a Fleet,
    scenario: Scenario,
}

/// Mixes numbers into one that looks random: the finish of SplitMix64.
const fn mix(mut state: u64, with: u64) -> u64 {
    state = (state ^ with.wrapping_mul(0x9E37_79B9_7F4A_7C15)).wrapping_add(0x9E37_79B9_7F4A_7C15);
    state = (state ^ (state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    state = (state ^ (state >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    state ^ (state >> 31)
}

/// Between 0 and 1.
#[expect(clippy::cast_precision_loss, reason = "53 bits")]
fn share(random: u64) -> f64 {
    (random >> 11) as f64 / (1u64 << 53) as f64
}

/// Nearly normal, with mean 0 and deviation 1: the sum of four numbers of 16 bits.
fn normal(random: u64) -> f64 {
    let [a, b, c, d, e, f, g, h] = random.to_le_bytes();
    let part = |low, high| f64::from(u16::from_le_bytes([low, high]));
    let (a, b, c, d) = (part(a, b), part(c, d), part(e, f), part(g, h));
    ((a + b + c + d) / 65_535.0 - 2.0) * 3.0f64.sqrt()
}

const ARRIVES: u64 = 1 << 40;
const LEAVES: u64 = 2 << 40;
const SPIKES: u64 = 3 << 40;
const CLUSTER: u64 = 4 << 40;

impl Synthetic<'_> {
    fn seed(&self, what: u64, tenant: TenantIx) -> u64 {
        mix(mix(self.scenario.seed, what), tenant.index() as u64)
    }

    fn chosen_day(&self, what: u64, tenant: TenantIx, chance: f64) -> Option<u32> {
        let random = self.seed(what, tenant);
        let days = u64::from(self.scenario.arrival_days.max(1));
        let day = u32::try_from(mix(random, 1) % days).expect("below a number of days");
        (share(random) < chance).then_some(day + 1)
    }

    /// The first hour of the tenant's spike on that day.
    fn spike(&self, day: u32, tenant: TenantIx) -> Option<usize> {
        let random = mix(self.seed(SPIKES, tenant), u64::from(day));
        let hour = usize::try_from(mix(random, 1) % HOURS as u64).expect("below 24");
        (share(random) < self.scenario.spike_chance).then_some(hour)
    }
}

impl Usage for Synthetic<'_> {
    fn day(&self, day: u32, tenant: TenantIx, into: &mut DayUsage) {
        let profile = self.fleet.demand(tenant);
        let growth = libm::pow((1.0 + self.scenario.growth_monthly).max(0.0), f64::from(day) / 30.0);
        let rest = if day % 7 >= 5 { self.scenario.weekend.max(0.0) } else { 1.0 };
        let noise = match self.fleet.tenant(tenant).spike_cluster() {
            Some(cluster) => mix(self.scenario.seed, CLUSTER | cluster as u64),
            None => self.seed(0, tenant),
        };
        let noise = mix(noise, u64::from(day));
        for (dim, amount) in into.amounts.as_flattened_mut().iter_mut().enumerate() {
            let factor = if dim >= Resource::Storage.first_dim() { growth } else { growth * rest };
            let off = profile.deviation[dim] * normal(mix(noise, dim as u64));
            *amount = ((profile.mean[dim] + off) * factor).max(0.0) / SCALE;
        }
        if let Some(first) = self.spike(day, tenant) {
            for hour in (first..first + 3).map(|hour| hour % HOURS) {
                into.amounts[Resource::Cpu as usize][hour] *= self.scenario.spike_factor.max(0.0);
                into.amounts[Resource::Connections as usize][hour] *= self.scenario.spike_factor.max(0.0);
            }
        }
    }

    fn arrives(&self, tenant: TenantIx) -> u32 {
        self.chosen_day(ARRIVES, tenant, self.scenario.arrivals).unwrap_or(0)
    }

    fn leaves(&self, tenant: TenantIx) -> Option<u32> {
        let day = self.chosen_day(LEAVES, tenant, self.scenario.departures)?;
        Some(day + self.arrives(tenant))
    }
}

/// Days that have been recorded, by tenant. A tenant with fewer days than are asked for begins again with its first;
/// one without any uses nothing.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Recorded {
    /// In the order of the fleet's tenants: each one's days.
    pub days: Vec<Vec<DayUsage>>,
}

impl Usage for Recorded {
    fn day(&self, day: u32, tenant: TenantIx, into: &mut DayUsage) {
        if let Some(days) = self.days.get(tenant.index()).filter(|days| !days.is_empty()) {
            into.clone_from(&days[day as usize % days.len()]);
        }
    }
}
