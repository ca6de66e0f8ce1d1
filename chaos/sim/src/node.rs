//! One node: a real store on a simulated disk, its peers and its clients over simulated streams.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use cell_model::ClusterId;
use cell_store::{Bounds, Member, Store, StoreOptions, Timers};
use tokio_util::sync::CancellationToken;
use turmoil::net::TcpListener;

use crate::chance::Chance;
use crate::disk::{PowerCut, SimDisk};
use crate::flaw::Flaw;
use crate::{front, wire};

/// The nodes by their names in the simulated network.
pub(crate) const NODES: [&str; 3] = ["n1", "n2", "n3"];
/// The cluster that they make.
pub(crate) const CLUSTER: ClusterId = ClusterId(0xce11);

/// What a node is made of; it outlives the node's crashes.
#[derive(Debug)]
pub(crate) struct Machine {
    name: &'static str,
    run_seed: u64,
    bounds: Bounds,
    disk: SimDisk,
    /// A seed for each start after the first.
    seeds: RefCell<Option<Chance>>,
}

/// Slower than on a real network: a simulated host never uses a port again, and calls a dead peer with every heartbeat.
pub(crate) fn timers() -> Timers {
    Timers {
        heartbeat: Duration::from_millis(100),
        election_min: Duration::from_millis(400),
        election_max: Duration::from_millis(800),
        read_lease: Duration::from_millis(600),
        submit: Duration::from_secs(2),
        ..Timers::default()
    }
}

/// The seed of a node's first start, which becomes its id.
fn first_seed(run_seed: u64, name: &str) -> u64 {
    Chance::of(run_seed, &format!("first start of {name}")).number().max(1)
}

fn address(name: &str) -> String {
    format!("{name}:{}", wire::PORT)
}

fn members(run_seed: u64) -> Vec<Member> {
    let member = |name| Member { node_id: first_seed(run_seed, name), address: address(name), voter: true };
    NODES.into_iter().map(member).collect()
}

impl Machine {
    pub(crate) fn new(run_seed: u64, name: &'static str, bounds: Bounds, flaw: Option<Flaw>) -> Self {
        let disk = SimDisk::new(run_seed, name, flaw);
        Self { name, run_seed, bounds, disk, seeds: RefCell::new(None) }
    }

    /// The power goes. The host's tasks must be gone already.
    pub(crate) fn crash(&self, cut: PowerCut) {
        self.disk.crash(cut);
    }

    fn next_seed(&self) -> u64 {
        let mut seeds = self.seeds.borrow_mut();
        match &mut *seeds {
            Some(seeds) => seeds.number(),
            None => {
                *seeds = Some(Chance::of(self.run_seed, &format!("starts of {}", self.name)));
                first_seed(self.run_seed, self.name)
            }
        }
    }

    fn options(&self) -> StoreOptions {
        StoreOptions {
            bounds: self.bounds,
            timers: timers(),
            seed: Some(self.next_seed()),
            ..StoreOptions::new(self.name, address(self.name))
        }
    }

    /// Opens the store, makes the cluster where there is none, and serves until the power goes.
    pub(crate) async fn run(self: Rc<Self>) -> turmoil::Result {
        let store = Store::open_on(self.options(), self.disk.mount(), wire::dialer()).await?;
        store.claim(CLUSTER).await?;
        let peers = TcpListener::bind(("0.0.0.0", wire::PORT)).await?;
        let clients = TcpListener::bind(("0.0.0.0", front::PORT)).await?;
        if self.name == NODES[0] && !store.status().initialized {
            store.initialize(CLUSTER, members(self.run_seed)).await?;
        }
        tokio::select! {
            ended = wire::serve(store.raft_service(), peers) => ended?,
            ended = front::serve(store.clone(), clients) => ended?,
            ended = store.run(CancellationToken::new()) => ended?,
        }
        Err(format!("{} has ended by itself", self.name).into())
    }
}
