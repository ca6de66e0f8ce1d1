//! Steps for the cell that copies, up to the moment when it owns, and for the fenced one that redirects to it.

use std::time::Duration;

use cell_model::{CellId, Seq};
use cell_protos::v1 as wire;
use cell_protos::v1::step_response::Result as Answer;
use cell_trust::{RoutedMapping, SignedMapping};
use tokio::time::Instant;

use super::{Work, done, position};
use crate::capture::{self, digest_to_wire};
use crate::engine::Batch;
use crate::record::{Position, Role};
use crate::refusal::Refusal;
use crate::staging::Changes;
use crate::tenant::Core;
use crate::transition::{self, Delivery};
use crate::{follow, scan};

/// The longest that a step waits for changes to arrive.
const WAIT_MAX: Duration = Duration::from_secs(60);
/// How long a scan waits for the copy to reach its cut.
const CUT_MAX: Duration = Duration::from_secs(30);

fn cell(name: &str) -> Result<CellId, Refusal> {
    CellId::new(name).map_err(|invalid| Refusal::new("INVALID", invalid.to_string()))
}

impl Work<'_> {
    pub(super) async fn prepare_import(&self, import: &wire::PrepareImport) -> Result<Answer, Refusal> {
        let source = cell(&import.source_cell)?;
        let ticket = {
            let mut core = self.lock()?;
            let source = (&source, import.source_agent.as_str());
            let next = transition::prepare_import(core.control(), self.context(), core.has_copy(), source)?;
            let ticket = if core.control() == Some(&next) {
                core.ticket
            } else {
                let position = core.position().is_none().then(|| Some(Position::default()));
                let (batch, changes) = (Batch::default(), Changes::default());
                core.commit(&self.tenant.id, &self.tenants.durable, batch, &changes, Some(next), position)?
            };
            self.tenants.post(&self.tenant, &core);
            ticket
        };
        self.tenants.wait(ticket).await?;
        follow::ensure(self.tenants, &self.tenant);
        Ok(done())
    }

    /// The copying side of this move; refused where nothing is copied, or where the copy has failed.
    pub(super) fn copy_of<'c>(&self, core: &'c Core) -> Result<&'c Position, Refusal> {
        transition::admit(core.known()?, self.context(), false)?;
        let follows = core.known()?.follow.as_ref().is_some_and(|follow| follow.move_id == self.context().move_id);
        core.position().filter(|_| follows).ok_or_else(|| {
            Refusal::new("NOT_IMPORTING", format!("nothing is copied for {}", self.context().move_id))
        })
    }

    pub(super) async fn import_status(&self, bytes_per_second: u64) -> Result<Answer, Refusal> {
        let ticket = {
            let core = self.lock()?;
            core.progress.pace.limit(bytes_per_second);
            core.ticket
        };
        self.tenants.wait(ticket).await?;
        self.import_progress()
    }

    fn import_progress(&self) -> Result<Answer, Refusal> {
        let core = self.lock()?;
        let applied = self.copy_of(&core)?.seq;
        let (failure_code, failure) = core
            .progress
            .failure
            .as_ref()
            .map_or_else(Default::default, |refusal| (refusal.code.to_owned(), refusal.reason.clone()));
        Ok(Answer::Import(wire::ImportProgress {
            backfilled: core.is_complete(),
            applied_seq: applied.get(),
            source_seq: core.progress.source_seq.max(applied).get(),
            lag_bytes: core.progress.lag_bytes(applied),
            lag_ms: core.progress.lag_ms(),
            copied_rows: core.progress.copied.0,
            copied_bytes: core.progress.copied.1,
            failure_code,
            failure,
            stale_rejected: self.tenants.board.stale_rejected(&self.tenant.id),
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
                core.last_seq()
            };
            if tokio::time::timeout_at(deadline, changed.changed()).await.is_err() {
                return Err(Refusal::new("NOT_APPLIED", format!("the copy is at {applied} when its time is up")));
            }
        }
    }

    pub(super) async fn await_applied(&self, seq: Seq, timeout_ms: u32) -> Result<Answer, Refusal> {
        let deadline = Instant::now() + Duration::from_millis(timeout_ms.into()).min(WAIT_MAX);
        let (applied, ticket) = self
            .wait_for(deadline, |core| {
                let applied = self.copy_of(core)?.seq;
                Ok((core.is_complete() && applied >= seq).then_some((applied, core.ticket)))
            })
            .await?;
        self.tenants.wait(ticket).await?;
        Ok(position(applied))
    }

    pub(super) async fn digest_at(&self, seq: Seq, timeout_ms: u32) -> Result<Answer, Refusal> {
        if timeout_ms > 0 && self.lock()?.known()?.role == Role::Importing {
            self.await_applied(seq, timeout_ms).await?;
        }
        let (digest, ticket) = {
            let core = self.lock()?;
            transition::admit(core.known()?, self.context(), false)?;
            let at = core.position().filter(|position| position.seq == seq && core.is_complete());
            let Some(digest) = at.map(|position| position.digest) else {
                let code = if core.known()?.role == Role::Importing { "NOT_APPLIED" } else { "NOT_SEALED" };
                return Err(Refusal::new(code, format!("the last change is {}, not {seq}", core.last_seq())));
            };
            (digest, core.ticket)
        };
        self.tenants.wait(ticket).await?;
        Ok(Answer::Digest(wire::DigestResult { seq: seq.get(), digest: Some(digest_to_wire(digest)) }))
    }

    pub(super) async fn scan_digest(&self, at: Seq) -> Result<Answer, Refusal> {
        let owns = {
            let core = self.lock()?;
            transition::admit(core.known()?, self.context(), false)?;
            core.known()?.role == Role::Owner
        };
        if owns {
            let scanned = scan::scan(&self.tenant, &self.tenants.durable).await?;
            self.tenants.wait(scanned.ticket).await?;
            let digest = Some(digest_to_wire(scanned.digest));
            return Ok(Answer::Digest(wire::DigestResult { seq: scanned.seq.get(), digest }));
        }
        // The digest at the cut first: it may be forgotten by the time the scan ends.
        let deadline = Instant::now() + CUT_MAX;
        let digest = self
            .wait_for(deadline, |core| {
                if self.copy_of(core)?.seq < at || !core.is_complete() {
                    return Ok(None);
                }
                let known = core.recent.at(at);
                known
                    .map(Some)
                    .ok_or_else(|| Refusal::new("NOT_APPLIED", format!("change {at} lies too far behind")))
            })
            .await?;
        let scanned = scan::scan(&self.tenant, &self.tenants.durable).await?;
        self.tenants.wait(scanned.ticket).await?;
        Ok(Answer::Digest(wire::DigestResult { seq: at.get(), digest: Some(digest_to_wire(digest)) }))
    }

    pub(super) async fn prepare_reverse(&self) -> Result<Answer, Refusal> {
        self.change(|core| transition::prepare_reverse(core.known()?, self.context())).await?;
        let seq = self.tenant.lock().last_seq();
        Ok(position(seq))
    }

    pub(super) async fn activate(&self, keep_follower: bool) -> Result<Answer, Refusal> {
        let ticket = {
            let mut core = self.lock()?;
            let complete = core.is_complete() && core.progress.failure.is_none();
            let last = core.last_seq();
            let next = transition::activate(core.known()?, self.context(), complete, last, keep_follower)?;
            if core.control() == Some(&next) {
                core.ticket
            } else {
                let position =
                    core.position().cloned().map(|old| Position { captured_bytes: 0, trimmed: last, ..old });
                core.acked = last;
                core.unacked_since = None;
                let (batch, changes) = (Batch::default(), Changes::default());
                core.commit(&self.tenant.id, &self.tenants.durable, batch, &changes, Some(next), Some(position))?
            }
        };
        // Served only once it is durable: a crash must not take an epoch back that a client has seen.
        self.tenants.wait(ticket).await?;
        self.tenants.post(&self.tenant, &self.tenant.lock());
        follow::ensure(self.tenants, &self.tenant);
        Ok(done())
    }

    /// What a mapping says whose signature is believed, if it is of this tenant.
    pub(super) fn verified(&self, signed: &SignedMapping) -> Result<RoutedMapping, Refusal> {
        let trusted = self.tenants.trusted.read().unwrap_or_else(std::sync::PoisonError::into_inner);
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
            agent => Some((cell(&delivery.follow_cell)?, agent)),
        };
        self.change(|core| {
            let follow = follow.as_ref().map(|(cell, agent)| (cell, *agent));
            let delivery = Delivery { signed: &signed, routed: &routed, here: &self.tenants.here, follow };
            let next = transition::deliver_mapping(core.known()?, self.context(), delivery)?;
            core.holds.end();
            Ok(next)
        })
        .await?;
        capture::clear(&self.tenant, &self.tenants.durable).await?;
        Ok(done())
    }
}
