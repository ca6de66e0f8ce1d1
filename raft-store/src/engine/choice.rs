//! Which engine keeps the log of a data directory, and how a directory goes from one to the other.
//!
//! ```text
//! log/ (sled)  ◄──►  segments/
//!
//! 1  fill segments.new, sync      a crash: segments.new is removed, everything as before
//! 2  log → log.retired            a crash: the next start goes on with 3
//! 3  segments.new → segments      a crash: the next start goes on with 4
//! 4  remove log.retired
//! ```

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{LogEngine, SegmentLog, SledLog, sync_directory};
use crate::codec;
use crate::error::EngineError;
use crate::identity::{META_CLUSTER, META_IDENTITY};
use crate::log::{META_HARD_STATE, META_PURGED};
use crate::wire::WireIdentity;

/// Every named value of a log.
const META: [&str; 4] = [META_IDENTITY, META_CLUSTER, META_HARD_STATE, META_PURGED];
/// Bytes of rows that are copied at once.
const COPY_BYTES: usize = 4 * 1024 * 1024;
const KINDS: [LogKind; 2] = [LogKind::Segments, LogKind::Sled];

/// What the log of a node is kept in.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LogKind {
    /// Files of a fixed length, made ahead.
    #[default]
    Segments,
    /// A sled database: the door back, should the segments disappoint.
    Sled,
}

impl LogKind {
    pub(crate) const fn directory(self) -> &'static str {
        match self {
            Self::Segments => "segments",
            Self::Sled => "log",
        }
    }

    fn open(self, path: PathBuf) -> Result<Arc<dyn LogEngine>, EngineError> {
        Ok(match self {
            Self::Segments => Arc::new(SegmentLog::open(path)?),
            Self::Sled => Arc::new(SledLog::open(path)?),
        })
    }
}

impl std::fmt::Display for LogKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Segments => "segments",
            Self::Sled => "sled",
        })
    }
}

impl std::str::FromStr for LogKind {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let found = KINDS.into_iter().find(|kind| kind.to_string() == name);
        found.ok_or_else(|| format!("{name} is no engine of the log: segments or sled"))
    }
}

fn failed(error: &std::io::Error) -> EngineError {
    EngineError::Io { operation: "changing the engine of the log", reason: error.to_string() }
}

fn beside(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(ending);
    name.into()
}

/// Every name that a log may have in a data directory, also in the middle of a change of engines.
pub(crate) fn log_places() -> impl Iterator<Item = String> {
    let of = |kind: LogKind| ["", ".new", ".retired"].map(|ending| format!("{}{ending}", kind.directory()));
    KINDS.into_iter().flat_map(of)
}

/// What keeps the log in a data directory; none where there is no log yet.
fn present(data_dir: &Path) -> Option<LogKind> {
    KINDS.into_iter().find(|kind| data_dir.join(kind.directory()).exists())
}

/// What keeps the log in a data directory, where a crash has cut off a change of engines as well.
pub(crate) fn settled(data_dir: &Path) -> Result<LogKind, EngineError> {
    finish(data_dir)?;
    Ok(present(data_dir).unwrap_or_default())
}

/// Opens the log in a data directory. What another engine has kept there goes over to `wanted`.
pub(crate) fn open_log(data_dir: &Path, wanted: LogKind) -> Result<Arc<dyn LogEngine>, EngineError> {
    finish(data_dir)?;
    if KINDS.into_iter().all(|kind| data_dir.join(kind.directory()).exists()) {
        return Err(EngineError::Corrupt {
            what: "the data directory".into(),
            detail: "segments/ and log/ both hold a log: move log/ away if a program from before there were segments has \
                     been started here since"
                .into(),
        });
    }
    if let Some(found) = present(data_dir).filter(|found| *found != wanted) {
        convert(data_dir, found, wanted)?;
    }
    wanted.open(data_dir.join(wanted.directory()))
}

/// Ends what a crash has left of an earlier change.
fn finish(data_dir: &Path) -> Result<(), EngineError> {
    for kind in KINDS {
        let path = data_dir.join(kind.directory());
        let new = beside(&path, ".new");
        if new.exists() {
            let other = KINDS.into_iter().find(|other| *other != kind).unwrap_or(kind);
            if beside(&data_dir.join(other.directory()), ".retired").exists() {
                adopt(&new, &path)?;
            } else {
                fs::remove_dir_all(&new).map_err(|error| failed(&error))?;
            }
        }
    }
    for kind in KINDS {
        let retired = beside(&data_dir.join(kind.directory()), ".retired");
        if retired.exists() && present(data_dir).is_some_and(|present| present != kind) {
            fs::remove_dir_all(&retired).map_err(|error| failed(&error))?;
        }
    }
    Ok(())
}

fn adopt(new: &Path, path: &Path) -> Result<(), EngineError> {
    fs::rename(new, path).map_err(|error| failed(&error))?;
    sync_directory(path)
}

fn convert(data_dir: &Path, from: LogKind, to: LogKind) -> Result<(), EngineError> {
    let (old, path) = (data_dir.join(from.directory()), data_dir.join(to.directory()));
    let (new, retired) = (beside(&path, ".new"), beside(&old, ".retired"));
    let rows = {
        let source = from.open(old.clone())?;
        if let Some(identity) = source.get_meta(META_IDENTITY)? {
            // Of another layout: the version that wrote it must find it where it was.
            codec::open_first::<WireIdentity>(&identity, || "the node's identity".into())?;
        }
        let target = to.open(new.clone())?;
        copy(&*source, &*target)?
    };
    fs::rename(&old, &retired).map_err(|error| failed(&error))?;
    adopt(&new, &path)?;
    fs::remove_dir_all(&retired).map_err(|error| failed(&error))?;
    tracing::info!(%from, %to, rows, path = %data_dir.display(), "the log is kept by another engine from now on");
    Ok(())
}

fn copy(source: &dyn LogEngine, target: &dyn LogEngine) -> Result<usize, EngineError> {
    for name in META {
        if let Some(value) = source.get_meta(name)? {
            target.put_meta(name, &value)?;
        }
    }
    let (mut next, mut count) = (0, 0);
    loop {
        let rows = source.range(next, u64::MAX, COPY_BYTES)?;
        let Some((last, _)) = rows.last() else { break };
        next = last + 1;
        count += rows.len();
        target.append(&rows)?;
    }
    target.sync()?;
    Ok(count)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fill(log: &dyn LogEngine) {
        log.append(&(5..=40).map(|index| (index, vec![u8::try_from(index).unwrap(); 300])).collect::<Vec<_>>())
            .unwrap();
        META.into_iter().for_each(|name| log.put_meta(name, &value(name)).unwrap());
        log.sync().unwrap();
    }

    fn value(name: &str) -> Vec<u8> {
        match name {
            META_IDENTITY => codec::seal(&WireIdentity { format: 1, node_id: 7 }),
            _ => name.as_bytes().to_vec(),
        }
    }

    fn check(log: &dyn LogEngine) {
        let rows = log.range(0, u64::MAX, usize::MAX).unwrap();
        assert_eq!(rows.iter().map(|(index, _)| *index).collect::<Vec<_>>(), (5..=40).collect::<Vec<_>>());
        assert!(rows.iter().all(|(index, row)| *row == vec![u8::try_from(*index).unwrap(); 300]));
        META.into_iter().for_each(|name| assert_eq!(log.get_meta(name).unwrap(), Some(value(name))));
    }

    #[test]
    fn a_log_goes_over_to_the_other_engine_and_back() {
        let directory = tempfile::tempdir().unwrap();
        fill(&*open_log(directory.path(), LogKind::Sled).unwrap());
        for wanted in [LogKind::Segments, LogKind::Segments, LogKind::Sled, LogKind::Segments] {
            check(&*open_log(directory.path(), wanted).unwrap());
            assert_eq!(present(directory.path()), Some(wanted));
            assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1, "nothing else is left");
        }
    }

    #[test]
    fn a_log_of_another_layout_stays_where_the_version_that_wrote_it_looks() {
        let directory = tempfile::tempdir().unwrap();
        let log = open_log(directory.path(), LogKind::Sled).unwrap();
        let identity = codec::seal_as(2, &WireIdentity { format: 1, node_id: 7 });
        log.put_meta(META_IDENTITY, &identity).unwrap();
        log.sync().unwrap();
        drop(log);
        let refused = open_log(directory.path(), LogKind::Segments).expect_err("another layout");
        assert!(matches!(refused, EngineError::Layout { found: 2, .. }), "{refused:?}");
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1, "nothing was begun");
        let log = open_log(directory.path(), LogKind::Sled).unwrap();
        assert_eq!(log.get_meta(META_IDENTITY).unwrap(), Some(identity));
    }

    #[test]
    fn two_logs_in_one_directory_are_refused() {
        let directory = tempfile::tempdir().unwrap();
        fill(&*open_log(directory.path(), LogKind::Segments).unwrap());
        drop(SledLog::open(directory.path().join("log")).unwrap());
        for wanted in KINDS {
            let refused = open_log(directory.path(), wanted).expect_err("two logs").to_string();
            assert!(refused.contains("both hold a log: move log/ away"), "{refused}");
        }
        fs::remove_dir_all(directory.path().join("log")).unwrap();
        check(&*open_log(directory.path(), LogKind::Segments).unwrap());
    }

    #[test]
    fn a_change_of_engines_that_was_cut_off_anywhere_loses_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        fill(&*open_log(directory.path(), LogKind::Sled).unwrap());
        // In step 1: half a copy.
        drop(SegmentLog::open(at("segments.new")).unwrap());
        assert_eq!(present(directory.path()), Some(LogKind::Sled));
        check(&*open_log(directory.path(), LogKind::Segments).unwrap());
        // After step 2.
        fs::rename(at("segments"), at("segments.new")).unwrap();
        fs::create_dir(at("log.retired")).unwrap();
        check(&*open_log(directory.path(), LogKind::Segments).unwrap());
        assert!(!at("log.retired").exists());
        // After step 3.
        fs::create_dir(at("log.retired")).unwrap();
        check(&*open_log(directory.path(), LogKind::Segments).unwrap());
        assert!(!at("log.retired").exists());
    }
}
