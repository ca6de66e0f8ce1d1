//! A router of this build with a control plane of its own making: so many tenants, changed so many times a second.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use cell_client::{WatchEvent, WatchItem};
use cell_model::{
    CellId, CellRecord, CellState, CellTraits, ClusterId, Epoch, Generation, Hold, Lineage, Mapping, MappingState,
    Rev, Revision, TenantId, Tier, Uid,
};
use cell_router::{CertificateFiles, Confirmed, ControlPlane, Held, Options, Router, TlsOptions};
use cell_trust::{RoutedMapping, SigningKey};
use clap::Args;
use futures::future::BoxFuture;
use futures::stream::{BoxStream, StreamExt};
use prometheus_client::registry::Registry;
use serde_json::json;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::proxies::START_TIME_MAX;

/// A router with a control plane of its own.
#[derive(Debug, Clone, Args)]
pub(crate) struct Fleet {
    /// Where clients connect
    #[arg(long)]
    listen: SocketAddr,
    /// Where operators do
    #[arg(long, default_value = "127.0.0.1:0")]
    admin: SocketAddr,
    /// The only instance of the only cell
    #[arg(long)]
    origin: String,
    /// Tenants t-0, t-1, …
    #[arg(long)]
    tenants: u32,
    /// Threads that serve
    #[arg(long, default_value_t = 1)]
    threads: usize,
    /// Tenants that change in a second
    #[arg(long, default_value_t = 0)]
    changes_per_second: u32,
    /// Its certificate, for TLS
    #[arg(long, requires = "key")]
    certificate: Option<PathBuf>,
    /// The key of the certificate
    #[arg(long)]
    key: Option<PathBuf>,
    /// Where its table is left when it is told to end
    #[arg(long)]
    snapshot_file: Option<PathBuf>,
}

const LINEAGE: Lineage = Lineage(1);
const KEY: [u8; 32] = [7; 32];
pub(crate) const DOMAIN: &str = "bench.test";

/// A control plane in memory: one watcher, changes on demand.
pub(crate) struct Synthetic {
    tenants: u32,
    cells: Vec<(CellId, String)>,
    state: Mutex<(u64, Option<mpsc::Sender<WatchEvent>>)>,
}

impl Synthetic {
    pub(crate) fn new(tenants: u32, cells: &[(&str, String)]) -> anyhow::Result<Arc<Self>> {
        let cells: Vec<(CellId, String)> = cells
            .iter()
            .map(|(id, gate)| Ok((CellId::new(*id)?, gate.clone())))
            .collect::<Result<_, cell_model::InvalidId>>()?;
        Ok(Arc::new(Self { tenants, cells, state: Mutex::new((1, None)) }))
    }

    fn item(&self, tenant: u32, cell: usize, epoch: u64, revision: u64) -> anyhow::Result<WatchItem> {
        Ok(WatchItem::Mapping(routed(tenant, &self.cells[cell], epoch, revision)?))
    }

    /// It has counted every change.
    pub(crate) fn revision(&self) -> u64 {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).0
    }

    /// A tenant has another epoch, and perhaps another owner.
    pub(crate) async fn change(&self, tenant: u32, cell: usize) -> anyhow::Result<()> {
        let (revision, watcher) = {
            let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            state.0 += 1;
            (state.0, state.1.clone())
        };
        let items = vec![self.item(tenant, cell, revision, revision)?];
        if let Some(watcher) = watcher {
            watcher.send(WatchEvent::Changes { revision: Revision(revision), items }).await?;
        }
        Ok(())
    }

    /// Changes tenants one after the other, so many a second, in steps of a millisecond.
    pub(crate) async fn storm(self: Arc<Self>, per_second: u32) -> anyhow::Result<()> {
        let began = Instant::now();
        for step in 1_u32.. {
            tokio::time::sleep_until(began + Duration::from_millis(1) * step).await;
            let (from, until) = (u64::from(step - 1), u64::from(step));
            for n in from * u64::from(per_second) / 1_000..until * u64::from(per_second) / 1_000 {
                // The last tenants, which no load asks for.
                let tenant = self.tenants - 1 - u32::try_from(n % u64::from(self.tenants / 2).max(1))?;
                self.change(tenant, 0).await?;
            }
        }
        Ok(())
    }
}

fn routed(
    tenant: u32,
    (cell, gate): &(CellId, String),
    epoch: u64,
    revision: u64,
) -> anyhow::Result<RoutedMapping> {
    let mapping = Mapping {
        lineage: LINEAGE,
        tenant: TenantId::new(format!("t-{tenant}"))?,
        uid: Uid(1),
        epoch: Epoch(epoch),
        rev: Rev(revision),
        revision: Revision(revision),
        state: MappingState::Active,
        owner: cell.clone(),
        peer: None,
        hold: Hold::None,
        tier: Tier::Bronze,
    };
    let owner_gates = vec![gate.clone()];
    Ok(RoutedMapping { cluster: ClusterId(1), mapping, owner_gates, owner_agent: "127.0.0.1:1".into() })
}

impl ControlPlane for Synthetic {
    fn cluster(&self) -> BoxFuture<'static, Result<ClusterId, String>> {
        Box::pin(async { Ok(ClusterId(1)) })
    }

    fn watch(&self, _after: Option<(Lineage, Revision)>) -> BoxStream<'static, WatchEvent> {
        let (sender, receiver) = mpsc::channel(1_024);
        let revision = {
            let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            state.1 = Some(sender);
            state.0
        };
        let cells = self.cells.iter().map(|(id, gate)| {
            WatchItem::Cell(CellRecord {
                id: id.clone(),
                state: CellState::Active,
                gates: vec![gate.clone()],
                agent: "127.0.0.1:1".into(),
                region: String::new(),
                residency: String::new(),
                traits: CellTraits::default(),
                generation: Generation(1),
                revision: Revision(1),
            })
        });
        let first = vec![WatchEvent::Reset, WatchEvent::Snapshot(cells.collect())];
        let (tenants, cell) = (self.tenants, self.cells[0].clone());
        let blocks = (0..tenants.div_ceil(1_000)).map(move |block| {
            let items = (block * 1_000..((block + 1) * 1_000).min(tenants)).map(|tenant| {
                WatchItem::Mapping(routed(tenant, &cell, 1, 1).expect("a letter and a number are a name"))
            });
            WatchEvent::Snapshot(items.collect())
        });
        let end = WatchEvent::SnapshotEnd { revision: Revision(revision), lineage: LINEAGE };
        let changes =
            futures::stream::unfold(
                receiver,
                |mut receiver| async move { Some((receiver.recv().await?, receiver)) },
            );
        futures::stream::iter(first)
            .chain(futures::stream::iter(blocks))
            .chain(futures::stream::iter([end]))
            .chain(changes)
            .boxed()
    }

    fn confirm(&self, _nonce: u64, _held: Held) -> BoxFuture<'static, Result<Confirmed, String>> {
        let revision = Revision(self.revision());
        Box::pin(async move { Ok(Confirmed { lineage: LINEAGE, revision, lease: None }) })
    }
}

/// Options of a router before an origin that is no gate.
pub(crate) fn options(listen: SocketAddr, admin: SocketAddr, threads: usize) -> Options {
    let mut options = Options {
        listen,
        admin_listen: admin,
        control: vec!["control.invalid:1".into()],
        trusted_keys: vec![SigningKey::from_bytes(&KEY).public().to_string()],
        domains: vec![DOMAIN.into()],
        threads,
        ..Options::default()
    };
    options.instances.check_interval = Duration::ZERO;
    // A bench that opens connections has to be let.
    options.limits.connections_max = 18_000;
    options.timeouts.idle = Duration::from_secs(600);
    options
}

/// One certificate for all clients.
pub(crate) fn tls(certificate_file: PathBuf, key_file: PathBuf) -> TlsOptions {
    TlsOptions {
        certificates: vec![CertificateFiles { certificate_file, key_file }],
        client_ca_file: None,
        client_certificate_required: false,
        reload_interval: Duration::from_secs(60),
    }
}

/// A router that has its whole table.
pub(crate) async fn start(
    control: Arc<Synthetic>,
    options: Options,
    shutdown: CancellationToken,
) -> anyhow::Result<(cell_router::Handle, tokio::task::JoinHandle<Result<(), cell_router::Error>>)> {
    let tenants = control.tenants;
    let router = Router::bind_with(options, Registry::default(), control)?;
    let handle = router.handle();
    let running = tokio::spawn(router.run(shutdown));
    let last = TenantId::new(format!("t-{}", tenants - 1))?;
    let began = Instant::now();
    while handle.mapping(&last).is_none() {
        anyhow::ensure!(!running.is_finished(), "the router has ended");
        anyhow::ensure!(began.elapsed() < START_TIME_MAX, "the router has not all of its table");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok((handle, running))
}

impl Fleet {
    pub(crate) async fn serve(self) -> anyhow::Result<()> {
        let control = Synthetic::new(self.tenants, &[("cell-a", self.origin.clone())])?;
        let mut options = options(self.listen, self.admin, self.threads);
        if let (Some(certificate_file), Some(key_file)) = (self.certificate, self.key) {
            options.tls = Some(tls(certificate_file, key_file));
        }
        options.snapshot_file = self.snapshot_file;
        options.timeouts.quiesce_min = Duration::ZERO;
        let shutdown = CancellationToken::new();
        let (handle, running) = start(Arc::clone(&control), options, shutdown.clone()).await?;
        println!("{}", json!({ "listen": handle.addresses().listen, "admin": handle.addresses().admin }));
        if self.changes_per_second > 0 {
            tokio::spawn(Arc::clone(&control).storm(self.changes_per_second));
        }
        // Where it is told to end it does so by itself, as the router's own program does.
        let mut told = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
        tokio::spawn(async move {
            told.recv().await;
            shutdown.cancel();
        });
        Ok(running.await??)
    }
}
