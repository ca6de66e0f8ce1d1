//! A tenant that is deleted, and whose name is given out again: nothing of the first may be there, and the second is served.
//!
//! What clients of the first were told is kept apart: its history ends with it. What is there in the end is read with everything
//! else, and a document that nobody of the second wrote is one too many.

use std::sync::Arc;

use cell_chaos::load::Load;
use cell_client::WriteOptions;
use cell_model::TenantId;

use super::script::{POLL, Script, new_tenant};
use super::{CELLS, RENEWED};

/// Documents of the first.
const DOCS: u32 = 5;
const DOC_BYTES: usize = 200;

impl Script {
    /// Writes documents of the first, by clients who are not judged.
    pub(super) async fn fill_the_first(&self, apart: &Load) -> turmoil::Result {
        for _ in 0..DOCS {
            self.write(apart).await;
        }
        Ok(())
    }

    /// Deletes the first, makes the second in the same cell, and waits until it is written to.
    pub(super) async fn renew(&self, load: &Load) -> turmoil::Result {
        let tenant = TenantId::new(RENEWED)?;
        self.scene.wait_for(format!("{tenant} to be deleted"));
        while self.control.delete_tenant(&tenant, WriteOptions::default()).await.is_err() {
            tokio::time::sleep(POLL).await;
        }
        let again = new_tenant(RENEWED, CELLS[0])?;
        // Refused for as long as something of the first is there.
        while self.control.create_tenant(again.clone(), WriteOptions::default()).await.is_err() {
            tokio::time::sleep(POLL).await;
        }
        self.scene.wait_for(format!("{tenant} to live again"));
        while !self.control.get_tenant(&tenant).await.is_ok_and(|found| found.life == "live") {
            tokio::time::sleep(POLL).await;
        }
        self.scene.note(format_args!("{tenant} lives again"));
        self.scene.wait_for(format!("a write of {tenant} that lives again"));
        self.write(load).await;
        Ok(())
    }

    async fn write(&self, load: &Load) {
        let (mut session, tenant) = (load.session(), Arc::from(RENEWED));
        // A new name takes a moment to reach the router.
        while !session.post(&tenant, load.nonce(), DOC_BYTES, None).await {
            tokio::time::sleep(POLL).await;
        }
    }
}
