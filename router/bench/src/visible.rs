//! How long until a change is seen by a request, and what 10,000 changes a second do to requests: the same load by turns
//! while nothing changes and while that much does, and the ratio within each pair.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hdrhistogram::Histogram;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::fleet::{self, DOMAIN, Synthetic};
use crate::load::Outcome;
use crate::processes::{ANSWERED_MIN, LoadProcess, OriginProcess, median};
use crate::proxies::{resident_bytes, say};
use crate::raw::Raw;

/// What is measured.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Visible {
    pub(crate) tenants: u32,
    pub(crate) changes: u32,
    pub(crate) rounds: u32,
    pub(crate) seconds: u32,
}

const RATE: f64 = 1_000.0;
const CHANGES_PER_SECOND: u32 = 10_000;

impl Visible {
    pub(crate) async fn measure(self) -> anyhow::Result<Value> {
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let origins = [OriginProcess::start(&["--name", "a"])?, OriginProcess::start(&["--name", "b"])?];
        let cells = [("cell-a", origins[0].address.to_string()), ("cell-b", origins[1].address.to_string())];
        let before = resident_bytes("self")?;
        let control = Synthetic::new(self.tenants, &cells)?;
        let began = Instant::now();
        let (handle, running) = fleet::start(Arc::clone(&control), fleet::options(any, any, 1)).await?;
        let loaded = began.elapsed().as_secs_f64();
        let each = resident_bytes("self")?.saturating_sub(before) as f64 / f64::from(self.tenants);
        let address = handle.addresses().listen;
        let seen = self.time_changes(&control, address).await?;
        let (mut calm, mut stormy, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
        for round in 0..self.rounds {
            let quiet = load(address, self.seconds).await?;
            let storm = tokio::spawn(Arc::clone(&control).storm(CHANGES_PER_SECOND));
            let busy = load(address, self.seconds).await?;
            anyhow::ensure!(!storm.is_finished(), "the changes have stopped");
            storm.abort();
            say(&format!("round {round}: p99 {} ms, {} ms while tenants change", quiet.p99_ms, busy.p99_ms));
            ratios.push(busy.p99_ms / quiet.p99_ms);
            calm.push(quiet);
            stormy.push(busy);
        }
        running.abort();
        let times = |outcomes: &[Outcome]| {
            json!({
                "p50_ms": median(outcomes.iter().map(|outcome| outcome.p50_ms)),
                "p99_ms": median(outcomes.iter().map(|outcome| outcome.p99_ms)),
                "max_ms": median(outcomes.iter().map(|outcome| outcome.max_ms)),
            })
        };
        let ms = |quantile| seen.value_at_quantile(quantile) as f64 / 1e3;
        Ok(json!({
            "tenants": self.tenants, "rounds": self.rounds, "seconds": self.seconds, "rate": RATE,
            "bytes_per_tenant_with_the_bench": each,
            "table_loaded_seconds": loaded,
            "change_to_request_ms": { "p50": ms(0.5), "p99": ms(0.99), "max": seen.max() as f64 / 1e3 },
            "while_nothing_changes": times(&calm),
            "while_10000_a_second_change": times(&stormy),
            "p99_ratio": median(ratios),
        }))
    }

    /// Changes one tenant after the other, and asks as it until the other cell answers.
    async fn time_changes(self, control: &Synthetic, address: SocketAddr) -> anyhow::Result<Histogram<u64>> {
        let mut seen = Histogram::<u64>::new_with_bounds(1, 60_000_000, 3)?;
        let mut client = Raw::connect(address).await?;
        for n in 0..self.changes {
            let (tenant, cell) = (n % 97, usize::try_from((n / 97 + 1) % 2)?);
            let wanted = [b'a', b'b'][cell];
            let changed = Instant::now();
            control.change(tenant, cell).await?;
            let head = format!("GET / HTTP/1.1\r\nhost: t-{tenant}.{DOMAIN}\r\n\r\n");
            while client.ask(&head).await?.first() != Some(&wanted) {
                anyhow::ensure!(
                    changed.elapsed() < Duration::from_secs(10),
                    "the change of t-{tenant} is not seen"
                );
            }
            seen.saturating_record(u64::try_from(changed.elapsed().as_micros())?.max(1));
        }
        Ok(seen)
    }
}

async fn load(address: SocketAddr, seconds: u32) -> anyhow::Result<Outcome> {
    let load = LoadProcess::start(address, 1, 1, RATE, seconds)?;
    let outcome = tokio::task::spawn_blocking(|| load.wait()).await??;
    let enough = outcome.answered as f64 >= outcome.asked as f64 * ANSWERED_MIN;
    anyhow::ensure!(enough, "requests have failed: {:?}", outcome.others);
    Ok(outcome)
}
