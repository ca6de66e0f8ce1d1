//! The public API on three nodes.

use cell_client::{ClientError, ControlClient, ListOptions, WriteOptions, wire};
use cell_control::Liveness;
use cell_model::{
    CellState, Command, Envelope, Event, Limits, MappingState, MoveOptions, NewTenant, RequestId, Revision, Uid,
    UnixMillis,
};

use crate::nodes::{Nodes, cell_id, create_cell, eventually, new_cell, new_tenant, tenant_id};

fn named(id: u128) -> WriteOptions {
    WriteOptions { request_id: Some(RequestId(id)), ..WriteOptions::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn cells_and_tenants_are_made_read_and_listed() {
    let (nodes, cluster) = Nodes::cluster(3).await;
    let client = nodes.client();
    let cell = create_cell(&client, "c1").await;
    assert_eq!((cell.state, cell.region.as_str()), (CellState::Active, "here"));

    let tenant = client.create_tenant(new_tenant("t-1", "c1"), WriteOptions::default()).await.unwrap();
    assert_eq!(tenant.life, "provisioning");
    let read = client.get_tenant(&tenant_id("t-1")).await.unwrap();
    assert_eq!(read.mapping, tenant.mapping);

    let signed = client.get_signed_mapping(&tenant_id("t-1")).await.unwrap();
    let routed = signed.verify(&nodes.trusted()).expect("signed by a node of this cluster");
    assert_eq!((routed.cluster, routed.mapping.state), (cluster, MappingState::Provisioning));
    assert_eq!(routed.owner_gates, cell.gates);

    for number in 2..=7 {
        client.create_tenant(new_tenant(&format!("t-{number}"), "c1"), WriteOptions::default()).await.unwrap();
    }
    let (mut seen, mut options) = (Vec::new(), ListOptions { page_size: 3, ..ListOptions::default() });
    loop {
        let page = client.list_tenants(options.clone()).await.unwrap();
        assert!(page.items.len() <= 3);
        seen.extend(page.items.into_iter().filter_map(|tenant| tenant.mapping).map(|mapping| mapping.tenant));
        if page.next_page_token.is_empty() {
            break;
        }
        options.page_token = page.next_page_token;
    }
    assert_eq!(seen, ["t-1", "t-2", "t-3", "t-4", "t-5", "t-6", "t-7"]);
    let elsewhere = ListOptions { filter: "c9".into(), ..ListOptions::default() };
    assert_eq!(client.list_tenants(elsewhere).await.unwrap().items, []);
    assert_eq!(client.list_moves(ListOptions::default()).await.unwrap().items, []);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retried_request_runs_once_and_gets_the_first_answer() {
    let (nodes, _) = Nodes::cluster(3).await;
    let client = nodes.client();
    let first = client.create_cell(new_cell("c1"), named(7)).await.unwrap();
    let again = client.create_cell(new_cell("c1"), named(7)).await.unwrap();
    assert_eq!(again, first);
    let other = client.create_cell(new_cell("c1"), named(8)).await.unwrap_err();
    assert_eq!(other.code(), "CELL_EXISTS");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_id_is_of_one_command_and_another_one_under_it_is_refused() {
    let (nodes, _) = Nodes::cluster(1).await;
    let client = nodes.client();
    for cell in ["c1", "c2"] {
        create_cell(&client, cell).await;
    }
    let cordon = async |cell: &str| client.set_cell_state(&cell_id(cell), CellState::Cordoned, named(7)).await;
    let first = cordon("c1").await.unwrap();
    assert_eq!(cordon("c2").await.unwrap_err().code(), "REQUEST_ID_REUSED");
    assert_eq!(client.get_cell(&cell_id("c2")).await.unwrap().state, CellState::Active);
    assert_eq!(cordon("c1").await.unwrap(), first);
    let other_revision = WriteOptions { expected_revision: Some(first.revision), ..named(7) };
    let refused = client.set_cell_state(&cell_id("c1"), CellState::Cordoned, other_revision).await.unwrap_err();
    assert_eq!(refused.code(), "REQUEST_ID_REUSED");
    let told = client.list_audit(0, None).await.unwrap();
    let reused = told.entries.iter().filter(|entry| entry.outcome == "REQUEST_ID_REUSED");
    assert_eq!(reused.map(|entry| entry.subject.as_str()).collect::<Vec<_>>(), ["cell/c2", "cell/c1"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_whose_best_cell_has_changed_meanwhile_is_still_the_same_request() {
    let (nodes, _) = Nodes::cluster(1).await;
    let client = nodes.client();
    for cell in ["c1", "c2"] {
        create_cell(&client, cell).await;
    }
    let anywhere = |id: &str| NewTenant { cell: None, ..new_tenant(id, "c1") };
    let first = client.create_tenant(anywhere("t-1"), named(7)).await.unwrap();
    for number in 2..6 {
        client.create_tenant(anywhere(&format!("t-{number}")), WriteOptions::default()).await.unwrap();
    }
    let again = client.create_tenant(anywhere("t-1"), named(7)).await.unwrap();
    assert_eq!(again.mapping, first.mapping);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retry_is_known_to_the_next_leader_too() {
    let (mut nodes, _) = Nodes::cluster(3).await;
    let client = nodes.client();
    let first = client.create_cell(new_cell("c1"), named(7)).await.unwrap();
    let leader = nodes.leader().await;
    nodes.nodes[leader].stop().await;
    assert_eq!(client.create_cell(new_cell("c1"), named(7)).await.unwrap(), first);
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_carry_their_code_and_what_to_do_next() {
    let (nodes, _) = Nodes::cluster(1).await;
    let client = nodes.client();
    let unknown = client.get_tenant(&tenant_id("t-9")).await.unwrap_err();
    assert_eq!(
        unknown,
        ClientError::Rejected {
            code: "TENANT_UNKNOWN".into(),
            message: "there is no tenant t-9".into(),
            hint: "`cellctl get tenants` lists what there is".into(),
        }
    );
    let on_nothing = client.create_tenant(new_tenant("t-1", "c9"), WriteOptions::default()).await.unwrap_err();
    assert_eq!(on_nothing.code(), "CELL_UNKNOWN");
    let mut crooked = new_cell("c1");
    crooked.agent = "http://nowhere".into();
    let crooked = client.create_cell(crooked, WriteOptions::default()).await.unwrap_err();
    assert!(
        matches!(&crooked, ClientError::Invalid { message, .. } if message.starts_with("agent:")),
        "{crooked:?}"
    );
    let unknown_list = ListOptions { page_token: "x".into(), ..ListOptions::default() };
    assert!(matches!(client.list_cells(unknown_list).await, Err(ClientError::Invalid { .. })));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_against_a_record_that_has_changed_is_refused() {
    let (nodes, _) = Nodes::cluster(1).await;
    let client = nodes.client();
    let cell = create_cell(&client, "c1").await;
    let expecting = |revision| WriteOptions { expected_revision: Some(revision), ..WriteOptions::default() };
    let cordoned = client.set_cell_state(&cell.id, CellState::Cordoned, expecting(cell.revision)).await.unwrap();
    assert_eq!(cordoned.state, CellState::Cordoned);
    let stale = client.set_cell_state(&cell.id, CellState::Active, expecting(cell.revision)).await.unwrap_err();
    assert_eq!(stale.code(), "STALE_REVISION");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_message_or_too_large_a_one_is_refused_with_a_code() {
    let (nodes, _) = Nodes::cluster(1).await;
    let endpoint = format!("http://{}", nodes.nodes[0].endpoint());
    let channel = tonic::transport::Endpoint::from_shared(endpoint).unwrap().connect_lazy();
    let call = |path: &'static str, bytes: Vec<u8>| {
        let mut grpc = tonic::client::Grpc::new(channel.clone());
        async move {
            grpc.ready().await.unwrap();
            let codec = cell_protos::Encoded::<wire::TenantResponse>::default();
            let path = tonic::codegen::http::uri::PathAndQuery::from_static(path);
            grpc.unary(tonic::Request::new(prost::bytes::Bytes::from(bytes)), path, codec).await.unwrap_err()
        }
    };
    for (path, bytes, code) in [
        ("/cellway.v1.ControlService/CreateTenant", vec![0xff; 9], "INVALID_ARGUMENT"),
        ("/cellway.v1.ControlService/Watch", vec![0xff; 9], "INVALID_ARGUMENT"),
        ("/cellway.v1.StoreService/ChangeMembers", vec![0xff; 9], "INVALID_ARGUMENT"),
        ("/cellway.v1.ClusterService/Claim", vec![0xff; 9], "INVALID_ARGUMENT"),
        ("/cellway.v1.ControlService/CreateTenant", vec![0; 5 << 20], "COMMAND_TOO_LARGE"),
    ] {
        let refused = call(path, bytes).await;
        assert_eq!(refused.code(), tonic::Code::InvalidArgument, "{path}: {refused}");
        assert_eq!(cell_client::code_of(&refused).as_deref(), Some(code), "{path}: {refused}");
        let hint = refused.metadata().get(cell_client::trailer::HINT).unwrap();
        assert!(!hint.is_empty(), "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_are_kept() {
    let (nodes, _) = Nodes::cluster(1).await;
    let client = nodes.client();
    let wanted = Limits { moves_total: 3, moves_per_cell: 2, moves_queued: 9 };
    let revision = client.set_limits(wanted, WriteOptions::default()).await.unwrap();
    assert_eq!(client.limits().await.unwrap(), wanted);
    let confirmed = client.confirm_revision(41, None).await.unwrap();
    assert_eq!(confirmed.nonce, 41);
    assert!(confirmed.revision >= revision);
    // Whoever has read them changes what he has read.
    let expecting = |revision| WriteOptions { expected_revision: Some(revision), ..WriteOptions::default() };
    assert_eq!(client.limits_with_revision().await.unwrap(), (wanted, revision));
    let more = Limits { moves_total: 4, ..wanted };
    let later = client.set_limits(more, expecting(revision)).await.unwrap();
    let refused = client.set_limits(wanted, expecting(revision)).await.unwrap_err();
    assert_eq!((refused.code(), later > revision), ("STALE_REVISION", true), "{refused}");
    assert_eq!(client.limits().await.unwrap(), more);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_report_is_replicated_only_where_something_changed() {
    let (nodes, cluster) = Nodes::cluster(3).await;
    let client = nodes.client();
    create_cell(&client, "c1").await;
    let report = wire::ReportCellRequest {
        cell: "c1".into(),
        generation: 5,
        gates: vec!["127.0.0.1:9001".into()],
        agent: "127.0.0.1:9002".into(),
        partial: false,
    };
    let first = client.report_cell(report.clone()).await.unwrap();
    assert_eq!(first.cluster_id, cluster.0);
    let key = cell_trust::PublicKey::from_bytes(&first.trusted_keys[0]).unwrap();
    assert_eq!(key, nodes.nodes[0].handle().public_key());
    let again = client.report_cell(report.clone()).await.unwrap();
    assert_eq!(again.revision, first.revision);
    let record = client.get_cell(&cell_id("c1")).await.unwrap();
    assert_eq!((record.generation.get(), record.agent.as_str()), (5, "127.0.0.1:9002"));

    let older = client.report_cell(wire::ReportCellRequest { generation: 4, ..report.clone() }).await.unwrap_err();
    assert_eq!(older.code(), "STALE_GENERATION");
    let nobody = client.report_cell(wire::ReportCellRequest { cell: "c9".into(), ..report }).await.unwrap_err();
    assert_eq!(nobody.code(), "CELL_UNKNOWN");
    let leader = nodes.leader().await;
    assert!(nodes.nodes[leader].handle().liveness().silence(&cell_id("c1")).is_some());
    assert!(nodes.nodes[leader].handle().liveness().silence(&cell_id("c9")).is_none());
}

/// A tenant that its cell has granted, as far as the store knows.
async fn live_tenant(nodes: &Nodes, id: &str, cell: &str) {
    let tenant = nodes.client().create_tenant(new_tenant(id, cell), WriteOptions::default()).await.unwrap();
    let uid = Uid(tenant.mapping.unwrap().uid);
    let granted = Command::Record { tenant: tenant_id(id), uid, move_id: None, leg: None, event: Event::Granted };
    let leader = nodes.leader().await;
    let reply = nodes.nodes[leader].handle().store().submit(Envelope::new(UnixMillis(1), granted)).await;
    reply.unwrap().result.expect("the grant is recorded");
}

async fn hear_of(client: &ControlClient, cell: &str) {
    let agent = "127.0.0.1:1".into();
    let report =
        wire::ReportCellRequest { cell: cell.into(), generation: 1, gates: Vec::new(), agent, partial: false };
    client.report_cell(report).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_move_to_a_cell_that_nobody_hears_of_is_refused() {
    let (nodes, _) = Nodes::cluster(1).await;
    let client = nodes.client();
    for cell in ["c1", "c2", "c3"] {
        create_cell(&client, cell).await;
    }
    live_tenant(&nodes, "t-1", "c1").await;
    client.set_cell_state(&cell_id("c3"), CellState::Dead, WriteOptions::default()).await.unwrap();
    let leader = nodes.nodes[0].handle().store().leadership();
    let has_listened = || async { (leader.borrow().since.elapsed() > Liveness::SILENCE_MAX).then_some(()) };
    eventually("the leader has listened for long enough", has_listened).await;

    let (tenant, how) = (tenant_id("t-1"), MoveOptions::default());
    let to = |cell: &str, options| {
        let (client, cell, tenant, how) = (client.clone(), cell_id(cell), tenant.clone(), how.clone());
        async move { client.move_tenant(&tenant, &cell, how, options).await }
    };
    let refused = to("c2", WriteOptions::default()).await.unwrap_err();
    assert_eq!(refused.code(), "CELL_UNREACHABLE");
    assert!(refused.hint().contains("c2"), "{refused:?}");
    // What the model has to say comes first.
    assert_eq!(to("c3", WriteOptions::default()).await.unwrap_err().code(), "CELL_DEAD");
    assert_eq!(to("c1", WriteOptions::default()).await.unwrap_err().code(), "SAME_CELL");

    hear_of(&client, "c2").await;
    let (move_id, moving) = to("c2", named(5)).await.unwrap();
    assert_eq!(moving.r#move.unwrap().id, move_id.to_string());
    let liveness = nodes.nodes[0].handle().liveness();
    let fell_silent = || async { liveness.is_unreachable(&cell_id("c2"), Liveness::SILENCE_MAX * 2).then_some(()) };
    eventually("the cell has fallen silent", fell_silent).await;
    assert_eq!(to("c2", named(5)).await.unwrap().0, move_id, "a retry gets its first answer");
}

#[tokio::test(flavor = "multi_thread")]
async fn many_writers_at_once_are_all_answered() {
    let (nodes, _) = Nodes::cluster(3).await;
    let client = nodes.client();
    create_cell(&client, "c1").await;
    let writers = (0..200).map(|number| {
        let client = client.clone();
        tokio::spawn(async move {
            client.create_tenant(new_tenant(&format!("t-{number}"), "c1"), WriteOptions::default()).await
        })
    });
    let mut highest = Revision(0);
    for writer in writers.collect::<Vec<_>>() {
        let tenant = writer.await.unwrap().expect("a tenant");
        highest = highest.max(Revision(tenant.mapping.unwrap().revision));
    }
    let listed = client.list_tenants(ListOptions::default()).await.unwrap();
    assert_eq!(listed.items.len(), 200);
    assert!(listed.revision >= highest);
}
