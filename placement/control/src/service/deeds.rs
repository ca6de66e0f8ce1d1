//! What people do to the store itself, for the audit trail: its members, snapshots, backups.
//!
//! ```text
//! a change of members, a move of the leader:   told as `asked` ──► done ──► told with what came of it
//! a backup:                                    written ──► told ──► handed out
//! a snapshot, a compaction, a new cluster:     done ──► told
//! ```
//!
//! Only a leader writes the trail; another node tells it. A change that cannot be told is not made, and no backup goes out
//! untold, unless a stale one was asked for: that is for the day on which no majority is left. What makes room on a disk is
//! done in any case. Whatever was not told is in the log of the node.

use std::time::Duration;

use cell_client::{ClientError, ClientOptions, ControlClient};
use cell_model::{Command, Envelope, StoreAction, StoreNote};
use cell_protos::{Malformed, v1};
use tonic::{Code, Status};

use super::{Caller, Ground};
use crate::refusal::{malformed, not_told};

/// How long a leader is looked for,
const PATIENCE: Duration = Duration::from_secs(2);
/// and how long the first one of a cluster.
const FIRST_PATIENCE: Duration = Duration::from_secs(30);
/// Of who asks: role and name of a certificate.
const ACTOR_BYTES_MAX: usize = 128;

/// What somebody does.
#[derive(Debug, Clone)]
pub(super) struct Deed {
    pub(super) action: StoreAction,
    /// To what, as `node/10.0.0.1:7401`.
    pub(super) subject: String,
    /// The particulars.
    pub(super) detail: String,
    pub(super) by: Caller,
}

impl Deed {
    fn note(&self, outcome: &str) -> StoreNote {
        let Self { action, subject, detail, by: _ } = self.clone();
        StoreNote { action, subject, detail, outcome: outcome.into() }
    }

    /// Before it is done.
    pub(super) async fn asked(&self, ground: &Ground) -> Result<(), Status> {
        ground.tell(self.note(StoreNote::ASKED), &self.by).await
    }

    /// It was done, or is from now on.
    pub(super) async fn done(&self, ground: &Ground) -> Result<(), Status> {
        ground.tell(self.note(StoreNote::DONE), &self.by).await
    }

    /// What has come of it. Where that cannot be told, nothing is changed about it.
    pub(super) async fn ended<T>(&self, ground: &Ground, result: &Result<T, Status>) {
        let outcome = match result {
            Ok(_) => StoreNote::DONE.to_owned(),
            Err(status) => cell_client::code_of(status).unwrap_or_else(|| format!("{:?}", status.code())),
        };
        if let Err(untold) = ground.tell(self.note(&outcome), &self.by).await {
            self.untold(&outcome, &untold);
        }
    }

    /// The log of the node has what the trail has not.
    pub(super) fn untold(&self, outcome: &str, why: &Status) {
        let Self { action, subject, detail, by } = self;
        let (action, actor) = (action.as_str(), &by.actor);
        tracing::warn!(action, subject, detail, actor, outcome, why = why.message(), "not in the audit trail");
    }
}

impl Ground {
    /// Tells the leader, which may be this node.
    async fn tell(&self, note: StoreNote, by: &Caller) -> Result<(), Status> {
        if self.leading().is_ok() {
            let told = self.keep(note.clone(), by.actor.clone()).await;
            match told {
                // It has surely not run: whoever leads then is told, until the time is up.
                Err(status) if matches!(status.code(), Code::FailedPrecondition | Code::Unavailable) => {}
                told => return told,
            }
        }
        let members = self.store.status().members.into_iter().map(|member| member.address).collect();
        let is_new = note.action == StoreAction::InitCluster;
        let deadline = if is_new { FIRST_PATIENCE } else { PATIENCE };
        let options = ClientOptions { deadline, ..ClientOptions::over(self.link.clone()) };
        let told = ControlClient::new(members, options).note(&note, &by.actor).await;
        told.map_err(|error: ClientError| not_told(&error.to_string()))
    }

    async fn keep(&self, note: StoreNote, actor: String) -> Result<(), Status> {
        let envelope = Envelope { actor, ..Envelope::new(self.now(), Command::Noted(note)) };
        self.submit(envelope).await.map(drop)
    }
}

/// What another node tells this one.
pub(super) async fn hear(ground: &Ground, wire: v1::NoteRequest) -> Result<v1::NoteResponse, Status> {
    let v1::NoteRequest { actor, action, subject, detail, outcome, options } = wire;
    if actor.len() > ACTOR_BYTES_MAX {
        return Err(malformed(&Malformed::new("actor", format!("at most {ACTOR_BYTES_MAX} bytes"))));
    }
    let known = StoreAction::ALL.into_iter().find(|known| known.as_str() == action);
    let action =
        known.ok_or_else(|| malformed(&Malformed::new("action", "nothing of this name is done to a store")))?;
    let note = StoreNote { action, subject, detail, outcome };
    let by = Caller { actor, tried_ago: None };
    let (revision, _) = ground.submit(ground.envelope(Command::Noted(note), options, by)?).await?;
    Ok(v1::NoteResponse { revision: revision.get() })
}
