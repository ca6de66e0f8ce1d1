//! How a snapshot travels to another node: in chunks, each with a checksum, resumed where it was cut off.
//!
//! ```text
//! leader                                       follower
//!   │ SnapshotProgress(name) ─────────────────►  │  name: what it covers, its length, its digest
//!   │ ◄──────────────────────────── have: bytes  │  of a stream of the same name that was cut off; or 0
//!   │ Resume(name, from = have), Chunk…, End ──► │  whole? digest? readable? of this cluster? then Raft hears of it
//! ```
//!
//! What has arrived of an unfinished snapshot is kept until another one is offered, or the node ends.

use std::io::{Read, Write};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use cell_protos::v1::RaftMessage;
use tokio::sync::mpsc;
use tonic::{Status, Streaming};

use crate::codec;
use crate::error::EngineError;
use crate::machine::MachineShared;
use crate::offload::offload;
use crate::snapshot::{self, Incoming, SnapshotData};
use crate::wire::{WireSnapshotMeta, WireSnapshotName, WireSnapshotPart, WireVote};

/// How long the next part of a snapshot may take.
const PART_DEADLINE: Duration = Duration::from_secs(10);
/// The largest snapshot that is taken.
const SNAPSHOT_BYTES_MAX: u64 = 16 * 1024 * 1024 * 1024;
/// Pieces of a snapshot on their way.
const CHUNK_BYTES: usize = 1024 * 1024;
const CHUNKS_AHEAD: usize = 4;

fn reading(error: std::io::Error) -> EngineError {
    EngineError::Io { operation: "reading a snapshot", reason: error.to_string() }
}

/// What names a snapshot that is to be sent. Reads it once.
pub(crate) async fn name(data: &SnapshotData, meta: WireSnapshotMeta) -> Result<WireSnapshotName, EngineError> {
    let (blocks, data) = (data.blocks(), data.clone());
    offload(blocks, "reading a snapshot", move || {
        let mut hasher = blake3::Hasher::new();
        let bytes = std::io::copy(&mut data.reader(), &mut hasher).map_err(reading)?;
        Ok(WireSnapshotName { meta, bytes, digest: *hasher.finalize().as_bytes() })
    })
    .await
}

/// A snapshot on its way out, in messages like `envelope`. The stream ends early where nobody reads it any more.
pub(crate) fn send(
    data: SnapshotData,
    envelope: RaftMessage,
    vote: WireVote,
    name: WireSnapshotName,
    from: u64,
) -> (mpsc::Receiver<RaftMessage>, impl Future<Output = Result<(), EngineError>>) {
    let (parts, stream) = mpsc::channel(CHUNKS_AHEAD);
    (stream, feed(data, envelope, vote, name, from, parts))
}

async fn feed(
    data: SnapshotData,
    envelope: RaftMessage,
    vote: WireVote,
    name: WireSnapshotName,
    from: u64,
    parts: mpsc::Sender<RaftMessage>,
) -> Result<(), EngineError> {
    let blocks = data.blocks();
    let message =
        move |part: &WireSnapshotPart| RaftMessage { payload: codec::seal(part).into(), ..envelope.clone() };
    let digest = name.digest;
    let mut reader = data.reader_from(from);
    let mut next = message(&WireSnapshotPart::Resume { vote, name, from });
    while parts.send(next).await.is_ok() {
        let seal = message.clone();
        let read = move || {
            let mut chunk = Vec::with_capacity(CHUNK_BYTES);
            (&mut reader).take(CHUNK_BYTES as u64).read_to_end(&mut chunk).map_err(reading)?;
            // Sealed here, too: a megabyte of it takes milliseconds, and this is fed on Raft's thread.
            let chunk = (!chunk.is_empty()).then(|| seal(&WireSnapshotPart::Chunk(chunk)));
            Ok((reader, chunk))
        };
        let (rest, chunk) = offload(blocks, "reading a snapshot", read).await?;
        let Some(chunk) = chunk else {
            // Nobody reads it any more where the call has ended.
            drop(parts.send(message(&WireSnapshotPart::End { digest })).await);
            break;
        };
        (reader, next) = (rest, chunk);
    }
    Ok(())
}

/// Where a node puts together what arrives: one snapshot at a time.
#[derive(Debug, Default)]
pub(crate) struct Arrivals(Mutex<Option<Arriving>>);

/// A snapshot of which the beginning has arrived.
#[derive(Debug)]
struct Arriving {
    name: WireSnapshotName,
    incoming: Incoming,
    hasher: Box<blake3::Hasher>,
    received: u64,
}

impl Arrivals {
    fn slot(&self) -> std::sync::MutexGuard<'_, Option<Arriving>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How much of this snapshot is here already.
    pub(crate) fn have(&self, name: &WireSnapshotName) -> u64 {
        self.slot().as_ref().filter(|arriving| arriving.name == *name).map_or(0, |arriving| arriving.received)
    }

    /// Takes a whole snapshot down and checks it: a bad one must not stop this node, so Raft does not hear of it.
    /// What a broken stream has brought stays here.
    pub(crate) async fn receive(
        &self,
        machine: &Arc<MachineShared>,
        cluster: u64,
        name: &WireSnapshotName,
        from: u64,
        stream: &mut Streaming<RaftMessage>,
    ) -> Result<SnapshotData, Status> {
        if name.bytes > SNAPSHOT_BYTES_MAX {
            return Err(Status::invalid_argument(format!("{} bytes are too many for a snapshot", name.bytes)));
        }
        let kept = self.slot().take();
        let mut arriving = match kept {
            Some(kept) if kept.name == *name && kept.received == from => kept,
            _ if from == 0 => Arriving {
                name: name.clone(),
                incoming: machine.depot().begin().map_err(|error| local(&error))?,
                hasher: Box::default(),
                received: 0,
            },
            _ => return Err(Status::aborted("the beginning of this snapshot is not here any more")),
        };
        let blocks = machine.depot().blocks();
        loop {
            let part = match next_part(stream, cluster).await {
                Ok(part) => part,
                Err(status) => {
                    *self.slot() = Some(arriving);
                    return Err(status);
                }
            };
            match part {
                WireSnapshotPart::Chunk(chunk) => arriving = arriving.put(chunk, blocks).await?,
                WireSnapshotPart::End { digest } => {
                    let found = *arriving.hasher.finalize().as_bytes();
                    if arriving.received != name.bytes || found != digest || found != name.digest {
                        return Err(Status::data_loss("the snapshot did not arrive as it was sent"));
                    }
                    break;
                }
                WireSnapshotPart::Resume { .. } => return Err(Status::invalid_argument("a second beginning")),
            }
        }
        let finished = offload(blocks, "syncing a snapshot", move || arriving.incoming.finish()).await;
        check(machine, cluster, finished.map_err(|error| local(&error))?, name.meta.clone()).await
    }
}

impl Arriving {
    async fn put(mut self, chunk: Vec<u8>, blocks: bool) -> Result<Self, Status> {
        let received = self.received + chunk.len() as u64;
        if received > self.name.bytes {
            return Err(Status::data_loss("the snapshot is longer than offered"));
        }
        let failed =
            |error: std::io::Error| EngineError::Io { operation: "writing a snapshot", reason: error.to_string() };
        let put = move || {
            self.hasher.update(&chunk);
            self.incoming.write_all(&chunk).map_err(failed)?;
            self.received = received;
            Ok(self)
        };
        offload(blocks, "writing a snapshot", put).await.map_err(|error| local(&error))
    }
}

/// The next part of a stream, within a deadline.
pub(crate) async fn next_part(
    stream: &mut Streaming<RaftMessage>,
    cluster: u64,
) -> Result<WireSnapshotPart, Status> {
    let late = |_| Status::deadline_exceeded("the next part of the snapshot did not come");
    let part = tokio::time::timeout(PART_DEADLINE, stream.message()).await.map_err(late)??;
    let part = part.ok_or_else(|| Status::unavailable("the snapshot was cut off"))?;
    if part.cluster_id != cluster {
        return Err(Status::failed_precondition("WRONG_CLUSTER: a part of the snapshot is of another cluster"));
    }
    codec::open(&part.payload, || "a part of the snapshot".into())
        .map_err(|error| Status::invalid_argument(error.to_string()))
}

fn local(error: &EngineError) -> Status {
    Status::unavailable(error.to_string())
}

/// Reads the whole snapshot.
async fn check(
    machine: &Arc<MachineShared>,
    cluster: u64,
    data: SnapshotData,
    meta: WireSnapshotMeta,
) -> Result<SnapshotData, Status> {
    let checked = offload(machine.depot().blocks(), "checking a snapshot", move || {
        let refuse = |detail: String| EngineError::Corrupt { what: "snapshot".into(), detail };
        let contents = snapshot::read(&mut data.reader())?;
        if contents.head.cluster.0 != cluster {
            return Err(refuse(format!("it is of cluster {}", contents.head.cluster)));
        }
        if (WireSnapshotMeta { last: contents.head.applied, membership: contents.head.membership }) != meta {
            return Err(refuse("it covers something else than was offered".into()));
        }
        Ok(data)
    });
    checked.await.map_err(|error| local(&error))
}

#[cfg(test)]
mod tests;
