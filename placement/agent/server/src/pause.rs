//! A server that stands still: every process of it, and so everything that is connected.

use std::path::Path;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// How long a process may take to stand still.
const STILL_MAX: Duration = Duration::from_secs(1);

/// Processes that do nothing until this is dropped.
#[derive(Debug)]
pub struct Paused {
    processes: Vec<Pid>,
}

impl Paused {
    /// The server whose data are in this directory. Its first process stands still before the others are looked for, so that it
    /// begins no more of them.
    pub(crate) fn begin(data: &Path) -> std::io::Result<Self> {
        let text = std::fs::read_to_string(data.join("postmaster.pid"))?;
        let first =
            text.lines().next().and_then(pid).ok_or_else(|| std::io::Error::other("postmaster.pid names none"))?;
        let mut paused = Self { processes: vec![first] };
        kill_process(first, Signal::STOP)?;
        let deadline = Instant::now() + STILL_MAX;
        while standing(first).is_some_and(|(state, _)| state != 'T') && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(1));
        }
        for entry in std::fs::read_dir("/proc")?.flatten() {
            let Some(process) = entry.file_name().to_str().and_then(pid) else { continue };
            // One that has ended meanwhile stands still enough.
            let is_its_own = standing(process).is_some_and(|(_, parent)| parent == first.as_raw_nonzero().get());
            if is_its_own && kill_process(process, Signal::STOP).is_ok() {
                paused.processes.push(process);
            }
        }
        Ok(paused)
    }
}

impl Drop for Paused {
    fn drop(&mut self) {
        for process in &self.processes {
            let _ended = kill_process(*process, Signal::CONT);
        }
    }
}

fn pid(text: &str) -> Option<Pid> {
    Pid::from_raw(text.trim().parse().ok()?)
}

/// What a process does, and whose child it is.
fn standing(process: Pid) -> Option<(char, i32)> {
    let text = std::fs::read_to_string(format!("/proc/{}/stat", process.as_raw_nonzero())).ok()?;
    // Behind its name, which may have anything in it.
    let mut fields = text.rsplit_once(')')?.1.split_whitespace();
    Some((fields.next()?.chars().next()?, fields.next()?.parse().ok()?))
}
