//! Shops of tenants that move, between shared tables and schemas of their own, under tills that trade through a router; and books
//! that somebody has spoilt.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use cell_chaos::check::{FaultKind, Findings};
use cell_chaos::clock::RunClock;
use cell_chaos::history::Recorder;
use cell_chaos::load::{Load, LoadOptions};
use cell_chaos::shop::till::Shops;
use cell_chaos::shop::{Deed, Told, What, audit, books};
use cell_client::net::Network;
use cell_control::key_file;
use tokio_util::sync::CancellationToken;

use crate::moves::Fleet;
use crate::server;

const DOMAIN: &str = "cells.example";

/// A fleet with a router, and shops that are open.
struct Street {
    fleet: Fleet,
    database: String,
    router: String,
    names: Arc<[Arc<str>]>,
    shops: Shops,
    _stop: tokio_util::sync::DropGuard,
}

impl Street {
    fn open(tenants: &[&str]) -> Self {
        let databases = tokio::runtime::Runtime::new()
            .unwrap()
            .block_on(async { [server::database().await, server::database().await] });
        let database = databases[0].clone();
        let fleet = Fleet::start_with(Some(databases), |options| {
            options.shop = true;
            options.tenant_schema = (options.cell.as_str() == "c2").then(|| "tenant_{id}".into());
        });
        for tenant in tenants.iter().filter(|tenant| **tenant != "acme") {
            assert_eq!(fleet.control.run(&format!("create tenant {tenant} --cell c1")).code, 0);
            fleet.until("it lives", |fleet| fleet.describe(&format!("tenant {tenant}"))["life"] == "live");
        }
        let stop = CancellationToken::new();
        let router = route(&fleet, &stop);
        let names: Arc<[Arc<str>]> = tenants.iter().map(|tenant| Arc::from(*tenant)).collect();
        let options = LoadOptions {
            routers: vec![router.clone()],
            domain: DOMAIN.into(),
            writes_per_second: 0,
            reads_per_second: 0,
            writers: 0,
            readers: 0,
            deadline: Duration::from_secs(10),
            network: Network::default(),
            seed: 11,
        };
        let load = Load::new(options, RunClock::start(), Recorder::default());
        let shops = fleet.runtime.block_on(Shops::open(&load, &names)).unwrap();
        Self { fleet, database, router, names, shops, _stop: stop.drop_guard() }
    }

    /// Tills trade for as long as this takes.
    fn trading<T>(&self, meanwhile: impl FnOnce() -> T) -> T {
        let tills =
            self.fleet.runtime.block_on(async { self.shops.trade(&self.names, 6, Duration::from_millis(4)) });
        let done = meanwhile();
        self.fleet.runtime.block_on(tills.stop());
        done
    }

    fn more_orders(&self, more: u64) {
        let wanted = self.shops.ledger().orders() + more;
        self.fleet.until("orders are made", |_| self.shops.ledger().orders() >= wanted);
    }

    /// What is wrong with the books of all.
    fn audited(&self) -> Vec<(FaultKind, String, String)> {
        let books =
            self.fleet.runtime.block_on(books::read(std::slice::from_ref(&self.router), &self.names)).unwrap();
        assert!(books.values().all(|books| !books.orders.is_empty()), "each shop has orders");
        let mut findings = Findings::default();
        audit::audit(&self.shops.ledger().deeds(), &books, &mut findings);
        findings.faults.into_iter().map(|fault| (fault.kind, fault.object, fault.detail)).collect()
    }

    /// Past all guards and foreign keys, in the database of the first cell.
    fn say(&self, sql: &str) {
        self.fleet.runtime.block_on(async {
            let session = server::session(&self.database).await;
            session.batch_execute(&format!("SET session_replication_role = replica; {sql}")).await.unwrap();
        });
    }

    /// An order of this tenant that is there.
    fn an_order_of(&self, tenant: &str) -> i64 {
        let deeds = self.shops.ledger().deeds();
        let gone = |id: i64| deeds.iter().any(|deed| matches!(deed.what, What::TakeBack { order } if order == id));
        let mut made =
            deeds.iter().filter(|deed| &*deed.tenant == tenant).filter_map(|deed| match (&deed.what, &deed.told) {
                (What::Order { .. }, Told::Made { id, .. }) => Some(*id),
                _ => None,
            });
        made.find(|id| !gone(*id)).expect("some order was not taken back")
    }
}

/// Starts a router in this process; `host:port`.
fn route(fleet: &Fleet, stop: &CancellationToken) -> String {
    let any_port = || std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let (listen, admin) = (any_port(), any_port());
    let options = cell_router::Options {
        name: "router".into(),
        listen,
        admin_listen: admin,
        control: vec![fleet.control.address.clone()],
        insecure_plaintext: true,
        domains: vec![DOMAIN.into()],
        trusted_keys: vec![key_file::read(&fleet.directory.path().join("key")).unwrap().public().to_string()],
        ..cell_router::Options::default()
    };
    let ends = stop.clone();
    fleet.runtime.spawn(async move { cell_router::run(options, ends).await.unwrap() });
    let deadline = Instant::now() + Duration::from_secs(20);
    let ready = || fleet.runtime.block_on(cell_chaos::fleet::fetch(&admin.to_string(), "/readyz")).is_ok();
    while !ready() {
        assert!(Instant::now() < deadline, "the router is not ready");
        std::thread::sleep(Duration::from_millis(20));
    }
    listen.to_string()
}

#[test]
fn shops_that_move_from_layout_to_layout_and_back_under_their_tills_add_up() {
    let street = Street::open(&["acme", "beta", "gamma"]);
    street.trading(|| {
        street.more_orders(20);
        for (tenant, to) in [("acme", "c2"), ("beta", "c2"), ("acme", "c1")] {
            let before = street.shops.ledger().orders();
            let words = format!(
                "move tenant {tenant} --to {to} --watch --steady 10ms --soak 300ms --retain 0s --exact \
                 --max-hold 2s --retries 100"
            );
            let moved = street.fleet.control.run(&words);
            assert_eq!(moved.code, 0, "{moved:?}");
            assert!(street.shops.ledger().orders() > before, "nobody ordered while {tenant} moved");
        }
        street.more_orders(20);
    });
    let deeds = street.shops.ledger().deeds();
    let failed: Vec<&Deed> = deeds.iter().filter(|deed| deed.failed).collect();
    assert!(failed.is_empty(), "{failed:#?}");
    let owners = ["acme", "beta"].map(|tenant| street.fleet.describe(&format!("tenant {tenant}"))["cell"].clone());
    assert_eq!(owners, ["c1", "c2"]);
    assert_eq!(street.audited(), []);
}

/// A row that is gone, a table that was not copied, a part of a transaction, a sequence that was not carried along.
#[test]
fn what_is_planted_in_the_books_of_a_shop_is_found_by_the_audit() {
    let street = Street::open(&["acme", "beta"]);
    street.trading(|| street.more_orders(30));
    assert_eq!(street.audited(), []);
    let order = street.an_order_of("acme");
    let kept = |table: &str, rows: &str, object: String, kinds: &[FaultKind]| {
        let rows = format!("FROM {table} WHERE tenant_id = 'acme' {rows}");
        street.say(&format!("CREATE SCHEMA kept; CREATE TABLE kept.{table} AS SELECT * {rows}; DELETE {rows}"));
        let found = street.audited();
        let of_it: BTreeSet<FaultKind> =
            found.iter().filter(|fault| fault.1 == object).map(|fault| fault.0).collect();
        assert!(kinds.iter().all(|kind| of_it.contains(kind)), "{table}: {found:#?}");
        let back = format!("INSERT INTO {table} OVERRIDING SYSTEM VALUE SELECT * FROM kept.{table}");
        street.say(&format!("{back}; DROP SCHEMA kept CASCADE"));
        assert_eq!(street.audited(), [], "{table} is as it was");
    };
    kept("orders", &format!("AND id = {order}"), format!("order {order}"), &[FaultKind::Lost]);
    kept("order_lines", "", format!("order {order}"), &[FaultKind::Torn]);
    let product: i64 = street.fleet.runtime.block_on(async {
        let session = server::session(&street.database).await;
        session.query_one("SELECT min(id) FROM products WHERE tenant_id = 'acme'", &[]).await.unwrap().get(0)
    });
    kept("stock", &format!("AND product = {product}"), format!("product {product}"), &[FaultKind::Torn]);
    for (table, column, object) in
        [("stock", "on_hand", "product"), ("orders", "total", "order"), ("customers", "owes", "customer")]
    {
        let change = |by: &str| {
            street.say(&format!("UPDATE {table} SET {column} = {column} {by} 1 WHERE tenant_id = 'acme'"))
        };
        change("+");
        let found = street.audited();
        let torn = found.iter().any(|fault| fault.0 == FaultKind::Torn && fault.1.starts_with(object));
        assert!(torn, "{table}.{column}: {found:#?}");
        change("-");
        assert_eq!(street.audited(), [], "{table}.{column} is as it was");
    }
    street.say("SELECT setval('order_lines_id_seq', 1)");
    street.trading(|| street.more_orders(10));
    let found = street.audited();
    assert!(
        found.iter().any(|fault| fault.0 == FaultKind::Duplicated && fault.1.starts_with("line")),
        "{found:#?}"
    );
}
