//! Which of the cells that admit a tenant is best. The order of the fields of [`Terms`] is the policy.

use serde::{Deserialize, Serialize};

use crate::filter::{Question, Wish};
use crate::fleet::{CellIx, NONE};
use crate::load::Peak;

/// Steps of fullness that count as equal, so that a hair's breadth does not outweigh what comes after it.
const LEVELS: f64 = 20.0;

/// What is said for and against a cell; less is better, and an earlier field outweighs all later ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Terms {
    /// Thousandths of the budget by which the cell would be above the low water.
    pub strain: u32,
    /// Members of the tenant's anti-affinity group in the same failure domain.
    pub shared_fate: u32,
    /// 1 where the tenant would have to move.
    pub moves: u32,
    /// How full the cell would be where it is fullest, in steps of a twentieth.
    pub level: u32,
    /// Tenths of the variance there that the tenant's spike cluster would be to blame for.
    pub spikes: u32,
    /// Place of the cell in the tenant's walk round the ring: 0 is its default home.
    pub detour: u32,
}

impl Terms {
    /// Names and values, in order.
    #[must_use]
    pub const fn listed(&self) -> [(&'static str, u32); 6] {
        [
            ("strain", self.strain),
            ("shared_fate", self.shared_fate),
            ("moves", self.moves),
            ("level", self.level),
            ("spikes", self.spikes),
            ("detour", self.detour),
        ]
    }
}

/// A cell with its terms. Equal terms: the lower id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Score {
    pub(crate) terms: Terms,
    pub(crate) cell: CellIx,
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped to the range just before")]
fn whole(value: f64) -> u32 {
    value.clamp(0.0, 1e9) as u32
}

impl Score {
    /// The score of a cell that admits the tenant and would be as full as `peak`. `walk` begins the tenant's walk
    /// round the ring.
    pub(crate) fn new(question: &Question<'_>, cell: CellIx, peak: Peak, walk: &[CellIx]) -> Self {
        let spikes = question.layout.spike_share(cell, peak.dim, question.arriving(cell));
        Self::with(question, cell, peak.share, whole((spikes * 10.0).round()), walk)
    }

    /// No score of this cell is better: the tenant only makes it fuller.
    pub(crate) fn at_best(question: &Question<'_>, cell: CellIx, walk: &[CellIx]) -> Self {
        Self::at_least(question, cell, question.layout.peak(cell).share, walk)
    }

    /// No score of this cell is better, if it is at least so full then.
    pub(crate) fn at_least(question: &Question<'_>, cell: CellIx, share: f64, walk: &[CellIx]) -> Self {
        // A hair less, for the rounding of the two ways to the same share.
        Self::with(question, cell, share - 1e-9, 0, walk)
    }

    fn with(question: &Question<'_>, cell: CellIx, share: f64, spikes: u32, walk: &[CellIx]) -> Self {
        let above = (share - question.layout.policy().low_water) * 1000.0;
        let detour = walk.iter().position(|&at| at == cell).unwrap_or(walk.len());
        let terms = Terms {
            strain: whole(above.ceil()),
            shared_fate: shared_fate(question, cell),
            moves: u32::from(question.home.is_some() && !question.is_home(cell)),
            level: whole((share * LEVELS).floor()),
            spikes,
            detour: u32::try_from(detour).expect("a walk is short"),
        };
        Self { terms, cell }
    }
}

pub(crate) fn shared_fate(question: &Wish<'_>, cell: CellIx) -> u32 {
    let fleet = question.layout.fleet();
    let domain = fleet.cell(cell).domain;
    let Some(group) = question.tenant.group().filter(|_| domain != NONE) else { return 0 };
    let others = question.layout.group_cells(group).iter();
    let near = others.filter(|&&of| fleet.cell(of).domain == domain).count();
    let own = question.home.is_some_and(|home| fleet.cell(home).domain == domain);
    u32::try_from(near - usize::from(own)).unwrap_or(u32::MAX)
}
