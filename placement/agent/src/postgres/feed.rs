//! The owner's side of the change stream: what is sent, in which order, and what a snapshot decides.
//!
//! ```text
//! chunk:  send what is captured, if it is much ─► snapshot that has seen all that was ever sent ─► read rows ─► barrier
//!         ─► of what was captured meanwhile: seen by the snapshot | not seen, one message with the rows
//! cut:    the same, but the seen ones must come before the others: then the snapshot is the state at a position
//! ```
//! The follower drops changes of rows that it does not have yet. That is right only if the snapshot that will bring
//! those rows has seen them, which is why a snapshot waits for everything that was sent (`unsettled`).

mod mending;
mod opening;

use std::sync::Arc;
use std::time::Duration;

use cell_model::{Attempt, MoveId, Seq, TenantId, Uid};
use cell_protos::v1 as wire;
use cell_protos::v1::follow_request::Request;
use cell_protos::v1::follow_response::Response;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_postgres::Client;
use tonic::{Status, Streaming};

use mending::{Asked, Examination};
use opening::refused;

use super::backfill;
use super::backlog::Backlog;
use super::captures::Captured;
use super::cell::Cell;
use super::form::Form;
use super::records::Reach;
use super::seal;
use super::snapshot::Snapshot;
use super::tenant::{Core, Tenant};
use super::throttle::UnderWay;
use crate::follow::HEARTBEAT_MS;
use crate::record::{Record, Role};
use crate::refusal::Refusal;

/// Bytes of one message with changes; a larger transaction goes alone.
const CHANGES_BYTES: u64 = 256 * 1024;
const QUEUE: usize = 4;
/// A follower that takes nothing for so long is gone.
const SEND_MAX: Duration = Duration::from_secs(10);
/// How long a snapshot waits for what was sent to become visible.
const SETTLE_MAX: Duration = Duration::from_secs(4);
/// A chunk that must wait for the source to recover looks again so often.
const THROTTLE_LOOK: Duration = Duration::from_millis(50);
/// Transactions that may not be visible yet are looked at again once there are so many.
const UNSETTLED: usize = 1_000;

pub(crate) use opening::serve;

/// See the module.
pub(crate) struct Feed {
    pub(crate) number: u64,
    pub(crate) move_id: MoveId,
    /// Everything up to here has been sent.
    cursor: Seq,
    /// Sent, and perhaps not visible to a snapshot taken now.
    unsettled: Vec<u32>,
    /// Whether what was sent before this stream is visible for sure.
    drained: bool,
    reader: Option<Client>,
    /// Chunks are being asked for. What writers add meanwhile goes with the next one, unless it is much, or that one is
    /// long in coming: each message is a transaction at the follower.
    copying: Option<UnderWay>,
    /// Chunks that were read for this stream.
    chunks: u32,
    row_size: Option<backfill::RowSize>,
    /// As the follower takes rows.
    form: Form,
    outbox: mpsc::Sender<Result<wire::FollowResponse, Status>>,
}

/// What the two cells are to compare.
pub(crate) enum Compare {
    All,
    Keys(Vec<super::captures::RowKey>),
}

fn gone() -> Refusal {
    Refusal::new("BUSY", "the follower is gone")
}

/// The capture that feeds this follower.
fn capturing(core: &Core, uid: Uid, move_id: MoveId) -> Result<(), Refusal> {
    let control = core.known()?;
    let owns = control.uid == uid && matches!(control.role, Role::Owner | Role::Fenced { .. });
    match control.capture.as_ref().filter(|capture| owns && capture.move_id == move_id) {
        Some(_) => Ok(()),
        None => Err(Refusal::new("NOT_OWNER", format!("nothing is captured for {move_id} here"))),
    }
}

/// One stream, from its opening to its end.
struct Stream {
    cell: Arc<Cell>,
    tenant: Arc<Tenant>,
    uid: Uid,
    move_id: MoveId,
    number: u64,
}

impl Stream {
    async fn run(
        self,
        mut incoming: Streaming<wire::FollowRequest>,
        outbox: mpsc::Sender<Result<wire::FollowResponse, Status>>,
    ) {
        let (chunks, mut wanted) = mpsc::channel(QUEUE);
        let (asks, mut asked) = mpsc::channel(QUEUE);
        let listen = async {
            while let Ok(Some(message)) = incoming.message().await {
                match message.request {
                    Some(Request::Ack(ack)) => {
                        let seq = Seq(ack.applied_seq);
                        self.cell.replication.captures().acknowledge(&self.tenant.id, seq, Instant::now());
                        self.tenant.notify();
                    }
                    Some(Request::NextChunk(next)) => {
                        if chunks.try_send(next.after_key.to_vec()).is_err() {
                            return;
                        }
                    }
                    other => {
                        let ask = other.and_then(Asked::read);
                        if ask.is_none_or(|ask| asks.try_send(ask).is_err()) {
                            return;
                        }
                    }
                }
            }
        };
        tokio::select! {
            () = listen => {}
            () = outbox.closed() => {}
            refusal = self.feed(&mut wanted, &mut asked) => {
                tracing::debug!(tenant = %self.tenant.id, %refusal, "a change stream has ended");
                let _gone = outbox.send(Err(refused(&refusal))).await;
            }
        }
        let mut feed = self.tenant.feed.lock().await;
        if feed.as_ref().is_some_and(|feed| feed.number == self.number) {
            *feed = None;
        }
    }

    /// Sends what there is, for ever. The answer is why it cannot.
    async fn feed(&self, wanted: &mut mpsc::Receiver<Vec<u8>>, asked: &mut mpsc::Receiver<Asked>) -> Refusal {
        let mut next: Option<Vec<u8>> = None;
        let (mut ask, mut examination) = (None, Examination::default());
        let mut backlog = Backlog::new(self.cell.limits.captured_bytes_max);
        let mut first = None;
        let mut begun = false;
        let mut beat = Instant::now();
        let mut arrived = self.cell.replication.subscribe();
        loop {
            arrived.mark_unchanged();
            // Before more changes: writers that never pause must not keep the copy from going on.
            next = next.or_else(|| wanted.try_recv().ok());
            ask = ask.or_else(|| asked.try_recv().ok());
            let wait = next.as_ref().and_then(|_| self.chunk_waits(&mut backlog));
            let chunk = if wait.is_none() && ask.is_none() { next.take() } else { None };
            let done = {
                let mut feed = self.tenant.feed.lock().await;
                let Some(feed) = feed.as_mut().filter(|feed| feed.number == self.number) else {
                    return Refusal::new("BUSY", "another stream has taken its place");
                };
                let done = match ask.take() {
                    Some(ask) => self.mend(feed, ask, &mut examination).await.map(|()| true),
                    None => self.turn(feed, first.take(), chunk).await,
                };
                if done.is_ok() && !begun {
                    begun = true;
                    // A follower that has nothing of this database yet learns where it stands.
                    if let Err(refusal) = feed.send_transactions(&[], feed.cursor).await {
                        return refusal;
                    }
                }
                done
            };
            match done {
                Ok(true) => {
                    beat = Instant::now();
                    continue;
                }
                Ok(false) => {}
                Err(refusal) => return refusal,
            }
            tokio::select! {
                _ = arrived.changed() => {}
                after = wanted.recv(), if next.is_none() => next = after,
                came = asked.recv() => ask = came,
                () = tokio::time::sleep(wait.unwrap_or_default().min(THROTTLE_LOOK)), if wait.is_some() => {}
                () = tokio::time::sleep_until(beat + Duration::from_millis(HEARTBEAT_MS)) => {
                    beat = Instant::now();
                    let last_seq = match self.last() {
                        Ok(last) => last.get(),
                        Err(refusal) => return refusal,
                    };
                    first = Some(Response::Heartbeat(wire::Heartbeat { last_seq }));
                }
            }
        }
    }

    /// For how long the next chunk waits: for the source to recover, or for the follower to apply what it has.
    fn chunk_waits(&self, backlog: &mut Backlog) -> Option<Duration> {
        let standing = self.cell.replication.captures().standing(&self.tenant.id).and_then(Result::ok);
        let held_back = standing.is_some_and(|standing| backlog.holds_back(standing.kept_bytes));
        let was = std::mem::replace(&mut self.tenant.lock().held_back, held_back);
        if was != held_back {
            tracing::info!(tenant = %self.tenant.id, held_back, "chunks wait for changes to be applied, or do no more");
        }
        if held_back { Some(THROTTLE_LOOK) } else { self.cell.replication.throttle.wait() }
    }

    fn last(&self) -> Result<Seq, Refusal> {
        capturing(&self.tenant.lock(), self.uid, self.move_id)?;
        self.cell.replication.captures().standing(&self.tenant.id).ok_or_else(gone)?.map(|standing| standing.last)
    }

    /// Whether there may be more at once.
    async fn turn(&self, feed: &mut Feed, say: Option<Response>, chunk: Option<Vec<u8>>) -> Result<bool, Refusal> {
        self.last()?;
        let is_due = say.is_some();
        if let Some(say) = say {
            feed.send(say).await?;
        }
        if let Some(after) = chunk {
            let reach = if after.is_empty() { Ok(Reach::default()) } else { Reach::decode(&after) };
            let reach = reach.map_err(|error| Refusal::new("INVALID", error.to_string()))?;
            feed.chunk(&self.cell, &self.tenant.id, &reach).await?;
            return Ok(true);
        }
        if feed.copying.is_some() && !is_due && !feed.has_much(&self.cell, &self.tenant.id) {
            return Ok(false);
        }
        feed.send_new(&self.cell, &self.tenant.id).await
    }
}

fn to_wire(captured: &[Arc<Captured>]) -> Vec<wire::TableTransaction> {
    let one = |captured: &Arc<Captured>| wire::TableTransaction {
        seq: captured.seq.get(),
        mutations: captured.mutations.clone(),
    };
    captured.iter().map(one).collect()
}

impl Feed {
    async fn send(&self, response: Response) -> Result<(), Refusal> {
        let message = wire::FollowResponse { response: Some(response) };
        match tokio::time::timeout(SEND_MAX, self.outbox.send(Ok(message))).await {
            Ok(Ok(())) => Ok(()),
            _ => Err(gone()),
        }
    }

    /// Whether what is captured and not sent fills a message.
    fn has_much(&self, cell: &Cell, tenant: &TenantId) -> bool {
        cell.replication.captures().weight_after(tenant, self.cursor) >= CHANGES_BYTES
    }

    /// Sends some of what is captured and not sent; false where there is nothing.
    async fn send_new(&mut self, cell: &Cell, tenant: &TenantId) -> Result<bool, Refusal> {
        let captured = cell.replication.captures().after(tenant, self.cursor, CHANGES_BYTES);
        let Some(last) = captured.last().map(|last| last.seq) else { return Ok(false) };
        self.send_transactions(&captured, last).await?;
        if self.unsettled.len() > UNSETTLED {
            let client = cell.database.client().await?;
            let text: String = client.query_one("SELECT pg_current_snapshot()::text", &[]).await?.get(0);
            if let Some(snapshot) = Snapshot::parse(&text) {
                self.unsettled.retain(|xid| !snapshot.has_seen(*xid));
            }
        }
        Ok(true)
    }

    async fn send_transactions(&mut self, captured: &[Arc<Captured>], until: Seq) -> Result<(), Refusal> {
        self.unsettled.extend(captured.iter().map(|captured| captured.xid));
        let transactions = to_wire(captured);
        self.send(Response::TableChanges(wire::TableChanges { transactions, last_seq: until.get() })).await?;
        self.cursor = until;
        Ok(())
    }

    /// Sends everything that is captured now; what writers add meanwhile is for later, or this would never end.
    pub(crate) async fn flush(&mut self, cell: &Cell, tenant: &TenantId) -> Result<(), Refusal> {
        let until = cell.replication.captures().standing(tenant).ok_or_else(gone)??.last;
        while self.cursor < until && self.send_new(cell, tenant).await? {}
        Ok(())
    }

    /// A snapshot that has seen everything that was ever sent.
    async fn settled(&mut self, cell: &Cell, tenant: &TenantId, client: &Client) -> Result<Snapshot, Refusal> {
        if !self.drained {
            seal::drain(&*cell.database.client().await?, tenant, SETTLE_MAX).await?;
            self.drained = true;
        }
        let deadline = Instant::now() + SETTLE_MAX;
        loop {
            let snapshot = backfill::begin(client).await?;
            self.unsettled.retain(|xid| !snapshot.has_seen(*xid));
            if self.unsettled.is_empty() {
                return Ok(snapshot);
            }
            client.batch_execute("ROLLBACK").await?;
            if Instant::now() >= deadline {
                return Err(Refusal::new("BUSY", "commits are in the log and not visible yet"));
            }
            tokio::time::sleep(Duration::from_millis(3)).await;
        }
    }

    async fn chunk(&mut self, cell: &Cell, tenant: &TenantId, reach: &Reach) -> Result<(), Refusal> {
        let began = Instant::now();
        if self.has_much(cell, tenant) {
            self.flush(cell, tenant).await?;
        }
        let flushed = began.elapsed();
        let client = match self.reader.take() {
            Some(client) if !client.is_closed() => client,
            _ => cell.database.reader().await?,
        };
        let snapshot = self.settled(cell, tenant, &client).await?;
        let settled = began.elapsed();
        let catalogue = cell.catalogue(tenant).await?;
        // Small ones first: until one has come, the other cell has nothing to do.
        let bytes = u64::from(cell.database.options.chunk_bytes >> 2_u32.saturating_sub(self.chunks));
        self.chunks += 1;
        let throttle = &cell.replication.throttle;
        let bytes = throttle.chunk_bytes(bytes);
        let chunk =
            backfill::read(&client, &catalogue, (tenant, &self.form), (reach, self.row_size), bytes).await?;
        throttle.took(chunk.rows.iter().map(|rows| rows.copy.len() as u64).sum());
        let under_way = self.copying.take();
        self.copying = (!chunk.reach.done).then(|| under_way.unwrap_or_else(|| throttle.copying()));
        self.row_size = chunk.row_size;
        client.batch_execute("COMMIT").await?;
        let read = began.elapsed();
        self.reader = (!chunk.reach.done).then_some(client);
        // Everything that the snapshot has seen is in the log before this.
        cell.replication.barrier(SETTLE_MAX).await?;
        let captured = cell.replication.captures().after(tenant, self.cursor, u64::MAX);
        let until = captured.last().map_or(self.cursor, |last| last.seq);
        let (visible, later): (Vec<_>, Vec<_>) =
            captured.into_iter().partition(|captured| snapshot.has_seen(captured.xid));
        self.unsettled.extend(later.iter().map(|captured| captured.xid));
        let message = wire::TableChunk {
            seq: until.get(),
            rows: chunk.rows,
            last_key: chunk.reach.encode().into(),
            done: chunk.reach.done,
            visible: to_wire(&visible),
            later: to_wire(&later),
        };
        let decoded = began.elapsed();
        self.send(Response::TableChunk(message)).await?;
        tracing::debug!(%tenant, ?flushed, ?settled, ?read, ?decoded, sent = ?began.elapsed(), "a chunk was read");
        self.cursor = until;
        Ok(())
    }

    /// Sends everything up to a position at which a snapshot stands, and a mark there. The session has the snapshot.
    pub(crate) async fn consistent(&mut self, cell: &Cell, tenant: &TenantId) -> Result<(Seq, Client), Refusal> {
        let client = self.stand(cell, tenant).await?;
        // Also for whoever would have to own without a seal.
        let sequences = cell.sequences(tenant).await.unwrap_or_default();
        self.cut(&Compare::All, sequences, Attempt(0)).await?;
        Ok((self.cursor, client))
    }

    /// Sends everything up to a position at which a snapshot stands.
    async fn stand(&mut self, cell: &Cell, tenant: &TenantId) -> Result<Client, Refusal> {
        let client = cell.database.reader().await?;
        let deadline = Instant::now() + SETTLE_MAX;
        loop {
            self.flush(cell, tenant).await?;
            let snapshot = self.settled(cell, tenant, &client).await?;
            cell.replication.barrier(SETTLE_MAX).await?;
            let captured = cell.replication.captures().after(tenant, self.cursor, u64::MAX);
            let seen = captured.iter().take_while(|captured| snapshot.has_seen(captured.xid)).count();
            let in_order = captured.iter().skip(seen).all(|captured| !snapshot.has_seen(captured.xid));
            if in_order {
                if let Some(last) = captured.get(..seen).and_then(<[_]>::last) {
                    let until = last.seq;
                    self.send_transactions(&captured[..seen], until).await?;
                }
                return Ok(client);
            }
            client.batch_execute("ROLLBACK").await?;
            if Instant::now() >= deadline {
                return Err(Refusal::new("BUSY", "commits become visible in another order than they are logged"));
            }
        }
    }

    /// Marks the place where the two cells are compared: here.
    pub(crate) async fn cut(
        &mut self,
        compare: &Compare,
        sequences: Vec<wire::TableSequence>,
        attempt: Attempt,
    ) -> Result<(), Refusal> {
        let keys = match compare {
            Compare::All => Vec::new(),
            Compare::Keys(keys) => {
                keys.iter().map(|(table, key)| wire::TableKey { table: *table, key: key.clone() }).collect()
            }
        };
        let all_rows = matches!(compare, Compare::All);
        self.send(Response::Cut(wire::Cut {
            seq: self.cursor.get(),
            all_rows,
            keys,
            sequences,
            attempt: attempt.0,
            by_bucket: false,
        }))
        .await
    }

    pub(crate) const fn cursor(&self) -> Seq {
        self.cursor
    }
}
