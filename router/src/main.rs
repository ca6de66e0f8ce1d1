//! `cell-router`: the edge router as a process.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use cell_router::{Error, Handle, Options, Router};
use clap::Parser;
use prometheus_client::registry::Registry;
use tokio_util::sync::CancellationToken;

/// An edge makes and drops small pieces all day on several threads: docs/router-figures.md says what this one saves.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Carries requests to the cells that own their tenants.
///
/// Options come from the file, and then from the command line, which wins.
#[derive(Clone, Parser)]
#[command(name = "cell-router", version)]
struct Cli {
    /// File with options (TOML)
    #[arg(long, value_name = "FILE", env = "CELL_ROUTER_CONFIG")]
    config: Option<PathBuf>,
    /// Check the options, say what is wrong with them, and exit
    #[arg(long)]
    check: bool,
    /// Name in the control plane's list of watchers
    #[arg(long)]
    name: Option<String>,
    /// Where clients connect; port 0 takes a free one
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<SocketAddr>,
    /// Where /livez, /readyz, /metrics and /debug are served
    #[arg(long, value_name = "ADDRESS")]
    admin_listen: Option<SocketAddr>,
    /// A node of the control plane; once for each
    #[arg(long, value_name = "HOST:PORT")]
    control: Vec<String>,
    /// Directory with ca.crt, tls.crt and tls.key of role router, shown to the control plane
    #[arg(long, value_name = "DIR", env = "CELL_IDENTITY")]
    identity: Option<PathBuf>,
    /// Call the control plane without certificates
    #[arg(long)]
    insecure_plaintext: bool,
    /// A public key of the control plane, as `cell-control keygen` prints it; once for each
    #[arg(long, value_name = "HEX")]
    trusted_key: Vec<String>,
    /// A base domain: the tenant is what stands before it in the host; once for each
    #[arg(long, value_name = "DOMAIN")]
    domain: Vec<String>,
    /// Where the table is kept, to start from with the control plane dead
    #[arg(long, value_name = "FILE")]
    snapshot_file: Option<PathBuf>,
    /// Where the next process asks for the listening sockets, so that a restart drops nothing
    #[arg(long, value_name = "PATH")]
    handover_socket: Option<PathBuf>,
    /// Threads that serve requests; 0: one for each core
    #[arg(long)]
    threads: Option<usize>,
    /// What is logged, such as `info` or `cell_router=debug`
    #[arg(long, value_name = "FILTER", env = "CELL_ROUTER_LOG", default_value = "info")]
    log: String,
    /// Log as JSON, one object a line
    #[arg(long)]
    log_json: bool,
}

impl Cli {
    fn options(&self) -> Result<Options, Error> {
        let mut options = match &self.config {
            Some(path) => Options::from_file(path)?,
            None => Options::default(),
        };
        let lists = [
            ("control", &self.control, &mut options.control),
            ("trusted-keys", &self.trusted_key, &mut options.trusted_keys),
            ("domains", &self.domain, &mut options.domains),
        ];
        let mut given = Vec::new();
        for (name, list, option) in lists {
            if !list.is_empty() {
                option.clone_from(list);
                given.push(name);
            }
        }
        if let Some(name) = &self.name {
            options.name.clone_from(name);
            given.push("name");
        }
        given.into_iter().for_each(|name| options.is_given(name));
        options.identity = self.identity.clone().or(options.identity);
        options.insecure_plaintext |= self.insecure_plaintext;
        options.listen = self.listen.unwrap_or(options.listen);
        options.admin_listen = self.admin_listen.unwrap_or(options.admin_listen);
        options.snapshot_file = self.snapshot_file.clone().or(options.snapshot_file);
        options.handover_socket = self.handover_socket.clone().or(options.handover_socket);
        options.threads = self.threads.unwrap_or(options.threads);
        Ok(options)
    }
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    if let Err(reason) = start_log(&cli) {
        return fail(
            "OPTIONS_INVALID",
            &format!("option --log: {reason}"),
            "a level, or target=level, with commas",
        );
    }
    match cli.options().and_then(|options| serve(options, &cli)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(error.code(), &error.to_string(), error.hint()),
    }
}

fn start_log(cli: &Cli) -> Result<(), String> {
    let filter = tracing_subscriber::EnvFilter::try_new(&cli.log).map_err(|error| error.to_string())?;
    let colours = std::io::IsTerminal::is_terminal(&std::io::stderr());
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(colours);
    if cli.log_json {
        log.json().init()
    } else {
        log.init()
    };
    Ok(())
}

fn serve(options: Options, cli: &Cli) -> Result<(), Error> {
    if cli.check {
        options.check_all()?;
        say("the options are in order");
        return Ok(());
    }
    options.check()?;
    let again = cli.clone();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .map_err(|source| Error::StartWorker { source })?;
    runtime.block_on(async {
        let shutdown = CancellationToken::new();
        tokio::spawn(stop_on_signal(shutdown.clone()));
        // From here on SIGHUP does not end the process any more, not even while the table is loaded.
        let hangup = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::hangup());
        let router = Router::bind(options, Registry::default())?;
        tokio::spawn(reload_on_signal(hangup, router.handle(), again));
        router.run(shutdown).await
    })
}

/// SIGHUP reads the options again.
async fn reload_on_signal(hangup: std::io::Result<tokio::signal::unix::Signal>, router: Handle, cli: Cli) {
    let Ok(mut hangup) = hangup else {
        return tracing::error!("cannot listen for SIGHUP: options are taken at the next start alone");
    };
    while hangup.recv().await.is_some() {
        // What is wrong has been logged, and leaves the options as they are.
        let _differences = router.reload(cli.options());
    }
}

/// SIGTERM and SIGINT stop the router; the second one stops it at once.
async fn stop_on_signal(shutdown: CancellationToken) {
    use tokio::signal::unix::{SignalKind, signal};
    let (Ok(mut term), Ok(mut int)) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt())) else {
        tracing::error!("cannot listen for signals: only SIGKILL stops this process");
        return;
    };
    for cancel in [true, false] {
        tokio::select! {
            _ = term.recv() => {}
            _ = int.recv() => {}
        }
        if cancel {
            shutdown.cancel();
        } else {
            std::process::exit(130);
        }
    }
}

#[expect(clippy::print_stdout, reason = "this is the command's answer")]
fn say(text: &str) {
    println!("{text}");
}

#[expect(clippy::print_stderr, reason = "the one place where the process says why it ends")]
fn fail(code: &str, text: &str, hint: &str) -> ExitCode {
    eprintln!("error[{code}]: {text}\n  hint: {hint}");
    ExitCode::FAILURE
}
