//! The newest signed mapping of a tenant that this cell owns: what its gates tell a router that is stale. Asked from
//! the control plane once for all who wait, and kept for as long as the grant is the same.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use cell_client::ControlClient;
use cell_gate::MappingSource;
use cell_model::TenantId;
use cell_trust::SignedMapping;
use futures::future::BoxFuture;

use crate::driver::Driver;

/// Tenants whose mapping is kept; beyond it all are forgotten and asked for again.
const KEPT: usize = 100_000;

type Slot = Arc<tokio::sync::Mutex<Option<SignedMapping>>>;

/// See the module. Cheap to clone.
#[derive(Clone)]
pub struct NewestMappings {
    driver: Arc<dyn Driver>,
    control: Option<ControlClient>,
    slots: Arc<Mutex<BTreeMap<TenantId, Slot>>>,
}

impl NewestMappings {
    pub(crate) fn new(driver: Arc<dyn Driver>, control: Option<ControlClient>) -> Self {
        Self { driver, control, slots: Arc::default() }
    }

    fn slot(&self, tenant: &TenantId) -> Slot {
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        if slots.len() >= KEPT && !slots.contains_key(tenant) {
            slots.clear();
        }
        Arc::clone(slots.entry(tenant.clone()).or_default())
    }

    /// Whether a mapping says at least what this cell has been granted.
    fn is_new_enough(&self, tenant: &TenantId, signed: &SignedMapping) -> bool {
        let granted = self.driver.granted(tenant).map(|granted| (granted.uid, granted.epoch));
        let says = signed.decode().ok().map(|routed| (routed.mapping.uid, routed.mapping.epoch));
        granted.is_some() && says >= granted
    }

    async fn find(self, tenant: TenantId) -> Option<SignedMapping> {
        let redirect = self.driver.granted(&tenant)?.mapping;
        if redirect.is_some() {
            return redirect;
        }
        let slot = self.slot(&tenant);
        let mut kept = slot.lock().await;
        if let Some(signed) = kept.as_ref().filter(|signed| self.is_new_enough(&tenant, signed)) {
            return Some(signed.clone());
        }
        let control = self.control.as_ref()?;
        match control.get_signed_mapping(&tenant).await {
            Ok(signed) => {
                let useful = self.is_new_enough(&tenant, &signed);
                *kept = Some(signed.clone());
                useful.then_some(signed)
            }
            Err(error) => {
                tracing::debug!(%tenant, %error, "no newer mapping can be had");
                None
            }
        }
    }
}

impl MappingSource for NewestMappings {
    fn newest(&self, tenant: TenantId) -> BoxFuture<'static, Option<SignedMapping>> {
        Box::pin(self.clone().find(tenant))
    }
}

impl std::fmt::Debug for NewestMappings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NewestMappings").finish_non_exhaustive()
    }
}
