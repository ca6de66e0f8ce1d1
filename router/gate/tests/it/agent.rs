//! An agent that speaks `Attach` and grants what a test says.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use cell_protos::v1::agent_service_server::{AgentService, AgentServiceServer};
use cell_protos::v1::{
    AgentMessage, DescribeRequest, DescribeResponse, FollowRequest, FollowResponse, GateMessage, GatePong, Grants,
    ReadTailRequest, ReadTailResponse, Role, StepRequest, StepResponse, TenantGrant, UnquiescedHold, agent_message,
    gate_message,
};
use futures::Stream;
use tokio::sync::mpsc;
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::{Request, Response, Status, Streaming};

type Outgoing = mpsc::Sender<Result<AgentMessage, Status>>;

#[derive(Default)]
struct State {
    grants: BTreeMap<String, TenantGrant>,
    streams: Vec<Outgoing>,
    quiesced: Vec<u64>,
    unquiesced: Vec<UnquiescedHold>,
    hellos: Vec<(String, String)>,
    farewells: usize,
    resets: usize,
}

/// Cheap to clone.
#[derive(Clone)]
pub(crate) struct FakeAgent {
    state: Arc<Mutex<State>>,
    silent: Arc<AtomicBool>,
    away: Arc<AtomicBool>,
    lease_ms: Arc<AtomicU32>,
    pub(crate) address: SocketAddr,
}

impl FakeAgent {
    pub(crate) async fn start(lease: Duration) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let agent = Self {
            state: Arc::default(),
            silent: Arc::default(),
            away: Arc::default(),
            lease_ms: Arc::new(AtomicU32::new(u32::try_from(lease.as_millis()).unwrap())),
            address: listener.local_addr().unwrap(),
        };
        let service = AgentServiceServer::new(agent.clone());
        let server = tonic::transport::Server::builder().add_service(service);
        tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
        agent
    }

    /// Changes what a tenant's grant is, and tells every gate.
    pub(crate) fn grant(&self, tenant: &str, (uid, epoch): (u64, u64), role: Role) {
        self.install(TenantGrant {
            tenant: tenant.into(),
            uid,
            epoch,
            role: role.into(),
            ..TenantGrant::default()
        });
    }

    pub(crate) fn hold(&self, tenant: &str, (uid, epoch): (u64, u64), hold_id: u64) {
        self.install(TenantGrant {
            tenant: tenant.into(),
            uid,
            epoch,
            role: Role::Holding.into(),
            hold_id,
            hold_remaining_ms: 2_000,
            mapping: None,
        });
    }

    pub(crate) fn install(&self, grant: TenantGrant) {
        let mut state = self.state.lock().unwrap();
        state.grants.insert(grant.tenant.clone(), grant.clone());
        let news = grants(false, vec![grant]);
        state.streams.retain(|stream| stream.try_send(Ok(news.clone())).is_ok());
    }

    /// Answers pings no more, or again.
    pub(crate) fn silence(&self, silent: bool) {
        self.silent.store(silent, Ordering::SeqCst);
    }

    /// Ends every stream and takes no new one, as if it were gone; or comes back.
    pub(crate) fn leave(&self, away: bool) {
        self.away.store(away, Ordering::SeqCst);
        if away {
            self.state.lock().unwrap().streams.clear();
        }
    }

    pub(crate) fn quiesced(&self) -> Vec<u64> {
        self.state.lock().unwrap().quiesced.clone()
    }

    /// What the last ping has said.
    pub(crate) fn unquiesced(&self) -> Vec<UnquiescedHold> {
        self.state.lock().unwrap().unquiesced.clone()
    }

    pub(crate) fn hellos(&self) -> Vec<(String, String)> {
        self.state.lock().unwrap().hellos.clone()
    }

    pub(crate) fn farewells(&self) -> usize {
        self.state.lock().unwrap().farewells
    }

    pub(crate) fn resets(&self) -> usize {
        self.state.lock().unwrap().resets
    }

    async fn listen(self, mut incoming: Streaming<GateMessage>, outgoing: Outgoing) {
        loop {
            match incoming.next().await {
                Some(Ok(GateMessage { message: Some(message) })) => match message {
                    gate_message::Message::Hello(hello) => {
                        self.state.lock().unwrap().hellos.push((hello.instance, hello.address));
                    }
                    gate_message::Message::Quiesced(quiesced) => {
                        self.state.lock().unwrap().quiesced.push(quiesced.hold_id);
                    }
                    gate_message::Message::Ping(ping) => {
                        self.state.lock().unwrap().unquiesced.clone_from(&ping.unquiesced);
                        let lease_ms = self.lease_ms.load(Ordering::SeqCst);
                        let pong = agent_message::Message::Pong(GatePong { nonce: ping.nonce, lease_ms });
                        if !self.silent.load(Ordering::SeqCst)
                            && outgoing.send(Ok(AgentMessage { message: Some(pong) })).await.is_err()
                        {
                            return;
                        }
                    }
                },
                Some(Ok(GateMessage { message: None })) => {}
                Some(Err(_)) => {
                    self.state.lock().unwrap().resets += 1;
                    return;
                }
                None => {
                    self.state.lock().unwrap().farewells += 1;
                    return;
                }
            }
            if self.away.load(Ordering::SeqCst) {
                return;
            }
        }
    }
}

fn grants(all: bool, grants: Vec<TenantGrant>) -> AgentMessage {
    AgentMessage { message: Some(agent_message::Message::Grants(Grants { all, grants })) }
}

#[tonic::async_trait]
impl AgentService for FakeAgent {
    type FollowStream = Pin<Box<dyn Stream<Item = Result<FollowResponse, Status>> + Send>>;
    type AttachStream = ReceiverStream<Result<AgentMessage, Status>>;

    async fn run(&self, _: Request<StepRequest>) -> Result<Response<StepResponse>, Status> {
        Err(Status::unimplemented("a fake runs no steps"))
    }

    async fn follow(&self, _: Request<Streaming<FollowRequest>>) -> Result<Response<Self::FollowStream>, Status> {
        Err(Status::unimplemented("a fake has no changes"))
    }

    async fn attach(
        &self,
        request: Request<Streaming<GateMessage>>,
    ) -> Result<Response<Self::AttachStream>, Status> {
        if self.away.load(Ordering::SeqCst) {
            return Err(Status::unavailable("away"));
        }
        let (outgoing, receiver) = mpsc::channel(1_024);
        {
            let mut state = self.state.lock().unwrap();
            let all = grants(true, state.grants.values().cloned().collect());
            outgoing.try_send(Ok(all)).unwrap();
            state.streams.push(outgoing.clone());
        }
        tokio::spawn(self.clone().listen(request.into_inner(), outgoing));
        Ok(Response::new(ReceiverStream::new(receiver)))
    }

    async fn describe(&self, _: Request<DescribeRequest>) -> Result<Response<DescribeResponse>, Status> {
        Err(Status::unimplemented("a fake describes nothing"))
    }

    async fn read_tail(&self, _: Request<ReadTailRequest>) -> Result<Response<ReadTailResponse>, Status> {
        Err(Status::unimplemented("a fake has put nothing aside"))
    }
}
