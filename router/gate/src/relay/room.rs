//! How many requests an application has at once, so that one that does not answer is not given more and more of them: a write goes
//! on when whoever has asked is long gone. Of one tenant at most half as many, whatever becomes of its requests.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use cell_model::TenantId;
use tokio::time::Instant;

/// At most so often it is said that there is no room.
const WARNING_INTERVAL: Duration = Duration::from_secs(10);

/// Places for requests. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Room(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    most: usize,
    taken: Mutex<Taken>,
}

#[derive(Debug, Default)]
struct Taken {
    all: usize,
    of: BTreeMap<TenantId, usize>,
    said: Option<Instant>,
}

/// No place is left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct NoRoom {
    /// How many there are, for all or for one tenant.
    pub(super) most: usize,
    /// It has not been said for a while.
    pub(super) is_news: bool,
}

/// A place of a tenant's request, until it is dropped.
#[derive(Debug)]
pub(super) struct Place {
    room: Room,
    tenant: TenantId,
}

impl Room {
    pub(super) fn new(most: usize) -> Self {
        Self(Arc::new(Inner { most: most.max(1), taken: Mutex::default() }))
    }

    fn lock(&self) -> MutexGuard<'_, Taken> {
        self.0.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn enter(&self, tenant: &TenantId) -> Result<Place, NoRoom> {
        let (most, part) = (self.0.most, self.0.most.div_ceil(2));
        let mut taken = self.lock();
        let of_tenant = taken.of.get(tenant).copied().unwrap_or(0);
        if taken.all >= most || of_tenant >= part {
            let is_news = taken.said.is_none_or(|said| said.elapsed() >= WARNING_INTERVAL);
            if is_news {
                taken.said = Some(Instant::now());
            }
            return Err(NoRoom { most: if taken.all >= most { most } else { part }, is_news });
        }
        taken.all += 1;
        *taken.of.entry(tenant.clone()).or_default() += 1;
        Ok(Place { room: self.clone(), tenant: tenant.clone() })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.room.lock();
        taken.all -= 1;
        if let Some(of_tenant) = taken.of.get_mut(&self.tenant) {
            *of_tenant -= 1;
            if *of_tenant == 0 {
                taken.of.remove(&self.tenant);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_tenant_has_half_of_the_places_and_all_together_no_more_than_there_are() {
        let room = Room::new(5);
        let (a, b) = (TenantId::new("a").unwrap(), TenantId::new("b").unwrap());
        let enter = |tenant: &TenantId, count: usize| -> Vec<Place> {
            (0..count).map(|_| room.enter(tenant).unwrap()).collect()
        };
        let mut of_a = enter(&a, 3);
        assert_eq!(room.enter(&a).unwrap_err(), NoRoom { most: 3, is_news: true });
        assert_eq!(room.enter(&a).unwrap_err(), NoRoom { most: 3, is_news: false }, "said a moment ago");
        let of_b = enter(&b, 2);
        assert_eq!(room.enter(&b).unwrap_err().most, 5);
        of_a.pop();
        drop(enter(&b, 1));
        drop((of_a, of_b));
        assert!(room.lock().of.is_empty() && room.lock().all == 0, "nothing is kept of who has nothing here");
    }
}
