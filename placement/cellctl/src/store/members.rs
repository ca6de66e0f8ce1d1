//! Members: list, add, promote, replace, remove, lead.

use std::time::Duration;

use cell_client::wire::change_members_request::Change;
use cell_client::{ClientError, wire};
use serde::Serialize;
use tokio::time::Instant;

use super::Members;
use crate::commands::Control;
use crate::console;
use crate::failure::{Exit, Failure};
use crate::view::View;

/// How often is looked whether a learner has caught up.
const LOOK: Duration = Duration::from_millis(200);
/// How long catching up may take.
const CATCHING_UP: Duration = Duration::from_secs(600);
/// For so long a leader is looked for before others are asked: much longer than an election takes.
const LEADERLESS: Duration = Duration::from_secs(5);

/// A member of the cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
struct MemberView {
    node: String,
    address: String,
    role: String,
    lag_entries: Option<u64>,
    heard_ms_ago: Option<u64>,
    /// Whether it was the leader that said so: others know of nobody when he was heard.
    #[serde(skip)]
    by_leader: bool,
}

impl MemberView {
    fn of(member: wire::StoreMember, by_leader: bool) -> Self {
        let role = match (member.leader, member.voter) {
            (true, _) => "leader",
            (false, true) => "voter",
            (false, false) => "learner",
        };
        Self {
            node: format!("{:016x}", member.node_id),
            address: member.address,
            role: role.into(),
            lag_entries: member.lag,
            heard_ms_ago: member.heard_ms.filter(|_| !member.leader),
            by_leader,
        }
    }

    fn all(members: Vec<wire::StoreMember>) -> Vec<Self> {
        // Who leads says of itself that it lacks nothing.
        let by_leader = members.iter().any(|member| member.lag.is_some());
        members.into_iter().map(|member| Self::of(member, by_leader)).collect()
    }
}

impl View for MemberView {
    const KIND: &'static str = "StoreMember";
    const COLUMNS: &'static [&'static str] = &["NODE", "ADDRESS", "ROLE", "LAG", "HEARD"];

    fn row(&self) -> Vec<String> {
        let lag = self.lag_entries.map_or_else(|| "?".into(), |lag| lag.to_string());
        let heard = match (self.heard_ms_ago, self.role.as_str()) {
            (_, "leader") => "-".into(),
            (None, _) if !self.by_leader => "?".into(),
            (None, _) => "never".into(),
            (Some(ago), _) => format!("{:.1}s ago", Duration::from_millis(ago).as_secs_f64()),
        };
        vec![self.node.clone(), self.address.clone(), self.role.clone(), lag, heard]
    }

    fn name(&self) -> String {
        format!("member/{}", self.node)
    }
}

fn print(control: &Control, members: Vec<wire::StoreMember>) {
    control.print_list(&MemberView::all(members));
}

/// The leader's list, and where nobody leads that of any member: what it has applied says who belongs to the cluster.
pub(super) async fn list(control: &Control) -> Result<Exit, Failure> {
    let looking = control.client.clone().within(LEADERLESS);
    let unled = match looking.members().await.map_err(Failure::from) {
        Ok(members) => {
            print(control, members);
            return Ok(Exit::Done);
        }
        Err(failure) if failure.exit == Exit::Unavailable && !control.global.stale => failure,
        Err(failure) => return Err(failure),
    };
    let stale = control.client.clone().allowing_stale_reads();
    print(control, stale.members().await?);
    let message = format!("no leader has answered; this is what one member knows by itself\n  {}", unled.message);
    let hint = "start the nodes that do not run; `cellctl check` says what else keeps them from having a leader";
    Err(Failure { exit: Exit::Unavailable, ..Failure::new("NO_LEADER", message, hint) })
}

/// The member of this name: its id or its address.
fn named(members: &[wire::StoreMember], name: &str) -> Result<u64, Failure> {
    let id = u64::from_str_radix(name, 16).ok().filter(|_| name.len() == 16);
    let is_meant = |member: &&wire::StoreMember| Some(member.node_id) == id || member.address == name;
    let found = members.iter().find(is_meant).map(|member| member.node_id);
    found.or(id).ok_or_else(|| {
        let message = format!("{name:?} is neither the id nor the address of a member");
        Failure::new("MEMBER_UNKNOWN", message, "`cellctl store members` lists them")
    })
}

pub(super) async fn change(control: &Control, change: Members) -> Result<Exit, Failure> {
    let known = control.client.members().await?;
    let change = match change {
        Members::Add { node, promote } => return add(control, &node, promote).await,
        Members::Promote { node } => Change::Promote(wire::PromoteMember { node_id: named(&known, &node)? }),
        Members::Remove { node } => Change::Remove(wire::RemoveMember { node_id: named(&known, &node)? }),
        Members::Replace { node, by } => {
            Change::Replace(wire::ReplaceMember { node_id: named(&known, &node)?, by: named(&known, &by)? })
        }
        Members::Lead { node } => {
            let leader = control.client.move_leader(named(&known, &node)?).await?;
            console::note(&format!("{leader} leads"));
            return list(control).await;
        }
    };
    print(control, control.client.change_members(change).await?);
    Ok(Exit::Done)
}

async fn add(control: &Control, endpoint: &str, promote: bool) -> Result<Exit, Failure> {
    let (node_id, address) = control.client.claim_node(endpoint).await.map_err(|error| silent(endpoint, error))?;
    let add = Change::Add(wire::AddMember { node_id, address });
    let mut members = control.client.change_members(add).await?;
    let votes = members.iter().any(|member| member.node_id == node_id && member.voter);
    if votes {
        console::note(&format!("node {node_id:016x} is a member already, and votes"));
    } else if promote {
        members = promote_when_ready(control, node_id).await?;
    } else {
        console::note(&format!(
            "node {node_id:016x} learns; `cellctl store members promote {node_id:016x}` lets it vote"
        ));
    }
    print(control, members);
    Ok(Exit::Done)
}

/// It is the node that is to join that does not answer, not the control plane.
fn silent(endpoint: &str, error: ClientError) -> Failure {
    match error {
        ClientError::Unavailable { reason } if reason.starts_with(endpoint) => {
            let message = format!("the node that is to join does not answer: {reason}");
            let hint =
                "start it (`cell-control serve`, with an empty data directory), then run the same command again";
            Failure { exit: Exit::Unavailable, ..Failure::new("NODE_UNREACHABLE", message, hint) }
        }
        error => error.into(),
    }
}

async fn promote_when_ready(control: &Control, node_id: u64) -> Result<Vec<wire::StoreMember>, Failure> {
    let deadline = Instant::now() + CATCHING_UP;
    loop {
        let known = control.client.members().await?;
        let is_late = Instant::now() > deadline;
        // Each try is in the audit trail: so it is looked first.
        if is_late || known.iter().any(|member| member.node_id == node_id && is_ready(member)) {
            let promote = Change::Promote(wire::PromoteMember { node_id });
            let failure = match control.client.change_members(promote).await {
                Ok(members) => return Ok(members),
                Err(error) => Failure::from(error),
            };
            let is_early = ["MEMBER_BEHIND", "MEMBER_SILENT", "MEMBERS_CHANGING"].contains(&failure.code.as_str());
            if !is_early || is_late {
                return Err(failure);
            }
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Whether a learner has caught up, as far as can be seen from here; the leader judges for itself.
fn is_ready(member: &wire::StoreMember) -> bool {
    const LAG_MAX: u64 = 64;
    const SILENT_MAX_MS: u64 = 800;
    member.lag.is_some_and(|lag| lag <= LAG_MAX) && member.heard_ms.is_some_and(|ago| ago <= SILENT_MAX_MS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_learner_is_put_forward_once_it_has_caught_up() {
        let member = |lag, heard_ms| wire::StoreMember { lag, heard_ms, ..Default::default() };
        assert!(is_ready(&member(Some(64), Some(800))));
        for early in
            [member(None, Some(1)), member(Some(65), Some(1)), member(Some(0), None), member(Some(0), Some(900))]
        {
            assert!(!is_ready(&early), "{early:?}");
        }
    }

    #[test]
    fn a_member_is_named_by_its_id_or_its_address() {
        let member = wire::StoreMember { node_id: 0xabc, address: "10.0.0.1:7401".into(), ..Default::default() };
        let members = [member];
        assert_eq!(named(&members, "0000000000000abc").unwrap(), 0xabc);
        assert_eq!(named(&members, "10.0.0.1:7401").unwrap(), 0xabc);
        // The node itself says whether it knows this one.
        assert_eq!(named(&members, "0000000000000def").unwrap(), 0xdef);
        assert_eq!(named(&members, "10.0.0.2:7401").unwrap_err().code, "MEMBER_UNKNOWN");
    }

    #[test]
    fn a_member_of_which_nothing_is_known_does_not_look_as_if_it_were_up_to_date() {
        let learner = wire::StoreMember { node_id: 1, address: "a:1".into(), ..Default::default() };
        let leader = wire::StoreMember { node_id: 2, leader: true, lag: Some(0), ..Default::default() };
        let rows = |members: &[wire::StoreMember]| -> Vec<Vec<String>> {
            MemberView::all(members.to_vec()).iter().map(|view| view.row()[2..].to_vec()).collect()
        };
        assert_eq!(rows(&[learner.clone(), leader]), [["learner", "?", "never"], ["leader", "0", "-"]]);
        // Another member than the leader has heard of nobody, and that is no news of him.
        assert_eq!(rows(&[learner]), [["learner", "?", "?"]]);
    }
}
