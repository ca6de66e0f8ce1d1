//! The registry in the cell's own database: whose database is which, what is being made of it, and the least that has to be in
//! it. Every change expects that this agent is still the newest.

use cell_model::TenantId;
use tokio_postgres::{Row as Found, Transaction};

use super::opening::refused;
use crate::error::AgentError;
use crate::postgres::cell::Cell;
use crate::postgres::fault::Fault;
use crate::postgres::records::{self, from_db, role_name, to_db};
use crate::postgres::sql::literal;
use crate::record::{Control, Record as _, Role};
use crate::refusal::Refusal;

/// What is being made of a tenant's database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// Nothing was answered of it: it goes again.
    Making,
    Ready,
    /// Nothing of the tenant is needed any more.
    Dropping,
}

impl Stage {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Making => "making",
            Self::Ready => "ready",
            Self::Dropping => "dropping",
        }
    }

    fn parse(text: &str) -> Option<Self> {
        [Self::Making, Self::Ready, Self::Dropping].into_iter().find(|stage| stage.as_str() == text)
    }
}

impl std::fmt::Display for Stage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One tenant's database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Row {
    pub(super) tenant: TenantId,
    pub(super) name: String,
    /// Which one of that name: the agent chooses it, and writes it down before the database is made. None: whichever is there, if it
    /// has what is expected of it; an operator says so.
    pub(super) oid: Option<u32>,
    pub(super) stage: Stage,
    /// How often the tenant's control had been changed, and
    pub(super) number: u64,
    /// what it was, when a step was last answered.
    pub(super) control: Option<Control>,
}

impl Row {
    /// Nothing of the tenant is in this cell that a database is needed for.
    pub(super) fn is_over(&self) -> bool {
        let role = self.control.as_ref().map_or(Role::Nothing, |control| control.role);
        matches!(role, Role::Nothing | Role::Redirect | Role::Deleted)
    }
}

fn read(row: &Found) -> Result<Row, AgentError> {
    let tenant = TenantId::new(row.get::<_, &str>(0))?;
    let (name, stage): (String, &str) = (row.get(1), row.get(3));
    let strange = || {
        let reason = format!(
            "the registry says of tenant {tenant} that database {name} is {}, which no agent of this version says: DELETE FROM \
             cellway.databases WHERE tenant = {} in the cell's own database. The database stays, and is looked into",
            literal(stage),
            literal(tenant.as_str())
        );
        Fault::new("DATABASE_FAILED", reason)
    };
    let stage = Stage::parse(stage).ok_or_else(strange)?;
    Ok(Row {
        tenant,
        name,
        oid: row.get(2),
        stage,
        number: from_db(row.get(4)),
        control: row.get::<_, Option<&[u8]>>(5).map(Control::decode).transpose()?,
    })
}

pub(super) async fn load(home: &Cell) -> Result<Vec<Row>, AgentError> {
    let client = home.database.client().await?;
    let rows = client.query(&format!("{ROWS} ORDER BY tenant"), &[]).await.map_err(Fault::from)?;
    rows.iter().map(read).collect()
}

/// Each tenant's row is looked at and changed behind whatever may still be on its way to it: a commit whose connection was lost goes
/// on in the server.
const TURN: i64 = 0x0063_656c_6c72_6f77;

async fn turn<'a>(
    client: &'a mut tokio_postgres::Client,
    home: &Cell,
    tenant: &TenantId,
) -> Result<Transaction<'a>, Refusal> {
    let transaction = client.transaction().await?;
    transaction.batch_execute("SET LOCAL lock_timeout = '4s'").await?;
    let sql = "SELECT pg_advisory_xact_lock(hashtextextended($1, $2))";
    transaction.execute(sql, &[&tenant.as_str(), &TURN]).await?;
    records::expect_agent(&transaction, home.incarnation).await?;
    Ok(transaction)
}

/// That of one tenant as it is now: an operator may have changed it.
pub(super) async fn find(home: &Cell, tenant: &TenantId) -> Result<Option<Row>, Refusal> {
    let mut client = home.database.client().await?;
    let transaction = turn(&mut client, home, tenant).await?;
    let row = transaction.query_opt(&format!("{ROWS} WHERE tenant = $1"), &[&tenant.as_str()]).await?;
    row.as_ref().map(read).transpose().map_err(refused)
}

const ROWS: &str = "SELECT tenant, name, oid, stage, number, control FROM cellway.databases";

const INSERT: &str = "INSERT INTO cellway.databases (tenant, name, oid, stage, uid, epoch, role, number, control) \
                      VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9) ON CONFLICT (tenant) DO NOTHING";
const UPDATE: &str = "UPDATE cellway.databases SET name = $2, oid = $3, stage = $4, uid = $5, epoch = $6, role = $7, \
                      number = $8, control = $9 WHERE tenant = $1";

async fn say(transaction: &Transaction<'_>, sql: &str, row: &Row) -> Result<(), Refusal> {
    let control = row.control.as_ref();
    let said = transaction
        .execute(
            sql,
            &[
                &row.tenant.as_str(),
                &row.name,
                &row.oid,
                &row.stage.as_str(),
                &control.map(|control| to_db(control.uid.get())),
                &control.map(|control| to_db(control.epoch.get())),
                &control.map(|control| role_name(control.role)),
                &to_db(row.number),
                &control.map(|control| control.encode()),
            ],
        )
        .await?;
    if said == 1 { Ok(()) } else { Err(records::superseded()) }
}

/// From now on the tenant's database has the say, and not the home, which has exactly what is handed over.
pub(super) async fn begin(home: &Cell, row: &Row) -> Result<(), Refusal> {
    let mut client = home.database.client().await?;
    let transaction = turn(&mut client, home, &row.tenant).await?;
    say(&transaction, INSERT, row).await?;
    let gone = "DELETE FROM cellway.controls WHERE tenant = $1 RETURNING control";
    let gone = transaction.query_opt(gone, &[&row.tenant.as_str()]).await?;
    if gone.map(|gone| gone.get::<_, Vec<u8>>(0)) != row.control.as_ref().map(Control::encode) {
        return Err(records::superseded());
    }
    transaction.execute("DELETE FROM cellway.grants WHERE tenant = $1", &[&row.tenant.as_str()]).await?;
    Ok(transaction.commit().await?)
}

/// What is known of it by now.
pub(super) async fn write(home: &Cell, row: &Row) -> Result<(), Refusal> {
    let mut client = home.database.client().await?;
    let transaction = turn(&mut client, home, &row.tenant).await?;
    say(&transaction, UPDATE, row).await?;
    Ok(transaction.commit().await?)
}

/// The tenant has no database here any more: the home has the say again. Done again it changes nothing.
pub(super) async fn end(
    home: &Cell,
    tenant: &TenantId,
    control: Option<&Control>,
    number: u64,
) -> Result<(), Refusal> {
    let mut client = home.database.client().await?;
    let transaction = turn(&mut client, home, tenant).await?;
    transaction.execute("DELETE FROM cellway.databases WHERE tenant = $1", &[&tenant.as_str()]).await?;
    if let Some(control) = control {
        let sql = "INSERT INTO cellway.controls (tenant, control, number) VALUES ($1, $2, $3) \
                   ON CONFLICT (tenant) DO UPDATE SET control = excluded.control, number = excluded.number";
        transaction.execute(sql, &[&tenant.as_str(), &control.encode(), &to_db(number)]).await?;
        records::grant_in(&transaction, tenant, control).await?;
    }
    Ok(transaction.commit().await?)
}
