//! Where words go: data to standard output, everything else to standard error.

use std::io::{IsTerminal, Write};

/// Data. A reader that has gone away (`| head`) is no error.
pub(crate) fn data(text: &str) {
    let mut out = std::io::stdout().lock();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

/// A line for people.
pub(crate) fn note(line: &str) {
    let mut err = std::io::stderr().lock();
    let _ = err.write_all(format!("{line}\n").as_bytes());
}

/// Somebody watches: lines may be redrawn.
pub(crate) fn is_live() -> bool {
    std::io::stderr().is_terminal()
}

/// Bold, green, red …: only on a terminal, and never where `NO_COLOR` is set.
pub(crate) fn paint(text: &str, code: &str) -> String {
    let plain = !is_live() || std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    if plain { text.to_owned() } else { format!("\u{1b}[{code}m{text}\u{1b}[0m") }
}

/// Asks before something that cannot be undone.
pub(crate) fn confirms(question: &str) -> Option<bool> {
    if !std::io::stdin().is_terminal() || !is_live() {
        return None;
    }
    let mut err = std::io::stderr().lock();
    let _ = err.write_all(format!("{question} [y/N] ").as_bytes()).and_then(|()| err.flush());
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer).ok()?;
    Some(matches!(answer.trim(), "y" | "Y" | "yes"))
}
