//! The program itself: what it says when it cannot start, and what a reload leaves alone.

use std::io::BufRead;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use crate::control::FakeControl;
use crate::fleet;
use crate::gate::FakeGate;

fn cell_router(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_cell-router")).args(args).output().unwrap()
}

fn error_of(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn options_can_be_checked_without_starting() {
    let control = FakeControl::new(1);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("router.toml");
    std::fs::write(&path, toml::to_string(&fleet::options(&control)).unwrap()).unwrap();
    let path = path.to_str().unwrap();
    let nobody = cell_router(&["--config", path, "--check"]);
    assert!(error_of(&nobody).starts_with("error[IDENTITY_REQUIRED]"), "{}", error_of(&nobody));
    let missing = cell_router(&["--config", path, "--check", "--identity", "/nowhere"]);
    assert!(error_of(&missing).starts_with("error[IDENTITY_UNREADABLE]"), "{}", error_of(&missing));
    let good = cell_router(&["--config", path, "--check", "--insecure-plaintext"]);
    assert!(good.status.success(), "{}", error_of(&good));
    let bad = cell_router(&["--config", path, "--check", "--control", "nowhere"]);
    assert_eq!(bad.status.code(), Some(1));
    assert!(
        error_of(&bad).starts_with("error[OPTIONS_INVALID]: option control: \"nowhere\""),
        "{}",
        error_of(&bad)
    );
    let certificate = dir.path().join("edge.pem");
    std::fs::write(&certificate, "-----BEGIN CERTIFICATE-----\nAAAA\nA!\n-----END CERTIFICATE-----\n").unwrap();
    let mut options = fleet::options(&control);
    let files = cell_router::CertificateFiles { certificate_file: certificate.clone(), key_file: certificate };
    options.tls = Some(cell_router::TlsOptions {
        certificates: vec![files],
        client_ca_file: None,
        client_certificate_required: false,
        reload_interval: std::time::Duration::from_secs(10),
    });
    std::fs::write(path, toml::to_string(&options).unwrap()).unwrap();
    let bad = error_of(&cell_router(&["--config", path, "--check"]));
    assert!(bad.starts_with("error[CERTIFICATE_INVALID]") && bad.contains("edge.pem, line 3"), "{bad}");
    let mut options = fleet::options(&control);
    options.limits.headers_max = 0;
    let text = toml::to_string(&options).unwrap();
    let line = text.lines().position(|line| line == "headers-max = 0").unwrap() + 1;
    std::fs::write(path, text).unwrap();
    let bad = error_of(&cell_router(&["--config", path, "--check"]));
    assert!(
        bad.contains("option limits.headers-max: must be at least 1") && bad.contains(&format!("line {line})")),
        "{bad}"
    );
    std::fs::write(path, "listen = 5").unwrap();
    let bad = cell_router(&["--config", path, "--check"]);
    assert!(error_of(&bad).contains("line 1"), "{}", error_of(&bad));
}

/// What cannot work does not pass a check, and a start and a reload refuse the same.
#[test]
fn what_a_start_would_refuse_or_what_cannot_work_does_not_pass_a_check() {
    let (control, dir) = (FakeControl::new(1), tempfile::tempdir().unwrap());
    let path = dir.path().join("router.toml");
    let nowhere = dir.path().join("nowhere/file");
    let plain = dir.path().join("plain");
    std::fs::write(&plain, "a file").unwrap();
    let usage: cell_router::UsageOptions = toml::from_str(&format!("directory = {plain:?}")).unwrap();
    type Breaks<'a> = Box<dyn Fn(&mut cell_router::Options) + 'a>;
    let broken: [(&str, Breaks<'_>); 8] = [
        ("option handover-socket: ", Box::new(|o| o.handover_socket = Some(nowhere.clone()))),
        ("option snapshot-file: ", Box::new(|o| o.snapshot_file = Some(nowhere.clone()))),
        ("option access-log: ", Box::new(|o| o.access_log = Some(nowhere.clone()))),
        ("usage.directory ", Box::new(|o| o.usage = Some(usage.clone()))),
        ("option threads: must be at most ", Box::new(|o| o.threads = 100_000)),
        ("option limits.tunnels-max: must be at least 1", Box::new(|o| o.limits.tunnels_max = 0)),
        ("option timeouts.pool-idle: must be more", Box::new(|o| o.timeouts.pool_idle = Duration::ZERO)),
        (
            "option admin-listen: ",
            Box::new(|o| {
                o.admin_listen = ([127, 0, 0, 1], 9).into();
                o.listen = o.admin_listen;
            }),
        ),
    ];
    for (text, breaks) in &broken {
        let mut options = fleet::options(&control);
        options.insecure_plaintext = true;
        breaks(&mut options);
        std::fs::write(&path, toml::to_string(&options).unwrap()).unwrap();
        for check in [&["--check"][..], &[]] {
            let output = cell_router(&[&["--config", path.to_str().unwrap(), "--log", "off"][..], check].concat());
            assert_eq!(output.status.code(), Some(1), "{text} {check:?}");
            let error = error_of(&output);
            assert!(error.contains(&format!("]: {text}")) && error.contains("hint: "), "{text} {check:?}: {error}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_check_beside_the_router_that_runs_passes_and_says_so_and_beside_another_process_it_does_not() {
    let (control, dir) = (FakeControl::new(1), tempfile::tempdir().unwrap());
    let path = dir.path().join("router.toml");
    let mut options = fleet::options(&control);
    options.control = vec!["127.0.0.1:1".into()];
    std::fs::write(&path, toml::to_string(&options).unwrap()).unwrap();
    let router = Running::start(&path);
    let line = router.until("routing");
    let said = |name: &str| line.split_once(name).unwrap().1.split_whitespace().next().unwrap().to_owned();
    let (listen, admin) = (said("listen="), said("admin="));
    let check = |listen: &str, admin: &str| {
        let ports = ["--listen", listen, "--admin-listen", admin];
        let rest = ["--config", path.to_str().unwrap(), "--insecure-plaintext", "--check"];
        cell_router(&[&ports[..], &rest[..]].concat())
    };
    let beside = check(&listen, &admin);
    assert!(beside.status.success(), "{}", error_of(&beside));
    assert!(error_of(&beside).contains("a router runs here already"), "{}", error_of(&beside));
    let held = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let other = held.local_addr().unwrap().to_string();
    let cases = [(&*other, "127.0.0.1:0"), ("127.0.0.1:0", &*other), (&*other, &*admin)];
    for (listen, admin) in cases {
        let error = error_of(&check(listen, admin));
        assert!(error.contains("error[PORT_IN_USE]") && error.contains(&other), "{error}");
    }
}

#[test]
fn a_port_in_use_is_named_with_what_to_do() {
    let held = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = held.local_addr().unwrap().to_string();
    let key = FakeControl::new(1).key.public().to_string();
    let args = ["--control", "127.0.0.1:1", "--trusted-key", &key, "--listen", &address, "--log", "off"];
    let nameless = cell_router(&args);
    assert!(error_of(&nameless).starts_with("error[IDENTITY_REQUIRED]"), "{}", error_of(&nameless));
    let taken = cell_router(&[&args[..], &["--insecure-plaintext"]].concat());
    assert_eq!(taken.status.code(), Some(1));
    let error = error_of(&taken);
    assert!(
        error.starts_with("error[PORT_IN_USE]") && error.contains(&address) && error.contains("hint:"),
        "{error}"
    );
}

/// Certificates that can be read and are no good all the same.
#[test]
fn a_certificate_that_has_run_out_and_a_key_that_anybody_may_read_do_not_pass() {
    let (control, dir) = (FakeControl::new(1), tempfile::tempdir().unwrap());
    let path = dir.path().join("router.toml");
    let files = cell_router::CertificateFiles {
        certificate_file: dir.path().join("edge.pem"),
        key_file: dir.path().join("edge.key"),
    };
    let key = rcgen::KeyPair::generate().unwrap();
    let write = |until: i32, mode: u32| {
        let mut params = rcgen::CertificateParams::new(vec!["example.com".to_owned()]).unwrap();
        params.not_before = rcgen::date_time_ymd(2020, 1, 1);
        params.not_after = rcgen::date_time_ymd(until, 1, 1);
        let certificate = params.self_signed(&key).unwrap();
        std::fs::write(&files.certificate_file, format!("# ours\n{}", certificate.pem())).unwrap();
        std::fs::write(&files.key_file, key.serialize_pem()).unwrap();
        std::fs::set_permissions(&files.key_file, std::os::unix::fs::PermissionsExt::from_mode(mode)).unwrap();
        let mut options = fleet::options(&control);
        options.insecure_plaintext = true;
        options.tls = Some(cell_router::TlsOptions {
            certificates: vec![files.clone()],
            client_ca_file: None,
            client_certificate_required: false,
            reload_interval: Duration::from_secs(10),
        });
        std::fs::write(&path, toml::to_string(&options).unwrap()).unwrap();
        cell_router(&["--config", path.to_str().unwrap(), "--check"])
    };
    let good = write(2_100, 0o640);
    assert!(good.status.success(), "{}", error_of(&good));
    let old = error_of(&write(2_021, 0o600));
    assert!(
        old.starts_with("error[CERTIFICATE_INVALID]")
            && old.contains("edge.pem, line 2: ")
            && old.contains("to 2021-01-01T"),
        "{old}"
    );
    let open = error_of(&write(2_100, 0o644));
    assert!(open.starts_with("error[CERTIFICATE_INVALID]") && open.contains("(mode 644): chmod 600"), "{open}");
}

/// A router of its own process, ended with the test.
struct Running {
    child: Child,
    said: std::sync::mpsc::Receiver<String>,
}

impl Running {
    fn start(config: &Path) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_cell-router"))
            .args(["--config", config.to_str().unwrap(), "--insecure-plaintext", "--log", "info"])
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = std::io::BufReader::new(child.stderr.take().unwrap()).lines();
        let (say, said) = std::sync::mpsc::channel();
        std::thread::spawn(move || lines.map_while(Result::ok).try_for_each(|line| say.send(line)));
        Self { child, said }
    }

    /// The first line from here on that says this.
    fn until(&self, what: &str) -> String {
        loop {
            let line =
                self.said.recv_timeout(Duration::from_secs(20)).unwrap_or_else(|error| panic!("{what}: {error}"));
            if line.contains(what) {
                return line;
            }
        }
    }

    fn hang_up(&self) {
        let sent = Command::new("kill").args(["-HUP", &self.child.id().to_string()]).status().unwrap();
        assert!(sent.success());
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _gone = self.child.kill();
        let _gone = self.child.wait();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hangup_under_load_fails_no_request_and_cuts_no_websocket() {
    let gate = FakeGate::echo_websocket().await;
    let control = FakeControl::of_two_tenants(&gate.address);
    let dir = tempfile::tempdir().unwrap();
    let (table, config) = (dir.path().join("table"), dir.path().join("router.toml"));
    let mut options = fleet::options(&control);
    options.snapshot_file = Some(table.clone());
    // One that stops leaves its table to the process, which has no control plane.
    fleet::Fleet::start(control, |options| options.snapshot_file = Some(table)).await.stop().await;
    let write =
        |options: &cell_router::Options| std::fs::write(&config, toml::to_string(options).unwrap()).unwrap();
    options.control = vec!["127.0.0.1:1".into()];
    write(&options);
    let router = Running::start(&config);
    let line = router.until("routing");
    let (_, rest) = line.split_once("listen=").unwrap();
    let address: std::net::SocketAddr = rest.split_whitespace().next().unwrap().parse().unwrap();
    let mut websocket = crate::websocket::open_at(address).await;
    let load: Vec<_> = (0..4)
        .map(|_| {
            tokio::spawn(async move {
                for _ in 0..50 {
                    assert_eq!(crate::client::get(address, "t-1", "/").await.body, "plain");
                }
            })
        })
        .collect();
    for round in 0..10 {
        options.fairness.queue_wait = Duration::from_millis(900 + round);
        write(&options);
        router.hang_up();
        router.until("an option has changed");
        crate::websocket::still_echoes(&mut websocket).await;
    }
    for requests in load {
        requests.await.unwrap();
    }
    crate::websocket::still_echoes(&mut websocket).await;
}
