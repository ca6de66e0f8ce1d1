//! The agent's records in the database: what this cell is to each tenant, and how far its rows go. Every change
//! expects the record as it was read, in one transaction with the grant that writers check.

use std::collections::BTreeMap;

use cell_model::{CellId, Generation, Lineage, Seq, TenantId, Term, Uid};
use serde::{Deserialize, Serialize};
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, Transaction};

use super::connect::Database;
use super::failover::failed_over;
use super::fault::Fault;
use super::{install, tails};
use crate::error::AgentError;
use crate::record::{AgentRecord, Control, Record, Role};
use crate::refusal::Refusal;

/// How far the copy of a tenant's tables goes: tables before `table` are whole, and of `table` every key up to `key`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Reach {
    pub(crate) table: u32,
    /// Empty: nothing of `table` yet.
    pub(crate) key: Vec<String>,
    /// Everything.
    pub(crate) done: bool,
}

impl Record for Reach {
    const KIND: &'static str = "frontier";
}

impl Reach {
    pub(crate) fn end() -> Self {
        Self { done: true, ..Self::default() }
    }
}

/// How far the rows of a tenant go. Absent where this cell has none.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Copied {
    /// The last change of the followed cell that is in them; where this cell owns, of no meaning.
    pub(crate) applied: Seq,
    pub(crate) reach: Reach,
}

impl Copied {
    /// As an owner has them.
    pub(crate) fn whole() -> Self {
        Self { applied: Seq(0), reach: Reach::end() }
    }
}

/// What a database knows of a tenant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Known {
    pub(crate) control: Control,
    pub(crate) copied: Option<Copied>,
    /// How often the control was changed.
    pub(crate) number: u64,
}

/// What becomes of the record of a tenant's rows.
pub(crate) enum Rows<'a> {
    Stay,
    Are(&'a Copied),
    /// They were copied exactly so far, and are the tenant's from now on.
    Own(&'a Copied),
    Gone,
}

/// Numbers in the log and of the control plane have 64 bits without a sign; the database's have one.
pub(crate) fn to_db(number: u64) -> i64 {
    number.cast_signed()
}

pub(crate) fn from_db(number: i64) -> u64 {
    number.cast_unsigned()
}

/// As writers' checks know it.
pub(crate) const fn role_name(role: Role) -> &'static str {
    match role {
        Role::Nothing => "none",
        Role::Owner => "owner",
        Role::Importing => "importing",
        Role::Fenced { .. } => "fenced",
        Role::Redirect => "redirect",
        Role::Deleted => "deleted",
    }
}

/// Installs what the agent needs, reads its own record and makes it one generation older. Where it is refused, nothing has
/// changed.
///
/// `noted`: what is known of it outside of this database, which may have been put back.
pub(crate) async fn open_agent(
    client: &mut Client,
    here: &CellId,
    database: &Database,
    noted: Option<AgentRecord>,
) -> Result<AgentRecord, AgentError> {
    let (observe, layout) = (database.options.observe, database.layout.to_string());
    let fault = |error: tokio_postgres::Error| AgentError::from(Fault::from(error));
    let transaction = client.transaction().await.map_err(fault)?;
    transaction.batch_execute(PATIENCE).await.map_err(fault)?;
    install::install_in(&transaction, database).await?;
    transaction.batch_execute(PATIENCE).await.map_err(fault)?;
    let sql = "SELECT cell, generation, lineage, term, layout FROM cellway.agent FOR UPDATE";
    let known = transaction.query_opt(sql, &[]);
    let agent = match known.await.map_err(held)? {
        Some(row) => {
            let found = CellId::new(row.get::<_, &str>(0))?;
            if found != *here {
                return Err(AgentError::OtherCell { found, here: here.clone() });
            }
            expect_layout(&transaction, row.get(4), &layout).await?;
            AgentRecord {
                cell: found,
                generation: Generation(from_db(row.get(1))).next(),
                lineage: Lineage(from_db(row.get(2))),
                term: Term(from_db(row.get(3))),
            }
        }
        None => AgentRecord { cell: here.clone(), generation: Generation(1), lineage: Lineage(0), term: Term(0) },
    };
    let agent = match noted {
        Some(noted) => {
            let (lineage, term) = (agent.lineage, agent.term).max((noted.lineage, noted.term));
            let generation = agent.generation.max(noted.generation.next());
            AgentRecord { generation, lineage, term, ..agent }
        }
        None => agent,
    };
    transaction
        .execute(
            "INSERT INTO cellway.agent (cell, generation, lineage, term, observe, layout) \
             VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT (only_one) DO UPDATE \
             SET generation = excluded.generation, lineage = excluded.lineage, term = excluded.term, \
                 observe = excluded.observe, layout = excluded.layout",
            &[
                &agent.cell.to_string(),
                &to_db(agent.generation.get()),
                &to_db(agent.lineage.0),
                &to_db(agent.term.0),
                &observe,
                &layout,
            ],
        )
        .await
        .map_err(fault)?;
    supersede(&transaction, agent.generation).await?;
    transaction.commit().await.map_err(fault)?;
    Ok(agent)
}

/// Has a database that was put back know this agent, and its leader, again.
pub(crate) async fn reassert(client: &mut Client, agent: &AgentRecord) -> Result<(), Fault> {
    let (lineage, term) = (to_db(agent.lineage.0), to_db(agent.term.0));
    let generation = to_db(agent.generation.get());
    let transaction = client.transaction().await?;
    transaction.batch_execute(PATIENCE).await?;
    let sql = "UPDATE cellway.agent SET generation = $1, lineage = $2, term = $3 \
               WHERE generation < $1 OR generation = $1 AND (lineage, term) < ($2, $3)";
    if transaction.execute(sql, &[&generation, &lineage, &term]).await.map_err(held)? == 1 {
        supersede(&transaction, agent.generation).await?;
    }
    Ok(transaction.commit().await?)
}

/// How long an agent that starts waits for what holds its records.
const PATIENCE: &str = "SET LOCAL lock_timeout = '5s'";

/// Somebody holds the agent's records.
fn held(error: tokio_postgres::Error) -> Fault {
    if error.code() != Some(&SqlState::LOCK_NOT_AVAILABLE) {
        return error.into();
    }
    let reason = "a transaction of an agent that was here before is open still: it ends with its session, look at \
                  pg_stat_activity";
    Fault::new("AGENT_RUNNING", reason)
}

/// From now on nothing that an older agent writes is taken. What it is writing is waited for.
async fn supersede(transaction: &Transaction<'_>, generation: Generation) -> Result<(), Fault> {
    let sql = "INSERT INTO cellway.incarnation (generation) VALUES ($1) \
               ON CONFLICT (only_one) DO UPDATE SET generation = excluded.generation";
    let done = transaction.execute(sql, &[&to_db(generation.get())]).await;
    done.map(|_| ()).map_err(held)
}

/// Tenants that are here already are looked for where they are.
async fn expect_layout(transaction: &Transaction<'_>, was: &str, now: &str) -> Result<(), Fault> {
    let any = "SELECT EXISTS (SELECT 1 FROM cellway.controls) OR EXISTS (SELECT 1 FROM cellway.databases)";
    let has_tenants: bool = transaction.query_one(any, &[]).await?.get(0);
    if was == now || !has_tenants {
        return Ok(());
    }
    let reason = format!(
        "the tenants of this database are in the layout {was}, the options say {now}: say {was} again, and move them to a \
         cell of the other layout"
    );
    Err(Fault::new("LAYOUT_CHANGED", reason))
}

/// Remembers the newest leader, and that this agent is still the one that runs here.
pub(crate) async fn store_term(client: &Client, agent: &AgentRecord) -> Result<(), Refusal> {
    let (lineage, term) = (to_db(agent.lineage.0), to_db(agent.term.0));
    let generation = to_db(agent.generation.get());
    let sql = "UPDATE cellway.agent SET lineage = $1, term = $2 WHERE generation = $3";
    match client.execute(sql, &[&lineage, &term, &generation]).await? {
        1 => Ok(()),
        _ => Err(superseded()),
    }
}

/// Whoever writes is still the newest agent of this database, and stays so until the transaction ends.
pub(crate) async fn expect_agent(transaction: &Transaction<'_>, by: Generation) -> Result<(), Refusal> {
    let sql = "SELECT 1 FROM cellway.incarnation WHERE generation = $1 FOR SHARE";
    let row = transaction.query_opt(sql, &[&to_db(by.get())]).await?;
    row.map(|_| ()).ok_or_else(superseded)
}

pub(crate) fn superseded() -> Refusal {
    Refusal::internal("another agent runs on this database, or its records were changed by hand")
}

const KNOWN: &str = "SELECT c.tenant, c.control, p.applied, p.frontier, c.number FROM cellway.controls c \
                     LEFT JOIN cellway.copies p USING (tenant)";

/// One tenant, if the database knows it: after whatever may still be on its way there. A commit whose connection was lost
/// goes on in the server, and to whoever only read, what it changes would look as before.
pub(crate) async fn load_one(client: &mut Client, tenant: &TenantId) -> Result<Option<Known>, Refusal> {
    let name = tenant.as_str();
    let transaction = client.transaction().await?;
    transaction.batch_execute("SET LOCAL lock_timeout = '4s'").await?;
    // Waits for one that makes the row, and is taken back itself.
    let make = "INSERT INTO cellway.controls (tenant, control) VALUES ($1, '') ON CONFLICT DO NOTHING";
    let made = transaction.execute(make, &[&name]).await?;
    if made == 1 {
        return Ok(None);
    }
    // Waits for one that changes it.
    transaction.execute("SELECT 1 FROM cellway.controls WHERE tenant = $1 FOR UPDATE", &[&name]).await?;
    let row = transaction.query_opt(&format!("{KNOWN} WHERE c.tenant = $1"), &[&name]).await?;
    let damaged = |error: crate::record::RecordError| Refusal::internal(error);
    row.map(|row| read(&row).map_err(damaged)).transpose()
}

fn read(row: &tokio_postgres::Row) -> Result<Known, crate::record::RecordError> {
    let control = Control::decode(row.get(1))?;
    let copied = match row.get::<_, Option<i64>>(2) {
        Some(applied) => Some(Copied { applied: Seq(from_db(applied)), reach: Reach::decode(row.get(3))? }),
        None => None,
    };
    Ok(Known { control, copied, number: from_db(row.get(4)) })
}

/// Every tenant that the database knows.
pub(crate) async fn load(client: &Client) -> Result<BTreeMap<TenantId, Known>, AgentError> {
    let rows = client.query(KNOWN, &[]).await.map_err(Fault::from)?;
    let mut known = BTreeMap::new();
    for row in rows {
        known.insert(TenantId::new(row.get::<_, &str>(0))?, read(&row)?);
    }
    Ok(known)
}

/// Makes a new control durable, if the old one is what the database has and this agent, `by` its generation, is still the newest
/// one there. Its number.
pub(crate) async fn change(
    client: &mut Client,
    by: Generation,
    tenant: &TenantId,
    (old, new): (Option<&Control>, &Control),
    rows: Rows<'_>,
) -> Result<u64, Refusal> {
    let transaction = client.transaction().await?;
    let number = change_in(&transaction, by, tenant, (old, new), rows).await?;
    transaction.commit().await?;
    Ok(number)
}

/// One that took the agent's place has changed its record first, and waits for those that are under way here.
const CHANGE: &str = "UPDATE cellway.controls SET control = $3, number = number + 1 \
                      WHERE tenant = $1 AND control = $2 \
                        AND EXISTS (SELECT 1 FROM cellway.incarnation WHERE generation = $4 FOR SHARE) RETURNING number";
const FIRST: &str = "INSERT INTO cellway.controls (tenant, control, number) \
                     SELECT $1, $2, 1 WHERE EXISTS (SELECT 1 FROM cellway.incarnation WHERE generation = $3 FOR SHARE) \
                     ON CONFLICT DO NOTHING RETURNING number";

pub(crate) async fn change_in(
    transaction: &Transaction<'_>,
    by: Generation,
    tenant: &TenantId,
    (old, new): (Option<&Control>, &Control),
    rows: Rows<'_>,
) -> Result<u64, Refusal> {
    let (name, by) = (tenant.as_str(), to_db(by.get()));
    let changed = match old {
        Some(old) => transaction.query_opt(CHANGE, &[&name, &old.encode(), &new.encode(), &by]).await?,
        None => transaction.query_opt(FIRST, &[&name, &new.encode(), &by]).await?,
    };
    let number = from_db(changed.ok_or_else(superseded)?.get(0));
    let grant = |control: &Control| (control.uid, control.epoch, role_name(control.role));
    if old.map(grant) != Some(grant(new)) {
        grant_in(transaction, tenant, new).await?;
    }
    rows_in(transaction, tenant, rows).await?;
    Ok(number)
}

/// What becomes of the record of a tenant's rows.
pub(crate) async fn rows_in(
    transaction: &Transaction<'_>,
    tenant: &TenantId,
    rows: Rows<'_>,
) -> Result<(), Refusal> {
    let name = tenant.as_str();
    match rows {
        Rows::Stay => {}
        Rows::Are(copied) => {
            transaction
                .execute(
                    "INSERT INTO cellway.copies (tenant, applied, frontier) VALUES ($1, $2, $3) \
                     ON CONFLICT (tenant) DO UPDATE SET applied = excluded.applied, frontier = excluded.frontier",
                    &[&name, &to_db(copied.applied.get()), &copied.reach.encode()],
                )
                .await?;
        }
        Rows::Own(copied) => {
            // A copy that is not as it was acknowledged is of a database that was put back: what it lacks is nowhere else then.
            let sql = "UPDATE cellway.copies SET applied = 0, frontier = $4 \
                       WHERE tenant = $1 AND applied = $2 AND frontier = $3";
            let (applied, reach) = (to_db(copied.applied.get()), copied.reach.encode());
            if transaction.execute(sql, &[&name, &applied, &reach, &Reach::end().encode()]).await? != 1 {
                let what = format!("its copy went up to {}, and does not any more", copied.applied);
                return Err(failed_over(tenant, &what));
            }
        }
        Rows::Gone => {
            transaction.execute("DELETE FROM cellway.copies WHERE tenant = $1", &[&name]).await?;
            tails::forget_in(transaction, tenant).await?;
        }
    }
    Ok(())
}

/// What writers check.
pub(crate) async fn grant_in(
    transaction: &Transaction<'_>,
    tenant: &TenantId,
    control: &Control,
) -> Result<(), Refusal> {
    let (Uid(uid), epoch) = (control.uid, control.epoch.0);
    transaction
        .execute(
            "INSERT INTO cellway.grants (tenant, uid, epoch, role) VALUES ($1, $2, $3, $4) \
             ON CONFLICT (tenant) DO UPDATE SET uid = excluded.uid, epoch = excluded.epoch, role = excluded.role",
            &[&tenant.as_str(), &to_db(uid), &to_db(epoch), &role_name(control.role)],
        )
        .await?;
    Ok(())
}
