//! Looks at a running fleet, judged by the same functions as the states of the model ([`cell_model::invariants`]).
//!
//! ```text
//! records ──► what each cell says ──► records again      where a tenant's record has not changed meanwhile, it held
//!                                                        all the time, and the cells are judged against it
//! ```
//! Cells are asked one beside the other, not at one moment: what is judged holds whatever the order, because only a change of
//! the record lets another cell serve. What a look cannot tell is taken to be in order: it may miss a fault, and never
//! invents one.

mod read;
#[cfg(test)]
pub(crate) mod tests;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use cell_client::{AgentPool, ControlClient, ListOptions, wire};
use cell_model::invariants::{self, CellSight, Role, Violation};
use cell_model::{CellId, TenantRecord};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::fleet::CellNode;

/// What looks can find to be broken. I9 takes two of them: whoever holds at the second must not hold since too long ago.
pub const JUDGED: [&str; 9] = ["I1", "I2", "I3", "I4", "I5", "I6", "I9", "I10", "I12"];
/// Of each promise so many examples are kept.
const EXAMPLES: usize = 3;

/// What one look has brought.
#[derive(Debug, Clone, Default)]
pub struct Look {
    /// Tenants whose record was the same before and after.
    pub tenants: Vec<wire::Tenant>,
    /// What the cells have said that could be reached.
    pub cells: Vec<(CellId, wire::DescribeResponse)>,
}

/// What is remembered of a tenant at a cell.
#[derive(Debug, Clone)]
struct Seen {
    sight: CellSight,
    generation: u64,
    /// It was seen to serve and then not to, in one life of its process: it is fenced, and not only asking.
    fenced: bool,
    /// The hold that stands, and since when it has been seen.
    hold: Option<(u64, Duration)>,
}

/// All looks of a run, and what they have found.
#[derive(Debug, Clone, Default)]
pub struct Sights {
    seen: BTreeMap<(String, CellId), Seen>,
    records: BTreeMap<String, TenantRecord>,
    broken: BTreeMap<&'static str, Vec<String>>,
    looks: usize,
}

impl Sights {
    /// How often a tenant was looked at together with a cell.
    #[must_use]
    pub const fn looks(&self) -> usize {
        self.looks
    }

    /// Promises that were seen to be broken, each with examples.
    #[must_use]
    pub const fn broken(&self) -> &BTreeMap<&'static str, Vec<String>> {
        &self.broken
    }

    /// Judges one more look. `at`: on any clock that does not go back.
    pub fn take(&mut self, at: Duration, look: &Look) {
        for tenant in &look.tenants {
            let Some(record) = read::record(tenant) else { continue };
            let name = record.id.to_string();
            if let Some(before) = self.records.get(&name) {
                let broken = invariants::check_record_succession(before, &record);
                self.note(at, broken);
            }
            let mut sights = Vec::new();
            for (cell, said) in look.cells.iter().filter(|(cell, _)| !read::is_to_be_told(tenant, cell)) {
                let Some(view) = read::view(&record, cell, said) else {
                    self.seen.remove(&(name.clone(), cell.clone()));
                    continue;
                };
                sights.push(self.see(at, &name, view));
            }
            self.looks += sights.len();
            let broken = invariants::check(&record, &sights);
            self.note(at, broken);
            self.records.insert(name, record);
        }
    }

    /// Judges a cell against what it was before, and says what it is.
    fn see(&mut self, at: Duration, name: &str, view: read::View) -> CellSight {
        let read::View { mut sight, generation, hold } = view;
        let key = (name.to_owned(), sight.cell.clone());
        let before = self.seen.remove(&key).filter(|before| before.sight.uid == sight.uid);
        let same_grant = |before: &&Seen| before.sight.epoch == sight.epoch;
        let of_grant = before.as_ref().filter(same_grant);
        let fenced = sight.role == Role::Fenced
            && of_grant.is_some_and(|before| {
                before.fenced || (before.generation == generation && before.sight.role.serves())
            });
        // A cell that starts in the middle of a move asks before it serves, and shows itself as fenced meanwhile.
        if sight.role == Role::Fenced && !fenced {
            sight.role = Role::None;
        }
        let stands = of_grant.and_then(|before| before.hold).zip(hold);
        let since = stands.filter(|((was, _), is)| was == is).map_or(at, |((_, since), _)| since);
        let hold = hold.map(|id| (id, since));
        sight.held_ms = hold.map(|(_, since)| u64::try_from((at - since).as_millis()).unwrap_or(u64::MAX));
        if let Some(before) = &before {
            let broken = invariants::check_succession(&before.sight, &sight);
            self.note(at, broken);
        }
        self.seen.insert(key, Seen { sight: sight.clone(), generation, fenced, hold });
        sight
    }

    fn note(&mut self, at: Duration, broken: Vec<Violation>) {
        for Violation { id, detail } in broken {
            let examples = self.broken.entry(id).or_default();
            if examples.len() < EXAMPLES {
                examples.push(format!("after {:.1} s {detail}", at.as_secs_f64()));
            }
        }
    }
}

/// Who is asked.
#[derive(Clone)]
pub struct Lookout {
    /// The store.
    pub control: ControlClient,
    /// The cells.
    pub cells: Vec<CellNode>,
    /// Their agents.
    pub agents: AgentPool,
    /// Nobody is waited for for longer.
    pub patience: Duration,
}

impl std::fmt::Debug for Lookout {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Lookout").field("cells", &self.cells).finish_non_exhaustive()
    }
}

impl Lookout {
    /// Looks once. None where the store does not answer in time.
    async fn look(&self) -> Option<Look> {
        let before = self.tenants().await?;
        let described = self.cells.iter().map(|cell| async move {
            let said = tokio::time::timeout(self.patience, self.agents.describe(&cell.agent, None)).await;
            Some((cell.id.clone(), said.ok()?.ok()?))
        });
        let cells = futures::future::join_all(described).await.into_iter().flatten().collect();
        let after = self.tenants().await?;
        let rev = |tenant: &wire::Tenant| tenant.mapping.as_ref().map(|mapping| (mapping.uid, mapping.rev));
        let stands = |name: &String, tenant: &wire::Tenant| before.get(name).and_then(rev) == rev(tenant);
        let tenants = after.into_iter().filter(|(name, tenant)| stands(name, tenant));
        Some(Look { tenants: tenants.map(|(_, tenant)| tenant).collect(), cells })
    }

    async fn tenants(&self) -> Option<BTreeMap<String, wire::Tenant>> {
        let page = tokio::time::timeout(self.patience, self.control.list_tenants(ListOptions::default())).await;
        let items = page.ok()?.ok()?.items.into_iter();
        Some(items.filter_map(|tenant| Some((tenant.mapping.as_ref()?.tenant.clone(), tenant))).collect())
    }

    /// Looks again and again until it is told to stop. `now` is the clock of what is noted.
    #[must_use]
    pub fn keep(self, every: Duration, now: impl Fn() -> Duration + Send + 'static) -> Looking {
        let (stop, sights) = (CancellationToken::new(), Arc::new(Mutex::new(Sights::default())));
        let (ended, kept) = (stop.clone(), Arc::clone(&sights));
        let task = tokio::spawn(async move {
            while !ended.is_cancelled() {
                let began = now();
                if let Some(look) = self.look().await {
                    // Of the beginning: a hold has stood at least since then.
                    kept.lock().unwrap_or_else(PoisonError::into_inner).take(began, &look);
                }
                tokio::time::sleep(every).await;
            }
        });
        Looking { stop, task, sights }
    }
}

/// Looks that are being made.
#[derive(Debug)]
pub struct Looking {
    stop: CancellationToken,
    task: JoinHandle<()>,
    sights: Arc<Mutex<Sights>>,
}

impl Looking {
    /// What they have found so far, and will find: for whoever may not come to their end.
    #[must_use]
    pub fn shared(&self) -> Arc<Mutex<Sights>> {
        Arc::clone(&self.sights)
    }

    /// Ends them.
    pub async fn stop(self) -> Sights {
        self.stop.cancel();
        if let Err(error) = self.task.await {
            tracing::error!(%error, "the looks at the fleet have ended badly");
        }
        std::mem::take(&mut *self.sights.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
