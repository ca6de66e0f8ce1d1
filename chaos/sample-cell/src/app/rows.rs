//! How the application keeps its things in a tenant's rows.
//!
//! | key | value |
//! |---|---|
//! | `c/<name>` | a counter: 8 bytes, big endian, two's complement |
//! | `d/<id>` | a document: 8 bytes of version, then the JSON text as it was sent |
//! | `i/<idempotency key>` | the answer to a write, see [`super::idempotency`] |
//! | `m/tally` | how many writes there have been (the last version), and the bounds of the answers kept |
//! | `o/<order>` | the idempotency key with that order: 8 bytes, big endian |
//!
//! All of them are ordinary rows: they are copied, captured and verified like any other, and move with the tenant.

use bytes::Bytes;
use cell_agent::{RowError, Transaction};

use crate::problem::Problem;

/// The first key after all documents.
pub(crate) const DOCUMENTS_END: &[u8] = b"d0";
const TALLY: &[u8] = b"m/tally";

pub(crate) fn document_key(id: &str) -> Vec<u8> {
    [b"d/", id.as_bytes()].concat()
}

/// The id of a document's row.
pub(crate) fn document_id(key: &[u8]) -> Result<&str, Problem> {
    let id = key.strip_prefix(b"d/").and_then(|id| std::str::from_utf8(id).ok());
    id.ok_or_else(|| Problem::damaged("key of a document"))
}

pub(crate) fn counter_key(name: &str) -> Vec<u8> {
    [b"c/", name.as_bytes()].concat()
}

pub(crate) fn answer_key(idempotency_key: &str) -> Vec<u8> {
    [b"i/", idempotency_key.as_bytes()].concat()
}

pub(crate) fn order_key(order: u64) -> Vec<u8> {
    [b"o/", order.to_be_bytes().as_slice()].concat()
}

/// A document and the version that its last write gave it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Document {
    pub(crate) version: u64,
    pub(crate) text: Bytes,
}

impl Document {
    pub(crate) fn to_row(&self) -> Vec<u8> {
        [self.version.to_be_bytes().as_slice(), &self.text].concat()
    }

    pub(crate) fn from_row(row: Vec<u8>) -> Result<Self, Problem> {
        let version = row.first_chunk().copied().map(u64::from_be_bytes);
        let version = version.ok_or_else(|| Problem::damaged("document"))?;
        Ok(Self { version, text: Bytes::from(row).slice(8..) })
    }
}

pub(crate) fn counter_row(value: i64) -> Vec<u8> {
    value.to_be_bytes().to_vec()
}

pub(crate) fn counter_from_row(row: &[u8]) -> Result<i64, Problem> {
    row.try_into().map(i64::from_be_bytes).map_err(|_| Problem::damaged("counter"))
}

/// What is counted for a whole tenant.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    /// The version that the last write gave. Versions never repeat within a tenant, so neither do ETags.
    pub(crate) version: u64,
    /// The order of the oldest answer that is kept.
    pub(crate) oldest_answer: u64,
    /// The order that the next answer gets.
    pub(crate) next_answer: u64,
}

impl Tally {
    pub(crate) fn load(transaction: &Transaction<'_>) -> Result<Self, Problem> {
        let Some(row) = transaction.get(TALLY)? else { return Ok(Self::default()) };
        let numbers: Option<Vec<u64>> = (row.len() == 24)
            .then(|| row.as_chunks::<8>().0.iter().map(|bytes| u64::from_be_bytes(*bytes)).collect());
        match numbers.as_deref() {
            Some(&[version, oldest_answer, next_answer]) => Ok(Self { version, oldest_answer, next_answer }),
            _ => Err(Problem::damaged("tally")),
        }
    }

    pub(crate) fn store(self, transaction: &mut Transaction<'_>) -> Result<(), RowError> {
        let numbers = [self.version, self.oldest_answer, self.next_answer];
        transaction.put(TALLY, numbers.map(u64::to_be_bytes).concat())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_document_reads_back_and_a_torn_one_is_named() {
        let document = Document { version: 7, text: Bytes::from_static(b"{\"a\":1}") };
        assert_eq!(Document::from_row(document.to_row()), Ok(document));
        assert!(Document::from_row(vec![0; 7]).is_err());
        assert_eq!(counter_from_row(&counter_row(-3)), Ok(-3));
        assert!(counter_from_row(&[1, 2]).is_err());
    }

    #[test]
    fn all_documents_and_nothing_else_lie_before_their_end() {
        let key = document_key("~~~~");
        assert!(key.as_slice() < DOCUMENTS_END);
        assert_eq!(document_id(&key), Ok("~~~~"));
        for other in [answer_key("k"), order_key(0), TALLY.to_vec()] {
            assert!(other.as_slice() >= DOCUMENTS_END);
            assert!(document_id(&other).is_err());
        }
        assert!(counter_key("n") < document_key(""));
    }
}
