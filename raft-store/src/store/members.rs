//! The handle's part about members: who they are, how they come and go, who leads.

use std::collections::{BTreeMap, BTreeSet};

use openraft::async_runtime::WatchReceiver;
use openraft::errors::{ClientWriteError, RaftError};
use openraft::raft::Precondition;
use openraft::{BasicNode, ChangeMembers, Instant, RaftMetrics};

use crate::consensus::TypeConfig;
use crate::error::{MembershipError, TransferError};
use crate::membership::{Change, Situation, Verdict, judge};
use crate::status::MemberProgress;
use crate::store::Store;

type Membership = ChangeMembers<u64, BasicNode>;

impl Store {
    /// Everybody in the cluster, as far as this node has applied it. How far they are only the leader knows; another node says
    /// of nobody that he leads unless it has heard of him lately.
    #[must_use]
    pub fn members(&self) -> Vec<MemberProgress> {
        let mut members = members_of(&self.raft().metrics().borrow_watched());
        let lately = self.inner.options.timers.election_max * 2;
        let hears_nobody = || self.inner.node.level.heard_ago().is_none_or(|ago| ago > lately);
        if !self.inner.leadership.borrow().is_leader && hears_nobody() {
            members.iter_mut().for_each(|member| member.leader = false);
        }
        members
    }

    /// Changes who belongs to the cluster, where that cannot lose the quorum by accident. Asked of the leader; the
    /// same change may be asked for again.
    ///
    /// # Errors
    /// [`MembershipError`] says why not, and what to do first.
    pub async fn change_members(&self, change: &Change) -> Result<(), MembershipError> {
        if !self.inner.leadership.borrow().is_leader {
            return Err(MembershipError::NotLeader { leader: self.leader_elsewhere() });
        }
        let metrics = self.raft().metrics().borrow_watched().clone();
        self.finish_earlier_change(&metrics).await?;
        let metrics = self.raft().metrics().borrow_watched().clone();
        let situation = Situation {
            members: members_of(&metrics),
            removed: self.inner.node.machine.removed(),
            leader: metrics.id,
            changing: metrics.membership_config.membership().get_joint_config().len() > 1,
            alive_within: self.inner.options.timers.election_max,
        };
        let (batch, retain) = match judge(&situation, change)? {
            Verdict::Done => return Ok(()),
            Verdict::Learn(node_id, address) => {
                (ChangeMembers::AddNodes(BTreeMap::from([(node_id, BasicNode::new(address))])), true)
            }
            Verdict::Voters(voters, gone) if voters == voters_of(&metrics) => {
                (ChangeMembers::RemoveNodes(gone), true)
            }
            Verdict::Voters(voters, _) => (ChangeMembers::ReplaceAllVoters(voters), false),
        };
        self.propose(batch, retain, &metrics).await?;
        tracing::info!(?change, "members changed");
        Ok(())
    }

    /// A leader that went away in the middle has left two sets of voters behind: the second one is what was wanted.
    async fn finish_earlier_change(&self, metrics: &RaftMetrics<TypeConfig>) -> Result<(), MembershipError> {
        let configs = metrics.membership_config.membership().get_joint_config();
        match configs.as_slice() {
            [_, wanted] => self.propose(ChangeMembers::ReplaceAllVoters(wanted.clone()), false, metrics).await,
            _ => Ok(()),
        }
    }

    /// Only while the members are still those that the decision was made on.
    async fn propose(
        &self,
        change: Membership,
        retain: bool,
        metrics: &RaftMetrics<TypeConfig>,
    ) -> Result<(), MembershipError> {
        let unchanged =
            Precondition::LastMembershipLogId { last_membership_log_id: *metrics.membership_config.log_id() };
        let changed = self.raft().change_membership_if(change, retain, [unchanged]);
        let outcome = |reason: String| MembershipError::Outcome { reason };
        match tokio::time::timeout(self.inner.options.timers.submit, changed).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(RaftError::APIError(ClientWriteError::ForwardToLeader(_)))) => {
                Err(MembershipError::NotLeader { leader: self.leader_elsewhere() })
            }
            Ok(Err(RaftError::APIError(
                ClientWriteError::ChangeMembershipError(_) | ClientWriteError::PreconditionFailed(_),
            ))) => Err(MembershipError::Changing),
            Ok(Err(RaftError::APIError(ClientWriteError::LogEntryDiscarded(error)))) => {
                Err(outcome(error.to_string()))
            }
            Ok(Err(RaftError::Fatal(_))) => Err(MembershipError::Stopped),
            Err(_) => Err(outcome("no majority has answered in time".into())),
        }
    }

    /// Hands leadership to a certain voter, and waits until it leads.
    ///
    /// # Errors
    /// [`TransferError`] where there is nothing to hand over, or that node cannot take it or did not in time.
    pub async fn transfer_leader_to(&self, node_id: u64) -> Result<(), TransferError> {
        if !self.inner.leadership.borrow().is_leader {
            return Err(TransferError::NotLeader);
        }
        if node_id == self.node_id() {
            return Ok(());
        }
        let members = self.members();
        let target = members.into_iter().find(|member| member.node_id == node_id && member.voter);
        let target = target.ok_or(TransferError::NoCandidate)?;
        self.raft().trigger().transfer_leader(node_id).await.map_err(|_| TransferError::Stopped)?;
        let mut leadership = self.inner.leadership.clone();
        let taken_over =
            leadership.wait_for(|now| now.leader.as_deref() == Some(&target.address) && !now.is_leader);
        match tokio::time::timeout(self.inner.options.timers.election_max * 2, taken_over).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) => Err(TransferError::Stopped),
            Err(_) => Err(TransferError::TimedOut),
        }
    }
}

fn voters_of(metrics: &RaftMetrics<TypeConfig>) -> BTreeSet<u64> {
    metrics.membership_config.voter_ids().collect()
}

fn members_of(metrics: &RaftMetrics<TypeConfig>) -> Vec<MemberProgress> {
    let voters = voters_of(metrics);
    let last = metrics.last_log_index.unwrap_or(0);
    let matched_by = |id: u64| -> Option<u64> {
        // Who does not lead does not know what he lacks himself.
        let replication = metrics.replication.as_ref()?;
        if id == metrics.id {
            return metrics.last_log_index;
        }
        replication.get(&id)?.map(|matched| matched.index)
    };
    let member = |(id, node): (&u64, &BasicNode)| {
        let matched = matched_by(*id);
        let heard = metrics.heartbeat.as_ref().and_then(|heard| heard.get(id).copied().flatten());
        MemberProgress {
            node_id: *id,
            address: node.addr.clone(),
            voter: voters.contains(id),
            leader: metrics.current_leader == Some(*id),
            matched,
            lag: matched.map(|matched| last.saturating_sub(matched)),
            heard: heard.map(|heard| heard.elapsed()),
        }
    };
    metrics.membership_config.nodes().map(member).collect()
}
