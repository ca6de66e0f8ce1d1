//! The public API: writes become commands, reads are answered behind a read index.

use cell_client::{caller, check_cell};
use cell_model::{
    CellId, CellKind, Command, Envelope, Fleet, FleetView, Life, MoveId, Outcome, Rejected, Stamp, TenantId, decide,
};
use cell_protos::v1::control_service_server::ControlService;
use cell_protos::{Malformed, v1};
use tonic::{Code, Request, Response, Status};

use super::{Caller, Ground, audit, page, placing, preview, routers, takeover};
use crate::refusal::{malformed, refusal, rejected};
use crate::signer::routed;

type Answer<T> = Result<Response<T>, Status>;

/// The service.
#[derive(Debug, Clone)]
pub(crate) struct ControlEndpoint(pub(crate) Ground);

fn parsed<T: std::str::FromStr<Err = cell_model::InvalidId>>(id: &str) -> Result<T, Status> {
    id.parse().map_err(|invalid: cell_model::InvalidId| malformed(&Malformed::new("id", invalid.to_string())))
}

fn command<T: TryInto<Command, Error = Malformed>>(wire: T) -> Result<Command, Status> {
    wire.try_into().map_err(|error| malformed(&error))
}

/// The only tenant of a cell. All are looked at: it is asked for when a cell that is in use becomes dedicated.
fn alone_on(fleet: &Fleet, cell: &CellId) -> Option<TenantId> {
    let lives = |life| matches!(life, Life::Live | Life::Provisioning);
    let mut owned = fleet.tenants_after(None).filter(|record| record.owner == *cell && lives(record.life));
    (fleet.tenants_on(cell) == 1).then(|| owned.next().map(|record| record.id.clone())).flatten()
}

impl ControlEndpoint {
    /// Runs a command about a cell and answers with the cell's record.
    async fn write_cell(&self, envelope: Envelope, cell: CellId) -> Answer<v1::CellResponse> {
        let (revision, _) = self.0.submit(envelope).await?;
        let record = self.0.view(|fleet| fleet.cell(&cell).map(v1::Cell::from));
        let record = record.ok_or_else(|| rejected(&Rejected::CellUnknown { cell }))?;
        Ok(Response::new(v1::CellResponse { revision: revision.get(), cell: Some(record) }))
    }

    /// Runs a command about a tenant and answers with the tenant's record, as it is when the answer is made.
    async fn write_tenant(&self, envelope: Envelope, tenant: TenantId) -> Answer<v1::TenantResponse> {
        let (revision, outcome) = self.0.submit(envelope).await?;
        let move_id = match outcome {
            Outcome::Tenant { move_id, .. } => move_id,
            Outcome::Unchanged | Outcome::Cell(_) | Outcome::Limits | Outcome::Reconciled => None,
        };
        let record = self.0.view(|fleet| fleet.tenant(&tenant).map(v1::Tenant::from));
        let record = record.ok_or_else(|| rejected(&Rejected::TenantUnknown { tenant }))?;
        let move_id = move_id.map(|id| id.to_string()).unwrap_or_default();
        Ok(Response::new(v1::TenantResponse { revision: revision.get(), tenant: Some(record), move_id }))
    }

    /// A move to a cell that nobody has heard of would only wait and be given up: say so at once.
    ///
    /// The store's own answer comes first: a refusal of the model says more, and a retry gets its first answer.
    fn check_reachable(&self, envelope: &Envelope, target: &CellId) -> Result<(), Status> {
        let leading = self.0.leading()?;
        if !self.0.liveness.is_unreachable(target, leading) {
            return Ok(());
        }
        let answered_by_the_store = self.0.view(|fleet| {
            let stamp = Stamp { at: envelope.at, revision: fleet.head().revision.next() };
            let answered = envelope.request_id.is_some_and(|id| fleet.answer(id).is_some());
            answered || decide(fleet, envelope, stamp).is_err()
        });
        if answered_by_the_store {
            return Ok(());
        }
        let message = match self.0.liveness.silence(target) {
            Some(silence) => format!("the agent of cell {target} was last heard of {} s ago", silence.as_secs()),
            None => format!("the agent of cell {target} has not been heard of"),
        };
        let hint = format!("start the cell, then run the command again; `cellctl describe cell {target}` shows it");
        Err(refusal(Code::FailedPrecondition, "CELL_UNREACHABLE", message, &hint))
    }

    fn tenant_of_move(&self, id: MoveId) -> Option<TenantId> {
        self.0.view(|fleet| {
            let running = fleet.tenant_of_move(id).map(|record| record.id.clone());
            running.or_else(|| fleet.ended_move(id).map(|record| record.tenant.clone()))
        })
    }
}

#[tonic::async_trait]
impl ControlService for ControlEndpoint {
    type WatchStream = futures::stream::Empty<Result<v1::WatchResponse, Status>>;

    async fn create_cell(&self, request: Request<v1::CreateCellRequest>) -> Answer<v1::CellResponse> {
        let by = Caller::of(&request);
        let mut wire = request.into_inner();
        let options = wire.options.take();
        let command = command(wire)?;
        let Command::CreateCell(new) = &command else { return Err(Status::internal("not a cell")) };
        let cell = new.id.clone();
        self.write_cell(self.0.envelope(command, options, by)?, cell).await
    }

    async fn set_cell_state(&self, request: Request<v1::SetCellStateRequest>) -> Answer<v1::CellResponse> {
        let by = Caller::of(&request);
        let mut wire = request.into_inner();
        let (options, cell) = (wire.options.take(), wire.cell.clone());
        let command = command(wire)?;
        self.write_cell(self.0.envelope(command, options, by)?, parsed(&cell)?).await
    }

    async fn declare_cell(&self, request: Request<v1::DeclareCellRequest>) -> Answer<v1::CellResponse> {
        let by = Caller::of(&request);
        let mut wire = request.into_inner();
        let options = wire.options.take();
        let mut command = command(wire)?;
        let Command::DeclareCell { cell, declaration, only } = &mut command else {
            return Err(Status::internal("not a declaration"));
        };
        let cell = cell.clone();
        if declaration.kind == Some(CellKind::Dedicated) {
            *only = self.0.view(|fleet| alone_on(fleet, &cell));
        }
        self.write_cell(self.0.envelope(command, options, by)?, cell).await
    }

    async fn report_cell(&self, request: Request<v1::ReportCellRequest>) -> Answer<v1::ReportCellResponse> {
        check_cell(caller(&request), &request.get_ref().cell)?;
        let by = Caller::of(&request);
        let command = command(request.into_inner())?;
        self.0.leading()?;
        let Command::ReportCell { cell, generation, gates, agent, partial } = &command else {
            return Err(Status::internal("not a report"));
        };
        let cell = cell.clone();
        let same = self.0.view(|fleet| {
            fleet.cell(&cell).is_some_and(|known| {
                let same_gates = if *partial {
                    gates.iter().all(|gate| known.gates.contains(gate))
                } else {
                    known.gates == *gates
                };
                known.generation == *generation && same_gates && known.agent == *agent
            })
        });
        if !same {
            self.0.submit(self.0.envelope(command, None, by)?).await?;
        }
        self.0.liveness.heard(&cell);
        let (revision, lineage, cluster) = self.0.view(|fleet| {
            let head = fleet.head();
            (head.revision, head.lineage, head.cluster)
        });
        Ok(Response::new(v1::ReportCellResponse {
            revision: revision.get(),
            lineage: lineage.get(),
            trusted_keys: self.0.signer.trusted().iter().map(|key| key.to_bytes().to_vec().into()).collect(),
            cluster_id: cluster.0,
        }))
    }

    async fn get_cell(&self, request: Request<v1::GetRequest>) -> Answer<v1::Cell> {
        let wire = request.into_inner();
        let cell: CellId = parsed(&wire.id)?;
        let as_of = self.0.readable(wire.allow_stale).await?;
        let record = self.0.view(|fleet| fleet.cell(&cell).map(v1::Cell::from));
        record.map(|record| as_of.answer(record)).ok_or_else(|| rejected(&Rejected::CellUnknown { cell }))
    }

    async fn list_cells(&self, request: Request<v1::ListRequest>) -> Answer<v1::ListCellsResponse> {
        let wire = request.into_inner();
        let page = page::Wanted::read("cells", &wire)?;
        let as_of = self.0.readable(wire.allow_stale).await?;
        self.0.view(|fleet| page::cells(fleet, &page)).map(|page| as_of.answer(page))
    }

    async fn create_tenant(&self, request: Request<v1::CreateTenantRequest>) -> Answer<v1::TenantResponse> {
        let by = Caller::of(&request);
        let mut wire = request.into_inner();
        let (options, tenant) = (wire.options.take(), wire.tenant.clone());
        let mut command = command(wire)?;
        if let Command::CreateTenant(new) = &command
            && new.cell.is_none()
        {
            let ring = self.0.homes.of(self.0.view(|fleet| fleet.cells().map(|cell| cell.id.clone()).collect()));
            command = self.0.view(|fleet| placing::command(fleet, ring.as_deref(), new));
        }
        self.write_tenant(self.0.envelope(command, options, by)?, parsed(&tenant)?).await
    }

    async fn delete_tenant(&self, request: Request<v1::DeleteTenantRequest>) -> Answer<v1::TenantResponse> {
        let by = Caller::of(&request);
        let mut wire = request.into_inner();
        let (options, tenant) = (wire.options.take(), wire.tenant.clone());
        let command = command(wire)?;
        self.write_tenant(self.0.envelope(command, options, by)?, parsed(&tenant)?).await
    }

    async fn set_tier(&self, request: Request<v1::SetTierRequest>) -> Answer<v1::TenantResponse> {
        let by = Caller::of(&request);
        let mut wire = request.into_inner();
        let (options, tenant) = (wire.options.take(), wire.tenant.clone());
        let command = command(wire)?;
        self.write_tenant(self.0.envelope(command, options, by)?, parsed(&tenant)?).await
    }

    async fn get_tenant(&self, request: Request<v1::GetRequest>) -> Answer<v1::Tenant> {
        let wire = request.into_inner();
        let tenant: TenantId = parsed(&wire.id)?;
        let as_of = self.0.readable(wire.allow_stale).await?;
        let living = |record: &&cell_model::TenantRecord| record.life != Life::Deleted;
        let record = self.0.view(|fleet| fleet.tenant(&tenant).filter(living).map(v1::Tenant::from));
        record.map(|record| as_of.answer(record)).ok_or_else(|| rejected(&Rejected::TenantUnknown { tenant }))
    }

    async fn list_tenants(&self, request: Request<v1::ListRequest>) -> Answer<v1::ListTenantsResponse> {
        let wire = request.into_inner();
        let page = page::Wanted::read("tenants", &wire)?;
        let as_of = self.0.readable(wire.allow_stale).await?;
        self.0.view(|fleet| page::tenants(fleet, &page)).map(|page| as_of.answer(page))
    }

    async fn get_signed_mapping(&self, request: Request<v1::GetRequest>) -> Answer<v1::SignedMapping> {
        let wire = request.into_inner();
        let tenant: TenantId = parsed(&wire.id)?;
        let as_of = self.0.readable(wire.allow_stale).await?;
        if wire.reconciled && self.0.view(FleetView::unreconciled) {
            let lineage = self.0.view(FleetView::lineage);
            return Err(rejected(&Rejected::NotReconciled { lineage }));
        }
        // A deleted tenant has a mapping, too: it tells a gate to answer 410.
        let found = self.0.view(|fleet| {
            let record = fleet.tenant(&tenant)?;
            Some(routed(fleet.head().cluster, record, fleet.cell(&record.owner)))
        });
        let routed = found.ok_or_else(|| rejected(&Rejected::TenantUnknown { tenant }))?;
        Ok(as_of.answer(cell_client::signed_to_wire(&self.0.signer.sign(&routed))))
    }

    async fn move_tenant(&self, request: Request<v1::MoveTenantRequest>) -> Answer<v1::TenantResponse> {
        let by = Caller::of(&request);
        let mut wire = request.into_inner();
        let options = wire.options.take();
        let command = command(wire)?;
        let Command::MoveTenant { tenant, target, .. } = &command else {
            return Err(Status::internal("not a move"));
        };
        let (tenant, target) = (tenant.clone(), target.clone());
        let envelope = self.0.envelope(command, options, by)?;
        self.check_reachable(&envelope, &target)?;
        self.write_tenant(envelope, tenant).await
    }

    async fn preview_move(&self, request: Request<v1::MoveTenantRequest>) -> Answer<v1::PreviewMoveResponse> {
        let Command::MoveTenant { tenant, target, options } = command(request.into_inner())? else {
            return Err(Status::internal("not a move"));
        };
        preview::preview(&self.0, &preview::Wanted { tenant, target, options }).await.map(Response::new)
    }

    async fn steer_move(&self, request: Request<v1::SteerMoveRequest>) -> Answer<v1::TenantResponse> {
        let by = Caller::of(&request);
        let mut wire = request.into_inner();
        let (options, id) = (wire.options.take(), wire.move_id.clone());
        let command = command(wire)?;
        let (revision, _) = self.0.submit(self.0.envelope(command, options, by)?).await?;
        let id: MoveId = parsed(&id)?;
        let tenant = self.tenant_of_move(id).ok_or_else(|| rejected(&Rejected::MoveUnknown { move_id: id }))?;
        let record = self.0.view(|fleet| fleet.tenant(&tenant).map(v1::Tenant::from));
        let record = record.ok_or_else(|| rejected(&Rejected::TenantUnknown { tenant }))?;
        let move_id = id.to_string();
        Ok(Response::new(v1::TenantResponse { revision: revision.get(), tenant: Some(record), move_id }))
    }

    async fn take_over(&self, request: Request<v1::TakeOverRequest>) -> Answer<v1::TakeOverResponse> {
        let by = Caller::of(&request);
        takeover::take_over(&self.0, request.into_inner(), by).await.map(Response::new)
    }

    async fn drop_quarantine(&self, request: Request<v1::DropQuarantineRequest>) -> Answer<v1::TenantResponse> {
        let by = Caller::of(&request);
        let mut wire = request.into_inner();
        let (options, tenant) = (wire.options.take(), wire.tenant.clone());
        let command = command(wire)?;
        self.write_tenant(self.0.envelope(command, options, by)?, parsed(&tenant)?).await
    }

    async fn get_move(&self, request: Request<v1::GetRequest>) -> Answer<v1::Move> {
        let wire = request.into_inner();
        let id: MoveId = parsed(&wire.id)?;
        let as_of = self.0.readable(wire.allow_stale).await?;
        let found = self.0.view(|fleet| {
            let running = fleet.tenant_of_move(id).and_then(|record| {
                let seen = record.movement.as_ref().and_then(|movement| self.0.setbacks.of(movement));
                let setback = seen.map(|seen| v1::Setback {
                    code: seen.code,
                    reason: seen.reason,
                    since_unix_ms: seen.since.0,
                    last_unix_ms: seen.last.0,
                });
                Some(v1::Move { setback, ..v1::Move::running(record)? })
            });
            running.or_else(|| fleet.ended_move(id).map(v1::Move::from))
        });
        found.map(|found| as_of.answer(found)).ok_or_else(|| rejected(&Rejected::MoveUnknown { move_id: id }))
    }

    async fn list_moves(&self, request: Request<v1::ListRequest>) -> Answer<v1::ListMovesResponse> {
        let wire = request.into_inner();
        let page = page::Wanted::read("moves", &wire)?;
        let as_of = self.0.readable(wire.allow_stale).await?;
        self.0.view(|fleet| page::moves(fleet, &page)).map(|page| as_of.answer(page))
    }

    async fn get_limits(&self, request: Request<v1::GetLimitsRequest>) -> Answer<v1::Limits> {
        let as_of = self.0.readable(request.into_inner().allow_stale).await?;
        let told = |fleet: &Fleet| v1::Limits { revision: fleet.limits_revision().get(), ..fleet.limits().into() };
        Ok(as_of.answer(self.0.view(told)))
    }

    async fn set_limits(&self, request: Request<v1::SetLimitsRequest>) -> Answer<v1::SetLimitsResponse> {
        let by = Caller::of(&request);
        let mut wire = request.into_inner();
        let options = wire.options.take();
        let (revision, _) = self.0.submit(self.0.envelope(command(wire)?, options, by)?).await?;
        Ok(Response::new(v1::SetLimitsResponse { revision: revision.get() }))
    }

    /// Never asked: [`super::ControlServer`] answers it, with frames that were encoded before.
    async fn watch(&self, _request: Request<v1::WatchRequest>) -> Answer<Self::WatchStream> {
        Err(Status::internal("a watch is served as bytes"))
    }

    async fn confirm_revision(
        &self,
        request: Request<v1::ConfirmRevisionRequest>,
    ) -> Answer<v1::ConfirmRevisionResponse> {
        routers::confirm(&self.0, request.into_inner()).await.map(Response::new)
    }

    async fn list_routers(&self, request: Request<v1::ListRoutersRequest>) -> Answer<v1::ListRoutersResponse> {
        routers::list(&self.0, request.into_inner()).await.map(Response::new)
    }

    async fn await_seen(&self, request: Request<v1::AwaitSeenRequest>) -> Answer<v1::AwaitSeenResponse> {
        routers::await_seen(&self.0, request.into_inner()).await.map(Response::new)
    }

    async fn list_audit(&self, request: Request<v1::ListAuditRequest>) -> Answer<v1::ListAuditResponse> {
        audit::list(&self.0, request.into_inner()).await
    }
}
