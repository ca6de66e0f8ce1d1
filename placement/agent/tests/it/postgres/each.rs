//! Cells in which each tenant has a database of its own.

use cell_agent::{AgentError, DatabaseOptions};
use tokio_postgres::Client;

use super::ground::*;

/// The tables of a tenant's own database: those of a tenant's own schema, in `public`.
fn in_public(tables: &str) -> String {
    let schema =
        ["CREATE SCHEMA cellway_template;", "SET search_path = cellway_template, public;", "cellway_template."];
    schema.iter().fold(tables.to_owned(), |tables, said| tables.replace(said, ""))
}

/// Another database of the same server.
pub(super) fn beside(url: &str, name: &str) -> String {
    format!("{}/{name}", url.rsplit_once('/').unwrap().0)
}

/// The name of the database in an address.
pub(super) fn name_of(url: &str) -> &str {
    url.rsplit_once('/').unwrap().1
}

/// What the databases of a cell's tenants are called: names are the whole server's, and other tests use it, too.
pub(super) fn own(url: &str) -> impl Fn(&mut DatabaseOptions) + use<> {
    let home = name_of(url).to_owned();
    move |database: &mut DatabaseOptions| {
        database.tenant_database = Some(format!("{home}_{{id}}"));
        database.template_database = format!("{home}-template");
    }
}

/// The template of a cell's databases.
pub(super) fn template(url: &str) -> String {
    beside(url, &format!("{}-template", name_of(url)))
}

/// A home, and a template with the tables and `more`.
pub(super) async fn home(more: &str) -> String {
    let url = database().await;
    let created = format!("CREATE DATABASE \"{}-template\"", name_of(&url));
    session(&url).await.batch_execute(&created).await.unwrap();
    let tables = in_public(&format!("{TEMPLATE} {more}"));
    session(&template(&url)).await.batch_execute(&tables).await.unwrap();
    url
}

/// The same on a server of the test's own.
pub(super) async fn home_on(server: &super::server::Own, more: &str) -> String {
    let url = server.database().await;
    let created = format!("CREATE DATABASE \"{}\"", name_of(&template(&url)));
    session(&url).await.batch_execute(&created).await.unwrap();
    let tables = in_public(&format!("{TEMPLATE} {more}"));
    session(&template(&url)).await.batch_execute(&tables).await.unwrap();
    url
}

impl Ground {
    /// A cell with a new home.
    pub(super) async fn open_each(&self, name: &str, more: &str) -> Cell {
        let url = home(more).await;
        self.reopen_each(name, &url, "127.0.0.1:0").await.unwrap()
    }

    pub(super) async fn reopen_each(&self, name: &str, url: &str, listen: &str) -> Result<Cell, AgentError> {
        self.open_with(name, url, listen, own(url)).await
    }
}

impl Cell {
    /// The name of the tenant's database.
    pub(super) fn name(&self) -> &str {
        name_of(self.rows.as_deref().unwrap())
    }

    /// A session in its home.
    pub(super) async fn at_home(&self) -> Client {
        session(&self.url).await
    }
}

/// Whether the tenant has a database of its own.
pub(super) async fn has_database(cell: &Cell) -> bool {
    has(&cell.url, cell.name()).await
}

pub(super) async fn has(url: &str, name: &str) -> bool {
    let sql = "SELECT EXISTS (SELECT 1 FROM pg_database WHERE datname = $1)";
    session(url).await.query_one(sql, &[&name]).await.unwrap().get(0)
}

/// Waits until nobody is connected to a database.
pub(super) async fn alone(url: &str, name: &str) {
    let sql = format!("SELECT NOT EXISTS (SELECT 1 FROM pg_stat_activity WHERE datname = '{name}')");
    until_true(&session(url).await, &sql).await;
}

/// Says a statement about a database to which nobody is connected any more.
pub(super) async fn say(url: &str, name: &str, sql: &str) {
    alone(url, name).await;
    session(url).await.batch_execute(sql).await.unwrap();
}

/// Drops what an agent has left there that has just ended.
pub(super) async fn drop_slots(url: &str, name: &str) {
    let client = session(url).await;
    let none =
        format!("SELECT NOT EXISTS (SELECT 1 FROM pg_replication_slots WHERE database = '{name}' AND active)");
    until_true(&client, &none).await;
    let sql = "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE database = $1";
    client.query(sql, &[&name]).await.unwrap();
}
