//! A state whose batches reach its engine together.
//!
//! The state may lag behind what was applied: what is missing is applied again from the log, which goes no further than
//! the last [`StateEngine::sync`]. A batch of sled costs five system calls and two wake-ups of its threads, however small
//! it is; so batches are gathered, and go on as one, which is as atomic as each of them.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::{StateEngine, Visit, Write};
use crate::error::EngineError;

/// Batches that are gathered: a start applies no more entries again than these and what the engine had not synced.
const BATCHES_MAX: usize = 256;
/// Bytes that are gathered: writing them must not keep the next entry waiting for long.
const BYTES_MAX: usize = 128 * 1024;

#[derive(Debug, Default)]
struct Gathered {
    /// The last write of each key.
    writes: BTreeMap<Vec<u8>, Option<Vec<u8>>>,
    batches: usize,
    bytes: usize,
}

/// An engine with a little memory before it.
#[derive(Debug)]
pub(crate) struct LazyState<E> {
    inner: E,
    gathered: Mutex<Gathered>,
}

impl<E: StateEngine> LazyState<E> {
    pub(crate) fn new(inner: E) -> Self {
        Self { inner, gathered: Mutex::default() }
    }

    fn gathered(&self) -> MutexGuard<'_, Gathered> {
        self.gathered.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Hands on what was gathered.
    fn hand_on(&self, gathered: &mut Gathered) -> Result<(), EngineError> {
        if gathered.writes.is_empty() {
            return Ok(());
        }
        let writes: Vec<Write> = std::mem::take(gathered).writes.into_iter().collect();
        self.inner.apply(&writes)
    }
}

impl<E: StateEngine> StateEngine for LazyState<E> {
    fn apply(&self, writes: &[Write]) -> Result<(), EngineError> {
        let mut gathered = self.gathered();
        for (key, value) in writes {
            gathered.bytes += key.len() + value.as_ref().map_or(0, Vec::len);
            gathered.writes.insert(key.clone(), value.clone());
        }
        gathered.batches += 1;
        if gathered.batches < BATCHES_MAX && gathered.bytes < BYTES_MAX {
            return Ok(());
        }
        self.hand_on(&mut gathered)
    }

    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, EngineError> {
        match self.gathered().writes.get(key) {
            Some(value) => Ok(value.clone()),
            None => self.inner.get(key),
        }
    }

    fn scan(&self, visit: &mut Visit<'_>) -> Result<(), EngineError> {
        self.hand_on(&mut self.gathered())?;
        self.inner.scan(visit)
    }

    fn clear_but(&self, mark: &[u8]) -> Result<(), EngineError> {
        // The mark may be among what was gathered.
        self.hand_on(&mut self.gathered())?;
        self.inner.clear_but(mark)
    }

    fn sync(&self) -> Result<(), EngineError> {
        self.hand_on(&mut self.gathered())?;
        self.inner.sync()
    }

    fn sync_blocks(&self) -> bool {
        self.inner.sync_blocks()
    }

    fn sync_delay(&self) -> std::time::Duration {
        self.inner.sync_delay()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::MemoryState;

    fn put(key: &str, value: usize) -> Write {
        (key.as_bytes().to_vec(), Some(value.to_be_bytes().to_vec()))
    }

    #[test]
    fn batches_go_on_together_after_some_and_with_a_sync_and_never_by_halves() {
        let inner = MemoryState::default();
        let lazy = LazyState::new(inner.clone());
        let apply = |value| lazy.apply(&[put("a", value), put("b", value)]).unwrap();
        let both = || {
            let of =
                |key: &[u8]| inner.get(key).unwrap().map(|value| usize::from_be_bytes(value.try_into().unwrap()));
            assert_eq!(of(b"a"), of(b"b"));
            of(b"a")
        };
        for value in 1..BATCHES_MAX {
            apply(value);
            assert_eq!(both(), None, "they wait");
        }
        assert_eq!(lazy.get(b"a").unwrap(), Some((BATCHES_MAX - 1).to_be_bytes().to_vec()), "they are visible");
        apply(BATCHES_MAX);
        assert_eq!(both(), Some(BATCHES_MAX));
        apply(7);
        lazy.sync().unwrap();
        assert_eq!(both(), Some(7));
        lazy.apply(&[(b"a".to_vec(), None), ("b".into(), Some(vec![0; BYTES_MAX]))]).unwrap();
        assert_eq!(inner.get(b"a").unwrap(), None, "so many bytes do not wait");
    }
}
