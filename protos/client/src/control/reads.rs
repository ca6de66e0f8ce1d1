//! Everything that only looks.

use cell_model::{CellId, CellRecord, Limits, Lineage, MoveId, Revision, TenantId};
use cell_protos::v1;
use cell_trust::SignedMapping;

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

/// A revision that a majority has confirmed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Confirmed {
    /// As given.
    pub nonce: u64,
    /// Everything that was acknowledged before the question is at or below it.
    pub revision: Revision,
    /// In this history.
    pub lineage: Lineage,
}

impl ControlClient {
    fn get(&self, id: String) -> v1::GetRequest {
        v1::GetRequest { id, allow_stale: self.options.allow_stale }
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
        let call = |mut client: Service, request| async move { client.get_limits(request).await };
        Ok(self.call(Kind::Repeatable, v1::GetLimitsRequest {}, call).await?.into())
    }

    /// A revision that a majority confirms now: whoever has applied it is as fresh as this question.
    ///
    /// # Errors
    /// [`ClientError`]
    pub async fn confirm_revision(&self, nonce: u64) -> Result<Confirmed, ClientError> {
        let call = |mut client: Service, request| async move { client.confirm_revision(request).await };
        let request = v1::ConfirmRevisionRequest { nonce };
        let wire = self.call(Kind::Repeatable, request, call).await?;
        Ok(Confirmed { nonce: wire.nonce, revision: Revision(wire.revision), lineage: Lineage(wire.lineage) })
    }
}
