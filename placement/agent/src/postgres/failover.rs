//! A server that is not the one that it was: a standby that was promoted, or a backup in its place. Whatever it has less than was
//! answered is raised to that before anybody is told of it: fences first.
//!
//! ```text
//! start ──────────────► lock ─► which server? ─► what it has, beside the floor ─► less? raised, in a transaction each ─► served
//! session lost, or ──►─┘          (a standby is refused)
//! another server at the address
//! ```
//! While that goes on, gates know this cell's grants as they were answered, and steps expect them in the database and find others. Who
//! writes without the agent is judged by what the database says: see docs/postgresql.md for what that leaves.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use cell_model::{Generation, TenantId};
use tokio_postgres::Client;

use super::cell::Cell;
use super::connect::Database;
use super::fault::Fault;
use super::floor::{Floor, Least, NOBODY, Place, Raised, RowsAfter, Verdict};
use super::layout::Layout;
use super::records::{self, Copied, Known, Rows, to_db};
use super::tails;
use super::tenant::Tenant;
use crate::error::AgentError;
use crate::record::{Control, Record as _, Role};
use crate::refusal::Refusal;

/// How often it is asked, over a new connection, which server is at the address: behind the one that the lock is held by may be another.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// What is answered while it is not there yet.
pub(crate) fn failed_over(tenant: &TenantId, what: &str) -> Refusal {
    let reason = format!(
        "the database has less of tenant {tenant} than this cell has answered with: {what}. It was promoted, or put back to an earlier \
         state; it is raised to what was answered as soon as the agent holds its lock there, and the step is tried again"
    );
    Refusal::new("DATABASE_FAILED_OVER", reason)
}

/// What the database has of a tenant.
pub(crate) fn least(known: &Known) -> Least {
    Least { control: known.control.clone(), number: known.number, has_rows: known.copied.is_some() }
}

/// Notes which server it is, and says so where it is another one.
pub(crate) async fn arrive(floor: &Floor, client: &Client, database: &Database) -> Result<(), Fault> {
    let place = Place::read(client).await?;
    if let Some(what) = floor.place().and_then(|before| place.change_since(&before)) {
        tracing::warn!(code = "DATABASE_FAILED_OVER", database = %database.name, %what, "the database is not what it was: what it lacks is raised");
    }
    floor.note_place(&place).map_err(as_fault)
}

pub(crate) fn as_fault(refusal: Refusal) -> Fault {
    Fault::new(refusal.code, refusal.reason)
}

/// What the database has of each tenant, raised to what was answered: before anything else is done with it.
pub(crate) async fn at_the_beginning(
    floor: &Floor,
    client: &mut Client,
    (database, by): (&Database, Generation),
) -> Result<BTreeMap<TenantId, Known>, AgentError> {
    let mut known = records::load(client).await?;
    for id in concerned(floor, client, database, &known).await? {
        let found = known.get(&id).cloned();
        let now = put_right(floor, client, by, &id, found).await.map_err(as_fault)?;
        if let Some(now) = now {
            known.insert(id, now);
        }
    }
    for id in taken(client).await? {
        let closed = known.get(&id).filter(|known| known.control.role == NOBODY && known.copied.is_some());
        let Some(closed) = closed.cloned() else { continue };
        let now = own_as_it_is(floor, client, by, &id, &closed).await.map_err(as_fault)?;
        known.insert(id, now);
    }
    floor.sync().await.map_err(as_fault)?;
    Ok(known)
}

/// Those of which this database has the say.
async fn concerned(
    floor: &Floor,
    client: &Client,
    database: &Database,
    known: &BTreeMap<TenantId, Known>,
) -> Result<BTreeSet<TenantId>, AgentError> {
    if let Layout::Whole { tenant, .. } = &database.layout {
        return Ok(BTreeSet::from([tenant.clone()]));
    }
    let mut all: BTreeSet<TenantId> = known.keys().cloned().chain(floor.tenants()).collect();
    for row in client.query("SELECT tenant FROM cellway.databases", &[]).await.map_err(Fault::from)? {
        all.remove(row.get::<_, &str>(0));
    }
    if matches!(database.layout, Layout::Databases { .. }) {
        // One of a tenant's name is looked into first, also where it is in no registry.
        for row in client.query("SELECT datname::text FROM pg_database", &[]).await.map_err(Fault::from)? {
            if let Some(tenant) = database.layout.tenant_of_database(row.get(0), &database.name) {
                all.remove(&tenant);
            }
        }
    }
    Ok(all)
}

/// One tenant: as it is from now on, if it is known here.
async fn put_right(
    floor: &Floor,
    client: &mut Client,
    by: Generation,
    id: &TenantId,
    found: Option<Known>,
) -> Result<Option<Known>, Refusal> {
    match floor.judge(id, found.as_ref()) {
        Verdict::Stands => {
            if let Some(found) = &found {
                floor.note_soon(id, least(found))?;
            }
            Ok(found)
        }
        Verdict::Less(raised) => {
            let number = floor.tenant(id).map_or(0, |least| least.number);
            let number = number.max(found.as_ref().map_or(0, |found| found.number)) + 1;
            let now = raise(client, by, (id, number), *raised, found.and_then(|found| found.copied)).await?;
            floor.note(id, least(&now)).await?;
            Ok(Some(now))
        }
    }
}

const RAISE: &str = "INSERT INTO cellway.controls (tenant, control, number) VALUES ($1, $2, $3) \
                     ON CONFLICT (tenant) DO UPDATE SET control = excluded.control, number = excluded.number";
const REPORT: &str = "INSERT INTO cellway.put_back (tenant, what, kept) VALUES ($1, $2, $3) \
                      ON CONFLICT (tenant) DO UPDATE SET at = now(), what = excluded.what, \
                         kept = put_back.kept OR excluded.kept, taken = false";

async fn raise(
    client: &mut Client,
    by: Generation,
    (id, number): (&TenantId, u64),
    raised: Raised,
    copied: Option<Copied>,
) -> Result<Known, Refusal> {
    let Raised { control, rows, kept, what } = raised;
    let name = id.as_str();
    let transaction = client.transaction().await?;
    transaction.batch_execute("SET LOCAL lock_timeout = '4s'").await?;
    records::expect_agent(&transaction, by).await?;
    records::grant_in(&transaction, id, &control).await?;
    transaction.execute(RAISE, &[&name, &control.encode(), &to_db(number)]).await?;
    let copied = match rows {
        RowsAfter::Stays => copied,
        RowsAfter::IsWhole => Some(Copied::whole()),
        RowsAfter::Goes => None,
    };
    let keep = match (&copied, rows) {
        (_, RowsAfter::Stays) => Rows::Stay,
        (Some(copied), _) => Rows::Are(copied),
        (None, _) => Rows::Gone,
    };
    records::rows_in(&transaction, id, keep).await?;
    transaction.execute(REPORT, &[&name, &what, &kept]).await?;
    transaction.commit().await?;
    tracing::warn!(code = "DATABASE_FAILED_OVER", tenant = %id, %what, kept, "a tenant's grant was raised to what was answered");
    Ok(Known { control, copied, number })
}

/// Tenants that nobody owns since, and that an operator wants to be owned with what is there.
async fn taken(client: &Client) -> Result<Vec<TenantId>, AgentError> {
    let rows = client.query("SELECT tenant FROM cellway.put_back WHERE taken", &[]).await.map_err(Fault::from)?;
    Ok(rows.iter().map(|row| TenantId::new(row.get::<_, &str>(0))).collect::<Result<_, _>>()?)
}

async fn own_as_it_is(
    floor: &Floor,
    client: &mut Client,
    by: Generation,
    id: &TenantId,
    closed: &Known,
) -> Result<Known, Refusal> {
    let control = Control { role: Role::Owner, ..closed.control.clone() };
    let copied = Copied::whole();
    let transaction = client.transaction().await?;
    let number =
        records::change_in(&transaction, by, id, (Some(&closed.control), &control), Rows::Are(&copied)).await?;
    transaction.execute("DELETE FROM cellway.put_back WHERE tenant = $1", &[&id.as_str()]).await?;
    transaction.commit().await?;
    let now = Known { control, copied: Some(copied), number };
    floor.note(id, least(&now)).await?;
    tracing::warn!(tenant = %id, "an operator has said that the tenant is owned with the rows that are here");
    Ok(now)
}

/// Tenants whose rows are kept for an operator, and why.
pub(crate) async fn kept(client: &Client) -> Result<BTreeMap<TenantId, String>, AgentError> {
    let sql = "SELECT tenant, what FROM cellway.put_back WHERE kept";
    let rows = client.query(sql, &[]).await.map_err(Fault::from)?;
    let one = |row: &tokio_postgres::Row| -> Result<(TenantId, String), AgentError> {
        Ok((TenantId::new(row.get::<_, &str>(0))?, row.get(1)))
    };
    rows.iter().map(one).collect()
}

/// Whether rows of a tenant are kept for an operator.
pub(crate) async fn expect_not_kept(client: &Client, id: &TenantId) -> Result<(), Refusal> {
    let sql = "SELECT what FROM cellway.put_back WHERE tenant = $1 AND kept";
    let Some(row) = client.query_opt(sql, &[&id.as_str()]).await? else { return Ok(()) };
    let what: String = row.get(0);
    let reason = format!(
        "rows of tenant {id} are kept: {what}, so somebody may have written here what nobody else has. Look at them, and then, in this \
         database, DELETE FROM cellway.put_back WHERE tenant = {}",
        super::sql::literal(id.as_str())
    );
    Err(Refusal::new("ROWS_KEPT", reason))
}

impl Cell {
    /// Holds the lock of the database, wherever it goes; until another agent has, or has had, it.
    pub(super) async fn stay(self: &Arc<Self>) -> Fault {
        loop {
            self.keeper.lost(&self.database, self.moved_away()).await;
            let back = async {
                let mut client = self.keeper.again(&self.database).await?;
                self.agree(&mut client).await?;
                self.keeper.put(client).await;
                Ok::<_, Fault>(())
            };
            match back.await {
                Err(fault) if fault.code == "AGENT_RUNNING" => return fault,
                Err(fault) => tracing::warn!(%fault, "the database cannot be reached, or cannot be put right yet"),
                Ok(()) => {}
            }
        }
    }

    /// Looks, for ever, whether an operator has let go of what is kept.
    pub(super) async fn look_for_kept(&self) {
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            self.has_looked().await;
        }
    }

    async fn has_looked(&self) {
        let some: Vec<Arc<Tenant>> = self.all().into_iter().filter(|tenant| tenant.lock().kept.is_some()).collect();
        if some.is_empty() {
            return;
        }
        let asked = async { kept(&**self.database.client().await?).await };
        let Ok(kept) = asked.await else { return };
        for tenant in some {
            tenant.lock().kept = kept.get(&tenant.id).cloned();
        }
    }

    /// Returns when there is another server at the address than the one that the lock is held in.
    async fn moved_away(&self) {
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            self.has_looked().await;
            let looked = async { Place::read(&self.database.connect().await?).await };
            let Ok(place) = looked.await else { continue };
            if self.floor.place().and_then(|before| place.change_since(&before)).is_some() {
                return;
            }
            if let Err(refusal) = self.floor.note_place(&place) {
                tracing::warn!(%refusal, "where the database is could not be noted");
            }
        }
    }

    /// Raises what a database has less than was answered, in the session that holds its lock.
    async fn agree(self: &Arc<Self>, client: &mut Client) -> Result<(), Fault> {
        arrive(&self.floor, client, &self.database).await?;
        records::reassert(client, &self.leader.known()).await?;
        let known = records::load(client).await.map_err(as_database_fault)?;
        let concerned = concerned(&self.floor, client, &self.database, &known).await.map_err(as_database_fault)?;
        let less = concerned.into_iter().filter(|id| self.floor.judge(id, known.get(id)) != Verdict::Stands);
        let mut less: Vec<TenantId> = less.collect();
        // Writers are let in by these at this moment.
        less.sort_by_key(|id| known.get(id).is_none_or(|known| known.control.role != Role::Owner));
        for id in less {
            self.agree_on(client, &self.entry(&id)).await.map_err(as_fault)?;
        }
        // It may know of a slot again that was let go of since.
        self.replication.look_again();
        Ok(())
    }

    async fn agree_on(self: &Arc<Self>, client: &mut Client, tenant: &Arc<Tenant>) -> Result<(), Refusal> {
        let _turn = tenant.turn.lock().await;
        let found = records::load_one(client, &tenant.id).await?;
        let now = put_right(&self.floor, client, self.incarnation, &tenant.id, found).await?;
        let kept = kept(client).await.map_err(|error| Refusal::internal(error.to_string()))?.remove(&tenant.id);
        let tail = tails::find(client, &tenant.id).await?;
        let puts_aside = tail.as_ref().is_some_and(|tail| !tail.done);
        if !puts_aside && !now.as_ref().is_some_and(|now| now.control.needs_log()) {
            self.replication.unwant(&tenant.id);
        }
        {
            let mut core = tenant.lock();
            core.takes(now);
            core.tail = tail;
            core.kept = kept;
            core.cuts.clear();
        }
        self.post(tenant);
        self.resume_one(tenant);
        Ok(())
    }
}

fn as_database_fault(error: AgentError) -> Fault {
    match error {
        AgentError::Database(fault) => fault,
        other => Fault::new(other.code(), other.to_string()),
    }
}
