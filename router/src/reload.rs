//! Other options while the router runs: read, checked, compared with those of now, and only then taken. What is wrong
//! leaves everything as it is.
//!
//! Taken at once: `[fairness]`, `[containment]`, `[instances]` and most of `[timeouts]` ([`TAKEN_AT_ONCE`]). Everything else
//! is named as waiting for a restart, which drops nothing either (`handover`).

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use prometheus_client::metrics::counter::Counter;

use crate::Error;
use crate::flow::Flow;
use crate::live::Live;
use crate::options::Options;

/// What is taken while the router runs; a prefix that ends in a dot stands for a whole section.
const TAKEN_AT_ONCE: [&str; 15] = [
    "fairness.",
    "containment.",
    "instances.",
    "timeouts.hold",
    "timeouts.answer",
    "timeouts.body-idle",
    "timeouts.header",
    "timeouts.handshake",
    "timeouts.idle",
    "timeouts.write-idle",
    "timeouts.tunnel-idle",
    "timeouts.tunnel-close-spread",
    "timeouts.stream-grace",
    "timeouts.quiesce-min",
    "timeouts.quiesce-max",
];

/// One option that differs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// Its name, with its section.
    pub option: String,
    /// As it was; empty where it was not given.
    pub before: String,
    /// As it is to be; empty where it is not given.
    pub after: String,
    /// Whether it waits for a restart.
    pub needs_restart: bool,
}

/// Takes other options.
pub(crate) struct Reload {
    /// What holds until a restart, of what waits for one.
    started: Options,
    current: Mutex<Options>,
    flow: Arc<Flow>,
    taken: Counter,
    refused: Counter,
}

impl Reload {
    pub(crate) fn new(options: Options, flow: Arc<Flow>, taken: Counter, refused: Counter) -> Self {
        Self { started: options.clone(), current: Mutex::new(options), flow, taken, refused }
    }

    /// How long the router still takes connections at its end, and how long what is open may take to finish.
    pub(crate) fn timeouts(&self) -> (Duration, Duration) {
        let current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        (current.timeouts.quiesce_min, current.timeouts.quiesce_max)
    }

    /// Takes `next`, or leaves everything as it is. Answers what differs.
    pub(crate) fn take(&self, next: Result<Options, Error>) -> Result<Vec<Difference>, Error> {
        let checked = next.and_then(|next| next.check().map(|()| next));
        let next = match checked {
            Ok(next) => next,
            Err(error) => {
                self.refused.inc();
                tracing::error!(code = error.code(), %error, "the new options are not taken: those of before hold");
                return Err(error);
            }
        };
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        // What waits for a restart is said each time, until it is as it was when the process started.
        let waiting = differences(&self.started, &next).into_iter().filter(|difference| difference.needs_restart);
        let mut differences = differences(&current, &next);
        differences.retain(|difference| !difference.needs_restart);
        differences.extend(waiting);
        differences.sort_by(|one, other| one.option.cmp(&other.option));
        self.flow.set_live(Live::new(&next));
        *current = next;
        drop(current);
        self.taken.inc();
        for Difference { option, before, after, needs_restart } in &differences {
            if *needs_restart {
                tracing::warn!(option, before, after, "an option has changed that is taken at the next start");
            } else {
                tracing::info!(option, before, after, "an option has changed");
            }
        }
        if differences.is_empty() {
            tracing::info!("the options were read again: nothing has changed");
        }
        Ok(differences)
    }
}

/// What differs, by name.
fn differences(before: &Options, after: &Options) -> Vec<Difference> {
    let (before, after) = (flat(before), flat(after));
    let names: std::collections::BTreeSet<&String> = before.keys().chain(after.keys()).collect();
    let text =
        |values: &std::collections::BTreeMap<String, String>, name| values.get(name).cloned().unwrap_or_default();
    names
        .into_iter()
        .map(|name| Difference {
            option: name.clone(),
            before: text(&before, name),
            after: text(&after, name),
            needs_restart: !TAKEN_AT_ONCE
                .iter()
                .any(|taken| name == taken || taken.ends_with('.') && name.starts_with(taken)),
        })
        .filter(|difference| difference.before != difference.after)
        .collect()
}

/// Every option by its whole name, as it would be written.
fn flat(options: &Options) -> std::collections::BTreeMap<String, String> {
    let mut values = std::collections::BTreeMap::new();
    let table = toml::Table::try_from(options).expect("options are written as they are read");
    flatten("", &toml::Value::Table(table), &mut values);
    values
}

fn flatten(name: &str, value: &toml::Value, into: &mut std::collections::BTreeMap<String, String>) {
    match value {
        toml::Value::Table(table) => {
            for (key, value) in table {
                let name = if name.is_empty() { key.clone() } else { format!("{name}.{key}") };
                flatten(&name, value, into);
            }
        }
        value => {
            into.insert(name.to_owned(), value.to_string());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::moment::Clock;

    fn usable() -> Options {
        let key = cell_trust::SigningKey::from_bytes(&[7; 32]).public().to_string();
        Options { control: vec!["c1:7400".into()], trusted_keys: vec![key], ..Options::default() }
    }

    fn reload() -> Reload {
        let flow = Flow::new(Live::new(&usable()), Clock::start(), false, std::collections::BTreeMap::default());
        Reload::new(usable(), flow, Counter::default(), Counter::default())
    }

    #[test]
    fn what_has_changed_is_taken_and_named_and_what_needs_a_restart_is_said() {
        let reload = reload();
        let mut next = usable();
        next.fairness.queue_wait = Duration::from_millis(90);
        next.fairness.tiers.gold.rate = Some(50);
        next.threads = 7;
        let differences = reload.take(Ok(next.clone())).unwrap();
        let named: Vec<_> = differences
            .iter()
            .map(|d| (d.option.as_str(), d.before.as_str(), d.after.as_str(), d.needs_restart))
            .collect();
        assert_eq!(
            named,
            [
                ("fairness.queue-wait", "\"1s\"", "\"90ms\"", false),
                ("fairness.tiers.gold.rate", "", "50", false),
                ("threads", "0", "7", true),
            ]
        );
        assert_eq!(reload.flow.live.load().schedule.wait_max, Duration::from_millis(90));
        let again = reload.take(Ok(next)).unwrap();
        let still = again.iter().map(|d| (d.option.as_str(), d.needs_restart)).collect::<Vec<_>>();
        assert_eq!(still, [("threads", true)], "it waits for a restart, however often it is read");
        assert_eq!(reload.take(Ok(usable())).unwrap().len(), 2, "and it is as it was");
        assert_eq!((reload.taken.get(), reload.refused.get()), (3, 0));
    }

    #[test]
    fn bad_options_leave_everything_as_it_is() {
        let reload = reload();
        let mut next = usable();
        next.fairness.queue_wait = Duration::from_millis(90);
        next.fairness.cell_concurrency_min = 0;
        let error = reload.take(Ok(next)).unwrap_err();
        assert!(error.to_string().contains("fairness.cell-concurrency-min"), "{error}");
        assert_eq!(reload.flow.live.load().schedule.wait_max, Duration::from_secs(1));
        let mut next = usable();
        next.fairness.queue_wait = Duration::from_millis(90);
        next.access_log = Some("/nowhere/at/all".into());
        let error = reload.take(Ok(next)).unwrap_err();
        assert!(error.to_string().contains("access-log"), "{error}");
        assert_eq!(reload.flow.live.load().schedule.wait_max, Duration::from_secs(1));
        assert_eq!((reload.taken.get(), reload.refused.get()), (0, 2));
    }

    #[test]
    fn every_name_that_is_taken_at_once_is_an_option() {
        let mut all = usable();
        all.fairness.tiers.bronze.rate = Some(1);
        let names = flat(&all);
        for taken in TAKEN_AT_ONCE {
            assert!(names.keys().any(|name| name.starts_with(taken)), "{taken}");
        }
    }
}
