//! The reader of the log: one slot for every move out of this database.
//!
//! ```text
//! idle ──wanted──► slot made (written down first) ──► streaming ──nobody wants it──► slot dropped ──► idle
//!                       ▲                                │ connection lost
//!                       └────────────────────────────────┘ the same transactions again, from the oldest that is lacked
//! ```
//! A slot that is gone although captures relied on it (a failover without it, a drop by hand) fails those captures:
//! nothing is guessed.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use cell_model::{CellId, Seq, TenantId};
use cell_protos::v1 as wire;
use pgwire_replication::{Lsn, ReplicationClient, ReplicationEvent};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_postgres::Client;
use tokio_util::sync::CancellationToken;

use super::captures::{Capture, Captured, Captures, RowKey};
use super::catalogue::{Catalogue, Table};
use super::connect::Database;
use super::fault::Fault;
use super::install::PUBLICATION;
use super::log_end::LogEnd;
use super::throttle::Throttle;
use super::wal::{self, Message, Relation, Tuple};
use crate::refusal::Refusal;

const PAUSE: Duration = Duration::from_millis(200);
/// How often the position up to which the log is no longer needed is looked at, and
const CONFIRM_EVERY: Duration = Duration::from_millis(100);
/// how often the log that is kept is measured.
const MEASURE_EVERY: Duration = Duration::from_secs(5);

/// Where the reader is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Reader {
    streaming: bool,
    /// Every commit that ends at or before this has been decoded.
    position: Seq,
    /// Since when it is not streaming although it is wanted.
    lost_since: Option<Instant>,
}

/// See the module.
pub(crate) struct Replication {
    database: Arc<Database>,
    pub(crate) slot: String,
    captures: Mutex<Captures>,
    /// Tenants on their way, whether something is captured for them already or not.
    wanted: watch::Sender<BTreeMap<TenantId, ()>>,
    reader: watch::Sender<Reader>,
    /// Changes with every transaction that somebody wants.
    arrived: watch::Sender<u64>,
    /// With a number for each that there has been.
    catalogue: RwLock<(u64, Arc<Catalogue>)>,
    bytes_max: u64,
    log_end: LogEnd,
    pub(crate) throttle: Throttle,
}

/// A relation as the log describes it, as far as it is one of the tenants' tables.
struct Followed {
    table: u32,
    /// For each copied column of the table, its place in the log's rows.
    places: Vec<usize>,
    key: Vec<usize>,
    tenant: usize,
}

/// A transaction under way.
struct Open {
    xid: u32,
    of: BTreeMap<String, (Vec<wire::TableMutation>, Vec<RowKey>, u64)>,
}

/// A slot's name is the whole server's, and allows no hyphen.
pub(crate) fn slot_name(here: &CellId, url: &str) -> String {
    let hash = blake3::hash(format!("{here}/{url}").as_bytes()).to_hex();
    let name = format!("cellway_{}_{}", here.as_str().replace('-', "_"), &hash[..8]);
    name.chars().take(63).collect()
}

impl Replication {
    pub(crate) fn new(database: Arc<Database>, here: &CellId, catalogue: Catalogue, bytes_max: u64) -> Self {
        let slot = slot_name(here, &database.options.url);
        let throttle = Throttle::new(database.options.source_latency_ms_max);
        Self {
            database,
            slot,
            captures: Mutex::default(),
            wanted: watch::Sender::default(),
            reader: watch::Sender::default(),
            arrived: watch::Sender::default(),
            catalogue: RwLock::new((0, Arc::new(catalogue))),
            bytes_max,
            log_end: LogEnd::default(),
            throttle,
        }
    }

    /// With the slot that is written down, whatever the address says by now: with another password or other TLS it is the
    /// same database, and what its slot keeps is still wanted.
    pub(crate) async fn with_slot_of(self, client: &Client) -> Result<Self, Fault> {
        let made = client.query_opt("SELECT name FROM cellway.made WHERE kind = 'slot' LIMIT 1", &[]).await?;
        Ok(match made {
            Some(row) => Self { slot: row.get(0), ..self },
            None => self,
        })
    }

    pub(crate) fn captures(&self) -> MutexGuard<'_, Captures> {
        self.captures.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn catalogue(&self) -> Arc<Catalogue> {
        self.numbered_catalogue().1
    }

    fn numbered_catalogue(&self) -> (u64, Arc<Catalogue>) {
        self.catalogue.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The tables as they are now. Moves that are under way know them by their numbers: where these have changed, the
    /// moves end.
    pub(crate) fn set_catalogue(&self, catalogue: Catalogue) {
        let mut known = self.catalogue.write().unwrap_or_else(PoisonError::into_inner);
        if *known.1 == catalogue {
            return;
        }
        if known.1.lines() != catalogue.lines() {
            let reason = "tables were added, dropped or changed while tenants were being moved";
            self.captures().fail_all(&Refusal::new("SCHEMA_CHANGED", reason));
        }
        *known = (known.0 + 1, Arc::new(catalogue));
    }

    /// Wakes with every captured transaction.
    pub(crate) fn subscribe(&self) -> watch::Receiver<u64> {
        self.arrived.subscribe()
    }

    pub(crate) fn position(&self) -> Seq {
        self.reader.borrow().position
    }

    pub(crate) fn lost_since(&self) -> Option<Instant> {
        self.reader.borrow().lost_since
    }

    /// The log is to be read for this tenant from now on.
    pub(crate) fn want(&self, tenant: &TenantId) {
        self.wanted.send_if_modified(|wanted| wanted.insert(tenant.clone(), ()).is_none());
    }

    /// Nothing of this tenant is wanted any more.
    pub(crate) fn unwant(&self, tenant: &TenantId) {
        self.captures().remove(tenant);
        self.wanted.send_if_modified(|wanted| wanted.remove(tenant).is_some());
    }

    /// Captures a tenant's transactions after `from`.
    pub(crate) fn capture(&self, tenant: &TenantId, from: Seq, clean: bool) {
        self.want(tenant);
        self.captures().insert(tenant.clone(), Capture::new(from, clean));
    }

    /// Returns when the log is being read.
    pub(crate) async fn streaming(&self, patience: Duration) -> Result<(), Refusal> {
        let mut reader = self.reader.subscribe();
        match tokio::time::timeout(patience, reader.wait_for(|reader| reader.streaming)).await {
            Ok(Ok(_)) => Ok(()),
            _ => Err(Refusal::new(
                "BUSY",
                "the change stream of the database has not begun yet: a slot waits for transactions that were open \
                 before it",
            )),
        }
    }

    /// Returns when everything that was in the log when this was called has been decoded.
    pub(crate) async fn barrier(&self, patience: Duration) -> Result<Seq, Refusal> {
        self.log_end.decoded(&self.database, self, patience).await
    }

    /// Returns when every commit up to `seq` has been decoded.
    pub(crate) async fn decoded(&self, seq: Seq, patience: Duration) -> Result<(), Refusal> {
        let mut reader = self.reader.subscribe();
        let reached = tokio::time::timeout(patience, reader.wait_for(|reader| reader.position >= seq)).await;
        match reached {
            Ok(Ok(_)) => Ok(()),
            _ => Err(Refusal::new("BUSY", "the change stream of the database is behind")),
        }
    }

    /// Reads the log while it is wanted, until `stop`.
    pub(crate) async fn run(&self, stop: &CancellationToken) {
        let mut wanted = self.wanted.subscribe();
        loop {
            let is_wanted = !wanted.borrow_and_update().is_empty();
            let ended = if is_wanted { self.session(stop).await } else { self.drop_slot().await };
            self.reader.send_modify(|reader| {
                reader.streaming = false;
                reader.lost_since = is_wanted.then(|| reader.lost_since.unwrap_or_else(Instant::now));
            });
            if stop.is_cancelled() {
                return;
            }
            match ended {
                Ok(()) if is_wanted => {}
                Ok(()) => {
                    tokio::select! {
                        _ = wanted.changed() => {}
                        () = stop.cancelled() => return,
                    }
                }
                Err(fault) => {
                    tracing::warn!(slot = %self.slot, %fault, "the change stream of the database was lost");
                    tokio::select! {
                        () = tokio::time::sleep(PAUSE) => {}
                        () = stop.cancelled() => return,
                    }
                }
            }
        }
    }

    async fn has_slot(&self, client: &Client) -> Result<bool, Fault> {
        let sql = "SELECT 1 FROM pg_replication_slots WHERE slot_name = $1";
        Ok(client.query_opt(sql, &[&self.slot]).await?.is_some())
    }

    /// The slot, made if it is not there.
    async fn make_slot(&self) -> Result<(), Fault> {
        let client = self.database.session().await?;
        if self.has_slot(&client).await? {
            return Ok(());
        }
        let gone = Refusal::new("CAPTURE_GAP", "the replication slot is gone, and with it changes that it kept");
        self.captures().fail_all(&gone);
        client
            .execute(
                "INSERT INTO cellway.made (kind, name) VALUES ('slot', $1) ON CONFLICT DO NOTHING",
                &[&self.slot],
            )
            .await?;
        client.execute("SELECT pg_create_logical_replication_slot($1, 'pgoutput')", &[&self.slot]).await?;
        Ok(())
    }

    /// No slot stays without a move: it would keep the log for ever.
    async fn drop_slot(&self) -> Result<(), Fault> {
        let client = self.database.client().await?;
        if self.has_slot(&client).await? {
            // The server may still be ending the stream that used it.
            let sql = "SELECT pg_drop_replication_slot($1) FROM pg_replication_slots \
                       WHERE slot_name = $1 AND active_pid IS NULL";
            if client.execute(sql, &[&self.slot]).await? == 0 {
                return Err(Fault::new("DATABASE_FAILED", "the slot is still in use and is dropped later"));
            }
        }
        client.execute("DELETE FROM cellway.made WHERE kind = 'slot' AND name = $1", &[&self.slot]).await?;
        Ok(())
    }

    async fn session(&self, stop: &CancellationToken) -> Result<(), Fault> {
        self.make_slot().await?;
        let replica = self.database.replication(&self.slot, PUBLICATION).await?;
        let mut client = ReplicationClient::connect(replica.config).await?;
        let ended = self.stream(&mut client, stop).await;
        client.abort();
        drop(replica.tunnel);
        ended
    }

    async fn stream(&self, client: &mut ReplicationClient, stop: &CancellationToken) -> Result<(), Fault> {
        client.wait_started().await?;
        self.reader.send_modify(|reader| {
            reader.streaming = true;
            reader.lost_since = None;
        });
        // Beside the reading: a question to the database may wait for a connection, and those who have one for what is
        // read.
        tokio::select! {
            ended = self.read(client, stop) => ended,
            () = self.measure() => Ok(()),
            () = self.throttle.watch(&self.database) => Ok(()),
        }
    }

    async fn read(&self, client: &mut ReplicationClient, stop: &CancellationToken) -> Result<(), Fault> {
        let mut wanted = self.wanted.subscribe();
        let mut confirm = tokio::time::interval(CONFIRM_EVERY);
        let mut decoder = Decoder { replication: self, relations: HashMap::new(), open: None };
        loop {
            tokio::select! {
                event = client.recv() => match event? {
                    Some(event) => decoder.event(event)?,
                    None => return Err(Fault::new("DATABASE_UNREACHABLE", "the server ended the stream")),
                },
                _ = confirm.tick() => {
                    let needed = self.captures().needed_from(self.position());
                    client.update_applied_lsn(Lsn(needed.get()));
                    if wanted.borrow_and_update().is_empty() {
                        return Ok(());
                    }
                }
                () = stop.cancelled() => return Ok(()),
            }
        }
    }

    /// Measures the log that is kept, for ever.
    async fn measure(&self) {
        let mut excess = Excess::default();
        loop {
            tokio::time::sleep(MEASURE_EVERY).await;
            if let Err(fault) = self.keep_within_budget(&mut excess).await {
                tracing::debug!(%fault, "the log that is kept could not be measured");
            }
        }
    }

    /// Gives up the slowest move before the log fills the source's disk; where none lags, such as behind a transaction that
    /// is never ended, all of them.
    async fn keep_within_budget(&self, excess: &mut Excess) -> Result<(), Fault> {
        let client = self.database.client().await?;
        let sql = "SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn)::bigint, wal_status \
                   FROM pg_replication_slots WHERE slot_name = $1";
        let Some(row) = client.query_opt(sql, &[&self.slot]).await? else { return Ok(()) };
        let (kept, status) = (row.get::<_, Option<i64>>(0).unwrap_or_default(), row.get::<_, Option<String>>(1));
        let lost = status.as_deref() == Some("lost");
        if !lost && kept.cast_unsigned() <= self.database.options.wal_bytes_max {
            *excess = Excess::default();
            return Ok(());
        }
        let reason = format!("{kept} bytes of the database's log are kept for this slot: more than allowed");
        let refusal = Refusal::new("CAPTURE_OVERFLOW", reason);
        let (now, grace) = (Instant::now(), Duration::from_secs(self.database.options.wal_grace_seconds.into()));
        let since = *excess.since.get_or_insert(now);
        let freed = |given_up: Option<Instant>| given_up.is_none_or(|at| now - at >= grace);
        if lost {
            tracing::warn!(slot = %self.slot, kept, "the slot has lost its log; every move is given up");
            self.captures().fail_all(&refusal);
        } else if !freed(excess.given_up) {
            return Ok(());
        } else if self.captures().fail_slowest(&refusal) {
            tracing::warn!(slot = %self.slot, kept, "too much log is kept; the slowest move is given up");
        } else if now - since >= grace {
            tracing::warn!(slot = %self.slot, kept, "too much log is kept, and by no move; every move is given up");
            self.captures().fail_all(&refusal);
        } else {
            return Ok(());
        }
        excess.given_up = Some(now);
        self.arrived.send_modify(|arrived| *arrived += 1);
        Ok(())
    }
}

/// More log is kept than may be.
#[derive(Debug, Clone, Copy, Default)]
struct Excess {
    since: Option<Instant>,
    /// When a move was last given up for it.
    given_up: Option<Instant>,
}

/// Turns events into captured transactions.
struct Decoder<'a> {
    replication: &'a Replication,
    relations: HashMap<u32, Known>,
    open: Option<Open>,
}

/// A relation, and what it is in the catalogue with that number.
struct Known {
    relation: Relation,
    catalogue: u64,
    followed: Option<Followed>,
}

impl Decoder<'_> {
    fn event(&mut self, event: ReplicationEvent) -> Result<(), Fault> {
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
                let (catalogue, followed) = self.follow(&relation);
                self.relations.insert(relation.id, Known { relation, catalogue, followed });
            }
            Message::Insert { relation, new } => self.row(relation, None, Some(new), true),
            Message::Update { relation, old, new } => self.row(relation, old, Some(new), false),
            Message::Delete { relation, old } => self.row(relation, Some(old), None, false),
            Message::Truncate { relations } => {
                if relations.iter().any(|id| self.relations.get(id).is_some_and(|known| known.followed.is_some())) {
                    self.fail("TABLE_TRUNCATED", "a tenants' table was truncated: copies of it are worth nothing");
                }
            }
            Message::Other => {}
        }
    }

    fn fail(&self, code: &'static str, reason: &str) {
        self.replication.captures().fail_all(&Refusal::new(code, reason));
        self.replication.arrived.send_modify(|arrived| *arrived += 1);
    }

    /// A table as it is in the log must be as it was when the moves began.
    fn follow(&self, relation: &Relation) -> (u64, Option<Followed>) {
        let (number, catalogue) = self.replication.numbered_catalogue();
        (number, self.follow_in(&catalogue, relation))
    }

    fn follow_in(&self, catalogue: &Catalogue, relation: &Relation) -> Option<Followed> {
        if relation.schema != catalogue.schema {
            return None;
        }
        let table = catalogue.place(&relation.name)?;
        let description = catalogue.table(table)?;
        let place = |name: &str| relation.columns.iter().position(|column| column == name);
        let places: Option<Vec<usize>> = description.copied().map(|column| place(&column.name)).collect();
        let alike = relation.columns.len() == description.copied().count();
        match places.filter(|_| alike) {
            Some(places) => Some(Followed {
                table,
                tenant: place(&catalogue.tenant_column)?,
                key: key_places(description, &relation.columns)?,
                places,
            }),
            None => {
                self.fail(
                    "SCHEMA_CHANGED",
                    &format!("the columns of {} were changed while tenants were being moved", relation.name),
                );
                None
            }
        }
    }

    /// The catalogue may have been read anew since the relation was described.
    fn look_again(&mut self, relation: u32) {
        let number = self.replication.numbered_catalogue().0;
        let Some(known) = self.relations.get(&relation).filter(|known| known.catalogue != number) else { return };
        let (catalogue, followed) = self.follow(&known.relation);
        let relation_ = known.relation.clone();
        self.relations.insert(relation, Known { relation: relation_, catalogue, followed });
    }

    /// An update that leaves the key alone is logged without the old one.
    fn row(&mut self, relation: u32, old: Option<Tuple>, new: Option<Tuple>, is_insert: bool) {
        self.look_again(relation);
        let followed = self.relations.get(&relation).and_then(|known| known.followed.as_ref());
        let (Some(open), Some(followed)) = (&mut self.open, followed) else { return };
        let Some(whose) = new.as_ref().or(old.as_ref()).and_then(|row| wal::text(row.get(followed.tenant)?)) else {
            return;
        };
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
        });
        keys.extend(before.into_iter().chain(after).map(|key| (followed.table, key)));
    }
}

fn key_places(table: &Table, columns: &[String]) -> Option<Vec<usize>> {
    table.key.iter().map(|name| columns.iter().position(|column| column == name)).collect()
}
