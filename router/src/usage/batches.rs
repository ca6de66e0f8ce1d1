//! Batches of usage as files: `<process>-<number>.json`, each there as a whole or not at all, the oldest given out first.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use prometheus_client::metrics::gauge::Gauge;

/// Batches that wait to be collected.
pub(crate) struct Batches {
    folder: PathBuf,
    bytes_max: u64,
    /// Tells this process's batches from those of every other: when it began, and a number drawn by lot.
    process: String,
    next: AtomicU64,
    waiting: Gauge,
}

/// Why a batch is not on disk.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BatchError {
    #[error("{} holds {held} bytes of usage that nobody has collected, which is its limit (usage.bytes-max)", folder.display())]
    Full { folder: PathBuf, held: u64 },
    #[error("cannot write {}: {source}", path.display())]
    Write { path: PathBuf, source: io::Error },
}

const END: &str = ".json";
const PART: &str = "part";
/// What was not finished within this time never will be.
const LEFT_AFTER: Duration = Duration::from_secs(3_600);

fn is_old(at: SystemTime) -> bool {
    at.elapsed().is_ok_and(|age| age > LEFT_AFTER)
}

impl Batches {
    /// Takes the folder, makes it where there is none, and finds what an earlier process has left there.
    pub(crate) fn open(folder: &Path, bytes_max: u64, process: String, waiting: Gauge) -> io::Result<Self> {
        std::fs::create_dir_all(folder)?;
        let batches = Self { folder: folder.to_owned(), bytes_max, process, next: AtomicU64::new(1), waiting };
        // One that was cut off in the middle of a write was never given out. One that is young may be under way: a process
        // that hands its sockets over writes here to its end.
        for entry in std::fs::read_dir(folder)?.flatten() {
            let path = entry.path();
            let is_left = || entry.metadata().and_then(|of| of.modified()).is_ok_and(is_old);
            if path.extension().is_some_and(|end| end == PART) && is_left() {
                // Its owner may have finished it meanwhile, or somebody else may have removed it.
                let _ = std::fs::remove_file(path);
            }
        }
        batches.count()?;
        Ok(batches)
    }

    pub(crate) fn next_id(&self) -> String {
        format!("{}-{:09}", self.process, self.next.fetch_add(1, Ordering::Relaxed))
    }

    /// Writes one; it is there with all of it once this is back.
    pub(crate) fn write(&self, id: &str, text: &[u8]) -> Result<(), BatchError> {
        let path = self.folder.join(format!("{id}{END}"));
        let failed = |source| BatchError::Write { path: path.clone(), source };
        let held = self.held_bytes().map_err(failed)?;
        if held + text.len() as u64 > self.bytes_max {
            return Err(BatchError::Full { folder: self.folder.clone(), held });
        }
        let part = path.with_extension(PART);
        let write = || -> io::Result<File> {
            // Opened first: nothing may fail any more once the batch can be collected.
            let folder = File::open(&self.folder)?;
            let mut file = File::create(&part)?;
            file.write_all(text)?;
            file.sync_all()?;
            std::fs::rename(&part, &path)?;
            Ok(folder)
        };
        let folder = write().map_err(|source| {
            // A part that is not there cannot be removed, and need not be.
            let _ = std::fs::remove_file(&part);
            failed(source)
        })?;
        // It may have been collected by now, so it must not be counted once more, whatever comes of this.
        if let Err(error) = folder.sync_all().and_then(|()| self.count()) {
            tracing::warn!(%error, batch = id, "a batch of usage is there, but would perhaps not outlive a power cut");
        }
        Ok(())
    }

    /// The oldest one and its id.
    pub(crate) fn oldest(&self) -> io::Result<Option<(String, Vec<u8>)>> {
        let Some(id) = self.ids()?.into_iter().min() else { return Ok(None) };
        let text = std::fs::read(self.folder.join(format!("{id}{END}")))?;
        Ok(Some((id, text)))
    }

    /// Removes one that was collected. Whether it was there: who asks twice has lost the first answer.
    pub(crate) fn remove(&self, id: &str) -> io::Result<bool> {
        // Only what is listed is removed, so that no id leads out of the folder.
        if !self.ids()?.iter().any(|other| other == id) {
            return Ok(false);
        }
        std::fs::remove_file(self.folder.join(format!("{id}{END}")))?;
        self.sync()?;
        self.count()?;
        Ok(true)
    }

    fn sync(&self) -> io::Result<()> {
        File::open(&self.folder)?.sync_all()
    }

    fn ids(&self) -> io::Result<Vec<String>> {
        let mut ids = Vec::new();
        for entry in std::fs::read_dir(&self.folder)? {
            let name = entry?.file_name();
            ids.extend(name.to_str().and_then(|name| name.strip_suffix(END)).map(str::to_owned));
        }
        Ok(ids)
    }

    fn held_bytes(&self) -> io::Result<u64> {
        let mut bytes = 0;
        for entry in std::fs::read_dir(&self.folder)? {
            let entry = entry?;
            if entry.file_name().to_str().is_some_and(|name| name.ends_with(END)) {
                // One that was collected meanwhile takes no room.
                bytes += entry.metadata().map_or(0, |of| of.len());
            }
        }
        Ok(bytes)
    }

    fn count(&self) -> io::Result<()> {
        let count = i64::try_from(self.ids()?.len()).unwrap_or(i64::MAX);
        self.waiting.set(count);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(folder: &Path, process: &str) -> Batches {
        Batches::open(folder, 20, process.into(), Gauge::default()).unwrap()
    }

    #[test]
    fn batches_outlive_the_process_and_are_given_out_until_they_are_removed() {
        let folder = tempfile::tempdir().unwrap();
        let first = open(folder.path(), "1");
        assert_eq!(first.oldest().unwrap(), None);
        let (a, b) = (first.next_id(), first.next_id());
        first.write(&a, b"one").unwrap();
        first.write(&b, b"two").unwrap();
        let part = |name: &str, age: Duration| {
            let file = File::create(folder.path().join(name)).unwrap();
            file.set_modified(SystemTime::now() - age).unwrap();
        };
        part("1-000000003.part", LEFT_AFTER * 2);
        part("3-000000001.part", Duration::ZERO);
        let next = open(folder.path(), "2");
        assert_eq!(next.waiting.get(), 2);
        assert!(!folder.path().join("1-000000003.part").exists());
        assert!(folder.path().join("3-000000001.part").exists(), "somebody may be writing it");
        assert_eq!(next.oldest().unwrap().unwrap(), (a.clone(), b"one".to_vec()));
        assert_eq!(next.oldest().unwrap().unwrap().0, a, "given out again");
        assert!(next.remove(&a).unwrap());
        assert!(!next.remove(&a).unwrap(), "a lost answer costs nothing");
        assert_eq!(next.oldest().unwrap().unwrap().0, b);
    }

    #[test]
    fn a_batch_that_cannot_be_written_leaves_nothing_and_takes_no_room() {
        let folder = tempfile::tempdir().unwrap();
        let batches = open(folder.path(), "1");
        let id = batches.next_id();
        // Its name is taken by something that no file can replace.
        std::fs::create_dir(folder.path().join(format!("{id}.json"))).unwrap();
        std::fs::write(folder.path().join(format!("{id}.json")).join("x"), b"").unwrap();
        batches.write(&id, b"one").unwrap_err();
        assert!(!folder.path().join(format!("{id}.part")).exists());
        std::fs::remove_dir_all(folder.path().join(format!("{id}.json"))).unwrap();
        assert_eq!(batches.held_bytes().unwrap(), 0);
    }

    #[test]
    fn a_full_folder_takes_no_more_and_no_id_leads_out_of_it() {
        let folder = tempfile::tempdir().unwrap();
        let batches = open(&folder.path().join("in"), "1");
        std::fs::write(folder.path().join("mine.json"), b"mine").unwrap();
        assert!(!batches.remove("../mine").unwrap());
        assert!(folder.path().join("mine.json").exists());
        batches.write(&batches.next_id(), &[1; 15]).unwrap();
        let error = batches.write(&batches.next_id(), &[1; 15]).unwrap_err();
        assert!(error.to_string().contains("usage.bytes-max"), "{error}");
    }
}
