//! What is in the files when the log is opened, and where it ends.
//!
//! Records are read in order up to the first that is not whole. What lies behind was never acknowledged if nobody says
//! that it was synced: it is cut off, and overwritten, so that no byte of it is ever taken for a record again. If somebody
//! says so (the note beside the log, or a whole record further on), bytes have rotted, and the log is refused with
//! segment and offset.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use super::file::{self, Segment, failed};
use super::record::{self, Kind, Record};
use super::{Place, Position};
use crate::engine::sync_directory;
use crate::error::EngineError;

/// What the records say, in their order.
#[derive(Debug, Default)]
pub(super) struct Contents {
    pub rows: BTreeMap<u64, Place>,
    pub meta: BTreeMap<String, Vec<u8>>,
    /// Rows of each segment that are still wanted; every segment has its number here.
    pub live: BTreeMap<u64, u64>,
}

impl Contents {
    fn forget(&mut self, place: Place) {
        if let Some(live) = self.live.get_mut(&place.segment) {
            *live -= 1;
        }
    }

    pub(super) fn put(&mut self, index: u64, place: Place) {
        *self.live.entry(place.segment).or_default() += 1;
        if let Some(before) = self.rows.insert(index, place) {
            self.forget(before);
        }
    }

    pub(super) fn truncate_from(&mut self, index: u64) {
        for place in self.rows.split_off(&index).into_values() {
            self.forget(place);
        }
    }

    pub(super) fn purge_to(&mut self, index: u64) {
        let kept = index.checked_add(1).map(|next| self.rows.split_off(&next)).unwrap_or_default();
        for place in std::mem::replace(&mut self.rows, kept).into_values() {
            self.forget(place);
        }
    }

    fn take(&mut self, record: &Record<'_>, place: Place) -> Result<(), &'static str> {
        match record.kind {
            Kind::Begin => {
                self.live.entry(place.segment).or_default();
            }
            Kind::Row => self.put(record.index, place),
            Kind::Truncate => self.truncate_from(record.index),
            Kind::Purge => self.purge_to(record.index),
            Kind::Meta => {
                let (name, value) = record::meta_of(record.payload).ok_or("the named value there has no name")?;
                self.meta.insert(name, value);
            }
        }
        Ok(())
    }
}

/// An opened log.
#[derive(Debug)]
pub(super) struct Recovered {
    pub contents: Contents,
    pub segments: BTreeMap<u64, Segment>,
    pub end: Position,
}

/// Where reading stopped, and why.
struct Stop {
    end: Position,
    why: &'static str,
}

/// Reads the log in `directory`; none where there is none. `noted` is how far it was synced, as far as is known.
pub(super) fn recover(directory: &Path, noted: Position) -> Result<Option<Recovered>, EngineError> {
    let files = file::tidy(directory).and_then(|()| file::list(directory));
    let files = files.map_err(failed("listing the segments of the log"))?;
    let first = files.first().map(|(number, _)| *number);
    let (mut contents, mut segments) = (Contents::default(), BTreeMap::new());
    let mut stop: Option<Stop> = None;
    let mut claimed = Some(noted).filter(|noted| *noted > Position::default());
    let mut left = Vec::new();
    let mut ended = false;
    for (number, path) in files {
        let bytes = fs::read(&path).map_err(failed("reading the log"))?;
        let begin = record::read(&bytes, number, 0).ok().filter(|first| first.kind == Kind::Begin);
        let follows = begin.is_some_and(|begin| follows(&begin, number, stop.as_ref()));
        if ended || !follows {
            // The log has ended before: what this file says counts only as a witness.
            ended = true;
            claimed = claimed.max(record::claimed(&bytes, number, 0));
            left.push(path);
            continue;
        }
        let here = replay(&bytes, number, &mut contents)?;
        claimed = claimed.max(record::claimed(&bytes, number, offset(here.end)));
        segments.insert(number, Segment::open(&path, number)?);
        stop = Some(here);
    }
    if let Some(claimed) = claimed.filter(|claimed| stop.as_ref().is_none_or(|stop| *claimed > stop.end)) {
        return Err(rotten(first, stop.as_ref(), claimed));
    }
    for path in &left {
        fs::remove_file(path).map_err(failed("removing an unused segment of the log"))?;
    }
    sync_directory(directory)?;
    let Some(Stop { end, .. }) = stop else { return Ok(None) };
    if let Some(last) = segments.get(&end.segment) {
        let mut rest = vec![0; usize::try_from(last.capacity - end.offset).unwrap_or(0)];
        last.read(&mut rest, end.offset)?;
        if rest.iter().any(|byte| *byte != 0) {
            last.clear_from(end.offset)?;
        }
    }
    Ok(Some(Recovered { contents, segments, end }))
}

fn offset(position: Position) -> usize {
    usize::try_from(position.offset).unwrap_or(usize::MAX)
}

/// Whether a segment goes on exactly where the one before has ended.
fn follows(begin: &Record<'_>, number: u64, before: Option<&Stop>) -> bool {
    let said = begin.payload.try_into().map(u32::from_le_bytes).ok();
    before.is_none_or(|before| before.end.segment + 1 == number && said == Some(before.end.offset))
}

fn replay(bytes: &[u8], number: u64, contents: &mut Contents) -> Result<Stop, EngineError> {
    let mut at = 0_usize;
    loop {
        let short = u32::try_from(at).map_err(|error| corrupt(number, 0, &error.to_string()))?;
        match record::read(bytes, number, at) {
            Ok(record) => {
                let length = u32::try_from(record.payload.len()).unwrap_or(u32::MAX);
                let place = Place { segment: number, offset: short, length };
                contents.take(&record, place).map_err(|why| corrupt(number, short, why))?;
                at += record::length(record.payload.len());
            }
            Err(why) => return Ok(Stop { end: Position { segment: number, offset: short }, why }),
        }
    }
}

/// The error that names a place.
pub(super) fn corrupt(number: u64, offset: u32, detail: &str) -> EngineError {
    EngineError::Corrupt {
        what: format!("log segment {} at offset {offset}", file::name(number)),
        detail: detail.into(),
    }
}

fn rotten(first: Option<u64>, stop: Option<&Stop>, claimed: Position) -> EngineError {
    let synced =
        format!("the log was synced up to segment {} offset {}", file::name(claimed.segment), claimed.offset);
    match (stop, first) {
        (Some(Stop { end, why }), _) => corrupt(end.segment, end.offset, &format!("{why}, and {synced}")),
        (None, Some(first)) => corrupt(first, 0, &format!("no log begins there, and {synced}")),
        (None, None) => {
            EngineError::Corrupt { what: "the log".into(), detail: format!("{synced}, and there is no segment") }
        }
    }
}
