//! That a capture was given up is written down before its log goes: an agent that is started again would decode what is left, and take
//! it for all that there was. Of a tail that is being put aside it is said that it is a part.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use cell_model::TenantId;
use tokio::time::Instant;

use super::cell::Cell;
use super::floor::Least;
use super::records::{self, Rows};
use super::tenant::Tenant;
use super::{standbys, tails};
use crate::record::{Capture, Control, TailRecord};
use crate::refusal::Refusal;

const LOOK_EVERY: Duration = Duration::from_millis(500);
/// It is tried for so long. Then the log goes all the same, or it would fill the disk because of it.
const TRIED_MAX: Duration = Duration::from_secs(30);
/// Others wait for their turn meanwhile.
const TURN_MAX: Duration = Duration::from_secs(5);

/// Since when each that could not be written down yet is tried.
#[derive(Default)]
struct Tried(BTreeMap<TenantId, Instant>);

impl Tried {
    fn only(&mut self, those: &[TenantId]) {
        self.0.retain(|id, _| those.contains(id));
    }

    /// Whether it has been tried for long enough.
    fn once_more(&mut self, id: &TenantId, now: Instant) -> bool {
        now - *self.0.entry(id.clone()).or_insert(now) >= TRIED_MAX
    }
}

impl Cell {
    /// For ever.
    pub(super) async fn note_given_up(self: &Arc<Self>) {
        let mut arrived = self.replication.subscribe();
        let mut tried = Tried::default();
        loop {
            let given_up = self.replication.captures().unnoted();
            tried.only(&given_up);
            for id in given_up {
                let Err(refusal) = self.note_one(&id).await else { continue };
                tracing::debug!(tenant = %id, %refusal, "that a capture was given up could not be written down yet");
                if tried.once_more(&id, Instant::now()) && self.replication.captures().let_go(&id) {
                    tracing::warn!(tenant = %id, %refusal, "that a capture was given up could not be written down, and its log goes");
                }
            }
            tokio::select! {
                _ = arrived.changed() => {}
                () = tokio::time::sleep(LOOK_EVERY) => {}
            }
        }
    }

    /// Returns when it is written down, or there is nothing that could be taken for whole.
    async fn note_one(&self, id: &TenantId) -> Result<(), Refusal> {
        let noted = || self.replication.captures().noted(id);
        let Some(tenant) = self.get(id) else {
            noted();
            return Ok(());
        };
        let busy = || Refusal::new("BUSY", "something else is being made of the tenant");
        // Whoever puts changes aside at this moment finds by himself that some are missing.
        let puts_aside = tenant.lock().puts_aside();
        let alone = if puts_aside { Some(tenant.mending.try_lock().map_err(|_| busy())?) } else { None };
        let turn = tokio::time::timeout(TURN_MAX, tenant.turn.lock()).await;
        let _turn = turn.map_err(|_| busy())?;
        self.refresh(&tenant).await?;
        // Another one may have begun meanwhile.
        if !self.replication.captures().has_failed(id) {
            return Ok(());
        }
        let tail = tenant.lock().tail.clone().filter(|tail| !tail.done);
        match tail {
            Some(_) if alone.is_none() => return Err(busy()),
            Some(tail) => self.note_part(&tenant, &tail).await?,
            None => self.note_overflow(&tenant).await?,
        }
        standbys::have_all(&self.database).await?;
        noted();
        Ok(())
    }

    /// What is put aside has gaps.
    async fn note_part(&self, tenant: &Tenant, tail: &TailRecord) -> Result<(), Refusal> {
        if !tail.whole {
            return Ok(());
        }
        let part = TailRecord { whole: false, ..tail.clone() };
        let mut client = self.database.client().await?;
        let noted = tails::advance(&mut client, self.incarnation, &tenant.id, (tail, &part), &[]).await;
        noted.inspect_err(|_| tenant.lock().doubted = true)?;
        tenant.lock().goes_on_putting_aside(&part);
        Ok(())
    }

    async fn note_overflow(&self, tenant: &Tenant) -> Result<(), Refusal> {
        let (old, next, has_rows) = {
            let core = tenant.lock();
            let Some(old) = core.control.clone() else { return Ok(()) };
            let Some(capture) = old.capture.clone().filter(|capture| !capture.overflowed) else { return Ok(()) };
            let next = Control { capture: Some(Capture { overflowed: true, ..capture }), ..old.clone() };
            (old, next, core.copied.is_some())
        };
        let mut client = self.database.client().await?;
        let id = &tenant.id;
        let changed = records::change(&mut client, self.incarnation, id, (Some(&old), &next), Rows::Stay).await;
        let number = changed.inspect_err(|_| tenant.lock().doubted = true)?;
        let least = Least { control: next.clone(), number, has_rows };
        self.floor.note(id, least).await.inspect_err(|_| tenant.lock().doubted = true)?;
        let mut core = tenant.lock();
        (core.control, core.number) = (Some(next), number);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn each_is_tried_for_as_long_as_any_other_and_begins_anew_once_it_was_written_down() {
        let ids = ["a", "b"].map(|name| TenantId::new(name).unwrap());
        let (mut tried, began) = (Tried::default(), Instant::now());
        let short = TRIED_MAX - Duration::from_millis(1);
        assert!(!tried.once_more(&ids[0], began) && !tried.once_more(&ids[0], began + short));
        assert!(!tried.once_more(&ids[1], began + short));
        assert!(tried.once_more(&ids[0], began + TRIED_MAX));
        assert!(!tried.once_more(&ids[1], began + TRIED_MAX));
        tried.only(&ids[1..]);
        assert!(!tried.once_more(&ids[0], began + TRIED_MAX), "it has failed once more, later");
        assert!(tried.once_more(&ids[1], began + short + TRIED_MAX));
    }
}
