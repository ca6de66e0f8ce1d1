//! The verifier: reads every row again, in code of its own, while writers go on.
//!
//! The scan goes through the keys in chunks, each under the tenant's lock. A write to a key that lies behind the
//! cursor corrects the sum by its difference; one that lies ahead will be met. When the cursor reaches the end, the
//! sum is that of all rows at exactly the sequence number of that moment. It shares no code with the copier, nor with
//! the digest that is kept change by change.

use cell_model::{Digest, Seq};

use crate::durable::{Durable, Ticket};
use crate::refusal::Refusal;
use crate::staging::Changes;
use crate::tenant::Tenant;

/// Rows read under the lock at once.
const CHUNK_ROWS: usize = 256;

/// A scan under way.
pub(crate) struct Scan {
    id: u64,
    hash_key: [u8; 32],
    // The last key that is in the sum.
    cursor: Option<Vec<u8>>,
    rows: u64,
    sum: u128,
}

fn row_hash(hash_key: &[u8; 32], key: &[u8], value: &[u8]) -> u128 {
    let mut hasher = blake3::Hasher::new_keyed(hash_key);
    hasher.update(&(key.len() as u64).to_be_bytes()).update(key).update(value);
    let mut sum = [0; 16];
    hasher.finalize_xof().fill(&mut sum);
    u128::from_be_bytes(sum)
}

impl Scan {
    /// Takes a write to rows that were already read into the sum.
    pub(crate) fn correct(&mut self, changes: &Changes) {
        let Some(cursor) = self.cursor.clone() else { return };
        for (key, old, new) in changes.each().filter(|(key, _, _)| *key <= cursor.as_slice()) {
            if let Some(old) = old {
                self.rows = self.rows.wrapping_sub(1);
                self.sum = self.sum.wrapping_sub(row_hash(&self.hash_key, key, old));
            }
            if let Some(new) = new {
                self.rows = self.rows.wrapping_add(1);
                self.sum = self.sum.wrapping_add(row_hash(&self.hash_key, key, new));
            }
        }
    }
}

/// What a scan has found.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Scanned {
    /// At this change
    pub(crate) seq: Seq,
    /// the rows add up to this,
    pub(crate) digest: Digest,
    /// and it is durable with this.
    pub(crate) ticket: Ticket,
}

/// Reads every row and compares with the digest that is kept. A newer scan of the same tenant ends an older one.
pub(crate) async fn scan(tenant: &Tenant, durable: &Durable) -> Result<Scanned, Refusal> {
    let id = begin(tenant)?;
    loop {
        if let Some(scanned) = advance(tenant, durable, id)? {
            return Ok(scanned);
        }
        tokio::task::yield_now().await;
    }
}

fn begin(tenant: &Tenant) -> Result<u64, Refusal> {
    let mut core = tenant.lock();
    if !core.is_complete() {
        return Err(Refusal::new("NOT_APPLIED", "the copy is not complete"));
    }
    let id = core.scan.as_ref().map_or(1, |scan| scan.id + 1);
    core.scan = Some(Scan { id, hash_key: *core.hash.key(), cursor: None, rows: 0, sum: 0 });
    Ok(id)
}

fn advance(tenant: &Tenant, durable: &Durable, id: u64) -> Result<Option<Scanned>, Refusal> {
    let mut guard = tenant.lock();
    let core = &mut *guard;
    let kept = core.position().map(|position| (position.seq, position.digest));
    let (Some(scan), Some((seq, kept))) = (core.scan.as_mut().filter(|scan| scan.id == id), kept) else {
        return Err(Refusal::new("BUSY", "the scan was ended by another one, or the copy is gone"));
    };
    let from = match &scan.cursor {
        None => core.keys.row(&[]),
        Some(cursor) => [core.keys.row(cursor).as_slice(), &[0]].concat(),
    };
    let rows = durable.engine().scan(&from, &core.keys.rows_end(), CHUNK_ROWS)?;
    let ended = rows.len() < CHUNK_ROWS;
    for (stored, value) in rows {
        let key = core.keys.strip_row(&stored);
        scan.rows = scan.rows.wrapping_add(1);
        scan.sum = scan.sum.wrapping_add(row_hash(&scan.hash_key, &key, &value));
        scan.cursor = Some(key);
    }
    if !ended {
        return Ok(None);
    }
    let digest = Digest { rows: scan.rows, sum: scan.sum };
    core.scan = None;
    if digest != kept {
        let reason = format!("the rows add up to {digest} at {seq}, the cell has counted {kept}");
        return Err(Refusal::new("MISMATCH", reason));
    }
    Ok(Some(Scanned { seq, digest, ticket: core.ticket }))
}
