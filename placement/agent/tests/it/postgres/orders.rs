//! A shop: tenants with customers, items, orders and their lines, tied by foreign keys and numbered by sequences. Its tills go to
//! whichever cell owns, while one tenant moves forth and back and another stays. In the end everything adds up.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use cell_agent::{Committed, TenantDatabase};
use cell_client::StepContext;
use cell_gate::RequestStamp;
use cell_model::{Leg, TenantId};
use tokio_postgres::Client;

use super::ground::*;
use super::moving::forth;

const SHOP: &str = "
CREATE TABLE customers (
    tenant_id text, id int, balance numeric(14, 2) NOT NULL DEFAULT 0, orders int NOT NULL DEFAULT 0,
    PRIMARY KEY (tenant_id, id)
);
CREATE TABLE items (
    tenant_id text, id int, price numeric(8, 2) NOT NULL, sold bigint NOT NULL DEFAULT 0, PRIMARY KEY (tenant_id, id)
);
CREATE TABLE orders (
    tenant_id text, id bigint GENERATED ALWAYS AS IDENTITY, customer int NOT NULL,
    total numeric(14, 2) NOT NULL DEFAULT 0, PRIMARY KEY (tenant_id, id),
    FOREIGN KEY (tenant_id, customer) REFERENCES customers
);
CREATE TABLE lines (
    tenant_id text, order_id bigint, n bigserial, item int NOT NULL, amount int NOT NULL, price numeric(8, 2) NOT NULL,
    PRIMARY KEY (tenant_id, order_id, n),
    FOREIGN KEY (tenant_id, order_id) REFERENCES orders ON DELETE CASCADE,
    FOREIGN KEY (tenant_id, item) REFERENCES items
);";
/// Customers; each buys items of his own, so that two tills never wait for each other crosswise.
const CUSTOMERS: i32 = 5;
const ITEMS: i32 = 40;
const TILLS: i32 = 4;

async fn stock(client: &Client, tenant: &str) {
    let sql = format!(
        "INSERT INTO customers SELECT '{tenant}', i FROM generate_series(0, {CUSTOMERS} - 1) i;
         INSERT INTO items SELECT '{tenant}', i, 0.25 * (i + 1) FROM generate_series(0, {ITEMS} - 1) i"
    );
    client.batch_execute(&sql).await.unwrap();
}

/// One tenant's tills.
struct Shop {
    tenant: &'static str,
    stop: Arc<AtomicBool>,
    epoch: Arc<AtomicU64>,
    made: Arc<AtomicU64>,
    tills: Vec<tokio::task::JoinHandle<(BTreeSet<i64>, BTreeSet<i64>)>>,
}

/// Where one till goes.
struct Till {
    stamp: RequestStamp,
    customer: i32,
    client: Client,
    data: TenantDatabase,
}

impl Till {
    /// Whether the cell owns the tenant.
    async fn enters(&self) -> bool {
        let RequestStamp { tenant, uid, epoch } = &self.stamp;
        let (uid, epoch) = (uid.get().cast_signed(), epoch.get().cast_signed());
        self.client.batch_execute("BEGIN").await.unwrap();
        let enter = "SELECT cellway.enter($1, $2, $3)";
        let entered = self.client.execute(enter, &[&tenant.as_str(), &uid, &epoch]).await;
        if entered.is_err() {
            self.client.batch_execute("ROLLBACK").await.unwrap();
            return false;
        }
        let lock = "SELECT 1 FROM customers WHERE tenant_id = $1 AND id = $2 FOR UPDATE";
        self.client.execute(lock, &[&tenant.as_str(), &self.customer]).await.unwrap();
        true
    }

    /// Answered for.
    async fn leaves(&self) {
        self.client.batch_execute("COMMIT").await.unwrap();
        let confirmed = async {
            while self.data.committed(&self.stamp).await == Committed::Unknown {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(PATIENCE, confirmed).await.expect("what was committed is confirmed");
    }

    async fn say(&self, sql: &str, order: i64) {
        let sql = sql.replace("{t}", &format!("'{}'", self.stamp.tenant)).replace("{o}", &order.to_string());
        self.client.batch_execute(&sql).await.unwrap();
    }

    async fn orders(&self) -> i64 {
        let add = "INSERT INTO orders (tenant_id, customer) VALUES ($1, $2) RETURNING id";
        let row = self.client.query_one(add, &[&self.stamp.tenant.as_str(), &self.customer]).await.unwrap();
        let order: i64 = row.get(0);
        let lines = format!(
            "INSERT INTO lines (tenant_id, order_id, item, amount, price)
               SELECT {{t}}, {{o}}, id, 1 + id % 3, price FROM items
                WHERE tenant_id = {{t}} AND id % {CUSTOMERS} = {} AND (id / {CUSTOMERS} + {{o}}) % 3 = 0",
            self.customer
        );
        self.say(&lines, order).await;
        self.say(
            "UPDATE orders SET total = (SELECT coalesce(sum(amount * price), 0) FROM lines WHERE tenant_id = {t} AND order_id = {o})
              WHERE tenant_id = {t} AND id = {o}",
            order,
        )
        .await;
        self.counts(order, '+').await;
        order
    }

    async fn takes_back(&self, order: i64) {
        self.counts(order, '-').await;
        self.say("DELETE FROM orders WHERE tenant_id = {t} AND id = {o}", order).await;
    }

    async fn counts(&self, order: i64, sign: char) {
        let sql = "UPDATE items SET sold = sold ± l.amount FROM lines l
                    WHERE items.tenant_id = {t} AND l.tenant_id = {t} AND l.order_id = {o} AND l.item = items.id;
                   UPDATE customers c SET balance = balance ± o.total, orders = orders ± 1 FROM orders o
                    WHERE c.tenant_id = {t} AND o.tenant_id = {t} AND o.id = {o} AND c.id = o.customer";
        self.say(&sql.replace('±', &sign.to_string()), order).await;
    }
}

impl Shop {
    /// Epoch 2 is served by the second cell, all others by the first.
    fn open(tenant: &'static str, cells: [&Cell; 2]) -> Self {
        let (stop, made) = <(Arc<AtomicBool>, Arc<AtomicU64>)>::default();
        let epoch = Arc::new(AtomicU64::new(1));
        let mut tills = Vec::new();
        for number in 0..TILLS {
            let ways = cells.map(|cell| (cell.door(), cell.data.clone()));
            let (stop, made, now) = (stop.clone(), made.clone(), epoch.clone());
            tills.push(tokio::spawn(async move {
                let (mut there, mut gone) = (BTreeMap::new(), BTreeSet::new());
                let mut turn = number;
                let mut till: Option<Till> = None;
                while !stop.load(Ordering::SeqCst) {
                    let at = now.load(Ordering::SeqCst);
                    if till.as_ref().is_none_or(|till| till.stamp.epoch.get() != at) {
                        let (door, data) = &ways[usize::from(at == 2)];
                        let stamp = RequestStamp { tenant: TenantId::new(tenant).unwrap(), ..stamp(at) };
                        till = Some(Till { stamp, customer: 0, client: door.open().await, data: data.clone() });
                    }
                    let till = till.as_mut().unwrap();
                    till.customer = turn % CUSTOMERS;
                    if !till.enters().await {
                        tokio::time::sleep(Duration::from_millis(2)).await;
                        continue;
                    }
                    let of_customer = |order: &(&i64, &i32)| *order.1 == till.customer;
                    let old = there.iter().find(of_customer).map(|(order, _)| *order).filter(|_| turn % 3 == 2);
                    turn += 1;
                    if let Some(order) = old {
                        till.takes_back(order).await;
                        till.leaves().await;
                        there.remove(&order);
                        gone.insert(order);
                        continue;
                    }
                    let order = till.orders().await;
                    till.leaves().await;
                    let is_new = there.insert(order, till.customer).is_none() && !gone.contains(&order);
                    assert!(is_new, "order {order} was numbered twice");
                    made.fetch_add(1, Ordering::SeqCst);
                }
                (there.into_keys().collect(), gone)
            }));
        }
        Self { tenant, stop, epoch, made, tills }
    }

    async fn goes_on(&self, more: u64) {
        let wanted = self.made.load(Ordering::SeqCst) + more;
        let made = async {
            while self.made.load(Ordering::SeqCst) < wanted {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        tokio::time::timeout(PATIENCE, made).await.expect("orders are made");
    }

    /// Everything that was answered is there, nothing else, and it adds up.
    async fn closes(self, client: &Client) {
        self.stop.store(true, Ordering::SeqCst);
        let (mut there, mut gone, mut numbered) = (BTreeSet::new(), BTreeSet::new(), 0);
        for till in self.tills {
            let (orders, taken_back) = till.await.unwrap();
            numbered += orders.len() + taken_back.len();
            there.extend(orders);
            gone.extend(taken_back);
        }
        assert_eq!(there.len() + gone.len(), numbered, "no number was given twice");
        assert!(!gone.is_empty() && there.is_disjoint(&gone));
        let rows = client.query("SELECT id FROM orders WHERE tenant_id = $1", &[&self.tenant]).await.unwrap();
        let found: BTreeSet<i64> = rows.iter().map(|row| row.get(0)).collect();
        assert_eq!(found, there);
        for (what, sql) in SUMS {
            let wrong: i64 = client.query_one(sql, &[&self.tenant]).await.unwrap().get(0);
            assert_eq!(wrong, 0, "{}: {what}", self.tenant);
        }
    }
}

/// How many of a tenant's rows are not as they should be.
const SUMS: [(&str, &str); 7] = [
    (
        "lines without their order",
        "SELECT count(*) FROM lines l WHERE tenant_id = $1 AND NOT EXISTS
           (SELECT 1 FROM orders o WHERE o.tenant_id = l.tenant_id AND o.id = l.order_id)",
    ),
    (
        "lines without their item",
        "SELECT count(*) FROM lines l WHERE tenant_id = $1 AND NOT EXISTS
           (SELECT 1 FROM items i WHERE i.tenant_id = l.tenant_id AND i.id = l.item)",
    ),
    (
        "orders without their customer",
        "SELECT count(*) FROM orders o WHERE tenant_id = $1 AND NOT EXISTS
           (SELECT 1 FROM customers c WHERE c.tenant_id = o.tenant_id AND c.id = o.customer)",
    ),
    (
        "orders that are not the sum of their lines",
        "SELECT count(*) FROM orders o WHERE tenant_id = $1 AND total <>
           (SELECT coalesce(sum(amount * price), 0) FROM lines l WHERE l.tenant_id = o.tenant_id AND l.order_id = o.id)",
    ),
    (
        "customers who owe another sum than that of their orders",
        "SELECT count(*) FROM customers c WHERE tenant_id = $1 AND (balance, orders::bigint) <>
           (SELECT coalesce(sum(total), 0), count(*) FROM orders o WHERE o.tenant_id = c.tenant_id AND o.customer = c.id)",
    ),
    (
        "items that were sold in another number",
        "SELECT count(*) FROM items i WHERE tenant_id = $1 AND sold <>
           (SELECT coalesce(sum(amount), 0) FROM lines l WHERE l.tenant_id = i.tenant_id AND l.item = i.id)",
    ),
    (
        "numbers that a sequence would give once more",
        "SELECT count(*) FROM lines l, lines_n_seq s WHERE l.tenant_id = $1 AND l.n > s.last_value",
    ),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shop_that_moves_forth_and_back_under_its_tills_adds_up_and_so_does_its_neighbour() {
    let ground = Ground::new();
    let mut cells = Vec::new();
    for name in ["a", "b"] {
        let url = database().await;
        session(&url).await.batch_execute(SHOP).await.unwrap();
        cells.push(ground.try_open(name, &url, "127.0.0.1:0").await.unwrap());
    }
    let (a, b) = (&cells[0], &cells[1]);
    ground.pool.grant(&a.agent, &outside(1)).await.unwrap();
    let neighbour = StepContext { tenant: TenantId::new("t-2").unwrap(), ..outside(1) };
    ground.pool.grant(&a.agent, &neighbour).await.unwrap();
    let client = a.session().await;
    stock(&client, "t-1").await;
    stock(&client, "t-2").await;
    let (moved, stays) = (Shop::open("t-1", [a, b]), Shop::open("t-2", [a, a]));
    moved.goes_on(20).await;
    forth(&ground, a, b).await;
    moved.goes_on(20).await;
    ground.cut_over(a, b, 1, 1, Leg::Forward).await;
    moved.epoch.store(2, Ordering::SeqCst);
    moved.goes_on(40).await;
    let follower = StepContext { leg: Some(Leg::Forward), ..context(2, 50) };
    ground.progress(a, &follower, |progress| progress.applied.get() > 0 && progress.lag_ms < 500).await;
    ground.cut_over(b, a, 2, 51, Leg::Back).await;
    moved.epoch.store(3, Ordering::SeqCst);
    moved.goes_on(20).await;
    stays.goes_on(1).await;
    moved.closes(&client).await;
    stays.closes(&client).await;
}
