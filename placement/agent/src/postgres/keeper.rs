//! The session that holds the lock of an agent's database for as long as the agent lives.
//!
//! What cannot be taken back and cannot expect a record, as the making and dropping of a database, is done in this very session:
//! once another agent has the lock, this session has ended, and nothing comes through it any more.

use std::time::Duration;

use cell_model::Generation;
use tokio_postgres::Client;

use super::connect::Database;
use super::fault::Fault;
use super::records::{from_db, to_db};

/// Held by the agent of a database for as long as it lives.
const AGENT_LOCK: i64 = 0x0063_656c_6c61_6774;
/// A stopped agent's session may end a moment after it.
const LOCK_PATIENCE: Duration = Duration::from_secs(5);
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// Whoever asks whether the lock is held does not wait for longer behind what is said in its session.
const ASKED_MAX: Duration = Duration::from_secs(3);
/// What is said in the lock's session waits no longer for others, and lasts no longer.
const SAYING: &str = "SET lock_timeout = '5s'; SET statement_timeout = '60s'";

/// The lock that says that an agent runs on this database.
pub(crate) async fn keep(database: &Database) -> Result<Client, Fault> {
    let client = database.connect().await?;
    lock(&client).await?;
    Ok(client)
}

/// The same in a session that is there already.
pub(crate) async fn lock(client: &Client) -> Result<(), Fault> {
    let deadline = tokio::time::Instant::now() + LOCK_PATIENCE;
    loop {
        if client.query_one("SELECT pg_try_advisory_lock($1)", &[&AGENT_LOCK]).await?.get(0) {
            return Ok(());
        }
        if tokio::time::Instant::now() >= deadline {
            let reason = "another agent runs on this database: stop it, or give this cell a database of its own";
            return Err(Fault::new("AGENT_RUNNING", reason));
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// See the module.
pub(crate) struct Keeper {
    incarnation: Generation,
    client: tokio::sync::Mutex<Option<Client>>,
}

impl Keeper {
    pub(crate) fn new(incarnation: Generation, client: Client) -> Self {
        Self { incarnation, client: tokio::sync::Mutex::new(Some(client)) }
    }

    /// Says one statement in the session that holds the lock.
    pub(crate) async fn say(&self, sql: &str) -> Result<(), Fault> {
        let client = self.client.lock().await;
        let lost = || Fault::new("DATABASE_UNREACHABLE", "the session that holds the agent's lock is gone");
        let client = client.as_ref().ok_or_else(lost)?;
        client.batch_execute(SAYING).await?;
        Ok(client.batch_execute(sql).await?)
    }

    /// Whether the lock is held at this moment. Whatever was said in an earlier session of the lock is over then, and to be seen.
    pub(crate) async fn holds(&self) -> Result<(), Fault> {
        let asked = tokio::time::timeout(ASKED_MAX, self.say("SELECT 1")).await;
        asked.unwrap_or_else(|_| {
            let reason =
                "another database of this cell is being made or dropped, and that takes long: it is tried again";
            Err(Fault::new("BUSY", reason))
        })
    }

    /// Lets go of the lock.
    pub(crate) async fn release(&self) {
        // The session of a statement that lasts ends with the process.
        if let Ok(mut client) = tokio::time::timeout(ASKED_MAX, self.client.lock()).await {
            drop(client.take());
        }
    }

    /// Returns when the session has ended, or is given up because the database is somewhere else by now.
    pub(crate) async fn lost(&self, database: &Database, moved_away: impl Future<Output = ()>) {
        let ended = async {
            loop {
                tokio::time::sleep(LOOK_EVERY).await;
                database.rest();
                if self.client.lock().await.as_ref().is_none_or(Client::is_closed) {
                    return;
                }
            }
        };
        tokio::select! {
            () = ended => {}
            () = moved_away => drop(self.client.lock().await.take()),
        }
    }

    /// The session that holds the lock from now on.
    pub(crate) async fn put(&self, client: Client) {
        *self.client.lock().await = Some(client);
    }

    /// Takes the lock again. What another agent has done meanwhile, this one does not know.
    pub(crate) async fn again(&self, database: &Database) -> Result<Client, Fault> {
        let client = database.connect().await?;
        let locked = lock(&client).await;
        let row = client.query_opt("SELECT generation FROM cellway.agent", &[]).await?;
        let found = row.map(|row| row.get::<_, i64>(0));
        // Of a server that was put back to before this agent has started.
        let is_older = found.is_some_and(|found| found < to_db(self.incarnation.get()));
        if is_older || found == Some(to_db(self.incarnation.get())) {
            // Nobody else has run here: it is this agent's own last session that the server has not ended yet.
            let reason =
                "the session that held the agent's lock has not ended at the server yet: it is tried again";
            return locked.map(|()| client).map_err(|_| Fault::new("AGENT_LOCKED", reason));
        }
        let found = found.map_or_else(|| "no".to_owned(), |found| from_db(found).to_string());
        let reason = format!(
            "while this agent could not reach its database, another one has run on it (generation {found}, not {}): start this \
             one again",
            self.incarnation
        );
        Err(Fault::new("AGENT_RUNNING", reason))
    }
}
