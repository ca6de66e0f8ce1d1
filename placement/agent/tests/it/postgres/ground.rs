//! Two cells, each on a database of its own, and the steps that a coordinator would send.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use cell_agent::{Agent, AgentError, AgentOptions, DatabaseOptions, TenantDatabase};
use cell_client::{AgentPool, ImportProgress, StepContext, StepError};
use cell_gate::RequestStamp;
use cell_model::{CellId, Digest, Leg, Seq};
use cell_trust::SigningKey;
use tokio::runtime::Runtime;
use tokio::task::JoinHandle;
use tokio_postgres::Client;
use tokio_util::sync::CancellationToken;

pub(crate) use super::server::{database, session, until_true};
pub(crate) use super::tables::{TABLES, TEMPLATE};
pub(crate) use crate::cells::{HOLD, PATIENCE, context, outside, refused, stamp, tenant};

/// Holds that may lapse before one does not.
const ATTEMPTS: usize = 20;

/// Bytes in a second at which a copy is as good as at rest.
pub(crate) const CRAWL: u64 = 1_000;

/// A running cell.
pub(crate) struct Cell {
    pub(crate) id: CellId,
    pub(crate) agent: String,
    pub(crate) metrics: Option<SocketAddr>,
    pub(crate) url: String,
    pub(crate) data: TenantDatabase,
    /// Its tenants have schemas, or databases, of their own.
    pub(crate) own: bool,
    /// The tenant's own database, where each has one.
    pub(crate) rows: Option<String>,
    stop: CancellationToken,
    service: Option<JoinHandle<Result<(), AgentError>>>,
    // Its own, so that it can end as abruptly as a process does.
    runtime: Option<Runtime>,
}

impl Drop for Cell {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// What signs mappings and sends steps.
pub(crate) struct Ground {
    inner: crate::cells::Ground,
    pub(crate) pool: AgentPool,
}

impl Ground {
    pub(crate) fn new() -> Self {
        let inner = crate::cells::Ground::new();
        Self { pool: inner.pool.clone(), inner }
    }

    /// With other options for the agents of its cells.
    pub(crate) fn with(change: impl FnOnce(&mut crate::cells::Ground)) -> Self {
        let mut ground = Self::new();
        change(&mut ground.inner);
        ground
    }

    fn key(&self) -> &Arc<SigningKey> {
        &self.inner.key
    }

    pub(crate) async fn try_open(&self, name: &str, url: &str, listen: &str) -> Result<Cell, AgentError> {
        self.open_with(name, url, listen, |_| {}).await
    }

    pub(crate) async fn open_with(
        &self,
        name: &str,
        url: &str,
        listen: &str,
        change: impl FnOnce(&mut DatabaseOptions),
    ) -> Result<Cell, AgentError> {
        self.open_noting(name, (url, Path::new("")), listen, change).await
    }

    /// The same of an agent that notes what it has answered in a directory.
    pub(crate) async fn open_noting(
        &self,
        name: &str,
        (url, directory): (&str, &Path),
        listen: &str,
        change: impl FnOnce(&mut DatabaseOptions),
    ) -> Result<Cell, AgentError> {
        let id = CellId::new(name).unwrap();
        let mut options = AgentOptions::new(id.clone(), directory.into(), listen);
        options.insecure_plaintext = true;
        options.trusted_keys = vec![self.key().public().to_string()];
        let limits = &mut options.limits;
        limits.write_confirm_ms = self.inner.write_confirm_ms.unwrap_or(limits.write_confirm_ms);
        limits.captured_bytes_max = self.inner.captured_bytes_max.unwrap_or(limits.captured_bytes_max);
        options.control.clone_from(&self.inner.control);
        options.metrics = Some("127.0.0.1:0".into());
        let mut database = DatabaseOptions::new(url);
        database.chunk_bytes = 512 * 1024;
        // How long a commit takes here says something of the machine, and nothing of what is tested.
        database.source_latency_ms_max = 0;
        change(&mut database);
        let rows = database.tenant_database.as_ref().map(|name| name.replace("{id}", tenant().as_str()));
        let rows = rows.map(|name| format!("{}/{name}", url.rsplit_once('/').unwrap().0));
        let own = database.tenant_schema.is_some() || rows.is_some();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let opened = runtime.spawn(Agent::connect(options, database)).await.unwrap();
        let agent = match opened {
            Ok(agent) => agent,
            Err(error) => {
                runtime.shutdown_background();
                return Err(error);
            }
        };
        let (data, address, metrics) = (agent.data(), agent.address().to_string(), agent.metrics_address());
        let stop = CancellationToken::new();
        let service = Some(runtime.spawn(agent.run(stop.clone())));
        let runtime = Some(runtime);
        Ok(Cell { id, agent: address, metrics, url: url.into(), data, own, rows, stop, service, runtime })
    }

    /// A cell on a new database with the tables.
    pub(crate) async fn open(&self, name: &str) -> Cell {
        self.open_on(name, &database().await).await
    }

    /// A cell on this new database, with the tables.
    pub(crate) async fn open_on(&self, name: &str, url: &str) -> Cell {
        session(url).await.batch_execute(TABLES).await.unwrap();
        self.try_open(name, url, "127.0.0.1:0").await.unwrap()
    }

    /// A cell on a new database in which each tenant has a schema of its own.
    pub(crate) async fn open_own(&self, name: &str) -> Cell {
        let url = database().await;
        session(&url).await.batch_execute(TEMPLATE).await.unwrap();
        self.reopen_own(name, &url, "127.0.0.1:0").await
    }

    pub(crate) async fn reopen_own(&self, name: &str, url: &str, listen: &str) -> Cell {
        let own = |database: &mut DatabaseOptions| database.tenant_schema = Some("tenant_{id}".into());
        self.open_with(name, url, listen, own).await.unwrap()
    }

    /// Two cells; the first owns the tenant.
    pub(crate) async fn pair(&self) -> (Cell, Cell) {
        let (a, b) = (self.open("a").await, self.open("b").await);
        self.pool.grant(&a.agent, &outside(1)).await.unwrap();
        (a, b)
    }

    /// Begins the capture, as a coordinator does: a new slot waits for every transaction of the server that is open, also for those of
    /// other tests, and so perhaps for longer than a step is waited for.
    pub(crate) async fn capture(&self, from: &Cell, step: &StepContext) -> Seq {
        let begun = async {
            loop {
                match self.pool.start_capture(&from.agent, step).await {
                    Ok(seq) => return seq,
                    Err(StepError::Unknown { .. }) => {}
                    Err(error) => assert_eq!(refused::<()>(Err(error)), "BUSY"),
                }
            }
        };
        tokio::time::timeout(PATIENCE, begun).await.expect("in time")
    }

    /// Begins the copy.
    pub(crate) async fn begin(&self, from: &Cell, to: &Cell, step: &StepContext) {
        self.capture(from, step).await;
        self.pool.prepare_import(&to.agent, step, &from.id, &from.agent).await.unwrap();
    }

    /// Begins the copy of what is captured, at this rate from its first chunk on: that one cannot be read until the rate is
    /// set.
    pub(crate) async fn import_at(&self, from: &Cell, to: &Cell, step: &StepContext, bytes_per_second: u64) {
        let gate = from.session().await;
        gate.batch_execute("BEGIN; LOCK TABLE accounts IN ACCESS EXCLUSIVE MODE").await.unwrap();
        self.pool.prepare_import(&to.agent, step, &from.id, &from.agent).await.unwrap();
        self.pool.import_status_at(&to.agent, step, bytes_per_second).await.unwrap();
        gate.batch_execute("ROLLBACK").await.unwrap();
    }

    /// Begins the copy, and waits until it is complete.
    pub(crate) async fn copy(&self, from: &Cell, to: &Cell, step: &StepContext) {
        self.begin(from, to, step).await;
        self.progress(to, step, |progress| progress.backfilled).await;
    }

    /// Begins the copy of a tenant that has more than a chunk, and leaves it where it is half done: at [`CRAWL`] the next
    /// chunk comes after minutes. [`Ground::hurry`] lets it go on.
    pub(crate) async fn copy_half(&self, from: &Cell, to: &Cell, step: &StepContext) -> ImportProgress {
        self.capture(from, step).await;
        self.import_at(from, to, step, CRAWL).await;
        self.progress_at(to, step, CRAWL, |progress| progress.copied_rows > 0).await
    }

    /// Lifts the limit, and waits until the copy is complete.
    pub(crate) async fn hurry(&self, to: &Cell, step: &StepContext) {
        self.progress(to, step, |progress| progress.backfilled).await;
    }

    /// Waits for a state of the copy.
    pub(crate) async fn progress(
        &self,
        to: &Cell,
        step: &StepContext,
        is: impl Fn(&ImportProgress) -> bool,
    ) -> ImportProgress {
        self.progress_at(to, step, 0, is).await
    }

    /// The same of a copy that comes no faster than so many bytes in a second.
    pub(crate) async fn progress_at(
        &self,
        to: &Cell,
        step: &StepContext,
        bytes_per_second: u64,
        is: impl Fn(&ImportProgress) -> bool,
    ) -> ImportProgress {
        let mut last = None;
        let reached = async {
            loop {
                let progress = self.pool.import_status_at(&to.agent, step, bytes_per_second).await.unwrap();
                if is(&progress) {
                    return progress;
                }
                last = Some(progress.clone());
                assert!(progress.failure_code.is_empty(), "{progress:?}");
                tokio::time::sleep(std::time::Duration::from_millis(5)).await;
            }
        };
        match tokio::time::timeout(PATIENCE, reached).await {
            Ok(progress) => progress,
            Err(_) => panic!("not in time: {last:?}"),
        }
    }

    /// Waits until the copy cannot go on, and says why.
    pub(crate) async fn failure(&self, to: &Cell, step: &StepContext) -> String {
        let failed = async {
            loop {
                let progress = self.pool.import_status(&to.agent, step).await.unwrap();
                if !progress.failure_code.is_empty() {
                    return format!("{}: {}", progress.failure_code, progress.failure);
                }
                tokio::time::sleep(std::time::Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(PATIENCE, failed).await.expect("in time")
    }

    /// Compares every row at a cut, as the coordinator does in Verify.
    pub(crate) async fn verify(&self, from: &Cell, to: &Cell, step: &StepContext) -> Digest {
        let mut last = None;
        let looked = async {
            loop {
                let scanned = async {
                    let (seq, ours) = self.pool.scan_digest(&from.agent, step, None).await?;
                    let (_, theirs) = self.pool.scan_digest(&to.agent, step, Some(seq)).await?;
                    Ok::<_, StepError>((ours, theirs))
                };
                match scanned.await {
                    Ok(both) => return both,
                    // The follower may be on its way.
                    Err(StepError::Refused { code, reason })
                        if ["NOT_APPLIED", "BUSY"].contains(&code.as_str()) =>
                    {
                        last = Some((code, reason));
                    }
                    Err(error) => panic!("{error}"),
                }
                tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            }
        };
        let looked = tokio::time::timeout(PATIENCE, looked).await;
        let Ok((ours, theirs)) = looked else {
            panic!("not in time: {last:?}, {:?}", self.pool.import_status(&to.agent, step).await)
        };
        assert_eq!(theirs, ours);
        ours
    }

    /// Attempts, as a coordinator does, until one is not missed: on a slow machine a hold may lapse. Under which step it was.
    async fn attempts<T>(
        &self,
        from: &Cell,
        step: &StepContext,
        attempt: impl AsyncFn(&StepContext) -> Result<T, StepError>,
    ) -> (StepContext, T) {
        let mut step = step.clone();
        let mut missed = Vec::new();
        while missed.len() < ATTEMPTS {
            match attempt(&step).await {
                Ok(done) => return (step, done),
                Err(error) => missed.push(error),
            }
            let _lapsed = self.pool.release_hold(&from.agent, &step).await;
            step.attempt.0 += 1;
        }
        panic!("every attempt was missed: {missed:?}")
    }

    /// Holds, seals and waits for the other cell; what the rows of both add up to.
    async fn hold(&self, from: &Cell, to: &Cell, step: &StepContext) -> Result<(Seq, Digest, Digest), StepError> {
        let sealed = self.pool.hold_writes(&from.agent, step, HOLD).await?;
        let (applied, _) = self.pool.await_applied(&to.agent, step, sealed, HOLD).await?;
        assert_eq!(applied, sealed);
        let source = self.pool.digest_at(&from.agent, step, sealed, HOLD).await?;
        Ok((sealed, source, self.pool.digest_at(&to.agent, step, sealed, HOLD).await?))
    }

    /// What COMMIT asks for: a hold, sealed, with the same rows in both cells.
    pub(crate) async fn seal(&self, from: &Cell, to: &Cell, step: &StepContext) -> (StepContext, Seq) {
        let (step, (sealed, source, target)) =
            self.attempts(from, step, async |step| self.hold(from, to, step).await).await;
        assert_eq!(target, source);
        (step, sealed)
    }

    /// A seal at which the cells are found not to have the same rows.
    pub(crate) async fn seal_finds_a_difference(&self, from: &Cell, to: &Cell, step: &StepContext) {
        let (_, (_, source, target)) =
            self.attempts(from, step, async |step| self.hold(from, to, step).await).await;
        assert_ne!(target, source);
    }

    /// A seal that is fenced in time.
    pub(crate) async fn fence(&self, from: &Cell, to: &Cell, step: &StepContext) -> (StepContext, Seq) {
        let fenced = async |step: &StepContext| {
            let (sealed, source, target) = self.hold(from, to, step).await?;
            assert_eq!(target, source);
            assert_eq!(self.pool.fence(&from.agent, step, sealed).await?, sealed);
            Ok(sealed)
        };
        self.attempts(from, step, fenced).await
    }

    /// The code of what ends a hold, behind those that were only missed.
    pub(crate) async fn hold_is_refused(&self, from: &Cell, step: &StepContext, code: &str) -> StepContext {
        let refused = async |step: &StepContext| match self.pool.hold_writes(&from.agent, step, HOLD).await {
            Err(StepError::Refused { code: found, .. }) if found == code => Ok(()),
            Err(missed) => Err(missed),
            Ok(sealed) => panic!("sealed at {sealed}"),
        };
        self.attempts(from, step, refused).await.0
    }

    /// What tells the other cell that `owner` owns at `epoch`.
    pub(crate) fn mapping(&self, owner: &Cell, epoch: u64) -> cell_trust::SignedMapping {
        self.inner.mapping(&owner.id, epoch)
    }

    /// The cutover from `from` at `epoch` to `to` at the next one, in this attempt or a later one.
    pub(crate) async fn cut_over(&self, from: &Cell, to: &Cell, epoch: u64, attempt: u32, leg: Leg) {
        let before = StepContext { leg: Some(leg), ..context(epoch, attempt) };
        let (fenced, _) = self.fence(from, to, &before).await;
        let after = StepContext { leg: Some(leg), ..context(epoch + 1, fenced.attempt.0) };
        let (follower, follows) = match leg {
            Leg::Forward => (Some((&from.id, from.agent.as_str())), Some((&to.id, to.agent.as_str()))),
            Leg::Back => (None, None),
        };
        self.pool.activate(&to.agent, &after, follower).await.unwrap();
        let mapping = self.mapping(to, epoch + 1);
        self.pool.deliver_mapping(&from.agent, &after, &mapping, follows).await.unwrap();
    }
}

/// How the tenant's rows are come to.
#[derive(Clone)]
pub(crate) struct Door {
    url: String,
    looks_in_schema: bool,
}

impl Door {
    pub(crate) async fn open(&self) -> Client {
        let client = session(&self.url).await;
        if self.looks_in_schema {
            client.batch_execute("SET search_path = \"tenant_t-1\", public").await.unwrap();
        }
        client
    }
}

impl Cell {
    pub(crate) async fn close(mut self) -> String {
        self.stop.cancel();
        self.service.take().unwrap().await.unwrap().unwrap();
        self.agent.clone()
    }

    /// Nothing in it goes on until what this answers with is dropped: all its tasks share one thread.
    pub(crate) async fn fall_asleep(&self) -> std::sync::mpsc::SyncSender<()> {
        let (wake, woken) = std::sync::mpsc::sync_channel::<()>(1);
        let (sleeps, asleep) = tokio::sync::oneshot::channel();
        self.runtime.as_ref().unwrap().spawn(async move {
            sleeps.send(()).unwrap();
            let _woken = woken.recv();
        });
        asleep.await.unwrap();
        wake
    }

    /// How it has ended by itself.
    pub(crate) async fn ended(&mut self) -> Result<(), AgentError> {
        self.service.take().unwrap().await.unwrap()
    }

    /// Ends it without letting it finish anything.
    pub(crate) fn kill(self) -> String {
        self.agent.clone()
    }

    /// Where names are looked for, where tenants have schemas of their own, in the tenant's.
    pub(crate) async fn session(&self) -> Client {
        self.door().open().await
    }

    pub(crate) fn door(&self) -> Door {
        Door {
            url: self.rows.clone().unwrap_or_else(|| self.url.clone()),
            looks_in_schema: self.own && self.rows.is_none(),
        }
    }

    /// What is in one of its tables, but for whose it is.
    pub(crate) async fn contents(&self, table: &str) -> Vec<String> {
        let whose = if self.own { "true" } else { "tenant_id = 't-1'" };
        let sql = format!("SELECT (to_jsonb(t) - 'tenant_id')::text FROM {table} t WHERE {whose} ORDER BY 1");
        self.session().await.query(&sql, &[]).await.unwrap().iter().map(|row| row.get(0)).collect()
    }

    /// Everything that a tenant has, by table.
    pub(crate) async fn rows(&self) -> BTreeMap<String, Vec<String>> {
        self.rows_of(tenant().as_str()).await
    }

    pub(crate) async fn rows_of(&self, whose: &str) -> BTreeMap<String, Vec<String>> {
        let client = self.session().await;
        let mut rows = BTreeMap::new();
        for table in ["accounts", "entries", "\"Odd \"\" name\""] {
            let sql = format!("SELECT t::text FROM {table} t WHERE tenant_id = $1 ORDER BY 1");
            let found = client.query(&sql, &[&whose]).await.unwrap();
            rows.insert(table.to_owned(), found.iter().map(|row| row.get(0)).collect());
        }
        rows
    }

    /// How many slots, and records of them, this cell's database has.
    pub(crate) async fn slots(&self) -> i64 {
        let sql = "SELECT (SELECT count(*) FROM pg_replication_slots WHERE database = current_database()) \
                   + (SELECT count(*) FROM cellway.made)";
        self.session().await.query_one(sql, &[]).await.unwrap().get(0)
    }
}

/// Begins a transaction as a request under `epoch` does. The code of the refusal, if it is refused.
pub(crate) async fn enter(client: &Client, epoch: u64) -> Result<(), String> {
    let RequestStamp { tenant, uid, epoch } = stamp(epoch);
    client.batch_execute("BEGIN").await.unwrap();
    let (uid, epoch) = (i64::try_from(uid.get()).unwrap(), i64::try_from(epoch.get()).unwrap());
    let entered = client.execute("SELECT cellway.enter($1, $2, $3)", &[&tenant.as_str(), &uid, &epoch]).await;
    entered.map(|_| ()).map_err(|error| code(&error))
}

/// The code in front of a refusal's message.
pub(crate) fn code(error: &tokio_postgres::Error) -> String {
    let error = error.as_db_error().unwrap_or_else(|| panic!("not the server's: {error:?}"));
    error.message().split(':').next().unwrap_or_default().to_owned()
}

/// Whether the tenant has a schema of its own.
pub(crate) async fn has_schema(cell: &Cell) -> bool {
    let sql = "SELECT EXISTS (SELECT 1 FROM pg_namespace WHERE nspname = 'tenant_t-1')";
    session(&cell.url).await.query_one(sql, &[]).await.unwrap().get(0)
}

/// A row of accounts, written by whoever comes with psql.
pub(crate) async fn account(client: &Client, name: &str) -> Result<i64, tokio_postgres::Error> {
    let sql = "INSERT INTO accounts (tenant_id, name, mood, price, tags, doc, seen, raw, ratio) VALUES \
               ('t-1', $1, 'busy', 12.300, '{a,\"b c\",NULL}', '{\"k\": [1, 2.50, \"ü\"]}', \
                '2026-02-28 23:59:59.123456+02', '\\x00ff10', 0.1) RETURNING id";
    Ok(client.query_one(sql, &[&name]).await?.get(0))
}

pub(crate) async fn accounts(client: &Client, count: i32) {
    let sql = "INSERT INTO accounts (tenant_id, name, price, big) \
               SELECT 't-1', 'n' || i, i, repeat(md5(i::text), 20) FROM generate_series(1, $1) i";
    client.execute(sql, &[&count]).await.unwrap();
}
