//! One run of one seed with the whole fleet.

use std::collections::BTreeMap;
use std::fmt;
use std::rc::Rc;
use std::sync::PoisonError;
use std::time::{Duration, UNIX_EPOCH};

use cell_chaos::sights::Sights;
use turmoil::Sim;

use super::aim::Aim;
use super::machine::{CellMachine, ControlMachine, Machine, RouterMachine, cells};
use super::nemesis::{LANES, Whom, hosts};
use super::script::{self, Image, Scene};
use super::{FIELD, ROUTER};
use crate::nemesis::{self, Act, Fault};
use crate::node::NODES;
use crate::oracle::{Rule, Violation};
use crate::run::{EPOCH, Options, Verdict, bounds, describe};
use crate::stage::Phase;

/// How long making the fleet may take, and how long after healing everything has to be through.
const MAKING_MAX: Duration = Duration::from_secs(30);
const HEALING_MAX: Duration = Duration::from_secs(60);

/// A run in numbers.
#[derive(Debug, Default)]
struct Figures {
    operations: usize,
    acknowledged: u64,
    unknown: u64,
    failed: usize,
    faults: usize,
    ended: BTreeMap<String, usize>,
    attempts: u32,
    held: usize,
    looks: usize,
    simulated: Duration,
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ends = |end: &str| self.ended.get(end).copied().unwrap_or(0);
        let moves: usize = self.ended.values().sum();
        write!(
            f,
            "{} operations, {} writes acknowledged, {} unknown, {} failed, {} faults, {moves} moves of which {} \
             completed, {} attempts, {} writes held in the last, {} looks, {:.1} s simulated",
            self.operations,
            self.acknowledged,
            self.unknown,
            self.failed,
            self.faults,
            ends("completed"),
            self.attempts,
            self.held,
            self.looks,
            self.simulated.as_secs_f64()
        )
    }
}

struct World<'a> {
    sim: Sim<'a>,
    machines: Vec<Rc<dyn Machine>>,
    controls: Vec<Rc<ControlMachine>>,
    cells: Vec<Rc<CellMachine>>,
    /// Who is without power, by who was to be.
    down: BTreeMap<Whom, &'static str>,
    scene: Rc<Scene>,
    aim: Aim,
    faults: usize,
}

/// Runs one seed. One process should run no more than one: libraries keep random sources for a thread.
pub(crate) fn run(options: &Options) -> Verdict {
    #[cfg(feature = "planted")]
    if options.flaw == Some(crate::Flaw::ReusedUid) {
        // Every host of a simulation is on this thread.
        cell_model::planted::reuse_uids();
    }
    let mut world = World::new(options);
    let ended = world.play(options);
    world.verdict(ended)
}

impl World<'_> {
    fn new(options: &Options) -> Self {
        let scene = Rc::new(Scene::default());
        let mut sim = turmoil::Builder::new()
            .rng_seed(options.seed)
            .epoch(UNIX_EPOCH + EPOCH)
            .simulation_duration(MAKING_MAX + options.faults + HEALING_MAX)
            .min_message_latency(Duration::from_millis(1))
            .max_message_latency(Duration::from_millis(12))
            .tcp_capacity(4_096)
            .enable_random_order()
            .build();
        let mut machines: Vec<Rc<dyn Machine>> = Vec::new();
        let mut controls = Vec::new();
        for name in NODES {
            let machine = Rc::new(ControlMachine::new(options.seed, name, bounds(options.seed, None)));
            controls.push(Rc::clone(&machine));
            machines.push(Rc::clone(&machine) as Rc<dyn Machine>);
            sim.host(name, move || Rc::clone(&machine).run());
        }
        let cells = cells(options.seed, options.flaw);
        for machine in &cells {
            let machine = Rc::clone(machine);
            machines.push(Rc::clone(&machine) as Rc<dyn Machine>);
            sim.host(machine.name(), move || Rc::clone(&machine).run());
        }
        let router = Rc::new(RouterMachine::new(options.seed));
        machines.push(Rc::clone(&router) as Rc<dyn Machine>);
        sim.host(ROUTER, move || Rc::clone(&router).run());
        sim.client(FIELD, script::play(options.seed, options.flaw, Rc::clone(&scene)));
        Self { sim, machines, controls, cells, down: BTreeMap::new(), scene, aim: Aim::Waits, faults: 0 }
    }

    /// Plays the plan to its end. Answers what has ended the run before.
    fn play(&mut self, options: &Options) -> Option<Violation> {
        let mut acts = Vec::new().into_iter().peekable();
        let mut healed = MAKING_MAX;
        loop {
            let elapsed = self.sim.elapsed();
            // The fleet is made when the script says so, not before.
            if self.scene.phase.get() == Some(Phase::Faults) && healed == MAKING_MAX {
                healed = elapsed + options.faults;
                acts = nemesis::plan(&LANES, options.seed, elapsed, healed).into_iter().peekable();
            }
            while let Some(act) = acts.next_if(|act: &Act<Whom>| act.at <= elapsed) {
                self.act(&act);
            }
            if self.scene.phase.get() == Some(Phase::Faults) && elapsed >= healed {
                self.scene.phase.set(Some(Phase::Healed));
                self.scene.trace.borrow_mut().heal(elapsed);
            }
            if self.scene.phase.get() == Some(Phase::Faults) {
                self.aim(elapsed, healed);
            }
            if let Some((cell, image)) = self.scene.image.take() {
                self.clone_disk(cell, image);
            }
            match self.sim.step() {
                Ok(true) => return None,
                Ok(false) => {}
                Err(error) => return Some(Violation { rule: Rule::NodesStayUp, detail: describe(&*error) }),
            }
            self.scene.trace.borrow_mut().count_messages(&self.sim);
            let waits = self.scene.phase.get().is_none();
            let limit = if waits { MAKING_MAX } else { healed + HEALING_MAX };
            if elapsed + Duration::from_millis(10) > limit {
                let waiting_for = self.scene.waiting_for.borrow();
                let over = elapsed.saturating_sub(healed).as_secs();
                let detail = format!("{over} s after healing the field still waits for {waiting_for}");
                return Some(Violation { rule: Rule::HealedIsLive, detail });
            }
        }
    }

    fn act(&mut self, act: &Act<Whom>) {
        self.scene.trace.borrow_mut().note(self.sim.elapsed(), format_args!("{act}"));
        self.faults += usize::from(act.begins);
        match &act.fault {
            Fault::Network(fault) => fault.apply(act.begins, &hosts(), &mut self.sim),
            Fault::PowerOff(whom) if act.begins => self.power_off(*whom),
            Fault::PowerOff(whom) => {
                if let Some(name) = self.down.remove(whom) {
                    self.sim.bounce(name);
                }
            }
        }
    }

    fn aim(&mut self, now: Duration, until: Duration) {
        let leader = self.controls.iter().find(|node| node.leads()).map(Rc::as_ref);
        if let Some((cell, begins)) = self.aim.look((now, until), leader, &mut self.sim) {
            self.faults += usize::from(begins);
            let how = if begins {
                "is fenced, and hears nothing of the commit"
            } else {
                "hears of the control plane again"
            };
            self.scene.trace.borrow_mut().note(now, format_args!("nemesis: {cell} {how}"));
        }
    }

    fn power_off(&mut self, whom: Whom) {
        let leader = || self.controls.iter().find(|node| node.leads()).map_or(NODES[0], |node| node.name());
        let name = match whom {
            Whom::Leader => leader(),
            Whom::Host(name) => name,
        };
        self.down.insert(whom, name);
        self.sim.crash(name);
        for machine in self.machines.iter().filter(|machine| machine.name() == name) {
            machine.crash();
        }
        self.scene.trace.borrow_mut().note(self.sim.elapsed(), format_args!("nemesis: {name} is down"));
    }

    /// Takes an image of a cell's disk, or starts the cell from it.
    fn clone_disk(&mut self, cell: &'static str, image: Image) {
        self.scene.trace.borrow_mut().note(self.sim.elapsed(), format_args!("nemesis: image of {cell} {image:?}"));
        let Some(machine) = self.cells.iter().find(|machine| machine.name() == cell) else { return };
        match image {
            Image::Taken => machine.take_image(),
            Image::PutBack => {
                self.sim.crash(cell);
                machine.put_image_back();
                self.sim.bounce(cell);
            }
        }
    }

    fn verdict(self, ended: Option<Violation>) -> Verdict {
        let (end, moves) = (self.scene.end.take(), self.scene.moves.take());
        let mut violations = Vec::new();
        if end.is_none() {
            // Why it has not come to its end, perhaps.
            let looks = self.scene.looks.borrow();
            violations = broken(&looks.lock().unwrap_or_else(PoisonError::into_inner));
        }
        violations.extend(ended);
        let mut figures = Figures {
            faults: self.faults,
            ended: moves.ended,
            attempts: moves.attempts,
            simulated: self.sim.elapsed(),
            ..Figures::default()
        };
        let mut trace = self.scene.trace.borrow_mut();
        if let Some(end) = end {
            for op in &end.ops {
                trace.note(Duration::from_micros(op.returned), format_args!("{op:?}"));
            }
            figures.operations = end.ops.len();
            figures.acknowledged = end.findings.acked_writes;
            figures.unknown = end.findings.unknown_writes;
            figures.failed = end.ops.iter().filter(|op| op.failed).count();
            figures.held = end.last.writes_held;
            let wrong = |rule: Rule| move |detail: String| Violation { rule, detail };
            violations.extend(end.findings.faults.iter().map(|fault| {
                let (kind, tenant, object) = (fault.kind.as_str(), &fault.tenant, &fault.object);
                wrong(Rule::WritesAreKept)(format!("{kind}: {object} of {tenant}: {}", fault.detail))
            }));
            violations.extend(end.silent.into_iter().map(|tenant| {
                let detail = format!("no write of {tenant} was acknowledged that was sent after all faults");
                wrong(Rule::HealedIsLive)(detail)
            }));
            violations.extend(end.mismatches.into_iter().map(wrong(Rule::OneOwner)));
            violations.extend(end.obeyed.into_iter().map(wrong(Rule::InvariantsHold)));
            figures.looks = end.sights.looks();
            violations.extend(broken(&end.sights));
            if figures.looks == 0 {
                violations.push(wrong(Rule::InvariantsHold)("nobody could be looked at".into()));
            }
        }
        Verdict {
            violations,
            trace_hash: trace.hash(),
            trace: trace.lines().to_vec(),
            figures: figures.to_string(),
        }
    }
}

/// What looks have found.
fn broken(sights: &Sights) -> Vec<Violation> {
    let seen = sights.broken().iter().flat_map(|(id, seen)| seen.iter().map(move |one| format!("{id}: {one}")));
    seen.map(|detail| Violation { rule: Rule::InvariantsHold, detail }).collect()
}
