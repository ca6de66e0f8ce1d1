//! The embedded driver: tenants' rows in the agent's own store.

use std::sync::Arc;

use cell_client::ControlClient;
use cell_model::{Lineage, Seq, TenantId, Term};
use cell_protos::v1 as wire;
use cell_protos::v1::step_request::Step;
use cell_protos::v1::step_response::Result as Answer;
use futures::future::BoxFuture;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Status, Streaming};

use crate::capture::digest_to_wire;
use crate::driver::{Driver, Granted, Responses, Said, Sender, Surroundings};
use crate::durable::Ticket;
use crate::error::AgentError;
use crate::refusal::Refusal;
use crate::tenant::Core;
use crate::tenants::Tenants;
use crate::{confirm, follow, steps};

impl Driver for Tenants {
    fn surroundings(&self) -> &Surroundings {
        self
    }

    fn resume(self: Arc<Self>) {
        for tenant in self.all() {
            follow::ensure(&self, &tenant);
            if tenant.lock().tail.as_ref().is_some_and(|tail| !tail.done) {
                let (tenants, tenant) = (Arc::clone(&self), Arc::clone(&tenant));
                self.tasks.spawn(async move {
                    if let Err(refusal) = steps::move_aside(&tenants, &tenant).await {
                        tracing::warn!(tenant = %tenant.id, %refusal, "changes could not be put aside");
                    }
                });
            }
            let emptying = tenant.lock().control().is_some_and(|control| control.emptying);
            if emptying {
                let tenants = Arc::clone(&self);
                self.tasks.spawn(async move {
                    if let Err(refusal) = steps::empty(&tenants, &tenant).await {
                        tracing::warn!(tenant = %tenant.id, %refusal, "what is left of a copy could not be deleted");
                    }
                });
            }
        }
    }

    fn sustain(self: Arc<Self>, stop: CancellationToken) -> BoxFuture<'static, Result<(), AgentError>> {
        Box::pin(async move { Ok(self.durable.run(stop).await?) })
    }

    fn take_term(&self, lineage: Lineage, term: Term) -> BoxFuture<'_, Result<(), Refusal>> {
        Box::pin(self.remember_term(lineage, term))
    }

    fn step(
        self: Arc<Self>,
        sender: Sender,
        tenant: TenantId,
        step: Step,
    ) -> BoxFuture<'static, Result<Answer, Refusal>> {
        Box::pin(async move { steps::run(&self, sender, &tenant, step).await })
    }

    fn follow(
        self: Arc<Self>,
        request: Request<Streaming<wire::FollowRequest>>,
    ) -> BoxFuture<'static, Result<Responses, Status>> {
        Box::pin(async move { follow::serve(&self, request).await })
    }

    fn storage<'a>(
        &'a self,
        tenant: Option<&'a TenantId>,
        _counted: bool,
    ) -> BoxFuture<'a, Vec<wire::TenantStorage>> {
        let tenants = tenant.map_or_else(|| self.all(), |id| self.get(id).into_iter().collect());
        Box::pin(async move { tenants.iter().filter_map(|tenant| storage(&tenant.id, &tenant.lock())).collect() })
    }

    fn page<'a>(&'a self, after: &'a str, most: usize) -> BoxFuture<'a, Result<Vec<Said>, Refusal>> {
        Box::pin(async move {
            let (mut said, mut last) = (Vec::new(), Ticket::default());
            for tenant in self.behind(after) {
                if said.len() == most {
                    break;
                }
                let core = tenant.lock();
                last = last.max(core.ticket);
                let now = Instant::now();
                let grant = core.posted(now).map(|posted| posted.to_wire(&tenant.id, now));
                said.extend(grant.zip(storage(&tenant.id, &core)));
            }
            // What was said is not taken back by a crash.
            self.wait(last).await?;
            Ok(said)
        })
    }

    fn confirm(self: Arc<Self>, control: ControlClient) -> BoxFuture<'static, ()> {
        Box::pin(async move { confirm::ask(&self, &control).await })
    }

    fn read_tail<'a>(
        &'a self,
        tenant: &'a TenantId,
        after: Seq,
    ) -> BoxFuture<'a, Result<Option<wire::ReadTailResponse>, Refusal>> {
        Box::pin(std::future::ready(steps::read_tail(self, tenant, after)))
    }

    fn granted(&self, tenant: &TenantId) -> Option<Granted> {
        let tenant = self.get(tenant)?;
        let core = tenant.lock();
        let control = core.control()?;
        Some(Granted { uid: control.uid, epoch: control.epoch, mapping: control.mapping.clone() })
    }
}

fn storage(tenant: &TenantId, core: &Core) -> Option<wire::TenantStorage> {
    let control = core.control()?;
    let position = core.position().cloned().unwrap_or_default();
    let captured = match &control.capture {
        Some(capture) => position.seq.get() - capture.from.max(position.trimmed).min(position.seq).get(),
        None => 0,
    };
    let follows = control.follow.is_some();
    let applied_seq = if follows { position.seq.get() } else { 0 };
    Some(wire::TenantStorage {
        tenant: tenant.to_string(),
        uid: control.uid.get(),
        rows: position.digest.rows,
        bytes: position.bytes,
        last_seq: position.seq.get(),
        applied_seq,
        digest: Some(digest_to_wire(position.digest)),
        captured,
        copied_rows: core.progress.copied.0,
        copied_bytes: core.progress.copied.1,
        lag_bytes: if follows { core.progress.lag_bytes(position.seq) } else { 0 },
        lag_ms: if follows { core.progress.lag_ms() } else { 0 },
        move_id: control.move_id.0,
        has_copy: core.has_copy(),
        captures: control.capture.is_some(),
        ..wire::TenantStorage::default()
    })
}
