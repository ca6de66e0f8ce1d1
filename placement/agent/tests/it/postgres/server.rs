//! A PostgreSQL server for tests: started once for a whole test run, stopped when the run has ended.
//!
//! Each test has a process of its own, so the first one that comes starts the server, under a lock, and a watchdog
//! stops it when the runner is gone. The server never runs as root. Databases are made anew for each test; whatever slots a test
//! leaves behind are dropped by the next ones.

use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use cell_pg_server::{Options, Server};
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
host replication all 127.0.0.1/32 trust
host all all 127.0.0.1/32 trust
";
static DATABASES: AtomicU64 = AtomicU64::new(0);

fn start(directory: PathBuf, settings: &str, until: u32) -> Server {
    let settings = format!("{SETTINGS}{settings}");
    Server::start(&Options { directory, settings, access: Some(ACCESS.into()), until }).unwrap()
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
    let port = start(directory, "", runner).leave();
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
    database_on(port, "postgres").await
}

async fn database_on(port: u16, role: &str) -> String {
    // A machine may give a process the id of one that has ended in the same run.
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_micros();
    let name = format!("d{}_{}_{now}", std::process::id(), DATABASES.fetch_add(1, Ordering::SeqCst));
    let client = session(&format!("postgres://{role}@127.0.0.1:{port}/postgres")).await;
    drop_slots_of_the_dead(&client).await;
    client.batch_execute(&format!("CREATE DATABASE {name}")).await.unwrap();
    format!("postgres://{role}@127.0.0.1:{port}/{name}")
}

/// A test whose process has ended needs none, and the server has not many.
async fn drop_slots_of_the_dead(client: &tokio_postgres::Client) {
    let idle =
        "SELECT slot_name::text, substring(database FROM '^d([0-9]+)_') FROM pg_replication_slots WHERE NOT active";
    for row in client.query(idle, &[]).await.unwrap() {
        let (slot, process): (String, Option<String>) = (row.get(0), row.get(1));
        if process.is_some_and(|process| !std::path::Path::new("/proc").join(process).exists()) {
            // Another test may have done it meanwhile.
            let _ = client.query("SELECT pg_drop_replication_slot($1::text::name)", &[&slot]).await;
        }
    }
}

/// A server of the test's own, for what would disturb others.
pub(crate) struct Own {
    server: Arc<Server>,
}

impl Own {
    pub(crate) async fn start(settings: &'static str) -> Self {
        let number = DATABASES.fetch_add(1, Ordering::SeqCst);
        let directory = std::env::temp_dir().join(format!("cellway-pg-own-{}-{number}", std::process::id()));
        let starting = move || start(directory, settings, std::process::id());
        Self { server: Arc::new(tokio::task::spawn_blocking(starting).await.unwrap()) }
    }

    pub(crate) async fn database(&self) -> String {
        database_on(self.server.port(), "postgres").await
    }

    /// A server that streams from this one, and is where it is by now.
    pub(crate) async fn standby(&self) -> Self {
        let number = DATABASES.fetch_add(1, Ordering::SeqCst);
        let directory = std::env::temp_dir().join(format!("cellway-pg-own-{}-{number}", std::process::id()));
        let primary = Arc::clone(&self.server);
        let starting = move || primary.standby(directory, std::process::id()).unwrap();
        let standby = Self { server: Arc::new(tokio::task::spawn_blocking(starting).await.unwrap()) };
        standby.catch_up(self).await;
        standby
    }

    /// Waits until this standby has what its primary has by now.
    pub(crate) async fn catch_up(&self, primary: &Self) {
        let at = session(&primary.server.url()).await;
        let at: String = at.query_one("SELECT pg_current_wal_flush_lsn()::text", &[]).await.unwrap().get(0);
        let caught_up = format!("SELECT pg_last_wal_replay_lsn() >= '{at}'::pg_lsn");
        until_true(&session(&self.server.url()).await, &caught_up).await;
    }

    /// Stands still for so long, and goes on by itself.
    pub(crate) async fn freeze(&self, lasting: Duration) {
        let server = Arc::clone(&self.server);
        let paused = tokio::task::spawn_blocking(move || server.pause()).await.unwrap().unwrap();
        tokio::spawn(async move {
            tokio::time::sleep(lasting).await;
            drop(paused);
        });
    }

    /// Ends, in order, and nothing of it is there until it is started again.
    pub(crate) async fn stop(&self) {
        let server = Arc::clone(&self.server);
        tokio::task::spawn_blocking(move || server.stop()).await.unwrap().unwrap();
    }

    pub(crate) async fn start_again(&self) {
        let server = Arc::clone(&self.server);
        tokio::task::spawn_blocking(move || server.start_again()).await.unwrap().unwrap();
    }

    /// This standby is promoted at the address of its primary, which crashes.
    pub(crate) async fn take_the_place_of(&self, primary: Self) {
        let standby = Arc::clone(&self.server);
        let promoted = move || {
            primary.server.crash().unwrap();
            // It may be stopped already.
            let _stopped = standby.stop();
            standby.promote_at(primary.server.port()).unwrap();
        };
        tokio::task::spawn_blocking(promoted).await.unwrap();
    }

    /// The same where a role is let in that is called so.
    pub(crate) async fn database_as(&self, role: &str) -> String {
        database_on(self.server.port(), role).await
    }

    /// Is there again with these files in its directory.
    pub(crate) async fn restart_with(&self, files: impl IntoIterator<Item = (&'static str, String)>) {
        for (name, text) in files {
            self.server.put(name, &text).unwrap();
        }
        self.crash().await;
    }

    /// Crashes, and is there again.
    pub(crate) async fn crash(&self) {
        let server = Arc::clone(&self.server);
        let crashed = tokio::task::spawn_blocking(move || server.crash().and_then(|()| server.start_again()));
        crashed.await.unwrap().unwrap();
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
