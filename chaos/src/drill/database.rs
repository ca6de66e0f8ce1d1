//! PostgreSQL servers of cells, one for each, and who overloads them: somebody who locks rows, or takes sessions.
//!
//! A server listens on loopback and runs as a user who is not root. It ends with this process, whatever ends that.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use cell_pg_server::{Options, Server, ServerError};
use tokio::task::JoinHandle;
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, Config, NoTls};

use super::Act;
use super::script::{Runner, Trouble, said};

/// The lane of what is wrong with databases.
const LANE: &str = "database";
/// Small, and with few sessions: they are to be taken.
const SETTINGS: &str = "\
listen_addresses = '127.0.0.1'
wal_level = logical
max_connections = 60
max_replication_slots = 8
max_wal_senders = 8
shared_buffers = 32MB
logging_collector = off
lc_messages = 'C'
";
/// More than there are.
const SESSIONS_MAX: usize = 200;
/// Who takes sessions: the last few are left for superusers, as the agent is one here.
const GUEST: &str = "cellway_drill";
const ANSWERS_WITHIN: Duration = Duration::from_secs(10);

/// The servers of a drill, by cell.
#[derive(Debug, Default)]
pub(super) struct Databases {
    servers: BTreeMap<String, Arc<Server>>,
    guests: Vec<(String, Guest)>,
    killed: Vec<String>,
}

/// A session of somebody who is no part of the fleet. It ends when this is dropped.
#[derive(Debug)]
struct Guest {
    client: Client,
    driver: JoinHandle<()>,
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

impl Guest {
    async fn enter(url: &str, role: Option<&str>) -> Result<Self, tokio_postgres::Error> {
        let mut config: Config = url.parse()?;
        config.connect_timeout(ANSWERS_WITHIN);
        if let Some(role) = role {
            config.user(role);
        }
        let (client, connection) = config.connect(NoTls).await?;
        let driver = tokio::spawn(async move {
            // How it ends, whoever uses the session is told.
            let _ended = connection.await;
        });
        Ok(Self { client, driver })
    }

    /// How many statements wait for a lock.
    async fn waiting(&self) -> Result<u64, tokio_postgres::Error> {
        let count = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'";
        let count: i64 = self.client.query_one(count, &[]).await?.get(0);
        Ok(count.unsigned_abs())
    }
}

impl Databases {
    /// Starts a server for each of these cells. `run` is what the run is called.
    ///
    /// # Errors
    /// Why there is none; those that were started end.
    pub(super) async fn start(cells: &[String], run: &str) -> Result<Self, ServerError> {
        let starting = cells.iter().map(|cell| {
            // The server's user must be able to go there, which is nobody who may look into the drill's own directory.
            let directory = std::env::temp_dir().join(format!("{run}-{cell}-database"));
            let options = Options { directory, settings: SETTINGS.into(), access: None, until: std::process::id() };
            let cell = cell.clone();
            tokio::task::spawn_blocking(move || Ok((cell, Arc::new(Server::start(&options)?))))
        });
        let started = futures::future::join_all(starting).await.into_iter();
        let servers: Result<_, ServerError> =
            started.map(|one| one.expect("starting a server does not panic")).collect();
        Ok(Self { servers: servers?, ..Self::default() })
    }

    /// Where each cell's is, in the order of cells.
    pub(super) fn urls(&self) -> Vec<String> {
        self.servers.values().map(|server| server.url()).collect()
    }

    fn of(&self, cell: &str) -> Result<Arc<Server>, Trouble> {
        self.servers.get(cell).cloned().ok_or_else(|| format!("{cell} has no database of its own"))
    }

    /// Ends the servers and takes away what they have kept.
    pub(super) async fn remove(self) {
        if let Err(error) = tokio::task::spawn_blocking(move || drop(self)).await {
            tracing::error!(%error, "the servers of databases have ended badly");
        }
    }
}

impl Runner {
    pub(super) async fn database(&mut self, act: &Act) -> Result<(), Trouble> {
        match act {
            Act::LockRows(tenant) => self.lock_rows(*tenant).await,
            Act::TakeSessions(who) => {
                for cell in self.names(*who).await? {
                    self.take_sessions(&cell).await?;
                }
                Ok(())
            }
            Act::KillDatabase(who) => {
                for cell in self.names(*who).await? {
                    let server = self.databases.of(&cell)?;
                    blocking(move || server.crash()).await?;
                    self.databases.killed.push(cell.clone());
                    self.open(LANE, &format!("{cell} has no database: its server is killed"));
                }
                Ok(())
            }
            Act::StartDatabase(who) => {
                for cell in self.names(*who).await? {
                    self.start_database(&cell).await?;
                }
                Ok(())
            }
            _ => {
                self.let_go().await;
                Ok(())
            }
        }
    }

    async fn lock_rows(&mut self, tenant: usize) -> Result<(), Trouble> {
        let home = self.evidence.homes[tenant].clone();
        let cell = self.fleet.cells[home.cell].id.to_string();
        let url = self.databases.of(&cell)?.url();
        let guest = Guest::enter(&url, None).await.map_err(|error| said(&error))?;
        let locked = "SELECT version FROM tallies WHERE tenant_id = $1 FOR UPDATE";
        guest.client.batch_execute("BEGIN").await.map_err(|error| said(&error))?;
        let rows = guest.client.query(locked, &[&&*home.name]).await.map_err(|error| said(&error))?;
        if rows.is_empty() {
            return Err(format!("{cell} has no row of {} to lock", home.name));
        }
        self.databases.guests.push((cell.clone(), guest));
        self.open(LANE, &format!("{cell}: a long transaction has locked rows of {}", home.name));
        Ok(())
    }

    async fn take_sessions(&mut self, cell: &str) -> Result<(), Trouble> {
        self.count_waiting().await;
        let url = self.databases.of(cell)?.url();
        let make =
            format!("DO $$ BEGIN CREATE ROLE {GUEST} LOGIN; EXCEPTION WHEN duplicate_object THEN NULL; END $$");
        let admin = Guest::enter(&url, None).await.map_err(|error| said(&error))?;
        admin.client.batch_execute(&make).await.map_err(|error| said(&error))?;
        drop(admin);
        let before = self.databases.guests.len();
        loop {
            match Guest::enter(&url, Some(GUEST)).await {
                Ok(guest) => self.databases.guests.push((cell.to_owned(), guest)),
                Err(error) if error.code() == Some(&SqlState::TOO_MANY_CONNECTIONS) => break,
                Err(error) => return Err(said(&error)),
            }
            if self.databases.guests.len() > SESSIONS_MAX {
                return Err(format!("the database of {cell} has sessions without end"));
            }
        }
        let taken = self.databases.guests.len() - before;
        self.evidence.sessions_taken.push(format!("{cell}: {taken}"));
        self.open(LANE, &format!("{cell} has a database that takes no more sessions: {taken} were left"));
        Ok(())
    }

    /// How many statements wait at this moment, if it is more than before.
    async fn count_waiting(&mut self) {
        for (cell, guest) in &self.databases.guests {
            match tokio::time::timeout(ANSWERS_WITHIN, guest.waiting()).await {
                Ok(Ok(waiting)) => self.evidence.locked_out = self.evidence.locked_out.max(waiting),
                Ok(Err(error)) => tracing::warn!(%error, cell, "the database does not say who waits"),
                Err(_) => tracing::warn!(cell, "the database does not say in time who waits"),
            }
        }
    }

    async fn let_go(&mut self) {
        if self.databases.guests.is_empty() {
            return;
        }
        self.count_waiting().await;
        self.databases.guests.clear();
        self.close(LANE, None);
    }

    async fn start_database(&mut self, cell: &str) -> Result<(), Trouble> {
        let server = self.databases.of(cell)?;
        blocking(move || server.start_again()).await?;
        self.databases.killed.retain(|other| other != cell);
        self.close(LANE, Some(cell));
        Ok(())
    }

    /// Whatever the script has left as it was.
    pub(super) async fn let_go_of_databases(&mut self) {
        self.let_go().await;
        for cell in self.databases.killed.clone() {
            if let Err(trouble) = self.start_database(&cell).await {
                self.trouble(trouble);
            }
        }
    }
}

async fn blocking(work: impl FnOnce() -> Result<(), ServerError> + Send + 'static) -> Result<(), Trouble> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|error| said(&error))?.map_err(|error| said(&error))
}
