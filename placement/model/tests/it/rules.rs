//! Each rule that `docs/guards.md` says a test holds is switched off, and the test must fail.

#[cfg(feature = "planted")]
use cell_model::{Rule, planted};

/// The rule that this process has to go without, by its id.
#[cfg(feature = "planted")]
const WITHOUT: &str = "CELLWAY_WITHOUT_RULE";

/// Every fleet of these tests begins here.
pub(crate) fn go_without() {
    #[cfg(feature = "planted")]
    if let Ok(id) = std::env::var(WITHOUT) {
        let rule = Rule::ALL.iter().copied().find(|rule| rule.id() == id).expect("a rule of this id");
        planted::switch_off([Some(rule), None, None, None]);
    }
}

#[cfg(feature = "planted")]
mod planted_rules {
    use std::process::{Command, Stdio};

    use super::{Rule, WITHOUT};

    /// Rules and the tests that hold them, as the page says.
    fn page() -> Vec<(Rule, &'static str)> {
        let lines = include_str!("../../../../docs/guards.md").lines().filter(|line| line.starts_with("| `"));
        let held = lines.filter_map(|line| {
            let cells: Vec<&str> = line.trim_matches('|').split(" | ").map(str::trim).collect();
            let [id, _, "test", what] = cells[..] else { return None };
            let rule = Rule::ALL.iter().copied().find(|rule| rule.id() == id.trim_matches('`'));
            Some((rule.expect("a rule of this id"), what.split('`').nth(1).expect("the name of a test")))
        });
        held.collect()
    }

    fn passes(test: &str, without: Option<Rule>) -> bool {
        let mut run = Command::new(std::env::current_exe().expect("this test has a file"));
        run.args(["--exact", test]).stderr(Stdio::null());
        if let Some(rule) = without {
            run.env(WITHOUT, rule.id());
        }
        let output = run.output().expect("this test can be run");
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(said.contains("running 1 test"), "there is no test {test}");
        output.status.success()
    }

    #[test]
    fn each_rule_that_a_test_holds_is_missed_by_it() {
        let page = page();
        assert!(page.len() > 20, "too few lines to say anything: {}", page.len());
        for (rule, test) in page {
            assert!(passes(test, None), "{test} fails anyhow");
            assert!(!passes(test, Some(rule)), "{test} does not miss {}", rule.id());
        }
    }

    #[test]
    fn a_rule_that_is_switched_off_is_in_force_again_afterwards() {
        use cell_model::{Attempt, Event, Leg, MoveOptions, Phase, Rejected};

        let mut world = crate::world::World::new();
        let id = world.moving(Phase::Sync, MoveOptions::default());
        let abort =
            || Event::Abort { attempt: Attempt(1), reason: String::new(), not_before: cell_model::UnixMillis(0) };
        let without = [Some(Rule::AbortPhase), None, None, None];
        let before = world.record("t").epoch;
        let taken = cell_model::planted::without(without, || world.tell_as("t", abort(), Some((id, Leg::Forward))));
        assert!(taken.is_ok() && world.record("t").epoch == before.next(), "{taken:?}");
        let refused = world.tell_as("t", abort(), Some((id, Leg::Forward)));
        assert!(matches!(refused, Err(Rejected::WrongPhase { .. })), "{refused:?}");
    }
}
