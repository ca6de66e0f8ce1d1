//! One server: made, started, watched, stopped.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher as _;
use std::mem::ManuallyDrop;
use std::net::TcpListener;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::pause::Paused;

/// Below those that the kernel gives to connections and to whoever listens at port 0.
const PORTS: std::ops::Range<u16> = 20_000..32_000;
/// How many are tried that are taken.
const PORT_TRIES: u32 = 100;

/// What a server is to be like.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where its data and its log go: a directory that is not there yet, where the user `postgres` may make one.
    pub directory: PathBuf,
    /// Lines of `postgresql.conf`, besides port and sockets.
    pub settings: String,
    /// The whole `pg_hba.conf`, where it is not to be that of `initdb --auth=trust`.
    pub access: Option<String>,
    /// The process that it is for: once that is gone, it is stopped and removed.
    pub until: u32,
}

/// Why there is no server.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// Its programs are not there.
    #[error("no PostgreSQL on this machine: apt-get install postgresql")]
    NotInstalled,
    /// There is no port.
    #[error("no port is free")]
    NoPort(#[source] std::io::Error),
    /// Its processes cannot be found, or stopped.
    #[error("the server cannot be made to stand still")]
    NotPaused(#[source] std::io::Error),
    /// A program could not be run.
    #[error("cannot run {program}")]
    NotRun {
        /// Which.
        program: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A program has failed.
    #[error("{program} has failed: {said}")]
    Failed {
        /// Which.
        program: PathBuf,
        /// What it said.
        said: String,
    },
}

/// A server that runs.
#[derive(Debug)]
pub struct Server {
    directory: PathBuf,
    programs: PathBuf,
    port: u16,
}

/// Where the programs of the newest server on this machine are.
fn programs() -> Result<PathBuf, ServerError> {
    let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let mut found: Vec<PathBuf> = versions.map(|entry| entry.path().join("bin")).collect();
    found.extend(std::env::var_os("PATH").iter().flat_map(std::env::split_paths));
    found.retain(|path| ["initdb", "pg_ctl", "psql"].iter().all(|program| path.join(program).exists()));
    found.sort();
    found.pop().ok_or(ServerError::NotInstalled)
}

/// Whether there can be a server here at all.
///
/// # Errors
/// [`ServerError::NotInstalled`]
pub fn installed() -> Result<(), ServerError> {
    programs().map(|_| ())
}

/// A command as somebody who is not root.
#[must_use]
pub fn unprivileged(program: &Path) -> Command {
    let mut command = if rustix::process::geteuid().is_root() {
        let mut command = Command::new("runuser");
        command.args(["-u", "postgres", "--"]).arg(program);
        command
    } else {
        Command::new(program)
    };
    command.current_dir("/").stdin(Stdio::null());
    command
}

fn run(program: &Path, say: impl FnOnce(&mut Command)) -> Result<(), ServerError> {
    let mut command = unprivileged(program);
    say(&mut command);
    let output = command.output().map_err(|source| ServerError::NotRun { program: program.to_owned(), source })?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(ServerError::Failed { program: program.to_owned(), said })
}

/// Hands `args` to a script as `$0`, `$1` and so on: nothing in them needs to be quoted.
fn shell(script: &str, args: &[&str]) -> Result<(), ServerError> {
    run(Path::new("/bin/sh"), |command| {
        command.arg("-c").arg(script).args(args);
    })
}

/// A port that nobody is given by the kernel: the server may stop, and has it when it is started again.
fn free_port() -> std::io::Result<u16> {
    let mut tries = PORT_TRIES;
    loop {
        let chosen = RandomState::new().hash_one(tries) % u64::from(PORTS.end - PORTS.start);
        let port = PORTS.start + u16::try_from(chosen).unwrap_or_default();
        match TcpListener::bind(("127.0.0.1", port)) {
            Ok(_free) => return Ok(port),
            Err(_taken) if tries > 0 => tries -= 1,
            Err(error) => return Err(error),
        }
    }
}

impl Server {
    /// Makes a server in a new directory and starts it. Returns when it answers.
    pub fn start(options: &Options) -> Result<Self, ServerError> {
        let programs = programs()?;
        let directory = options.directory.display().to_string();
        shell("mkdir -p \"$0\"", &[&directory])?;
        run(&programs.join("initdb"), |command| {
            command.args([
                "--no-sync",
                "--auth=trust",
                "--username=postgres",
                "--encoding=UTF8",
                "--locale=C.UTF-8",
            ]);
            command.arg("-D").arg(options.directory.join("data"));
        })?;
        let port = free_port().map_err(ServerError::NoPort)?;
        let settings = format!("{}\n", options.settings);
        shell("printf %s \"$1\" >> \"$0/data/postgresql.conf\"", &[&directory, &settings])?;
        if let Some(access) = &options.access {
            shell("printf %s \"$1\" > \"$0/data/pg_hba.conf\"", &[&directory, access])?;
        }
        let server = Self { directory: options.directory.clone(), programs, port };
        // Before it is started: whoever ends this process now leaves nothing behind.
        server.watch(options.until)?;
        server.start_again()?;
        Ok(server)
    }

    /// Ends it as a power cut would: nothing is written that is not on its way to the disk.
    pub fn crash(&self) -> Result<(), ServerError> {
        self.control(&["stop", "--wait", "-m", "immediate"])
    }

    /// Lets it stand still, as a machine does that hangs, until the answer is dropped.
    pub fn pause(&self) -> Result<Paused, ServerError> {
        Paused::begin(&self.directory.join("data")).map_err(ServerError::NotPaused)
    }

    /// Writes a file of its data directory, as it would itself: nobody else may read it.
    pub fn put(&self, name: &str, text: &str) -> Result<(), ServerError> {
        let path = self.directory.join("data").join(name).display().to_string();
        shell("umask 077 && printf %s \"$1\" > \"$0\"", &[&path, text])
    }

    /// Starts it again, at the same port. Returns when it answers.
    pub fn start_again(&self) -> Result<(), ServerError> {
        self.start_at(self.port)
    }

    fn start_at(&self, port: u16) -> Result<(), ServerError> {
        let directory = self.directory.display();
        let (log, listen) = (format!("{directory}/log"), format!("-p {port} -k {directory}"));
        self.control(&["start", "--wait", "--timeout=60", "-l", &log, "-o", &listen])
    }

    /// A standby that streams from this server, of which `pg_hba.conf` has to let replication in. It is at a port of its own, until
    /// that process is gone. Returns when it answers.
    pub fn standby(&self, directory: PathBuf, until: u32) -> Result<Self, ServerError> {
        shell("mkdir -p \"$0\"", &[&directory.display().to_string()])?;
        run(&self.programs.join("pg_basebackup"), |command| {
            command.args(["--no-sync", "--checkpoint=fast", "--wal-method=stream", "--write-recovery-conf"]);
            command.args(["--host=127.0.0.1", "--username=postgres", "--port", &self.port.to_string()]);
            command.arg("-D").arg(directory.join("data"));
        })?;
        let port = free_port().map_err(ServerError::NoPort)?;
        let standby = Self { directory, programs: self.programs.clone(), port };
        standby.watch(until)?;
        standby.start_again()?;
        Ok(standby)
    }

    /// Ends it in order: a standby is where its primary was by then.
    pub fn stop(&self) -> Result<(), ServerError> {
        self.control(&["stop", "--wait", "-m", "fast"])
    }

    /// Starts a standby that was stopped, in the place of its primary, which is gone, and promotes it. Returns when it takes writes.
    pub fn promote_at(&self, port: u16) -> Result<(), ServerError> {
        self.start_at(port)?;
        self.control(&["promote", "--wait", "--timeout=60"])
    }

    /// The server would keep an open end of what it is started with, and whoever reads the other end would wait for it.
    fn control(&self, args: &[&str]) -> Result<(), ServerError> {
        let program = self.programs.join("pg_ctl");
        let mut command = unprivileged(&program);
        command.args(args).arg("-D").arg(self.directory.join("data")).stdout(Stdio::null()).stderr(Stdio::null());
        let status = command.status().map_err(|source| ServerError::NotRun { program: program.clone(), source })?;
        if status.success() {
            return Ok(());
        }
        let said = std::fs::read_to_string(self.directory.join("log")).unwrap_or_else(|_| status.to_string());
        Err(ServerError::Failed { program, said })
    }

    /// Stops the server and removes its directory once process `pid` is gone. That may be root's, whom others cannot signal,
    /// so the process table is asked.
    fn watch(&self, pid: u32) -> Result<(), ServerError> {
        const SCRIPT: &str = "while [ -d \"/proc/$0\" ] && [ -d \"$1/data\" ]; do sleep 1; done; \
                              \"$2/pg_ctl\" stop -m immediate -D \"$1/data\"; rm -rf \"$1\"";
        let program = Path::new("/bin/sh");
        let mut command = unprivileged(program);
        command.args(["-c", SCRIPT, &pid.to_string()]).arg(&self.directory).arg(&self.programs);
        command.stdout(Stdio::null()).stderr(Stdio::null()).process_group(0);
        let spawned = command.spawn();
        spawned.map_err(|source| ServerError::NotRun { program: program.to_owned(), source })?;
        Ok(())
    }

    /// Its port on 127.0.0.1.
    #[must_use]
    pub const fn port(&self) -> u16 {
        self.port
    }

    /// Where its first database is, as the superuser.
    #[must_use]
    pub fn url(&self) -> String {
        format!("postgres://postgres@127.0.0.1:{}/postgres", self.port)
    }

    /// The program `psql` of its version.
    #[must_use]
    pub fn psql(&self) -> PathBuf {
        self.programs.join("psql")
    }

    /// Leaves it running until the process that it is for is gone. The answer is its port.
    #[must_use]
    pub fn leave(self) -> u16 {
        ManuallyDrop::new(self).port
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // What cannot be stopped now, the watchdog stops.
        let _stopped = self.control(&["stop", "-m", "immediate"]);
        let _removed = shell("rm -rf \"$0\"", &[&self.directory.display().to_string()]);
    }
}
