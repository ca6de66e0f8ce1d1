//! What the log says of each tenant that is being moved: whole transactions in commit order, kept until the follower
//! has them durably. Pure; who reads the log and who sends are elsewhere.
//!
//! The database keeps the log from the oldest transaction that somebody still lacks, so nothing here is durable: after
//! a crash the same transactions are decoded again.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use cell_model::{Seq, TenantId};
use cell_protos::v1 as wire;
use tokio::time::Instant;

use crate::refusal::Refusal;

/// Keys that have changed since the last comparison; with more of them everything is compared.
const DIRTY_MAX: usize = 50_000;

/// A key of a table.
pub(crate) type RowKey = (u32, Vec<String>);

/// One source transaction, as far as one tenant is concerned.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Captured {
    /// Where its commit ends in the log.
    pub(crate) seq: Seq,
    pub(crate) xid: u32,
    pub(crate) mutations: Vec<wire::TableMutation>,
    /// Keys that it touched.
    pub(crate) keys: Vec<RowKey>,
    pub(crate) bytes: u64,
}

/// One tenant's.
#[derive(Debug)]
pub(crate) struct Capture {
    /// Transactions up to here are not part of it.
    from: Seq,
    last: Seq,
    acked: Seq,
    queue: VecDeque<Arc<Captured>>,
    bytes: u64,
    dirty: Option<BTreeSet<RowKey>>,
    unacked_since: Option<Instant>,
    failed: Option<Refusal>,
    /// That it has failed is written down: the log may go, also before the agent is started again.
    noted: bool,
    /// That could not be written down for too long: the log goes all the same.
    let_go: bool,
}

/// How a capture goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Standing {
    pub(crate) last: Seq,
    pub(crate) acked: Seq,
    pub(crate) unacked_since: Option<Instant>,
    pub(crate) kept: usize,
    pub(crate) kept_bytes: u64,
}

impl Capture {
    /// `clean`: both cells are alike at `from`. Otherwise, until a comparison, nothing is known.
    pub(crate) fn new(from: Seq, clean: bool) -> Self {
        Self {
            from,
            last: from,
            acked: from,
            queue: VecDeque::new(),
            bytes: 0,
            dirty: clean.then(BTreeSet::new),
            unacked_since: None,
            failed: None,
            noted: false,
            let_go: false,
        }
    }

    fn take(&mut self, captured: Arc<Captured>, bytes_max: u64, now: Instant) {
        if captured.seq <= self.last || self.failed.is_some() {
            return;
        }
        self.last = captured.seq;
        if let Some(dirty) = &mut self.dirty {
            dirty.extend(captured.keys.iter().cloned());
            if dirty.len() > DIRTY_MAX {
                self.dirty = None;
            }
        }
        self.bytes += captured.bytes;
        self.queue.push_back(captured);
        self.unacked_since.get_or_insert(now);
        if self.bytes > bytes_max {
            self.fail(Refusal::new("CAPTURE_OVERFLOW", "more changes were captured than are kept"));
        }
    }

    fn fail(&mut self, refusal: Refusal) {
        self.queue.clear();
        self.bytes = 0;
        self.failed.get_or_insert(refusal);
    }

    fn acknowledge(&mut self, seq: Seq, now: Instant) {
        // After a restart the follower knows more than this agent has decoded again.
        self.last = self.last.max(seq);
        if seq <= self.acked {
            return;
        }
        self.acked = seq;
        while self.queue.front().is_some_and(|first| first.seq <= seq) {
            let gone = self.queue.pop_front();
            self.bytes -= gone.map_or(0, |gone| gone.bytes);
        }
        self.unacked_since = (!self.queue.is_empty()).then_some(now);
    }
}

/// All of them.
#[derive(Debug, Default)]
pub(crate) struct Captures {
    of: BTreeMap<TenantId, Capture>,
}

impl Captures {
    pub(crate) fn insert(&mut self, tenant: TenantId, capture: Capture) {
        self.of.insert(tenant, capture);
    }

    pub(crate) fn remove(&mut self, tenant: &TenantId) {
        self.of.remove(tenant);
    }

    pub(crate) fn has(&self, tenant: &str) -> bool {
        TenantId::new(tenant).is_ok_and(|tenant| self.of.contains_key(&tenant))
    }

    /// A decoded transaction; whether anybody wants it.
    pub(crate) fn take(&mut self, tenant: &str, captured: Captured, bytes_max: u64, now: Instant) -> bool {
        let Ok(tenant) = TenantId::new(tenant) else { return false };
        let Some(capture) = self.of.get_mut(&tenant) else { return false };
        capture.take(Arc::new(captured), bytes_max, now);
        true
    }

    /// Nothing that was captured for anybody can be relied on any more.
    pub(crate) fn fail_all(&mut self, refusal: &Refusal) {
        for capture in self.of.values_mut() {
            capture.fail(refusal.clone());
        }
    }

    /// What was captured for one tenant cannot be relied on any more.
    pub(crate) fn fail(&mut self, tenant: &TenantId, refusal: &Refusal) {
        if let Some(capture) = self.of.get_mut(tenant) {
            capture.fail(refusal.clone());
        }
    }

    /// The capture whose follower lags the furthest is given up. False where none lags: then something else keeps the log.
    pub(crate) fn fail_slowest(&mut self, refusal: &Refusal) -> bool {
        let lagging = self.of.values_mut().filter(|capture| !capture.queue.is_empty());
        let slowest = lagging.min_by_key(|capture| capture.queue.front().map(|first| first.seq));
        slowest.is_some_and(|slowest| {
            slowest.fail(refusal.clone());
            true
        })
    }

    /// Those that have failed, as long as nobody has written that down.
    pub(crate) fn unnoted(&self) -> Vec<TenantId> {
        let unnoted = self.of.iter().filter(|(_, capture)| capture.failed.is_some() && !capture.noted);
        unnoted.map(|(tenant, _)| tenant.clone()).collect()
    }

    /// It is written down that this one has failed.
    pub(crate) fn noted(&mut self, tenant: &TenantId) {
        if let Some(capture) = self.of.get_mut(tenant) {
            capture.noted = capture.failed.is_some();
        }
    }

    /// The log of one that has failed goes, though that is not written down. Whether that is news.
    pub(crate) fn let_go(&mut self, tenant: &TenantId) -> bool {
        let failed = self.of.get_mut(tenant).filter(|capture| capture.failed.is_some());
        failed.is_some_and(|capture| !std::mem::replace(&mut capture.let_go, true))
    }

    pub(crate) fn has_failed(&self, tenant: &TenantId) -> bool {
        self.of.get(tenant).is_some_and(|capture| capture.failed.is_some())
    }

    /// Whether it has failed, and needs no log any more.
    pub(crate) fn is_given_up(&self, tenant: &TenantId) -> bool {
        self.of.get(tenant).is_some_and(|capture| capture.failed.is_some() && (capture.noted || capture.let_go))
    }

    pub(crate) fn standing(&self, tenant: &TenantId) -> Option<Result<Standing, Refusal>> {
        let capture = self.of.get(tenant)?;
        Some(match &capture.failed {
            Some(refusal) => Err(refusal.clone()),
            None => Ok(Standing {
                last: capture.last,
                acked: capture.acked,
                unacked_since: capture.unacked_since,
                kept: capture.queue.len(),
                kept_bytes: capture.bytes,
            }),
        })
    }

    pub(crate) fn from(&self, tenant: &TenantId) -> Option<Seq> {
        self.of.get(tenant).map(|capture| capture.from)
    }

    /// Transactions after `after`, at most `bytes_max` (but at least one).
    pub(crate) fn after(&self, tenant: &TenantId, after: Seq, bytes_max: u64) -> Vec<Arc<Captured>> {
        let Some(capture) = self.of.get(tenant) else { return Vec::new() };
        let begin = capture.queue.partition_point(|captured| captured.seq <= after);
        let mut bytes = 0;
        let fitting = capture.queue.iter().skip(begin).take_while(|captured| {
            let fits = bytes < bytes_max;
            bytes += captured.bytes;
            fits
        });
        fitting.cloned().collect()
    }

    /// Bytes of the transactions after `after`.
    pub(crate) fn weight_after(&self, tenant: &TenantId, after: Seq) -> u64 {
        let Some(capture) = self.of.get(tenant) else { return 0 };
        let begin = capture.queue.partition_point(|captured| captured.seq <= after);
        capture.queue.iter().skip(begin).map(|captured| captured.bytes).sum()
    }

    pub(crate) fn acknowledge(&mut self, tenant: &TenantId, seq: Seq, now: Instant) {
        if let Some(capture) = self.of.get_mut(tenant) {
            capture.acknowledge(seq, now);
        }
    }

    /// Both cells were found alike at `cut`: only what has changed since is compared at the seal.
    pub(crate) fn clean_at(&mut self, tenant: &TenantId, cut: Seq) {
        if let Some(capture) = self.of.get_mut(tenant) {
            let later = capture.queue.iter().filter(|captured| captured.seq > cut);
            capture.dirty = Some(later.flat_map(|captured| captured.keys.iter().cloned()).collect());
        }
    }

    /// Keys that have changed since; nothing where that is not known.
    pub(crate) fn dirty(&self, tenant: &TenantId) -> Option<Vec<RowKey>> {
        let dirty = self.of.get(tenant)?.dirty.as_ref()?;
        Some(dirty.iter().cloned().collect())
    }

    /// The log is needed from here on: from the oldest transaction that somebody lacks, or not at all before
    /// `position`.
    pub(crate) fn needed_from(&self, position: Seq) -> Seq {
        let lacks = |capture: &&Capture| match &capture.failed {
            None => !capture.queue.is_empty(),
            // Decoded again it would look as if nothing had been missing.
            Some(_) => !(capture.noted || capture.let_go),
        };
        let lacking = self.of.values().filter(lacks);
        lacking.map(|capture| capture.acked.max(capture.from)).min().unwrap_or(position).min(position)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAX: u64 = 1_000;

    fn id() -> TenantId {
        TenantId::new("t").unwrap()
    }

    fn captured(seq: u64, key: &str) -> Captured {
        Captured {
            seq: Seq(seq),
            xid: u32::try_from(seq).unwrap(),
            mutations: Vec::new(),
            keys: vec![(0, vec![key.into()])],
            bytes: 100,
        }
    }

    fn seqs(captures: &Captures, after: u64) -> Vec<u64> {
        captures.after(&id(), Seq(after), u64::MAX).iter().map(|captured| captured.seq.get()).collect()
    }

    #[tokio::test]
    async fn the_log_is_kept_from_the_oldest_transaction_that_somebody_lacks() {
        let (mut captures, now) = (Captures::default(), Instant::now());
        let other = TenantId::new("u").unwrap();
        captures.insert(id(), Capture::new(Seq(10), false));
        captures.insert(other.clone(), Capture::new(Seq(12), false));
        assert_eq!(captures.needed_from(Seq(50)), Seq(50), "nobody lacks anything");
        for seq in [9, 10, 20, 30] {
            assert!(captures.take("t", captured(seq, "a"), MAX, now));
        }
        assert!(captures.take("u", captured(25, "a"), MAX, now));
        assert!(!captures.take("nobody", captured(26, "a"), MAX, now));
        assert_eq!(seqs(&captures, 0), [20, 30], "what lies before the capture is not part of it");
        assert_eq!(captures.needed_from(Seq(50)), Seq(10));
        captures.acknowledge(&id(), Seq(20), now);
        assert_eq!(captures.needed_from(Seq(50)), Seq(12));
        captures.acknowledge(&other, Seq(25), now);
        assert_eq!(captures.needed_from(Seq(50)), Seq(20));
        captures.acknowledge(&id(), Seq(30), now);
        assert_eq!(captures.needed_from(Seq(50)), Seq(50));
        assert!(captures.take("t", captured(30, "a"), MAX, now));
        assert_eq!(seqs(&captures, 0), Vec::<u64>::new(), "decoded again after a restart, it is known already");
    }

    #[tokio::test]
    async fn after_a_comparison_only_later_changes_are_dirty() {
        let (mut captures, now) = (Captures::default(), Instant::now());
        captures.insert(id(), Capture::new(Seq(10), false));
        captures.take("t", captured(20, "a"), MAX, now);
        captures.take("t", captured(30, "b"), MAX, now);
        assert_eq!(captures.dirty(&id()), None, "nothing was compared yet");
        captures.clean_at(&id(), Seq(20));
        captures.take("t", captured(40, "c"), MAX, now);
        captures.take("t", captured(50, "b"), MAX, now);
        let keys: Vec<String> = captures.dirty(&id()).unwrap().into_iter().flat_map(|(_, key)| key).collect();
        assert_eq!(keys, ["b", "c"]);
    }

    #[tokio::test]
    async fn a_capture_that_grows_too_far_is_given_up_and_frees_the_log() {
        let (mut captures, now) = (Captures::default(), Instant::now());
        captures.insert(id(), Capture::new(Seq(10), false));
        for seq in 11..=21 {
            captures.take("t", captured(seq, "a"), MAX, now);
        }
        assert_eq!(captures.standing(&id()).unwrap().unwrap_err().code, "CAPTURE_OVERFLOW");
        assert_eq!(captures.needed_from(Seq(50)), Seq(10), "until that is written down");
        assert_eq!(captures.unnoted(), [id()]);
        assert!(!captures.is_given_up(&id()));
        captures.noted(&id());
        assert!(captures.unnoted().is_empty() && captures.is_given_up(&id()));
        assert_eq!(captures.needed_from(Seq(50)), Seq(50));
        captures.insert(id(), Capture::new(Seq(30), true));
        captures.take("t", captured(31, "a"), MAX, now);
        let healthy = TenantId::new("healthy").unwrap();
        captures.insert(healthy.clone(), Capture::new(Seq(30), true));
        let long = Refusal::new("CAPTURE_OVERFLOW", "the log has grown too long");
        assert!(captures.fail_slowest(&long), "one lags");
        assert!(captures.standing(&id()).unwrap().is_err());
        assert!(!captures.fail_slowest(&long), "of those that are left none lags");
        assert!(captures.standing(&healthy).unwrap().is_ok());
    }

    #[tokio::test]
    async fn a_failure_that_cannot_be_written_down_frees_the_log_and_is_not_taken_for_written_down() {
        let (mut captures, now) = (Captures::default(), Instant::now());
        captures.insert(id(), Capture::new(Seq(10), true));
        captures.take("t", captured(20, "a"), MAX, now);
        assert!(!captures.let_go(&id()), "it has not failed");
        captures.fail(&id(), &Refusal::new("TABLE_TRUNCATED", "gone"));
        assert_eq!(captures.needed_from(Seq(50)), Seq(10));
        assert!(captures.let_go(&id()) && !captures.let_go(&id()), "that is news once");
        assert_eq!(captures.needed_from(Seq(50)), Seq(50));
        assert_eq!(captures.unnoted(), [id()], "it is still tried, and no slot is made before it is");
        // One that begins anew has nothing to do with it.
        captures.insert(id(), Capture::new(Seq(30), true));
        captures.noted(&id());
        captures.take("t", captured(40, "a"), MAX, now);
        assert!(captures.unnoted().is_empty() && !captures.is_given_up(&id()));
        assert_eq!(captures.needed_from(Seq(50)), Seq(30));
    }
}
