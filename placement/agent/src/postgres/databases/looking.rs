//! Looks into a database that has a tenant's name: whose it is, and whether what it says of the tenant is older or newer than what its
//! cell has answered with.

use cell_model::{CellId, TenantId};
use tokio_postgres::Client;

use super::inside;
use super::registry::{Row, Stage};
use super::template::PATIENCE;
use crate::postgres::fault::Fault;
use crate::postgres::layout::Layout;
use crate::postgres::records::from_db;
use crate::postgres::sql::{ident, literal};
use crate::record::{Control, Record as _};
use crate::refusal::Refusal;

/// It is not the one that it was.
pub(super) fn restored(row: &Row, what: &str) -> Refusal {
    let Row { name, tenant, .. } = row;
    let mend = match row.oid {
        _ if row.stage == Stage::Dropping => format!(
            "if it is nothing of the tenant's, ALTER DATABASE {} RENAME TO another name: what was there was to be dropped",
            ident(name)
        ),
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

/// It is there no more.
pub(super) fn lost(row: &Row) -> Refusal {
    let Row { name, tenant, .. } = row;
    let whose = literal(tenant.as_str());
    let what =
        if row.stage == Stage::Dropping { "is gone, and the cell has not left its tenant" } else { "is gone" };
    let mend = if row.is_over() {
        format!("UPDATE cellway.databases SET stage = 'dropping' WHERE tenant = {whose}")
    } else {
        format!("DELETE FROM cellway.databases WHERE tenant = {whose}, and with it go the tenant's rows here")
    };
    let reason = format!(
        "database {name} of tenant {tenant} {what}: bring it back, or, if it is gone for good, in the cell's own database {mend}"
    );
    Refusal::new("DATABASE_MISSING", reason)
}

/// It is no tenant's of this cell.
pub(super) fn present(name: &str, whose: &str) -> Refusal {
    let quoted = ident(name);
    let reason = format!(
        "database {name} is there already, and {whose}: ALTER DATABASE {quoted} RENAME TO another name if it is needed, or DROP \
         DATABASE {quoted}. docs/postgresql.md says how its rows come in"
    );
    Refusal::new("DATABASE_PRESENT", reason)
}

/// Whose records are in a database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Owner {
    /// There are none.
    Nobody,
    /// Something that this agent cannot read: another version's, or somebody else's.
    Stranger,
    Cell {
        id: String,
        layout: String,
    },
}

/// What a database says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Inside {
    pub(super) oid: u32,
    owner: Owner,
    /// Another tenant of which it has records.
    other: Option<String>,
    /// How often the tenant's control has changed, and what it is.
    told: Option<(u64, Control)>,
    /// What writers find.
    role: Option<String>,
}

/// What a database is beside what is known of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Standing {
    /// Nothing of Cellway is in it.
    Bare,
    /// Somebody else's, and whose.
    Other(String),
    /// It lacks something that its cell has answered with: what.
    Older(String),
    Same,
    /// More was done in it since.
    Newer,
}

/// What another version does not have, or has otherwise, and what another role keeps to itself.
const STRANGE: [&str; 5] = ["42P01", "42703", "42883", "42846", "42501"];

/// Reads it in this session, which keeps it from being exchanged. Where it is refused, the session is of no use any more.
pub(super) async fn read(client: &Client, tenant: &TenantId) -> Result<Inside, Refusal> {
    // Nobody waits in the server for a lock on our tables when whoever has asked is gone.
    client.batch_execute(PATIENCE).await?;
    let inside = found_in(client, tenant).await?;
    client.batch_execute("RESET statement_timeout").await?;
    Ok(inside)
}

async fn found_in(client: &Client, tenant: &TenantId) -> Result<Inside, Refusal> {
    let oid = client.query_one("SELECT oid FROM pg_database WHERE datname = current_database()", &[]).await?.get(0);
    let empty = Inside { oid, owner: Owner::Nobody, other: None, told: None, role: None };
    if !inside::has_agent(client).await? {
        return Ok(empty);
    }
    let row = match client.query_opt(TOLD, &[&tenant.as_str()]).await {
        Ok(Some(row)) => row,
        Ok(None) => return Ok(empty),
        Err(error) if error.code().is_some_and(|state| STRANGE.contains(&state.code())) => {
            return Ok(Inside { owner: Owner::Stranger, ..empty });
        }
        Err(error) => return Err(error.into()),
    };
    let text = |place: usize| row.get::<_, Option<String>>(place);
    let owner = Owner::Cell { id: text(0).unwrap_or_default(), layout: text(1).unwrap_or_default() };
    let unread = |error| Fault::new("DATABASE_FAILED", format!("the tenant's record cannot be read: {error}"));
    let told = match (row.get::<_, Option<i64>>(4), row.get::<_, Option<Vec<u8>>>(5)) {
        (Some(number), Some(control)) => Some((from_db(number), Control::decode(&control).map_err(unread)?)),
        _ => None,
    };
    Ok(Inside { owner, other: text(2), role: text(3), told, ..empty })
}

/// At one moment.
const TOLD: &str = "
SELECT a.cell::text, a.layout::text,
       (SELECT min(o.tenant::text) FROM cellway.controls o WHERE o.tenant::text <> $1::text),
       (SELECT g.role::text FROM cellway.grants g WHERE g.tenant::text = $1::text),
       c.number::bigint, c.control::bytea
  FROM cellway.agent a LEFT JOIN cellway.controls c ON c.tenant::text = $1::text LIMIT 1";

impl Inside {
    /// What it is to the tenant of a row of the registry.
    pub(super) fn beside(&self, here: &CellId, row: &Row) -> Standing {
        let whole = Layout::Whole { tenant: row.tenant.clone(), schema: String::new() }.to_string();
        match &self.owner {
            Owner::Nobody => return Standing::Bare,
            Owner::Stranger => return Standing::Other("has a schema cellway that is not this agent's".into()),
            Owner::Cell { id, layout } if *id != here.as_str() || *layout != whole => {
                return Standing::Other(format!("is that of cell {id} ({layout})"));
            }
            Owner::Cell { .. } => {}
        }
        if let Some(other) = &self.other {
            return Standing::Other(format!("has records of tenant {other} beside {}", row.tenant));
        }
        let number = self.told.as_ref().map_or(0, |(number, _)| *number);
        let least = row.control.as_ref().map_or(0, |_| row.number);
        match (&self.told, &row.control) {
            (Some(_), _) if number > least => Standing::Newer,
            (None, Some(_)) => Standing::Older("knows nothing of its tenant any more".into()),
            (Some(_), Some(_)) if number < least => {
                Standing::Older(format!("is at change {number} of its grant, and was at {least}"))
            }
            (Some((_, found)), Some(known)) if found != known => {
                Standing::Older("has another grant than its cell has answered with".into())
            }
            _ => Standing::Same,
        }
    }

    /// It says that an agent is in it, and not whose.
    pub(super) fn is_unread(&self) -> bool {
        self.owner == Owner::Stranger
    }

    /// Whether it is the one that the registry means.
    pub(super) fn is_it(&self, row: &Row) -> bool {
        row.oid.is_none_or(|oid| oid == self.oid)
    }

    /// Whether writers would find their tenant here.
    pub(super) fn has_grant(&self) -> Option<&str> {
        self.role.as_deref().filter(|role| ["owner", "fenced", "importing"].contains(role))
    }

    /// Whether it has at least what is known of it.
    pub(super) fn expect(&self, here: &CellId, row: &Row) -> Result<(), Refusal> {
        if !self.is_it(row) {
            return Err(restored(row, "is another one than it was"));
        }
        // From here on it is known which one.
        let known = Row { oid: None, ..row.clone() };
        match self.beside(here, row) {
            Standing::Bare => Err(restored(&known, "has no records of this cell any more")),
            Standing::Other(whose) => Err(present(&row.name, &whose)),
            Standing::Older(what) => Err(restored(&known, &what)),
            Standing::Same | Standing::Newer => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use cell_model::{Epoch, Uid};

    use super::*;
    use crate::record::Role;

    fn control(role: Role) -> Control {
        Control { uid: Uid(7), epoch: Epoch(1), role, ..Control::default() }
    }

    fn inside(owner: Owner, told: Option<(u64, Control)>) -> Inside {
        Inside { oid: 20_000, owner, other: None, told, role: None }
    }

    fn ours() -> Owner {
        Owner::Cell { id: "a".into(), layout: "the database of tenant acme".into() }
    }

    fn row(number: u64, control: Option<Control>) -> Row {
        let tenant = TenantId::new("acme").unwrap();
        Row { tenant, name: "t_acme".into(), oid: Some(20_000), stage: Stage::Ready, number, control }
    }

    #[test]
    fn a_database_is_older_or_newer_than_what_its_cell_has_answered_with_by_number_and_then_by_grant() {
        let here = CellId::new("a").unwrap();
        let owner = || control(Role::Owner);
        let known = row(4, Some(owner()));
        let beside = |told| inside(ours(), told).beside(&here, &known);
        assert_eq!(beside(Some((4, owner()))), Standing::Same);
        assert_eq!(beside(Some((5, control(Role::Redirect)))), Standing::Newer);
        assert!(matches!(beside(Some((3, owner()))), Standing::Older(_)));
        assert!(matches!(beside(Some((4, control(Role::Redirect)))), Standing::Older(_)));
        assert!(matches!(beside(None), Standing::Older(_)));
        // Nothing was ever answered of a tenant without a control.
        let nothing = row(0, None);
        assert_eq!(inside(ours(), None).beside(&here, &nothing), Standing::Same);
        assert_eq!(inside(ours(), Some((1, owner()))).beside(&here, &nothing), Standing::Newer);
    }

    #[test]
    fn what_another_cell_or_another_version_has_written_is_somebody_elses() {
        let (here, known) = (CellId::new("a").unwrap(), row(1, Some(control(Role::Owner))));
        let told = || Some((9, control(Role::Owner)));
        let other_cell = Owner::Cell { id: "b".into(), layout: "the database of tenant acme".into() };
        let other_tenant = Owner::Cell { id: "a".into(), layout: "the database of tenant other".into() };
        for owner in [other_cell, other_tenant, Owner::Stranger] {
            assert!(matches!(inside(owner, told()).beside(&here, &known), Standing::Other(_)));
        }
        let two = Inside { other: Some("other".into()), ..inside(ours(), told()) };
        assert!(matches!(two.beside(&here, &known), Standing::Other(_)));
        assert_eq!(inside(Owner::Nobody, None).beside(&here, &known), Standing::Bare);
    }

    #[test]
    fn only_the_one_that_was_written_down_is_opened_and_any_where_an_operator_says_so() {
        let (here, known) = (CellId::new("a").unwrap(), row(1, Some(control(Role::Owner))));
        let another = Inside { oid: 20_001, ..inside(ours(), Some((1, control(Role::Owner)))) };
        assert_eq!(another.expect(&here, &known).unwrap_err().code, "DATABASE_RESTORED");
        another.expect(&here, &Row { oid: None, ..known.clone() }).unwrap();
        let bare = inside(Owner::Nobody, None);
        assert_eq!(bare.expect(&here, &known).unwrap_err().code, "DATABASE_RESTORED");
    }
}
