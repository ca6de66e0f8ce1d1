//! What a follower asks for whose copy differs: what the rows of each bucket add up to at a cut, the rows of those that differ, and
//! rows anew.
//!
//! A snapshot that stands at a position is all that is needed: every change up to it was sent before, so the follower is at it when
//! it comes to the mark, or to the rows, and every later change comes behind them. The rows are read while the stream waits;
//! sums and lists are read beside it, for as long as that takes.

use std::sync::Arc;
use std::time::Duration;

use cell_model::{TenantId, Uid};
use cell_protos::v1 as wire;
use cell_protos::v1::follow_request::Request;
use cell_protos::v1::follow_response::Response;
use tokio::sync::mpsc;
use tokio_postgres::Client;
use tonic::Status;

use super::{Feed, Stream};
use crate::capture::digest_to_wire;
use crate::postgres::captures::RowKey;
use crate::postgres::cell::Cell;
use crate::postgres::narrow::Stretch;
use crate::postgres::{backfill, narrow};
use crate::refusal::Refusal;

/// How long the snapshot of an examination waits for the follower to say which rows it wants listed.
const PATIENCE: Duration = Duration::from_secs(120);
/// Rows in one message of a list.
const LISTED_AT_ONCE: usize = 1_000;

/// Rows of a sample, at the most.
const SAMPLE_MAX: u32 = 1_000;

/// What a follower has asked for.
pub(super) enum Asked {
    Buckets,
    Rows(Vec<u32>),
    Recopy(Vec<RowKey>),
    Sample(Stretch),
}

impl Asked {
    pub(super) fn read(request: Request) -> Option<Self> {
        Some(match request {
            Request::Buckets(_) => Self::Buckets,
            Request::Rows(wanted) => Self::Rows(wanted.buckets),
            Request::Recopy(wanted) => {
                Self::Recopy(wanted.keys.into_iter().map(|key| (key.table, key.key)).collect())
            }
            Request::Sample(wire::SampleWanted { table, after_key: after, rows }) => {
                Self::Sample(Stretch { table, after, until: None, rows: rows.min(SAMPLE_MAX) })
            }
            Request::Start(_) | Request::Ack(_) | Request::NextChunk(_) => return None,
        })
    }
}

/// The snapshot at which buckets were added up last waits here for what is wanted of it. A newer one takes its place, and with the
/// stream it is over.
#[derive(Default)]
pub(super) struct Examination {
    wanted: Option<mpsc::Sender<Vec<u32>>>,
}

impl Stream {
    pub(super) async fn mend(
        &self,
        feed: &mut Feed,
        asked: Asked,
        examination: &mut Examination,
    ) -> Result<(), Refusal> {
        self.last()?;
        match asked {
            Asked::Buckets => match feed.stand(&self.cell, &self.tenant.id).await {
                Ok(snapshot) => {
                    let seq = feed.cursor.get();
                    let cut = wire::Cut { seq, by_bucket: true, ..wire::Cut::default() };
                    feed.send(Response::Cut(cut)).await?;
                    let (wanted, wants) = mpsc::channel(1);
                    examination.wanted = Some(wanted);
                    self.examine(snapshot, wants, feed.outbox.clone());
                }
                Err(refusal) => feed.send(not_examined(&refusal)).await?,
            },
            Asked::Rows(buckets) => {
                let is_taken = examination.wanted.take().is_some_and(|wanted| wanted.try_send(buckets).is_ok());
                if !is_taken {
                    let reason = "the snapshot at which the buckets were added up is gone";
                    feed.send(not_examined(&Refusal::new("BUSY", reason))).await?;
                }
            }
            Asked::Sample(stretch) => match self.sampled(feed, &stretch).await {
                Ok(rows) => feed.send(Response::Rows(rows)).await?,
                Err(refusal) => feed.send(not_examined(&refusal)).await?,
            },
            Asked::Recopy(keys) => match self.read_anew(feed, &keys).await {
                Ok(rows) => feed.send(Response::Recopied(rows)).await?,
                Err(refusal) => feed.send(not_examined(&refusal)).await?,
            },
        }
        Ok(())
    }

    async fn read_anew(&self, feed: &mut Feed, keys: &[RowKey]) -> Result<wire::RecopiedRows, Refusal> {
        let tenant = &self.tenant.id;
        let snapshot = feed.stand(&self.cell, tenant).await?;
        let catalogue = self.cell.catalogue(tenant).await?;
        let (keys, rows) = backfill::read_keys(&snapshot, &catalogue, (tenant, &feed.form), keys).await?;
        let keys = keys.into_iter().map(|(table, key)| wire::TableKey { table, key }).collect();
        Ok(wire::RecopiedRows { seq: feed.cursor.get(), keys, rows, ..wire::RecopiedRows::default() })
    }

    /// The mark at the cut, and the rows there: few, so the stream waits for them.
    async fn sampled(&self, feed: &mut Feed, stretch: &Stretch) -> Result<wire::ListedRows, Refusal> {
        let tenant = &self.tenant.id;
        let snapshot = feed.stand(&self.cell, tenant).await?;
        let cut = wire::Cut { seq: feed.cursor.get(), by_bucket: true, ..wire::Cut::default() };
        feed.send(Response::Cut(cut)).await?;
        let catalogue = self.cell.catalogue(tenant).await?;
        let listed = narrow::list_stretch(&snapshot, &catalogue, (tenant, self.uid), stretch).await?;
        let done = listed.len() < usize::try_from(stretch.rows).unwrap_or(usize::MAX);
        Ok(wire::ListedRows { rows: listed.iter().map(to_wire).collect(), done })
    }

    fn examine(
        &self,
        snapshot: Client,
        wants: mpsc::Receiver<Vec<u32>>,
        outbox: mpsc::Sender<Result<wire::FollowResponse, Status>>,
    ) {
        let (cell, tenant, uid) = (Arc::clone(&self.cell), self.tenant.id.clone(), self.uid);
        self.cell.tasks.spawn(async move {
            let stop = cell.stop.clone();
            let answered = async {
                let answered = answer(&cell, (&tenant, uid), &snapshot, wants, &outbox).await;
                if let Err(refusal) = answered {
                    tracing::debug!(%tenant, %refusal, "a copy could not be examined");
                    let _gone = outbox.send(Ok(message(not_examined(&refusal)))).await;
                }
            };
            tokio::select! {
                () = answered => {}
                () = outbox.closed() => {}
                () = stop.cancelled() => {}
            }
        });
    }
}

const fn message(response: Response) -> wire::FollowResponse {
    wire::FollowResponse { response: Some(response) }
}

fn not_examined(refusal: &Refusal) -> Response {
    Response::NotExamined(wire::NotExamined { reason: refusal.to_string() })
}

fn to_wire(((table, key), hash): &narrow::Listed) -> wire::ListedRow {
    let key = Some(wire::TableKey { table: *table, key: key.clone() });
    wire::ListedRow { key, hash: hash.to_be_bytes().to_vec().into() }
}

async fn answer(
    cell: &Cell,
    of: (&TenantId, Uid),
    snapshot: &Client,
    mut wants: mpsc::Receiver<Vec<u32>>,
    outbox: &mpsc::Sender<Result<wire::FollowResponse, Status>>,
) -> Result<(), Refusal> {
    let gone = |_| super::gone();
    let catalogue = cell.catalogue(of.0).await?;
    let sums = narrow::sums(snapshot, &catalogue, of).await?;
    let bucket = |(number, sum)| wire::Bucket { number, digest: Some(digest_to_wire(sum)) };
    let buckets = wire::Buckets { buckets: sums.into_iter().map(bucket).collect() };
    outbox.send(Ok(message(Response::Buckets(buckets)))).await.map_err(gone)?;
    let Ok(Some(wanted)) = tokio::time::timeout(PATIENCE, wants.recv()).await else { return Ok(()) };
    let listed = narrow::list(snapshot, &catalogue, of, &wanted.into_iter().collect()).await?;
    for some in listed.chunks(LISTED_AT_ONCE) {
        let rows = wire::ListedRows { rows: some.iter().map(to_wire).collect(), done: false };
        outbox.send(Ok(message(Response::Rows(rows)))).await.map_err(gone)?;
    }
    let end = wire::ListedRows { rows: Vec::new(), done: true };
    outbox.send(Ok(message(Response::Rows(end)))).await.map_err(gone)
}
