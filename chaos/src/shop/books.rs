//! What there is in a shop, as a client reads it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use http::Request;
use http::header::HOST;
use http_body_util::Full;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::http_client::{Connection, code_of};

/// Tenants that are read at the same time.
const AT_ONCE: usize = 4;
const PAGE: u32 = 100;
const READ_WITHIN: Duration = Duration::from_secs(10);

/// All of one shop.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Books {
    /// By their numbers.
    pub customers: Vec<Customer>,
    /// By their numbers.
    pub products: Vec<Product>,
    /// By their numbers.
    pub orders: Vec<Order>,
}

/// A customer.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Customer {
    /// Number.
    pub id: i64,
    /// How many orders he has, as his own row says,
    pub orders: i64,
    /// and as they are counted.
    pub orders_counted: i64,
    /// What he owes, in cents, as his own row says,
    pub owes_cents: i64,
    /// and as his orders add up to.
    pub owes_summed_cents: i64,
}

/// A product.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Product {
    /// Number.
    pub id: i64,
    /// How many there have ever been.
    pub delivered: i64,
    /// How many there are; none where its row is missing.
    pub on_hand: Option<i64>,
    /// How many are in lines of orders.
    pub ordered: i64,
}

/// An order.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Order {
    /// Number.
    pub id: i64,
    /// The client's own name for it.
    pub reference: String,
    /// Whose; none where there is no such customer.
    pub customer: Option<i64>,
    /// What it costs, in cents.
    pub total_cents: i64,
    /// By their numbers.
    pub lines: Vec<Line>,
}

/// One line of an order.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Line {
    /// Number.
    pub id: i64,
    /// Of which product.
    pub product: i64,
    /// How many.
    pub amount: i64,
    /// What one of them costs, in cents.
    pub price_cents: i64,
}

/// Reads the books of all these tenants, through these routers (`host:port`) in turn.
///
/// # Errors
/// A sentence with the tenant whose books cannot be read.
pub async fn read(routers: &[String], tenants: &[Arc<str>]) -> Result<BTreeMap<Arc<str>, Books>, String> {
    if routers.is_empty() {
        return Err("there is no router to read the books through".into());
    }
    let read = futures::stream::iter(tenants.iter().cloned().enumerate()).map(|(index, tenant)| async move {
        let mut reader = Reader {
            connection: Connection::new(routers[index % routers.len()].clone(), READ_WITHIN),
            tenant: tenant.clone(),
        };
        let books = reader.books().await.map_err(|error| format!("the books of tenant {tenant}: {error}"))?;
        Ok::<_, String>((tenant, books))
    });
    read.buffer_unordered(AT_ONCE).try_collect().await
}

struct Reader {
    connection: Connection,
    tenant: Arc<str>,
}

#[derive(Deserialize)]
struct Page<T> {
    items: Vec<T>,
    next: Option<i64>,
}

impl Reader {
    async fn books(&mut self) -> Result<Books, String> {
        Ok(Books {
            customers: self.all("customers").await?,
            products: self.all("products").await?,
            orders: self.all("orders").await?,
        })
    }

    async fn all<T: DeserializeOwned>(&mut self, what: &str) -> Result<Vec<T>, String> {
        let (mut all, mut after) = (Vec::new(), 0);
        loop {
            let path = format!("/shop/{what}?after={after}&limit={PAGE}");
            let body = self.get(&path).await?;
            let page: Page<T> = serde_json::from_slice(&body).map_err(|error| format!("{path}: {error}"))?;
            all.extend(page.items);
            match page.next {
                Some(next) if next > after => after = next,
                Some(next) => return Err(format!("{path}: the next page is after {next}")),
                None => return Ok(all),
            }
        }
    }

    async fn get(&mut self, path: &str) -> Result<Bytes, String> {
        let request =
            Request::get(path).header(HOST, self.connection.address()).header("x-tenant-id", &*self.tenant);
        let request = request.body(Full::<Bytes>::default()).map_err(|error| error.to_string())?;
        let answer = self.connection.call(request).await.map_err(|error| error.to_string())?;
        let (status, code) = (answer.status(), code_of(answer.status(), answer.body()));
        if status.is_success() {
            return Ok(answer.into_body());
        }
        Err(format!("GET {path} at {} was answered {status} ({code})", self.connection.address()))
    }
}
