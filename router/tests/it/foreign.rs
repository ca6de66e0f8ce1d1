//! Clients and servers that others wrote: `make test-clients` installs them and runs this.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use cell_model::Hold;
use cell_router::Options;

use crate::control::FakeControl;
use crate::fleet::Fleet;
use crate::gate::FakeGate;

/// A script that plays the cell and then the client.
struct Script {
    child: Child,
    say: ChildStdin,
    hear: BufReader<ChildStdout>,
}

impl Script {
    fn start(name: &str) -> Self {
        let python = std::env::var("CELLWAY_PYTHON").expect("`make test-clients` says where Python is");
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients").join(name);
        let mut child =
            Command::new(python).arg(path).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let (say, hear) = (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()));
        Self { child, say, hear }
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.hear.read_line(&mut line).unwrap();
        line.trim().to_owned()
    }

    fn say(&mut self, line: &str) {
        writeln!(self.say, "{line}").unwrap();
    }
}

impl Drop for Script {
    fn drop(&mut self) {
        // It has ended by itself where the test went well.
        let _ended = self.child.kill();
        let _status = self.child.wait();
    }
}

/// A router before the script's own server.
async fn before(script: &mut Script) -> Fleet {
    let port = script.line();
    let port = port.strip_prefix("PORT ").expect("the script says its port first");
    let control = FakeControl::new(1);
    control.set_cell("a", &[format!("127.0.0.1:{port}")]);
    control.set_tenant("t-1", "a", 1, |_| {});
    let fleet = Fleet::start(control, roomy).await;
    script.say(&format!("ROUTER {}", fleet.address()));
    fleet
}

/// These clients ask hundreds of things at once for one tenant, which is more than a queue is meant to hold.
fn roomy(options: &mut Options) {
    options.fairness.queue_per_tenant_max = 10_000;
    options.fairness.queue_per_cell_max = 10_000;
    options.fairness.queue_wait = Duration::from_secs(20);
    options.timeouts.stream_grace = Duration::from_millis(50);
}

async fn blocking<T: Send + 'static>(what: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(what).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs Python packages: make test-clients"]
async fn grpcio_gets_every_kind_of_call_through() {
    let mut script = Script::start("grpc_kinds.py");
    let fleet = before(&mut script).await;
    let (streaming, mut script) = blocking(move || (script.line(), script)).await;
    assert_eq!(streaming, "STREAMING");
    fleet.control.set_tenant("t-1", "a", 2, |_| {});
    let (last, status) = blocking(move || (script.line(), script.child.wait().unwrap())).await;
    assert!(last == "OK" && status.success(), "{last:?} {status}");
    fleet.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs Python packages: make test-clients"]
async fn the_websockets_package_talks_through_and_is_told_to_come_back() {
    let mut script = Script::start("websockets_echo.py");
    let fleet = before(&mut script).await;
    let (ready, mut script) = blocking(move || (script.line(), script)).await;
    assert_eq!(ready, "READY");
    let held = fleet.control.set_tenant("t-1", "a", 1, |mapping| mapping.hold = Hold::Writes);
    fleet.until_believed(&held).await;
    script.say("MOVE");
    let (last, status) = blocking(move || (script.line(), script.child.wait().unwrap())).await;
    assert!(last == "OK" && status.success(), "{last:?} {status}");
    fleet.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs curl: make test-clients"]
async fn curl_gets_the_same_answer_over_every_version() {
    let (_gate, fleet) = before_an_echo().await;
    let url = format!("http://{}/", fleet.address());
    let mut body = tempfile::NamedTempFile::new().unwrap();
    body.write_all(&vec![b'x'; 1_000_000]).unwrap();
    let file = format!("@{}", body.path().display());
    for arguments in [
        &["--http1.0"][..],
        &["--http1.1"],
        &["--http2-prior-knowledge"],
        &["--http2"],
        &["--http1.1", "-H", "Transfer-Encoding: chunked"],
        &["--http1.1", "-H", "Expect: 100-continue"],
    ] {
        let (url, file) = (url.clone(), file.clone());
        let output = blocking(move || {
            Command::new("curl")
                .args([
                    "-sS",
                    "-m",
                    "20",
                    "-H",
                    "Host: t-1.example.com",
                    "--data-binary",
                    &file,
                    "-w",
                    "%{http_code}",
                ])
                .args(arguments)
                .arg(url)
                .output()
                .unwrap()
        })
        .await;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        // HTTP/1.0 knows no chunks, and the others get the body back.
        assert!(
            output.status.success() && text.ends_with("200"),
            "{arguments:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        assert_eq!(text.len(), 1_000_000 + 2 + 3, "{arguments:?}");
    }
    fleet.stop().await;
}

/// curl 7.88 takes a reset behind an answer for the answer, while it sends.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs curl: make test-clients"]
async fn curl_hears_that_its_upload_is_too_large_while_it_sends() {
    let (_gate, fleet) = before_an_echo().await;
    let url = format!("http://{}/", fleet.address());
    let body = tempfile::NamedTempFile::new().unwrap();
    body.as_file().set_len(1 << 30).unwrap();
    for version in ["--http1.1", "--http2-prior-knowledge"] {
        let (url, file) = (url.clone(), body.path().display().to_string());
        let output = blocking(move || {
            let mut curl = Command::new("curl");
            curl.args([
                "-sS",
                "-m",
                "20",
                "-H",
                "Host: t-1.example.com",
                "-w",
                "%{http_code}",
                version,
                "-T",
                &file,
            ]);
            curl.arg(url).output().unwrap()
        })
        .await;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(text.contains("BODY_TOO_LARGE") && text.ends_with("413"), "{version}: {text} {output:?}");
    }
    fleet.stop().await;
}

/// A router before an application that answers at once.
async fn before_an_echo() -> (FakeGate, Fleet) {
    let gate = FakeGate::echo("a").await;
    let control = FakeControl::new(1);
    control.set_cell("a", std::slice::from_ref(&gate.address));
    control.set_tenant("t-1", "a", 1, |_| {});
    let fleet = Fleet::start(control, roomy).await;
    (gate, fleet)
}

/// What a command says that has to end well.
async fn said(mut command: Command) -> String {
    let output = blocking(move || command.output().expect("it is installed")).await;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    text
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs h2load (Debian: nghttp2-client): make test-clients"]
async fn h2load_gets_every_answer_over_http_2() {
    let (_gate, fleet) = before_an_echo().await;
    let mut command = Command::new("h2load");
    command.args(["-n", "4000", "-c", "8", "-m", "32", "-T", "20", "-N", "20"]);
    command.args(["-H", ":authority: t-1.example.com"]).arg(format!("http://{}/", fleet.address()));
    let text = said(command).await;
    assert!(text.contains("4000 succeeded, 0 failed, 0 errored, 0 timeout"), "{text}");
    assert!(text.contains("4000 2xx, 0 3xx, 0 4xx, 0 5xx"), "{text}");
    fleet.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs wrk (Debian): make test-clients"]
async fn wrk_gets_answers_and_no_errors() {
    let (gate, fleet) = before_an_echo().await;
    let mut command = Command::new("wrk");
    command.args(["-t1", "-c16", "-d2s", "--timeout", "20s", "-H", "Host: t-1.example.com"]);
    command.arg(format!("http://{}/", fleet.address()));
    let text = said(command).await;
    assert!(!text.contains("Socket errors") && !text.contains("Non-2xx"), "{text}");
    assert!(gate.seen().len() > 100, "{text}");
    fleet.stop().await;
}
