//! Proxies by turns: in each round every one of them is measured, in another order, and what is reported is the best of
//! each and the median of the ratios within a round. Absolute figures depend on the machine and on what else it does; the
//! ratios much less. A round in which the control, the origin asked past all proxies, was off its median by more than a
//! tenth is left out.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::processes::{OriginProcess, at_a_rate, at_full_speed, median, needs};
use crate::proxies::{self, Proxy, Setting, Wire, say};

/// What was measured of one proxy in one round.
#[derive(Debug, Clone)]
struct Round {
    /// CPU for each request at full speed.
    cpu_micros: f64,
    per_second: f64,
    /// The same for answers of 100 kB.
    large_cpu_micros: f64,
    /// At the fixed rate, which the load knows over HTTP/1.1 in the clear alone.
    calm: Option<Calm>,
}

#[derive(Debug, Clone, Copy)]
struct Calm {
    cpu_micros: f64,
    p50_ms: f64,
    p99_ms: f64,
}

/// At what rate answers are timed.
const CALM_RATE: f64 = 2_000.0;
/// How far the control may be off.
const CONTROL_OFF_MAX: f64 = 0.1;

/// How much is measured.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Extent {
    pub(crate) rounds: u32,
    pub(crate) seconds: u32,
}

/// CPU for each request at full speed and at 2,000 a second, and the time of an answer then.
pub(crate) fn compare(extent: Extent, mut setting: Setting) -> anyhow::Result<Value> {
    needs(if setting.wire.is_http2() { "h2load" } else { "wrk" })?;
    let origin = OriginProcess::start(if setting.wire == Wire::Grpc { &["--grpc"] } else { &[] })?;
    setting.origin = origin.address;
    let proxies = proxies::start_all(&setting)?;
    let mut measured: BTreeMap<&str, Vec<Round>> = BTreeMap::new();
    for round in 0..extent.rounds {
        for turn in 0..proxies.len() {
            let proxy = &proxies[(turn + round as usize) % proxies.len()];
            let figures = measure(proxy, setting.wire, extent.seconds)?;
            say(&format!("round {round}: {} {figures:?}", proxy.name));
            measured.entry(proxy.name).or_default().push(figures);
        }
    }
    let kept = kept_rounds(&measured, extent.rounds);
    for rounds in measured.values_mut() {
        let mut at = 0..;
        rounds.retain(|_| at.next().is_some_and(|round: usize| kept.contains(&round)));
    }
    let report: serde_json::Map<String, Value> =
        measured.keys().map(|name| ((*name).to_owned(), figures(&measured, name))).collect();
    Ok(json!({
        "wire": format!("{:?}", setting.wire), "rounds": extent.rounds, "rounds_kept": kept.len(),
        "seconds": extent.seconds, "tenants": setting.tenants, "proxies": report,
    }))
}

/// The rounds in which the control was as it mostly is; all where there is no control.
fn kept_rounds(measured: &BTreeMap<&str, Vec<Round>>, rounds: u32) -> Vec<usize> {
    let Some(control) = measured.get("direct") else { return (0..rounds as usize).collect() };
    let usual = median(control.iter().map(|round| round.per_second));
    let near = |round: &Round| (round.per_second / usual - 1.0).abs() <= CONTROL_OFF_MAX;
    control.iter().enumerate().filter(|(_, round)| near(round)).map(|(at, _)| at).collect()
}

fn figures(measured: &BTreeMap<&str, Vec<Round>>, name: &str) -> Value {
    let none = Vec::new();
    let of = |name: &str| measured.get(name).unwrap_or(&none);
    let (rounds, direct, cellway) = (of(name), of("direct"), of("cellway"));
    let best = |of: fn(&Round) -> f64| rounds.iter().map(of).fold(f64::INFINITY, f64::min);
    let most = rounds.iter().map(|round| round.per_second).fold(0.0, f64::max);
    let ratio =
        |of: fn(&Round) -> f64| median(cellway.iter().zip(rounds).map(|(ours, theirs)| of(ours) / of(theirs)));
    let added = |of: fn(&Calm) -> f64| {
        let calm = rounds.iter().zip(direct).filter_map(|(round, direct)| Some((round.calm?, direct.calm?)));
        median(calm.map(|(round, direct)| of(&round) - of(&direct)))
    };
    let calm = |of: fn(&Calm) -> f64| median(rounds.iter().filter_map(|round| round.calm.as_ref()).map(of));
    json!({
        "cpu_micros_per_request": best(|round| round.cpu_micros),
        "cpu_micros_per_request_of_100_kb": best(|round| round.large_cpu_micros),
        "requests_per_second": most,
        "cellway_cpu_to_this": ratio(|round| round.cpu_micros),
        "cellway_cpu_to_this_100_kb": ratio(|round| round.large_cpu_micros),
        "cpu_micros_per_request_at_2000": calm(|calm| calm.cpu_micros),
        "cellway_cpu_to_this_at_2000": ratio(|round| round.calm.map_or(f64::NAN, |calm| calm.cpu_micros)),
        "p50_ms_at_2000": calm(|calm| calm.p50_ms),
        "p99_ms_at_2000": calm(|calm| calm.p99_ms),
        "added_p50_ms_at_2000": added(|calm| calm.p50_ms),
        "added_p99_ms_at_2000": added(|calm| calm.p99_ms),
    })
}

fn measure(proxy: &Proxy, wire: Wire, seconds: u32) -> anyhow::Result<Round> {
    let small = at_full_speed(proxy, wire, "/", seconds)?;
    let large = at_full_speed(proxy, wire, "/100000", seconds.div_ceil(2))?;
    let calm = match wire {
        Wire::H1 => {
            let (outcome, cpu_micros) = at_a_rate(proxy, 1, CALM_RATE, seconds)?;
            Some(Calm { cpu_micros, p50_ms: outcome.p50_ms, p99_ms: outcome.p99_ms })
        }
        Wire::H2 | Wire::Tls | Wire::Grpc => None,
    };
    Ok(Round {
        cpu_micros: small.cpu_micros,
        per_second: small.per_second,
        large_cpu_micros: large.cpu_micros,
        calm,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round(per_second: f64, cpu_micros: f64) -> Round {
        let calm = Some(Calm { cpu_micros, p50_ms: cpu_micros, p99_ms: cpu_micros });
        Round { cpu_micros, per_second, large_cpu_micros: cpu_micros, calm }
    }

    #[test]
    fn rounds_with_another_control_are_left_out_and_ratios_are_those_within_a_round() {
        let direct = vec![round(100.0, 1.0), round(50.0, 1.0), round(104.0, 1.0)];
        let cellway = vec![round(10.0, 30.0), round(10.0, 99.0), round(10.0, 20.0)];
        let nginx = vec![round(10.0, 20.0), round(10.0, 1.0), round(10.0, 20.0)];
        let mut measured = BTreeMap::from([("direct", direct), ("cellway", cellway), ("nginx", nginx)]);
        assert_eq!(kept_rounds(&measured, 3), [0, 2]);
        for rounds in measured.values_mut() {
            rounds.remove(1);
        }
        let nginx = figures(&measured, "nginx");
        assert_eq!(nginx["cellway_cpu_to_this"], 1.5);
        assert_eq!(nginx["added_p99_ms_at_2000"], 19.0);
        assert_eq!(figures(&measured, "cellway")["cpu_micros_per_request"], 20.0, "the best");
    }
}
