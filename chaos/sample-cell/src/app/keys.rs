//! A key for each tenant: its documents are sealed under it, and without it nothing of the tenant is served.
//!
//! ```text
//! --keys DIR     DIR/<tenant>.key, 32 bytes: enabled       no such file: disabled       a cell without --keys seals nothing
//! ```
//! A file stands for what a service of keys would answer. It is read for every request, so a key that is taken away takes
//! effect at once, at every instance of every cell that looks into the directory; nothing of it is kept. Agents know
//! nothing of keys: sealed rows are copied, verified and deleted like any others, so that a tenant moves whether or not its key
//! is enabled. Counters, and the answers that are kept for idempotency keys, are not sealed.

use std::path::PathBuf;
use std::sync::Arc;

use aws_lc_rs::aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey};
use bytes::Bytes;
use cell_gate::RequestStamp;
use http::StatusCode;

use crate::problem::Problem;

/// Where the tenants' keys are.
#[derive(Debug, Clone)]
pub(crate) struct Keys(Arc<PathBuf>);

/// How the texts of one tenant's documents are stored.
#[derive(Debug)]
pub(crate) enum Seal {
    /// As they are.
    None,
    /// Sealed under the tenant's key, and bound to this tenant's name and uid, and to the document's id.
    Under(RandomizedNonceKey, RequestStamp),
}

impl Keys {
    /// The keys in a directory.
    pub(crate) fn within(directory: PathBuf) -> Self {
        Self(Arc::new(directory))
    }

    /// The tenant's seal, if its key is enabled.
    pub(crate) async fn seal_of(&self, stamp: &RequestStamp) -> Result<Seal, Problem> {
        let file = self.0.join(format!("{}.key", stamp.tenant));
        let bytes = match tokio::fs::read(&file).await {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                let detail = format!("the key of tenant {} is disabled", stamp.tenant);
                let hint = "nothing was read or written: ask whoever holds the tenant's key to enable it";
                return Err(Problem::new(StatusCode::FORBIDDEN, "TENANT_KEY_DISABLED", detail, hint));
            }
            Err(error) => return Err(unusable(&error.to_string())),
        };
        let key = RandomizedNonceKey::new(&AES_256_GCM, &bytes);
        Ok(Seal::Under(key.map_err(|_| unusable("it is not 32 bytes long"))?, stamp.clone()))
    }
}

fn unusable(why: &str) -> Problem {
    tracing::error!(why, "the key of a tenant cannot be used");
    let hint = "nothing was read or written: put the tenant's key, 32 bytes, into its file";
    Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "TENANT_KEY_UNUSABLE", why, hint)
}

impl Seal {
    /// The text of a document as it is stored.
    pub(crate) fn close(&self, id: &str, text: Bytes) -> Result<Bytes, Problem> {
        let Self::Under(key, stamp) = self else { return Ok(text) };
        let mut sealed = text.to_vec();
        let nonce = key.seal_in_place_append_tag(bound_to(stamp, id), &mut sealed);
        let nonce = nonce.map_err(|_| unusable("a document could not be sealed"))?;
        Ok([nonce.as_ref().as_slice(), &sealed].concat().into())
    }

    /// The text of a document, out of what is stored.
    pub(crate) fn open(&self, id: &str, stored: Bytes) -> Result<Bytes, Problem> {
        let Self::Under(key, stamp) = self else { return Ok(stored) };
        let other = || {
            let detail = format!("document {id} was not sealed under the key that is enabled now");
            let hint = "put back the key under which it was written";
            Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "TENANT_KEY_OTHER", detail, hint)
        };
        let (nonce, sealed) = stored.split_at_checked(NONCE_LEN).ok_or_else(other)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| other())?;
        let mut text = sealed.to_vec();
        let length = key.open_in_place(nonce, bound_to(stamp, id), &mut text).map_err(|_| other())?.len();
        text.truncate(length);
        Ok(text.into())
    }
}

fn bound_to(stamp: &RequestStamp, id: &str) -> Aad<String> {
    Aad::from(format!("{}/{}/{id}", stamp.tenant, stamp.uid))
}

#[cfg(test)]
mod tests {
    use cell_model::{Epoch, TenantId, Uid};

    use super::*;

    async fn seal(directory: &std::path::Path, tenant: &str, uid: u64) -> Result<Seal, Problem> {
        let stamp = RequestStamp { tenant: TenantId::new(tenant).unwrap(), uid: Uid(uid), epoch: Epoch(1) };
        Keys::within(directory.into()).seal_of(&stamp).await
    }

    fn code(problem: Problem) -> &'static str {
        match problem {
            Problem::Said { code, .. } => code,
            Problem::NotExecuted(code) => code.as_str(),
        }
    }

    #[tokio::test]
    async fn a_sealed_text_opens_under_its_key_at_its_place_and_nowhere_else() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("a.key"), [1; 32]).unwrap();
        std::fs::write(directory.path().join("b.key"), [2; 32]).unwrap();
        let text = Bytes::from_static(b"{\"secret\":1}");
        let of_a = seal(directory.path(), "a", 1).await.unwrap();
        let stored = of_a.close("x", text.clone()).unwrap();
        assert!(!stored.windows(6).any(|part| part == b"secret"), "{stored:?}");
        assert_ne!(stored, of_a.close("x", text.clone()).unwrap(), "no nonce is used twice");
        assert_eq!(of_a.open("x", stored.clone()), Ok(text));
        assert_eq!(of_a.open("y", stored.clone()).map_err(code), Err("TENANT_KEY_OTHER"));
        for (tenant, uid) in [("a", 2), ("b", 1)] {
            let other = seal(directory.path(), tenant, uid).await.unwrap();
            assert_eq!(other.open("x", stored.clone()).map_err(code), Err("TENANT_KEY_OTHER"), "{tenant} {uid}");
        }
        assert_eq!(of_a.open("x", Bytes::from_static(b"short")).map_err(code), Err("TENANT_KEY_OTHER"));
    }

    #[tokio::test]
    async fn a_key_is_disabled_where_there_is_none_and_unusable_where_it_is_no_key() {
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(seal(directory.path(), "a", 1).await.map(drop).map_err(code), Err("TENANT_KEY_DISABLED"));
        std::fs::write(directory.path().join("a.key"), [1; 31]).unwrap();
        assert_eq!(seal(directory.path(), "a", 1).await.map(drop).map_err(code), Err("TENANT_KEY_UNUSABLE"));
    }
}
