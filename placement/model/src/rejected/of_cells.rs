//! What is said of cells that do not take a tenant, or cannot be declared anew.

use super::Rejected;
use crate::{CellKind, Tier};

const OWN_DATABASE: &str = "a gold tenant has a database of its own: choose a cell that gives each tenant one (`cellctl get cells -o json`: \
                            databases), or add one: `cellctl cell enroll NAME --agent HOST:PORT --database URL --tenant-database NAME`";

impl Rejected {
    pub(super) fn tell_of_kind(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::CellInUse { cell, tenants: 0, what } => {
                write!(f, "moves to or from cell {cell} are under way: its {what} is not declared anew meanwhile")
            }
            Self::CellInUse { cell, tenants, what } => {
                let s = if *tenants == 1 { "" } else { "s" };
                write!(f, "cell {cell} has {tenants} tenant{s}: its {what} is not declared anew meanwhile")
            }
            Self::CellOccupied { tenant, cell } => {
                write!(f, "dedicated cell {cell} has a tenant, or gets one, and would be shared with {tenant}")
            }
            Self::NoEligibleCell { residency, refused, .. } => {
                match residency.as_str() {
                    "" => write!(f, "no active cell can take the tenant")?,
                    residency => write!(f, "no active cell with residency {residency:?} can take the tenant")?,
                }
                refused.iter().enumerate().try_for_each(|(number, (code, cells))| {
                    let before = if number == 0 { ": " } else { ", " };
                    write!(f, "{before}{cells} refused by {code}")
                })
            }
            Self::TierMismatch { tenant, tier: Tier::Platinum, cell, .. } => {
                write!(f, "tenant {tenant} is platinum, and cell {cell} is pooled: it would share it with others")
            }
            Self::TierMismatch { tenant, tier: Tier::Gold, cell, kind: CellKind::Pooled } => {
                write!(f, "tenant {tenant} is gold, and cell {cell} keeps its tenants in databases that they share")
            }
            Self::TierMismatch { tenant, cell, kind, .. } => {
                write!(f, "tenant {tenant} is not platinum, and cell {cell} is {}", kind.as_str())
            }
            Self::TierNeedsMove { tenant, tier: Tier::Gold, cell, kind: CellKind::Pooled } => {
                write!(
                    f,
                    "tenant {tenant} is on cell {cell}, which keeps its tenants in databases that they share: nobody is gold there"
                )
            }
            Self::TierNeedsMove { tenant, tier, cell, kind } => {
                write!(
                    f,
                    "tenant {tenant} is on cell {cell}, which is {}: nobody is {} there",
                    kind.as_str(),
                    tier.as_str()
                )
            }
            _ => Ok(()),
        }
    }

    pub(super) fn hint_of_kind(&self) -> String {
        match self {
            Self::CellInUse { what, .. } if what == "gate" => {
                "`cellctl get moves` lists them; declare it when they have ended".into()
            }
            Self::CellInUse { cell, .. } => {
                format!("`cellctl plan drain {cell}` plans where its tenants go; declare it when they have gone")
            }
            Self::NoEligibleCell { tier: Tier::Platinum, .. }
            | Self::TierMismatch { tier: Tier::Platinum, .. }
            | Self::CellOccupied { .. } => "a platinum tenant needs a dedicated cell to itself: `cellctl cell declare CELL --kind dedicated` \
                 makes an empty cell one, `cellctl cell enroll NAME --agent HOST:PORT --kind dedicated` adds one; gold shares a cell"
                .into(),
            Self::TierMismatch { tier: Tier::Gold, kind: CellKind::Pooled, .. } => OWN_DATABASE.into(),
            Self::NoEligibleCell { tier: Tier::Gold, refused, .. }
                if refused.iter().any(|(code, _)| code == "TIER_MISMATCH") =>
            {
                OWN_DATABASE.into()
            }
            Self::TierMismatch { cell, .. } => format!(
                "choose a pooled cell, or pay for this one: --tier platinum; `cellctl cell declare {cell} --kind pooled` where it is empty"
            ),
            Self::TierNeedsMove { tenant, tier: Tier::Gold, kind: CellKind::Pooled, .. } => format!(
                "`cellctl move tenant {tenant} --to CELL --tier gold` takes it to a cell that gives each tenant a database of its own and \
                 changes its tier with the cutover; `cellctl get cells -o json` says of each cell which it does"
            ),
            Self::TierNeedsMove { tenant, tier, .. } => {
                let kind = if *tier == Tier::Platinum { CellKind::Dedicated } else { CellKind::Pooled };
                let (tier, kind) = (tier.as_str(), kind.as_str());
                format!(
                    "`cellctl move tenant {tenant} --to CELL --tier {tier}` takes it to a {kind} cell and changes its tier with the cutover; \
                     `cellctl get cells` shows them, `cellctl cell declare CELL --kind {kind}` makes an empty cell one"
                )
            }
            _ => "`cellctl get cells` shows residency, state, kind and capacity; create, uncordon or declare one; \
                 `cellctl audit show --tenant TENANT` has what would admit it"
                .into(),
        }
    }
}
