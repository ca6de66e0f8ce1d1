//! Everything that changes the fleet.

use std::time::Duration;

use cell_model::{
    CellId, CellRecord, CellState, Declaration, Limits, MoveId, MoveIntent, MoveOptions, NewCell, NewTenant,
    Revision, TenantId, Tier,
};
use cell_protos::{Malformed, request_id_bytes, v1};

use super::{ControlClient, Kind, Service, WriteOptions};
use crate::ClientError;

/// A forced takeover, as it is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TakeoverWanted {
    /// The cell that is to own.
    pub target: CellId,
    /// Why the owner counts as stopped.
    pub evidence: String,
    /// Also where acknowledged writes may be missing.
    pub accept_data_loss: bool,
    /// Only say what would be.
    pub look_only: bool,
}

impl ControlClient {
    pub(crate) fn named(&self, options: WriteOptions) -> (Kind, Option<v1::WriteOptions>) {
        let request_id = options.request_id.unwrap_or_else(|| self.options.random.request_id());
        let wire = v1::WriteOptions {
            request_id: request_id_bytes(request_id).into(),
            expected_revision: options.expected_revision.unwrap_or_default().get(),
        };
        let tried_ago = options.first_tried.map(|tried| {
            let now = self.options.now();
            Duration::from_millis(now.get().saturating_sub(tried.get()))
        });
        (Kind::Write { id: request_id, again: options.request_id.is_some(), tried_ago }, Some(wire))
    }

    /// A cell joins.
    ///
    /// # Errors
    /// [`ClientError`]
    pub async fn create_cell(&self, cell: NewCell, options: WriteOptions) -> Result<CellRecord, ClientError> {
        let (kind, options) = self.named(options);
        let request = v1::CreateCellRequest { cell: Some(cell.into()), options };
        let call = |mut client: Service, request| async move { client.create_cell(request).await };
        cell_of(self.call(kind, request, call).await?)
    }

    /// A cell is told to take, or not to take, new tenants.
    ///
    /// # Errors
    /// [`ClientError`]
    pub async fn set_cell_state(
        &self,
        cell: &CellId,
        state: CellState,
        options: WriteOptions,
    ) -> Result<CellRecord, ClientError> {
        let (kind, options) = self.named(options);
        let state = v1::CellState::from(state).into();
        let request = v1::SetCellStateRequest { cell: cell.to_string(), state, options };
        let call = |mut client: Service, request| async move { client.set_cell_state(request).await };
        cell_of(self.call(kind, request, call).await?)
    }

    /// What tenants are placed by is declared of a cell, anew.
    ///
    /// # Errors
    /// [`ClientError`]
    pub async fn declare_cell(
        &self,
        cell: &CellId,
        declaration: Declaration,
        options: WriteOptions,
    ) -> Result<CellRecord, ClientError> {
        let (kind, options) = self.named(options);
        let request = v1::DeclareCellRequest { options, ..v1::DeclareCellRequest::new(cell, declaration) };
        let call = |mut client: Service, request| async move { client.declare_cell(request).await };
        cell_of(self.call(kind, request, call).await?)
    }

    /// An agent says where it is. The same however often it is said.
    ///
    /// # Errors
    /// [`ClientError`]
    pub async fn report_cell(&self, request: v1::ReportCellRequest) -> Result<v1::ReportCellResponse, ClientError> {
        let call = |mut client: Service, request| async move { client.report_cell(request).await };
        self.call(Kind::Repeatable, request, call).await
    }

    /// A tenant is placed.
    ///
    /// # Errors
    /// [`ClientError`]
    pub async fn create_tenant(&self, tenant: NewTenant, options: WriteOptions) -> Result<v1::Tenant, ClientError> {
        let (kind, options) = self.named(options);
        let request = v1::CreateTenantRequest {
            tenant: tenant.id.into(),
            cell: tenant.cell.map(String::from).unwrap_or_default(),
            tier: v1::Tier::from(tenant.tier).into(),
            residency: tenant.residency,
            options,
        };
        let call = |mut client: Service, request| async move { client.create_tenant(request).await };
        tenant_of(self.call(kind, request, call).await?)
    }

    /// A tenant is refused from now on, and its data deleted.
    ///
    /// # Errors
    /// [`ClientError`]
    pub async fn delete_tenant(&self, tenant: &TenantId, options: WriteOptions) -> Result<v1::Tenant, ClientError> {
        let (kind, options) = self.named(options);
        let request = v1::DeleteTenantRequest { tenant: tenant.to_string(), options };
        let call = |mut client: Service, request| async move { client.delete_tenant(request).await };
        tenant_of(self.call(kind, request, call).await?)
    }

    /// A tenant has paid for something else, and stays where it is.
    ///
    /// # Errors
    /// [`ClientError`]
    pub async fn set_tier(
        &self,
        tenant: &TenantId,
        tier: Tier,
        options: WriteOptions,
    ) -> Result<v1::Tenant, ClientError> {
        let (kind, options) = self.named(options);
        let request = v1::SetTierRequest { tenant: tenant.to_string(), tier: v1::Tier::from(tier).into(), options };
        let call = |mut client: Service, request| async move { client.set_tier(request).await };
        tenant_of(self.call(kind, request, call).await?)
    }

    /// A tenant is to move. The answer comes when the move is accepted, not when it is done.
    ///
    /// # Errors
    /// [`ClientError`]
    pub async fn move_tenant(
        &self,
        tenant: &TenantId,
        target: &CellId,
        how: MoveOptions,
        options: WriteOptions,
    ) -> Result<(MoveId, v1::Tenant), ClientError> {
        let (kind, options) = self.named(options);
        let request = v1::MoveTenantRequest { options, ..v1::MoveTenantRequest::new(tenant, target, &how) };
        let call = |mut client: Service, request| async move { client.move_tenant(request).await };
        let response = self.call(kind, request, call).await?;
        let move_id = response.move_id.parse::<MoveId>();
        let move_id = move_id.map_err(|invalid| Malformed::new("move_id", invalid.to_string()))?;
        Ok((move_id, tenant_of(response)?))
    }

    /// A move under way is told to pause, go on, cancel or roll back.
    ///
    /// # Errors
    /// [`ClientError`]
    pub async fn steer_move(
        &self,
        move_id: MoveId,
        intent: MoveIntent,
        options: WriteOptions,
    ) -> Result<v1::Tenant, ClientError> {
        let (kind, options) = self.named(options);
        let intent = v1::MoveIntent::from(intent).into();
        let move_id = move_id.to_string();
        let request = v1::SteerMoveRequest { move_id, intent, options, bytes_per_second: None };
        let call = |mut client: Service, request| async move { client.steer_move(request).await };
        tenant_of(self.call(kind, request, call).await?)
    }

    /// A copy under way reads at the most so much of its source in a second; 0: as fast as it goes.
    ///
    /// # Errors
    /// [`ClientError`]
    pub async fn throttle_move(
        &self,
        move_id: MoveId,
        bytes_per_second: u64,
        options: WriteOptions,
    ) -> Result<v1::Tenant, ClientError> {
        let (kind, options) = self.named(options);
        let (move_id, bytes_per_second) = (move_id.to_string(), Some(bytes_per_second));
        let request = v1::SteerMoveRequest { move_id, intent: 0, options, bytes_per_second };
        let call = |mut client: Service, request| async move { client.steer_move(request).await };
        tenant_of(self.call(kind, request, call).await?)
    }

    /// A tenant's owner is out of reach and stopped: the other cell of its move is made the owner. `look_only`: it is only
    /// said what would be.
    ///
    /// # Errors
    /// [`ClientError`]
    pub async fn take_over(
        &self,
        tenant: &TenantId,
        how: TakeoverWanted,
        options: WriteOptions,
    ) -> Result<v1::TakeOverResponse, ClientError> {
        let (kind, options) = self.named(options);
        let request = v1::TakeOverRequest {
            tenant: tenant.to_string(),
            target: how.target.into(),
            evidence: how.evidence,
            accept_data_loss: how.accept_data_loss,
            look_only: how.look_only,
            options,
        };
        let call = |mut client: Service, request| async move { client.take_over(request).await };
        self.call(kind, request, call).await
    }

    /// What a cell that was taken over has put aside is not needed any more.
    ///
    /// # Errors
    /// [`ClientError`]
    pub async fn drop_quarantine(
        &self,
        tenant: &TenantId,
        cell: &CellId,
        options: WriteOptions,
    ) -> Result<v1::Tenant, ClientError> {
        let (kind, options) = self.named(options);
        let request = v1::DropQuarantineRequest { tenant: tenant.to_string(), cell: cell.to_string(), options };
        let call = |mut client: Service, request| async move { client.drop_quarantine(request).await };
        tenant_of(self.call(kind, request, call).await?)
    }

    /// What a move would meet. Both cells are looked at, and nothing is changed.
    ///
    /// # Errors
    /// [`ClientError`]; also what the store would refuse the move with.
    pub async fn preview_move(
        &self,
        tenant: &TenantId,
        target: &CellId,
        how: &MoveOptions,
    ) -> Result<v1::PreviewMoveResponse, ClientError> {
        let request = v1::MoveTenantRequest::new(tenant, target, how);
        let call = |mut client: Service, request| async move { client.preview_move(request).await };
        self.call(Kind::Repeatable, request, call).await
    }

    /// The limits of the whole fleet.
    ///
    /// # Errors
    /// [`ClientError`]
    pub async fn set_limits(&self, limits: Limits, options: WriteOptions) -> Result<Revision, ClientError> {
        let (kind, options) = self.named(options);
        let request = v1::SetLimitsRequest { limits: Some(limits.into()), options };
        let call = |mut client: Service, request| async move { client.set_limits(request).await };
        Ok(Revision(self.call(kind, request, call).await?.revision))
    }
}

fn cell_of(response: v1::CellResponse) -> Result<CellRecord, ClientError> {
    let cell = response.cell.ok_or_else(|| Malformed::new("cell", "it is missing"))?;
    Ok(cell.try_into()?)
}

fn tenant_of(response: v1::TenantResponse) -> Result<v1::Tenant, ClientError> {
    Ok(response.tenant.ok_or_else(|| Malformed::new("tenant", "it is missing"))?)
}
