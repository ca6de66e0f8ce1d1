//! What dead runs have left: taken away before a new one begins, and by `drill clean`.

use cell_chaos::drill::leftovers::{self, Leftover, Swept};

use crate::console;
use crate::failure::{Exit, Failure};

/// Takes away what is ours. What another user's runs have left is in nobody's way.
pub(super) async fn before_a_run() -> Result<(), Failure> {
    let swept = swept().await?;
    for left in &swept.of_others {
        console::note(&format!("left alone: {left}, which a dead run of another user has left"));
    }
    Ok(())
}

/// `drill clean`.
pub(super) async fn clean() -> Result<Exit, Failure> {
    let swept = swept().await?;
    if let [first, more @ ..] = &swept.of_others[..] {
        return Err(stays(first, "it is another user's", more.len()));
    }
    if swept.removed.is_empty() {
        console::note("dead runs have left nothing");
    }
    Ok(Exit::Done)
}

async fn swept() -> Result<Swept, Failure> {
    let swept = leftovers::sweep().await;
    for left in &swept.removed {
        console::note(&format!("removed {left}, which a dead run had left"));
    }
    match &swept.failed[..] {
        [(left, reason), more @ ..] => Err(stays(left, reason, more.len())),
        [] => Ok(swept),
    }
}

fn stays(left: &Leftover, reason: &str, more: usize) -> Failure {
    let more = if more == 0 { String::new() } else { format!(" (and {more} more)") };
    let message = format!("{left} of a dead run cannot be removed: {reason}{more}");
    Failure::new("DRILL_LEFTOVER", message, "run `cellctl drill clean` as the user whose run it was")
}
