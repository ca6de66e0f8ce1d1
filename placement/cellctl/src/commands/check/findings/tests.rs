use super::super::survey::unasked;
use super::*;

fn node(endpoint: &str, node_id: u64, is_leader: bool) -> Node {
    let member = |number: u64| wire::Member { node_id: number, address: format!("n{number}:1"), voter: true };
    let status = wire::StatusResponse {
        node_id,
        is_leader,
        members: (1..=3).map(member).collect(),
        version: env!("CARGO_PKG_VERSION").into(),
        disk_free_bytes: 1 << 40,
        disk_total_bytes: 1 << 41,
        quorum_ack_ms: is_leader.then_some(40),
        ..wire::StatusResponse::default()
    };
    let disk = wire::DiskStatusResponse {
        honesty: wire::SyncHonesty::Durable.into(),
        ..wire::DiskStatusResponse::default()
    };
    let endpoint = endpoint.to_owned();
    Node { endpoint, status: Ok(status), clock_ms: None, disk: Ok(disk), trail: Err("not asked".into()) }
}

fn mark_of(found: &[FindingView], check: &str) -> Mark {
    found.iter().filter(|finding| finding.check == check).map(|finding| finding.mark).max().unwrap()
}

fn status_of(node: &mut Node) -> &mut wire::StatusResponse {
    node.status.as_mut().unwrap()
}

#[test]
fn a_leader_without_a_majority_does_not_count_as_one() {
    let mut nodes = vec![node("n1:1", 1, true)];
    assert_eq!(mark_of(&quorum(&nodes), "one-leads"), Mark::Holds);
    status_of(&mut nodes[0]).quorum_ack_ms = Some(UNCONFIRMED_MAX_MS + 1);
    assert_eq!(mark_of(&quorum(&nodes), "one-leads"), Mark::Fails);
    status_of(&mut nodes[0]).quorum_ack_ms = None;
    assert_eq!(mark_of(&quorum(&nodes), "one-leads"), Mark::Fails);
    status_of(&mut nodes[0]).version = "0.0.0".into();
    assert_eq!(mark_of(&quorum(&nodes), "one-leads"), Mark::Holds, "an older program does not say");
}

#[test]
fn where_nobody_answers_nothing_is_said_to_hold() {
    let silent = Node { status: Err("no connection".into()), ..node("n1:1", 1, true) };
    let found = quorum(&[silent]);
    assert_eq!(found.len(), 5);
    assert!(found.iter().all(|finding| finding.mark == Mark::Fails), "{found:?}");
    let survey = Survey {
        nodes: vec![Node { status: Err("no connection".into()), ..node("n1:1", 1, true) }],
        ..surveyed(&[], &[])
    };
    assert_eq!(mark_of(&lag(&survey), "nodes-follow"), Mark::Fails);
    let survey = Survey { nodes: vec![node("n1:1", 1, true)], ..surveyed(&[], &[]) };
    assert_eq!(mark_of(&lag(&survey), "nodes-follow"), Mark::Holds);
}

#[test]
fn members_that_nobody_named_are_asked_and_nobody_twice() {
    assert_eq!(unasked(&[node("n1:1", 1, true)]), ["n2:1", "n3:1"]);
    // By another address than the one that it gives.
    assert_eq!(unasked(&[node("proxy:1", 1, true), node("n2:1", 2, false)]), ["n3:1"]);
    let silent = Node { status: Err("no connection".into()), ..node("n3:1", 3, false) };
    assert_eq!(unasked(&[node("n1:1", 1, true), silent]), ["n2:1"]);
}

#[test]
fn a_node_that_accepts_nothing_fails_however_large_its_disk_is_and_so_does_one_whose_syncs_lie() {
    let mut full = node("n1:1", 1, true);
    assert_eq!(mark_of(&disk(std::slice::from_ref(&full)), "room"), Mark::Holds);
    full.disk.as_mut().unwrap().full = true;
    let found = disk(&[full]);
    assert_eq!((mark_of(&found, "room"), mark_of(&found, "syncs-last")), (Mark::Fails, Mark::Holds));
    for (honesty, mark) in [
        (wire::SyncHonesty::Lying, Mark::Fails),
        (wire::SyncHonesty::Volatile, Mark::Warns),
        (wire::SyncHonesty::Unspecified, Mark::Holds),
    ] {
        let mut node = node("n1:1", 1, true);
        node.disk.as_mut().unwrap().honesty = honesty.into();
        assert_eq!(mark_of(&disk(&[node]), "syncs-last"), mark);
    }
}

fn surveyed(routers: &[(&str, u64)], agents: &[(&str, u64)]) -> Survey {
    let router = |(name, until): &(&str, u64)| wire::Router {
        name: (*name).into(),
        certificate_not_after_unix_s: *until,
        ..wire::Router::default()
    };
    let cell = |(name, until): &(&str, u64)| Cell {
        record: cell_model::CellRecord::try_from(wire::Cell {
            id: (*name).into(),
            state: wire::CellState::Active.into(),
            ..wire::Cell::default()
        })
        .unwrap(),
        agent: Ok(wire::DescribeResponse { certificate_not_after_unix_s: *until, ..Default::default() }),
    };
    let routers = routers.iter().map(router).collect();
    Survey {
        now_ms: 1_000_000_000,
        nodes: Vec::new(),
        cells: Ok(agents.iter().map(cell).collect()),
        tenants: Ok(Vec::new()),
        moves: Ok(Vec::new()),
        routers: Ok(wire::ListRoutersResponse { routers, ..wire::ListRoutersResponse::default() }),
        own_certificate_s: None,
    }
}

#[test]
fn certificates_of_routers_and_agents_are_looked_at_and_those_that_run_out_are_named() {
    const DAY: u64 = 24 * 3_600;
    let now = 1_000_000;
    let (long, soon, gone) = (now + 300 * DAY, now + 9 * DAY, now - 1);
    assert_eq!(certificates(&surveyed(&[("r1", 0)], &[("a", 0)])), [], "none shows one");
    let found = certificates(&surveyed(&[("r1", long), ("r2", 0)], &[("a", long + DAY)]));
    let [all] = found.as_slice() else { panic!("{found:?}") };
    assert_eq!((all.check, all.mark), ("valid", Mark::Holds));
    assert!(all.message.starts_with("2 certificates") && all.message.ends_with("300 days"), "{}", all.message);
    let found = certificates(&surveyed(&[("r1", long), ("r2", soon)], &[("a", long)]));
    assert_eq!(mark_of(&found, "valid"), Mark::Warns);
    assert!(found[0].message.ends_with("of router r2 (9 days)"), "{}", found[0].message);
    let found = certificates(&surveyed(&[("r2", soon)], &[("a", gone)]));
    assert_eq!(mark_of(&found, "valid"), Mark::Fails);
    let told = &found[0].message;
    assert!(told.ends_with("of the agent of a (has run out), router r2 (9 days)"), "{told}");
}

#[test]
fn a_tenant_at_rest_is_owned_by_the_cell_that_the_store_names_and_by_nobody_else() {
    let tenant = |name: &str, owner: &str| wire::Tenant {
        mapping: Some(wire::Mapping { tenant: name.into(), owner: owner.into(), ..wire::Mapping::default() }),
        life: "live".into(),
        ..wire::Tenant::default()
    };
    let owns = |name: &str| wire::TenantGrant {
        tenant: name.into(),
        role: wire::Role::Owner.into(),
        ..wire::TenantGrant::default()
    };
    let found = |says: [Option<&[&str]>; 2]| {
        let mut survey = surveyed(&[], &[("a", 0), ("b", 0)]);
        for (cell, says) in survey.cells.as_mut().unwrap().iter_mut().zip(says) {
            match says {
                Some(names) => cell.agent.as_mut().unwrap().grants = names.iter().map(|name| owns(name)).collect(),
                None => cell.agent = Err("no answer".into()),
            }
        }
        survey.tenants = Ok(vec![tenant("t1", "a"), tenant("t2", "b")]);
        let found = orphans(&survey);
        let owned = found.into_iter().find(|finding| finding.check == "owned-once").unwrap();
        (owned.mark, owned.message)
    };
    assert_eq!(found([Some(&["t1"]), Some(&["t2"])]).0, Mark::Holds);
    assert_eq!(found([None, Some(&["t2"])]).0, Mark::Holds, "of a cell that does not answer nothing is known");
    for (says, told) in [
        ([Some(&["t1"][..]), Some(&["t1", "t2"][..])], "t1 (store: a, cells: a b)"),
        ([Some(&[]), Some(&["t2"])], "t1 (store: a, cells: )"),
        ([None, Some(&["t1", "t2"])], "t1 (store: a, cells: b)"),
    ] {
        let (mark, message) = found(says);
        assert!(mark == Mark::Fails && message.ends_with(told), "{message}");
    }
}
