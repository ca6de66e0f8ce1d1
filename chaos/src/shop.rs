//! A shop for each tenant, as the sample application keeps it in PostgreSQL: a load of short transactions over several tables, and
//! the audit of what became of them.
//!
//! ```text
//! open ─► customers and products of each tenant ─► tills: orders, some taken back, deliveries, looks ─► close the tills
//!      ─► read all books through a router ─► audit: what tills were told, against what the books say
//! ```
//! * [`till`] – the clients. Like a run of pgbench they choose a tenant and a transaction for each turn, of a fixed mix; unlike it
//!   they remember what they were told.
//! * [`books`] – what there is in the end; [`audit`] – what is wrong with it. It is a function of both, and knows of no cell and no move.

pub mod audit;
pub mod books;
pub mod till;

use std::sync::{Arc, Mutex, PoisonError};

use serde::Serialize;

use crate::clock::Micros;
use books::Order;

/// What a till has asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum What {
    /// A new customer.
    Customer,
    /// A new product.
    Product {
        /// How many there are of it at first.
        amount: i64,
    },
    /// More of a product.
    Delivery {
        /// Which.
        product: i64,
        /// How many more.
        amount: i64,
    },
    /// A new order.
    Order {
        /// The till's own name for it; sent again under its idempotency key it has the same one.
        reference: Arc<str>,
        /// Whose.
        customer: i64,
        /// How many of which product, by the products' numbers.
        lines: Vec<(i64, i64)>,
    },
    /// An order of this till's goes back.
    TakeBack {
        /// Which.
        order: i64,
    },
    /// An order of this till's that was made, and was not asked to go back.
    Look {
        /// Which.
        order: i64,
    },
    /// A page of customers or products.
    List,
}

/// What it was told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Told {
    /// It is there under this number.
    Made {
        /// Of the customer, product or order.
        id: i64,
        /// Of an order's lines.
        lines: Vec<i64>,
    },
    /// It is done, or was listed.
    Done,
    /// The order, if there is one.
    Shown(Option<Order>),
    /// Surely not done.
    Refused {
        /// The code of the answer.
        code: Arc<str>,
    },
    /// Done or not.
    Unknown {
        /// Why nobody knows.
        reason: Arc<str>,
    },
}

/// One request of a till.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Deed {
    /// Of whose shop.
    pub tenant: Arc<str>,
    /// What was asked.
    pub what: What,
    /// What was answered.
    pub told: Told,
    /// When.
    pub returned: Micros,
    /// It ended in a 5xx, a broken connection, no answer, or a refusal that makes no sense.
    pub failed: bool,
}

/// All that tills were told. Clones note in the same one.
#[derive(Debug, Clone, Default)]
pub struct Ledger {
    deeds: Arc<Mutex<Vec<Deed>>>,
}

impl Ledger {
    /// Notes one more.
    pub fn note(&self, deed: Deed) {
        self.deeds.lock().unwrap_or_else(PoisonError::into_inner).push(deed);
    }

    /// What has been noted so far.
    #[must_use]
    pub fn deeds(&self) -> Vec<Deed> {
        self.deeds.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// How many orders were acknowledged so far.
    #[must_use]
    pub fn orders(&self) -> u64 {
        Counts::of(&self.deeds.lock().unwrap_or_else(PoisonError::into_inner)).orders
    }
}

/// How much was done in shops.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// Orders that were acknowledged, each once.
    pub orders: u64,
    /// Orders that were taken back.
    pub taken_back: u64,
    /// Deliveries.
    pub deliveries: u64,
    /// Orders, and pages, that were shown.
    pub looks: u64,
    /// Orders that were refused because there was too little on hand.
    pub out_of_stock: u64,
    /// Writes whose outcome nobody knows.
    pub unknown: u64,
}

impl Counts {
    /// Of these.
    #[must_use]
    pub fn of(deeds: &[Deed]) -> Self {
        let mut counts = Self::default();
        let mut made = std::collections::BTreeSet::new();
        for deed in deeds {
            match (&deed.what, &deed.told) {
                (What::Order { reference, .. }, Told::Made { .. }) => {
                    counts.orders += u64::from(made.insert(reference.clone()));
                }
                (What::TakeBack { .. }, Told::Done) => counts.taken_back += 1,
                (What::Delivery { .. }, Told::Done) => counts.deliveries += 1,
                (What::Look { .. } | What::List, Told::Shown(_) | Told::Done) => counts.looks += 1,
                (_, Told::Refused { code }) if **code == *OUT_OF_STOCK => counts.out_of_stock += 1,
                (what, Told::Unknown { .. }) if !matches!(what, What::Look { .. } | What::List) => {
                    counts.unknown += 1;
                }
                _ => {}
            }
        }
        counts
    }
}

const OUT_OF_STOCK: &str = "OUT_OF_STOCK";
