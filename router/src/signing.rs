//! The signed context that a request carries to its gate: made once for a tenant at an epoch and used for seconds, not
//! signed for each request.

use std::cell::RefCell;
use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use cell_model::{Epoch, Mapping, TenantId, Tier, Uid};
use cell_trust::{SigningKey, TenantContext};
use http::HeaderValue;
use tokio::time::Instant;

use crate::options::ContextOptions;

/// Contexts that one thread keeps. Beyond that it begins anew: signing costs little against forgetting nothing.
const KEPT_MAX: usize = 50_000;

/// Why there is no key to sign with.
#[derive(Debug, thiserror::Error)]
pub enum KeyFault {
    /// The file cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Others than its owner may read it.
    #[error("{0}")]
    Exposed(String),
    /// It holds something else.
    #[error("{}, line 1: {reason}", path.display())]
    NoKey {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
}

/// The router's key.
pub(crate) struct Signer {
    key: SigningKey,
    validity: Duration,
}

impl Signer {
    /// Reads the key. What is wrong with it names the file.
    pub(crate) fn load(options: &ContextOptions) -> Result<Arc<Self>, KeyFault> {
        let key = read_key(&options.key_file)?;
        Ok(Arc::new(Self { key, validity: options.validity }))
    }

    fn sign(&self, mapping: &Mapping, now: SystemTime) -> HeaderValue {
        let expires_at = now + self.validity;
        let context = TenantContext {
            tenant: mapping.tenant.clone(),
            uid: mapping.uid,
            epoch: mapping.epoch,
            tier: mapping.tier,
            expires_at: expires_at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs(),
        };
        HeaderValue::try_from(context.to_header(&self.key)).expect("base64url is a header value")
    }
}

fn read_key(path: &Path) -> Result<SigningKey, KeyFault> {
    let unreadable = |source| KeyFault::Unreadable { path: path.to_owned(), source };
    crate::private::check(path).map_err(unreadable)?.map_err(KeyFault::Exposed)?;
    let text = std::fs::read_to_string(path).map_err(unreadable)?;
    let key = text.trim().parse::<SigningKey>();
    key.map_err(|error| KeyFault::NoKey { path: path.to_owned(), reason: error.to_string() })
}

/// A thread's contexts.
pub(crate) struct Contexts {
    signer: Arc<Signer>,
    kept: RefCell<HashMap<TenantId, Kept>>,
}

struct Kept {
    uid: Uid,
    epoch: Epoch,
    tier: Tier,
    until: Instant,
    header: HeaderValue,
}

impl Contexts {
    pub(crate) fn new(signer: Arc<Signer>) -> Self {
        Self { signer, kept: RefCell::default() }
    }

    /// The context for requests under this mapping. It is good for half of its time at least.
    pub(crate) fn of(&self, mapping: &Mapping) -> HeaderValue {
        let mut kept = self.kept.borrow_mut();
        let now = Instant::now();
        if let Some(known) = kept.get(&mapping.tenant)
            && (known.uid, known.epoch, known.tier) == (mapping.uid, mapping.epoch, mapping.tier)
            && now < known.until
        {
            return known.header.clone();
        }
        if kept.len() >= KEPT_MAX {
            kept.clear();
        }
        let header = self.signer.sign(mapping, SystemTime::now());
        let until = now + self.signer.validity / 2;
        let (uid, epoch, tier) = (mapping.uid, mapping.epoch, mapping.tier);
        kept.insert(mapping.tenant.clone(), Kept { uid, epoch, tier, until, header: header.clone() });
        header
    }
}

#[cfg(test)]
mod tests {
    use cell_model::{CellId, Hold, Lineage, MappingState, Rev, Revision};
    use cell_trust::TrustedKeys;

    use super::*;

    fn mapping(epoch: u64) -> Mapping {
        Mapping {
            lineage: Lineage(1),
            tenant: TenantId::new("t-1").unwrap(),
            uid: Uid(3),
            epoch: Epoch(epoch),
            rev: Rev(9),
            revision: Revision(40),
            state: MappingState::Active,
            owner: CellId::new("a").unwrap(),
            peer: None,
            hold: Hold::None,
            tier: Tier::Gold,
        }
    }

    fn write(path: &Path, text: &str, mode: u32) {
        use std::os::unix::fs::PermissionsExt as _;
        std::fs::write(path, text).unwrap();
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn one_context_serves_an_epoch_and_the_next_epoch_gets_another() {
        let dir = tempfile::tempdir().unwrap();
        let key_file = dir.path().join("key");
        write(&key_file, &"07".repeat(32), 0o600);
        let options = ContextOptions { key_file, validity: Duration::from_secs(30) };
        let contexts = Contexts::new(Signer::load(&options).unwrap());
        let first = contexts.of(&mapping(1));
        assert_eq!(contexts.of(&mapping(1)), first);
        let second = contexts.of(&mapping(2));
        assert_ne!(second, first);
        let trusted = TrustedKeys::new([SigningKey::from_bytes(&[7; 32]).public()]);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
        let context = TenantContext::from_header(second.to_str().unwrap(), &trusted, now).unwrap();
        assert_eq!((context.tenant.as_str(), context.epoch), ("t-1", Epoch(2)));
        assert!((now + 15..=now + 31).contains(&context.expires_at));
    }

    #[test]
    fn a_key_that_is_none_names_its_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        let said = |path| {
            let error = crate::Error::ContextKey { fault: read_key(path).err().unwrap() };
            assert_eq!(error.code(), "CONTEXT_KEY_INVALID");
            (error.to_string(), error.hint())
        };
        let (text, hint) = said(&path);
        assert!(text.contains("cannot read") && hint.contains("path and rights"), "{text}: {hint}");
        write(&path, "xyz", 0o600);
        let (text, hint) = said(&path);
        assert!(text.contains("line 1") && hint.contains("64 hexadecimal digits"), "{text}: {hint}");
        write(&path, &"ab".repeat(32), 0o644);
        let (text, hint) = said(&path);
        assert!(text.contains("(mode 644)") && hint.contains("chmod 600"), "{text}: {hint}");
        write(&path, &format!("{}\n", "ab".repeat(32)), 0o600);
        assert_eq!(read_key(&path).unwrap().to_bytes(), [0xab; 32]);
    }
}
