//! Engines without a disk, for simulation and tests. Clones share their contents, so that a node can be stopped and
//! opened again on what it has written.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{LogEngine, StateEngine, Visit, Write};
use crate::error::EngineError;

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[derive(Debug, Default)]
struct Log {
    rows: BTreeMap<u64, Vec<u8>>,
    meta: BTreeMap<&'static str, Vec<u8>>,
}

/// A log in memory.
#[derive(Debug, Clone, Default)]
pub struct MemoryLog(Arc<Mutex<Log>>);

impl LogEngine for MemoryLog {
    fn append(&self, rows: &[(u64, Vec<u8>)]) -> Result<(), EngineError> {
        locked(&self.0).rows.extend(rows.iter().cloned());
        Ok(())
    }

    fn range(&self, from: u64, until: u64, bytes_max: usize) -> Result<Vec<(u64, Vec<u8>)>, EngineError> {
        let mut bytes = 0;
        let mut found = Vec::new();
        if from < until {
            for (index, row) in locked(&self.0).rows.range(from..until) {
                bytes += row.len();
                if bytes > bytes_max && !found.is_empty() {
                    break;
                }
                found.push((*index, row.clone()));
            }
        }
        Ok(found)
    }

    fn last(&self) -> Result<Option<(u64, Vec<u8>)>, EngineError> {
        Ok(locked(&self.0).rows.last_key_value().map(|(index, row)| (*index, row.clone())))
    }

    fn truncate_from(&self, index: u64) -> Result<(), EngineError> {
        locked(&self.0).rows.split_off(&index);
        Ok(())
    }

    fn purge_to(&self, index: u64) -> Result<(), EngineError> {
        let mut log = locked(&self.0);
        let kept = index.checked_add(1).map(|next| log.rows.split_off(&next)).unwrap_or_default();
        log.rows = kept;
        Ok(())
    }

    fn put_meta(&self, name: &'static str, value: &[u8]) -> Result<(), EngineError> {
        locked(&self.0).meta.insert(name, value.to_vec());
        Ok(())
    }

    fn get_meta(&self, name: &'static str) -> Result<Option<Vec<u8>>, EngineError> {
        Ok(locked(&self.0).meta.get(name).cloned())
    }

    fn sync(&self) -> Result<(), EngineError> {
        Ok(())
    }

    fn sync_blocks(&self) -> bool {
        false
    }
}

/// A state in memory.
#[derive(Debug, Clone, Default)]
pub struct MemoryState(Arc<Mutex<BTreeMap<Vec<u8>, Vec<u8>>>>);

impl StateEngine for MemoryState {
    fn apply(&self, writes: &[Write]) -> Result<(), EngineError> {
        let mut rows = locked(&self.0);
        for (key, value) in writes {
            match value {
                Some(value) => rows.insert(key.clone(), value.clone()),
                None => rows.remove(key),
            };
        }
        Ok(())
    }

    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, EngineError> {
        Ok(locked(&self.0).get(key).cloned())
    }

    fn scan(&self, visit: &mut Visit<'_>) -> Result<(), EngineError> {
        locked(&self.0).iter().try_for_each(|(key, value)| visit(key, value))
    }

    fn clear_but(&self, mark: &[u8]) -> Result<(), EngineError> {
        locked(&self.0).retain(|key, _| key == mark);
        Ok(())
    }

    fn sync(&self) -> Result<(), EngineError> {
        Ok(())
    }

    fn sync_blocks(&self) -> bool {
        false
    }
}
