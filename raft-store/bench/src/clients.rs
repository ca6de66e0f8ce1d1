//! Clients that put until they are told to end, what they were told, and what is said of it.

use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::bail;
use cell_figures::{Figure, Figures};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::history::{Ending, Operation};
use crate::load::Keys;
use crate::{number, say};

const CLIENTS: usize = 8;
/// How long a cluster may need to go on after something has happened to it.
pub(crate) const RECOVERING: Duration = Duration::from_secs(30);

/// Who puts keys.
pub(crate) trait Put: Send + 'static {
    /// Puts one, as often as it takes.
    fn put(&mut self, key: String) -> impl Future<Output = Operation> + Send;
}

/// Clients that put until they are told to end, and what they were told.
pub(crate) struct Clients {
    tasks: JoinSet<()>,
    told: Arc<Mutex<Vec<Operation>>>,
    end: CancellationToken,
}

impl Clients {
    /// Starts so many as there always are.
    pub(crate) fn start<P: Put>(keys: &Keys, make: impl Fn(usize) -> anyhow::Result<P>) -> anyhow::Result<Self> {
        let mut clients = Self { tasks: JoinSet::new(), told: Arc::default(), end: CancellationToken::new() };
        for client in 0..CLIENTS {
            let mut client = make(client)?;
            let (keys, told, end) = (keys.clone(), Arc::clone(&clients.told), clients.end.clone());
            clients.tasks.spawn(async move {
                while !end.is_cancelled() {
                    let operation = client.put(keys.next()).await;
                    told.lock().unwrap_or_else(PoisonError::into_inner).push(operation);
                }
            });
        }
        Ok(clients)
    }

    fn told(&self) -> MutexGuard<'_, Vec<Operation>> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many operations have ended.
    pub(crate) fn count(&self) -> usize {
        self.told().len()
    }

    /// Those that have ended since they were `count`. Copying all of them would keep the clients waiting.
    pub(crate) fn later(&self, count: usize) -> Vec<Operation> {
        self.told()[count..].to_vec()
    }

    pub(crate) async fn end(mut self) -> Vec<Operation> {
        self.end.cancel();
        while self.tasks.join_next().await.is_some() {}
        std::mem::take(&mut *self.told())
    }
}

/// Waits until somebody is answered who has begun after now.
pub(crate) async fn progress(clients: &Clients) -> anyhow::Result<()> {
    let (since, mut seen) = (Instant::now(), clients.count());
    let answered = |operation: &Operation| operation.begun > since && operation.ending != Ending::Unknown;
    while since.elapsed() < RECOVERING {
        let later = clients.later(seen);
        seen += later.len();
        if later.iter().any(answered) {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    bail!("no put was answered for {} s", RECOVERING.as_secs())
}

/// The highest revision that anybody was told.
pub(crate) fn newest(operations: &[Operation]) -> u64 {
    let revision = |operation: &Operation| match operation.ending {
        Ending::Answered(revision, _) => revision,
        Ending::Unknown => 0,
    };
    operations.iter().map(revision).max().unwrap_or(0)
}

/// The longest time between `since` and `until` in which nobody was answered, and how long after `since` it began.
pub(crate) fn longest_gap(told: &[Operation], since: Instant, until: Instant) -> (Duration, Duration) {
    let answered = told.iter().filter_map(|operation| match operation.ending {
        Ending::Answered(_, at) => Some(at),
        Ending::Unknown => None,
    });
    let within = answered.filter(|at| (since..until).contains(at));
    let mut ends: Vec<Instant> = [since, until].into_iter().chain(within).collect();
    ends.sort_unstable();
    ends.windows(2).map(|pair| (pair[1] - pair[0], pair[0] - since)).max().unwrap_or_default()
}

/// Says what was judged.
pub(crate) fn verdict(title: &str, operations: &[Operation], broken: &[String], figures: &mut Figures) {
    let unknown = operations.iter().filter(|operation| operation.ending == Ending::Unknown).count();
    say(&format!("{title}; {} puts, {unknown} unknown, {} broken promises\n", operations.len(), broken.len()));
    for promise in broken.iter().take(20) {
        say(&format!("  {promise}\n"));
    }
    let measure = |what: &str| format!("{title}: {what}");
    figures.add(Figure::at_most(measure("broken promises"), "", number(broken.len()), Some(0.0), None));
    let answered = number(operations.len() - unknown);
    figures.add(Figure::at_least(measure("puts that were answered and judged"), "", answered, Some(1.0)));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_gap_is_also_that_before_the_first_answer_and_that_which_lasts_still() {
        let since = Instant::now();
        let at = |millis| since + Duration::from_millis(millis);
        let answered =
            |millis| Operation { key: "t-1".into(), begun: since, ending: Ending::Answered(1, at(millis)) };
        let gap = |told: &[Operation]| longest_gap(told, at(100), at(5_100)).0.as_millis();
        assert_eq!(gap(&[]), 5_000, "nobody is answered");
        assert_eq!(gap(&[answered(103)]), 4_997, "a straggler");
        assert_eq!(gap(&[answered(5_000), answered(2_000), answered(20)]), 3_000);
        assert_eq!(gap(&[answered(2_100), answered(4_000)]), 2_000, "before the first");
        let unknown = Operation { ending: Ending::Unknown, ..answered(1) };
        assert_eq!(gap(&[unknown]), 5_000);
        let begun = |told: &[Operation]| longest_gap(told, at(100), at(5_100)).1.as_millis();
        assert_eq!((begun(&[]), begun(&[answered(2_100), answered(4_000)])), (0, 0));
        assert_eq!(begun(&[answered(200), answered(4_000)]), 100);
    }
}
