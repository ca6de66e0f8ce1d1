//! Collections whose copy costs next to nothing, however much they hold: a snapshot is taken of them while commands go on.
//!
//! [`Shelves`] is a sorted set of records on shelves of at most [`SHELF_MAX`]; [`Trail`] is a queue. Both share their
//! parts with their copies. Whoever changes a part that a copy still holds changes a copy of that part: while a snapshot
//! is written, the first change of each shelf copies so many records, and no command waits for more than that.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// Records on one shelf at the most. A shelf that is full becomes two.
const SHELF_MAX: usize = 64;

/// A record that has its key within it.
pub(crate) trait Keyed {
    /// What it is sorted by.
    type Key: Ord + ?Sized;
    /// Its key.
    fn key(&self) -> &Self::Key;
}

impl<V: Keyed> Keyed for Arc<V> {
    type Key = V::Key;
    fn key(&self) -> &V::Key {
        V::key(self)
    }
}

/// Records sorted by key.
#[derive(Clone)]
pub(crate) struct Shelves<V> {
    /// None of them is empty.
    shelves: Vec<Arc<Vec<V>>>,
    len: usize,
}

impl<V> Default for Shelves<V> {
    fn default() -> Self {
        Self { shelves: Vec::new(), len: 0 }
    }
}

impl<V: fmt::Debug> fmt::Debug for Shelves<V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

impl<V: PartialEq> PartialEq for Shelves<V> {
    fn eq(&self, other: &Self) -> bool {
        self.len == other.len && self.iter().eq(other.iter())
    }
}

impl<V: Eq> Eq for Shelves<V> {}

impl<V> Shelves<V> {
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// All of them, in the order of their keys.
    pub(crate) fn iter(&self) -> impl DoubleEndedIterator<Item = &V> {
        self.shelves.iter().flat_map(|shelf| shelf.iter())
    }
}

impl<V: Keyed + Clone> Shelves<V> {
    /// The shelf that a key is on, or would be.
    fn shelf_of(&self, key: &V::Key) -> usize {
        let after = self.shelves.partition_point(|shelf| shelf[0].key() <= key);
        after.saturating_sub(1)
    }

    fn place_in(shelf: &[V], key: &V::Key) -> Result<usize, usize> {
        shelf.binary_search_by(|record| record.key().cmp(key))
    }

    pub(crate) fn get(&self, key: &V::Key) -> Option<&V> {
        let shelf = self.shelves.get(self.shelf_of(key))?;
        Self::place_in(shelf, key).ok().map(|place| &shelf[place])
    }

    /// Puts a record in the place of what had its key, and answers that.
    pub(crate) fn insert(&mut self, record: V) -> Option<V> {
        if self.shelves.is_empty() {
            self.shelves.push(Arc::new(vec![record]));
            self.len = 1;
            return None;
        }
        let at = self.shelf_of(record.key());
        let shelf = Arc::make_mut(&mut self.shelves[at]);
        match Self::place_in(shelf, record.key()) {
            Ok(place) => Some(std::mem::replace(&mut shelf[place], record)),
            Err(place) => {
                shelf.insert(place, record);
                self.len += 1;
                if shelf.len() > SHELF_MAX {
                    // Names often come in their order: then the shelf before stays full.
                    let middle = if place == SHELF_MAX { SHELF_MAX } else { SHELF_MAX / 2 };
                    let mut rest = Vec::with_capacity(SHELF_MAX + 1);
                    rest.extend(shelf.drain(middle..));
                    self.shelves.insert(at + 1, Arc::new(rest));
                }
                None
            }
        }
    }

    /// Removes the one with the lowest key.
    pub(crate) fn pop_first(&mut self) {
        let Some(shelf) = self.shelves.first_mut() else { return };
        let shelf = Arc::make_mut(shelf);
        shelf.remove(0);
        self.len -= 1;
        if shelf.is_empty() {
            self.shelves.remove(0);
        }
    }

    /// Those after a key, in order.
    pub(crate) fn after<'s>(&'s self, key: &V::Key) -> impl Iterator<Item = &'s V> + use<'s, V> {
        let at = self.shelf_of(key);
        let place = self.shelves.get(at).map_or(0, |shelf| shelf.partition_point(|record| record.key() <= key));
        self.shelves.iter().skip(at).flat_map(|shelf| shelf.iter()).skip(place)
    }

    /// Those before a key, the highest first.
    pub(crate) fn before<'s>(&'s self, key: &V::Key) -> impl Iterator<Item = &'s V> + use<'s, V> {
        let at = self.shelf_of(key);
        let place = self.shelves.get(at).map_or(0, |shelf| shelf.partition_point(|record| record.key() < key));
        let last = self.shelves.get(at).map_or(&[][..], |shelf| &shelf[..place]);
        let full = self.shelves[..at.min(self.shelves.len())].iter().rev();
        last.iter().rev().chain(full.flat_map(|shelf| shelf.iter().rev()))
    }
}

/// A queue: what comes is put at the end and goes from the front.
#[derive(Clone, Serialize, Deserialize)]
#[serde(
    from = "Vec<T>",
    into = "Vec<T>",
    bound(serialize = "T: Serialize + Clone", deserialize = "T: Deserialize<'de>")
)]
pub struct Trail<T> {
    /// Each but the last holds [`SHELF_MAX`].
    parts: VecDeque<Arc<Vec<T>>>,
    /// Of the first part, so many are gone.
    gone: usize,
}

impl<T> Trail<T> {
    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        let last = self.parts.back().map_or(0, |last| last.len());
        self.parts.len().saturating_sub(1) * SHELF_MAX + last - self.gone
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// From the oldest to the newest.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.parts.iter().flat_map(|part| part.iter()).skip(self.gone)
    }

    /// The oldest.
    #[must_use]
    pub fn front(&self) -> Option<&T> {
        self.get(0)
    }

    /// The newest.
    #[must_use]
    pub fn back(&self) -> Option<&T> {
        self.get(self.len().checked_sub(1)?)
    }

    /// The one at a place, counted from the oldest.
    #[must_use]
    pub fn get(&self, place: usize) -> Option<&T> {
        let place = place + self.gone;
        self.parts.get(place / SHELF_MAX)?.get(place % SHELF_MAX)
    }

    /// Lets the oldest go.
    pub fn pop_front(&mut self) {
        if self.is_empty() {
            return;
        }
        self.gone += 1;
        if self.gone == SHELF_MAX || self.is_empty() {
            self.parts.pop_front();
            self.gone = 0;
        }
    }
}

impl<T: Clone> Trail<T> {
    /// Puts one at the end.
    pub fn push_back(&mut self, item: T) {
        match self.parts.back_mut().filter(|last| last.len() < SHELF_MAX) {
            Some(last) => Arc::make_mut(last).push(item),
            None => self.parts.push_back(Arc::new(vec![item])),
        }
    }
}

impl<T> Default for Trail<T> {
    fn default() -> Self {
        Self { parts: VecDeque::new(), gone: 0 }
    }
}

impl<T: fmt::Debug> fmt::Debug for Trail<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

impl<T: PartialEq> PartialEq for Trail<T> {
    fn eq(&self, other: &Self) -> bool {
        self.len() == other.len() && self.iter().eq(other.iter())
    }
}

impl<T: Eq> Eq for Trail<T> {}

impl<T: Clone> Extend<T> for Trail<T> {
    fn extend<I: IntoIterator<Item = T>>(&mut self, items: I) {
        items.into_iter().for_each(|item| self.push_back(item));
    }
}

impl<T: Clone> FromIterator<T> for Trail<T> {
    fn from_iter<I: IntoIterator<Item = T>>(items: I) -> Self {
        let mut trail = Self::default();
        trail.extend(items);
        trail
    }
}

impl<T> From<Vec<T>> for Trail<T> {
    fn from(items: Vec<T>) -> Self {
        let mut parts = VecDeque::new();
        let mut items = items.into_iter().peekable();
        while items.peek().is_some() {
            parts.push_back(Arc::new(items.by_ref().take(SHELF_MAX).collect()));
        }
        Self { parts, gone: 0 }
    }
}

impl<T: Clone> From<Trail<T>> for Vec<T> {
    fn from(trail: Trail<T>) -> Self {
        trail.iter().cloned().collect()
    }
}

impl<'a, T> IntoIterator for &'a Trail<T> {
    type Item = &'a T;
    type IntoIter = Box<dyn Iterator<Item = &'a T> + 'a>;

    fn into_iter(self) -> Self::IntoIter {
        Box::new(self.iter())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    #[derive(Debug, Clone, PartialEq, Eq)]
    struct Record(u16, u32);

    impl Keyed for Record {
        type Key = u16;
        fn key(&self) -> &u16 {
            &self.0
        }
    }

    fn agrees(shelves: &Shelves<Record>, map: &BTreeMap<u16, u32>) {
        let expected: Vec<Record> = map.iter().map(|(key, value)| Record(*key, *value)).collect();
        assert_eq!(shelves.iter().cloned().collect::<Vec<_>>(), expected);
        assert_eq!(shelves.len(), map.len());
        assert!(shelves.shelves.iter().all(|shelf| !shelf.is_empty() && shelf.len() <= SHELF_MAX));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]
        #[test]
        fn shelves_hold_what_a_sorted_map_holds(
            steps in prop::collection::vec((0..600_u16, any::<u32>(), 0..20_u8), 0..1_500)
        ) {
            let (mut shelves, mut map) = (Shelves::default(), BTreeMap::new());
            let mut copies: Vec<(Shelves<Record>, BTreeMap<u16, u32>)> = Vec::new();
            for (key, value, what) in steps {
                match what {
                    0 => {
                        shelves.pop_first();
                        map.pop_first();
                    }
                    1 if copies.len() < 8 => copies.push((shelves.clone(), map.clone())),
                    _ => {
                        let before = shelves.insert(Record(key, value)).map(|before| before.1);
                        prop_assert_eq!(before, map.insert(key, value));
                    }
                }
                prop_assert_eq!(shelves.get(&key).map(|record| record.1), map.get(&key).copied());
            }
            agrees(&shelves, &map);
            for (copy, then) in &copies {
                agrees(copy, then);
            }
            for key in [0, 1, 299, 300, 599, 700] {
                let after: Vec<u16> = shelves.after(&key).map(|record| record.0).collect();
                prop_assert_eq!(after, map.keys().copied().filter(|other| *other > key).collect::<Vec<_>>());
                let before: Vec<u16> = shelves.before(&key).map(|record| record.0).collect();
                prop_assert_eq!(before, map.keys().copied().filter(|other| *other < key).rev().collect::<Vec<_>>());
            }
        }

        #[test]
        fn a_trail_holds_what_a_queue_holds(steps in prop::collection::vec(any::<Option<u32>>(), 0..1_000)) {
            let (mut trail, mut queue) = (Trail::default(), VecDeque::new());
            let mut copy = (trail.clone(), queue.clone());
            for (position, step) in steps.into_iter().enumerate() {
                match step {
                    Some(item) => {
                        trail.push_back(item);
                        queue.push_back(item);
                    }
                    None => {
                        trail.pop_front();
                        queue.pop_front();
                    }
                }
                if position == 200 {
                    copy = (trail.clone(), queue.clone());
                }
                prop_assert_eq!((trail.len(), trail.front(), trail.back()), (queue.len(), queue.front(), queue.back()));
                prop_assert_eq!(trail.get(queue.len() / 2), queue.get(queue.len() / 2));
            }
            prop_assert!(trail.iter().eq(queue.iter()) && copy.0.iter().eq(copy.1.iter()));
            prop_assert_eq!(Trail::from(Vec::from(trail.clone())), trail);
        }
    }
}
