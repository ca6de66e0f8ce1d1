//! Whether an audit trail is whole: read from an export, or compared between nodes. Pure.
//!
//! ```text
//! export:  one line of JSON for each entry, then one line for the end: number, hash, cluster, key and signature
//! ```

use cell_model::{AuditEntry, ClusterId, verify_chain};
use cell_trust::{Checkpoint, TrustedKeys};
use serde::{Deserialize, Serialize};

use crate::view::{AuditView, hash_of};

/// The end of a trail, as the last line of an export.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct EndLine {
    /// 16 hexadecimal digits.
    pub cluster: String,
    /// Number of the newest entry.
    pub end: u64,
    /// Its hash.
    pub hash: String,
    /// Who signed.
    pub key_id: String,
    /// 128 hexadecimal digits.
    pub signature: String,
}

/// A trail, or a part of one, with its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Trail {
    pub entries: Vec<AuditEntry>,
    pub end: Checkpoint,
    pub key_id: String,
    pub signature: Vec<u8>,
}

/// Why a trail is not believed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Doubt {
    #[error("line {line} is not an entry: {reason}")]
    Line { line: usize, reason: String },
    #[error("the export has no end: it was cut off")]
    NoEnd,
    #[error("{0}")]
    Broken(cell_model::BrokenChain),
    #[error("the last entry is {found}, and the signed end says {end}")]
    OtherEnd { found: u64, end: u64 },
    #[error("the end is not signed by a trusted key: {0}")]
    Signature(cell_trust::TrustError),
    #[error("it is of cluster {found}, not of {wanted}")]
    OtherCluster { found: ClusterId, wanted: ClusterId },
    #[error("entry {number} is another one than before: it was {before} and is {now}")]
    Rewritten { number: u64, before: String, now: String },
    #[error("entries {from} to {to} are missing in between")]
    Gap { from: u64, to: u64 },
    #[error("it ends at {now}, and ended at {before} before")]
    Shorter { before: u64, now: u64 },
}

impl Doubt {
    pub(crate) const fn code(&self) -> &'static str {
        match self {
            Self::Line { .. } | Self::NoEnd => "AUDIT_UNREADABLE",
            Self::Gap { .. } => "AUDIT_GAP",
            Self::Broken(_)
            | Self::OtherEnd { .. }
            | Self::Signature(_)
            | Self::OtherCluster { .. }
            | Self::Rewritten { .. }
            | Self::Shorter { .. } => "AUDIT_BROKEN",
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let digits = text.bytes().all(|b| b.is_ascii_hexdigit()) && text.len().is_multiple_of(2);
    let pairs =
        || text.as_bytes().chunks_exact(2).map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok());
    if digits { pairs().collect() } else { None }
}

impl Trail {
    /// As lines of JSON.
    pub(crate) fn to_lines(&self) -> String {
        let end = EndLine {
            cluster: self.end.cluster.to_string(),
            end: self.end.number,
            hash: self.end.hash.to_string(),
            key_id: self.key_id.clone(),
            signature: hex(&self.signature),
        };
        let line = |entry: &AuditEntry| {
            serde_json::to_string(&AuditView::from(entry)).expect("an entry is text and numbers") + "\n"
        };
        let mut lines: String = self.entries.iter().map(line).collect();
        lines.push_str(&serde_json::to_string(&end).expect("an end is text and numbers"));
        lines.push('\n');
        lines
    }

    /// From lines of JSON.
    pub(crate) fn from_lines(text: &str) -> Result<Self, Doubt> {
        let mut lines: Vec<&str> = text.lines().collect();
        let last = lines.pop().ok_or(Doubt::NoEnd)?;
        let end: EndLine = serde_json::from_str(last).map_err(|_| Doubt::NoEnd)?;
        let cluster = u64::from_str_radix(&end.cluster, 16).map_err(|_| Doubt::NoEnd)?;
        let hash = hash_of(&end.hash).ok_or(Doubt::NoEnd)?;
        let signature = unhex(&end.signature).ok_or(Doubt::NoEnd)?;
        let entry = |(index, line): (usize, &&str)| {
            let wrong = |reason: String| Doubt::Line { line: index + 1, reason };
            let view: AuditView = serde_json::from_str(line).map_err(|error| wrong(error.to_string()))?;
            view.entry().map_err(|field| wrong(format!("{field} makes no sense")))
        };
        Ok(Self {
            entries: lines.iter().enumerate().map(entry).collect::<Result<_, _>>()?,
            end: Checkpoint { cluster: ClusterId(cluster), number: end.end, hash },
            key_id: end.key_id,
            signature,
        })
    }

    /// Whether it is one chain that leads to its end; and, where keys are given, whether one of them has signed the end.
    pub(crate) fn verify(&self, trusted: &TrustedKeys) -> Result<(), Doubt> {
        verify_chain(&self.entries).map_err(Doubt::Broken)?;
        if let Some(last) = self.entries.last()
            && (last.number, last.hash) != (self.end.number, self.end.hash)
        {
            return Err(Doubt::OtherEnd { found: last.number, end: self.end.number });
        }
        if trusted.is_empty() {
            return Ok(());
        }
        self.end.verify(&self.key_id, &self.signature, trusted).map_err(Doubt::Signature)
    }

    /// What it holds, and what it does not: a file whose beginning was cut off is one chain as well.
    pub(crate) fn told(&self) -> String {
        let end = self.end.number;
        match self.entries.first().map(|first| first.number) {
            None => format!("it has no entries; what it continues ends at entry {end}"),
            Some(1) => format!("entries 1 to {end}, from the beginning of the cluster, are one chain"),
            Some(first) => {
                format!("entries {first} to {end} are one chain; entries 1 to {} are not in it", first - 1)
            }
        }
    }

    /// Hash of an entry, where this trail knows it: its own entries, and the one before the first.
    fn hash_at(&self, number: u64) -> Option<cell_model::AuditHash> {
        if number == self.end.number {
            return Some(self.end.hash);
        }
        let first = self.entries.first()?;
        if number + 1 == first.number {
            return Some(first.previous);
        }
        let index = usize::try_from(number.checked_sub(first.number)?).ok()?;
        self.entries.get(index).map(|entry| entry.hash)
    }

    /// Whether this trail goes on where `before` has ended, and says the same of all that both know.
    pub(crate) fn continues(&self, before: &Self) -> Result<(), Doubt> {
        if self.end.cluster != before.end.cluster {
            return Err(Doubt::OtherCluster { found: self.end.cluster, wanted: before.end.cluster });
        }
        if self.end.number < before.end.number {
            return Err(Doubt::Shorter { before: before.end.number, now: self.end.number });
        }
        let known = before.entries.iter().map(|entry| (entry.number, entry.hash));
        let ends = [(before.end.number, before.end.hash)];
        for (number, hash) in known.chain(ends) {
            if let Some(now) = self.hash_at(number)
                && now != hash
            {
                return Err(Doubt::Rewritten { number, before: hash.to_string(), now: now.to_string() });
            }
        }
        match self.hash_at(before.end.number) {
            Some(_) => Ok(()),
            None => {
                let first = self.entries.first().map_or(self.end.number, |entry| entry.number);
                Err(Doubt::Gap { from: before.end.number + 1, to: first.saturating_sub(1) })
            }
        }
    }

    /// Whether two nodes tell the same of all that both know. One may be behind.
    pub(crate) fn agrees_with(&self, other: &Self) -> Result<(), Doubt> {
        let (older, newer) = if self.end.number <= other.end.number { (self, other) } else { (other, self) };
        match newer.continues(older) {
            // One that is far behind proves nothing against the other.
            Ok(()) | Err(Doubt::Gap { .. }) => Ok(()),
            Err(doubt) => Err(doubt),
        }
    }
}

#[cfg(test)]
mod tests {
    use cell_model::{Command, Envelope, Fleet, Limits, Lineage, UnixMillis};
    use cell_trust::SigningKey;

    use super::*;

    fn trail(key: &SigningKey, commands: u32, after: u64, who: &str) -> Trail {
        let mut fleet = Fleet::new(ClusterId(7), Lineage(1));
        for number in 1..=commands {
            let limits = Limits { moves_total: number, ..Limits::default() };
            fleet.apply(&Envelope {
                actor: who.into(),
                ..Envelope::new(UnixMillis(number.into()), Command::SetLimits(limits))
            });
        }
        let last = fleet.audit().last().unwrap();
        let end = Checkpoint { cluster: ClusterId(7), number: last.number, hash: last.hash };
        Trail {
            entries: fleet.audit().after(after).map(|entry| AuditEntry::clone(entry)).collect(),
            end,
            key_id: key.public().key_id(),
            signature: end.sign(key).to_vec(),
        }
    }

    #[test]
    fn an_export_reads_back_and_proves_itself() {
        let key = SigningKey::generate();
        let trail = trail(&key, 5, 0, "operator/a");
        let read = Trail::from_lines(&trail.to_lines()).unwrap();
        assert_eq!(read, trail);
        read.verify(&TrustedKeys::new([key.public()])).unwrap();
        let stranger = TrustedKeys::new([SigningKey::generate().public()]);
        assert!(matches!(read.verify(&stranger), Err(Doubt::Signature(_))));
    }

    #[test]
    fn whatever_is_done_to_a_file_is_found() {
        let key = SigningKey::generate();
        let trusted = TrustedKeys::new([key.public()]);
        let text = trail(&key, 5, 0, "operator/a").to_lines();
        let forged = text.replacen("operator/a", "operator/b", 1);
        assert_eq!(Trail::from_lines(&forged).unwrap().verify(&trusted).unwrap_err().code(), "AUDIT_BROKEN");
        let lines: Vec<&str> = text.lines().collect();
        let without_third = [&lines[..2], &lines[3..]].concat().join("\n");
        assert_eq!(Trail::from_lines(&without_third).unwrap().verify(&trusted).unwrap_err().code(), "AUDIT_BROKEN");
        let without_last = [&lines[..4], &lines[5..]].concat().join("\n");
        assert!(matches!(
            Trail::from_lines(&without_last).unwrap().verify(&trusted),
            Err(Doubt::OtherEnd { found: 4, end: 5 })
        ));
        assert_eq!(Trail::from_lines(&lines[..4].join("\n")), Err(Doubt::NoEnd));
        assert_eq!(Trail::from_lines("").unwrap_err().code(), "AUDIT_UNREADABLE");
        assert!(matches!(
            Trail::from_lines(&text.replacen("\"number\":2", "\"number\":\"2\"", 1)),
            Err(Doubt::Line { line: 2, .. })
        ));
    }

    #[test]
    fn a_file_without_its_beginning_says_so() {
        let key = SigningKey::generate();
        let told = |after| trail(&key, 9, after, "operator/a").told();
        assert_eq!(told(0), "entries 1 to 9, from the beginning of the cluster, are one chain");
        assert_eq!(told(4), "entries 5 to 9 are one chain; entries 1 to 4 are not in it");
        assert_eq!(told(9), "it has no entries; what it continues ends at entry 9");
    }

    #[test]
    fn a_later_trail_continues_an_earlier_one_or_says_why_not() {
        let key = SigningKey::generate();
        let earlier = trail(&key, 5, 0, "operator/a");
        trail(&key, 9, 0, "operator/a").continues(&earlier).unwrap();
        trail(&key, 9, 5, "operator/a").continues(&earlier).unwrap();
        assert_eq!(trail(&key, 9, 7, "operator/a").continues(&earlier), Err(Doubt::Gap { from: 6, to: 7 }));
        assert!(matches!(
            trail(&key, 9, 0, "operator/b").continues(&earlier),
            Err(Doubt::Rewritten { number: 1, .. })
        ));
        assert!(matches!(
            trail(&key, 9, 5, "operator/b").continues(&earlier),
            Err(Doubt::Rewritten { number: 5, .. })
        ));
        assert!(matches!(trail(&key, 3, 0, "operator/a").continues(&earlier), Err(Doubt::Shorter { .. })));
    }

    #[test]
    fn a_node_that_lags_agrees_and_one_that_was_rewritten_does_not() {
        let key = SigningKey::generate();
        let (whole, behind) = (trail(&key, 9, 0, "operator/a"), trail(&key, 6, 0, "operator/a"));
        whole.agrees_with(&behind).unwrap();
        behind.agrees_with(&whole).unwrap();
        assert!(trail(&key, 9, 0, "operator/b").agrees_with(&whole).is_err());
        assert!(trail(&key, 6, 0, "operator/b").agrees_with(&whole).is_err());
    }
}
