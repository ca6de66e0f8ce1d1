//! Starting and stopping, and what is said where it cannot be.

use cell_control::{Error, Options, Service, key_file};
use tonic_health::pb::health_client::HealthClient;
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus};

use crate::nodes::{Nodes, eventually, options};

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
    let endpoint = format!("http://{}", nodes.nodes[0].endpoint());
    let channel = tonic::transport::Endpoint::from_shared(endpoint).unwrap().connect_lazy();
    let status = |service: &'static str| {
        let mut client = HealthClient::new(channel.clone());
        async move {
            let request = HealthCheckRequest { service: service.into() };
            let answer = client.check(request).await.ok()?;
            ServingStatus::try_from(answer.into_inner().status).ok()
        }
    };
    let control = "cellway.v1.ControlService";
    let says = |wanted| async move { status(control).await.filter(|said| *said == wanted) };
    eventually("it does not serve yet", || says(ServingStatus::NotServing)).await;
    cell_client::cluster::initialize(&nodes.endpoints()).await.unwrap();
    eventually("it serves", || says(ServingStatus::Serving)).await;
    assert_eq!(status("").await, Some(ServingStatus::Serving));
}
