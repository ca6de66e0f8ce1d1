//! A fleet of real processes on loopback: control nodes, routers, cells.
//!
//! ```text
//! key, ports, options files ► control nodes ► one cluster ► cells made and started ► routers ► everything is ready
//! ```
//!
//! Each server is `<program> run control|router|cell --options FILE --exit-with-parent`. A router reaches the control
//! plane over links of its own, so that it can be cut off.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use bytes::Bytes;
use cell_client::cluster::InitializeOptions;
use cell_client::{AgentOptions, AgentPool, ClientError, ClientOptions, ControlClient, WriteOptions, cluster};
use cell_control::{Authority, AuthorityError};
use cell_model::{CellId, NewCell};
use cell_trust::{Principal, Role, SigningKey};
use http::Request;
use http_body_util::Full;
use serde_json::{Value, json};

use crate::http_client::Connection;
use crate::link::{Link, LinkError};
use crate::ports::{NoFreePort, Ports};
use crate::process::{ProcessError, Processes, Recipe};

/// How long each part of the fleet has to become ready.
const READY_WITHIN: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(30);

/// What fleet there is to be.
#[derive(Debug, Clone)]
pub struct FleetOptions {
    /// The program that runs a server.
    pub program: PathBuf,
    /// Where data, options and logs go.
    pub directory: PathBuf,
    /// How many control nodes.
    pub controls: usize,
    /// How many routers.
    pub routers: usize,
    /// How many cells.
    pub cells: usize,
    /// Application instances, each behind a gate, of a cell.
    pub gates_per_cell: usize,
    /// `acme` is reached as `acme.<domain>`, too.
    pub domain: String,
    /// A fault to be planted in the cells.
    pub plant: Option<String>,
    /// PostgreSQL databases, one for each cell; none: cells keep their data themselves.
    pub databases: Vec<String>,
}

/// Why there is no fleet.
#[derive(Debug, thiserror::Error)]
pub enum FleetError {
    /// A file could not be written.
    #[error("cannot write {}", path.display())]
    Write {
        /// Which.
        path: PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// No certificates.
    #[error("the fleet's certificates could not be made")]
    Certificates(#[from] AuthorityError),
    /// The fleet's own certificates cannot be used.
    #[error("the fleet's certificates cannot be used")]
    Identity(#[from] cell_client::IdentityError),
    /// No port.
    #[error(transparent)]
    Port(#[from] NoFreePort),
    /// No link.
    #[error(transparent)]
    Link(#[from] LinkError),
    /// No process.
    #[error(transparent)]
    Process(#[from] ProcessError),
    /// The control nodes did not become a cluster.
    #[error("the control nodes did not become a cluster; the end of a log:\n{log}")]
    Cluster {
        /// What a control node said last.
        log: String,
        /// Why not.
        #[source]
        source: cluster::InitializeError,
    },
    /// A cell could not be made.
    #[error("cell {cell} was not made")]
    CreateCell {
        /// Which.
        cell: String,
        /// Why not.
        #[source]
        source: ClientError,
    },
    /// A process did not become ready.
    #[error("{name} was not ready within {waited:?}: {reason}; the end of its log:\n{log}")]
    NotReady {
        /// Which.
        name: String,
        /// How long was waited.
        waited: Duration,
        /// What it answered last.
        reason: String,
        /// What it said last.
        log: String,
    },
}

/// A control node.
#[derive(Debug, Clone)]
pub struct ControlNode {
    /// `control-1`.
    pub name: String,
    /// `host:port`.
    pub address: String,
}

/// A router.
#[derive(Debug)]
pub struct RouterNode {
    /// `router-1`.
    pub name: String,
    /// Where clients connect.
    pub listen: String,
    /// Where it tells of itself.
    pub admin: String,
    /// To each control node.
    pub links: Vec<Link>,
}

impl RouterNode {
    /// Cuts it off from the whole control plane.
    pub fn cut(&self) {
        self.links.iter().for_each(Link::cut);
    }

    /// Ends that.
    pub fn heal(&self) {
        self.links.iter().for_each(Link::heal);
    }

    /// The sum of a counter, or of a gauge of whole numbers, over its labels.
    ///
    /// # Errors
    /// Why its metrics could not be read.
    pub async fn counter(&self, name: &str) -> Result<u64, String> {
        let text = fetch(&self.admin, "/metrics").await?;
        Ok(sum_of(&text, name))
    }
}

/// A cell.
#[derive(Debug, Clone)]
pub struct CellNode {
    /// `cell-1`: the name of the process and of the cell.
    pub id: CellId,
    /// Its agent.
    pub agent: String,
    /// Its gates.
    pub gates: Vec<String>,
}

/// A running fleet.
#[derive(Debug)]
pub struct Fleet {
    options: FleetOptions,
    /// How whoever drives the fleet calls it: with the certificate of an admin.
    admin: cell_client::Link,
    /// Everything that runs.
    pub processes: Processes,
    /// The control plane.
    pub controls: Vec<ControlNode>,
    /// The routers.
    pub routers: Vec<RouterNode>,
    /// The cells.
    pub cells: Vec<CellNode>,
}

impl Fleet {
    /// Starts a fleet and waits until all of it is ready.
    ///
    /// # Errors
    /// [`FleetError`]; what was started is stopped again.
    pub async fn start(options: FleetOptions) -> Result<Self, FleetError> {
        let mut ports = Ports::new();
        let key = SigningKey::generate();
        let key_file = options.directory.join("signing.key");
        let hex: String = key.to_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
        write_private(&key_file, &format!("{hex}\n"))?;

        let certificates = options.directory.join("certificates");
        Authority::open_or_create(&certificates)?;
        let admin = cell_client::Link::open(Some(&issue(&certificates, Role::Admin, "fleet")?), false)?;
        let processes = Processes::new(options.directory.join("logs"));
        let (controls, routers, cells) = (Vec::new(), Vec::new(), Vec::new());
        let mut fleet = Self { options, admin, processes, controls, routers, cells };
        fleet.start_controls(&mut ports, &key_file).await?;
        let trusted = key.public().to_string();
        fleet.start_cells(&mut ports, &trusted).await?;
        fleet.start_routers(&mut ports, &trusted).await?;
        fleet.ready().await?;
        Ok(fleet)
    }

    /// A client of the control plane.
    #[must_use]
    pub fn control(&self, deadline: Duration) -> ControlClient {
        let options = ClientOptions { deadline, link: self.admin.clone(), ..ClientOptions::default() };
        ControlClient::new(self.control_addresses(), options)
    }

    /// Calls agents as an admin, who may look.
    #[must_use]
    pub fn agents(&self, options: AgentOptions) -> AgentPool {
        AgentPool::new(AgentOptions { link: self.admin.clone(), ..options })
    }

    /// `host:port` of each control node.
    #[must_use]
    pub fn control_addresses(&self) -> Vec<String> {
        self.controls.iter().map(|node| node.address.clone()).collect()
    }

    /// The control node that leads now.
    pub async fn leader(&self) -> Option<ControlNode> {
        for node in &self.controls {
            let status = cluster::status(&node.address, Duration::from_secs(1), &self.admin).await;
            if status.is_ok_and(|status| status.is_leader) {
                return Some(node.clone());
            }
        }
        None
    }

    /// Stops everything, gracefully where that goes quickly.
    pub async fn stop(mut self) {
        self.processes.stop_all(Duration::from_secs(5)).await;
    }

    async fn start_controls(&mut self, ports: &mut Ports, key_file: &Path) -> Result<(), FleetError> {
        for number in 1..=self.options.controls {
            let (name, address) = (format!("control-{number}"), ports.address()?);
            let options = json!({
                "data-dir": self.options.directory.join(&name),
                "listen": address,
                "advertise": address,
                "signing-key-file": key_file,
                "identity": self.identity(Role::Control, &name)?,
            });
            self.run("control", &name, &options)?;
            self.controls.push(ControlNode { name, address });
        }
        let options = InitializeOptions { link: self.admin.clone(), ..InitializeOptions::default() };
        cluster::initialize_with(&self.control_addresses(), options)
            .await
            .map_err(|source| FleetError::Cluster { log: log_tail(&self.processes.log_of("control-1")), source })?;
        Ok(())
    }

    async fn start_cells(&mut self, ports: &mut Ports, trusted: &str) -> Result<(), FleetError> {
        let control = self.control(READY_WITHIN);
        for number in 1..=self.options.cells {
            let name = format!("cell-{number}");
            let id = CellId::new(&name).expect("letters, a hyphen and digits are a label");
            let agent = ports.address()?;
            let gates = (0..self.options.gates_per_cell).map(|_| ports.address()).collect::<Result<Vec<_>, _>>()?;
            let cell = NewCell {
                id: id.clone(),
                gates: gates.clone(),
                agent: agent.clone(),
                region: "loopback".into(),
                residency: String::new(),
            };
            control
                .create_cell(cell, WriteOptions::default())
                .await
                .map_err(|source| FleetError::CreateCell { cell: name.clone(), source })?;
            let mut options = json!({
                "cell": name,
                "data-dir": self.options.directory.join(&name),
                "agent-listen": agent,
                "gate-listen": gates,
                "control": self.control_addresses(),
                "identity": self.identity(Role::Agent, &name)?,
                "trusted-keys": [trusted],
            });
            if let Some(database) = self.options.databases.get(number - 1) {
                options["database"] = Value::from(database.as_str());
            }
            if let Some(fault) = &self.options.plant {
                options["plant"] = Value::from(fault.as_str());
            }
            self.run("cell", &name, &options)?;
            self.cells.push(CellNode { id, agent, gates });
        }
        Ok(())
    }

    async fn start_routers(&mut self, ports: &mut Ports, trusted: &str) -> Result<(), FleetError> {
        for number in 1..=self.options.routers {
            let name = format!("router-{number}");
            let mut links = Vec::new();
            for node in &self.controls {
                links.push(Link::open(&node.address).await?);
            }
            let (listen, admin) = (ports.address()?, ports.address()?);
            let control: Vec<String> = links.iter().map(|link| link.address().to_string()).collect();
            let options = json!({
                "name": name,
                "listen": listen,
                "admin-listen": admin,
                "control": control,
                // Else a router that is cut off would reach the leader beside its link.
                "only-given-control": true,
                "identity": self.identity(Role::Router, &name)?,
                "trusted-keys": [trusted],
                "domains": [self.options.domain],
                "snapshot-file": self.options.directory.join(format!("{name}.table")),
            });
            self.run("router", &name, &options)?;
            self.routers.push(RouterNode { name, listen, admin, links });
        }
        Ok(())
    }

    /// The directory with a process's certificate.
    fn identity(&self, role: Role, name: &str) -> Result<PathBuf, FleetError> {
        issue(&self.options.directory.join("certificates"), role, name)
    }

    fn run(&mut self, server: &str, name: &str, options: &Value) -> Result<(), FleetError> {
        let file = self.options.directory.join(format!("{name}.json"));
        write_private(&file, &format!("{options:#}\n"))?;
        let arguments = ["run", server, "--exit-with-parent", "--options"].map(str::to_owned).into_iter();
        let arguments = arguments.chain([file.to_string_lossy().into_owned()]).collect();
        let program = self.options.program.clone();
        Ok(self.processes.start(Recipe { name: name.to_owned(), program, arguments })?)
    }

    async fn ready(&mut self) -> Result<(), FleetError> {
        let agents = self.agents(AgentOptions::default());
        let control = self.control(Duration::from_secs(2));
        for cell in &self.cells {
            let describe = || async {
                agents.describe(&cell.agent, None).await.map(|_| ()).map_err(|error| error.to_string())
            };
            wait_ready(&mut self.processes, cell.id.as_str(), describe).await?;
            for gate in &cell.gates {
                wait_ready(&mut self.processes, cell.id.as_str(), || readiness(gate)).await?;
            }
            // An agent names to the control plane the gates that have come to it so far: routers know no others.
            let all_known = || async {
                let known = control.get_cell(&cell.id).await.map_err(|error| error.to_string())?.gates.len();
                let wanted = cell.gates.len();
                if known == wanted { Ok(()) } else { Err(format!("{known} of its {wanted} gates are known")) }
            };
            wait_ready(&mut self.processes, cell.id.as_str(), all_known).await?;
        }
        for router in &self.routers {
            wait_ready(&mut self.processes, &router.name, || readiness(&router.admin)).await?;
        }
        Ok(())
    }
}

/// A certificate for one process, in a directory of its own.
fn issue(authority: &Path, role: Role, name: &str) -> Result<PathBuf, FleetError> {
    const VALID: Duration = Duration::from_secs(30 * 24 * 3_600);
    let out = authority.join(name);
    let principal = Principal::new(role, name).expect("processes are named by letters, hyphens and digits");
    Authority::open(authority)?.issue_once(&principal, VALID, &out)?;
    Ok(out)
}

async fn readiness(address: &str) -> Result<(), String> {
    fetch(address, "/readyz").await.map(|_| ())
}

async fn wait_ready<F>(
    processes: &mut Processes,
    name: &str,
    mut probe: impl FnMut() -> F,
) -> Result<(), FleetError>
where
    F: Future<Output = Result<(), String>>,
{
    let began = Instant::now();
    loop {
        let Err(mut reason) = probe().await else { return Ok(()) };
        let fallen = processes.ended(name);
        if let Some(status) = fallen {
            reason = format!("it has ended ({status})");
        }
        if fallen.is_some() || began.elapsed() > READY_WITHIN {
            let log = log_tail(&processes.log_of(name));
            return Err(FleetError::NotReady { name: name.to_owned(), waited: began.elapsed(), reason, log });
        }
        tokio::time::sleep(POLL).await;
    }
}

/// What a server answers to a GET; everything but 2xx is an error.
///
/// # Errors
/// Why there is no such answer.
pub async fn fetch(address: &str, path: &str) -> Result<String, String> {
    let (status, text) = ask(address, path).await?;
    if (200..300).contains(&status) { Ok(text) } else { Err(format!("{status}: {text}")) }
}

/// What a server answers to a GET, whatever it is: status and text.
///
/// # Errors
/// Why there is no answer.
pub async fn ask(address: &str, path: &str) -> Result<(u16, String), String> {
    let mut connection = Connection::new(address.to_owned(), Duration::from_secs(2));
    let request = Request::get(path).header(http::header::HOST, address).body(Full::<Bytes>::default());
    let answer =
        connection.call(request.map_err(|error| error.to_string())?).await.map_err(|error| error.to_string())?;
    Ok((answer.status().as_u16(), String::from_utf8_lossy(answer.body()).into_owned()))
}

/// The sum of a counter over its labels, in the text format of Prometheus.
fn sum_of(metrics: &str, name: &str) -> u64 {
    let value_of = |line: &str| {
        let (series, value) = line.rsplit_once(' ')?;
        let known = series.split('{').next()?;
        let counted = known == name || known.strip_suffix("_total") == Some(name);
        // A gauge is printed as a float even where it is whole.
        let whole = value.strip_suffix(".0").unwrap_or(value);
        if counted { whole.parse::<u64>().ok() } else { None }
    };
    metrics.lines().filter_map(value_of).sum()
}

fn log_tail(path: &Path) -> String {
    let text = std::fs::read_to_string(path).unwrap_or_else(|error| error.to_string());
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(12)..].join("\n")
}

fn write_private(path: &Path, text: &str) -> Result<(), FleetError> {
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;
    let failed = |source| FleetError::Write { path: path.to_owned(), source };
    if let Some(directory) = path.parent() {
        std::fs::create_dir_all(directory).map_err(failed)?;
    }
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)
        .map_err(failed)?;
    file.write_all(text.as_bytes()).map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_counter_is_summed_over_its_labels_and_no_other_is_taken_for_it() {
        let metrics = "# HELP cell_router_stale_redirects Answers.\n\
                       cell_router_stale_redirects_total{worker=\"0\"} 3\n\
                       cell_router_stale_redirects_total{worker=\"1\"} 4\n\
                       cell_router_stale_redirects_other_total 9\n\
                       cell_router_table_revision 12.0\n";
        assert_eq!(sum_of(metrics, "cell_router_stale_redirects"), 7);
        assert_eq!(sum_of(metrics, "cell_router"), 0);
        assert_eq!(sum_of(metrics, "cell_router_table_revision"), 12);
    }

    #[tokio::test]
    async fn a_program_that_is_no_server_is_named_with_the_end_of_its_log() {
        let directory = tempfile::tempdir().unwrap();
        let mut processes = Processes::new(directory.path().join("logs"));
        let arguments = vec!["-c".to_owned(), "echo no such thing; exit 1".to_owned()];
        processes.start(Recipe { name: "broken".into(), program: "/bin/sh".into(), arguments }).unwrap();
        let waited = wait_ready(&mut processes, "broken", || async { Err("refused".to_owned()) }).await;
        let told = waited.unwrap_err().to_string();
        assert!(
            told.contains("broken") && told.contains("exit status: 1") && told.contains("no such thing"),
            "{told}"
        );
    }
}
