//! Bounds of plans, for commands that move nobody: taken so that the answer can say who has something to bound.

use clap::Args;

use crate::failure::Failure;

const WHO: &str = "`cellctl plan rebalance`, `repair` and `drain` and `cellctl simulate` take --max-moves, --max-bytes and --window; \
                   `cellctl plan place` takes --max-moves and --max-bytes";

/// Taken, and refused with a sentence.
#[derive(Debug, Clone, Default, Args)]
pub struct Unbounded {
    #[arg(long, hide = true, allow_negative_numbers = true, num_args = 0..=1, default_missing_value = "")]
    max_moves: Option<String>,
    #[arg(long, hide = true, allow_negative_numbers = true, num_args = 0..=1, default_missing_value = "")]
    max_bytes: Option<String>,
    #[command(flatten)]
    window: Windowless,
}

/// The same of a command whose moves are made one after the other.
#[derive(Debug, Clone, Default, Args)]
pub struct Windowless {
    #[arg(long, hide = true, allow_negative_numbers = true, num_args = 0..=1, default_missing_value = "")]
    window: Option<String>,
}

impl Unbounded {
    /// # Errors
    /// A bound was given.
    pub(crate) fn check(&self, command: &str) -> Result<(), Failure> {
        for (bound, given) in [("--max-moves", &self.max_moves), ("--max-bytes", &self.max_bytes)] {
            if given.is_some() {
                return Err(refused(bound, &format!("{command} moves nobody")));
            }
        }
        self.window.check(&format!("{command} moves nobody"))
    }
}

impl Windowless {
    /// # Errors
    /// A window was given.
    pub(crate) fn check(&self, why: &str) -> Result<(), Failure> {
        if self.window.is_some() { Err(refused("--window", why)) } else { Ok(()) }
    }
}

fn refused(bound: &str, why: &str) -> Failure {
    Failure::usage(format!("{bound} has nothing to bound here: {why}"), WHO)
}
