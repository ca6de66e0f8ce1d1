//! Follows what Raft knows of its leader, and tells it only where it has changed.

use cell_model::Term;
use openraft::ServerState;
use openraft::async_runtime::WatchReceiver;
use openraft::metrics::RaftServerMetrics;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::consensus::{Raft, TypeConfig};
use crate::status::Leadership;

/// Starts following; it ends with `stop`, or with Raft, and then says that nobody leads.
pub(crate) fn follow(raft: &Raft, stop: CancellationToken) -> watch::Receiver<Leadership> {
    let mut metrics = raft.server_metrics();
    let (now, seen) = watch::channel(leadership_of(&metrics.borrow_watched()));
    tokio::spawn(async move {
        loop {
            let next = leadership_of(&metrics.borrow_watched());
            update(&now, next);
            tokio::select! {
                () = stop.cancelled() => break,
                changed = metrics.changed() => if changed.is_err() {
                    break;
                },
            }
        }
        let term = now.borrow().term;
        update(&now, Leadership { term, is_leader: false, leader: None, since: Instant::now() });
    });
    seen
}

fn leadership_of(metrics: &RaftServerMetrics<TypeConfig>) -> Leadership {
    let is_leader = metrics.state == ServerState::Leader;
    let leader = metrics.current_leader.and_then(|leader| metrics.membership_config.get_node(&leader));
    Leadership {
        term: Term(metrics.vote.leader_id.term),
        is_leader,
        leader: leader.map(|node| node.addr.clone()),
        since: Instant::now(),
    }
}

fn update(now: &watch::Sender<Leadership>, next: Leadership) {
    let changed = now.send_if_modified(|now| {
        let changed = (now.term, now.is_leader, &now.leader) != (next.term, next.is_leader, &next.leader);
        if changed {
            *now = next;
        }
        changed
    });
    if changed {
        let now = now.borrow();
        tracing::info!(term = now.term.get(), is_leader = now.is_leader, leader = now.leader, "leadership changed");
    }
}
