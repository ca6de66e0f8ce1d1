//! Connections to the tenants' rows: one pool where all tenants are in one database, else a small one for each that is asked for.
//!
//! ```text
//! request ─► a place among its tenant's ─► a connection that is free, or a new one ─► statements, each within its time
//!             └──────────────── not in time: refused, nothing was executed ◄────┘
//! ```
//! Where tenants share a pool, one of them has at most half of it: what is slow of one leaves the others theirs. A database that
//! takes no more sessions is waited for as one is whose sessions are all busy.
//!
//! A tenant's own database is dropped only when nobody is connected to it, so what rests here is closed soon, asked or not.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use cell_agent::{DatabaseAddress, TenantDatabase};
use cell_model::TenantId;
use deadpool_postgres::{Manager, ManagerConfig, Object, Pool, PoolError, RecyclingMethod, Runtime};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout_at};

use super::tables::{Layout, TablesError};

/// Connections of one instance, where all tenants are in one database,
const POOL: usize = 16;
/// of which one tenant has so many at the most,
const SHARE: usize = POOL / 2;
/// and to each tenant's own.
const POOL_OF_ONE: usize = 4;
/// Tenants whose places are remembered though nobody has one.
const SHARES_KEPT: usize = 1_024;
/// How long a request waits for a connection,
const WAIT: Duration = Duration::from_secs(1);
/// how often it asks a server that takes no more sessions,
const ASK_EVERY: Duration = Duration::from_millis(20);
/// and what one of its statements may take, in milliseconds: longer than the longest hold of a move, in which it waits.
const STATEMENT_MS: u32 = 2_500;
/// Connections to a tenant's own database that nobody has used for so long are closed,
const REST: Duration = Duration::from_secs(1);
/// which is looked at so often.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// See the module.
pub(super) struct Pools {
    url: String,
    data: TenantDatabase,
    one: Option<Pool>,
    each: Mutex<BTreeMap<String, Pool>>,
    shares: Mutex<BTreeMap<TenantId, Arc<Semaphore>>>,
}

/// A connection, and its tenant's place.
pub(super) struct Lent {
    pub(super) client: Object,
    _place: OwnedSemaphorePermit,
}

/// Why there is no connection.
#[derive(Debug)]
pub(super) enum NoConnection {
    /// This cell has no rows of the tenant.
    NotHere,
    /// There was none in time.
    Busy(String),
    /// The database cannot be reached, or does not let anybody in.
    Failed(Box<dyn std::error::Error + Send + Sync>),
}

impl Pools {
    pub(super) fn new(data: TenantDatabase, url: &str, layout: Layout) -> Result<Arc<Self>, TablesError> {
        let one = match layout {
            Layout::Shared | Layout::SchemaEach => Some(pool(url, None)?),
            Layout::DatabaseEach => None,
        };
        let pools =
            Arc::new(Self { url: url.to_owned(), data, one, each: Mutex::default(), shares: Mutex::default() });
        if pools.one.is_none() {
            tokio::spawn(tidy(Arc::downgrade(&pools)));
        }
        Ok(pools)
    }

    /// A connection to the database with the tenant's rows.
    pub(super) async fn lend(&self, tenant: &TenantId) -> Result<Lent, NoConnection> {
        let pool = self.of(tenant).map_err(|error| NoConnection::Failed(error.into()))?;
        let pool = pool.ok_or(NoConnection::NotHere)?;
        let deadline = Instant::now() + WAIT;
        let busy = |what: &str| NoConnection::Busy(format!("{what} for {} ms", WAIT.as_millis()));
        let place = timeout_at(deadline, self.share_of(tenant).acquire_owned()).await;
        let place = place.map_err(|_| busy("the tenant has had all the connections that it may"))?;
        let place = place.expect("the places of a tenant are never closed");
        loop {
            let lent = timeout_at(deadline, pool.get()).await;
            match lent.map_err(|_| busy("every connection was in use"))? {
                Ok(client) => return Ok(Lent { client, _place: place }),
                // One that is given back meanwhile is as good.
                Err(PoolError::Backend(error)) if is_full(&error) => {
                    let slept = timeout_at(deadline, tokio::time::sleep(ASK_EVERY)).await;
                    slept.map_err(|_| {
                        busy("the database took no more sessions, and those that there are were in use")
                    })?;
                }
                Err(error) => return Err(NoConnection::Failed(error.into())),
            }
        }
    }

    fn share_of(&self, tenant: &TenantId) -> Arc<Semaphore> {
        let mut shares = self.shares.lock().unwrap_or_else(PoisonError::into_inner);
        if shares.len() >= SHARES_KEPT {
            // Whoever has a place, or waits for one, has a share in its hands.
            shares.retain(|_, share| Arc::strong_count(share) > 1);
        }
        let share = shares.entry(tenant.clone()).or_insert_with(|| Arc::new(Semaphore::new(SHARE)));
        Arc::clone(share)
    }

    /// Connections to the database with the tenant's rows; none where this cell has none of them.
    fn of(&self, tenant: &TenantId) -> Result<Option<Pool>, TablesError> {
        if let Some(one) = &self.one {
            return Ok(Some(one.clone()));
        }
        let Some(name) = self.data.name(tenant) else { return Ok(None) };
        let mut each = self.each.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = each.get(&name) {
            return Ok(Some(known.clone()));
        }
        let new = pool(&self.url, Some(&name))?;
        each.insert(name, new.clone());
        Ok(Some(new))
    }

    fn rest(&self) {
        let mut each = self.each.lock().unwrap_or_else(PoisonError::into_inner);
        each.retain(|_, pool| {
            let _closed = pool.retain(|_, used| used.last_used() < REST);
            pool.status().size > 0
        });
    }
}

/// The server has given all of its sessions away.
fn is_full(error: &tokio_postgres::Error) -> bool {
    error.code() == Some(&tokio_postgres::error::SqlState::TOO_MANY_CONNECTIONS)
}

async fn tidy(pools: Weak<Pools>) {
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        let Some(pools) = pools.upgrade() else { return };
        pools.rest();
    }
}

fn pool(url: &str, name: Option<&str>) -> Result<Pool, TablesError> {
    let (mut config, tls) = DatabaseAddress::parse(url)?.into_parts();
    if let Some(name) = name {
        config.dbname(name);
    }
    // A role that row-level security binds, whoever owns the tables.
    let role = format!("-c role=cellway_documents -c search_path=public -c statement_timeout={STATEMENT_MS}");
    config.application_name("sample-cell").options(role);
    let manager = ManagerConfig { recycling_method: RecyclingMethod::Fast };
    Pool::builder(Manager::from_config(config, tls, manager))
        .max_size(if name.is_some() { POOL_OF_ONE } else { POOL })
        .runtime(Runtime::Tokio1)
        .build()
        .map_err(|error| TablesError::Pool(error.to_string()))
}
