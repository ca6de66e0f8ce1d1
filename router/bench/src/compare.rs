//! Proxies by turns: in each round every one of them is measured, in another order, and what is reported is the median of
//! each and the median of the ratios within a round. Absolute figures depend on the machine and on what else it does; the
//! ratios much less. A round in which the control, the origin asked past all proxies, was off its median by more than a
//! tenth is left out.

use std::collections::BTreeMap;

use cell_figures::{Figure, Figures, median};

use crate::ground::Ground;
use crate::processes::{OriginProcess, at_a_rate, at_full_speed, needs};
use crate::proxies::{self, Proxy, Wire, say};

/// How much is measured.
#[derive(Debug, Clone, Copy, clap::Args)]
pub(crate) struct Extent {
    /// Rounds; the order changes with each
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    pub(crate) rounds: u32,
    /// Seconds of each single measurement; one or two for a look
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=600))]
    pub(crate) seconds: u32,
}

/// CPU for each request, requests a second and times of all proxies that are here, by turns
#[derive(Debug, clap::Args)]
pub(crate) struct Compare {
    #[command(flatten)]
    pub(crate) extent: Extent,
    /// What clients speak
    #[arg(long, value_enum, default_value_t = Wire::H1)]
    pub(crate) wire: Wire,
    /// Tenants in every proxy's table (Envoy: 10,000 at the most)
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u32).range(10..=10_000_000))]
    pub(crate) tenants: u32,
}

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
/// Ours, and the origin asked past all proxies.
const OURS: &str = "cellway";
const CONTROL: &str = "direct";
/// Beside whom, and how much of their CPU for a request over HTTP/1.1 ours may take.
const PEERS: [(&str, f64); 4] = [("nginx", 1.15), ("haproxy", 1.0), ("envoy", 0.3), ("pingora", 0.6)];
/// Who adds at least as much to the p99 of an answer.
const P99_PEER: &str = "haproxy";

type Measured = BTreeMap<&'static str, Vec<Round>>;

impl Compare {
    pub(crate) fn measure(&self, ground: &Ground, figures: &mut Figures) -> anyhow::Result<()> {
        let (mut setting, wire) = (ground.setting(self.tenants, self.wire), self.wire);
        needs(if wire.is_http2() { "h2load" } else { "wrk" })?;
        let origin = OriginProcess::start(if wire == Wire::Grpc { &["--grpc"] } else { &[] })?;
        setting.origin = origin.address;
        let proxies = proxies::start_all(&setting)?;
        let mut measured = Measured::new();
        for round in 0..self.extent.rounds {
            for turn in 0..proxies.len() {
                let proxy = &proxies[(turn + round as usize) % proxies.len()];
                let figures = measure(proxy, wire, self.extent.seconds)?;
                say(&format!("round {round}: {} {figures:?}", proxy.name));
                measured.entry(proxy.name).or_default().push(figures);
            }
        }
        let kept = kept_rounds(&measured, self.extent.rounds);
        let left_out = self.extent.rounds as usize - kept.len();
        if left_out > 0 {
            figures
                .leave_out(format!("{wire}: {left_out} rounds, in which the origin alone was not as it mostly is"));
        }
        for rounds in measured.values_mut() {
            let mut at = 0..;
            rounds.retain(|_| at.next().is_some_and(|round: usize| kept.contains(&round)));
        }
        tell(&measured, wire, figures);
        Ok(())
    }
}

/// The rounds in which the control was as it mostly is, where these are more than half; all where there is no control.
fn kept_rounds(measured: &Measured, rounds: u32) -> Vec<usize> {
    let Some(control) = measured.get(CONTROL) else { return (0..rounds as usize).collect() };
    let usual = median(control.iter().map(|round| round.per_second));
    let near = |round: &Round| (round.per_second / usual - 1.0).abs() <= CONTROL_OFF_MAX;
    let kept: Vec<usize> = control.iter().enumerate().filter(|(_, round)| near(round)).map(|(at, _)| at).collect();
    if kept.len() * 2 > control.len() { kept } else { Vec::new() }
}

/// How many times better ours is, where less is better: the median of the rounds. In a round in which ours has failed it is
/// nothing, and one in which the peer has failed says nothing; no number where no round says anything.
fn times_better(pairs: impl Iterator<Item = (f64, f64)>) -> f64 {
    let ratios = pairs.filter_map(|pair| match pair {
        (ours, _) if !ours.is_finite() => Some(0.0),
        (_, peer) if !peer.is_finite() => None,
        (ours, peer) => Some(peer / ours),
    });
    median(ratios)
}

/// A measure of one proxy beside ours, round by round.
fn beside(
    measured: &Measured,
    peer: &str,
    (measure, unit): (String, &'static str),
    of: impl Fn(&Round) -> f64,
    floor: Option<f64>,
) -> Figure {
    let none = Vec::new();
    let ours = measured.get(OURS).unwrap_or(&none);
    let middle = |rounds: &[Round]| median(rounds.iter().map(&of));
    let theirs = measured.get(peer);
    let figure =
        Figure::less_beside(measure, unit, (middle(ours), theirs.map(|rounds| middle(rounds))), peer, floor);
    let pairs = ours.iter().zip(theirs.unwrap_or(&none));
    figure.ratio(times_better(pairs.map(|(ours, theirs)| (of(ours), of(theirs)))))
}

fn tell(measured: &Measured, wire: Wire, figures: &mut Figures) {
    let calm = |of: fn(&Calm) -> f64| move |round: &Round| round.calm.as_ref().map_or(f64::NAN, of);
    let is_asked = wire == Wire::H1;
    for (peer, most) in PEERS {
        // Of one that is not here only what is asked is told: that it was not judged.
        if !is_asked && !measured.contains_key(peer) {
            continue;
        }
        let cpu = (format!("{wire}, CPU for a request of 128 B"), "µs");
        figures.add(beside(measured, peer, cpu, |round| round.cpu_micros, is_asked.then_some(1.0 / most)));
        let floor = (peer == P99_PEER).then_some(1.0);
        if is_asked && (floor.is_some() || measured.contains_key(peer)) {
            let p99 = (format!("{wire}, {CALM_RATE}/s: p99 of answers"), "ms");
            // What is added is less exactly where the whole is, of which the origin's part is the same.
            figures.add(beside(measured, peer, p99, calm(|calm| calm.p99_ms), floor));
        }
        if !measured.contains_key(peer) {
            continue;
        }
        let large = (format!("{wire}, CPU for a request of 100 kB"), "µs");
        figures.add(beside(measured, peer, large, |round| round.large_cpu_micros, None));
        let middle = |name| median(measured.get(name).into_iter().flatten().map(|round| round.per_second));
        let rates = (middle(OURS), middle(peer));
        figures.add(Figure::beside(format!("{wire}, requests of 128 B"), "/s", rates, peer, None));
        if is_asked {
            let cpu = (format!("{wire}, {CALM_RATE}/s: CPU for a request"), "µs");
            figures.add(beside(measured, peer, cpu, calm(|calm| calm.cpu_micros), None));
            let p50 = (format!("{wire}, {CALM_RATE}/s: p50 of answers"), "ms");
            figures.add(beside(measured, peer, p50, calm(|calm| calm.p50_ms), None));
        }
    }
    if let Some(control) = measured.get(CONTROL).filter(|_| is_asked) {
        for (what, of) in [("p50", (|calm| calm.p50_ms) as fn(&Calm) -> f64), ("p99", |calm| calm.p99_ms)] {
            let measure = format!("{wire}, {CALM_RATE}/s: {what} of the origin alone");
            figures.add(Figure::free(measure, "ms", median(control.iter().map(calm(of)))));
        }
    }
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

    fn round(per_second: f64, cpu_micros: f64, p99_ms: f64) -> Round {
        let calm = Some(Calm { cpu_micros, p50_ms: p99_ms, p99_ms });
        Round { cpu_micros, per_second, large_cpu_micros: cpu_micros, calm }
    }

    fn missed(measured: &Measured, wire: Wire) -> Vec<String> {
        let mut figures = Figures::default();
        tell(measured, wire, &mut figures);
        let name = |figure: &Figure| format!("{} {}", figure.peer_name.as_deref().unwrap_or("-"), figure.measure);
        figures.iter().filter(|figure| !figure.holds()).map(name).collect()
    }

    #[test]
    fn rounds_with_another_control_are_left_out_and_ratios_are_those_within_a_round() {
        let direct = vec![round(100.0, 1.0, 1.0), round(50.0, 1.0, 1.0), round(104.0, 1.0, 1.0)];
        let cellway = vec![round(10.0, 30.0, 2.0), round(10.0, 99.0, 2.0), round(10.0, 20.0, 2.0)];
        let nginx = vec![round(10.0, 20.0, 2.0), round(10.0, 1.0, 2.0), round(10.0, 20.0, 2.0)];
        let mut measured = Measured::from([("direct", direct), ("cellway", cellway), ("nginx", nginx)]);
        assert_eq!(kept_rounds(&measured, 3), [0, 2]);
        let unlike = [100.0, 50.0, 200.0, 300.0].map(|per_second| round(per_second, 1.0, 1.0));
        let unlike = Measured::from([("direct", unlike.to_vec())]);
        assert!(kept_rounds(&unlike, 4).is_empty(), "nothing is judged by the fewest");
        for rounds in measured.values_mut() {
            rounds.remove(1);
        }
        let cpu = beside(&measured, "nginx", ("cpu".into(), "µs"), |round| round.cpu_micros, None);
        assert_eq!((cpu.ours, cpu.peer), (25.0, Some(20.0)));
        let between = cpu.ratio.map(|ratio| (ratio * 1e6).round() / 1e6);
        assert_eq!(between, Some(0.833_333), "between two ratios");
    }

    #[test]
    fn ours_may_take_so_much_of_each_ones_cpu_and_of_haproxys_p99() {
        let of = |ours: (f64, f64)| {
            let ours = vec![round(1.0, ours.0, ours.1)];
            let peers = [("nginx", 10.0), ("haproxy", 11.5), ("envoy", 38.4), ("pingora", 19.2)];
            let peers = peers.map(|(name, cpu)| (name, vec![round(1.0, cpu, 2.0)]));
            let mut measured = Measured::from(peers);
            measured.insert(OURS, ours);
            measured
        };
        assert!(missed(&of((11.4, 2.0)), Wire::H1).is_empty());
        let cpu = missed(&of((11.6, 2.0)), Wire::H1);
        assert_eq!(cpu.len(), 4, "{cpu:?}");
        assert!(cpu.iter().all(|figure| figure.contains("CPU")));
        assert_eq!(missed(&of((11.4, 2.1)), Wire::H1), ["haproxy HTTP/1.1, 2000/s: p99 of answers"]);
        assert!(missed(&of((99.0, 9.0)), Wire::H2).is_empty(), "nothing is asked of another wire");
        let failed = missed(&of((11.4, f64::INFINITY)), Wire::H1);
        assert_eq!(failed.len(), 1, "too little was answered: {failed:?}");
    }

    #[test]
    fn a_peer_that_is_not_here_is_told_and_not_judged_and_ours_that_is_not_measured_is_missed() {
        let mut measured = Measured::from([(OURS, vec![round(1.0, 99.0, 99.0)])]);
        let mut figures = Figures::default();
        tell(&measured, Wire::H1, &mut figures);
        assert!(figures.hold().is_ok() && figures.iter().filter(|figure| figure.floor.is_some()).count() == 5);
        measured = Measured::from([("nginx", vec![round(1.0, 1.0, 1.0)])]);
        assert!(missed(&measured, Wire::H1).iter().any(|figure| figure.starts_with("nginx")));
    }

    #[test]
    fn a_round_in_which_the_peer_has_failed_says_nothing_and_one_in_which_ours_has_is_lost() {
        let better = |pairs: &[(f64, f64)]| times_better(pairs.iter().copied());
        assert_eq!(better(&[(1.0, 2.0), (1.0, f64::INFINITY)]), 2.0);
        assert_eq!(better(&[(f64::INFINITY, 2.0)]), 0.0);
        assert!(better(&[(1.0, f64::NAN)]).is_nan() && better(&[]).is_nan());
    }
}
