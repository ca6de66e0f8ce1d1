//! Ed25519 keys (RFC 8032), and the set of those that are believed.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use ed25519_dalek::Signer;

use crate::TrustError;

/// Why bytes or text are not a key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidKey {
    /// Not 32 bytes.
    #[error("a key has 32 bytes, not {found}")]
    Length {
        /// How many there were.
        found: usize,
    },
    /// Not 64 hexadecimal digits.
    #[error("a key is written as 64 hexadecimal digits")]
    Hex,
    /// 32 bytes that are no point of the curve, or one of those with which anybody could sign.
    #[error("these 32 bytes are not a usable Ed25519 public key")]
    Point,
}

/// The secret half. Its `Debug` shows only the name of the public half.
pub struct SigningKey(ed25519_dalek::SigningKey);

impl SigningKey {
    /// A new random key.
    ///
    /// # Panics
    /// Where the operating system has no random bytes to give: there is no safe way to go on.
    #[must_use]
    pub fn generate() -> Self {
        let mut secret = [0_u8; 32];
        getrandom::fill(&mut secret).expect("the operating system gives random bytes");
        Self::from_bytes(&secret)
    }

    /// The key with these secret bytes.
    #[must_use]
    pub fn from_bytes(secret: &[u8; 32]) -> Self {
        Self(ed25519_dalek::SigningKey::from_bytes(secret))
    }

    /// The secret bytes, to be kept in a file that nobody else can read.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; 32] {
        self.0.to_bytes()
    }

    /// The public half.
    #[must_use]
    pub fn public(&self) -> PublicKey {
        PublicKey(self.0.verifying_key())
    }

    pub(crate) fn sign(&self, message: &[u8]) -> [u8; 64] {
        self.0.sign(message).to_bytes()
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SigningKey({})", self.public().key_id())
    }
}

/// The public half. Prints and reads as 64 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct PublicKey(ed25519_dalek::VerifyingKey);

impl PublicKey {
    /// The key with these bytes.
    ///
    /// # Errors
    /// [`InvalidKey`] where they are not 32, or not a usable key.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, InvalidKey> {
        let bytes: &[u8; 32] = bytes.try_into().map_err(|_| InvalidKey::Length { found: bytes.len() })?;
        let key = ed25519_dalek::VerifyingKey::from_bytes(bytes).map_err(|_| InvalidKey::Point)?;
        if key.is_weak() { Err(InvalidKey::Point) } else { Ok(Self(key)) }
    }

    /// Its 32 bytes.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; 32] {
        self.0.to_bytes()
    }

    /// Its name: the first 16 hexadecimal digits of its BLAKE3 hash.
    #[must_use]
    pub fn key_id(&self) -> String {
        blake3::hash(self.0.as_bytes()).to_hex()[..16].to_owned()
    }

    /// Strict (RFC 8032 with small-order points refused), so that all verifiers agree.
    pub(crate) fn verifies(&self, message: &[u8], signature: &[u8; 64]) -> bool {
        self.0.verify_strict(message, &ed25519_dalek::Signature::from_bytes(signature)).is_ok()
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.as_bytes().iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({self})")
    }
}

impl FromStr for PublicKey {
    type Err = InvalidKey;
    fn from_str(text: &str) -> Result<Self, InvalidKey> {
        Self::from_bytes(&bytes_of_hex(text)?)
    }
}

impl FromStr for SigningKey {
    type Err = InvalidKey;
    fn from_str(text: &str) -> Result<Self, InvalidKey> {
        Ok(Self::from_bytes(&bytes_of_hex(text)?))
    }
}

fn bytes_of_hex(text: &str) -> Result<[u8; 32], InvalidKey> {
    let digits = text.as_bytes();
    if digits.len() != 64 {
        return Err(InvalidKey::Hex);
    }
    let mut bytes = [0_u8; 32];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        let digit = |at: usize| char::from(pair[at]).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
        let (Some(high), Some(low)) = (digit(0), digit(1)) else { return Err(InvalidKey::Hex) };
        *byte = high << 4 | low;
    }
    Ok(bytes)
}

/// The public keys whose signatures are believed, by name.
#[derive(Debug, Clone, Default)]
pub struct TrustedKeys(BTreeMap<String, PublicKey>);

impl TrustedKeys {
    /// These and no others.
    pub fn new(keys: impl IntoIterator<Item = PublicKey>) -> Self {
        Self(keys.into_iter().map(|key| (key.key_id(), key)).collect())
    }

    /// Believes one more.
    pub fn insert(&mut self, key: PublicKey) {
        self.0.insert(key.key_id(), key);
    }

    /// The key of this name, if it is believed.
    #[must_use]
    pub fn get(&self, key_id: &str) -> Option<&PublicKey> {
        self.0.get(key_id)
    }

    /// Whether the key of this name, which must be believed, has signed the message.
    pub(crate) fn check(&self, key_id: &str, message: &[u8], signature: &[u8]) -> Result<(), TrustError> {
        let unknown = || TrustError::UnknownKey { key_id: key_id.chars().take(32).collect() };
        let key = self.get(key_id).ok_or_else(unknown)?;
        let length = TrustError::SignatureLength { found: signature.len() };
        let signature: &[u8; 64] = signature.try_into().map_err(|_| length)?;
        if key.verifies(message, signature) { Ok(()) } else { Err(TrustError::BadSignature) }
    }

    /// Whether nobody is believed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// All of them, by name.
    pub fn iter(&self) -> impl Iterator<Item = &PublicKey> {
        self.0.values()
    }
}

impl FromIterator<PublicKey> for TrustedKeys {
    fn from_iter<I: IntoIterator<Item = PublicKey>>(keys: I) -> Self {
        Self::new(keys)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_read_back_what_they_print() {
        let secret = SigningKey::generate();
        let public = secret.public();
        assert_eq!(public.to_string().parse::<PublicKey>(), Ok(public));
        assert_eq!(PublicKey::from_bytes(&public.to_bytes()), Ok(public));
        assert_eq!(SigningKey::from_bytes(&secret.to_bytes()).public(), public);
        assert_eq!(public.key_id().len(), 16);
    }

    #[test]
    fn the_secret_is_in_no_debug_text() {
        let secret = SigningKey::from_bytes(&[0xab; 32]);
        let shown = format!("{secret:?}");
        assert_eq!(shown, format!("SigningKey({})", secret.public().key_id()));
        assert!(!shown.contains("abab"), "{shown}");
    }

    #[test]
    fn what_is_not_a_key_is_named() {
        assert_eq!(PublicKey::from_bytes(&[1; 31]), Err(InvalidKey::Length { found: 31 }));
        assert_eq!("xyz".parse::<PublicKey>(), Err(InvalidKey::Hex));
        assert_eq!("é".repeat(32).parse::<PublicKey>(), Err(InvalidKey::Hex));
        // The neutral element: a signature that fits every message is easily made for it.
        let mut neutral = [0_u8; 32];
        neutral[0] = 1;
        assert_eq!(PublicKey::from_bytes(&neutral), Err(InvalidKey::Point));
    }

    #[test]
    fn two_keys_have_two_names() {
        let (one, two) = (SigningKey::generate().public(), SigningKey::generate().public());
        assert_ne!(one.key_id(), two.key_id());
        let trusted = TrustedKeys::new([one]);
        assert_eq!(trusted.get(&one.key_id()), Some(&one));
        assert_eq!(trusted.get(&two.key_id()), None);
    }
}
