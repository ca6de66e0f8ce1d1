//! Drops a tenant's database: when nothing of the tenant is needed any more, everything of ours in it is closed, its slot is gone, and
//! the grant has been looked at once more. Never with force: whoever is connected still is told of, and waited for.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::Databases;
use super::inside::{self, Found};
use super::looking::{self, Standing, present, restored};
use super::opening::refused;
use super::registry::{self, Row, Stage};
use super::whole::{Slot, State, Whole, Word, opening};
use crate::postgres::fault::Fault;
use crate::postgres::keeper;
use crate::postgres::sql::ident;
use crate::record::Control;
use crate::refusal::Refusal;

/// Our own sessions may take so long to end, and those of an application that has just been told.
pub(super) const GUESTS_MAX: Duration = Duration::from_secs(2);
pub(super) const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// What becomes of a database that was being made, or is to be dropped.
enum Fate {
    /// It is the one, and what was known when that was written down is all that it has.
    Goes(Found),
    /// Nothing of this agent's is there.
    IsGone,
    /// Another one of the same name, which is nobody's business.
    Stays,
}

impl Databases {
    /// Drops the database if nothing needs it.
    pub(super) async fn leave(&self, slot: &Slot) -> Result<(), Refusal> {
        let _alone = slot.life.write().await;
        match slot.state() {
            State::Open(whole) => self.leave_alone(slot, &whole).await.inspect_err(|refusal| slot.failed(refusal)),
            State::Nothing | State::Closed(_) => Ok(()),
        }
    }

    /// As [`Databases::leave`], for whoever is alone with it, and has the slot know where it fails.
    pub(super) async fn leave_alone(&self, slot: &Slot, whole: &Arc<Whole>) -> Result<(), Refusal> {
        if !whole.is_over() {
            whole.stays_for_good();
            return Ok(());
        }
        let (control, number) = {
            let core = whole.tenant.lock();
            (core.control.clone(), core.number)
        };
        let row = Row { stage: Stage::Dropping, control, number, ..whole.row() };
        registry::write(&self.home, &row).await?;
        slot.set(State::of_home(row.clone()));
        self.home.take_back(&row.tenant, row.control.clone(), row.number);
        // What has not ended keeps the database from being dropped, too.
        let _busy = whole.close().await;
        self.drop_database(slot, &row).await
    }

    /// Drops one that the registry says is to be dropped.
    pub(super) async fn drop_database(&self, slot: &Slot, row: &Row) -> Result<(), Refusal> {
        match self.fate(slot, row).await? {
            Fate::Goes(found) => self.drop_found(row, &found).await?,
            Fate::IsGone => {}
            // Its place is taken by one that may be anybody's. What this cell is to the tenant stands in the home by now.
            Fate::Stays => return Err(restored(row, "is another one than was to be dropped")),
        }
        // Where the database was gone already, with a copy in it that followed, that is over, too.
        let over = |control| Control {
            emptying: false,
            sync: false,
            capture: None,
            follow: None,
            reverse: None,
            ..control
        };
        let control = row.control.clone().map(over);
        // Above every state that a backup of the database may have.
        let number = row.number + 1;
        registry::end(&self.home, &row.tenant, control.as_ref(), number).await?;
        self.home.take_back(&row.tenant, control, number);
        slot.set(State::Nothing);
        Ok(())
    }

    /// Takes away what was made of a database of which nothing was ever answered.
    pub(super) async fn unmake(&self, slot: &Slot, row: &Row) -> Result<(), Refusal> {
        if let Fate::Goes(found) = self.fate(slot, row).await? {
            self.drop_found(row, &found).await?;
        }
        self.forget(slot, row).await
    }

    /// The same in the moment in which it was made: whatever its template has brought along, nobody else was ever told of it.
    pub(super) async fn unmake_new(&self, slot: &Slot, row: &Row) -> Result<(), Refusal> {
        self.home.keeper.holds().await?;
        let found = inside::found(&**self.home.database.client().await?, &row.name).await?;
        if let Some(found) = found.filter(|found| row.oid == Some(found.oid)) {
            self.drop_found(row, &found).await?;
        }
        self.forget(slot, row).await
    }

    /// The home has the say again, as before.
    pub(super) async fn forget(&self, slot: &Slot, row: &Row) -> Result<(), Refusal> {
        registry::end(&self.home, &row.tenant, row.control.as_ref(), row.number).await?;
        self.home.take_back(&row.tenant, row.control.clone(), row.number);
        slot.set(State::Nothing);
        Ok(())
    }

    /// Looks at what is there by now. Until then, and where it is more than the home knows, the home has no say.
    async fn fate(&self, slot: &Slot, row: &Row) -> Result<Fate, Refusal> {
        // What was said in an earlier session of the lock is over, and to be seen.
        self.home.keeper.holds().await?;
        let found = inside::found(&**self.home.database.client().await?, &row.name).await?;
        let is_it = |found: &Found| row.oid == Some(found.oid);
        let fate = match found {
            None if row.stage == Stage::Dropping && !row.is_over() => Err(self.is_lost(slot, row).await?),
            None => Ok(Fate::IsGone),
            // The server has made it so when it was half dropped: nobody can connect to it any more.
            Some(found) if found.is_invalid && is_it(&found) => Ok(Fate::Goes(found)),
            Some(found) => self.look(slot, row, found).await,
        };
        match &fate {
            Ok(_) => {
                self.home.take_back(&row.tenant, row.control.clone(), row.number);
                slot.knows(Word::Home);
            }
            Err(refusal) if ["DATABASE_RESTORED", "DATABASE_PRESENT"].contains(&refusal.code) => {
                slot.knows(Word::Unknown);
            }
            Err(_) => {}
        }
        fate
    }

    /// It is to be dropped, and its tenant's rows were in it: an operator has the last word.
    async fn is_lost(&self, slot: &Slot, row: &Row) -> Result<Refusal, Refusal> {
        let now = registry::find(&self.home, &row.tenant).await?;
        if now.as_ref() == Some(row) {
            return Ok(looking::lost(row));
        }
        slot.set(now.map_or(State::Nothing, State::closed));
        Ok(opening())
    }

    async fn look(&self, slot: &Slot, row: &Row, found: Found) -> Result<Fate, Refusal> {
        let home = &self.home;
        let database = home.database.beside(&row.name, home.database.layout.clone()).map_err(refused)?;
        let client = database.connect().await?;
        let inside = looking::read(&client, &row.tenant).await?;
        let standing = inside.beside(&home.here, row);
        if standing == Standing::Newer {
            self.is_ready_after_all(slot, row, inside.oid).await?;
            return Err(opening());
        }
        // An operator may say that it is any that has what is expected: one that is to be dropped, never one that was being made.
        let is_it =
            found.oid == inside.oid && inside.is_it(row) && (row.oid.is_some() || row.stage == Stage::Dropping);
        if !is_it {
            return Ok(Fate::Stays);
        }
        keeper::lock(&client).await?;
        let inside = looking::read(&client, &row.tenant).await?;
        match (inside.beside(&home.here, row), row.stage) {
            (Standing::Newer, _) => return Err(opening()),
            (Standing::Other(whose), _) => return Err(present(&row.name, &whose)),
            // Nobody but this agent has made it.
            (Standing::Same, _) | (_, Stage::Making) => {}
            (Standing::Bare, _) => return Err(restored(row, "has no records of this cell any more")),
            (Standing::Older(what), _) => return Err(restored(row, &what)),
        }
        if let Some(role) = inside.has_grant() {
            return Err(restored(
                row,
                &format!("says that this cell is {role} to its tenant, and was to be dropped"),
            ));
        }
        let deadline = Instant::now() + GUESTS_MAX;
        while standing == Standing::Same && !inside::drop_slots(&client).await? {
            if Instant::now() >= deadline {
                return Err(Refusal::new("BUSY", "the slot of the database that is to be dropped is in use still"));
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
        Ok(Fate::Goes(found))
    }

    /// The registry is of an earlier moment: more was done in the database since, and that has the say.
    async fn is_ready_after_all(&self, slot: &Slot, row: &Row, oid: u32) -> Result<(), Refusal> {
        tracing::warn!(tenant = %row.tenant, database = %row.name, stage = %row.stage, "a tenant's database is ahead of the registry: it stays");
        let row = Row { stage: Stage::Ready, oid: Some(oid), ..row.clone() };
        registry::write(&self.home, &row).await?;
        self.home.hand_over(&row.tenant);
        slot.set(State::closed(row));
        Ok(())
    }

    async fn drop_found(&self, row: &Row, found: &Found) -> Result<(), Refusal> {
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
        // Nobody was connected: it may have been renamed.
        if inside::found(&**client, name).await?.is_none_or(|now| now.oid != found.oid) {
            return Err(Refusal::new("BUSY", format!("database {name} was exchanged while it was looked at")));
        }
        drop(client);
        match self.home.keeper.say(&format!("DROP DATABASE {}", ident(name))).await {
            Err(Fault { state: Some(state), reason, .. }) if state == "55006" => Err(in_use(reason)),
            dropped => Ok(dropped?),
        }
    }
}
