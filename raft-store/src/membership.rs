//! Who belongs to a cluster, and what may be changed about that without losing the quorum by accident.
//!
//! ```text
//! new node ── claim ──► add ──► learner ── caught up ──► promote ──► voter ── remove ──► gone for ever
//!                                  └──────────── replace: in the place of a dead voter ────────┘
//! ```
//!
//! [`judge`] decides, from what the leader knows of each member, and says why not: it is pure. A change that is allowed
//! leaves, with the members that answer now, a majority of the old and of the new voters. A node id is of one data
//! directory and never comes back, so a node that has lost its data joins as a new one and replaces the old one.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::error::MembershipError;
use crate::status::MemberProgress;

/// Voters of a cluster at the most.
pub(crate) const VOTERS_MAX: usize = 9;
/// Members of all kinds at the most.
const MEMBERS_MAX: usize = 16;
/// A learner that lacks more entries than this is not promoted: until it has caught up, the new majority might need it.
pub(crate) const LAG_MAX: u64 = 64;

/// What is to be changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// A node that has been claimed for this cluster joins. It gets everything and does not vote.
    Add {
        /// What it answered to the claim.
        node_id: u64,
        /// `host:port` at which the others reach it.
        address: String,
    },
    /// A learner that has caught up votes from now on.
    Promote {
        /// Which.
        node_id: u64,
    },
    /// A member leaves, for ever.
    Remove {
        /// Which.
        node_id: u64,
    },
    /// A learner takes the place of a voter, in one step.
    Replace {
        /// The voter that leaves.
        node_id: u64,
        /// The learner that votes in its stead.
        by: u64,
    },
}

/// What the leader knows.
#[derive(Debug, Clone)]
pub(crate) struct Situation {
    /// Everybody, the leader included.
    pub members: Vec<MemberProgress>,
    /// Nodes that were members and have left.
    pub removed: Vec<u64>,
    /// The leader itself.
    pub leader: u64,
    /// A change is not finished: two sets of voters have to agree on everything.
    pub changing: bool,
    /// A member that was heard of within this time counts as alive.
    pub alive_within: Duration,
}

/// The members that there should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It is so already.
    Done,
    /// A node joins as a learner.
    Learn(u64, String),
    /// These vote, and these are no members any more.
    Voters(BTreeSet<u64>, BTreeSet<u64>),
}

impl Situation {
    fn member(&self, node_id: u64) -> Result<&MemberProgress, MembershipError> {
        let found = self.members.iter().find(|member| member.node_id == node_id);
        found.ok_or(MembershipError::Unknown { node_id })
    }

    fn voters(&self) -> BTreeSet<u64> {
        self.members.iter().filter(|member| member.voter).map(|member| member.node_id).collect()
    }

    fn is_alive(&self, node_id: u64) -> bool {
        let heard = |member: &MemberProgress| member.heard.is_some_and(|ago| ago <= self.alive_within);
        node_id == self.leader || self.members.iter().any(|member| member.node_id == node_id && heard(member))
    }

    /// Refuses unless a majority of `voters` is alive.
    fn keeps_quorum(&self, voters: &BTreeSet<u64>) -> Result<(), MembershipError> {
        let alive = voters.iter().filter(|voter| self.is_alive(**voter)).count();
        let needed = voters.len() / 2 + 1;
        if alive >= needed {
            return Ok(());
        }
        let silent = voters.iter().filter(|voter| !self.is_alive(**voter));
        let silent = silent.filter_map(|voter| self.member(*voter).ok()).map(|member| member.address.clone());
        Err(MembershipError::QuorumAtRisk { voters: voters.len(), alive, needed, silent: silent.collect() })
    }

    /// Refuses a learner that could not vote for what is committed.
    fn is_ready(&self, node_id: u64) -> Result<(), MembershipError> {
        let learner = self.member(node_id)?;
        if !self.is_alive(node_id) {
            return Err(MembershipError::Silent { address: learner.address.clone() });
        }
        match learner.lag {
            Some(lag) if lag <= LAG_MAX => Ok(()),
            lag => Err(MembershipError::Behind { address: learner.address.clone(), lag, limit: LAG_MAX }),
        }
    }
}

/// Whether a change may be made, and what it comes to.
pub(crate) fn judge(situation: &Situation, change: &Change) -> Result<Verdict, MembershipError> {
    if situation.changing {
        return Err(MembershipError::Changing);
    }
    let voters = situation.voters();
    match change {
        Change::Add { node_id, address } => add(situation, *node_id, address),
        Change::Promote { node_id } => {
            if situation.member(*node_id)?.voter {
                return Ok(Verdict::Done);
            }
            situation.is_ready(*node_id)?;
            let mut next = voters;
            next.insert(*node_id);
            if next.len() > VOTERS_MAX {
                return Err(MembershipError::TooMany { limit: VOTERS_MAX });
            }
            situation.keeps_quorum(&next)?;
            Ok(Verdict::Voters(next, BTreeSet::new()))
        }
        Change::Remove { node_id } => {
            // Asked again after it was done.
            if situation.removed.contains(node_id) {
                return Ok(Verdict::Done);
            }
            situation.member(*node_id)?;
            leaves(situation, *node_id, &voters)?;
            let mut next = voters;
            next.remove(node_id);
            situation.keeps_quorum(&next)?;
            Ok(Verdict::Voters(next, BTreeSet::from([*node_id])))
        }
        Change::Replace { node_id, by } => {
            if situation.removed.contains(node_id) && situation.member(*by)?.voter {
                return Ok(Verdict::Done);
            }
            if !situation.member(*node_id)?.voter {
                return Err(MembershipError::NoVoter { node_id: *node_id });
            }
            if situation.member(*by)?.voter {
                return Err(MembershipError::VotesAlready { node_id: *by });
            }
            situation.is_ready(*by)?;
            leaves(situation, *node_id, &voters)?;
            let mut next = voters;
            next.remove(node_id);
            next.insert(*by);
            situation.keeps_quorum(&next)?;
            Ok(Verdict::Voters(next, BTreeSet::from([*node_id])))
        }
    }
}

fn add(situation: &Situation, node_id: u64, address: &str) -> Result<Verdict, MembershipError> {
    let by_address: BTreeMap<&str, u64> =
        situation.members.iter().map(|member| (member.address.as_str(), member.node_id)).collect();
    match (situation.member(node_id), by_address.get(address)) {
        (Ok(known), _) if known.address == address => Ok(Verdict::Done),
        (Ok(known), _) => Err(MembershipError::OtherAddress { node_id, address: known.address.clone() }),
        (Err(_), Some(other)) => {
            Err(MembershipError::AddressTaken { address: address.to_owned(), node_id: *other })
        }
        (Err(_), None) if situation.removed.contains(&node_id) => Err(MembershipError::Removed { node_id }),
        (Err(_), None) if situation.members.len() >= MEMBERS_MAX => {
            Err(MembershipError::TooMany { limit: MEMBERS_MAX })
        }
        (Err(_), None) => Ok(Verdict::Learn(node_id, address.to_owned())),
    }
}

/// Refuses where `node_id` cannot be done without.
fn leaves(situation: &Situation, node_id: u64, voters: &BTreeSet<u64>) -> Result<(), MembershipError> {
    if voters.len() == 1 && voters.contains(&node_id) {
        return Err(MembershipError::LastVoter);
    }
    if node_id == situation.leader {
        return Err(MembershipError::Leads);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(node_id: u64, voter: bool, lag: u64, heard_ms: Option<u64>) -> MemberProgress {
        MemberProgress {
            node_id,
            address: format!("node-{node_id}:7000"),
            voter,
            leader: node_id == 1,
            matched: 1_000_u64.checked_sub(lag),
            lag: Some(lag),
            heard: heard_ms.map(Duration::from_millis),
        }
    }

    /// Three voters of which the first leads; then learners.
    fn situation(silent: &[u64], learners: &[(u64, u64)]) -> Situation {
        let heard = |node_id: u64| if silent.contains(&node_id) { Some(60_000) } else { Some(40) };
        let voters = (1..=3).map(|node_id| member(node_id, true, 0, heard(node_id)));
        let learners = learners.iter().map(|(node_id, lag)| member(*node_id, false, *lag, heard(*node_id)));
        let members = voters.chain(learners).collect();
        Situation {
            members,
            removed: vec![9],
            leader: 1,
            changing: false,
            alive_within: Duration::from_millis(800),
        }
    }

    fn refused(situation: &Situation, change: Change) -> &'static str {
        judge(situation, &change).expect_err("it is refused").code()
    }

    #[test]
    fn a_node_joins_once_under_one_address() {
        let add = |node_id, address: &str| Change::Add { node_id, address: address.into() };
        let now = situation(&[], &[]);
        assert_eq!(judge(&now, &add(4, "node-4:7000")), Ok(Verdict::Learn(4, "node-4:7000".into())));
        assert_eq!(judge(&now, &add(2, "node-2:7000")), Ok(Verdict::Done));
        assert_eq!(refused(&now, add(2, "elsewhere:7000")), "MEMBER_ELSEWHERE");
        // The same address with another node id: the directory is new, and the old node must be replaced.
        assert_eq!(refused(&now, add(8, "node-2:7000")), "MEMBER_ADDRESS_TAKEN");
        // It was removed, and is started again on the same directory: its votes of before are not to count.
        assert_eq!(refused(&now, add(9, "node-9:7000")), "MEMBER_REMOVED");
    }

    #[test]
    fn a_learner_votes_once_it_has_caught_up_and_answers() {
        let promote = |node_id| Change::Promote { node_id };
        assert_eq!(refused(&situation(&[], &[(4, LAG_MAX + 1)]), promote(4)), "MEMBER_BEHIND");
        assert_eq!(refused(&situation(&[4], &[(4, 0)]), promote(4)), "MEMBER_SILENT");
        assert_eq!(refused(&situation(&[], &[]), promote(4)), "MEMBER_UNKNOWN");
        let voters = Verdict::Voters(BTreeSet::from([1, 2, 3, 4]), BTreeSet::new());
        assert_eq!(judge(&situation(&[], &[(4, LAG_MAX)]), &promote(4)), Ok(voters));
        assert_eq!(judge(&situation(&[], &[]), &promote(3)), Ok(Verdict::Done));
    }

    #[test]
    fn a_change_that_would_lose_the_quorum_is_refused() {
        // Of 1, 2, 3 the third is dead: without the second there would be one of two.
        assert_eq!(refused(&situation(&[3], &[]), Change::Remove { node_id: 2 }), "QUORUM_AT_RISK");
        let without = Verdict::Voters(BTreeSet::from([1, 2]), BTreeSet::from([3]));
        assert_eq!(judge(&situation(&[3], &[]), &Change::Remove { node_id: 3 }), Ok(without));
        // Two of three are dead: nothing is changed any more, whatever it is.
        assert_eq!(refused(&situation(&[2, 3], &[(4, 0)]), Change::Promote { node_id: 4 }), "QUORUM_AT_RISK");
    }

    #[test]
    fn the_leader_and_the_last_voter_stay() {
        assert_eq!(refused(&situation(&[], &[]), Change::Remove { node_id: 1 }), "MEMBER_LEADS");
        let alone = Situation { members: vec![member(1, true, 0, None)], ..situation(&[], &[]) };
        assert_eq!(refused(&alone, Change::Remove { node_id: 1 }), "LAST_VOTER");
        // A name that was mistyped is not taken for one that is gone.
        assert_eq!(refused(&situation(&[], &[]), Change::Remove { node_id: 77 }), "MEMBER_UNKNOWN");
        assert_eq!(judge(&situation(&[], &[]), &Change::Remove { node_id: 9 }), Ok(Verdict::Done));
    }

    #[test]
    fn a_dead_voter_is_replaced_in_one_step_by_a_learner_that_is_ready() {
        let replace = Change::Replace { node_id: 3, by: 4 };
        let verdict = Verdict::Voters(BTreeSet::from([1, 2, 4]), BTreeSet::from([3]));
        assert_eq!(judge(&situation(&[3], &[(4, 0)]), &replace), Ok(verdict));
        assert_eq!(refused(&situation(&[3], &[(4, 9_999)]), replace.clone()), "MEMBER_BEHIND");
        assert_eq!(refused(&situation(&[3], &[(4, 0), (5, 0)]), Change::Replace { node_id: 5, by: 4 }), "NO_VOTER");
        assert_eq!(refused(&situation(&[3], &[]), Change::Replace { node_id: 3, by: 2 }), "MEMBER_VOTES");
        // Asked again after it was done.
        let mut done = situation(&[], &[(4, 0)]);
        done.members.retain(|member| member.node_id != 3);
        done.members[2].voter = true;
        assert_eq!(refused(&done, replace.clone()), "MEMBER_UNKNOWN", "it never was a member");
        done.removed.push(3);
        assert_eq!(judge(&done, &replace), Ok(Verdict::Done));
    }

    #[test]
    fn one_change_at_a_time() {
        let changing = Situation { changing: true, ..situation(&[], &[(4, 0)]) };
        assert_eq!(refused(&changing, Change::Promote { node_id: 4 }), "MEMBERS_CHANGING");
    }
}
