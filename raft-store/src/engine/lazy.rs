//! A state whose batches reach its engine together, and later.
//!
//! ```text
//! apply ──► gathered ──► on its way ──► engine        on a thread: whoever applies does not wait for sled
//!              └ full, and nothing is on its way
//! ```
//!
//! The state may lag behind what was applied: what is missing is in the snapshot, or applied again from the log, which is
//! purged no further than the snapshot reaches. A batch of sled costs five system calls and two wake-ups of its threads, however small
//! it is; so batches are gathered, and go on as one, which is as atomic as each of them. Writing some hundred rows takes
//! sled milliseconds, so a thread does it, in order. Where that is slower than what comes, whoever applies waits in the end:
//! for [`StateEngine::room`] rather than in `apply`, as heartbeats go on where a task waits and not where its thread does.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::sync::Notify;

use super::sled_engine::panic_text;
use super::{StateEngine, Visit, Write};
use crate::error::EngineError;

/// Batches that are gathered before they go on their way,
const BATCHES_MAX: usize = 256;
/// or bytes, of which what was written over does not count.
const BYTES_MAX: usize = 128 * 1024;
/// So many times as much is gathered where others are on their way still; then whoever applies waits. A start applies no
/// more entries again than these, as many that were on their way, and what the engine had not synced.
const WAITING_MAX: usize = 16;

#[derive(Debug, Default)]
struct Gathered {
    /// The last write of each key.
    writes: BTreeMap<Vec<u8>, Option<Vec<u8>>>,
    batches: usize,
    bytes: usize,
}

impl Gathered {
    /// So many times what goes on its way together.
    const fn is_full(&self, times: usize) -> bool {
        self.batches >= times * BATCHES_MAX || self.bytes >= times * BYTES_MAX
    }
}

#[derive(Debug, Default)]
struct State {
    gathered: Gathered,
    /// What the thread hands to the engine, by key.
    on_its_way: Option<Arc<Vec<Write>>>,
    /// How often something went on its way,
    sent: u64,
    /// and how often it arrived.
    landed: u64,
    /// Why nothing reaches the engine any more.
    failed: Option<EngineError>,
    ended: bool,
}

impl State {
    /// More is gathered than may wait, and it will yet go on.
    const fn is_full(&self) -> bool {
        self.gathered.is_full(WAITING_MAX) && self.failed.is_none()
    }
}

#[derive(Debug)]
struct Shared<E> {
    inner: E,
    state: Mutex<State>,
    /// Something is on its way, or has arrived, or nothing more will come.
    changed: Condvar,
    /// Something has arrived, or nothing more will.
    room: Notify,
}

/// An engine with a little memory before it, and a thread between.
#[derive(Debug)]
pub(crate) struct LazyState<E> {
    shared: Arc<Shared<E>>,
    thread: Option<JoinHandle<()>>,
}

impl<E: StateEngine> Shared<E> {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'s>(&self, state: MutexGuard<'s, State>) -> MutexGuard<'s, State> {
        self.changed.wait(state).unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until nothing is on its way.
    fn arrived(&self) -> Result<MutexGuard<'_, State>, EngineError> {
        let mut state = self.state();
        while state.on_its_way.is_some() {
            state = self.wait(state);
        }
        state.failed.clone().map_or(Ok(state), Err)
    }

    /// Whether [`StateEngine::apply`] would wait.
    fn is_full(&self) -> bool {
        self.state().is_full()
    }

    /// Sends on what was gathered, where nothing else is on its way.
    fn send_on(&self, state: &mut State) {
        if state.on_its_way.is_none() && !state.gathered.writes.is_empty() {
            let writes = std::mem::take(&mut state.gathered).writes;
            state.on_its_way = Some(Arc::new(writes.into_iter().collect()));
            state.sent += 1;
            self.changed.notify_all();
        }
    }

    /// The thread.
    fn hand_on(&self) {
        let mut state = self.state();
        loop {
            let Some(writes) = state.on_its_way.clone() else {
                if state.ended {
                    return;
                }
                state = self.wait(state);
                continue;
            };
            drop(state);
            // Whoever waits for a thread that is gone would wait for ever.
            let done = catch_unwind(AssertUnwindSafe(|| self.inner.apply(&writes)));
            let done = done.unwrap_or_else(|panic| {
                Err(EngineError::Io { operation: "writing the state", reason: panic_text(&*panic) })
            });
            state = self.state();
            state.on_its_way = None;
            state.landed += 1;
            state.failed = done.err();
            if state.failed.is_none() && state.gathered.is_full(1) {
                self.send_on(&mut state);
            }
            self.changed.notify_all();
            self.room.notify_waiters();
            if state.failed.is_some() {
                return;
            }
        }
    }

    /// Everything has reached the engine, and nothing comes as long as the answer is kept.
    fn settled(&self) -> Result<MutexGuard<'_, State>, EngineError> {
        let mut state = self.arrived()?;
        let writes: Vec<Write> = std::mem::take(&mut state.gathered).writes.into_iter().collect();
        if !writes.is_empty()
            && let Err(error) = self.inner.apply(&writes)
        {
            // These rows are lost: later ones must not come to lie over the gap.
            state.failed = Some(error.clone());
            self.room.notify_waiters();
            return Err(error);
        }
        Ok(state)
    }
}

impl<E: StateEngine> LazyState<E> {
    pub(crate) fn new(inner: E) -> Result<Self, EngineError> {
        let (state, changed, room) = (Mutex::default(), Condvar::new(), Notify::new());
        let shared = Arc::new(Shared { inner, state, changed, room });
        let working = Arc::clone(&shared);
        let thread = std::thread::Builder::new().name("state".into()).spawn(move || working.hand_on());
        let failed =
            |error: std::io::Error| EngineError::Io { operation: "starting a thread", reason: error.to_string() };
        Ok(Self { shared, thread: Some(thread.map_err(failed)?) })
    }
}

impl<E> Drop for LazyState<E> {
    /// What is on its way arrives. What was gathered is lost, as in a crash.
    fn drop(&mut self) {
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner).ended = true;
        self.shared.changed.notify_all();
        drop(self.thread.take().map(JoinHandle::join));
    }
}

impl<E: StateEngine> StateEngine for LazyState<E> {
    fn apply(&self, writes: &[Write]) -> Result<(), EngineError> {
        let mut state = self.shared.state();
        while state.is_full() {
            state = self.shared.wait(state);
        }
        if let Some(failed) = &state.failed {
            return Err(failed.clone());
        }
        let gathered = &mut state.gathered;
        for (key, value) in writes {
            let size = |value: &Option<Vec<u8>>| key.len() + value.as_ref().map_or(0, Vec::len);
            gathered.bytes += size(value);
            if let Some(before) = gathered.writes.insert(key.clone(), value.clone()) {
                gathered.bytes -= size(&before);
            }
        }
        gathered.batches += 1;
        if gathered.is_full(1) {
            self.shared.send_on(&mut state);
        }
        Ok(())
    }

    fn room(&self) -> Option<BoxFuture<'_, ()>> {
        let shared = &*self.shared;
        let wait = || async move {
            loop {
                // Begun before looking, so that what arrives after the look ends the wait.
                let arrived = shared.room.notified();
                if !shared.is_full() {
                    return;
                }
                arrived.await;
            }
        };
        shared.is_full().then(|| wait().boxed())
    }

    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, EngineError> {
        let state = self.shared.state();
        if let Some(value) = state.gathered.writes.get(key) {
            return Ok(value.clone());
        }
        if let Some(writes) = &state.on_its_way
            && let Ok(place) = writes.binary_search_by(|(of, _)| of.as_slice().cmp(key))
        {
            return Ok(writes[place].1.clone());
        }
        self.shared.inner.get(key)
    }

    fn scan(&self, visit: &mut Visit<'_>) -> Result<(), EngineError> {
        let _state = self.shared.settled()?;
        self.shared.inner.scan(visit)
    }

    fn clear_but(&self, mark: &[u8]) -> Result<(), EngineError> {
        // The mark may be among what was gathered.
        let _state = self.shared.settled()?;
        self.shared.inner.clear_but(mark)
    }

    fn sync(&self) -> Result<(), EngineError> {
        let mut state = self.shared.state();
        // What comes from now on waits for the next sync: this one ends, however much comes.
        let goal = state.sent + u64::from(!state.gathered.writes.is_empty());
        while state.landed < goal && state.failed.is_none() {
            self.shared.send_on(&mut state);
            state = self.shared.wait(state);
        }
        if let Some(failed) = &state.failed {
            return Err(failed.clone());
        }
        drop(state);
        self.shared.inner.sync()
    }

    fn sync_blocks(&self) -> bool {
        self.shared.inner.sync_blocks()
    }

    fn sync_delay(&self) -> std::time::Duration {
        self.shared.inner.sync_delay()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::MemoryState;

    fn put(key: &str, value: usize) -> Write {
        (key.as_bytes().to_vec(), Some(value.to_be_bytes().to_vec()))
    }

    fn number(value: Option<Vec<u8>>) -> Option<usize> {
        value.map(|value| usize::from_be_bytes(value.try_into().unwrap()))
    }

    #[test]
    fn batches_go_on_together_after_some_and_with_a_sync_and_never_by_halves() {
        let inner = MemoryState::default();
        let lazy = LazyState::new(inner.clone()).unwrap();
        let apply = |value| lazy.apply(&[put("a", value), put("b", value)]).unwrap();
        let both = || {
            let of = |key: &[u8]| number(inner.get(key).unwrap());
            assert_eq!(of(b"a"), of(b"b"));
            of(b"a")
        };
        for value in 1..BATCHES_MAX {
            apply(value);
            assert_eq!(both(), None, "they wait");
        }
        assert_eq!(number(lazy.get(b"a").unwrap()), Some(BATCHES_MAX - 1), "they are visible");
        apply(BATCHES_MAX);
        drop(lazy.shared.arrived().unwrap());
        assert_eq!(both(), Some(BATCHES_MAX));
        apply(7);
        lazy.sync().unwrap();
        assert_eq!(both(), Some(7));
        lazy.apply(&[(b"a".to_vec(), None), ("b".into(), Some(vec![0; BYTES_MAX]))]).unwrap();
        drop(lazy.shared.arrived().unwrap());
        assert_eq!(inner.get(b"a").unwrap(), None, "so many bytes do not wait");
    }

    /// An engine that takes a batch when it is told to.
    #[derive(Debug, Clone, Default)]
    struct Slow {
        inner: MemoryState,
        gate: Arc<Mutex<()>>,
        fault: Option<Faulty>,
    }

    #[derive(Debug, Clone, Copy)]
    enum Faulty {
        Refuses,
        Panics,
    }

    impl StateEngine for Slow {
        fn apply(&self, writes: &[Write]) -> Result<(), EngineError> {
            drop(self.gate.lock().unwrap());
            match self.fault {
                None => self.inner.apply(writes),
                Some(Faulty::Refuses) => {
                    Err(EngineError::Io { operation: "writing the state", reason: "it is broken".into() })
                }
                Some(Faulty::Panics) => panic!("it is broken"),
            }
        }

        fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, EngineError> {
            self.inner.get(key)
        }

        fn scan(&self, visit: &mut Visit<'_>) -> Result<(), EngineError> {
            self.inner.scan(visit)
        }

        fn clear_but(&self, mark: &[u8]) -> Result<(), EngineError> {
            self.inner.clear_but(mark)
        }

        fn sync(&self) -> Result<(), EngineError> {
            self.inner.sync()
        }

        fn sync_blocks(&self) -> bool {
            self.inner.sync_blocks()
        }
    }

    #[test]
    fn whoever_applies_does_not_wait_for_a_slow_engine_and_reads_what_is_on_its_way() {
        let slow = Slow::default();
        let lazy = LazyState::new(slow.clone()).unwrap();
        let stuck = slow.gate.lock().unwrap();
        for value in 1..=3 * BATCHES_MAX {
            lazy.apply(&[put("a", value), put(&format!("k{value}"), value)]).unwrap();
        }
        assert_eq!(slow.inner.get(b"a").unwrap(), None, "it is stuck");
        assert_eq!(number(lazy.get(b"a").unwrap()), Some(3 * BATCHES_MAX));
        assert_eq!(number(lazy.get(b"k5").unwrap()), Some(5), "it is on its way");
        drop(stuck);
        lazy.sync().unwrap();
        assert_eq!(number(slow.inner.get(b"a").unwrap()), Some(3 * BATCHES_MAX), "in the order of the batches");
        assert_eq!(number(slow.inner.get(b"k5").unwrap()), Some(5));
    }

    #[tokio::test]
    async fn there_is_room_until_too_much_waits_and_again_when_the_engine_has_taken_it_or_has_failed() {
        for fault in [None, Some(Faulty::Refuses)] {
            let slow = Slow { fault, ..Slow::default() };
            let lazy = LazyState::new(slow.clone()).unwrap();
            let room = {
                let _stuck = slow.gate.lock().unwrap();
                for value in 1..=(1 + WAITING_MAX) * BATCHES_MAX {
                    assert!(lazy.room().is_none(), "batch {value} does not wait");
                    lazy.apply(&[put("a", value)]).unwrap();
                }
                let mut room = lazy.room().expect("too much waits");
                assert!((&mut room).now_or_never().is_none(), "the engine is stuck");
                room
            };
            room.await;
            assert!(lazy.room().is_none());
        }
    }

    #[test]
    fn what_the_engine_refuses_is_told_to_whoever_comes_next() {
        for fault in [Faulty::Refuses, Faulty::Panics] {
            let lazy = LazyState::new(Slow { fault: Some(fault), ..Slow::default() }).unwrap();
            for value in 1..=BATCHES_MAX {
                lazy.apply(&[put("a", value)]).unwrap();
            }
            lazy.shared.arrived().map(drop).expect_err("it has failed");
            let refused = lazy.apply(&[put("a", 0)]).expect_err("nothing is taken any more").to_string();
            assert!(refused.contains("it is broken"), "{refused}");
            lazy.sync().expect_err("nor synced");
        }
    }

    #[test]
    fn rows_that_were_refused_with_a_sync_or_a_scan_are_not_written_over() {
        for of in [|lazy: &LazyState<Slow>| lazy.sync(), |lazy: &LazyState<Slow>| lazy.scan(&mut |_, _| Ok(()))] {
            let lazy = LazyState::new(Slow { fault: Some(Faulty::Refuses), ..Slow::default() }).unwrap();
            lazy.apply(&[put("a", 1)]).unwrap();
            of(&lazy).expect_err("it was refused");
            lazy.apply(&[put("b", 2)]).expect_err("nothing is taken any more");
            of(&lazy).expect_err("and nothing said to be there");
        }
    }

    #[test]
    fn a_sync_waits_for_what_was_there_before_it_and_not_for_what_comes_while_it_waits() {
        let slow = Slow::default();
        let lazy = Arc::new(LazyState::new(slow.clone()).unwrap());
        let stop = Arc::new(std::sync::atomic::AtomicBool::new(false));
        let writers: Vec<_> = (0..2)
            .map(|_| {
                let (lazy, stop) = (Arc::clone(&lazy), Arc::clone(&stop));
                std::thread::spawn(move || {
                    while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                        lazy.apply(&[(b"a".to_vec(), Some(vec![0; BYTES_MAX]))]).unwrap();
                    }
                })
            })
            .collect();
        for value in 1..=20 {
            lazy.apply(&[put("b", value)]).unwrap();
            lazy.sync().unwrap();
            assert_eq!(number(slow.inner.get(b"b").unwrap()), Some(value));
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        writers.into_iter().for_each(|writer| writer.join().unwrap());
    }
}
