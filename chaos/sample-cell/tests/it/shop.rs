//! A shop for each tenant, in every layout.

use serde_json::{Value, json};

use super::tables::{In, options_on, server};
use super::*;

async fn start(layout: In) -> (Running, String) {
    let url = server::database().await;
    let cell = Running::start(Options { shop: true, ..options_on(&url, "c1", layout, None) }).await;
    cell.grant("t").await;
    cell.grant("u").await;
    (cell, url)
}

/// One tenant's client.
struct Client {
    router: Router,
}

impl Client {
    async fn of(cell: &Running, tenant: &str) -> Self {
        Self { router: Router::to(cell.gates[0], tenant, 1).await }
    }

    async fn post(&mut self, path: &str, body: &Value) -> Answer {
        self.router.ask(Method::POST, path, body.to_string()).await
    }

    /// The number of what was made.
    async fn made(&mut self, path: &str, body: &Value) -> i64 {
        let answer = self.post(path, body).await;
        assert_eq!(answer.status, StatusCode::CREATED, "{answer:?}");
        answer.json()["id"].as_i64().unwrap()
    }

    async fn get(&mut self, path: &str) -> Value {
        let answer = self.router.ask(Method::GET, path, "").await;
        assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
        answer.json()
    }

    /// A customer, and two products of which there are ten.
    async fn furnish(&mut self) -> (i64, [i64; 2]) {
        let customer = self.made("/shop/customers", &json!({ "name": "Ada" })).await;
        let mut products = [0; 2];
        for (product, price_cents) in products.iter_mut().zip([250, 99]) {
            let new = json!({ "name": "a thing", "price_cents": price_cents, "amount": 10 });
            *product = self.made("/shop/products", &new).await;
        }
        (customer, products)
    }
}

fn order(customer: i64, reference: &str, lines: &[(i64, i64)]) -> Value {
    let lines: Vec<Value> =
        lines.iter().map(|(product, amount)| json!({ "product": product, "amount": amount })).collect();
    json!({ "customer": customer, "reference": reference, "lines": lines })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_order_is_one_transaction_in_every_layout() {
    for layout in [In::Shared, In::Own, In::Each] {
        let (cell, _url) = start(layout).await;
        an_order_is_one_transaction(&cell).await;
        cell.stop().await;
    }
}

async fn an_order_is_one_transaction(cell: &Running) {
    let mut client = Client::of(cell, "t").await;
    let (customer, [one, other]) = client.furnish().await;
    let made = client.post("/shop/orders", &order(customer, "first", &[(other, 3), (one, 2)])).await;
    assert_eq!(made.status, StatusCode::CREATED, "{made:?}");
    let (id, lines) = (made.json()["id"].clone(), made.json()["lines"].clone());
    assert_eq!(made.header("location"), format!("/shop/orders/{id}"));
    assert_eq!((made.json()["total_cents"].as_i64(), lines.as_array().unwrap().len()), (Some(797), 2));
    let shown = client.get(&format!("/shop/orders/{id}")).await;
    let line = |n: usize, product: i64, amount: i64, price_cents: i64| json!({ "id": lines[n], "product": product, "name": "a thing", "amount": amount, "price_cents": price_cents });
    let expected = json!({
        "id": id, "reference": "first", "customer": customer, "customer_name": "Ada", "total_cents": 797,
        "lines": [line(0, one, 2, 250), line(1, other, 3, 99)],
    });
    assert_eq!(shown, expected);

    // The second line is too much: nothing of the first is done.
    let refused = client.post("/shop/orders", &order(customer, "second", &[(one, 1), (other, 8)])).await;
    assert_eq!((refused.status, refused.json()["code"].as_str()), (StatusCode::CONFLICT, Some("OUT_OF_STOCK")));
    let products = client.get("/shop/products").await;
    let stock = |products: &Value, n: usize| {
        ["delivered", "on_hand", "ordered"].map(|name| products["items"][n][name].as_i64().unwrap())
    };
    assert_eq!((stock(&products, 0), stock(&products, 1)), ([10, 8, 2], [10, 7, 3]));
    let customers = client.get("/shop/customers").await;
    let owes = |customers: &Value| {
        ["orders", "orders_counted", "owes_cents", "owes_summed_cents"]
            .map(|name| customers["items"][0][name].as_i64().unwrap())
    };
    assert_eq!(owes(&customers), [1, 1, 797, 797]);

    let delivered = client.post(&format!("/shop/products/{other}/deliveries"), &json!({ "amount": 5 })).await;
    assert_eq!((delivered.status, delivered.json()["on_hand"].as_i64()), (StatusCode::OK, Some(12)));
    let back = client.router.ask(Method::DELETE, &format!("/shop/orders/{id}"), "").await;
    assert_eq!(back.status, StatusCode::NO_CONTENT);
    let products = client.get("/shop/products").await;
    assert_eq!((stock(&products, 0), stock(&products, 1)), ([10, 10, 0], [15, 15, 0]));
    assert_eq!(owes(&client.get("/shop/customers").await), [0, 0, 0, 0]);
    let gone = client.router.ask(Method::GET, &format!("/shop/orders/{id}"), "").await;
    assert_eq!((gone.status, gone.json()["code"].as_str()), (StatusCode::NOT_FOUND, Some("ORDER_UNKNOWN")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pages_of_orders_follow_each_other_and_what_is_unknown_is_named() {
    let (cell, _url) = start(In::Shared).await;
    let mut client = Client::of(&cell, "t").await;
    let (customer, [product, _]) = client.furnish().await;
    let mut made = Vec::new();
    for n in 0..5 {
        made.push(client.made("/shop/orders", &order(customer, &format!("o-{n}"), &[(product, 1)])).await);
    }
    let (mut listed, mut after) = (Vec::new(), 0);
    loop {
        let page = client.get(&format!("/shop/orders?limit=2&after={after}")).await;
        listed.extend(page["items"].as_array().unwrap().iter().map(|order| order["id"].as_i64().unwrap()));
        match page["next"].as_i64() {
            Some(next) => after = next,
            None => break,
        }
    }
    assert_eq!(listed, made);
    for (path, body, code) in [
        ("/shop/orders", order(99_999, "r", &[(product, 1)]), "CUSTOMER_UNKNOWN"),
        ("/shop/orders", order(customer, "r", &[(99_999, 1)]), "PRODUCT_UNKNOWN"),
        ("/shop/products/99999/deliveries", json!({ "amount": 1 }), "PRODUCT_UNKNOWN"),
        ("/shop/orders", json!({}), "TRADE_INVALID"),
        ("/shop/sales", json!({}), "PATH_UNKNOWN"),
    ] {
        assert_eq!(client.post(path, &body).await.json()["code"], code, "{path}");
    }
    let back = client.router.ask(Method::DELETE, "/shop/orders/99999", "").await;
    assert_eq!(back.json()["code"], "ORDER_UNKNOWN");
    assert_eq!(client.get("/shop/customers").await["items"][0]["orders"], 5, "what was refused has left nothing");
    cell.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tenant_is_in_its_own_shop_for_one_transaction_and_nobody_is_in_any_after_it() {
    let (cell, url) = start(In::Shared).await;
    for tenant in ["t", "u"] {
        let mut client = Client::of(&cell, tenant).await;
        let (customer, [product, _]) = client.furnish().await;
        client.made("/shop/orders", &order(customer, tenant, &[(product, 1)])).await;
        let orders = client.get("/shop/orders").await;
        assert_eq!(orders["items"].as_array().unwrap().len(), 1);
        assert_eq!(orders["items"][0]["reference"], tenant);
        // Another tenant's customer is nobody's.
        let mut other = Client::of(&cell, if tenant == "t" { "u" } else { "t" }).await;
        let refused = other.post("/shop/orders", &order(customer, "stolen", &[(product, 1)])).await;
        assert_eq!(refused.json()["code"], "CUSTOMER_UNKNOWN");
    }
    let session = server::session(&url).await;
    session.batch_execute("SET ROLE cellway_documents").await.unwrap();
    let seen = async || -> i64 {
        let counted = session.query_one("SELECT count(*) FROM order_lines", &[]).await.unwrap();
        counted.get(0)
    };
    assert_eq!(seen().await, 0);
    session.batch_execute("BEGIN; SELECT cellway.enter('u', 1, 1)").await.unwrap();
    assert_eq!(seen().await, 1);
    session.batch_execute("COMMIT").await.unwrap();
    assert_eq!(seen().await, 0, "the tenant has left the session with its transaction");
    let nobodys = session.batch_execute("INSERT INTO customers (name) VALUES ('nobody')").await;
    assert!(nobodys.is_err(), "a row without a tenant is not written");
    cell.stop().await;
}

/// Both have looked for the answer before either has kept one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_order_sent_twice_at_once_under_one_key_is_made_once() {
    let (cell, url) = start(In::Shared).await;
    let mut client = Client::of(&cell, "t").await;
    let (customer, [product, _]) = client.furnish().await;
    let body = order(customer, "once", &[(product, 1)]).to_string();
    // Whoever holds the customer's row lets both come as far as that.
    let somebody = server::session(&url).await;
    somebody.batch_execute("BEGIN; SELECT FROM customers WHERE tenant_id = 't' FOR UPDATE").await.unwrap();
    let twins = [0, 1].map(|n| {
        let (gate, body) = (cell.gates[n], body.clone());
        tokio::spawn(async move {
            let mut router = Router::to(gate, "t", 1).await;
            router.ask_under(Method::POST, "/shop/orders", body, Some("k")).await
        })
    });
    let waiting = "SELECT count(*) = 2 FROM pg_stat_activity \
                    WHERE datname = current_database() AND wait_event_type = 'Lock'";
    server::until_true(&server::session(&url).await, waiting).await;
    somebody.batch_execute("ROLLBACK").await.unwrap();
    let mut answers = Vec::new();
    for twin in twins {
        answers.push(twin.await.unwrap());
    }
    assert!(answers.iter().all(|answer| answer.status == StatusCode::CREATED), "{answers:?}");
    assert_eq!(answers[0].text, answers[1].text);
    let again = answers.iter().filter(|answer| answer.header("idempotent-replayed") == "true").count();
    assert_eq!(again, 1);
    assert_eq!(client.get("/shop/orders").await["items"].as_array().unwrap().len(), 1);
    cell.stop().await;
}
