//! Everything that only looks.

use std::time::Duration;

use cell_model::{AuditEntry, CellId, CellRecord, ClusterId, Limits, Lineage, MoveId, Revision, TenantId};
use cell_protos::{audit_hash, v1};
use cell_trust::{Checkpoint, SignedMapping};

use super::{ControlClient, Kind, Service};
use crate::{ClientError, signed_from_wire};

/// Which part of a list is wanted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ListOptions {
    /// 1 to 1,000; 0 means 500.
    pub page_size: u32,
    /// From the last page; empty for the first.
    pub page_token: String,
    /// Tenants: only those of this cell. Moves: only those of this tenant. Empty: all.
    pub filter: String,
    /// Moves that have ended, too.
    pub include_ended: bool,
}

/// Part of a list.
#[derive(Debug, Clone, PartialEq)]
pub struct Page<T> {
    /// In order.
    pub items: Vec<T>,
    /// For the next part; empty after the last.
    pub next_page_token: String,
    /// At which it was read.
    pub revision: Revision,
}

/// What a router says of itself when it asks for a lease.
pub type RouterReport = v1::RouterReport;

/// A revision that a majority has confirmed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Confirmed {
    /// As given.
    pub nonce: u64,
    /// Everything that was acknowledged before the question is at or below it.
    pub revision: Revision,
    /// In this history.
    pub lineage: Lineage,
    /// For how long, counted from before the question was sent, a table that holds the revision may be taken for fresh.
    /// None where no lease was asked for, or none was granted.
    pub lease: Option<Duration>,
}

/// Part of the audit trail, and its end under the answering node's signature.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditPage {
    /// In order.
    pub entries: Vec<AuditEntry>,
    /// Number of the oldest entry that is kept; 0 where there is none.
    pub first: u64,
    /// The newest entry.
    pub end: Checkpoint,
    /// Name of the key that signed the end.
    pub key_id: String,
    /// The signature.
    pub signature: Vec<u8>,
    /// Where to go on; none after the last page.
    pub next: Option<u64>,
}

impl ControlClient {
    fn get(&self, id: String) -> v1::GetRequest {
        v1::GetRequest { id, allow_stale: self.options.allow_stale, reconciled: false }
    }

    fn list(&self, options: ListOptions) -> v1::ListRequest {
        v1::ListRequest {
            page_size: options.page_size,
            page_token: options.page_token,
            allow_stale: self.options.allow_stale,
            filter: options.filter,
            include_ended: options.include_ended,
        }
    }

    /// One cell.
    ///
    /// # Errors
    /// [`ClientError`]
    pub async fn get_cell(&self, cell: &CellId) -> Result<CellRecord, ClientError> {
        let call = |mut client: Service, request| async move { client.get_cell(request).await };
        Ok(self.call(Kind::Repeatable, self.get(cell.to_string()), call).await?.try_into()?)
    }

    /// Cells, by name.
    ///
    /// # Errors
    /// [`ClientError`]
    pub async fn list_cells(&self, options: ListOptions) -> Result<Page<CellRecord>, ClientError> {
        let call = |mut client: Service, request| async move { client.list_cells(request).await };
        let wire = self.call(Kind::Repeatable, self.list(options), call).await?;
        let items = wire.cells.into_iter().map(CellRecord::try_from).collect::<Result<_, _>>()?;
        Ok(Page { items, next_page_token: wire.next_page_token, revision: Revision(wire.revision) })
    }

    /// One tenant, with its move.
    ///
    /// # Errors
    /// [`ClientError`]
    pub async fn get_tenant(&self, tenant: &TenantId) -> Result<v1::Tenant, ClientError> {
        let call = |mut client: Service, request| async move { client.get_tenant(request).await };
        self.call(Kind::Repeatable, self.get(tenant.to_string()), call).await
    }

    /// Tenants, by name.
    ///
    /// # Errors
    /// [`ClientError`]
    pub async fn list_tenants(&self, options: ListOptions) -> Result<Page<v1::Tenant>, ClientError> {
        let call = |mut client: Service, request| async move { client.list_tenants(request).await };
        let wire = self.call(Kind::Repeatable, self.list(options), call).await?;
        Ok(Page { items: wire.tenants, next_page_token: wire.next_page_token, revision: Revision(wire.revision) })
    }

    /// A tenant's mapping as the answering node signed it. Not verified here.
    ///
    /// # Errors
    /// [`ClientError`]
    pub async fn get_signed_mapping(&self, tenant: &TenantId) -> Result<SignedMapping, ClientError> {
        let call = |mut client: Service, request| async move { client.get_signed_mapping(request).await };
        Ok(signed_from_wire(self.call(Kind::Repeatable, self.get(tenant.to_string()), call).await?))
    }

    /// The same, linearizable, and only from a store that knows what the cells hold: a cell asks whether it still owns.
    ///
    /// # Errors
    /// [`ClientError`]; `NOT_RECONCILED` after a restore, until somebody has adopted what the cells hold.
    pub async fn get_reconciled_mapping(&self, tenant: &TenantId) -> Result<SignedMapping, ClientError> {
        let call = |mut client: Service, request| async move { client.get_signed_mapping(request).await };
        let request = v1::GetRequest { id: tenant.to_string(), allow_stale: false, reconciled: true };
        Ok(signed_from_wire(self.call(Kind::Repeatable, request, call).await?))
    }

    /// One move, under way or ended.
    ///
    /// # Errors
    /// [`ClientError`]
    pub async fn get_move(&self, move_id: MoveId) -> Result<v1::Move, ClientError> {
        let call = |mut client: Service, request| async move { client.get_move(request).await };
        self.call(Kind::Repeatable, self.get(move_id.to_string()), call).await
    }

    /// Moves, those under way first, then the newest first.
    ///
    /// # Errors
    /// [`ClientError`]
    pub async fn list_moves(&self, options: ListOptions) -> Result<Page<v1::Move>, ClientError> {
        let call = |mut client: Service, request| async move { client.list_moves(request).await };
        let wire = self.call(Kind::Repeatable, self.list(options), call).await?;
        Ok(Page { items: wire.moves, next_page_token: wire.next_page_token, revision: Revision(wire.revision) })
    }

    /// The limits of the whole fleet.
    ///
    /// # Errors
    /// [`ClientError`]
    pub async fn limits(&self) -> Result<Limits, ClientError> {
        Ok(self.limits_with_revision().await?.0)
    }

    /// The limits of the whole fleet, and at which revision they were set: who changes them can name it.
    ///
    /// # Errors
    /// [`ClientError`]
    pub async fn limits_with_revision(&self) -> Result<(Limits, Revision), ClientError> {
        let call = |mut client: Service, request| async move { client.get_limits(request).await };
        let request = v1::GetLimitsRequest { allow_stale: self.options.allow_stale };
        let limits = self.call(Kind::Repeatable, request, call).await?;
        Ok((limits.into(), Revision(limits.revision)))
    }

    /// A revision that a majority confirms now: whoever has applied it is as fresh as this question. A router that says
    /// who it is gets a lease.
    ///
    /// # Errors
    /// [`ClientError`]
    pub async fn confirm_revision(
        &self,
        nonce: u64,
        router: Option<RouterReport>,
    ) -> Result<Confirmed, ClientError> {
        let call = |mut client: Service, request| async move { client.confirm_revision(request).await };
        let request = v1::ConfirmRevisionRequest { nonce, router };
        let wire = self.call(Kind::Repeatable, request, call).await?;
        let lease = (wire.lease_ms > 0).then(|| Duration::from_millis(wire.lease_ms.into()));
        let (revision, lineage) = (Revision(wire.revision), Lineage(wire.lineage));
        Ok(Confirmed { nonce: wire.nonce, revision, lineage, lease })
    }

    /// Every router that the leader has heard of. With a tenant: which of its epochs each holds.
    ///
    /// # Errors
    /// [`ClientError`]
    pub async fn list_routers(&self, tenant: Option<&TenantId>) -> Result<v1::ListRoutersResponse, ClientError> {
        let call = |mut client: Service, request| async move { client.list_routers(request).await };
        let request = v1::ListRoutersRequest { tenant: tenant.map(ToString::to_string).unwrap_or_default() };
        self.call(Kind::Repeatable, request, call).await
    }

    /// Waits, at most for `patience`, until every router has seen `revision` or is fenced.
    ///
    /// # Errors
    /// [`ClientError`]; routers that have neither seen it nor are fenced are no error, the answer names them.
    pub async fn await_seen(
        &self,
        revision: Revision,
        patience: Duration,
    ) -> Result<v1::AwaitSeenResponse, ClientError> {
        let call = |mut client: Service, request| async move { client.await_seen(request).await };
        let timeout_ms = u32::try_from(patience.as_millis()).unwrap_or(u32::MAX);
        // The node waits on purpose: an attempt may take as long, and then the answer has to travel.
        let travel = self.options.attempt;
        let mut patient = self.clone();
        patient.options.attempt = patience + travel;
        patient.options.deadline = self.options.deadline.max(patience + travel);
        let request = v1::AwaitSeenRequest { revision: revision.get(), timeout_ms };
        patient.call(Kind::Repeatable, request, call).await
    }

    /// Part of the audit trail, behind entry `after`. With a tenant: only what concerns it.
    ///
    /// # Errors
    /// [`ClientError`]
    pub async fn list_audit(&self, after: u64, tenant: Option<&TenantId>) -> Result<AuditPage, ClientError> {
        let call = |mut client: Service, request| async move { client.list_audit(request).await };
        let request = v1::ListAuditRequest {
            after,
            page_size: 0,
            tenant: tenant.map(ToString::to_string).unwrap_or_default(),
            allow_stale: self.options.allow_stale,
        };
        let wire = self.call(Kind::Repeatable, request, call).await?;
        let entries = wire.entries.into_iter().map(AuditEntry::try_from).collect::<Result<_, _>>()?;
        let hash = audit_hash("tip", &wire.tip)?;
        Ok(AuditPage {
            entries,
            first: wire.first,
            end: Checkpoint { cluster: ClusterId(wire.cluster_id), number: wire.last, hash },
            key_id: wire.key_id,
            signature: wire.signature.to_vec(),
            next: (wire.next > 0).then_some(wire.next),
        })
    }
}
