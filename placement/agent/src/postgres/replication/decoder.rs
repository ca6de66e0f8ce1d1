//! What the log says, sorted: whose each change is, of which of their tables, and what of it is copied.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use cell_model::{Seq, TenantId};
use cell_protos::v1 as wire;
use pgwire_replication::ReplicationEvent;
use tokio::time::Instant;

use super::Replication;
use crate::postgres::captures::{Captured, RowKey};
use crate::postgres::catalogue::{Catalogue, Table};
use crate::postgres::fault::Fault;
use crate::postgres::wal::{self, Message, Relation, Tuple};
use crate::refusal::Refusal;

/// Whose a change is.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Whose {
    /// A column of the row says it.
    In(usize),
    /// The table is one tenant's.
    Of(TenantId),
}

/// A relation as the log describes it, as far as it is one of the tenants' tables.
struct Followed {
    table: u32,
    /// For each copied column of the table, its place in the log's rows.
    places: Vec<usize>,
    key: Vec<usize>,
    whose: Whose,
}

/// A transaction under way.
struct Open {
    xid: u32,
    of: BTreeMap<String, (Vec<wire::TableMutation>, Vec<RowKey>, u64)>,
}

/// Turns events into captured transactions.
pub(super) struct Decoder<'a> {
    replication: &'a Replication,
    relations: HashMap<u32, Known>,
    open: Option<Open>,
}

/// A relation, and what it is in the catalogue with that number.
struct Known {
    relation: Relation,
    catalogue: u64,
    followed: Option<Followed>,
    /// Whose it would be, where the catalogue lacks it: only tenants' tables are published, so it had another name when the moves began, or
    /// is gone. Of a table's partitions, which are described, too, no change ever comes.
    stranger: Option<Whose>,
}

impl<'a> Decoder<'a> {
    pub(super) fn new(replication: &'a Replication) -> Self {
        Self { replication, relations: HashMap::new(), open: None }
    }

    pub(super) fn event(&mut self, event: ReplicationEvent) -> Result<(), Fault> {
        match event {
            ReplicationEvent::Begin { xid, .. } => self.open = Some(Open { xid, of: BTreeMap::new() }),
            ReplicationEvent::XLogData { data, .. } => {
                let message = wal::read(data).map_err(|error| Fault::new("DATABASE_FAILED", error.to_string()))?;
                self.message(message);
            }
            ReplicationEvent::Commit { end_lsn, .. } => self.commit(Seq(end_lsn.as_u64())),
            ReplicationEvent::KeepAlive { wal_end, .. } if self.open.is_none() => {
                self.advance(Seq(wal_end.as_u64()));
            }
            _ => {}
        }
        Ok(())
    }

    fn advance(&self, position: Seq) {
        self.replication.reader.send_if_modified(|reader| {
            let moved = position > reader.position;
            reader.position = reader.position.max(position);
            moved
        });
    }

    fn commit(&mut self, seq: Seq) {
        let mut wanted = false;
        if let Some(open) = self.open.take() {
            let mut captures = self.replication.captures();
            for (tenant, (mutations, keys, bytes)) in open.of {
                let captured = Captured { seq, xid: open.xid, mutations, keys, bytes };
                wanted |= captures.take(&tenant, captured, self.replication.bytes_max, Instant::now());
            }
        }
        self.advance(seq);
        if wanted {
            self.replication.arrived.send_modify(|arrived| *arrived += 1);
        }
    }

    fn message(&mut self, message: Message) {
        match message {
            Message::Relation(relation) => {
                let known = self.follow(relation);
                self.relations.insert(known.relation.id, known);
            }
            Message::Insert { relation, new } => self.row(relation, None, Some(new), true),
            Message::Update { relation, old, new } => self.row(relation, old, Some(new), false),
            Message::Delete { relation, old } => self.row(relation, Some(old), None, false),
            Message::Truncate { relations } => {
                for relation in &relations {
                    self.look_again(*relation);
                }
                let followed = relations.iter().filter_map(|id| self.relations.get(id)?.followed.as_ref());
                for truncated in followed {
                    let reason = "a tenants' table was truncated: copies of it are worth nothing";
                    self.fail(&truncated.whose, "TABLE_TRUNCATED", reason);
                }
            }
            Message::Other => {}
        }
    }

    fn fail(&self, whose: &Whose, code: &'static str, reason: &str) {
        let refusal = Refusal::new(code, reason);
        match whose {
            Whose::In(_) => self.replication.captures().fail_all(&refusal),
            Whose::Of(tenant) => self.replication.captures().fail(tenant, &refusal),
        }
        self.replication.arrived.send_modify(|arrived| *arrived += 1);
    }

    /// A table as it is in the log must be as it was when the moves began.
    fn follow(&self, relation: Relation) -> Known {
        let (number, of) = {
            let known = self.replication.catalogues();
            let of = match &known.shared {
                Some(shared) => Some((Arc::clone(shared), None)),
                None => self.replication.database.layout.tenant_of(&relation.schema).and_then(|tenant| {
                    let own = known.own.get(&tenant)?;
                    Some((Arc::clone(own), Some(tenant)))
                }),
            };
            (known.number, of)
        };
        let is_strange = |(catalogue, _): &&(Arc<Catalogue>, Option<TenantId>)| {
            relation.schema == catalogue.place.schema && catalogue.place_of(&relation.name).is_none()
        };
        let stranger = of.as_ref().filter(is_strange);
        let stranger = stranger.map(|(_, tenant)| tenant.clone().map_or(Whose::In(0), Whose::Of));
        let followed = of.and_then(|(catalogue, tenant)| self.follow_in(&catalogue, tenant, &relation));
        Known { relation, catalogue: number, followed, stranger }
    }

    fn follow_in(&self, catalogue: &Catalogue, tenant: Option<TenantId>, relation: &Relation) -> Option<Followed> {
        if relation.schema != catalogue.place.schema {
            return None;
        }
        let table = catalogue.place_of(&relation.name)?;
        let description = catalogue.table(table)?;
        let place = |name: &str| relation.columns.iter().position(|column| column == name);
        let whose = match (tenant, &description.tenant) {
            (Some(tenant), _) => Some(Whose::Of(tenant)),
            (None, Some(column)) => place(&column.name).map(Whose::In),
            (None, None) => return None,
        };
        let places: Option<Vec<usize>> = description.copied().map(|column| place(&column.name)).collect();
        let alike = relation.columns.len() == description.copied().chain(&description.tenant).count();
        match (places.filter(|_| alike), whose) {
            (Some(places), Some(whose)) => {
                Some(Followed { table, whose, key: key_places(description, &relation.columns)?, places })
            }
            (_, whose) => {
                let reason =
                    format!("the columns of {} were changed while tenants were being moved", relation.name);
                self.fail(&whose.unwrap_or(Whose::In(0)), "SCHEMA_CHANGED", &reason);
                None
            }
        }
    }

    /// The catalogue may have been read anew since the relation was described.
    fn look_again(&mut self, relation: u32) {
        let number = self.replication.catalogues().number;
        let Some(known) = self.relations.get(&relation).filter(|known| known.catalogue != number) else { return };
        let known = self.follow(known.relation.clone());
        self.relations.insert(relation, known);
    }

    /// An update that leaves the key alone is logged without the old one.
    fn row(&mut self, relation: u32, old: Option<Tuple>, new: Option<Tuple>, is_insert: bool) {
        self.look_again(relation);
        let Some(known) = self.relations.get(&relation) else { return };
        if let Some(whose) = &known.stranger {
            let name = &known.relation.name;
            let reason = format!("table {name} was renamed, added or dropped while tenants were being moved");
            return self.fail(whose, "SCHEMA_CHANGED", &reason);
        }
        let (Some(open), Some(followed)) = (&mut self.open, &known.followed) else { return };
        let of_row = |place: usize| new.as_ref().or(old.as_ref()).and_then(|row| wal::text(row.get(place)?));
        let whose = match &followed.whose {
            Whose::In(place) => of_row(*place),
            Whose::Of(tenant) => Some(tenant.as_str()),
        };
        let Some(whose) = whose else { return };
        if !self.replication.captures().has(whose) {
            return;
        }
        let whose = whose.to_owned();
        let key_of = |row: &Tuple| -> Option<Vec<String>> {
            followed.key.iter().map(|place| wal::text(row.get(*place)?).map(str::to_owned)).collect()
        };
        let before = if is_insert { None } else { old.as_ref().or(new.as_ref()).and_then(key_of) };
        let after = new.as_ref().and_then(key_of);
        let as_values = |key: &Vec<String>| -> Vec<wire::TableValue> {
            let value =
                |text: &String| wire::TableValue { value: Some(wire::table_value::Value::Text(text.clone())) };
            key.iter().map(value).collect()
        };
        let (entry, keys, bytes) = open.of.entry(whose).or_default();
        let size = |row: &Tuple| row.iter().filter_map(wal::text).map(str::len).sum::<usize>() as u64;
        *bytes += 64 + old.as_ref().map_or(0, size) + new.as_ref().map_or(0, size);
        let new_row = new.map(|row| followed.places.iter().filter_map(|place| row.get(*place).cloned()).collect());
        entry.push(wire::TableMutation {
            table: followed.table,
            old_key: before.as_ref().map(as_values).unwrap_or_default(),
            new_row: new_row.unwrap_or_default(),
            existed: !is_insert,
        });
        keys.extend(before.into_iter().chain(after).map(|key| (followed.table, key)));
    }
}

fn key_places(table: &Table, columns: &[String]) -> Option<Vec<usize>> {
    table.key.iter().map(|name| columns.iter().position(|column| column == name)).collect()
}
