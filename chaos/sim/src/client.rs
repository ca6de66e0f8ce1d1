//! A client: one operation after another, each tried again with its request id until it is answered or time is up.

use std::time::Duration;

use cell_model::{Command, Envelope, RequestId, Revision, UnixMillis};

use crate::chance::Chance;
use crate::flaw::Flaw;
use crate::front::{Answer, Ask, Connection};
use crate::history::{Ending, Operation};
use crate::node::NODES;
use crate::stage::{Phase, SharedStage, now};
use crate::workload::Workload;

const CONNECT_DEADLINE: Duration = Duration::from_millis(400);
const ATTEMPT_DEADLINE: Duration = Duration::from_millis(1_500);
/// How long an operation is tried, in milliseconds: a client that gives up early leaves an unknown outcome behind.
const PATIENCE_MS: (u64, u64) = (100, 4_000);
/// In so many of a hundred operations the clock of whoever proposes it is put somewhere else,
const CLOCK_JUMPS: u64 = 3;
/// by up to so many milliseconds ahead of where it was at first, or back from there.
const CLOCK_OFF_MS: u64 = 24 * 3_600_000;

/// The wall clock of the leader that a client's commands are stamped by. No two agree.
#[derive(Debug)]
struct Clock {
    chance: Chance,
    ahead_ms: u64,
}

impl Clock {
    fn read(&mut self, now: Duration) -> UnixMillis {
        if self.chance.percent(CLOCK_JUMPS) {
            self.ahead_ms = self.chance.between(0, 2 * CLOCK_OFF_MS);
        }
        UnixMillis(u64::try_from(now.as_millis()).unwrap_or(u64::MAX).saturating_add(self.ahead_ms))
    }
}

/// One client.
#[derive(Debug)]
pub(crate) struct Client {
    number: usize,
    stage: SharedStage,
    flaw: Option<Flaw>,
    chance: Chance,
    clock: Clock,
    workload: Workload,
    node: usize,
    connection: Option<Connection>,
    requests: u128,
}

impl Client {
    pub(crate) fn new(seed: u64, number: usize, stage: SharedStage, flaw: Option<Flaw>) -> Self {
        Self {
            number,
            stage,
            flaw,
            chance: Chance::of(seed, &format!("client {number}")),
            clock: Clock { chance: Chance::of(seed, &format!("clock {number}")), ahead_ms: CLOCK_OFF_MS },
            workload: Workload::new(Chance::of(seed, &format!("workload {number}"))),
            node: number % NODES.len(),
            connection: None,
            requests: 0,
        }
    }

    /// Works until the faults are over, and then until a write has got through.
    pub(crate) async fn run(mut self) {
        while self.stage.phase.get() != Phase::Healed {
            let command = self.workload.next();
            self.operate(command).await;
            self.pause(5, 80).await;
        }
        loop {
            let command = self.workload.sure();
            if self.operate(Some(command)).await {
                break;
            }
            self.pause(20, 100).await;
        }
        self.stage.clients_done.set(self.stage.clients_done.get() + 1);
    }

    async fn pause(&mut self, low: u64, high: u64) {
        tokio::time::sleep(Duration::from_millis(self.chance.between(low, high))).await;
    }

    fn next_request(&mut self) -> RequestId {
        self.requests += 1;
        RequestId(((self.number as u128 + 1) << 64) | self.requests)
    }

    /// Does one operation and records it. Answers whether it was answered.
    async fn operate(&mut self, command: Option<Command>) -> bool {
        let begun = now();
        let at = self.clock.read(begun);
        let mut envelope =
            command.map(|command| Envelope { request_id: Some(self.next_request()), ..Envelope::new(at, command) });
        let patience = Duration::from_millis(self.chance.between(PATIENCE_MS.0, PATIENCE_MS.1));
        let mut may_have_run = false;
        let ending = loop {
            let ask = envelope.clone().map_or(Ask::Read, |envelope| Ask::Submit(Box::new(envelope)));
            match self.attempt(&ask).await {
                Some(Answer::Ran(reply)) => break Ending::Answered(reply, now()),
                Some(Answer::Read(revision)) => break Ending::Read(revision, now()),
                Some(Answer::NotRun(leader)) => self.turn_to(leader.as_deref()),
                Some(Answer::Unknown) => {
                    may_have_run = true;
                    self.turn_to(None);
                }
                Some(Answer::Fleet(..)) | None => {
                    may_have_run = true;
                    self.connection = None;
                    self.turn_to(None);
                }
            }
            if now() > begun + patience {
                break if may_have_run { Ending::Unknown } else { Ending::NotRun };
            }
            if may_have_run
                && self.flaw == Some(Flaw::CarelessRetry)
                && let Some(envelope) = &mut envelope
            {
                envelope.request_id = Some(self.next_request());
            }
            self.pause(10, 60).await;
        };
        self.record(Operation { client: self.number, envelope, begun, ending })
    }

    /// Asks the node of the moment. None where there was no answer.
    async fn attempt(&mut self, ask: &Ask) -> Option<Answer> {
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => match Connection::open(NODES[self.node], CONNECT_DEADLINE).await {
                Ok(connection) => connection,
                // Nothing was sent.
                Err(_) => return Some(Answer::NotRun(None)),
            },
        };
        let answer = connection.ask(ask, ATTEMPT_DEADLINE).await.ok()?;
        self.connection = Some(connection);
        Some(answer)
    }

    fn turn_to(&mut self, leader: Option<&str>) {
        let named = leader.and_then(|leader| NODES.iter().position(|node| leader.starts_with(node)));
        let next = named.unwrap_or((self.node + 1) % NODES.len());
        if next != self.node {
            self.node = next;
            self.connection = None;
        }
    }

    fn record(&mut self, mut operation: Operation) -> bool {
        if let Ending::Answered(reply, _) = &mut operation.ending {
            self.workload.learn(reply);
            if self.flaw == Some(Flaw::MisrecordingClient) && self.number == 0 {
                reply.revision = Revision(reply.revision.get() + 1);
            }
        }
        let answered = matches!(operation.ending, Ending::Answered(..) | Ending::Read(..));
        self.stage.note(format_args!(
            "client {} {:?} since {:.3}: {:?}",
            self.number,
            operation.envelope.as_ref().map(|envelope| &envelope.command),
            operation.begun.as_secs_f64(),
            operation.ending
        ));
        self.stage.history.borrow_mut().operations.push(operation);
        answered
    }
}
