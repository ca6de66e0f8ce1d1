//! What is written down while a drill runs: how the fleet is, again and again; marks; the beginning and end of faults.

use std::time::Duration;

use cell_client::AgentOptions;
use tokio_util::sync::CancellationToken;

use super::engine::Told;
use super::evidence::{FaultSpan, Mark, Sample};
use super::script::Runner;
use crate::clock::Micros;
use crate::sights::Lookout;

const SAMPLE_EVERY: Duration = Duration::from_millis(400);
/// What an open span ends at until it is closed.
const OPEN: Micros = Micros::MAX;

impl Runner {
    /// Asks the fleet how it is, again and again, beside everything else.
    pub(super) fn sample(&mut self) {
        let (stop, observer, clock) = (CancellationToken::new(), self.fleet.observer(), self.load.clock());
        let ended = stop.clone();
        let task = tokio::spawn(async move {
            let mut samples = Vec::new();
            while !ended.is_cancelled() {
                let at = clock.now();
                let staleness = observer.routers.iter().map(|admin| observer.staleness(admin));
                let status = observer.controls.iter().map(|node| observer.status(node, SAMPLE_EVERY));
                let (staleness, status) =
                    tokio::join!(futures::future::join_all(staleness), futures::future::join_all(status));
                let newest = status.iter().zip(&observer.controls).filter_map(|(status, node)| {
                    let status = status.as_ref().ok().filter(|status| status.is_leader)?;
                    Some((status.term, node.name.clone()))
                });
                let (term, leader) = newest.max().unwrap_or_default();
                let millis = |age: Duration| u64::try_from(age.as_millis()).unwrap_or(u64::MAX);
                let staleness_ms = staleness.into_iter().map(|age| age.ok().map(millis)).collect();
                samples.push(Sample { at, leader, term, staleness_ms });
                tokio::time::sleep(SAMPLE_EVERY).await;
            }
            samples
        });
        self.sampling = Some((stop, task));
        let clock = self.load.clock();
        let lookout = Lookout {
            control: self.fleet.control(SAMPLE_EVERY),
            cells: self.fleet.cells.clone(),
            agents: self.fleet.agents(AgentOptions::default()),
            patience: SAMPLE_EVERY,
        };
        self.looking = Some(lookout.keep(SAMPLE_EVERY, move || Duration::from_micros(clock.now())));
    }

    pub(super) async fn stop_sampling(&mut self) {
        if let Some((stop, task)) = self.sampling.take() {
            stop.cancel();
            self.evidence.samples = task.await.unwrap_or_default();
        }
        if let Some(looking) = self.looking.take() {
            self.evidence.sights = looking.stop().await;
        }
    }

    pub(super) fn now(&self) -> Micros {
        self.load.clock().now()
    }

    pub(super) fn mark(&mut self, label: &str) {
        (self.tell)(Told::Act(label.to_owned()));
        let at = self.now();
        self.evidence.marks.push(Mark { at, label: label.to_owned() });
    }

    pub(super) fn open(&mut self, lane: &str, label: &str) {
        (self.tell)(Told::Act(format!("⚡ {label}")));
        let from = self.now();
        self.evidence.faults.push(FaultSpan { lane: lane.to_owned(), label: label.to_owned(), from, to: OPEN });
    }

    /// Ends whatever fault is still open.
    pub(super) fn close_all(&mut self) {
        let now = self.now();
        self.evidence.faults.iter_mut().filter(|span| span.to == OPEN).for_each(|span| span.to = now);
    }

    /// When the last fault of the fleet has ended. That clients go on crowding is no fault of it; where there was no
    /// other, it is.
    pub(super) fn last_heal(&self) -> Option<Micros> {
        let faults = || self.evidence.faults.iter();
        let of_the_fleet = faults().filter(|span| span.lane != "clients").map(|span| span.to).max();
        of_the_fleet.or_else(|| faults().map(|span| span.to).max())
    }

    /// Ends the open faults of a lane, or of those the ones of a process.
    pub(super) fn close(&mut self, lane: &str, of: Option<&str>) {
        let now = self.now();
        let mut ended = Vec::new();
        for span in &mut self.evidence.faults {
            let is_his = of.is_none_or(|name| span.label.starts_with(&format!("{name} ")));
            if span.to == OPEN && span.lane == lane && is_his {
                span.to = now;
                ended.push(span.label.clone());
            }
        }
        for label in ended {
            (self.tell)(Told::Act(format!("healed: {label}")));
        }
    }
}
