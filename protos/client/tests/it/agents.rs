//! Steps: what is sent, and the three outcomes kept apart.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use cell_client::wire::agent_service_server::{AgentService, AgentServiceServer};
use cell_client::wire::step_request::Step;
use cell_client::wire::step_response::Result as Answer;
use cell_client::{AgentOptions, AgentPool, StepContext, StepError, wire};
use cell_model::{Attempt, CellId, Digest, Epoch, Generation, Leg, Lineage, MoveId, Seq, TenantId, Term, Uid};
use futures::stream::BoxStream;
use tokio::net::TcpListener;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status, Streaming};

use crate::silent::{self, SHORT};

type Script = dyn Fn(&Step) -> Result<Answer, Status> + Send + Sync;
type Describes = fn(&wire::DescribeRequest) -> wire::DescribeResponse;

/// Answers each step as the test says, and keeps what was asked.
#[derive(Clone)]
struct FakeAgent {
    answer: Arc<Script>,
    describes: Describes,
    asked: Arc<Mutex<Vec<wire::StepRequest>>>,
}

#[tonic::async_trait]
impl AgentService for FakeAgent {
    type FollowStream = BoxStream<'static, Result<wire::FollowResponse, Status>>;
    type AttachStream = BoxStream<'static, Result<wire::AgentMessage, Status>>;

    async fn run(&self, request: Request<wire::StepRequest>) -> Result<Response<wire::StepResponse>, Status> {
        let request = request.into_inner();
        let result = (self.answer)(request.step.as_ref().unwrap())?;
        self.asked.lock().unwrap().push(request);
        Ok(Response::new(wire::StepResponse { generation: 4, result: Some(result) }))
    }

    async fn follow(
        &self,
        _request: Request<Streaming<wire::FollowRequest>>,
    ) -> Result<Response<Self::FollowStream>, Status> {
        Err(Status::unimplemented("not asked for in these tests"))
    }

    async fn attach(
        &self,
        _request: Request<Streaming<wire::GateMessage>>,
    ) -> Result<Response<Self::AttachStream>, Status> {
        Err(Status::unimplemented("not asked for in these tests"))
    }

    async fn describe(
        &self,
        request: Request<wire::DescribeRequest>,
    ) -> Result<Response<wire::DescribeResponse>, Status> {
        Ok(Response::new((self.describes)(request.get_ref())))
    }

    async fn read_tail(
        &self,
        _request: Request<wire::ReadTailRequest>,
    ) -> Result<Response<wire::ReadTailResponse>, Status> {
        Err(Status::unimplemented("not asked for in these tests"))
    }
}

async fn agent(
    answer: impl Fn(&Step) -> Result<Answer, Status> + Send + Sync + 'static,
) -> (String, Arc<Mutex<Vec<wire::StepRequest>>>) {
    serve(answer, |_| wire::DescribeResponse::default()).await
}

async fn serve(
    answer: impl Fn(&Step) -> Result<Answer, Status> + Send + Sync + 'static,
    describes: Describes,
) -> (String, Arc<Mutex<Vec<wire::StepRequest>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let agent = FakeAgent { answer: Arc::new(answer), describes, asked: Arc::default() };
    let asked = Arc::clone(&agent.asked);
    let server = tonic::transport::Server::builder().add_service(AgentServiceServer::new(agent));
    tokio::spawn(server.serve_with_incoming(TcpIncoming::from(listener)));
    (address, asked)
}

fn pool() -> AgentPool {
    AgentPool::new(AgentOptions { step: SHORT, connect: SHORT, travel: SHORT, ..AgentOptions::default() })
}

fn context() -> StepContext {
    StepContext {
        lineage: Lineage(1),
        term: Term(2),
        tenant: TenantId::new("t-1").unwrap(),
        uid: Uid(3),
        move_id: Some(MoveId(4)),
        attempt: Attempt(5),
        epoch: Epoch(6),
        leg: Some(Leg::Back),
    }
}

fn position(seq: u64) -> Answer {
    Answer::Position(wire::Position { seq, ended_writers: 0 })
}

#[tokio::test]
async fn a_step_carries_who_asks_and_for_what() {
    let (address, asked) = agent(|_| Ok(position(12))).await;
    let sealed = pool().hold_writes(&address, &context(), Duration::from_millis(70)).await;
    assert_eq!(sealed, Ok(Seq(12)));
    let asked = asked.lock().unwrap();
    let header = asked[0].header.as_ref().unwrap();
    assert_eq!((header.lineage, header.term, header.tenant.as_str(), header.uid), (1, 2, "t-1", 3));
    assert_eq!((header.move_id, header.attempt, header.epoch, header.leg()), (4, 5, 6, wire::Leg::Back));
    assert_eq!(asked[0].step, Some(Step::HoldWrites(wire::HoldWrites { budget_ms: 70, terminate_writers: false })));
}

#[tokio::test]
async fn answers_bring_what_the_coordinator_needs() {
    let digest = Digest { rows: 9, sum: u128::MAX };
    let (address, asked) = agent(move |step| {
        Ok(match step {
            Step::Activate(_) | Step::PrepareImport(_) => Answer::Done(wire::Done {}),
            Step::AwaitApplied(_) | Step::PrepareReverse(_) => position(8),
            _ => Answer::Digest(wire::DigestResult { seq: 8, digest: Some(digest.into()) }),
        })
    })
    .await;
    let (pool, context, cell) = (pool(), context(), CellId::new("c1").unwrap());
    assert_eq!(pool.activate(&address, &context, Some((&cell, "h:1"))).await, Ok(Generation(4)));
    assert_eq!(pool.prepare_import(&address, &context, &cell, "h:1").await, Ok(Generation(4)));
    assert_eq!(pool.prepare_reverse(&address, &context).await, Ok((Seq(8), Generation(4))));
    let applied = pool.await_applied(&address, &context, Seq(8), Duration::from_millis(50)).await;
    assert_eq!(applied, Ok((Seq(8), Generation(4))));
    assert_eq!(pool.digest_at(&address, &context, Seq(8), Duration::from_millis(50)).await, Ok(digest));
    assert_eq!(pool.scan_digest(&address, &context, None).await, Ok((Seq(8), digest)));
    let asked = asked.lock().unwrap();
    let Some(Step::Activate(activate)) = &asked[0].step else { panic!("{:?}", asked[0]) };
    assert_eq!((activate.follower_cell.as_str(), activate.follower_agent.as_str()), ("c1", "h:1"));
    assert!(activate.keep_follower);
}

#[tokio::test]
async fn a_refusal_is_a_refusal() {
    let refused = wire::StepRefused { code: "STALE_TERM".into(), reason: "term 3 is known".into() };
    let (address, _) = agent(move |_| Ok(Answer::Refused(refused.clone()))).await;
    let refused = pool().grant(&address, &context()).await;
    assert_eq!(refused, Err(StepError::Refused { code: "STALE_TERM".into(), reason: "term 3 is known".into() }));
    let (address, _) = agent(|_| Err(Status::invalid_argument("tenant: it is missing"))).await;
    let refused = pool().grant(&address, &context()).await.unwrap_err();
    assert!(matches!(&refused, StepError::Refused { code, .. } if code == "INVALID_ARGUMENT"), "{refused:?}");
}

#[tokio::test]
async fn where_nobody_listens_a_step_has_surely_not_run() {
    let nobody = silent::nobody().await;
    let refused = pool().fence(&nobody, &context(), Seq(1)).await.unwrap_err();
    assert!(matches!(&refused, StepError::Unreachable { agent, .. } if *agent == nobody), "{refused:?}");
    let refused = pool().fence("not an address", &context(), Seq(1)).await.unwrap_err();
    assert!(matches!(refused, StepError::Unreachable { .. }), "{refused:?}");
}

#[tokio::test]
async fn silence_is_an_unknown_outcome() {
    let address = silent::server().await;
    let unknown = pool().fence(&address, &context(), Seq(1)).await.unwrap_err();
    assert!(matches!(&unknown, StepError::Unknown { agent, .. } if *agent == address), "{unknown:?}");
}

#[tokio::test]
async fn an_agent_that_fails_in_the_middle_is_an_unknown_outcome() {
    let (address, _) = agent(|_| Err(Status::internal("the disk is full"))).await;
    let unknown = pool().fence(&address, &context(), Seq(1)).await.unwrap_err();
    let StepError::Unknown { reason, .. } = &unknown else { panic!("{unknown:?}") };
    assert!(reason.contains("the disk is full"), "{reason}");
}

#[tokio::test]
async fn an_answer_to_another_question_is_an_unknown_outcome() {
    let (address, _) = agent(|_| Ok(position(1))).await;
    let unknown = pool().grant(&address, &context()).await.unwrap_err();
    assert!(matches!(unknown, StepError::Unknown { .. }), "{unknown:?}");
    let other_cut = wire::DigestResult { seq: 7, digest: Some(Digest::default().into()) };
    let (address, _) = agent(move |_| Ok(Answer::Digest(other_cut.clone()))).await;
    let unknown = pool().digest_at(&address, &context(), Seq(8), Duration::from_millis(50)).await.unwrap_err();
    assert!(matches!(&unknown, StepError::Unknown { reason, .. } if reason.contains('7')), "{unknown:?}");
}

/// A page of `cell`: full, so that another is asked for, or empty.
fn page(cell: &str, is_full: bool) -> wire::DescribeResponse {
    let grant = |number: usize| wire::TenantGrant {
        tenant: format!("t-{number:04}"),
        uid: 1,
        epoch: 1,
        role: wire::Role::Owner.into(),
        ..wire::TenantGrant::default()
    };
    let grants = (0..if is_full { 1_000 } else { 0 }).map(grant).collect();
    wire::DescribeResponse { cell: cell.into(), grants, ..wire::DescribeResponse::default() }
}

async fn what_is_held(describes: Describes) -> Result<(CellId, usize), StepError> {
    let (address, _) = serve(|_| Ok(position(1)), describes).await;
    pool().held(&address).await.map(|(cell, held)| (cell, held.len()))
}

#[tokio::test]
async fn what_a_cell_holds_comes_with_its_name_also_where_it_is_nothing() {
    let c1 = CellId::new("c1").unwrap();
    assert_eq!(what_is_held(|_| page("c1", false)).await, Ok((c1.clone(), 0)));
    assert_eq!(what_is_held(|request| page("c1", request.after.is_empty())).await, Ok((c1, 1_000)));
    let two =
        what_is_held(|request| page(if request.after.is_empty() { "c1" } else { "c2" }, request.after.is_empty()));
    let StepError::Unknown { reason, .. } = two.await.unwrap_err() else { panic!("nobody knows whose it is") };
    assert!(reason.contains("different cells"), "{reason}");
    let nameless = what_is_held(|_| page("", false)).await.unwrap_err();
    assert!(matches!(nameless, StepError::Unknown { .. }), "{nameless:?}");
}

#[tokio::test]
async fn a_cell_of_many_tenants_is_read_whole_and_counts_nothing_where_nothing_is_to_be_counted() {
    let many = |request: &wire::DescribeRequest| {
        let storage = |number: usize| wire::TenantStorage {
            tenant: format!("{}-{number:060}", if request.uncounted { "n" } else { "c" }),
            ..wire::TenantStorage::default()
        };
        wire::DescribeResponse { storage: (0..100_000).map(storage).collect(), ..wire::DescribeResponse::default() }
    };
    let (address, _) = serve(|_| Ok(position(1)), many).await;
    let pool = AgentPool::new(AgentOptions::default());
    let first = |told: Result<wire::DescribeResponse, StepError>| {
        let told = told.unwrap().storage;
        assert_eq!(told.len(), 100_000);
        told[0].tenant.chars().next()
    };
    // Beyond the four MiB that a gRPC client takes unless it is told otherwise.
    assert_eq!(first(pool.describe(&address, None).await), Some('c'));
    assert_eq!(first(pool.describe_uncounted(&address, None).await), Some('n'));
}
