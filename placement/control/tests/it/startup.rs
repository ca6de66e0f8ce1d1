//! Starting and stopping, and what is said where it cannot be.

use cell_control::{Error, Options, Service, key_file};
use tonic_health::pb::health_check_response::ServingStatus;

use crate::nodes::{CONTROL_SERVICE, Nodes, eventually, health, options};

async fn refused(options: Options) -> Error {
    Service::start(options).await.expect_err("it does not start")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_in_use_is_named_with_what_to_do() {
    let nodes = Nodes::start(1).await;
    let taken = nodes.nodes[0].handle().local_addr();
    let dir = nodes.dir.path();
    let error = refused(Options { listen: taken, ..options(dir.join("other"), dir.join("key")) }).await;
    assert_eq!(error.code(), "PORT_IN_USE");
    assert!(error.to_string().contains(&taken.to_string()), "{error}");
    assert!(error.hint().contains("--listen"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_data_directory_in_use_is_named() {
    let nodes = Nodes::start(1).await;
    let dir = nodes.dir.path();
    let error = refused(options(dir.join("node-0"), dir.join("key"))).await;
    assert_eq!(error.code(), "DATA_DIRECTORY_LOCKED");
    assert!(error.to_string().contains("node-0"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_data_directory_of_another_cluster_is_refused() {
    let (mut nodes, made) = Nodes::cluster(1).await;
    nodes.nodes[0].stop().await;
    let data_dir = nodes.dir.path().join("node-0");
    let key = nodes.dir.path().join("key");
    let cluster = Some("00000000000000aa".to_owned());
    let error = refused(Options { cluster, ..options(data_dir.clone(), key.clone()) }).await;
    assert_eq!(error.code(), "OTHER_CLUSTER");
    assert!(error.to_string().contains(&made.to_string()), "{error}");
    let own = Options { cluster: Some(made.to_string()), ..options(data_dir, key) };
    Service::start(own).await.expect("its own cluster is no obstacle");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_key_is_named_with_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let error = refused(options(dir.path().join("data"), dir.path().join("no-key"))).await;
    assert_eq!(error.code(), "SIGNING_KEY_UNREADABLE");
    assert!(error.hint().contains("cell-control keygen"), "{}", error.hint());
    assert!(!dir.path().join("data").exists(), "nothing was made");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_key_is_in_no_file_of_the_data_directory() {
    let (mut nodes, _) = Nodes::cluster(1).await;
    let client = nodes.client();
    crate::nodes::create_cell(&client, "c1").await;
    let tenant = crate::nodes::new_tenant("t-1", "c1");
    client.create_tenant(tenant, cell_client::WriteOptions::default()).await.unwrap();
    client.get_signed_mapping(&crate::nodes::tenant_id("t-1")).await.unwrap();
    nodes.nodes[0].stop().await;
    let key = key_file::read(&nodes.dir.path().join("key")).unwrap().to_bytes();
    let mut files = 0;
    let mut directories = vec![nodes.dir.path().join("node-0")];
    while let Some(directory) = directories.pop() {
        for entry in std::fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                directories.push(path);
                continue;
            }
            files += 1;
            let bytes = std::fs::read(&path).unwrap();
            assert!(!bytes.windows(32).any(|window| window == key), "the key is in {}", path.display());
        }
    }
    assert!(files > 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn health_says_serving_once_there_is_a_leader() {
    let nodes = Nodes::start(1).await;
    let endpoint = &nodes.nodes[0].endpoint();
    let says = |wanted| async move { health(endpoint, CONTROL_SERVICE).await.filter(|said| *said == wanted) };
    eventually("it does not serve yet", || says(ServingStatus::NotServing)).await;
    cell_client::cluster::initialize(&nodes.endpoints()).await.unwrap();
    eventually("it serves", || says(ServingStatus::Serving)).await;
    assert_eq!(health(endpoint, "").await, Some(ServingStatus::Serving));
}

fn program() -> std::process::Command {
    std::process::Command::new(env!("CARGO_BIN_EXE_cell-control"))
}

#[test]
fn keygen_prints_the_public_key_of_a_new_and_of_an_old_file_and_overwrites_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("key");
    let made = program().arg("keygen").arg("--out").arg(&file).output().unwrap();
    assert!(made.status.success(), "{made:?}");
    let printed: cell_trust::PublicKey = String::from_utf8(made.stdout).unwrap().trim().parse().unwrap();
    assert_eq!(key_file::read(&file).unwrap().public(), printed);

    let shown = program().arg("keygen").arg("--show").arg(&file).output().unwrap();
    assert_eq!(String::from_utf8(shown.stdout).unwrap(), format!("{printed}\n"), "{:?}", shown.status);

    let again = program().arg("keygen").arg("--out").arg(&file).output().unwrap();
    assert_eq!(again.status.code(), Some(1));
    let told = String::from_utf8(again.stderr).unwrap();
    assert!(told.contains("[SIGNING_KEY_EXISTS]") && told.contains("next: "), "{told}");
}

#[cfg(unix)]
#[test]
fn a_process_that_is_told_to_end_ends_in_order() {
    use std::io::{BufRead, BufReader, Read};
    let dir = tempfile::tempdir().unwrap();
    let key = dir.path().join("key");
    key_file::generate(&key).unwrap();
    let mut serve = program();
    serve.arg("serve").arg("--data-dir").arg(dir.path().join("data")).arg("--signing-key-file").arg(&key);
    serve.args(["--insecure-plaintext", "--listen", "127.0.0.1:0"]).env("CELL_LOG", "info").env("NO_COLOR", "1");
    let mut process = serve.stderr(std::process::Stdio::piped()).spawn().unwrap();
    let mut log = BufReader::new(process.stderr.take().unwrap());
    let mut line = String::new();
    while !line.contains("node started") {
        line.clear();
        assert!(log.read_line(&mut line).unwrap() > 0, "it ended before it started");
    }
    let pid = process.id().to_string();
    assert!(std::process::Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
    let mut rest = String::new();
    log.read_to_string(&mut rest).unwrap();
    assert!(process.wait().unwrap().success(), "{rest}");
    assert!(rest.contains("node stopping"), "{rest}");
}

/// A node as a process of its own.
#[cfg(target_os = "linux")]
struct Serving {
    process: std::process::Child,
    /// What it says from now on,
    log: std::io::BufReader<std::process::ChildStderr>,
    /// and what it has said until it had started.
    said: String,
    address: String,
}

#[cfg(target_os = "linux")]
fn serving(dir: &std::path::Path) -> Serving {
    use std::io::{BufRead, BufReader};
    let key = dir.join("key");
    if !key.exists() {
        key_file::generate(&key).unwrap();
    }
    let mut serve = program();
    serve.arg("serve").arg("--data-dir").arg(dir.join("data")).arg("--signing-key-file").arg(&key);
    serve.args(["--insecure-plaintext", "--listen", "127.0.0.1:0"]).env("CELL_LOG", "info").env("NO_COLOR", "1");
    let mut process = serve.stderr(std::process::Stdio::piped()).spawn().unwrap();
    let mut log = BufReader::new(process.stderr.take().unwrap());
    let (mut said, mut line) = (String::new(), String::new());
    while !line.contains("node started") {
        line.clear();
        assert!(log.read_line(&mut line).unwrap() > 0, "it ended before it started");
        said.push_str(&line);
    }
    let port = line.split("127.0.0.1:").nth(1).unwrap();
    let port: String = port.chars().take_while(char::is_ascii_digit).collect();
    Serving { process, log, said, address: format!("127.0.0.1:{port}") }
}

#[cfg(target_os = "linux")]
impl Serving {
    fn end(mut self) {
        let pid = self.process.id().to_string();
        assert!(std::process::Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
        assert!(self.process.wait().unwrap().success(), "{}", self.said);
    }
}

#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_is_started_at_another_address_than_the_members_know_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let first = serving(dir.path());
    let known = first.address.clone();
    cell_client::cluster::initialize(std::slice::from_ref(&known)).await.unwrap();
    let client = cell_client::ControlClient::new(vec![known.clone()], cell_client::ClientOptions::default());
    crate::nodes::create_cell(&client, "c1").await;
    assert!(!first.said.contains("MEMBER_ELSEWHERE"), "{}", first.said);
    first.end();
    // So that it does not get the same port again. (Somebody else may have it by now.)
    let _taken = std::net::TcpListener::bind(&known).ok();
    let second = serving(dir.path());
    let told = second.said.lines().find(|line| line.contains("MEMBER_ELSEWHERE"));
    assert!(told.is_some_and(|line| line.contains(&known) && line.contains(&second.address)), "{}", second.said);
    second.end();
}

#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread")]
async fn a_sync_that_fails_ends_the_process_with_its_code_and_no_panic() {
    use std::io::Read;
    use std::process::{Command, Stdio};
    let silent = |command: &mut Command| command.stdout(Stdio::null()).stderr(Stdio::null()).status();
    let traces = silent(Command::new("strace").args(["-q", "-o", "/dev/null", "true"]));
    if !traces.is_ok_and(|status| status.success()) {
        // `.ci/install strace` brings it; without it a failing sync cannot be had.
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let Serving { mut process, mut log, address, .. } = serving(dir.path());
    let reading = std::thread::spawn(move || {
        let mut rest = String::new();
        log.read_to_string(&mut rest).unwrap();
        rest
    });
    cell_client::cluster::initialize(std::slice::from_ref(&address)).await.unwrap();
    let client = cell_client::ControlClient::new(vec![address], cell_client::ClientOptions::default());
    crate::nodes::create_cell(&client, "c1").await;
    let pid = process.id();
    let mut tracer = Command::new("strace");
    tracer.args(["-f", "-q", "-p", &pid.to_string(), "-o", "/dev/null", "-e", "trace=fsync,fdatasync"]);
    tracer.args(["-e", "inject=fsync,fdatasync:error=EIO"]).stdout(Stdio::null()).stderr(Stdio::null());
    let mut tracer = tracer.spawn().unwrap();
    eventually("strace holds it", || async {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        (!status.contains("TracerPid:\t0\n")).then_some(())
    })
    .await;
    let impatient = cell_client::ClientOptions {
        deadline: std::time::Duration::from_secs(2),
        ..cell_client::ClientOptions::default()
    };
    let last = cell_client::ControlClient::new(client.endpoints().to_vec(), impatient);
    last.create_cell(crate::nodes::new_cell("c2"), cell_client::WriteOptions::default())
        .await
        .expect_err("it is not on the disk");
    let status = eventually("it ends", || {
        let ended = process.try_wait().unwrap();
        async move { ended }
    })
    .await;
    tracer.wait().unwrap();
    let log = reading.join().unwrap();
    assert_eq!(status.code(), Some(1), "{log}");
    assert!(log.contains("[STORE_FAILED]") && log.contains("next: "), "{log}");
    assert!(!log.contains("panicked"), "{log}");
}

#[cfg(unix)]
#[tokio::test(flavor = "multi_thread")]
async fn the_key_is_in_no_line_of_the_log_however_much_is_logged() {
    let dir = tempfile::tempdir().unwrap();
    let (key, log) = (dir.path().join("key"), dir.path().join("log"));
    key_file::generate(&key).unwrap();
    let mut serve = program();
    serve.arg("serve").arg("--data-dir").arg(dir.path().join("data")).arg("--signing-key-file").arg(&key);
    serve.args(["--insecure-plaintext", "--listen", "127.0.0.1:0"]).env("CELL_LOG", "trace").env("NO_COLOR", "1");
    let mut process = serve.stderr(std::fs::File::create(&log).unwrap()).spawn().unwrap();
    let said = || String::from_utf8_lossy(&std::fs::read(&log).unwrap()).into_owned();
    let address = eventually("it starts", || async {
        let said = said();
        let started = said.lines().find(|line| line.contains("node started"))?;
        let port: String = started.split("127.0.0.1:").nth(1)?.chars().take_while(char::is_ascii_digit).collect();
        Some(format!("127.0.0.1:{port}"))
    })
    .await;
    cell_client::cluster::initialize(std::slice::from_ref(&address)).await.unwrap();
    let client = cell_client::ControlClient::new(vec![address], cell_client::ClientOptions::default());
    crate::nodes::create_cell(&client, "c1").await;
    let tenant = crate::nodes::new_tenant("t-1", "c1");
    client.create_tenant(tenant, cell_client::WriteOptions::default()).await.unwrap();
    client.get_signed_mapping(&crate::nodes::tenant_id("t-1")).await.unwrap();
    let pid = process.id().to_string();
    assert!(std::process::Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
    let ended = eventually("it ends", || {
        let ended = process.try_wait().unwrap();
        async move { ended }
    })
    .await;
    let (said, bytes) = (said(), key_file::read(&key).unwrap().to_bytes());
    assert!(ended.success() && said.contains("DEBUG") && said.contains("node stopping"));
    let hex = std::fs::read_to_string(&key).unwrap();
    let listed = format!("{bytes:?}");
    for secret in [hex.trim(), listed.trim_matches(['[', ']'])] {
        assert!(secret.len() >= 64 && !said.contains(secret), "the key is in the log");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn reflection_lists_the_services() {
    use tonic_reflection::pb::v1::ServerReflectionRequest;
    use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
    use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
    use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;

    let nodes = Nodes::start(1).await;
    let endpoint = format!("http://{}", nodes.nodes[0].endpoint());
    let channel = tonic::transport::Endpoint::from_shared(endpoint).unwrap().connect_lazy();
    let list = MessageRequest::ListServices(String::new());
    let request = ServerReflectionRequest { host: String::new(), message_request: Some(list) };
    let asked = futures::stream::iter([request]);
    let mut answers =
        ServerReflectionClient::new(channel).server_reflection_info(asked).await.unwrap().into_inner();
    let answer = answers.message().await.unwrap().unwrap().message_response.unwrap();
    let MessageResponse::ListServicesResponse(listed) = answer else { panic!("{answer:?}") };
    let names: Vec<String> = listed.service.into_iter().map(|service| service.name).collect();
    for service in ["ControlService", "ClusterService", "RaftService"] {
        assert!(names.contains(&format!("cellway.v1.{service}")), "{names:?}");
    }
}
