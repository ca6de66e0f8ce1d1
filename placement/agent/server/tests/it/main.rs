//! A real server, and who ends it.

use std::net::TcpStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use cell_pg_server::{Options, Server};

fn options(name: &str, until: u32) -> Options {
    let directory = std::env::temp_dir().join(format!("cellway-pg-server-{}-{name}", std::process::id()));
    let settings = "listen_addresses = '127.0.0.1'\nfsync = off\nshared_buffers = 16MB\n".into();
    Options { directory, settings, access: None, until }
}

fn answers(port: u16) -> bool {
    TcpStream::connect(("127.0.0.1", port)).is_ok()
}

fn eventually(what: &str, holds: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !holds() {
        assert!(Instant::now() < deadline, "not within a minute: {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn a_server_takes_its_settings_and_is_gone_when_it_is_dropped() {
    let options = options("dropped", std::process::id());
    let server = Server::start(&options).unwrap();
    let asked = Command::new(server.psql()).args(["-At", &server.url(), "-c", "SHOW shared_buffers"]).output();
    assert_eq!(String::from_utf8_lossy(&asked.unwrap().stdout).trim(), "16MB");
    let port = server.port();
    drop(server);
    assert!(!answers(port));
    assert!(!options.directory.exists());
}

#[test]
fn a_server_that_is_left_ends_with_the_process_that_it_is_for() {
    let mut process = Command::new("sleep").arg("600").stdout(Stdio::null()).spawn().unwrap();
    let options = options("left", process.id());
    let port = Server::start(&options).unwrap().leave();
    assert!(answers(port));
    process.kill().unwrap();
    process.wait().unwrap();
    eventually("the server has ended", || !answers(port));
    eventually("its directory is gone", || !options.directory.exists());
}

#[test]
fn settings_that_are_wrong_are_told_as_the_server_tells_them() {
    let mut options = options("wrong", std::process::id());
    options.settings.push_str("shared_bufers = 1\n");
    let said = Server::start(&options).unwrap_err().to_string();
    assert!(said.contains("shared_bufers"), "{said}");
    eventually("what was made is gone", || !Path::new(&options.directory).exists());
}
