//! Where words go: data to standard output, everything else to standard error.

use std::io::{ErrorKind, IsTerminal, Write};
use std::sync::OnceLock;
use std::sync::mpsc::{self, RecvTimeoutError, SyncSender};
use std::thread::JoinHandle;
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

/// Work that takes less is over before anybody wonders.
const SHOWN_AFTER: Duration = Duration::from_millis(500);
const TICK: Duration = Duration::from_millis(120);

/// Shows that something is done, once that has taken a while, and goes with it. Nothing is shown where nobody watches.
pub(crate) struct Bar {
    bar: ProgressBar,
    appears: Option<(SyncSender<()>, JoinHandle<()>)>,
}

impl Bar {
    fn new(bar: ProgressBar) -> Self {
        let appears = is_live().then(|| appear(&bar, SHOWN_AFTER, ProgressDrawTarget::stderr));
        Self { bar, appears }
    }
}

impl std::ops::Deref for Bar {
    type Target = ProgressBar;
    fn deref(&self) -> &ProgressBar {
        &self.bar
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        if let Some((still_wanted, thread)) = self.appears.take() {
            drop(still_wanted);
            // A bar is drawn or not: whether its thread has gone well changes nothing.
            let _ = thread.join();
        }
        self.bar.finish_and_clear();
    }
}

/// Lets a hidden bar appear after some time, unless it is not wanted any more by then: what is returned was dropped.
fn appear(
    bar: &ProgressBar,
    after: Duration,
    target: impl FnOnce() -> ProgressDrawTarget + Send + 'static,
) -> (SyncSender<()>, JoinHandle<()>) {
    let (still_wanted, dropped) = mpsc::sync_channel(0);
    let bar = bar.clone();
    let thread = std::thread::spawn(move || {
        if dropped.recv_timeout(after) == Err(RecvTimeoutError::Timeout) {
            bar.set_draw_target(target());
            bar.enable_steady_tick(TICK);
        }
    });
    (still_wanted, thread)
}

/// Does something that may take a while, and shows that it does.
pub(crate) fn while_waiting<T>(what: &str, work: impl FnOnce() -> T) -> T {
    let spinner = ProgressBar::with_draw_target(None, ProgressDrawTarget::hidden());
    spinner.set_style(
        ProgressStyle::with_template("{spinner} {msg} {elapsed}")
            .unwrap_or_else(|_| ProgressStyle::default_spinner()),
    );
    spinner.set_message(what.to_owned());
    let _shown = Bar::new(spinner);
    work()
}

/// A bar for work whose length is known.
pub(crate) fn progress(length: u64, what: &'static str) -> Bar {
    let bar = ProgressBar::with_draw_target(Some(length), ProgressDrawTarget::hidden());
    let style = ProgressStyle::with_template("{bar:30} {pos} of {len} {prefix} {elapsed} {msg}");
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    bar.set_prefix(what);
    Bar::new(bar)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_appears_after_a_while_and_not_once_the_work_is_done() {
        let asked = || {
            let (tell, told) = mpsc::sync_channel(1);
            let target = move || {
                let _ = tell.send(());
                ProgressDrawTarget::hidden()
            };
            (target, told)
        };
        let (target, told) = asked();
        let (still_wanted, thread) = appear(&ProgressBar::hidden(), Duration::MAX, target);
        drop(still_wanted);
        thread.join().unwrap();
        assert!(told.recv().is_err(), "the work was over before");
        let (target, told) = asked();
        let (_still_wanted, thread) = appear(&ProgressBar::hidden(), Duration::ZERO, target);
        thread.join().unwrap();
        told.recv().unwrap();
    }
}
