//! Child processes of one run: started, watched, stopped, killed and started again by name.
//!
//! A child never outlives this process. It is told to end by the end of its standard input, which the operating
//! system closes with us whatever happens (`--exit-with-parent` makes a child watch for that); dropping [`Processes`]
//! kills what is left. Only our own children are ever signalled. [`Roster`] says which process has which name now.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use tokio::process::{Child, ChildStdin, Command};

/// How to start a process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recipe {
    /// By which it is named: `control-1`.
    pub name: String,
    /// What to run.
    pub program: PathBuf,
    /// With what.
    pub arguments: Vec<String>,
}

impl Recipe {
    /// Behind a command that becomes the program in the end, as `env` does; nothing changes behind no words.
    #[must_use]
    pub fn behind(self, words: &[String]) -> Self {
        let Some((command, more)) = words.split_first() else { return self };
        let program = self.program.to_string_lossy().into_owned();
        let arguments = more.iter().cloned().chain([program]).chain(self.arguments).collect();
        Self { name: self.name, program: command.into(), arguments }
    }
}

/// What can go wrong with a process.
#[derive(Debug, thiserror::Error)]
pub enum ProcessError {
    /// Nobody told us of it.
    #[error("there is no process {name}")]
    Unknown {
        /// Its name.
        name: String,
    },
    /// It runs already.
    #[error("process {name} runs already")]
    Running {
        /// Its name.
        name: String,
    },
    /// It could not be started.
    #[error("process {name} cannot be started")]
    Start {
        /// Its name.
        name: String,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// It could not be frozen or thawed.
    #[error("process {name} cannot be signalled")]
    Signal {
        /// Its name.
        name: String,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// It could not be killed or waited for.
    #[error("process {name} cannot be ended")]
    End {
        /// Its name.
        name: String,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
}

#[derive(Debug)]
struct Entry {
    recipe: Recipe,
    running: Option<Running>,
    starts: u32,
}

#[derive(Debug)]
struct Running {
    child: Child,
    // Dropped: the child ends.
    stdin: Option<ChildStdin>,
}

/// Names of running processes by their ids. Clones are the same roster.
#[derive(Debug, Clone, Default)]
pub struct Roster(Arc<Mutex<BTreeMap<String, u32>>>);

impl Roster {
    /// From now on the process with this id has this name, and no other has it.
    pub fn enter(&self, id: u32, name: &str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(name.to_owned(), id);
    }

    fn leave(&self, name: &str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(name);
    }

    /// All of them.
    #[must_use]
    pub fn all(&self) -> Vec<(u32, String)> {
        let names = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        names.iter().map(|(name, id)| (*id, name.clone())).collect()
    }

    /// SIGSTOP: it stays where it is, with everything open, and does nothing.
    ///
    /// # Errors
    /// [`ProcessError::Unknown`], [`ProcessError::Signal`].
    pub fn freeze(&self, name: &str) -> Result<(), ProcessError> {
        self.signal(name, Signal::STOP)
    }

    /// SIGCONT: it goes on as if no time had passed.
    ///
    /// # Errors
    /// [`ProcessError::Unknown`], [`ProcessError::Signal`].
    pub fn thaw(&self, name: &str) -> Result<(), ProcessError> {
        self.signal(name, Signal::CONT)
    }

    fn signal(&self, name: &str, signal: Signal) -> Result<(), ProcessError> {
        let id = self.0.lock().unwrap_or_else(PoisonError::into_inner).get(name).copied();
        let pid = id.and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
        let pid = pid.ok_or_else(|| ProcessError::Unknown { name: name.to_owned() })?;
        kill_process(pid, signal)
            .map_err(|error| ProcessError::Signal { name: name.to_owned(), source: error.into() })
    }
}

/// The processes of one run, by name. Each writes to `<logs>/<name>.log`.
#[derive(Debug)]
pub struct Processes {
    logs: PathBuf,
    roster: Roster,
    entries: BTreeMap<String, Entry>,
}

impl Processes {
    /// None yet.
    #[must_use]
    pub fn new(logs: PathBuf) -> Self {
        Self { logs, roster: Roster::default(), entries: BTreeMap::new() }
    }

    /// Who runs under which id.
    #[must_use]
    pub const fn roster(&self) -> &Roster {
        &self.roster
    }

    /// Starts a process.
    ///
    /// # Errors
    /// [`ProcessError::Running`], [`ProcessError::Start`].
    pub fn start(&mut self, recipe: Recipe) -> Result<(), ProcessError> {
        let name = recipe.name.clone();
        if self.entries.get(&name).is_some_and(|entry| entry.running.is_some()) {
            return Err(ProcessError::Running { name });
        }
        let running = self.spawn(&recipe).map_err(|source| ProcessError::Start { name: name.clone(), source })?;
        if let Some(id) = running.child.id() {
            self.roster.enter(id, &name);
        }
        let entry = self.entries.entry(name).or_insert(Entry { recipe, running: None, starts: 0 });
        entry.running = Some(running);
        entry.starts += 1;
        Ok(())
    }

    /// Starts a process again that was stopped, killed, or ended by itself.
    ///
    /// # Errors
    /// [`ProcessError::Unknown`], and as [`Self::start`].
    pub fn start_again(&mut self, name: &str) -> Result<(), ProcessError> {
        let recipe = self.entry(name)?.recipe.clone();
        self.ended(name);
        self.start(recipe)
    }

    /// The same, this once behind a command that becomes the program: [`Recipe::behind`].
    ///
    /// # Errors
    /// As [`Self::start_again`].
    pub fn start_again_behind(&mut self, name: &str, words: &[String]) -> Result<(), ProcessError> {
        let recipe = self.entry(name)?.recipe.clone();
        self.ended(name);
        self.start(recipe.behind(words))
    }

    fn spawn(&self, recipe: &Recipe) -> std::io::Result<Running> {
        std::fs::create_dir_all(&self.logs)?;
        let log = OpenOptions::new().create(true).append(true).open(self.log_of(&recipe.name))?;
        let mut child = Command::new(&recipe.program)
            .args(&recipe.arguments)
            .stdin(Stdio::piped())
            .stdout(log.try_clone()?)
            .stderr(log)
            .kill_on_drop(true)
            .spawn()?;
        let stdin = child.stdin.take();
        Ok(Running { child, stdin })
    }

    /// Where a process writes its log.
    #[must_use]
    pub fn log_of(&self, name: &str) -> PathBuf {
        self.logs.join(format!("{name}.log"))
    }

    /// SIGKILL: no time for anything.
    ///
    /// # Errors
    /// [`ProcessError::Unknown`], [`ProcessError::End`].
    pub async fn kill(&mut self, name: &str) -> Result<(), ProcessError> {
        let entry = self.entries.get_mut(name).ok_or_else(|| ProcessError::Unknown { name: name.to_owned() })?;
        if let Some(mut running) = entry.running.take() {
            self.roster.leave(name);
            running.child.kill().await.map_err(|source| ProcessError::End { name: name.to_owned(), source })?;
        }
        Ok(())
    }

    /// Asks it to end, waits up to `patience`, then kills it. True where it ended by itself.
    ///
    /// # Errors
    /// [`ProcessError::Unknown`], [`ProcessError::End`].
    pub async fn stop(&mut self, name: &str, patience: Duration) -> Result<bool, ProcessError> {
        let entry = self.entries.get_mut(name).ok_or_else(|| ProcessError::Unknown { name: name.to_owned() })?;
        let Some(mut running) = entry.running.take() else { return Ok(true) };
        self.roster.leave(name);
        end(name, &mut running, patience).await
    }

    /// Stops all of them at the same time.
    pub async fn stop_all(&mut self, patience: Duration) {
        let ending = self.entries.iter_mut().filter_map(|(name, entry)| {
            let mut running = entry.running.take()?;
            self.roster.leave(name);
            Some(async move {
                match end(name, &mut running, patience).await {
                    Ok(true) => {}
                    Ok(false) => tracing::warn!(process = name, "a process had to be killed"),
                    Err(error) => tracing::error!(process = name, %error, "a process cannot be ended"),
                }
            })
        });
        futures::future::join_all(ending).await;
    }

    /// How a process has ended, if it has.
    pub fn ended(&mut self, name: &str) -> Option<ExitStatus> {
        let entry = self.entries.get_mut(name)?;
        let status = entry.running.as_mut()?.child.try_wait().ok().flatten()?;
        entry.running = None;
        Some(status)
    }

    /// Processes that were not stopped by us and run no more, with how they ended.
    pub fn fallen(&mut self) -> Vec<(String, ExitStatus)> {
        let names: Vec<String> = self.entries.keys().cloned().collect();
        names.into_iter().filter_map(|name| self.ended(&name).map(|status| (name, status))).collect()
    }

    /// Memory of every running process.
    #[must_use]
    pub fn memory(&self) -> BTreeMap<String, Memory> {
        let of = |entry: &Entry| {
            let id = entry.running.as_ref()?.child.id()?;
            let status = std::fs::read_to_string(format!("/proc/{id}/status")).ok()?;
            Some(Memory { resident_kib: field_kib(&status, "VmRSS:")?, peak_kib: field_kib(&status, "VmHWM:")? })
        };
        self.entries.iter().filter_map(|(name, entry)| Some((name.clone(), of(entry)?))).collect()
    }

    fn entry(&self, name: &str) -> Result<&Entry, ProcessError> {
        self.entries.get(name).ok_or_else(|| ProcessError::Unknown { name: name.to_owned() })
    }
}

async fn end(name: &str, running: &mut Running, patience: Duration) -> Result<bool, ProcessError> {
    let failed = |source| ProcessError::End { name: name.to_owned(), source };
    drop(running.stdin.take());
    if let Ok(waited) = tokio::time::timeout(patience, running.child.wait()).await {
        waited.map_err(failed)?;
        return Ok(true);
    }
    running.child.kill().await.map_err(failed)?;
    Ok(false)
}

/// What a process holds in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct Memory {
    /// Now.
    pub resident_kib: u64,
    /// At the most.
    pub peak_kib: u64,
}

fn field_kib(status: &str, field: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix(field))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(name: &str, script: &str) -> Recipe {
        let arguments = vec!["-c".to_owned(), script.to_owned()];
        Recipe { name: name.to_owned(), program: "/bin/sh".into(), arguments }
    }

    #[tokio::test]
    async fn a_child_that_watches_its_input_ends_when_it_is_asked_to() {
        let directory = tempfile::tempdir().unwrap();
        let mut processes = Processes::new(directory.path().to_owned());
        processes.start(shell("reader", "echo up; cat")).unwrap();
        assert!(matches!(processes.start(shell("reader", "true")), Err(ProcessError::Running { .. })));
        assert!(processes.memory()["reader"].resident_kib > 0);
        assert!(processes.stop("reader", Duration::from_secs(5)).await.unwrap());
        assert_eq!(std::fs::read_to_string(processes.log_of("reader")).unwrap(), "up\n");
    }

    #[tokio::test]
    async fn a_child_that_does_not_listen_is_killed_and_can_be_started_again() {
        let directory = tempfile::tempdir().unwrap();
        let mut processes = Processes::new(directory.path().to_owned());
        processes.start(shell("deaf", "exec sleep 600")).unwrap();
        assert!(!processes.stop("deaf", Duration::from_millis(50)).await.unwrap());
        processes.start_again("deaf").unwrap();
        assert_eq!(processes.ended("deaf"), None);
        processes.kill("deaf").await.unwrap();
        assert!(processes.memory().is_empty());
    }

    #[tokio::test]
    async fn a_frozen_child_stands_still_until_it_is_thawed_and_is_known_by_its_id() {
        let directory = tempfile::tempdir().unwrap();
        let mut processes = Processes::new(directory.path().to_owned());
        processes.start(shell("clock", "while read line; do echo $line; done")).unwrap();
        let (id, name) = processes.roster().all().remove(0);
        assert_eq!(name, "clock");
        let state = || {
            let stat = std::fs::read_to_string(format!("/proc/{id}/stat")).unwrap();
            stat.rsplit(") ").next().unwrap().chars().next().unwrap()
        };
        let reaches = async |wanted: fn(char) -> bool| {
            let reached = async {
                while !wanted(state()) {
                    tokio::task::yield_now().await;
                }
            };
            tokio::time::timeout(Duration::from_secs(5), reached).await.is_ok()
        };
        processes.roster().freeze("clock").unwrap();
        assert!(reaches(|state| state == 'T').await);
        processes.roster().thaw("clock").unwrap();
        assert!(reaches(|state| state != 'T').await);
        assert!(matches!(processes.roster().freeze("nobody"), Err(ProcessError::Unknown { .. })));
    }

    #[tokio::test]
    async fn a_child_that_ends_by_itself_is_noticed() {
        let directory = tempfile::tempdir().unwrap();
        let mut processes = Processes::new(directory.path().to_owned());
        processes.start(shell("short", "exit 3")).unwrap();
        let fallen = loop {
            let fallen = processes.fallen();
            if !fallen.is_empty() {
                break fallen;
            }
            tokio::task::yield_now().await;
        };
        assert_eq!((fallen[0].0.as_str(), fallen[0].1.code()), ("short", Some(3)));
        assert!(matches!(processes.kill("nobody").await, Err(ProcessError::Unknown { .. })));
    }
}
