//! What an owner asks before its gates serve, when its process has started: does this cell still own the tenant? As [`crate::confirm`]
//! has it, in the databases of this driver.
//!
//! Who writes without a gate is judged by what the database says, and that has not heard yet: see docs/postgresql.md.

use std::sync::Arc;

use cell_client::ControlClient;
use cell_model::TenantId;

use super::cell::Cell;
use super::tenant::{Core, Tenant};
use crate::confirm::{AGAIN, moves, still_owns};
use crate::record::Role;

impl Core {
    /// Whether somebody has to say whether this cell still owns.
    fn is_to_be_asked(&self) -> bool {
        self.control.as_ref().is_some_and(moves)
    }

    /// Before anything is served.
    pub(super) fn begin_asking(&mut self, tenant: &TenantId) {
        self.unasked = self.is_to_be_asked();
        if self.unasked {
            tracing::warn!(%tenant, "started in the middle of a move: gates serve nobody before the control plane has answered");
        }
    }
}

/// Asks for every tenant of these databases that waits for it, until none does; where others may be opened later, for ever.
pub(super) async fn ask(cells: impl Fn() -> Vec<Arc<Cell>>, control: &ControlClient, for_ever: bool) {
    loop {
        let mut waiting = 0;
        for cell in cells() {
            for tenant in cell.all() {
                if tenant.lock().unasked && !is_settled(&cell, &tenant, control).await {
                    waiting += 1;
                }
            }
        }
        if waiting == 0 && !for_ever {
            return;
        }
        tokio::time::sleep(AGAIN).await;
    }
}

/// Whether its gates serve the tenant again, or it has found its end here.
async fn is_settled(cell: &Cell, tenant: &Tenant, control: &ControlClient) -> bool {
    let uid = {
        let mut core = tenant.lock();
        let owner = core.control.as_ref().filter(|control| control.role == Role::Owner);
        let Some(uid) = owner.map(|control| control.uid) else {
            // Nothing is served. Once no move is left that could make it the owner, there is no question any more.
            core.unasked = core.is_to_be_asked();
            return !core.unasked;
        };
        uid
    };
    if !still_owns(control, &cell.here, (&tenant.id, uid)).await {
        return false;
    }
    tenant.lock().unasked = false;
    cell.post(tenant);
    true
}
