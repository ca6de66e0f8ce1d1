//! Signatures under what a cell tells its hooks, as the Standard Webhooks specification has them with a public key
//! (`v1a`): Ed25519 over `id.time.body`. Whoever has a library for that specification needs nothing of ours.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::{PublicKey, SigningKey};

/// A call that is older, or from further ahead, than this is somebody's recording.
const TOLERANCE_SECONDS: u64 = 300;
const VERSION: &str = "v1a";

/// What is signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HookCall<'a> {
    /// `webhook-id`: the same for each time that the same thing is told.
    pub id: &'a str,
    /// `webhook-timestamp`: when it was sent, in seconds since 1970.
    pub at: u64,
    /// What is told.
    pub body: &'a [u8],
}

/// Why a call is not believed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HookError {
    /// No signature in the header is one of this kind.
    #[error("the header has no signature of version {VERSION}")]
    NoSignature,
    /// Somebody else has signed it, or it was changed.
    #[error("the signature is not that of the key, or of something else")]
    BadSignature,
    /// It was sent long ago, or the clocks differ.
    #[error("it was sent {seconds} s away from now; at most {TOLERANCE_SECONDS} are believed")]
    Stale {
        /// How far away.
        seconds: u64,
    },
}

impl HookCall<'_> {
    fn signed_bytes(&self) -> Vec<u8> {
        [self.id.as_bytes(), b".", self.at.to_string().as_bytes(), b".", self.body].concat()
    }

    /// The value of `webhook-signature`.
    #[must_use]
    pub fn sign(&self, key: &SigningKey) -> String {
        format!("{VERSION},{}", STANDARD.encode(key.sign(&self.signed_bytes())))
    }

    /// Whether one of the signatures in `header` (there may be several, apart by blanks) is this key's, and the call is of
    /// about `now` (seconds since 1970).
    ///
    /// # Errors
    /// [`HookError`] says what is wrong.
    pub fn verify(&self, header: &str, key: &PublicKey, now: u64) -> Result<(), HookError> {
        let of_version = |one: &str| one.strip_prefix(VERSION)?.strip_prefix(',').map(str::to_owned);
        let mut signatures = header.split(' ').filter_map(of_version).peekable();
        if signatures.peek().is_none() {
            return Err(HookError::NoSignature);
        }
        let bytes = self.signed_bytes();
        let fits = |text: String| {
            let signature = STANDARD.decode(text).ok().and_then(|bytes| <[u8; 64]>::try_from(bytes).ok());
            signature.is_some_and(|signature| key.verifies(&bytes, &signature))
        };
        if !signatures.any(fits) {
            return Err(HookError::BadSignature);
        }
        match now.abs_diff(self.at) {
            0..=TOLERANCE_SECONDS => Ok(()),
            seconds => Err(HookError::Stale { seconds }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_800_000_000;

    #[test]
    fn a_call_is_believed_as_it_was_signed_and_not_otherwise() {
        let (key, other) = (SigningKey::generate(), SigningKey::generate());
        let call = HookCall { id: "m-7.1.hold.c1", at: NOW, body: b"{}" };
        let header = call.sign(&key);
        let verify = |call: &HookCall<'_>, header: &str| call.verify(header, &key.public(), NOW + 10);
        assert_eq!(verify(&call, &header), Ok(()));
        assert_eq!(verify(&call, &format!("v1,abc {} {header}", call.sign(&other))), Ok(()), "a key is exchanged");
        for changed in [
            HookCall { id: "m-7.2.hold.c1", ..call },
            HookCall { at: NOW + 1, ..call },
            HookCall { body: b"{ }", ..call },
        ] {
            assert_eq!(verify(&changed, &header), Err(HookError::BadSignature), "{changed:?}");
        }
        assert_eq!(verify(&call, &call.sign(&other)), Err(HookError::BadSignature));
        assert_eq!(verify(&call, "v1a,????"), Err(HookError::BadSignature));
        assert_eq!(verify(&call, "v1,abc"), Err(HookError::NoSignature));
        assert_eq!(verify(&call, ""), Err(HookError::NoSignature));
    }

    #[test]
    fn a_recording_is_not_believed() {
        let key = SigningKey::generate();
        let call = HookCall { id: "i", at: NOW, body: b"b" };
        let verify = |now| call.verify(&call.sign(&key), &key.public(), now);
        assert_eq!(verify(NOW + 300), Ok(()));
        assert_eq!(verify(NOW + 301), Err(HookError::Stale { seconds: 301 }));
        assert_eq!(verify(NOW - 301), Err(HookError::Stale { seconds: 301 }));
    }

    /// Made with Python's `cryptography`, as the specification says.
    #[test]
    fn the_signature_is_that_of_the_specification() {
        let key = SigningKey::from_bytes(&[7; 32]);
        let call = HookCall { id: "msg_1", at: 1_614_265_330, body: br#"{"test": 2432232314}"# };
        assert_eq!(call.sign(&key), EXPECTED);
    }

    const EXPECTED: &str =
        "v1a,EWOEztNddYbctdUDYzwnhJylbSUAXNQonCoa0C1kXu+mfnuFIxNH2UEJzt3D/SQqSfKBEFHMl1yNbFzzlDEmBQ==";
}
