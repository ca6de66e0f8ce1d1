//! What there is in a shop. Whatever belongs to something else is joined to it from the left: what lacks its other half is shown
//! with a null, and not left out.

use serde_json::{Value, json};
use tokio_postgres::Row;

use super::route::{Look, Page};
use super::trade::unknown_order;
use crate::app::tables::{Failed, Work};

const CUSTOMERS: &str = "
SELECT c.id, c.name, c.orders, (c.owes * 100)::bigint, count(o.id), (coalesce(sum(o.total), 0) * 100)::bigint
  FROM customers c LEFT JOIN orders o ON o.customer = c.id
 WHERE c.id > $1 GROUP BY c.id, c.name, c.orders, c.owes ORDER BY c.id LIMIT $2";
const PRODUCTS: &str = "
SELECT p.id, p.name, (p.price * 100)::bigint, p.delivered, s.on_hand,
       (SELECT coalesce(sum(l.amount), 0)::bigint FROM order_lines l WHERE l.product = p.id)
  FROM products p LEFT JOIN stock s ON s.product = p.id
 WHERE p.id > $1 ORDER BY p.id LIMIT $2";
const ORDERS: &str = "
SELECT o.id, o.reference, c.id, c.name, (o.total * 100)::bigint, l.id, l.product, p.name, l.amount,
       (l.price * 100)::bigint
  FROM (SELECT id, reference, customer, total FROM orders WHERE id > $1 ORDER BY id LIMIT $2) o
  LEFT JOIN customers c ON c.id = o.customer
  LEFT JOIN order_lines l ON l.order_id = o.id
  LEFT JOIN products p ON p.id = l.product
 ORDER BY o.id, l.id";

impl Work<'_> {
    /// Shows something, as JSON.
    pub(super) async fn show(&self, look: Look) -> Result<Value, Failed> {
        match look {
            Look::Order(id) => {
                let orders = orders(&self.say(ORDERS, &[&(id - 1), &1_i64]).await?);
                let found = orders.into_iter().next().filter(|order| order["id"] == id);
                found.ok_or_else(|| unknown_order(id))
            }
            Look::Customers(page) => {
                let items = self.rows(CUSTOMERS, page).await?.iter().map(customer).collect();
                Ok(listed(items, page))
            }
            Look::Products(page) => {
                let items = self.rows(PRODUCTS, page).await?.iter().map(product).collect();
                Ok(listed(items, page))
            }
            Look::Orders(page) => Ok(listed(orders(&self.rows(ORDERS, page).await?), page)),
        }
    }

    /// Of one more than a page has.
    async fn rows(&self, sql: &str, page: Page) -> Result<Vec<Row>, Failed> {
        self.say(sql, &[&page.after, &(page.limit + 1)]).await
    }
}

/// `{"items": […], "next": <id> | null}`.
fn listed(mut items: Vec<Value>, page: Page) -> Value {
    let limit = usize::try_from(page.limit).unwrap_or(usize::MAX);
    let more = items.len() > limit;
    items.truncate(limit);
    let next = items.last().filter(|_| more).map(|last| last["id"].clone());
    json!({ "items": items, "next": next })
}

fn customer(row: &Row) -> Value {
    json!({
        "id": row.get::<_, i64>(0),
        "name": row.get::<_, &str>(1),
        "orders": row.get::<_, i64>(2),
        "owes_cents": row.get::<_, i64>(3),
        "orders_counted": row.get::<_, i64>(4),
        "owes_summed_cents": row.get::<_, i64>(5),
    })
}

fn product(row: &Row) -> Value {
    json!({
        "id": row.get::<_, i64>(0),
        "name": row.get::<_, &str>(1),
        "price_cents": row.get::<_, i64>(2),
        "delivered": row.get::<_, i64>(3),
        "on_hand": row.get::<_, Option<i64>>(4),
        "ordered": row.get::<_, i64>(5),
    })
}

/// One for each order, of a row for each line.
fn orders(rows: &[Row]) -> Vec<Value> {
    let of_one = rows.chunk_by(|one, next| one.get::<_, i64>(0) == next.get::<_, i64>(0));
    let order = |rows: &[Row]| {
        let first = &rows[0];
        let lines: Vec<Value> = rows.iter().filter_map(line).collect();
        json!({
            "id": first.get::<_, i64>(0),
            "reference": first.get::<_, &str>(1),
            "customer": first.get::<_, Option<i64>>(2),
            "customer_name": first.get::<_, Option<&str>>(3),
            "total_cents": first.get::<_, i64>(4),
            "lines": lines,
        })
    };
    of_one.map(order).collect()
}

fn line(row: &Row) -> Option<Value> {
    let id: i64 = row.get::<_, Option<i64>>(5)?;
    Some(json!({
        "id": id,
        "product": row.get::<_, i64>(6),
        "name": row.get::<_, Option<&str>>(7),
        "amount": row.get::<_, i64>(8),
        "price_cents": row.get::<_, i64>(9),
    }))
}
