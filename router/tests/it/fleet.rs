//! A router under test, with the control plane that it follows.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use cell_model::TenantId;
use cell_router::{Error, Handle, Options, Router};
use prometheus_client::registry::Registry;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::control::FakeControl;

pub(crate) struct Fleet {
    pub(crate) control: Arc<FakeControl>,
    pub(crate) router: Handle,
    pub(crate) shutdown: CancellationToken,
    pub(crate) running: JoinHandle<Result<(), Error>>,
}

/// Options for a test: any port, one domain, short times.
pub(crate) fn options(control: &FakeControl) -> Options {
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let mut options = Options {
        listen: any,
        admin_listen: any,
        control: vec!["control.invalid:1".into()],
        trusted_keys: vec![control.key.public().to_string()],
        domains: vec!["example.com".into()],
        threads: 2,
        ..Options::default()
    };
    options.timeouts.confirm_interval = Duration::from_millis(50);
    options.timeouts.quiesce_min = Duration::ZERO;
    // Gates of tests count what they are asked.
    options.instances.check_interval = Duration::ZERO;
    options
}

impl Fleet {
    /// A router that has its table.
    pub(crate) async fn start(control: Arc<FakeControl>, change: impl FnOnce(&mut Options)) -> Self {
        let fleet = Self::start_without_waiting(control, change);
        until("the table is fresh", || fleet.router.staleness().is_some()).await;
        fleet
    }

    pub(crate) fn start_without_waiting(control: Arc<FakeControl>, change: impl FnOnce(&mut Options)) -> Self {
        let mut options = options(&control);
        change(&mut options);
        let shared: Arc<dyn cell_router::ControlPlane> = Arc::<FakeControl>::clone(&control);
        let router = Router::bind_with(options, Registry::default(), shared).unwrap();
        let (handle, shutdown) = (router.handle(), CancellationToken::new());
        let running = tokio::spawn(router.run(shutdown.clone()));
        Self { control, router: handle, shutdown, running }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.router.addresses().listen
    }

    /// Waits until the router believes what the control plane says of a tenant.
    pub(crate) async fn until_believed(&self, mapping: &cell_model::Mapping) {
        until("the mapping has come", || self.router.mapping(&mapping.tenant).as_ref() == Some(mapping)).await;
    }

    pub(crate) fn open_tunnels(&self) -> usize {
        self.router.open_tunnels()
    }

    pub(crate) fn epoch_of(&self, tenant: &str) -> Option<u64> {
        self.router.mapping(&TenantId::new(tenant).unwrap()).map(|mapping| mapping.epoch.get())
    }

    pub(crate) async fn stop(self) {
        self.shutdown.cancel();
        self.running.await.unwrap().unwrap();
    }

    /// The sum of a metric over all of its series that contain `label`.
    pub(crate) async fn metric(&self, name: &str, label: &str) -> f64 {
        let metrics = self.admin("/metrics").await.body;
        let series =
            metrics.lines().filter(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' '])));
        series
            .filter(|line| line.contains(label))
            .map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap())
            .sum()
    }

    pub(crate) async fn admin(&self, path: &str) -> crate::client::Answer {
        let request = http::Request::get(path).header("host", "admin").body(http_body_util::Empty::new()).unwrap();
        crate::client::send(self.router.addresses().admin, request).await
    }
}

/// Waits for a condition, for ten seconds at the most.
pub(crate) async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
    while !condition() {
        assert!(tokio::time::Instant::now() < deadline, "in ten seconds it did not happen that {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}
