//! One figure, and whether it holds.

use serde::{Serialize, Serializer};

/// Which way a figure gets better.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Better {
    Less,
    More,
}

/// What a figure says of its floor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// Nothing is asked of it.
    Free,
    /// It holds.
    Held,
    /// It does not, or it could not be measured.
    Missed,
    /// The peer is not on this machine.
    NotJudged,
}

/// One figure.
#[derive(Debug, Clone, PartialEq)]
pub struct Figure {
    /// What was measured.
    pub measure: String,
    /// In what.
    pub unit: &'static str,
    /// What it was.
    pub ours: f64,
    /// What the peer had; none where there is no peer, or it is not on this machine.
    pub peer: Option<f64>,
    /// Who the peer is.
    pub peer_name: Option<String>,
    /// How many times better ours is than the peer's: more than 1 is better, whichever way the figure gets better.
    pub ratio: Option<f64>,
    /// What must hold: of the ratio where there is a peer, of the figure otherwise.
    pub floor: Option<f64>,
    /// What should hold, likewise.
    pub goal: Option<f64>,
    better: Better,
}

impl Figure {
    fn alone(
        measure: impl Into<String>,
        unit: &'static str,
        ours: f64,
        (floor, goal): (Option<f64>, Option<f64>),
        better: Better,
    ) -> Self {
        let (peer, peer_name, ratio) = (None, None, None);
        Self { measure: measure.into(), unit, ours, peer, peer_name, ratio, floor, goal, better }
    }

    /// A figure that must not exceed its floor.
    pub fn at_most(
        measure: impl Into<String>,
        unit: &'static str,
        ours: f64,
        floor: Option<f64>,
        goal: Option<f64>,
    ) -> Self {
        Self::alone(measure, unit, ours, (floor, goal), Better::Less)
    }

    /// A figure that must reach its floor.
    pub fn at_least(measure: impl Into<String>, unit: &'static str, ours: f64, floor: Option<f64>) -> Self {
        Self::alone(measure, unit, ours, (floor, None), Better::More)
    }

    /// A figure of which nothing is asked, and of which less is better.
    pub fn free(measure: impl Into<String>, unit: &'static str, ours: f64) -> Self {
        Self::alone(measure, unit, ours, (None, None), Better::Less)
    }

    /// A figure beside that of a peer, of which it must reach a part. More is better. None where the peer is not on this
    /// machine.
    pub fn beside(
        measure: impl Into<String>,
        unit: &'static str,
        (ours, peer): (f64, impl Into<Option<f64>>),
        peer_name: impl Into<String>,
        floor: impl Into<Option<f64>>,
    ) -> Self {
        let figure = Self::alone(measure, unit, ours, (floor.into(), None), Better::More);
        let peer = peer.into();
        let ratio = peer.filter(|peer| *peer > 0.0).map_or(f64::NAN, |peer| ours / peer);
        figure.with_peer(peer, peer_name, ratio)
    }

    /// The same where less is better: the floor is what the peer's over ours must reach.
    pub fn less_beside(
        measure: impl Into<String>,
        unit: &'static str,
        (ours, peer): (f64, impl Into<Option<f64>>),
        peer_name: impl Into<String>,
        floor: impl Into<Option<f64>>,
    ) -> Self {
        let figure = Self::alone(measure, unit, ours, (floor.into(), None), Better::Less);
        let peer = peer.into();
        let ratio = match peer {
            // Nothing beside nothing. Where both have failed, neither was measured.
            Some(peer) if peer == ours && ours.is_finite() => 1.0,
            Some(peer) => peer / ours,
            None => f64::NAN,
        };
        figure.with_peer(peer, peer_name, ratio)
    }

    fn with_peer(self, peer: Option<f64>, name: impl Into<String>, ratio: f64) -> Self {
        Self { peer, peer_name: Some(name.into()), ratio: peer.map(|_| ratio), ..self }
    }

    /// With what should hold.
    #[must_use]
    pub fn goal(self, goal: impl Into<Option<f64>>) -> Self {
        Self { goal: goal.into(), ..self }
    }

    /// With a ratio of its own, as where it is the median of those of several rounds.
    #[must_use]
    pub fn ratio(self, ratio: f64) -> Self {
        Self { ratio: self.peer.map(|_| ratio), ..self }
    }

    /// What it says of its floor.
    #[must_use]
    pub fn standing(&self) -> Standing {
        let Some(floor) = self.floor else { return Standing::Free };
        // No number is neither at most nor at least anything.
        let held = match (&self.peer_name, self.ratio, self.better) {
            (Some(_), Some(ratio), _) => ratio >= floor,
            (Some(_), None, _) => return Standing::NotJudged,
            (None, _, Better::Less) => self.ours <= floor,
            (None, _, Better::More) => self.ours >= floor,
        };
        if held { Standing::Held } else { Standing::Missed }
    }

    /// Whether it misses nothing that it must hold.
    #[must_use]
    pub fn holds(&self) -> bool {
        self.standing() != Standing::Missed
    }

    /// What was measured, and beside whom.
    pub(crate) fn name(&self) -> String {
        let peer = self.peer_name.as_ref().map_or_else(String::new, |peer| format!(" (beside {peer})"));
        format!("{}{peer}", self.measure)
    }

    /// What stands behind it in a table.
    pub(crate) fn mark(&self) -> String {
        match (self.standing(), &self.peer_name, self.better) {
            (Standing::Free | Standing::Held, ..) => String::new(),
            (Standing::NotJudged, name, _) => {
                format!("  not judged: {} is not here", name.as_deref().unwrap_or_default())
            }
            (Standing::Missed, None, Better::Less) => "  above the limit".into(),
            (Standing::Missed, ..) => "  below the limit".into(),
        }
    }
}

impl Serialize for Figure {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Told<'a> {
            measure: &'a str,
            unit: &'a str,
            ours: f64,
            peer: Option<f64>,
            peer_name: Option<&'a str>,
            ratio: Option<f64>,
            floor: Option<f64>,
            goal: Option<f64>,
            /// Absent where nothing is asked or judged.
            #[serde(skip_serializing_if = "Option::is_none")]
            holds: Option<bool>,
        }
        let holds = match self.standing() {
            Standing::Free | Standing::NotJudged => None,
            Standing::Held => Some(true),
            Standing::Missed => Some(false),
        };
        let Self { measure, unit, ours, peer, peer_name, ratio, floor, goal, better: _ } = self;
        Told {
            measure,
            unit,
            ours: *ours,
            peer: *peer,
            peer_name: peer_name.as_deref(),
            ratio: *ratio,
            floor: *floor,
            goal: *goal,
            holds,
        }
        .serialize(serializer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_floor_is_of_the_ratio_beside_a_peer_and_of_the_figure_alone() {
        use Standing::{Free, Held, Missed, NotJudged};
        let cases = [
            (Figure::at_most("below", "ms", 59.9, Some(60.0), Some(15.0)), Held),
            (Figure::at_most("above", "ms", 60.1, Some(60.0), None), Missed),
            (Figure::free("nothing is asked", "ms", 1e9), Free),
            (Figure::at_least("reached", "/h", 2_000.0, Some(2_000.0)), Held),
            (Figure::at_least("not reached", "/h", 1_999.9, Some(2_000.0)), Missed),
            (Figure::beside("most of the peer", "/s", (90.0, 100.0), "peer", 0.9), Held),
            (Figure::beside("little of the peer", "/s", (500.0, 1_000.0), "peer", 0.9), Missed),
            (Figure::less_beside("as little", "µs", (11.4, Some(10.0)), "peer", 1.0 / 1.15), Held),
            (Figure::less_beside("much more", "µs", (11.6, Some(10.0)), "peer", 1.0 / 1.15), Missed),
            (Figure::less_beside("nothing beside nothing", "", (0.0, Some(0.0)), "peer", 1.0), Held),
            (Figure::less_beside("something beside nothing", "", (0.1, Some(0.0)), "peer", 1.0), Missed),
            (Figure::less_beside("no peer", "µs", (1.0, None), "peer", 1.0), NotJudged),
            (Figure::less_beside("rounds", "µs", (1.0, Some(9.0)), "peer", 1.0).ratio(0.9), Missed),
        ];
        for (figure, standing) in cases {
            assert_eq!(figure.standing(), standing, "{}", figure.measure);
            assert_eq!(figure.holds(), standing != Missed, "{}", figure.measure);
            assert_eq!(figure.mark().contains("limit"), standing == Missed, "{}", figure.measure);
        }
    }

    #[test]
    fn what_could_not_be_measured_does_not_hold() {
        assert!(!Figure::at_most("no sample", "ms", f64::NAN, Some(60.0), None).holds());
        assert!(!Figure::at_least("no sample", "/h", f64::NAN, Some(1.0)).holds());
        assert!(!Figure::beside("nothing of the peer", "/s", (5.0, 0.0), "peer", 0.9).holds());
        assert!(!Figure::less_beside("nothing of ours", "ms", (f64::NAN, Some(5.0)), "peer", 0.9).holds());
        assert!(!Figure::less_beside("ours has failed", "ms", (f64::INFINITY, Some(5.0)), "peer", 0.9).holds());
        let failed = (f64::INFINITY, Some(f64::INFINITY));
        assert!(!Figure::less_beside("both have failed", "ms", failed, "peer", 0.9).holds());
        assert!(!Figure::less_beside("nothing of the peer", "ms", (5.0, Some(f64::NAN)), "peer", 0.9).holds());
    }

    #[test]
    fn a_figure_says_in_json_whether_it_holds_only_where_that_was_judged() {
        let told = |figure: &Figure| serde_json::to_value(figure).unwrap();
        let held = told(&Figure::less_beside("cpu", "µs", (5.0, Some(10.0)), "peer", 1.0).goal(3.0));
        let wanted = serde_json::json!({
            "measure": "cpu", "unit": "µs", "ours": 5.0, "peer": 10.0, "peer_name": "peer", "ratio": 2.0,
            "floor": 1.0, "goal": 3.0, "holds": true,
        });
        assert_eq!(held, wanted);
        assert_eq!(told(&Figure::at_most("late", "ms", 2.0, Some(1.0), None))["holds"], false);
        assert_eq!(told(&Figure::free("late", "ms", 2.0)).get("holds"), None);
        let alone = told(&Figure::less_beside("cpu", "µs", (5.0, None), "peer", 1.0));
        assert!(alone["peer"].is_null() && alone["ratio"].is_null() && alone.get("holds").is_none());
        assert_eq!(alone["floor"], 1.0);
        assert!(told(&Figure::at_most("no sample", "ms", f64::NAN, Some(1.0), None))["ours"].is_null());
    }
}
