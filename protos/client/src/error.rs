//! What can go wrong when something is asked of the control plane or of an agent.

use cell_model::{RequestId, UnixMillis};
use cell_protos::Malformed;

/// Why the control plane did not do, or may not have done, what was asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ClientError {
    /// The control plane refused. Nothing was changed.
    #[error("{message}")]
    Rejected {
        /// Stable, with a row in `docs/errors`.
        code: String,
        /// A sentence.
        message: String,
        /// What may be done next.
        hint: String,
    },
    /// The request makes no sense. Nothing was changed.
    #[error("{message}")]
    Invalid {
        /// Which field, and why.
        message: String,
        /// What may be done next.
        hint: String,
    },
    /// Nobody has taken the request before the deadline. Nothing was changed.
    #[error("the control plane does not answer: {reason}")]
    Unavailable {
        /// What the last node said.
        reason: String,
    },
    /// It may or may not have been done. The same write with the same request id finds out, and runs once.
    #[error("the outcome is unknown: {reason}")]
    Unknown {
        /// The name of the write.
        request_id: Option<RequestId>,
        /// When it was tried first, by this machine's clock.
        first_tried: Option<UnixMillis>,
        /// What happened.
        reason: String,
    },
    /// The answer makes no sense: client and server do not fit together.
    #[error("the answer makes no sense: {0}")]
    Answer(#[from] Malformed),
}

impl ClientError {
    /// Stable code, with a row in `docs/errors`.
    #[must_use]
    pub fn code(&self) -> &str {
        match self {
            Self::Rejected { code, .. } => code,
            Self::Invalid { .. } => Malformed::CODE,
            Self::Unavailable { .. } => "UNAVAILABLE",
            Self::Unknown { .. } => "OUTCOME_UNKNOWN",
            Self::Answer(_) => "MALFORMED_ANSWER",
        }
    }

    /// What may be done next.
    #[must_use]
    pub fn hint(&self) -> String {
        match self {
            Self::Rejected { hint, .. } | Self::Invalid { hint, .. } => hint.clone(),
            Self::Unavailable { .. } => {
                "check the endpoints, and with `cellctl cluster status` whether a majority of the nodes runs".into()
            }
            Self::Unknown { request_id: Some(id), first_tried, .. } => {
                let id = first_tried.map_or_else(|| id.to_string(), |tried| format!("{id}@{tried}"));
                format!("run the same command with `--request-id {id}`: it runs once and tells what became of it")
            }
            Self::Unknown { request_id: None, .. } => "read the record to see what became of it".into(),
            Self::Answer(_) => "use the same version of client and server".into(),
        }
    }
}

/// What became of a step that an agent was asked to run.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StepError {
    /// The agent refused; the step has not run.
    #[error("refused: {code}: {reason}")]
    Refused {
        /// Stable code, see `StepRefused` in agent.proto.
        code: String,
        /// Why.
        reason: String,
    },
    /// Surely not run: there is no connection.
    #[error("agent {agent} cannot be reached: {reason}")]
    Unreachable {
        /// `host:port`.
        agent: String,
        /// Why.
        reason: String,
    },
    /// It may or may not have run, and may yet run.
    #[error("agent {agent} has not answered: {reason}")]
    Unknown {
        /// `host:port`.
        agent: String,
        /// What happened.
        reason: String,
    },
}
