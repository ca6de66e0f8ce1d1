//! What rows add up to: the number of rows and the wrapping sum of their keyed 128-bit hashes, so that a change moves
//! it by the difference of the row alone, in any order. The key is the tenant's incarnation, on every cell the same.

use cell_model::{Digest, TenantId, Uid};

/// The key of a tenant's row hashes.
#[derive(Clone)]
pub(crate) struct RowHash {
    key: [u8; 32],
}

impl RowHash {
    pub(crate) fn new(tenant: &TenantId, uid: Uid) -> Self {
        let mut material = uid.get().to_be_bytes().to_vec();
        material.extend(tenant.as_str().as_bytes());
        Self { key: blake3::derive_key("cellway 2026 row digest v1", &material) }
    }

    pub(crate) const fn key(&self) -> &[u8; 32] {
        &self.key
    }

    /// The hash of one row: length of the key, key, value.
    pub(crate) fn of(&self, key: &[u8], value: &[u8]) -> u128 {
        let mut row = Vec::with_capacity(8 + key.len() + value.len());
        row.extend((key.len() as u64).to_be_bytes());
        row.extend(key);
        row.extend(value);
        let hash = blake3::keyed_hash(&self.key, &row);
        u128::from_be_bytes(*hash.as_bytes().first_chunk().expect("a hash has 32 bytes"))
    }

    /// `digest` after `key` changed from `old` to `new`.
    pub(crate) fn moved(&self, digest: Digest, key: &[u8], old: Option<&[u8]>, new: Option<&[u8]>) -> Digest {
        let mut moved = digest;
        if let Some(old) = old {
            moved.rows = moved.rows.wrapping_sub(1);
            moved.sum = moved.sum.wrapping_sub(self.of(key, old));
        }
        if let Some(new) = new {
            moved.rows = moved.rows.wrapping_add(1);
            moved.sum = moved.sum.wrapping_add(self.of(key, new));
        }
        moved
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_digest_kept_change_by_change_is_that_of_the_rows(
            changes in proptest::collection::vec((0u8..6, proptest::option::of(0u8..3)), 0..60),
        ) {
            let hash = RowHash::new(&TenantId::new("t").unwrap(), Uid(3));
            let mut rows: BTreeMap<u8, u8> = BTreeMap::new();
            let mut kept = Digest::default();
            for (key, value) in changes {
                let old = match value {
                    Some(value) => rows.insert(key, value),
                    None => rows.remove(&key),
                };
                let (old, new) = (old.map(|v| [v]), value.map(|v| [v]));
                kept = hash.moved(kept, &[key], old.as_ref().map(<[u8; 1]>::as_slice), new.as_ref().map(<[u8; 1]>::as_slice));
            }
            let anew = rows.iter().fold(Digest::default(), |digest, (key, value)| {
                hash.moved(digest, &[*key], None, Some(&[*value]))
            });
            prop_assert_eq!(kept, anew);
        }
    }

    #[test]
    fn rows_that_read_alike_when_joined_differ() {
        let hash = RowHash::new(&TenantId::new("t").unwrap(), Uid(3));
        assert_ne!(hash.of(b"ab", b"c"), hash.of(b"a", b"bc"));
        assert_ne!(hash.of(b"a", b"b"), RowHash::new(&TenantId::new("t").unwrap(), Uid(4)).of(b"a", b"b"));
    }
}
