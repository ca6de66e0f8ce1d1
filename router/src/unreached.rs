//! Why a request has reached no instance of its cell. The client is told how many were tried and what kept them, and not
//! where they are; the operator all of it.

use std::collections::BTreeSet;

use cell_model::CellId;

use crate::pool::ConnectError;
use crate::refusal::{Code, Refusal};

/// An error with what is behind it.
pub(crate) fn in_full(error: &(dyn std::error::Error + 'static)) -> String {
    let (mut text, mut cause) = (error.to_string(), error.source());
    while let Some(at) = cause {
        let said = at.to_string();
        if !text.contains(&said) {
            text = format!("{text}: {said}");
        }
        cause = at.source();
    }
    text
}

/// What has kept a request from the instances of a cell.
#[derive(Default)]
pub(crate) struct Unreached {
    reasons: Vec<String>,
    /// Of those with which there is no TLS.
    codes: BTreeSet<&'static str>,
    without_tls: usize,
}

impl Unreached {
    /// An instance that was tried.
    pub(crate) fn add(&mut self, address: &str, error: &ConnectError) {
        if let ConnectError::Tls(trouble) = error {
            self.codes.insert(trouble.code);
            self.without_tls += 1;
        }
        self.reasons.push(format!("{address}: {error}"));
    }

    /// What the request is answered.
    pub(crate) fn refusal(self, cell: &CellId) -> Refusal {
        let tried = self.reasons.len();
        if tried == 0 {
            return Refusal::new(
                Code::CellUnreachable,
                format!("cell {cell} has not said where its instances are"),
            );
        }
        let cause = self.reasons.join("; ");
        if self.codes.is_empty() {
            let detail = format!("no instance of cell {cell} takes connections ({tried} tried)");
            return Refusal::new(Code::CellUnreachable, detail).because(cause);
        }
        let codes = self.codes.into_iter().collect::<Vec<_>>().join(", ");
        // Where some take no connections at all, it may pass by itself.
        let code = if self.without_tls == tried { Code::CellUntrusted } else { Code::CellUnreachable };
        let detail = format!(
            "with {} of {tried} instances of cell {cell} that were tried there is no TLS: {codes}",
            self.without_tls
        );
        Refusal::new(code, detail).because(cause)
    }
}
