//! The watch: a snapshot, then every change, for ever.
//!
//! ```text
//! connect ──► Reset, Snapshot…, SnapshotEnd ──► Changes, Progress … ──► Disconnected ──► pause ──► connect
//!                                                                                       (another node, the same revision)
//! ```
//!
//! After a lost connection the watch goes on behind the last revision that it has handed out whole. A snapshot that was
//! cut short is begun anew, with a [`WatchEvent::Reset`] before it. Each change is handed out once and in order.

use std::collections::VecDeque;
use std::time::Duration;

use cell_model::{CellId, CellRecord, Limits, Lineage, Revision, TenantId};
use cell_protos::v1;
use cell_protos::v1::control_service_client::ControlServiceClient;
use cell_protos::v1::watch_response::Frame;
use cell_trust::{RoutedMapping, TrustedKeys, WatchFrame};
use futures::Stream;
use prost::Message;
use tonic::Streaming;

use crate::ControlClient;
use crate::channel::told;

/// 256 mappings of cells with as many and as long endpoints as there may be make 17 MB; a server that sends more than this
/// is not ours.
const FRAME_BYTES_MAX: usize = 32 << 20;

/// What is to be watched.
#[derive(Debug, Clone)]
pub struct WatchOptions {
    /// Who is watching, for the server's logs.
    pub client: String,
    /// Moves that have ended, too. Routers do not need them.
    pub include_moves: bool,
    /// Only some tenants.
    pub filter: WatchFilter,
    /// Go on behind this revision of this history, instead of with a snapshot.
    pub resume: Option<(Lineage, Revision)>,
    /// How often to be told progress; a stream that is silent for four times as long is given up.
    pub progress: Duration,
    /// Whose signatures to believe. Without it signatures are not verified.
    pub trusted: Option<TrustedKeys>,
}

/// Which tenants are watched: everything that is set must fit.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct WatchFilter {
    /// This one only.
    pub tenant: Option<TenantId>,
    /// Those whose names begin so. Empty: all.
    pub prefix: String,
    /// Those of this cell. A tenant that goes elsewhere is told once more, with its new owner.
    pub cell: Option<CellId>,
}

impl WatchFilter {
    fn to_wire(&self) -> Option<v1::WatchFilter> {
        (*self != Self::default()).then(|| v1::WatchFilter {
            tenant: self.tenant.as_ref().map(ToString::to_string).unwrap_or_default(),
            prefix: self.prefix.clone(),
            cell: self.cell.as_ref().map(ToString::to_string).unwrap_or_default(),
        })
    }
}

impl Default for WatchOptions {
    fn default() -> Self {
        Self {
            client: String::new(),
            include_moves: false,
            filter: WatchFilter::default(),
            resume: None,
            progress: Duration::from_secs(1),
            trusted: None,
        }
    }
}

/// One thing that a watch tells.
#[derive(Debug, Clone, PartialEq)]
pub enum WatchEvent {
    /// Forget everything: a snapshot follows.
    Reset,
    /// Part of a snapshot.
    Snapshot(Vec<WatchItem>),
    /// The snapshot is complete.
    SnapshotEnd {
        /// It is as of this revision.
        revision: Revision,
        /// In this history.
        lineage: Lineage,
    },
    /// Every change up to a revision since the one before.
    Changes {
        /// Up to here.
        revision: Revision,
        /// In order.
        items: Vec<WatchItem>,
    },
    /// Nothing has changed up to this revision but what was told.
    Progress {
        /// Up to here.
        revision: Revision,
    },
    /// The connection is lost. The watch goes on by itself.
    Disconnected {
        /// Why.
        reason: String,
    },
}

/// One record; under a signature that was verified, where trusted keys were given.
#[derive(Debug, Clone, PartialEq)]
pub enum WatchItem {
    /// A tenant's mapping.
    Mapping(RoutedMapping),
    /// A cell.
    Cell(CellRecord),
    /// A move that has ended.
    MoveEnded(Box<v1::Move>),
    /// The limits of the fleet.
    Limits(Limits),
}

impl ControlClient {
    /// Watches for as long as the stream is polled. It never ends.
    pub fn watch(&self, options: WatchOptions) -> impl Stream<Item = WatchEvent> + Send + Unpin + 'static {
        let watcher = Watcher::new(self.clone(), options);
        Box::pin(futures::stream::unfold(watcher, |mut watcher| async move {
            let event = watcher.next().await;
            Some((event, watcher))
        }))
    }
}

struct Watcher {
    client: ControlClient,
    options: WatchOptions,
    /// Everything up to here has been handed out.
    known: Option<(Lineage, Revision)>,
    frames: Option<(String, Streaming<v1::WatchResponse>)>,
    in_snapshot: bool,
    pause: Duration,
    ready: VecDeque<WatchEvent>,
}

impl Watcher {
    fn new(client: ControlClient, options: WatchOptions) -> Self {
        let pause = client.options.retry.0;
        let known = options.resume;
        Self { client, options, known, frames: None, in_snapshot: false, pause, ready: VecDeque::new() }
    }

    async fn next(&mut self) -> WatchEvent {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return event;
            }
            let Some((node, frames)) = &mut self.frames else {
                match self.connect().await {
                    Ok(connected) => self.frames = Some(connected),
                    Err((node, reason)) => return self.disconnected(&node, reason).await,
                }
                continue;
            };
            let node = node.clone();
            let patience = self.options.progress * 4 + Duration::from_secs(1);
            let taken = match tokio::time::timeout(patience, frames.message()).await {
                Ok(Ok(Some(response))) => self.take(response),
                Ok(Ok(None)) => Err("the stream has ended".to_owned()),
                Ok(Err(status)) => Err(told(&status)),
                Err(_) => Err(format!("nothing was heard for {patience:?}")),
            };
            if let Err(reason) = taken {
                return self.disconnected(&node, reason).await;
            }
        }
    }

    async fn connect(&self) -> Result<(String, Streaming<v1::WatchResponse>), (String, String)> {
        let node = self.client.next_node().ok_or_else(|| (String::new(), "no endpoint is given".to_owned()))?;
        let failed = |reason: String| (node.clone(), reason);
        let channel = self.client.channels.to(&node).map_err(|status| failed(told(&status)))?;
        let (lineage, after_revision) = self.known.unwrap_or_default();
        let progress = u32::try_from(self.options.progress.as_millis()).unwrap_or(u32::MAX);
        let request = v1::WatchRequest {
            lineage: lineage.get(),
            after_revision: after_revision.get(),
            progress_interval_ms: progress,
            client: self.options.client.clone(),
            include_moves: self.options.include_moves,
            filter: self.options.filter.to_wire(),
        };
        let mut client = ControlServiceClient::new(channel).max_decoding_message_size(FRAME_BYTES_MAX);
        match tokio::time::timeout(self.client.options.attempt, client.watch(request)).await {
            Ok(Ok(response)) => Ok((node, response.into_inner())),
            Ok(Err(status)) => Err(failed(told(&status))),
            Err(_) => Err(failed("it has not answered".to_owned())),
        }
    }

    /// Waits a little before the event is handed out, so that no reader can make this spin.
    async fn disconnected(&mut self, node: &str, reason: String) -> WatchEvent {
        self.frames = None;
        self.in_snapshot = false;
        self.client.avoid_node(node);
        tokio::time::sleep(self.client.options.random.jitter(self.pause)).await;
        self.pause = (self.pause * 2).min(self.client.options.retry.1 * 4);
        WatchEvent::Disconnected { reason: format!("{node}: {reason}") }
    }

    fn take(&mut self, response: v1::WatchResponse) -> Result<(), String> {
        let frame = response.frame.ok_or("a frame without content: client and server do not fit together")?;
        match frame {
            Frame::LineageChanged(_) => self.known = None,
            Frame::Snapshot(part) => {
                let items = items(self.open(part)?.items)?;
                self.begin_snapshot();
                self.ready.push_back(WatchEvent::Snapshot(items));
            }
            Frame::SnapshotEnd(end) => {
                self.begin_snapshot();
                self.in_snapshot = false;
                let (revision, lineage) = (Revision(end.revision), Lineage(end.lineage));
                self.known = Some((lineage, revision));
                self.pause = self.client.options.retry.0;
                self.ready.push_back(WatchEvent::SnapshotEnd { revision, lineage });
            }
            Frame::Changes(changes) => {
                let changes = self.open(changes)?;
                let (revision, items) = (Revision(changes.revision), items(changes.items)?);
                if self.advance(revision)? {
                    self.ready.push_back(WatchEvent::Changes { revision, items });
                }
            }
            Frame::Progress(progress) => {
                let revision = Revision(progress.revision);
                // A node that lags behind what was handed out already may repeat itself.
                if self.in_snapshot || self.known.is_none() {
                    return Err("progress before the end of the snapshot".into());
                }
                if self.known.is_some_and(|(_, known)| known <= revision) {
                    self.advance(revision)?;
                    self.ready.push_back(WatchEvent::Progress { revision });
                }
                self.pause = self.client.options.retry.0;
            }
        }
        Ok(())
    }

    fn begin_snapshot(&mut self) {
        if !self.in_snapshot {
            self.in_snapshot = true;
            self.known = None;
            self.ready.push_back(WatchEvent::Reset);
        }
    }

    /// Whether `revision` is new. Items are read before it counts as handed out.
    fn advance(&mut self, revision: Revision) -> Result<bool, String> {
        let (lineage, known) =
            self.known.filter(|_| !self.in_snapshot).ok_or("changes before the end of the snapshot")?;
        if revision <= known {
            return Ok(false);
        }
        self.known = Some((lineage, revision));
        Ok(true)
    }

    /// What is in a frame, if it is believed.
    fn open(&self, signed: v1::SignedItems) -> Result<v1::WatchItems, String> {
        if let Some(trusted) = &self.options.trusted {
            let verified = WatchFrame(&signed.items).verify(&signed.key_id, &signed.signature, trusted);
            verified.map_err(|error| format!("a frame is not believed: {error}"))?;
        }
        v1::WatchItems::decode(signed.items).map_err(|error| format!("a frame: {error}"))
    }
}

fn items(wire: Vec<v1::WatchItem>) -> Result<Vec<WatchItem>, String> {
    wire.into_iter().map(item).collect()
}

fn item(wire: v1::WatchItem) -> Result<WatchItem, String> {
    use v1::watch_item::Item;
    match wire.item.ok_or("an item without content: client and server do not fit together")? {
        Item::Mapping(mapping) => {
            RoutedMapping::decode(&mapping).map(WatchItem::Mapping).map_err(|error| format!("a mapping: {error}"))
        }
        Item::Cell(cell) => {
            CellRecord::try_from(cell).map(WatchItem::Cell).map_err(|error| format!("a cell: {error}"))
        }
        Item::MoveEnded(ended) => Ok(WatchItem::MoveEnded(Box::new(ended))),
        Item::Limits(limits) => Ok(WatchItem::Limits(limits.into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cell_trust::SigningKey;

    fn watcher(trusted: &SigningKey) -> Watcher {
        let client = ControlClient::new(vec!["127.0.0.1:1".into()], crate::ClientOptions::default());
        let resume = Some((Lineage(1), Revision(5)));
        let trusted = Some(TrustedKeys::new([trusted.public()]));
        Watcher::new(client, WatchOptions { resume, trusted, ..WatchOptions::default() })
    }

    fn signed(key: &SigningKey, revision: u64, items: Vec<v1::WatchItem>) -> v1::SignedItems {
        let items = v1::WatchItems { revision, items }.encode_to_vec();
        let signature = WatchFrame(&items).sign(key).to_vec().into();
        v1::SignedItems { items: items.into(), key_id: key.public().key_id(), signature }
    }

    fn changes(key: &SigningKey, revision: u64, items: Vec<v1::WatchItem>) -> v1::WatchResponse {
        v1::WatchResponse { frame: Some(Frame::Changes(signed(key, revision, items))) }
    }

    #[test]
    fn a_frame_that_is_not_believed_or_not_understood_is_asked_for_again() {
        let (key, other) = (SigningKey::generate(), SigningKey::generate());
        let mut watcher = watcher(&key);
        let told = watcher.take(changes(&other, 6, Vec::new())).unwrap_err();
        assert!(told.contains("not trusted here"), "{told}");
        let told = watcher.take(changes(&key, 6, vec![v1::WatchItem { item: None }])).unwrap_err();
        assert!(told.contains("an item without content"), "{told}");
        let mut forged = changes(&key, 6, Vec::new());
        if let Some(Frame::Changes(signed)) = &mut forged.frame {
            signed.items = v1::WatchItems { revision: 7, items: Vec::new() }.encode_to_vec().into();
        }
        let told = watcher.take(forged).unwrap_err();
        assert!(told.contains("does not fit"), "{told}");
        let part = v1::WatchResponse { frame: Some(Frame::Snapshot(signed(&other, 6, Vec::new()))) };
        let told = watcher.take(part).unwrap_err();
        assert!(told.contains("not trusted here"), "{told}");
        assert_eq!((watcher.known, watcher.ready.len()), (Some((Lineage(1), Revision(5))), 0));

        watcher.take(changes(&key, 6, Vec::new())).unwrap();
        watcher.take(changes(&key, 6, Vec::new())).unwrap();
        assert_eq!(watcher.known, Some((Lineage(1), Revision(6))));
        assert_eq!(watcher.ready, [WatchEvent::Changes { revision: Revision(6), items: Vec::new() }]);
    }
}
