//! The binary `cell-control`: one node of the control plane, and the making of its key.

use std::io::{IsTerminal as _, Write};
use std::process::ExitCode;

use cell_control::{Error, Options, key_file};
use clap::{Parser, Subcommand, ValueEnum};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

/// A third of what a node does for a command was glibc's allocator.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// One node of Cellway's control plane. Three or five of them decide where tenants live, and move them.
#[derive(Parser)]
#[command(name = "cell-control", version)]
struct Cli {
    /// How logs are written, to standard error.
    #[arg(long, global = true, env = "CELL_LOG_FORMAT", value_enum, default_value_t = LogFormat::Text)]
    log_format: LogFormat,
    #[command(subcommand)]
    command: Command,
}

#[derive(Clone, Copy, ValueEnum)]
enum LogFormat {
    Text,
    Json,
}

#[derive(Subcommand)]
enum Command {
    /// Runs a node until SIGTERM or ctrl-c. A new cluster is made of running nodes by `cellctl cluster init`.
    Serve {
        #[command(flatten)]
        options: Options,
        /// Threads that serve clients, watchers and other nodes, beside the one that is Raft's. Without it one for each two cores, two to
        /// four.
        #[arg(long, env = "CELL_THREADS", value_parser = clap::value_parser!(u8).range(1..=64))]
        threads: Option<u8>,
    },
    /// Makes the key with which the nodes of one cluster sign mappings, or looks at one, and prints its public half.
    Keygen(key_file::Keygen),
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    start_logs(cli.log_format);
    let done = match cli.command {
        Command::Serve { options, threads } => serve(options, threads),
        Command::Keygen(asked) => asked.run().map_err(Error::from).and_then(|public| {
            writeln!(std::io::stdout(), "{public}").map_err(|source| {
                key_file::KeyFileError::Unwritable { path: "standard output".into(), source }.into()
            })
        }),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tell(&error);
            ExitCode::FAILURE
        }
    }
}

fn start_logs(format: LogFormat) {
    let filter =
        EnvFilter::try_from_env("CELL_LOG").unwrap_or_else(|_| EnvFilter::new("info,openraft=warn,sled=warn"));
    // A log in a file, or in a journal, has no use for colours.
    let colours = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let logs = tracing_subscriber::fmt().with_env_filter(filter).with_ansi(colours).with_writer(std::io::stderr);
    match format {
        LogFormat::Text => logs.init(),
        LogFormat::Json => logs.json().init(),
    }
}

fn serve(options: Options, threads: Option<u8>) -> Result<(), Error> {
    let refuse = |source: std::io::Error| Error::Option { option: "runtime", reason: source.to_string() };
    let threads = threads.map_or_else(cell_store::worker_threads, usize::from);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(threads).enable_all().build();
    let runtime = runtime.map_err(refuse)?;
    runtime.block_on(async {
        let shutdown = CancellationToken::new();
        let told = shutdown.clone();
        tokio::spawn(async move {
            wait_for_signal().await;
            told.cancel();
        });
        cell_control::run(options, shutdown).await
    })
}

#[cfg(unix)]
async fn wait_for_signal() {
    use tokio::signal::unix::{SignalKind, signal};
    let (Ok(mut terminate), Ok(mut interrupt)) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
    else {
        tracing::warn!("signals cannot be listened for: the process ends only when it is killed");
        return std::future::pending().await;
    };
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
}

#[cfg(not(unix))]
async fn wait_for_signal() {
    if tokio::signal::ctrl_c().await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// A sentence with its causes, the code, and what to do next.
fn tell(error: &Error) {
    let mut sentence = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(next) = cause {
        let next_sentence = next.to_string();
        if !sentence.contains(&next_sentence) {
            sentence = format!("{sentence}: {next_sentence}");
        }
        cause = next.source();
    }
    let mut out = std::io::stderr().lock();
    // Nobody is left to be told where standard error is closed.
    drop(writeln!(out, "error: {sentence} [{}]\n  next: {}", error.code(), error.hint()));
}
