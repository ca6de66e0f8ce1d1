//! Opens a tenant's database: only the one that it was, and only where nothing of what was answered is missing in it.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use cell_model::TenantId;

use super::looking::{self, Standing};
use super::registry::{self, Row, Stage};
use super::template;
use super::whole::{Slot, State, Whole, opening};
use super::{Databases, inside};
use crate::error::AgentError;
use crate::postgres::cell::{Begun, Cell};
use crate::postgres::fault::Fault;
use crate::postgres::floor::Least;
use crate::postgres::keeper;
use crate::postgres::layout::Layout;
use crate::postgres::records::{self, to_db};
use crate::record::{Control, Record as _};
use crate::refusal::Refusal;

pub(super) fn refused(error: AgentError) -> Refusal {
    match error {
        AgentError::Database(fault) => fault.into(),
        other => Refusal::new(other.code(), other.to_string()),
    }
}

impl Databases {
    /// Connects to the one that is in the registry, and makes it this agent's.
    pub(super) async fn open_whole(&self, row: &Row) -> Result<Arc<Whole>, Refusal> {
        let home = &self.home;
        let layout = Layout::Whole { tenant: row.tenant.clone(), schema: home.database.options.schema.clone() };
        let database = Arc::new(home.database.beside(&row.name, layout).map_err(refused)?);
        let keeper = keeper::keep(&database).await.map_err(|fault| match fault.code {
            "DATABASE_MISSING" if row.stage == Stage::Ready => looking::lost(row),
            _ => fault.into(),
        })?;
        // Whoever has taken this agent's place has the home's lock by now, or comes here after this session has ended.
        home.keeper.holds().await?;
        let inside = looking::read(&keeper, &row.tenant).await?;
        match row.stage {
            Stage::Making => self.is_made(&keeper, row, &inside).await?,
            Stage::Ready | Stage::Dropping => inside.expect(&home.here, row)?,
        }
        let mut begun = Begun::under(keeper, database, &home.here, None).await.map_err(refused)?;
        if let Some(control) = row.control.as_ref().filter(|_| row.stage == Stage::Making) {
            seed(&mut begun, row, control).await?;
        }
        let cell = home.beside(begun).await.map_err(refused)?;
        Ok(Arc::new(Whole::start(cell, Row { oid: Some(inside.oid), ..row.clone() })))
    }

    /// It is the one that was made, and has what its template has, which must be nothing.
    async fn is_made(
        &self,
        client: &tokio_postgres::Client,
        row: &Row,
        inside: &looking::Inside,
    ) -> Result<(), Refusal> {
        if row.oid != Some(inside.oid) {
            return Err(looking::present(&row.name, "it is not the one that was made"));
        }
        let template = &self.home.database.options.template_database;
        template::not_empty(client, template).await?.map_or(Ok(()), Err)
    }

    /// One that was open before.
    pub(super) async fn reopen(&self, slot: &Slot, row: &Row) -> Result<(), Refusal> {
        let whole = self.open_whole(row).await?;
        // What was done in it and never answered is known from now on; and this agent is still the newest.
        if let Err(refusal) = self.note_all(&whole, row.oid.is_none()).await {
            let _busy = whole.close().await;
            return Err(refusal);
        }
        self.opened(slot, &whole);
        if whole.is_over() {
            return self.leave_alone(slot, &whole).await;
        }
        if self.resumed.load(Ordering::SeqCst) {
            whole.cell.resume_one(&whole.tenant);
        }
        Ok(())
    }

    /// From now on it has the say.
    pub(super) fn opened(&self, slot: &Slot, whole: &Arc<Whole>) {
        slot.set(State::Open(Arc::clone(whole)));
        self.home.hand_over(&slot.tenant);
    }

    /// Has the registry know what is in the database by now.
    pub(super) async fn note(&self, whole: &Whole) -> Result<(), Refusal> {
        self.note_all(whole, false).await
    }

    async fn note_all(&self, whole: &Whole, is_unpinned: bool) -> Result<(), Refusal> {
        let _turn = whole.noting.lock().await;
        let (control, number) = {
            let core = whole.tenant.lock();
            (core.control.clone(), core.number)
        };
        let row = whole.row();
        if row.number == number && !is_unpinned {
            return Ok(());
        }
        let Some(control) = control else { return Ok(()) };
        let row = Row { stage: Stage::Ready, number, control: Some(control), ..row };
        registry::write(&self.home, &row).await?;
        whole.set_row(row);
        Ok(())
    }

    /// Opens one as the registry has it now: an operator may have said meanwhile which one it is.
    pub(super) async fn reopen_known(&self, slot: &Slot, row: &Row) -> Result<(), Refusal> {
        match registry::find(&self.home, &slot.tenant).await? {
            Some(now) if now.stage == Stage::Ready => {
                if now != *row {
                    slot.set(State::closed(now.clone()));
                }
                self.reopen(slot, &now).await
            }
            Some(now) => {
                slot.set(State::closed(now));
                Err(opening())
            }
            None => {
                // What was said in an earlier session of the lock is over, and to be seen.
                self.home.keeper.holds().await?;
                if inside::found(&**self.home.database.client().await?, &row.name).await?.is_none() {
                    // An operator has let go of one that is gone for good.
                    slot.set(State::Nothing);
                    return Ok(());
                }
                // Looked for by its name, as at the start.
                slot.set(State::unread(self.unread(&slot.tenant, &row.name)));
                Err(opening())
            }
        }
    }

    fn unread(&self, tenant: &TenantId, name: &str) -> Row {
        let (control, number) = self.home.handed(tenant);
        Row { tenant: tenant.clone(), name: name.to_owned(), oid: None, stage: Stage::Ready, number, control }
    }

    /// Databases that this agent may have made, and the registry does not know: the cell's own database was put back to before
    /// that. Each of them is looked into before anything is said of its tenant.
    pub(super) async fn find_forgotten(&self) -> Result<(), AgentError> {
        let home = &self.home;
        let client = home.database.client().await?;
        // One that this role does not own, and may not even connect to, it has not made.
        let sql = "SELECT datname::text FROM pg_database d \
                    WHERE (pg_has_role(datdba, 'USAGE') OR has_database_privilege(d.oid, 'CONNECT')) \
                      AND NOT EXISTS (SELECT 1 FROM cellway.databases k WHERE k.name = d.datname) ORDER BY 1";
        for row in client.query(sql, &[]).await.map_err(Fault::from)? {
            let name: String = row.get(0);
            let tenant = home.database.layout.tenant_of_database(&name, &home.database.name);
            if let Some(tenant) = tenant.filter(|tenant| self.known(tenant).is_none()) {
                self.slot(&tenant).set(State::unread(self.unread(&tenant, &name)));
            }
        }
        Ok(())
    }

    /// Has the registry know a database again that was made by this agent, and forgets any other.
    pub(super) async fn remember(&self, slot: &Slot, row: &Row) -> Result<(), Refusal> {
        let home = &self.home;
        let named = |refusal: Refusal| {
            let reason = format!(
                "database {} is in no registry and may be the tenant's by its name: it has to be looked into, and {}",
                row.name, refusal.reason
            );
            Refusal { reason, ..refusal }
        };
        // Done before, and the answer was lost.
        if let Some(now) = registry::find(home, &row.tenant).await? {
            slot.set(State::closed(now));
            return Err(opening());
        }
        let database = home.database.beside(&row.name, home.database.layout.clone()).map_err(refused)?;
        let client = database.connect().await.map_err(|fault| named(fault.into()))?;
        let inside = looking::read(&client, &row.tenant).await.map_err(named)?;
        drop(client);
        if inside.is_unread() {
            // It may be the tenant's, made by another role or written by another version.
            let whose = "what its schema cellway says cannot be read: let the agent's role read it";
            return Err(named(looking::present(&row.name, whose)));
        }
        // One that was put back under the name of a tenant that has left has no more than what the home knows.
        if inside.beside(&home.here, row) != Standing::Newer {
            slot.set(State::Nothing);
            return Ok(());
        }
        tracing::warn!(tenant = %row.tenant, database = %row.name, "a tenant's database was not in the registry: it is again");
        let row = Row { oid: Some(inside.oid), ..row.clone() };
        registry::begin(home, &row).await?;
        home.hand_over(&row.tenant);
        slot.set(State::closed(row.clone()));
        self.reopen(slot, &row).await
    }
}

/// What the home knew of the tenant is in its database from the beginning: nothing that is older comes back.
async fn seed(begun: &mut Begun, row: &Row, control: &Control) -> Result<(), Refusal> {
    let transaction = begun.keeper.transaction().await?;
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
            tenant.lock().takes(None);
        }
    }

    /// The home has the say again.
    pub(super) fn take_back(&self, tenant: &TenantId, control: Option<Control>, number: u64) {
        let tenant = self.entry(tenant);
        if let Some(control) = control.clone() {
            let noted = self.floor.note_soon(&tenant.id, Least { control, number, has_rows: false });
            if let Err(refusal) = noted {
                tracing::warn!(tenant = %tenant.id, %refusal, "what the home has of a tenant could not be noted");
            }
        }
        tenant.lock().takes(control.map(|control| records::Known { control, copied: None, number }));
        self.post(&tenant);
    }
}
