//! Writers straight in the database, as an application would be.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::Result;
use hdrhistogram::Histogram;
use tokio::task::JoinSet;

pub(crate) fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 60_000_000, 3).expect("the bounds are in order")
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
