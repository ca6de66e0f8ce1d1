//! What clients say to a node: frames of postcard over a simulated stream, one request and its answer at a time; a
//! watch takes its stream for itself.
//!
//! The front stands for `cell-control`: it adds nothing to the store, so that what clients see is what the store does.

use std::io;
use std::time::Duration;

use cell_model::{AuditEntry, Change, Envelope, FleetHead, Lineage, Reply, Revision};
use cell_store::{Feed, ReadError, Store, SubmitError, Subscription};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use turmoil::net::{TcpListener, TcpStream};

/// Where the front of a node listens.
pub(crate) const PORT: u16 = 7_001;
/// The largest frame: a whole fleet fits.
const FRAME_BYTES_MAX: u32 = 16 * 1024 * 1024;
/// What is written at once; a simulated stream has a bounded number of writes on their way.
const WRITE_BYTES: usize = 64 * 1024;

/// A question.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum Ask {
    /// Run a command.
    Submit(Box<Envelope>),
    /// Read linearizably.
    Read,
    /// Up to where this node holds it.
    Revision,
    /// Everything that this node holds.
    Fleet,
    /// Changes from here on; the answers are [`News`].
    Watch(Option<(Lineage, Revision)>),
}

/// An answer.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum Answer {
    /// The command ran.
    Ran(Reply),
    /// Everything up to here was there when it was asked.
    Read(Revision),
    /// The whole state.
    Fleet(FleetHead, Vec<Change>, Vec<AuditEntry>),
    /// It surely did not run here; perhaps this node leads.
    NotRun(Option<String>),
    /// It may have run.
    Unknown,
}

/// One message of a watch, as in [`Feed`].
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum News {
    /// Forget everything.
    Reset(Lineage),
    /// Part of a snapshot.
    Snapshot(Vec<Change>),
    /// The snapshot is whole.
    SnapshotEnd(Revision),
    /// Whole revisions in order.
    Changes(Vec<(Revision, Vec<Change>)>),
}

impl From<Feed> for News {
    fn from(feed: Feed) -> Self {
        match feed {
            Feed::Reset { lineage, .. } => Self::Reset(lineage),
            Feed::Snapshot { records, .. } => Self::Snapshot(records),
            Feed::SnapshotEnd { revision, .. } => Self::SnapshotEnd(revision),
            Feed::Changes(committed) => {
                Self::Changes(committed.iter().map(|one| (one.revision, one.changes.clone())).collect())
            }
        }
    }
}

/// Writes one frame.
async fn put(stream: &mut TcpStream, message: &impl Serialize) -> io::Result<()> {
    let body = postcard::to_allocvec(message).map_err(io::Error::other)?;
    let length = u32::try_from(body.len()).map_err(io::Error::other)?;
    let mut frame = length.to_be_bytes().to_vec();
    frame.extend(body);
    for part in frame.chunks(WRITE_BYTES) {
        stream.write_all(part).await?;
    }
    Ok(())
}

/// Reads one frame.
async fn get<T: DeserializeOwned>(stream: &mut TcpStream) -> io::Result<T> {
    let length = stream.read_u32().await?;
    if length > FRAME_BYTES_MAX {
        return Err(io::Error::other("the frame is too long"));
    }
    let mut body = vec![0; usize::try_from(length).map_err(io::Error::other)?];
    stream.read_exact(&mut body).await?;
    postcard::from_bytes(&body).map_err(io::Error::other)
}

/// Answers whoever connects, until the node ends.
pub(crate) async fn serve(store: Store, listener: TcpListener) -> io::Result<()> {
    loop {
        let (stream, _) = listener.accept().await?;
        let store = store.clone();
        tokio::spawn(async move {
            // A connection that breaks is the client's to open again.
            drop(converse(&store, stream).await);
        });
    }
}

async fn converse(store: &Store, mut stream: TcpStream) -> io::Result<()> {
    loop {
        let answer = match get(&mut stream).await? {
            Ask::Submit(envelope) => submit(store, *envelope).await,
            Ask::Read => read(store).await,
            Ask::Revision => Answer::Read(store.view(|fleet| fleet.head().revision)),
            Ask::Fleet => store.view(|fleet| {
                let trail = fleet.audit().after(0).map(|entry| AuditEntry::clone(entry)).collect();
                Answer::Fleet(fleet.head().clone(), fleet.records().collect(), trail)
            }),
            Ask::Watch(after) => return follow(store.subscribe(after), stream).await,
        };
        put(&mut stream, &answer).await?;
    }
}

async fn submit(store: &Store, envelope: Envelope) -> Answer {
    match store.submit(envelope).await {
        Ok(reply) => Answer::Ran(reply),
        Err(SubmitError::NotLeader { leader }) => Answer::NotRun(leader),
        Err(
            SubmitError::NoQuorum { .. }
            | SubmitError::Busy { .. }
            | SubmitError::DiskFull { .. }
            | SubmitError::TooLarge { .. }
            | SubmitError::Stopped,
        ) => Answer::NotRun(None),
        Err(SubmitError::Unknown { .. }) => Answer::Unknown,
    }
}

async fn read(store: &Store) -> Answer {
    match store.read_index().await {
        Ok(revision) => Answer::Read(revision),
        Err(ReadError::NotLeader { leader }) => Answer::NotRun(leader),
        Err(ReadError::Unavailable { .. } | ReadError::Stopped) => Answer::NotRun(None),
    }
}

async fn follow(mut subscription: Subscription, mut stream: TcpStream) -> io::Result<()> {
    while let Ok(feed) = subscription.next().await {
        put(&mut stream, &News::from(feed)).await?;
    }
    Ok(())
}

/// A client's connection to one node. After an error it is of no more use.
#[derive(Debug)]
pub(crate) struct Connection(TcpStream);

impl Connection {
    /// Connects to `node` within a deadline.
    pub(crate) async fn open(node: &str, deadline: Duration) -> io::Result<Self> {
        let stream = tokio::time::timeout(deadline, TcpStream::connect((node, PORT))).await??;
        Ok(Self(stream))
    }

    /// Asks and waits for the answer within a deadline.
    pub(crate) async fn ask(&mut self, ask: &Ask, deadline: Duration) -> io::Result<Answer> {
        tokio::time::timeout(deadline, async {
            put(&mut self.0, ask).await?;
            get(&mut self.0).await
        })
        .await?
    }

    /// Begins a watch.
    pub(crate) async fn watch(mut self, after: Option<(Lineage, Revision)>) -> io::Result<Watch> {
        put(&mut self.0, &Ask::Watch(after)).await?;
        Ok(Watch(self.0))
    }
}

/// A running watch.
#[derive(Debug)]
pub(crate) struct Watch(TcpStream);

impl Watch {
    /// What comes next. Silence for longer than `patience` counts as a broken connection.
    pub(crate) async fn next(&mut self, patience: Duration) -> io::Result<News> {
        tokio::time::timeout(patience, get(&mut self.0)).await?
    }
}
