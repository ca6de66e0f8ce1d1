//! The end of an audit trail under the control plane's signature: what an export is held against later.
//!
//! ```text
//! signature  Ed25519 over CHECKPOINT_DOMAIN | "<cluster, 16 hex digits> <number> <hash, 64 hex digits>"
//! ```

use cell_model::{AuditHash, ClusterId};

use crate::{SigningKey, TrustError, TrustedKeys};

/// What stands before a checkpoint when it is signed.
pub const CHECKPOINT_DOMAIN: &[u8] = b"cellway/audit/v1\0";

/// The newest entry of a cluster's audit trail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Checkpoint {
    /// Whose.
    pub cluster: ClusterId,
    /// Its number.
    pub number: u64,
    /// Its hash, and so that of everything before it.
    pub hash: AuditHash,
}

impl Checkpoint {
    fn signed_bytes(&self) -> Vec<u8> {
        let text = format!("{} {} {}", self.cluster, self.number, self.hash);
        [CHECKPOINT_DOMAIN, text.as_bytes()].concat()
    }

    /// 64 bytes that only the holder of `key` can make.
    #[must_use]
    pub fn sign(&self, key: &SigningKey) -> [u8; 64] {
        key.sign(&self.signed_bytes())
    }

    /// Whether the key of this name, which must be trusted, has signed this checkpoint.
    ///
    /// # Errors
    /// [`TrustError`] says which check failed.
    pub fn verify(&self, key_id: &str, signature: &[u8], trusted: &TrustedKeys) -> Result<(), TrustError> {
        trusted.check(key_id, &self.signed_bytes(), signature)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_signed_end_of_a_trail_is_believed() {
        let (key, other) = (SigningKey::generate(), SigningKey::generate());
        let end = Checkpoint { cluster: ClusterId(7), number: 12, hash: AuditHash([3; 32]) };
        let signature = end.sign(&key);
        let trusted = TrustedKeys::new([key.public()]);
        let name = key.public().key_id();
        assert_eq!(end.verify(&name, &signature, &trusted), Ok(()));
        for forged in [
            Checkpoint { cluster: ClusterId(8), ..end },
            Checkpoint { number: 11, ..end },
            Checkpoint { hash: AuditHash([4; 32]), ..end },
        ] {
            assert_eq!(forged.verify(&name, &signature, &trusted), Err(TrustError::BadSignature));
        }
        let stranger = other.public().key_id();
        assert!(matches!(end.verify(&stranger, &signature, &trusted), Err(TrustError::UnknownKey { .. })));
        assert_eq!(end.verify(&name, &signature[..63], &trusted), Err(TrustError::SignatureLength { found: 63 }));
    }
}
