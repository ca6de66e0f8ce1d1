//! What the application needs in its database, made before the agent looks for it, and what tells tenants apart, made after.

use cell_agent::{AddressInvalid, DatabaseAddress, Fault};

/// Why the application cannot use the database.
#[derive(Debug, thiserror::Error)]
pub enum TablesError {
    /// The address makes no sense.
    #[error(transparent)]
    Address(#[from] AddressInvalid),
    /// The tables could not be made.
    #[error("the application's tables cannot be made")]
    Tables(#[source] Fault),
    /// No connections can be had.
    #[error("the application has no connections to the database: {0}")]
    Pool(String),
}

impl TablesError {
    /// Stable code.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Address(invalid) => invalid.code(),
            Self::Tables(fault) if fault.code == "DATABASE_TLS" => fault.code,
            Self::Tables(_) | Self::Pool(_) => "TABLES_FAILED",
        }
    }
}

/// Where the tenants' rows are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Layout {
    Shared,
    SchemaEach,
    DatabaseEach,
}

/// Makes the tables, or those that tenants' own are made as, before the agent looks for them.
pub(crate) async fn make(
    url: &str,
    layout: Layout,
    template_database: &str,
    shop: bool,
) -> Result<(), TablesError> {
    let of = |documents: &str, of_shop: &str| format!("{documents}{}", if shop { of_shop } else { "" });
    let template = || of(TEMPLATE, include_str!("shop/template.sql"));
    match layout {
        Layout::Shared => run(url, None, &of(SHARED, include_str!("shop/tables.sql"))).await,
        Layout::SchemaEach => run(url, None, &template()).await,
        Layout::DatabaseEach => {
            make_database(url, template_database).await?;
            run(url, Some(template_database), &template().replace(TEMPLATE_SCHEMA, "public")).await
        }
    }
}

const SHARED: &str = concat!(include_str!("../role.sql"), include_str!("../tables.sql"));
const TEMPLATE: &str = concat!(include_str!("../role.sql"), include_str!("../template.sql"));
const TEMPLATE_SCHEMA: &str = "cellway_template";

/// The database that tenants' own are copies of, if it is not there.
async fn make_database(url: &str, name: &str) -> Result<(), TablesError> {
    let (config, tls) = DatabaseAddress::parse(url)?.into_parts();
    let (client, connection) = config.connect(tls).await.map_err(tables)?;
    let driver = tokio::spawn(connection);
    let made = async {
        if client.query_opt("SELECT 1 FROM pg_database WHERE datname = $1", &[&name]).await?.is_some() {
            return Ok(());
        }
        let quoted = name.replace('"', "\"\"");
        match client.batch_execute(&format!("CREATE DATABASE \"{quoted}\"")).await {
            // Another instance has come first.
            Err(error) if error.code().is_some_and(|code| matches!(code.code(), "42P04" | "23505")) => Ok(()),
            made => made,
        }
    };
    let made = made.await.map_err(tables);
    drop(client);
    let _ended = driver.await;
    made
}

/// Tells the tenants' rows apart, once the agent has put there what the policies ask.
pub(crate) async fn tell_apart(url: &str, layout: Layout, shop: bool) -> Result<(), TablesError> {
    match layout {
        Layout::Shared if shop => {
            run(url, None, concat!(include_str!("../policies.sql"), include_str!("shop/policies.sql"))).await
        }
        Layout::Shared => run(url, None, include_str!("../policies.sql")).await,
        Layout::SchemaEach | Layout::DatabaseEach => Ok(()),
    }
}

fn tables(error: tokio_postgres::Error) -> TablesError {
    TablesError::Tables(error.into())
}

async fn run(url: &str, name: Option<&str>, sql: &str) -> Result<(), TablesError> {
    let (mut config, tls) = DatabaseAddress::parse(url)?.into_parts();
    if let Some(name) = name {
        config.dbname(name);
    }
    let (client, connection) = config.connect(tls).await.map_err(tables)?;
    let driver = tokio::spawn(connection);
    // Two instances may come at once.
    let alone = format!("BEGIN; SELECT pg_advisory_xact_lock(7305437174); {sql} COMMIT");
    let made = client.batch_execute(&alone).await.map_err(tables);
    drop(client);
    let _ended = driver.await;
    made
}
