//! What dead runs have left on the machine, found by our own mark and by nothing else.
//!
//! A run is called `cellway-drill-<process id>-<start of that process>`, both in hex. Its namespaces, mounts and directories
//! begin with that. A run is dead when no process with that id and that start is there.

use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use rustix::process::{Uid, geteuid};

use crate::wiring::spaces::{MARK, ip, run};

/// One thing that was left.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Leftover {
    /// A network namespace, with whatever runs in it.
    Namespace(String),
    /// A file system in memory.
    Mount(PathBuf),
    /// Data and logs.
    Directory(PathBuf),
}

impl std::fmt::Display for Leftover {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Namespace(name) => write!(f, "network namespace {name}"),
            Self::Mount(path) => write!(f, "mount {}", path.display()),
            Self::Directory(path) => write!(f, "directory {}", path.display()),
        }
    }
}

/// When a process was started, in the kernel's ticks; none where there is no such process, or it has ended and its parent has
/// not asked for it.
#[must_use]
pub fn started(process: u32) -> Option<u64> {
    started_of(&std::fs::read_to_string(format!("/proc/{process}/stat")).ok()?)
}

fn started_of(stat: &str) -> Option<u64> {
    // The program's name is in brackets and may hold anything.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    let is_over = matches!(fields.next()?, "Z" | "X" | "x");
    fields.nth(18)?.parse().ok().filter(|_| !is_over)
}

/// Whether a name is of a run of ours that is dead. `started` is asked when a process was started.
fn is_dead(name: &str, started: impl Fn(u32) -> Option<u64>) -> bool {
    let Some(rest) = name.strip_prefix(MARK) else { return false };
    let mut parts = rest.split('-');
    let process = parts.next().and_then(|part| u32::from_str_radix(part, 16).ok());
    let start = parts.next().and_then(|part| u64::from_str_radix(part, 16).ok());
    match (process, start) {
        (Some(process), Some(start)) => started(process) != Some(start),
        _ => false,
    }
}

/// Where a line of the kernel's list of mounts has something of a dead run: by its source, or by a directory above it.
fn dead_mount(line: &str, started: impl Fn(u32) -> Option<u64>) -> Option<PathBuf> {
    let mut fields = line.split(' ');
    let (source, at, kind) = (fields.next()?, fields.next()?, fields.next()?);
    // A namespace is one, too: it goes with its name.
    if kind == "nsfs" {
        return None;
    }
    let dead = [source].into_iter().chain(at.split('/')).any(|name| is_dead(name, &started));
    dead.then(|| at.into())
}

/// Everything that dead runs have left.
#[must_use]
pub fn find() -> Vec<Leftover> {
    let names = |directory: PathBuf| {
        let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
        entries.filter_map(|entry| entry.file_name().into_string().ok()).filter(|name| is_dead(name, started))
    };
    let mut left: Vec<Leftover> = names("/run/netns".into()).map(Leftover::Namespace).collect();
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    left.extend(mounts.lines().filter_map(|line| dead_mount(line, started)).map(Leftover::Mount));
    let temporary = std::env::temp_dir();
    left.extend(names(temporary.clone()).map(|name| Leftover::Directory(temporary.join(name))));
    left
}

/// What has become of what dead runs had left.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Swept {
    /// It is gone.
    pub removed: Vec<Leftover>,
    /// It is another user's, who alone can remove it.
    pub of_others: Vec<Leftover>,
    /// It stays, and why.
    pub failed: Vec<(Leftover, String)>,
}

/// Removes everything that dead runs have left, as far as it is this user's. What cannot be removed stops nothing else.
pub async fn sweep() -> Swept {
    let (mut swept, me) = (Swept::default(), geteuid());
    for left in find() {
        if is_of_another(&left, me) {
            swept.of_others.push(left);
            continue;
        }
        match remove(&left).await {
            Ok(()) => swept.removed.push(left),
            // Somebody else was quicker.
            Err(_) if !find().contains(&left) => {}
            Err(reason) => swept.failed.push((left, reason)),
        }
    }
    swept
}

fn is_of_another(left: &Leftover, me: Uid) -> bool {
    let is_mine = match left {
        _ if me.is_root() => true,
        // Nobody else makes them.
        Leftover::Namespace(_) | Leftover::Mount(_) => false,
        Leftover::Directory(path) => {
            std::fs::symlink_metadata(path).map_or(true, |found| found.uid() == me.as_raw())
        }
    };
    !is_mine
}

/// Removes one of them.
async fn remove(left: &Leftover) -> Result<(), String> {
    let told = |error: crate::wiring::SpacesError| error.to_string();
    match left {
        Leftover::Namespace(name) => {
            let inside = ip(&["netns", "pids", name]).await.map_err(told)?;
            // A frozen process does not notice that nobody is left; what is in our namespace is ours.
            let pids = inside.split_whitespace().filter_map(|pid| pid.parse().ok());
            for pid in pids.filter_map(rustix::process::Pid::from_raw) {
                rustix::process::kill_process(pid, rustix::process::Signal::KILL)
                    .map_err(|error| format!("process {pid:?}: {error}"))?;
            }
            ip(&["netns", "del", name]).await.map(|_| ()).map_err(told)
        }
        Leftover::Mount(path) => {
            run("umount", &["-l", &path.to_string_lossy()], "").await.map(|_| ()).map_err(told)
        }
        Leftover::Directory(path) => std::fs::remove_dir_all(path).map_err(|error| error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_carries_our_mark_and_whose_run_is_dead_is_left_over() {
        let started = |process| if process == 0x1f { Some(0xabc) } else { None };
        assert!(!is_dead("cellway-drill-1f-abc-control-1", started), "it runs");
        assert!(is_dead("cellway-drill-1f-abd-control-1", started), "another process has its number now");
        assert!(is_dead("cellway-drill-20-abc-switch", started), "there is no such process");
        for other in ["", "control-1", "cellway", "cellway-drill-", "cellway-drill-x-y-z", "cellway-demo-1f-abd"] {
            assert!(!is_dead(other, started), "{other}");
        }
    }

    #[test]
    fn mounts_are_ours_by_their_source_or_their_place() {
        let started = |process| if process == 0x1f { Some(0xabc) } else { None };
        let at = |line: &str| dead_mount(line, started).map(|path| path.to_string_lossy().into_owned());
        assert_eq!(at("cellway-drill-1f-1 /somewhere tmpfs rw 0 0").as_deref(), Some("/somewhere"));
        let image = "/dev/loop3 /tmp/cellway-drill-1f-1-control-1-disk/mnt ext4 rw 0 0";
        assert_eq!(at(image).as_deref(), Some("/tmp/cellway-drill-1f-1-control-1-disk/mnt"));
        assert_eq!(at("/dev/loop3 /tmp/cellway-drill-1f-abc-control-1-disk/mnt ext4 rw 0 0"), None, "it runs");
        assert_eq!(at("/dev/vda / ext4 rw 0 0"), None);
        // The kernel lists each namespace twice where /run is shared; both are gone with its name.
        assert_eq!(at("nsfs /run/netns/cellway-drill-1f-1-control-1 nsfs rw 0 0"), None);
    }

    #[test]
    fn what_root_has_left_is_nobody_elses_and_what_a_user_has_left_is_his() {
        let mine = tempfile::tempdir().unwrap();
        let owner = std::fs::metadata(mine.path()).unwrap().uid();
        let directory = Leftover::Directory(mine.path().to_owned());
        let (root, me, other) = (Uid::ROOT, Uid::from_raw(owner), Uid::from_raw(owner + 1));
        assert!(!is_of_another(&directory, root) && !is_of_another(&directory, me));
        assert!(is_of_another(&directory, other));
        for left in [Leftover::Namespace("n".into()), Leftover::Mount("m".into())] {
            assert!(!is_of_another(&left, root) && is_of_another(&left, Uid::from_raw(owner + 1)), "{left}");
        }
    }

    #[test]
    fn a_process_that_has_ended_is_dead_though_its_parent_has_not_asked_for_it() {
        let stat = |state| format!("7 (a) b) {state} 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 4711 20 21");
        assert_eq!((started_of(&stat("S")), started_of(&stat("T"))), (Some(4711), Some(4711)));
        assert_eq!((started_of(&stat("Z")), started_of("7 (a")), (None, None));
    }

    #[test]
    fn this_process_is_alive() {
        let name = crate::drill::engine::run_name();
        assert!(started(std::process::id()).is_some() && !is_dead(&name, started), "{name}");
    }
}
