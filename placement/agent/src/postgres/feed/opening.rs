//! How a stream to a follower begins: what it follows, in which form it takes rows, and from where on.

use std::sync::Arc;

use cell_model::{MoveId, Seq, TenantId, Uid};
use cell_protos::v1 as wire;
use cell_protos::v1::follow_response::Response;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

use super::{Feed, QUEUE, Stream, capturing, gone};
use crate::driver::Responses;
use crate::postgres::cell::Cell;
use crate::postgres::form::Form;
use crate::postgres::tenant::Tenant;
use crate::refusal::Refusal;

pub(super) fn refused(refusal: &Refusal) -> Status {
    let mut status = Status::failed_precondition(refusal.reason.clone());
    let code = tonic::metadata::MetadataValue::from_static(refusal.code);
    status.metadata_mut().insert(cell_client::trailer::CODE, code);
    status
}

/// Serves a follower until it goes, another stream takes its place, or nothing is captured for it any more.
pub(crate) async fn serve(
    of: impl Fn(&TenantId) -> Result<Arc<Cell>, Status> + Send,
    request: tonic::Request<Streaming<wire::FollowRequest>>,
) -> Result<Responses, Status> {
    let (start, id, incoming) = crate::follow::started(request, wire::Storage::Postgres, refused).await?;
    let cell = of(&id)?;
    let tenant = cell.get(&id).ok_or_else(|| Status::unavailable("this cell knows nothing of the tenant"))?;
    let (uid, move_id) = (Uid(start.uid), MoveId(start.move_id));
    let (outbox, responses) = mpsc::channel(QUEUE);
    let opened = async {
        let catalogue = cell.catalogue(&id).await?;
        let form = Form::wanted(&start, &catalogue, &id)?;
        // Before anybody else can send: a follower compares the tables first.
        let tables = Response::Tables(wire::TablesLike { lines: catalogue.lines() });
        outbox.try_send(Ok(wire::FollowResponse { response: Some(tables) })).map_err(|_| gone())?;
        open(&cell, &tenant, (uid, move_id), (Seq(start.applied_seq), form), outbox.clone()).await
    };
    let number = opened.await.map_err(|refusal| refused(&refusal))?;
    tenant.notify();
    let stream = Stream { cell: Arc::clone(&cell), tenant, uid, move_id, number };
    let stop = cell.stop.clone();
    cell.tasks.spawn(async move { stop.run_until_cancelled(stream.run(incoming, outbox)).await });
    Ok(ReceiverStream::new(responses))
}

async fn open(
    cell: &Cell,
    tenant: &Tenant,
    (uid, move_id): (Uid, MoveId),
    (applied, form): (Seq, Form),
    outbox: mpsc::Sender<Result<wire::FollowResponse, Status>>,
) -> Result<u64, Refusal> {
    let mut feed = tenant.feed.lock().await;
    let number = {
        let mut core = tenant.lock();
        capturing(&core, uid, move_id)?;
        core.streams += 1;
        core.streams
    };
    let cursor = {
        let mut captures = cell.replication.captures();
        let none = || Refusal::new("NOT_OWNER", "nothing is captured here");
        let from = captures.from(&tenant.id).ok_or_else(none)?;
        let standing = captures.standing(&tenant.id).ok_or_else(none)??;
        // It has said that it holds durably what it does not hold now.
        let lost = standing.acked > from && applied < standing.acked;
        if lost || applied > Seq(0) && applied < from {
            let reason = format!("the follower is at {applied}, changes are kept from {}", standing.acked);
            return Err(Refusal::new("CAPTURE_GAP", reason));
        }
        captures.acknowledge(&tenant.id, applied, Instant::now());
        applied.max(from)
    };
    *feed = Some(Feed {
        number,
        move_id,
        cursor,
        unsettled: Vec::new(),
        drained: false,
        reader: None,
        copying: None,
        chunks: 0,
        row_size: None,
        form,
        outbox,
    });
    Ok(number)
}
