//! What is asked of a shop.

use http::{Method, StatusCode};

use crate::app::route::no_such_method;
use crate::problem::Problem;

const LIMIT_MAX: i64 = 200;
const LIMIT_DEFAULT: i64 = 50;

/// What a request asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Route {
    /// What else may be asked of this path.
    Options(&'static str),
    Make(Making),
    /// This order.
    TakeBack(i64),
    Look(Look),
}

/// What its body describes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Making {
    Customer,
    Product,
    /// Of this product.
    Delivery(i64),
    Order,
}

/// What is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Look {
    Order(i64),
    Customers(Page),
    Products(Page),
    Orders(Page),
}

/// Those that come after a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Page {
    pub(super) after: i64,
    pub(super) limit: i64,
}

/// Finds the route.
///
/// # Errors
/// 404 where there is no such path, 405 where it knows other methods, 400 where a number or the query makes no sense.
pub(super) fn route(method: &Method, path: &str, query: Option<&str>) -> Result<Route, Problem> {
    let segments: Vec<&str> = path.strip_prefix(super::PATH).unwrap_or_default().split('/').collect();
    let reads = *method == Method::GET || *method == Method::HEAD;
    let posts = *method == Method::POST;
    let listed = |of: fn(Page) -> Look, making: Making| -> Result<Option<Route>, Problem> {
        if reads {
            return Ok(Some(Route::Look(of(page(query)?))));
        }
        Ok(posts.then_some(Route::Make(making)))
    };
    let (found, allowed) = match segments.as_slice() {
        ["customers"] => (listed(Look::Customers, Making::Customer)?, "GET, HEAD, POST, OPTIONS"),
        ["products"] => (listed(Look::Products, Making::Product)?, "GET, HEAD, POST, OPTIONS"),
        ["orders"] => (listed(Look::Orders, Making::Order)?, "GET, HEAD, POST, OPTIONS"),
        ["orders", id] => {
            let id = number(id)?;
            let route = match *method {
                _ if reads => Some(Route::Look(Look::Order(id))),
                Method::DELETE => Some(Route::TakeBack(id)),
                _ => None,
            };
            (route, "GET, HEAD, DELETE, OPTIONS")
        }
        ["products", id, "deliveries"] => {
            let id = number(id)?;
            (posts.then_some(Route::Make(Making::Delivery(id))), "POST, OPTIONS")
        }
        _ => {
            let hint = "there are /shop/customers, /shop/products, /shop/products/{id}/deliveries, /shop/orders and \
                        /shop/orders/{id}";
            return Err(Problem::new(StatusCode::NOT_FOUND, "PATH_UNKNOWN", "there is nothing at this path", hint));
        }
    };
    found.map_or_else(|| no_such_method(method, allowed, Route::Options), Ok)
}

fn number(text: &str) -> Result<i64, Problem> {
    text.parse().ok().filter(|number| *number > 0).ok_or_else(|| {
        let shown: String = text.chars().take(80).collect();
        let hint = "use the number that the shop has answered with";
        Problem::bad_request("NUMBER_INVALID", format!("{shown:?} is not a number of the shop"), hint)
    })
}

fn page(query: Option<&str>) -> Result<Page, Problem> {
    let mut page = Page { after: 0, limit: LIMIT_DEFAULT };
    for pair in query.unwrap_or_default().split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let value = value.parse().ok();
        match (name, value) {
            ("after", Some(after)) if after >= 0 => page.after = after,
            ("limit", Some(limit)) if (1..=LIMIT_MAX).contains(&limit) => page.limit = limit,
            (name, _) => {
                let shown: String = name.chars().take(80).collect();
                let detail = format!("the parameter {shown:?} is unknown or has no such value");
                return Err(Problem::bad_request("QUERY_INVALID", detail, "known are after=<id> and limit=1..200"));
            }
        }
    }
    Ok(page)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(method: &Method, path: &str, query: Option<&str>) -> &'static str {
        match route(method, path, query).expect_err("it must be refused") {
            Problem::Said { code, .. } => code,
            Problem::NotExecuted(code) => code.as_str(),
        }
    }

    #[test]
    fn every_path_and_method_has_its_route() {
        let page = Page { after: 7, limit: 3 };
        let rows = [
            (Method::POST, "/shop/customers", Route::Make(Making::Customer)),
            (Method::POST, "/shop/products", Route::Make(Making::Product)),
            (Method::POST, "/shop/products/4/deliveries", Route::Make(Making::Delivery(4))),
            (Method::POST, "/shop/orders", Route::Make(Making::Order)),
            (Method::GET, "/shop/orders", Route::Look(Look::Orders(page))),
            (Method::GET, "/shop/products", Route::Look(Look::Products(page))),
            (Method::HEAD, "/shop/customers", Route::Look(Look::Customers(page))),
            (Method::GET, "/shop/orders/9", Route::Look(Look::Order(9))),
            (Method::DELETE, "/shop/orders/9", Route::TakeBack(9)),
            (Method::OPTIONS, "/shop/orders/9", Route::Options("GET, HEAD, DELETE, OPTIONS")),
        ];
        for (method, path, expected) in rows {
            assert_eq!(route(&method, path, Some("after=7&limit=3")), Ok(expected), "{method} {path}");
        }
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for path in ["/shop/", "/shop/sales", "/shop/orders/1/lines", "/shop/products/1"] {
            assert_eq!(code(&Method::GET, path, None), "PATH_UNKNOWN", "{path}");
        }
        for path in ["/shop/orders/0", "/shop/orders/-1", "/shop/orders/x", "/shop/orders/9223372036854775808"] {
            assert_eq!(code(&Method::GET, path, None), "NUMBER_INVALID", "{path}");
        }
        for query in ["limit=0", "limit=201", "limit=x", "after=-1", "before=1", "limit"] {
            assert_eq!(code(&Method::GET, "/shop/orders", Some(query)), "QUERY_INVALID", "{query}");
        }
        assert_eq!(code(&Method::PUT, "/shop/orders/1", None), "METHOD_NOT_ALLOWED");
        assert_eq!(code(&Method::GET, "/shop/products/1/deliveries", None), "METHOD_NOT_ALLOWED");
    }
}
