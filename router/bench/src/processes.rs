//! Origin and load in processes of their own, on core 1, so that neither takes anything from a proxy on core 0.

use std::io::Write as _;
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::Context;

use crate::load::Outcome;
use crate::proxies::{self, Proxy, Wire, on_core};

/// An origin in a process of its own.
pub(crate) struct OriginProcess {
    pub(crate) address: SocketAddr,
    process: Child,
}

impl Drop for OriginProcess {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ended = self.process.kill();
        let _reaped = self.process.wait();
    }
}

impl OriginProcess {
    pub(crate) fn start(arguments: &[&str]) -> anyhow::Result<Self> {
        let address = proxies::free_address()?;
        let process = on_core(1, std::env::current_exe()?)
            .args(["origin", "--listen", &address.to_string()])
            .args(arguments)
            .stdin(Stdio::null())
            .spawn()
            .context("cannot start the origin: is taskset here?")?;
        let origin = Self { address, process };
        let began = Instant::now();
        while std::net::TcpStream::connect(address).is_err() {
            anyhow::ensure!(began.elapsed() < Duration::from_secs(10), "the origin does not listen");
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(origin)
    }

    /// Ten at once, 20 ms each: 500 a second.
    pub(crate) fn start_slow() -> anyhow::Result<Self> {
        Self::start(&["--places", "10", "--service-ms", "20"])
    }
}

/// A load at a fixed rate, in a process of its own.
pub(crate) struct LoadProcess(Child);

impl LoadProcess {
    /// Asks as `tenant`, or as each of the first `spread` tenants in turn.
    pub(crate) fn start(
        target: SocketAddr,
        tenant: u32,
        spread: u32,
        rate: f64,
        seconds: u32,
    ) -> anyhow::Result<Self> {
        let process = on_core(1, std::env::current_exe()?)
            .args(["load", "--target", &target.to_string(), "--tenant", &tenant.to_string()])
            .args(["--spread", &spread.to_string(), "--rate", &rate.to_string()])
            .args(["--seconds", &seconds.to_string()])
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot start the load")?;
        Ok(Self(process))
    }

    pub(crate) fn wait(self) -> anyhow::Result<Outcome> {
        let output = self.0.wait_with_output()?;
        anyhow::ensure!(output.status.success(), "the load has failed");
        Ok(serde_json::from_slice(&output.stdout)?)
    }
}

/// What a proxy did at a fixed rate, and the CPU of it for each request that was answered, in microseconds: what it spends
/// on those that it turns away is part of that. A machine that stands still for a moment makes a queue that may be turned
/// away; more than a little of that is no measurement.
pub(crate) fn at_a_rate(proxy: &Proxy, spread: u32, rate: f64, seconds: u32) -> anyhow::Result<(Outcome, f64)> {
    let before = proxy.cpu_seconds()?;
    let outcome = LoadProcess::start(proxy.address, 7, spread, rate, seconds)?.wait()?;
    let cpu = proxy.cpu_seconds()? - before;
    let enough = outcome.answered as f64 >= outcome.asked as f64 * ANSWERED_MIN;
    anyhow::ensure!(enough, "{} at {rate} a second: {:?}", proxy.name, outcome.others);
    let micros = cpu * 1e6 / outcome.answered.max(1) as f64;
    Ok((outcome, micros))
}

/// The part of requests that has to be answered with 200.
pub(crate) const ANSWERED_MIN: f64 = 0.9;

/// What a proxy did at full speed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct FullSpeed {
    pub(crate) cpu_micros: f64,
    pub(crate) per_second: f64,
}

/// 64 clients that ask again at once: connections over HTTP/1.1 (wrk), streams of eight connections over HTTP/2 (h2load).
pub(crate) fn at_full_speed(proxy: &Proxy, wire: Wire, path: &str, seconds: u32) -> anyhow::Result<FullSpeed> {
    let scheme = if wire == Wire::Tls { "https" } else { "http" };
    let target = format!("{scheme}://{}{path}", proxy.address);
    let mut message = tempfile::NamedTempFile::new()?;
    let mut command = match wire {
        Wire::H1 | Wire::Tls => {
            let mut wrk = on_core(1, "wrk");
            wrk.args(["-t1", "-c64", &format!("-d{seconds}s"), "-H", "Host: t-7.bench.test"]);
            wrk
        }
        Wire::H2 | Wire::Grpc => {
            let mut h2load = on_core(1, "h2load");
            h2load.args(["-t1", "-c8", "-m8", "-D", &seconds.to_string(), "-H", ":authority: t-7.bench.test"]);
            if wire == Wire::Grpc {
                message.write_all(&crate::origin::message(16))?;
                h2load
                    .args(["-H", "content-type: application/grpc", "-H", "te: trailers", "-d"])
                    .arg(message.path());
            }
            h2load
        }
    };
    let before = proxy.cpu_seconds()?;
    let output = command.arg(target).output().context("cannot start the load")?;
    let cpu = proxy.cpu_seconds()? - before;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    anyhow::ensure!(output.status.success(), "the load has failed: {text}");
    let (requests, per_second) = match wire {
        Wire::H1 | Wire::Tls => {
            anyhow::ensure!(!text.contains("Non-2xx"), "{} refuses: {text}", proxy.name);
            (number_before(&text, "requests in")?, number_after(&text, "Requests/sec:")?)
        }
        Wire::H2 | Wire::Grpc => {
            anyhow::ensure!(number_before(&text, "failed,")? == 0.0, "{} refuses: {text}", proxy.name);
            (number_before(&text, "2xx,")?, number_before(&text, "req/s,")?)
        }
    };
    anyhow::ensure!(requests > 0.0, "{} has answered nothing: {text}", proxy.name);
    Ok(FullSpeed { cpu_micros: cpu * 1e6 / requests, per_second })
}

/// The number that stands before `words`.
fn number_before(text: &str, words: &str) -> anyhow::Result<f64> {
    let at = text.find(words).with_context(|| format!("no {words} in {text}"))?;
    let number = text[..at].split_whitespace().next_back().and_then(|word| word.trim_end_matches(',').parse().ok());
    number.with_context(|| format!("no number before {words} in {text}"))
}

fn number_after(text: &str, words: &str) -> anyhow::Result<f64> {
    let at = text.find(words).with_context(|| format!("no {words} in {text}"))?;
    let number = text[at + words.len()..].split_whitespace().next().and_then(|word| word.parse().ok());
    number.with_context(|| format!("no number after {words} in {text}"))
}

/// The middle of what is finite.
pub(crate) fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.into_iter().filter(|value| value.is_finite()).collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// Whether a program can be started.
pub(crate) fn needs(program: &str) -> anyhow::Result<()> {
    let found = Command::new(program).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    found
        .map(|_| ())
        .with_context(|| format!("{program} is not here: apt-get install wrk nghttp2-client util-linux"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_wrk_and_h2load_print_is_read() {
        let wrk = "  18602 requests in 2.00s, 3.55MB read\nRequests/sec:   9301.10\nTransfer/sec:      1.77MB\n";
        assert_eq!(number_before(wrk, "requests in").unwrap(), 18_602.0);
        assert_eq!(number_after(wrk, "Requests/sec:").unwrap(), 9_301.1);
        let h2load = "finished in 2.00s, 5123.50 req/s, 1.1MB/s\nrequests: 10247 total, 10311 started, 10247 done, \
                      10247 succeeded, 0 failed, 0 errored, 0 timeout\nstatus codes: 10247 2xx, 0 3xx, 0 4xx, 0 5xx\n";
        assert_eq!(number_before(h2load, "req/s,").unwrap(), 5_123.5);
        assert_eq!(number_before(h2load, "failed,").unwrap(), 0.0);
        assert_eq!(number_before(h2load, "2xx,").unwrap(), 10_247.0);
        assert!(number_after(h2load, "Requests/sec:").is_err());
    }

    #[test]
    fn the_median_leaves_out_what_is_no_number() {
        assert_eq!(median([3.0, f64::NAN, 1.0, 2.0]), 2.0);
        assert!(median([f64::NAN]).is_nan());
    }
}
