//! The reader of the log: one slot for every move out of this database.
//!
//! ```text
//! idle ──wanted──► slot made (written down first) ──► streaming ──nobody wants it──► slot dropped ──► idle
//!                       ▲                                │ connection lost
//!                       └────────────────────────────────┘ the same transactions again, from the oldest that is lacked
//! ```
//! A slot that is gone although captures relied on it (a failover without it, a drop by hand) fails those captures:
//! nothing is guessed.

mod budget;
mod decoder;
mod slot;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard};
use std::time::Duration;

use cell_model::{CellId, Generation, Seq, TenantId};
use pgwire_replication::{Lsn, ReplicationClient};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_postgres::Client;
use tokio_util::sync::CancellationToken;

use decoder::Decoder;

use super::captures::{Capture, Captures};
use super::catalogue::Catalogue;
use super::connect::Database;
use super::fault::Fault;
use super::install::PUBLICATION;
use super::log_end::LogEnd;
use super::throttle::Throttle;
use crate::record::{Control, TailRecord};
use crate::refusal::Refusal;

const PAUSE: Duration = Duration::from_millis(200);
/// How often the position up to which the log is no longer needed is looked at.
const CONFIRM_EVERY: Duration = Duration::from_millis(100);

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

    pub(crate) fn wants(&self, tenant: &TenantId) -> bool {
        self.wanted.borrow().contains_key(tenant)
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

    /// Goes on with what was captured, put aside or to be captured when the agent was stopped: from where the slot stands. What has
    /// changed before is not known any more. `is_unread`: the log does not have all of it.
    pub(crate) fn go_on(
        &self,
        tenant: &TenantId,
        (control, tail): (&Control, Option<&TailRecord>),
        is_unread: bool,
    ) {
        if let Some(capture) = &control.capture {
            self.capture(tenant, capture.from, false);
            if capture.overflowed {
                let reason = "the capture was given up before the agent was started again";
                let mut captures = self.captures();
                captures.fail(tenant, &Refusal::new("CAPTURE_GAP", reason));
                captures.noted(tenant);
            }
        } else if control.reverse.is_some() {
            self.want(tenant);
        }
        if let Some(tail) = tail.filter(|tail| !tail.done) {
            self.capture(tenant, tail.moved, false);
        }
        if is_unread {
            let reason =
                "a table was added while the agent was stopped, and what was written to it is in nobody's log";
            self.captures().fail(tenant, &Refusal::new("SCHEMA_CHANGED", reason));
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

    /// Reads the log while it is wanted, and has it kept within its budget, until `stop`.
    pub(crate) async fn run(&self, stop: &CancellationToken) {
        tokio::select! {
            () = self.read_while_wanted(stop) => {}
            () = self.measure() => {}
        }
    }

    async fn read_while_wanted(&self, stop: &CancellationToken) {
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
                    // One that cannot be read would keep the log for nothing, or has lost it: another one is made.
                    if is_wanted
                        && self.is_given_up()
                        && let Err(fault) = self.drop_slot().await
                    {
                        tracing::debug!(slot = %self.slot, %fault, "a slot on which nobody relies could not be dropped");
                    }
                    tokio::select! {
                        () = tokio::time::sleep(PAUSE) => {}
                        () = stop.cancelled() => return,
                    }
                }
            }
        }
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
