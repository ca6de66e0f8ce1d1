//! A PostgreSQL server for tests: started once for a whole test run, stopped when the run has ended.
//!
//! Each test has a process of its own, so the first one that comes starts the server, under a lock, and a watchdog
//! stops it when the runner is gone. The server never runs as root. Databases are made anew for each test.

use std::fs::File;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio_postgres::NoTls;

const SETTINGS: &str = "\
listen_addresses = '127.0.0.1'
wal_level = logical
fsync = off
max_connections = 400
max_replication_slots = 64
max_wal_senders = 64
shared_buffers = 64MB
max_worker_processes = 4
autovacuum = off
logging_collector = off
lc_messages = 'C'
";
/// Passwords are asked of one role only.
const ACCESS: &str = "\
local all all trust
host all careful 127.0.0.1/32 scram-sha-256
host all all 127.0.0.1/32 trust
";
static DATABASES: AtomicU64 = AtomicU64::new(0);

/// Where the programs of the newest server on this machine are.
fn programs() -> PathBuf {
    let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let mut found: Vec<PathBuf> = versions.map(|entry| entry.path().join("bin")).collect();
    found.extend(std::env::var_os("PATH").iter().flat_map(std::env::split_paths));
    found.retain(|path| path.join("initdb").exists() && path.join("pg_ctl").exists());
    found.sort();
    found.pop().expect("PostgreSQL is installed: apt-get install postgresql")
}

/// A command as somebody who is not root.
fn unprivileged(program: &Path) -> Command {
    let is_root = std::fs::metadata("/proc/self").is_ok_and(|me| {
        use std::os::unix::fs::MetadataExt as _;
        me.uid() == 0
    });
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

fn run(command: &mut Command) {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// Makes a server in a new directory and starts it.
fn start(directory: &Path, settings: &str) -> u16 {
    let programs = programs();
    let data = directory.join("data");
    let shell = |script: String| run(unprivileged(Path::new("/bin/sh")).args(["-c", &script]));
    shell(format!("mkdir -p {}", directory.display()));
    run(unprivileged(&programs.join("initdb"))
        .args(["--no-sync", "--auth=trust", "--username=postgres", "--encoding=UTF8", "--locale=C.UTF-8", "-D"])
        .arg(&data));
    let port = free_port();
    let sockets = format!("port = {port}\nunix_socket_directories = '{}'\n", directory.display());
    shell(
        format!(
            "printf '%s' \"$0\" >> {data}/postgresql.conf; printf '%s' \"$1\" > {data}/pg_hba.conf",
            data = data.display()
        )
        .replace("\"$0\"", &quoted(&format!("{SETTINGS}{settings}{sockets}")))
        .replace("\"$1\"", &quoted(ACCESS)),
    );
    run(unprivileged(&programs.join("pg_ctl"))
        .args(["start", "--wait", "--timeout=60", "-D"])
        .arg(&data)
        .arg("-l")
        .arg(directory.join("log"))
        .stdout(Stdio::null())
        .stderr(Stdio::null()));
    port
}

fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "'\\''"))
}

/// Stops the server and removes its directory once process `pid` is gone.
#[expect(clippy::zombie_processes, reason = "the watchdog outlives this process on purpose")]
fn watch(directory: &Path, pid: u32) {
    let script = format!(
        "while kill -0 {pid} 2>/dev/null; do sleep 1; done; {pg_ctl} stop -m immediate -D {dir}/data; rm -rf {dir}",
        pg_ctl = programs().join("pg_ctl").display(),
        dir = directory.display()
    );
    // The runner may be root's, whom others cannot signal: the watchdog asks the process table instead.
    let script = script.replace(&format!("kill -0 {pid} 2>/dev/null"), &format!("[ -d /proc/{pid} ]"));
    let mut command = unprivileged(Path::new("/bin/sh"));
    command.args(["-c", &script]).stdout(Stdio::null()).stderr(Stdio::null());
    command.spawn().unwrap();
}

/// The port of the run's server.
fn shared() -> u16 {
    let runner = std::os::unix::process::parent_id();
    let run_id = std::env::var("NEXTEST_RUN_ID").unwrap_or_else(|_| format!("{runner}"));
    let directory = std::env::temp_dir().join(format!("cellway-pg-{run_id}"));
    let port_path = directory.join("port");
    let lock_path = std::env::temp_dir().join("cellway-pg.lock");
    let lock = File::options().create(true).truncate(false).write(true).open(lock_path).unwrap();
    lock.lock().unwrap();
    if let Ok(port) = std::fs::read_to_string(&port_path) {
        return port.parse().unwrap();
    }
    let port = start(&directory, "");
    watch(&directory, runner);
    std::fs::write(&port_path, port.to_string()).unwrap();
    port
}

/// A session of the superuser, or of another role.
pub(crate) async fn session(url: &str) -> tokio_postgres::Client {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

/// A new, empty database on the run's server.
pub(crate) async fn database() -> String {
    let port = tokio::task::spawn_blocking(shared).await.unwrap();
    database_on(port).await
}

async fn database_on(port: u16) -> String {
    let name = format!("d{}_{}", std::process::id(), DATABASES.fetch_add(1, Ordering::SeqCst));
    let client = session(&format!("postgres://postgres@127.0.0.1:{port}/postgres")).await;
    client.batch_execute(&format!("CREATE DATABASE {name}")).await.unwrap();
    format!("postgres://postgres@127.0.0.1:{port}/{name}")
}

/// A server of the test's own, for what would disturb others.
pub(crate) struct Own {
    directory: PathBuf,
    port: u16,
}

impl Own {
    pub(crate) async fn start(settings: &'static str) -> Self {
        let number = DATABASES.fetch_add(1, Ordering::SeqCst);
        let directory = std::env::temp_dir().join(format!("cellway-pg-own-{}-{number}", std::process::id()));
        let at = directory.clone();
        let port = tokio::task::spawn_blocking(move || {
            let port = start(&at, settings);
            watch(&at, std::process::id());
            port
        });
        Self { directory, port: port.await.unwrap() }
    }

    pub(crate) async fn database(&self) -> String {
        database_on(self.port).await
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        let mut stop = unprivileged(&programs().join("pg_ctl"));
        stop.args(["stop", "-m", "immediate", "-D"]).arg(self.directory.join("data"));
        let _stopped = stop.stdout(Stdio::null()).stderr(Stdio::null()).status();
    }
}

/// Waits until `sql` answers true, at most ten seconds.
pub(crate) async fn until_true(client: &tokio_postgres::Client, sql: &str) {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        if client.query_one(sql, &[]).await.unwrap().get(0) {
            return;
        }
        assert!(Instant::now() < deadline, "not within ten seconds: {sql}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
