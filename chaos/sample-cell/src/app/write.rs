//! Writes: each one transaction on the tenant's rows, with its version, and its answer where it has a name.

use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use cell_agent::{TenantData, Transaction};
use cell_client::Random;
use cell_gate::RequestStamp;
use http::{HeaderMap, StatusCode};
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::json;

use super::answer::Answer;
use super::condition::Condition;
use super::idempotency::{Named, Retention};
use super::keys::Seal;
use super::route::Name;
use super::rows::{self, Document, Tally};
use crate::problem::Problem;

/// The longest document, in bytes.
pub(crate) const DOCUMENT_BYTES_MAX: usize = 60 * 1024;

/// What a write does.
#[derive(Debug)]
pub(crate) enum Operation {
    Create { id: Name, text: Bytes },
    Put { id: Name, text: Bytes, condition: Condition },
    Delete { id: Name, condition: Condition },
    Increment { name: Name, by: i64 },
}

/// What became of a write.
#[derive(Debug)]
pub(crate) struct Executed {
    pub(crate) answer: Answer,
    /// It had been executed before, under the same key.
    pub(crate) again: bool,
}

impl Operation {
    /// A document under a new id, from this source where there is one, else from the operating system.
    pub(crate) fn create(text: Bytes, ids: Option<&Random>) -> Result<Self, Problem> {
        check_document(&text)?;
        if let Some(ids) = ids {
            let id = Name::new(&format!("{:016x}{:016x}", ids.next(), ids.next()))?;
            return Ok(Self::Create { id, text });
        }
        let mut random = [0u8; 16];
        getrandom::fill(&mut random).map_err(|error| {
            let hint = "the machine has no random numbers: nothing was written";
            Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "NO_RANDOM", error.to_string(), hint)
        })?;
        let id = Name::new(&format!("{:032x}", u128::from_be_bytes(random)))?;
        Ok(Self::Create { id, text })
    }

    /// A document under the client's id.
    pub(crate) fn put(id: Name, text: Bytes, headers: &HeaderMap) -> Result<Self, Problem> {
        check_document(&text)?;
        Ok(Self::Put { id, text, condition: Condition::from_headers(headers)? })
    }

    /// The same operation with its document as it is stored.
    pub(crate) fn sealed(self, seal: &Seal) -> Result<Self, Problem> {
        Ok(match self {
            Self::Create { id, text } => Self::Create { text: seal.close(id.as_str(), text)?, id },
            Self::Put { id, text, condition } => Self::Put { text: seal.close(id.as_str(), text)?, id, condition },
            Self::Delete { .. } | Self::Increment { .. } => self,
        })
    }

    pub(crate) fn delete(id: Name, headers: &HeaderMap) -> Result<Self, Problem> {
        Ok(Self::Delete { id, condition: Condition::from_headers(headers)? })
    }

    /// One more where the body is empty.
    pub(crate) fn increment(name: Name, body: &[u8]) -> Result<Self, Problem> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Increment {
            by: i64,
        }
        if body.is_empty() {
            return Ok(Self::Increment { name, by: 1 });
        }
        let increment: Increment = serde_json::from_slice(body).map_err(|error| {
            Problem::bad_request("INCREMENT_INVALID", error.to_string(), "send {\"by\": n} with a whole number")
        })?;
        Ok(Self::Increment { name, by: increment.by })
    }

    fn apply(self, transaction: &mut Transaction<'_>, version: u64) -> Result<Answer, Problem> {
        match self {
            Self::Create { id, text } => {
                let created = put(transaction, &id, text, version, &Condition::Absent)?;
                Ok(created.at(format!("/docs/{}", id.as_str())))
            }
            Self::Put { id, text, condition } => put(transaction, &id, text, version, &condition),
            Self::Delete { id, condition } => {
                let key = rows::document_key(id.as_str());
                let found = transaction.get(&key)?.map(Document::from_row).transpose()?;
                condition.check(found.as_ref().map(|document| document.version))?;
                if found.is_none() {
                    return Err(unknown_document(&id));
                }
                transaction.delete(&key)?;
                Ok(Answer::new(StatusCode::NO_CONTENT))
            }
            Self::Increment { name, by } => {
                let key = rows::counter_key(name.as_str());
                let value = transaction.get(&key)?.map_or(Ok(0), |row| rows::counter_from_row(&row))?;
                let value = value.checked_add(by).ok_or_else(|| {
                    let detail = format!("{value} and {by} do not fit into 64 bits");
                    Problem::new(StatusCode::CONFLICT, "COUNTER_OVERFLOW", detail, "use another counter")
                })?;
                transaction.put(&key, rows::counter_row(value))?;
                Ok(Answer::new(StatusCode::OK).with_body(&json!({ "value": value })))
            }
        }
    }
}

fn put(
    transaction: &mut Transaction<'_>,
    id: &Name,
    text: Bytes,
    version: u64,
    condition: &Condition,
) -> Result<Answer, Problem> {
    let key = rows::document_key(id.as_str());
    let found = transaction.get(&key)?.map(Document::from_row).transpose()?;
    condition.check(found.as_ref().map(|document| document.version))?;
    transaction.put(&key, Document { version, text }.to_row())?;
    let status = if found.is_some() { StatusCode::OK } else { StatusCode::CREATED };
    Ok(Answer::new(status).with_version(version).with_body(&json!({ "id": id.as_str(), "version": version })))
}

/// Runs an operation once, or gives the answer of an earlier write under the same key.
pub(crate) async fn execute(
    data: &TenantData,
    stamp: &RequestStamp,
    named: Option<Named>,
    operation: Operation,
    retention: Retention,
) -> Result<Executed, Problem> {
    let now_ms = now_ms();
    let work = move |transaction: &mut Transaction<'_>| {
        if let Some(named) = &named
            && let Some(answer) = named.recall(transaction)?
        {
            return Ok(Executed { answer, again: true });
        }
        let mut tally = Tally::load(transaction)?;
        tally.version += 1;
        let answer = operation.apply(transaction, tally.version)?;
        if let Some(named) = &named {
            named.remember(transaction, &mut tally, &answer, now_ms, retention)?;
        }
        tally.store(transaction)?;
        Ok(Executed { answer, again: false })
    };
    let (executed, _seq) = data.write(stamp, work).await?;
    Ok(executed)
}

/// The age of kept answers is all that this clock is used for.
fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

fn check_document(text: &[u8]) -> Result<(), Problem> {
    if text.len() > DOCUMENT_BYTES_MAX {
        let detail = format!("a document of {} bytes: at most {DOCUMENT_BYTES_MAX} are possible", text.len());
        let hint = "split it into several documents";
        return Err(Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "DOCUMENT_TOO_LARGE", detail, hint));
    }
    let invalid = |reason: String| {
        Problem::bad_request("JSON_INVALID", format!("the document is not JSON: {reason}"), "send JSON in UTF-8")
    };
    // A value that is ignored is checked for its form, but not for its encoding.
    let text = std::str::from_utf8(text).map_err(|error| invalid(error.to_string()))?;
    serde_json::from_str::<IgnoredAny>(text).map_err(|error| invalid(error.to_string()))?;
    Ok(())
}

pub(crate) fn unknown_document(id: &Name) -> Problem {
    Problem::not_found("DOCUMENT_UNKNOWN", format!("there is no document {}", id.as_str()))
}
