//! Clients of one tenant: through the router, and straight in the database as an application would be.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use hdrhistogram::Histogram;
use http::{Method, Request};
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use tokio::task::JoinSet;

/// Between two requests of a client.
const GAP: Duration = Duration::from_millis(4);
/// A client stops a request that takes longer.
const PATIENCE: Duration = Duration::from_secs(10);

/// What clients saw.
pub(crate) struct Seen {
    pub(crate) writes: Histogram<u64>,
    pub(crate) reads: Histogram<u64>,
    pub(crate) failed: Vec<String>,
}

/// Writers and readers through the router, until they are stopped.
pub(crate) struct Clients {
    stop: Arc<AtomicBool>,
    tasks: JoinSet<(bool, Histogram<u64>, Vec<String>)>,
}

pub(crate) fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 60_000_000, 3).expect("the bounds are in order")
}

async fn connect(router: SocketAddr) -> Result<SendRequest<Full<Bytes>>> {
    let stream = tokio::net::TcpStream::connect(router).await?;
    stream.set_nodelay(true)?;
    let (sender, connection) = handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    Ok(sender)
}

async fn ask(sender: &mut SendRequest<Full<Bytes>>, tenant: &str, put: bool, key: &str, body: Bytes) -> Result<()> {
    let request = Request::builder()
        .method(if put { Method::PUT } else { Method::GET })
        .uri(format!("/docs/{key}"))
        .header("host", "cell")
        .header("x-tenant-id", tenant)
        .header("content-type", "application/json")
        .body(Full::new(body))?;
    sender.ready().await?;
    let answer = sender.send_request(request).await?;
    let status = answer.status();
    let text = answer.into_body().collect().await?.to_bytes();
    if status.is_success() {
        return Ok(());
    }
    bail!("{status}: {}", String::from_utf8_lossy(&text))
}

/// Writes documents one after the other, for a start.
pub(crate) async fn fill(router: SocketAddr, tenant: &str, count: u32) -> Result<()> {
    let mut sender = connect(router).await?;
    // The router may learn of the tenant a moment later.
    let deadline = Instant::now() + PATIENCE;
    while let Err(error) = ask(&mut sender, tenant, true, "k0", Bytes::from_static(b"{}")).await {
        if Instant::now() > deadline {
            return Err(error.context("the router does not serve the tenant"));
        }
        tokio::time::sleep(GAP * 10).await;
        sender = connect(router).await?;
    }
    for number in 0..count {
        let body = Bytes::from(format!("{{\"n\":{number}}}"));
        ask(&mut sender, tenant, true, &format!("k{number}"), body).await?;
    }
    Ok(())
}

impl Clients {
    /// Three writers to each reader.
    pub(crate) fn start(router: SocketAddr, tenant: &str, count: u32) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let mut tasks = JoinSet::new();
        for number in 0..count {
            let (stop, tenant) = (Arc::clone(&stop), tenant.to_owned());
            let writes = number % 4 != 3;
            tasks.spawn(async move {
                let (mut latencies, mut failed) = (histogram(), Vec::new());
                let mut sender = None;
                let mut turn = 0_u64;
                while !stop.load(Ordering::Relaxed) {
                    turn += 1;
                    let began = Instant::now();
                    let asked = async {
                        let sender = match &mut sender {
                            Some(sender) => sender,
                            none => none.insert(connect(router).await?),
                        };
                        let body = if writes { Bytes::from(format!("{{\"turn\":{turn}}}")) } else { Bytes::new() };
                        ask(sender, &tenant, writes, &format!("k{}", (turn + u64::from(number) * 7) % 100), body)
                            .await
                    };
                    match tokio::time::timeout(PATIENCE, asked).await {
                        Ok(Ok(())) => {
                            let micros = u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX);
                            latencies.saturating_record(micros.max(1));
                        }
                        Ok(Err(error)) => {
                            failed.push(format!("{error:#}"));
                            sender = None;
                        }
                        Err(_) => {
                            failed.push("no answer in time".into());
                            sender = None;
                        }
                    }
                    tokio::time::sleep(GAP).await;
                }
                (writes, latencies, failed)
            });
        }
        Self { stop, tasks }
    }

    pub(crate) async fn end(mut self) -> Result<Seen> {
        self.stop.store(true, Ordering::Relaxed);
        let mut seen = Seen { writes: histogram(), reads: histogram(), failed: Vec::new() };
        while let Some(ended) = self.tasks.join_next().await {
            let (writes, latencies, failed) = ended?;
            let into = if writes { &mut seen.writes } else { &mut seen.reads };
            into.add(latencies).context("histograms are alike")?;
            seen.failed.extend(failed);
        }
        Ok(seen)
    }
}

/// A session in a database.
pub(crate) async fn session(url: &str) -> Result<tokio_postgres::Client> {
    let (client, connection) = tokio_postgres::connect(url, tokio_postgres::NoTls).await?;
    tokio::spawn(async move {
        let _ended = connection.await;
    });
    Ok(client)
}

/// How a writer in the database begins its transactions.
#[derive(Debug, Clone)]
pub(crate) enum Entry {
    /// By `cellway.enter`, as a cooperating application does.
    Enter { uid: i64, epoch: i64 },
    /// With no more than the tenant's name for row-level security, and no trigger: as if there were no Cellway.
    Bare,
}

/// Writers in the database, each as fast as it goes or with a pause, until they are stopped.
pub(crate) struct Writers {
    stop: Arc<AtomicBool>,
    done: Arc<AtomicU64>,
    tasks: JoinSet<Result<()>>,
}

impl Writers {
    pub(crate) async fn start(
        url: &str,
        tenant: &str,
        (count, pause): (u32, Duration),
        entry: &Entry,
    ) -> Result<Self> {
        let (stop, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let mut tasks = JoinSet::new();
        for number in 0..count {
            let mut client = session(url).await?;
            if matches!(entry, Entry::Bare) {
                client.batch_execute("SET session_replication_role = replica").await?;
            }
            let enter = match entry {
                Entry::Enter { .. } => "SELECT cellway.enter($1, $2, $3)",
                Entry::Bare => "SELECT set_config('bench.tenant', $1, true)",
            };
            let enter = client.prepare(enter).await?;
            let read = "SELECT version FROM documents WHERE tenant_id = $1 AND id = $2";
            let read = client.prepare(read).await?;
            let write = "INSERT INTO documents (tenant_id, id, version, body) VALUES ($1, $2, 1, $3) \
                         ON CONFLICT (tenant_id, id) DO UPDATE SET version = documents.version + 1, body = excluded.body";
            let write = client.prepare(write).await?;
            let (stop, done, tenant, entry) = (stop.clone(), done.clone(), tenant.to_owned(), entry.clone());
            tasks.spawn(async move {
                let mut turn = 0_u64;
                while !stop.load(Ordering::Relaxed) {
                    turn += 1;
                    let key = format!("w{number}-{}", turn % 500);
                    let transaction = client.transaction().await?;
                    match entry {
                        Entry::Enter { uid, epoch } => {
                            transaction.query(&enter, &[&tenant, &uid, &epoch]).await?;
                        }
                        Entry::Bare => {
                            transaction.query(&enter, &[&tenant]).await?;
                        }
                    }
                    // Some reading and writing, as little as an application may do in a request.
                    transaction.query(&read, &[&tenant, &key]).await?;
                    transaction.execute(&write, &[&tenant, &key, &format!("{{\"turn\": {turn}}}")]).await?;
                    transaction.commit().await?;
                    done.fetch_add(1, Ordering::Relaxed);
                    if !pause.is_zero() {
                        tokio::time::sleep(pause).await;
                    }
                }
                Ok(())
            });
        }
        Ok(Self { stop, done, tasks })
    }

    /// Transactions per second over a window.
    pub(crate) async fn rate(&self, window: Duration) -> f64 {
        let (before, began) = (self.done.load(Ordering::Relaxed), Instant::now());
        tokio::time::sleep(window).await;
        let more = self.done.load(Ordering::Relaxed) - before;
        f64::from(u32::try_from(more).unwrap_or(u32::MAX)) / began.elapsed().as_secs_f64()
    }

    pub(crate) async fn end(mut self) -> Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        while let Some(ended) = self.tasks.join_next().await {
            ended??;
        }
        Ok(())
    }
}
