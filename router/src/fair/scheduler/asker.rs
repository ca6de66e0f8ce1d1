//! Whom the tests let ask.

use cell_model::TenantId;

use super::{Arc, Guest, Places, Share};

pub(super) const PLAIN: Share = Share { cost: 1.0, weight: 1 };

/// A tenant that asks.
#[derive(Clone)]
pub(super) struct Asker {
    tenant: TenantId,
    pub(super) places: Arc<Places>,
}

impl Asker {
    pub(super) fn guest(&self) -> Guest<'_> {
        Guest { tenant: &self.tenant, places: &self.places, epoch: 1 }
    }
}

pub(super) fn tenant(name: &str) -> Asker {
    Asker { tenant: TenantId::new(name).unwrap(), places: Arc::default() }
}
