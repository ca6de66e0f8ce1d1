//! That a capture was given up is written down before its log goes: an agent that is started again would decode what is left, and take
//! it for all that there was.

use std::sync::Arc;
use std::time::Duration;

use cell_model::TenantId;

use super::cell::Cell;
use super::floor::Least;
use super::records::{self, Rows};
use crate::record::{Capture, Control};
use crate::refusal::Refusal;

const LOOK_EVERY: Duration = Duration::from_millis(500);

impl Cell {
    /// For ever.
    pub(super) async fn note_given_up(self: &Arc<Self>) {
        let mut arrived = self.replication.subscribe();
        loop {
            let given_up = self.replication.captures().unnoted();
            for id in given_up {
                match self.note_one(&id).await {
                    Ok(false) => continue,
                    Ok(true) => {}
                    // The log must not fill the disk because of it.
                    Err(refusal) => {
                        tracing::warn!(tenant = %id, %refusal, "that a capture was given up could not be written down");
                    }
                }
                self.replication.captures().noted(&id);
            }
            tokio::select! {
                _ = arrived.changed() => {}
                () = tokio::time::sleep(LOOK_EVERY) => {}
            }
        }
    }

    /// False: what is put aside says it itself, soon.
    async fn note_one(&self, id: &TenantId) -> Result<bool, Refusal> {
        let Some(tenant) = self.get(id) else { return Ok(true) };
        let _turn = tenant.turn.lock().await;
        self.refresh(&tenant).await?;
        let (old, next, has_rows) = {
            let core = tenant.lock();
            if core.puts_aside() {
                return Ok(false);
            }
            let Some(old) = core.control.clone() else { return Ok(true) };
            let Some(capture) = old.capture.clone().filter(|capture| !capture.overflowed) else { return Ok(true) };
            let next = Control { capture: Some(Capture { overflowed: true, ..capture }), ..old.clone() };
            (old, next, core.copied.is_some())
        };
        let mut client = self.database.client().await?;
        let changed = records::change(&mut client, self.incarnation, id, (Some(&old), &next), Rows::Stay).await;
        let number = changed.inspect_err(|_| tenant.lock().doubted = true)?;
        let least = Least { control: next.clone(), number, has_rows };
        self.floor.note(id, least).await.inspect_err(|_| tenant.lock().doubted = true)?;
        let mut core = tenant.lock();
        (core.control, core.number) = (Some(next), number);
        Ok(true)
    }
}
