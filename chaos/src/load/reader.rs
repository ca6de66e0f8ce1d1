//! A client that reads: it comes back to the same few documents, so that a read that goes back would show.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::session::Session;
use super::{Load, Pace, Place};

/// Documents that a background reader has in hand at a time.
const IN_HAND: usize = 8;

pub(super) struct Reader {
    session: Session,
    given: Option<Arc<[Place]>>,
    in_hand: Vec<Place>,
    load: Load,
}

impl Reader {
    /// Of the given documents, or of any that the background has written.
    pub(super) const fn new(session: Session, given: Option<Arc<[Place]>>, load: Load) -> Self {
        Self { session, given, in_hand: Vec::new(), load }
    }

    pub(super) async fn run(mut self, mut pace: Pace, stop: CancellationToken) {
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = pace.wait() => {}
            }
            if let Some((tenant, key)) = self.choose() {
                self.session.get(&tenant, &key).await;
            }
        }
    }

    fn choose(&mut self) -> Option<(Arc<str>, Arc<str>)> {
        let choices = &mut self.session.choices;
        if let Some(given) = &self.given {
            return given.get(choices.index(given.len())).cloned();
        }
        if self.in_hand.len() < IN_HAND || choices.percent(3) {
            let picked = self.load.known_keys().pick(choices)?;
            if self.in_hand.len() < IN_HAND {
                self.in_hand.push(picked);
            } else {
                let index = choices.index(IN_HAND);
                self.in_hand[index] = picked;
            }
        }
        self.in_hand.get(choices.index(self.in_hand.len())).cloned()
    }
}
