//! What may be typed of a tenant that lives, and of what it has paid for.

use cell_model::TenantId;
use clap::{Subcommand, ValueEnum};

/// `tenant`.
#[derive(Debug, Subcommand)]
pub enum OfTenant {
    /// Give a tenant another tier, where it is; `move tenant --tier` where the tier wants another cell
    Set {
        /// Which tenant
        name: TenantId,
        /// What it has paid for
        #[arg(long, value_enum)]
        tier: Tier,
    },
}

/// As [`cell_model::Tier`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Tier {
    /// Pooled
    Bronze,
    /// Pooled, stricter limits for others
    Silver,
    /// A database of its own
    Gold,
    /// A cell of its own
    Platinum,
}

impl From<Tier> for cell_model::Tier {
    fn from(tier: Tier) -> Self {
        match tier {
            Tier::Bronze => Self::Bronze,
            Tier::Silver => Self::Silver,
            Tier::Gold => Self::Gold,
            Tier::Platinum => Self::Platinum,
        }
    }
}
