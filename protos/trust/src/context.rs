//! Whose request it is, under the signature of the router that found it out: short-lived, so that a gate and its
//! application can believe it although it travels as a header.
//!
//! ```text
//! payload    postcard(TenantContext)
//! signature  Ed25519 over CONTEXT_DOMAIN | payload
//! header     base64url, unpadded, of postcard(version 1, payload, key id, signature)
//! ```
//! One context is good for every request of its tenant at its epoch until it expires: routers sign one every few seconds
//! and not one for each request.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use cell_model::{Epoch, TenantId, Tier, Uid};
use serde::{Deserialize, Serialize};

use crate::{SigningKey, TrustedKeys};

/// What stands before a payload when it is signed, so that no signature made for something else fits.
pub const CONTEXT_DOMAIN: &[u8] = b"cellway/context/v1\0";

/// A longer header is not looked at: a context is about 250 characters.
const HEADER_LENGTH_MAX: usize = 1_024;
const HEADER_VERSION: u8 = 1;

/// What is signed.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct TenantContext {
    /// Whose request it is.
    pub tenant: TenantId,
    /// Which incarnation of it.
    pub uid: Uid,
    /// The epoch under which it was routed.
    pub epoch: Epoch,
    /// What the tenant has bought.
    pub tier: Tier,
    /// Until when it is good, in seconds since 1970.
    pub expires_at: u64,
}

/// Why a context is not believed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ContextError {
    /// The header is not one.
    #[error("the header is not a signed context: {reason}")]
    Header {
        /// What the decoder says.
        reason: String,
    },
    /// Signed by somebody who is not trusted here.
    #[error("signed with a key that is not trusted here")]
    UnknownKey,
    /// The signature does not fit.
    #[error("the signature does not fit the context")]
    BadSignature,
    /// Its time is over.
    #[error("the context expired {seconds} s ago")]
    Expired {
        /// How long ago.
        seconds: u64,
    },
}

#[derive(Serialize, Deserialize)]
struct Header {
    version: u8,
    payload: Vec<u8>,
    key_id: String,
    signature: Vec<u8>,
}

impl TenantContext {
    /// As one HTTP header value, signed.
    ///
    /// # Panics
    /// Never: a context is plain data.
    #[must_use]
    pub fn to_header(&self, key: &SigningKey) -> String {
        let payload = postcard::to_stdvec(self).expect("a context is plain data");
        let signature = key.sign(&signed_bytes(&payload)).to_vec();
        let header = Header { version: HEADER_VERSION, payload, key_id: key.public().key_id(), signature };
        URL_SAFE_NO_PAD.encode(postcard::to_stdvec(&header).expect("a header is plain data"))
    }

    /// The context in a header, if a trusted key has signed it and it is good at `now` (seconds since 1970).
    ///
    /// # Errors
    /// [`ContextError`] says which check failed. The signature is checked before the payload is decoded.
    pub fn from_header(header: &str, trusted: &TrustedKeys, now: u64) -> Result<Self, ContextError> {
        let refuse = |reason: &str| ContextError::Header { reason: reason.to_owned() };
        if header.len() > HEADER_LENGTH_MAX {
            return Err(refuse("it is too long"));
        }
        let bytes = URL_SAFE_NO_PAD.decode(header).map_err(|error| refuse(&error.to_string()))?;
        if bytes.first() != Some(&HEADER_VERSION) {
            return Err(refuse("another version"));
        }
        let (header, rest) =
            postcard::take_from_bytes::<Header>(&bytes).map_err(|error| refuse(&error.to_string()))?;
        if !rest.is_empty() {
            return Err(refuse("bytes are left over"));
        }
        let key = trusted.get(&header.key_id).ok_or(ContextError::UnknownKey)?;
        let signature: &[u8; 64] =
            header.signature.as_slice().try_into().map_err(|_| ContextError::BadSignature)?;
        if !key.verifies(&signed_bytes(&header.payload), signature) {
            return Err(ContextError::BadSignature);
        }
        let (context, rest) =
            postcard::take_from_bytes::<Self>(&header.payload).map_err(|error| refuse(&error.to_string()))?;
        if !rest.is_empty() {
            return Err(refuse("bytes follow the context"));
        }
        context.check_time(now)?;
        Ok(context)
    }

    /// Whether it is good at `now`.
    ///
    /// # Errors
    /// [`ContextError::Expired`].
    pub fn check_time(&self, now: u64) -> Result<(), ContextError> {
        match now.checked_sub(self.expires_at) {
            None => Ok(()),
            Some(seconds) => Err(ContextError::Expired { seconds }),
        }
    }
}

fn signed_bytes(payload: &[u8]) -> Vec<u8> {
    [CONTEXT_DOMAIN, payload].concat()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn context() -> TenantContext {
        TenantContext {
            tenant: TenantId::new("t-1").unwrap(),
            uid: Uid(7),
            epoch: Epoch(3),
            tier: Tier::Gold,
            expires_at: 1_000,
        }
    }

    fn key() -> SigningKey {
        SigningKey::from_bytes(&[7; 32])
    }

    fn trusted() -> TrustedKeys {
        TrustedKeys::new([key().public()])
    }

    #[test]
    fn a_context_is_believed_until_it_expires() {
        let header = context().to_header(&key());
        assert!(header.len() < 300, "{} characters", header.len());
        assert_eq!(TenantContext::from_header(&header, &trusted(), 999), Ok(context()));
        let expired = ContextError::Expired { seconds: 5 };
        assert_eq!(TenantContext::from_header(&header, &trusted(), 1_005), Err(expired));
    }

    #[test]
    fn only_the_trusted_are_believed() {
        let other = SigningKey::from_bytes(&[8; 32]);
        let header = context().to_header(&other);
        assert_eq!(TenantContext::from_header(&header, &trusted(), 1), Err(ContextError::UnknownKey));
    }

    #[test]
    fn a_signed_mapping_is_no_context() {
        let payload = postcard::to_stdvec(&context()).unwrap();
        let signature = key().sign(&[crate::MAPPING_DOMAIN, &payload].concat()).to_vec();
        let header = Header { version: HEADER_VERSION, payload, key_id: key().public().key_id(), signature };
        let header = URL_SAFE_NO_PAD.encode(postcard::to_stdvec(&header).unwrap());
        assert_eq!(TenantContext::from_header(&header, &trusted(), 1), Err(ContextError::BadSignature));
    }

    proptest! {
        #[test]
        fn no_flipped_bit_is_believed(at in 0_usize..10_000, bit in 0_u8..8) {
            let mut bytes = URL_SAFE_NO_PAD.decode(context().to_header(&key())).unwrap();
            let at = at % bytes.len();
            bytes[at] ^= 1 << bit;
            prop_assert!(TenantContext::from_header(&URL_SAFE_NO_PAD.encode(&bytes), &trusted(), 1).is_err());
        }

        #[test]
        fn no_header_makes_it_panic(header in ".{0,1100}") {
            prop_assert!(TenantContext::from_header(&header, &trusted(), 1).is_err());
        }
    }
}
