//! A fleet of real processes on loopback: control nodes, routers, cells.
//!
//! ```text
//! key, ports, options files ► control nodes ► one cluster ► cells made and started ► routers ► everything is ready
//! ```
//!
//! Each server is `<program> run control|router|cell --options FILE --exit-with-parent`. A router reaches the control
//! plane over links of its own, so that it can be cut off; where the fleet is wired ([`crate::wiring`]), everybody can.

mod error;
mod nodes;
mod ready;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use cell_client::cluster::InitializeOptions;
use cell_client::{AgentOptions, AgentPool, ClientOptions, ControlClient, WriteOptions, cluster};
use cell_control::Authority;
use cell_model::{CellId, CellTraits, NewCell};
use cell_trust::{Principal, Role, SigningKey};
use serde_json::{Value, json};

use crate::link::Link;
use crate::ports::Ports;
use crate::process::{Processes, Recipe};
use crate::wiring::{Net, Wiring};
use ready::{READY_WITHIN, log_tail, readiness, wait_ready};

pub use error::FleetError;
pub use nodes::{CellNode, ControlNode, Observer, RouterNode};
pub use ready::{ask, fetch};

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
    /// What a tenant's own schema is called in every one of them but the first, where tenants share tables.
    pub tenant_schema: Option<String>,
    /// What a tenant's own database is called in every cell but the first, behind `c2_`, `c3_`, …: names are the whole server's.
    pub tenant_database: Option<String>,
    /// Whether cells keep a shop for each tenant; only in databases.
    pub shop: bool,
    /// Where cells find a key for each tenant; none: they ask for none.
    pub keys: Option<PathBuf>,
    /// How the processes are wired together.
    pub net: Net,
    /// What this run is called, where it leaves a mark on the machine.
    pub run: String,
    /// Region and residency of each cell; a cell beyond the list is in region `loopback`.
    pub regions: Vec<(String, String)>,
    /// Data directories that are elsewhere than in `directory`, by process.
    pub disks: BTreeMap<String, PathBuf>,
    /// What comes before the program of a process, by process: a command that becomes the program.
    pub behind: BTreeMap<String, Vec<String>>,
}

/// A running fleet.
#[derive(Debug)]
pub struct Fleet {
    options: FleetOptions,
    /// How whoever drives the fleet calls it: with the certificate of an admin.
    admin: cell_client::Link,
    /// Everything that runs.
    pub processes: Processes,
    /// What is between them.
    pub wiring: Wiring,
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
        let wiring = Wiring::open(options.net, &options.run, processes.roster().clone()).await?;
        let (controls, routers, cells) = (Vec::new(), Vec::new(), Vec::new());
        let mut fleet = Self { options, admin, processes, wiring, controls, routers, cells };
        match fleet.start_all(&mut ports, &key, &key_file).await {
            Ok(()) => Ok(fleet),
            Err(error) => {
                fleet.stop().await;
                Err(error)
            }
        }
    }

    async fn start_all(&mut self, ports: &mut Ports, key: &SigningKey, key_file: &Path) -> Result<(), FleetError> {
        self.start_controls(ports, key_file).await?;
        let trusted = key.public().to_string();
        self.start_cells(ports, &trusted).await?;
        self.start_routers(ports, &trusted).await?;
        self.ready().await
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

    /// The name of every process.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        let controls = self.controls.iter().map(|node| node.name.clone());
        let routers = self.routers.iter().map(|router| router.name.clone());
        controls.chain(routers).chain(self.cells.iter().map(|cell| cell.id.to_string())).collect()
    }

    /// Asks what runs how it is, beside whoever breaks the fleet meanwhile.
    #[must_use]
    pub fn observer(&self) -> Observer {
        let routers = self.routers.iter().map(|router| router.admin.clone()).collect();
        Observer { controls: self.controls.clone(), routers, link: self.admin.clone() }
    }

    /// Stops everything, gracefully where that goes quickly, and takes its wires down.
    pub async fn stop(&mut self) {
        self.processes.stop_all(Duration::from_secs(5)).await;
        self.wiring.dismantle().await;
    }

    async fn start_controls(&mut self, ports: &mut Ports, key_file: &Path) -> Result<(), FleetError> {
        for number in 1..=self.options.controls {
            let name = format!("control-{number}");
            self.wiring.join(&name).await?;
            let listen = self.wiring.address(&name, ports)?;
            let address = self.wiring.front(&name, &listen).await?;
            let options = json!({
                "data-dir": self.data_of(&name),
                "listen": listen,
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
            self.wiring.join(&name).await?;
            let agent_listen = self.wiring.address(&name, ports)?;
            let agent = self.wiring.front(&name, &agent_listen).await?;
            let (mut gate_listen, mut gates) = (Vec::new(), Vec::new());
            for _ in 0..self.options.gates_per_cell {
                let listen = self.wiring.address(&name, ports)?;
                gates.push(self.wiring.front(&name, &listen).await?);
                gate_listen.push(listen);
            }
            let region = self.options.regions.get(number - 1).cloned();
            let (region, residency) = region.unwrap_or_else(|| ("loopback".into(), String::new()));
            let cell = NewCell {
                id: id.clone(),
                gates: gates.clone(),
                agent: agent.clone(),
                region,
                residency,
                traits: CellTraits::default(),
            };
            control
                .create_cell(cell, WriteOptions::default())
                .await
                .map_err(|source| FleetError::CreateCell { cell: name.clone(), source })?;
            let mut options = json!({
                "cell": name,
                "data-dir": self.data_of(&name),
                "agent-listen": agent_listen,
                "agent-address": agent,
                "gate-listen": gate_listen,
                "gate-address": gates,
                "control": self.control_addresses(),
                "identity": self.identity(Role::Agent, &name)?,
                "trusted-keys": [trusted],
            });
            if let Some(database) = self.options.databases.get(number - 1) {
                options["database"] = Value::from(database.as_str());
                options["shop"] = Value::from(self.options.shop);
                if let Some(schema) = self.options.tenant_schema.as_ref().filter(|_| number > 1) {
                    options["tenant-schema"] = Value::from(schema.as_str());
                }
                if let Some(own) = self.options.tenant_database.as_ref().filter(|_| number > 1) {
                    options["tenant-database"] = Value::from(format!("c{number}_{own}"));
                }
            }
            if let Some(keys) = &self.options.keys {
                options["keys"] = Value::from(keys.to_string_lossy());
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
            self.wiring.join(&name).await?;
            let mut links = Vec::new();
            if self.wiring.net() == Net::Loopback {
                for node in &self.controls {
                    links.push(Link::open(&node.address).await?);
                }
            }
            let (listen, admin) = (self.wiring.address(&name, ports)?, self.wiring.address(&name, ports)?);
            let control = match self.wiring.net() {
                Net::Loopback => links.iter().map(|link| link.address().to_string()).collect(),
                Net::Proxy | Net::Namespaces => self.control_addresses(),
            };
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

    fn data_of(&self, name: &str) -> PathBuf {
        self.options.disks.get(name).cloned().unwrap_or_else(|| self.options.directory.join(name))
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
        let recipe = Recipe { name: name.to_owned(), program: self.options.program.clone(), arguments };
        let recipe = recipe.behind(self.options.behind.get(name).map_or(&[], Vec::as_slice));
        Ok(self.processes.start(self.wiring.recipe(recipe))?)
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
