//! Entries of the audit trail.

use cell_model::{AuditEntry, AuditHash, RequestId, Revision, UnixMillis};

use crate::{Malformed, request_id_bytes, v1};

impl From<&AuditEntry> for v1::AuditEntry {
    fn from(entry: &AuditEntry) -> Self {
        Self {
            number: entry.number,
            at_unix_ms: entry.at.get(),
            actor: entry.actor.clone(),
            request_id: entry.request_id.map(request_id_bytes).unwrap_or_default().into(),
            action: entry.action.clone(),
            subject: entry.subject.clone(),
            detail: entry.detail.clone(),
            revision: entry.revision.get(),
            outcome: entry.outcome.clone(),
            previous: entry.previous.0.to_vec().into(),
            hash: entry.hash.0.to_vec().into(),
        }
    }
}

/// A hash of 32 bytes.
///
/// # Errors
/// [`Malformed`] where there are more or fewer.
pub fn audit_hash(field: &'static str, bytes: &[u8]) -> Result<AuditHash, Malformed> {
    let hash = bytes.try_into().map(AuditHash);
    hash.map_err(|_| Malformed::new(field, format!("it has 32 bytes, not {}", bytes.len())))
}

impl TryFrom<v1::AuditEntry> for AuditEntry {
    type Error = Malformed;
    fn try_from(wire: v1::AuditEntry) -> Result<Self, Malformed> {
        let request_id = match wire.request_id.len() {
            0 => None,
            16 => wire.request_id.as_ref().try_into().ok().map(u128::from_be_bytes).map(RequestId),
            found => return Err(Malformed::new("request_id", format!("it is empty or has 16 bytes, not {found}"))),
        };
        Ok(Self {
            number: wire.number,
            at: UnixMillis(wire.at_unix_ms),
            actor: wire.actor,
            request_id,
            action: wire.action,
            subject: wire.subject,
            detail: wire.detail,
            revision: Revision(wire.revision),
            outcome: wire.outcome,
            previous: audit_hash("previous", &wire.previous)?,
            hash: audit_hash("hash", &wire.hash)?,
        })
    }
}
