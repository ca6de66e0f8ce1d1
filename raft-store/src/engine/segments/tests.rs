//! Damage, cuts and reuse. What every engine does is in [`crate::engine`]'s own tests.

use std::collections::BTreeMap;

use proptest::prelude::*;
use tempfile::TempDir;

use super::*;
use crate::engine::MemoryLog;

const SMALL: u32 = 512;

fn row(index: u64) -> (u64, Vec<u8>) {
    (index, format!("row {index} ").repeat(5).into_bytes())
}

fn rows(log: &dyn LogEngine) -> BTreeMap<u64, Vec<u8>> {
    log.range(0, u64::MAX, usize::MAX).unwrap().into_iter().collect()
}

fn copy(from: &Path) -> TempDir {
    let copy = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), copy.path().join(entry.file_name())).unwrap();
    }
    copy
}

/// Waits until nothing but the caller changes the directory.
fn settle(log: &SegmentLog) {
    let mut state = log.state();
    state.wait_for_spare().unwrap();
    state.removing.take().into_iter().for_each(|removing| joined(removing).unwrap());
}

fn files(directory: &Path) -> Vec<PathBuf> {
    file::list(directory).unwrap().into_iter().map(|(_, path)| path).collect()
}

/// A log over several segments, all of it synced.
fn synced(directory: &Path) -> SegmentLog {
    let log = SegmentLog::open_sized(directory, SMALL).unwrap();
    log.put_meta("vote", b"term 3").unwrap();
    for index in 1..=20 {
        log.append(&[row(index)]).unwrap();
        log.sync().unwrap();
    }
    settle(&log);
    log
}

#[test]
fn a_flipped_byte_is_named_with_its_segment_and_offset_and_never_served() {
    let directory = tempfile::tempdir().unwrap();
    let log = synced(directory.path());
    let (expected, mut refused, mut tried) = (rows(&log), 0, 0);
    assert!(files(directory.path()).len() > 3, "it has several segments");
    for path in files(directory.path()) {
        let original = fs::read(&path).unwrap();
        let used = original.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
        for position in (0..used).step_by(13) {
            let case = copy(directory.path());
            let mut bytes = original.clone();
            bytes[position] ^= 1 << (position % 8);
            fs::write(case.path().join(path.file_name().unwrap()), bytes).unwrap();
            tried += 1;
            match SegmentLog::open_sized(case.path(), SMALL) {
                // One of the zeroes that fill a record up.
                Ok(log) => assert_eq!(rows(&log), expected, "{} at {position}", path.display()),
                Err(error) => {
                    refused += 1;
                    let text = error.to_string();
                    assert!(text.contains("log segment 0") && text.contains(" at offset "), "{text}");
                    assert!(text.contains("the log was synced up to"), "{text}");
                }
            }
        }
    }
    assert!(refused * 10 > tried * 8, "{refused} of {tried}");
}

#[test]
fn a_byte_that_rots_while_the_log_is_open_is_not_served() {
    let directory = tempfile::tempdir().unwrap();
    let log = synced(directory.path());
    let path = files(directory.path()).remove(0);
    let mut bytes = fs::read(&path).unwrap();
    let at = bytes.windows(5).position(|window| window == b"row 2").unwrap();
    bytes[at] ^= 1;
    fs::write(&path, bytes).unwrap();
    let refused = log.range(2, 3, usize::MAX).expect_err("it has rotted").to_string();
    assert!(refused.starts_with("log segment 0000000000000001.log at offset "), "{refused}");
    assert!(refused.contains("entry 2"), "{refused}");
}

#[test]
fn an_end_that_was_torn_off_is_cut_and_nothing_of_it_comes_back() {
    let directory = tempfile::tempdir().unwrap();
    let log = synced(directory.path());
    let before: Vec<Vec<u8>> = files(directory.path()).iter().map(|path| fs::read(path).unwrap()).collect();
    let kept = rows(&log);
    (21..=26).for_each(|index| log.append(&[row(index)]).unwrap());
    let all = rows(&log);
    settle(&log);
    // A power cut leaves any of the sectors that were not synced: here each one in turn is what it was before.
    let names: Vec<PathBuf> = files(directory.path());
    for (number, path) in names.iter().enumerate() {
        let bytes = fs::read(path).unwrap();
        let old = before.get(number).cloned().unwrap_or_else(|| vec![0; bytes.len()]);
        for sector in (0..bytes.len()).step_by(64) {
            let case = copy(directory.path());
            let mut torn = bytes.clone();
            torn[sector..sector + 64].copy_from_slice(&old[sector..sector + 64]);
            fs::write(case.path().join(path.file_name().unwrap()), torn).unwrap();
            let log = SegmentLog::open_sized(case.path(), SMALL).unwrap();
            let found = rows(&log);
            let length = u64::try_from(found.len()).unwrap();
            assert!(found.len() >= kept.len() && found.iter().all(|(index, row)| all[index] == *row));
            assert_eq!(
                found.last_key_value().map(|(index, _)| *index),
                Some(length),
                "a beginning of what was written"
            );
            assert_eq!(log.get_meta("vote").unwrap().as_deref(), Some(&b"term 3"[..]));
            log.append(&[(length + 1, b"another".to_vec())]).unwrap();
            log.sync().unwrap();
            drop(log);
            let again = rows(&SegmentLog::open_sized(case.path(), SMALL).unwrap());
            assert_eq!(again.len(), found.len() + 1, "what was cut off stays away");
            assert_eq!(again[&(length + 1)], b"another");
        }
    }
}

#[test]
fn a_log_that_has_lost_a_segment_or_its_end_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let log = synced(directory.path());
    let last = log.state().end.segment;
    drop(log);
    // That the first is there Raft's log checks: it knows what was purged.
    for number in 2..=last {
        let case = copy(directory.path());
        fs::remove_file(case.path().join(file::name(number))).unwrap();
        let refused = SegmentLog::open_sized(case.path(), SMALL).expect_err("a segment is gone").to_string();
        assert!(refused.contains(&format!("log segment {} at offset", file::name(number - 1))), "{refused}");
    }
    let case = copy(directory.path());
    files(case.path()).iter().for_each(|path| fs::remove_file(path).unwrap());
    let refused = SegmentLog::open_sized(case.path(), SMALL).expect_err("all are gone").to_string();
    assert!(refused.contains("there is no segment"), "{refused}");
}

#[test]
fn a_log_that_is_purged_stays_small_and_uses_its_files_again() {
    let directory = tempfile::tempdir().unwrap();
    let log = SegmentLog::open_sized(directory.path(), SMALL).unwrap();
    log.put_meta("identity", b"me").unwrap();
    for index in 1..=2_000 {
        log.append(&[row(index)]).unwrap();
        if index % 20 == 0 {
            log.purge_to(index - 10).unwrap();
            log.sync().unwrap();
        }
    }
    assert!(log.state().end.segment > 200, "it has gone through many segments");
    // One is used again, and syncs remove the others: how many of them that takes is up to the thread that removes.
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
    let count = loop {
        settle(&log);
        log.sync().unwrap();
        settle(&log);
        let count = files(directory.path()).len();
        if count <= 12 || std::time::Instant::now() > deadline {
            break count;
        }
    };
    assert!(count <= 12, "{count} files for ten rows");
    drop(log);
    let log = SegmentLog::open_sized(directory.path(), SMALL).unwrap();
    assert_eq!(rows(&log).into_keys().collect::<Vec<_>>(), (1_991..=2_000).collect::<Vec<_>>());
    assert_eq!(log.get_meta("identity").unwrap().as_deref(), Some(&b"me"[..]));
}

#[test]
fn a_release_that_was_cut_off_anywhere_is_finished_after_the_next_start() {
    let directory = tempfile::tempdir().unwrap();
    let log = synced(directory.path());
    (21..=40).for_each(|index| log.append(&[row(index)]).unwrap());
    log.sync().unwrap();
    settle(&log);
    log.purge_to(35).unwrap();
    let kept = rows(&log);
    let unwanted = log.state().unwanted();
    let next = log.state().end.segment + 1;
    assert!(kept.len() == 5 && unwanted.len() > 2, "{unwanted:?}");
    let begun = unwanted.len();
    for (gone, used_again) in (0..=begun).map(|gone| (gone, false)).chain((0..begun).map(|gone| (gone, true))) {
        let case = copy(directory.path());
        let at = |number: u64| case.path().join(file::name(number));
        unwanted[..gone].iter().for_each(|number| fs::remove_file(at(*number)).unwrap());
        if used_again {
            fs::rename(at(unwanted[gone]), at(next)).unwrap();
        }
        let log = SegmentLog::open_sized(case.path(), SMALL).unwrap();
        for _ in 0..2 {
            settle(&log);
            log.sync().unwrap();
        }
        settle(&log);
        assert_eq!(rows(&log), kept, "{gone} were gone, the next used again: {used_again}");
        assert!(unwanted.iter().all(|number| !at(*number).exists()), "{:?}", files(case.path()));
        log.append(&[row(41)]).unwrap();
        log.sync().unwrap();
        drop(log);
        assert_eq!(rows(&SegmentLog::open_sized(case.path(), SMALL).unwrap()).len(), 6);
    }
}

#[test]
fn a_segment_that_cannot_be_released_stops_the_log_before_there_is_a_gap() {
    let directory = tempfile::tempdir().unwrap();
    let log = synced(directory.path());
    log.purge_to(15).unwrap();
    let unwanted = log.state().unwanted();
    fs::remove_file(directory.path().join(file::name(unwanted[0]))).unwrap();
    fs::create_dir(directory.path().join(file::name(unwanted[0]))).unwrap();
    log.sync().unwrap();
    let failed = loop {
        let begun = |state: &State| {
            matches!(&state.spare, Spare::Coming(making) if !making.is_finished())
                || state.removing.as_ref().is_some_and(|removing| !removing.is_finished())
        };
        while begun(&log.state()) {
            std::thread::yield_now();
        }
        if let Err(failed) = log.sync() {
            break failed.to_string();
        }
    };
    assert!(failed.contains("a segment of the log failed"), "{failed}");
    assert_eq!(log.sync().expect_err("it stays so").to_string(), failed);
    assert!(unwanted[1..].iter().all(|number| directory.path().join(file::name(*number)).exists()));
}

#[test]
fn a_row_that_is_longer_than_a_segment_gets_one_of_its_own() {
    let directory = tempfile::tempdir().unwrap();
    let log = SegmentLog::open_sized(directory.path(), SMALL).unwrap();
    log.append(&[row(1), (2, vec![7; 10_000]), row(3)]).unwrap();
    log.sync().unwrap();
    drop(log);
    let log = SegmentLog::open_sized(directory.path(), SMALL).unwrap();
    assert_eq!(rows(&log), [row(1), (2, vec![7; 10_000]), row(3)].into());
}

#[test]
fn only_one_opens_a_log() {
    let directory = tempfile::tempdir().unwrap();
    let _log = SegmentLog::open(directory.path()).unwrap();
    let refused = SegmentLog::open(directory.path()).expect_err("it is open").to_string();
    assert!(refused.contains(LOCKED), "{refused}");
}

#[derive(Debug, Clone)]
enum Step {
    Append(u64, usize),
    Truncate(u64),
    Purge(u64),
    Value(u8),
    Sync,
    Reopen,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (1_u64..6, 0_usize..300).prop_map(|(count, bytes)| Step::Append(count, bytes)),
        1 => (0_u64..8).prop_map(Step::Truncate),
        2 => (0_u64..20).prop_map(Step::Purge),
        2 => any::<u8>().prop_map(Step::Value),
        3 => Just(Step::Sync),
        1 => Just(Step::Reopen),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn it_holds_what_the_engine_in_memory_holds(steps in prop::collection::vec(step(), 1..60)) {
        let directory = tempfile::tempdir().unwrap();
        let (memory, mut log) = (MemoryLog::default(), SegmentLog::open_sized(directory.path(), SMALL).unwrap());
        let mut next = 1;
        for step in steps {
            match step {
                Step::Append(count, bytes) => {
                    let rows: Vec<_> = (next..next + count).map(|index| (index, vec![7; bytes])).collect();
                    [&memory as &dyn LogEngine, &log].iter().for_each(|log| log.append(&rows).unwrap());
                    next += count;
                }
                Step::Truncate(back) => {
                    next = next.saturating_sub(back).max(1);
                    [&memory as &dyn LogEngine, &log].iter().for_each(|log| log.truncate_from(next).unwrap());
                }
                Step::Purge(back) => {
                    let to = next.saturating_sub(back + 1);
                    [&memory as &dyn LogEngine, &log].iter().for_each(|log| log.purge_to(to).unwrap());
                }
                Step::Value(value) => {
                    [&memory as &dyn LogEngine, &log].iter().for_each(|log| log.put_meta("vote", &[value]).unwrap());
                }
                Step::Sync => log.sync().unwrap(),
                Step::Reopen => {
                    drop(log);
                    log = SegmentLog::open_sized(directory.path(), SMALL).unwrap();
                }
            }
            prop_assert_eq!(rows(&log), rows(&memory));
            prop_assert_eq!(log.last().unwrap(), memory.last().unwrap());
            prop_assert_eq!(log.get_meta("vote").unwrap(), memory.get_meta("vote").unwrap());
        }
    }
}
