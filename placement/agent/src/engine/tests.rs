//! Both engines keep the same promises.

use super::*;

fn engines() -> (tempfile::TempDir, Vec<Box<dyn Engine>>) {
    let directory = tempfile::tempdir().unwrap();
    let sled = SledEngine::open(directory.path(), 4 << 20).unwrap();
    (directory, vec![Box::new(sled), Box::new(MemoryEngine::default())])
}

fn put(engine: &dyn Engine, key: &[u8], value: &[u8]) {
    let mut batch = Batch::default();
    batch.put(key.to_vec(), value.to_vec());
    assert_eq!(engine.apply(&batch).unwrap(), Applied::Yes);
}

#[test]
fn a_batch_whose_expectation_fails_changes_nothing() {
    let (_directory, engines) = engines();
    for engine in engines {
        put(&*engine, b"epoch", b"2");
        for wrong in [Some(b"1".to_vec()), None] {
            let mut batch = Batch::default();
            batch.put(b"row".to_vec(), b"late".to_vec());
            batch.delete(b"epoch".to_vec());
            batch.expect(b"epoch".to_vec(), wrong);
            assert_eq!(engine.apply(&batch).unwrap(), Applied::No);
        }
        assert_eq!(engine.get(b"row").unwrap(), None);
        assert_eq!(engine.get(b"epoch").unwrap(), Some(b"2".to_vec()));
        let mut batch = Batch::default();
        batch.put(b"row".to_vec(), b"in time".to_vec());
        batch.expect(b"epoch".to_vec(), Some(b"2".to_vec()));
        batch.expect(b"other".to_vec(), None);
        assert_eq!(engine.apply(&batch).unwrap(), Applied::Yes);
        assert_eq!(engine.get(b"row").unwrap(), Some(b"in time".to_vec()));
    }
}

#[test]
fn a_scan_is_ordered_bounded_and_half_open() {
    let (_directory, engines) = engines();
    for engine in engines {
        for key in [b"b", b"d", b"a", b"c"] {
            put(&*engine, key, key);
        }
        let keys = |from: &[u8], until: &[u8], limit| {
            engine.scan(from, until, limit).unwrap().into_iter().flat_map(|(key, _)| key).collect::<Vec<u8>>()
        };
        assert_eq!(keys(b"a", b"d", 10), b"abc");
        assert_eq!(keys(b"a\0", b"z", 2), b"bc");
        assert_eq!(keys(b"d", b"a", 10), b"");
        assert_eq!(keys(b"b", b"b", 10), b"");
    }
}

#[test]
fn a_value_that_would_never_be_synced_is_refused() {
    let (_directory, engines) = engines();
    for engine in engines {
        let mut batch = Batch::default();
        batch.put(b"long".to_vec(), vec![0; VALUE_BYTES_MAX + 1]);
        assert!(matches!(engine.apply(&batch), Err(EngineError::ValueTooLong { .. })));
    }
}

#[test]
fn what_was_synced_is_there_when_the_store_is_opened_again() {
    let directory = tempfile::tempdir().unwrap();
    {
        let engine = SledEngine::open(directory.path(), 4 << 20).unwrap();
        put(&engine, b"k", b"v");
        engine.sync().unwrap();
    }
    let engine = SledEngine::open(directory.path(), 4 << 20).unwrap();
    assert_eq!(engine.get(b"k").unwrap(), Some(b"v".to_vec()));
}
