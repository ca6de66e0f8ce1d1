//! What an owner asks before it serves, when its process has started: do I still own this tenant?
//!
//! Only where it may have been taken over by force meanwhile: where a move was under way (ADR 0036). Then its gates wait, as
//! behind a fence, until the control plane has answered with the tenant's mapping behind a read index. That goes for a cell,
//! too, that becomes the owner of such a tenant later: what tells it so may come from a leader that was deposed before the
//! takeover. A cell that was never told of a control plane has nobody to ask, and serves: takeovers need cells with `--control`.

use std::sync::Arc;
use std::time::Duration;

use cell_client::{ClientError, ControlClient};
use cell_model::{CellId, TenantId, Uid};

use crate::record::{Control, Role};
use crate::tenant::Tenant;
use crate::tenants::Tenants;

/// Between two rounds, while there is no answer, or the cell owns nothing that it could ask for.
pub(crate) const AGAIN: Duration = Duration::from_millis(100);

/// Marks those that are to be asked for; before anything is served.
pub(crate) fn mark(tenants: &Tenants) {
    for tenant in tenants.all() {
        let mut core = tenant.lock();
        core.unconfirmed = core.control().is_some_and(moves);
        if core.unconfirmed {
            tracing::warn!(tenant = %tenant.id, "started in the middle of a move: nobody is served before the control plane has answered");
            tenants.post(&tenant, &core);
        }
    }
}

/// Whether this cell has a part in a move.
pub(crate) const fn moves(control: &Control) -> bool {
    matches!(control.role, Role::Fenced { .. }) || control.is_under_way()
}

/// Asks until every one of them is answered, or has no part in a move any more.
pub(crate) async fn ask(tenants: &Arc<Tenants>, control: &ControlClient) {
    let mut waiting: Vec<Arc<Tenant>> =
        tenants.all().into_iter().filter(|tenant| tenant.lock().unconfirmed).collect();
    while !waiting.is_empty() {
        let mut unanswered = Vec::new();
        for tenant in waiting {
            if !is_settled(tenants, &tenant, control).await {
                unanswered.push(tenant);
            }
        }
        waiting = unanswered;
        if !waiting.is_empty() {
            tokio::time::sleep(AGAIN).await;
        }
    }
}

/// Whether the tenant is served again, or has found its end here.
async fn is_settled(tenants: &Tenants, tenant: &Tenant, control: &ControlClient) -> bool {
    {
        let mut core = tenant.lock();
        let owns = core.control().is_some_and(|control| control.role == Role::Owner);
        if !owns {
            // Nothing is served. Once no move is left that could make it the owner, there is no question any more.
            core.unconfirmed = core.control().is_some_and(moves);
            return !core.unconfirmed;
        }
    }
    let uid = tenant.lock().control().map(|control| control.uid).unwrap_or_default();
    let still_owns = still_owns(control, &tenants.here, (&tenant.id, uid)).await;
    if still_owns {
        let mut core = tenant.lock();
        core.unconfirmed = false;
        tenants.post(tenant, &core);
    }
    still_owns
}

/// Whether the control plane says, behind a read index, that this cell owns the tenant. No: or nobody says it yet.
pub(crate) async fn still_owns(control: &ControlClient, here: &CellId, (tenant, uid): (&TenantId, Uid)) -> bool {
    match control.get_reconciled_mapping(tenant).await {
        Ok(signed) => match signed.decode() {
            Ok(routed) => routed.mapping.owner == *here && routed.mapping.uid == uid,
            Err(error) => {
                tracing::warn!(%tenant, %error, "the control plane's mapping cannot be read");
                false
            }
        },
        // It was made after the backup from which the store was restored, and nobody has adopted it: what the cells hold counts.
        Err(ClientError::Rejected { code, .. }) if code == "TENANT_UNKNOWN" => true,
        Err(error @ ClientError::Rejected { .. }) => {
            tracing::warn!(%tenant, %error, "the control plane does not say whether this cell still owns the tenant");
            false
        }
        Err(error) => {
            tracing::debug!(%tenant, %error, "nobody says yet whether this cell still owns the tenant");
            false
        }
    }
}
