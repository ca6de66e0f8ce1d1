//! The reader of the log: one slot for every move out of this database.
//!
//! ```text
//! idle ──wanted──► slot made (written down first) ──► streaming ──nobody wants it──► slot dropped ──► idle
//!                       ▲                                │ connection lost
//!                       └────────────────────────────────┘ the same transactions again, from the oldest that is lacked
//! ```
//! A slot that is gone although captures relied on it (a failover without it, a drop by hand) fails those captures:
//! nothing is guessed.

mod decoder;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard};
use std::time::Duration;

use cell_model::{CellId, Generation, Seq, TenantId};
use pgwire_replication::{Lsn, ReplicationClient};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_postgres::Client;
use tokio_postgres::types::ToSql;
use tokio_util::sync::CancellationToken;

use decoder::Decoder;

use super::captures::{Capture, Captures};
use super::catalogue::Catalogue;
use super::connect::Database;
use super::fault::Fault;
use super::install::PUBLICATION;
use super::log_end::LogEnd;
use super::records::to_db;
use super::throttle::Throttle;
use crate::record;
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
    /// Of the agent: whoever has taken its place keeps its slot.
    by: Generation,
    captures: Mutex<Captures>,
    /// Tenants on their way, whether something is captured for them already or not.
    wanted: watch::Sender<BTreeMap<TenantId, ()>>,
    reader: watch::Sender<Reader>,
    /// Changes with every transaction that somebody wants.
    arrived: watch::Sender<u64>,
    catalogues: RwLock<Catalogues>,
    bytes_max: u64,
    log_end: LogEnd,
    pub(crate) throttle: Arc<Throttle>,
}

/// The tables, as they were last looked at.
#[derive(Default)]
struct Catalogues {
    /// How often that has been otherwise than before.
    number: u64,
    /// Those that all tenants share.
    shared: Option<Arc<Catalogue>>,
    /// Those of tenants that have a schema of their own, as long as something is made of them here.
    own: BTreeMap<TenantId, Arc<Catalogue>>,
}

/// A slot's name is the whole server's, and allows no hyphen. What is cut off of a long one is never what tells it from others.
pub(crate) fn slot_name(here: &CellId, address: &str) -> String {
    const HERE_MAX: usize = 38;
    let hash = blake3::hash(format!("{here}/{address}").as_bytes()).to_hex();
    let here: String = here.as_str().replace('-', "_").chars().take(HERE_MAX).collect();
    format!("cellway_{here}_{}", &hash[..16])
}

impl Replication {
    pub(crate) fn new(database: Arc<Database>, here: &CellId, bytes_max: u64) -> Self {
        let slot = slot_name(here, &database.address());
        let throttle = Arc::new(Throttle::new(database.options.source_latency_ms_max));
        Self {
            database,
            slot,
            by: Generation(0),
            captures: Mutex::default(),
            wanted: watch::Sender::default(),
            reader: watch::Sender::default(),
            arrived: watch::Sender::default(),
            catalogues: RwLock::default(),
            bytes_max,
            log_end: LogEnd::default(),
            throttle,
        }
    }

    /// With the slot that is written down, whatever the address says by now: with another password or other TLS it is the
    /// same database, and what its slot keeps is still wanted. What is written down may have come with a copy of another
    /// database: that one's slot is left alone.
    pub(crate) async fn with_slot_of(self, client: &Client) -> Result<Self, Fault> {
        let sql = "SELECT name FROM cellway.made WHERE kind = 'slot' AND NOT EXISTS \
                   (SELECT 1 FROM pg_replication_slots \
                    WHERE slot_name = name AND database IS DISTINCT FROM current_database()) \
                   ORDER BY made_at DESC LIMIT 1";
        Ok(match client.query_opt(sql, &[]).await? {
            Some(row) => Self { slot: row.get(0), ..self },
            None => self,
        })
    }

    /// For the agent of this generation.
    pub(crate) fn by(self, by: Generation) -> Self {
        Self { by, ..self }
    }

    pub(crate) fn captures(&self) -> MutexGuard<'_, Captures> {
        self.captures.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn catalogues(&self) -> RwLockReadGuard<'_, Catalogues> {
        self.catalogues.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// The tables of a tenant, if they have been looked at.
    pub(crate) fn catalogue(&self, tenant: &TenantId) -> Option<Arc<Catalogue>> {
        let known = self.catalogues();
        known.shared.as_ref().or_else(|| known.own.get(tenant)).cloned()
    }

    /// The tables that all tenants share.
    pub(crate) fn share_catalogue(&self, catalogue: Catalogue) {
        self.catalogues.write().unwrap_or_else(PoisonError::into_inner).shared = Some(Arc::new(catalogue));
    }

    /// The tables of a tenant as they are now. Moves that are under way know them by their numbers: where these have
    /// changed, the moves end.
    pub(crate) fn set_catalogue(&self, tenant: &TenantId, catalogue: Catalogue) -> Arc<Catalogue> {
        let is_shared = catalogue.place.column.is_some();
        let catalogue = Arc::new(catalogue);
        let mut known = self.catalogues.write().unwrap_or_else(PoisonError::into_inner);
        let before = if is_shared {
            known.shared.replace(Arc::clone(&catalogue))
        } else {
            known.own.insert(tenant.clone(), Arc::clone(&catalogue))
        };
        if before.as_ref() == Some(&catalogue) {
            return catalogue;
        }
        known.number += 1;
        if before.is_some_and(|before| before.lines() != catalogue.lines()) {
            let reason = "tables were added, dropped or changed while tenants were being moved";
            let refusal = Refusal::new("SCHEMA_CHANGED", reason);
            let mut captures = self.captures();
            if is_shared { captures.fail_all(&refusal) } else { captures.fail(tenant, &refusal) }
        }
        catalogue
    }

    /// Nothing is made of the tables of a tenant's own any more: they are looked at again before something is.
    pub(crate) fn forget_catalogue(&self, tenant: &TenantId) {
        self.catalogues.write().unwrap_or_else(PoisonError::into_inner).own.remove(tenant);
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

    /// Where nothing is wanted, what is written down of a slot is taken away once more.
    pub(crate) fn look_again(&self) {
        self.wanted.send_modify(|_| {});
    }

    /// Captures a tenant's transactions after `from`.
    pub(crate) fn capture(&self, tenant: &TenantId, from: Seq, clean: bool) {
        self.want(tenant);
        self.captures().insert(tenant.clone(), Capture::new(from, clean));
    }

    /// The same of one that was begun before the agent was started again.
    pub(crate) fn capture_on(&self, tenant: &TenantId, capture: &record::Capture) {
        self.capture(tenant, capture.from, false);
        if capture.overflowed {
            let reason = "the capture was given up before the agent was started again";
            let mut captures = self.captures();
            captures.fail(tenant, &Refusal::new("CAPTURE_GAP", reason));
            captures.noted(tenant);
        }
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
        let sql = "SELECT 1 FROM pg_replication_slots WHERE slot_name = $1 AND database = current_database()";
        Ok(client.query_opt(sql, &[&self.slot]).await?.is_some())
    }

    /// Whether the slot is there, and the log that it kept is not.
    pub(crate) async fn is_lost(&self) -> Result<bool, Fault> {
        let sql = "SELECT wal_status = 'lost' FROM pg_replication_slots WHERE slot_name = $1";
        let row = self.database.client().await?.query_opt(sql, &[&self.slot]).await?;
        Ok(row.is_some_and(|row| row.get::<_, Option<bool>>(0) == Some(true)))
    }

    /// The slot, made if it is not there. Its making waits for every transaction that is open in the server.
    async fn make_slot(&self, stop: &CancellationToken) -> Result<(), Fault> {
        let client = self.database.connect().await?;
        if self.has_slot(&client).await? {
            return Ok(());
        }
        let gone = Refusal::new("CAPTURE_GAP", "the replication slot is gone, and with it changes that it kept");
        self.captures().fail_all(&gone);
        let by = to_db(self.by.get());
        let write = "INSERT INTO cellway.made (kind, name) \
                     SELECT 'slot', $1 WHERE EXISTS (SELECT 1 FROM cellway.incarnation WHERE generation = $2 FOR SHARE) \
                     ON CONFLICT DO NOTHING";
        client.execute(write, &[&self.slot, &by]).await?;
        // Without a lock on the generation: a transaction that has written makes no slot.
        let make = "SELECT pg_create_logical_replication_slot($1, 'pgoutput') \
                     WHERE EXISTS (SELECT 1 FROM cellway.incarnation WHERE generation = $2)";
        let values: [&(dyn ToSql + Sync); 2] = [&self.slot, &by];
        // Also while nobody wants it for a moment, since a step that has waited too long is tried again: whoever begins anew has newer
        // transactions to wait for, each time.
        tokio::select! {
            made = client.execute(make, &values) => match made? {
                0 => Err(Fault::new("AGENT_RUNNING", "no slot is made: another agent runs on this database")),
                _ => Ok(()),
            },
            () = stop.cancelled() => {
                self.database.cancel(&client).await;
                Err(Fault::new("DATABASE_FAILED", "the agent was stopped before its slot was made"))
            }
        }
    }

    /// No slot stays without a move: it would keep the log for ever.
    pub(crate) async fn drop_slot(&self) -> Result<(), Fault> {
        let client = self.database.client().await?;
        if self.has_slot(&client).await? {
            // The server may still be ending the stream that used it.
            let sql = "SELECT pg_drop_replication_slot($1) FROM pg_replication_slots \
                       WHERE slot_name = $1 AND database = current_database() AND active_pid IS NULL \
                         AND EXISTS (SELECT 1 FROM cellway.agent WHERE generation = $2)";
            if client.execute(sql, &[&self.slot, &to_db(self.by.get())]).await? == 0 {
                return Err(Fault::new("DATABASE_FAILED", "the slot is still in use and is dropped later"));
            }
        }
        client.execute("DELETE FROM cellway.made WHERE kind = 'slot' AND name = $1", &[&self.slot]).await?;
        Ok(())
    }

    async fn session(&self, stop: &CancellationToken) -> Result<(), Fault> {
        self.make_slot(stop).await?;
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
        let mut decoder = Decoder::new(self);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_tells_slots_apart_is_never_cut_off() {
        let cells = ["a", "b"].map(|end| CellId::new(format!("{}{end}", "long-".repeat(8))).unwrap());
        let of = |cell: &CellId, address: &str| slot_name(cell, address);
        let names = [of(&cells[0], "u"), of(&cells[1], "u"), of(&cells[0], "u#t_1"), of(&cells[0], "u#t_2")];
        for (place, name) in names.iter().enumerate() {
            assert!(name.len() <= 63 && !name.contains('-'), "{name}");
            assert!(!names[..place].contains(name), "{name}");
        }
    }
}
