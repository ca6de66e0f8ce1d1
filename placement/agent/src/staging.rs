//! Row changes before they are in the store: each moves the digest and the size by what it replaces.

use std::collections::BTreeMap;

use crate::digest::RowHash;
use crate::engine::{Batch, Engine, EngineError};
use crate::keys::TenantKeys;
use crate::record::Position;

/// A row before and after.
#[derive(Debug, Clone)]
struct Staged {
    old: Option<Vec<u8>>,
    new: Option<Vec<u8>>,
}

/// Changes of one batch, and the position after them.
pub(crate) struct Staging<'a> {
    engine: &'a dyn Engine,
    keys: &'a TenantKeys,
    hash: &'a RowHash,
    rows: BTreeMap<Vec<u8>, Staged>,
    /// Where the tenant stands with these changes.
    pub(crate) position: Position,
}

impl<'a> Staging<'a> {
    pub(crate) const fn new(
        engine: &'a dyn Engine,
        keys: &'a TenantKeys,
        hash: &'a RowHash,
        position: Position,
    ) -> Self {
        Self { engine, keys, hash, rows: BTreeMap::new(), position }
    }

    /// Sets or removes a row; false where there is nothing to remove.
    pub(crate) fn set(&mut self, key: &[u8], value: Option<Vec<u8>>) -> Result<bool, EngineError> {
        let old = match self.rows.get(key) {
            Some(staged) => staged.new.clone(),
            None => self.engine.get(&self.keys.row(key))?,
        };
        if old.is_none() && value.is_none() {
            return Ok(false);
        }
        let size = |value: Option<&Vec<u8>>| value.map_or(0, |value| (key.len() + value.len()) as u64);
        self.position.digest = self.hash.moved(self.position.digest, key, old.as_deref(), value.as_deref());
        self.position.bytes =
            self.position.bytes.wrapping_add(size(value.as_ref())).wrapping_sub(size(old.as_ref()));
        match self.rows.get_mut(key) {
            Some(staged) => staged.new = value,
            None => {
                self.rows.insert(key.to_vec(), Staged { old, new: value });
            }
        }
        Ok(true)
    }

    /// Adds a row that is known not to be there yet.
    pub(crate) fn load(&mut self, key: &[u8], value: Vec<u8>) {
        self.position.digest = self.hash.moved(self.position.digest, key, None, Some(&value));
        self.position.bytes += (key.len() + value.len()) as u64;
        self.rows.insert(key.to_vec(), Staged { old: None, new: Some(value) });
    }

    /// The position after the changes, and the changes themselves.
    pub(crate) fn finish(self) -> (Position, Changes) {
        (self.position, Changes { rows: self.rows })
    }
}

/// Row changes, ready to be put into a batch.
#[derive(Debug, Default)]
pub(crate) struct Changes {
    rows: BTreeMap<Vec<u8>, Staged>,
}

impl Changes {
    /// Each row: key, old value, new value.
    pub(crate) fn each(&self) -> impl Iterator<Item = (&[u8], Option<&[u8]>, Option<&[u8]>)> {
        self.rows.iter().map(|(key, row)| (key.as_slice(), row.old.as_deref(), row.new.as_deref()))
    }

    pub(crate) fn put_into(&self, batch: &mut Batch, keys: &TenantKeys) {
        for (key, _, new) in self.each() {
            match new {
                Some(value) => batch.put(keys.row(key), value.to_vec()),
                None => batch.delete(keys.row(key)),
            }
        }
    }
}
