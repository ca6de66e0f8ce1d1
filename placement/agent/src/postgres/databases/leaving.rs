//! Drops a tenant's database: when nothing of the tenant is needed any more, everything of ours in it is closed, its slot is gone, and
//! the grant has been looked at once more. Never with force: whoever is connected still is told of, and waited for.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::Databases;
use super::inside::{self, Found};
use super::opening::{expect, refused, restored};
use super::registry::{self, Row, Stage};
use super::whole::{Slot, State, Whole};
use crate::postgres::fault::Fault;
use crate::postgres::keeper;
use crate::postgres::layout::Layout;
use crate::postgres::sql::ident;
use crate::record::Control;
use crate::refusal::Refusal;

/// Our own sessions may take so long to end, and those of an application that has just been told.
pub(super) const GUESTS_MAX: Duration = Duration::from_secs(2);
pub(super) const LOOK_AGAIN: Duration = Duration::from_millis(20);

impl Databases {
    /// Drops the database if nothing needs it.
    pub(super) async fn leave(&self, slot: &Slot) -> Result<(), Refusal> {
        let _alone = slot.life.write().await;
        match slot.state() {
            State::Open(whole) => self.leave_alone(slot, &whole).await,
            State::Nothing | State::Closed(_) => Ok(()),
        }
    }

    /// As [`Databases::leave`], for whoever is alone with it.
    pub(super) async fn leave_alone(&self, slot: &Slot, whole: &Arc<Whole>) -> Result<(), Refusal> {
        if !whole.is_over() {
            return Ok(());
        }
        let row = whole.row();
        if row.stage == Stage::Adopting {
            // Nothing was ever granted in it: it stays as it was found.
            whole.close().await?;
            slot.set(State::closed(row.clone()));
            return self.forget(slot, &row).await;
        }
        let (control, number) = {
            let core = whole.tenant.lock();
            (core.control.clone(), core.number)
        };
        let row = Row { stage: Stage::Dropping, control, number, ..row };
        registry::write(&self.home, &row).await?;
        slot.set(State::closed(row.clone()));
        self.home.take_back(&row.tenant, row.control.clone(), row.number);
        // What has not ended keeps the database from being dropped, too.
        let _busy = whole.close().await;
        self.drop_database(slot, &row).await.inspect_err(|refusal| slot.failed(refusal))
    }

    /// Drops one that the registry says is to be dropped.
    pub(super) async fn drop_database(&self, slot: &Slot, row: &Row) -> Result<(), Refusal> {
        let found = inside::found(&**self.home.database.client().await?, &row.name).await?;
        if let Some(found) = found {
            if row.oid.is_some_and(|oid| oid != found.oid) {
                return Err(restored(row, "is another one than was to be dropped"));
            }
            self.drop_found(row, &found).await?;
        }
        let control = row.control.clone().map(|control| Control { emptying: false, ..control });
        // Above every state that a backup of the database may have.
        let number = row.number + 1;
        registry::end(&self.home, &row.tenant, control.as_ref(), number).await?;
        self.home.take_back(&row.tenant, control, number);
        slot.set(State::Nothing);
        Ok(())
    }

    pub(super) async fn drop_found(&self, row: &Row, found: &Found) -> Result<(), Refusal> {
        self.look_once_more(row).await?;
        let name = &row.name;
        let in_use = |who: String| {
            let reason = format!(
                "database {name} cannot be dropped while it is in use: {who}. Close that, in an application by letting go of \
                 connections that rest; it is tried again"
            );
            Refusal::new("DATABASE_IN_USE", reason)
        };
        let client = self.home.database.client().await?;
        let deadline = Instant::now() + GUESTS_MAX;
        while let Some(guests) = inside::guests(&**client, found.oid).await? {
            if Instant::now() >= deadline {
                return Err(in_use(guests));
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
        if let Some(slot) = inside::slot_in(&**client, name).await? {
            return Err(in_use(format!("replication slot {slot}, which is somebody else's")));
        }
        drop(client);
        match self.home.keeper.say(&format!("DROP DATABASE {}", ident(name))).await {
            Err(Fault { state: Some(state), reason, .. }) if state == "55006" => Err(in_use(reason)),
            dropped => Ok(dropped?),
        }
    }

    /// Nobody else has it, it is the one that was to go, nothing in it is granted, and no slot of ours is left there.
    async fn look_once_more(&self, row: &Row) -> Result<(), Refusal> {
        let options = &self.home.database.options;
        let layout = Layout::Whole { tenant: row.tenant.clone(), schema: options.schema.clone() };
        let database = self.home.database.beside(&row.name, layout).map_err(refused)?;
        let client = keeper::keep(&database).await?;
        if row.stage != Stage::Dropping {
            // Nothing was ever answered of it.
            return Ok(());
        }
        expect(&client, &self.home.here, row).await?;
        let sql = "SELECT role FROM cellway.grants WHERE tenant = $1 AND role IN ('owner', 'fenced', 'importing')";
        if let Some(grant) = client.query_opt(sql, &[&row.tenant.as_str()]).await? {
            let role: String = grant.get(0);
            return Err(restored(
                row,
                &format!("says that this cell is {role} to its tenant, and was to be dropped"),
            ));
        }
        let deadline = Instant::now() + GUESTS_MAX;
        while !inside::drop_slots(&client).await? {
            if Instant::now() >= deadline {
                return Err(Refusal::new("BUSY", "the slot of the database that is to be dropped is in use still"));
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
        Ok(())
    }
}
