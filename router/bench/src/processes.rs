//! Origin and load in processes of their own, on core 1, so that neither takes anything from a proxy on core 0.

use std::io::Write as _;
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::Context;

use crate::load::{ANSWERED_MIN, Outcome};
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
        Ok(serde_json::from_slice::<Outcome>(&output.stdout)?.judged())
    }
}

/// What a proxy did at a fixed rate, and the CPU of it for each request that was answered, in microseconds: what it spends
/// on those that it turns away is part of that. A machine that stands still for a moment makes a queue that may be turned
/// away; where that is more than a little, no time counts ([`Outcome::judged`]).
pub(crate) fn at_a_rate(proxy: &Proxy, spread: u32, rate: f64, seconds: u32) -> anyhow::Result<(Outcome, f64)> {
    let before = proxy.cpu_seconds()?;
    let outcome = LoadProcess::start(proxy.address, 7, spread, rate, seconds)?.wait()?;
    let cpu = proxy.cpu_seconds()? - before;
    if !outcome.p99_ms.is_finite() {
        proxies::say(&format!("{} at {rate} a second has answered too little: {outcome:?}", proxy.name));
    }
    let micros = cpu * 1e6 / outcome.answered.max(1) as f64;
    Ok((outcome, micros))
}

/// What a proxy did at full speed.
#[derive(Debug, Clone, Copy, PartialEq)]
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
    let said = Said::read(wire, &text)?;
    let speed = said.at(cpu);
    if !speed.cpu_micros.is_finite() {
        proxies::say(&format!("{} has refused too much: {text}", proxy.name));
    }
    Ok(speed)
}

/// What wrk or h2load says.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Said {
    asked: f64,
    fine: f64,
    per_second: f64,
}

impl Said {
    fn read(wire: Wire, text: &str) -> anyhow::Result<Self> {
        // What went well is not spoken of.
        let if_said = |words| if text.contains(words) { number_after(text, words) } else { Ok(0.0) };
        match wire {
            Wire::H1 | Wire::Tls => {
                let answered = number_before(text, "requests in")?;
                let fine = answered - if_said("Non-2xx or 3xx responses:")?;
                Ok(Self {
                    asked: answered + socket_errors(text)?,
                    fine,
                    per_second: number_after(text, "Requests/sec:")?,
                })
            }
            Wire::H2 | Wire::Grpc => {
                let (asked, fine) = (number_before(text, "done,")?, number_before(text, "2xx,")?);
                let fine = fine.min(asked - number_before(text, "failed,")?);
                Ok(Self { asked, fine, per_second: number_before(text, "req/s,")? })
            }
        }
    }

    /// What took so many seconds of CPU. Where too little was answered rightly, that it was cheap says nothing.
    fn at(self, cpu_seconds: f64) -> FullSpeed {
        if self.asked > 0.0 && self.fine >= self.asked * ANSWERED_MIN {
            return FullSpeed { cpu_micros: cpu_seconds * 1e6 / self.fine, per_second: self.per_second };
        }
        FullSpeed { cpu_micros: f64::INFINITY, per_second: 0.0 }
    }
}

/// How often wrk was not answered at all: `Socket errors: connect 0, read 5, write 0, timeout 2`.
fn socket_errors(text: &str) -> anyhow::Result<f64> {
    let Some((_, errors)) = text.split_once("Socket errors:") else { return Ok(0.0) };
    let errors = errors.lines().next().unwrap_or_default();
    let count = |error: &str| error.split_whitespace().next_back().and_then(|count| count.parse::<f64>().ok());
    errors.split(',').map(|error| count(error).with_context(|| format!("no number in {error}"))).sum()
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

/// Whether a program can be started.
pub(crate) fn needs(program: &str) -> anyhow::Result<()> {
    let found = Command::new(program).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    found
        .map(|_| ())
        .with_context(|| format!("{program} is not here: `make bench-router` installs it (router/bench/peers)"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const WRK: &str =
        "  18602 requests in 2.00s, 3.55MB read\nRequests/sec:   9301.10\nTransfer/sec:      1.77MB\n";
    const H2LOAD: &str = "finished in 2.00s, 5123.50 req/s, 1.1MB/s\nrequests: 10247 total, 10311 started, 10247 done, \
                          10247 succeeded, 0 failed, 0 errored, 0 timeout\nstatus codes: 10247 2xx, 0 3xx, 0 4xx, 0 5xx\n";

    #[test]
    fn what_wrk_and_h2load_print_is_read() {
        let wrk = Said { asked: 18_602.0, fine: 18_602.0, per_second: 9_301.1 };
        assert_eq!(Said::read(Wire::H1, WRK).unwrap(), wrk);
        let refused = WRK.replace("Requests/sec", "  Non-2xx or 3xx responses: 602\nRequests/sec");
        assert_eq!(Said::read(Wire::Tls, &refused).unwrap(), Said { fine: 18_000.0, ..wrk });
        let cut =
            WRK.replace("Requests/sec", "  Socket errors: connect 1, read 200, write 0, timeout 2\nRequests/sec");
        assert_eq!(Said::read(Wire::H1, &cut).unwrap(), Said { asked: 18_805.0, ..wrk });
        assert!(Said::read(Wire::H1, &cut.replace("200", "many")).is_err());
        let h2load = Said { asked: 10_247.0, fine: 10_247.0, per_second: 5_123.5 };
        assert_eq!(Said::read(Wire::H2, H2LOAD).unwrap(), h2load);
        let refused = H2LOAD.replace("10247 2xx, 0 3xx", "247 2xx, 10000 3xx");
        assert_eq!(Said::read(Wire::H2, &refused).unwrap(), Said { fine: 247.0, ..h2load });
        let failed = H2LOAD.replace("0 failed", "247 failed");
        assert_eq!(Said::read(Wire::Grpc, &failed).unwrap(), Said { fine: 10_000.0, ..h2load });
        assert!(Said::read(Wire::H1, H2LOAD).is_err() && Said::read(Wire::H2, WRK).is_err());
    }

    #[test]
    fn a_proxy_that_refuses_is_not_cheap() {
        let said = |fine| Said { asked: 1_000.0, fine, per_second: 500.0 };
        let speed = said(990.0).at(0.0099);
        assert!((speed.cpu_micros - 10.0).abs() < 1e-9 && speed.per_second == 500.0);
        assert_eq!(said(989.0).at(0.0099), FullSpeed { cpu_micros: f64::INFINITY, per_second: 0.0 });
        assert_eq!(Said { asked: 0.0, fine: 0.0, per_second: 0.0 }.at(1.0).cpu_micros, f64::INFINITY);
    }
}
