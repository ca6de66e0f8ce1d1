//! What tenants want, packed: 222 bytes for 72 means and 72 deviations.
//!
//! Each (tenant, resource) has one power of two for its means (16 bits a value) and one for its deviations (8 bits).
//! Packing rounds up, never down: a mean by at most 1/32,768 of the tenant's own peak, a deviation by at most 1/128
//! of its own largest. What is unpacked is a whole number of thousandths, so sums are exact; packing what has been
//! unpacked changes nothing.

use crate::resource::{ByDim, DIMS, HOURS, RESOURCES, Resource};

/// What one tenant wants, unpacked: thousandths of a unit.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Profile {
    pub(crate) mean: ByDim,
    /// Standard deviation: the root of the variance within that hour.
    pub(crate) deviation: ByDim,
}

impl Profile {
    pub(crate) const ZERO: Self = Self { mean: [0.0; DIMS], deviation: [0.0; DIMS] };

    /// What it needs by itself, `risk` deviations above the mean.
    pub(crate) fn need(&self, dim: usize, risk: f64) -> f64 {
        self.mean[dim] + risk * self.deviation[dim]
    }
}

#[derive(Debug, Clone, Copy)]
struct Shift {
    mean: u8,
    deviation: u8,
}

/// The demand of all tenants.
#[derive(Debug, Clone, Default)]
pub(crate) struct Demands {
    means: Vec<[u16; DIMS]>,
    deviations: Vec<[u8; DIMS]>,
    shifts: Vec<[Shift; RESOURCES]>,
}

impl Demands {
    pub(crate) fn with_capacity(tenants: usize) -> Self {
        Self {
            means: Vec::with_capacity(tenants),
            deviations: Vec::with_capacity(tenants),
            shifts: Vec::with_capacity(tenants),
        }
    }

    /// Adds one tenant's demand. Values are whole, finite and not negative; the builder has checked them.
    pub(crate) fn push(&mut self, profile: &Profile) {
        let mut means = [0u16; DIMS];
        let mut deviations = [0u8; DIMS];
        let shifts = Resource::ALL.map(|resource| {
            let dims = resource.first_dim()..resource.first_dim() + HOURS;
            let mean = shift_for(&profile.mean[dims.clone()], u16::MAX.into());
            let deviation = shift_for(&profile.deviation[dims.clone()], u8::MAX.into());
            for dim in dims {
                means[dim] = u16::try_from(packed(profile.mean[dim], mean)).expect("the shift makes it fit");
                deviations[dim] =
                    u8::try_from(packed(profile.deviation[dim], deviation)).expect("the shift makes it fit");
            }
            Shift { mean, deviation }
        });
        self.means.push(means);
        self.deviations.push(deviations);
        self.shifts.push(shifts);
    }

    /// Mean and deviation in one dimension.
    pub(crate) fn at(&self, index: usize, dim: usize) -> (f64, f64) {
        let shift = self.shifts[index][dim / HOURS];
        let mean = f64::from(self.means[index][dim]) * power(shift.mean);
        (mean, f64::from(self.deviations[index][dim]) * power(shift.deviation))
    }

    pub(crate) fn get(&self, index: usize) -> Profile {
        let mut profile = Profile::ZERO;
        for (resource, shift) in self.shifts[index].iter().enumerate() {
            let mean_unit = power(shift.mean);
            let deviation_unit = power(shift.deviation);
            for dim in resource * HOURS..(resource + 1) * HOURS {
                profile.mean[dim] = f64::from(self.means[index][dim]) * mean_unit;
                profile.deviation[dim] = f64::from(self.deviations[index][dim]) * deviation_unit;
            }
        }
        profile
    }
}

fn power(shift: u8) -> f64 {
    f64::from(1u32 << shift)
}

/// The smallest shift at which the largest value, rounded up, is at most `most`. Values are below 2^32.
fn shift_for(values: &[f64], most: u32) -> u8 {
    let largest = values.iter().copied().fold(0.0, f64::max);
    (0..=24).find(|&shift| packed(largest, shift) <= most).expect("values are below 2^32: 24 bits are enough")
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "whole, not negative, below 2^32")]
fn packed(value: f64, shift: u8) -> u32 {
    (value / power(shift)).ceil() as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    fn profile(seed: u64) -> Profile {
        let mut state = seed;
        let mut next = |bits: u32| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            #[expect(clippy::cast_precision_loss, reason = "at most 31 bits are left")]
            let value = (state >> (64 - bits)) as f64;
            value
        };
        let mut profile = Profile::ZERO;
        for dim in 0..DIMS {
            profile.mean[dim] = next(31);
            profile.deviation[dim] = next(20);
        }
        profile
    }

    #[test]
    fn packing_rounds_up_a_little_and_only_once() {
        for seed in 0..50 {
            let given = profile(seed);
            let mut demands = Demands::default();
            demands.push(&given);
            let once = demands.get(0);
            demands.push(&once);
            assert_eq!(once, demands.get(1), "packing what was unpacked changes nothing");
            for resource in Resource::ALL {
                let dims = resource.first_dim()..resource.first_dim() + HOURS;
                let peak = given.mean[dims.clone()].iter().copied().fold(0.0, f64::max);
                let widest = given.deviation[dims.clone()].iter().copied().fold(0.0, f64::max);
                for dim in dims {
                    assert!((0.0..=peak / 32_768.0).contains(&(once.mean[dim] - given.mean[dim])));
                    assert!((0.0..=widest / 127.0).contains(&(once.deviation[dim] - given.deviation[dim])));
                }
            }
        }
    }

    #[test]
    fn small_values_are_kept_as_they_are() {
        let mut given = Profile::ZERO;
        given.mean[3] = 65_535.0;
        given.deviation[30] = 255.0;
        let mut demands = Demands::default();
        demands.push(&given);
        assert_eq!(demands.get(0), given);
    }
}
