//! The same application on PostgreSQL: shared tables with row-level security, or a schema, or a database, for each tenant.
//!
//! ```text
//! write: BEGIN ─► cellway.enter(tenant, uid, epoch) ─► the answer kept under the same key? ─► rows ─► COMMIT
//!        ─► in Sync: the copying cell holds it, too ─► answer
//! read:  BEGIN ─► cellway.look(tenant, uid, epoch) ─► rows ─► COMMIT
//! ```
//! Whose rows a transaction sees is set for the transaction alone, so nothing of a tenant stays on a pooled connection.

mod making;
mod shop;

use std::sync::Arc;

use bytes::Bytes;
use cell_agent::{Committed, TenantDatabase};
use cell_gate::{Application, RequestBody, RequestStamp, ResponseBody};
use cell_model::TenantId;
use http::request::Parts;
use http::{Request, Response, StatusCode};
use serde_json::json;
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;

use super::answer::{self, Answer};
use super::documents::Listing;
use super::idempotency::{Named, Retention};
use super::pools::{Lent, NoConnection, Pools};
use super::route::{self, Name, Page, Route};
use super::rows::Document;
use super::statements::{self, Statements};
use super::write::{Executed, Operation, unknown_document};
use super::{options, read_body};
use crate::problem::Problem;
use shop::Trade;

pub use making::TablesError;
pub(crate) use making::{Layout, make, tell_apart};

/// A transaction that has lost to another one is begun again so many times.
const TRIES: u32 = 5;

/// See the module.
#[derive(Clone)]
pub(crate) struct TableDocuments {
    data: TenantDatabase,
    pools: Arc<Pools>,
    retention: Retention,
    say: &'static Statements,
    shop: bool,
}

/// What a transaction that writes does.
#[derive(Debug)]
enum Deed {
    Document(Operation),
    Trade(Trade),
}

impl From<Operation> for Deed {
    fn from(operation: Operation) -> Self {
        Self::Document(operation)
    }
}

impl TableDocuments {
    pub(crate) fn new(data: TenantDatabase, url: &str, layout: Layout, shop: bool) -> Result<Self, TablesError> {
        let pools = Pools::new(data.clone(), url, layout)?;
        let say = match layout {
            Layout::Shared => &statements::SHARED,
            Layout::SchemaEach | Layout::DatabaseEach => &statements::OWN,
        };
        Ok(Self { data, pools, retention: Retention::default(), say, shop })
    }

    async fn answer(&self, request: Request<RequestBody>) -> Result<Response<ResponseBody>, Problem> {
        let (parts, body) = request.into_parts();
        let stamp = parts.extensions.get::<RequestStamp>().ok_or_else(|| {
            let hint = "put the application behind a gate";
            Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "STAMP_ABSENT", "no gate has checked the request", hint)
        })?;
        if self.shop && parts.uri.path().starts_with(shop::PATH) {
            return self.shop(&parts, stamp, body).await;
        }
        match route::route(&parts.method, parts.uri.path(), parts.uri.query())? {
            Route::List(page) => self.list(stamp, &page).await,
            Route::Read(id) => self.read(stamp, &id).await,
            Route::ReadCounter(name) => self.read_counter(stamp, &name).await,
            Route::Options(allowed) => Ok(options(allowed)),
            Route::Create => {
                let text = read_body(body).await?;
                self.write(&parts, stamp, &text, Operation::create(text.clone(), None)?).await
            }
            Route::Write(id) => {
                let text = read_body(body).await?;
                self.write(&parts, stamp, &text, Operation::put(id, text.clone(), &parts.headers)?).await
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
        deed: impl Into<Deed>,
    ) -> Result<Response<ResponseBody>, Problem> {
        let deed = deed.into();
        let named = Named::from_request(&parts.headers, &parts.method, parts.uri.path(), body)?;
        let mut tries = TRIES;
        let executed = loop {
            tries -= 1;
            match self.execute(stamp, named.as_ref(), &deed).await {
                Ok(executed) => break executed,
                Err(Failed::Again(_)) if tries > 0 => {}
                Err(Failed::Again(problem) | Failed::Problem(problem)) => return Err(problem),
            }
        };
        match self.data.committed(stamp).await {
            Committed::Yes => Ok(executed.answer.into_response(executed.again)),
            Committed::Unknown => Err(unknown("the copying cell has not confirmed the write in time")),
        }
    }

    async fn execute(&self, stamp: &RequestStamp, named: Option<&Named>, deed: &Deed) -> Result<Executed, Failed> {
        let mut lent = self.client(&stamp.tenant).await?;
        let transaction = lent.client.transaction().await?;
        let (uid, epoch) = (stamp.uid.get().cast_signed(), stamp.epoch.get().cast_signed());
        let enter = transaction.prepare_cached(self.say.enter).await?;
        transaction.execute(&enter, &[&stamp.tenant.as_str(), &uid, &epoch]).await?;
        let work = self.work(&transaction, stamp);
        if let Some(named) = named
            && let Some(answer) = work.recall(named).await?
        {
            return Ok(Executed { answer, again: true });
        }
        let (answer, version) = match deed {
            Deed::Document(operation) => {
                let version = work.next_version().await?;
                (work.apply(operation, version).await?, Some(version))
            }
            Deed::Trade(trade) => (work.trade(trade).await?, None),
        };
        if let Some(named) = named {
            // Whoever has a version is alone from then on: those who trade take it last.
            let version = match version {
                Some(version) => version,
                None => work.next_version().await?,
            };
            work.remember(named, version, &answer, self.retention).await?;
        }
        // Without the server's answer nobody knows.
        transaction.commit().await.map_err(|error| match error.as_db_error() {
            Some(_) => Failed::from(error),
            None => Failed::Problem(unknown(&error.to_string())),
        })?;
        Ok(Executed { answer, again: false })
    }

    async fn client(&self, tenant: &TenantId) -> Result<Lent, Failed> {
        let lent = self.pools.lend(tenant).await;
        lent.map_err(|none| {
            Failed::Problem(match none {
                // It has left, or its database is not open: nothing was executed.
                NoConnection::NotHere => Problem::refused("NOT_OWNER"),
                NoConnection::Busy(why) => Problem::busy("DATABASE_BUSY", why),
                NoConnection::Failed(error) => failed(&*error),
            })
        })
    }

    async fn read(&self, stamp: &RequestStamp, id: &Name) -> Result<Response<ResponseBody>, Problem> {
        let found = self.document(stamp, id).await.map_err(Failed::into_problem)?;
        let document = found.ok_or_else(|| unknown_document(id))?;
        Ok(answer::json(document.text, Some(document.version)))
    }

    async fn document(&self, stamp: &RequestStamp, id: &Name) -> Result<Option<Document>, Failed> {
        let mut lent = self.client(&stamp.tenant).await?;
        let transaction = self.look(&mut lent, stamp).await?;
        self.work(&transaction, stamp).document(id).await
    }

    async fn read_counter(&self, stamp: &RequestStamp, name: &Name) -> Result<Response<ResponseBody>, Problem> {
        let value = self.counter(stamp, name).await.map_err(Failed::into_problem)?.ok_or_else(|| {
            Problem::not_found("COUNTER_UNKNOWN", format!("nothing has been counted under {}", name.as_str()))
        })?;
        Ok(answer::json(json!({ "value": value }).to_string(), None))
    }

    async fn counter(&self, stamp: &RequestStamp, name: &Name) -> Result<Option<i64>, Failed> {
        let mut lent = self.client(&stamp.tenant).await?;
        let transaction = self.look(&mut lent, stamp).await?;
        self.work(&transaction, stamp).counter(name).await
    }

    async fn list(&self, stamp: &RequestStamp, page: &Page) -> Result<Response<ResponseBody>, Problem> {
        let listed = self.page(stamp, page).await.map_err(Failed::into_problem)?;
        Ok(answer::json(listed, None))
    }

    async fn page(&self, stamp: &RequestStamp, page: &Page) -> Result<String, Failed> {
        let mut lent = self.client(&stamp.tenant).await?;
        let transaction = self.look(&mut lent, stamp).await?;
        self.work(&transaction, stamp).page(page).await
    }

    /// Begins a transaction that only reads, at one moment. It ends when it is dropped.
    async fn look<'a>(
        &self,
        lent: &'a mut Lent,
        stamp: &RequestStamp,
    ) -> Result<deadpool_postgres::Transaction<'a>, Failed> {
        let begun = lent.client.build_transaction().isolation_level(tokio_postgres::IsolationLevel::RepeatableRead);
        let transaction = begun.read_only(true).start().await?;
        let (uid, epoch) = (stamp.uid.get().cast_signed(), stamp.epoch.get().cast_signed());
        let look = transaction.prepare_cached(self.say.look).await?;
        transaction.execute(&look, &[&stamp.tenant.as_str(), &uid, &epoch]).await?;
        Ok(transaction)
    }

    const fn work<'a>(
        &self,
        transaction: &'a deadpool_postgres::Transaction<'a>,
        stamp: &'a RequestStamp,
    ) -> Work<'a> {
        Work { transaction, tenant: &stamp.tenant, say: self.say }
    }
}

impl Application for TableDocuments {
    async fn call(&self, request: Request<RequestBody>) -> Response<ResponseBody> {
        match self.answer(request).await {
            Ok(response) => response,
            Err(problem) => problem.into_response(),
        }
    }
}

/// What went wrong, and whether it may go better.
enum Failed {
    /// Another transaction was in the way.
    Again(Problem),
    Problem(Problem),
}

impl Failed {
    fn into_problem(self) -> Problem {
        match self {
            Self::Again(problem) | Self::Problem(problem) => problem,
        }
    }
}

impl From<Problem> for Failed {
    fn from(problem: Problem) -> Self {
        Self::Problem(problem)
    }
}

fn unknown(reason: &str) -> Problem {
    Problem::new(
        StatusCode::GATEWAY_TIMEOUT,
        "OUTCOME_UNKNOWN",
        format!("the write may or may not last: {reason}"),
        "read before you write again, or send it again under the same Idempotency-Key",
    )
}

fn failed(error: &(dyn std::error::Error + 'static)) -> Problem {
    tracing::error!(error, "the database failed");
    let hint = "nothing was written: look at the cell's log and try again";
    Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "STORE_FAILED", error.to_string(), hint)
}

impl From<tokio_postgres::Error> for Failed {
    fn from(error: tokio_postgres::Error) -> Self {
        let Some(said) = error.as_db_error() else { return Self::Problem(failed(&error)) };
        match said.code().code() {
            // Cellway's own: refused because of the owner, so nothing was executed.
            code if code.starts_with("CW00") => {
                let code = said.message().split(':').next().unwrap_or_default();
                Self::Problem(Problem::refused(code))
            }
            "40001" | "40P01" => Self::Again(failed(&error)),
            // Under the same Idempotency-Key somebody was first: his answer is kept by now.
            "23505" if said.table() == Some("answers") => Self::Again(failed(&error)),
            // The statement's time was up: its transaction is undone.
            "57014" => Self::Problem(Problem::busy("DATABASE_SLOW", said.message())),
            _ => Self::Problem(failed(&error)),
        }
    }
}

/// A transaction that has entered.
struct Work<'a> {
    transaction: &'a deadpool_postgres::Transaction<'a>,
    tenant: &'a TenantId,
    say: &'static Statements,
}

impl Work<'_> {
    /// Says one of the statements, with the values that come after the tenant.
    async fn ask(&self, sql: &str, values: &[&(dyn ToSql + Sync)]) -> Result<Vec<Row>, Failed> {
        let statement = self.transaction.prepare_cached(sql).await?;
        let tenant = self.tenant.as_str();
        let mut all: Vec<&(dyn ToSql + Sync)> = vec![&tenant];
        all.extend(values);
        Ok(self.transaction.query(&statement, self.say.values(&all)).await?)
    }

    async fn document(&self, id: &Name) -> Result<Option<Document>, Failed> {
        let rows = self.ask(self.say.document, &[&id.as_str()]).await?;
        Ok(rows.first().map(|row| Document {
            version: row.get::<_, i64>(0).cast_unsigned(),
            text: Bytes::from(row.get::<_, String>(1)),
        }))
    }

    async fn counter(&self, name: &Name) -> Result<Option<i64>, Failed> {
        Ok(self.ask(self.say.counter, &[&name.as_str()]).await?.first().map(|row| row.get(0)))
    }

    async fn page(&self, page: &Page) -> Result<String, Failed> {
        let after = page.after.as_ref().map_or("", Name::as_str);
        let limit = i64::try_from(page.limit).unwrap_or(i64::MAX).saturating_add(1);
        let mut listing = Listing::new();
        for row in self.ask(self.say.page, &[&after, &limit]).await? {
            if listing.is_full(page) {
                return Ok(listing.finish(true));
            }
            let text = Bytes::from(row.get::<_, String>(2));
            let document = Document { version: row.get::<_, i64>(1).cast_unsigned(), text };
            listing.add_document(row.get(0), &document, page.values)?;
        }
        Ok(listing.finish(false))
    }

    /// One more for each write of the tenant. Whoever has it is alone until its transaction ends.
    async fn next_version(&self) -> Result<u64, Failed> {
        let rows = self.ask(self.say.next_version, &[]).await?;
        let version = rows.first().map(|row| row.get::<_, i64>(0).cast_unsigned());
        version.ok_or_else(|| Problem::damaged("tally").into())
    }

    async fn recall(&self, named: &Named) -> Result<Option<Answer>, Failed> {
        let rows = self.ask(self.say.recall, &[&named.key]).await?;
        let Some(row) = rows.first() else { return Ok(None) };
        named.is_of(row.get(0))?;
        let answer = serde_json::from_str(row.get(1)).map_err(|_| Problem::damaged("answer"))?;
        Ok(Some(answer))
    }

    async fn remember(
        &self,
        named: &Named,
        version: u64,
        answer: &Answer,
        retention: Retention,
    ) -> Result<(), Failed> {
        let kept = serde_json::to_string(answer).map_err(|_| Problem::damaged("answer"))?;
        let number = version.cast_signed();
        self.ask(self.say.remember, &[&named.key, &named.fingerprint, &number, &kept]).await?;
        let oldest = version.saturating_sub(retention.answers).cast_signed();
        let age = f64::from(u32::try_from(retention.age_ms).unwrap_or(u32::MAX));
        self.ask(self.say.forget, &[&oldest, &age]).await?;
        Ok(())
    }

    async fn apply(&self, operation: &Operation, version: u64) -> Result<Answer, Failed> {
        match operation {
            Operation::Create { id, text } => {
                let created = self.put(id, text, version, &super::condition::Condition::Absent).await?;
                Ok(created.at(format!("/docs/{}", id.as_str())))
            }
            Operation::Put { id, text, condition } => self.put(id, text, version, condition).await,
            Operation::Delete { id, condition } => {
                let found = self.document(id).await?;
                condition.check(found.as_ref().map(|document| document.version))?;
                if found.is_none() {
                    return Err(unknown_document(id).into());
                }
                self.ask(self.say.delete, &[&id.as_str()]).await?;
                Ok(Answer::new(StatusCode::NO_CONTENT))
            }
            Operation::Increment { name, by } => {
                let value = self.counter(name).await?.unwrap_or_default();
                let value = value.checked_add(*by).ok_or_else(|| {
                    let detail = format!("{value} and {by} do not fit into 64 bits");
                    Problem::new(StatusCode::CONFLICT, "COUNTER_OVERFLOW", detail, "use another counter")
                })?;
                self.ask(self.say.count, &[&name.as_str(), &value]).await?;
                Ok(Answer::new(StatusCode::OK).with_body(&json!({ "value": value })))
            }
        }
    }

    async fn put(
        &self,
        id: &Name,
        text: &Bytes,
        version: u64,
        condition: &super::condition::Condition,
    ) -> Result<Answer, Failed> {
        let found = self.document(id).await?;
        condition.check(found.as_ref().map(|document| document.version))?;
        let text = std::str::from_utf8(text).map_err(|_| Problem::damaged("document"))?;
        self.ask(self.say.put, &[&id.as_str(), &version.cast_signed(), &text]).await?;
        let status = if found.is_some() { StatusCode::OK } else { StatusCode::CREATED };
        Ok(Answer::new(status).with_version(version).with_body(&json!({ "id": id.as_str(), "version": version })))
    }
}
