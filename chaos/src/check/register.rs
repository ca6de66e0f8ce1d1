//! One key with one writer.
//!
//! The writer numbers its writes and deletes; it sends one at a time. So "at least as new as" is a comparison of
//! numbers, and the whole check is two kinds of floor:
//!
//! * of real time: what was acknowledged before a read was sent must show in it;
//! * of the session: what a session has read, it never reads older again.
//!
//! An absent document says that a delete at or above the floor was done, or a delete of unknown outcome, late.
//!
//! The floors give what is wrong its name. Where they hold, [`super::zones`] and [`super::gaps`] say whether there is one
//! order for all sessions that explains everything: what one session has read, another one does not read older afterwards;
//! a delete of unknown outcome is done once; nothing that an acknowledged delete took away comes back. The writer's numbers
//! play no part in that. Both together refuse a history if and only if it has no such order.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::gaps::Gaps;
use super::zones::{self, Zone};
use super::{FaultKind, FinalDoc, Findings};
use crate::clock::Micros;
use crate::history::{Op, Outcome, Seen, SessionId};

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Fate {
    Refused,
    Unknown,
    Acked,
}

#[derive(Debug, Clone, Copy)]
struct Write {
    delete: bool,
    fate: Fate,
    invoked: Micros,
    acked_at: Micros,
}

impl Write {
    /// Another attempt at the same write. One that was refused did nothing: that it was sent says nothing of when another
    /// one was done.
    fn again(&mut self, other: &Self) {
        if self.fate == Fate::Refused {
            *self = *other;
        } else if other.fate != Fate::Refused {
            self.fate = self.fate.max(other.fate);
            self.invoked = self.invoked.min(other.invoked);
            self.acked_at = self.acked_at.min(other.acked_at);
        }
    }
}

#[derive(Debug, Clone)]
struct Read {
    session: SessionId,
    invoked: Micros,
    returned: Micros,
    seen: Option<Seen>,
}

/// Everything that was done to one key.
#[derive(Debug, Default)]
pub(super) struct Register {
    writes: BTreeMap<u64, Write>,
    reads: Vec<Read>,
}

impl Register {
    pub(super) fn wrote(&mut self, op: &Op, version: u64, delete: bool) {
        let fate = match op.outcome {
            Outcome::Refused { .. } => Fate::Refused,
            Outcome::Unknown { .. } => Fate::Unknown,
            Outcome::Written | Outcome::Read(_) | Outcome::Created { .. } | Outcome::Counted { .. } => Fate::Acked,
        };
        let acked_at = if fate == Fate::Acked { op.returned } else { Micros::MAX };
        let new = Write { delete, fate, invoked: op.invoked, acked_at };
        // The same write sent again under its idempotency key.
        self.writes.entry(version).and_modify(|known| known.again(&new)).or_insert(new);
    }

    pub(super) fn was_read(&mut self, op: &Op) {
        if let Outcome::Read(seen) = &op.outcome {
            let seen = seen.clone();
            self.reads.push(Read { session: op.session, invoked: op.invoked, returned: op.returned, seen });
        }
    }

    pub(super) fn check(&self, tenant: &Arc<str>, key: &str, end: Option<&FinalDoc>, findings: &mut Findings) {
        let acked = self.writes.values().filter(|write| write.fate == Fate::Acked).count();
        findings.acked_writes += acked as u64;
        let unknown = self.writes.values().filter(|write| write.fate == Fate::Unknown).count();
        findings.unknown_writes += unknown as u64;
        let before = findings.faulty();
        self.check_reads(tenant, key, findings);
        self.check_end(tenant, key, end, findings);
        if findings.faulty() == before {
            self.check_order(tenant, key, end, findings);
        }
    }

    /// One order for everybody, and the end is the last to look.
    fn check_order(&self, tenant: &Arc<str>, key: &str, end: Option<&FinalDoc>, findings: &mut Findings) {
        let zones = self.zones(end.and_then(|end| shows(end, tenant, key)));
        let deleted = self.writes.iter().filter(|(_, write)| write.delete && write.fate == Fate::Acked);
        let deleted = deleted.map(|(version, write)| Zone::written(*version, write.invoked, write.acked_at));
        if let Some((one, other)) = zones::contradiction(zones.values().copied().chain(deleted)) {
            let (kind, what) = if self.writes[&other.version].delete {
                (FaultKind::Resurrected, "its deletion by")
            } else {
                (FaultKind::Reordered, "")
            };
            let detail = format!(
                "no order explains what was read: version {} was there before and after {what}version {}, or the other way round",
                one.version, other.version
            );
            findings.add(kind, tenant, key, 1, detail);
            return;
        }
        self.check_gaps(tenant, key, Gaps::between(zones.into_values()), end.is_none(), findings);
    }

    /// A place in that order for everybody who found nothing.
    fn check_gaps(
        &self,
        tenant: &Arc<str>,
        key: &str,
        mut gaps: Gaps,
        ends_with_nothing: bool,
        findings: &mut Findings,
    ) {
        const END: (Micros, Micros) = (Micros::MAX, Micros::MAX);
        for write in self.writes.values().filter(|write| write.delete) {
            match write.fate {
                Fate::Acked => gaps.deleted(write.invoked, write.acked_at),
                Fate::Unknown => gaps.maybe_deleted(write.invoked),
                Fate::Refused => {}
            }
        }
        let nothing = self.reads.iter().filter(|read| read.seen.is_none());
        nothing.for_each(|read| gaps.found_nothing(read.invoked, read.returned));
        if ends_with_nothing {
            gaps.found_nothing(END.0, END.1);
        }
        match gaps.without_place() {
            None => {}
            Some(END) => {
                let detail =
                    "there is nothing at the end, and each delete that could explain it explains an earlier read";
                findings.add(FaultKind::Lost, tenant, key, 1, detail.into());
            }
            Some((invoked, returned)) => {
                let detail = format!(
                    "no order explains that nothing was found between {invoked} and {returned} µs: too few deletes may have been done"
                );
                findings.add(FaultKind::Reordered, tenant, key, 1, detail);
            }
        }
    }

    /// When each value was there, that nobody knows to be refused.
    fn zones(&self, at_end: Option<u64>) -> BTreeMap<u64, Zone> {
        let puts = self.writes.iter().filter(|(_, write)| !write.delete && write.fate != Fate::Refused);
        let zone =
            |(version, write): (&u64, &Write)| (*version, Zone::written(*version, write.invoked, write.acked_at));
        let mut zones: BTreeMap<u64, Zone> = puts.map(zone).collect();
        let at_end = at_end.map(|version| (version, Micros::MAX, Micros::MAX));
        let seen = |read: &Read| Some((read.seen.as_ref()?.version, read.invoked, read.returned));
        for (version, invoked, returned) in self.reads.iter().filter_map(seen).chain(at_end) {
            if let Some(zone) = zones.get_mut(&version) {
                zone.read(invoked, returned);
            }
        }
        zones
    }

    fn check_reads(&self, tenant: &Arc<str>, key: &str, findings: &mut Findings) {
        let (floors, late) = (self.acked_floors(), self.late_delete());
        let mut reads: Vec<&Read> = self.reads.iter().collect();
        reads.sort_by_key(|read| (read.session, read.invoked));
        let mut session_floor = 0;
        let mut session = None;
        for read in reads {
            if session != Some(read.session) {
                session = Some(read.session);
                session_floor = 0;
            }
            let index = floors.partition_point(|(at, _)| *at < read.invoked);
            let acked_floor = index.checked_sub(1).map_or(0, |index| floors[index].1);
            match self.judge_read(tenant, read, acked_floor, session_floor, late) {
                Ok(shown) => session_floor = session_floor.max(shown),
                Err((kind, detail)) => {
                    let detail = format!("session {} at {} µs: {detail}", read.session, read.invoked);
                    findings.add(kind, tenant, key, 1, detail);
                }
            }
        }
    }

    /// (time, highest version acknowledged until then), rising.
    fn acked_floors(&self) -> Vec<(Micros, u64)> {
        let acked = self.writes.iter().filter(|(_, write)| write.fate == Fate::Acked);
        let mut floors: Vec<(Micros, u64)> = acked.map(|(version, write)| (write.acked_at, *version)).collect();
        floors.sort_unstable();
        let mut highest = 0;
        for (_, version) in &mut floors {
            highest = highest.max(*version);
            *version = highest;
        }
        floors
    }

    /// The version that the read has shown, or what is wrong with it.
    fn judge_read(
        &self,
        tenant: &Arc<str>,
        read: &Read,
        acked: u64,
        session: u64,
        late: Option<Micros>,
    ) -> Result<u64, (FaultKind, String)> {
        let floor = acked.max(session);
        let Some(seen) = &read.seen else {
            // Which delete it was is not known here; it proves nothing about what is above it.
            return if self.may_be_absent(floor, read.returned, late) {
                Ok(0)
            } else {
                Err((FaultKind::Reordered, format!("found nothing after version {floor} was acknowledged or read")))
            };
        };
        if seen.tenant != *tenant {
            return Err((FaultKind::Leaked, format!("read a document of tenant {}", seen.tenant)));
        }
        let version = seen.version;
        match self.writes.get(&version) {
            None => Err((FaultKind::Phantom, format!("read version {version}, which nobody wrote"))),
            Some(write) if write.delete => {
                Err((FaultKind::Phantom, format!("read version {version}, which is a delete")))
            }
            Some(write) if write.fate == Fate::Refused => {
                Err((FaultKind::Phantom, format!("read version {version}, which was refused")))
            }
            Some(write) if write.invoked > read.returned => {
                Err((FaultKind::Phantom, format!("read version {version} before it was written")))
            }
            // It may have been done late; it proves nothing about what is above it.
            Some(write) if write.fate == Fate::Unknown => Ok(0),
            Some(_) if version < session => {
                Err((FaultKind::Reordered, format!("read version {version} after it had read {session}")))
            }
            Some(_) if version < acked => {
                Err((FaultKind::Reordered, format!("read version {version} after {acked} was acknowledged")))
            }
            Some(_) => Ok(version),
        }
    }

    /// Whether some delete could have taken away what the floor stands for: an acknowledged one that came after it, or one
    /// of unknown outcome, of which the first was sent at `late`.
    fn may_be_absent(&self, floor: u64, returned: Micros, late: Option<Micros>) -> bool {
        let acked = |write: &Write| write.delete && write.fate == Fate::Acked && write.invoked <= returned;
        floor == 0
            || late.is_some_and(|late| late <= returned)
            || self.writes.range(floor..).any(|(_, write)| acked(write))
    }

    /// When the first delete of unknown outcome was sent.
    fn late_delete(&self) -> Option<Micros> {
        let unknown = self.writes.values().filter(|write| write.delete && write.fate == Fate::Unknown);
        unknown.map(|write| write.invoked).min()
    }

    fn check_end(&self, tenant: &Arc<str>, key: &str, end: Option<&FinalDoc>, findings: &mut Findings) {
        let newest = self.writes.iter().rev().find(|(_, write)| write.fate == Fate::Acked);
        let floor = newest.map_or(0, |(version, _)| *version);
        let found = match end {
            None => {
                if !self.may_be_absent(floor, Micros::MAX, self.late_delete()) {
                    let detail = format!("version {floor} was acknowledged, and there is nothing");
                    findings.add(FaultKind::Lost, tenant, key, 1, detail);
                }
                return;
            }
            Some(FinalDoc::Register(seen)) => seen,
            Some(FinalDoc::Posted { nonce, .. }) => {
                let detail = format!("the document made by request {nonce} is in place of version {floor}");
                findings.add(FaultKind::Phantom, tenant, key, 1, detail);
                return;
            }
            // Named by the check over all documents.
            Some(FinalDoc::Foreign { .. }) => return,
        };
        // A document of another tenant is named by the check over all documents.
        if found.tenant != *tenant {
            return;
        }
        if &*found.key != key {
            let detail = format!("the document says that it is {}", found.key);
            findings.add(FaultKind::Phantom, tenant, key, 1, detail);
            return;
        }
        let version = found.version;
        let (kind, detail) = match self.writes.get(&version) {
            None => (FaultKind::Phantom, format!("version {version} is there, which nobody wrote")),
            Some(write) if write.delete || write.fate == Fate::Refused => {
                (FaultKind::Phantom, format!("version {version} is there, which was refused or is a delete"))
            }
            Some(write) if version >= floor || write.fate == Fate::Unknown => return,
            Some(_) if newest.is_some_and(|(_, write)| write.delete) => {
                (FaultKind::Resurrected, format!("deleted by version {floor}, and version {version} is there"))
            }
            Some(_) => (FaultKind::Reordered, format!("version {floor} was acknowledged, and {version} is there")),
        };
        findings.add(kind, tenant, key, 1, detail);
    }
}

/// The version that the end shows, where it is a document of this key.
fn shows(end: &FinalDoc, tenant: &Arc<str>, key: &str) -> Option<u64> {
    match end {
        FinalDoc::Register(seen) if seen.tenant == *tenant && *seen.key == *key => Some(seen.version),
        FinalDoc::Register(_) | FinalDoc::Posted { .. } | FinalDoc::Foreign { .. } => None,
    }
}
