//! A node from start to stop.
//!
//! ```text
//! start: key ──► listener ──► store ──► (Service, Handle)
//! run:   server, store, coordinator, health ──► shutdown
//! stop:  health says NOT_SERVING ──► watches end ──► leadership is handed over, store stops ──► server stops
//! ```

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use cell_client::Link;
use cell_client::net::{Host, Listener};
use cell_migration::Setbacks;
use cell_protos::v1::cluster_service_server::ClusterServiceServer;
use cell_protos::v1::store_service_server::StoreServiceServer;
use cell_store::{Disk, OpenError, Store, StoreOptions};
use cell_trust::{PublicKey, Role, SigningKey};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;

use crate::press::Press;
use crate::service::{ClusterEndpoint, ControlServer, Ground, Homes, Refusing, StoreEndpoint, Watchers};
use crate::{Error, Liveness, Options, Routers, Signer, coordinator, key_file, peers, witness};

/// How long connections may take to end once the store has stopped.
const GOODBYE: Duration = Duration::from_secs(3);

/// How long a data directory that is locked is waited for.
const HANDOVER: Duration = Duration::from_secs(2);

/// A leader that no majority has confirmed for so long has lost it, and not only for a moment: it takes no commands.
pub(crate) const UNCONFIRMED_MAX: Duration = Duration::from_secs(2);

/// The name under which health is asked for.
const CONTROL: &str = "cellway.v1.ControlService";

/// A node that listens but does not yet answer.
#[derive(Debug)]
pub struct Service {
    ground: Ground,
    data_dir: PathBuf,
    listener: Listener,
    handle: Handle,
}

/// What others in the same process may know of a node. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Handle {
    local: SocketAddr,
    store: Store,
    public_key: PublicKey,
    liveness: Liveness,
}

impl Handle {
    /// Where it listens.
    #[must_use]
    pub const fn local_addr(&self) -> SocketAddr {
        self.local
    }

    /// `host:port` at which others reach it.
    #[must_use]
    pub fn address(&self) -> &str {
        self.store.advertise()
    }

    /// Its store.
    #[must_use]
    pub const fn store(&self) -> &Store {
        &self.store
    }

    /// The key whose signatures are to be believed.
    #[must_use]
    pub const fn public_key(&self) -> PublicKey {
        self.public_key
    }

    /// When it has last heard of each cell.
    #[must_use]
    pub const fn liveness(&self) -> &Liveness {
        &self.liveness
    }
}

/// What a node is made of where nothing is read from files.
#[derive(Debug)]
pub struct Parts {
    /// Address on which all services are offered.
    pub listen: SocketAddr,
    /// How its store is set up; its address is where others reach the node.
    pub store: StoreOptions,
    /// What the store writes to.
    pub disk: Disk,
    /// Signs mappings, the same on all nodes.
    pub key: SigningKey,
}

/// Starts a node and runs it until `shutdown`.
///
/// # Errors
/// [`Error`]
pub async fn run(options: Options, shutdown: CancellationToken) -> Result<(), Error> {
    Service::start(options).await?.run(shutdown).await
}

impl Service {
    /// Reads the key, takes the port and opens the data directory, in this order.
    ///
    /// # Errors
    /// [`Error`] names what is wrong.
    pub async fn start(options: Options) -> Result<Self, Error> {
        let wanted = options.wanted_cluster()?;
        let link = Link::open(options.identity.as_deref(), options.insecure_plaintext)?;
        link.may_listen(options.listen.ip())?;
        link.identity().map_or(Ok(()), |identity| identity.require(Role::Control))?;
        let others = options.other_keys()?;
        let signer = Signer::beside(key_file::read(&options.signing_key_file)?, &others);
        let address = options.listen;
        let listener = link.listen(&address.to_string()).await;
        let listener = listener.map_err(|source| Error::Listen { address, source })?;
        let local = listener.local_addr().map_err(|source| Error::Listen { address, source })?;
        let advertise = options.advertised(local)?;
        let stored = options.stored(advertise);
        let store = open_store(&stored, &link).await?;
        if let (Some(wanted), Some(found)) = (wanted, store.cluster())
            && wanted != found
        {
            store.stop().await;
            return Err(Error::OtherCluster { wanted, found });
        }
        Ok(Self::of(store, signer, link, options.data_dir, (listener, local)))
    }

    /// As [`Service::start`], out of what is passed in, as in a simulation.
    ///
    /// # Errors
    /// As [`Service::start`].
    pub async fn start_within(parts: Parts, host: Host) -> Result<Self, Error> {
        let link = Link::Within(host);
        let address = parts.listen;
        let listener = link.listen(&address.to_string()).await;
        let listener = listener.map_err(|source| Error::Listen { address, source })?;
        let local = listener.local_addr().map_err(|source| Error::Listen { address, source })?;
        let data_dir = parts.store.data_dir.clone();
        let store = Store::open_on(parts.store, parts.disk, peers::dialer(link.clone())).await?;
        Ok(Self::of(store, Signer::new(parts.key), link, data_dir, (listener, local)))
    }

    fn of(
        store: Store,
        signer: Signer,
        link: Link,
        data_dir: PathBuf,
        (listener, local): (Listener, SocketAddr),
    ) -> Self {
        let liveness = Liveness::default();
        let handle =
            Handle { local, store: store.clone(), public_key: signer.public(), liveness: liveness.clone() };
        tracing::info!(address = handle.address(), key_id = signer.public().key_id(), "node started");
        let ground = Ground {
            store,
            signer,
            link,
            liveness,
            press: Press::new(),
            watchers: Watchers::default(),
            routers: Routers::default(),
            homes: Homes::default(),
            setbacks: Setbacks::default(),
            closing: CancellationToken::new(),
        };
        Self { ground, data_dir, listener, handle }
    }

    /// What others in the same process may know of it.
    #[must_use]
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// Answers until `shutdown`, then stops in order.
    ///
    /// # Errors
    /// [`Error::Store`] where storage has failed and the process must end; [`Error::Serve`].
    pub async fn run(self, shutdown: CancellationToken) -> Result<(), Error> {
        let Self { ground, data_dir, listener, handle: _ } = self;
        let (health, health_service) = tonic_health::server::health_reporter();
        let reflection = tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(cell_protos::DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
            .build_v1()
            .map_err(Error::Reflection)?;
        let server_stop = CancellationToken::new();
        let cluster = ClusterEndpoint { ground: ground.clone(), data_dir };
        let router = ground
            .link
            .server()
            .map_err(Error::Tls)?
            .layer(ground.link.guard())
            .http2_keepalive_interval(Some(Duration::from_secs(5)))
            .http2_keepalive_timeout(Some(Duration::from_secs(5)))
            .add_service(health_service)
            .add_service(reflection)
            .add_service(ground.store.raft_service())
            .add_service(Refusing(ClusterServiceServer::new(cluster)))
            .add_service(Refusing(StoreServiceServer::new(StoreEndpoint(ground.clone()))))
            .add_service(Refusing(ControlServer::new(ground.clone())));
        let incoming = listener.incoming();
        let stopping = server_stop.clone();
        let mut server = tokio::spawn(router.serve_with_incoming_shutdown(incoming, async move {
            stopping.cancelled().await;
        }));

        // The store goes on until health and watches have said goodbye.
        let store_stop = CancellationToken::new();
        let store = ground.store.run(store_stop.clone());
        tokio::pin!(store);
        let coordinator = tokio::spawn(coordinator::run(ground.clone(), shutdown.clone()));
        let witness = tokio::spawn(witness::run(ground.clone(), shutdown.clone()));
        let press = tokio::spawn(ground.press.clone().run(ground.clone(), ground.closing.clone()));
        let health_follower = tokio::spawn(follow_health(ground.clone(), health.clone()));

        let outcome = tokio::select! {
            () = shutdown.cancelled() => {
                tracing::info!("node stopping");
                health_follower.abort();
                health.set_service_status("", ServingStatus::NotServing).await;
                health.set_service_status(CONTROL, ServingStatus::NotServing).await;
                ground.closing.cancel();
                store_stop.cancel();
                store.await.map_err(Error::Store)
            }
            failed = &mut store => failed.map_err(Error::Store),
            served = &mut server => {
                store_stop.cancel();
                drop(store.await);
                return server_ended(served);
            }
        };
        ground.closing.cancel();
        end(health_follower).await;
        end(coordinator).await;
        end(witness).await;
        end(press).await;
        server_stop.cancel();
        match tokio::time::timeout(GOODBYE, &mut server).await {
            Ok(served) => outcome.and(server_ended(served)),
            // Somebody keeps a connection open: it is cut.
            Err(_) => {
                server.abort();
                outcome
            }
        }
    }
}

/// A node that has just stopped may hold the directory a moment longer: it is waited for.
async fn open_store(options: &StoreOptions, link: &Link) -> Result<Store, OpenError> {
    let deadline = Instant::now() + HANDOVER;
    loop {
        let (path, log) = (options.data_dir.clone(), options.log);
        let disk = tokio::task::spawn_blocking(move || Disk::directory(&path, log)).await;
        let opened = match disk.map_err(|error| OpenError::Raft { reason: error.to_string() })? {
            Ok(disk) => Store::open_on(options.clone(), disk, peers::dialer(link.clone())).await,
            Err(error) => Err(error),
        };
        match opened {
            Err(OpenError::Locked { .. }) if Instant::now() < deadline => {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            opened => return opened,
        }
    }
}

/// Ends a task and waits until it holds nothing any more.
async fn end(task: tokio::task::JoinHandle<()>) {
    task.abort();
    if let Err(error) = task.await
        && error.is_panic()
    {
        tracing::error!(%error, "a task of the node panicked");
    }
}

fn server_ended(served: Result<Result<(), tonic::transport::Error>, tokio::task::JoinError>) -> Result<(), Error> {
    match served {
        Ok(served) => served.map_err(Error::Serve),
        Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
        Err(_) => Ok(()),
    }
}

/// The control service serves while a leader is known, a leader while a majority confirms it; the process as a whole for as
/// long as it runs.
async fn follow_health(ground: Ground, health: HealthReporter) {
    let mut leadership = ground.store.leadership();
    loop {
        let now = leadership.borrow_and_update().clone();
        let is_alone = now.is_leader
            && now.since.elapsed() > UNCONFIRMED_MAX
            && ground.store.status().quorum_ack.is_none_or(|ago| ago > UNCONFIRMED_MAX);
        let serves = now.leader.is_some() && !is_alone;
        let status = if serves { ServingStatus::Serving } else { ServingStatus::NotServing };
        health.set_service_status(CONTROL, status).await;
        tokio::select! {
            changed = leadership.changed() => if changed.is_err() {
                return;
            },
            () = tokio::time::sleep(UNCONFIRMED_MAX / 2), if now.is_leader => {}
        }
    }
}
