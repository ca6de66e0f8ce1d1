//! The task that copies: connects to the owner's agent, asks for chunks until there are no more, applies changes, and
//! acknowledges what is durable. It comes again after every loss, until the copy is no longer wanted or cannot go on.

use std::sync::Arc;
use std::time::Duration;

use cell_client::Server;
use cell_model::{MoveId, Seq};
use cell_protos::v1 as wire;
use cell_protos::v1::agent_service_client::AgentServiceClient;
use cell_protos::v1::follow_request::Request;
use cell_protos::v1::follow_response::Response;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;

use super::apply::{self, Held, NOT_WANTED};
use super::mending::{self, Mending, Told};
use super::owner::CODE_TRAILER;
use crate::record::{Follow, Frontier};
use crate::refusal::Refusal;
use crate::tenant::Tenant;
use crate::tenants::Tenants;

const PAUSE_MIN: Duration = Duration::from_millis(20);
const PAUSE_MAX: Duration = Duration::from_secs(1);
const CONNECT_MAX: Duration = Duration::from_secs(1);
/// An owner that has nothing new says so far more often.
const SILENCE_MAX: Duration = Duration::from_secs(3);

/// How one connection has ended.
enum Ended {
    /// Nobody wants this copy any more.
    NotWanted,
    /// It cannot go on.
    Failed(Refusal),
    /// Try again.
    Lost(String),
}

impl From<Refusal> for Ended {
    fn from(refusal: Refusal) -> Self {
        match refusal.code {
            NOT_WANTED | "NOT_OWNER" => Self::NotWanted,
            "DIGEST_MISMATCH" => Self::Failed(refusal),
            _ => Self::Lost(refusal.to_string()),
        }
    }
}

/// Starts, exchanges or stops the task, as the tenant's control says.
pub(crate) fn ensure(tenants: &Arc<Tenants>, tenant: &Arc<Tenant>) {
    let mut core = tenant.lock();
    let wanted = core.control().and_then(|control| control.follow.clone());
    match (&core.progress.task, &wanted) {
        (Some((running, stop)), Some(wanted)) if running == wanted && !stop.is_cancelled() => return,
        (Some((_, stop)), _) => stop.cancel(),
        (None, _) => {}
    }
    core.progress.task = None;
    let Some(follow) = wanted else { return };
    core.progress = super::Progress::default();
    core.mending = Mending::default();
    let stop = tenants.stop.child_token();
    core.progress.task = Some((follow.clone(), stop.clone()));
    drop(core);
    let (tenants, tenant) = (Arc::clone(tenants), Arc::clone(tenant));
    let tasks = tenants.tasks.clone();
    tasks.spawn(async move {
        stop.run_until_cancelled(run(&tenants, &tenant, &follow)).await;
    });
}

async fn run(tenants: &Arc<Tenants>, tenant: &Arc<Tenant>, follow: &Follow) {
    let mut pause = PAUSE_MIN;
    loop {
        let before = tenant.lock().last_seq();
        let ended = session(tenants, tenant, follow).await;
        tenant.lock().mending.lose();
        match ended {
            Ended::NotWanted => return,
            Ended::Failed(refusal) => {
                tracing::warn!(tenant = %tenant.id, source = %follow.cell, move_id = %follow.move_id, %refusal, "the copy cannot go on");
                tenant.lock().progress.failure = Some(refusal);
                tenant.notify();
                return;
            }
            Ended::Lost(reason) => {
                tracing::debug!(tenant = %tenant.id, source = %follow.cell, %reason, "the change stream was lost");
            }
        }
        if tenant.lock().last_seq() > before {
            pause = PAUSE_MIN;
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(PAUSE_MAX);
    }
}

async fn session(tenants: &Arc<Tenants>, tenant: &Arc<Tenant>, follow: &Follow) -> Ended {
    let (start, next_chunk) = match opening(tenants, tenant, follow) {
        Ok(opening) => opening,
        Err(refusal) => return refusal.into(),
    };
    let (requests, outgoing) = mpsc::channel(16);
    for request in std::iter::once(start).chain(next_chunk) {
        if requests.send(wire::FollowRequest { request: Some(request) }).await.is_err() {
            return Ended::Lost("the stream ended at once".into());
        }
    }
    let endpoint = match tenants.link.endpoint(&follow.agent, Server::Agent) {
        Ok(endpoint) => endpoint.tcp_nodelay(true).connect_timeout(CONNECT_MAX),
        Err(error) => return Ended::Lost(format!("{} is not an address: {error}", follow.agent)),
    };
    let channel = match tenants.link.connected(&endpoint).await {
        Ok(channel) => channel,
        Err(error) => return Ended::Lost(error.to_string()),
    };
    let mut owner = AgentServiceClient::new(channel);
    // A path that has lost the request, and all that is sent on it again, must not be waited for.
    let answer = tokio::time::timeout(SILENCE_MAX, owner.follow(ReceiverStream::new(outgoing))).await;
    let incoming = match answer {
        Ok(Ok(answer)) => answer.into_inner(),
        Ok(Err(status)) => return lost(&status),
        Err(_) => return Ended::Lost("the owner does not answer".into()),
    };
    tenant.lock().mending.requests = Some(requests.clone());
    let (held, durable) = watch::channel(Held::default());
    tokio::select! {
        ended = receive(tenants, tenant, follow.move_id, incoming, &requests, &held) => ended,
        ended = acknowledge(tenants, durable, &requests) => ended,
    }
}

fn opening(tenants: &Tenants, tenant: &Tenant, follow: &Follow) -> Result<(Request, Option<Request>), Refusal> {
    let core = tenant.lock();
    let uid = core.known()?.uid;
    let position = core.position().ok_or_else(|| Refusal::new(NOT_WANTED, "there is no copy"))?;
    let start = Request::Start(wire::FollowStart {
        tenant: tenant.id.to_string(),
        uid: uid.get(),
        move_id: follow.move_id.0,
        applied_seq: position.seq.get(),
        cell: tenants.here.to_string(),
        generation: tenants.generation.get(),
        leg: follow.leg.map_or(wire::Leg::Unspecified, wire::Leg::from).into(),
        storage: wire::Storage::Embedded.into(),
        ..wire::FollowStart::default()
    });
    let next_chunk = |after: Vec<u8>| Request::NextChunk(wire::NextChunk { after_key: after.into() });
    let next = match &position.frontier {
        Frontier::Start => Some(next_chunk(Vec::new())),
        Frontier::At(last) => Some(next_chunk(last.clone())),
        Frontier::End => None,
    };
    Ok((start, next))
}

/// What the owner's status means: some refusals end the copy.
fn lost(status: &tonic::Status) -> Ended {
    let code = status.metadata().get(CODE_TRAILER).and_then(|code| code.to_str().ok());
    let reason = status.message().to_owned();
    match code {
        Some("CAPTURE_OVERFLOW") => Ended::Failed(Refusal::new("CAPTURE_OVERFLOW", reason)),
        Some("STORAGE_DIFFERS") => Ended::Failed(Refusal::new("STORAGE_DIFFERS", reason)),
        Some("CAPTURE_GAP") => Ended::Failed(Refusal::new("CAPTURE_GAP", reason)),
        Some(_) | None => Ended::Lost(format!("{}: {reason}", status.code())),
    }
}

async fn receive(
    tenants: &Tenants,
    tenant: &Tenant,
    move_id: MoveId,
    mut incoming: tonic::Streaming<wire::FollowResponse>,
    requests: &mpsc::Sender<wire::FollowRequest>,
    held: &watch::Sender<Held>,
) -> Ended {
    loop {
        let message = match tokio::time::timeout(SILENCE_MAX, incoming.message()).await {
            Ok(Ok(Some(message))) => message,
            Ok(Ok(None)) => return Ended::Lost("the owner ended the stream".into()),
            Ok(Err(status)) => return lost(&status),
            Err(_) => return Ended::Lost("the owner is silent".into()),
        };
        let applied = match message.response {
            Some(Response::Chunk(chunk)) => {
                // Asked for before this one is loaded, so that the owner reads while the follower writes.
                let pace = Arc::clone(&tenant.lock().progress.pace);
                pace.took(chunk.rows.iter().map(|row| (row.key.len() + row.value.len()) as u64).sum());
                if !chunk.done {
                    let after_key = chunk.last_key.clone();
                    let request =
                        wire::FollowRequest { request: Some(Request::NextChunk(wire::NextChunk { after_key })) };
                    super::ask_at_pace(pace, requests, request).await;
                }
                apply::chunk(tenants, tenant, move_id, chunk)
            }
            Some(Response::Changes(changes)) => {
                apply::changes(tenants, tenant, move_id, changes.transactions, Seq(changes.last_seq))
            }
            Some(Response::Heartbeat(heartbeat)) => {
                apply::heartbeat(tenant, Seq(heartbeat.last_seq));
                continue;
            }
            Some(Response::Cut(cut)) => {
                tenant.lock().mending.cut = Some(Seq(cut.seq));
                continue;
            }
            Some(Response::Rows(rows)) => match mending::page(tenants, tenant, move_id, rows) {
                Ok(()) => continue,
                Err(refusal) => Err(refusal),
            },
            Some(Response::Recopied(rows)) => mending::recopied(tenants, tenant, move_id, rows),
            Some(Response::NotExamined(not)) => {
                tenant.lock().mending.tell(Told::Not(not.reason));
                continue;
            }
            // What a cell with tables would send; it refuses the start of this stream already.
            Some(_) | None => continue,
        };
        match applied {
            Ok(now) => {
                held.send_replace(now);
            }
            Err(refusal) => return refusal.into(),
        }
        tokio::task::yield_now().await;
    }
}

async fn acknowledge(
    tenants: &Tenants,
    mut held: watch::Receiver<Held>,
    requests: &mpsc::Sender<wire::FollowRequest>,
) -> Ended {
    loop {
        if held.changed().await.is_err() {
            return Ended::Lost("the stream ended".into());
        }
        let now = *held.borrow_and_update();
        if let Err(refusal) = tenants.wait(now.ticket).await {
            return refusal.into();
        }
        let request = Some(Request::Ack(wire::FollowAck { applied_seq: now.seq.get() }));
        if requests.send(wire::FollowRequest { request }).await.is_err() {
            return Ended::Lost("the owner ended the stream".into());
        }
    }
}
