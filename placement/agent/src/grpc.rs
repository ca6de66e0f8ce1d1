//! The agent's gRPC service: steps, the change stream, gates, and what there is.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use cell_client::{caller, check_cell};
use cell_model::TenantId;
use cell_protos::v1 as wire;
use cell_protos::v1::agent_service_server::AgentService;
use cell_protos::v1::gate_message::Message;
use cell_protos::v1::step_response::Result as Answer;
use futures::Stream;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use crate::driver::{Driver, Surroundings};
use crate::hooks::Hooks;
use crate::refusal::Refusal;

const HELLO_MAX: Duration = Duration::from_secs(5);

/// See the module.
#[derive(Clone)]
pub(crate) struct Service {
    pub(crate) driver: Arc<dyn Driver>,
    pub(crate) hooks: Arc<Hooks>,
}

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl AgentService for Service {
    type FollowStream = Answers<wire::FollowResponse>;
    type AttachStream = Answers<wire::AgentMessage>;

    async fn run(&self, request: Request<wire::StepRequest>) -> Result<Response<wire::StepResponse>, Status> {
        // A step that was begun is ended, also where its caller has gone.
        let (driver, hooks) = (Arc::clone(&self.driver), Arc::clone(&self.hooks));
        let step = self.around().tasks.spawn(async move { hooks.run(&driver, request.into_inner()).await });
        let result = match step.await.map_err(|error| Status::unknown(error.to_string()))? {
            Ok(answer) => answer,
            Err(refusal) => {
                Answer::Refused(wire::StepRefused { code: refusal.code.into(), reason: refusal.reason })
            }
        };
        let generation = self.around().generation.get();
        Ok(Response::new(wire::StepResponse { generation, result: Some(result) }))
    }

    async fn follow(
        &self,
        request: Request<Streaming<wire::FollowRequest>>,
    ) -> Result<Response<Self::FollowStream>, Status> {
        let responses = Arc::clone(&self.driver).follow(request).await?;
        Ok(Response::new(Box::pin(responses)))
    }

    async fn attach(
        &self,
        request: Request<Streaming<wire::GateMessage>>,
    ) -> Result<Response<Self::AttachStream>, Status> {
        check_cell(caller(&request), self.around().here.as_str())?;
        let mut incoming = request.into_inner();
        let first = tokio::time::timeout(HELLO_MAX, incoming.message())
            .await
            .map_err(|_| Status::deadline_exceeded("a gate begins with a hello"))??;
        let Some(Message::Hello(hello)) = first.and_then(|message| message.message) else {
            return Err(Status::invalid_argument("a gate begins with a hello"));
        };
        tracing::info!(instance = %hello.instance, address = %hello.address, "a gate has come");
        let (connection, inbox) = self.around().board.attach(hello);
        let driver = Arc::clone(&self.driver);
        let stop = self.around().stop.clone();
        self.around().tasks.spawn(async move {
            let board = &driver.surroundings().board;
            let listen = async {
                while let Ok(Some(message)) = incoming.message().await {
                    match message.message {
                        Some(Message::Ping(ping)) => {
                            board.ping(connection, ping.nonce);
                            board.count_stale(&ping.stale);
                            board.waits(connection, ping.unquiesced);
                        }
                        Some(Message::Quiesced(quiesced)) => board.quiesced(connection, quiesced.hold_id),
                        Some(Message::Hello(_)) | None => return,
                    }
                }
            };
            stop.run_until_cancelled(listen).await;
            board.detach(connection);
            tracing::info!(connection, "a gate has gone");
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(inbox).map(Ok))))
    }

    async fn read_tail(
        &self,
        request: Request<wire::ReadTailRequest>,
    ) -> Result<Response<wire::ReadTailResponse>, Status> {
        let wire::ReadTailRequest { tenant, after_seq } = request.into_inner();
        let id = TenantId::new(&tenant).map_err(|invalid| Status::invalid_argument(invalid.to_string()))?;
        let read = self.driver.read_tail(&id, cell_model::Seq(after_seq)).await;
        let unavailable = |refusal: Refusal| Status::unavailable(format!("{}: {}", refusal.code, refusal.reason));
        let nothing = || Status::not_found(format!("cell {} keeps nothing of {id} apart", self.around().here));
        read.map_err(unavailable)?.map(Response::new).ok_or_else(nothing)
    }

    async fn describe(
        &self,
        request: Request<wire::DescribeRequest>,
    ) -> Result<Response<wire::DescribeResponse>, Status> {
        let wire::DescribeRequest { tenant: name, uncounted, existing, after, most } = request.into_inner();
        let unavailable = |refusal: Refusal| Status::unavailable(format!("{}: {}", refusal.code, refusal.reason));
        let (grants, storage) = if name.is_empty() && most > 0 {
            let most = usize::try_from(most).unwrap_or(usize::MAX);
            self.driver.page(&after, most).await.map_err(unavailable)?.into_iter().unzip()
        } else if name.is_empty() {
            (self.around().board.grants(), self.driver.storage(None, !uncounted).await)
        } else {
            let id = TenantId::new(&name).map_err(|invalid| Status::invalid_argument(invalid.to_string()))?;
            let mut grants = self.around().board.grants();
            grants.retain(|grant| grant.tenant == name);
            (grants, self.driver.storage(Some(&id), !uncounted).await)
        };
        let existing = if existing { self.driver.existing().await.map_err(unavailable)? } else { None };
        Ok(Response::new(wire::DescribeResponse {
            cell: self.around().here.to_string(),
            generation: self.around().generation.get(),
            grants,
            storage,
            existing,
            certificate_not_after_unix_s: self.around().link.certificate_not_after_unix_s(),
        }))
    }
}

impl Service {
    fn around(&self) -> &Surroundings {
        self.driver.surroundings()
    }
}
