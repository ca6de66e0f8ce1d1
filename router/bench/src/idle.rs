//! What an idle connection costs: so many connections are opened, each asks once and then says nothing more, and the
//! memory of the proxy is compared with what it was before.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use cell_figures::{Figure, Figures};
use tokio::net::TcpStream;

use crate::ground::Ground;
use crate::processes::OriginProcess;
use crate::proxies::{self, Wire, say};
use crate::raw::Raw;

/// Connections that are opened before the memory is looked at for the first time: what is made once is not theirs.
const FIRST: u32 = 200;
/// How many are opened at once.
const AT_ONCE: usize = 8;
const SETTLE: Duration = Duration::from_secs(4);
/// What each asks for once.
const ASKED: &str = "GET /16 HTTP/1.1\r\nhost: t-7.bench.test\r\nuser-agent: idle\r\naccept: */*\r\n\r\n";
const OURS: &str = "cellway";
/// What one of ours may cost, and should.
const KIB_MAX: f64 = 12.0;
const KIB_GOAL: f64 = 8.0;

/// Memory of a connection that has asked once and says nothing more
#[derive(Debug, clap::Args)]
pub(crate) struct Idle {
    /// How many
    #[arg(long, default_value_t = 8_000, value_parser = clap::value_parser!(u32).range(1_000..=17_000))]
    pub(crate) connections: u32,
}

impl Idle {
    pub(crate) async fn measure(&self, ground: &Ground, figures: &mut Figures) -> anyhow::Result<()> {
        let (origin, mut setting) = (OriginProcess::start(&[])?, ground.setting(100, Wire::H1));
        setting.origin = origin.address;
        let mut seen = BTreeMap::new();
        for name in proxies::names().filter(|name| *name != "direct") {
            let Some(proxy) = proxies::start_one(name, &setting)? else { continue };
            let first = hold(proxy.address, FIRST).await?;
            tokio::time::sleep(SETTLE).await;
            let before = proxy.resident_bytes()?;
            let held = hold(proxy.address, self.connections).await?;
            tokio::time::sleep(SETTLE).await;
            // Allocators give memory back when they are next asked for some.
            let stirred = hold(proxy.address, FIRST).await?;
            tokio::time::sleep(SETTLE).await;
            let after = proxy.resident_bytes()?;
            let bytes = proxies::grown(before, after) / f64::from(self.connections + FIRST);
            say(&format!("{name}: {bytes:.0} bytes a connection, {before} before and {after} bytes with them"));
            seen.insert(name, bytes / 1_024.0);
            drop((first, held, stirred));
        }
        let measure = format!("memory of each of {} idle connections", self.connections);
        let ours = seen.get(OURS).copied().unwrap_or(f64::NAN);
        figures.add(Figure::at_most(&*measure, "KiB", ours, Some(KIB_MAX), Some(KIB_GOAL)));
        for (name, theirs) in seen.iter().filter(|(name, _)| **name != OURS) {
            figures.add(Figure::less_beside(&*measure, "KiB", (ours, *theirs), *name, None));
        }
        Ok(())
    }
}

/// Opens connections, asks once on each, and keeps them.
async fn hold(proxy: SocketAddr, count: u32) -> anyhow::Result<Vec<TcpStream>> {
    let next = Arc::new(AtomicU32::new(0));
    let mut opening = tokio::task::JoinSet::new();
    for _ in 0..AT_ONCE {
        let next = Arc::clone(&next);
        opening.spawn(async move {
            let mut held = Vec::new();
            while next.fetch_add(1, Ordering::Relaxed) < count {
                let mut client = Raw::connect(proxy).await?;
                client.ask(ASKED).await?;
                held.push(client.into_stream());
            }
            anyhow::Ok(held)
        });
    }
    let mut all = Vec::new();
    while let Some(held) = opening.join_next().await {
        all.extend(held??);
    }
    Ok(all)
}
