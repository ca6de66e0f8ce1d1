//! The audit trail: who asked for what, when, and what came of it, as a chain of hashes inside the replicated state.
//!
//! ```text
//! anchor ──► entry n ──► entry n+1 ──► … ──► tip           hash = SHA-256(previous, every field)
//!    └ hash of the last entry that was dropped
//! ```
//!
//! Every node computes the same chain from the same log. Whoever rewrites one node's trail must find another entry with
//! the same hash, or rewrite every later one, and then its tip is no longer that of the other nodes, nor the one of any
//! export made before. The trail keeps the newest [`AuditTrail::ENTRIES_MAX`] entries; the first one kept names the hash
//! of the one before it, so that an export that ends there can be joined.

use std::collections::VecDeque;
use std::fmt::{self, Write as _};
use std::sync::Arc;

mod noted;

use noted::Noted;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::{
    Change, ClusterId, Envelope, Outcome, Rejected, Reply, RequestId, Revision, Suggestion, TenantRecord,
    UnixMillis,
};

/// SHA-256 of an entry and of everything before it.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct AuditHash(pub [u8; 32]);

impl AuditHash {
    fn hex(&self) -> [u8; 64] {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let mut hex = [0; 64];
        for (pair, byte) in hex.chunks_exact_mut(2).zip(self.0) {
            pair.copy_from_slice(&[DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]]);
        }
        hex
    }
}

impl fmt::Display for AuditHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.hex().iter().try_for_each(|digit| f.write_char(char::from(*digit)))
    }
}

fn netstring(bytes: &mut Vec<u8>, field: &[u8]) {
    bytes.extend_from_slice(decimal(field.len() as u64, &mut [0; 20]));
    bytes.push(b':');
    bytes.extend_from_slice(field);
    bytes.push(b',');
}

/// A number as it is written.
fn decimal(mut number: u64, digits: &mut [u8; 20]) -> &[u8] {
    let mut from = digits.len();
    loop {
        from -= 1;
        digits[from] = b'0' + u8::try_from(number % 10).expect("it is below ten");
        number /= 10;
        if number == 0 {
            return &digits[from..];
        }
    }
}

impl fmt::Debug for AuditHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// One action and its outcome. Everything but the hashes is text or a number, so that a few lines of any language check
/// the chain: see `docs/audit.md`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditEntry {
    /// 1, 2, 3, …: none is missing.
    pub number: u64,
    /// The proposer's clock.
    pub at: UnixMillis,
    /// Who asked: role and name of a certificate, as `operator/alice`; empty where nobody had to say.
    pub actor: String,
    /// The client's name for the request.
    pub request_id: Option<RequestId>,
    /// What was asked for, as `move-tenant`.
    pub action: String,
    /// Of what, as `tenant/acme`.
    pub subject: String,
    /// The particulars, as `target=c2 move=m-7`.
    pub detail: String,
    /// The store's revision after it.
    pub revision: Revision,
    /// `done`, `unchanged`, or the code of the refusal.
    pub outcome: String,
    /// Hash of the entry before.
    pub previous: AuditHash,
    /// Hash of this one.
    pub hash: AuditHash,
}

impl AuditEntry {
    /// What is hashed: each field as a netstring (`length:bytes,`), in the order of the struct, the previous hash first.
    #[must_use]
    pub fn canonical(&self) -> Vec<u8> {
        // Every node does this for every command: so one buffer, and no text for each field.
        let mut bytes = Vec::with_capacity(320);
        netstring(&mut bytes, &self.previous.hex());
        netstring(&mut bytes, decimal(self.number, &mut [0; 20]));
        netstring(&mut bytes, decimal(self.at.0, &mut [0; 20]));
        netstring(&mut bytes, self.actor.as_bytes());
        netstring(&mut bytes, self.request_id.map(|id| id.to_string()).unwrap_or_default().as_bytes());
        netstring(&mut bytes, self.action.as_bytes());
        netstring(&mut bytes, self.subject.as_bytes());
        netstring(&mut bytes, self.detail.as_bytes());
        netstring(&mut bytes, decimal(self.revision.get(), &mut [0; 20]));
        netstring(&mut bytes, self.outcome.as_bytes());
        bytes
    }

    /// The hash that this entry must have.
    #[must_use]
    pub fn computed(&self) -> AuditHash {
        AuditHash(Sha256::digest(self.canonical()).into())
    }
}

/// Where a chain is broken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BrokenChain {
    /// At which entry.
    pub number: u64,
    /// What is wrong with it.
    pub reason: &'static str,
}

impl fmt::Display for BrokenChain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "audit entry {}: {}", self.number, self.reason)
    }
}

impl std::error::Error for BrokenChain {}

/// Checks that `entries` are one unbroken chain.
///
/// # Errors
/// [`BrokenChain`] names the first entry that is missing or was rewritten.
pub fn verify_chain<'a>(entries: impl IntoIterator<Item = &'a AuditEntry>) -> Result<(), BrokenChain> {
    let mut before: Option<&AuditEntry> = None;
    for entry in entries {
        check_link(before.map(|before| (before.number, before.hash)), entry)?;
        before = Some(entry);
    }
    Ok(())
}

fn check_link(before: Option<(u64, AuditHash)>, entry: &AuditEntry) -> Result<(), BrokenChain> {
    let broken = |reason| Err(BrokenChain { number: entry.number, reason });
    if entry.computed() != entry.hash {
        return broken("it is not what its hash says");
    }
    match before {
        Some((number, _)) if number + 1 != entry.number => broken("the entry before it is missing"),
        Some((_, hash)) if hash != entry.previous => broken("it does not follow from the entry before it"),
        None if entry.number == 1 && entry.previous != AuditHash::default() => {
            broken("it is the first and follows")
        }
        Some(_) | None => Ok(()),
    }
}

/// The entries that are kept. Its `Debug` shows only where it begins and ends.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct AuditTrail {
    entries: VecDeque<Arc<AuditEntry>>,
}

impl fmt::Debug for AuditTrail {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tip = self.last().map(|last| last.hash).unwrap_or_default();
        write!(f, "AuditTrail({} to {}, {tip})", self.first_number(), self.last_number())
    }
}

impl AuditTrail {
    /// How many entries are kept; the oldest are dropped beyond it.
    pub const ENTRIES_MAX: usize = 20_000;
    /// Longer particulars are cut: what led to a placement is all that a suggestion may say, and the rest.
    const DETAIL_BYTES_MAX: usize = Self::SHORT_BYTES_MAX + Suggestion::WHY_MAX + Suggestion::EXPLAINED_MAX;

    /// The same of routers that are named, and of all that was proposed in layout 4.
    const SHORT_BYTES_MAX: usize = 512;

    /// The kept entries behind `after`, the oldest first.
    pub fn after(&self, after: u64) -> impl DoubleEndedIterator<Item = &Arc<AuditEntry>> {
        let first = self.entries.front().map_or(1, |entry| entry.number);
        let skipped = usize::try_from(after.saturating_add(1).saturating_sub(first)).unwrap_or(usize::MAX);
        self.entries.range(skipped.min(self.entries.len())..)
    }

    /// The newest entry.
    #[must_use]
    pub fn last(&self) -> Option<&AuditEntry> {
        self.entries.back().map(|entry| &**entry)
    }

    /// Number of the oldest entry that is kept; 0 where there is none.
    #[must_use]
    pub fn first_number(&self) -> u64 {
        self.entries.front().map_or(0, |entry| entry.number)
    }

    /// Number of the newest entry; 0 where there is none.
    #[must_use]
    pub fn last_number(&self) -> u64 {
        self.last().map_or(0, |entry| entry.number)
    }

    /// Takes an entry that was kept before: from disk, or from a snapshot.
    ///
    /// # Errors
    /// [`BrokenChain`] where it does not follow from the one before it.
    pub fn restore(&mut self, entry: AuditEntry) -> Result<(), BrokenChain> {
        check_link(self.last().map(|last| (last.number, last.hash)), &entry)?;
        self.entries.push_back(Arc::new(entry));
        Ok(())
    }

    /// Takes a command and what came of it, if it belongs into the trail.
    pub(crate) fn note(
        &mut self,
        cluster: ClusterId,
        envelope: &Envelope,
        before: Option<&TenantRecord>,
        changes: &[Change],
        reply: &Reply,
    ) {
        let Some(event) = Noted::of(envelope, before, changes) else { return };
        let mut detail = event.detail;
        if let Err(Rejected::NoEligibleCell { refused, .. }) = &reply.result
            && envelope.layout >= 5
        {
            // What the store itself has found, cell by cell: whoever was refused wants to know what by.
            let by: Vec<String> = refused.iter().map(|(code, cells)| format!("{cells} {code}")).collect();
            let _ = write!(detail, " refused={:?}", by.join(", "));
        }
        if self.entries.is_empty() {
            // The first entry of a cluster names it: no other cluster's trail begins with the same hash.
            let _ = write!(detail, " cluster={cluster}");
        }
        let most = if envelope.layout < 5 { Self::SHORT_BYTES_MAX } else { Self::DETAIL_BYTES_MAX };
        truncate(&mut detail, most);
        let outcome = match &reply.result {
            Ok(outcome) => event.outcome.unwrap_or_else(|| match outcome {
                Outcome::Unchanged if changes.is_empty() => "unchanged".into(),
                _ => "done".into(),
            }),
            Err(rejected) => rejected.code().into(),
        };
        let mut entry = AuditEntry {
            number: self.last_number() + 1,
            at: envelope.at,
            actor: envelope.actor.clone(),
            request_id: envelope.request_id,
            action: event.action.into(),
            subject: event.subject,
            detail: detail.trim().to_owned(),
            revision: reply.revision,
            outcome,
            previous: self.last().map(|last| last.hash).unwrap_or_default(),
            hash: AuditHash::default(),
        };
        entry.hash = entry.computed();
        self.entries.push_back(Arc::new(entry));
        while self.entries.len() > Self::ENTRIES_MAX {
            self.entries.pop_front();
        }
    }
}

fn truncate(text: &mut String, bytes_max: usize) {
    if text.len() > bytes_max {
        let end = (0..=bytes_max).rev().find(|end| text.is_char_boundary(*end)).unwrap_or_default();
        text.truncate(end);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Command, Fleet, Limits, Lineage};

    fn fleet(commands: u32) -> Fleet {
        let mut fleet = Fleet::new(ClusterId(7), Lineage(1));
        for number in 1..=commands {
            let limits = Limits { moves_total: number % 50 + 1, ..Limits::default() };
            let envelope = Envelope {
                actor: "operator/alice".into(),
                ..Envelope::new(UnixMillis(number.into()), Command::SetLimits(limits))
            };
            fleet.apply(&envelope);
        }
        fleet
    }

    fn entries(fleet: &Fleet) -> Vec<AuditEntry> {
        fleet.audit().after(0).map(|entry| AuditEntry::clone(entry)).collect()
    }

    #[test]
    fn equal_histories_have_equal_chains_and_others_do_not() {
        assert_eq!(entries(&fleet(9)), entries(&fleet(9)));
        assert_ne!(fleet(9).audit().last().unwrap().hash, fleet(8).audit().last().unwrap().hash);
        verify_chain(&entries(&fleet(9))).unwrap();
    }

    #[test]
    fn whatever_is_changed_cut_out_or_swapped_is_named() {
        let whole = entries(&fleet(9));
        let change: [fn(&mut AuditEntry); 8] = [
            |entry| entry.actor = "operator/bob".into(),
            |entry| entry.at = UnixMillis(0),
            |entry| entry.request_id = Some(RequestId(1)),
            |entry| entry.action.push('x'),
            |entry| entry.subject.push('x'),
            |entry| entry.detail.push('x'),
            |entry| entry.revision = Revision(99),
            |entry| entry.outcome = "unchanged".into(),
        ];
        for (place, change) in change.into_iter().enumerate() {
            let mut forged = whole.clone();
            change(&mut forged[4]);
            assert_eq!(verify_chain(&forged).unwrap_err().number, 5, "change {place}");
            // Even with its hash made anew, the next entry does not follow.
            forged[4].hash = forged[4].computed();
            assert_eq!(verify_chain(&forged).unwrap_err().number, 6, "change {place}");
        }
        let mut cut = whole.clone();
        cut.remove(4);
        assert_eq!(verify_chain(&cut).unwrap_err().number, 6);
        let mut swapped = whole;
        swapped.swap(3, 4);
        assert!(verify_chain(&swapped).is_err());
    }

    #[test]
    fn what_is_hashed_is_each_field_with_its_length_as_text() {
        let entry = entries(&fleet(3)).remove(2);
        let fields = [
            entry.previous.to_string(),
            entry.number.to_string(),
            entry.at.to_string(),
            entry.actor.clone(),
            entry.request_id.map(|id| id.to_string()).unwrap_or_default(),
            entry.action.clone(),
            entry.subject.clone(),
            entry.detail.clone(),
            entry.revision.to_string(),
            entry.outcome.clone(),
        ];
        let text: String = fields.iter().map(|field| format!("{}:{field},", field.len())).collect();
        assert_eq!(String::from_utf8(entry.canonical()).unwrap(), text);
        assert_eq!(AuditHash([0xa5; 32]).to_string(), "a5".repeat(32));
        assert_eq!(
            [0, 7, 10, u64::MAX].map(|number| String::from_utf8(decimal(number, &mut [0; 20]).to_vec()).unwrap()),
            [0, 7, 10, u64::MAX].map(|number: u64| number.to_string())
        );
    }

    #[test]
    fn a_field_cannot_be_moved_into_its_neighbour() {
        let mut entry = entries(&fleet(1)).remove(0);
        let before = entry.canonical();
        entry.actor = "operator/alic".into();
        entry.action = format!("e{}", entry.action);
        assert_ne!(entry.canonical(), before);
    }

    #[test]
    fn the_oldest_are_dropped_and_the_rest_still_joins() {
        let most = u32::try_from(AuditTrail::ENTRIES_MAX).unwrap();
        let fleet = fleet(most + 10);
        let kept = entries(&fleet);
        assert_eq!((kept.len(), kept[0].number), (AuditTrail::ENTRIES_MAX, 11));
        verify_chain(&kept).unwrap();
        assert_eq!(fleet.audit().after(u64::from(most) + 8).count(), 2);
        assert_eq!(fleet.audit().after(u64::MAX - 1).count(), 0);
    }

    #[test]
    fn a_refusal_is_in_the_trail_and_a_repeated_request_only_once() {
        let mut fleet = Fleet::new(ClusterId(7), Lineage(1));
        let tenant = crate::TenantId::new("acme").unwrap();
        let envelope = Envelope {
            request_id: Some(RequestId(5)),
            ..Envelope::new(UnixMillis(1), Command::DeleteTenant { tenant })
        };
        fleet.apply(&envelope);
        fleet.apply(&envelope);
        let entries = entries(&fleet);
        assert_eq!(entries.len(), 1);
        let entry = &entries[0];
        assert_eq!((entry.action.as_str(), entry.subject.as_str()), ("delete-tenant", "tenant/acme"));
        assert_eq!((entry.outcome.as_str(), entry.request_id), ("TENANT_UNKNOWN", Some(RequestId(5))));
        assert!(entry.detail.contains("cluster="), "{}", entry.detail);
    }
}
