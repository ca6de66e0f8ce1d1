//! A frame of the watch under the control plane's signature: one for all that is in it.
//!
//! ```text
//! signature  Ed25519 over FRAME_DOMAIN | the frame's items, as they travel
//! ```
//!
//! A router that comes up cold reads every mapping of the fleet. To sign and to verify each one would take a million tenants
//! minutes; a frame has hundreds. Nobody hands on a part of a frame, so nothing in it needs a signature of its own: what a cell
//! hands to routers is a [`SignedMapping`](crate::SignedMapping).

use crate::{SigningKey, TrustError, TrustedKeys};

/// What stands before a frame's items when they are signed.
pub const FRAME_DOMAIN: &[u8] = b"cellway/watch/v1\0";

/// The encoded items of one frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WatchFrame<'a>(pub &'a [u8]);

impl WatchFrame<'_> {
    fn signed_bytes(&self) -> Vec<u8> {
        [FRAME_DOMAIN, self.0].concat()
    }

    /// 64 bytes that only the holder of `key` can make.
    #[must_use]
    pub fn sign(&self, key: &SigningKey) -> [u8; 64] {
        key.sign(&self.signed_bytes())
    }

    /// Whether the key of this name, which must be trusted, has signed exactly these bytes, as a frame.
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
    fn only_what_a_trusted_key_has_signed_as_a_frame_is_believed() {
        let (key, other) = (SigningKey::generate(), SigningKey::generate());
        let trusted = TrustedKeys::new([key.public()]);
        let (frame, name) = (WatchFrame(b"items"), key.public().key_id());
        let signature = frame.sign(&key);
        assert_eq!(frame.verify(&name, &signature, &trusted), Ok(()));
        assert_eq!(WatchFrame(b"item5").verify(&name, &signature, &trusted), Err(TrustError::BadSignature));
        assert_eq!(frame.verify(&name, &other.sign(b"items"), &trusted), Err(TrustError::BadSignature));
        // Made for something else.
        assert_eq!(frame.verify(&name, &key.sign(b"items"), &trusted), Err(TrustError::BadSignature));
        assert_eq!(frame.verify(&name, &signature[..63], &trusted), Err(TrustError::SignatureLength { found: 63 }));
        let stranger = frame.verify(&other.public().key_id(), &frame.sign(&other), &trusted);
        assert!(matches!(stranger, Err(TrustError::UnknownKey { .. })), "{stranger:?}");
    }
}
