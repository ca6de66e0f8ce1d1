//! What a follower asks for: the next chunk of its copy, and, where that differs, a page of keys and hashes, or rows anew. All of it
//! is read under the tenant's lock, at one change, and sent behind every change up to that one.

use cell_model::{Digest, Seq};
use cell_protos::v1 as wire;
use cell_protos::v1::follow_request::Request;
use cell_protos::v1::follow_response::Response;

use super::{CHUNK_BYTES, Feed};
use crate::capture::digest_to_wire;
use crate::durable::Ticket;
use crate::follow::mending::{PAGE_ROWS, key_from_wire, key_to_wire};
use crate::refusal::Refusal;

/// Rows that are asked for anew at once.
const KEYS_MAX: usize = 1_000;

/// See the module.
pub(super) enum Wanted {
    /// Behind this key.
    Chunk(Vec<u8>),
    /// So many rows behind this key.
    Page { after: Vec<u8>, rows: usize },
    /// Under these keys.
    Rows(Vec<Vec<u8>>),
}

impl Wanted {
    /// Nothing where a store of Cellway's own is not asked so.
    pub(super) fn read(request: Request) -> Option<Self> {
        match request {
            Request::NextChunk(next) => Some(Self::Chunk(next.after_key.to_vec())),
            Request::Sample(sample) => {
                let after = match sample.after_key.as_slice() {
                    [] => Vec::new(),
                    parts => key_from_wire(parts)?,
                };
                let rows = usize::try_from(sample.rows).unwrap_or(PAGE_ROWS).clamp(1, PAGE_ROWS);
                Some(Self::Page { after, rows })
            }
            Request::Recopy(wanted) if wanted.keys.len() <= KEYS_MAX => {
                let keys = wanted.keys.iter().map(|key| key_from_wire(&key.key));
                Some(Self::Rows(keys.collect::<Option<_>>()?))
            }
            Request::Recopy(_) | Request::Start(_) | Request::Ack(_) | Request::Buckets(_) | Request::Rows(_) => {
                None
            }
        }
    }
}

/// Some of the rows that were asked for.
struct Anew {
    keys: Vec<wire::TableKey>,
    stored: Vec<wire::Row>,
    digest: Digest,
}

impl Feed {
    pub(super) async fn send_page(&mut self, after: &[u8], rows: usize) -> Result<(), Refusal> {
        let (listed, seq, ticket) = self.list(after, rows)?;
        self.come_to(seq, ticket).await?;
        let done = listed.len() < rows;
        self.send(Response::Cut(wire::Cut { seq: seq.get(), ..wire::Cut::default() })).await?;
        self.send(Response::Rows(wire::ListedRows { rows: listed, done })).await
    }

    pub(super) async fn send_rows(&mut self, keys: &[Vec<u8>]) -> Result<(), Refusal> {
        let (Anew { keys, stored, digest }, seq, ticket) = self.read_anew(keys)?;
        self.come_to(seq, ticket).await?;
        let digest = Some(digest_to_wire(digest));
        let rows = wire::RecopiedRows { seq: seq.get(), keys, stored, digest, ..wire::RecopiedRows::default() };
        self.send(Response::Recopied(rows)).await
    }

    /// Whatever was read at `seq` is durable, and every change up to it is sent.
    async fn come_to(&mut self, seq: Seq, ticket: Ticket) -> Result<(), Refusal> {
        if self.cursor.is_none() {
            return Err(Refusal::new("CAPTURE_GAP", "rows are compared of a copy that there is not"));
        }
        self.tenants.wait(ticket).await?;
        self.send_until(seq).await
    }

    fn list(&self, after: &[u8], limit: usize) -> Result<(Vec<wire::ListedRow>, Seq, Ticket), Refusal> {
        let core = self.tenant.lock();
        let (seq, ticket) = self.last(&core)?;
        let mut from = core.keys.row(after);
        if !after.is_empty() {
            from.push(0);
        }
        let stored = self.tenants.durable.engine().scan(&from, &core.keys.rows_end(), limit)?;
        let list = |(key, value): (Vec<u8>, Vec<u8>)| {
            let key = core.keys.strip_row(&key);
            let hash = core.hash.of(&key, &value).to_be_bytes().to_vec();
            wire::ListedRow { key: Some(key_to_wire(&key)), hash: hash.into() }
        };
        Ok((stored.into_iter().map(list).collect(), seq, ticket))
    }

    /// As many as go into one message, at least one.
    fn read_anew(&self, wanted: &[Vec<u8>]) -> Result<(Anew, Seq, Ticket), Refusal> {
        let core = self.tenant.lock();
        let (seq, ticket) = self.last(&core)?;
        let digest = core.position().map(|position| position.digest).unwrap_or_default();
        let mut anew = Anew { keys: Vec::new(), stored: Vec::new(), digest };
        let mut bytes = 0;
        for key in wanted {
            if bytes >= CHUNK_BYTES {
                break;
            }
            bytes += key.len();
            anew.keys.push(key_to_wire(key));
            if let Some(value) = self.tenants.durable.engine().get(&core.keys.row(key))? {
                bytes += value.len();
                anew.stored.push(wire::Row { key: key.clone().into(), value: value.into() });
            }
        }
        Ok((anew, seq, ticket))
    }
}
