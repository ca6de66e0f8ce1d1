//! Instructions that a proxy runs for each request, as valgrind counts them: the same on a busy machine as on a quiet one,
//! so that a change which costs a hundredth is seen, and a limit can be held to by a command.
//!
//! Each proxy runs twice under callgrind, once with few requests and once with many more; the difference is theirs, without
//! the start and the end. What the kernel does is not counted.

use std::net::SocketAddr;
use std::path::Path;

use anyhow::Context;
use serde_json::{Value, json};

use crate::processes::{OriginProcess, needs};
use crate::proxies::{self, Setting, say};
use crate::raw::Raw;

/// Under valgrind HAProxy does not come to listen, and Envoy not in any time.
const COUNTED: [&str; 2] = ["cellway", "nginx"];
/// Requests of the run that stands for the start and the end.
const FEW: u32 = 2_000;
/// Connections that ask, each for one thing after the other.
const CONNECTIONS: u32 = 16;

/// What is counted, and what Cellway may come to.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Extent {
    pub(crate) requests: u32,
    pub(crate) at_most: Option<u64>,
}

/// What browsers send, more or less.
const FIELDS: &str = "user-agent: bench\r\naccept: text/html, */*\r\naccept-encoding: gzip\r\n\
                      accept-language: en\r\ncookie: a=1; b=2\r\nreferer: http://bench.test/\r\n";

pub(crate) async fn instructions(extent: Extent, mut setting: Setting) -> anyhow::Result<Value> {
    needs("valgrind")?;
    let whole = extent.requests > 0 && extent.requests.is_multiple_of(CONNECTIONS);
    anyhow::ensure!(whole, "--requests is a multiple of {CONNECTIONS}");
    let origin = OriginProcess::start(&[])?;
    setting.origin = origin.address;
    let files = tempfile::tempdir()?;
    let mut report = serde_json::Map::new();
    for name in COUNTED {
        for (kind, fields) in [("bare", ""), ("usual", FIELDS)] {
            let head = format!("GET / HTTP/1.1\r\nhost: t-7.bench.test\r\n{fields}\r\n");
            let mut totals = Vec::new();
            for requests in [FEW, FEW + extent.requests] {
                let out = files.path().join(format!("{name}.{kind}.{requests}"));
                setting.counted = Some(out.clone());
                totals.push(count(name, &setting, &out, &head, requests).await?);
            }
            let [Some(few), Some(many)] = totals[..] else { continue };
            let each = many.saturating_sub(few) / u64::from(extent.requests);
            say(&format!("{name}, {kind}: {each} instructions a request"));
            report.insert(format!("{name}_{kind}"), json!(each));
        }
    }
    if let (Some(most), Some(ours)) = (extent.at_most, report.get("cellway_bare").and_then(Value::as_u64)) {
        anyhow::ensure!(ours <= most, "a request takes {ours} instructions, and {most} is the limit");
    }
    Ok(json!({ "requests": extent.requests, "instructions_per_request": report }))
}

/// All instructions of one run; none where the proxy is not here.
async fn count(
    name: &str,
    setting: &Setting,
    out: &Path,
    head: &str,
    requests: u32,
) -> anyhow::Result<Option<u64>> {
    let Some(proxy) = proxies::start_one(name, setting)? else { return Ok(None) };
    ask(proxy.address, head, requests).await.with_context(|| format!("{name} under valgrind"))?;
    proxy.stop()?;
    let text = std::fs::read_to_string(out).with_context(|| format!("callgrind has left nothing of {name}"))?;
    let total = text.lines().find_map(|line| line.strip_prefix("totals:")?.trim().parse().ok());
    total.map(Some).with_context(|| format!("callgrind has counted nothing of {name}"))
}

/// Asks so often, over some connections at once.
async fn ask(target: SocketAddr, head: &str, requests: u32) -> anyhow::Result<()> {
    let mut asking = tokio::task::JoinSet::new();
    for _ in 0..CONNECTIONS {
        let head = head.to_owned();
        asking.spawn(async move {
            let mut connection = Raw::connect(target).await?;
            for _ in 0..requests / CONNECTIONS {
                connection.ask(&head).await?;
            }
            anyhow::Ok(())
        });
    }
    while let Some(asked) = asking.join_next().await {
        asked??;
    }
    Ok(())
}
