//! Steps that take away: never what this cell owns, and never without looking again in the batch that deletes.

use cell_model::Epoch;
use cell_protos::v1::step_response::Result as Answer;

use super::{Work, done};
use crate::capture;
use crate::engine::Batch;
use crate::follow;
use crate::record::Control;
use crate::refusal::Refusal;
use crate::staging::Changes;
use crate::tenant::{Core, Tenant};
use crate::tenants::Tenants;
use crate::transition::{self, Ending};

/// Rows deleted in one batch.
const CHUNK_ROWS: usize = 256;

impl Work<'_> {
    pub(super) async fn revoke(&self) -> Result<Answer, Refusal> {
        self.end(|core, context| transition::revoke(core.control(), context, core.has_copy()).map(Ending::Empty))
            .await
    }

    pub(super) async fn drop_import(&self) -> Result<Answer, Refusal> {
        self.end(|core, context| transition::drop_import(core.control(), context)).await
    }

    pub(super) async fn reclaim(&self, fenced: Epoch) -> Result<Answer, Refusal> {
        self.end(|core, context| {
            transition::let_go_of(core.tail.as_ref(), context)?;
            transition::reclaim(core.control(), context, fenced)
        })
        .await
    }

    pub(super) async fn stop_capture(&self) -> Result<Answer, Refusal> {
        if self.tenant.lock().control().is_none() {
            return Ok(done());
        }
        self.change(|core| {
            let next = transition::stop_capture(core.known()?, self.context())?;
            if next.capture.is_none() {
                core.holds.end();
            }
            Ok(next)
        })
        .await?;
        capture::clear(&self.tenant, &self.tenants.durable).await?;
        Ok(done())
    }

    pub(super) async fn retire(&self) -> Result<Answer, Refusal> {
        if self.tenant.lock().control().is_none() {
            return Ok(done());
        }
        self.change(|core| transition::retire(core.known()?, self.context())).await?;
        Ok(done())
    }

    /// Makes the ending durable, without its position so that nothing takes what is left for a copy, then deletes.
    async fn end(
        &self,
        ending: impl FnOnce(&Core, &transition::Context) -> Result<Ending, Refusal>,
    ) -> Result<Answer, Refusal> {
        let ticket = {
            let mut core = self.lock()?;
            let (next, position) = match ending(&core, self.context())? {
                Ending::Gone => return Ok(done()),
                Ending::Keep(next) => (next, None),
                Ending::Empty(next) => (next, Some(None)),
            };
            let position = position.filter(|_| core.position().is_some());
            core.holds.end();
            let (batch, changes) = (Batch::default(), Changes::default());
            let ticket =
                core.commit(&self.tenant.id, &self.tenants.durable, batch, &changes, Some(next), position)?;
            self.tenants.post(&self.tenant, &core);
            ticket
        };
        self.tenants.wait(ticket).await?;
        follow::ensure(self.tenants, &self.tenant);
        empty(self.tenants, &self.tenant).await?;
        Ok(done())
    }
}

/// Deletes rows, captured changes and what was put aside of a tenant that is being emptied, in bounded batches. Each batch expects the
/// grant as it is read with it: a grant that has changed meanwhile keeps its rows.
pub(crate) async fn empty(tenants: &Tenants, tenant: &Tenant) -> Result<(), Refusal> {
    loop {
        let ticket = {
            let mut core = tenant.lock();
            let Some(control) = core.control().filter(|control| control.emptying).cloned() else {
                return Ok(());
            };
            let mut batch = Batch::default();
            let mut left = 0;
            let ranges = [
                (core.keys.row(&[]), core.keys.rows_end()),
                (core.keys.captured(cell_model::Seq(0), 0), core.keys.captured_end()),
                // Only where somebody has let go of it, or the tenant is deleted.
                (core.keys.put_aside(cell_model::Seq(0), 0), core.keys.put_aside_end()),
            ];
            for (from, until) in ranges {
                for (key, _) in tenants.durable.engine().scan(&from, &until, CHUNK_ROWS)? {
                    batch.delete(key);
                    left += 1;
                }
            }
            let next = (left == 0).then_some(Control { emptying: false, ..control });
            let ended = next.is_some();
            if ended {
                batch.delete(core.keys.tail());
                batch.delete(core.keys.taken());
                core.tail = None;
            }
            let ticket = core.commit(&tenant.id, &tenants.durable, batch, &Changes::default(), next, None)?;
            ended.then_some(ticket)
        };
        if let Some(ticket) = ticket {
            return tenants.wait(ticket).await;
        }
        tokio::task::yield_now().await;
    }
}
