//! Where words go: data to standard output, everything else to standard error.

use std::io::{ErrorKind, IsTerminal, Write};
use std::sync::OnceLock;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Why data could not be written, the first time that it could not.
static LOST: OnceLock<String> = OnceLock::new();

/// Data. A reader that has gone away (`| head`) is no error. Anything else is one, and [`lost`] tells of it when the
/// command has ended: what it does in the meantime must not depend on who listens.
pub(crate) fn data(text: &str) {
    let mut out = std::io::stdout().lock();
    let written = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    if let Err(error) = written
        && error.kind() != ErrorKind::BrokenPipe
    {
        // Only the first one counts.
        let _ = LOST.set(error.to_string());
    }
}

/// Why some of the data has not reached standard output, if it has not.
pub(crate) fn lost() -> Option<&'static str> {
    LOST.get().map(String::as_str)
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

fn target() -> ProgressDrawTarget {
    if is_live() { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() }
}

/// Does something that may take a while, and shows that it does.
pub(crate) fn while_waiting<T>(what: &str, work: impl FnOnce() -> T) -> T {
    let spinner = ProgressBar::with_draw_target(None, target());
    spinner.set_style(
        ProgressStyle::with_template("{spinner} {msg} {elapsed}")
            .unwrap_or_else(|_| ProgressStyle::default_spinner()),
    );
    spinner.set_message(what.to_owned());
    spinner.enable_steady_tick(Duration::from_millis(120));
    let done = work();
    spinner.finish_and_clear();
    done
}

/// A bar for work whose length is known.
pub(crate) fn progress(length: u64, what: &'static str) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(Some(length), target());
    let style = ProgressStyle::with_template("{bar:30} {pos} of {len} {prefix} {elapsed} {msg}");
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    bar.set_prefix(what);
    bar
}
