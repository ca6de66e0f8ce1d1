//! The program itself: what it says when it cannot start.

use std::process::{Command, Output};

use crate::control::FakeControl;
use crate::fleet;

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
    let good = cell_router(&["--config", path, "--check"]);
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
    std::fs::write(path, "listen = 5").unwrap();
    let bad = cell_router(&["--config", path, "--check"]);
    assert!(error_of(&bad).contains("line 1"), "{}", error_of(&bad));
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
