//! Charts of a report: plain SVG, coloured by the page's own variables, so that they follow its light and dark looks.
//!
//! A chart says its numbers in words as well: each mark has a title, which pointers and screen readers find.

use std::fmt::Write as _;

use super::text::percent;

/// Points of a line beyond which it is thinned out.
const POINTS_MAX: usize = 400;
const WIDTH: f64 = 760.0;
/// No axis goes further: what is fuller is drawn at its end.
const SHARE_MAX: f64 = 2.0;

/// For the text of a page.
pub(super) fn escaped(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            other => safe.push(other),
        }
    }
    safe
}

/// A level that a chart is to be read against.
#[derive(Debug, Clone)]
pub(super) struct Level {
    pub(super) share: f64,
    pub(super) name: String,
    /// `budget`, `water` or `bound`.
    pub(super) class: &'static str,
}

/// A line over whole numbers: how a share changes from one step to the next.
#[derive(Debug)]
pub(super) struct Line<'a> {
    pub(super) name: &'a str,
    pub(super) class: &'a str,
    pub(super) values: &'a [f64],
}

fn top_of(values: impl Iterator<Item = f64>) -> f64 {
    let top = values.fold(0.0, f64::max).clamp(0.1, SHARE_MAX);
    (top * 10.0 + 0.5).ceil() / 10.0
}

/// Lines over the same steps.
pub(super) fn lines(lines: &[Line<'_>], levels: &[Level], steps: &str) -> String {
    const HEIGHT: f64 = 240.0;
    const LEFT: f64 = 56.0;
    const RIGHT: f64 = 150.0;
    const BOTTOM: f64 = 40.0;
    let last = lines.iter().map(|line| line.values.len()).max().unwrap_or(0).saturating_sub(1).max(1);
    let values = lines.iter().flat_map(|line| line.values.iter().copied());
    let top = top_of(values.chain(levels.iter().map(|level| level.share)));
    let x = |step: usize| LEFT + (WIDTH - LEFT - RIGHT) * ratio(step, last);
    let y = |share: f64| 12.0 + (HEIGHT - 12.0 - BOTTOM) * (1.0 - share.min(top) / top);
    let mut svg = begin(HEIGHT);
    for share in ticks(top) {
        let at = y(share);
        push(&mut svg, &format!("<line class=grid x1={LEFT} x2={} y1={at:.1} y2={at:.1} />", WIDTH - RIGHT));
        push(&mut svg, &label(LEFT - 8.0, at + 4.0, "end", &format!("{:.0} %", share * 100.0)));
    }
    for step in [0, last / 2, last] {
        push(&mut svg, &label(x(step), HEIGHT - 22.0, "middle", &step.to_string()));
    }
    push(&mut svg, &label(f64::midpoint(LEFT, WIDTH - RIGHT), HEIGHT - 6.0, "middle", steps));
    let mut names = Names::default();
    for line in lines {
        let stride = line.values.len().div_ceil(POINTS_MAX).max(1);
        let points: Vec<String> = (0..line.values.len())
            .filter(|at| at % stride == 0 || at + 1 == line.values.len())
            .map(|at| format!("{:.1},{:.1}", x(at), y(line.values[at])))
            .collect();
        push(&mut svg, &format!("<polyline class=\"line {}\" points=\"{}\" />", line.class, points.join(" ")));
        if let Some(end) = line.values.last() {
            let told = format!("{} {}", line.name, percent(*end));
            names.add(y(*end), line.class, told);
            let (cx, cy) = (x(line.values.len() - 1), y(*end));
            push(&mut svg, &format!("<circle class=\"dot {}\" cx={cx:.1} cy={cy:.1} r=3.5 />", line.class));
        }
    }
    for level in levels {
        let (at, class) = (y(level.share), level.class);
        push(
            &mut svg,
            &format!("<line class=\"level {class}\" x1={LEFT} x2={} y1={at:.1} y2={at:.1} />", WIDTH - RIGHT),
        );
        names.add(at, class, format!("{} {}", level.name, percent(level.share)));
    }
    push(&mut svg, &names.drawn(WIDTH - RIGHT + 10.0));
    svg + "</svg>"
}

/// Names beside the ends of lines, pushed apart where they would cover each other.
#[derive(Default)]
struct Names(Vec<(f64, String, String)>);

impl Names {
    fn add(&mut self, y: f64, class: &str, text: String) {
        self.0.push((y, class.to_owned(), text));
    }

    fn drawn(mut self, x: f64) -> String {
        self.0.sort_by(|a, b| a.0.total_cmp(&b.0));
        let mut lowest = f64::NEG_INFINITY;
        let mut svg = String::new();
        for (y, class, text) in self.0 {
            lowest = y.max(lowest + 15.0);
            let text = escaped(&text);
            push(&mut svg, &format!("<text class=\"name {class}\" x={x:.1} y={:.1}>{text}</text>", lowest + 4.0));
        }
        svg
    }
}

/// A share before and after.
#[derive(Debug)]
pub(super) struct Change {
    pub(super) name: String,
    pub(super) before: f64,
    pub(super) after: f64,
    /// What stands at the end of the line.
    pub(super) note: String,
}

/// One line a cell: from a ring (before) to a dot (after).
pub(super) fn changes(changes: &[Change], levels: &[Level]) -> String {
    const ROW: f64 = 24.0;
    const LEFT: f64 = 130.0;
    const RIGHT: f64 = 150.0;
    let height = 44.0 + ROW * number(changes.len());
    let shares = changes.iter().flat_map(|change| [change.before, change.after]);
    let top = top_of(shares.chain(levels.iter().map(|level| level.share)));
    let x = |share: f64| LEFT + (WIDTH - LEFT - RIGHT) * share.min(top) / top;
    let mut svg = begin(height);
    for share in ticks(top) {
        let at = x(share);
        push(&mut svg, &format!("<line class=grid x1={at:.1} x2={at:.1} y1=8 y2={:.1} />", height - 32.0));
        push(&mut svg, &label(at, height - 18.0, "middle", &format!("{:.0} %", share * 100.0)));
    }
    // Two names that are near each other lean away from each other.
    let highest = levels.iter().map(|level| level.share).fold(0.0, f64::max);
    for level in levels {
        let (at, class) = (x(level.share), level.class);
        let anchor = if level.share < highest { "end" } else { "start" };
        push(
            &mut svg,
            &format!("<line class=\"level {class}\" x1={at:.1} x2={at:.1} y1=4 y2={:.1} />", height - 32.0),
        );
        let told = escaped(&level.name);
        push(
            &mut svg,
            &format!(
                "<text class=\"name {class}\" x={at:.1} y={:.1} text-anchor={anchor}>{told}</text>",
                height - 4.0
            ),
        );
    }
    for (row, change) in changes.iter().enumerate() {
        let at = 8.0 + ROW * (number(row) + 0.5);
        let (from, to) = (x(change.before), x(change.after));
        let name = escaped(&change.name);
        let told = format!("{name}: {} → {}", percent(change.before), percent(change.after));
        push(&mut svg, &format!("<g><title>{told}</title>"));
        push(&mut svg, &label(LEFT - 12.0, at + 4.0, "end", &change.name));
        push(&mut svg, &format!("<line class=move x1={from:.1} x2={to:.1} y1={at:.1} y2={at:.1} />"));
        push(&mut svg, &format!("<circle class=before cx={from:.1} cy={at:.1} r=5 />"));
        push(&mut svg, &format!("<circle class=after cx={to:.1} cy={at:.1} r=5.5 />"));
        push(&mut svg, &label(WIDTH - RIGHT + 12.0, at + 4.0, "start", &change.note));
        svg.push_str("</g>");
    }
    svg + "</svg>"
}

/// A cell's day, before and after.
#[derive(Debug)]
pub(super) struct Day<'a> {
    pub(super) name: String,
    pub(super) before: &'a [f64],
    pub(super) after: &'a [f64],
}

/// One field an hour: the fuller the cell, the darker; what is above the budget stands out.
pub(super) fn days(days: &[Day<'_>]) -> String {
    const ROW: f64 = 18.0;
    const FIELD: f64 = 12.0;
    const LEFT: f64 = 130.0;
    const GAP: f64 = 24.0;
    let second = LEFT + 24.0 * FIELD + GAP;
    let height = 40.0 + ROW * number(days.len());
    let mut svg = begin(height);
    for (left, name) in [(LEFT, "before"), (second, "after")] {
        push(&mut svg, &label(left, 12.0, "start", name));
        for hour in [0, 6, 12, 18] {
            let at = left + FIELD * number(hour);
            push(&mut svg, &label(at, height - 4.0, "start", &format!("{hour:02}:00")));
        }
    }
    for (row, day) in days.iter().enumerate() {
        let y = 20.0 + ROW * number(row);
        push(&mut svg, &label(LEFT - 12.0, y + 12.0, "end", &day.name));
        for (left, hours) in [(LEFT, day.before), (second, day.after)] {
            for (hour, share) in hours.iter().enumerate() {
                let x = left + FIELD * number(hour);
                let class = if *share > 1.0 { "over" } else { "heat" };
                let opacity = if *share > 1.0 { 1.0 } else { 0.06 + 0.94 * share * share };
                let told = format!("{} {hour:02}:00 {}", escaped(&day.name), percent(*share));
                push(
                    &mut svg,
                    &format!(
                        "<rect class={class} x={x:.1} y={y:.1} width={:.1} height={:.1} rx=2 \
                         fill-opacity={opacity:.2}><title>{told}</title></rect>",
                        FIELD - 1.5,
                        ROW - 3.0
                    ),
                );
            }
        }
    }
    svg + "</svg>"
}

fn begin(height: f64) -> String {
    format!("<svg viewBox=\"0 0 {WIDTH} {height:.0}\" role=img xmlns=\"http://www.w3.org/2000/svg\">")
}

fn label(x: f64, y: f64, anchor: &str, text: &str) -> String {
    let mut svg = String::new();
    // Writing to a string cannot fail.
    let _ = write!(svg, "<text x={x:.1} y={y:.1} text-anchor={anchor}>{}</text>", escaped(text));
    svg
}

fn ticks(top: f64) -> impl Iterator<Item = f64> {
    let step = if top <= 0.3 { 0.05 } else { 0.25 };
    (0..).map(move |tick| number(tick) * step).take_while(move |share| *share <= top + 1e-9)
}

fn push(svg: &mut String, more: &str) {
    svg.push_str(more);
}

#[expect(clippy::cast_precision_loss, reason = "rows and hours are few")]
const fn number(count: usize) -> f64 {
    count as f64
}

fn ratio(step: usize, last: usize) -> f64 {
    number(step) / number(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_cannot_break_out_of_a_page() {
        let day = Day { name: "<script>\"&".into(), before: &[0.5], after: &[1.5] };
        let svg = days(&[day]);
        assert!(!svg.contains("<script>") && svg.contains("&lt;script&gt;&quot;&amp;"), "{svg}");
        assert!(svg.contains("class=over"), "what is above the budget stands out");
    }

    #[test]
    fn a_line_of_any_length_stays_small_and_keeps_its_ends() {
        let values: Vec<f64> = (0..100_000).map(|step| 1.0 - f64::from(step) / 200_000.0).collect();
        let svg = lines(&[Line { name: "fullest", class: "after", values: &values }], &[], "moves");
        assert!(svg.len() < 20_000, "{}", svg.len());
        assert!(svg.contains("fullest 50.0 %") && svg.contains(">99999<"), "{svg}");
    }

    #[test]
    fn a_cell_without_budget_is_drawn_at_the_end_of_the_axis() {
        let change = Change { name: "c1".into(), before: 1e6, after: 0.5, note: String::new() };
        let svg = changes(&[change], &[]);
        assert!(svg.contains("∞ → 50.0 %") && !svg.contains("NaN") && !svg.contains("inf"), "{svg}");
    }
}
