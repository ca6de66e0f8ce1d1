//! The audit trail, page by page, with its end under this node's signature.

use cell_model::{AuditEntry, TenantId};
use cell_protos::{Malformed, v1};
use cell_trust::Checkpoint;
use tonic::{Response, Status};

use super::Ground;
use crate::refusal::malformed;

const PAGE_DEFAULT: u32 = 500;
const PAGE_MAX: u32 = 1_000;
/// Entries that one page looks at to find those of a tenant.
const LOOKED_AT_MAX: usize = 20_000;

/// One page.
pub(super) async fn list(
    ground: &Ground,
    wire: v1::ListAuditRequest,
) -> Result<Response<v1::ListAuditResponse>, Status> {
    if wire.page_size > PAGE_MAX {
        return Err(malformed(&Malformed::new("page_size", format!("at most {PAGE_MAX}"))));
    }
    let size = if wire.page_size == 0 { PAGE_DEFAULT } else { wire.page_size };
    let size = usize::try_from(size).unwrap_or(usize::MAX);
    let subject = match wire.tenant.as_str() {
        "" => None,
        tenant => {
            let tenant = TenantId::new(tenant)
                .map_err(|invalid| malformed(&Malformed::new("tenant", invalid.to_string())))?;
            Some(format!("tenant/{tenant}"))
        }
    };
    let as_of = ground.readable(wire.allow_stale).await?;
    let is_wanted = |entry: &AuditEntry| subject.as_ref().is_none_or(|subject| entry.subject == *subject);
    let (cluster, first, last, tip, entries) = ground.view(|fleet| {
        let trail = fleet.audit();
        let looked_at = trail.after(wire.after).take(LOOKED_AT_MAX);
        let entries: Vec<_> = looked_at.filter(|entry| is_wanted(entry)).take(size).cloned().collect();
        let tip = trail.last().map(|last| last.hash).unwrap_or_default();
        (fleet.head().cluster, trail.first_number(), trail.last_number(), tip, entries)
    });
    let signer = ground.signer.key();
    let signature = Checkpoint { cluster, number: last, hash: tip }.sign(&signer);
    let next = if entries.len() == size { entries.last().map_or(0, |entry| entry.number) } else { 0 };
    Ok(as_of.answer(v1::ListAuditResponse {
        entries: entries.iter().map(|entry| v1::AuditEntry::from(&**entry)).collect(),
        first,
        last,
        tip: tip.0.to_vec().into(),
        cluster_id: cluster.0,
        key_id: signer.public().key_id(),
        signature: signature.to_vec().into(),
        next: if next == last { 0 } else { next },
    }))
}
