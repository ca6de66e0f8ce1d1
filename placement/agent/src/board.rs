//! The board: what this cell grants, as every gate of the cell is told, and which gates may still be serving.
//!
//! A change of a grant is put on the board under the tenant's lock, so gates see changes in the order in which they
//! happened. A gate counts as able to serve from its hello until it is gone *and* its lease has run out. The lease
//! runs longer here than at the gate, because the gate counts from before it asked.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use cell_model::{Epoch, TenantId, Uid};
use cell_protos::v1 as wire;
use cell_trust::SignedMapping;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

/// Messages that may wait for a slow gate; beyond it the gate is cut off and comes again.
const QUEUE_MAX: usize = 4_096;
/// The newest holds of which it is remembered that a gate has quiesced for them: more than can be under way at once.
const HOLDS_MAX: usize = 4_096;

/// A tenant's grant, as gates see it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Posted {
    pub(crate) uid: Uid,
    pub(crate) epoch: Epoch,
    pub(crate) role: wire::Role,
    /// With Holding: its name and when it lapses.
    pub(crate) hold: Option<(u64, Instant)>,
    /// With Redirect.
    pub(crate) mapping: Option<SignedMapping>,
}

impl Posted {
    fn redirects(&self) -> bool {
        self.role == wire::Role::Redirect
    }
}

impl Posted {
    pub(crate) fn to_wire(&self, tenant: &TenantId, now: Instant) -> wire::TenantGrant {
        let remaining = self.hold.map(|(_, deadline)| deadline.saturating_duration_since(now).as_millis());
        wire::TenantGrant {
            tenant: tenant.to_string(),
            uid: self.uid.get(),
            epoch: self.epoch.get(),
            role: self.role.into(),
            hold_id: self.hold.map_or(0, |(id, _)| id),
            hold_remaining_ms: remaining.map_or(0, |ms| u32::try_from(ms).unwrap_or(u32::MAX)),
            mapping: self.mapping.as_ref().map(|signed| wire::SignedMapping {
                payload: signed.payload.clone().into(),
                key_id: signed.key_id.clone(),
                signature: signed.signature.clone().into(),
            }),
        }
    }
}

struct Gate {
    instance: String,
    address: String,
    outbox: Option<mpsc::Sender<wire::AgentMessage>>,
    lease_ends: Instant,
    /// Holds that it has quiesced for. Each for itself: a later one may be another tenant's.
    quiesced: BTreeSet<u64>,
    /// What holds waited for there when it last said so, by their names; and when that was.
    unquiesced: (BTreeMap<u64, wire::UnquiescedHold>, Instant),
}

impl Gate {
    /// Its name, and what a hold waits for there.
    fn told(&self, hold_id: u64) -> String {
        let (waits, said) = &self.unquiesced;
        let instance = &self.instance;
        let waits = waits.get(&hold_id).map(|waits| told(waits, said.elapsed()));
        match (waits, &self.outbox) {
            (Some(waits), Some(_)) => format!("{instance} ({waits})"),
            (Some(waits), None) => format!("{instance} (it has gone; before, {waits})"),
            (None, Some(_)) => instance.clone(),
            (None, None) => format!("{instance} (it has gone, and its lease lasts still)"),
        }
    }
}

/// What a hold waits for at a gate, for people.
fn told(waits: &wire::UnquiescedHold, since: Duration) -> String {
    let wire::UnquiescedHold { writes, oldest_ms, request_id, .. } = waits;
    let age = Duration::from_millis(u64::from(*oldest_ms)) + since;
    let which = if *writes == 1 { "a write under way for" } else { "writes under way, the oldest for" };
    let count = if *writes == 1 { String::new() } else { format!("{writes} ") };
    let request = if request_id.is_empty() { String::new() } else { format!(": request {request_id}") };
    format!("{count}{which} {} ms{request}", age.as_millis())
}

#[derive(Default)]
struct State {
    grants: BTreeMap<TenantId, Posted>,
    /// Of each tenant that is redirected: what gates have turned away since.
    stale: BTreeMap<TenantId, u64>,
    gates: BTreeMap<u64, Gate>,
    connections: u64,
    holds: u64,
}

/// See the module.
pub(crate) struct Board {
    state: Mutex<State>,
    // Changes whenever a gate comes, goes or quiesces.
    gates_changed: watch::Sender<u64>,
    lease: Duration,
}

impl Board {
    pub(crate) fn new(lease: Duration) -> Self {
        Self { state: Mutex::default(), gates_changed: watch::Sender::new(0), lease }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A name for a new hold, never used before in this process and higher than all before.
    pub(crate) fn next_hold(&self) -> u64 {
        let mut state = self.lock();
        state.holds += 1;
        state.holds
    }

    /// Tells every gate of a tenant's grant, if it changed.
    pub(crate) fn post(&self, tenant: &TenantId, posted: Posted) {
        let mut state = self.lock();
        if state.grants.get(tenant) == Some(&posted) {
            return;
        }
        let grants = wire::Grants { all: false, grants: vec![posted.to_wire(tenant, Instant::now())] };
        let (redirects, uid) = (posted.redirects(), posted.uid);
        let before = state.grants.insert(tenant.clone(), posted);
        if !redirects {
            state.stale.remove(tenant);
        } else if !before.is_some_and(|before| before.redirects() && before.uid == uid) {
            state.stale.insert(tenant.clone(), 0);
        }
        let message = wire::AgentMessage { message: Some(wire::agent_message::Message::Grants(grants)) };
        for gate in state.gates.values_mut() {
            // A gate that does not keep up is cut off: it counts until its lease ends.
            if gate.outbox.as_ref().is_some_and(|outbox| outbox.try_send(message.clone()).is_err()) {
                gate.outbox = None;
            }
        }
    }

    /// A gate has turned requests away that came under an older epoch. Counted are those of tenants that this cell
    /// redirects: no others can have come late.
    pub(crate) fn count_stale(&self, counts: &[wire::StaleCount]) {
        let mut state = self.lock();
        for count in counts {
            let Ok(tenant) = TenantId::new(&count.tenant) else { continue };
            let same = state.grants.get(&tenant).is_some_and(|posted| posted.uid.get() == count.uid);
            if let Some(counted) = state.stale.get_mut(&tenant).filter(|_| same) {
                *counted = counted.saturating_add(count.rejected);
            }
        }
    }

    /// How many that were.
    pub(crate) fn stale_rejected(&self, tenant: &TenantId) -> u64 {
        self.lock().stale.get(tenant).copied().unwrap_or_default()
    }

    /// What this cell is to a tenant.
    pub(crate) fn role(&self, tenant: &TenantId) -> Option<wire::Role> {
        self.lock().grants.get(tenant).map(|posted| posted.role)
    }

    /// What this cell is to each tenant.
    pub(crate) fn roles(&self) -> Vec<wire::Role> {
        self.lock().grants.values().map(|posted| posted.role).collect()
    }

    /// Every grant there is.
    pub(crate) fn grants(&self) -> Vec<wire::TenantGrant> {
        let now = Instant::now();
        self.lock().grants.iter().map(|(tenant, posted)| posted.to_wire(tenant, now)).collect()
    }

    /// A gate has come: its number, and its messages, the first of which is every grant.
    pub(crate) fn attach(&self, hello: wire::GateHello) -> (u64, mpsc::Receiver<wire::AgentMessage>) {
        let (outbox, inbox) = mpsc::channel(QUEUE_MAX);
        let mut state = self.lock();
        let now = Instant::now();
        let grants = state.grants.iter().map(|(tenant, posted)| posted.to_wire(tenant, now)).collect();
        let all = wire::agent_message::Message::Grants(wire::Grants { all: true, grants });
        outbox.try_send(wire::AgentMessage { message: Some(all) }).expect("the queue is new and empty");
        state.connections += 1;
        let connection = state.connections;
        let gate = Gate {
            instance: hello.instance,
            address: hello.address,
            outbox: Some(outbox),
            lease_ends: now,
            quiesced: BTreeSet::new(),
            unquiesced: (BTreeMap::new(), now),
        };
        state.gates.insert(connection, gate);
        drop(state);
        self.gates_changed.send_modify(|changes| *changes += 1);
        (connection, inbox)
    }

    /// A gate asks to go on serving.
    pub(crate) fn ping(&self, connection: u64, nonce: u64) {
        let mut state = self.lock();
        let ends = Instant::now() + self.lease;
        let Some(gate) = state.gates.get_mut(&connection) else { return };
        let lease_ms = u32::try_from(self.lease.as_millis()).unwrap_or(u32::MAX);
        let pong = wire::agent_message::Message::Pong(wire::GatePong { nonce, lease_ms });
        let Some(outbox) = &gate.outbox else { return };
        if outbox.try_send(wire::AgentMessage { message: Some(pong) }).is_ok() {
            gate.lease_ends = ends;
        }
    }

    /// What holds wait for at a gate. Once it says nothing any more, they have ended: what it has said last is the reason.
    pub(crate) fn waits(&self, connection: u64, unquiesced: Vec<wire::UnquiescedHold>) {
        if unquiesced.is_empty() {
            return;
        }
        if let Some(gate) = self.lock().gates.get_mut(&connection) {
            let holds = unquiesced.into_iter().take(HOLDS_MAX).map(|waits| (waits.hold_id, waits));
            gate.unquiesced = (holds.collect(), Instant::now());
        }
    }

    /// Every write that the gate let in before hold `hold_id` has finished.
    pub(crate) fn quiesced(&self, connection: u64, hold_id: u64) {
        if let Some(gate) = self.lock().gates.get_mut(&connection) {
            gate.quiesced.insert(hold_id);
            while gate.quiesced.len() > HOLDS_MAX {
                gate.quiesced.pop_first();
            }
        }
        self.gates_changed.send_modify(|changes| *changes += 1);
    }

    /// A gate's stream has ended. It may go on serving under its lease.
    pub(crate) fn detach(&self, connection: u64) {
        if let Some(gate) = self.lock().gates.get_mut(&connection) {
            gate.outbox = None;
        }
        self.gates_changed.send_modify(|changes| *changes += 1);
    }

    /// Changes whenever a gate comes, goes or quiesces.
    pub(crate) fn gates_changed(&self) -> watch::Receiver<u64> {
        self.gates_changed.subscribe()
    }

    /// `host:port` of every attached gate.
    pub(crate) fn addresses(&self) -> Vec<String> {
        let state = self.lock();
        let attached = state.gates.values().filter(|gate| gate.outbox.is_some());
        let mut addresses: Vec<String> = attached.map(|gate| gate.address.clone()).collect();
        addresses.sort();
        addresses.dedup();
        addresses
    }

    /// Instances that may still be running writes that they let in before hold `hold_id`, with what they have said of these, and
    /// when the last lease of those that are gone ends.
    fn waiting_for(&self, hold_id: u64) -> (Vec<String>, Option<Instant>) {
        let mut state = self.lock();
        let now = Instant::now();
        state.gates.retain(|_, gate| gate.outbox.is_some() || now < gate.lease_ends);
        let open: Vec<&Gate> = state.gates.values().filter(|gate| !gate.quiesced.contains(&hold_id)).collect();
        let ghosts = open.iter().filter(|gate| gate.outbox.is_none()).map(|gate| gate.lease_ends).max();
        (open.iter().map(|gate| gate.told(hold_id)).collect(), ghosts)
    }

    /// Returns when no gate runs a write that it let in before the hold; at the deadline, with those that may.
    pub(crate) async fn await_quiesced(&self, hold_id: u64, deadline: Instant) -> Result<(), Vec<String>> {
        let mut changed = self.gates_changed.subscribe();
        loop {
            changed.mark_unchanged();
            let (open, ghosts) = self.waiting_for(hold_id);
            if open.is_empty() {
                return Ok(());
            }
            let wake = ghosts.map_or(deadline, |ghosts| ghosts.min(deadline));
            tokio::select! {
                _ = changed.changed() => {}
                () = tokio::time::sleep_until(wake) => {}
            }
            if Instant::now() >= deadline {
                return Err(self.waiting_for(hold_id).0);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hello(instance: &str) -> wire::GateHello {
        wire::GateHello { instance: instance.into(), address: "127.0.0.1:1".into() }
    }

    #[tokio::test(start_paused = true)]
    async fn a_hold_is_quiesced_when_every_gate_has_said_so() {
        let board = Board::new(Duration::from_secs(1));
        let deadline = Instant::now() + Duration::from_millis(500);
        let (one, _inbox_one) = board.attach(hello("one"));
        let (two, _inbox_two) = board.attach(hello("two"));
        let hold = board.next_hold();
        board.quiesced(one, hold);
        assert_eq!(board.await_quiesced(hold, deadline).await, Err(vec!["two".to_owned()]));
        board.quiesced(two, hold);
        assert_eq!(board.await_quiesced(hold, Instant::now() + Duration::from_millis(1)).await, Ok(()));
        let next = board.next_hold();
        assert!(board.await_quiesced(next, Instant::now()).await.is_err(), "an older answer does not count");
    }

    #[tokio::test(start_paused = true)]
    async fn a_gate_that_has_quiesced_for_one_tenant_has_not_for_another() {
        let board = Board::new(Duration::from_secs(1));
        let (one, _inbox) = board.attach(hello("one"));
        let (slow, quick) = (board.next_hold(), board.next_hold());
        board.quiesced(one, quick);
        let soon = || Instant::now() + Duration::from_millis(1);
        assert_eq!(board.await_quiesced(quick, soon()).await, Ok(()));
        assert_eq!(board.await_quiesced(slow, soon()).await, Err(vec!["one".to_owned()]), "its writes still run");
        board.quiesced(one, slow);
        assert_eq!(board.await_quiesced(slow, soon()).await, Ok(()));
    }

    #[tokio::test(start_paused = true)]
    async fn a_hold_that_is_missed_says_what_each_gate_waits_for() {
        let board = Board::new(Duration::from_secs(1));
        let [one, two, three] = ["one", "two", "three"].map(|instance| board.attach(hello(instance)));
        let hold = board.next_hold();
        let waits = |hold_id, writes, request_id: &str| wire::UnquiescedHold {
            hold_id,
            writes,
            oldest_ms: 7_000,
            request_id: request_id.into(),
        };
        board.waits(one.0, vec![waits(hold, 1, "r-1"), waits(hold + 1, 9, "r-9")]);
        board.waits(two.0, vec![waits(hold, 3, "")]);
        tokio::time::advance(Duration::from_millis(200)).await;
        // Nothing any more: the hold is over there.
        board.waits(one.0, Vec::new());
        board.ping(three.0, 1);
        board.detach(three.0);
        let said = board.await_quiesced(hold, Instant::now() + Duration::from_millis(100)).await.unwrap_err();
        assert_eq!(
            said,
            [
                "one (a write under way for 7300 ms: request r-1)",
                "two (3 writes under way, the oldest for 7300 ms)",
                "three (it has gone, and its lease lasts still)",
            ]
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_gate_that_is_gone_counts_until_its_lease_ends() {
        let board = Board::new(Duration::from_secs(1));
        let (one, _inbox) = board.attach(hello("one"));
        board.ping(one, 1);
        board.detach(one);
        let hold = board.next_hold();
        let begun = Instant::now();
        assert!(board.await_quiesced(hold, begun + Duration::from_millis(900)).await.is_err());
        board.await_quiesced(hold, begun + Duration::from_secs(5)).await.unwrap();
        assert!(begun.elapsed() >= Duration::from_secs(1) && begun.elapsed() < Duration::from_secs(2));
    }

    #[tokio::test]
    async fn a_new_gate_is_told_everything_and_then_what_changes() {
        let board = Board::new(Duration::from_secs(1));
        let tenant = TenantId::new("t").unwrap();
        let posted =
            |epoch| Posted { uid: Uid(1), epoch: Epoch(epoch), role: wire::Role::Owner, hold: None, mapping: None };
        board.post(&tenant, posted(1));
        let (_, mut inbox) = board.attach(hello("one"));
        board.post(&tenant, posted(2));
        board.post(&tenant, posted(2));
        let mut seen = Vec::new();
        while let Ok(message) = inbox.try_recv() {
            if let Some(wire::agent_message::Message::Grants(grants)) = message.message {
                seen.push((grants.all, grants.grants[0].epoch));
            }
        }
        assert_eq!(seen, [(true, 1), (false, 2)]);
    }
}
