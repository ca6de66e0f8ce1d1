//! What the router tells others of requests: `[usage]` and `[spans]`.

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::duration;
use crate::Error;
use crate::usage::collectors::Collectors;

/// What each tenant has used, in batches on disk until they are collected at the admin port.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct UsageOptions {
    /// Where the batches are. This router's alone.
    pub directory: PathBuf,
    /// How often one is written: what a process that is killed loses at the most, while batches can be written.
    #[serde(default = "usage_interval", with = "duration")]
    pub interval: Duration,
    /// Bytes of batches that nobody has collected. Where there are more, counts wait in memory.
    #[serde(default = "usage_bytes_max")]
    pub bytes_max: u64,
    /// What collectors have to show at the admin port. Without it only this machine may say that usage is collected.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token_file: Option<PathBuf>,
}

impl UsageOptions {
    pub(crate) fn collectors(&self) -> Result<Collectors, Error> {
        Collectors::load(self).map_err(|rule| Error::InvalidOption { option: "usage.token-file".into(), rule })
    }
}

fn usage_interval() -> Duration {
    Duration::from_secs(10)
}

fn usage_bytes_max() -> u64 {
    256 << 20
}

/// Spans of some requests, to a collector that speaks OTLP over gRPC.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct SpanOptions {
    /// `http://host:4317`, or `https://…` with `ca-file`.
    pub endpoint: String,
    /// Of how many requests in a hundred, by lot.
    #[serde(default = "sample_percent")]
    pub sample_percent: f64,
    /// And of those of which the client says in `traceparent` that they are sampled. For clients that are trusted.
    #[serde(default)]
    pub follow_clients: bool,
    /// Whose certificate the collector has (PEM).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<PathBuf>,
}

fn sample_percent() -> f64 {
    1.0
}

/// The first rule that is broken, with its option.
pub(crate) fn broken(usage: Option<&UsageOptions>, spans: Option<&SpanOptions>) -> Option<(String, String)> {
    let rule = |option: &str, rule: &str| Some((option.to_owned(), rule.to_owned()));
    if let Some(usage) = usage {
        if usage.directory.as_os_str().is_empty() {
            return rule("usage.directory", "must not be empty");
        }
        if usage.interval < Duration::from_millis(100) {
            return rule("usage.interval", "must be at least 100ms");
        }
        if usage.bytes_max < 1 << 20 {
            return rule("usage.bytes-max", "must be at least 1048576");
        }
    }
    let spans = spans?;
    let address = ["http://", "https://"].iter().find_map(|scheme| spans.endpoint.strip_prefix(scheme));
    if address.is_none_or(|address| super::check_endpoint(address.trim_end_matches('/')).is_err()) {
        return rule("spans.endpoint", "must be http://host:port or https://host:port");
    }
    if spans.endpoint.starts_with("https://") != spans.ca_file.is_some() {
        return rule("spans.ca-file", "is needed with https, and with https alone");
    }
    if !(0.0..=100.0).contains(&spans.sample_percent) {
        return rule("spans.sample-percent", "must be between 0 and 100");
    }
    None
}
