//! A tier that changes with a move.

use cell_client::wire;
use serde::Serialize;

use super::word;

/// What the tenant has on either cell of its move.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TierChangeView {
    /// On the source.
    pub source: String,
    /// On the target, from the cutover on.
    pub target: String,
}

impl From<wire::TierChange> for TierChangeView {
    fn from(change: wire::TierChange) -> Self {
        let tier = |tier| word("TIER_", tier, |tier: wire::Tier| tier.as_str_name());
        Self { source: tier(change.source), target: tier(change.target) }
    }
}
