//! A copy that differs from what its owner has: found page by page, and the rows that differ taken anew.
//!
//! ```text
//! step: examine              the change stream                      owner
//!   a page behind a key ───► Sample(after) ───────────────────────► under the tenant's lock: keys and hashes at change s
//!                            ◄─── changes up to s, Cut(s), Rows
//!   what differs ◄────────── its own rows of the same range, at s
//! step: recopy
//!   some of the keys ──────► Recopy(keys) ────────────────────────► under the lock: these rows, and the digest of all, at s
//!                            ◄─── changes up to s, Recopied(s)
//!   which of them ◄───────── in the place of its own, in one batch
//! ```
//! The stream is in order, so the copy is at s when it comes to what was read at s: as with a chunk, nobody has to stand still. Each
//! page is of one moment, whatever writers do between two of them.

use std::collections::BTreeMap;

use cell_model::{Differing, Digest, MoveId, Seq, TenantId};
use cell_protos::v1 as wire;
use cell_protos::v1::follow_request::Request;
use tokio::sync::mpsc;

use super::apply::{Held, broken, copying};
use crate::capture::digest_from_wire;
use crate::engine::Batch;
use crate::record::Role;
use crate::refusal::Refusal;
use crate::tenant::{Core, Tenant};
use crate::tenants::Tenants;

/// Rows of a page.
pub(crate) const PAGE_ROWS: usize = 256;
/// Rows of the copy's own that are compared with a page: beyond them, with a part of it.
const OWN_ROWS: usize = 4 * PAGE_ROWS;

/// What comes of a question to the owner.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Told {
    Page(Page),
    /// The rows with these keys are as the owner's.
    Recopied(Vec<Vec<u8>>),
    /// Nothing, and why.
    Not(String),
}

/// A range of keys, compared at one moment.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Page {
    pub(crate) seq: Seq,
    /// What the owner's rows in it add up to,
    pub(crate) owner: Digest,
    /// and the copy's.
    pub(crate) copy: Digest,
    /// In the order of keys.
    pub(crate) differing: Vec<(Vec<u8>, Differing)>,
    /// The next one begins behind this key; none where this was the last one.
    pub(crate) next: Option<Vec<u8>>,
}

/// What is known of a copy's differences. In memory: with another copy, or process, it is found out anew.
#[derive(Default)]
pub(crate) struct Mending {
    /// Where questions go while there is a stream.
    pub(crate) requests: Option<mpsc::Sender<wire::FollowRequest>>,
    /// Who waits for the answer to one,
    tell: Option<mpsc::Sender<Told>>,
    /// behind which key his page begins,
    after: Vec<u8>,
    /// and at which change what comes next was read.
    pub(super) cut: Option<Seq>,
    /// At which change rows were found to differ, and their keys.
    pub(crate) found: (Seq, Vec<Vec<u8>>),
    /// The next sample begins behind this key.
    pub(crate) sampled: Vec<u8>,
    /// What changes add up to here is not what the owner says.
    differs: bool,
}

impl Mending {
    /// Whether the copy is known to be another than the original.
    pub(crate) const fn is_apart(&self) -> bool {
        self.differs || !self.found.1.is_empty()
    }

    /// It was noticed by the digests.
    pub(super) fn apart(&mut self, tenant: &TenantId, reason: &str) {
        if !self.differs {
            tracing::warn!(%tenant, reason, "the copy differs: all rows are compared before it is used");
        }
        self.differs = true;
    }

    /// Asks the owner; one question at a time, until it is answered or the stream is lost.
    pub(crate) fn ask(&mut self, request: Request, after: &[u8]) -> Result<mpsc::Receiver<Told>, Refusal> {
        if self.tell.is_some() {
            return Err(Refusal::new("BUSY", "the copy is being compared already"));
        }
        let requests = self.requests.as_ref().ok_or_else(lost)?;
        requests.try_send(wire::FollowRequest { request: Some(request) }).map_err(|_| lost())?;
        let (tell, told) = mpsc::channel(1);
        (self.tell, self.after, self.cut) = (Some(tell), after.to_vec(), None);
        Ok(told)
    }

    /// Whoever has asked may have gone.
    pub(super) fn tell(&mut self, told: Told) {
        if let Some(tell) = self.tell.take() {
            let _gone = tell.try_send(told);
        }
    }

    /// The stream is over, and with it what was asked.
    pub(super) fn lose(&mut self) {
        (self.requests, self.tell, self.cut) = (None, None, None);
    }
}

fn lost() -> Refusal {
    Refusal::new("BUSY", "the change stream was lost: it is tried again")
}

/// Whether a digest that differs may wait for the comparison of all rows: not once the cell may soon be the owner.
pub(super) fn may_differ(core: &Core) -> bool {
    core.control().is_some_and(|control| control.role == Role::Importing && control.reverse.is_none())
}

/// A key as questions and answers have it: each byte is a character.
pub(crate) fn key_to_wire(key: &[u8]) -> wire::TableKey {
    wire::TableKey { table: 0, key: vec![key.iter().map(|byte| char::from(*byte)).collect()] }
}

pub(super) fn key_from_wire(parts: &[String]) -> Option<Vec<u8>> {
    let [text] = parts else { return None };
    text.chars().map(|character| u8::try_from(character).ok()).collect()
}

/// Compares what the owner lists with the rows that are here.
pub(super) fn page(
    tenants: &Tenants,
    tenant: &Tenant,
    move_id: MoveId,
    rows: wire::ListedRows,
) -> Result<(), Refusal> {
    let mut core = tenant.lock();
    let at = copying(&core, move_id)?.seq;
    let told = if core.mending.cut == Some(at) && core.is_complete() {
        Told::Page(compared(tenants, &core, at, rows)?)
    } else {
        Told::Not(format!("the rows were read at another change than {at}"))
    };
    core.mending.tell(told);
    Ok(())
}

fn compared(tenants: &Tenants, core: &Core, seq: Seq, rows: wire::ListedRows) -> Result<Page, Refusal> {
    let listed = |row: wire::ListedRow| {
        Some((key_from_wire(&row.key?.key)?, u128::from_be_bytes(row.hash.as_ref().try_into().ok()?)))
    };
    let theirs: Option<BTreeMap<Vec<u8>, u128>> = rows.rows.into_iter().map(listed).collect();
    let mut theirs = theirs.ok_or_else(|| broken("a listed row has no key or no hash"))?;
    let mut last = theirs.last_key_value().map(|(key, _)| key.clone()).filter(|_| !rows.done);
    if last.is_none() && !rows.done {
        return Err(broken("a page without rows is not the last one"));
    }
    let behind = |key: &[u8]| [core.keys.row(key).as_slice(), &[0]].concat();
    let after = core.mending.after.as_slice();
    let from = if after.is_empty() { core.keys.row(after) } else { behind(after) };
    let until = last.as_deref().map_or_else(|| core.keys.rows_end(), behind);
    let stored = tenants.durable.engine().scan(&from, &until, OWN_ROWS)?;
    let is_cut = stored.len() == OWN_ROWS;
    let hashed = |(stored, value): (Vec<u8>, Vec<u8>)| {
        let key = core.keys.strip_row(&stored);
        let hash = core.hash.of(&key, &value);
        (key, hash)
    };
    let ours: BTreeMap<Vec<u8>, u128> = stored.into_iter().map(hashed).collect();
    if is_cut {
        last = ours.last_key_value().map(|(key, _)| key.clone());
        theirs.retain(|key, _| last.as_ref().is_some_and(|last| key <= last));
    }
    Ok(Page { seq, owner: total(&theirs), copy: total(&ours), differing: differing(&ours, &theirs), next: last })
}

fn total(rows: &BTreeMap<Vec<u8>, u128>) -> Digest {
    Digest { rows: rows.len() as u64, sum: rows.values().fold(0, |sum, hash| hash.wrapping_add(sum)) }
}

fn differing(ours: &BTreeMap<Vec<u8>, u128>, theirs: &BTreeMap<Vec<u8>, u128>) -> Vec<(Vec<u8>, Differing)> {
    let lacking = theirs.iter().filter_map(|(key, hash)| match ours.get(key) {
        None => Some((key.clone(), Differing::Missing)),
        Some(own) if own != hash => Some((key.clone(), Differing::Changed)),
        Some(_) => None,
    });
    let extra = ours.keys().filter(|key| !theirs.contains_key(*key)).map(|key| (key.clone(), Differing::Extra));
    let mut found: Vec<_> = lacking.chain(extra).collect();
    found.sort_unstable();
    found
}

/// Puts the owner's rows in the place of those that are here. What all add up to is believed, and compared with the rows
/// afterwards: a digest that is kept change by change knows nothing of rows that have become others in the store.
pub(super) fn recopied(
    tenants: &Tenants,
    tenant: &Tenant,
    move_id: MoveId,
    rows: wire::RecopiedRows,
) -> Result<Held, Refusal> {
    let mut core = tenant.lock();
    let (at, seq) = (copying(&core, move_id)?.seq, Seq(rows.seq));
    if at != seq || !core.is_complete() {
        core.mending.tell(Told::Not(format!("the rows were read at {seq}, and the copy is at {at}")));
        return Ok(Held { seq: at, ticket: core.ticket });
    }
    let digest = rows.digest.as_ref().and_then(digest_from_wire).ok_or_else(|| broken("rows without a digest"))?;
    let keys: Option<Vec<Vec<u8>>> = rows.keys.iter().map(|key| key_from_wire(&key.key)).collect();
    let keys = keys.ok_or_else(|| broken("a key cannot be read"))?;
    let mut anew: BTreeMap<Vec<u8>, Vec<u8>> =
        rows.stored.into_iter().map(|row| (row.key.to_vec(), row.value.into())).collect();
    let mut staging = core.staging(&tenants.durable)?;
    for key in &keys {
        staging.set(key, anew.remove(key))?;
    }
    if !anew.is_empty() {
        return Err(broken("rows came under keys that were not named"));
    }
    staging.position.digest = digest;
    let (position, changes) = staging.finish();
    core.commit(&tenant.id, &tenants.durable, Batch::default(), &changes, None, Some(Some(position)))?;
    core.recent.clear();
    core.recent.push(seq, digest);
    core.mending.differs = false;
    core.mending.found.1.retain(|key| !keys.contains(key));
    core.mending.tell(Told::Recopied(keys));
    let held = Held { seq, ticket: core.ticket };
    drop(core);
    tenant.notify();
    Ok(held)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_of_any_bytes_reads_back() {
        let every: Vec<u8> = (0..=u8::MAX).collect();
        for key in [&b""[..], b"d/1", &[0, 255, 10], &every] {
            assert_eq!(key_from_wire(&key_to_wire(key).key).as_deref(), Some(key));
        }
        assert_eq!(key_from_wire(&[]), None);
        assert_eq!(key_from_wire(&["\u{100}".into()]), None, "no byte");
        assert_eq!(key_from_wire(&["a".into(), "b".into()]), None);
    }

    #[test]
    fn each_row_that_differs_is_named_with_its_kind() {
        let rows = |of: &[(&str, u128)]| of.iter().map(|(key, hash)| (key.as_bytes().to_vec(), *hash)).collect();
        let (ours, theirs) = (rows(&[("a", 1), ("b", 2), ("d", 4)]), rows(&[("a", 1), ("c", 3), ("d", 5)]));
        let found = differing(&ours, &theirs);
        let found: Vec<(&[u8], Differing)> = found.iter().map(|(key, kind)| (key.as_slice(), *kind)).collect();
        let expected = [(&b"b"[..], Differing::Extra), (b"c", Differing::Missing), (b"d", Differing::Changed)];
        assert_eq!(found, expected);
        assert_eq!(differing(&ours, &ours), []);
    }

    #[test]
    fn one_question_at_a_time_and_none_without_a_stream() {
        let mut mending = Mending::default();
        let request = || Request::Recopy(wire::RecopyWanted::default());
        assert_eq!(mending.ask(request(), b"").unwrap_err().code, "BUSY");
        let (requests, _stream) = mpsc::channel(4);
        mending.requests = Some(requests);
        let mut told = mending.ask(request(), b"").unwrap();
        drop(mending.ask(request(), b"").unwrap_err());
        mending.tell(Told::Recopied(Vec::new()));
        assert_eq!(told.try_recv(), Ok(Told::Recopied(Vec::new())));
        let mut told = mending.ask(request(), b"").unwrap();
        mending.lose();
        assert!(told.try_recv().is_err());
        assert_eq!(mending.ask(request(), b"").unwrap_err().code, "BUSY", "until there is another stream");
    }
}
