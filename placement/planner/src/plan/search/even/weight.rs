//! What one tenant adds to a cell, whichever it is.

use crate::fleet::TenantIx;
use crate::layout::Layout;
use crate::load::{Rough, single};
use crate::resource::DIMS;

/// What a little more variance adds to the need of a cell: by dimension, on average over all cells.
pub(super) struct Slopes {
    /// Risk by twice the root of the variance.
    each: [f64; DIMS],
    /// By spike cluster: the sum of deviations that a cell has of it.
    clusters: Vec<[f64; DIMS]>,
}

impl Slopes {
    pub(super) fn of(layout: &Layout<'_>) -> Self {
        let fleet = layout.fleet();
        #[expect(clippy::cast_precision_loss, reason = "the builder bounds the cells")]
        let count = fleet.cells().len() as f64;
        let (mut variance, mut clusters) = ([0.0; DIMS], vec![[0.0; DIMS]; fleet.spike_cluster_count()]);
        for cell in fleet.cells() {
            layout.load(cell).add_spread_to(&mut variance, &mut clusters);
        }
        clusters.iter_mut().flatten().for_each(|sum| *sum /= count);
        let risk = layout.policy().risk;
        let slope = |variance: f64| if variance > 0.0 { risk / (2.0 * (variance / count).sqrt()) } else { 0.0 };
        Self { each: variance.map(slope), clusters }
    }

    pub(super) fn adds(&self, layout: &Layout<'_>, tenant: TenantIx) -> Rough {
        let profile = layout.fleet().demand(tenant);
        let cluster = layout.fleet().tenant(tenant).spike_cluster();
        let mut adds = [0.0; DIMS];
        for dim in 0..DIMS {
            let deviation = profile.deviation[dim];
            let beside = cluster.map_or(0.0, |cluster| self.clusters[cluster][dim]);
            let variance = deviation * (deviation + 2.0 * beside);
            adds[dim] = single(profile.mean[dim] + self.each[dim] * variance);
        }
        adds
    }
}
