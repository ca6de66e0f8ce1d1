//! Does a sync reach the device? Asked when a data directory is opened, because everything rests on it.
//!
//! A few blocks are written and synced, and the kernel's own counters of the device are read before and after: a
//! device that has written nothing in the meantime was never asked to, whatever the call has returned (a library
//! that swallows syncs, a mount without barriers). A directory in memory is named as well. What cannot be found out is
//! said to be unknown, and nothing is refused for it.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

const ROUNDS: usize = 8;
const BLOCK_BYTES: usize = 4_096;
pub(crate) const PROBE: &str = "sync-probe";

/// Whether what was synced survives a power cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Honesty {
    /// The device has written, and flushed its cache where it has one.
    Durable,
    /// The directory is in memory.
    Volatile,
    /// Syncs return without the device having written.
    Lying,
    /// The device cannot be looked at.
    Unknown,
}

/// What was found out about the way of a sync.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SyncPath {
    /// As `ext4`; empty where it is not known.
    pub filesystem: String,
    /// As `/dev/vda`; empty where it is not known.
    pub device: String,
    /// How long one sync of one block took.
    pub median: Duration,
    /// What that comes to.
    pub honesty: Honesty,
}

/// Where a directory is mounted from.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Mount {
    number: String,
    filesystem: String,
    device: String,
    options: String,
}

/// What the kernel has counted of a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Counters {
    writes: u64,
    /// None where it has no cache to be flushed, or does not count that.
    flushes: Option<u64>,
}

/// Tries the way of a sync from `directory` on.
pub(crate) fn probe(directory: &Path) -> io::Result<SyncPath> {
    let mount = fs::canonicalize(directory)
        .and_then(|path| Ok(mount_of(&fs::read_to_string("/proc/self/mountinfo")?, &path)))
        .ok()
        .flatten()
        .unwrap_or_default();
    let before = counters(&mount.number);
    let mut took = Vec::with_capacity(ROUNDS);
    let path = directory.join(PROBE);
    let written = write(&path, &mut took);
    let after = counters(&mount.number);
    // Also where it could not be written: on a full disk it takes the last room.
    let removed = fs::remove_file(&path);
    written.and(removed)?;
    took.sort_unstable();
    let honesty = judge(&mount, before, after);
    let found = SyncPath { filesystem: mount.filesystem, device: mount.device, median: took[ROUNDS / 2], honesty };
    tell(directory, &found);
    Ok(found)
}

fn write(path: &Path, took: &mut Vec<Duration>) -> io::Result<()> {
    let mut file = File::create(path)?;
    for round in 0..ROUNDS {
        file.write_all(&[u8::try_from(round).unwrap_or(0); BLOCK_BYTES])?;
        let begin = Instant::now();
        file.sync_data()?;
        took.push(begin.elapsed());
    }
    Ok(())
}

fn tell(directory: &Path, found: &SyncPath) {
    let (path, filesystem, device) = (directory.display(), &found.filesystem, &found.device);
    match found.honesty {
        Honesty::Lying => tracing::error!(
            code = "SYNC_PATH_LIES", %path, filesystem, device,
            "syncs return before the device has written: a power cut loses what was acknowledged"
        ),
        Honesty::Volatile => tracing::warn!(
            code = "SYNC_PATH_VOLATILE", %path, filesystem,
            "the data directory is in memory: it does not survive this machine"
        ),
        Honesty::Durable | Honesty::Unknown => {
            let median_us = found.median.as_micros();
            tracing::debug!(%path, filesystem, device, median_us, honesty = ?found.honesty, "sync path probed");
        }
    }
}

fn judge(mount: &Mount, before: Option<Counters>, after: Option<Counters>) -> Honesty {
    if ["tmpfs", "ramfs", "devtmpfs"].contains(&mount.filesystem.as_str()) {
        return Honesty::Volatile;
    }
    if mount.options.split(',').any(|option| ["nobarrier", "barrier=0"].contains(&option)) {
        return Honesty::Lying;
    }
    match (before, after) {
        (Some(before), Some(after)) if after.writes == before.writes => Honesty::Lying,
        (Some(before), Some(after)) if before.flushes.is_some() && after.flushes == before.flushes => {
            Honesty::Lying
        }
        (Some(_), Some(_)) => Honesty::Durable,
        _ => Honesty::Unknown,
    }
}

/// The mount that a path lies in: the longest one that it begins with, and of equals the last.
fn mount_of(mountinfo: &str, path: &Path) -> Option<Mount> {
    let mut found: Option<(PathBuf, Mount)> = None;
    for line in mountinfo.lines() {
        let Some((left, right)) = line.split_once(" - ") else { continue };
        let (left, right): (Vec<&str>, Vec<&str>) = (left.split(' ').collect(), right.split(' ').collect());
        let (Some(number), Some(point)) = (left.get(2), left.get(4)) else { continue };
        let [filesystem, device, rest @ ..] = right.as_slice() else { continue };
        let point = PathBuf::from(point.replace("\\040", " "));
        let longer = found.as_ref().is_none_or(|(best, _)| point.as_os_str().len() >= best.as_os_str().len());
        if longer && path.starts_with(&point) {
            let options = rest.first().copied().unwrap_or_default().to_owned();
            let (number, filesystem, device) =
                ((*number).to_owned(), (*filesystem).to_owned(), (*device).to_owned());
            found = Some((point, Mount { number, filesystem, device, options }));
        }
    }
    found.map(|(_, mount)| mount)
}

/// None where there is no such device, or where it does not count.
fn counters(number: &str) -> Option<Counters> {
    let device = Path::new("/sys/dev/block").join(number);
    let says = |name: &str| fs::read_to_string(device.join(name)).ok();
    let queue = |name: &str| says(&format!("queue/{name}")).or_else(|| says(&format!("../queue/{name}")));
    if number.is_empty() || queue("iostats")?.trim() != "1" {
        return None;
    }
    let stat = says("stat")?;
    let numbers: Vec<u64> = stat.split_whitespace().filter_map(|number| number.parse().ok()).collect();
    // Flushes are counted for a whole device only, and stacked devices do not count them.
    let has_cache = says("queue/write_cache").is_some_and(|kind| kind.trim() == "write back");
    let flushes = numbers.get(15).copied().filter(|_| has_cache && device.join("device").exists());
    Some(Counters { writes: *numbers.get(4)?, flushes })
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTS: &str = "\
22 1 254:0 / / rw,relatime - ext4 /dev/vda rw,discard
30 22 0:25 / /tmp rw - tmpfs tmpfs rw,size=1024k
31 22 7:0 / /mnt/a\\040b rw - ext4 /dev/loop0 rw,nobarrier
broken line";

    fn of(path: &str) -> Mount {
        mount_of(MOUNTS, Path::new(path)).expect("it is mounted")
    }

    #[test]
    fn the_mount_of_a_path_is_the_longest_that_fits() {
        assert_eq!(of("/var/lib/cell").device, "/dev/vda");
        assert_eq!(of("/tmp/x").filesystem, "tmpfs");
        assert_eq!(of("/tmpx").filesystem, "ext4");
        assert_eq!((of("/mnt/a b/data").number.as_str(), of("/mnt/a b").options.as_str()), ("7:0", "rw,nobarrier"));
    }

    #[test]
    fn a_device_that_has_not_written_lies_and_so_does_one_that_was_not_flushed() {
        let counted = |writes, flushes| Some(Counters { writes, flushes });
        let disk = of("/var");
        assert_eq!(judge(&disk, counted(10, Some(4)), counted(18, Some(12))), Honesty::Durable);
        assert_eq!(judge(&disk, counted(10, None), counted(18, None)), Honesty::Durable);
        assert_eq!(judge(&disk, counted(10, Some(4)), counted(10, Some(4))), Honesty::Lying);
        assert_eq!(judge(&disk, counted(10, Some(4)), counted(18, Some(4))), Honesty::Lying);
        assert_eq!(judge(&disk, None, None), Honesty::Unknown);
        assert_eq!(judge(&of("/tmp/x"), None, None), Honesty::Volatile);
        assert_eq!(judge(&of("/mnt/a b"), counted(1, None), counted(9, None)), Honesty::Lying);
    }

    #[test]
    fn a_real_directory_is_probed_and_left_as_it_was() {
        let directory = tempfile::tempdir().unwrap();
        let found = probe(directory.path()).unwrap();
        assert_ne!(found.honesty, Honesty::Lying, "{found:?}");
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
    }
}
