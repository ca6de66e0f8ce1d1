//! Whether every node that answers is a member, and where the members look for it.

use cell_client::wire;

use super::findings::{FindingView, few, mark};
use super::survey::Node;
use crate::cli::Category;

/// What the leader has applied counts, and where nobody leads what the foremost node has.
fn members(statuses: &[(&Node, &wire::StatusResponse)]) -> Option<(u64, Vec<wire::Member>)> {
    let knows = statuses.iter().filter(|(_, status)| status.initialized && !status.members.is_empty());
    let (_, status) = knows.max_by_key(|(_, status)| (status.is_leader, status.applied_index))?;
    Some((status.cluster_id, status.members.clone()))
}

/// Nodes that nobody calls, or not where they say that they are. Other clusters' nodes are found elsewhere.
pub(super) fn of(nodes: &[Node]) -> FindingView {
    let new = |warns, message| {
        let hint = "start it with --advertise as the members know it, or with an empty directory and add it: \
                    `cellctl store members` lists them";
        FindingView::new(Category::Quorum, "members-agree", mark(false, warns), message, hint)
    };
    let statuses: Vec<_> = nodes.iter().filter_map(|node| Some((node, node.status.as_ref().ok()?))).collect();
    let Some((cluster, members)) = members(&statuses) else { return new(true, "no node knows any members".into()) };
    let doubt = |(node, status): &(&Node, &wire::StatusResponse)| {
        let (endpoint, advertised) = (&node.endpoint, &status.advertise);
        match members.iter().find(|member| member.node_id == status.node_id) {
            None if status.cluster_id == cluster || !status.initialized => Some(format!("{endpoint} is no member")),
            Some(member) if !advertised.is_empty() && *advertised != member.address => {
                Some(format!("{endpoint} says that it is at {advertised}, and the members call {}", member.address))
            }
            _ => None,
        }
    };
    let doubts: Vec<String> = statuses.iter().filter_map(doubt).collect();
    match doubts.as_slice() {
        [] => new(false, format!("{} members, each where they look for it", members.len())),
        doubts => new(true, few(doubts)),
    }
}

#[cfg(test)]
mod tests {
    use super::super::findings::Mark;
    use super::*;

    fn node(node_id: u64, address: &str, members: &[u64]) -> Node {
        let member = |number: &u64| wire::Member { node_id: *number, address: format!("n{number}:1"), voter: true };
        let status = wire::StatusResponse {
            node_id,
            cluster_id: 7,
            initialized: !members.is_empty(),
            is_leader: node_id == 1,
            advertise: address.into(),
            members: members.iter().map(member).collect(),
            ..wire::StatusResponse::default()
        };
        let unasked = || "not asked".to_owned();
        Node {
            endpoint: address.into(),
            status: Ok(status),
            clock_ms: None,
            disk: Err(unasked()),
            trail: Err(unasked()),
        }
    }

    fn told(nodes: &[Node]) -> (Mark, String) {
        let found = of(nodes);
        (found.mark, found.message)
    }

    #[test]
    fn a_node_that_is_called_elsewhere_or_by_nobody_is_named() {
        let all = [1, 2, 3];
        let mut nodes = vec![node(1, "n1:1", &all), node(2, "n2:1", &all), node(3, "n3:1", &all)];
        assert_eq!(told(&nodes), (Mark::Holds, "3 members, each where they look for it".into()));
        nodes[1] = node(2, "elsewhere:1", &all);
        let (mark, message) = told(&nodes);
        assert_eq!(
            (mark, message.as_str()),
            (Mark::Warns, "elsewhere:1 says that it is at elsewhere:1, and the members call n2:1")
        );
        // It was removed, and still holds what it knew of the members then; one waits to be added.
        nodes[1] = node(2, "n2:1", &all);
        nodes[0] = node(1, "n1:1", &[1, 3]);
        nodes.push(node(4, "n4:1", &[]));
        assert_eq!(told(&nodes), (Mark::Warns, "n2:1 is no member, n4:1 is no member".into()));
        // Who belongs to another cluster is no concern of this one's members.
        nodes.truncate(2);
        nodes[1].status.as_mut().unwrap().cluster_id = 8;
        assert_eq!(told(&nodes).0, Mark::Holds);
        // A program of before does not say where it is; nobody answers at all.
        assert_eq!(told(&[node(1, "", &[1])]).0, Mark::Holds);
        assert_eq!(told(&[]).0, Mark::Warns);
    }
}
