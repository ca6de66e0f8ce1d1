//! The tills: clients that trade, one request after the other, through the routers.
//!
//! | of 100 turns | |
//! |---|---|
//! | 45 | an order of one to five products; some under an idempotency key, and a part of those sent twice |
//! | 10 | an order of the till's own is taken back |
//! | 10 | a delivery |
//! | 5 | a new customer |
//! | 20 | an order of the till's own is looked at: order, customer, lines and products joined |
//! | 10 | customers with their orders added up, or products with their lines |

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use http::header::RETRY_AFTER;
use http::{Method, Response, StatusCode};
use serde::Deserialize;
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::{Deed, Ledger, OUT_OF_STOCK, Told, What};
use crate::http_client::{CallError, code_of};
use crate::load::session::Session;
use crate::load::{Load, Running};

/// What a shop begins with.
const CUSTOMERS: usize = 3;
const PRODUCTS: usize = 8;
const AT_FIRST: i64 = 400;
/// Shops that are opened at the same time.
const OPENED_AT_ONCE: usize = 8;
const LINES_MAX: u64 = 5;
/// Orders that a till remembers as its own, to look at and to take back.
const OWN_MAX: usize = 64;

/// Open shops, and who trades in them. Clones are of the same shops.
#[derive(Debug, Clone)]
pub struct Shops {
    load: Load,
    shelves: Arc<BTreeMap<Arc<str>, Shelves>>,
    ledger: Ledger,
}

/// What there is to choose from in one shop.
#[derive(Debug)]
struct Shelves {
    customers: Vec<i64>,
    products: Vec<i64>,
}

impl Shops {
    /// Gives each tenant its customers and products.
    ///
    /// # Errors
    /// A sentence with the first tenant whose shop could not be opened.
    pub async fn open(load: &Load, tenants: &[Arc<str>]) -> Result<Self, String> {
        let ledger = Ledger::default();
        let open = futures::stream::iter(tenants.iter().cloned()).map(|tenant| {
            let mut till = Till {
                session: load.session(),
                tenants: Arc::new([tenant.clone()]),
                shops: Self { load: load.clone(), shelves: Arc::default(), ledger: ledger.clone() },
                own: Vec::new(),
            };
            async move {
                let shelves = till.furnish(&tenant).await;
                shelves.map(|shelves| (tenant.clone(), shelves)).map_err(|why| {
                    format!(
                        "the shop of tenant {tenant} cannot be opened: {why}; are its cells started with --shop?"
                    )
                })
            }
        });
        let shelves = open.buffer_unordered(OPENED_AT_ONCE).try_collect().await?;
        Ok(Self { load: load.clone(), shelves: Arc::new(shelves), ledger })
    }

    /// So many tills, in the shops of these tenants; each waits so long after an answer.
    #[must_use]
    pub fn trade(&self, tenants: &Arc<[Arc<str>]>, tills: u32, gap: Duration) -> Running {
        let mut running = Running::none();
        for _ in 0..tills {
            let (session, own) = (self.load.session(), Vec::new());
            let till = Till { session, tenants: tenants.clone(), shops: self.clone(), own };
            running.join(|stop| till.run(gap, stop));
        }
        running
    }

    /// All that tills were told.
    #[must_use]
    pub const fn ledger(&self) -> &Ledger {
        &self.ledger
    }
}

struct Till {
    session: Session,
    tenants: Arc<[Arc<str>]>,
    shops: Shops,
    own: Vec<(Arc<str>, i64)>,
}

impl Till {
    async fn run(mut self, gap: Duration, stop: CancellationToken) {
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(gap) => {}
            }
            self.turn().await;
        }
    }

    async fn turn(&mut self) {
        let choices = &mut self.session.choices;
        let Some(tenant) = self.tenants.get(choices.index(self.tenants.len())).cloned() else { return };
        let kind = choices.below(100);
        let own = choices.index(self.own.len());
        match kind {
            45..55 if self.own.len() > own => {
                let (tenant, order) = self.own.swap_remove(own);
                let path = format!("/shop/orders/{order}");
                self.ask(&tenant, What::TakeBack { order }, Method::DELETE, path, None, None).await;
            }
            55..65 => self.deliver(&tenant).await,
            65..70 => {
                let body = json!({ "name": format!("customer {}", self.shops.load.nonce()) });
                self.post(&tenant, What::Customer, "/shop/customers".into(), &body).await;
            }
            70..90 if self.own.len() > own => {
                let (tenant, order) = self.own[own].clone();
                let path = format!("/shop/orders/{order}");
                self.ask(&tenant, What::Look { order }, Method::GET, path, None, None).await;
            }
            90..100 => {
                let path = if kind < 95 { "/shop/customers?limit=20" } else { "/shop/products?limit=20" };
                self.ask(&tenant, What::List, Method::GET, path.into(), None, None).await;
            }
            _ => self.order(&tenant).await,
        }
    }

    async fn deliver(&mut self, tenant: &Arc<str>) {
        let Some(product) = self.product(tenant) else { return };
        let amount = self.session.choices.between(1, 50).cast_signed();
        let path = format!("/shop/products/{product}/deliveries");
        self.post(tenant, What::Delivery { product, amount }, path, &json!({ "amount": amount })).await;
    }

    async fn order(&mut self, tenant: &Arc<str>) {
        let nonce = self.shops.load.nonce();
        let wanted = self.session.choices.between(1, LINES_MAX);
        let mut lines = BTreeMap::new();
        for _ in 0..wanted {
            let Some(product) = self.product(tenant) else { return };
            lines.insert(product, self.session.choices.between(1, 4).cast_signed());
        }
        let Some(shelves) = self.shops.shelves.get(tenant) else { return };
        let choices = &mut self.session.choices;
        let Some(&customer) = shelves.customers.get(choices.index(shelves.customers.len())) else { return };
        let named = choices.percent(30);
        let again = named && choices.percent(25);
        let reference: Arc<str> = format!("{tenant}/{nonce}").into();
        let body = json!({
            "customer": customer,
            "reference": &*reference,
            "lines": lines.iter().map(|(product, amount)| json!({ "product": product, "amount": amount })).collect::<Vec<_>>(),
        });
        let what = What::Order { reference, customer, lines: lines.into_iter().collect() };
        let key = named.then(|| format!("o-{nonce}"));
        let mut told = Told::Done;
        for _ in 0..=u32::from(again) {
            let (path, body) = ("/shop/orders".to_owned(), Some(&body));
            told = self.ask(tenant, what.clone(), Method::POST, path, body, key.as_deref()).await;
        }
        if let Told::Made { id, .. } = told
            && self.own.len() < OWN_MAX
        {
            self.own.push((tenant.clone(), id));
        }
    }

    fn product(&mut self, tenant: &Arc<str>) -> Option<i64> {
        let shelves = self.shops.shelves.get(tenant)?;
        shelves.products.get(self.session.choices.index(shelves.products.len())).copied()
    }

    /// Customers and products of a new shop.
    async fn furnish(&mut self, tenant: &Arc<str>) -> Result<Shelves, String> {
        let mut shelves = Shelves { customers: Vec::new(), products: Vec::new() };
        for number in 0..CUSTOMERS {
            let body = json!({ "name": format!("customer {number}") });
            let told = self.post(tenant, What::Customer, "/shop/customers".into(), &body).await;
            shelves.customers.push(made(told)?);
        }
        for number in 0..PRODUCTS {
            let price_cents = self.session.choices.between(5, 9_999);
            let body =
                json!({ "name": format!("product {number}"), "price_cents": price_cents, "amount": AT_FIRST });
            let what = What::Product { amount: AT_FIRST };
            let told = self.post(tenant, what, "/shop/products".into(), &body).await;
            shelves.products.push(made(told)?);
        }
        Ok(shelves)
    }

    async fn post(&mut self, tenant: &Arc<str>, what: What, path: String, body: &serde_json::Value) -> Told {
        self.ask(tenant, what, Method::POST, path, Some(body), None).await
    }

    /// Asks, and notes what it was told.
    async fn ask(
        &mut self,
        tenant: &Arc<str>,
        what: What,
        method: Method,
        path: String,
        body: Option<&serde_json::Value>,
        key: Option<&str>,
    ) -> Told {
        let body = body.map(|body| body.to_string().into_bytes()).unwrap_or_default();
        let answer = self.session.ask(tenant, method, path, body, key).await;
        let (told, failed) = judge(&what, answer);
        if failed {
            tracing::warn!(%tenant, ?what, ?told, "a request of a till has failed");
        }
        let returned = self.shops.load.clock().now();
        self.shops.ledger.note(Deed { tenant: tenant.clone(), what, told: told.clone(), returned, failed });
        told
    }
}

fn made(told: Told) -> Result<i64, String> {
    match told {
        Told::Made { id, .. } => Ok(id),
        Told::Refused { code } => Err(format!("it was refused ({code})")),
        other => Err(format!("{other:?}")),
    }
}

/// What an answer means, and whether the request counts as failed.
fn judge(what: &What, answer: Result<Response<Bytes>, CallError>) -> (Told, bool) {
    let answer = match answer {
        Ok(answer) => answer,
        Err(CallError::NotSent { .. }) => return (Told::Refused { code: "NO_CONNECTION".into() }, true),
        Err(CallError::NoAnswer { reason, .. }) => return (Told::Unknown { reason: reason.into() }, true),
    };
    let status = answer.status();
    let code: Arc<str> = code_of(status, answer.body()).into();
    match status {
        status if status.is_success() => understand(what, answer.body())
            .map_or_else(|error| (Told::Unknown { reason: error.to_string().into() }, true), |told| (told, false)),
        StatusCode::NOT_FOUND if matches!(what, What::Look { .. }) && &*code == "ORDER_UNKNOWN" => {
            (Told::Shown(None), false)
        }
        StatusCode::CONFLICT if &*code == OUT_OF_STOCK => (Told::Refused { code }, false),
        StatusCode::TOO_MANY_REQUESTS => (Told::Refused { code }, false),
        StatusCode::SERVICE_UNAVAILABLE if answer.headers().contains_key(RETRY_AFTER) => {
            (Told::Refused { code }, true)
        }
        status if status.is_server_error() => (Told::Unknown { reason: code }, true),
        _ => (Told::Refused { code }, true),
    }
}

fn understand(what: &What, body: &[u8]) -> Result<Told, serde_json::Error> {
    #[derive(Deserialize)]
    struct Made {
        id: i64,
        #[serde(default)]
        lines: Vec<i64>,
    }
    Ok(match what {
        What::Customer | What::Product { .. } | What::Order { .. } => {
            let Made { id, lines } = serde_json::from_slice(body)?;
            Told::Made { id, lines }
        }
        What::Look { .. } => Told::Shown(Some(serde_json::from_slice(body)?)),
        What::Delivery { .. } | What::TakeBack { .. } | What::List => Told::Done,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(status: u16, body: &'static str) -> Result<Response<Bytes>, CallError> {
        Ok(Response::builder().status(status).body(Bytes::from_static(body.as_bytes())).unwrap())
    }

    fn order() -> What {
        What::Order { reference: "t/1".into(), customer: 1, lines: vec![(1, 2)] }
    }

    #[test]
    fn an_answer_is_taken_for_what_it_says_and_no_more() {
        let told = judge(&order(), answer(201, r#"{"id": 7, "lines": [3], "total_cents": 4}"#));
        assert_eq!(told, (Told::Made { id: 7, lines: vec![3] }, false));
        assert!(matches!(judge(&order(), answer(201, "{}")), (Told::Unknown { .. }, true)));
        assert!(matches!(
            judge(&order(), answer(409, r#"{"code":"OUT_OF_STOCK"}"#)),
            (Told::Refused { .. }, false)
        ));
        assert!(matches!(
            judge(&order(), answer(404, r#"{"code":"CUSTOMER_UNKNOWN"}"#)),
            (Told::Refused { .. }, true)
        ));
        assert!(matches!(judge(&order(), answer(503, "{}")), (Told::Unknown { .. }, true)));
        assert!(matches!(judge(&order(), answer(429, "{}")), (Told::Refused { .. }, false)));
        assert_eq!(judge(&What::TakeBack { order: 1 }, answer(204, "")), (Told::Done, false));
        let gone = answer(404, r#"{"code":"ORDER_UNKNOWN"}"#);
        assert_eq!(judge(&What::Look { order: 1 }, gone), (Told::Shown(None), false));
        let address = String::new();
        let lost = Err(CallError::NoAnswer { address, reason: "r".into() });
        assert!(matches!(judge(&order(), lost), (Told::Unknown { .. }, true)));
    }
}
