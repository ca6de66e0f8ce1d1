//! Connections to the cell's database: a small pool for short statements, sessions of their own for what holds a lock
//! or a setting, and the replication connection.
//!
//! All of them write values in the same form, whatever the server's settings: two cells must read alike.

use std::sync::Arc;
use std::time::Duration;

use deadpool_postgres::{Manager, ManagerConfig, Object, Pool, RecyclingMethod, Runtime};
use pgwire_replication::{Lsn, ReplicationConfig};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_postgres::config::Host;
use tokio_postgres::{Client, Config};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::address::{AddressInvalid, DatabaseAddress};
use super::fault::Fault;
use super::layout::Layout;
use super::options::DatabaseOptions;
use super::tls::Tls;
use super::tunnel::Tunnel;
use crate::error::AgentError;

const CONNECT_MAX: Duration = Duration::from_secs(3);
/// Where a server listens of which nothing else is said.
const PORT: u16 = 5432;
/// Connections of the pool,
const POOL: usize = 8;
/// of that of one tenant's database,
const POOL_OF_ONE: usize = 4;
/// and after how long without use these are closed.
const REST: Duration = Duration::from_secs(3);
/// Sessions in all tenants' databases together that look at tables,
const LOOKS: usize = 16;
/// and those that read rows, which they may do for hours. Sessions of which a tenant has no more than one, as the seal's, are not
/// counted: nobody waits behind another tenant's copy to be fenced.
const READERS: usize = 48;
/// After so long without an answer from the other end a connection is lost: the server's machine may be gone without a word.
const SILENCE: Duration = Duration::from_secs(30);
const ASK_AFTER: Duration = Duration::from_secs(10);
const ASK_EVERY: Duration = Duration::from_secs(5);
/// The form of values, where names are looked for, and that the server, too, gives up a connection of which it hears
/// nothing: it would keep the locks of a session for hours that its agent has given up.
const SETTINGS: &str = "-c timezone=UTC -c datestyle=ISO -c intervalstyle=postgres -c extra_float_digits=3 \
                        -c bytea_output=hex -c search_path=pg_catalog -c lc_monetary=C -c client_encoding=UTF8 \
                        -c tcp_keepalives_idle=10 -c tcp_keepalives_interval=5 -c tcp_keepalives_count=3 \
                        -c tcp_user_timeout=30000";
/// Whoever asks for less in the database's address has asked for it.
const DURABLE: &str = "synchronous_commit";

/// See the module.
pub(crate) struct Database {
    pub(crate) options: DatabaseOptions,
    pub(crate) layout: Layout,
    pub(crate) name: String,
    config: Config,
    tls: Tls,
    connector: MakeRustlsConnect,
    settings: String,
    pool: Pool,
    permits: Permits,
}

/// Sessions that all databases of an agent share.
#[derive(Clone)]
struct Permits {
    looks: Arc<Semaphore>,
    readers: Arc<Semaphore>,
}

/// How the reader of the log connects, and what carries its connection where it is by TLS.
pub(crate) struct Replica {
    pub(crate) config: ReplicationConfig,
    pub(crate) tunnel: Option<Tunnel>,
}

impl Database {
    /// The cell's own.
    pub(crate) fn new(options: DatabaseOptions) -> Result<Self, AgentError> {
        let layout = Layout::new(&options);
        let semaphore = |most| Arc::new(Semaphore::new(most));
        Self::called(None, options, layout, Permits { looks: semaphore(LOOKS), readers: semaphore(READERS) })
    }

    /// Another one on the same server. Its sessions are counted with those of the others.
    pub(crate) fn beside(&self, name: &str, layout: Layout) -> Result<Self, AgentError> {
        Self::called(Some(name), self.options.clone(), layout, self.permits.clone())
    }

    fn called(
        name: Option<&str>,
        options: DatabaseOptions,
        layout: Layout,
        permits: Permits,
    ) -> Result<Self, AgentError> {
        options.check()?;
        let address = DatabaseAddress::parse(&options.url)?;
        let tls = address.tls().clone();
        let (mut config, connector) = address.into_parts();
        let said = config.get_options().unwrap_or_default().to_owned();
        let durable = if said.contains(DURABLE) { String::new() } else { format!("-c {DURABLE}=on") };
        let settings = format!("{said} {SETTINGS} {durable}");
        if let Some(name) = name {
            config.dbname(name);
        }
        config.options(&settings).connect_timeout(CONNECT_MAX).application_name("cellway agent");
        config.keepalives_idle(ASK_AFTER).keepalives_interval(ASK_EVERY).tcp_user_timeout(SILENCE);
        if config.get_hosts().is_empty() || config.get_user().is_none() || config.get_dbname().is_none() {
            let rule = "it names host, user and database: postgres://user:password@host:port/database";
            return Err(AddressInvalid::Rule(rule.into()).into());
        }
        let manager = ManagerConfig { recycling_method: RecyclingMethod::Fast };
        let pool = Pool::builder(Manager::from_config(config.clone(), connector.clone(), manager))
            .max_size(if name.is_some() { POOL_OF_ONE } else { POOL })
            .runtime(Runtime::Tokio1)
            .wait_timeout(Some(CONNECT_MAX))
            .create_timeout(Some(CONNECT_MAX))
            .build()
            .map_err(|error| Fault::new("DATABASE_UNREACHABLE", error.to_string()))?;
        let name = config.get_dbname().unwrap_or_default().to_owned();
        Ok(Self { options, layout, name, config, tls, connector, settings, pool, permits })
    }

    /// What tells this database from all others, for names that are the whole server's.
    pub(crate) fn address(&self) -> String {
        let url = &self.options.url;
        if self.layout.is_whole() { format!("{url}#{}", self.name) } else { url.clone() }
    }

    /// A connection for a short while.
    pub(crate) async fn client(&self) -> Result<Object, Fault> {
        Ok(self.pool.get().await?)
    }

    /// Closes connections that nobody has used for a while.
    pub(crate) fn rest(&self) {
        if self.layout.is_whole() {
            self.pool.retain(|_, used| used.last_used() < REST);
        }
    }

    /// A connection of its own, to look at tables. It ends when it is dropped, and the server lets go of its locks.
    pub(crate) async fn session(&self) -> Result<Client, Fault> {
        self.connect_with(self.permit(&self.permits.looks, LOOKS).await?).await
    }

    /// The same to read rows, for as long as that takes.
    pub(crate) async fn reader(&self) -> Result<Client, Fault> {
        self.connect_with(self.permit(&self.permits.readers, READERS).await?).await
    }

    async fn permit(&self, of: &Arc<Semaphore>, most: usize) -> Result<Option<OwnedSemaphorePermit>, Fault> {
        if !self.layout.is_whole() {
            return Ok(None);
        }
        let permit = tokio::time::timeout(CONNECT_MAX, Arc::clone(of).acquire_owned()).await;
        let busy = || {
            let reason = format!("{most} sessions in tenants' databases do the same already: it is tried again");
            Fault::new("DATABASE_CONNECTIONS", reason)
        };
        permit.ok().and_then(Result::ok).map(Some).ok_or_else(busy)
    }

    /// The same for what lasts as long as the agent, or next to no time, or of which a tenant has one.
    pub(crate) async fn connect(&self) -> Result<Client, Fault> {
        self.connect_with(None).await
    }

    async fn connect_with(&self, permit: Option<OwnedSemaphorePermit>) -> Result<Client, Fault> {
        let connecting = tokio::time::timeout(CONNECT_MAX, self.config.connect(self.connector.clone()));
        let (client, connection) =
            connecting.await.map_err(|_| Fault::new("DATABASE_UNREACHABLE", "no answer in time"))??;
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a session with the database has ended");
            }
            drop(permit);
        });
        Ok(client)
    }

    /// What the replication client is told. Over TLS, the server is reached by now.
    pub(crate) async fn replication(&self, slot: &str, publication: &str) -> Result<Replica, Fault> {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let host = match self.config.get_hosts().first() {
            Some(Host::Tcp(host)) => host.clone(),
            #[cfg(unix)]
            Some(Host::Unix(path)) => path.display().to_string(),
            None => String::new(),
        };
        let port = self.config.get_ports().first().copied();
        let tunnel = match self.tls.is_on() {
            true => Some(Tunnel::open(&self.tls, &host, port.unwrap_or(PORT), CONNECT_MAX).await?),
            false => None,
        };
        let mut config = ReplicationConfig::new(
            tunnel.as_ref().map_or(host, Tunnel::host),
            self.config.get_user().unwrap_or_default(),
            self.config.get_password().map(text).unwrap_or_default(),
            &self.name,
            slot,
            publication,
        )
        .with_options(&self.settings)
        .with_application_name("cellway capture")
        .with_status_interval(Duration::from_millis(500))
        .with_wakeup_interval(Duration::from_millis(500))
        .with_max_message_size(64 * 1024 * 1024)
        .with_start_lsn(Lsn(0));
        if let Some(port) = port {
            config = config.with_port(port);
        }
        Ok(Replica { config, tunnel })
    }

    /// Has the server give up what a session waits for.
    pub(crate) async fn cancel(&self, session: &Client) {
        let token = session.cancel_token();
        let cancelled = token.cancel_query(self.connector.clone());
        if let Ok(Err(error)) = tokio::time::timeout(CONNECT_MAX, cancelled).await {
            tracing::debug!(%error, "a statement could not be given up");
        }
    }

    pub(crate) fn close(&self) {
        self.pool.close();
    }
}
