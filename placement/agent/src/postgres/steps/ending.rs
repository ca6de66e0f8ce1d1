//! Steps that take away: never what this cell owns, and never without looking again in the transaction that deletes.

use cell_model::Epoch;
use cell_protos::v1::step_response::Result as Answer;
use tokio_postgres::{Client, Transaction};

use super::owning::PATIENCE;
use super::{Core, Keep, Work, done};
use crate::postgres::applier;
use crate::postgres::catalogue::{Catalogue, Table};
use crate::postgres::cell::Cell;
use crate::postgres::failover;
use crate::postgres::floor::Least;
use crate::postgres::layout::Place;
use crate::postgres::records::{self, Rows};
use crate::postgres::schemas;
use crate::postgres::seal::Seal;
use crate::postgres::tenant::Tenant;
use crate::record::{Control, Record as _, Role};
use crate::refusal::Refusal;
use crate::transition::{self, Ending};

/// Rows deleted in one transaction.
const CHUNK_ROWS: u32 = 1_000;

impl Work<'_> {
    pub(super) async fn revoke(&self) -> Result<Answer, Refusal> {
        let owns = {
            let _turn = self.tenant.turn.lock().await;
            // Whoever was let in by a grant of which nobody has heard has entered all the same.
            self.refresh().await?;
            self.lock()?.control.as_ref().is_some_and(|control| control.role == Role::Owner)
        };
        // Transactions that have entered are done before their tenant is gone.
        let seal = if owns {
            let of = (self.context().move_id, self.context().attempt);
            Some(Seal::take(self.cell.database.connect().await?, &self.tenant.id, of, PATIENCE / 2).await?)
        } else {
            None
        };
        let revoked = self
            .end(|core, context| {
                transition::revoke(core.control.as_ref(), context, core.has_copy()).map(Ending::Empty)
            })
            .await;
        if let Some(seal) = seal {
            seal.release().await;
        }
        revoked?;
        self.emptied().await
    }

    pub(super) async fn drop_import(&self) -> Result<Answer, Refusal> {
        self.end(|core, context| transition::drop_import(core.control.as_ref(), context)).await?;
        self.emptied().await
    }

    pub(super) async fn reclaim(&self, fenced: Epoch) -> Result<Answer, Refusal> {
        self.end(|core, context| {
            transition::let_go_of(core.tail.as_ref(), context)?;
            transition::reclaim(core.control.as_ref(), context, fenced)
        })
        .await?;
        self.emptied().await
    }

    pub(super) async fn stop_capture(&self) -> Result<Answer, Refusal> {
        if self.tenant.lock().control.is_none() {
            return Ok(done());
        }
        self.change(|core| Ok((transition::stop_capture(core.known()?, self.context())?, Keep::Same))).await?;
        if self.tenant.lock().known()?.capture.is_none() {
            self.let_go().await;
        }
        Ok(done())
    }

    pub(super) async fn retire(&self) -> Result<Answer, Refusal> {
        if self.tenant.lock().control.is_none() {
            return Ok(done());
        }
        self.change(|core| Ok((transition::retire(core.known()?, self.context())?, Keep::Same))).await?;
        Ok(done())
    }

    /// Makes the ending durable, without the record of the rows, so that nothing takes what is left for a copy.
    async fn end(
        &self,
        ending: impl FnOnce(&Core, &transition::Context) -> Result<Ending, Refusal> + Send,
    ) -> Result<(), Refusal> {
        let _turn = self.tenant.turn.lock().await;
        // What was made without anybody hearing of it is taken away, too.
        self.refresh().await?;
        let ending = ending(&*self.lock()?, self.context())?;
        let (next, keep) = match ending {
            Ending::Gone => return Ok(()),
            Ending::Keep(next) => (next, Keep::Same),
            Ending::Empty(next) => (next, Keep::Gone),
        };
        self.change_in_turn(|_| Ok((next, keep))).await?;
        self.let_go().await;
        Ok(())
    }

    async fn emptied(&self) -> Result<Answer, Refusal> {
        empty(self.cell, &self.tenant).await?;
        Ok(done())
    }
}

/// Deletes the rows of a tenant that is being emptied, in bounded transactions. Each expects the grant as it was: one
/// that has changed meanwhile keeps its rows.
pub(crate) async fn empty(cell: &Cell, tenant: &Tenant) -> Result<(), Refusal> {
    let emptying = || tenant.lock().control.clone().filter(|control| control.emptying);
    let Some(control) = emptying() else { return Ok(()) };
    failover::expect_not_kept(&*cell.database.client().await?, &tenant.id).await?;
    tenant.lock().kept = None;
    // The whole database goes, and the mark with it: see `databases`.
    if cell.database.layout.is_whole() {
        return Ok(());
    }
    // As a replica: no trigger of the application runs, and keys among the tenant's own rows are not asked.
    let mut client = applier::session(&cell.database).await?;
    if cell.database.layout.is_shared() {
        let catalogue = cell.catalogue(&tenant.id).await?;
        for table in &catalogue.tables {
            while delete_some(&mut client, &catalogue, table, tenant, &control).await? > 0 {
                tokio::task::yield_now().await;
            }
        }
    } else if let Some(Ok(place)) =
        cell.database.layout.has_schemas().then(|| cell.database.layout.place(&tenant.id))
    {
        drop_schema(&mut client, &place, tenant, &control).await?;
    }
    let _turn = tenant.turn.lock().await;
    let Some(control) = emptying() else { return Ok(()) };
    let next = Control { emptying: false, ..control.clone() };
    let controls = (Some(&control), &next);
    let changed = records::change(&mut client, cell.incarnation, &tenant.id, controls, Rows::Stay).await;
    // It may have been made: tried again, the step finds it in the database.
    let number = changed.inspect_err(|_| tenant.lock().doubted = true)?;
    let noted = cell.floor.note(&tenant.id, Least { control: next.clone(), number, has_rows: false }).await;
    noted.inspect_err(|_| tenant.lock().doubted = true)?;
    {
        let mut core = tenant.lock();
        (core.control, core.number) = (Some(next), number);
    }
    cell.replication.forget_catalogue(&tenant.id);
    cell.post(tenant);
    Ok(())
}

/// Nobody changes the tenant's record before the transaction ends.
async fn expect(transaction: &Transaction<'_>, tenant: &Tenant, control: &Control) -> Result<(), Refusal> {
    let sql = "SELECT 1 FROM cellway.controls WHERE tenant = $1 AND control = $2 FOR SHARE";
    if transaction.query_opt(sql, &[&tenant.id.as_str(), &control.encode()]).await?.is_none() {
        return Err(Refusal::new("BUSY", "the grant has changed while the copy was deleted"));
    }
    Ok(())
}

/// The whole schema at once: the rows in it are nobody else's.
async fn drop_schema(
    client: &mut Client,
    place: &Place,
    tenant: &Tenant,
    control: &Control,
) -> Result<(), Refusal> {
    let transaction = client.transaction().await?;
    // Readers of the old copy may be at their tables still: others come behind us, so not for long.
    transaction.batch_execute("SET LOCAL lock_timeout = '2s'").await?;
    expect(&transaction, tenant, control).await?;
    schemas::drop(&transaction, place).await?;
    transaction.commit().await?;
    Ok(())
}

async fn delete_some(
    client: &mut Client,
    catalogue: &Catalogue,
    table: &Table,
    tenant: &Tenant,
    control: &Control,
) -> Result<u64, Refusal> {
    let (name, of) = (catalogue.qualified(table), catalogue.of_tenant(table, tenant.id.as_str()));
    let transaction = client.transaction().await?;
    expect(&transaction, tenant, control).await?;
    let keys = table.key_list();
    let sql = if keys.is_empty() {
        format!("DELETE FROM {name} WHERE {of}")
    } else {
        let some = format!("SELECT {keys} FROM {name} WHERE {of} LIMIT {CHUNK_ROWS}");
        format!("DELETE FROM {name} WHERE {of} AND ({keys}) IN ({some})")
    };
    let deleted = transaction.execute(&sql, &[]).await?;
    transaction.commit().await?;
    Ok(deleted)
}
