//! An entry of the audit trail: as it is printed, and as a line of an export.

use cell_model::{AuditEntry, AuditHash, RequestId, Revision, UnixMillis};
use serde::{Deserialize, Serialize};

use super::View;

/// An entry. Its JSON has every field that is hashed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AuditView {
    /// Its place in the chain.
    pub number: u64,
    /// When, in milliseconds since 1970.
    pub at_unix_ms: u64,
    /// Who.
    pub actor: String,
    /// Under which name; empty without one.
    pub request_id: String,
    /// What.
    pub action: String,
    /// Of what.
    pub subject: String,
    /// Particulars.
    pub detail: String,
    /// At which revision.
    pub revision: u64,
    /// What came of it.
    pub outcome: String,
    /// Hash of the entry before, in hex.
    pub previous: String,
    /// Hash of this one, in hex.
    pub hash: String,
}

impl From<&AuditEntry> for AuditView {
    fn from(entry: &AuditEntry) -> Self {
        Self {
            number: entry.number,
            at_unix_ms: entry.at.get(),
            actor: entry.actor.clone(),
            request_id: entry.request_id.map(|id| id.to_string()).unwrap_or_default(),
            action: entry.action.clone(),
            subject: entry.subject.clone(),
            detail: entry.detail.clone(),
            revision: entry.revision.get(),
            outcome: entry.outcome.clone(),
            previous: entry.previous.to_string(),
            hash: entry.hash.to_string(),
        }
    }
}

/// 64 hexadecimal digits.
pub(crate) fn hash_of(text: &str) -> Option<AuditHash> {
    let digits = text.as_bytes();
    let mut bytes = [0_u8; 32];
    if digits.len() != 64 {
        return None;
    }
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        let pair = std::str::from_utf8(pair).ok().filter(|pair| pair.bytes().all(|b| b.is_ascii_hexdigit()))?;
        *byte = u8::from_str_radix(pair, 16).ok()?;
    }
    Some(AuditHash(bytes))
}

impl AuditView {
    /// The entry that this line of an export tells of.
    ///
    /// # Errors
    /// The field that is none.
    pub fn entry(&self) -> Result<AuditEntry, &'static str> {
        let request_id = if self.request_id.is_empty() {
            None
        } else {
            let digits = self.request_id.len() == 32 && self.request_id.bytes().all(|b| b.is_ascii_hexdigit());
            let number = u128::from_str_radix(&self.request_id, 16).ok().filter(|_| digits);
            Some(RequestId(number.ok_or("requestId")?))
        };
        Ok(AuditEntry {
            number: self.number,
            at: UnixMillis(self.at_unix_ms),
            actor: self.actor.clone(),
            request_id,
            action: self.action.clone(),
            subject: self.subject.clone(),
            detail: self.detail.clone(),
            revision: Revision(self.revision),
            outcome: self.outcome.clone(),
            previous: hash_of(&self.previous).ok_or("previous")?,
            hash: hash_of(&self.hash).ok_or("hash")?,
        })
    }
}

impl AuditView {
    /// What the particulars say in quotation marks behind `name=`.
    #[must_use]
    pub fn said(&self, name: &str) -> Option<String> {
        let (_, rest) = self.detail.split_once(&format!(" {name}=\""))?;
        let mut said = String::new();
        let mut letters = rest.chars();
        loop {
            match letters.next()? {
                '"' => return Some(said),
                '\\' => said.push(letters.next()?),
                letter => said.push(letter),
            }
        }
    }
}

impl View for AuditView {
    const KIND: &'static str = "AuditEntry";
    const COLUMNS: &'static [&'static str] =
        &["NUMBER", "TIME", "ACTOR", "ACTION", "SUBJECT", "OUTCOME", "REVISION", "DETAIL"];

    fn row(&self) -> Vec<String> {
        // The end of the year 9999: later there is no such text.
        let at = self.at_unix_ms.min(253_402_300_799_999);
        let time = std::time::UNIX_EPOCH + std::time::Duration::from_millis(at);
        vec![
            self.number.to_string(),
            humantime::format_rfc3339_millis(time).to_string(),
            if self.actor.is_empty() { "-".into() } else { self.actor.clone() },
            self.action.clone(),
            self.subject.clone(),
            self.outcome.clone(),
            self.revision.to_string(),
            self.detail.clone(),
        ]
    }

    fn name(&self) -> String {
        format!("audit/{}", self.number)
    }
}
