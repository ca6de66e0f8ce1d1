//! What runs on each simulated host: the services of the programs, made of parts that are simulated.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use cell_client::net::Host;
use cell_control::{Parts, Service};
use cell_model::{CellId, Fleet};
use cell_router::Router;
use cell_store::{Bounds, Store, StoreOptions};
use cell_trust::SigningKey;
use sample_cell::Cell;
use tokio_util::sync::CancellationToken;

use super::fabric;
use super::store::{CellStore, Rows};
use super::{CELLS, ROUTER};
use crate::chance::Chance;
use crate::disk::{PowerCut, SimDisk};
use crate::flaw::Flaw;
use crate::node::{NODES, timers};

/// Where control nodes listen.
const CONTROL_PORT: u16 = 7_000;
const AGENT_PORT: u16 = 7_100;
/// Each cell has two instances of its application.
const GATE_PORTS: [u16; 2] = [7_201, 7_202];
const ROUTER_PORT: u16 = 8_080;
const ADMIN_PORT: u16 = 8_081;
/// Clients name the moving tenant by it.
pub(super) const DOMAIN: &str = "cells.test";

pub(super) fn control_addresses() -> Vec<String> {
    NODES.iter().map(|node| format!("{node}:{CONTROL_PORT}")).collect()
}

pub(super) fn router_address() -> String {
    format!("{ROUTER}:{ROUTER_PORT}")
}

pub(super) fn agent_address(cell: &str) -> String {
    format!("{cell}:{AGENT_PORT}")
}

pub(super) fn gate_addresses(cell: &str) -> Vec<String> {
    GATE_PORTS.iter().map(|port| format!("{cell}:{port}")).collect()
}

/// The key that signs mappings in the run of `seed`.
fn signing_key(seed: u64) -> SigningKey {
    let mut chance = Chance::of(seed, "signing key");
    let words: Vec<u8> = (0..4).flat_map(|_| chance.number().to_le_bytes()).collect();
    SigningKey::from_bytes(words.first_chunk().expect("four words are 32 bytes"))
}

/// A host that may lose its power, and what of it outlives that.
pub(super) trait Machine {
    /// Its name in the simulated network.
    fn name(&self) -> &'static str;

    /// The power goes. The host's tasks must be gone already.
    fn crash(&self);
}

/// The choices of one start after another.
#[derive(Debug)]
struct Starts {
    seed: u64,
    name: &'static str,
    count: RefCell<u64>,
}

impl Starts {
    const fn of(seed: u64, name: &'static str) -> Self {
        Self { seed, name, count: RefCell::new(0) }
    }

    fn next(&self) -> Chance {
        let mut count = self.count.borrow_mut();
        *count += 1;
        Chance::of(self.seed, &format!("start {count} of {}", self.name))
    }
}

/// A control node.
pub(super) struct ControlMachine {
    name: &'static str,
    disk: SimDisk,
    bounds: Bounds,
    starts: Starts,
    store: RefCell<Option<Store>>,
}

impl ControlMachine {
    pub(super) fn new(seed: u64, name: &'static str, bounds: Bounds) -> Self {
        let disk = SimDisk::new(seed, name, None);
        Self { name, disk, bounds, starts: Starts::of(seed, name), store: RefCell::default() }
    }

    /// Whether it leads, as far as it knows.
    pub(super) fn leads(&self) -> bool {
        self.store.borrow().as_ref().is_some_and(|store| store.leadership().borrow().is_leader)
    }

    /// What is in its store, if it has one.
    pub(super) fn view<R>(&self, look: impl FnOnce(&Fleet) -> R) -> Option<R> {
        self.store.borrow().as_ref().map(|store| store.view(look))
    }

    /// Runs the node until the power goes.
    pub(super) async fn run(self: Rc<Self>) -> turmoil::Result {
        let mut chance = self.starts.next();
        let advertise = format!("{}:{CONTROL_PORT}", self.name);
        let store = StoreOptions {
            bounds: self.bounds,
            timers: timers(),
            seed: Some(chance.number().max(1)),
            ..StoreOptions::new(self.name, advertise)
        };
        let key = signing_key(self.starts.seed);
        let listen = ([0, 0, 0, 0], CONTROL_PORT).into();
        let parts = Parts { listen, store, disk: self.disk.mount(), key };
        let service = Service::start_within(parts, fabric::host(chance)).await?;
        *self.store.borrow_mut() = Some(service.handle().store().clone());
        service.run(CancellationToken::new()).await?;
        Err(format!("{} has ended by itself", self.name).into())
    }
}

impl Machine for ControlMachine {
    fn name(&self) -> &'static str {
        self.name
    }

    fn crash(&self) {
        self.store.borrow_mut().take();
        self.disk.crash(PowerCut::Some);
    }
}

/// A cell: its agent, and the instances of its application behind their gates.
pub(super) struct CellMachine {
    name: &'static str,
    store: CellStore,
    starts: Starts,
    image: RefCell<Option<Rows>>,
    #[cfg(feature = "planted")]
    plant: Option<sample_cell::Plant>,
}

impl CellMachine {
    pub(super) fn new(seed: u64, name: &'static str, flaw: Option<Flaw>) -> Self {
        let (store, starts) = (CellStore::new(seed, name, flaw), Starts::of(seed, name));
        #[cfg(feature = "planted")]
        let plant = flaw.and_then(Flaw::in_cells);
        Self {
            name,
            store,
            starts,
            image: RefCell::default(),
            #[cfg(feature = "planted")]
            plant,
        }
    }

    /// Runs the cell until the power goes.
    pub(super) async fn run(self: Rc<Self>) -> turmoil::Result {
        let id = CellId::new(self.name)?;
        let mut options = sample_cell::Options::new(id, "");
        options.agent_listen = format!("0.0.0.0:{AGENT_PORT}");
        options.agent_address = Some(agent_address(self.name));
        options.gate_listen = GATE_PORTS.iter().map(|port| format!("0.0.0.0:{port}")).collect();
        options.gate_address = gate_addresses(self.name);
        options.control = control_addresses();
        options.trusted_keys = vec![signing_key(self.starts.seed).public().to_string()];
        #[cfg(feature = "planted")]
        {
            options.plant = self.plant;
        }
        let (engine, host) = (Arc::new(self.store.clone()), fabric::host(self.starts.next()));
        let cell = Cell::start_within(options, engine, host, CancellationToken::new()).await?;
        cell.stopped().await?;
        Err(format!("cell {} has ended by itself", self.name).into())
    }

    /// Takes an image of its disk.
    pub(super) fn take_image(&self) {
        self.image.replace(Some(self.store.image()));
    }

    /// Its disk becomes what the image holds, if there is one. The host's tasks must be gone already.
    pub(super) fn put_image_back(&self) {
        if let Some(image) = self.image.take() {
            self.store.put_back(&image);
        }
    }
}

impl Machine for CellMachine {
    fn name(&self) -> &'static str {
        self.name
    }

    fn crash(&self) {
        self.store.crash();
    }
}

/// The router. It keeps nothing.
pub(super) struct RouterMachine(Starts);

impl RouterMachine {
    pub(super) const fn new(seed: u64) -> Self {
        Self(Starts::of(seed, ROUTER))
    }

    /// Runs the router until the power goes.
    pub(super) async fn run(self: Rc<Self>) -> turmoil::Result {
        let options = cell_router::Options {
            name: ROUTER.into(),
            listen: ([0, 0, 0, 0], ROUTER_PORT).into(),
            admin_listen: ([0, 0, 0, 0], ADMIN_PORT).into(),
            control: control_addresses(),
            insecure_plaintext: true,
            trusted_keys: vec![signing_key(self.0.seed).public().to_string()],
            domains: vec![DOMAIN.into()],
            threads: 1,
            ..cell_router::Options::default()
        };
        let registry = prometheus_client::registry::Registry::default();
        let router = Router::bind_within(options, registry, fabric::host(self.0.next()))?;
        router.run(CancellationToken::new()).await?;
        Err("the router has ended by itself".into())
    }
}

impl Machine for RouterMachine {
    fn name(&self) -> &'static str {
        ROUTER
    }

    fn crash(&self) {}
}

/// The cells of a run.
pub(super) fn cells(seed: u64, flaw: Option<Flaw>) -> Vec<Rc<CellMachine>> {
    CELLS.into_iter().map(|cell| Rc::new(CellMachine::new(seed, cell, flaw))).collect()
}

/// What the field has of its machine.
pub(super) fn field(seed: u64) -> Host {
    fabric::host(Chance::of(seed, "field"))
}
