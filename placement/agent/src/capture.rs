//! The captured changes of a tenant: whole transactions as they go over the wire, cut into parts that the store keeps
//! safely, until the follower holds them.

use cell_model::{Digest, Seq, TenantId};
use cell_protos::v1 as wire;
use prost::Message;

use crate::durable::Durable;
use crate::engine::{Batch, EngineError};
use crate::keys::TenantKeys;
use crate::refusal::Refusal;
use crate::staging::Changes;
use crate::tenant::{Core, Tenant};

/// Well below what the store keeps in one value.
const PART_BYTES: usize = 96 * 1024;
/// Captured parts removed in one batch.
const TRIM_PARTS_MAX: usize = 512;
/// Acknowledged changes are removed once there are this many, or once they have
const TRIM_AFTER: u64 = 256;
/// this many bytes.
const TRIM_AFTER_BYTES: u64 = 1024 * 1024;

pub(crate) fn digest_to_wire(digest: Digest) -> wire::Digest {
    wire::Digest { rows: digest.rows, sum: digest.sum.to_be_bytes().to_vec().into() }
}

pub(crate) fn digest_from_wire(digest: &wire::Digest) -> Option<Digest> {
    let sum = u128::from_be_bytes(digest.sum.as_ref().try_into().ok()?);
    Some(Digest { rows: digest.rows, sum })
}

/// Puts transaction `seq` into `batch`; how many bytes that takes.
pub(crate) fn record(batch: &mut Batch, keys: &TenantKeys, transaction: &wire::Transaction) -> u64 {
    let bytes = transaction.encode_to_vec();
    for (part, chunk) in bytes.chunks(PART_BYTES).enumerate() {
        let part = u16::try_from(part).expect("a write is bounded, far below 65,536 parts");
        batch.put(keys.captured(Seq(transaction.seq), part), chunk.to_vec());
    }
    bytes.len() as u64
}

/// What a write did, for the wire. Deletions of rows that were not there are left out by then.
pub(crate) fn transaction(seq: Seq, changes: &Changes, digest: Digest) -> wire::Transaction {
    let mutation = |(key, _, new): (&[u8], Option<&[u8]>, Option<&[u8]>)| wire::Mutation {
        key: key.to_vec().into(),
        value: new.map(|value| value.to_vec().into()),
    };
    wire::Transaction {
        seq: seq.get(),
        mutations: changes.each().map(mutation).collect(),
        digest: Some(digest_to_wire(digest)),
    }
}

/// Captured transactions after `after` and up to `until`, at most `bytes_max` (but at least one). A gap is an error.
pub(crate) fn read(
    durable: &Durable,
    keys: &TenantKeys,
    after: Seq,
    until: Seq,
    bytes_max: usize,
) -> Result<Vec<wire::Transaction>, Refusal> {
    read_at(durable, keys, TenantKeys::captured, (after, until), bytes_max)
}

/// The same of transactions that lie under other keys.
pub(crate) fn read_at(
    durable: &Durable,
    keys: &TenantKeys,
    key_of: fn(&TenantKeys, Seq, u16) -> Vec<u8>,
    (after, until): (Seq, Seq),
    bytes_max: usize,
) -> Result<Vec<wire::Transaction>, Refusal> {
    let end = key_of(keys, until.next(), 0);
    let mut from = key_of(keys, after.next(), 0);
    let (mut found, mut whole, mut total) = (Vec::new(), (after.next(), Vec::new()), 0);
    loop {
        let parts = durable.engine().scan(&from, &end, 64)?;
        for (key, bytes) in &parts {
            let Some((seq, _)) = keys.strip_captured(key) else {
                return Err(Refusal::internal("a captured change has a damaged key"));
            };
            if seq != whole.0 {
                found.push(decode(&whole.1)?);
                if total >= bytes_max {
                    return Ok(found);
                }
                whole = (whole.0.next(), Vec::new());
                if seq != whole.0 {
                    return Err(gap(whole.0));
                }
            }
            total += bytes.len();
            whole.1.extend(bytes);
        }
        match parts.last() {
            Some((last, _)) if parts.len() == 64 => from = [last.as_slice(), &[0]].concat(),
            _ => break,
        }
    }
    if whole.1.is_empty() && after < until {
        return Err(gap(whole.0));
    }
    if !whole.1.is_empty() {
        found.push(decode(&whole.1)?);
    }
    Ok(found)
}

fn gap(seq: Seq) -> Refusal {
    Refusal::new("CAPTURE_GAP", format!("change {seq} was not captured or is gone"))
}

fn decode(bytes: &[u8]) -> Result<wire::Transaction, Refusal> {
    if bytes.is_empty() {
        return Err(Refusal::new("CAPTURE_GAP", "a change was not captured or is gone"));
    }
    wire::Transaction::decode(bytes)
        .map_err(|error| Refusal::internal(format!("a captured change is damaged: {error}")))
}

impl Core {
    /// The follower holds everything up to `seq`, durably. Captured changes up to there may go.
    pub(crate) fn acknowledge(&mut self, tenant: &TenantId, durable: &Durable, seq: Seq) -> Result<(), Refusal> {
        let seq = seq.min(self.last_seq());
        if seq <= self.acked {
            return Ok(());
        }
        self.acked = seq;
        self.unacked_since = (seq < self.last_seq()).then(tokio::time::Instant::now);
        while let Some(position) = self.position() {
            let behind = seq.get().saturating_sub(position.trimmed.get());
            let worth_it = behind >= TRIM_AFTER || (behind > 0 && position.captured_bytes >= TRIM_AFTER_BYTES);
            if !worth_it {
                break;
            }
            self.trim(tenant, durable, seq)?;
        }
        Ok(())
    }

    /// Removes some captured changes up to `seq`, in one batch.
    fn trim(&mut self, tenant: &TenantId, durable: &Durable, seq: Seq) -> Result<(), Refusal> {
        let Some(mut position) = self.position().cloned() else { return Ok(()) };
        let from = self.keys.captured(position.trimmed, 0);
        let parts = durable.engine().scan(&from, &self.keys.captured(seq.next(), 0), TRIM_PARTS_MAX)?;
        let more = parts.len() == TRIM_PARTS_MAX;
        let last = parts.last().and_then(|(key, _)| self.keys.strip_captured(key)).map_or(seq, |(last, _)| last);
        let mut batch = Batch::default();
        for (key, bytes) in parts {
            position.captured_bytes = position.captured_bytes.saturating_sub(bytes.len() as u64);
            batch.delete(key);
        }
        // A transaction may have been cut in two by the limit: its first parts are gone, it counts as gone.
        position.trimmed = if more { last } else { seq };
        self.commit(tenant, durable, batch, &Changes::default(), None, Some(Some(position)))?;
        Ok(())
    }
}

/// Removes every captured change, while nothing is captured.
pub(crate) async fn clear(tenant: &Tenant, durable: &Durable) -> Result<(), Refusal> {
    loop {
        {
            let mut core = tenant.lock();
            if core
                .control()
                .is_some_and(|control| control.capture.as_ref().is_some_and(|capture| !capture.overflowed))
            {
                return Ok(());
            }
            let parts = captured_keys(&core, durable)?;
            let Some(mut position) = core.position().cloned() else { return Ok(()) };
            if parts.is_empty() {
                return Ok(());
            }
            let mut batch = Batch::default();
            for key in parts {
                batch.delete(key);
            }
            position.captured_bytes = 0;
            core.commit(&tenant.id, durable, batch, &Changes::default(), None, Some(Some(position)))?;
        }
        tokio::task::yield_now().await;
    }
}

fn captured_keys(core: &Core, durable: &Durable) -> Result<Vec<Vec<u8>>, EngineError> {
    let parts = durable.engine().scan(&core.keys.captured(Seq(0), 0), &core.keys.captured_end(), TRIM_PARTS_MAX)?;
    Ok(parts.into_iter().map(|(key, _)| key).collect())
}
