//! What is done in a shop, each in one transaction.
//!
//! Rows are locked in one order, so that no two wait for each other crosswise: the order that is taken back, its customer, what is
//! on hand by the products' numbers, and at the very end the tenant's tally.

use http::StatusCode;
use serde::Deserialize;
use serde_json::json;
use tokio_postgres::Row;

use super::none;
use super::route::Making;
use crate::app::answer::Answer;
use crate::app::tables::{Failed, Work};
use crate::problem::Problem;

const NAME_LENGTH_MAX: usize = 128;
const LINES_MAX: usize = 20;
/// Of a delivery, or of one line.
const AMOUNT_MAX: i64 = 1_000_000;
const PRICE_CENTS_MAX: i64 = 10_000_000;

/// What is done.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::app::tables) enum Trade {
    Customer(Customer),
    Product(Product),
    Delivery { product: i64, amount: i64 },
    Order(Order),
    TakeBack(i64),
}

#[derive(Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::app::tables) struct Customer {
    name: String,
}

#[derive(Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::app::tables) struct Product {
    name: String,
    price_cents: i64,
    amount: i64,
}

#[derive(Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
struct Delivery {
    amount: i64,
}

#[derive(Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::app::tables) struct Order {
    customer: i64,
    /// The client's own name for it.
    reference: String,
    /// In the order of products.
    lines: Vec<Line>,
}

#[derive(Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    product: i64,
    amount: i64,
}

impl Trade {
    /// Reads what a body describes.
    pub(super) fn read(making: Making, body: &[u8]) -> Result<Self, Problem> {
        let trade = match making {
            Making::Customer => Self::Customer(parse(body)?),
            Making::Product => Self::Product(parse(body)?),
            Making::Delivery(product) => {
                let Delivery { amount } = parse(body)?;
                Self::Delivery { product, amount }
            }
            Making::Order => {
                let mut order: Order = parse(body)?;
                order.lines.sort_unstable_by_key(|line| line.product);
                Self::Order(order)
            }
        };
        trade.check().map_or(Ok(trade), |wrong| Err(invalid(wrong)))
    }

    /// What is wrong with it.
    fn check(&self) -> Option<&'static str> {
        let named = |name: &str| (1..=NAME_LENGTH_MAX).contains(&name.chars().count()) && !name.contains('\0');
        let some = |amount: i64| (1..=AMOUNT_MAX).contains(&amount);
        match self {
            Self::Customer(Customer { name }) | Self::Product(Product { name, .. }) if !named(name) => {
                Some("a name has 1 to 128 characters")
            }
            Self::Product(product) if !(0..=PRICE_CENTS_MAX).contains(&product.price_cents) => {
                Some("a price is 0 to 10,000,000 cents")
            }
            Self::Product(product) if !(0..=AMOUNT_MAX).contains(&product.amount) => {
                Some("there are 0 to 1,000,000 of a product at first")
            }
            Self::Delivery { amount, .. } if !some(*amount) => Some("an amount is 1 to 1,000,000"),
            Self::Order(order) if !named(&order.reference) => Some("a reference has 1 to 128 characters"),
            Self::Order(order) if !(1..=LINES_MAX).contains(&order.lines.len()) => {
                Some("an order has 1 to 20 lines")
            }
            Self::Order(order) if !order.lines.iter().all(|line| some(line.amount)) => {
                Some("an amount is 1 to 1,000,000")
            }
            Self::Order(order) if order.lines.windows(2).any(|pair| pair[0].product == pair[1].product) => {
                Some("a product is in one line of an order")
            }
            _ => None,
        }
    }
}

fn parse<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<T, Problem> {
    serde_json::from_slice(body).map_err(|error| invalid(&error.to_string()))
}

fn invalid(detail: &str) -> Problem {
    let hint = "send {\"name\"} for a customer, {\"name\", \"price_cents\", \"amount\"} for a product, {\"amount\"} for a delivery, \
                {\"customer\", \"reference\", \"lines\": [{\"product\", \"amount\"}]} for an order";
    Problem::bad_request("TRADE_INVALID", detail, hint)
}

const CUSTOMER: &str = "INSERT INTO customers (name) VALUES ($1) RETURNING id";
const PRODUCT: &str =
    "INSERT INTO products (name, price, delivered) VALUES ($1, $2::bigint / 100.0, $3) RETURNING id";
const SHELF: &str = "INSERT INTO stock (product, on_hand) VALUES ($1, $2)";
const PUT_ON: &str = "UPDATE stock SET on_hand = on_hand + $2 WHERE product = $1 RETURNING on_hand";
const DELIVERED: &str = "UPDATE products SET delivered = delivered + $2 WHERE id = $1";
const ONE_MORE: &str = "UPDATE customers SET orders = orders + 1 WHERE id = $1 RETURNING id";
const TAKE_OFF: &str =
    "UPDATE stock SET on_hand = on_hand - $2 WHERE product = $1 AND on_hand >= $2 RETURNING on_hand";
const ON_HAND: &str = "SELECT on_hand FROM stock WHERE product = $1";
const ORDER: &str = "INSERT INTO orders (customer, reference) VALUES ($1, $2) RETURNING id";
const LINES: &str = "
INSERT INTO order_lines (order_id, product, amount, price)
SELECT $1::bigint, p.id, n.amount, p.price
  FROM unnest($2::bigint[], $3::bigint[]) AS n (product, amount) JOIN products p ON p.id = n.product
 ORDER BY p.id RETURNING id";
const TOTAL: &str = "
UPDATE orders SET total = (SELECT sum(amount * price) FROM order_lines WHERE order_id = $1)
 WHERE id = $1 RETURNING (total * 100)::bigint";
const OWES: &str = "UPDATE customers SET owes = owes + (SELECT total FROM orders WHERE id = $2) WHERE id = $1";
const ITS_CUSTOMER: &str = "SELECT customer FROM orders WHERE id = $1 FOR UPDATE";
const ONE_LESS: &str = "
UPDATE customers SET orders = orders - 1, owes = owes - (SELECT total FROM orders WHERE id = $2) WHERE id = $1";
const ITS_LINES: &str = "SELECT product, amount FROM order_lines WHERE order_id = $1 ORDER BY product";
/// Its lines go along.
const FORGET: &str = "DELETE FROM orders WHERE id = $1";

impl Work<'_> {
    pub(in crate::app::tables) async fn trade(&self, trade: &Trade) -> Result<Answer, Failed> {
        match trade {
            Trade::Customer(Customer { name }) => {
                let id = number(&self.say(CUSTOMER, &[name]).await?)?;
                Ok(made("customers", id))
            }
            Trade::Product(Product { name, price_cents, amount }) => {
                let id = number(&self.say(PRODUCT, &[name, price_cents, amount]).await?)?;
                self.say(SHELF, &[&id, amount]).await?;
                Ok(made("products", id))
            }
            Trade::Delivery { product, amount } => {
                let put = self.say(PUT_ON, &[product, amount]).await?;
                let row = put.first().ok_or_else(|| unknown_product(*product))?;
                self.say(DELIVERED, &[product, amount]).await?;
                Ok(Answer::new(StatusCode::OK).with_body(&json!({ "on_hand": row.get::<_, i64>(0) })))
            }
            Trade::Order(order) => self.order(order).await,
            Trade::TakeBack(order) => self.take_back(*order).await,
        }
    }

    async fn order(&self, order: &Order) -> Result<Answer, Failed> {
        if self.say(ONE_MORE, &[&order.customer]).await?.is_empty() {
            return Err(none("customer", "CUSTOMER_UNKNOWN", order.customer));
        }
        for Line { product, amount } in &order.lines {
            if self.say(TAKE_OFF, &[product, amount]).await?.is_empty() {
                return Err(self.not_enough(*product, *amount).await?);
            }
        }
        let id = number(&self.say(ORDER, &[&order.customer, &order.reference]).await?)?;
        let (products, amounts): (Vec<i64>, Vec<i64>) =
            order.lines.iter().map(|line| (line.product, line.amount)).unzip();
        let lines = self.say(LINES, &[&id, &products, &amounts]).await?;
        let lines: Vec<i64> = lines.iter().map(|row| row.get(0)).collect();
        let total_cents = number(&self.say(TOTAL, &[&id]).await?)?;
        self.say(OWES, &[&order.customer, &id]).await?;
        let body = json!({ "id": id, "lines": lines, "total_cents": total_cents });
        Ok(Answer::new(StatusCode::CREATED).at(format!("{}orders/{id}", super::PATH)).with_body(&body))
    }

    async fn not_enough(&self, product: i64, amount: i64) -> Result<Failed, Failed> {
        let Some(row) = self.say(ON_HAND, &[&product]).await?.into_iter().next() else {
            return Ok(unknown_product(product));
        };
        let on_hand: i64 = row.get(0);
        let detail = format!("there are {on_hand} of product {product}, and {amount} were ordered");
        let hint = "order less, or wait for a delivery";
        Ok(Failed::Problem(Problem::new(StatusCode::CONFLICT, "OUT_OF_STOCK", detail, hint)))
    }

    async fn take_back(&self, order: i64) -> Result<Answer, Failed> {
        let found = self.say(ITS_CUSTOMER, &[&order]).await?;
        let row = found.first().ok_or_else(|| unknown_order(order))?;
        self.say(ONE_LESS, &[&row.get::<_, i64>(0), &order]).await?;
        for line in self.say(ITS_LINES, &[&order]).await? {
            let (product, amount): (i64, i64) = (line.get(0), line.get(1));
            self.say(PUT_ON, &[&product, &amount]).await?;
        }
        self.say(FORGET, &[&order]).await?;
        Ok(Answer::new(StatusCode::NO_CONTENT))
    }
}

pub(super) fn unknown_order(order: i64) -> Failed {
    none("order", "ORDER_UNKNOWN", order)
}

fn unknown_product(product: i64) -> Failed {
    none("product", "PRODUCT_UNKNOWN", product)
}

fn made(what: &str, id: i64) -> Answer {
    let place = format!("{}{what}/{id}", super::PATH);
    Answer::new(StatusCode::CREATED).at(place).with_body(&json!({ "id": id }))
}

/// The number in the one row of an answer.
fn number(rows: &[Row]) -> Result<i64, Failed> {
    let found = rows.first().map(|row| row.get(0));
    found.ok_or_else(|| Failed::Problem(Problem::damaged("shop")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_has_its_lines_in_the_order_of_products() {
        let body = br#"{"customer": 1, "reference": "r", "lines": [{"product": 9, "amount": 1}, {"product": 2, "amount": 3}]}"#;
        let Ok(Trade::Order(order)) = Trade::read(Making::Order, body) else { panic!("it is an order") };
        assert_eq!(order.lines, [Line { product: 2, amount: 3 }, Line { product: 9, amount: 1 }]);
    }

    #[test]
    fn what_makes_no_sense_is_refused_with_what_would() {
        let long = format!(r#"{{"name": "{}"}}"#, "x".repeat(129));
        let many = (1..=21).map(|n| format!(r#"{{"product": {n}, "amount": 1}}"#)).collect::<Vec<_>>().join(",");
        let many = format!(r#"{{"customer": 1, "reference": "r", "lines": [{many}]}}"#);
        let bad = [
            (Making::Customer, "{}"),
            (Making::Customer, r#"{"name": ""}"#),
            (Making::Customer, r#"{"name": "a", "age": 3}"#),
            (Making::Customer, long.as_str()),
            (Making::Product, r#"{"name": "a", "price_cents": -1, "amount": 1}"#),
            (Making::Product, r#"{"name": "a", "price_cents": 1, "amount": -1}"#),
            (Making::Product, r#"{"name": "a\u0000", "price_cents": 1, "amount": 1}"#),
            (Making::Delivery(1), r#"{"amount": 0}"#),
            (Making::Delivery(1), r#"{"amount": 1000001}"#),
            (Making::Order, r#"{"customer": 1, "reference": "r", "lines": []}"#),
            (Making::Order, r#"{"customer": 1, "reference": "", "lines": [{"product": 1, "amount": 1}]}"#),
            (Making::Order, r#"{"customer": 1, "reference": "r", "lines": [{"product": 1, "amount": 0}]}"#),
            (
                Making::Order,
                r#"{"customer": 1, "reference": "r", "lines": [{"product": 1, "amount": 1}, {"product": 1, "amount": 1}]}"#,
            ),
            (Making::Order, many.as_str()),
        ];
        for (making, body) in bad {
            match Trade::read(making, body.as_bytes()) {
                Err(Problem::Said { code, hint, .. }) => {
                    assert!(code == "TRADE_INVALID" && hint.contains("send"), "{body}");
                }
                other => panic!("{body}: {other:?}"),
            }
        }
    }
}
