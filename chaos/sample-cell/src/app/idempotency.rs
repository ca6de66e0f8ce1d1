//! One `Idempotency-Key`, one execution.
//!
//! The answer to a write that carried a key is stored in the same transaction as what it wrote. So either both are
//! there or neither, and since both are the tenant's rows, both move with it: a write that is sent again after a
//! cutover is answered by the new owner as the old one did.
//!
//! Answers are dropped oldest first, when they are older than a day or more than a bound; each write drops at most two.

use cell_agent::Transaction;
use http::{HeaderMap, Method, StatusCode};
use serde::{Deserialize, Serialize};

use super::answer::Answer;
use super::rows::{Tally, answer_key, order_key};
use crate::problem::Problem;

/// The request header.
pub(crate) const HEADER: &str = "idempotency-key";
const KEY_LENGTH_MAX: usize = 255;
const DROPPED_PER_WRITE: u32 = 2;

/// For how long and how many answers are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Retention {
    pub(crate) age_ms: u64,
    pub(crate) answers: u64,
}

impl Default for Retention {
    fn default() -> Self {
        Self { age_ms: 24 * 60 * 60 * 1_000, answers: 10_000 }
    }
}

/// A client's name for one write, with what the write is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Named {
    pub(crate) key: String,
    /// Tells two different writes under one key apart.
    pub(crate) fingerprint: String,
}

#[derive(Debug, Serialize, Deserialize)]
struct Kept {
    fingerprint: String,
    made_at_ms: u64,
    order: u64,
    answer: Answer,
}

impl Named {
    /// Reads the key of a write, if it has one.
    ///
    /// # Errors
    /// 400 where the header is there twice, empty, too long, or not visible ASCII.
    pub(crate) fn from_request(
        headers: &HeaderMap,
        method: &Method,
        path: &str,
        body: &[u8],
    ) -> Result<Option<Self>, Problem> {
        let mut values = headers.get_all(HEADER).iter();
        let Some(value) = values.next() else { return Ok(None) };
        let invalid = |detail: &str| {
            let hint = "send one Idempotency-Key of 1 to 255 visible ASCII characters";
            Problem::bad_request("IDEMPOTENCY_KEY_INVALID", detail, hint)
        };
        if values.next().is_some() {
            return Err(invalid("the header Idempotency-Key is there twice"));
        }
        let key = value.to_str().map_err(|_| invalid("the Idempotency-Key is not ASCII"))?;
        let visible = key.bytes().all(|b| b.is_ascii_graphic());
        if !visible || !(1..=KEY_LENGTH_MAX).contains(&key.len()) {
            return Err(invalid("the Idempotency-Key is empty, too long, or has spaces"));
        }
        Ok(Some(Self { key: key.to_owned(), fingerprint: fingerprint(headers, method, path, body) }))
    }

    /// The answer to an earlier write under this key.
    ///
    /// # Errors
    /// 422 where that was another write.
    pub(crate) fn recall(&self, transaction: &Transaction<'_>) -> Result<Option<Answer>, Problem> {
        let Some(row) = transaction.get(&answer_key(&self.key))? else { return Ok(None) };
        let kept = read(&row)?;
        self.is_of(&kept.fingerprint)?;
        Ok(Some(kept.answer))
    }

    /// Whether this is the write with that fingerprint.
    ///
    /// # Errors
    /// 422 where it is another one.
    pub(crate) fn is_of(&self, fingerprint: &str) -> Result<(), Problem> {
        if fingerprint == self.fingerprint {
            return Ok(());
        }
        Err(Problem::new(
            StatusCode::UNPROCESSABLE_ENTITY,
            "IDEMPOTENCY_KEY_REUSED",
            "another request has been answered under this Idempotency-Key",
            "take a new key for each new write",
        ))
    }

    /// Keeps the answer, and drops what is too old or too many.
    pub(crate) fn remember(
        &self,
        transaction: &mut Transaction<'_>,
        tally: &mut Tally,
        answer: &Answer,
        now_ms: u64,
        retention: Retention,
    ) -> Result<(), Problem> {
        let order = tally.next_answer;
        tally.next_answer += 1;
        let kept =
            Kept { fingerprint: self.fingerprint.clone(), made_at_ms: now_ms, order, answer: answer.clone() };
        let row = serde_json::to_vec(&kept).map_err(|_| Problem::damaged("answer"))?;
        transaction.put(&answer_key(&self.key), row)?;
        transaction.put(&order_key(order), self.key.as_bytes())?;
        for _ in 0..DROPPED_PER_WRITE {
            if !drop_oldest(transaction, tally, now_ms, retention)? {
                break;
            }
        }
        Ok(())
    }
}

/// Drops the oldest answer, if it is too old or there are too many. False where all may stay.
fn drop_oldest(
    transaction: &mut Transaction<'_>,
    tally: &mut Tally,
    now_ms: u64,
    retention: Retention,
) -> Result<bool, Problem> {
    let too_many = tally.next_answer - tally.oldest_answer > retention.answers;
    let order = order_key(tally.oldest_answer);
    if let Some(key) = transaction.get(&order)? {
        let key = String::from_utf8(key).map_err(|_| Problem::damaged("order of an answer"))?;
        let answer = answer_key(&key);
        let kept = transaction.get(&answer)?.map(|row| read(&row)).transpose()?;
        let too_old = kept.as_ref().is_none_or(|kept| now_ms.saturating_sub(kept.made_at_ms) > retention.age_ms);
        if !too_many && !too_old {
            return Ok(false);
        }
        // The key may have been used again since: then the answer is a newer one, and only its old place goes.
        if kept.is_some_and(|kept| kept.order == tally.oldest_answer) {
            transaction.delete(&answer)?;
        }
        transaction.delete(&order)?;
    } else if tally.oldest_answer >= tally.next_answer {
        return Ok(false);
    }
    tally.oldest_answer += 1;
    Ok(true)
}

fn read(row: &[u8]) -> Result<Kept, Problem> {
    serde_json::from_slice(row).map_err(|_| Problem::damaged("answer"))
}

fn fingerprint(headers: &HeaderMap, method: &Method, path: &str, body: &[u8]) -> String {
    let mut hasher = blake3::Hasher::new();
    let mut part = |bytes: &[u8]| {
        // Lengths keep neighbours apart.
        hasher.update(&u64::try_from(bytes.len()).unwrap_or(u64::MAX).to_le_bytes());
        hasher.update(bytes);
    };
    part(method.as_str().as_bytes());
    part(path.as_bytes());
    for name in [http::header::IF_MATCH, http::header::IF_NONE_MATCH] {
        part(headers.get(name).map_or(b"", |value| value.as_bytes()));
    }
    part(body);
    hasher.finalize().to_hex().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    fn named(key: &'static str, body: &[u8]) -> Result<Option<Named>, Problem> {
        let mut headers = HeaderMap::new();
        headers.append(HEADER, HeaderValue::from_static(key));
        Named::from_request(&headers, &Method::POST, "/docs", body)
    }

    #[test]
    fn the_same_write_has_the_same_fingerprint_and_another_one_another() {
        let first = named("k", b"{}").unwrap().unwrap();
        assert_eq!(named("k", b"{}").unwrap().unwrap(), first);
        assert_ne!(named("k", b"[]").unwrap().unwrap().fingerprint, first.fingerprint);
        let mut headers = HeaderMap::new();
        headers.append(HEADER, HeaderValue::from_static("k"));
        for (method, path) in [(Method::PUT, "/docs"), (Method::POST, "/docs/a")] {
            let other = Named::from_request(&headers, &method, path, b"{}").unwrap().unwrap();
            assert_ne!(other.fingerprint, first.fingerprint);
        }
        headers.append(http::header::IF_MATCH, HeaderValue::from_static("\"3\""));
        let conditional = Named::from_request(&headers, &Method::POST, "/docs", b"{}").unwrap().unwrap();
        assert_ne!(conditional.fingerprint, first.fingerprint);
    }

    #[test]
    fn a_key_that_makes_no_sense_is_refused_and_none_is_none() {
        assert_eq!(Named::from_request(&HeaderMap::new(), &Method::POST, "/docs", b""), Ok(None));
        assert!(named("", b"").is_err());
        assert!(named("a b", b"").is_err());
        let mut headers = HeaderMap::new();
        headers.append(HEADER, HeaderValue::from_str(&"x".repeat(256)).unwrap());
        assert!(Named::from_request(&headers, &Method::POST, "/docs", b"").is_err());
        headers.append(HEADER, HeaderValue::from_static("b"));
        assert!(Named::from_request(&headers, &Method::POST, "/docs", b"").is_err());
    }
}
