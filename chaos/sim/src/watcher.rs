//! A watcher: follows the changes on one node after another, and resumes where it was.

use std::time::Duration;

use cell_model::{Change, Lineage, Revision};

use crate::flaw::Flaw;
use crate::front::{Connection, News};
use crate::history::Sighting;
use crate::node::NODES;
use crate::stage::SharedStage;

const CONNECT_DEADLINE: Duration = Duration::from_millis(400);
/// Silence for so long is taken for a broken connection.
const SILENCE_MAX: Duration = Duration::from_millis(1_200);
const PAUSE: Duration = Duration::from_millis(50);
/// How often the planted fault drops a revision.
const SKIPPED: u64 = 50;

/// One watcher.
#[derive(Debug)]
pub(crate) struct Watcher {
    number: usize,
    stage: SharedStage,
    flaw: Option<Flaw>,
    lineage: Lineage,
    /// Everything up to here was seen; none during a snapshot.
    position: Option<Revision>,
    records: Vec<Change>,
}

impl Watcher {
    pub(crate) const fn new(number: usize, stage: SharedStage, flaw: Option<Flaw>) -> Self {
        Self { number, stage, flaw, lineage: Lineage(0), position: None, records: Vec::new() }
    }

    /// Watches until it has seen the last revision of the run.
    pub(crate) async fn run(mut self) {
        let mut node = self.number;
        while !self.is_done() {
            node = (node + 1) % NODES.len();
            if let Ok(connection) = Connection::open(NODES[node], CONNECT_DEADLINE).await {
                let after = self.position.map(|position| (self.lineage, position));
                if let Ok(mut watch) = connection.watch(after).await {
                    while let Ok(news) = watch.next(SILENCE_MAX).await {
                        self.take(news);
                    }
                }
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    fn is_done(&self) -> bool {
        self.stage.last.get().is_some_and(|last| self.position >= Some(last))
    }

    fn take(&mut self, news: News) {
        match news {
            News::Reset(lineage) => {
                self.lineage = lineage;
                self.position = None;
                self.records.clear();
                self.sight(Sighting::Reset(lineage));
            }
            News::Snapshot(records) => self.records.extend(records),
            News::SnapshotEnd(revision) => {
                self.position = Some(revision);
                let records = std::mem::take(&mut self.records);
                self.sight(Sighting::Snapshot(revision, records));
            }
            News::Changes(revisions) => {
                for (revision, changes) in revisions {
                    self.position = Some(revision);
                    let skipped = self.flaw == Some(Flaw::SkippingWatcher) && revision.get() % SKIPPED == 0;
                    if !skipped {
                        self.sight(Sighting::Revision(revision, changes));
                    }
                }
            }
        }
    }

    fn sight(&self, sighting: Sighting) {
        match &sighting {
            Sighting::Reset(lineage) => {
                self.stage.note(format_args!("watcher {} begins anew in {lineage}", self.number));
            }
            Sighting::Snapshot(revision, records) => {
                let count = records.len();
                self.stage.note(format_args!("watcher {} holds {count} records of {revision}", self.number));
            }
            Sighting::Revision(revision, _) => {
                self.stage.note(format_args!("watcher {} sees {revision}", self.number));
            }
        }
        self.stage.history.borrow_mut().sightings[self.number].push(sighting);
    }
}
