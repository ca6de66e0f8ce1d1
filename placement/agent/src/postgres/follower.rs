//! The task that copies: connects to the owner's agent, asks for chunks until there are no more, applies changes,
//! compares at cuts, and acknowledges what is durable. It comes again after every loss, until the copy is no longer
//! wanted or cannot go on.

use std::sync::Arc;
use std::time::Duration;

use cell_client::Server;
use cell_model::{Attempt, Seq};
use cell_protos::v1 as wire;
use cell_protos::v1::agent_service_client::AgentServiceClient;
use cell_protos::v1::follow_request::Request;
use cell_protos::v1::follow_response::Response;
use tokio::sync::mpsc;
use tokio_postgres::Client;
use tokio_stream::wrappers::ReceiverStream;

use super::applier::{Applier, NotApplied};
use super::backfill;
use super::catalogue::Catalogue;
use super::cell::Cell;
use super::digest;
use super::fault::Fault;
use super::form::Form;
use super::standbys;
use super::tenant::Tenant;
use crate::record::{Follow, Record as _, Role};
use crate::refusal::Refusal;

const PAUSE_MIN: Duration = Duration::from_millis(20);
const PAUSE_MAX: Duration = Duration::from_secs(1);
const CONNECT_MAX: Duration = Duration::from_secs(1);
/// An owner that has nothing new says so far more often, unless it waits for open transactions.
const SILENCE_MAX: Duration = Duration::from_secs(6);
/// It looks at its database before it answers.
const ANSWER_MAX: Duration = Duration::from_secs(30);
/// A message holds at most one transaction more than its measure.
const MESSAGE_MAX: usize = 256 * 1024 * 1024;
/// What may be on its way while something else is applied: more than a chunk, so that the next one is there when the last
/// one is loaded.
const WINDOW: u32 = 16 * 1024 * 1024;

/// Why a copy cannot go on that its database has lost.
pub(crate) const GONE: &str = "the database knows nothing of the copy";

/// What is to be asked of the owner on the stream, and who wants to know.
pub(crate) struct Ask {
    pub(crate) request: Request,
    pub(crate) tell: mpsc::Sender<Told>,
}

/// What has come of it, in the stream's order.
pub(crate) enum Told {
    /// The copy stands at the change, and a session has a snapshot of it there.
    Cut(Seq, Client),
    Buckets(wire::Buckets),
    Rows(wire::ListedRows),
    /// Rows were put in place as they were at the change.
    Recopied(Seq),
    /// It could not be done now.
    Not(String),
}

/// How one connection has ended.
enum Ended {
    /// Nobody wants this copy any more.
    NotWanted,
    /// It cannot go on.
    Failed(Refusal),
    /// Try again.
    Lost(String),
    /// Try again, and say why: somebody has to see to it.
    Waits(Refusal),
}

impl From<NotApplied> for Ended {
    fn from(not: NotApplied) -> Self {
        match not {
            NotApplied::Later(fault) if fault.code == "DATABASE_FULL" => Self::Waits(fault.into()),
            NotApplied::Later(fault) => Self::Lost(fault.to_string()),
            NotApplied::Never(refusal) if refusal.code == "NOT_IMPORTING" => Self::Lost(refusal.to_string()),
            NotApplied::Never(refusal) => Self::Failed(refusal),
        }
    }
}

impl From<Fault> for Ended {
    fn from(fault: Fault) -> Self {
        NotApplied::from(fault).into()
    }
}

/// Starts, exchanges or stops the task, as the tenant's control says.
pub(crate) fn ensure(cell: &Arc<Cell>, tenant: &Arc<Tenant>) {
    let mut core = tenant.lock();
    let wanted = core.control.as_ref().and_then(|control| control.follow.clone());
    match (&core.progress.task, &wanted) {
        (Some((running, stop)), Some(wanted)) if running == wanted && !stop.is_cancelled() => return,
        (Some((_, stop)), _) => stop.cancel(),
        (None, _) => {}
    }
    core.progress.task = None;
    let Some(follow) = wanted else { return };
    core.progress = crate::follow::Progress::default();
    core.acknowledged = Seq(0);
    let stop = cell.stop.child_token();
    core.progress.task = Some((follow.clone(), stop.clone()));
    drop(core);
    let (cell, tenant) = (Arc::clone(cell), Arc::clone(tenant));
    cell.tasks.clone().spawn(async move {
        stop.run_until_cancelled(run(&cell, &tenant, &follow)).await;
    });
}

async fn run(cell: &Arc<Cell>, tenant: &Arc<Tenant>, follow: &Follow) {
    let mut pause = PAUSE_MIN;
    loop {
        let before = tenant.lock().applied();
        match session(cell, tenant, follow).await {
            Ended::NotWanted => return,
            Ended::Failed(refusal) => {
                tracing::warn!(tenant = %tenant.id, source = %follow.cell, move_id = %follow.move_id, %refusal, "the copy cannot go on");
                tenant.lock().progress.failure = Some(refusal);
                tenant.notify();
                return;
            }
            Ended::Waits(refusal) => {
                let is_news = {
                    let mut core = tenant.lock();
                    core.progress.lost += 1;
                    core.progress.waits.replace(refusal.clone()).as_ref() != Some(&refusal)
                };
                if is_news {
                    tracing::warn!(tenant = %tenant.id, source = %follow.cell, move_id = %follow.move_id, %refusal, "the copy waits");
                }
                tenant.notify();
            }
            Ended::Lost(reason) => {
                tracing::debug!(tenant = %tenant.id, source = %follow.cell, %reason, "the change stream was lost");
                tenant.lock().progress.lost += 1;
                tenant.notify();
            }
        }
        if tenant.lock().applied() > before {
            pause = PAUSE_MIN;
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(PAUSE_MAX);
    }
}

async fn session(cell: &Arc<Cell>, tenant: &Arc<Tenant>, follow: &Follow) -> Ended {
    let uid = {
        let core = tenant.lock();
        let Some(control) = core.control.as_ref() else { return Ended::NotWanted };
        let wanted =
            control.follow.as_ref() == Some(follow) && matches!(control.role, Role::Importing | Role::Redirect);
        if !wanted {
            return Ended::NotWanted;
        }
        if core.copied.is_none() {
            return Ended::Failed(Refusal::new("NOT_IMPORTING", GONE));
        }
        control.uid
    };
    let catalogue = match cell.catalogue(&tenant.id).await {
        Ok(catalogue) => catalogue,
        Err(refusal) => return Ended::Lost(refusal.to_string()),
    };
    let here = (&*cell.database, cell.incarnation);
    let opened = Applier::open(here, Arc::clone(&catalogue), tenant.id.clone(), follow.move_id);
    let applier = match opened.await {
        Ok(Some(applier)) => applier,
        // It was written before anybody followed: the database has been put back to before that.
        Ok(None) => return Ended::Failed(Refusal::new("NOT_IMPORTING", GONE)),
        Err(fault) => return Ended::Lost(fault.to_string()),
    };
    {
        let mut core = tenant.lock();
        // A database that has crashed, or was put back, has less than it had.
        if core.control.as_ref().is_none_or(|control| control.follow.as_ref() != Some(follow)) {
            return Ended::NotWanted;
        }
        core.copied = Some(applier.copied.clone());
        // An agent that was started again has not been told how fast; a move that rests is not told either.
        core.progress.pace.begin_at(applier.bytes_per_second);
    }
    // The owner lets go of what it is told to be here.
    if let Err(refusal) = standbys::have_all(&cell.database).await {
        return Ended::Lost(refusal.to_string());
    }
    let start = Request::Start(wire::FollowStart {
        tenant: tenant.id.to_string(),
        uid: uid.get(),
        move_id: follow.move_id.0,
        applied_seq: applier.durable.get(),
        cell: cell.here.to_string(),
        generation: cell.generation.get(),
        leg: follow.leg.map_or(wire::Leg::Unspecified, wire::Leg::from).into(),
        storage: wire::Storage::Postgres.into(),
        layout: cell.database.layout.to_wire().into(),
        tenant_types: Form::types(&catalogue),
    });
    let (requests, outgoing) = mpsc::channel(16);
    let sent = requests.send(wire::FollowRequest { request: Some(start) }).await;
    if sent.is_err() {
        return Ended::Lost("the stream ended at once".into());
    }
    let endpoint = match cell.link.endpoint(&follow.agent, Server::Agent) {
        Ok(endpoint) => endpoint
            .tcp_nodelay(true)
            .connect_timeout(CONNECT_MAX)
            .initial_stream_window_size(WINDOW)
            .initial_connection_window_size(WINDOW),
        Err(error) => return Ended::Lost(format!("{} is not an address: {error}", follow.agent)),
    };
    let channel = match cell.link.connected(&endpoint).await {
        Ok(channel) => channel,
        Err(error) => return Ended::Lost(error.to_string()),
    };
    let mut client = AgentServiceClient::new(channel).max_decoding_message_size(MESSAGE_MAX);
    // A path that has lost the request, and all that is sent on it again, must not be waited for.
    let incoming = match tokio::time::timeout(ANSWER_MAX, client.follow(ReceiverStream::new(outgoing))).await {
        Ok(Ok(answer)) => answer.into_inner(),
        Ok(Err(status)) => return lost(&status),
        Err(_) => return Ended::Lost("the owner does not answer".into()),
    };
    let (asks, asked) = mpsc::channel(1);
    tenant.lock().asks = Some(asks);
    let confirmed = applier.durable;
    let mut copy = Copy { cell, tenant, catalogue, applier, confirmed, requests, alike: false, asked, asker: None };
    copy.receive(incoming).await
}

/// What the owner's status means: some refusals end the copy.
fn lost(status: &tonic::Status) -> Ended {
    const FINAL: [&str; 6] = [
        "CAPTURE_OVERFLOW",
        "CAPTURE_GAP",
        "SCHEMA_CHANGED",
        "SCHEMA_DIFFERS",
        "TABLE_TRUNCATED",
        "STORAGE_DIFFERS",
    ];
    let code = status.metadata().get(cell_client::trailer::CODE).and_then(|code| code.to_str().ok());
    let reason = status.message().to_owned();
    match code.and_then(|code| FINAL.into_iter().find(|known| *known == code)) {
        Some(code) => Ended::Failed(Refusal::new(code, reason)),
        None => Ended::Lost(format!("{}: {reason}", status.code())),
    }
}

/// One connection's work.
struct Copy<'a> {
    cell: &'a Arc<Cell>,
    tenant: &'a Arc<Tenant>,
    catalogue: Arc<Catalogue>,
    applier: Applier,
    /// What standbys have, too, where they are waited for.
    confirmed: Seq,
    requests: mpsc::Sender<wire::FollowRequest>,
    /// The owner's tables are like ours.
    alike: bool,
    /// What is to be asked of the owner by whoever mends the copy,
    asked: mpsc::Receiver<Ask>,
    /// and who that was last.
    asker: Option<mpsc::Sender<Told>>,
}

impl Copy<'_> {
    async fn receive(&mut self, mut incoming: tonic::Streaming<wire::FollowResponse>) -> Ended {
        loop {
            let received = tokio::select! {
                received = tokio::time::timeout(SILENCE_MAX, incoming.message()) => received,
                Some(Ask { request, tell }) = self.asked.recv() => {
                    self.asker = Some(tell);
                    match self.ask(request).await {
                        Ok(()) => continue,
                        Err(ended) => return ended,
                    }
                }
            };
            let message = match received {
                Ok(Ok(Some(message))) => message,
                Ok(Ok(None)) => return Ended::Lost("the owner ended the stream".into()),
                Ok(Err(status)) => return lost(&status),
                Err(_) => return Ended::Lost("the owner is silent".into()),
            };
            if let Err(ended) = self.take(message.response).await {
                return ended;
            }
        }
    }

    async fn take(&mut self, response: Option<Response>) -> Result<(), Ended> {
        match response {
            Some(Response::Tables(tables)) => self.compare_tables(&tables).await,
            Some(Response::TableChunk(chunk)) if self.alike => self.chunk(chunk).await,
            Some(Response::TableChanges(changes)) if self.alike => {
                let bytes = prost::Message::encoded_len(&changes) as u64;
                self.applier.changes(&changes.transactions, Seq(changes.last_seq)).await?;
                self.applied((0, 0), (changes.transactions.len() as u64, bytes)).await
            }
            Some(Response::Cut(cut)) if self.alike && cut.by_bucket => self.cut_by_bucket(Seq(cut.seq)).await,
            Some(Response::Cut(cut)) if self.alike => self.cut(cut).await,
            Some(Response::Buckets(buckets)) => self.tell(Told::Buckets(buckets)).await,
            Some(Response::Rows(rows)) => self.tell(Told::Rows(rows)).await,
            Some(Response::Recopied(rows)) if self.alike => {
                self.applier.recopy(&rows).await?;
                self.applied((0, 0), (0, 0)).await?;
                self.tell(Told::Recopied(Seq(rows.seq))).await
            }
            Some(Response::NotExamined(not)) => self.tell(Told::Not(not.reason)).await,
            Some(Response::Heartbeat(heartbeat)) => {
                {
                    let mut core = self.tenant.lock();
                    let applied = core.applied();
                    core.progress.heard_of(Seq(heartbeat.last_seq), applied);
                }
                if self.confirmed < self.applier.durable { self.acknowledge().await } else { Ok(()) }
            }
            Some(_) => Err(Ended::Failed(Refusal::new("STORAGE_DIFFERS", "the other cell keeps no tables"))),
            None => Ok(()),
        }
    }

    async fn compare_tables(&mut self, tables: &wire::TablesLike) -> Result<(), Ended> {
        if let Some(difference) = cell_client::tables_differ(&tables.lines, &self.catalogue.lines()) {
            let reason = format!("the tables of the two cells are not alike: {difference}");
            return Err(Ended::Failed(Refusal::new("SCHEMA_DIFFERS", reason)));
        }
        self.alike = true;
        if !self.applier.copied.reach.done {
            self.ask_for_chunk(self.applier.copied.reach.encode().into()).await;
        }
        Ok(())
    }

    async fn ask(&self, request: Request) -> Result<(), Ended> {
        let sent = self.requests.send(wire::FollowRequest { request: Some(request) }).await;
        sent.map_err(|_| Ended::Lost("the owner ended the stream".into()))
    }

    async fn ask_for_chunk(&self, after_key: bytes::Bytes) {
        let request = wire::FollowRequest { request: Some(Request::NextChunk(wire::NextChunk { after_key })) };
        let pace = Arc::clone(&self.tenant.lock().progress.pace);
        crate::follow::ask_at_pace(pace, &self.requests, request).await;
    }

    async fn chunk(&mut self, chunk: wire::TableChunk) -> Result<(), Ended> {
        let rows = chunk.rows.iter().map(|rows| rows.rows).sum();
        let bytes = chunk.rows.iter().map(|rows| rows.copy.len() as u64).sum();
        self.tenant.lock().progress.pace.took(bytes);
        // Asked for before this one is loaded, so that the owner reads while the follower writes.
        if !chunk.done {
            self.ask_for_chunk(chunk.last_key.clone()).await;
        }
        self.applier.chunk(&chunk).await?;
        self.applied((rows, bytes), (0, 0)).await
    }

    /// What was applied is said to whoever waits here, and what of it is durable to the owner.
    async fn applied(&mut self, loaded: (u64, u64), changed: (u64, u64)) -> Result<(), Ended> {
        let copied = self.applier.copied.clone();
        let applied = copied.applied;
        {
            let mut core = self.tenant.lock();
            core.copied = Some(copied);
            core.progress.waits = None;
            core.progress.copied.0 += loaded.0;
            core.progress.copied.1 += loaded.1;
            core.progress.applied.0 += changed.0;
            core.progress.applied.1 += changed.1;
            core.progress.heard_of(applied, applied);
        }
        self.tenant.notify();
        self.acknowledge().await
    }

    /// What standbys do not have yet is acknowledged with one of the next messages.
    async fn acknowledge(&mut self) -> Result<(), Ended> {
        match standbys::have_all(&self.cell.database).await {
            Ok(()) => {
                self.confirmed = self.applier.durable;
                self.tenant.lock().acknowledged = self.confirmed;
            }
            Err(refusal) => {
                tracing::debug!(tenant = %self.tenant.id, %refusal, "what was applied is not acknowledged yet");
            }
        }
        self.ask(Request::Ack(wire::FollowAck { applied_seq: self.confirmed.get() })).await
    }

    /// Whoever has asked may have gone.
    async fn tell(&mut self, told: Told) -> Result<(), Ended> {
        if let Some(asker) = &self.asker
            && asker.send(told).await.is_err()
        {
            self.asker = None;
        }
        Ok(())
    }

    /// A source that had nothing to send says by the cut where it stands.
    async fn stand_at(&mut self, seq: Seq) -> Result<(), Ended> {
        if seq > self.applier.copied.applied {
            self.applier.changes(&[], seq).await?;
            self.applied((0, 0), (0, 0)).await?;
        }
        Ok(())
    }

    async fn cut_by_bucket(&mut self, seq: Seq) -> Result<(), Ended> {
        self.stand_at(seq).await?;
        // Before anything else is applied.
        let snapshot = self.cell.database.connect().await?;
        backfill::begin(&snapshot).await?;
        self.tell(Told::Cut(seq, snapshot)).await
    }

    /// The copy is at the cut now: whatever is to be compared is read before anything else is applied.
    async fn cut(&mut self, cut: wire::Cut) -> Result<(), Ended> {
        let seq = Seq(cut.seq);
        self.stand_at(seq).await?;
        let uid = self.tenant.lock().control.as_ref().map(|control| control.uid).unwrap_or_default();
        let (cell, tenant) = (Arc::clone(self.cell), Arc::clone(self.tenant));
        let catalogue = Arc::clone(&self.catalogue);
        // What an earlier comparison at the same change has found is not what is there now.
        let of = (seq, Attempt(cut.attempt));
        self.tenant.lock().cuts.remove(&of);
        // Before the comparison is told: with it the tenant may be given to this cell.
        for sequence in &cut.sequences {
            cell.advance_sequence(&catalogue, sequence).await?;
        }
        if cut.all_rows {
            // Within a hold: it waits for nobody's copy, and a tenant has no more than one.
            let client = self.cell.database.connect().await?;
            backfill::begin(&client).await?;
            self.cell.tasks.spawn(async move {
                let summed = cell.stop.run_until_cancelled(digest::of_all(&client, &catalogue, &tenant.id, uid));
                let Some(sum) = summed.await else { return };
                {
                    let mut core = tenant.lock();
                    if let Ok(sum) = &sum {
                        core.counted = (sum.digest.rows, sum.bytes);
                        core.digest = sum.digest;
                    }
                    core.remember_cut(of, sum.map(|sum| sum.digest).map_err(Refusal::from));
                }
                tenant.notify();
            });
        } else {
            // Nothing is applied until this is read, so it is of one moment.
            let client = self.cell.database.client().await?;
            let keys: Vec<_> = cut.keys.into_iter().map(|key| (key.table, key.key)).collect();
            let sum = digest::of_keys(&client, &catalogue, (&tenant.id, uid), &keys).await;
            tenant.lock().remember_cut(of, sum.map(|sum| sum.digest).map_err(Refusal::from));
        }
        self.tenant.notify();
        Ok(())
    }
}
