//! What came to nothing, told now and then for each reason: a hundred tenants of one dead cell have one story.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// The same reason is told again after this.
const EVERY: Duration = Duration::from_secs(10);
/// Reasons that are remembered; all are forgotten beyond it.
const REASONS_MAX: usize = 256;

/// Who has told what when. Clones share it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Telling(Arc<Mutex<BTreeMap<String, Told>>>);

#[derive(Debug)]
struct Told {
    at: Instant,
    since: u64,
}

impl Telling {
    /// Whether a reason is to be told, and how often it was not since the last time.
    pub(crate) fn tells(&self, reason: &str, now: Instant) -> Option<u64> {
        let mut told = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match told.get_mut(reason) {
            Some(last) if now < last.at + EVERY => {
                last.since += 1;
                None
            }
            Some(last) => {
                last.at = now;
                Some(std::mem::take(&mut last.since))
            }
            None => {
                if told.len() >= REASONS_MAX {
                    told.clear();
                }
                told.insert(reason.to_owned(), Told { at: now, since: 0 });
                Some(0)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_reason_is_told_every_ten_seconds_with_how_often_it_was_not() {
        let (telling, begin) = (Telling::default(), Instant::now());
        let tells = |reason: &str, after_s: u64| telling.tells(reason, begin + Duration::from_secs(after_s));
        assert_eq!(tells("c1 is away", 0), Some(0));
        assert_eq!((tells("c1 is away", 1), tells("c1 is away", 9)), (None, None));
        assert_eq!(tells("c2 is away", 9), Some(0));
        assert_eq!(tells("c1 is away", 10), Some(2));
        assert_eq!((tells("c1 is away", 19), tells("c1 is away", 20)), (None, Some(1)));
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let (telling, now) = (Telling::default(), Instant::now());
        for reason in 0..REASONS_MAX * 3 {
            assert_eq!(telling.tells(&reason.to_string(), now), Some(0));
        }
        assert!(telling.0.lock().unwrap().len() <= REASONS_MAX);
    }
}
