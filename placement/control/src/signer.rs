//! Mappings under this node's signature, each signed once.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use cell_model::{CellRecord, ClusterId, Rev, Revision, TenantId, TenantRecord, Uid};
use cell_trust::{PublicKey, RoutedMapping, SignedMapping, SigningKey};

/// Signatures that are remembered. One takes about half a kilobyte.
const REMEMBERED_MAX: usize = 32_768;

/// What makes two signatures the same: everything that is signed follows from it.
type Version = (ClusterId, Uid, Rev, Revision, Revision);

/// Signs with this node's key. Cheap to clone; clones share what was signed.
#[derive(Debug, Clone)]
pub struct Signer {
    key: Arc<SigningKey>,
    /// Keys that sign beside this one, while the key is exchanged.
    others: Arc<[PublicKey]>,
    remembered: Arc<Mutex<Generations>>,
}

/// Two generations: when the younger is full it becomes the older, and the older is forgotten.
#[derive(Debug, Default)]
struct Generations {
    young: HashMap<TenantId, (Version, Arc<SignedMapping>)>,
    old: HashMap<TenantId, (Version, Arc<SignedMapping>)>,
}

impl Generations {
    fn get(&self, tenant: &TenantId, version: Version) -> Option<Arc<SignedMapping>> {
        let found = [&self.young, &self.old].into_iter().filter_map(|generation| generation.get(tenant));
        found.filter(|(of, _)| *of == version).map(|(_, signed)| Arc::clone(signed)).next()
    }

    fn put(&mut self, tenant: TenantId, version: Version, signed: Arc<SignedMapping>) {
        if self.young.len() >= REMEMBERED_MAX / 2 {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(tenant, (version, signed));
    }
}

impl Signer {
    /// A signer with this key.
    #[must_use]
    pub fn new(key: SigningKey) -> Self {
        Self::beside(key, &[])
    }

    /// A signer with this key, beside others that are to be believed, too.
    #[must_use]
    pub fn beside(key: SigningKey, others: &[PublicKey]) -> Self {
        let public = key.public();
        let others = others.iter().copied().filter(|other| *other != public).collect();
        Self { key: Arc::new(key), others, remembered: Arc::default() }
    }

    /// Every key that is to be believed, its own first.
    #[must_use]
    pub fn trusted(&self) -> Vec<PublicKey> {
        std::iter::once(self.public()).chain(self.others.iter().copied()).collect()
    }

    /// The public half of its key.
    #[must_use]
    pub fn public(&self) -> PublicKey {
        self.key.public()
    }

    pub(crate) fn key(&self) -> Arc<SigningKey> {
        Arc::clone(&self.key)
    }

    /// The mapping of `record`, whose owner is `owner`, under this node's signature.
    #[must_use]
    pub fn sign(
        &self,
        cluster: ClusterId,
        record: &TenantRecord,
        owner: Option<&CellRecord>,
    ) -> Arc<SignedMapping> {
        let owner_revision = owner.map(|cell| cell.revision).unwrap_or_default();
        let version = (cluster, record.uid, record.rev, record.revision, owner_revision);
        let known = self.remembered.lock().unwrap_or_else(PoisonError::into_inner).get(&record.id, version);
        if let Some(signed) = known {
            return signed;
        }
        let routed = RoutedMapping {
            cluster,
            mapping: record.mapping(),
            owner_gates: owner.map(|cell| cell.gates.clone()).unwrap_or_default(),
            owner_agent: owner.map(|cell| cell.agent.clone()).unwrap_or_default(),
        };
        // Signed outside the lock: two watchers that come at once may both sign, and sign the same.
        let signed = Arc::new(SignedMapping::sign(&self.key, &routed));
        let mut remembered = self.remembered.lock().unwrap_or_else(PoisonError::into_inner);
        remembered.put(record.id.clone(), version, Arc::clone(&signed));
        signed
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cell_model::{CellId, CellState, Epoch, Generation, Life, Lineage, Tier};
    use cell_trust::TrustedKeys;

    fn record(id: &str, rev: u64) -> TenantRecord {
        TenantRecord {
            id: TenantId::new(id).unwrap(),
            uid: Uid(1),
            lineage: Lineage(1),
            epoch: Epoch(1),
            rev: Rev(rev),
            revision: Revision(rev),
            owner: CellId::new("c1").unwrap(),
            life: Life::Live,
            tier: Tier::Bronze,
            residency: "".into(),
            movement: None,
            retained: Vec::new(),
            placed: "".into(),
        }
    }

    fn cell(revision: u64, gate: &str) -> CellRecord {
        CellRecord {
            id: CellId::new("c1").unwrap(),
            state: CellState::Active,
            gates: vec![gate.into()],
            agent: "127.0.0.1:9".into(),
            region: String::new(),
            residency: String::new(),
            generation: Generation(1),
            revision: Revision(revision),
        }
    }

    #[test]
    fn the_same_version_is_signed_once_and_a_new_one_anew() {
        let signer = Signer::new(SigningKey::generate());
        let (cluster, at) = (ClusterId(5), cell(1, "127.0.0.1:1"));
        let first = signer.sign(cluster, &record("t", 1), Some(&at));
        assert!(Arc::ptr_eq(&first, &signer.sign(cluster, &record("t", 1), Some(&at))));
        let second = signer.sign(cluster, &record("t", 2), Some(&at));
        assert!(!Arc::ptr_eq(&first, &second));
        let moved = signer.sign(cluster, &record("t", 2), Some(&cell(2, "127.0.0.1:2")));
        let routed = moved.verify(&TrustedKeys::new([signer.public()])).unwrap();
        assert_eq!((routed.cluster, routed.owner_gates), (cluster, vec!["127.0.0.1:2".to_owned()]));
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut generations = Generations::default();
        let signed = Arc::new(SignedMapping { payload: vec![], key_id: String::new(), signature: vec![] });
        for number in 0..REMEMBERED_MAX * 2 {
            let tenant = TenantId::new(format!("t-{number}")).unwrap();
            generations.put(tenant, (ClusterId(1), Uid(1), Rev(1), Revision(1), Revision(1)), Arc::clone(&signed));
            assert!(generations.young.len() + generations.old.len() <= REMEMBERED_MAX);
        }
    }
}
