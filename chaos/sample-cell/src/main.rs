//! `sample-cell serve`: one cell as a process.

use std::io::{IsTerminal as _, Write as _};
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use sample_cell::{Addresses, Error, Options};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

/// A cell of Cellway: documents and counters of many tenants, over HTTP.
#[derive(Debug, Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve a cell until SIGTERM or Ctrl-C. Prints where it listens, as one line of JSON.
    Serve(Options),
}

fn main() -> ExitCode {
    let Command::Serve(options) = Cli::parse().command;
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let colours = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    tracing_subscriber::fmt().with_env_filter(filter).with_ansi(colours).with_writer(std::io::stderr).init();
    match serve(options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let mut text = error.to_string();
            if let Some(failed) = error.downcast_ref::<Error>() {
                text = format!("{} ({})", explain(&error), failed.code());
                text.push_str("\n  next: ");
                text.push_str(failed.hint());
            }
            // Nobody is left to be told where standard error is closed.
            let _ = writeln!(std::io::stderr(), "error: {text}");
            ExitCode::FAILURE
        }
    }
}

fn explain(error: &anyhow::Error) -> String {
    let causes: Vec<String> = error.chain().map(ToString::to_string).collect();
    causes.join(": ")
}

fn serve(options: Options) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let shutdown = CancellationToken::new();
        let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
        let stop = shutdown.clone();
        tokio::spawn(async move {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = tokio::signal::ctrl_c() => {}
            }
            stop.cancel();
        });
        sample_cell::run(options, shutdown, announce).await?;
        anyhow::Ok(())
    })
}

fn announce(addresses: &Addresses) {
    let line = serde_json::to_string(addresses).unwrap_or_default();
    let mut out = std::io::stdout();
    // Whoever closed standard output does not want to know.
    let _ = writeln!(out, "{line}").and_then(|()| out.flush());
}
