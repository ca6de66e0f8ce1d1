//! Steps for the cell that copies, up to the moment when it owns, and for the fenced one that redirects to it.

use std::time::Duration;

use cell_model::{Attempt, CellId, Digest, Seq};
use cell_protos::v1 as wire;
use cell_protos::v1::step_response::Result as Answer;
use cell_trust::{RoutedMapping, SignedMapping};
use tokio::time::Instant;

use super::owning::PATIENCE;
use super::{Core, Keep, Work, done, position};
use crate::capture::digest_to_wire;
use crate::postgres::digest;
use crate::postgres::follower::GONE;
use crate::postgres::layout::Place;
use crate::postgres::records::{self, Copied};
use crate::record::Role;
use crate::refusal::Refusal;
use crate::transition::{self, Delivery};

/// The longest that a step waits for changes to arrive.
const WAIT_MAX: Duration = Duration::from_secs(60);
/// How long the digest of a sealed tenant may take to be found out. The hold's budget ends it earlier.
const SEALED_MAX: Duration = Duration::from_secs(4);
/// Both cells read rows for it, so it is never there at once.
const SEALED_MIN: Duration = Duration::from_millis(500);
/// How long the whole copy may take to be read.
const SCAN_MAX: Duration = Duration::from_secs(100);

pub(crate) fn cell_id(name: &str) -> Result<CellId, Refusal> {
    CellId::new(name).map_err(|invalid| Refusal::new("INVALID", invalid.to_string()))
}

/// A database that was put back to before the copy was begun: it cannot go on.
fn copy_is_gone() -> Answer {
    Answer::Import(wire::ImportProgress {
        failure_code: "NOT_IMPORTING".into(),
        failure: GONE.into(),
        ..wire::ImportProgress::default()
    })
}

impl Work<'_> {
    pub(super) async fn prepare_import(&self, import: &wire::PrepareImport) -> Result<Answer, Refusal> {
        let source = cell_id(&import.source_cell)?;
        let _turn = self.tenant.turn.lock().await;
        self.refresh().await?;
        let is_new = self.lock()?.copied.is_none();
        let own = self.own_place()?.filter(|_| is_new);
        if is_new && own.is_none() {
            self.cell.look_at_tables(&self.tenant.id).await?;
            if let Some(table) = self.table_with_rows().await? {
                let reason = format!("table {table} has rows of the tenant that no copy has put there");
                return Err(Refusal::new("BUSY", reason));
            }
        }
        self.change_and_make(own, |core| {
            let source = (&source, import.source_agent.as_str());
            let next = transition::prepare_import(core.control.as_ref(), self.context(), core.has_copy(), source)?;
            let keep = if core.copied.is_none() { Keep::Are(Copied::default()) } else { Keep::Same };
            Ok((next, keep))
        })
        .await?;
        Ok(done())
    }

    /// The schema that is, or would be, the tenant's own, where schemas are made.
    pub(super) fn own_place(&self) -> Result<Option<Place>, Refusal> {
        let layout = &self.cell.database.layout;
        let place = layout.place(&self.tenant.id)?;
        Ok(Some(place).filter(|_| layout.has_schemas()))
    }

    /// A table in which the tenant has rows.
    pub(super) async fn table_with_rows(&self) -> Result<Option<String>, Refusal> {
        let client = self.cell.database.client().await?;
        let catalogue = self.cell.catalogue(&self.tenant.id).await?;
        for table in &catalogue.tables {
            let of = catalogue.of_tenant(table, self.tenant.id.as_str());
            let sql = format!("SELECT EXISTS (SELECT 1 FROM {} WHERE {of})", catalogue.qualified(table));
            if client.query_one(&sql, &[]).await?.get(0) {
                return Ok(Some(catalogue.qualified(table)));
            }
        }
        Ok(None)
    }

    /// The copying side of this move; refused where nothing is copied.
    pub(super) fn copy_of<'c>(&self, core: &'c Core) -> Result<&'c Copied, Refusal> {
        self.follows(core)?;
        core.copied.as_ref().ok_or_else(|| self.copies_nothing())
    }

    /// Whether this move copies to here, whatever has become of the copy.
    fn follows(&self, core: &Core) -> Result<(), Refusal> {
        transition::admit(core.known()?, self.context(), false)?;
        let follows = core.known()?.follow.as_ref().is_some_and(|follow| follow.move_id == self.context().move_id);
        if follows { Ok(()) } else { Err(self.copies_nothing()) }
    }

    fn copies_nothing(&self) -> Refusal {
        Refusal::new("NOT_IMPORTING", format!("nothing is copied for {}", self.context().move_id))
    }

    pub(super) async fn import_status(&self, bytes_per_second: u64) -> Result<Answer, Refusal> {
        let pace = {
            let core = self.lock()?;
            self.follows(&core)?;
            std::sync::Arc::clone(&core.progress.pace)
        };
        if pace.is_news(bytes_per_second) {
            // Durable, so that an agent that is started again while the move rests copies no faster.
            let sql = "UPDATE cellway.copies SET bytes_per_second = $2 WHERE tenant = $1 AND bytes_per_second <> $2 \
                   AND EXISTS (SELECT 1 FROM cellway.incarnation WHERE generation = $3)";
            let client = self.cell.database.client().await?;
            let by = records::to_db(self.cell.incarnation.get());
            client.execute(sql, &[&self.tenant.id.as_str(), &bytes_per_second.cast_signed(), &by]).await?;
        }
        let core = self.lock()?;
        let Some(applied) = core.copied.as_ref().map(|copied| copied.applied) else { return Ok(copy_is_gone()) };
        core.progress.pace.limit(bytes_per_second);
        if let Some(waits) = &core.progress.waits {
            return Err(waits.clone());
        }
        let (failure_code, failure) = core
            .progress
            .failure
            .as_ref()
            .map_or_else(Default::default, |refusal| (refusal.code.to_owned(), refusal.reason.clone()));
        // Positions in the log are bytes of it.
        let lag_bytes = core.progress.source_seq.get().saturating_sub(applied.get());
        Ok(Answer::Import(wire::ImportProgress {
            backfilled: core.is_complete(),
            applied_seq: applied.get(),
            source_seq: core.progress.source_seq.max(applied).get(),
            lag_bytes: if applied == Seq(0) { 0 } else { lag_bytes },
            lag_ms: core.progress.lag_ms(),
            copied_rows: core.progress.copied.0,
            copied_bytes: core.progress.copied.1,
            failure_code,
            failure,
            stale_rejected: self.cell.board.stale_rejected(&self.tenant.id),
        }))
    }

    /// Waits until `ready` answers with something, at most until `deadline`.
    async fn wait_for<T>(
        &self,
        deadline: Instant,
        mut ready: impl FnMut(&Core) -> Result<Option<T>, Refusal>,
    ) -> Result<T, Refusal> {
        loop {
            let mut changed = self.tenant.subscribe();
            let applied = {
                let core = self.lock()?;
                if let Some(failure) = &core.progress.failure {
                    return Err(failure.clone());
                }
                if let Some(ready) = ready(&core)? {
                    return Ok(ready);
                }
                core.applied()
            };
            tokio::select! {
                woken = tokio::time::timeout_at(deadline, changed.changed()) => if woken.is_err() {
                    let reason = format!("the copy is at {applied} when its time is up");
                    return Err(Refusal::new("NOT_APPLIED", reason));
                },
                () = self.cell.stop.cancelled() => {
                    return Err(Refusal::new("BUSY", "the database is let go of while it is waited for: it is tried again"));
                }
            }
        }
    }

    pub(super) async fn await_applied(&self, seq: Seq, timeout_ms: u32) -> Result<Answer, Refusal> {
        let deadline = Instant::now() + Duration::from_millis(timeout_ms.into()).min(WAIT_MAX);
        let applied = self
            .wait_for(deadline, |core| {
                let applied = self.copy_of(core)?.applied;
                Ok((core.is_complete() && applied >= seq).then_some(applied))
            })
            .await?;
        Ok(position(applied))
    }

    fn cut(core: &Core, of: (Seq, Attempt)) -> Result<Option<Digest>, Refusal> {
        core.cuts.get(&of).cloned().transpose()
    }

    pub(super) async fn digest_at(&self, seq: Seq, timeout_ms: u32) -> Result<Answer, Refusal> {
        let patience = Duration::from_millis(timeout_ms.into()).clamp(SEALED_MIN, SEALED_MAX);
        let digest = self
            .wait_for(Instant::now() + patience, |core| {
                transition::admit(core.known()?, self.context(), false)?;
                let copies = matches!(core.known()?.role, Role::Importing | Role::Redirect);
                if copies && core.applied() > seq {
                    return Err(Refusal::new("NOT_APPLIED", format!("the copy is at {} already", core.applied())));
                }
                let sealed = core.holds.standing(Instant::now()).and_then(|hold| hold.sealed) == Some(seq);
                if !copies && !sealed && !matches!(core.known()?.role, Role::Fenced { .. }) {
                    return Err(Refusal::new("NOT_SEALED", format!("no seal stands at {seq}")));
                }
                Self::cut(core, (seq, self.context().attempt))
            })
            .await?;
        Ok(Answer::Digest(wire::DigestResult { seq: seq.get(), digest: Some(digest_to_wire(digest)) }))
    }

    pub(super) async fn scan_digest(&self, at: Seq) -> Result<Answer, Refusal> {
        let owns = {
            let core = self.lock()?;
            transition::admit(core.known()?, self.context(), false)?;
            core.known()?.role == Role::Owner
        };
        let (seq, digest) = if owns { self.scan_source().await? } else { (at, self.scan_copy(at).await?) };
        Ok(Answer::Digest(wire::DigestResult { seq: seq.get(), digest: Some(digest_to_wire(digest)) }))
    }

    async fn scan_source(&self) -> Result<(Seq, Digest), Refusal> {
        // Before the rows are read: what becomes of a partition meanwhile is noticed at the seal.
        let files = self.cell.files(&self.tenant.id).await?;
        let (seq, client) = {
            let mut feed = self.tenant.feed.lock().await;
            let feed = feed.as_mut().filter(|feed| feed.move_id == self.context().move_id).ok_or_else(|| {
                Refusal::new(
                    "NOT_APPLIED",
                    "the copying cell is not connected, so there is nothing to compare with",
                )
            })?;
            feed.consistent(self.cell, &self.tenant.id).await?
        };
        let catalogue = self.cell.catalogue(&self.tenant.id).await?;
        let sum = digest::of_all(&client, &catalogue, &self.tenant.id, self.context().uid).await?;
        self.cell.replication.captures().clean_at(&self.tenant.id, seq);
        let mut core = self.lock()?;
        core.files = files;
        core.counted = (sum.digest.rows, sum.bytes);
        core.digest = sum.digest;
        Ok((seq, sum.digest))
    }

    async fn scan_copy(&self, at: Seq) -> Result<Digest, Refusal> {
        let of = (at, Attempt(0));
        let lost = self.lock()?.progress.lost;
        let found = self.wait_for(Instant::now() + SCAN_MAX, |core| {
            let applied = self.copy_of(core)?.applied;
            let newest = core.cuts.keys().next_back().map(|(seq, _)| *seq);
            if applied > at && newest.is_some_and(|newest| newest > at) && !core.cuts.contains_key(&of) {
                return Err(Refusal::new("NOT_APPLIED", format!("the cut at {at} was missed")));
            }
            if core.progress.lost != lost && !core.cuts.contains_key(&of) {
                return Err(Refusal::new(
                    "NOT_APPLIED",
                    format!("the cut at {at} was lost with the change stream"),
                ));
            }
            Self::cut(core, of)
        });
        let digest = found.await?;
        // The next comparison may be at the same change: it reads the rows again.
        self.tenant.lock().cuts.remove(&of);
        Ok(digest)
    }

    pub(super) async fn prepare_reverse(&self) -> Result<Answer, Refusal> {
        let _turn = self.tenant.turn.lock().await;
        self.refresh().await?;
        transition::prepare_reverse(self.lock()?.known()?, self.context())?;
        self.cell.replication.want(&self.tenant.id);
        self.cell.replication.streaming(PATIENCE).await?;
        self.change_in_turn(|core| Ok((transition::prepare_reverse(core.known()?, self.context())?, Keep::Same)))
            .await?;
        Ok(position(self.cell.replication.position()))
    }

    pub(super) async fn activate(&self, keep_follower: bool) -> Result<Answer, Refusal> {
        let _turn = self.tenant.turn.lock().await;
        self.refresh().await?;
        // Everything that the mover has written here lies before this; every write of an application after it.
        let from = self.log_end().await?;
        let (old, next, copied) = {
            let core = self.lock()?;
            // A stream that fails when both cells have been compared, in the attempt that was committed, takes nothing away.
            let compared = (core.applied(), self.context().attempt);
            let is_compared = core.cuts.get(&compared).is_some_and(Result::is_ok);
            let complete = core.is_complete() && (is_compared || core.progress.failure.is_none());
            let next = transition::activate(core.known()?, self.context(), complete, from, keep_follower)?;
            (core.control.clone(), next, core.copied.clone().unwrap_or_default())
        };
        if old.as_ref() == Some(&next) {
            return Ok(done());
        }
        if next.capture.is_some() {
            let files = self.cell.files(&self.tenant.id).await?;
            self.tenant.lock().files = files;
            self.cell.replication.capture(&self.tenant.id, from, true);
        }
        self.change_in_turn(|_| Ok((next, Keep::Own(copied)))).await?;
        Ok(done())
    }

    /// What a mapping says whose signature is believed, if it is of this tenant.
    pub(super) fn verified(&self, signed: &SignedMapping) -> Result<RoutedMapping, Refusal> {
        let trusted = self.cell.trusted.read().unwrap_or_else(std::sync::PoisonError::into_inner);
        let routed = signed.verify(&trusted).map_err(|error| Refusal::new("UNTRUSTED", error.to_string()))?;
        if routed.mapping.tenant != self.tenant.id {
            return Err(Refusal::new("INVALID", format!("the mapping is that of {}", routed.mapping.tenant)));
        }
        Ok(routed)
    }

    pub(super) async fn deliver_mapping(&self, delivery: wire::DeliverMapping) -> Result<Answer, Refusal> {
        let mapping = delivery.mapping.ok_or_else(|| Refusal::new("INVALID", "the delivery has no mapping"))?;
        let signed = cell_client::signed_from_wire(mapping);
        let routed = self.verified(&signed)?;
        let follow = match delivery.follow_agent.as_str() {
            "" => None,
            agent => Some((cell_id(&delivery.follow_cell)?, agent)),
        };
        self.change(|core| {
            let follow = follow.as_ref().map(|(cell, agent)| (cell, *agent));
            let delivery = Delivery { signed: &signed, routed: &routed, here: &self.cell.here, follow };
            let was_fenced = matches!(core.known()?.role, Role::Fenced { .. });
            let next = transition::deliver_mapping(core.known()?, self.context(), delivery)?;
            // Positions are the other database's from now on, and nothing of it is here yet but the state at the seal.
            let keep = if was_fenced && next.follow.is_some() { Keep::Are(Copied::whole()) } else { Keep::Same };
            Ok((next, keep))
        })
        .await?;
        self.let_go().await;
        Ok(done())
    }
}
