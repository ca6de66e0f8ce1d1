//! Instructions that a proxy runs for each request, as valgrind counts them: the same on a busy machine as on a quiet one,
//! so that a change which costs a hundredth is seen, and a limit can be held to by a command.
//!
//! Each proxy runs twice under callgrind, once with few requests and once with many more; the difference is theirs, without
//! the start and the end. What the kernel does is not counted.

use std::net::SocketAddr;
use std::path::Path;

use anyhow::Context;
use cell_figures::{Figure, Figures};

use crate::ground::Ground;
use crate::processes::{OriginProcess, needs};
use crate::proxies::{self, Setting, Wire, say};
use crate::raw::Raw;

/// Under valgrind HAProxy does not come to listen, and Envoy not in any time.
const COUNTED: [&str; 2] = ["cellway", "nginx"];
/// Requests of the run that stands for the start and the end.
const FEW: u32 = 2_000;
/// Connections that ask, each for one thing after the other.
const CONNECTIONS: u32 = 16;

/// Instructions for each request, as callgrind counts them: for comparing builds, and for a limit
#[derive(Debug, clap::Args)]
pub(crate) struct Instructions {
    /// Requests that are counted: a multiple of 16
    #[arg(long, default_value_t = 10_000)]
    pub(crate) requests: u32,
    /// Fail where a bare request through the router takes more
    #[arg(long)]
    pub(crate) at_most: Option<u32>,
}

/// What browsers send, more or less.
pub(crate) const FIELDS: &str = "user-agent: bench\r\naccept: text/html, */*\r\naccept-encoding: gzip\r\n\
                      accept-language: en\r\ncookie: a=1; b=2\r\nreferer: http://bench.test/\r\n";

impl Instructions {
    pub(crate) async fn measure(&self, ground: &Ground, figures: &mut Figures) -> anyhow::Result<()> {
        needs("valgrind")?;
        let whole = self.requests > 0 && self.requests.is_multiple_of(CONNECTIONS);
        anyhow::ensure!(whole, "--requests is a multiple of {CONNECTIONS}");
        let (origin, mut setting) = (OriginProcess::start(&[])?, ground.setting(100, Wire::H1));
        setting.origin = origin.address;
        let files = tempfile::tempdir()?;
        for (kind, fields) in [("bare", ""), ("usual", FIELDS)] {
            let head = format!("GET / HTTP/1.1\r\nhost: t-7.bench.test\r\n{fields}\r\n");
            let mut counted = Vec::new();
            for name in COUNTED {
                let mut totals = Vec::new();
                for requests in [FEW, FEW + self.requests] {
                    let out = files.path().join(format!("{name}.{kind}.{requests}"));
                    setting.counted = Some(out.clone());
                    totals.push(count(name, &setting, &out, &head, requests).await?);
                }
                let each = match totals[..] {
                    [Some(few), Some(many)] => Some(many.saturating_sub(few) as f64 / f64::from(self.requests)),
                    _ => None,
                };
                say(&format!("{name}, {kind}: {each:.0?} instructions a request"));
                counted.push(each);
            }
            let measure = format!("instructions for a {kind} request");
            let ours = counted[0].unwrap_or(f64::NAN);
            figures.add(Figure::less_beside(&*measure, "", (ours, counted[1]), COUNTED[1], None));
            if let Some(most) = self.at_most.filter(|_| kind == "bare") {
                figures.add(Figure::at_most(measure, "", ours, Some(f64::from(most)), None));
            }
        }
        Ok(())
    }
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
