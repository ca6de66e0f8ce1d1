//! Steps for the cell that owns: grant, capture, sync, hold, fence, unfence.

use std::sync::Arc;
use std::time::Duration;

use cell_model::{Attempt, Seq};
use cell_protos::v1 as wire;
use cell_protos::v1::step_response::Result as Answer;
use tokio::time::Instant;

use super::{Keep, Work, done, position};
use crate::hold::Hold;
use crate::postgres::feed::Compare;
use crate::postgres::records::Copied;
use crate::postgres::seal::{self, Seal};
use crate::postgres::{digest, outside, schemas};
use crate::refusal::Refusal;
use crate::transition;

/// A step is answered within five seconds; what it waits for must be shorter.
pub(super) const PATIENCE: Duration = Duration::from_secs(4);

impl Work<'_> {
    pub(super) async fn grant(&self) -> Result<Answer, Refusal> {
        let _turn = self.tenant.turn.lock().await;
        self.refresh().await?;
        let is_new = self.lock()?.copied.is_none();
        let mut making = self.own_place()?.filter(|_| is_new);
        if let Some(place) = &making
            && schemas::exists(&self.cell.database.session().await?, &place.schema).await?
        {
            // It is there already: adopted as it is.
            self.cell.look_at_tables(&self.tenant.id).await?;
            making = None;
        }
        if is_new && self.cell.database.layout.is_shared() {
            self.cell.can_spell(&self.tenant.id).await?;
        }
        self.change_and_make(making, |core| {
            let next = transition::grant(core.control.as_ref(), self.context(), core.has_copy())?;
            let keep = if core.copied.is_some() { Keep::Same } else { Keep::Are(Copied::whole()) };
            Ok((next, keep))
        })
        .await?;
        Ok(done())
    }

    /// Where the log ends now.
    pub(super) async fn log_end(&self) -> Result<Seq, Refusal> {
        let client = self.cell.database.client().await?;
        let sql = "SELECT (pg_current_wal_insert_lsn() - '0/0'::pg_lsn)::bigint";
        Ok(Seq(client.query_one(sql, &[]).await?.get::<_, i64>(0).cast_unsigned()))
    }

    pub(super) async fn start_capture(&self) -> Result<Answer, Refusal> {
        let context = self.context();
        let _turn = self.tenant.turn.lock().await;
        // Before anything is wanted of the log: what is found to need none lets go of it.
        self.refresh().await?;
        let known = |core: &super::Core| -> Result<Option<Seq>, Refusal> {
            transition::start_capture(core.known()?, context, Seq(0))?;
            let capture = core.known()?.capture.as_ref().filter(|capture| capture.move_id == context.move_id);
            Ok(capture.map(|capture| capture.from))
        };
        if let Some(from) = known(&*self.lock()?)? {
            return Ok(position(from));
        }
        let catalogue = self.cell.look_at_tables(&self.tenant.id).await?;
        if let Some(finding) = crate::postgres::check::tables(&catalogue).into_iter().next() {
            return Err(Refusal::new("TABLES_UNFIT", format!("{}: {}", finding.code, finding.reason)));
        }
        self.cell.replication.want(&self.tenant.id);
        let begun = async {
            self.cell.replication.streaming(PATIENCE).await?;
            let from = self.log_end().await?;
            // Before the record: a transaction that commits after it must find its capture.
            self.cell.replication.capture(&self.tenant.id, from, false);
            self.change_in_turn(|core| Ok((transition::start_capture(core.known()?, context, from)?, Keep::Same)))
                .await?;
            Ok(from)
        }
        .await;
        // Where the answer was lost the database is asked first.
        if begun.is_err() && !self.tenant.lock().doubted {
            self.cell.replication.unwant(&self.tenant.id);
        }
        begun.map(position)
    }

    /// A capture that has failed says why itself.
    fn captures_well(&self) -> Result<(), Refusal> {
        transition::admit(self.lock()?.known()?, self.context(), false)?;
        let standing = self.cell.replication.captures().standing(&self.tenant.id);
        standing.map_or(Ok(()), |standing| standing.map(|_| ()))
    }

    pub(super) async fn engage_sync(&self, engaged: bool) -> Result<Answer, Refusal> {
        if engaged {
            self.captures_well()?;
        }
        self.change(|core| Ok((transition::engage_sync(core.known()?, self.context(), engaged)?, Keep::Same)))
            .await?;
        Ok(done())
    }

    pub(super) async fn sync_status(&self, with_writes: bool) -> Result<Answer, Refusal> {
        let engaged = transition::admit(self.lock()?.known()?, self.context(), false)?.sync;
        let (oldest, ended_writers) =
            if with_writes { (self.oldest_write().await, self.ended_writers().await) } else { (Duration::ZERO, 0) };
        let standing = self.cell.replication.captures().standing(&self.tenant.id);
        let none = || Refusal::new("NOT_OWNER", "nothing is captured here");
        let standing = standing.ok_or_else(none)??;
        let overdue = |since: Option<Instant>| {
            since.is_some_and(|since| since.elapsed() > self.cell.limits.confirm_overdue())
        };
        // Without the log nobody knows what the follower lacks: writes wait just as well.
        let late = overdue(standing.unacked_since) || overdue(self.cell.replication.lost_since());
        Ok(Answer::Sync(wire::SyncProgress {
            engaged,
            wants_degrade: engaged && late,
            last_seq: standing.last.get(),
            acked_seq: standing.acked.get(),
            oldest_write_ms: u32::try_from(oldest.as_millis()).unwrap_or(u32::MAX),
            ended_writers,
        }))
    }

    /// Whether the follower is too slow is told all the same where the database does not answer.
    async fn oldest_write(&self) -> Duration {
        let asked = async { seal::oldest_write(&*self.cell.database.client().await?, &self.tenant.id).await };
        asked.await.unwrap_or_else(|fault: crate::postgres::fault::Fault| {
            tracing::debug!(%fault, tenant = %self.tenant.id, "the oldest open write is not known");
            Duration::MAX
        })
    }

    /// Those that holds of this move have ended. Told with the next answer where the database does not answer.
    async fn ended_writers(&self) -> u32 {
        let asked = async {
            let client = self.cell.database.client().await?;
            outside::ended(&client, &self.tenant.id, self.context().move_id).await
        };
        asked.await.unwrap_or_default()
    }

    pub(super) async fn hold_writes(&self, asked: &wire::HoldWrites) -> Result<Answer, Refusal> {
        let attempt = (self.context().move_id, self.context().attempt);
        self.captures_well()?;
        let (hold, is_new) = {
            let mut core = self.lock()?;
            transition::hold_writes(core.known()?, self.context())?;
            let name = self.cell.board.next_hold();
            let budget = Duration::from_millis(u64::from(asked.budget_ms).max(1));
            let hold = core.holds.begin(attempt, name, Instant::now(), budget)?.clone();
            (hold.clone(), hold.id == name)
        };
        self.change(|core| Ok((transition::hold_writes(core.known()?, self.context())?, Keep::Same))).await?;
        self.cell.post(&self.tenant);
        if is_new {
            self.lapse_at(hold.deadline);
        }
        let _turn = self.tenant.turn.lock().await;
        let sealed = self.lock()?.holds.standing(Instant::now()).and_then(|hold| hold.sealed);
        let seq = match sealed {
            Some(seq) => seq,
            None => self.seal(&hold, asked.terminate_writers).await?,
        };
        let ended_writers = if asked.terminate_writers { self.ended_writers().await } else { 0 };
        Ok(Answer::Position(wire::Position { seq: seq.get(), ended_writers }))
    }

    /// Gates first, so that few are left who wait in the database; then the database.
    async fn seal(&self, hold: &Hold, terminate_writers: bool) -> Result<Seq, Refusal> {
        let began = Instant::now();
        let board = &self.cell.board;
        let (quiesced, session) =
            tokio::join!(board.await_quiesced(hold.id, hold.deadline), self.cell.database.connect());
        quiesced.map_err(|gates| {
            Refusal::new("NOT_QUIESCED", format!("gates that have not quiesced in time: {}", gates.join(", ")))
        })?;
        let gates = began.elapsed();
        let id = &self.tenant.id;
        let left = || hold.deadline.saturating_duration_since(Instant::now());
        let seal = Seal::take(session?, id, (hold.move_id, hold.attempt), left());
        let seal = if terminate_writers { self.ending_writers(seal, left() / 2).await? } else { seal.await? };
        let locked = began.elapsed();
        let sealed = self.sealed(hold, left()).await;
        tracing::debug!(tenant = %id, ?gates, ?locked, sealed = ?began.elapsed(), "a hold was sealed, or not");
        if sealed.is_err() {
            seal.release().await;
            return sealed;
        }
        self.tenant.lock().seal = Some(seal);
        // It may have lapsed meanwhile, before there was a seal to let go of.
        if Instant::now() >= hold.deadline {
            self.let_go().await;
        }
        sealed
    }

    /// Waits for the seal, and ends writers that no gate has let in if it is not there after `patience`.
    async fn ending_writers(
        &self,
        seal: impl Future<Output = Result<Seal, Refusal>> + Send,
        patience: Duration,
    ) -> Result<Seal, Refusal> {
        let mut seal = std::pin::pin!(seal);
        tokio::select! {
            sealed = &mut seal => return sealed,
            () = tokio::time::sleep(patience) => {}
        }
        // The seal waits on meanwhile, and nobody comes in.
        let (sealed, ended) = tokio::join!(seal, outside::end(self.cell, &self.tenant.id, self.context().move_id));
        match (sealed, ended) {
            (Err(Refusal { code: "NOT_QUIESCED", reason }), Err(refusal)) => {
                let reason =
                    format!("{reason}; writers that no gate has let in could not be ended: {}", refusal.reason);
                Err(Refusal::new("NOT_QUIESCED", reason))
            }
            (sealed, _) => sealed,
        }
    }

    /// Nobody writes now: the last change is the last for good.
    async fn sealed(&self, hold: &Hold, patience: Duration) -> Result<Seq, Refusal> {
        let id = &self.tenant.id;
        let replication = &self.cell.replication;
        let (_, (), files) =
            tokio::try_join!(replication.barrier(patience), self.cell.look_once_more(id), self.cell.files(id))?;
        let same_files = self.lock()?.files == files;
        let compare = match replication.captures().dirty(id).filter(|_| same_files) {
            Some(keys) => Compare::Keys(keys),
            None => Compare::All,
        };
        let last = {
            let none = || Refusal::new("NOT_OWNER", "nothing is captured here");
            replication.captures().standing(id).ok_or_else(none)??.last
        };
        let sequences = self.cell.sequences(id).await?;
        if let Some(feed) = self.tenant.feed.lock().await.as_mut() {
            feed.flush(self.cell, id).await?;
            if feed.cursor() == last {
                feed.cut(&compare, sequences, hold.attempt).await?;
            }
        }
        let seq = {
            let mut core = self.lock()?;
            core.holds.seal(hold.id, last, Instant::now())?
        };
        self.digest_sealed((seq, hold.attempt), compare);
        Ok(seq)
    }

    /// What the sealed rows add up to, found out while the other cell does the same.
    fn digest_sealed(&self, of: (Seq, Attempt), compare: Compare) {
        let (cell, tenant) = (Arc::clone(self.cell), Arc::clone(&self.tenant));
        let uid = self.context().uid;
        self.cell.tasks.spawn(async move {
            let found = async {
                // Nobody can write, so whatever is read is of one moment.
                let client = cell.database.client().await?;
                let catalogue = cell.catalogue(&tenant.id).await?;
                let sum = match &compare {
                    Compare::All => digest::of_all(&client, &catalogue, &tenant.id, uid).await,
                    Compare::Keys(keys) => digest::of_keys(&client, &catalogue, (&tenant.id, uid), keys).await,
                };
                Ok::<_, Refusal>(sum?)
            };
            let found = found.await;
            tenant.lock().remember_cut(of, found.map(|sum| sum.digest));
            tenant.notify();
        });
    }

    /// Lets the hold lapse by itself.
    fn lapse_at(&self, deadline: Instant) {
        let (cell, tenant) = (Arc::clone(self.cell), Arc::clone(&self.tenant));
        let stop = cell.stop.clone();
        let tasks = cell.tasks.clone();
        tasks.spawn(async move {
            stop.run_until_cancelled(tokio::time::sleep_until(deadline)).await;
            let lapsed = {
                let mut core = tenant.lock();
                let lapsed = core.holds.expire(Instant::now()) || stop.is_cancelled();
                lapsed.then(|| core.seal.take())
            };
            let Some(seal) = lapsed else { return };
            tracing::info!(tenant = %tenant.id, "the hold has lapsed");
            cell.post(&tenant);
            if let Some(seal) = seal {
                seal.release().await;
            }
        });
    }

    /// Ends the hold, sealed or not.
    pub(super) async fn let_go(&self) {
        let seal = {
            let mut core = self.tenant.lock();
            core.holds.end();
            core.seal.take()
        };
        self.cell.post(&self.tenant);
        if let Some(seal) = seal {
            seal.release().await;
        }
    }

    pub(super) async fn release_hold(&self) -> Result<Answer, Refusal> {
        transition::admit(self.lock()?.known()?, self.context(), false)?;
        self.let_go().await;
        Ok(done())
    }

    pub(super) async fn fence(&self, wanted: Seq) -> Result<Answer, Refusal> {
        let context = *self.context();
        let attempt = (context.move_id, context.attempt);
        let _turn = self.tenant.turn.lock().await;
        self.refresh().await?;
        let last = self.cell.replication.captures().standing(&self.tenant.id).and_then(Result::ok);
        let (old, next, seal) = {
            let mut core = self.lock()?;
            let standing = core.holds.seal_of(attempt, Instant::now());
            let last = last.map_or(Seq(0), |standing| standing.last);
            let next = transition::fence(core.known()?, &context, wanted, standing, last)?;
            if core.control.as_ref() == Some(&next) {
                return Ok(position(wanted));
            }
            (core.control.clone(), next, core.seal.take().filter(|seal| seal.of == attempt))
        };
        let Some(seal) = seal else {
            return Err(Refusal::new("NOT_SEALED", "the session that held the lock is gone"));
        };
        let fenced = seal.fence(self.cell.incarnation, &self.tenant.id, (old.as_ref(), &next)).await;
        // Nobody knows whether it was committed: the database is asked before anything else is done.
        let number = fenced.inspect_err(|_| self.tenant.lock().doubted = true)?;
        self.settle(next, number, Keep::Same).await?;
        Ok(position(wanted))
    }

    pub(super) async fn unfence(&self) -> Result<Answer, Refusal> {
        self.change(|core| Ok((transition::unfence(core.known()?, self.context())?, Keep::Same))).await?;
        self.let_go().await;
        Ok(done())
    }
}
