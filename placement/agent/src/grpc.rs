//! The agent's gRPC service: steps, the change stream, gates, and what there is.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use cell_client::{caller, check_cell};
use cell_model::{Seq, TenantId};
use cell_protos::v1 as wire;
use cell_protos::v1::agent_service_server::AgentService;
use cell_protos::v1::gate_message::Message;
use cell_protos::v1::step_response::Result as Answer;
use futures::Stream;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use crate::capture::digest_to_wire;
use crate::tenant::Tenant;
use crate::tenants::Tenants;
use crate::{follow, steps};

const HELLO_MAX: Duration = Duration::from_secs(5);

/// See the module.
#[derive(Clone)]
pub(crate) struct Service {
    pub(crate) tenants: Arc<Tenants>,
}

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl AgentService for Service {
    type FollowStream = Answers<wire::FollowResponse>;
    type AttachStream = Answers<wire::AgentMessage>;

    async fn run(&self, request: Request<wire::StepRequest>) -> Result<Response<wire::StepResponse>, Status> {
        // A step that was begun is ended, also where its caller has gone.
        let tenants = Arc::clone(&self.tenants);
        let step = self.tenants.tasks.spawn(async move { steps::run(&tenants, request.into_inner()).await });
        let result = match step.await.map_err(|error| Status::unknown(error.to_string()))? {
            Ok(answer) => answer,
            Err(refusal) => {
                Answer::Refused(wire::StepRefused { code: refusal.code.into(), reason: refusal.reason })
            }
        };
        let generation = self.tenants.generation.get();
        Ok(Response::new(wire::StepResponse { generation, result: Some(result) }))
    }

    async fn follow(
        &self,
        request: Request<Streaming<wire::FollowRequest>>,
    ) -> Result<Response<Self::FollowStream>, Status> {
        let responses = follow::serve(&self.tenants, request).await?;
        Ok(Response::new(Box::pin(responses)))
    }

    async fn attach(
        &self,
        request: Request<Streaming<wire::GateMessage>>,
    ) -> Result<Response<Self::AttachStream>, Status> {
        check_cell(caller(&request), self.tenants.here.as_str())?;
        let mut incoming = request.into_inner();
        let first = tokio::time::timeout(HELLO_MAX, incoming.message())
            .await
            .map_err(|_| Status::deadline_exceeded("a gate begins with a hello"))??;
        let Some(Message::Hello(hello)) = first.and_then(|message| message.message) else {
            return Err(Status::invalid_argument("a gate begins with a hello"));
        };
        tracing::info!(instance = %hello.instance, address = %hello.address, "a gate has come");
        let (connection, inbox) = self.tenants.board.attach(hello);
        let tenants = Arc::clone(&self.tenants);
        let stop = tenants.stop.clone();
        self.tenants.tasks.spawn(async move {
            let listen = async {
                while let Ok(Some(message)) = incoming.message().await {
                    match message.message {
                        Some(Message::Ping(ping)) => tenants.board.ping(connection, ping.nonce),
                        Some(Message::Quiesced(quiesced)) => tenants.board.quiesced(connection, quiesced.hold_id),
                        Some(Message::Hello(_)) | None => return,
                    }
                }
            };
            stop.run_until_cancelled(listen).await;
            tenants.board.detach(connection);
            tracing::info!(connection, "a gate has gone");
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(inbox).map(Ok))))
    }

    async fn describe(
        &self,
        request: Request<wire::DescribeRequest>,
    ) -> Result<Response<wire::DescribeResponse>, Status> {
        let name = request.into_inner().tenant;
        let mut grants = self.tenants.board.grants();
        let storage = if name.is_empty() {
            self.tenants.all().iter().filter_map(|tenant| self.storage(tenant)).collect()
        } else {
            let id = TenantId::new(&name).map_err(|invalid| Status::invalid_argument(invalid.to_string()))?;
            grants.retain(|grant| grant.tenant == name);
            self.tenants.get(&id).iter().filter_map(|tenant| self.storage(tenant)).collect()
        };
        Ok(Response::new(wire::DescribeResponse {
            cell: self.tenants.here.to_string(),
            generation: self.tenants.generation.get(),
            grants,
            storage,
        }))
    }
}

impl Service {
    fn storage(&self, tenant: &Tenant) -> Option<wire::TenantStorage> {
        let core = tenant.lock();
        let control = core.control()?;
        let position = core.position().cloned().unwrap_or_default();
        let captured = match &control.capture {
            Some(capture) => position.seq.get() - capture.from.max(position.trimmed).min(position.seq).get(),
            None => 0,
        };
        let applied_seq = control.follow.as_ref().map_or(Seq(0), |_| position.seq).get();
        Some(wire::TenantStorage {
            tenant: tenant.id.to_string(),
            uid: control.uid.get(),
            rows: position.digest.rows,
            bytes: position.bytes,
            last_seq: position.seq.get(),
            applied_seq,
            digest: Some(digest_to_wire(position.digest)),
            captured,
        })
    }
}
