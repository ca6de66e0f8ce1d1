//! The instances of one cell as one mapping or one report of the cell names them, and the ring over them.

use std::hash::{BuildHasher, Hash, Hasher};
use std::sync::Arc;

use cell_model::TenantId;
use consistent_hash_ring::{Ring, RingBuilder};
use siphasher::sip::SipHasher13;

use super::{Instance, InstanceOptions};
use crate::moment::Moment;

/// Points of an instance on the ring: with 64 the fullest of ten has a third above the mean, which bounded load evens out.
const POINTS: usize = 64;
/// An instance may have this much above the mean of what is in flight.
const LOAD_BOUND: f64 = 1.25;
/// The same in every router, so that all of them send a tenant to the same instance.
const RING_KEY: (u64, u64) = (0x6365_6c6c_2d72_6f75, 0x7465_722d_7269_6e67);

/// An instance on the ring, by its place in the set; hashed by its address.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Node {
    index: usize,
    address: Arc<str>,
}

impl Hash for Node {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.address.hash(state);
    }
}

/// SipHash with a key of ours, so that the ring is the same in every build and process.
#[derive(Debug, Clone, Copy, Default)]
struct Keyed;

impl BuildHasher for Keyed {
    type Hasher = SipHasher13;

    fn build_hasher(&self) -> SipHasher13 {
        SipHasher13::new_with_keys(RING_KEY.0, RING_KEY.1)
    }
}

/// The instances of one cell.
pub(crate) struct InstanceSet {
    instances: Vec<Arc<Instance>>,
    ring: Ring<Node, Keyed>,
}

impl std::fmt::Debug for InstanceSet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.addresses()).finish()
    }
}

impl PartialEq for InstanceSet {
    fn eq(&self, other: &Self) -> bool {
        self.addresses().eq(other.addresses())
    }
}

impl Eq for InstanceSet {}

impl InstanceSet {
    pub(crate) fn new(instances: Vec<Arc<Instance>>) -> Self {
        let nodes = instances
            .iter()
            .enumerate()
            .map(|(index, instance)| Node { index, address: Arc::clone(instance.address()) });
        let ring = RingBuilder::new(Keyed).vnodes(POINTS).nodes_iter(nodes).build();
        Self { instances, ring }
    }

    /// Where they are, in the order in which the cell names them.
    pub(crate) fn addresses(&self) -> impl Iterator<Item = &Arc<str>> {
        self.instances.iter().map(|instance| instance.address())
    }

    pub(crate) fn instances(&self) -> &[Arc<Instance>] {
        &self.instances
    }

    /// The instance for a request of `tenant`, leaving out those that were `tried`. None: all were.
    pub(crate) fn pick(
        &self,
        tenant: &TenantId,
        tried: &[Arc<Instance>],
        now: Moment,
        options: InstanceOptions,
    ) -> Option<&Arc<Instance>> {
        let untried = |instance: &Arc<Instance>| !tried.iter().any(|other| Arc::ptr_eq(other, instance));
        if let [only] = self.instances.as_slice() {
            return Some(only).filter(|only| untried(only));
        }
        let room = self.room(now, options);
        let fits = |instance: &Arc<Instance>| {
            instance.is_well(now)
                && untried(instance)
                && f64::from(instance.in_flight()) < room * instance.warmth(now, options.slow_start)
        };
        let home = &self.instances[self.ring.try_get(tenant)?.index];
        if fits(home) {
            return Some(home);
        }
        let order: Vec<&Arc<Instance>> =
            self.ring.replicas(tenant).map(|node| &self.instances[node.index]).collect();
        let subset = if options.subset == 0 { order.len() } else { options.subset.min(order.len()) };
        let within = &order[..subset];
        within
            .iter()
            .find(|instance| fits(instance))
            .or_else(|| least_loaded(within, |instance| instance.is_well(now) && untried(instance)))
            .or_else(|| least_loaded(&order, |instance| instance.is_well(now) && untried(instance)))
            .or_else(|| order.iter().find(|instance| untried(instance)))
            .copied()
    }

    /// How much a warm one may have in flight: the bound above the mean, counting the one that asks; of those that are
    /// well, each as warm as it is.
    fn room(&self, now: Moment, options: InstanceOptions) -> f64 {
        let (mut in_flight, mut warmth) = (1_u32, 0.0);
        for instance in &self.instances {
            in_flight = in_flight.saturating_add(instance.in_flight());
            if instance.is_well(now) {
                warmth += instance.warmth(now, options.slow_start);
            }
        }
        (f64::from(in_flight) / warmth.max(0.1) * LOAD_BOUND).ceil()
    }
}

fn least_loaded<'a, 'b>(
    instances: &'b [&'a Arc<Instance>],
    may: impl Fn(&Arc<Instance>) -> bool,
) -> Option<&'b &'a Arc<Instance>> {
    instances.iter().filter(|instance| may(instance)).min_by_key(|instance| instance.in_flight())
}

#[cfg(test)]
mod tests;
