//! The owner's side of the change stream.

mod mending;

use std::sync::Arc;
use std::time::Duration;

use cell_model::{MoveId, Seq, Uid};
use cell_protos::v1 as wire;
use cell_protos::v1::follow_request::Request;
use cell_protos::v1::follow_response::Response;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

use super::HEARTBEAT_MS;
use super::start::started;
use crate::capture;
use crate::driver::Responses;
use crate::durable::Ticket;
use crate::record::Role;
use crate::refusal::Refusal;
use crate::tenant::{Core, Tenant};
use crate::tenants::Tenants;
use mending::Wanted;

/// Trailer with the stable code of a refused stream.
pub(super) const CODE_TRAILER: &str = cell_client::trailer::CODE;
/// Rows and bytes of one chunk.
const CHUNK_ROWS: usize = 256;
const CHUNK_BYTES: usize = 256 * 1024;
/// Bytes of one message with changes; a single larger transaction goes alone.
const CHANGES_BYTES: usize = 256 * 1024;
/// Messages that may wait for the follower.
const QUEUE: usize = 4;

fn refused(refusal: &Refusal) -> Status {
    let mut status = match refusal.code {
        "CAPTURE_OVERFLOW" | "CAPTURE_GAP" | "STORAGE_DIFFERS" => {
            Status::failed_precondition(refusal.reason.clone())
        }
        _ => Status::unavailable(refusal.reason.clone()),
    };
    status.metadata_mut().insert(CODE_TRAILER, tonic::metadata::MetadataValue::from_static(refusal.code));
    status
}

/// One follower's stream.
struct Feed {
    tenants: Arc<Tenants>,
    tenant: Arc<Tenant>,
    uid: Uid,
    move_id: MoveId,
    stream: u64,
    /// Everything up to here has been sent; nothing until the first chunk of a new copy.
    cursor: Option<Seq>,
    outbox: mpsc::Sender<Result<wire::FollowResponse, Status>>,
}

/// Serves a follower until it goes, another stream takes its place, or nothing is captured for it any more.
pub(crate) async fn serve(
    tenants: &Arc<Tenants>,
    request: tonic::Request<Streaming<wire::FollowRequest>>,
) -> Result<Responses, Status> {
    let (start, id, incoming) = started(request, wire::Storage::Embedded, refused).await?;
    let tenant = tenants.get(&id).ok_or_else(|| Status::unavailable("this cell knows nothing of the tenant"))?;
    let (outbox, responses) = mpsc::channel(QUEUE);
    let (uid, move_id) = (Uid(start.uid), MoveId(start.move_id));
    let (stream, cursor) =
        open(tenants, &tenant, (uid, move_id), Seq(start.applied_seq)).map_err(|refusal| refused(&refusal))?;
    tenant.notify();
    let feed = Feed { tenants: Arc::clone(tenants), tenant, uid, move_id, stream, cursor, outbox };
    let stop = tenants.stop.clone();
    tenants.tasks.spawn(async move { stop.run_until_cancelled(feed.run(incoming)).await });
    Ok(ReceiverStream::new(responses))
}

/// The capture that feeds this follower.
fn capturing(core: &Core, uid: Uid, move_id: MoveId) -> Result<Seq, Refusal> {
    let control = core.known()?;
    let owns = control.uid == uid && matches!(control.role, Role::Owner | Role::Fenced { .. });
    match control.capture.as_ref().filter(|capture| owns && capture.move_id == move_id) {
        Some(capture) if capture.overflowed => {
            Err(Refusal::new("CAPTURE_OVERFLOW", "more changes were captured than are kept"))
        }
        Some(capture) => Ok(capture.from),
        None => Err(Refusal::new("NOT_OWNER", format!("nothing is captured for {move_id} here"))),
    }
}

fn open(
    tenants: &Tenants,
    tenant: &Tenant,
    (uid, move_id): (Uid, MoveId),
    applied: Seq,
) -> Result<(u64, Option<Seq>), Refusal> {
    let mut core = tenant.lock();
    let from = capturing(&core, uid, move_id)?;
    let kept_from = core.position().map_or(from, |position| from.max(position.trimmed));
    let last = core.last_seq();
    let cursor = (kept_from..=last).contains(&applied).then_some(applied);
    if cursor.is_none() && applied > Seq(0) {
        let reason = format!("the follower is at {applied}, changes are kept from {kept_from} to {last}");
        return Err(Refusal::new("CAPTURE_GAP", reason));
    }
    core.stream += 1;
    if cursor.is_some() {
        core.acknowledge(&tenant.id, &tenants.durable, applied)?;
    }
    Ok((core.stream, cursor))
}

impl Feed {
    async fn run(mut self, mut incoming: Streaming<wire::FollowRequest>) {
        let (wants, mut wanted) = mpsc::channel(QUEUE);
        let (tenants, tenant) = (Arc::clone(&self.tenants), Arc::clone(&self.tenant));
        let (uid, move_id) = (self.uid, self.move_id);
        let listen = async move {
            while let Ok(Some(message)) = incoming.message().await {
                match message.request {
                    Some(Request::Ack(ack)) => {
                        let mut core = tenant.lock();
                        let known = capturing(&core, uid, move_id)
                            .and_then(|_| core.acknowledge(&tenant.id, &tenants.durable, Seq(ack.applied_seq)));
                        drop(core);
                        if let Err(refusal) = known {
                            tracing::debug!(tenant = %tenant.id, %refusal, "an acknowledgement came to nothing");
                            return;
                        }
                        tenant.notify();
                    }
                    Some(request) => {
                        let want = Wanted::read(request);
                        if want.is_none_or(|want| wants.try_send(want).is_err()) {
                            return;
                        }
                    }
                    None => return,
                }
            }
        };
        let outbox = self.outbox.clone();
        tokio::select! {
            () = listen => {}
            () = outbox.closed() => {}
            refusal = self.feed(&mut wanted) => {
                tracing::debug!(tenant = %self.tenant.id, %refusal, "a change stream has ended");
                let _gone = outbox.send(Err(refused(&refusal))).await;
            }
        }
    }

    /// Sends what there is, for ever. The answer is why it cannot.
    async fn feed(&mut self, wanted: &mut mpsc::Receiver<Wanted>) -> Refusal {
        loop {
            let mut changed = self.tenant.subscribe();
            let mut next = wanted.try_recv().ok();
            if next.is_none() {
                match self.send_new().await {
                    Ok(true) => continue,
                    Ok(false) => {}
                    Err(refusal) => return refusal,
                }
                tokio::select! {
                    _ = changed.changed() => {}
                    want = wanted.recv() => next = want,
                    () = tokio::time::sleep(Duration::from_millis(HEARTBEAT_MS)) => {
                        let last_seq = self.tenant.lock().last_seq().get();
                        if self.send(Response::Heartbeat(wire::Heartbeat { last_seq })).await.is_err() {
                            return gone();
                        }
                    }
                }
            }
            let sent = match next {
                Some(Wanted::Chunk(after)) => self.send_chunk(&after).await,
                Some(Wanted::Page { after, rows }) => self.send_page(&after, rows).await,
                Some(Wanted::Rows(keys)) => self.send_rows(&keys).await,
                None => Ok(()),
            };
            if let Err(refusal) = sent {
                return refusal;
            }
        }
    }

    /// The last change, and when it is durable, while this is still the newest stream of a wanted follower.
    fn last(&self, core: &Core) -> Result<(Seq, Ticket), Refusal> {
        capturing(core, self.uid, self.move_id)?;
        if core.stream != self.stream {
            return Err(Refusal::new("BUSY", "another stream has taken its place"));
        }
        Ok((core.last_seq(), core.ticket))
    }

    /// Sends changes that are new; false where there are none.
    async fn send_new(&mut self) -> Result<bool, Refusal> {
        let (last, ticket) = self.last(&self.tenant.lock())?;
        if self.cursor.is_none_or(|cursor| cursor >= last) {
            return Ok(false);
        }
        self.tenants.wait(ticket).await?;
        self.send_until(last).await?;
        Ok(true)
    }

    async fn send_until(&mut self, until: Seq) -> Result<(), Refusal> {
        while let Some(cursor) = self.cursor.filter(|cursor| *cursor < until) {
            let keys = self.tenant.lock().keys.clone();
            let transactions = capture::read(&self.tenants.durable, &keys, cursor, until, CHANGES_BYTES)?;
            let Some(sent) = transactions.last().map(|transaction| Seq(transaction.seq)) else {
                return Err(Refusal::new("CAPTURE_GAP", format!("change {} is gone", cursor.next())));
            };
            let changes = wire::Changes { transactions, last_seq: until.get() };
            self.send(Response::Changes(changes)).await?;
            self.cursor = Some(sent);
        }
        Ok(())
    }

    /// Sends the chunk after `after`, and before it every change up to its label.
    async fn send_chunk(&mut self, after: &[u8]) -> Result<(), Refusal> {
        let (chunk, ticket) = self.read_chunk(after)?;
        let label = Seq(chunk.seq);
        self.tenants.wait(ticket).await?;
        match self.cursor {
            Some(_) => self.send_until(label).await?,
            None if after.is_empty() => {}
            None => return Err(Refusal::new("CAPTURE_GAP", "the changes before this chunk are gone")),
        }
        self.cursor = Some(label);
        self.send(Response::Chunk(chunk)).await
    }

    /// Under the tenant's lock, so that the label is exact.
    fn read_chunk(&self, after: &[u8]) -> Result<(wire::Chunk, Ticket), Refusal> {
        let core = self.tenant.lock();
        let (label, ticket) = self.last(&core)?;
        let mut from = core.keys.row(after);
        if !after.is_empty() {
            from.push(0);
        }
        let stored = self.tenants.durable.engine().scan(&from, &core.keys.rows_end(), CHUNK_ROWS)?;
        let mut done = stored.len() < CHUNK_ROWS;
        let (mut rows, mut bytes) = (Vec::new(), 0);
        for (key, value) in stored {
            if bytes >= CHUNK_BYTES {
                done = false;
                break;
            }
            let key = core.keys.strip_row(&key);
            bytes += key.len() + value.len();
            rows.push(wire::Row { key: key.into(), value: value.into() });
        }
        let last_key = rows.last().map_or_else(|| after.to_vec().into(), |row: &wire::Row| row.key.clone());
        Ok((wire::Chunk { seq: label.get(), rows, last_key, done }, ticket))
    }

    async fn send(&self, response: Response) -> Result<(), Refusal> {
        let message = wire::FollowResponse { response: Some(response) };
        self.outbox.send(Ok(message)).await.map_err(|_| gone())
    }
}

fn gone() -> Refusal {
    Refusal::new("BUSY", "the follower is gone")
}
