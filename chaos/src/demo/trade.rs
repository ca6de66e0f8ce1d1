//! The shops of a demo: tills in all of them, more in that of a tenant that moves, and what is to be said of them in the end.

use std::sync::Arc;
use std::time::Duration;

use super::moves::Driven;
use crate::check::Findings;
use crate::load::{Load, Running};
use crate::report::{Failed, ShopReport};
use crate::shop::till::Shops;
use crate::shop::{Counts, Deed, Told, What, audit, books};

/// Tills that go from shop to shop,
const TILLS: u32 = 6;
/// and those in the shop of a tenant that moves.
const TILLS_OF_ONE: u32 = 2;
/// What the tills that go round do, beside so many writes of documents.
const WRITES_FOR_A_TURN: u32 = 4;
/// Between two turns of a till: it has some turns in each move,
const GAP_MAX: Duration = Duration::from_secs(1);
const GAP_OF_ONE_MAX: Duration = Duration::from_millis(200);
/// and leaves the machine to others.
const GAP_MIN: Duration = Duration::from_millis(20);

/// The shops, if there are any. Clones are of the same ones.
#[derive(Clone)]
pub(super) struct Trade {
    shops: Option<Shops>,
    gap: Duration,
}

impl Trade {
    /// None.
    pub(super) const fn none() -> Self {
        Self { shops: None, gap: GAP_MAX }
    }

    /// One for each of these tenants, in which less goes on where fewer documents are written.
    pub(super) async fn open(load: &Load, names: &[Arc<str>], writes_per_second: u32) -> Result<Self, String> {
        let gap = Duration::from_secs(1) * TILLS * WRITES_FOR_A_TURN / writes_per_second.max(1);
        let shops = Some(Shops::open(load, names).await?);
        Ok(Self { shops, gap: gap.clamp(GAP_MIN, GAP_MAX) })
    }

    /// Tills that go from shop to shop.
    pub(super) fn everywhere(&self, names: &Arc<[Arc<str>]>) -> Running {
        self.shops.as_ref().map_or_else(Running::none, |shops| shops.trade(names, TILLS, self.gap))
    }

    /// Tills in the shop of one.
    pub(super) fn at(&self, name: &Arc<str>) -> Running {
        let only: Arc<[Arc<str>]> = Arc::new([name.clone()]);
        let gap = (self.gap / 4).clamp(GAP_MIN, GAP_OF_ONE_MAX);
        self.shops.as_ref().map_or_else(Running::none, |shops| shops.trade(&only, TILLS_OF_ONE, gap))
    }

    /// Audits all books, once nobody trades any more. Nothing where there are no shops.
    pub(super) async fn close(
        &self,
        routers: &[String],
        names: &[Arc<str>],
        driven: &[Driven],
        findings: &mut Findings,
        failed: &mut Failed,
    ) -> Result<Option<ShopReport>, String> {
        let Some(shops) = &self.shops else { return Ok(None) };
        let deeds = shops.ledger().deeds();
        failed.add(deeds.iter().filter(|deed| deed.failed).map(told));
        audit::audit(&deeds, &books::read(routers, names).await?, findings);
        let while_moving: Vec<u64> = driven.iter().map(|one| orders_during(&deeds, one, names)).collect();
        let without = driven.iter().zip(&while_moving).filter(|(_, orders)| **orders == 0);
        let untouched = without.map(|(one, _)| {
            let id = one.movement.as_ref().map_or("a move", |movement| movement.id.as_str());
            format!("{id} of {}: no order was made in its shop meanwhile", names[one.planned.tenant])
        });
        Ok(Some(ShopReport {
            counts: Counts::of(&deeds),
            orders_while_moving: while_moving.iter().sum(),
            untouched: untouched.collect(),
        }))
    }
}

fn told(deed: &Deed) -> String {
    format!("at {} ms: a till of {}: {:?}: {:?}", deed.returned / 1_000, deed.tenant, deed.what, deed.told)
}

/// Orders of a tenant that were acknowledged while it moved.
fn orders_during(deeds: &[Deed], driven: &Driven, names: &[Arc<str>]) -> u64 {
    let tenant = &names[driven.planned.tenant];
    let Some(began) = driven.entered.iter().map(|entered| entered.at).min() else { return 0 };
    let is_one = |deed: &&Deed| {
        deed.tenant == *tenant
            && (began..=driven.ended).contains(&deed.returned)
            && matches!((&deed.what, &deed.told), (What::Order { .. }, Told::Made { .. }))
    };
    deeds.iter().filter(is_one).count() as u64
}
