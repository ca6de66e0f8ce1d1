//! The newest leader that has sent a step. All databases of an agent know it; written down it is in the cell's own.

use std::sync::{Mutex, PoisonError};

use cell_model::{Lineage, Term};

use super::connect::Database;
use super::floor::Floor;
use super::records;
use crate::record::AgentRecord;
use crate::refusal::Refusal;

/// See the module.
pub(crate) struct Leader {
    agent: Mutex<AgentRecord>,
    // One at a time tells the database of a newer one.
    turn: tokio::sync::Mutex<()>,
}

impl Leader {
    pub(crate) fn new(agent: AgentRecord) -> Self {
        Self { agent: Mutex::new(agent), turn: tokio::sync::Mutex::default() }
    }

    pub(super) fn known(&self) -> AgentRecord {
        self.agent.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether a step's leader is still the newest.
    pub(crate) fn check(&self, lineage: Lineage, term: Term) -> Result<(), Refusal> {
        let agent = self.agent.lock().unwrap_or_else(PoisonError::into_inner);
        let known = (agent.lineage, agent.term);
        if (lineage, term) < known { Err(stale_term(known)) } else { Ok(()) }
    }

    /// Remembers a newer one durably, before anything is done for it.
    pub(crate) async fn remember(
        &self,
        database: &Database,
        floor: &Floor,
        lineage: Lineage,
        term: Term,
    ) -> Result<(), Refusal> {
        self.check(lineage, term)?;
        let _turn = self.turn.lock().await;
        let known = self.known();
        if (lineage, term) > (known.lineage, known.term) {
            let next = AgentRecord { lineage, term, ..known };
            records::store_term(&*database.client().await?, &next).await?;
            floor.note_agent(&next).await?;
            *self.agent.lock().unwrap_or_else(PoisonError::into_inner) = next;
        }
        self.check(lineage, term)
    }
}

fn stale_term((lineage, term): (Lineage, Term)) -> Refusal {
    Refusal::new("STALE_TERM", format!("a step of lineage {lineage}, term {term} has been here"))
}
