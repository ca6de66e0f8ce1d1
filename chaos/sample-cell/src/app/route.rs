//! Which operation a request asks for.

use http::{Method, StatusCode};

use crate::problem::Problem;

/// The name of a document or a counter: 1 to 128 characters that need no escaping in a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Name(String);

const NAME_LENGTH_MAX: usize = 128;
const NAME_RULE: &str = "use 1 to 128 characters of A-Z, a-z, 0-9, '.', '_', '~' and '-', but not '.' or '..'";

impl Name {
    pub(crate) fn new(text: &str) -> Result<Self, Problem> {
        let plain = |b: u8| b.is_ascii_alphanumeric() || b"._~-".contains(&b);
        let fits =
            (1..=NAME_LENGTH_MAX).contains(&text.len()) && text.bytes().all(plain) && !matches!(text, "." | "..");
        if fits {
            Ok(Self(text.to_owned()))
        } else {
            let shown: String = text.chars().take(80).collect();
            Err(Problem::bad_request("NAME_INVALID", format!("{shown:?} is not a name"), NAME_RULE))
        }
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

/// A page of the list of documents.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Page {
    /// Begin after this document.
    pub(crate) after: Option<Name>,
    pub(crate) limit: usize,
    /// With the documents' texts.
    pub(crate) values: bool,
}

pub(crate) const PAGE_LIMIT_MAX: usize = 1_000;
const PAGE_LIMIT_DEFAULT: usize = 100;

/// What a request asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Route {
    List(Page),
    Create,
    Read(Name),
    Write(Name),
    Delete(Name),
    ReadCounter(Name),
    Increment(Name),
    /// What else may be asked of this path.
    Options(&'static str),
}

/// Finds the route.
///
/// # Errors
/// 404 where there is no such path, 405 where it knows other methods, 400 where a name or the query makes no sense.
pub(crate) fn route(method: &Method, path: &str, query: Option<&str>) -> Result<Route, Problem> {
    let segments: Vec<&str> = path.strip_prefix('/').unwrap_or(path).split('/').collect();
    let read = *method == Method::GET || *method == Method::HEAD;
    let (found, allowed) = match segments.as_slice() {
        ["docs"] if read => return Ok(Route::List(page(query)?)),
        ["docs"] => ((*method == Method::POST).then_some(Route::Create), "GET, HEAD, POST, OPTIONS"),
        ["docs", id] => {
            let id = Name::new(id)?;
            let route = match *method {
                _ if read => Some(Route::Read(id)),
                Method::PUT => Some(Route::Write(id)),
                Method::DELETE => Some(Route::Delete(id)),
                _ => None,
            };
            (route, "GET, HEAD, PUT, DELETE, OPTIONS")
        }
        ["counters", name] => {
            let name = Name::new(name)?;
            (read.then_some(Route::ReadCounter(name)), "GET, HEAD, OPTIONS")
        }
        ["counters", name, "increment"] => {
            let name = Name::new(name)?;
            ((*method == Method::POST).then_some(Route::Increment(name)), "POST, OPTIONS")
        }
        _ => {
            let hint = "there are /docs, /docs/{id}, /counters/{name} and /counters/{name}/increment";
            return Err(Problem::new(StatusCode::NOT_FOUND, "PATH_UNKNOWN", "there is nothing at this path", hint));
        }
    };
    found.map_or_else(|| no_such_method(method, allowed, Route::Options), Ok)
}

/// What a path answers to a method that it does not have: OPTIONS asks which it has.
pub(crate) fn no_such_method<R>(
    method: &Method,
    allowed: &'static str,
    options: impl FnOnce(&'static str) -> R,
) -> Result<R, Problem> {
    if *method == Method::OPTIONS {
        return Ok(options(allowed));
    }
    let detail = format!("{method} is not possible here");
    Err(Problem::new(StatusCode::METHOD_NOT_ALLOWED, "METHOD_NOT_ALLOWED", detail, allowed))
}

fn page(query: Option<&str>) -> Result<Page, Problem> {
    let invalid = |detail: String| {
        Problem::bad_request("QUERY_INVALID", detail, "known are after=<id>, limit=1..1000 and values=true|false")
    };
    let mut page = Page { after: None, limit: PAGE_LIMIT_DEFAULT, values: false };
    for pair in query.unwrap_or_default().split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        match (name, value) {
            ("after", value) => page.after = Some(Name::new(value)?),
            ("limit", value) => {
                let limit = value.parse().ok().filter(|limit| (1..=PAGE_LIMIT_MAX).contains(limit));
                page.limit = limit.ok_or_else(|| invalid("the limit is not a number from 1 to 1000".into()))?;
            }
            ("values", "true") => page.values = true,
            ("values", "false") => page.values = false,
            (name, _) => {
                let shown: String = name.chars().take(80).collect();
                return Err(invalid(format!("the parameter {shown:?} is unknown or has no such value")));
            }
        }
    }
    Ok(page)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(result: Result<Route, Problem>) -> &'static str {
        match result.expect_err("it must be refused") {
            Problem::Said { code, .. } => code,
            Problem::NotExecuted(code) => code.as_str(),
        }
    }

    #[test]
    fn every_path_and_method_has_its_route() {
        let name = |text| Name::new(text).unwrap();
        let rows = [
            (Method::POST, "/docs", Route::Create),
            (Method::GET, "/docs/a.b", Route::Read(name("a.b"))),
            (Method::HEAD, "/docs/a", Route::Read(name("a"))),
            (Method::PUT, "/docs/a", Route::Write(name("a"))),
            (Method::DELETE, "/docs/a", Route::Delete(name("a"))),
            (Method::GET, "/counters/n", Route::ReadCounter(name("n"))),
            (Method::POST, "/counters/n/increment", Route::Increment(name("n"))),
            (Method::OPTIONS, "/counters/n/increment", Route::Options("POST, OPTIONS")),
        ];
        for (method, path, expected) in rows {
            assert_eq!(route(&method, path, None), Ok(expected), "{method} {path}");
        }
    }

    #[test]
    fn a_page_is_as_asked_for_and_within_bounds() {
        let listed = route(&Method::GET, "/docs", Some("after=k1&limit=7&values=true")).unwrap();
        assert_eq!(listed, Route::List(Page { after: Some(Name::new("k1").unwrap()), limit: 7, values: true }));
        assert_eq!(
            route(&Method::GET, "/docs", None),
            Ok(Route::List(Page { after: None, limit: PAGE_LIMIT_DEFAULT, values: false }))
        );
        for bad in ["limit=0", "limit=1001", "limit=x", "values=1", "offset=3", "limit"] {
            assert_eq!(code(route(&Method::GET, "/docs", Some(bad))), "QUERY_INVALID", "{bad}");
        }
    }

    #[test]
    fn what_does_not_exist_or_is_no_name_is_refused() {
        for path in ["/", "/doc", "/docs/a/b", "/counters", "/counters/n/decrement"] {
            assert_eq!(code(route(&Method::GET, path, None)), "PATH_UNKNOWN", "{path}");
        }
        for path in
            ["/docs/", "/docs/.", "/docs/..", "/docs/a%20b", "/docs/ä", &format!("/docs/{}", "x".repeat(129))]
        {
            assert_eq!(code(route(&Method::GET, path, None)), "NAME_INVALID", "{path}");
        }
        assert_eq!(code(route(&Method::PATCH, "/docs/a", None)), "METHOD_NOT_ALLOWED");
        assert_eq!(code(route(&Method::GET, "/counters/n/increment", None)), "METHOD_NOT_ALLOWED");
    }
}
