//! Two tenants at an origin that can do 500 a second, ten at once: A asks 1,000 times a second, B ten times. How long B
//! waits, and how much of what B leaves A gets.

use anyhow::Context;
use serde_json::{Value, json};

use crate::processes::{LoadProcess, OriginProcess};
use crate::proxies::{self, Setting, say};

const CAPACITY: f64 = 500.0;

pub(crate) fn fair(seconds: u32, mut setting: Setting) -> anyhow::Result<Value> {
    let mut report = serde_json::Map::new();
    for name in proxies::names() {
        // Each gets an origin with nothing in its queue.
        let origin = OriginProcess::start_slow()?;
        setting.origin = origin.address;
        let Some(proxy) = proxies::start_one(name, &setting)? else { continue };
        let start = |tenant, rate| LoadProcess::start(proxy.address, tenant, 1, rate, seconds);
        let (a, b) = (start(1, 1_000.0)?, start(2, 10.0)?);
        let (a, b) = (a.wait().context("tenant A")?, b.wait().context("tenant B")?);
        say(&format!("{name}: B {b:?}"));
        let part = a.goodput / (CAPACITY - b.goodput);
        report.insert(name.to_owned(), json!({ "a": a, "b": b, "a_goodput_of_what_is_left": part }));
    }
    Ok(json!({ "seconds": seconds, "origin": "10 at once, 20 ms each", "proxies": report }))
}
