//! Figures, and how they are told.

use serde::Serialize;

/// One figure. `ratio` says how many times better ours is than the peer's.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Figure {
    pub(crate) measure: String,
    pub(crate) unit: &'static str,
    pub(crate) ours: f64,
    pub(crate) peer: Option<f64>,
    pub(crate) peer_name: Option<String>,
    pub(crate) ratio: Option<f64>,
    /// What ours must hold.
    pub(crate) floor: Option<f64>,
    /// What it should hold.
    pub(crate) goal: Option<f64>,
}

#[derive(Debug, Default)]
pub(crate) struct Figures {
    all: Vec<Figure>,
    pub(crate) left_out: Vec<String>,
}

impl Figures {
    /// A figure of ours alone; less is better.
    pub(crate) fn ours(&mut self, measure: impl Into<String>, unit: &'static str, ours: f64) -> &mut Figure {
        let measure = measure.into();
        self.add(Figure { measure, unit, ours, peer: None, peer_name: None, ratio: None, floor: None, goal: None })
    }

    /// A figure beside a peer's; less is better.
    pub(crate) fn beside(
        &mut self,
        measure: impl Into<String>,
        unit: &'static str,
        ours: f64,
        peer: f64,
        name: &str,
    ) -> &mut Figure {
        let ratio = (ours > 0.0).then(|| peer / ours);
        let peer_name = Some(name.to_owned());
        let measure = measure.into();
        self.add(Figure { measure, unit, ours, peer: Some(peer), peer_name, ratio, floor: None, goal: None })
    }

    fn add(&mut self, figure: Figure) -> &mut Figure {
        self.all.push(figure);
        self.all.last_mut().unwrap()
    }

    pub(crate) fn to_json(&self) -> String {
        serde_json::to_string_pretty(&self.all).unwrap() + "\n"
    }

    pub(crate) fn table(&self) -> String {
        let mut text = format!(
            "{:58} {:>12} {:>12} {:26} {:>7} {:>9} {:>9}\n",
            "measure", "ours", "peer", "", "better", "floor", "goal"
        );
        let shown = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), number);
        for figure in &self.all {
            let missed = figure.floor.is_some_and(|floor| figure.ours > floor);
            text.push_str(&format!(
                "{:58} {:>12} {:>12} {:26} {:>7} {:>9} {:>9}{}\n",
                figure.measure,
                format!("{} {}", number(figure.ours), figure.unit),
                shown(figure.peer),
                figure.peer_name.clone().unwrap_or_default(),
                figure.ratio.map_or_else(|| "-".to_owned(), |ratio| format!("{ratio:.2}×")),
                shown(figure.floor),
                shown(figure.goal),
                if missed { "  MISSED" } else { "" }
            ));
        }
        text
    }
}

fn number(value: f64) -> String {
    if value.abs() >= 100.0 || value.fract() == 0.0 { format!("{value:.0}") } else { format!("{value:.3}") }
}
