//! Why a command did not do what was asked: a code, a sentence, what to do next, and the exit code for scripts.

use std::fmt;

use cell_client::{ClientError, trailer};

/// How a command ends, for scripts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// Done.
    Done = 0,
    /// Failed: nothing was changed, or what was is said.
    Failed = 1,
    /// A check warns.
    Warned = 3,
    /// A plan has moves, and the caller has asked to be told by the exit code.
    Changes = 2,
    /// A watched move was aborted, cancelled or rolled back.
    NotMoved = 4,
    /// It may or may not have happened.
    Unknown = 5,
    /// The command line makes no sense.
    Usage = 64,
    /// The control plane cannot be reached: try again.
    Unavailable = 75,
}

impl From<Exit> for std::process::ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// A user's error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// For scripts.
    pub exit: Exit,
    /// Stable.
    pub code: String,
    /// What happened, and why.
    pub message: String,
    /// The next command, or what to look at; may be empty.
    pub hint: String,
}

impl Failure {
    /// A failure of the first kind: it has failed and that is known.
    pub fn new(code: impl Into<String>, message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { exit: Exit::Failed, code: code.into(), message: message.into(), hint: hint.into() }
    }

    /// The command line makes no sense.
    pub fn usage(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { exit: Exit::Usage, ..Self::new("USAGE", message, hint) }
    }

    /// An option is outside of what it may be, whatever the fleet: wrong usage with a code of its own.
    pub fn option(code: impl Into<String>, message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { exit: Exit::Usage, ..Self::new(code, message, hint) }
    }

    /// Something of this machine: a file, a port. The causes are told along.
    pub fn local(code: &str, error: &anyhow::Error, hint: impl Into<String>) -> Self {
        Self::new(code, format!("{error:#}"), hint)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // What comes after the first line lists details: the code belongs to the sentence before them.
        let (sentence, details) = self.message.split_once('\n').unwrap_or((&self.message, ""));
        write!(f, "error: {sentence} ({})", self.code)?;
        if !details.is_empty() {
            write!(f, "\n{details}")?;
        }
        if self.hint.is_empty() { Ok(()) } else { write!(f, "\n  next: {}", self.hint) }
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        let exit = match &error {
            // Nothing is wrong with what was asked for.
            ClientError::Rejected { code, .. } if code == trailer::DISK_FULL => Exit::Unavailable,
            // An earlier try of it may have run.
            ClientError::Rejected { code, .. } if code == trailer::REQUEST_TOO_OLD => Exit::Unknown,
            ClientError::Rejected { .. } | ClientError::Answer(_) => Exit::Failed,
            ClientError::Invalid { .. } => Exit::Usage,
            ClientError::Unavailable { .. } => Exit::Unavailable,
            ClientError::Unknown { .. } => Exit::Unknown,
        };
        Self { exit, code: error.code().to_owned(), message: chain(&error), hint: error.hint() }
    }
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use cell_model::RequestId;

    use super::*;

    #[test]
    fn each_kind_of_error_has_an_exit_code_and_says_what_to_do() {
        let reason = || String::from("no node answers");
        let rejected = ClientError::Rejected {
            code: "CELL_CORDONED".into(),
            message: "cell c2 is cordoned and takes no tenants".into(),
            hint: "choose another cell".into(),
        };
        let unknown = ClientError::Unknown { request_id: Some(RequestId(1)), first_tried: None, reason: reason() };
        let full = ClientError::Rejected {
            code: trailer::DISK_FULL.into(),
            message: "95 MiB are free".into(),
            hint: "make room".into(),
        };
        let cases = [
            (rejected, Exit::Failed),
            (ClientError::Unavailable { reason: reason() }, Exit::Unavailable),
            (full, Exit::Unavailable),
            (unknown, Exit::Unknown),
        ];
        for (error, exit) in cases {
            let failure = Failure::from(error);
            assert_eq!(failure.exit, exit);
            assert!(!failure.hint.is_empty(), "{failure}");
        }
    }

    #[test]
    fn an_error_is_printed_as_what_why_and_what_next() {
        let failure = Failure::new("CELL_CORDONED", "cell c2 is cordoned", "choose another cell");
        assert_eq!(failure.to_string(), "error: cell c2 is cordoned (CELL_CORDONED)\n  next: choose another cell");
    }

    #[test]
    fn details_follow_the_sentence_and_its_code() {
        let failure = Failure::new("FLEET_SYNTAX", "two things are wrong:\n  one\n  two", "correct them");
        assert_eq!(
            failure.to_string(),
            "error: two things are wrong: (FLEET_SYNTAX)\n  one\n  two\n  next: correct them"
        );
    }

    #[test]
    fn an_unknown_outcome_is_never_called_a_failure() {
        let (request_id, first_tried) = (Some(RequestId(255)), Some(cell_model::UnixMillis(77)));
        let failure = Failure::from(ClientError::Unknown { request_id, first_tried, reason: "r".into() });
        assert!(failure.message.contains("unknown"), "{failure}");
        assert!(failure.hint.contains("--request-id 000000000000000000000000000000ff@77`"), "{failure}");
    }
}
