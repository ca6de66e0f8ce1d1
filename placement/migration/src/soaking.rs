//! Shadow reads: while a move soaks, some rows of the old owner's copy, which follows, are compared with the new owner's now and then.
//! What differs is told, and the move rests: both copies are there yet.

use std::time::Duration;

use cell_client::StepError;
use cell_model::{Event, UnixMillis};

use crate::ControlPlane;
use crate::steps::{Run, Setback};

impl<P: ControlPlane> Run<'_, P> {
    /// Waits for the end of the soak, and looks meanwhile. One that pauses ends this task.
    pub(crate) async fn soak(&self, at: UnixMillis) -> Result<(), Setback> {
        let at_most = Duration::from_millis(self.movement()?.soak_ms.into());
        let mut over = std::pin::pin!(self.until(at, at_most));
        let mut looks = 0;
        loop {
            tokio::select! {
                () = &mut over => return Ok(()),
                () = tokio::time::sleep(self.of.options.shadow_every) => {}
            }
            looks += 1;
            tokio::select! {
                () = &mut over => return Ok(()),
                looked = self.look_at_some_rows(looks) => if !looked? {
                    over.await;
                    return Ok(());
                },
            }
        }
    }

    /// Whether to look again. One that comes to nothing is in nobody's way: the next one looks at other rows.
    async fn look_at_some_rows(&self, look: u64) -> Result<bool, Setback> {
        let _permit = self.of.talking.acquire().await.ok();
        let (context, agent) = (self.context(), self.from()?);
        // Each move, and each leader's term, begins elsewhere.
        let seed = (self.movement()?.id.0 ^ self.tenure.term.get().rotate_left(32)).wrapping_add(look);
        match self.of.agents.compare_sample(&agent, &context, seed).await {
            Ok(found) if found.count() == 0 => Ok(true),
            Ok(found) => {
                tracing::warn!(tenant = %self.record.id, r#move = %self.movement()?.id, %found, "the old copy differs");
                self.happened(Event::Differed(Box::new(found))).await.map(|()| false)
            }
            Err(StepError::Refused { code, .. }) if code == "REPAIR_UNSUPPORTED" || code == "INVALID" => Ok(false),
            Err(error) => {
                tracing::debug!(tenant = %self.record.id, %error, "no rows were compared");
                Ok(true)
            }
        }
    }
}
