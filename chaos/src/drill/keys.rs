//! The tenants' keys, as the cells of a drill find them: a file each, which stands for a service of keys.
//!
//! ```text
//! <tenant>.key            enabled             <tenant>.disabled      disabled, and kept until it is enabled again
//! ```

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;

use super::script::{Runner, Trouble, said};
use crate::seed::Choices;

/// The lane of disabled keys.
pub(super) const LANE: &str = "keys";

/// See the module.
#[derive(Debug)]
pub(super) struct Keys {
    directory: PathBuf,
    disabled: BTreeSet<Arc<str>>,
}

impl Keys {
    /// A key for each of these tenants, of 32 bytes.
    ///
    /// # Errors
    /// Where the files cannot be written.
    pub(super) fn make(directory: PathBuf, tenants: &[Arc<str>], choices: &mut Choices) -> std::io::Result<Self> {
        std::fs::create_dir_all(&directory)?;
        let keys = Self { directory, disabled: BTreeSet::new() };
        for tenant in tenants {
            let key: Vec<u8> = (0..4).flat_map(|_| choices.between(0, u64::MAX - 1).to_le_bytes()).collect();
            std::fs::write(keys.file(tenant, "key"), key)?;
        }
        Ok(keys)
    }

    fn file(&self, tenant: &str, kind: &str) -> PathBuf {
        self.directory.join(format!("{tenant}.{kind}"))
    }

    fn disable(&mut self, tenant: &Arc<str>) -> std::io::Result<()> {
        std::fs::rename(self.file(tenant, "key"), self.file(tenant, "disabled"))?;
        self.disabled.insert(tenant.clone());
        Ok(())
    }

    fn enable(&mut self, tenant: &Arc<str>) -> std::io::Result<()> {
        if self.disabled.remove(tenant) {
            std::fs::rename(self.file(tenant, "disabled"), self.file(tenant, "key"))?;
        }
        Ok(())
    }
}

impl Runner {
    pub(super) fn disable_key(&mut self, tenant: usize) -> Result<(), Trouble> {
        let name = self.evidence.homes[tenant].name.clone();
        let keys = self.keys.as_mut().ok_or("the tenants of this drill have no keys")?;
        keys.disable(&name).map_err(|error| said(&error))?;
        self.open(LANE, &format!("{name} has its key disabled"));
        Ok(())
    }

    /// Enables the key of a tenant. The fault has ended just before, so that whatever was asked within it found none.
    pub(super) fn enable_key(&mut self, tenant: &Arc<str>) -> Result<(), Trouble> {
        self.close(LANE, Some(tenant));
        self.keys.as_mut().map_or(Ok(()), |keys| keys.enable(tenant)).map_err(|error| said(&error))
    }

    /// Enables every key that is still disabled.
    pub(super) fn enable_all_keys(&mut self) {
        let disabled = self.keys.as_ref().map(|keys| keys.disabled.clone()).unwrap_or_default();
        for tenant in disabled {
            if let Err(trouble) = self.enable_key(&tenant) {
                self.trouble(trouble);
            }
        }
    }
}
