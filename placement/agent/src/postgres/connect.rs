//! Connections to the cell's database: a small pool for short statements, sessions of their own for what holds a lock
//! or a setting, and the replication connection.
//!
//! All of them write values in the same form, whatever the server's settings: two cells must read alike.

use std::time::Duration;

use deadpool_postgres::{Manager, ManagerConfig, Object, Pool, RecyclingMethod, Runtime};
use pgwire_replication::{Lsn, ReplicationConfig};
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
/// Connections of the pool.
const POOL: usize = 8;
/// The form of values, and where names are looked for.
const SETTINGS: &str = "-c timezone=UTC -c datestyle=ISO -c intervalstyle=postgres -c extra_float_digits=3 \
                        -c bytea_output=hex -c search_path=pg_catalog -c lc_monetary=C -c client_encoding=UTF8";
/// Whoever asks for less in the database's address has asked for it.
const DURABLE: &str = "synchronous_commit";

/// See the module.
pub(crate) struct Database {
    pub(crate) options: DatabaseOptions,
    pub(crate) layout: Layout,
    config: Config,
    tls: Tls,
    connector: MakeRustlsConnect,
    settings: String,
    pool: Pool,
}

/// How the reader of the log connects, and what carries its connection where it is by TLS.
pub(crate) struct Replica {
    pub(crate) config: ReplicationConfig,
    pub(crate) tunnel: Option<Tunnel>,
}

impl Database {
    pub(crate) fn new(options: DatabaseOptions) -> Result<Self, AgentError> {
        options.check()?;
        let address = DatabaseAddress::parse(&options.url)?;
        let tls = address.tls().clone();
        let (mut config, connector) = address.into_parts();
        let said = config.get_options().unwrap_or_default().to_owned();
        let durable = if said.contains(DURABLE) { String::new() } else { format!("-c {DURABLE}=on") };
        let settings = format!("{said} {SETTINGS} {durable}");
        config.options(&settings).connect_timeout(CONNECT_MAX).application_name("cellway agent");
        if config.get_hosts().is_empty() || config.get_user().is_none() || config.get_dbname().is_none() {
            let rule = "it names host, user and database: postgres://user:password@host:port/database";
            return Err(AddressInvalid::Rule(rule.into()).into());
        }
        let manager = ManagerConfig { recycling_method: RecyclingMethod::Fast };
        let pool = Pool::builder(Manager::from_config(config.clone(), connector.clone(), manager))
            .max_size(POOL)
            .runtime(Runtime::Tokio1)
            .wait_timeout(Some(CONNECT_MAX))
            .create_timeout(Some(CONNECT_MAX))
            .build()
            .map_err(|error| Fault::new("DATABASE_UNREACHABLE", error.to_string()))?;
        let layout = Layout::new(&options);
        Ok(Self { options, layout, config, tls, connector, settings, pool })
    }

    /// A connection for a short while.
    pub(crate) async fn client(&self) -> Result<Object, Fault> {
        Ok(self.pool.get().await?)
    }

    /// A connection of its own. It ends when it is dropped, and the server lets go of its locks.
    pub(crate) async fn session(&self) -> Result<Client, Fault> {
        let connecting = tokio::time::timeout(CONNECT_MAX, self.config.connect(self.connector.clone()));
        let (client, connection) =
            connecting.await.map_err(|_| Fault::new("DATABASE_UNREACHABLE", "no answer in time"))??;
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a session with the database has ended");
            }
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
            self.config.get_dbname().unwrap_or_default(),
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

    pub(crate) fn close(&self) {
        self.pool.close();
    }
}
