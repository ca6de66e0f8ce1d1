//! What an idle connection costs: so many connections are opened, each asks once and then says nothing more, and the
//! memory of the proxy is compared with what it was before.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::net::TcpStream;

use crate::processes::OriginProcess;
use crate::proxies::{self, Setting, say};
use crate::raw::Raw;

/// Connections that are opened before the memory is looked at for the first time: what is made once is not theirs.
const FIRST: u32 = 200;
/// How many are opened at once.
const AT_ONCE: usize = 8;
const SETTLE: Duration = Duration::from_secs(4);
/// What each asks for once.
const ASKED: &str = "GET /16 HTTP/1.1\r\nhost: t-7.bench.test\r\nuser-agent: idle\r\naccept: */*\r\n\r\n";

pub(crate) async fn idle(connections: u32, mut setting: Setting) -> anyhow::Result<Value> {
    let origin = OriginProcess::start(&[])?;
    setting.origin = origin.address;
    let mut report = serde_json::Map::new();
    for name in proxies::names().filter(|name| *name != "direct") {
        let Some(proxy) = proxies::start_one(name, &setting)? else { continue };
        let first = hold(proxy.address, FIRST).await?;
        tokio::time::sleep(SETTLE).await;
        let before = proxy.resident_bytes()?;
        let held = hold(proxy.address, connections).await?;
        tokio::time::sleep(SETTLE).await;
        // Allocators give memory back when they are next asked for some.
        let stirred = hold(proxy.address, FIRST).await?;
        tokio::time::sleep(SETTLE).await;
        let after = proxy.resident_bytes()?;
        let bytes = after.saturating_sub(before) as f64 / f64::from(connections + FIRST);
        say(&format!("{name}: {bytes:.0} bytes a connection"));
        report.insert(
            name.to_owned(),
            json!({ "resident_bytes_before": before, "resident_bytes": after, "bytes_per_connection": bytes }),
        );
        drop((first, held, stirred));
    }
    Ok(json!({ "connections": connections, "proxies": report }))
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
