//! Who gets in, and what he may.

use std::path::PathBuf;
use std::time::Duration;

use cell_client::wire::control_service_client::ControlServiceClient;
use cell_client::wire::raft_service_client::RaftServiceClient;
use cell_client::{ClientError, ClientOptions, ControlClient, Identity, Link, Server, WriteOptions, cluster, wire};
use cell_control::{Authority, Service, key_file};
use cell_model::{CellState, Limits, RequestId};
use cell_trust::Principal;
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;
use tonic::Code;

use crate::nodes::{PATIENCE, cell_id, create_cell, new_cell, new_tenant, options, tenant_id};

const DAY: Duration = Duration::from_secs(24 * 3_600);

/// A cluster of one node that nobody enters without a certificate.
struct House {
    directory: TempDir,
    authority: Authority,
    endpoint: String,
    stop: CancellationToken,
    running: tokio::task::JoinHandle<Result<(), cell_control::Error>>,
}

impl House {
    async fn open() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let authority = Authority::create(&directory.path().join("ca")).unwrap();
        let key = directory.path().join("key");
        key_file::generate(&key).unwrap();
        let node = issue(&authority, &directory, "control/node-1");
        let mut said = options(directory.path().join("data"), key);
        said.insecure_plaintext = false;
        said.identity = Some(node);
        let service = Service::start(said).await.expect("the node starts");
        let endpoint = service.handle().address().to_owned();
        let stop = CancellationToken::new();
        let running = tokio::spawn(service.run(stop.clone()));
        let house = Self { directory, authority, endpoint, stop, running };
        let options = cluster::InitializeOptions { link: house.link("admin/root"), ..Default::default() };
        cluster::initialize_with(std::slice::from_ref(&house.endpoint), options).await.expect("a cluster");
        house
    }

    fn link(&self, principal: &str) -> Link {
        let out = issue(&self.authority, &self.directory, principal);
        Link::Mutual(Identity::load(&out).unwrap())
    }

    fn client_over(&self, link: Link, patience: Duration) -> ControlClient {
        let options = ClientOptions { deadline: patience, link, ..ClientOptions::default() };
        ControlClient::new(vec![self.endpoint.clone()], options)
    }

    fn client(&self, principal: &str) -> ControlClient {
        self.client_over(self.link(principal), PATIENCE)
    }

    async fn close(self) {
        self.stop.cancel();
        self.running.await.unwrap().unwrap();
    }
}

fn issue(authority: &Authority, directory: &TempDir, principal: &str) -> PathBuf {
    let out = directory.path().join(principal.replace('/', "-"));
    let principal: Principal = principal.parse().unwrap();
    authority.issue_once(&principal, DAY, &out).unwrap();
    out
}

fn code(refused: &ClientError) -> &str {
    refused.code()
}

#[tokio::test(flavor = "multi_thread")]
async fn each_role_may_what_the_table_says_and_the_trail_names_who_did_it() {
    let house = House::open().await;
    let (viewer, operator, admin) =
        (house.client("viewer/v"), house.client("operator/alice"), house.client("admin/root"));
    create_cell(&admin, "c1").await;
    let denied = operator.create_cell(new_cell("c2"), WriteOptions::default()).await.unwrap_err();
    assert_eq!(code(&denied), "ROLE_DENIED");
    assert!(denied.hint().contains("admin"), "{denied:?}");
    let asked = WriteOptions { request_id: Some(RequestId(7)), ..WriteOptions::default() };
    operator.create_tenant(new_tenant("t-1", "c1"), asked).await.unwrap();
    operator.set_cell_state(&cell_id("c1"), CellState::Cordoned, WriteOptions::default()).await.unwrap();
    let denied = operator.set_limits(Limits::default(), WriteOptions::default()).await.unwrap_err();
    assert_eq!(code(&denied), "ROLE_DENIED");

    assert_eq!(viewer.get_tenant(&tenant_id("t-1")).await.unwrap().life, "provisioning");
    let denied = viewer.delete_tenant(&tenant_id("t-1"), WriteOptions::default()).await.unwrap_err();
    assert_eq!(code(&denied), "ROLE_DENIED");

    let router = house.client("router/r1");
    assert!(router.confirm_revision(1, None).await.is_ok());
    for denied in [
        router.get_tenant(&tenant_id("t-1")).await.map(drop).unwrap_err(),
        router.create_tenant(new_tenant("t-2", "c1"), WriteOptions::default()).await.map(drop).unwrap_err(),
        house.client("control/other").list_audit(0, None).await.map(drop).unwrap_err(),
    ] {
        assert_eq!(code(&denied), "ROLE_DENIED");
    }

    let trail = viewer.list_audit(0, None).await.unwrap();
    let told: Vec<(&str, &str, &str)> = trail
        .entries
        .iter()
        .filter(|entry| entry.action != "init-cluster")
        .map(|entry| (entry.actor.as_str(), entry.action.as_str(), entry.subject.as_str()))
        .collect();
    assert_eq!(
        told,
        [
            ("admin/root", "create-cell", "cell/c1"),
            ("operator/alice", "create-tenant", "tenant/t-1"),
            ("operator/alice", "set-cell-state", "cell/c1"),
        ]
    );
    assert!(trail.entries.iter().any(|entry| entry.request_id == Some(RequestId(7))));
    house.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cell_speaks_for_itself_only() {
    let house = House::open().await;
    let admin = house.client("admin/root");
    create_cell(&admin, "c1").await;
    create_cell(&admin, "c2").await;
    let report = |cell: &str| wire::ReportCellRequest {
        cell: cell.into(),
        generation: 1,
        gates: vec!["127.0.0.1:9001".into()],
        agent: "127.0.0.1:9002".into(),
        partial: false,
    };
    let agent = house.client("agent/c1");
    agent.report_cell(report("c1")).await.unwrap();
    assert_eq!(code(&agent.report_cell(report("c2")).await.unwrap_err()), "OTHER_CELLS_NAME");
    assert_eq!(code(&admin.report_cell(report("c1")).await.unwrap_err()), "ROLE_DENIED");
    house.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_gets_in_without_a_certificate_of_this_authority() {
    let house = House::open().await;
    let elsewhere = tempfile::tempdir().unwrap();
    let stranger = Authority::create(&elsewhere.path().join("ca")).unwrap();
    let out = elsewhere.path().join("admin");
    stranger.issue(&"admin/root".parse().unwrap(), DAY, &out).unwrap();
    // The stranger does not believe the node, and the node would not believe the stranger.
    let foreign = house.client_over(Link::Mutual(Identity::load(&out).unwrap()), PATIENCE);
    let refused = foreign.limits().await.unwrap_err();
    assert_eq!(code(&refused), "TLS_REFUSED", "{refused:?}");
    // A client that believes the node, with a certificate of somebody else.
    let ours = issue(&house.authority, &house.directory, "admin/root");
    std::fs::copy(ours.join("ca.crt"), out.join("ca.crt")).unwrap();
    let forged = house.client_over(Link::Mutual(Identity::load(&out).unwrap()), PATIENCE);
    let refused = forged.limits().await.unwrap_err();
    assert_eq!(code(&refused), "TLS_REFUSED", "{refused:?}");
    let plain = house.client_over(Link::Plaintext, Duration::from_millis(300));
    for refused in [
        plain.limits().await.unwrap_err(),
        plain.set_limits(Limits::default(), WriteOptions::default()).await.unwrap_err(),
    ] {
        // Why a node ends a connection is lost where the connection is reset.
        assert!(matches!(code(&refused), "TLS_REFUSED" | "UNAVAILABLE" | "OUTCOME_UNKNOWN"), "{refused:?}");
        assert!(refused.to_string().contains("wants TLS with certificates"), "{refused}");
    }
    let unreachable = cluster::status(&house.endpoint, PATIENCE, &Link::Plaintext).await.unwrap_err();
    assert!(unreachable.to_string().contains("wants TLS with certificates"), "{unreachable}");
    assert!(unreachable.hint().contains("leave out --insecure-plaintext"), "{}", unreachable.hint());
    // A router's certificate is not a server's: nobody takes it for a control node.
    let as_agent = house.link("viewer/v").endpoint(&house.endpoint, Server::Agent).unwrap();
    assert!(as_agent.connect().await.is_err(), "a control node is no agent");
    house.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn raft_is_for_control_nodes_of_the_same_cluster() {
    let house = House::open().await;
    let call = async |principal: &str, message: wire::RaftMessage| {
        let channel = house.link(principal).endpoint(&house.endpoint, Server::Control).unwrap().connect_lazy();
        RaftServiceClient::new(channel).append(message).await.unwrap_err()
    };
    let message =
        || wire::RaftMessage { cluster_id: 1, payload: vec![1, 2, 3].into(), ..wire::RaftMessage::default() };
    assert_eq!(call("admin/root", message()).await.code(), Code::PermissionDenied);
    let other = call("control/node-2", message()).await;
    assert!(matches!(other.code(), Code::FailedPrecondition | Code::InvalidArgument), "{other:?}");
    house.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_makes_no_sense_is_refused_and_changes_nothing() {
    let house = House::open().await;
    let admin = house.client("admin/root");
    create_cell(&admin, "c1").await;
    let before = admin.confirm_revision(1, None).await.unwrap().revision;
    let channel = house.link("admin/root").endpoint(&house.endpoint, Server::Control).unwrap().connect_lazy();
    let mut raw = ControlServiceClient::new(channel.clone()).max_encoding_message_size(usize::MAX);
    let mut huge = wire::CreateCellRequest::default();
    huge.cell.get_or_insert_default().gates = vec!["x".repeat(1 << 20); 6];
    let oversized = raw.create_cell(huge).await.unwrap_err();
    assert_eq!(
        (oversized.code(), cell_client::code_of(&oversized).as_deref()),
        (Code::InvalidArgument, Some("COMMAND_TOO_LARGE"))
    );
    let nothing = raw.create_cell(wire::CreateCellRequest::default()).await.unwrap_err();
    assert_eq!(nothing.code(), Code::InvalidArgument);
    for bad in [vec![1_u8; 15], vec![1; 17], vec![1; 4_096]] {
        let options = Some(wire::WriteOptions { request_id: bad.into(), expected_revision: 0 });
        let request = wire::DeleteTenantRequest { tenant: "t-1".into(), options };
        assert_eq!(raw.delete_tenant(request).await.unwrap_err().code(), Code::InvalidArgument);
    }
    for bad in ["", "UPPER", "a/b", "ä", &"x".repeat(64)] {
        let request = wire::GetRequest { id: bad.into(), ..wire::GetRequest::default() };
        assert_eq!(raw.get_tenant(request).await.unwrap_err().code(), Code::InvalidArgument, "{bad}");
    }
    let state = wire::SetCellStateRequest { cell: "c1".into(), state: 77, options: None };
    assert_eq!(raw.set_cell_state(state).await.unwrap_err().code(), Code::InvalidArgument);
    for router in [
        wire::RouterReport::default(),
        wire::RouterReport { name: "x".repeat(64), ..Default::default() },
        wire::RouterReport { name: "a b".into(), ..Default::default() },
    ] {
        let ping = wire::ConfirmRevisionRequest { nonce: 1, router: Some(router) };
        assert_eq!(raw.confirm_revision(ping).await.unwrap_err().code(), Code::InvalidArgument);
    }
    assert_eq!(admin.confirm_revision(2, None).await.unwrap().revision, before, "nothing has changed");
    house.close().await;
}

#[tokio::test]
async fn a_node_that_may_not_be_what_it_says_does_not_start() {
    let directory = tempfile::tempdir().unwrap();
    let authority = Authority::create(&directory.path().join("ca")).unwrap();
    let key = directory.path().join("key");
    key_file::generate(&key).unwrap();
    let said = || options(directory.path().join("data"), key.clone());
    let code = async |options| Service::start(options).await.expect_err("it must not start").code();

    let nameless = cell_control::Options { insecure_plaintext: false, ..said() };
    assert_eq!(code(nameless).await, "IDENTITY_REQUIRED");
    let everywhere = cell_control::Options { listen: "0.0.0.0:0".parse().unwrap(), ..said() };
    assert_eq!(code(everywhere).await, "PLAINTEXT_REFUSED");
    let viewer = issue(&authority, &directory, "viewer/v");
    let other = cell_control::Options { identity: Some(viewer), ..said() };
    assert_eq!(code(other).await, "IDENTITY_OTHER_ROLE");
    let nowhere = cell_control::Options { identity: Some(directory.path().join("nowhere")), ..said() };
    assert_eq!(code(nowhere).await, "IDENTITY_UNREADABLE");
}
