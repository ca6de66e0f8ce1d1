//! Keeps the directory up to date: the watch, and the ping that says how fresh it is. Neither is ever on the path of a
//! request, and both go on for ever.

use std::sync::Arc;
use std::time::Duration;

use cell_client::{WatchEvent, WatchItem};
use cell_model::{CellRecord, ClusterId, Lineage, Revision};
use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use prometheus_client::metrics::counter::Counter;
use tokio::time::Instant;

use crate::directory::{Cursor, Directory, OtherCluster};
use crate::metrics::Metrics;
use crate::table::Draft;
use crate::ungated::OnTheirWay;

/// The control plane, as far as a router needs it.
pub trait ControlPlane: Send + Sync + 'static {
    /// Which cluster it is.
    fn cluster(&self) -> BoxFuture<'static, Result<ClusterId, String>>;
    /// Everything since `after`, or everything. Reconnects by itself.
    fn watch(&self, after: Option<(Lineage, Revision)>) -> BoxStream<'static, WatchEvent>;
    /// The revision up to which everything was committed when this was asked. Says along what this router holds.
    fn confirm(&self, nonce: u64, held: Held) -> BoxFuture<'static, Result<Confirmed, String>>;
}

/// What a router's table holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    /// Incarnation of the control plane's history.
    pub lineage: Lineage,
    /// In that history.
    pub revision: Revision,
    /// How old it may be, if anybody has ever confirmed it.
    pub staleness: Option<Duration>,
    /// Writes on their way to cells without a gate.
    pub on_their_way: OnTheirWay,
}

/// Everything up to `revision` was committed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Confirmed {
    /// Incarnation of the control plane's history.
    pub lineage: Lineage,
    /// In that history.
    pub revision: Revision,
    /// For how long after the question the table may be taken for fresh, if the control plane has said so.
    pub lease: Option<Duration>,
}

/// A ping that is not answered by then has failed.
const CONFIRM_TIME_MAX: Duration = Duration::from_secs(1);
/// Between two pings, however urgently they are wanted.
const CONFIRM_PAUSE_MIN: Duration = Duration::from_millis(5);
/// Before the watch is started anew from the beginning, and before a silent control plane is asked again who it is.
const RESTART_PAUSE: Duration = Duration::from_millis(500);

/// Follows the watch.
pub(crate) async fn follow(directory: Arc<Directory>, control: Arc<dyn ControlPlane>, metrics: Metrics) {
    recognise(&directory, control.as_ref()).await;
    loop {
        let after = directory.cursor().map(|cursor| (cursor.lineage, cursor.revision));
        let mut events = control.watch(after);
        let mut snapshot = Snapshot::default();
        while let Some(event) = events.next().await {
            if let Err(other) = take(&directory, &metrics.watch_disconnects, &mut snapshot, event) {
                give_up(&directory, other);
                break;
            }
        }
        tokio::time::sleep(RESTART_PAUSE).await;
    }
}

/// A table from a file may be another cluster's, and where that one happens to be at the same revision, the watch would
/// not show it. So the control plane is asked first; until it has answered, nothing counts as confirmed.
async fn recognise(directory: &Directory, control: &dyn ControlPlane) {
    while let Some(ours) = directory.cluster() {
        match control.cluster().await {
            Ok(theirs) if theirs == ours => break,
            Ok(theirs) => give_up(directory, OtherCluster { ours, theirs }),
            Err(reason) => {
                tracing::debug!(reason, "no control node says which cluster it is");
                tokio::time::sleep(RESTART_PAUSE).await;
            }
        }
    }
    directory.attach();
}

fn give_up(directory: &Directory, other: OtherCluster) {
    tracing::error!(
        code = "TABLE_OF_OTHER_CLUSTER", ours = %other.ours, theirs = %other.theirs,
        "the table is of another cluster than the control plane: it is dropped and fetched anew"
    );
    directory.forget();
}

/// A snapshot as it comes in.
#[derive(Default)]
struct Snapshot {
    draft: Draft,
    cells: Vec<CellRecord>,
}

fn take(
    directory: &Directory,
    disconnects: &Counter,
    snapshot: &mut Snapshot,
    event: WatchEvent,
) -> Result<(), OtherCluster> {
    match event {
        WatchEvent::Reset => *snapshot = Snapshot::default(),
        WatchEvent::Snapshot(items) => {
            let mut entries = Vec::with_capacity(items.len());
            for item in items {
                match item {
                    WatchItem::Mapping(routed) => entries.push(directory.entry(routed)?),
                    WatchItem::Cell(cell) => snapshot.cells.push(cell),
                    WatchItem::MoveEnded(_) | WatchItem::Limits(_) => {}
                }
            }
            directory.add(&mut snapshot.draft, &entries);
        }
        WatchEvent::SnapshotEnd { revision, lineage } => {
            let Snapshot { draft, cells } = std::mem::take(snapshot);
            tracing::info!(tenants = draft.count(), cells = cells.len(), %revision, %lineage, "table taken from the control plane");
            directory.replace(draft, cells, Cursor { lineage, revision });
        }
        WatchEvent::Changes { revision, items } => {
            let (mut cells, mut entries) = (Vec::new(), Vec::new());
            for item in items {
                match item {
                    WatchItem::Mapping(routed) => entries.push(directory.entry(routed)?),
                    WatchItem::Cell(cell) => cells.push(cell),
                    WatchItem::MoveEnded(_) | WatchItem::Limits(_) => {}
                }
            }
            // Before the tenants that go by them: a hold is kept otherwise where no gate is.
            if !cells.is_empty() {
                directory.install_cells(cells);
            }
            for entry in entries {
                directory.install(entry);
            }
            directory.advance(revision);
        }
        WatchEvent::Progress { revision } => directory.advance(revision),
        WatchEvent::Disconnected { reason } => {
            disconnects.inc();
            tracing::warn!(reason, "the watch has broken off");
        }
    }
    Ok(())
}

/// Asks again and again how far the control plane is.
pub(crate) async fn confirm(
    directory: Arc<Directory>,
    control: Arc<dyn ControlPlane>,
    metrics: Metrics,
    interval: Duration,
) {
    let mut answered = true;
    for nonce in 1.. {
        let asked_at = Instant::now();
        let answer = tokio::time::timeout(CONFIRM_TIME_MAX, control.confirm(nonce, directory.held(asked_at))).await;
        let failure = match answer {
            Ok(Ok(confirmed)) => {
                directory.confirm(asked_at, confirmed);
                None
            }
            Ok(Err(reason)) => Some(reason),
            Err(_) => Some("no answer in time".to_owned()),
        };
        if let Some(reason) = &failure {
            metrics.confirm_failures.inc();
            if answered {
                tracing::warn!(reason, "no control node confirms how far it is: the table grows stale");
            }
        } else if !answered {
            tracing::info!("the table is confirmed again");
        }
        answered = failure.is_none();
        tokio::time::sleep(CONFIRM_PAUSE_MIN).await;
        tokio::select! {
            () = directory.freshness.wanted(), if answered => {}
            () = tokio::time::sleep(interval) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use cell_model::{CellId, CellState, CellTraits, Generation, Hold, Mapping};
    use cell_trust::RoutedMapping;
    use futures::FutureExt;

    use super::*;
    use crate::tunnel::tests::mapping;
    use crate::waiting::Waiters;

    fn directory() -> Directory {
        Directory::new(Waiters::new(10, 10), Waiters::new(10, 10), Duration::from_secs(1))
    }

    /// A tenant that is held, in front of the word that its cell has no gate.
    fn held() -> Vec<WatchItem> {
        let mapping = Mapping { hold: Hold::All, ..mapping() };
        let cell = CellRecord {
            id: CellId::new("a").unwrap(),
            state: CellState::Active,
            gates: Vec::new(),
            agent: String::new(),
            region: String::new(),
            residency: String::new(),
            traits: CellTraits { ungated: true, ..CellTraits::default() },
            generation: Generation(0),
            revision: Revision(3),
        };
        let routed =
            RoutedMapping { cluster: ClusterId(1), mapping, owner_gates: Vec::new(), owner_agent: String::new() };
        vec![WatchItem::Mapping(routed), WatchItem::Cell(cell)]
    }

    fn take_all(directory: &Directory, events: Vec<WatchEvent>) {
        let mut snapshot = Snapshot::default();
        for event in events {
            assert_eq!(take(directory, &Counter::default(), &mut snapshot, event), Ok(()));
        }
    }

    #[test]
    fn a_hold_that_comes_together_with_the_word_that_its_cell_has_no_gate_is_told_of_at_once() {
        let snapshot = vec![
            WatchEvent::Reset,
            WatchEvent::Snapshot(held()),
            WatchEvent::SnapshotEnd { revision: Revision(40), lineage: Lineage(1) },
        ];
        for events in [vec![WatchEvent::Changes { revision: Revision(40), items: held() }], snapshot] {
            let directory = directory();
            take_all(&directory, events);
            assert!(directory.freshness.wanted().now_or_never().is_some(), "the control plane waits to hear of it");
        }
    }
}
