//! A cell that owns whatever it is told to own, so that the tenants of a measurement get to be live as they do beside real
//! cells: each is two changes, made and granted.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::ensure;
use cell_protos::v1;
use cell_protos::v1::agent_service_server::{AgentService, AgentServiceServer};
use cell_protos::v1::control_service_client::ControlServiceClient;
use cell_protos::v1::step_request::Step;
use futures::{FutureExt, Stream};
use tokio::net::TcpListener;
use tokio_util::sync::{CancellationToken, DropGuard};
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status, Streaming};

use crate::nodes::connect;

/// Tenants that wait for their grant: with more of them nobody makes more.
const AHEAD_MAX: u64 = 4_096;
/// How long the next grant may take.
const GRANTING: Duration = Duration::from_secs(60);

/// An agent that grants. It ends with the value.
pub(crate) struct Cell {
    granted: Arc<AtomicU64>,
    _end: DropGuard,
}

impl Cell {
    /// Starts it on a port of its own and makes it known to the control plane, as `cell-1`.
    pub(crate) async fn make(control: &str) -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let cell = v1::Cell {
            id: "cell-1".into(),
            // Nobody asks a gate of it.
            gates: vec!["127.0.0.1:9".into()],
            agent: listener.local_addr()?.to_string(),
            ..v1::Cell::default()
        };
        let (granted, end) = (Arc::<AtomicU64>::default(), CancellationToken::new());
        let agent = AgentServiceServer::new(Agent(Arc::clone(&granted)));
        let serving = tonic::transport::Server::builder().add_service(agent);
        // As the agents of real cells: an answer does not wait for the acknowledgement of the one before.
        let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
        let ended = end.clone().cancelled_owned();
        tokio::spawn(serving.serve_with_incoming_shutdown(incoming, ended).map(drop));
        let request = v1::CreateCellRequest { cell: Some(cell), options: None };
        ControlServiceClient::new(connect(control)?).create_cell(request).await?;
        Ok(Self { granted, _end: end.drop_guard() })
    }

    /// How many tenants it was given.
    pub(crate) fn granted(&self) -> u64 {
        self.granted.load(Ordering::Relaxed)
    }

    /// Waits until it was given so many.
    pub(crate) async fn owns(&self, tenants: u64) -> anyhow::Result<()> {
        let (mut seen, mut begun) = (self.granted(), Instant::now());
        while seen < tenants {
            ensure!(begun.elapsed() < GRANTING, "{seen} tenants are granted of {tenants}, and no more are");
            tokio::time::sleep(Duration::from_millis(5)).await;
            if self.granted() > seen {
                (seen, begun) = (self.granted(), Instant::now());
            }
        }
        Ok(())
    }

    /// Waits while too many wait for their grant, where `made` were made.
    pub(crate) async fn keeps_up(&self, made: u64) -> anyhow::Result<()> {
        self.owns(made.saturating_sub(AHEAD_MAX)).await
    }
}

#[derive(Debug)]
struct Agent(Arc<AtomicU64>);

#[tonic::async_trait]
impl AgentService for Agent {
    type FollowStream = Pin<Box<dyn Stream<Item = Result<v1::FollowResponse, Status>> + Send>>;
    type AttachStream = Pin<Box<dyn Stream<Item = Result<v1::AgentMessage, Status>> + Send>>;

    async fn run(&self, request: Request<v1::StepRequest>) -> Result<Response<v1::StepResponse>, Status> {
        let Some(Step::Grant(_)) = request.into_inner().step else {
            return Err(Status::unimplemented("this cell is granted tenants and does nothing else"));
        };
        self.0.fetch_add(1, Ordering::Relaxed);
        let result = Some(v1::step_response::Result::Done(v1::Done {}));
        Ok(Response::new(v1::StepResponse { generation: 1, result }))
    }

    async fn follow(
        &self,
        _: Request<Streaming<v1::FollowRequest>>,
    ) -> Result<Response<Self::FollowStream>, Status> {
        Err(Status::unimplemented("nothing is copied to this cell"))
    }

    async fn attach(&self, _: Request<Streaming<v1::GateMessage>>) -> Result<Response<Self::AttachStream>, Status> {
        Err(Status::unimplemented("this cell has no gates"))
    }

    async fn describe(&self, _: Request<v1::DescribeRequest>) -> Result<Response<v1::DescribeResponse>, Status> {
        Err(Status::unimplemented("this cell says nothing of its tenants"))
    }

    async fn read_tail(&self, _: Request<v1::ReadTailRequest>) -> Result<Response<v1::ReadTailResponse>, Status> {
        Err(Status::unimplemented("this cell has put nothing aside"))
    }
}
