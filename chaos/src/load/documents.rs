//! The documents that the load writes, and what they say about themselves when they are read again.

use std::sync::Arc;

use serde::Deserialize;

use crate::check::FinalDoc;
use crate::history::{Nonce, Seen};

#[derive(Deserialize)]
struct Document {
    tenant: String,
    key: Option<String>,
    version: Option<u64>,
    nonce: Option<Nonce>,
}

/// A document for PUT of about `bytes` bytes.
#[must_use]
pub fn register(tenant: &str, key: &str, version: u64, bytes: usize) -> Vec<u8> {
    padded(format!(r#"{{"tenant":"{tenant}","key":"{key}","version":{version},"pad":""#), version, bytes)
}

/// A document for POST of about `bytes` bytes.
#[must_use]
pub fn posted(tenant: &str, nonce: Nonce, bytes: usize) -> Vec<u8> {
    padded(format!(r#"{{"tenant":"{tenant}","nonce":{nonce},"pad":""#), nonce, bytes)
}

/// Letters that differ from one document to the next, so that no storage can fold them together.
fn padded(head: String, different: u64, bytes: usize) -> Vec<u8> {
    let mut document = head.into_bytes();
    let pad = bytes.saturating_sub(document.len() + 2);
    let mut state = different.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    document.extend((0..pad).map(|_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        b'a' + u8::try_from(state % 26).unwrap_or(0)
    }));
    document.extend_from_slice(b"\"}");
    document
}

/// What a document found in a store is.
#[must_use]
pub fn recognise(json: &[u8]) -> FinalDoc {
    match serde_json::from_slice::<Document>(json) {
        Ok(Document { tenant, key: Some(key), version: Some(version), nonce: None }) => {
            FinalDoc::Register(Seen { tenant: tenant.into(), key: key.into(), version })
        }
        Ok(Document { tenant, key: None, version: None, nonce: Some(nonce) }) => {
            FinalDoc::Posted { tenant: Arc::from(tenant), nonce }
        }
        _ => FinalDoc::Foreign { text: String::from_utf8_lossy(json).chars().take(120).collect() },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_document_says_what_it_is_and_has_the_size_that_was_asked_for() {
        let written = register("acme", "r-1-2", 7, 500);
        assert_eq!(written.len(), 500);
        let seen = Seen { tenant: "acme".into(), key: "r-1-2".into(), version: 7 };
        assert_eq!(recognise(&written), FinalDoc::Register(seen));
        let made = posted("acme", 99, 0);
        assert_eq!(recognise(&made), FinalDoc::Posted { tenant: "acme".into(), nonce: 99 });
        assert_ne!(posted("acme", 1, 90)[40..], posted("acme", 2, 90)[40..]);
    }

    #[test]
    fn anything_else_is_foreign() {
        for other in [&b"[]"[..], b"{}", b"not json", br#"{"tenant":"a","key":"k"}"#] {
            assert!(matches!(recognise(other), FinalDoc::Foreign { .. }));
        }
    }
}
