//! How a follower's stream begins, whatever a cell keeps its tenants in.

use std::time::Duration;

use cell_model::TenantId;
use cell_protos::v1 as wire;
use cell_protos::v1::follow_request::Request;
use tonic::{Status, Streaming};

use crate::refusal::Refusal;

const WITHIN: Duration = Duration::from_secs(5);

/// Who follows whom, from where on, and what comes behind it. Refused where the follower is not who it says, or keeps tenants in
/// another kind of store than this cell.
pub(crate) async fn started(
    request: tonic::Request<Streaming<wire::FollowRequest>>,
    keeps: wire::Storage,
    refused: impl Fn(&Refusal) -> Status,
) -> Result<(wire::FollowStart, TenantId, Streaming<wire::FollowRequest>), Status> {
    let caller = cell_client::caller(&request).cloned();
    let mut incoming = request.into_inner();
    let first = tokio::time::timeout(WITHIN, incoming.message())
        .await
        .map_err(|_| Status::deadline_exceeded("a stream begins with a start"))??;
    let Some(Request::Start(start)) = first.and_then(|message| message.request) else {
        return Err(Status::invalid_argument("a stream begins with a start"));
    };
    cell_client::check_cell(caller.as_ref(), &start.cell)?;
    if start.storage() != keeps {
        let reason = match keeps {
            wire::Storage::Postgres => "this cell keeps tenants in PostgreSQL, the other one does not",
            _ => "this cell keeps tenants in its own store, the other one in PostgreSQL",
        };
        return Err(refused(&Refusal::new("STORAGE_DIFFERS", reason)));
    }
    let tenant = TenantId::new(&start.tenant).map_err(|invalid| Status::invalid_argument(invalid.to_string()))?;
    Ok((start, tenant, incoming))
}
