//! What goes out under this node's signature.

use std::sync::Arc;

use cell_model::{CellRecord, ClusterId, TenantRecord};
use cell_protos::v1;
use cell_trust::{PublicKey, RoutedMapping, SignedMapping, SigningKey, WatchFrame};
use prost::Message;

/// Signs with this node's key. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Signer {
    key: Arc<SigningKey>,
    key_id: Arc<str>,
    /// Keys that sign beside this one, while the key is exchanged.
    others: Arc<[PublicKey]>,
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
        Self { key_id: public.key_id().into(), key: Arc::new(key), others }
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

    /// The mapping under this node's signature, to be handed on.
    pub(crate) fn sign(&self, routed: &RoutedMapping) -> SignedMapping {
        SignedMapping::sign(&self.key, routed)
    }

    /// Items of the watch under one signature.
    pub(crate) fn sign_items(&self, items: &v1::WatchItems) -> v1::SignedItems {
        let items = items.encode_to_vec();
        let signature = WatchFrame(&items).sign(&self.key).to_vec().into();
        v1::SignedItems { items: items.into(), key_id: self.key_id.as_ref().to_owned(), signature }
    }
}

/// The mapping of `record`, with the endpoints of its owner.
pub(crate) fn routed(cluster: ClusterId, record: &TenantRecord, owner: Option<&CellRecord>) -> RoutedMapping {
    RoutedMapping {
        cluster,
        mapping: record.mapping(),
        owner_gates: owner.map(|cell| cell.gates.clone()).unwrap_or_default(),
        owner_agent: owner.map(|cell| cell.agent.clone()).unwrap_or_default(),
    }
}
