//! What the moves of a plan are asked for with: request ids by which a later run knows its own.
//!
//! ```text
//! 128 bits:  64 of SHA-256(plan, way, tenant)  │  64 of SHA-256(the same, revision of its record, attempt)
//! ```
//!
//! The first half is the same for every attempt at one move of one plan, and nobody else asks with it. The second half
//! differs, since the store gives a name that it knows the answer that it gave before: a move that was refused for want
//! of a slot would be refused for ever.

use cell_model::{RequestId, Revision, TenantId};
use sha2::{Digest, Sha256};

/// Names for the moves of one plan, forwards or back.
#[derive(Debug, Clone)]
pub(super) struct Tickets {
    plan: Sha256,
}

impl Tickets {
    /// Forwards, of what was read and is written as JSON.
    pub(super) fn of(paper: &str) -> Self {
        Self::with(paper, "apply")
    }

    /// Back.
    pub(super) fn of_undo(paper: &str) -> Self {
        Self::with(paper, "undo")
    }

    fn with(paper: &str, way: &str) -> Self {
        let mut plan = Sha256::new_with_prefix(Sha256::digest(paper));
        plan.update(way);
        plan.update([0]);
        Self { plan }
    }

    fn half(&self, tenant: &TenantId, more: &[u64]) -> u128 {
        let mut of = self.plan.clone();
        of.update(tenant.as_str());
        more.iter().for_each(|number| of.update(number.to_be_bytes()));
        let digest: [u8; 32] = of.finalize().into();
        digest[..8].iter().fold(0, |half, byte| (half << 8) | u128::from(*byte))
    }

    /// The name of one attempt to begin a tenant's move.
    pub(super) fn request(&self, tenant: &TenantId, record: Revision, attempt: u64) -> RequestId {
        RequestId((self.half(tenant, &[]) << 64) | self.half(tenant, &[record.get(), attempt]))
    }

    /// Whether a request was for this plan's move of that tenant.
    pub(super) fn is_ours(&self, tenant: &TenantId, request: RequestId) -> bool {
        request.0 >> 64 == self.half(tenant, &[])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_known_by_its_plan_its_way_and_its_tenant() {
        let [acme, hooli] = ["acme", "hooli"].map(|name| TenantId::new(name).unwrap());
        let (plan, other) = ("a", "b");
        let ours = Tickets::of(plan);
        let ids: Vec<RequestId> =
            [(1, 0), (1, 1), (2, 0)].map(|(record, attempt)| ours.request(&acme, Revision(record), attempt)).into();
        assert!(ids.iter().all(|id| ours.is_ours(&acme, *id) && Tickets::of(plan).is_ours(&acme, *id)));
        assert!(ids[0] != ids[1] && ids[1] != ids[2] && ids[0] != ids[2], "each attempt has a name of its own");
        for stranger in [Tickets::of_undo(plan), Tickets::of(other), Tickets::of_undo(other)] {
            assert!(!stranger.is_ours(&acme, ids[0]));
        }
        assert!(!ours.is_ours(&hooli, ids[0]) && !ours.is_ours(&acme, RequestId(7)));
    }
}
