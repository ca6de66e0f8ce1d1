//! Opens a tenant's database: only the one that it was, and only where nothing of what was answered is missing in it.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use cell_model::{CellId, TenantId};
use tokio_postgres::Client;

use super::registry::{self, Row, Stage};
use super::whole::{Slot, State, Whole};
use super::{Databases, inside, template};
use crate::error::AgentError;
use crate::postgres::cell::{Begun, Cell};
use crate::postgres::connect::Database;
use crate::postgres::fault::Fault;
use crate::postgres::keeper;
use crate::postgres::layout::Layout;
use crate::postgres::records::{self, from_db, to_db};
use crate::postgres::sql::literal;
use crate::record::{Control, Record as _};
use crate::refusal::Refusal;

/// Databases of a pattern that are in no registry, of which an agent that starts asks whether they are its own.
const FORGOTTEN_MAX: usize = 1_000;

pub(super) fn refused(error: AgentError) -> Refusal {
    match error {
        AgentError::Database(fault) => fault.into(),
        other => Refusal::new(other.code(), other.to_string()),
    }
}

/// It is not the one that it was.
pub(super) fn restored(row: &Row, what: &str) -> Refusal {
    let Row { name, tenant, .. } = row;
    let mend = match row.oid {
        // Another one, and perhaps whole: that is found out when it is opened.
        Some(_) => format!(
            "if it is to be the tenant's, in the cell's own database UPDATE cellway.databases SET oid = NULL WHERE tenant = {}",
            literal(tenant.as_str())
        ),
        None => "bring back the one that was there".to_owned(),
    };
    let reason = format!(
        "database {name} {what}: opened like this, it could make a second owner of tenant {tenant}. Restore it under another name \
         and bring its rows into the tenant's own, or restore the whole cell; {mend}"
    );
    Refusal::new("DATABASE_RESTORED", reason)
}

/// What a database says of the tenant.
async fn told(client: &Client, tenant: &TenantId) -> Result<Option<(u64, Control)>, Refusal> {
    // One of an older version counts nothing, and is no tenant's own.
    let sql = "SELECT number, control FROM cellway.controls WHERE tenant = $1";
    let Some(row) = client.query_opt(sql, &[&tenant.as_str()]).await? else { return Ok(None) };
    Ok(Some((from_db(row.get(0)), Control::decode(row.get(1)).map_err(Refusal::internal)?)))
}

/// Whether the database has at least what is known of it. In the session that keeps it from being exchanged.
pub(super) async fn expect(client: &Client, here: &CellId, row: &Row) -> Result<(), Refusal> {
    let found = client.query_one("SELECT oid FROM pg_database WHERE datname = current_database()", &[]).await?;
    let found: u32 = found.get(0);
    if row.oid.is_some_and(|oid| oid != found) {
        return Err(restored(row, "is another one than it was"));
    }
    // From here on it is known which one.
    let row = &Row { oid: None, ..row.clone() };
    if !inside::has_agent(client).await? {
        return match row.stage {
            Stage::Making | Stage::Adopting => Ok(()),
            Stage::Ready | Stage::Dropping => Err(restored(row, "has no records of this cell any more")),
        };
    }
    let owner = client.query_opt("SELECT cell, layout FROM cellway.agent", &[]).await?;
    let owner: Option<(String, String)> = owner.map(|row| (row.get(0), row.get(1)));
    let whole = Layout::Whole { tenant: row.tenant.clone(), schema: String::new() }.to_string();
    if owner.as_ref().is_some_and(|(cell, layout)| cell != here.as_str() || *layout != whole) {
        let (cell, layout) = owner.unwrap_or_default();
        let reason = format!("database {} is that of cell {cell}, {layout}, and no tenant's of this one", row.name);
        return Err(Refusal::new("DATABASE_PRESENT", reason));
    }
    let others = "SELECT min(tenant) FROM cellway.controls WHERE tenant <> $1";
    let other: Option<String> = client.query_one(others, &[&row.tenant.as_str()]).await?.get(0);
    if let Some(other) = other {
        let reason = format!("database {} has records of tenant {other} beside {}", row.name, row.tenant);
        return Err(Refusal::new("DATABASE_PRESENT", reason));
    }
    let least = row.control.as_ref().map(|control| (row.number, control));
    match (told(client, &row.tenant).await?, least) {
        (None, Some(_)) => Err(restored(row, "knows nothing of its tenant any more")),
        (Some((number, _)), Some((least, _))) if number < least => {
            Err(restored(row, &format!("is at change {number} of its grant, and was at {least}")))
        }
        (Some((number, control)), Some((least, known))) if number == least && control != *known => {
            Err(restored(row, "has another grant than its cell has answered with"))
        }
        _ => Ok(()),
    }
}

impl Databases {
    /// Connects to the one that is in the registry, and makes it this agent's.
    pub(super) async fn open_whole(&self, row: &Row) -> Result<Arc<Whole>, Refusal> {
        let home = &self.home;
        let layout = Layout::Whole { tenant: row.tenant.clone(), schema: home.database.options.schema.clone() };
        let database = Arc::new(home.database.beside(&row.name, layout).map_err(refused)?);
        let keeper = keeper::keep(&database).await?;
        if row.stage == Stage::Making
            && let Layout::Databases { template, .. } = &home.database.layout
            && let Some(refusal) = template::not_empty(&keeper, template).await?
        {
            return Err(refusal);
        }
        expect(&keeper, &home.here, row).await?;
        let found = keeper.query_one("SELECT oid FROM pg_database WHERE datname = current_database()", &[]).await?;
        let row = Row { oid: Some(found.get(0)), ..row.clone() };
        let mut begun = Begun::under(keeper, database, &home.here).await.map_err(refused)?;
        if let Some(control) = row.control.as_ref().filter(|_| row.stage != Stage::Ready) {
            seed(&mut begun, &row, control).await?;
        }
        let cell = home.beside(begun).await.map_err(refused)?;
        Ok(Arc::new(Whole::start(cell, row)))
    }

    /// One that was open before.
    pub(super) async fn reopen(&self, slot: &Slot, row: &Row) -> Result<(), Refusal> {
        let whole = self.open_whole(row).await?;
        self.opened(slot, &whole);
        // What was done in it and never answered is known from now on.
        let noted = self.note(&whole).await;
        if noted.is_ok() && whole.is_over() {
            return self.leave_alone(slot, &whole).await;
        }
        if self.resumed.load(Ordering::SeqCst) {
            whole.cell.resume_one(&whole.tenant);
        }
        // Asked once more with the next step, before that is answered.
        noted.or(Ok(()))
    }

    /// From now on it has the say.
    pub(super) fn opened(&self, slot: &Slot, whole: &Arc<Whole>) {
        slot.set(State::Open(Arc::clone(whole)));
        self.home.hand_over(&slot.tenant);
    }

    /// Has the registry know what is in the database by now.
    pub(super) async fn note(&self, whole: &Whole) -> Result<(), Refusal> {
        let _turn = whole.noting.lock().await;
        let (control, number) = {
            let core = whole.tenant.lock();
            (core.control.clone(), core.number)
        };
        let row = whole.row();
        let is_new = row.number != number || row.stage != Stage::Ready;
        let Some(control) = control.filter(|_| is_new) else { return Ok(()) };
        let row = Row { stage: Stage::Ready, number, control: Some(control), ..row };
        registry::write(&self.home, &row).await?;
        whole.set_row(row);
        Ok(())
    }

    /// Databases that this agent has made, and the registry does not know: the cell's own database was put back to before that.
    pub(super) async fn find_forgotten(&self) -> Result<(), AgentError> {
        let home = &self.home;
        let client = home.database.client().await?;
        let sql = "SELECT datname::text FROM pg_database d WHERE datallowconn AND NOT datistemplate \
                    AND pg_has_role(datdba, 'USAGE') \
                    AND NOT EXISTS (SELECT 1 FROM cellway.databases k WHERE k.name = d.datname) ORDER BY 1";
        let rows = client.query(sql, &[]).await.map_err(Fault::from)?;
        drop(client);
        let named = rows.iter().map(|row| row.get::<_, String>(0));
        let named = named
            .filter_map(|name| home.database.layout.tenant_of_database(&name, &home.database.name).zip(Some(name)));
        for (tenant, name) in named.take(FORGOTTEN_MAX) {
            if self.known(&tenant).is_some() {
                continue;
            }
            let (control, number) = home.handed(&tenant);
            let row = Row { tenant, name, oid: None, stage: Stage::Ready, number, control };
            let database: Database = home.database.beside(&row.name, home.database.layout.clone())?;
            let client = database.connect().await?;
            if !inside::has_agent(&client).await? || expect(&client, &home.here, &row).await.is_err() {
                continue;
            }
            // One that was put back under the name of a tenant that has left has no more than what the home knows.
            let told = told(&client, &row.tenant).await;
            let is_newer = matches!(told, Ok(Some((found, _))) if found > row.number);
            if is_newer {
                tracing::warn!(tenant = %row.tenant, database = %row.name, "a tenant's database was not in the registry: it is again");
                let begun = registry::begin(home, &row).await;
                begun.map_err(|refusal| Fault::new(refusal.code, refusal.reason))?;
                let slot = self.slot(&row.tenant);
                home.hand_over(&row.tenant);
                slot.set(State::closed(row));
            }
        }
        Ok(())
    }
}

/// What the home knew of the tenant is in its database from the beginning: nothing that is older comes back.
async fn seed(begun: &mut Begun, row: &Row, control: &Control) -> Result<(), Refusal> {
    let transaction = begun.client.transaction().await?;
    records::expect_agent(&transaction, begun.agent.generation).await?;
    let sql = "INSERT INTO cellway.controls (tenant, control, number) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING";
    let values: [&(dyn tokio_postgres::types::ToSql + Sync); 3] =
        [&row.tenant.as_str(), &control.encode(), &to_db(row.number)];
    if transaction.execute(sql, &values).await? == 1 {
        records::grant_in(&transaction, &row.tenant, control).await?;
    }
    Ok(transaction.commit().await?)
}

impl Cell {
    /// What the home knows of a tenant.
    pub(super) fn handed(&self, tenant: &TenantId) -> (Option<Control>, u64) {
        self.get(tenant).map_or((None, 0), |tenant| {
            let core = tenant.lock();
            (core.control.clone(), core.number)
        })
    }

    /// The tenant's own database has the say.
    pub(super) fn hand_over(&self, tenant: &TenantId) {
        if let Some(tenant) = self.get(tenant) {
            tenant.lock().knows(None);
        }
    }

    /// The home has the say again.
    pub(super) fn take_back(&self, tenant: &TenantId, control: Option<Control>, number: u64) {
        let tenant = self.entry(tenant);
        tenant.lock().knows(control.map(|control| records::Known { control, copied: None, number }));
        self.post(&tenant);
    }
}
