//! Control plane, two cells on two servers, and a router, all in this process and in plain text.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use cell_client::cluster::{InitializeOptions, initialize_with};
use cell_client::{ClientOptions, ControlClient, WriteOptions, wire};
use cell_control::{Service, key_file};
use cell_model::{CellId, CellTraits, MoveId, MoveIntent, MoveOptions, NewCell, NewTenant, TenantId, Tier};
use cell_pg_server::{Options as ServerOptions, Server};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::clients::DOMAIN;
use crate::load::session;

const READY_WITHIN: Duration = Duration::from_secs(30);
/// A move that has not come there by then has failed.
const MOVE_WITHIN: Duration = Duration::from_secs(120);
const POLL: Duration = Duration::from_millis(10);
/// How the names of documents begin that no client has made.
pub(crate) const BULK: &str = "bulk-";
/// They sync what they commit.
const SETTINGS: &str = "\
listen_addresses = '127.0.0.1'
wal_level = logical
max_connections = 200
max_replication_slots = 16
max_wal_senders = 16
max_slot_wal_keep_size = '8GB'
max_wal_size = '4GB'
shared_buffers = 512MB
checkpoint_timeout = 30min
logging_collector = off
lc_messages = 'C'
";

/// See the module.
pub(crate) struct Fleet {
    pub(crate) control: ControlClient,
    pub(crate) router: SocketAddr,
    pub(crate) servers: [Server; 2],
    pub(crate) cells: [CellId; 2],
    stop: CancellationToken,
    tasks: JoinSet<Result<()>>,
    _directory: tempfile::TempDir,
}

fn any_port() -> Result<SocketAddr> {
    Ok(std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?)
}

impl Fleet {
    pub(crate) async fn start() -> Result<Self> {
        let directory = tempfile::Builder::new().prefix("cellway-bench-").tempdir()?;
        // Whoever runs the servers must be able to reach their directories.
        let place = std::env::temp_dir().join(format!("cellway-bench-pg-{}", std::process::id()));
        let server = |name: &str| {
            let (directory, settings) = (place.join(name), SETTINGS.to_owned());
            Server::start(&ServerOptions { directory, settings, access: None, until: std::process::id() })
        };
        let servers = [server("a")?, server("b")?];
        let stop = CancellationToken::new();
        let mut tasks = JoinSet::new();
        let key = directory.path().join("key");
        let public = key_file::generate(&key)?.to_string();
        let options = cell_control::Options {
            data_dir: directory.path().join("control"),
            listen: "127.0.0.1:0".parse()?,
            advertise: None,
            signing_key_file: key,
            identity: None,
            insecure_plaintext: true,
            trusted_keys: Vec::new(),
            cluster: None,
            log_engine: Default::default(),
            read_by_majority: false,
        };
        let service = Service::start(options).await?;
        let address = vec![service.handle().address().to_owned()];
        let ends = stop.clone();
        tasks.spawn(async move { Ok(service.run(ends).await?) });
        initialize_with(&address, InitializeOptions::default()).await?;
        let control = ControlClient::new(
            address.clone(),
            ClientOptions { deadline: READY_WITHIN, ..ClientOptions::default() },
        );
        let cells = [CellId::new("a")?, CellId::new("b")?];
        for (cell, server) in cells.iter().zip(&servers) {
            let (id, agent) = (cell.clone(), any_port()?.to_string());
            let (region, residency) = (String::new(), String::new());
            let new = NewCell {
                id,
                gates: Vec::new(),
                agent: agent.clone(),
                region,
                residency,
                traits: CellTraits::default(),
            };
            control.create_cell(new, WriteOptions::default()).await?;
            let mut options = sample_cell::Options::new(cell.clone(), "");
            options.database = Some(server.url());
            options.agent_listen = agent;
            options.control.clone_from(&address);
            options.insecure_plaintext = true;
            let ends = stop.clone();
            tasks.spawn(async move { Ok(sample_cell::run(options, ends, |_| {}).await?) });
        }
        let (router, admin) = (any_port()?, any_port()?);
        let options = cell_router::Options {
            name: "router".into(),
            listen: router,
            admin_listen: admin,
            control: address,
            insecure_plaintext: true,
            domains: vec![DOMAIN.into()],
            trusted_keys: vec![public],
            ..cell_router::Options::default()
        };
        let ends = stop.clone();
        tasks.spawn(async move { Ok(cell_router::run(options, ends).await?) });
        let fleet = Self { control, router, servers, cells, stop, tasks, _directory: directory };
        fleet.both_report().await?;
        Ok(fleet)
    }

    async fn both_report(&self) -> Result<()> {
        let deadline = Instant::now() + READY_WITHIN;
        loop {
            let cells = self.control.list_cells(cell_client::ListOptions::default()).await?.items;
            if cells.len() == 2 && cells.iter().all(|cell| !cell.gates.is_empty()) {
                return Ok(());
            }
            if Instant::now() > deadline {
                bail!("the cells have not reported");
            }
            tokio::time::sleep(POLL).await;
        }
    }

    pub(crate) async fn stop(mut self) -> Result<()> {
        self.stop.cancel();
        while let Some(ended) = self.tasks.join_next().await {
            ended??;
        }
        Ok(())
    }

    /// A new tenant on the first cell.
    pub(crate) async fn tenant(&self, name: &str) -> Result<TenantId> {
        let id = TenantId::new(name)?;
        let cell = Some(self.cells[0].clone());
        let new = NewTenant { id: id.clone(), cell, tier: Tier::Bronze, residency: String::new() };
        self.control.create_tenant(new, WriteOptions::default()).await?;
        let deadline = Instant::now() + READY_WITHIN;
        while self.control.get_tenant(&id).await?.life != "live" {
            if Instant::now() > deadline {
                bail!("tenant {name} was not granted");
            }
            tokio::time::sleep(POLL).await;
        }
        Ok(id)
    }

    /// Gives a tenant of the first cell so many documents, each of so many bytes, past all clients (see [`BULK`]).
    pub(crate) async fn fill(&self, tenant: &TenantId, rows: u32, bytes: u32) -> Result<()> {
        let sql = format!(
            "INSERT INTO documents SELECT '{tenant}', '{BULK}' || lpad(i::text, 9, '0'), 1, \
             substr(repeat(md5(i::text), {}), 1, {bytes}) FROM generate_series(1, {rows}) i",
            bytes.div_ceil(32)
        );
        Ok(session(&self.servers[0].url()).await?.batch_execute(&sql).await?)
    }

    /// How many of them there are, where the tenant is by now.
    pub(crate) async fn in_bulk(&self, tenant: &TenantId) -> Result<u32> {
        let client = session(&self.database_of(tenant).await?).await?;
        let sql = "SELECT count(*) FROM documents WHERE tenant_id = $1 AND starts_with(id, $2)";
        let counted: i64 = client.query_one(sql, &[&tenant.as_str(), &BULK]).await?.get(0);
        Ok(u32::try_from(counted)?)
    }

    /// The old copy is gone: what deletes it would be in the way of what is measured next.
    pub(crate) async fn reclaimed(&self, tenant: &TenantId) -> Result<()> {
        let deadline = Instant::now() + Duration::from_secs(60);
        while !self.control.get_tenant(tenant).await?.retained.is_empty() {
            if Instant::now() > deadline {
                bail!("the old copy of {tenant} is not reclaimed");
            }
            tokio::time::sleep(POLL * 2).await;
        }
        Ok(())
    }

    /// The database of the cell where a tenant is.
    pub(crate) async fn database_of(&self, tenant: &TenantId) -> Result<String> {
        let mapping = self.control.get_tenant(tenant).await?.mapping.context("the tenant has a mapping")?;
        let place = self.cells.iter().position(|cell| cell.as_str() == mapping.owner);
        let server = place.and_then(|place| self.servers.get(place));
        Ok(server.context("the owner is one of two cells")?.url())
    }

    /// The cell where a tenant is not.
    pub(crate) async fn elsewhere(&self, tenant: &TenantId) -> Result<CellId> {
        let mapping = self.control.get_tenant(tenant).await?.mapping.context("the tenant has a mapping")?;
        let other = self.cells.iter().find(|cell| cell.as_str() != mapping.owner);
        Ok(other.context("there are two cells")?.clone())
    }

    /// Asks for a move and waits until it is there.
    pub(crate) async fn moved(
        &self,
        tenant: &TenantId,
        options: MoveOptions,
        is_there: impl Fn(&wire::Move) -> bool,
    ) -> Result<(MoveId, wire::Move)> {
        let target = self.elsewhere(tenant).await?;
        let (id, _) = self.control.move_tenant(tenant, &target, options, WriteOptions::default()).await?;
        Ok((id, self.wait(id, is_there).await?))
    }

    pub(crate) async fn wait(&self, id: MoveId, is_there: impl Fn(&wire::Move) -> bool) -> Result<wire::Move> {
        let deadline = Instant::now() + MOVE_WITHIN;
        loop {
            let movement = self.control.get_move(id).await?;
            if is_there(&movement) {
                return Ok(movement);
            }
            let over = !movement.end.is_empty();
            if over || Instant::now() > deadline {
                let (end, code, reason) = (&movement.end, &movement.end_code, &movement.end_reason);
                bail!("{id} has not come there: {end} {code} {reason}; {}", phases(&movement));
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// Calls a move off and waits until nothing of it is left.
    pub(crate) async fn cancel(&self, id: MoveId) -> Result<()> {
        self.control.steer_move(id, MoveIntent::Cancel, WriteOptions::default()).await?;
        self.wait(id, |movement| !movement.end.is_empty()).await.map(drop)
    }
}

/// When a phase was first entered, in milliseconds.
pub(crate) fn entered(movement: &wire::Move, phase: wire::Phase) -> Result<u64> {
    let stamp = movement.history.iter().find(|stamp| stamp.phase == i32::from(phase));
    stamp.map(|stamp| stamp.at_unix_ms).with_context(|| format!("{} was never in {phase:?}", movement.id))
}

/// How long each phase took, in milliseconds, and in which it is.
pub(crate) fn phases(movement: &wire::Move) -> String {
    let pairs = movement.history.iter().zip(movement.history.iter().skip(1));
    let told = pairs.map(|(stamp, next)| {
        let name = wire::Phase::try_from(stamp.phase).map_or("?", |phase| phase.as_str_name());
        let took = next.at_unix_ms.saturating_sub(stamp.at_unix_ms);
        format!("{} {took}", name.trim_start_matches("PHASE_").to_lowercase())
    });
    let now = wire::Phase::try_from(movement.phase).map_or("?", |phase| phase.as_str_name());
    format!("{}, then {now}", told.collect::<Vec<_>>().join(", "))
}
