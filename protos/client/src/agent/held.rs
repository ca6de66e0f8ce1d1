//! What a cell says that it holds, read.

use std::collections::BTreeMap;

use cell_model::{CellId, Epoch, Held, HeldRole, MoveId, TenantId, Uid};
use cell_protos::{Malformed, v1};

use crate::signed_from_wire;

/// One page of an agent's description, and whose it is.
pub(super) fn of_page(page: v1::DescribeResponse) -> Result<(CellId, Vec<(TenantId, Held)>), Malformed> {
    let cell = CellId::new(&page.cell).map_err(|invalid| Malformed::new("cell", invalid.to_string()))?;
    let mut storage: BTreeMap<String, v1::TenantStorage> =
        page.storage.into_iter().map(|storage| (storage.tenant.clone(), storage)).collect();
    let mut all = Vec::with_capacity(page.grants.len());
    for grant in page.grants {
        let tenant =
            TenantId::new(&grant.tenant).map_err(|invalid| Malformed::new("tenant", invalid.to_string()))?;
        let storage = storage.remove(&grant.tenant);
        all.push((tenant, held(&cell, grant, storage)?));
    }
    Ok((cell, all))
}

fn held(cell: &CellId, grant: v1::TenantGrant, storage: Option<v1::TenantStorage>) -> Result<Held, Malformed> {
    let role = match grant.role() {
        // A hold lapses by itself.
        v1::Role::Owner | v1::Role::Holding => HeldRole::Owner,
        v1::Role::Importing => HeldRole::Importing,
        v1::Role::Fenced => HeldRole::Fenced,
        v1::Role::Redirect => HeldRole::Redirect,
        v1::Role::Deleted => HeldRole::Deleted,
        v1::Role::None => HeldRole::Nothing,
        v1::Role::Unspecified => return Err(Malformed::new("role", "it is none that is known here")),
    };
    let storage = storage.unwrap_or_default();
    // The agent has verified it before it kept it, with the keys of then.
    let sent = match grant.mapping.map(|mapping| signed_from_wire(mapping).decode()) {
        Some(Ok(routed)) if routed.mapping.uid == Uid(grant.uid) => {
            Some(((routed.mapping.owner, routed.mapping.epoch), routed.mapping.tier))
        }
        Some(Err(error)) => return Err(Malformed::new("mapping", error.to_string())),
        Some(Ok(_)) | None => None,
    };
    let (sends_to, sends_as) = sent.unzip();
    Ok(Held {
        cell: cell.clone(),
        uid: Uid(grant.uid),
        epoch: Epoch(grant.epoch),
        role,
        move_id: MoveId(storage.move_id),
        has_copy: storage.has_copy,
        captures: storage.captures,
        sends_to,
        sends_as,
    })
}
