//! Reads: a document, a counter, a page of documents.

use std::fmt::Write as _;

use cell_agent::{RowError, TenantData, View};
use cell_gate::{RequestStamp, ResponseBody};
use http::Response;

use super::answer::json;
use super::keys::Seal;
use super::route::{Name, Page};
use super::rows::{self, Document};
use super::write::unknown_document;
use crate::problem::Problem;

/// A page with documents ends early when it has become so long.
const PAGE_BYTES: usize = 1024 * 1024;
/// Rows that are looked at in one go, so that a page never holds more than it gives.
const SCAN_ROWS: usize = 64;

pub(crate) async fn read(
    data: &TenantData,
    stamp: &RequestStamp,
    id: &Name,
    seal: &Seal,
) -> Result<Response<ResponseBody>, Problem> {
    let key = rows::document_key(id.as_str());
    let row = data.read(stamp, |view: &View<'_>| view.get(&key)).await?;
    let document = row.map(Document::from_row).transpose()?.ok_or_else(|| unknown_document(id))?;
    Ok(json(seal.open(id.as_str(), document.text)?, Some(document.version)))
}

pub(crate) async fn read_counter(
    data: &TenantData,
    stamp: &RequestStamp,
    name: &Name,
) -> Result<Response<ResponseBody>, Problem> {
    let key = rows::counter_key(name.as_str());
    let row = data.read(stamp, |view: &View<'_>| view.get(&key)).await?;
    let row = row.ok_or_else(|| {
        Problem::not_found("COUNTER_UNKNOWN", format!("nothing has been counted under {}", name.as_str()))
    })?;
    let value = rows::counter_from_row(&row)?;
    Ok(json(serde_json::json!({ "value": value }).to_string(), None))
}

pub(crate) async fn list(
    data: &TenantData,
    stamp: &RequestStamp,
    page: Page,
    seal: &Seal,
) -> Result<Response<ResponseBody>, Problem> {
    let listed = data.read(stamp, |view: &View<'_>| scan(view, &page, seal)).await??;
    Ok(json(listed, None))
}

/// The page as JSON: `{"items": […], "next": "<id>" | null}`.
fn scan(view: &View<'_>, page: &Page, seal: &Seal) -> Result<Result<String, Problem>, RowError> {
    let mut from = match &page.after {
        // The first key after it.
        Some(id) => [rows::document_key(id.as_str()).as_slice(), &[0]].concat(),
        None => rows::document_key(""),
    };
    let mut listing = Listing::new();
    loop {
        let wanted = SCAN_ROWS.min(page.limit - listing.items + 1);
        let found = view.scan(&from, Some(rows::DOCUMENTS_END), wanted)?;
        let exhausted = found.len() < wanted;
        for (key, row) in found {
            if listing.is_full(page) {
                return Ok(Ok(listing.finish(true)));
            }
            from = [key.as_slice(), &[0]].concat();
            if let Err(problem) = listing.add(&key, row, page.values.then_some(seal)) {
                return Ok(Err(problem));
            }
        }
        if exhausted {
            return Ok(Ok(listing.finish(false)));
        }
    }
}

pub(super) struct Listing {
    text: String,
    items: usize,
    last: String,
}

impl Listing {
    pub(super) fn new() -> Self {
        Self { text: String::from("{\"items\":["), items: 0, last: String::new() }
    }

    /// Whether the page has what was asked for, or is long enough.
    pub(super) fn is_full(&self, page: &Page) -> bool {
        self.items == page.limit || self.text.len() > PAGE_BYTES
    }

    /// With its text where there is a seal to open it.
    fn add(&mut self, key: &[u8], row: Vec<u8>, values: Option<&Seal>) -> Result<(), Problem> {
        let id = rows::document_id(key)?;
        let mut document = Document::from_row(row)?;
        if let Some(seal) = values {
            document.text = seal.open(id, document.text)?;
        }
        self.add_document(id, &document, values.is_some())
    }

    pub(super) fn add_document(&mut self, id: &str, document: &Document, values: bool) -> Result<(), Problem> {
        let comma = if self.items == 0 { "" } else { "," };
        let version = document.version;
        // Ids need no escaping, and a document was checked to be JSON when it came. Writing to a String cannot fail.
        let _ = write!(self.text, "{comma}{{\"id\":\"{id}\",\"version\":{version}");
        if values {
            let text = std::str::from_utf8(&document.text).map_err(|_| Problem::damaged("document"))?;
            let _ = write!(self.text, ",\"value\":{text}");
        }
        self.text.push('}');
        self.items += 1;
        id.clone_into(&mut self.last);
        Ok(())
    }

    pub(super) fn finish(mut self, more: bool) -> String {
        let next = if more { format!("\"{}\"", self.last) } else { "null".into() };
        let _ = write!(self.text, "],\"next\":{next}}}");
        self.text
    }
}
