//! Who is next: start-time fair queueing (Goyal, Vin, Cheng 1996) over the tenants that wait for one cell.
//!
//! Each tenant is a flow. A request gets a *start tag*, the later of the virtual time and the end of its flow's last
//! request; its end is its start plus cost over weight. The smallest start tag is served next and becomes the virtual
//! time. So a tenant that asks for little is served next to at once, however much another has piled up, and what nobody
//! else wants goes to whoever does.
//!
//! Bounded per flow and in all. Where all places are taken the longest queue gives up its last one to a shorter, so that
//! a tenant cannot keep others out by filling the room; that alone bounds it while [`Patience::Ample`].

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::hash::Hash;

/// A place in the queue, to leave it by.
pub(crate) type Ticket = u64;

/// One unit of cost at weight 1, in virtual time.
const UNIT: u64 = 1 << 16;

/// How much may wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct QueueLimits {
    pub(crate) per_flow_max: usize,
    pub(crate) total_max: usize,
}

/// How much of the cell a request takes and how much its tenant may have.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Share {
    /// 1: a request like any other.
    pub(crate) cost: f32,
    /// At least 1.
    pub(crate) weight: u32,
}

/// Whether the bound of each flow counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Patience {
    /// Only that of all flows together.
    Ample,
    /// Both.
    Bounded,
}

/// No place is left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NoPlace {
    /// For this flow.
    Flow(usize),
    /// For anybody, and no other flow waits with more.
    All(usize),
}

/// The waiting of one cell.
pub(crate) struct FairQueue<K, T> {
    limits: QueueLimits,
    flows: HashMap<K, Flow<T>>,
    /// The first of each flow that waits: (start tag, ticket).
    heads: BTreeSet<(u64, Ticket, K)>,
    /// Flows that wait, by how many of theirs do.
    lengths: BTreeSet<(usize, K)>,
    /// Flows that wait no more and whose last request ends after the virtual time: forgotten once it has passed.
    owing: BTreeSet<(u64, K)>,
    virtual_time: u64,
    next_ticket: Ticket,
    waiting: usize,
}

struct Flow<T> {
    waiting: VecDeque<Waiting<T>>,
    ends: u64,
}

struct Waiting<T> {
    ticket: Ticket,
    start: u64,
    item: T,
}

/// What became of a request for a place.
pub(crate) struct Pushed<T> {
    pub(crate) ticket: Ticket,
    /// Who had to go for it: the last of the longest flow.
    pub(crate) displaced: Option<T>,
}

impl<K: Clone + Eq + Hash + Ord, T> FairQueue<K, T> {
    pub(crate) fn new(limits: QueueLimits) -> Self {
        Self {
            limits,
            flows: HashMap::new(),
            heads: BTreeSet::new(),
            lengths: BTreeSet::new(),
            owing: BTreeSet::new(),
            virtual_time: 0,
            next_ticket: 0,
            waiting: 0,
        }
    }

    pub(crate) fn set_limits(&mut self, limits: QueueLimits) {
        self.limits = limits;
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.waiting
    }

    /// The one that is served next.
    #[cfg(test)]
    pub(crate) fn pop(&mut self) -> Option<T> {
        self.pop_if(|_| true)
    }

    /// A place behind the others of the same flow.
    pub(crate) fn push(
        &mut self,
        key: &K,
        share: Share,
        item: T,
        patience: Patience,
    ) -> Result<Pushed<T>, NoPlace> {
        let length = self.flows.get(key).map_or(0, |flow| flow.waiting.len());
        if length >= self.limits.per_flow_max && patience == Patience::Bounded {
            return Err(NoPlace::Flow(self.limits.per_flow_max));
        }
        let mut displaced = None;
        if self.waiting >= self.limits.total_max {
            let longest =
                self.lengths.last().filter(|(longest, _)| *longest > length + 1).map(|(_, key)| key.clone());
            let Some(longest) = longest else { return Err(NoPlace::All(self.limits.total_max)) };
            displaced = self.take_last(&longest);
        }
        let ticket = self.next_ticket;
        self.next_ticket += 1;
        let flow = self.flows.entry(key.clone()).or_insert_with(|| Flow { waiting: VecDeque::new(), ends: 0 });
        if flow.waiting.is_empty() {
            self.owing.remove(&(flow.ends, key.clone()));
        }
        let start = flow.ends.max(self.virtual_time);
        flow.ends = start.saturating_add(virtual_length(share));
        flow.waiting.push_back(Waiting { ticket, start, item });
        if length == 0 {
            self.heads.insert((start, ticket, key.clone()));
        }
        self.lengths.remove(&(length, key.clone()));
        self.lengths.insert((length + 1, key.clone()));
        self.waiting += 1;
        Ok(Pushed { ticket, displaced })
    }

    /// The first that may be served now, of the first of each flow.
    pub(crate) fn pop_if(&mut self, mut may: impl FnMut(&T) -> bool) -> Option<T> {
        let may_go = |(_, _, key): &&(u64, Ticket, K)| {
            self.flows.get(key).and_then(|flow| flow.waiting.front()).is_some_and(|first| may(&first.item))
        };
        let (start, _, key) = self.heads.iter().find(may_go).cloned()?;
        // Who had to let others go first has an older tag than they.
        self.virtual_time = self.virtual_time.max(start);
        let item = self.remove_at(&key, 0);
        while let Some((ends, key)) = self.owing.first().filter(|(ends, _)| *ends <= self.virtual_time).cloned() {
            self.owing.remove(&(ends, key.clone()));
            self.flows.remove(&key);
        }
        if self.waiting == 0 {
            // The busy period is over: who comes next starts from nothing, like everybody.
            self.flows.clear();
            self.owing.clear();
            self.virtual_time = 0;
        }
        item
    }

    /// Takes somebody out who does not wait any more. None: the ticket is not here.
    pub(crate) fn remove(&mut self, key: &K, ticket: Ticket) -> Option<T> {
        let at = self.flows.get(key)?.waiting.iter().position(|waiting| waiting.ticket == ticket)?;
        self.remove_at(key, at)
    }

    fn take_last(&mut self, key: &K) -> Option<T> {
        let last = self.flows.get(key)?.waiting.len().checked_sub(1)?;
        self.remove_at(key, last)
    }

    fn remove_at(&mut self, key: &K, at: usize) -> Option<T> {
        let flow = self.flows.get_mut(key)?;
        let length = flow.waiting.len();
        let removed = flow.waiting.remove(at)?;
        if at == 0 {
            self.heads.remove(&(removed.start, removed.ticket, key.clone()));
            if let Some(first) = flow.waiting.front() {
                self.heads.insert((first.start, first.ticket, key.clone()));
            }
        }
        self.lengths.remove(&(length, key.clone()));
        if length > 1 {
            self.lengths.insert((length - 1, key.clone()));
        } else {
            self.owing.insert((flow.ends, key.clone()));
        }
        self.waiting -= 1;
        Some(removed.item)
    }
}

/// Cost over weight, in virtual time; never nothing.
#[expect(clippy::cast_possible_truncation, reason = "clamped to what fits and is not negative")]
fn virtual_length(share: Share) -> u64 {
    let cost = (f64::from(share.cost) * UNIT as f64).clamp(1.0, 1e12) as u64;
    (cost / u64::from(share.weight.max(1))).max(1)
}

#[cfg(test)]
mod tests;
