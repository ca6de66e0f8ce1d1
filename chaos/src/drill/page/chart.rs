//! The picture of a run: faults, moves and leaders above latency, failures and staleness, on one axis of time.

use std::fmt::Write as _;
use std::time::Duration;

use super::super::evidence::{FaultSpan, MoveTrace};
use super::super::report::{DrillReport, escaped};
use crate::clock::Micros;

const WIDTH: f64 = 1_100.0;
/// Names of lanes stand left of this.
const LEFT: f64 = 150.0;
const RIGHT: f64 = WIDTH - 14.0;
const ROW: f64 = 20.0;
/// Moves with a row of their own; the cutovers of the others are drawn as ticks.
const MOVES_MAX: usize = 16;
const ROUTERS: [&str; 4] = ["#2f6fb3", "#8a5ab8", "#1a7f8a", "#b86e00"];

/// From time and value to the paper.
struct Plot<'a> {
    report: &'a DrillReport,
    from: Micros,
    to: Micros,
    out: String,
    y: f64,
}

/// The whole picture, as SVG.
pub(super) fn of(report: &DrillReport) -> String {
    let parts = report.parts;
    let to = parts.end.max(parts.steady.0 + 1);
    let mut plot = Plot { report, from: parts.steady.0, to, out: String::new(), y: 8.0 };
    plot.parts();
    plot.faults();
    plot.moves();
    plot.leaders();
    plot.latency();
    plot.requests();
    plot.staleness();
    plot.axis();
    plot.finish()
}

impl Plot<'_> {
    fn x(&self, at: Micros) -> f64 {
        let clamped = at.clamp(self.from, self.to);
        let share = (clamped - self.from) as f64 / (self.to - self.from) as f64;
        LEFT + share * (RIGHT - LEFT)
    }

    // Writing to a string cannot fail: its result is dropped here and nowhere else.
    fn draw(&mut self, shape: std::fmt::Arguments<'_>) {
        let _ = self.out.write_fmt(shape);
    }

    fn name(&mut self, name: &str, y: f64) {
        self.draw(format_args!("<text class=\"name\" x=\"0\" y=\"{y:.1}\">{}</text>", escaped(name)));
    }

    fn parts(&mut self) {
        let parts = self.report.parts;
        let names = [("steady", parts.steady.0), ("fault", parts.fault.0), ("recovery", parts.fault.1)];
        for (name, at) in names {
            let x = self.x(at);
            self.draw(format_args!(
                "<text class=\"dim\" x=\"{:.1}\" y=\"{:.1}\">{name}</text>",
                x + 3.0,
                self.y + 8.0
            ));
        }
        self.y += 16.0;
    }

    fn faults(&mut self) {
        if self.report.faults.is_empty() {
            return;
        }
        self.name("faults", self.y + 14.0);
        // Spans that do not overlap share a row.
        let mut rows: Vec<Micros> = Vec::new();
        for fault in &self.report.faults {
            let width = fault.label.chars().count() as f64 * 6.4 + 14.0;
            // A label is as long as it is: it needs its row, to the right or, where there is no room, to the left.
            let seconds = width / (RIGHT - LEFT) * (self.to - self.from) as f64 / 1e6;
            let labelled = Duration::try_from_secs_f64(seconds).unwrap_or_default().as_micros();
            let labelled = Micros::try_from(labelled).unwrap_or(0);
            let begins = fault.from.min(self.to.saturating_sub(labelled));
            let taken = fault.to.max(begins.saturating_add(labelled));
            let free = rows.iter().position(|until| *until <= begins);
            let row = free.unwrap_or(rows.len());
            if row == rows.len() {
                rows.push(taken)
            } else {
                rows[row] = taken
            }
            let (x, y) = (self.x(fault.from), self.y + row as f64 * ROW + 2.0);
            let wide = (self.x(fault.to) - x).max(3.0);
            let color = match fault.lane.as_str() {
                "network" => "#c2312f",
                "process" => "#b86e00",
                "disk" | "database" => "#7a4b2a",
                _ => "#8a5ab8",
            };
            let label = escaped(&fault.label);
            // Right of the middle there may be no room to the right.
            let room = RIGHT - x;
            let (anchor, at) = if width > room { ("end", RIGHT) } else { ("start", x + 5.0) };
            self.draw(format_args!(
                "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{wide:.1}\" height=\"16\" rx=\"3\" fill=\"{color}\" fill-opacity=\".22\" \
                 stroke=\"{color}\"><title>{label}</title></rect><text x=\"{at:.1}\" y=\"{:.1}\" text-anchor=\"{anchor}\" \
                 fill=\"#1c2430\">{label}</text>",
                y + 12.0
            ));
        }
        self.y += rows.len() as f64 * ROW + 8.0;
    }

    fn moves(&mut self) {
        let (rows, others) = chosen(self.report);
        if !rows.is_empty() {
            self.name("moves", self.y + 13.0);
        }
        for one in rows {
            self.one_move(one);
            self.y += ROW;
        }
        if !others.is_empty() {
            self.name("other cutovers", self.y + 13.0);
            for at in others.into_iter().filter_map(cutover) {
                let (x, y) = (self.x(at), self.y);
                self.draw(format_args!(
                    "<line x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{y:.1}\" y2=\"{:.1}\" stroke=\"#1a7f4b\" stroke-opacity=\".6\"/>",
                    y + 16.0
                ));
            }
            self.y += ROW;
        }
        self.y += if self.report.moves.is_empty() { 0.0 } else { 8.0 };
    }

    fn one_move(&mut self, one: &MoveTrace) {
        let y = self.y + 1.0;
        let ends = one.phases.iter().skip(1).map(|(_, at)| *at).chain([one.ended.max(self.from)]);
        for ((phase, at), end) in one.phases.iter().zip(ends) {
            let (x, wide) = (self.x(*at), (self.x(end) - self.x(*at)).max(1.0));
            let color = match phase.as_str() {
                "hold" | "fenced" | "activate" | "unfence" => "#c2312f",
                "sync" => "#e0a030",
                "soak" => "#1a7f4b",
                "cleanup" => "#8a95a3",
                _ => "#2f6fb3",
            };
            self.draw(format_args!(
                "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{wide:.1}\" height=\"15\" fill=\"{color}\" fill-opacity=\".55\">\
                 <title>{} {phase}</title></rect>",
                escaped(&one.id)
            ));
            if wide > phase.len() as f64 * 6.4 + 6.0 {
                let (at, below) = (x + 4.0, y + 11.5);
                self.draw(format_args!("<text x=\"{at:.1}\" y=\"{below:.1}\" fill=\"#1c2430\">{phase}</text>"));
            }
        }
        for fault in self.report.faults.iter().filter(|fault| is_met(one, fault)) {
            let x = self.x(fault.from);
            self.draw(format_args!(
                "<line x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{y:.1}\" y2=\"{:.1}\" stroke=\"#8c1513\" stroke-width=\"2\"><title>{}</title></line>",
                y + 15.0,
                escaped(&fault.label)
            ));
        }
        if let Some(at) = cutover(one) {
            let x = self.x(at);
            self.draw(format_args!(
                "<path d=\"M{x:.1} {:.1} v19 m-4 -19 l4 5 l4 -5 z\" fill=\"#1c2430\" stroke=\"#1c2430\"><title>cutover of {}</title></path>",
                y - 2.0,
                escaped(&one.tenant)
            ));
        }
        let last = self.x(one.ended.max(one.phases.last().map_or(self.from, |(_, at)| *at)));
        let label = escaped(&format!("{} {} → {}", one.tenant, one.source, one.target));
        let below = y + 11.5;
        if last + label.len() as f64 * 6.2 < RIGHT {
            self.draw(format_args!("<text class=\"dim\" x=\"{:.1}\" y=\"{below:.1}\">{label}</text>", last + 6.0));
        }
    }

    fn leaders(&mut self) {
        let samples = &self.report.samples;
        if samples.is_empty() {
            return;
        }
        self.name("leader", self.y + 13.0);
        let y = self.y + 1.0;
        let mut begin = 0;
        for end in 1..=samples.len() {
            if end < samples.len() && samples[end].leader == samples[begin].leader {
                continue;
            }
            let (from, leader) = (samples[begin].at, samples[begin].leader.clone());
            let to = samples.get(end).map_or(self.to, |next| next.at);
            let (x, wide) = (self.x(from), self.x(to) - self.x(from));
            let fill = if leader.is_empty() { "#f3c9c8" } else { "#d5e3f2" };
            let label = if leader.is_empty() { "nobody" } else { &leader };
            let term = samples[begin].term;
            self.draw(format_args!(
                "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{wide:.1}\" height=\"15\" fill=\"{fill}\" stroke=\"#fff\"><title>{} term {term}</title></rect>",
                escaped(label)
            ));
            if wide > 60.0 {
                self.draw(format_args!(
                    "<text x=\"{:.1}\" y=\"{:.1}\">{}</text>",
                    x + 4.0,
                    y + 11.5,
                    escaped(label)
                ));
            }
            begin = end;
        }
        self.y += ROW + 10.0;
    }

    /// A lane with a logarithmic scale in milliseconds, and its lines.
    fn scale(&mut self, name: &str, unit: &str, height: f64, least: f64, most: f64) -> impl Fn(f64) -> f64 + use<> {
        let (top, span) = (self.y, most.log10() - least.log10());
        let y = move |value: f64| top + height - (value.clamp(least, most).log10() - least.log10()) / span * height;
        self.name(name, top + 12.0);
        self.draw(format_args!("<text class=\"dim\" x=\"0\" y=\"{:.1}\">{unit}</text>", top + 27.0));
        let mut line = least;
        while line <= most * 1.01 {
            let at = y(line);
            let shown = if line >= 1_000.0 { format!("{:.0} s", line / 1_000.0) } else { format!("{line:.0} ms") };
            self.draw(format_args!(
                "<line x1=\"{LEFT}\" x2=\"{RIGHT}\" y1=\"{at:.1}\" y2=\"{at:.1}\" stroke=\"#e6eaee\"/>\
                 <text class=\"tick\" x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{shown}</text>",
                LEFT - 6.0,
                at + 3.5
            ));
            line *= 10.0;
        }
        y
    }

    fn latency(&mut self) {
        let y = self.scale("latency", "p99, p50", 110.0, 1.0, 10_000.0);
        for (of, color) in [(1, "#c2712f"), (0, "#2f6fb3")] {
            let mut path = String::new();
            let mut open = false;
            for bucket in &self.report.buckets {
                let value = if of == 1 { bucket.p99_ms } else { bucket.p50_ms };
                if bucket.done == 0 {
                    open = false;
                    continue;
                }
                let word = if open { 'L' } else { 'M' };
                let _ = write!(path, "{word}{:.1} {:.1}", self.x(bucket.at), y(value));
                open = true;
            }
            self.draw(format_args!("<path d=\"{path}\" fill=\"none\" stroke=\"{color}\" stroke-width=\"1.6\"/>"));
        }
        self.y += 122.0;
    }

    fn requests(&mut self) {
        const HEIGHT: f64 = 78.0;
        let buckets = &self.report.buckets;
        let most =
            buckets.iter().map(|bucket| bucket.done + bucket.failed + bucket.refused).max().unwrap_or(1).max(1);
        self.name("requests", self.y + 12.0);
        let below = self.y + 27.0;
        self.draw(format_args!("<text class=\"dim\" x=\"0\" y=\"{below:.1}\">each quarter second</text>"));
        self.draw(format_args!(
            "<text class=\"dim\" x=\"0\" y=\"{:.1}\"><tspan fill=\"#9db4cc\">■</tspan> good <tspan fill=\"#c2312f\">■</tspan> failed</text>",
            below + 15.0
        ));
        let (bottom, scale) = (self.y + HEIGHT, HEIGHT / most as f64);
        let wide = ((RIGHT - LEFT) / buckets.len().max(1) as f64 - 0.6).max(0.6);
        for bucket in buckets {
            let x = self.x(bucket.at);
            let mut y = bottom;
            for (count, color) in
                [(bucket.done, "#9db4cc"), (bucket.refused, "#e0a030"), (bucket.failed, "#c2312f")]
            {
                // One failure among thousands must be seen.
                let high = if count == 0 { 0.0 } else { (count as f64 * scale).max(1.5) };
                y -= high;
                if count > 0 {
                    self.draw(format_args!(
                        "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{wide:.1}\" height=\"{high:.1}\" fill=\"{color}\"><title>{count}</title></rect>"
                    ));
                }
            }
        }
        self.draw(format_args!(
            "<line x1=\"{LEFT}\" x2=\"{RIGHT}\" y1=\"{bottom:.1}\" y2=\"{bottom:.1}\" stroke=\"#c8d0d8\"/>\
             <text class=\"tick\" x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{most}</text>",
            LEFT - 6.0,
            self.y + 8.0
        ));
        self.y += HEIGHT + 14.0;
    }

    fn staleness(&mut self) {
        let samples = &self.report.samples;
        let routers = samples.iter().map(|sample| sample.staleness_ms.len()).max().unwrap_or(0);
        if routers == 0 {
            return;
        }
        let y = self.scale("staleness", "of each router", 66.0, 10.0, 100_000.0);
        for router in 0..routers {
            let (mut path, mut open) = (String::new(), false);
            for sample in samples {
                match sample.staleness_ms.get(router).copied().flatten() {
                    Some(age) => {
                        let word = if open { 'L' } else { 'M' };
                        let _ = write!(path, "{word}{:.1} {:.1}", self.x(sample.at), y(age as f64));
                        open = true;
                    }
                    None => open = false,
                }
            }
            let color = ROUTERS[router % ROUTERS.len()];
            self.draw(format_args!(
                "<path d=\"{path}\" fill=\"none\" stroke=\"{color}\" stroke-width=\"1.6\"><title>router-{}</title></path>",
                router + 1
            ));
        }
        self.y += 78.0;
    }

    fn axis(&mut self) {
        let seconds = (self.to - self.from) / 1_000_000;
        let step = (seconds / 15).max(1);
        let y = self.y + 8.0;
        for second in (0..=seconds).step_by(usize::try_from(step).unwrap_or(1)) {
            let x = self.x(self.from + second * 1_000_000);
            self.draw(format_args!(
                "<text class=\"tick\" x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"middle\">{second} s</text>"
            ));
        }
        self.y += 16.0;
    }

    fn finish(self) -> String {
        let parts = self.report.parts;
        let (from, to, high) = (self.x(parts.fault.0), self.x(parts.fault.1), self.y);
        let shade = format!(
            "<rect x=\"{from:.1}\" y=\"0\" width=\"{:.1}\" height=\"{:.1}\" fill=\"#c2312f\" fill-opacity=\".045\"/>\
             <line x1=\"{from:.1}\" x2=\"{from:.1}\" y1=\"0\" y2=\"{1:.1}\" stroke=\"#c2312f\" stroke-dasharray=\"3 3\" stroke-opacity=\".5\"/>\
             <line x1=\"{to:.1}\" x2=\"{to:.1}\" y1=\"0\" y2=\"{1:.1}\" stroke=\"#1a7f4b\" stroke-dasharray=\"3 3\" stroke-opacity=\".6\"/>",
            to - from,
            high - 14.0
        );
        let mut cutovers = String::new();
        for at in chosen(self.report).0.into_iter().filter_map(cutover) {
            let x = self.x(at);
            let _ = write!(
                cutovers,
                "<line x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"16\" y2=\"{:.1}\" stroke=\"#1c2430\" stroke-dasharray=\"1 3\" stroke-opacity=\".55\"/>",
                high - 14.0
            );
        }
        format!(
            "<svg viewBox=\"0 0 {WIDTH} {high:.0}\" role=\"img\" aria-label=\"The run on one axis of time\">{shade}{cutovers}{}</svg>",
            self.out
        )
    }
}

/// The moves with a row of their own, and the others: those whom a fault has met come first, then the earlier ones. Both in
/// the order in which they were asked for.
fn chosen(report: &DrillReport) -> (Vec<&MoveTrace>, Vec<&MoveTrace>) {
    let mut ranked: Vec<(usize, &MoveTrace)> = report.moves.iter().enumerate().collect();
    ranked.sort_by_key(|(_, one)| !report.faults.iter().any(|fault| is_met(one, fault)));
    let others = ranked.split_off(ranked.len().min(MOVES_MAX));
    (in_order(ranked), in_order(others))
}

fn in_order(mut some: Vec<(usize, &MoveTrace)>) -> Vec<&MoveTrace> {
    some.sort_by_key(|(index, _)| *index);
    some.into_iter().map(|(_, one)| one).collect()
}

/// Whether a fault began while a move ran.
fn is_met(one: &MoveTrace, fault: &FaultSpan) -> bool {
    one.phase_at(fault.from).is_some()
}

/// When the epoch was raised.
fn cutover(one: &MoveTrace) -> Option<Micros> {
    one.phases.iter().find(|(phase, _)| phase == "activate").map(|(_, at)| *at)
}
