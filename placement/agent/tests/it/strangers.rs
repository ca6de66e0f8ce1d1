//! Who may call an agent.

use std::path::PathBuf;
use std::time::Duration;

use cell_agent::{Agent, AgentOptions};
use cell_client::wire::agent_service_client::AgentServiceClient;
use cell_client::wire::{FollowRequest, FollowStart, GateHello, GateMessage, follow_request, gate_message};
use cell_client::{AgentPool, Identity, Link, Server, StepError};
use cell_control::Authority;
use cell_model::CellId;
use cell_trust::Principal;
use tokio_util::sync::CancellationToken;
use tonic::Code;
use tonic::transport::Channel;

struct House {
    directory: tempfile::TempDir,
    authority: Authority,
}

impl House {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let authority = Authority::create(&directory.path().join("ca")).unwrap();
        Self { directory, authority }
    }

    fn issue(&self, principal: &str) -> PathBuf {
        let out = self.directory.path().join(principal.replace('/', "-"));
        let principal: Principal = principal.parse().unwrap();
        self.authority.issue_once(&principal, Duration::from_secs(3_600), &out).unwrap();
        out
    }

    fn link(&self, principal: &str) -> Link {
        Link::Mutual(Identity::load(&self.issue(principal)).unwrap())
    }

    fn options(&self, identity: Option<PathBuf>) -> AgentOptions {
        let directory = self.directory.path().join("data");
        AgentOptions { identity, ..AgentOptions::new(CellId::new("c1").unwrap(), directory, "127.0.0.1:0") }
    }

    fn client(&self, principal: &str, agent: &str) -> AgentServiceClient<Channel> {
        AgentServiceClient::new(self.link(principal).endpoint(agent, Server::Agent).unwrap().connect_lazy())
    }
}

#[tokio::test]
async fn an_agent_lets_in_its_own_gates_other_cells_and_control_nodes_each_for_their_own() {
    let house = House::new();
    let agent = Agent::open(house.options(Some(house.issue("agent/c1")))).await.unwrap();
    let (address, stop) = (agent.address().to_string(), CancellationToken::new());
    let running = tokio::spawn(agent.run(stop.clone()));

    let looks = async |principal: &str| {
        let options = cell_client::AgentOptions { link: house.link(principal), ..Default::default() };
        AgentPool::new(options).describe(&address, None).await
    };
    assert_eq!(looks("viewer/v").await.unwrap().cell, "c1");
    let refused = looks("router/r1").await.unwrap_err();
    assert!(
        matches!(&refused, StepError::Unknown { reason, .. } if reason.contains("may not call")),
        "{refused:?}"
    );

    let attach = async |principal: &str| {
        let hello = GateHello { instance: "i".into(), address: "127.0.0.1:1".into() };
        let hello = GateMessage { message: Some(gate_message::Message::Hello(hello)) };
        house.client(principal, &address).attach(tokio_stream::once(hello)).await.map(drop)
    };
    attach("agent/c1").await.unwrap();
    assert_eq!(attach("agent/c2").await.unwrap_err().code(), Code::PermissionDenied, "another cell's gate");
    assert_eq!(attach("admin/root").await.unwrap_err().code(), Code::PermissionDenied);

    let start = FollowStart { tenant: "t".into(), cell: "c3".into(), ..FollowStart::default() };
    let start = FollowRequest { request: Some(follow_request::Request::Start(start)) };
    let follow = house.client("agent/c2", &address).follow(tokio_stream::once(start)).await.map(drop);
    assert_eq!(follow.unwrap_err().code(), Code::PermissionDenied, "in a third cell's name");

    let plain = AgentPool::new(cell_client::AgentOptions::default());
    assert!(plain.describe(&address, None).await.is_err());
    stop.cancel();
    running.await.unwrap().unwrap();
}

#[tokio::test]
async fn an_agent_that_may_not_be_what_it_says_does_not_start() {
    let house = House::new();
    let code = async |options| Agent::open(options).await.expect_err("it must not start").code();
    assert_eq!(code(house.options(None)).await, "IDENTITY_REQUIRED");
    assert_eq!(code(house.options(Some(house.issue("router/r1")))).await, "IDENTITY_OTHER_ROLE");
    let mut everywhere = house.options(None);
    everywhere.insecure_plaintext = true;
    everywhere.listen = "0.0.0.0:0".into();
    assert_eq!(code(everywhere).await, "PLAINTEXT_REFUSED");
}
