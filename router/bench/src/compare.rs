//! Proxies by turns: in each round every one of them is measured, in another order, and what is reported is the best of
//! each and the median of the ratios within a round. Absolute figures depend on the machine and on what else it does; the
//! ratios much less.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::Context;
use serde_json::{Value, json};

use crate::proxies::{self, Programs, Proxy, say};

/// What was measured of one proxy in one round.
#[derive(Debug, Clone, Default)]
struct Round {
    cpu_micros: f64,
    per_second: f64,
    p50_ms: f64,
    p99_ms: f64,
    large_cpu_micros: f64,
}

/// An origin in a process of its own, on core 1.
struct OriginProcess(Child);

impl Drop for OriginProcess {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ended = self.0.kill();
        let _reaped = self.0.wait();
    }
}

fn start_origin(arguments: &[&str]) -> anyhow::Result<(OriginProcess, SocketAddr)> {
    let address = proxies::free_address()?;
    let process = Command::new("taskset")
        .args(["-c", "1"])
        .arg(std::env::current_exe()?)
        .args(["origin", "--listen", &address.to_string()])
        .args(arguments)
        .stdin(Stdio::null())
        .spawn()
        .context("cannot start the origin: is taskset here?")?;
    let origin = OriginProcess(process);
    let began = Instant::now();
    while std::net::TcpStream::connect(address).is_err() {
        anyhow::ensure!(began.elapsed() < Duration::from_secs(10), "the origin does not listen");
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok((origin, address))
}

/// CPU for each request at full speed, and the time of an answer at 2,000 a second.
pub(crate) async fn compare(
    rounds: u32,
    seconds: u32,
    tenants: u32,
    envoy: Option<PathBuf>,
) -> anyhow::Result<Value> {
    let (_origin, origin) = start_origin(&[])?;
    let proxies = proxies::start_all(origin, tenants, &Programs { envoy })?;
    let mut measured: BTreeMap<&str, Vec<Round>> = BTreeMap::new();
    for round in 0..rounds {
        for turn in 0..proxies.len() {
            let proxy = &proxies[(turn + round as usize) % proxies.len()];
            let figures = measure(proxy, seconds)?;
            say(&format!("round {round}: {} {figures:?}", proxy.name));
            measured.entry(proxy.name).or_default().push(figures);
        }
    }
    let direct = measured.get("direct").cloned().unwrap_or_default();
    let cellway = measured.get("cellway").cloned().unwrap_or_default();
    let report = measured.iter().map(|(name, rounds)| {
        let best = |of: fn(&Round) -> f64| rounds.iter().map(of).fold(f64::INFINITY, f64::min);
        let most = rounds.iter().map(|round| round.per_second).fold(0.0, f64::max);
        let ratio = |of: fn(&Round) -> f64| {
            median(cellway.iter().zip(rounds).map(|(ours, theirs)| of(ours) / of(theirs)).collect())
        };
        let added =
            median(rounds.iter().zip(&direct).map(|(round, direct)| round.p99_ms - direct.p99_ms).collect());
        let figures = json!({
            "cpu_micros_per_request": best(|round| round.cpu_micros),
            "cpu_micros_per_request_of_100_kb": best(|round| round.large_cpu_micros),
            "requests_per_second": most,
            "p50_ms_at_2000": best(|round| round.p50_ms),
            "p99_ms_at_2000": best(|round| round.p99_ms),
            "added_p99_ms_at_2000": added,
            "cellway_cpu_to_this": ratio(|round| round.cpu_micros),
            "cellway_cpu_to_this_100_kb": ratio(|round| round.large_cpu_micros),
        });
        ((*name).to_owned(), figures)
    });
    let report: serde_json::Map<String, Value> = report.collect();
    Ok(json!({ "rounds": rounds, "seconds": seconds, "tenants": tenants, "proxies": report }))
}

fn median(mut values: Vec<f64>) -> f64 {
    values.retain(|value| value.is_finite());
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

fn measure(proxy: &Proxy, seconds: u32) -> anyhow::Result<Round> {
    let (cpu_micros, per_second) = full_speed(proxy, "/", seconds)?;
    let (large_cpu_micros, _) = full_speed(proxy, "/100000", seconds.div_ceil(2))?;
    let calm = load(proxy, 7, 2_000.0, seconds)?.wait()?;
    Ok(Round {
        cpu_micros,
        per_second,
        p50_ms: calm["p50_ms"].as_f64().unwrap_or(f64::NAN),
        p99_ms: calm["p99_ms"].as_f64().unwrap_or(f64::NAN),
        large_cpu_micros,
    })
}

/// CPU in microseconds for each request, and requests a second, with 64 connections that ask again at once.
fn full_speed(proxy: &Proxy, path: &str, seconds: u32) -> anyhow::Result<(f64, f64)> {
    let before = proxy.cpu_seconds()?;
    let output = Command::new("taskset")
        .args(["-c", "1", "wrk", "-t1", "-c64", &format!("-d{seconds}s"), "-H", "Host: t-7.bench.test"])
        .arg(format!("http://{}{path}", proxy.address))
        .output()
        .context("cannot start wrk")?;
    let cpu = proxy.cpu_seconds()? - before;
    let text = String::from_utf8_lossy(&output.stdout);
    anyhow::ensure!(output.status.success(), "wrk: {text}");
    anyhow::ensure!(!text.contains("Non-2xx"), "{} refuses: {text}", proxy.name);
    let number = |before: &str| -> anyhow::Result<f64> {
        let line =
            text.lines().find(|line| line.contains(before)).with_context(|| format!("no {before} in {text}"))?;
        let number = line.split_whitespace().find_map(|word| word.parse::<f64>().ok());
        number.with_context(|| format!("no number in {line}"))
    };
    Ok((cpu * 1e6 / number("requests in")?, number("Requests/sec")?))
}

/// A load in a process of its own, on core 1.
struct LoadProcess(Child);

impl LoadProcess {
    fn wait(self) -> anyhow::Result<Value> {
        let output = self.0.wait_with_output()?;
        anyhow::ensure!(output.status.success(), "the load has failed");
        Ok(serde_json::from_slice(&output.stdout)?)
    }
}

fn load(proxy: &Proxy, tenant: u32, rate: f64, seconds: u32) -> anyhow::Result<LoadProcess> {
    let process = Command::new("taskset")
        .args(["-c", "1"])
        .arg(std::env::current_exe()?)
        .args(["load", "--target", &proxy.address.to_string(), "--host", &format!("t-{tenant}.bench.test")])
        .args(["--rate", &rate.to_string(), "--seconds", &seconds.to_string()])
        .stdout(Stdio::piped())
        .spawn()?;
    Ok(LoadProcess(process))
}

/// Two tenants at an origin that can do 500 a second, ten at once: A asks 1,000 times a second, B ten times.
pub(crate) async fn fair(seconds: u32, envoy: Option<PathBuf>) -> anyhow::Result<Value> {
    let mut report = serde_json::Map::new();
    let programs = Programs { envoy };
    let names: Vec<&str> = {
        let (_origin, origin) = start_origin(&["--places", "10", "--service-ms", "20"])?;
        proxies::start_all(origin, 100, &programs)?.iter().map(|proxy| proxy.name).collect()
    };
    for name in names {
        // Each gets an origin with nothing in its queue.
        let (_origin, origin) = start_origin(&["--places", "10", "--service-ms", "20"])?;
        let proxies = proxies::start_all(origin, 100, &programs)?;
        let proxy = proxies.iter().find(|proxy| proxy.name == name).context("it was here before")?;
        let (a, b) = (load(proxy, 1, 1_000.0, seconds)?, load(proxy, 2, 10.0, seconds)?);
        let (a, b) = (a.wait()?, b.wait()?);
        say(&format!("{name}: B {b}"));
        let left = 500.0 - b["goodput"].as_f64().unwrap_or(0.0);
        let part = a["goodput"].as_f64().unwrap_or(0.0) / left;
        report.insert(name.to_owned(), json!({ "a": a, "b": b, "a_goodput_of_what_is_left": part }));
    }
    Ok(json!({ "seconds": seconds, "origin": "10 at once, 20 ms each", "proxies": report }))
}
