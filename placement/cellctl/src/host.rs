//! One server of a fleet, as `demo` and drills start it: options from a file, an end with the parent or on a signal.

use std::future::Future;
use std::io::Read;

use serde::de::DeserializeOwned;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

use crate::cli::{Run, RunOptions};
use crate::failure::{Exit, Failure};

/// Hosts a server until it is told to end.
pub(crate) fn run(server: Run) -> Result<Exit, Failure> {
    log_to_stderr();
    let (Run::Control(said) | Run::Router(said) | Run::Cell(said)) = &server;
    let shutdown = CancellationToken::new();
    if said.exit_with_parent {
        end_with_parent(shutdown.clone());
    }
    match &server {
        Run::Control(said) => {
            let options = read(said)?;
            serve(shutdown.clone(), async {
                let done = cell_control::run(options, shutdown).await;
                done.map_err(|error| Failure { hint: error.hint(), ..of(error.code(), error) })
            })
        }
        Run::Router(said) => {
            let options = read(said)?;
            serve(shutdown.clone(), async {
                let done = cell_router::run(options, shutdown).await;
                done.map_err(|error| Failure { hint: error.hint().into(), ..of(error.code(), error) })
            })
        }
        Run::Cell(said) => {
            let options = read(said)?;
            serve(shutdown.clone(), async {
                let done = sample_cell::run(options, shutdown, |_| {}).await;
                done.map_err(|error| Failure { hint: error.hint().into(), ..of(error.code(), error) })
            })
        }
    }
}

fn of(code: &str, error: impl Into<anyhow::Error>) -> Failure {
    Failure::new(code, format!("{:#}", error.into()), "")
}

fn read<O: DeserializeOwned>(said: &RunOptions) -> Result<O, Failure> {
    let file = said.options.display();
    let unreadable = |reason: String| Failure::usage(format!("cannot read {file}: {reason}"), "correct the file");
    let text = std::fs::read_to_string(&said.options).map_err(|error| unreadable(error.to_string()))?;
    serde_json::from_str(&text).map_err(|error| unreadable(error.to_string()))
}

fn serve(shutdown: CancellationToken, server: impl Future<Output = Result<(), Failure>>) -> Result<Exit, Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let hint = "too many threads or open files on this machine?";
    let runtime = runtime.map_err(|error| Failure::local("RUNTIME", &error.into(), hint))?;
    runtime.block_on(async {
        end_on_signal(shutdown).map_err(|error| Failure::local("SIGNALS", &error.into(), ""))?;
        server.await.map(|()| Exit::Done)
    })
}

/// SIGTERM and SIGINT end a server gracefully, and SIGHUP does unless whoever has started it ignores that (`nohup`).
pub(crate) fn end_on_signal(shutdown: CancellationToken) -> std::io::Result<()> {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let hangup = (!ignores_hangup(&status)).then(SignalKind::hangup);
    let kinds = [SignalKind::terminate(), SignalKind::interrupt()].into_iter().chain(hangup);
    let mut signals = kinds.map(signal).collect::<std::io::Result<Vec<_>>>()?;
    tokio::spawn(async move {
        futures::future::select_all(signals.iter_mut().map(|signal| Box::pin(signal.recv()))).await;
        shutdown.cancel();
    });
    Ok(())
}

/// Whether the kernel's page of a process says that it ignores SIGHUP, the first of the signals.
fn ignores_hangup(status: &str) -> bool {
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).is_some_and(|mask| mask & 1 != 0)
}

/// The parent holds the other end of our standard input: its end is the parent's, whatever has become of it.
fn end_with_parent(shutdown: CancellationToken) {
    // A process that a drill has frozen reads nothing: the kernel ends it.
    if let Err(error) = rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL)) {
        tracing::warn!(%error, "the end of the parent is told by the end of standard input only");
    }
    std::thread::spawn(move || {
        let mut stdin = std::io::stdin().lock();
        let mut ignored = [0; 64];
        // An error is an end, too.
        while stdin.read(&mut ignored).is_ok_and(|length| length > 0) {}
        shutdown.cancel();
    });
}

/// Logs go to standard error; `CELLCTL_LOG` chooses what is logged.
pub(crate) fn log_to_stderr() {
    let filter = EnvFilter::try_from_env("CELLCTL_LOG").unwrap_or_else(|_| EnvFilter::new("info,openraft=error"));
    let subscriber =
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(false);
    // A second subscriber of one process would be refused, and the first is as good.
    let _ = subscriber.try_init();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hangup_is_ignored_where_the_kernel_says_so() {
        assert!(ignores_hangup("Name:\tx\nSigIgn:\t0000000000001001\nSigCgt:\t0\n"));
        assert!(!ignores_hangup("SigBlk:\t0000000000000001\nSigIgn:\t0000000000001000\n"));
        assert!(!ignores_hangup(""));
    }
}
