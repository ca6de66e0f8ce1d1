//! Connections to the tenants' rows: one pool where all tenants are in one database, else a small one for each that is asked for.
//!
//! A tenant's own database is dropped only when nobody is connected to it, so what rests here is closed soon, asked or not.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use cell_agent::{DatabaseAddress, TenantDatabase};
use cell_model::TenantId;
use deadpool_postgres::{Manager, ManagerConfig, Pool, RecyclingMethod, Runtime};

use super::tables::{Layout, TablesError};

/// Connections of one instance, where all tenants are in one database,
const POOL: usize = 16;
/// and to each tenant's own.
const POOL_OF_ONE: usize = 4;
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
}

impl Pools {
    pub(super) fn new(data: TenantDatabase, url: &str, layout: Layout) -> Result<Arc<Self>, TablesError> {
        let one = match layout {
            Layout::Shared | Layout::SchemaEach => Some(pool(url, None)?),
            Layout::DatabaseEach => None,
        };
        let pools = Arc::new(Self { url: url.to_owned(), data, one, each: Mutex::default() });
        if pools.one.is_none() {
            tokio::spawn(tidy(Arc::downgrade(&pools)));
        }
        Ok(pools)
    }

    /// Connections to the database with the tenant's rows; none where this cell has none of them.
    pub(super) fn of(&self, tenant: &TenantId) -> Result<Option<Pool>, TablesError> {
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
    config.application_name("sample-cell").options("-c role=cellway_documents -c search_path=public");
    let manager = ManagerConfig { recycling_method: RecyclingMethod::Fast };
    Pool::builder(Manager::from_config(config, tls, manager))
        .max_size(if name.is_some() { POOL_OF_ONE } else { POOL })
        .runtime(Runtime::Tokio1)
        .build()
        .map_err(|error| TablesError::Pool(error.to_string()))
}
