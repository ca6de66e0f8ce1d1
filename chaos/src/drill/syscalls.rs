//! Syncs of a running process that fail or take long: `strace` holds it and answers in the kernel's place.
//!
//! A process that is let go goes on as before; when `strace` itself is killed, the kernel lets it go.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, Command};

use super::SyncFault;

const TRACER: &str = "strace";
const WITHIN: Duration = Duration::from_secs(5);
/// Every way in which Cellway makes data durable.
const SYNCS: &str = "fsync,fdatasync";

/// A process whose syncs are not what they were.
#[derive(Debug)]
pub(super) struct Injection {
    tracer: Child,
    told: PathBuf,
}

/// What keeps syncs from being failed here, if anything does.
pub(super) async fn missing() -> Option<String> {
    let words = ["-q", "-o", "/dev/null", "-e", "trace=none", "true"];
    let tried = Command::new(TRACER).args(words).stderr(Stdio::null()).status().await;
    match tried {
        Ok(status) if status.success() => None,
        Ok(_) => Some(format!("{TRACER} may not trace here")),
        Err(_) => Some(format!("{TRACER} is not installed")),
    }
}

impl Injection {
    /// From now on. What has met the fault is told in `told`.
    pub(super) async fn start(process: u32, fault: SyncFault, told: PathBuf) -> Result<Self, String> {
        let how = match fault {
            SyncFault::Fail { nth } => format!("inject={SYNCS}:error=EIO:when={nth}"),
            SyncFault::Slow { ms } => format!("inject={SYNCS}:delay_enter={}", ms.saturating_mul(1_000)),
        };
        let tracer = Command::new(TRACER)
            .args(["-f", "-q", "-p", &process.to_string(), "-e", &format!("trace={SYNCS}"), "-e", &how, "-o"])
            .arg(&told)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| format!("{TRACER} cannot be started: {error}"))?;
        let mut injection = Self { tracer, told };
        let began = Instant::now();
        while tracer_of(process).is_none() {
            if let Ok(Some(status)) = injection.tracer.try_wait() {
                return Err(format!("{TRACER} has ended at once ({status})"));
            }
            if began.elapsed() > WITHIN {
                return Err(format!("{TRACER} does not hold process {process} after {} s", WITHIN.as_secs()));
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Ok(injection)
    }

    /// Lets the process go. Answers how many syncs have met the fault.
    pub(super) async fn stop(mut self) -> u64 {
        let pid = self.tracer.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
        if let Some(pid) = pid {
            // It may have ended together with the process.
            let _ = kill_process(pid, Signal::INT);
        }
        if tokio::time::timeout(WITHIN, self.tracer.wait()).await.is_err()
            && let Err(error) = self.tracer.kill().await
        {
            tracing::warn!(%error, "a tracer cannot be ended");
        }
        let told = std::fs::read_to_string(&self.told).unwrap_or_default();
        let met = told.lines().filter(|line| line.contains("(INJECTED)") || line.contains("(DELAYED)"));
        met.count() as u64
    }
}

/// Who traces a process.
fn tracer_of(process: u32) -> Option<u32> {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("TracerPid:"))?;
    line.trim().parse().ok().filter(|tracer| *tracer != 0)
}
