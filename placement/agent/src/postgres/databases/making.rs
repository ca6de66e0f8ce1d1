//! Makes a tenant's database as a copy of the template, or takes the one that is there as it is.

use tokio::time::Instant;

use super::leaving::{GUESTS_MAX, LOOK_AGAIN};
use super::registry::{self, Row, Stage};
use super::template::{missing, present};
use super::whole::{Slot, State, Whole};
use super::{Databases, inside};
use crate::postgres::catalogue::Catalogue;
use crate::postgres::check;
use crate::postgres::fault::Fault;
use crate::postgres::layout::{Layout, Place};
use crate::postgres::sql::ident;
use crate::refusal::Refusal;

/// Rights on the template, said of a copy of it: a copy has its tables with all their rights, and none on itself.
const RIGHTS: &str = "
SELECT format('REVOKE ALL ON DATABASE %I FROM PUBLIC', $2::text), 0
  FROM pg_database d WHERE d.datname = $1 AND d.datacl IS NOT NULL
UNION ALL
SELECT format('GRANT %s ON DATABASE %I TO %s%s', g.privilege_type, $2::text,
              CASE WHEN g.grantee = 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(g.grantee)) END,
              CASE WHEN g.is_grantable THEN ' WITH GRANT OPTION' ELSE '' END), 1
  FROM pg_database d, aclexplode(d.datacl) g WHERE d.datname = $1 AND g.grantee <> d.datdba
 ORDER BY 2, 1";

impl Databases {
    /// Has the tenant have a database. Nothing is left of one that could not be made.
    pub(super) async fn make(&self, slot: &Slot, adopts: bool) -> Result<(), Refusal> {
        let _turn = self.making.lock().await;
        let _alone = slot.life.write().await;
        if !slot.is_nothing() {
            return Ok(());
        }
        let home = &self.home;
        let name = home.database.layout.database_of(&slot.tenant, &home.database.name)?;
        let found = inside::found(&**home.database.client().await?, &name).await?;
        if let Some(found) = &found {
            let finding = inside::undroppable(&name, found);
            match finding.filter(|_| adopts) {
                Some(wire) if found.is_template => return Err(Refusal::new("DATABASE_IS_TEMPLATE", wire.reason)),
                Some(wire) => return Err(Refusal::new("DATABASE_NOT_OWNED", wire.reason)),
                None if adopts => {}
                None => return Err(present(&name)),
            }
        }
        self.has_room()?;
        let (control, number) = home.handed(&slot.tenant);
        let stage = if found.is_some() { Stage::Adopting } else { Stage::Making };
        let oid = found.map(|found| found.oid);
        let mut row = Row { tenant: slot.tenant.clone(), name, oid, stage, number, control };
        if stage == Stage::Adopting {
            self.was_nobodys(&row).await?;
        }
        slot.set(State::closed(row.clone()));
        let made = self.make_alone(slot, &mut row).await;
        if let Err(refusal) = &made {
            let undone = match row.stage {
                Stage::Adopting => self.forget(slot, &row).await,
                Stage::Making | Stage::Ready | Stage::Dropping => self.unmake(slot, &row).await,
            };
            if let Err(left) = undone {
                tracing::warn!(tenant = %slot.tenant, database = %row.name, %left, "a database that could not be made is taken away later");
                slot.set(State::closed(row));
                slot.failed(refusal);
            }
        }
        made
    }

    async fn make_alone(&self, slot: &Slot, row: &mut Row) -> Result<(), Refusal> {
        registry::begin(&self.home, row).await?;
        if row.stage == Stage::Making {
            self.create(row).await?;
        }
        let whole = self.open_whole(row).await?;
        if row.stage == Stage::Making
            && let Err(refusal) = self.is_fit(&whole).await
        {
            let _busy = whole.close().await;
            return Err(refusal);
        }
        if row.stage == Stage::Making {
            let ready = Row { stage: Stage::Ready, ..whole.row() };
            if let Err(refusal) = registry::write(&self.home, &ready).await {
                let _busy = whole.close().await;
                return Err(refusal);
            }
            whole.set_row(ready);
        }
        self.opened(slot, &whole);
        Ok(())
    }

    /// The copy of the template, in the session that only the newest agent has.
    async fn create(&self, row: &mut Row) -> Result<(), Refusal> {
        let home = &self.home;
        let Layout::Databases { template, .. } = &home.database.layout else {
            return Err(Refusal::internal("no tenant has a database of its own here"));
        };
        self.alone_with(template).await?;
        let create = format!("CREATE DATABASE {} TEMPLATE {}", ident(&row.name), ident(template));
        if let Err(fault) = home.keeper.say(&create).await {
            return Err(not_created(&row.name, template, fault));
        }
        let client = home.database.client().await?;
        for right in client.query(RIGHTS, &[template, &row.name]).await? {
            client.batch_execute(right.get(0)).await?;
        }
        let found = inside::found(&**client, &row.name).await?;
        row.oid = Some(found.ok_or_else(|| Refusal::new("BUSY", "the database that was made is gone"))?.oid);
        drop(client);
        registry::write(home, row).await
    }

    /// The server would wait longer than a step may.
    async fn alone_with(&self, template: &str) -> Result<(), Refusal> {
        let client = self.home.database.client().await?;
        let Some(found) = inside::found(&**client, template).await? else { return Err(missing(template)) };
        let deadline = Instant::now() + GUESTS_MAX;
        while let Some(guests) = inside::guests(&**client, found.oid).await? {
            if Instant::now() >= deadline {
                return Err(in_use(template, &guests));
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
        Ok(())
    }
}

fn in_use(template: &str, guests: &str) -> Refusal {
    let reason = format!(
        "template database {template} cannot be copied while somebody is connected to it: {guests}. Close these connections; it is \
         tried again"
    );
    Refusal::new("TEMPLATE_IN_USE", reason)
}

fn not_created(name: &str, template: &str, fault: Fault) -> Refusal {
    match fault.state.as_deref() {
        Some("3D000") => missing(template),
        Some("42P04") => present(name),
        Some("55006") => in_use(template, &fault.reason),
        _ => fault.into(),
    }
}

impl Databases {
    /// What the template has, every tenant would have.
    async fn is_fit(&self, whole: &Whole) -> Result<(), Refusal> {
        let database = &self.home.database;
        let client = whole.cell.database.connect().await?;
        let catalogue = Catalogue::read(&client, &Place::of_one(&database.options.schema)).await?;
        if let Some(finding) = check::tables(&catalogue).into_iter().next() {
            let template = &database.options.template_database;
            let reason = format!("template database {template}: {}: {}", finding.code, finding.reason);
            return Err(Refusal::new("TABLES_UNFIT", reason));
        }
        Ok(())
    }

    /// One with records of Cellway was a tenant's before, here or elsewhere, and what it says is not known to be the last word.
    async fn was_nobodys(&self, row: &Row) -> Result<(), Refusal> {
        let database = self.home.database.beside(&row.name, self.home.database.layout.clone());
        let client = database.map_err(super::opening::refused)?.connect().await?;
        if !inside::has_agent(&client).await? {
            return Ok(());
        }
        let reason = format!(
            "database {} has records of Cellway from before, so it is not taken as it is: DROP SCHEMA cellway CASCADE in it, if its \
             rows are the tenant's newest ones",
            row.name
        );
        Err(Refusal::new("DATABASE_PRESENT", reason))
    }

    /// Takes away what was made of a database of which nothing was ever answered. One that this agent does not know to have made
    /// goes only where nothing is in it.
    pub(super) async fn unmake(&self, slot: &Slot, row: &Row) -> Result<(), Refusal> {
        let home = &self.home;
        let found = inside::found(&**home.database.client().await?, &row.name).await?;
        if let Some(found) = found {
            if row.oid.is_none() {
                let database = home.database.beside(&row.name, home.database.layout.clone());
                let client = database.map_err(super::opening::refused)?.connect().await?;
                if inside::with_rows(&client).await?.is_some() {
                    return Err(present(&row.name));
                }
            }
            if row.oid.is_some_and(|oid| oid != found.oid) {
                return Err(present(&row.name));
            }
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
}
