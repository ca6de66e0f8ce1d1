//! The stream between a gate and its agent, for as long as the gate lives.
//!
//! ```text
//! gate ──► agent   hello · ping(nonce) each 200 ms · quiesced(hold)
//! gate ◄── agent   all grants · what changed · pong(nonce, lease)
//! ```
//! The stream is in order, so a pong also says that every grant before it has been installed. A lost stream is opened
//! again with a growing, jittered pause; until then the last grants are served for what is left of the lease.
//!
//! Only a gate that serves nothing any more ends its side of the stream cleanly. In every other case the connection is
//! cut, and the agent must count the gate as serving until its lease has run out.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use cell_client::net::{Connection, Cut, Network};
use cell_client::{Link, Server};
use cell_model::{Epoch, TenantId, Uid};
use cell_protos::v1 as proto;
use cell_protos::v1::agent_service_client::AgentServiceClient;
use cell_trust::SignedMapping;
use futures::StreamExt as _;
use hyper_util::rt::TokioIo;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::Streaming;

use crate::admission::Gatekeeper;
use crate::decision::{Grant, Role};
use crate::newest::Redirect;

const PING_EVERY: Duration = Duration::from_millis(200);
/// Pings without an answer after which the stream is taken for dead.
const PINGS_UNANSWERED_MAX: usize = 10;
const CONNECT_DEADLINE: Duration = Duration::from_secs(2);
const PAUSE_MIN: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// Who attaches to whom.
#[derive(Debug, Clone)]
pub(crate) struct Attachment {
    /// Over which link.
    pub link: Link,
    /// `host:port` of the agent.
    pub agent: String,
    /// The gate's name within its cell.
    pub instance: String,
    /// `host:port` at which routers reach the gate.
    pub address: String,
}

/// Why a stream to the agent has ended.
#[derive(Debug, thiserror::Error)]
enum Detached {
    #[error("the address {agent:?} of the agent cannot be read")]
    Address { agent: String, source: tonic::transport::Error },
    #[error("the agent at {agent} cannot be reached")]
    Connect { agent: String, source: tonic::transport::Error },
    #[error("the agent did not answer in time")]
    Slow,
    #[error("the agent refused the stream")]
    Refused(#[source] Box<tonic::Status>),
    #[error("the stream to the agent broke")]
    Broken(#[source] Box<tonic::Status>),
    #[error("the agent ended the stream")]
    Ended,
}

/// Keeps the gate attached until `farewell`, which is cancelled when the gate's last write has finished.
pub(crate) async fn keep(gatekeeper: Arc<Gatekeeper>, attachment: Attachment, farewell: CancellationToken) {
    let mut pause = PAUSE_MIN;
    let mut seed = attachment.link.random().next();
    while !farewell.is_cancelled() {
        let began = Instant::now();
        let outcome = tokio::select! {
            biased;
            outcome = session(&gatekeeper, &attachment, &farewell) => outcome,
            () = stalled(&farewell) => return,
        };
        match outcome {
            Ok(()) => return,
            Err(detached) => {
                let cause = std::error::Error::source(&detached).map(ToString::to_string);
                let instance = attachment.instance.as_str();
                tracing::warn!(instance, agent = %attachment.agent, error = %detached, cause, "detached from the agent");
            }
        }
        if began.elapsed() > PAUSE_MAX {
            pause = PAUSE_MIN;
        }
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let jitter = pause.mul_f64(f64::from(u32::try_from(seed >> 32).unwrap_or(0)) / f64::from(u32::MAX));
        tokio::select! {
            () = tokio::time::sleep(pause / 2 + jitter / 2) => {}
            () = farewell.cancelled() => return,
        }
        pause = (pause * 2).min(PAUSE_MAX);
    }
}

/// Completes when a farewell has not been answered in time.
async fn stalled(farewell: &CancellationToken) {
    farewell.cancelled().await;
    tokio::time::sleep(CONNECT_DEADLINE).await;
}

async fn session(
    gatekeeper: &Gatekeeper,
    attachment: &Attachment,
    farewell: &CancellationToken,
) -> Result<(), Detached> {
    let clean_end = CancellationToken::new();
    let line = Line::default();
    let (outgoing, incoming) = open(attachment, clean_end.clone(), &line).await?;
    let mut session =
        Session { gatekeeper, outgoing, incoming, clean_end, pings: VecDeque::new(), nonce: 0, has_grants: false };
    tracing::debug!(instance = attachment.instance, agent = attachment.agent, "attached to the agent");
    let ended = session.converse(farewell).await;
    if ended.is_ok() {
        session.bid_farewell().await;
    }
    ended
}

async fn open(
    attachment: &Attachment,
    clean_end: CancellationToken,
    line: &Line,
) -> Result<(mpsc::Sender<proto::GateMessage>, Streaming<proto::AgentMessage>), Detached> {
    let agent = attachment.agent.clone();
    let endpoint = attachment
        .link
        .endpoint(&agent, Server::Agent)
        .map_err(|source| Detached::Address { agent: agent.clone(), source })?
        .connect_timeout(CONNECT_DEADLINE)
        .http2_keep_alive_interval(Duration::from_secs(2))
        .keep_alive_timeout(Duration::from_secs(2));
    let (network, kept) = (attachment.link.network().clone(), Arc::clone(&line.knife));
    let connector = tower::service_fn(move |uri: http::Uri| dial(uri, network.clone(), Arc::clone(&kept)));
    let connecting = tokio::time::timeout(CONNECT_DEADLINE, endpoint.connect_with_connector(connector));
    let channel = connecting.await.map_err(|_| Detached::Slow)?;
    let channel = channel.map_err(|source| Detached::Connect { agent, source })?;
    let (outgoing, receiver) = mpsc::channel(64);
    let hello = proto::GateHello { instance: attachment.instance.clone(), address: attachment.address.clone() };
    // There is room: the channel is new.
    let _ = outgoing.try_send(message(proto::gate_message::Message::Hello(hello)));
    let mut client = AgentServiceClient::new(channel).max_decoding_message_size(64 * 1024 * 1024);
    let end = futures::stream::once(clean_end.cancelled_owned()).filter_map(|()| async { None });
    let attach = client.attach(ReceiverStream::new(receiver).chain(end));
    let response = tokio::time::timeout(CONNECT_DEADLINE, attach).await.map_err(|_| Detached::Slow)?;
    Ok((outgoing, response.map_err(|status| Detached::Refused(Box::new(status)))?.into_inner()))
}

/// The connection below a stream, to cut it: a stream that is merely dropped would look like one that has ended well.
#[derive(Debug, Default)]
struct Line {
    knife: Arc<Mutex<Option<Cut>>>,
}

impl Drop for Line {
    fn drop(&mut self) {
        if let Some(knife) = self.knife.lock().unwrap_or_else(PoisonError::into_inner).take() {
            knife.cut();
        }
    }
}

async fn dial(
    uri: http::Uri,
    network: Network,
    kept: Arc<Mutex<Option<Cut>>>,
) -> std::io::Result<TokioIo<Connection>> {
    let address = uri.authority().map(http::uri::Authority::as_str).unwrap_or_default();
    let stream = network.connect(address).await?;
    stream.set_nodelay(true)?;
    *kept.lock().unwrap_or_else(PoisonError::into_inner) = Some(stream.knife()?);
    Ok(TokioIo::new(stream))
}

fn message(message: proto::gate_message::Message) -> proto::GateMessage {
    proto::GateMessage { message: Some(message) }
}

struct Session<'g> {
    gatekeeper: &'g Gatekeeper,
    outgoing: mpsc::Sender<proto::GateMessage>,
    incoming: Streaming<proto::AgentMessage>,
    /// Lets the outgoing stream end, rather than be reset.
    clean_end: CancellationToken,
    /// Pings that have not been answered: nonce, and when it was sent.
    pings: VecDeque<(u64, Instant)>,
    nonce: u64,
    /// The first message, every grant there is, has arrived.
    has_grants: bool,
}

impl Session<'_> {
    async fn converse(&mut self, farewell: &CancellationToken) -> Result<(), Detached> {
        let mut ticks = tokio::time::interval(PING_EVERY);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                () = farewell.cancelled() => return Ok(()),
                _ = ticks.tick() => self.ping()?,
                received = self.incoming.message() => match received {
                    Ok(Some(message)) => self.receive(message),
                    Ok(None) => return Err(Detached::Ended),
                    Err(status) => return Err(Detached::Broken(Box::new(status))),
                },
                () = self.gatekeeper.table.outbox().filled() => {}
            }
            self.report_quiesced().await?;
        }
    }

    fn ping(&mut self) -> Result<(), Detached> {
        self.gatekeeper.table.sweep();
        if self.pings.len() >= PINGS_UNANSWERED_MAX {
            return Err(Detached::Slow);
        }
        self.nonce += 1;
        // The lease counts from before the ping can have been seen.
        self.pings.push_back((self.nonce, Instant::now()));
        // What was turned away is taken only when there is room for a ping to carry it.
        match self.outgoing.try_reserve() {
            Ok(room) => {
                let stale = self.gatekeeper.table.outbox().take_stale();
                let unquiesced = self.gatekeeper.table.unquiesced();
                let ping = proto::GatePing { nonce: self.nonce, stale, unquiesced };
                room.send(message(proto::gate_message::Message::Ping(ping)));
                Ok(())
            }
            Err(mpsc::error::TrySendError::Full(())) => Ok(()),
            Err(mpsc::error::TrySendError::Closed(())) => Err(Detached::Ended),
        }
    }

    fn receive(&mut self, message: proto::AgentMessage) {
        match message.message {
            Some(proto::agent_message::Message::Grants(grants)) => self.install(grants),
            Some(proto::agent_message::Message::Pong(pong)) => self.renew(&pong),
            None => tracing::debug!("a message of the agent is of a kind that this gate does not know"),
        }
    }

    fn install(&mut self, grants: proto::Grants) {
        let mut all = Vec::new();
        for wire in grants.grants {
            match read_grant(wire) {
                Ok((tenant, Some(grant))) if grants.all => all.push((tenant, grant)),
                Ok((_, None)) if grants.all => {}
                Ok((tenant, grant)) => self.gatekeeper.table.install(&tenant, grant),
                Err(invalid) => tracing::error!(error = %invalid, "a grant of the agent cannot be read"),
            }
        }
        if grants.all {
            self.gatekeeper.table.install_all(all);
            self.has_grants = true;
        }
    }

    fn renew(&mut self, pong: &proto::GatePong) {
        while let Some((nonce, sent)) = self.pings.front().copied()
            && nonce <= pong.nonce
        {
            self.pings.pop_front();
            if nonce == pong.nonce && self.has_grants {
                self.gatekeeper.lease.renew(sent, Duration::from_millis(u64::from(pong.lease_ms)));
            }
        }
    }

    async fn report_quiesced(&self) -> Result<(), Detached> {
        for hold_id in self.gatekeeper.table.outbox().take() {
            let quiesced = message(proto::gate_message::Message::Quiesced(proto::GateQuiesced { hold_id }));
            let sent = tokio::time::timeout(CONNECT_DEADLINE, self.outgoing.send(quiesced)).await;
            sent.map_err(|_| Detached::Slow)?.map_err(|_| Detached::Ended)?;
        }
        Ok(())
    }

    /// Ends the stream cleanly: nothing is admitted any more and no write is running, so no hold needs to wait for
    /// this gate.
    async fn bid_farewell(self) {
        let Self { gatekeeper, outgoing, mut incoming, clean_end, .. } = self;
        gatekeeper.lease.end();
        clean_end.cancel();
        drop(outgoing);
        let _ =
            tokio::time::timeout(PING_EVERY, async { while let Ok(Some(_)) = incoming.message().await {} }).await;
    }
}

/// Reads one grant; `None` where the cell has none, or none that a gate can act on.
fn read_grant(wire: proto::TenantGrant) -> Result<(TenantId, Option<Grant>), cell_model::InvalidId> {
    let role = wire.role();
    let tenant = TenantId::new(&wire.tenant)?;
    let role = match role {
        proto::Role::Owner => Role::Owner,
        proto::Role::Holding => Role::Holding { hold_id: wire.hold_id },
        proto::Role::Importing => Role::Importing,
        proto::Role::Fenced => Role::Fenced,
        proto::Role::Deleted => Role::Deleted,
        proto::Role::Redirect => {
            let signed = wire.mapping.map(|mapping| SignedMapping {
                payload: mapping.payload.into(),
                key_id: mapping.key_id,
                signature: mapping.signature.into(),
            });
            let Some(redirect) = signed.and_then(|signed| Redirect::new(&tenant, &signed)) else {
                tracing::warn!(%tenant, "the agent redirects without a mapping that can be handed out");
                return Ok((tenant, None));
            };
            Role::Redirect(Arc::new(redirect))
        }
        proto::Role::Unspecified | proto::Role::None => return Ok((tenant, None)),
    };
    Ok((tenant, Some(Grant { uid: Uid(wire.uid), epoch: Epoch(wire.epoch), role })))
}
