//! Two PostgreSQL servers, made for a run and removed after it. They never run as root, and they sync what they commit.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

const SETTINGS: &str = "\
listen_addresses = '127.0.0.1'
wal_level = logical
max_connections = 200
max_replication_slots = 16
max_wal_senders = 16
max_slot_wal_keep_size = '8GB'
max_wal_size = '4GB'
shared_buffers = 512MB
checkpoint_timeout = 30min
logging_collector = off
lc_messages = 'C'
";

/// A server.
#[derive(Debug)]
pub(crate) struct Server {
    directory: PathBuf,
    programs: PathBuf,
    port: u16,
}

/// Where the programs of the newest server on this machine are.
fn programs() -> Result<PathBuf> {
    let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let mut found: Vec<PathBuf> = versions.map(|entry| entry.path().join("bin")).collect();
    found.extend(std::env::var_os("PATH").iter().flat_map(std::env::split_paths));
    found.retain(|path| path.join("initdb").exists() && path.join("psql").exists());
    found.sort();
    found.pop().context("no PostgreSQL on this machine: apt-get install postgresql")
}

/// A command as somebody who is not root.
pub(crate) fn unprivileged(program: &Path) -> Command {
    use std::os::unix::fs::MetadataExt as _;
    let is_root = std::fs::metadata("/proc/self").is_ok_and(|me| me.uid() == 0);
    let mut command = if is_root {
        let mut command = Command::new("runuser");
        command.args(["-u", "postgres", "--"]).arg(program);
        command
    } else {
        Command::new(program)
    };
    command.current_dir("/").stdin(Stdio::null());
    command
}

fn run(command: &mut Command) -> Result<()> {
    let output = command.output()?;
    if output.status.success() {
        return Ok(());
    }
    bail!("{command:?}: {}", String::from_utf8_lossy(&output.stderr))
}

impl Server {
    pub(crate) fn start(directory: &Path) -> Result<Self> {
        let programs = programs()?;
        let data = directory.join("data");
        run(unprivileged(Path::new("/bin/mkdir")).arg("-p").arg(directory))?;
        run(unprivileged(&programs.join("initdb"))
            .args(["--auth=trust", "--username=postgres", "--encoding=UTF8", "--locale=C.UTF-8", "-D"])
            .arg(&data))?;
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let settings = format!("{SETTINGS}port = {port}\nunix_socket_directories = '{}'\n", directory.display());
        let append = format!("cat >> '{}/postgresql.conf' <<'END'\n{settings}END\n", data.display());
        run(unprivileged(Path::new("/bin/sh")).args(["-c", &append]))?;
        let server = Self { directory: directory.to_owned(), programs, port };
        run(unprivileged(&server.programs.join("pg_ctl"))
            .args(["start", "--wait", "--timeout=60", "-D"])
            .arg(&data)
            .arg("-l")
            .arg(directory.join("log"))
            .stdout(Stdio::null()))?;
        Ok(server)
    }

    pub(crate) fn url(&self) -> String {
        format!("postgres://postgres@127.0.0.1:{}/postgres", self.port)
    }

    pub(crate) fn psql(&self) -> PathBuf {
        self.programs.join("psql")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let mut stop = unprivileged(&self.programs.join("pg_ctl"));
        stop.args(["stop", "-m", "immediate", "-D"]).arg(self.directory.join("data"));
        let _stopped = stop.stdout(Stdio::null()).stderr(Stdio::null()).status();
        let _removed = unprivileged(Path::new("/bin/rm")).arg("-rf").arg(&self.directory).status();
    }
}
