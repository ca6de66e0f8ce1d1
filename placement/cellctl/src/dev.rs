//! `dev`: a whole fleet in this process, to try things out.
//!
//! Three control nodes, one router, some cells with the sample application and two tenants. Nothing is faked: the same
//! libraries talk over loopback as they would between machines. With `--retain` the fleet finds its data and its ports
//! again.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use cell_chaos::fleet::fetch;
use cell_chaos::ports::Ports;
use cell_client::{ClientError, ClientOptions, ControlClient, Link, WriteOptions, cluster};
use cell_control::{Authority, key_file};
use cell_model::{CellId, CellTraits, NewCell, NewTenant, TenantId, Tier};
use cell_trust::{Principal, Role};
use serde::{Deserialize, Serialize};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::cli::Dev;
use crate::console;
use crate::endpoints::DEV_CONTROL_PORTS;
use crate::failure::{Exit, Failure};
use crate::host::{end_on_signal, log_to_stderr};

const DOMAIN: &str = "localhost";
const READY_WITHIN: Duration = Duration::from_secs(20);
const TENANTS: [&str; 2] = ["acme", "globex"];

/// Who listens where. Kept beside the data, because the data names these addresses.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Layout {
    control: Vec<SocketAddr>,
    router: SocketAddr,
    router_admin: SocketAddr,
    cells: Vec<CellLayout>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct CellLayout {
    id: CellId,
    agent: String,
    gates: Vec<String>,
}

pub(crate) async fn run(said: Dev) -> Result<Exit, Failure> {
    if std::env::var_os("CELLCTL_LOG").is_some() {
        log_to_stderr();
    }
    let shutdown = CancellationToken::new();
    end_on_signal(shutdown.clone()).map_err(|error| Failure::local("SIGNALS", &error.into(), ""))?;
    host(&said, shutdown).await.map_err(|error| not_hosted(&error))?;
    Ok(Exit::Done)
}

fn not_hosted(error: &anyhow::Error) -> Failure {
    let in_use = |cause: &std::io::Error| cause.kind() == std::io::ErrorKind::AddrInUse;
    if error.chain().filter_map(|cause| cause.downcast_ref()).any(in_use) {
        let hint = "is another fleet running? Stop it, or choose another port with --listen";
        return Failure::new("PORT_IN_USE", error.to_string(), hint);
    }
    Failure::local("DEV", error, "`CELLCTL_LOG=info cellctl dev` says more")
}

async fn host(said: &Dev, shutdown: CancellationToken) -> Result<()> {
    let temporary = tempfile::Builder::new().prefix("cellway-dev-").tempdir().context("no temporary directory")?;
    let directory = said.retain.clone().unwrap_or_else(|| temporary.path().to_owned());
    std::fs::create_dir_all(&directory).with_context(|| format!("cannot make {}", directory.display()))?;
    let layout = layout(said, &directory)?;
    let mut servers = JoinSet::new();
    let started = tokio::select! {
        // Who is told to end has not failed because of it.
        biased;
        () = shutdown.cancelled() => Ok(()),
        started = start(&layout, &directory, &shutdown, &mut servers) => started,
    };
    if started.is_ok() && !shutdown.is_cancelled() {
        welcome(&layout, said, &directory);
    }
    let served = match started {
        Ok(()) => until_end(&mut servers, &shutdown).await,
        Err(error) => Err(first_failure(&mut servers).await.unwrap_or(error)),
    };
    shutdown.cancel();
    while servers.join_next().await.is_some() {}
    served
}

/// The ports of an earlier run in the same directory, or new ones.
fn layout(said: &Dev, directory: &Path) -> Result<Layout> {
    let file = directory.join("layout.json");
    if let Ok(text) = std::fs::read_to_string(&file) {
        return serde_json::from_str(&text)
            .with_context(|| format!("{} is not the layout of a fleet", file.display()));
    }
    let mut ports = Ports::new();
    let mut any = || ports.address().map_err(anyhow::Error::from);
    let usual = || DEV_CONTROL_PORTS.map(|port| SocketAddr::from(([127, 0, 0, 1], port))).to_vec();
    // Who leaves the port to the machine runs several fleets.
    let anywhere = said.listen.port() == 0;
    let free = !anywhere && usual().iter().all(|address| std::net::TcpListener::bind(address).is_ok());
    let control = if free { usual() } else { (0..3).map(|_| Ok(any()?.parse()?)).collect::<Result<_>>()? };
    let cells = (1..=said.cells).map(|number| {
        let id = CellId::new(format!("cell-{number}"))?;
        Ok(CellLayout { id, agent: any()?, gates: vec![any()?, any()?] })
    });
    let cells = cells.collect::<Result<_>>()?;
    let mut router = said.listen;
    if anywhere {
        router.set_port(any()?.parse::<SocketAddr>()?.port());
    }
    let layout = Layout { control, router, router_admin: any()?.parse()?, cells };
    std::fs::write(&file, serde_json::to_string_pretty(&layout)?)
        .with_context(|| format!("cannot write {}", file.display()))?;
    Ok(layout)
}

type Servers = JoinSet<Result<()>>;

async fn start(
    layout: &Layout,
    directory: &Path,
    shutdown: &CancellationToken,
    servers: &mut Servers,
) -> Result<()> {
    let (key, router_key) = (directory.join("signing.key"), directory.join("router-1.key"));
    let public_of = |key: &Path| {
        if key.exists() { key_file::read(key).map(|key| key.public()) } else { key_file::generate(key) }
    };
    let (public, router_public) = (public_of(&key)?, public_of(&router_key)?);
    let trusted = vec![public.to_string()];
    let control: Vec<String> = layout.control.iter().map(ToString::to_string).collect();
    let certificates = Certificates::of_fleet(directory)?;
    let link = Link::open(Some(&certificates.of(Role::Admin, OPERATOR)?), false)?;
    write_config(directory, &control, &layout.router_admin.to_string(), &certificates.of(Role::Admin, OPERATOR)?)?;
    for (number, address) in (1..).zip(&layout.control) {
        let options = cell_control::Options {
            data_dir: directory.join(format!("control-{number}")),
            listen: *address,
            advertise: Some(address.to_string()),
            signing_key_file: key.clone(),
            identity: Some(certificates.of(Role::Control, &format!("control-{number}"))?),
            insecure_plaintext: false,
            trusted_keys: Vec::new(),
            cluster: None,
            log_engine: Default::default(),
            read_by_majority: false,
        };
        let service = cell_control::Service::start(options).await?;
        let shutdown = shutdown.clone();
        servers.spawn(async move { Ok(service.run(shutdown).await?) });
    }
    let options = cluster::InitializeOptions { link: link.clone(), ..cluster::InitializeOptions::default() };
    let made = cluster::initialize_with(&control, options).await;
    made.context("the control nodes did not become a cluster")?;
    let options = ClientOptions { deadline: READY_WITHIN, link, ..ClientOptions::default() };
    let client = ControlClient::new(control.clone(), options);
    for cell in &layout.cells {
        make_cell(&client, cell).await?;
        let mut options = sample_cell::Options::new(cell.id.clone(), directory.join(cell.id.as_str()));
        options.agent_listen.clone_from(&cell.agent);
        options.gate_listen.clone_from(&cell.gates);
        options.control.clone_from(&control);
        options.identity = Some(certificates.of(Role::Agent, cell.id.as_str())?);
        options.trusted_keys.clone_from(&trusted);
        options.context_keys.push(router_public.to_string());
        let shutdown = shutdown.clone();
        servers.spawn(async move { Ok(sample_cell::run(options, shutdown, |_| {}).await?) });
    }
    let router = cell_router::Options {
        name: "router-1".into(),
        listen: layout.router,
        admin_listen: layout.router_admin,
        control,
        identity: Some(certificates.of(Role::Router, "router-1")?),
        trusted_keys: trusted,
        domains: vec![DOMAIN.into()],
        snapshot_file: Some(directory.join("router-1.table")),
        context: Some(cell_router::ContextOptions { key_file: router_key, validity: Duration::from_secs(30) }),
        ..cell_router::Options::default()
    };
    let ends = shutdown.clone();
    servers.spawn(async move { Ok(cell_router::run(router, ends).await?) });
    for tenant in TENANTS {
        make_tenant(&client, tenant).await?;
    }
    serves(layout, servers).await
}

/// Who whoever types commands beside the fleet is.
const OPERATOR: &str = "dev";
/// The configuration for commands beside the fleet.
const CONFIG: &str = "cellctl.toml";

/// The certificates of the fleet, made as they are needed and found again.
struct Certificates {
    directory: PathBuf,
    authority: Authority,
}

impl Certificates {
    fn of_fleet(directory: &Path) -> Result<Self> {
        let directory = directory.join("certificates");
        let authority = Authority::open_or_create(&directory)?;
        Ok(Self { directory, authority })
    }

    /// The directory with the certificate of one process or person.
    fn of(&self, role: Role, name: &str) -> Result<PathBuf> {
        const VALID: Duration = Duration::from_secs(365 * 24 * 3_600);
        let out = self.directory.join(name);
        self.authority.issue_once(&Principal::new(role, name)?, VALID, &out)?;
        Ok(out)
    }
}

fn write_config(directory: &Path, endpoints: &[String], router: &str, identity: &Path) -> Result<()> {
    let identity = std::path::absolute(identity)?;
    let mut context = toml::Table::new();
    context.insert("endpoints".into(), endpoints.to_vec().into());
    context.insert("routers".into(), vec![router].into());
    context.insert("identity".into(), identity.display().to_string().into());
    let mut contexts = toml::Table::new();
    contexts.insert("dev".into(), context.into());
    let mut config = toml::Table::new();
    config.insert("current-context".into(), "dev".into());
    config.insert("contexts".into(), contexts.into());
    let file = directory.join(CONFIG);
    std::fs::write(&file, toml::to_string(&config)?).with_context(|| format!("cannot write {}", file.display()))
}

async fn make_cell(client: &ControlClient, cell: &CellLayout) -> Result<()> {
    let new = NewCell {
        id: cell.id.clone(),
        gates: cell.gates.clone(),
        agent: cell.agent.clone(),
        region: "here".into(),
        residency: String::new(),
        traits: CellTraits::default(),
    };
    match client.create_cell(new, WriteOptions::default()).await {
        Ok(_) => Ok(()),
        Err(ClientError::Rejected { code, .. }) if code == "CELL_EXISTS" => Ok(()),
        Err(error) => Err(error).with_context(|| format!("cell {} was not made", cell.id)),
    }
}

async fn make_tenant(client: &ControlClient, name: &str) -> Result<()> {
    let new = NewTenant { id: TenantId::new(name)?, cell: None, tier: Tier::Bronze, residency: String::new() };
    match client.create_tenant(new, WriteOptions::default()).await {
        Ok(_) => Ok(()),
        Err(ClientError::Rejected { code, .. }) if code == "TENANT_EXISTS" => Ok(()),
        Err(error) => Err(error).with_context(|| format!("tenant {name} was not made")),
    }
}

/// Waits until the router is ready, or a server has failed.
async fn serves(layout: &Layout, servers: &mut Servers) -> Result<()> {
    let began = Instant::now();
    let admin = layout.router_admin.to_string();
    loop {
        match fetch(&admin, "/readyz").await {
            Ok(_) => return Ok(()),
            Err(error) if began.elapsed() > READY_WITHIN => bail!("the router is not ready: {error}"),
            Err(_) => {
                if let Some(ended) = servers.try_join_next() {
                    ended??;
                    bail!("a server has ended before the router was ready");
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

async fn until_end(servers: &mut Servers, shutdown: &CancellationToken) -> Result<()> {
    tokio::select! {
        () = shutdown.cancelled() => Ok(()),
        Some(ended) = servers.join_next() => ended?.context("a server has failed"),
    }
}

/// Why a server could not start, if one has said so: it is closer to the cause than who waited for it.
async fn first_failure(servers: &mut Servers) -> Option<anyhow::Error> {
    let soon = tokio::time::timeout(Duration::from_millis(200), servers.join_next()).await;
    soon.ok().flatten()?.ok()?.err()
}

fn welcome(layout: &Layout, said: &Dev, directory: &Path) {
    let control: Vec<String> = layout.control.iter().map(ToString::to_string).collect();
    let (router, domain, tenant) = (layout.router, DOMAIN, TENANTS[0]);
    let config = directory.join(CONFIG);
    let config = std::path::absolute(&config).unwrap_or(config);
    let mut lines = vec![
        format!(
            "a fleet runs: 3 control nodes, 1 router, {} cells, tenants {}",
            layout.cells.len(),
            TENANTS.join(", ")
        ),
        format!(
            "  router   http://{tenant}.{domain}:{}   (metrics http://{}/metrics)",
            router.port(),
            layout.router_admin
        ),
        format!("  control  {}", control.join(",")),
    ];
    lines.push("in another terminal, as its admin:".into());
    lines.push(format!("  export CELLCTL_CONFIG={}", config.display()));
    lines.push("try:".into());
    lines.push(format!("  curl -X PUT http://{router}/docs/hello -H 'X-Tenant-ID: {tenant}' -H 'Content-Type: application/json' -d '{{\"hello\":\"world\"}}'"));
    lines.push("  cellctl get tenants".into());
    lines.push("  cellctl explain request ID   (the x-request-id of an answer: curl -i shows it)".into());
    lines.push(format!("  cellctl move tenant {tenant} --to cell-2 --watch   (or another cell than its own)"));
    if said.retain.is_none() {
        lines.push("Ctrl-C ends it and its data; --retain DIR keeps them".into());
    }
    lines.iter().for_each(|line| console::note(line));
}
