//! Two agents on loopback that obey, remember what they were told, and can be made to misbehave at one step.

use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use cell_client::wire::agent_service_server::{AgentService, AgentServiceServer};
use cell_client::wire::step_request::Step;
use cell_client::wire::step_response::Result as Answer;
use cell_client::wire::{
    AgentMessage, DescribeRequest, DescribeResponse, Digest, DigestResult, Done, Examined, ExaminedRow,
    FollowRequest, FollowResponse, GateMessage, ImportProgress, Position, PreflightReport, ReadTailRequest,
    ReadTailResponse, RowDiffers, StepRefused, StepRequest, StepResponse, Storage, SyncProgress, Tail,
};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_stream::Stream;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status, Streaming};

/// Where to strike: at the n-th time that a step of this name arrives at either cell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Strike {
    pub(crate) step: String,
    pub(crate) after_effect: bool,
}

#[derive(Default)]
struct Story {
    /// (cell, step, term), as they took effect.
    steps: Vec<(&'static str, String, u64)>,
    strike: Option<Strike>,
    refuse: Option<(String, String)>,
    refused: Option<(String, String)>,
    /// Holds are refused with a code as a cell does that waits in vain: when their time is up there.
    waits_in_vain: Option<String>,
    /// The copy of b adds up to something else in answers to this step, so many times yet.
    differs: Option<(String, usize)>,
    /// Copies apply changes without coming closer: by now so many.
    in_vain: Option<u64>,
    /// They keep their tenants in PostgreSQL.
    postgres: bool,
    highest_term: u64,
    generation: u64,
}

#[derive(Clone)]
pub(crate) struct Cells {
    pub(crate) a: String,
    pub(crate) b: String,
    story: Arc<Mutex<Story>>,
    struck: watch::Sender<bool>,
}

struct Agent {
    name: &'static str,
    cells: Cells,
}

pub(crate) const LAST: u64 = 41;

impl Cells {
    pub(crate) async fn start() -> Self {
        let (a, b) =
            (TcpListener::bind("127.0.0.1:0").await.unwrap(), TcpListener::bind("127.0.0.1:0").await.unwrap());
        let cells = Self {
            a: a.local_addr().unwrap().to_string(),
            b: b.local_addr().unwrap().to_string(),
            story: Arc::default(),
            struck: watch::Sender::new(false),
        };
        for (name, listener) in [("a", a), ("b", b)] {
            let service = AgentServiceServer::new(Agent { name, cells: cells.clone() });
            let serving = tonic::transport::Server::builder()
                .add_service(service)
                .serve_with_incoming(TcpListenerStream::new(listener));
            tokio::spawn(serving);
        }
        cells
    }

    pub(crate) fn strike_at(&self, strike: Strike) {
        self.story.lock().unwrap().strike = Some(strike);
    }

    /// Refuses the next step of this name with a code; of one cell where that is named before it, as in `b ScanDigest`.
    pub(crate) fn refuse(&self, step: &str, code: &str) {
        self.story.lock().unwrap().refuse = Some((step.into(), code.into()));
    }

    /// Refuses every step of this name with a code, until it is told otherwise.
    pub(crate) fn keep_refusing(&self, refused: Option<(&str, &str)>) {
        self.story.lock().unwrap().refused = refused.map(|(step, code)| (step.into(), code.into()));
    }

    /// Waits in every hold for something that does not come, until its time is up, and refuses it with a code.
    pub(crate) fn wait_in_vain(&self, code: &str) {
        self.story.lock().unwrap().waits_in_vain = Some(code.into());
    }

    /// The next answers of b to this step say that its copy is not the original.
    pub(crate) fn differ(&self, step: &str, times: usize) {
        self.story.lock().unwrap().differs = Some((step.into(), times));
    }

    /// Copies apply what comes, and come no closer to their source.
    pub(crate) fn apply_in_vain(&self) {
        self.story.lock().unwrap().in_vain = Some(0);
    }

    /// Both keep their tenants in PostgreSQL.
    pub(crate) fn on_postgres(&self) {
        self.story.lock().unwrap().postgres = true;
    }

    pub(crate) async fn struck(&self) {
        self.struck.subscribe().wait_for(|struck| *struck).await.expect("the cells stay");
    }

    pub(crate) fn steps(&self) -> Vec<String> {
        self.story.lock().unwrap().steps.iter().map(|(cell, step, _)| format!("{cell} {step}")).collect()
    }

    /// Terms in the order in which their steps took effect at one cell.
    pub(crate) fn terms(&self, of: &str) -> Vec<u64> {
        self.story
            .lock()
            .unwrap()
            .steps
            .iter()
            .filter(|(cell, _, _)| *cell == of)
            .map(|(_, _, term)| *term)
            .collect()
    }
}

fn name_of(step: &Step) -> String {
    let debug = format!("{step:?}");
    debug.split(['(', ' ']).next().unwrap_or_default().to_owned()
}

fn digest(rows: u64) -> Digest {
    Digest { rows, sum: 9_u128.to_be_bytes().to_vec().into() }
}

fn answer_to(step: &Step, in_vain: Option<&mut u64>) -> Answer {
    let same = Some(digest(3));
    match step {
        Step::StartCapture(_) | Step::PrepareReverse(_) => Answer::Position(Position { seq: 7, ended_writers: 0 }),
        Step::HoldWrites(hold) => {
            Answer::Position(Position { seq: LAST, ended_writers: if hold.terminate_writers { 2 } else { 0 } })
        }
        Step::AwaitApplied(wanted) => Answer::Position(Position { seq: wanted.seq, ended_writers: 0 }),
        Step::Fence(fence) => Answer::Position(Position { seq: fence.sealed_seq, ended_writers: 0 }),
        Step::OwnByForce(_) => Answer::Position(Position { seq: LAST + 1, ended_writers: 0 }),
        Step::PutAside(put) => {
            Answer::Tail(Tail { changes: 2, bytes: 90, last_seq: put.after_seq + 2, whole: true })
        }
        Step::ImportStatus(_) => {
            let usual = ImportProgress {
                backfilled: true,
                applied_seq: LAST,
                source_seq: LAST,
                stale_rejected: 4,
                ..ImportProgress::default()
            };
            let Some(looks) = in_vain else { return Answer::Import(usual) };
            *looks += 1;
            let (applied_seq, source_seq) = (LAST + *looks, LAST + *looks + 9_000);
            Answer::Import(ImportProgress { applied_seq, source_seq, lag_bytes: 9_000, lag_ms: 5_000, ..usual })
        }
        Step::ScanDigest(scan) => Answer::Digest(DigestResult { seq: scan.at_seq.max(LAST), digest: same }),
        Step::DigestAt(at) => Answer::Digest(DigestResult { seq: at.seq, digest: same }),
        Step::SyncStatus(asked) => {
            let (last_seq, acked_seq, ended_writers) = (LAST, LAST, u32::from(asked.oldest_write));
            Answer::Sync(SyncProgress {
                engaged: true,
                last_seq,
                acked_seq,
                ended_writers,
                ..SyncProgress::default()
            })
        }
        Step::Preflight(_) => {
            Answer::Preflight(PreflightReport { rows: 3, bytes: 300, ..PreflightReport::default() })
        }
        Step::Examine(examine) if examine.every_row => {
            let (owner, copy) = (same.clone(), same);
            Answer::Examined(Examined { seq: LAST, owner, copy, every_row: true, ..Examined::default() })
        }
        Step::Examine(_) => {
            let (table, key) = ("orders".into(), "(7)".into());
            let rows = vec![ExaminedRow { table, key, differs: RowDiffers::Missing.into() }];
            let (owner, copy) = (same, Some(digest(2)));
            Answer::Examined(Examined { seq: LAST, owner, copy, missing: 1, rows, ..Examined::default() })
        }
        Step::CompareSample(_) => {
            let (owner, copy) = (same.clone(), same);
            Answer::Examined(Examined { seq: LAST, owner, copy, ..Examined::default() })
        }
        Step::Recopy(recopy) => Answer::Position(Position { seq: recopy.at_seq, ended_writers: 0 }),
        _ => Answer::Done(Done {}),
    }
}

impl Agent {
    /// Whether this arrival is the one to strike at.
    fn strikes(&self, step: &str, after_effect: bool) -> bool {
        let mut story = self.cells.story.lock().unwrap();
        let strikes = story.strike.as_ref().is_some_and(|s| s.step == step && s.after_effect == after_effect);
        if strikes {
            story.strike = None;
        }
        strikes
    }

    /// The caller never hears of it.
    async fn vanish(&self) -> Result<Response<StepResponse>, Status> {
        self.cells.struck.send_replace(true);
        std::future::pending().await
    }
}

type Flow<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl AgentService for Agent {
    type FollowStream = Flow<FollowResponse>;
    type AttachStream = Flow<AgentMessage>;

    async fn run(&self, request: Request<StepRequest>) -> Result<Response<StepResponse>, Status> {
        let request = request.into_inner();
        let header = request.header.expect("every step has a header");
        let step = request.step.expect("every request has a step");
        let name = name_of(&step);
        if self.strikes(&name, false) {
            return self.vanish().await;
        }
        let waits_in_vain = self.cells.story.lock().unwrap().waits_in_vain.clone();
        if let (Step::HoldWrites(hold), Some(code)) = (&step, waits_in_vain) {
            // Its time has begun when it has heard of it.
            tokio::time::sleep(Duration::from_millis(u64::from(hold.budget_ms) + 5)).await;
            let refused = StepRefused { code, reason: "one write".into() };
            return Ok(Response::new(StepResponse { generation: 0, result: Some(Answer::Refused(refused)) }));
        }
        let (generation, result) = {
            let mut story = self.cells.story.lock().unwrap();
            let at_this = format!("{} {name}", self.name);
            let refuse = story.refuse.take_if(|(refused, _)| *refused == name || *refused == at_this);
            let refuse = refuse.or_else(|| story.refused.clone().filter(|(refused, _)| *refused == name));
            let result = if header.term < story.highest_term {
                Answer::Refused(StepRefused { code: "STALE_TERM".into(), reason: "an older leader".into() })
            } else if let Some((_, code)) = refuse {
                Answer::Refused(StepRefused { code, reason: "as the test wants".into() })
            } else {
                story.highest_term = header.term;
                story.steps.push((self.name, name.clone(), header.term));
                let usual = answer_to(&step, story.in_vain.as_mut());
                let postgres = story.postgres;
                // In soak it is the old owner that follows.
                let is_asked = self.name == "b" || name == "CompareSample";
                let left = story.differs.as_mut().filter(|(step, left)| *step == name && *left > 0 && is_asked);
                match (left, usual) {
                    (Some((_, left)), Answer::Digest(same)) => {
                        *left -= 1;
                        Answer::Digest(DigestResult { digest: Some(digest(2)), ..same })
                    }
                    (_, Answer::Preflight(report)) if postgres => {
                        Answer::Preflight(PreflightReport { storage: Some(Storage::Postgres.into()), ..report })
                    }
                    (Some((_, left)), Answer::Examined(same)) => {
                        *left -= 1;
                        Answer::Examined(Examined { changed: 1, ..same })
                    }
                    (_, answer) => answer,
                }
            };
            (story.generation, result)
        };
        if self.strikes(&name, true) {
            return self.vanish().await;
        }
        Ok(Response::new(StepResponse { generation, result: Some(result) }))
    }

    async fn follow(&self, _: Request<Streaming<FollowRequest>>) -> Result<Response<Self::FollowStream>, Status> {
        Err(Status::unimplemented("agents on paper do not follow"))
    }

    async fn attach(&self, _: Request<Streaming<GateMessage>>) -> Result<Response<Self::AttachStream>, Status> {
        Err(Status::unimplemented("agents on paper have no gates"))
    }

    async fn describe(&self, _: Request<DescribeRequest>) -> Result<Response<DescribeResponse>, Status> {
        Err(Status::unimplemented("agents on paper have no tenants"))
    }

    async fn read_tail(&self, _: Request<ReadTailRequest>) -> Result<Response<ReadTailResponse>, Status> {
        Err(Status::unimplemented("agents on paper have put nothing aside"))
    }
}
