//! An ordered map behind a lock, for tests and simulation.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{PoisonError, RwLock};

use super::{Applied, Batch, Engine, EngineError, Entry};

/// Keeps everything in memory, and "durable" for as long as someone holds it.
#[derive(Debug, Default)]
pub struct MemoryEngine {
    entries: RwLock<BTreeMap<Vec<u8>, Vec<u8>>>,
    syncs: AtomicU64,
}

impl MemoryEngine {
    /// How often it was asked to sync.
    pub fn syncs(&self) -> u64 {
        self.syncs.load(Ordering::SeqCst)
    }
}

impl Engine for MemoryEngine {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, EngineError> {
        Ok(self.entries.read().unwrap_or_else(PoisonError::into_inner).get(key).cloned())
    }

    fn scan(&self, from: &[u8], until: &[u8], limit: usize) -> Result<Vec<Entry>, EngineError> {
        if from >= until {
            return Ok(Vec::new());
        }
        let entries = self.entries.read().unwrap_or_else(PoisonError::into_inner);
        let range = entries.range::<[u8], _>((Bound::Included(from), Bound::Excluded(until)));
        Ok(range.take(limit).map(|(key, value)| (key.clone(), value.clone())).collect())
    }

    fn apply(&self, batch: &Batch) -> Result<Applied, EngineError> {
        batch.check_lengths()?;
        let mut entries = self.entries.write().unwrap_or_else(PoisonError::into_inner);
        if batch.expectations.iter().any(|(key, value)| entries.get(key) != value.as_ref()) {
            return Ok(Applied::No);
        }
        for (key, value) in &batch.changes {
            match value {
                Some(value) => entries.insert(key.clone(), value.clone()),
                None => entries.remove(key),
            };
        }
        Ok(Applied::Yes)
    }

    fn sync(&self) -> Result<(), EngineError> {
        self.syncs.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }
}
