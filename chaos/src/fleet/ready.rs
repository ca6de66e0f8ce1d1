//! Waiting until servers are ready, and what they tell of themselves.

use std::path::Path;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::Request;
use http_body_util::Full;

use super::FleetError;
use crate::http_client::Connection;
use crate::process::Processes;

/// How long each part of the fleet has to become ready.
pub(super) const READY_WITHIN: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(30);

pub(super) async fn readiness(address: &str) -> Result<(), String> {
    fetch(address, "/readyz").await.map(|_| ())
}

pub(super) async fn wait_ready<F>(
    processes: &mut Processes,
    name: &str,
    mut probe: impl FnMut() -> F,
) -> Result<(), FleetError>
where
    F: Future<Output = Result<(), String>>,
{
    let began = Instant::now();
    loop {
        let Err(mut reason) = probe().await else { return Ok(()) };
        let fallen = processes.ended(name);
        if let Some(status) = fallen {
            reason = format!("it has ended ({status})");
        }
        if fallen.is_some() || began.elapsed() > READY_WITHIN {
            let log = log_tail(&processes.log_of(name));
            return Err(FleetError::NotReady { name: name.to_owned(), waited: began.elapsed(), reason, log });
        }
        tokio::time::sleep(POLL).await;
    }
}

/// What a server answers to a GET; everything but 2xx is an error.
///
/// # Errors
/// Why there is no such answer.
pub async fn fetch(address: &str, path: &str) -> Result<String, String> {
    let (status, text) = ask(address, path).await?;
    if (200..300).contains(&status) { Ok(text) } else { Err(format!("{status}: {text}")) }
}

/// What a server answers to a GET, whatever it is: status and text.
///
/// # Errors
/// Why there is no answer.
pub async fn ask(address: &str, path: &str) -> Result<(u16, String), String> {
    let mut connection = Connection::new(address.to_owned(), Duration::from_secs(2));
    let request = Request::get(path).header(http::header::HOST, address).body(Full::<Bytes>::default());
    let answer =
        connection.call(request.map_err(|error| error.to_string())?).await.map_err(|error| error.to_string())?;
    Ok((answer.status().as_u16(), String::from_utf8_lossy(answer.body()).into_owned()))
}

/// The sum of a counter over its labels, in the text format of Prometheus.
pub(super) fn sum_of(metrics: &str, name: &str) -> u64 {
    let value_of = |line: &str| {
        let (series, value) = line.rsplit_once(' ')?;
        let known = series.split('{').next()?;
        let counted = known == name || known.strip_suffix("_total") == Some(name);
        // A gauge is printed as a float even where it is whole.
        let whole = value.strip_suffix(".0").unwrap_or(value);
        if counted { whole.parse::<u64>().ok() } else { None }
    };
    metrics.lines().filter_map(value_of).sum()
}

pub(super) fn log_tail(path: &Path) -> String {
    let text = std::fs::read_to_string(path).unwrap_or_else(|error| error.to_string());
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(12)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::Recipe;

    #[test]
    fn a_counter_is_summed_over_its_labels_and_no_other_is_taken_for_it() {
        let metrics = "# HELP cell_router_stale_redirects Answers.\n\
                       cell_router_stale_redirects_total{worker=\"0\"} 3\n\
                       cell_router_stale_redirects_total{worker=\"1\"} 4\n\
                       cell_router_stale_redirects_other_total 9\n\
                       cell_router_table_revision 12.0\n";
        assert_eq!(sum_of(metrics, "cell_router_stale_redirects"), 7);
        assert_eq!(sum_of(metrics, "cell_router"), 0);
        assert_eq!(sum_of(metrics, "cell_router_table_revision"), 12);
    }

    #[tokio::test]
    async fn a_program_that_is_no_server_is_named_with_the_end_of_its_log() {
        let directory = tempfile::tempdir().unwrap();
        let mut processes = Processes::new(directory.path().join("logs"));
        let arguments = vec!["-c".to_owned(), "echo no such thing; exit 1".to_owned()];
        processes.start(Recipe { name: "broken".into(), program: "/bin/sh".into(), arguments }).unwrap();
        let waited = wait_ready(&mut processes, "broken", || async { Err("refused".to_owned()) }).await;
        let told = waited.unwrap_err().to_string();
        assert!(
            told.contains("broken") && told.contains("exit status: 1") && told.contains("no such thing"),
            "{told}"
        );
    }
}
