//! How far a cell is above a level: the sum, over all dimensions, of the square of what is above it.
//!
//! Squares, because a little above the level at many hours is better than much at one. Single precision and no root:
//! what a tenant adds is taken to be the same on every cell, with the variance that cells have on average. That is off
//! by a thousandth of a cell at the most where tenants are small; what is chosen by it is then made on the layout, and
//! judged there.

use crate::load::Rough;
use crate::resource::{DIMS, HOURS, RESOURCES};

/// One by the budget of a cell, by resource.
pub(super) type Inverse = [f32; RESOURCES];

/// Lanes of the loops; the hours of a day divide by them.
const LANES: usize = 8;

/// Of a cell as it is.
pub(super) fn excess(shares: &Rough, level: f32) -> f32 {
    let mut lanes = [0.0; LANES];
    for shares in shares.chunks_exact(LANES) {
        for lane in 0..LANES {
            let above = positive(shares[lane] - level);
            lanes[lane] += above * above;
        }
    }
    total(lanes)
}

/// Of a cell with one tenant more (`sign` 1) or less (−1); anything above `most` where it is more than that.
pub(super) fn excess_with(
    shares: &Rough,
    inverse: &Inverse,
    adds: &Rough,
    sign: f32,
    level: f32,
    most: f32,
) -> f32 {
    let mut sum = 0.0;
    for resource in 0..RESOURCES {
        let factor = sign * inverse[resource];
        let dims = resource * HOURS..(resource + 1) * HOURS;
        let mut lanes = [0.0; LANES];
        let pairs = shares[dims.clone()].chunks_exact(LANES).zip(adds[dims].chunks_exact(LANES));
        for (shares, adds) in pairs {
            for lane in 0..LANES {
                let above = positive(shares[lane] + factor * adds[lane] - level);
                lanes[lane] += above * above;
            }
        }
        sum += total(lanes);
        if sum > most {
            break;
        }
    }
    sum
}

/// The difference of two tenants: what a cell gets that takes one for the other.
pub(super) fn difference(comes: &Rough, goes: &Rough) -> Rough {
    let mut difference = [0.0; DIMS];
    for dim in 0..DIMS {
        difference[dim] = comes[dim] - goes[dim];
    }
    difference
}

/// Added up by halves: eight one after the other would wait for each other.
#[inline]
fn total(lanes: [f32; LANES]) -> f32 {
    let half: [f32; LANES / 2] = std::array::from_fn(|lane| lanes[lane] + lanes[lane + LANES / 2]);
    (half[0] + half[2]) + (half[1] + half[3])
}

#[inline]
fn positive(value: f32) -> f32 {
    if value > 0.0 { value } else { 0.0 }
}
