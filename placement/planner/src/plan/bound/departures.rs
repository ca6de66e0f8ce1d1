//! What so many moves cannot do: a second limit, for plans that may make only a few.
//!
//! A cell that is to be no fuller than a level has to lose what is above it, where it is fullest. Of a sum of vectors
//! none takes more than its own length, so a tenant that leaves takes off at most what it needs by itself: its mean and
//! `risk` of its own deviations. So a cell loses at least as many tenants as it takes of those that need the most, and
//! each of them is a move. The lowest level for which that adds up to no more than the moves of the plan is a limit.

use crate::fleet::CellIx;
use crate::layout::Layout;

/// How many tenants of a cell are added up. A cell that needs more departures needs at least one more than these.
const RANKED_MAX: usize = 512;
/// Rounding of a sum: what is found is made a little lower, and holds.
const ROUNDING: f64 = 1e-9;
const BISECTIONS: usize = 40;

/// One cell and what departures take off it.
struct Leaving {
    share: f64,
    /// What the one, two, three, … tenants that need the most take off at the most.
    off: Vec<f64>,
}

impl Leaving {
    fn of(layout: &Layout<'_>, cell: CellIx) -> Self {
        let peak = layout.peak(cell);
        let (fleet, risk) = (layout.fleet(), layout.policy().risk);
        let budget = &fleet.cell(cell).budget;
        let need = |&tenant| {
            let (mean, deviation) = fleet.demand_at(tenant, peak.dim);
            budget.share(peak.dim, mean + risk * deviation)
        };
        let mut off: Vec<f64> = layout.members(cell).iter().map(need).collect();
        let order = |a: &f64, b: &f64| b.total_cmp(a);
        if off.len() > RANKED_MAX {
            off.select_nth_unstable_by(RANKED_MAX, order);
            off.truncate(RANKED_MAX);
        }
        off.sort_unstable_by(order);
        let mut sum = 0.0;
        for need in &mut off {
            sum += *need;
            *need = sum;
        }
        Self { share: peak.share, off }
    }

    /// So many tenants leave at least, if the cell is to be no fuller than `level`.
    fn count(&self, level: f64) -> usize {
        if self.share <= level {
            return 0;
        }
        self.off.partition_point(|off| self.share - off > level) + 1
    }
}

/// No plan of `moves_max` moves makes all of these cells less full than this; 0 where the number of moves is no limit.
pub(crate) fn least_after(
    layout: &Layout<'_>,
    cells: impl IntoIterator<Item = CellIx>,
    floor: f64,
    moves_max: u32,
) -> f64 {
    let hot = cells.into_iter().filter(|&cell| layout.peak(cell).share > floor);
    let leaving: Vec<Leaving> = hot.map(|cell| Leaving::of(layout, cell)).collect();
    let enough = |level: f64| leaving.iter().map(|of| of.count(level)).sum::<usize>() <= moves_max as usize;
    let (mut low, mut high) = (floor, leaving.iter().map(|of| of.share).fold(floor, f64::max));
    if !high.is_finite() || enough(low) {
        return 0.0;
    }
    for _ in 0..BISECTIONS {
        let level = f64::midpoint(low, high);
        if enough(level) { high = level } else { low = level }
    }
    low - ROUNDING
}

#[cfg(test)]
mod tests {
    use super::Leaving;

    #[test]
    fn a_cell_loses_at_least_as_many_as_its_largest_tenants_make_up_what_is_above_the_level() {
        let cell = Leaving { share: 1.0, off: vec![0.2, 0.3, 0.35] };
        assert_eq!(cell.count(1.0), 0);
        assert_eq!(cell.count(0.9), 1);
        assert_eq!(cell.count(0.8), 1);
        assert_eq!(cell.count(0.75), 2);
        assert_eq!(cell.count(0.66), 3);
        assert_eq!(cell.count(0.5), 4, "all that are ranked, and at least one more");
    }
}
