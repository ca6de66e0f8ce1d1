//! Clocks that are wrong.
//!
//! * The **wall clock** of a process jumps while it runs: `libfaketime` is loaded before it and reads the offset from a file.
//! * The **monotonic clock** of a process is far ahead from its start on: a time namespace of its own. It cannot jump, nor
//!   does any real one; but a machine that was exchanged, or restored on another host, comes back with another one.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use tokio::process::Command;

use super::leftovers::started;

const LIBRARY: &str = "libfaketimeMT.so.1";
/// Where the library keeps what processes share.
const SHARED_IN: &str = "/dev/shm";

/// Where the wall clocks of a run are set.
#[derive(Debug, Clone)]
pub(super) struct Clocks {
    library: PathBuf,
    directory: PathBuf,
}

impl Clocks {
    /// In this directory, where the library is there.
    ///
    /// # Errors
    /// Where there is none, or nothing can be written.
    pub(super) fn open(directory: &Path, names: &[String]) -> std::io::Result<Self> {
        let library = library().ok_or_else(|| std::io::Error::other(format!("{LIBRARY} is not installed")))?;
        let clocks = Self { library, directory: directory.join("clocks") };
        std::fs::create_dir_all(&clocks.directory)?;
        names.iter().try_for_each(|name| clocks.set(name, 0))?;
        Ok(clocks)
    }

    /// So many seconds ahead of the machine's, or behind it.
    pub(super) fn set(&self, name: &str, seconds: i64) -> std::io::Result<()> {
        // It is read at every look at the clock: never half of it.
        let draft = self.directory.join(format!("{name}.new"));
        std::fs::write(&draft, format!("{seconds:+}\n"))?;
        std::fs::rename(draft, self.file(name))
    }

    /// What the library keeps in memory for the processes of this run that live: two files each, which stay when such a
    /// process is killed. Ours are those whose process reads its clock from this directory.
    pub(super) fn shared(&self) -> Vec<Shared> {
        let mark = format!("FAKETIME_TIMESTAMP_FILE={}/", self.directory.display());
        let is_ours = |process: u32| {
            let surroundings = std::fs::read(format!("/proc/{process}/environ")).unwrap_or_default();
            surroundings.split(|byte| *byte == 0).any(|word| word.starts_with(mark.as_bytes()))
        };
        Shared::all(Path::new(SHARED_IN)).into_iter().filter(|shared| is_ours(shared.process)).collect()
    }

    fn file(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// What comes before the program of a process.
    pub(super) fn words(&self, name: &str) -> Vec<String> {
        vec![
            "env".into(),
            format!("LD_PRELOAD={}", self.library.display()),
            format!("FAKETIME_TIMESTAMP_FILE={}", self.file(name).display()),
            "FAKETIME_NO_CACHE=1".into(),
            "FAKETIME_DONT_FAKE_MONOTONIC=1".into(),
            "NO_FAKE_STAT=1".into(),
        ]
    }
}

/// A file that the library shares between the processes of a tree.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Shared {
    process: u32,
    path: PathBuf,
}

impl Shared {
    /// All there are in a directory.
    fn all(directory: &Path) -> Vec<Self> {
        let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
        let mut found: Vec<Self> = entries
            .filter_map(|entry| {
                let name = entry.file_name().into_string().ok()?;
                let process =
                    ["faketime_shm_", "sem.faketime_sem_"].iter().find_map(|kind| name.strip_prefix(kind))?;
                Some(Self { process: process.parse().ok()?, path: entry.path() })
            })
            .collect();
        found.sort();
        found
    }

    /// Removes it, once its process is gone: the library itself has done so where that has ended in order.
    pub(super) fn remove(&self) {
        if started(self.process).is_some() {
            return;
        }
        match std::fs::remove_file(&self.path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                tracing::warn!(path = %self.path.display(), %error, "what libfaketime has left cannot be removed");
            }
            Ok(()) | Err(_) => {}
        }
    }
}

/// Whether a process sees the wall clock through the library.
pub(super) fn is_faked(process: u32) -> bool {
    let maps = std::fs::read_to_string(format!("/proc/{process}/maps")).unwrap_or_default();
    maps.lines().any(|line| line.ends_with(LIBRARY))
}

/// How far the monotonic clock of a process is ahead, in seconds.
pub(super) fn ahead(process: u32) -> Option<i64> {
    // The offsets are those that its children get: they are its own only where it is in that namespace itself.
    let space = |of: &str| std::fs::read_link(format!("/proc/{process}/ns/{of}")).ok();
    if space("time")? != space("time_for_children")? {
        return None;
    }
    let offsets = std::fs::read_to_string(format!("/proc/{process}/timens_offsets")).ok()?;
    let line = offsets.lines().find_map(|line| line.strip_prefix("monotonic"))?;
    line.split_whitespace().next()?.parse().ok()
}

/// What comes before the program of a process whose monotonic clock is to be so far ahead.
pub(super) fn ahead_words(seconds: u64) -> Vec<String> {
    let seconds = seconds.to_string();
    ["unshare", "--time", "--monotonic", &seconds, "--boottime", &seconds].map(str::to_owned).into()
}

fn library() -> Option<PathBuf> {
    let roots = ["/usr/lib", "/usr/lib64", "/usr/local/lib"].map(PathBuf::from);
    let below = roots.iter().flat_map(|root| {
        let entries = std::fs::read_dir(root).into_iter().flatten().flatten();
        entries.map(|entry| entry.path()).filter(|path| path.is_dir())
    });
    let places = roots.iter().cloned().chain(below).map(|place| place.join("faketime").join(LIBRARY));
    places.into_iter().find(|place| place.exists())
}

/// What keeps wall clocks from being set here, if anything does.
pub(super) fn missing() -> Option<String> {
    library().is_none().then(|| format!("{LIBRARY} (libfaketime) is not installed"))
}

/// What keeps monotonic clocks from being shifted here, if anything does.
pub(super) async fn missing_spaces() -> Option<String> {
    let words = ahead_words(1_000_000);
    let mut tried = Command::new(&words[0]);
    tried.args(&words[1..]).args(["cat", "/proc/uptime"]).stderr(Stdio::null());
    let seconds = |text: &str| text.split('.').next().and_then(|text| text.parse::<u64>().ok()).unwrap_or(0);
    let here = seconds(&std::fs::read_to_string("/proc/uptime").unwrap_or_default());
    match tried.output().await {
        Ok(output) if seconds(&String::from_utf8_lossy(&output.stdout)) >= here + 1_000_000 => None,
        Ok(_) | Err(_) => Some("there can be no time namespaces (root, unshare)".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_is_written_as_the_library_reads_it() {
        let directory = tempfile::tempdir().unwrap();
        let clocks = Clocks { library: "/lib/faketime.so".into(), directory: directory.path().to_owned() };
        for (seconds, written) in [(0, "+0\n"), (86_400, "+86400\n"), (-240, "-240\n")] {
            clocks.set("control-1", seconds).unwrap();
            assert_eq!(std::fs::read_to_string(directory.path().join("control-1")).unwrap(), written);
        }
        let words = clocks.words("control-1");
        assert!(words[0] == "env" && words[1] == "LD_PRELOAD=/lib/faketime.so" && words[2].ends_with("/control-1"));
    }

    #[test]
    fn what_the_library_shares_is_removed_only_when_its_process_is_gone() {
        let directory = tempfile::tempdir().unwrap();
        let (this, gone) = (std::process::id(), u32::MAX);
        for name in [format!("faketime_shm_{this}"), format!("sem.faketime_sem_{gone}"), "faketime_shm_x".into()] {
            std::fs::write(directory.path().join(name), "").unwrap();
        }
        let found = Shared::all(directory.path());
        assert_eq!(found.iter().map(|shared| shared.process).collect::<Vec<_>>(), [this, gone]);
        found.iter().for_each(Shared::remove);
        assert_eq!(Shared::all(directory.path()).iter().map(|shared| shared.process).collect::<Vec<_>>(), [this]);
    }

    #[test]
    fn this_process_has_the_clocks_of_the_machine() {
        let this = std::process::id();
        assert!(!is_faked(this));
        assert!(ahead(this).is_none_or(|seconds| seconds == 0), "{:?}", ahead(this));
    }
}
