//! The application: JSON documents and counters of many tenants, each in rows of its own.
//!
//! ```text
//! GET    /docs?after=&limit=&values=true      a page of ids, or of documents
//! POST   /docs                                a new document under an id of the cell's: 201, Location
//! GET    /docs/{id}                           the document, with its ETag
//! PUT    /docs/{id}                           201 or 200; If-Match and If-None-Match: * are held
//! DELETE /docs/{id}                           204; If-Match is held
//! GET    /counters/{name}                     {"value": n}
//! POST   /counters/{name}/increment           {"by": n} → {"value": n}
//! ```
//! Every write may carry an `Idempotency-Key`. Which tenant it is about says the stamp that the gate has checked.

mod answer;
mod condition;
mod documents;
mod elsewhere;
mod idempotency;
mod keys;
mod pools;
mod route;
mod rows;
mod statements;
pub(crate) mod tables;
mod write;

use std::path::PathBuf;

use bytes::Bytes;
use cell_agent::TenantData;
use cell_client::Random;
use cell_gate::{Application, RequestBody, RequestStamp, ResponseBody, full};
use http::header::ALLOW;
use http::request::Parts;
use http::{HeaderValue, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, LengthLimitError};

use crate::problem::Problem;
use idempotency::{Named, Retention};
use keys::{Keys, Seal};
use route::Route;
use write::Operation;

pub(crate) use elsewhere::Elsewhere;
pub(crate) use tables::TableDocuments;
pub use tables::TablesError;

/// The application behind each gate of the cell.
#[derive(Debug, Clone)]
pub struct Documents {
    data: TenantData,
    retention: Retention,
    ids: Option<Random>,
    keys: Option<Keys>,
}

impl Documents {
    /// An application on the tenants' rows in this cell.
    #[must_use]
    pub fn new(data: TenantData) -> Self {
        Self { data, retention: Retention::default(), ids: None, keys: None }
    }

    /// Takes the ids of documents that it makes from there.
    #[must_use]
    pub fn naming(mut self, ids: Random) -> Self {
        self.ids = Some(ids);
        self
    }

    /// Seals each tenant's documents under its key in this directory, and serves no tenant that has none there.
    #[must_use]
    pub fn keyed(mut self, directory: PathBuf) -> Self {
        self.keys = Some(Keys::within(directory));
        self
    }

    /// Keeps at most so many answers to writes with an `Idempotency-Key` for each tenant.
    #[must_use]
    pub const fn keeping_answers(mut self, answers: u64) -> Self {
        self.retention.answers = answers;
        self
    }

    async fn answer(&self, request: Request<RequestBody>) -> Result<Response<ResponseBody>, Problem> {
        let (parts, body) = request.into_parts();
        let stamp = parts.extensions.get::<RequestStamp>().ok_or_else(|| {
            let hint = "put the application behind a gate";
            Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "STAMP_ABSENT", "no gate has checked the request", hint)
        })?;
        let found = route::route(&parts.method, parts.uri.path(), parts.uri.query())?;
        let seal = match &self.keys {
            Some(keys) if !matches!(found, Route::Options(_)) => keys.seal_of(stamp).await?,
            Some(_) | None => Seal::None,
        };
        match found {
            Route::List(page) => documents::list(&self.data, stamp, page, &seal).await,
            Route::Read(id) => documents::read(&self.data, stamp, &id, &seal).await,
            Route::ReadCounter(name) => documents::read_counter(&self.data, stamp, &name).await,
            Route::Options(allowed) => Ok(options(allowed)),
            Route::Create => {
                let text = read_body(body).await?;
                let operation = Operation::create(text.clone(), self.ids.as_ref())?.sealed(&seal)?;
                self.write(&parts, stamp, &text, operation).await
            }
            Route::Write(id) => {
                let text = read_body(body).await?;
                let operation = Operation::put(id, text.clone(), &parts.headers)?.sealed(&seal)?;
                self.write(&parts, stamp, &text, operation).await
            }
            Route::Delete(id) => self.write(&parts, stamp, b"", Operation::delete(id, &parts.headers)?).await,
            Route::Increment(name) => {
                let text = read_body(body).await?;
                self.write(&parts, stamp, &text, Operation::increment(name, &text)?).await
            }
        }
    }

    async fn write(
        &self,
        parts: &Parts,
        stamp: &RequestStamp,
        body: &[u8],
        operation: Operation,
    ) -> Result<Response<ResponseBody>, Problem> {
        let named = Named::from_request(&parts.headers, &parts.method, parts.uri.path(), body)?;
        let executed = write::execute(&self.data, stamp, named, operation, self.retention).await?;
        Ok(executed.answer.into_response(executed.again))
    }
}

impl Application for Documents {
    async fn call(&self, request: Request<RequestBody>) -> Response<ResponseBody> {
        match self.answer(request).await {
            Ok(response) => response,
            Err(problem) => problem.into_response(),
        }
    }
}

fn options(allowed: &'static str) -> Response<ResponseBody> {
    let mut response = Response::new(full(""));
    *response.status_mut() = StatusCode::NO_CONTENT;
    response.headers_mut().insert(ALLOW, HeaderValue::from_static(allowed));
    response
}

async fn read_body(body: RequestBody) -> Result<Bytes, Problem> {
    match body.collect().await {
        Ok(collected) => Ok(collected.to_bytes()),
        Err(error) if error.downcast_ref::<LengthLimitError>().is_some() => Err(Problem::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            "BODY_TOO_LARGE",
            "the body is longer than this cell takes",
            "send less at once",
        )),
        Err(error) => {
            let detail = format!("the body broke off: {error}");
            Err(Problem::bad_request("BODY_INCOMPLETE", detail, "send the request again"))
        }
    }
}

#[cfg(test)]
mod tests;
