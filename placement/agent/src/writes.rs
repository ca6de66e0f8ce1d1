//! The path of a request's write and read.
//!
//! ```text
//! admission ─► run the closure ─► seq+1, rows, digest, captured change: one batch that expects the grant ─► durable
//!    │ wait while held                                                                                        │
//!    └─ refused: surely not run                    in Sync: the follower holds it, too ◄──────────────────────┘
//! ```
//! What the application refuses is answered when what it has seen is durable: that a name is taken must not be said because
//! of a row that is lost in the next moment.

use std::sync::Arc;

use cell_gate::RequestStamp;
use cell_model::Seq;
use tokio::time::Instant;

use crate::capture;
use crate::data::{ReadError, WriteError};
use crate::durable::Ticket;
use crate::engine::{Batch, EngineError};
use crate::record::{Capture, Control, Role};
use crate::refusal::Refusal;
use crate::rows::{RowError, Transaction, View};
use crate::tenant::{Admission, Core, Tenant};
use crate::tenants::Tenants;

/// A write that is in the store.
struct Written<T> {
    answer: T,
    seq: Seq,
    ticket: Ticket,
    // The follower must hold it before it is answered.
    confirm: bool,
}

/// Why a write is not in the store.
enum NotWritten<E> {
    /// The application does not want it, because of what these batches and those before them have written.
    Refused(E, Ticket),
    Failed(RowError),
}

impl<E> From<Refusal> for NotWritten<E> {
    fn from(refusal: Refusal) -> Self {
        Self::Failed(EngineError::Write(refusal.reason).into())
    }
}

impl Tenants {
    pub(crate) async fn write<T, E, F>(&self, stamp: &RequestStamp, work: F) -> Result<(T, Seq), WriteError<E>>
    where
        F: FnOnce(&mut Transaction<'_>) -> Result<T, E> + Send,
        T: Send,
        E: Send,
    {
        let deadline = Instant::now() + self.limits.write_wait();
        let refused = |(code, reason)| WriteError::Refused { code, reason };
        let tenant = self.get(&stamp.tenant).ok_or_else(|| refused(unknown_tenant()))?;
        let mut work = Some(work);
        let written = loop {
            let mut changed = tenant.subscribe();
            let code = {
                let mut core = tenant.lock();
                match self.admission(&tenant, &mut core, stamp, true) {
                    Admission::No(code) => return Err(refused(refusal(code))),
                    Admission::Wait(code) => code,
                    Admission::Yes => {
                        let work = work.take().expect("a write runs once");
                        break self.run(&tenant, &mut core, work);
                    }
                }
            };
            if tokio::time::timeout_at(deadline, changed.changed()).await.is_err() {
                return Err(refused(refusal(code)));
            }
        };
        let written = match written {
            Ok(written) => written,
            Err(NotWritten::Failed(error)) => return Err(WriteError::Store(error)),
            Err(NotWritten::Refused(error, ticket)) => {
                let lasts = self.wait(ticket).await;
                let lasts = lasts.map_err(|refusal| EngineError::Write(refusal.reason));
                return Err(lasts.map_or_else(|lost| WriteError::Store(lost.into()), |()| WriteError::App(error)));
            }
        };
        tenant.notify();
        self.durable
            .wait(written.ticket)
            .await
            .map_err(|error| WriteError::Unknown { reason: error.to_string() })?;
        if written.confirm {
            self.await_confirmed(&tenant, written.seq).await.map_err(|reason| WriteError::Unknown { reason })?;
        }
        Ok((written.answer, written.seq))
    }

    pub(crate) async fn read<T, F>(&self, stamp: &RequestStamp, work: F) -> Result<T, ReadError>
    where
        F: FnOnce(&View<'_>) -> Result<T, RowError> + Send,
        T: Send,
    {
        let deadline = Instant::now() + self.limits.write_wait();
        let refused = |(code, reason)| ReadError::Refused { code, reason };
        let tenant = self.get(&stamp.tenant).ok_or_else(|| refused(unknown_tenant()))?;
        let (answer, ticket) = loop {
            let mut changed = tenant.subscribe();
            let code = {
                let mut core = tenant.lock();
                match self.admission(&tenant, &mut core, stamp, false) {
                    Admission::No(code) => return Err(refused(refusal(code))),
                    Admission::Wait(code) => code,
                    Admission::Yes => {
                        let view = View::new(self.durable.engine(), &core.keys).watching(&core.unsynced);
                        break (work(&view)?, view.waits_for());
                    }
                }
            };
            if tokio::time::timeout_at(deadline, changed.changed()).await.is_err() {
                return Err(refused(refusal(code)));
            }
        };
        // What the read has seen must last.
        if self.wait(ticket).await.is_err() {
            return Err(refused(("STORE_FAILED", "what the read saw may not last".into())));
        }
        Ok(answer)
    }

    fn admission(&self, tenant: &Tenant, core: &mut Core, stamp: &RequestStamp, is_write: bool) -> Admission {
        let now = Instant::now();
        if core.holds.expire(now) {
            self.post(tenant, core);
        }
        let admission = core.admission(stamp, is_write, now);
        #[cfg(feature = "planted")]
        let admission = crate::planted::admission(self, core, (stamp, is_write), admission);
        admission
    }

    fn run<T, E, F>(&self, tenant: &Tenant, core: &mut Core, work: F) -> Result<Written<T>, NotWritten<E>>
    where
        F: FnOnce(&mut Transaction<'_>) -> Result<T, E>,
    {
        let (answer, writes) = {
            let view = View::new(self.durable.engine(), &core.keys).watching(&core.unsynced);
            let mut transaction = Transaction::new(view);
            match work(&mut transaction) {
                Ok(answer) => (answer, transaction.into_writes()),
                Err(error) => return Err(NotWritten::Refused(error, transaction.waits_for())),
            }
        };
        #[cfg(feature = "planted")]
        let writes = crate::planted::kept(self, core, writes);
        let mut staging = core.staging(&self.durable)?;
        let mut changed = false;
        for (key, value) in writes {
            changed |= staging.set(&key, value).map_err(|error| NotWritten::Failed(error.into()))?;
        }
        let (mut position, changes) = staging.finish();
        if !changed {
            return Ok(Written {
                answer,
                seq: core.last_seq(),
                ticket: core.ticket,
                confirm: core.known().is_ok_and(|control| control.sync),
            });
        }
        position.seq = position.seq.next();
        let seq = position.seq;
        let control = core.known()?.clone();
        let mut batch = Batch::default();
        let mut new_control = None;
        if let Some(capture) = control.capture.clone().filter(|capture| !capture.overflowed) {
            let transaction = capture::transaction(seq, &changes, position.digest);
            let bytes = capture::record(&mut batch, &core.keys, &transaction);
            position.captured_bytes += bytes;
            if position.captured_bytes > self.limits.captured_bytes_max {
                tracing::warn!(tenant = %tenant.id, bytes = position.captured_bytes, "more changes captured than are kept");
                let capture = Some(Capture { overflowed: true, ..capture });
                new_control = Some(Control { capture, ..control.clone() });
            }
        }
        let digest = position.digest;
        let position = Some(Some(position));
        #[cfg(feature = "planted")]
        let ticket = if crate::planted::is(self, crate::planted::Planted::StaleEpoch) {
            core.commit_unchecked(&tenant.id, &self.durable, batch, &changes, new_control, position)
        } else {
            core.commit(&tenant.id, &self.durable, batch, &changes, new_control, position)
        };
        #[cfg(not(feature = "planted"))]
        let ticket = core.commit(&tenant.id, &self.durable, batch, &changes, new_control, position);
        let ticket = ticket?;
        core.recent.push(seq, digest);
        core.unacked_since = core.unacked_since.or_else(|| control.capture.is_some().then(Instant::now));
        Ok(Written { answer, seq, ticket, confirm: control.sync })
    }

    /// Returns when the follower holds `seq`, or when nobody asks for that any more.
    async fn await_confirmed(&self, tenant: &Arc<Tenant>, seq: Seq) -> Result<(), String> {
        let deadline = Instant::now() + self.limits.write_confirm();
        loop {
            let mut changed = tenant.subscribe();
            {
                let core = tenant.lock();
                if core.acked >= seq {
                    return Ok(());
                }
                // Nobody waits for a follower any more, and yet this must not be answered: the new owner does not have it.
                let redirects = core.known().is_ok_and(|control| control.role == Role::Redirect);
                if redirects && core.tail.as_ref().is_some_and(|tail| seq > tail.after) {
                    return Err(
                        "the tenant was taken over meanwhile, and the new owner does not have the write".into()
                    );
                }
                if !core.known().is_ok_and(|control| control.sync) {
                    return Ok(());
                }
            }
            if tokio::time::timeout_at(deadline, changed.changed()).await.is_err() {
                return Err("the copying cell has not confirmed the write in time".into());
            }
        }
    }
}

fn unknown_tenant() -> (&'static str, String) {
    refusal("NOT_OWNER")
}

fn refusal(code: &'static str) -> (&'static str, String) {
    let reason = match code {
        "HOLD" => "the tenant's writes are held for a cutover",
        "NOT_YET" => "the request knows a newer epoch than this cell",
        "STALE" => "the request knows an older epoch than this cell",
        "FENCED" => "the tenant is between two owners",
        "UNCONFIRMED" => "this cell has started, and does not know yet whether it still owns the tenant",
        "IMPORTING" => "the tenant is being copied to this cell",
        "TENANT_DELETED" => "the tenant is deleted",
        _ => "this cell does not own the tenant",
    };
    (code, reason.to_owned())
}

#[cfg(test)]
mod tests;
