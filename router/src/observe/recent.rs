//! The last requests of each thread, in bounded memory. A thread writes into a ring of its own, under a lock that nobody
//! else takes but an operator who asks.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use super::Record;

/// The last requests of one thread.
pub(crate) struct Ring {
    records: Mutex<VecDeque<Arc<Record>>>,
    capacity: usize,
}

impl Ring {
    /// Remembers one, and forgets the oldest.
    pub(crate) fn push(&self, record: Arc<Record>) {
        if self.capacity == 0 {
            return;
        }
        let mut records = self.records.lock().unwrap_or_else(PoisonError::into_inner);
        let oldest = if records.len() == self.capacity { records.pop_front() } else { None };
        records.push_back(record);
        drop(records);
        drop(oldest);
    }

    fn find(&self, request_id: &str) -> Option<Arc<Record>> {
        let records = self.records.lock().unwrap_or_else(PoisonError::into_inner);
        records.iter().rev().find(|record| record.request_id.as_bytes() == request_id.as_bytes()).cloned()
    }
}

/// The rings of all threads.
pub(crate) struct Recent {
    rings: Mutex<Vec<Arc<Ring>>>,
    capacity: usize,
}

impl Recent {
    /// `capacity`: requests that each thread remembers.
    pub(crate) fn new(capacity: usize) -> Self {
        Self { rings: Mutex::default(), capacity }
    }

    /// A ring for another thread.
    pub(crate) fn ring(&self) -> Arc<Ring> {
        let ring = Arc::new(Ring { records: Mutex::default(), capacity: self.capacity });
        self.rings.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::clone(&ring));
        ring
    }

    /// The latest request of this id that is remembered.
    pub(crate) fn find(&self, request_id: &str) -> Option<Arc<Record>> {
        let rings = self.rings.lock().unwrap_or_else(PoisonError::into_inner);
        rings.iter().filter_map(|ring| ring.find(request_id)).max_by_key(|record| record.at)
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use super::*;

    fn record(id: &'static str, second: u64) -> Arc<Record> {
        Arc::new(Record {
            at: SystemTime::UNIX_EPOCH + Duration::from_secs(second),
            request_id: http::HeaderValue::from_static(id),
            client: std::net::IpAddr::from([127, 0, 0, 1]),
            version: http::Version::HTTP_11,
            secure: false,
            method: http::Method::GET,
            path: None,
            tenant: None,
            entry: None,
            table_revision: cell_model::Revision(1),
            instance: None,
            attempts: 1,
            held: Duration::ZERO,
            queued: Duration::from_millis(3),
            cell_limit: 9,
            status: http::StatusCode::OK,
            refusal: None,
            took: Duration::from_millis(5),
        })
    }

    #[test]
    fn the_last_ones_of_every_thread_are_found_and_older_ones_forgotten() {
        let recent = Recent::new(2);
        let (one, two) = (recent.ring(), recent.ring());
        for (id, second) in [("a", 1), ("b", 2), ("c", 3)] {
            one.push(record(id, second));
        }
        two.push(record("c", 9));
        assert!(recent.find("a").is_none());
        assert_eq!(recent.find("b").unwrap().at, SystemTime::UNIX_EPOCH + Duration::from_secs(2));
        assert_eq!(recent.find("c").unwrap().at, SystemTime::UNIX_EPOCH + Duration::from_secs(9), "the latest");
        assert_eq!(recent.find("c").unwrap().to_json()["queued_ms"], 3.0);
    }

    #[test]
    fn with_no_capacity_nothing_is_remembered() {
        let recent = Recent::new(0);
        recent.ring().push(record("a", 1));
        assert!(recent.find("a").is_none());
    }
}
