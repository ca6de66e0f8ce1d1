//! One run of one seed: make the cluster, break things, heal, and judge.

use std::fmt;
use std::rc::Rc;
use std::time::{Duration, UNIX_EPOCH};

use cell_model::{Fleet, Revision};
use cell_store::Bounds;
use turmoil::Sim;

use crate::chance::Chance;
use crate::client::Client;
use crate::disk::PowerCut;
use crate::flaw::Flaw;
use crate::fleet;
use crate::front::{Answer, Ask, Connection};
use crate::history::Ending;
use crate::nemesis::{self, Act, CLIENT_HOSTS, Fault, Together};
use crate::node::{Machine, NODES};
use crate::oracle::{self, Rule, Violation};
use crate::stage::{Phase, SharedStage, Stage, now};
use crate::watcher::Watcher;

/// Each client host has as many of them.
const CLIENTS_PER_HOST: usize = 2;
/// The host from which the nodes are asked at the end. It is never cut off.
const JUDGE: &str = "judge";

/// When every run begins, after 1970.
pub(crate) const EPOCH: Duration = Duration::from_secs(1_700_000_000);

/// Before the first fault.
const MAKING: Duration = Duration::from_secs(3);
/// How long after healing the last client may need, and then nodes and watchers.
const HEALING_MAX: Duration = Duration::from_secs(10);
const SETTLING_MAX: Duration = Duration::from_secs(15);
/// Nodes that have not changed for so long have nothing under way.
const QUIET: Duration = Duration::from_secs(3);

/// How a run is set up.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// What everything follows from.
    pub seed: u64,
    /// How long things break, in simulated time.
    pub faults: Duration,
    /// A fault of the harness, to prove that it is seen.
    pub flaw: Option<Flaw>,
    /// Control nodes, router and cells, rather than the store alone.
    pub fleet: bool,
}

/// What came out of a run.
#[derive(Debug)]
pub struct Verdict {
    /// Broken promises; none where all is well.
    pub violations: Vec<Violation>,
    /// Hash of the trace.
    pub trace_hash: String,
    /// The trace itself.
    pub trace: Vec<String>,
    /// What has happened, in numbers.
    pub figures: String,
}

/// A run in numbers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Figures {
    /// Operations, reads included.
    pub(crate) operations: usize,
    /// Those of them that were answered.
    pub(crate) answered: usize,
    /// Those of them whose outcome stayed unknown.
    pub(crate) unknown: usize,
    /// Faults that began.
    pub(crate) faults: usize,
    /// The last revision.
    pub(crate) revision: u64,
    /// Snapshots that watchers got.
    pub(crate) snapshots: usize,
    /// Simulated time.
    pub(crate) simulated: Duration,
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} operations, {} answered, {} unknown, {} faults, revision {}, {} watch snapshots, {:.1} s simulated",
            self.operations,
            self.answered,
            self.unknown,
            self.faults,
            self.revision,
            self.snapshots,
            self.simulated.as_secs_f64()
        )
    }
}

/// Small enough that snapshots, purges and a forgetful watch all happen within one run.
pub(crate) fn bounds(seed: u64, flaw: Option<Flaw>) -> Bounds {
    let mut chance = Chance::of(seed, "bounds");
    let (snapshot_after, log_kept) = (chance.between(20, 150), chance.between(0, 60));
    let history_revisions = usize::try_from(chance.between(10, 400)).unwrap_or(10);
    // A snapshot would save what a lying disk has lost.
    let snapshot_after = if flaw == Some(Flaw::LyingDisk) { 1_000_000 } else { snapshot_after };
    Bounds { snapshot_after, log_kept, history_revisions, ..Bounds::default() }
}

/// The world of one run.
struct World<'a> {
    sim: Sim<'a>,
    machines: Vec<(&'static str, Rc<Machine>)>,
    stage: SharedStage,
    faults: usize,
}

/// Runs one seed. One process should run no more than one: libraries keep random sources for a thread.
#[must_use]
pub fn run(options: &Options) -> Verdict {
    if options.fleet {
        return fleet::run(options);
    }
    let mut world = World::new(options);
    let ended = world.play(options);
    world.verdict(ended)
}

impl World<'_> {
    fn new(options: &Options) -> Self {
        let stage = Stage::new(CLIENT_HOSTS.len());
        let mut sim = turmoil::Builder::new()
            .rng_seed(options.seed)
            .epoch(UNIX_EPOCH + EPOCH)
            .simulation_duration(MAKING + options.faults + HEALING_MAX + SETTLING_MAX)
            .min_message_latency(Duration::from_millis(1))
            .max_message_latency(Duration::from_millis(20))
            .tcp_capacity(4_096)
            .enable_random_order()
            .build();
        let bounds = bounds(options.seed, options.flaw);
        let mut machines = Vec::new();
        for name in NODES {
            let machine = Rc::new(Machine::new(options.seed, name, bounds, options.flaw));
            machines.push((name, Rc::clone(&machine)));
            sim.host(name, move || Rc::clone(&machine).run());
        }
        for (index, host) in CLIENT_HOSTS.into_iter().enumerate() {
            let clients = (0..CLIENTS_PER_HOST).map(|client| {
                let number = index * CLIENTS_PER_HOST + client;
                Client::new(options.seed, number, Rc::clone(&stage), options.flaw).run()
            });
            let clients = futures::future::join_all(clients);
            let watcher = Watcher::new(index, Rc::clone(&stage), options.flaw).run();
            sim.client(host, async {
                futures::future::join(clients, watcher).await;
                Ok(())
            });
        }
        sim.client(JUDGE, ask_the_nodes(Rc::clone(&stage)));
        Self { sim, machines, stage, faults: 0 }
    }

    /// Plays the plan to its end. Answers what has ended the run before.
    fn play(&mut self, options: &Options) -> Option<Violation> {
        let healed = MAKING + options.faults;
        let mut acts = nemesis::plan(&nemesis::STORE, options.seed, MAKING, healed);
        if options.flaw == Some(Flaw::DarkNode) {
            let [.., last] = NODES;
            acts.push(Act { at: healed, begins: true, fault: Fault::PowerOff(Together(vec![last])) });
        }
        let mut acts = acts.into_iter().peekable();
        loop {
            while let Some(act) = acts.next_if(|act| act.at <= self.sim.elapsed()) {
                self.act(&act);
            }
            let elapsed = self.sim.elapsed();
            self.stage.phase.set(match elapsed {
                early if early < MAKING => Phase::Making,
                early if early < healed => Phase::Faults,
                _ => Phase::Healed,
            });
            match self.sim.step() {
                Ok(true) => return None,
                Ok(false) => {}
                Err(error) => return Some(Violation { rule: Rule::NodesStayUp, detail: describe(&*error) }),
            }
            self.stage.trace.borrow_mut().count_messages(&self.sim);
            let clients = self.stage.clients_done.get();
            let late = elapsed > healed + HEALING_MAX && clients < CLIENT_HOSTS.len() * CLIENTS_PER_HOST;
            if late || elapsed + Duration::from_millis(10) > healed + HEALING_MAX + SETTLING_MAX {
                let detail = format!(
                    "{} s after healing {clients} clients have got through, {} nodes agree",
                    elapsed.saturating_sub(healed).as_secs(),
                    self.stage.finals.borrow().len()
                );
                return Some(Violation { rule: Rule::HealedIsLive, detail });
            }
        }
    }

    fn act(&mut self, act: &Act<Together>) {
        self.stage.trace.borrow_mut().note(self.sim.elapsed(), format_args!("{act}"));
        self.faults += usize::from(act.begins);
        match &act.fault {
            Fault::Network(fault) => {
                let hosts: Vec<_> = NODES.into_iter().chain(CLIENT_HOSTS).collect();
                fault.apply(act.begins, &hosts, &mut self.sim);
            }
            Fault::PowerOff(Together(nodes)) => {
                let cut = if nodes.len() == NODES.len() { PowerCut::All } else { PowerCut::Some };
                for (name, machine) in self.machines.iter().filter(|(name, _)| nodes.contains(name)) {
                    if act.begins {
                        self.sim.crash(*name);
                        machine.crash(cut);
                    } else {
                        self.sim.bounce(*name);
                    }
                }
            }
        }
    }

    fn verdict(self, ended: Option<Violation>) -> Verdict {
        let history = self.stage.history.borrow();
        let finals = self.stage.finals.borrow();
        let mut violations: Vec<Violation> = ended.into_iter().collect();
        violations.extend(oracle::judge(&history, &finals));
        let count = |wanted: fn(&Ending) -> bool| {
            history.operations.iter().filter(|operation| wanted(&operation.ending)).count()
        };
        let figures = Figures {
            operations: history.operations.len(),
            answered: count(|ending| matches!(ending, Ending::Answered(..) | Ending::Read(..))),
            unknown: count(|ending| *ending == Ending::Unknown),
            faults: self.faults,
            revision: finals.first().map_or(0, |fleet| fleet.head().revision.get()),
            snapshots: history.snapshots(),
            simulated: self.sim.elapsed(),
        };
        let trace = self.stage.trace.borrow();
        Verdict {
            violations,
            trace_hash: trace.hash(),
            trace: trace.lines().to_vec(),
            figures: figures.to_string(),
        }
    }
}

pub(crate) fn describe(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

/// Waits until all clients are through and the nodes have come to rest on the same revision, and takes what they hold.
async fn ask_the_nodes(stage: SharedStage) -> turmoil::Result {
    let mut before: Vec<Revision> = Vec::new();
    let mut since = now();
    loop {
        tokio::time::sleep(Duration::from_millis(100)).await;
        if stage.clients_done.get() < CLIENT_HOSTS.len() * CLIENTS_PER_HOST {
            continue;
        }
        let mut revisions = Vec::new();
        for node in NODES {
            revisions.extend(revision_of(node).await);
        }
        let level = revisions.iter().all(|revision| *revision == revisions[0]);
        if revisions != before || revisions.len() < NODES.len() || !level {
            stage.note(format_args!("{} nodes answer the judge, at {revisions:?}", revisions.len()));
            (before, since) = (revisions, now());
        } else if now() > since + QUIET {
            let last = revisions[0];
            let mut fleets = Vec::new();
            for node in NODES {
                fleets.extend(fleet_of(node).await);
            }
            if fleets.len() < NODES.len() {
                continue;
            }
            stage.note(format_args!("the nodes have come to rest at {last}"));
            *stage.finals.borrow_mut() = fleets;
            stage.last.set(Some(last));
            return Ok(());
        }
    }
}

async fn asked(node: &str, ask: Ask) -> Option<Answer> {
    const DEADLINE: Duration = Duration::from_millis(500);
    let mut connection = Connection::open(node, DEADLINE).await.ok()?;
    connection.ask(&ask, DEADLINE).await.ok()
}

async fn revision_of(node: &str) -> Option<Revision> {
    let Answer::Read(revision) = asked(node, Ask::Revision).await? else { return None };
    Some(revision)
}

async fn fleet_of(node: &str) -> Option<Fleet> {
    let Answer::Fleet(head, records, trail) = asked(node, Ask::Fleet).await? else {
        return None;
    };
    let mut fleet = Fleet::from_head(head);
    records.into_iter().for_each(|record| fleet.install(record));
    // A broken chain leaves the trail short: the nodes then do not agree with what was asked.
    trail.into_iter().try_for_each(|entry| fleet.restore_audit(entry)).ok();
    Some(fleet)
}
