//! A tenant's mapping under the control plane's signature.
//!
//! ```text
//! payload    postcard(RoutedMapping)
//! signature  Ed25519 over MAPPING_DOMAIN | payload
//! header     base64url, unpadded, of postcard(version 1, payload, key id, signature)
//! ```
//!
//! The payload travels as the very bytes that were signed. Reading is strict: bytes that are left over, or that another
//! encoding of the same mapping would have, are refused, so that one mapping has one payload.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use cell_model::{ClusterId, Mapping};
use serde::{Deserialize, Serialize};

use crate::{SigningKey, TrustedKeys};

/// What stands before a payload when it is signed, so that no signature made for something else fits.
pub const MAPPING_DOMAIN: &[u8] = b"cellway/mapping/v1\0";

/// A header above this is not looked at. 255 instances of 255 characters would still fit.
const HEADER_LENGTH_MAX: usize = 96 * 1024;
const HEADER_VERSION: u8 = 1;

/// What is signed.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct RoutedMapping {
    /// The cluster whose control plane says so.
    pub cluster: ClusterId,
    /// What it says.
    pub mapping: Mapping,
    /// `host:port` of each of the owner's application instances behind a gate.
    pub owner_gates: Vec<String>,
    /// `host:port` of the owner's agent.
    pub owner_agent: String,
}

impl RoutedMapping {
    /// Its canonical bytes.
    ///
    /// # Panics
    /// Never: a mapping always has canonical bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        postcard::to_stdvec(self).expect("a mapping is plain data")
    }

    /// Reads canonical bytes. Who says so has to be known otherwise.
    ///
    /// # Errors
    /// [`TrustError`] where they are not the canonical form of a mapping.
    pub fn decode(bytes: &[u8]) -> Result<Self, TrustError> {
        let (routed, rest) = postcard::take_from_bytes::<Self>(bytes)
            .map_err(|error| TrustError::Payload { reason: error.to_string() })?;
        if !rest.is_empty() {
            return Err(TrustError::TrailingBytes { count: rest.len() });
        }
        if routed.encode() == bytes { Ok(routed) } else { Err(TrustError::NotCanonical) }
    }
}

/// A mapping and the signature over it. Nothing in it may be used before [`SignedMapping::verify`].
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct SignedMapping {
    /// The canonical bytes of a [`RoutedMapping`].
    pub payload: Vec<u8>,
    /// Name of the key that signed.
    pub key_id: String,
    /// 64 bytes.
    pub signature: Vec<u8>,
}

/// Why a signed mapping is not believed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TrustError {
    /// Signed by somebody who is not trusted here.
    #[error("signed with key {key_id:?}, which is not trusted here")]
    UnknownKey {
        /// The name that was given, cut after 32 characters.
        key_id: String,
    },
    /// The signature has not 64 bytes.
    #[error("a signature has 64 bytes, not {found}")]
    SignatureLength {
        /// How many there were.
        found: usize,
    },
    /// The signature does not fit the payload.
    #[error("the signature does not fit what was signed, or was made with another key")]
    BadSignature,
    /// The payload is not a mapping.
    #[error("the signed bytes are not a mapping: {reason}")]
    Payload {
        /// What the decoder says.
        reason: String,
    },
    /// There are bytes after the mapping.
    #[error("{count} bytes follow the mapping")]
    TrailingBytes {
        /// How many.
        count: usize,
    },
    /// The bytes are a mapping, but not as this crate would write it.
    #[error("the mapping is not in its canonical form")]
    NotCanonical,
    /// The header is longer than any mapping.
    #[error("a header of {length} characters is longer than any mapping")]
    HeaderTooLong {
        /// Its length.
        length: usize,
    },
    /// The header is not base64url, or not what [`SignedMapping::to_header`] writes.
    #[error("the header is not a signed mapping: {reason}")]
    Header {
        /// What the decoder says.
        reason: String,
    },
}

#[derive(Serialize, Deserialize)]
struct Header {
    version: u8,
    signed: SignedMapping,
}

impl SignedMapping {
    /// Signs.
    ///
    /// # Panics
    /// Never: a mapping always has canonical bytes.
    #[must_use]
    pub fn sign(key: &SigningKey, routed: &RoutedMapping) -> Self {
        let payload = routed.encode();
        let signature = key.sign(&signed_bytes(&payload)).to_vec();
        Self { payload, key_id: key.public().key_id(), signature }
    }

    /// The mapping, if a trusted key has signed exactly these bytes.
    ///
    /// # Errors
    /// [`TrustError`] says which check failed. The signature is checked before the payload is decoded.
    pub fn verify(&self, trusted: &TrustedKeys) -> Result<RoutedMapping, TrustError> {
        trusted.check(&self.key_id, &signed_bytes(&self.payload), &self.signature)?;
        self.decode()
    }

    /// The mapping, whoever signed it. For those who have it over a channel that they trust otherwise, and for display.
    ///
    /// # Errors
    /// [`TrustError`] where the payload is not the canonical form of a mapping.
    pub fn decode(&self) -> Result<RoutedMapping, TrustError> {
        RoutedMapping::decode(&self.payload)
    }

    /// As one HTTP header value.
    ///
    /// # Panics
    /// Never: a signed mapping is plain data.
    #[must_use]
    pub fn to_header(&self) -> String {
        let header = Header { version: HEADER_VERSION, signed: self.clone() };
        URL_SAFE_NO_PAD.encode(postcard::to_stdvec(&header).expect("a signed mapping is plain data"))
    }

    /// Reads what [`SignedMapping::to_header`] has written. Verifies nothing.
    ///
    /// # Errors
    /// [`TrustError::HeaderTooLong`] or [`TrustError::Header`].
    pub fn from_header(header: &str) -> Result<Self, TrustError> {
        if header.len() > HEADER_LENGTH_MAX {
            return Err(TrustError::HeaderTooLong { length: header.len() });
        }
        let refuse = |reason: String| TrustError::Header { reason };
        let bytes = URL_SAFE_NO_PAD.decode(header).map_err(|error| refuse(error.to_string()))?;
        if bytes.first() != Some(&HEADER_VERSION) {
            return Err(refuse("another version".into()));
        }
        let (header, rest) =
            postcard::take_from_bytes::<Header>(&bytes).map_err(|error| refuse(error.to_string()))?;
        if rest.is_empty() { Ok(header.signed) } else { Err(refuse("bytes are left over".into())) }
    }
}

fn signed_bytes(payload: &[u8]) -> Vec<u8> {
    [MAPPING_DOMAIN, payload].concat()
}

#[cfg(test)]
mod tests {
    use super::*;
    use cell_model::{CellId, Epoch, Hold, Lineage, MappingState, Rev, Revision, TenantId, Tier, Uid};
    use proptest::prelude::*;

    fn routed() -> RoutedMapping {
        RoutedMapping {
            cluster: ClusterId(77),
            mapping: Mapping {
                lineage: Lineage(1),
                tenant: TenantId::new("t-1").unwrap(),
                uid: Uid(300),
                epoch: Epoch(2),
                rev: Rev(9),
                revision: Revision(400),
                state: MappingState::Cutover,
                owner: CellId::new("c2").unwrap(),
                peer: Some(CellId::new("c1").unwrap()),
                hold: Hold::None,
                tier: Tier::Gold,
            },
            owner_gates: vec!["127.0.0.1:8080".into(), "127.0.0.1:8081".into()],
            owner_agent: "127.0.0.1:9090".into(),
        }
    }

    fn key() -> SigningKey {
        SigningKey::from_bytes(&[7; 32])
    }

    #[test]
    fn a_signed_mapping_is_believed_by_those_who_trust_the_key() {
        let signed = SignedMapping::sign(&key(), &routed());
        assert_eq!(signed.verify(&TrustedKeys::new([key().public()])), Ok(routed()));
    }

    #[test]
    fn another_key_of_the_same_name_does_not_help() {
        let signed = SignedMapping::sign(&key(), &routed());
        let other = SigningKey::from_bytes(&[8; 32]);
        let refused = signed.verify(&TrustedKeys::new([other.public()])).unwrap_err();
        assert_eq!(refused, TrustError::UnknownKey { key_id: key().public().key_id() });
        let claimed = SignedMapping { key_id: other.public().key_id(), ..signed };
        assert_eq!(claimed.verify(&TrustedKeys::new([other.public()])), Err(TrustError::BadSignature));
    }

    #[test]
    fn a_signature_without_the_domain_is_refused() {
        let mut signed = SignedMapping::sign(&key(), &routed());
        signed.signature = key().sign(&signed.payload).to_vec();
        assert_eq!(signed.verify(&TrustedKeys::new([key().public()])), Err(TrustError::BadSignature));
    }

    #[test]
    fn signed_bytes_that_are_no_canonical_mapping_are_named() {
        let trusted = TrustedKeys::new([key().public()]);
        let sign = |payload: Vec<u8>| {
            let signature = key().sign(&signed_bytes(&payload)).to_vec();
            SignedMapping { payload, key_id: key().public().key_id(), signature }
        };
        let good = SignedMapping::sign(&key(), &routed()).payload;

        let longer = [good.clone(), vec![0, 0]].concat();
        assert_eq!(sign(longer).verify(&trusted), Err(TrustError::TrailingBytes { count: 2 }));

        let shorter = good[..good.len() - 1].to_vec();
        assert!(matches!(sign(shorter).verify(&trusted), Err(TrustError::Payload { .. })));

        // 77 as a varint of two bytes instead of one.
        assert_eq!(good[0], 77);
        let padded = [vec![77 | 0x80, 0], good[1..].to_vec()].concat();
        let refused = sign(padded).verify(&trusted).unwrap_err();
        assert!(matches!(refused, TrustError::NotCanonical | TrustError::Payload { .. }), "{refused}");
    }

    #[test]
    fn a_short_signature_is_named() {
        let mut signed = SignedMapping::sign(&key(), &routed());
        signed.signature.pop();
        let refused = signed.verify(&TrustedKeys::new([key().public()]));
        assert_eq!(refused, Err(TrustError::SignatureLength { found: 63 }));
    }

    #[test]
    fn the_header_reads_back_and_stays_within_what_servers_take() {
        let signed = SignedMapping::sign(&key(), &routed());
        let header = signed.to_header();
        assert!(header.len() < 512, "{} characters", header.len());
        assert!(header.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_'));
        assert_eq!(SignedMapping::from_header(&header), Ok(signed));
        let endless = "A".repeat(HEADER_LENGTH_MAX + 1);
        assert_eq!(
            SignedMapping::from_header(&endless),
            Err(TrustError::HeaderTooLong { length: HEADER_LENGTH_MAX + 1 })
        );
        for bad in ["", "!", "AAAA", &header[1..], &format!("{header}AAAA")] {
            assert!(matches!(SignedMapping::from_header(bad), Err(TrustError::Header { .. })), "{bad}");
        }
    }

    /// Holds the canonical bytes still: a change of them would make every cell distrust every control node.
    #[test]
    fn the_canonical_bytes_do_not_change() {
        let signed = SignedMapping::sign(&key(), &routed());
        assert_eq!(blake3::hash(&signed.payload).to_hex()[..16], *"270fdb0bc24aeedc");
        assert_eq!(blake3::hash(&signed.signature).to_hex()[..16], *"ec08fa7dee5446b4");
    }

    proptest! {
        #[test]
        fn no_flipped_bit_is_believed(at in 0_usize..1000, bit in 0_u8..8) {
            let mut signed = SignedMapping::sign(&key(), &routed());
            let payload_length = signed.payload.len();
            let at = at % (payload_length + 64);
            if at < payload_length {
                signed.payload[at] ^= 1 << bit;
            } else {
                signed.signature[at - payload_length] ^= 1 << bit;
            }
            prop_assert_eq!(signed.verify(&TrustedKeys::new([key().public()])), Err(TrustError::BadSignature));
        }

        #[test]
        fn no_header_makes_it_panic(header in ".{0,300}") {
            if let Ok(signed) = SignedMapping::from_header(&header) {
                prop_assert!(signed.verify(&TrustedKeys::new([key().public()])).is_err());
            }
        }
    }
}
