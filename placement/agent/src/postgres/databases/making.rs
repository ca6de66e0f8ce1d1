//! Makes a tenant's database as a copy of the template. Which one it is, its oid, is chosen and written down before it is made: what
//! this agent has made is known from what anybody else has, whenever the agent dies.

use cell_protos::v1::step_request::Step;
use tokio::time::Instant;

use super::leaving::{GUESTS_MAX, LOOK_AGAIN};
use super::looking::present;
use super::opening::refused;
use super::registry::{self, Row, Stage};
use super::template::{PATIENCE, missing, not_empty};
use super::whole::{Slot, State, Whole, opening};
use super::{Databases, inside};
use crate::driver::Sender;
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
    /// Has the tenant have a database, if the step still makes something of the tenant that needs one. Nothing is left of one that
    /// could not be made.
    pub(super) async fn make(&self, slot: &Slot, sender: Sender, step: &Step) -> Result<(), Refusal> {
        let _turn = self.making.lock().await;
        let _alone = slot.life.write().await;
        if !slot.is_nothing() {
            return Ok(());
        }
        let Some(row) = self.begin(slot, sender, step).await? else { return Ok(()) };
        let made = self.make_alone(slot, &row).await;
        if let Err(refusal) = &made
            && let Err(left) = self.unmake_new(slot, &row).await
        {
            tracing::warn!(tenant = %slot.tenant, database = %row.name, %left, "a database that could not be made is taken away later");
            slot.failed(refusal);
        }
        made
    }

    /// Writes down which database is to be made. None: by now the step needs none.
    async fn begin(&self, slot: &Slot, sender: Sender, step: &Step) -> Result<Option<Row>, Refusal> {
        let home = &self.home;
        let known = home.entry(&slot.tenant);
        let _turn = known.turn.lock().await;
        // What is handed over is what is durable.
        home.refresh(&known).await?;
        if !self.needs_rows(sender, &slot.tenant, step)? {
            return Ok(None);
        }
        let name = home.database.layout.database_of(&slot.tenant, &home.database.name)?;
        home.keeper.holds().await?;
        let client = home.database.client().await?;
        if inside::found(&**client, &name).await?.is_some() {
            return Err(present(&name, "this agent has not made it"));
        }
        self.has_room()?;
        let oid = Some(inside::free_oid(&**client).await?);
        drop(client);
        let (control, number) = home.handed(&slot.tenant);
        let row = Row { tenant: slot.tenant.clone(), name, oid, stage: Stage::Making, number, control };
        slot.set(State::of_home(row.clone()));
        if let Err(refusal) = registry::begin(home, &row).await {
            self.not_begun(slot, &row).await;
            return Err(refusal);
        }
        Ok(Some(row))
    }

    /// Whether it was written down is not known where the answer was lost: then it is looked for later.
    async fn not_begun(&self, slot: &Slot, row: &Row) {
        match registry::find(&self.home, &row.tenant).await {
            Ok(None) => slot.set(State::Nothing),
            Ok(Some(_)) | Err(_) => slot.failed(&opening()),
        }
    }

    async fn make_alone(&self, slot: &Slot, row: &Row) -> Result<(), Refusal> {
        self.create(row).await?;
        let whole = self.open_whole(row).await?;
        if let Err(refusal) = self.is_ready(&whole).await {
            let _busy = whole.close().await;
            return Err(refusal);
        }
        self.opened(slot, &whole);
        Ok(())
    }

    async fn is_ready(&self, whole: &Whole) -> Result<(), Refusal> {
        self.is_fit(whole).await?;
        let ready = Row { stage: Stage::Ready, ..whole.row() };
        registry::write(&self.home, &ready).await?;
        whole.set_row(ready);
        Ok(())
    }

    /// The copy of the template, in the session that only the newest agent has.
    async fn create(&self, row: &Row) -> Result<(), Refusal> {
        let home = &self.home;
        let Layout::Databases { template, .. } = &home.database.layout else {
            return Err(Refusal::internal("no tenant has a database of its own here"));
        };
        self.has_nothing(template).await?;
        self.alone_with(template).await?;
        let (name, source) = (ident(&row.name), ident(template));
        let oid = row.oid.ok_or_else(|| Refusal::internal("no number was chosen for the database"))?;
        if let Err(fault) = home.keeper.say(&format!("CREATE DATABASE {name} OID = {oid} TEMPLATE {source}")).await
        {
            return Err(not_created(&row.name, template, fault));
        }
        let rights = home.database.client().await?.query(RIGHTS, &[template, &row.name]).await?;
        let rights: Vec<&str> = rights.iter().map(|right| right.get(0)).collect();
        if rights.is_empty() {
            return Ok(());
        }
        // By name: a newer agent may have made another one of it.
        Ok(home.keeper.say(&rights.join("; ")).await?)
    }

    /// Records of Cellway in the template would be taken for the tenant's by an agent that dies before it has looked at the copy.
    async fn has_nothing(&self, template: &str) -> Result<(), Refusal> {
        let home = &self.home;
        if inside::found(&**home.database.client().await?, template).await?.is_none() {
            return Err(missing(template));
        }
        let database = home.database.beside(template, home.database.layout.clone()).map_err(refused)?;
        let client = database.connect().await?;
        client.batch_execute(PATIENCE).await?;
        not_empty(&client, template).await?.map_or(Ok(()), Err)
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
        Some("42P04") => present(name, "this agent has not made it"),
        // Somebody else has taken the number meanwhile.
        Some("22023") => Refusal::new("BUSY", fault.reason),
        Some("55006") => in_use(template, &fault.reason),
        // Somebody alters the template, or the server has much else to do.
        Some("55P03" | "57014") => {
            let reason = format!("database {name} could not be made in time: {}: it is tried again", fault.reason);
            Refusal::new("BUSY", reason)
        }
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
}
