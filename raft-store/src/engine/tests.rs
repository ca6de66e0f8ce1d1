//! Every engine passes the same tests.

use super::*;

fn with_logs(test: impl Fn(&dyn LogEngine)) {
    let directory = tempfile::tempdir().unwrap();
    test(&MemoryLog::default());
    test(&SledLog::open(directory.path().join("log")).unwrap());
    test(&SegmentLog::open(directory.path().join("segments")).unwrap());
    // So small that nearly every row begins another segment.
    test(&SegmentLog::open_sized(directory.path().join("small"), 512).unwrap());
}

fn with_states(test: impl Fn(&dyn StateEngine)) {
    let directory = tempfile::tempdir().unwrap();
    test(&MemoryState::default());
    test(&SledState::open(directory.path().join("sm")).unwrap());
    test(&lazy::LazyState::new(SledState::open(directory.path().join("lazy")).unwrap()).unwrap());
}

fn row(index: u64) -> (u64, Vec<u8>) {
    (index, format!("row {index}").into_bytes())
}

fn indices(log: &dyn LogEngine) -> Vec<u64> {
    log.range(0, u64::MAX, usize::MAX).unwrap().into_iter().map(|(index, _)| index).collect()
}

#[test]
fn rows_are_read_back_in_order_and_last_is_the_highest() {
    with_logs(|log| {
        assert_eq!(log.last().unwrap(), None);
        log.append(&(1..=300).map(row).collect::<Vec<_>>()).unwrap();
        assert_eq!(indices(log), (1..=300).collect::<Vec<_>>());
        assert_eq!(log.last().unwrap(), Some(row(300)));
        assert_eq!(log.range(255, 258, usize::MAX).unwrap(), vec![row(255), row(256), row(257)]);
        assert_eq!(log.range(5, 5, usize::MAX).unwrap(), vec![]);
    });
}

#[test]
fn a_read_stops_before_its_limit_but_gives_at_least_one_row() {
    with_logs(|log| {
        log.append(&[(1, vec![1; 100]), (2, vec![2; 100]), (3, vec![3; 100])]).unwrap();
        let count = |bytes| log.range(1, 4, bytes).unwrap().len();
        assert_eq!((count(0), count(100), count(199), count(200), count(1_000)), (1, 1, 1, 2, 3));
    });
}

#[test]
fn a_value_larger_than_a_piece_comes_back_whole() {
    with_logs(|log| {
        for (index, length) in [(1, 65_535), (2, 65_536), (3, 65_537), (4, 1_000_000), (5, 0)] {
            log.append(&[(index, vec![7; length])]).unwrap();
            assert_eq!(log.range(index, index + 1, usize::MAX).unwrap(), vec![(index, vec![7; length])]);
            assert_eq!(log.last().unwrap(), Some((index, vec![7; length])));
        }
        assert_eq!(indices(log), vec![1, 2, 3, 4, 5]);
    });
}

#[test]
fn truncating_and_purging_remove_exactly_what_they_say() {
    with_logs(|log| {
        log.append(&(1..=2_500).map(row).collect::<Vec<_>>()).unwrap();
        log.append(&[(2_501, vec![9; 200_000])]).unwrap();
        log.truncate_from(2_000).unwrap();
        assert_eq!(log.last().unwrap(), Some(row(1_999)));
        log.purge_to(1_500).unwrap();
        assert_eq!(indices(log), (1_501..=1_999).collect::<Vec<_>>());
        log.truncate_from(0).unwrap();
        assert_eq!(log.last().unwrap(), None);
        log.append(&[row(7)]).unwrap();
        log.purge_to(u64::MAX).unwrap();
        assert_eq!(indices(log), Vec::<u64>::new());
    });
}

#[test]
fn named_values_are_replaced_and_survive_a_purge() {
    with_logs(|log| {
        assert_eq!(log.get_meta("a").unwrap(), None);
        log.put_meta("a", b"1").unwrap();
        log.put_meta("a", b"2").unwrap();
        log.append(&[row(1)]).unwrap();
        log.purge_to(1).unwrap();
        assert_eq!(log.get_meta("a").unwrap().as_deref(), Some(&b"2"[..]));
        log.sync().unwrap();
    });
}

#[test]
fn what_was_synced_is_in_a_copy_of_the_files_taken_while_they_are_open() {
    let directory = tempfile::tempdir().unwrap();
    let (original, copy) = (directory.path().join("log"), directory.path().join("copy"));
    let log = SledLog::open(&original).unwrap();
    log.append(&(1..=1_000).map(row).collect::<Vec<_>>()).unwrap();
    log.put_meta("a", b"1").unwrap();
    log.sync().unwrap();
    std::fs::create_dir(&copy).unwrap();
    for entry in std::fs::read_dir(&original).unwrap() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_file() {
            std::fs::copy(entry.path(), copy.join(entry.file_name())).unwrap();
        }
    }
    let copied = SledLog::open(&copy).unwrap();
    assert_eq!(indices(&copied), (1..=1_000).collect::<Vec<_>>());
    assert_eq!(copied.get_meta("a").unwrap().as_deref(), Some(&b"1"[..]));
}

#[test]
fn a_log_that_has_lost_its_end_is_refused_and_one_that_was_truncated_is_not() {
    let directory = tempfile::tempdir().unwrap();
    let (path, old) = (directory.path().join("log"), directory.path().join("old"));
    let open = || SledLog::open(&path);
    let log = open().unwrap();
    log.append(&(1..=10).map(row).collect::<Vec<_>>()).unwrap();
    log.sync().unwrap();
    drop(log);
    std::fs::copy(path.join("db"), &old).unwrap();
    let log = open().unwrap();
    log.append(&(11..=20).map(row).collect::<Vec<_>>()).unwrap();
    log.sync().unwrap();
    drop(log);
    let whole = std::fs::read(path.join("db")).unwrap();
    std::fs::copy(&old, path.join("db")).unwrap();
    let refused = open().expect_err("entries 11 to 20 are gone");
    assert!(refused.to_string().contains("entries 11 to 20 were synced and are gone"), "{refused}");

    std::fs::write(path.join("db"), whole).unwrap();
    let log = open().unwrap();
    log.truncate_from(5).unwrap();
    log.sync().unwrap();
    drop(log);
    let log = open().unwrap();
    assert_eq!(log.last().unwrap(), Some(row(4)));
    log.purge_to(4).unwrap();
    drop(log);
    assert_eq!(open().unwrap().last().unwrap(), None);
}

#[test]
fn a_log_that_has_lost_a_vote_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let (path, old) = (directory.path().join("log"), directory.path().join("old"));
    let log = SledLog::open(&path).unwrap();
    log.put_meta("vote", b"1").unwrap();
    log.sync().unwrap();
    drop(log);
    std::fs::copy(path.join("db"), &old).unwrap();
    let log = SledLog::open(&path).unwrap();
    log.put_meta("vote", b"2").unwrap();
    log.sync().unwrap();
    drop(log);
    std::fs::copy(&old, path.join("db")).unwrap();
    let refused = SledLog::open(&path).expect_err("vote 2 is gone");
    assert!(refused.to_string().contains("the newest vote or claim were synced and are gone"), "{refused}");
}

#[test]
fn a_batch_of_the_state_replaces_removes_and_shortens() {
    with_states(|state| {
        let put = |key: &str, value: Vec<u8>| (key.as_bytes().to_vec(), Some(value));
        state.apply(&[put("t/a", vec![1; 300_000]), put("t/ab", vec![2; 10]), put("t/b", vec![3; 10])]).unwrap();
        assert_eq!(state.get(b"t/a").unwrap(), Some(vec![1; 300_000]));
        state.apply(&[put("t/a", vec![4; 70_000]), (b"t/b".to_vec(), None), (b"t/none".to_vec(), None)]).unwrap();
        let mut found = Vec::new();
        state
            .scan(&mut |key, value| {
                found.push((String::from_utf8(key.to_vec()).unwrap(), value.to_vec()));
                Ok(())
            })
            .unwrap();
        assert_eq!(found, vec![("t/a".to_owned(), vec![4; 70_000]), ("t/ab".to_owned(), vec![2; 10])]);
        assert_eq!(state.get(b"t/b").unwrap(), None);
        state.clear_but(b"t/ab").unwrap();
        assert_eq!(state.get(b"t/a").unwrap(), None);
        assert_eq!(state.get(b"t/ab").unwrap(), Some(vec![2; 10]), "the mark stays");
        state.sync().unwrap();
    });
}

#[test]
fn a_missing_piece_is_named() {
    let mut assembly = rows::Assembly::default();
    assembly.take(&rows::piece_key(b"k", 0), b"x").unwrap();
    let refused = assembly.take(&rows::piece_key(b"k", 2), b"z").expect_err("piece 1 is missing");
    assert!(refused.to_string().contains("piece 1 is missing"), "{refused}");
}
