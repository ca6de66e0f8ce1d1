//! A shop for each tenant: customers, products and what is on hand of them, orders and their lines, tied by foreign keys and
//! numbered by identities and a sequence. An order is one transaction of several statements.
//!
//! ```text
//! POST   /shop/customers                    {"name"} → 201 {"id"}
//! POST   /shop/products                     {"name", "price_cents", "amount"} → 201 {"id"}
//! POST   /shop/products/{id}/deliveries     {"amount"} → {"on_hand"}
//! POST   /shop/orders                       {"customer", "reference", "lines": [{"product", "amount"}]}
//!                                           → 201 {"id", "lines": [ids], "total_cents"}, or 409 OUT_OF_STOCK
//! DELETE /shop/orders/{id}                  204: taken back
//! GET    /shop/orders/{id}                  the order with its lines
//! GET    /shop/orders?after=&limit=         a page of them; /shop/customers and /shop/products are asked alike
//! ```
//! No statement names a tenant. Where tenants share tables, each table's policy says whose rows there are, and its default whose a
//! new one is: whoever the transaction has entered as. Where a tenant has tables of its own, there are no others.

mod books;
mod route;
mod trade;

use bytes::Bytes;
use cell_gate::{RequestBody, RequestStamp, ResponseBody};
use http::request::Parts;
use http::{Response, StatusCode};
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;

use super::{Deed, Failed, TableDocuments, Work, answer, options, read_body};
use crate::problem::Problem;
use route::{Look, Route};

pub(super) use trade::Trade;

/// Where all of it is.
pub(super) const PATH: &str = "/shop/";

impl TableDocuments {
    pub(super) async fn shop(
        &self,
        parts: &Parts,
        stamp: &RequestStamp,
        body: RequestBody,
    ) -> Result<Response<ResponseBody>, Problem> {
        match route::route(&parts.method, parts.uri.path(), parts.uri.query())? {
            Route::Options(allowed) => Ok(options(allowed)),
            Route::Look(look) => self.shown(stamp, look).await,
            Route::Make(making) => {
                let text: Bytes = read_body(body).await?;
                self.write(parts, stamp, &text, Deed::Trade(Trade::read(making, &text)?)).await
            }
            Route::TakeBack(order) => self.write(parts, stamp, b"", Deed::Trade(Trade::TakeBack(order))).await,
        }
    }

    async fn shown(&self, stamp: &RequestStamp, look: Look) -> Result<Response<ResponseBody>, Problem> {
        let looked = async {
            let mut lent = self.client(&stamp.tenant).await?;
            let transaction = self.look(&mut lent, stamp).await?;
            self.work(&transaction, stamp).show(look).await
        };
        let shown = looked.await.map_err(Failed::into_problem)?;
        Ok(answer::json(shown.to_string(), None))
    }
}

impl Work<'_> {
    /// Says a statement that names nobody.
    async fn say(&self, sql: &str, values: &[&(dyn ToSql + Sync)]) -> Result<Vec<Row>, Failed> {
        let statement = self.transaction.prepare_cached(sql).await?;
        Ok(self.transaction.query(&statement, values).await?)
    }
}

/// There is none with that number.
fn none(what: &str, code: &'static str, id: i64) -> Failed {
    let hint = "list what there is with GET /shop/customers, /shop/products and /shop/orders";
    Failed::Problem(Problem::new(StatusCode::NOT_FOUND, code, format!("there is no {what} {id}"), hint))
}
