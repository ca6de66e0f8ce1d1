//! What a cell keeps, on a simulated disk: atomic batches, and a crash that loses what was not synced.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use cell_agent::engine::{Applied, Batch, Engine, EngineError, Entry};

use super::STAYING;
use crate::chance::Chance;
use crate::disk::{Contents, File, PowerCut, Syncs};
use crate::flaw::Flaw;

/// A lying disk is honest while the fleet is made.
const HONEST_SYNCS: u32 = 60;
/// A losing disk drops one of so many documents.
const ONE_LOST_OF: u32 = 7;

#[derive(Debug, Clone, Default)]
pub(super) struct Rows(BTreeMap<Vec<u8>, Vec<u8>>);

/// The changes of one batch.
type Changes = Vec<(Vec<u8>, Option<Vec<u8>>)>;

impl Contents for Rows {
    type Write = Changes;

    fn take(&mut self, write: &Changes) {
        for (key, value) in write {
            match value {
                Some(value) => self.0.insert(key.clone(), value.clone()),
                None => self.0.remove(key),
            };
        }
    }

    /// A batch of a cell's engine is made whole or not at all.
    fn take_torn(&mut self, _write: &Changes, _chance: &mut Chance) {}
}

/// The store of one cell; it outlives the cell's crashes. Clones are the same store.
#[derive(Debug, Clone)]
pub(super) struct CellStore {
    file: File<Rows>,
    /// Of a losing disk: how many documents it was to write.
    losing: Option<Arc<AtomicU32>>,
}

/// Whether this is the row of a document of the tenant that stays where it is: 'r', the tenant, 0, its uid, the row's key.
fn is_document_that_stays((key, value): &(Vec<u8>, Option<Vec<u8>>)) -> bool {
    let of_tenant = key.strip_prefix(b"r").and_then(|key| key.strip_prefix(STAYING.as_bytes()));
    value.is_some()
        && of_tenant.and_then(|key| key.get(1 + size_of::<u64>()..)).is_some_and(|key| key.starts_with(b"d/"))
}

impl CellStore {
    pub(super) fn new(seed: u64, cell: &str, flaw: Option<Flaw>) -> Self {
        let syncs = if flaw == Some(Flaw::LyingDisk) { Syncs::Lied(HONEST_SYNCS) } else { Syncs::Done };
        let file = File::new(Chance::of(seed, &format!("store of {cell}")), syncs);
        Self { file, losing: (flaw == Some(Flaw::LosingDisk)).then(Arc::default) }
    }

    /// The power goes.
    pub(super) fn crash(&self) {
        self.file.layers().crash(PowerCut::All);
    }

    /// What is durable.
    pub(super) fn image(&self) -> Rows {
        self.file.layers().image()
    }

    /// Goes on from an image. The host's tasks must be gone already.
    pub(super) fn put_back(&self, image: &Rows) {
        self.file.layers().put_back(image);
    }
}

impl Engine for CellStore {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, EngineError> {
        Ok(self.file.layers().visible().0.get(key).cloned())
    }

    fn scan(&self, from: &[u8], until: &[u8], limit: usize) -> Result<Vec<Entry>, EngineError> {
        if from >= until {
            return Ok(Vec::new());
        }
        let layers = self.file.layers();
        let range = layers.visible().0.range::<[u8], _>((Bound::Included(from), Bound::Excluded(until)));
        Ok(range.take(limit).map(|(key, value)| (key.clone(), value.clone())).collect())
    }

    fn apply(&self, batch: &Batch) -> Result<Applied, EngineError> {
        batch.check_lengths()?;
        let mut layers = self.file.layers();
        let rows = &layers.visible().0;
        if batch.expectations().iter().any(|(key, value)| rows.get(key) != value.as_ref()) {
            return Ok(Applied::No);
        }
        let mut changes = batch.changes().to_vec();
        if let Some(written) = &self.losing {
            changes.retain(|change| {
                !is_document_that_stays(change)
                    || !written.fetch_add(1, Ordering::Relaxed).is_multiple_of(ONE_LOST_OF)
            });
        }
        layers.write(changes);
        Ok(Applied::Yes)
    }

    fn sync(&self) -> Result<(), EngineError> {
        self.file.layers().sync();
        Ok(())
    }

    fn sync_blocks(&self) -> bool {
        false
    }

    fn sync_delay(&self) -> Duration {
        self.file.layers().delay()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(store: &CellStore, key: &str) {
        let mut batch = Batch::default();
        batch.put(key.into(), b"v".to_vec());
        assert_eq!(store.apply(&batch).unwrap(), Applied::Yes);
    }

    #[test]
    fn a_crash_keeps_whole_batches_up_to_some_point_and_all_that_were_synced() {
        for seed in 0..32 {
            let store = CellStore::new(seed, "a", None);
            put(&store, "0");
            store.sync().unwrap();
            (1..9).for_each(|number| put(&store, &number.to_string()));
            store.crash();
            let kept = store.scan(b"0", b"9", 100).unwrap();
            let expected: Vec<Vec<u8>> = (0..kept.len()).map(|number| number.to_string().into_bytes()).collect();
            assert_eq!(kept.into_iter().map(|(key, _)| key).collect::<Vec<_>>(), expected);
            assert!(!expected.is_empty());
        }
    }

    #[test]
    fn a_store_that_goes_on_from_an_image_holds_what_was_durable_when_it_was_taken() {
        let store = CellStore::new(1, "a", None);
        put(&store, "0");
        store.sync().unwrap();
        put(&store, "1");
        let image = store.image();
        put(&store, "2");
        store.sync().unwrap();
        store.put_back(&image);
        assert_eq!(store.scan(b"0", b"9", 10).unwrap(), [(b"0".to_vec(), b"v".to_vec())]);
    }

    #[test]
    fn a_losing_disk_drops_documents_of_the_tenant_that_stays_and_nothing_else() {
        let store = CellStore::new(1, "a", Some(Flaw::LosingDisk));
        let keys = |tenant: &str, kind: &str| format!("r{tenant}\0{}{kind}/x", "\u{1}".repeat(8));
        for key in [keys("staying", "d"), keys("staying", "c"), keys("moving", "d"), "gstaying".into()] {
            put(&store, &key);
        }
        let kept = store.scan(b"a", b"z", 10).unwrap();
        assert_eq!(kept.len(), 3, "{kept:?}");
        assert_eq!(store.get(keys("staying", "d").as_bytes()).unwrap(), None);
    }

    #[test]
    fn a_batch_whose_expectation_fails_changes_nothing() {
        let store = CellStore::new(1, "a", None);
        put(&store, "0");
        let mut batch = Batch::default();
        batch.expect(b"0".to_vec(), None);
        batch.put(b"1".to_vec(), b"v".to_vec());
        assert_eq!(store.apply(&batch).unwrap(), Applied::No);
        assert_eq!(store.get(b"1").unwrap(), None);
    }
}
