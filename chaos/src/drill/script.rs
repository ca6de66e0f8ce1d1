//! The acts of a script, one after the other, each noted with its time.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use cell_client::{ClientError, ControlClient, WriteOptions};
use cell_model::{NewTenant, TenantId, Tier};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::clocks::Clocks;
use super::database::Databases;
use super::disk::NodeDisk;
use super::engine::{Tell, Told};
use super::evidence::{Answered, Evidence, Sample};
use super::keys::Keys;
use super::steer::Moves;
use super::syscalls::Injection;
use super::whom::{joined, pairs};
use super::{Act, Who};
use crate::clock::Micros;
use crate::fleet::{Fleet, Observer, fetch};
use crate::link::Condition;
use crate::load::{Load, Running};
use crate::seed::Choices;
use crate::sights::Looking;

const REDIRECTS: &str = "cell_router_stale_redirects";
const REPLAYS: &str = "cell_router_replays";
const RETRIES_DENIED: &str = "cell_router_retries_denied";
/// How long a phase, an election, a readiness may take.
pub(super) const REACH_WITHIN: Duration = Duration::from_secs(25);

/// Everything that the acts of one drill have in common.
pub(super) struct Runner {
    pub(super) fleet: Fleet,
    pub(super) control: ControlClient,
    pub(super) load: Load,
    pub(super) moves: Moves,
    pub(super) evidence: Evidence,
    pub(super) choices: Choices,
    pub(super) tell: Tell,
    pub(super) victim: Option<String>,
    pub(super) disk: Option<NodeDisk>,
    pub(super) injections: BTreeMap<String, Injection>,
    pub(super) clocks: Option<Clocks>,
    pub(super) keys: Option<Keys>,
    pub(super) databases: Databases,
    pub(super) crowds: Vec<Running>,
    pub(super) stutters: BTreeMap<String, (CancellationToken, JoinHandle<()>)>,
    pub(super) looking: Option<Looking>,
    pub(super) sampling: Option<(CancellationToken, JoinHandle<Vec<Sample>>)>,
}

/// Something that did not come about, as a sentence.
pub(super) type Trouble = String;

pub(super) fn said(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

impl Runner {
    pub(super) fn part(&self, part: String) {
        (self.tell)(Told::Part(part));
    }

    pub(super) fn trouble(&mut self, trouble: String) {
        (self.tell)(Told::Act(format!("✗ {trouble}")));
        self.evidence.trouble.push(trouble);
    }

    /// Does one thing. What cannot be done is noted and fails the drill.
    pub(super) async fn act(&mut self, act: &Act) {
        if let Err(trouble) = self.try_act(act).await {
            self.trouble(trouble);
        }
    }

    async fn try_act(&mut self, act: &Act) -> Result<(), Trouble> {
        match act {
            Act::Wait(about_ms) => {
                let ms = self.choices.between(about_ms * 9 / 10, about_ms * 11 / 10);
                tokio::time::sleep(Duration::from_millis(ms)).await;
                Ok(())
            }
            Act::Cut(..) | Act::CutOneWay(..) | Act::Shape(..) | Act::Narrow(..) | Act::Heal => {
                self.network(act).await
            }
            Act::Freeze(..)
            | Act::Thaw(_)
            | Act::Stutter { .. }
            | Act::Steady(_)
            | Act::Kill(_)
            | Act::Start(_)
            | Act::Restart(_) => self.process(act).await,
            Act::FillDisk(_)
            | Act::EmptyDisk(_)
            | Act::Syncs(..)
            | Act::Mend(_)
            | Act::Fall(_)
            | Act::CutPower(_)
            | Act::Clock(..)
            | Act::StartAhead(..) => self.machine(act).await,
            Act::Crowd(group, clients) => {
                let tenants: Vec<_> = self.evidence.members(*group).into_iter().cloned().collect();
                let label = format!("{clients} more clients of {} tenants, without a pause", tenants.len());
                self.open("clients", &label);
                let crowd = tenants.iter().map(|home| self.load.focus(&home.name, *clients, 0, Duration::ZERO));
                self.crowds = crowd.collect();
                Ok(())
            }
            Act::Disperse => {
                futures::future::join_all(std::mem::take(&mut self.crowds).into_iter().map(Running::stop)).await;
                self.close("clients", None);
                Ok(())
            }
            Act::LockRows(_) | Act::TakeSessions(_) | Act::LetGo | Act::KillDatabase(_) | Act::StartDatabase(_) => {
                self.database(act).await
            }
            Act::DisableKey(tenant) => self.disable_key(*tenant),
            Act::EnableKey(tenant) => {
                let name = self.evidence.homes[*tenant].name.clone();
                self.enable_key(&name)
            }
            Act::Move { .. }
            | Act::Resume
            | Act::Reach(_)
            | Act::Settle
            | Act::Moves(_)
            | Act::Haunt(_)
            | Act::InSync
            | Act::Rest
            | Act::TakeOver { .. } => self.movement(act).await,
            Act::Meet { tenant, phase, way, blow } => self.meet(*tenant, *phase, *way, *blow).await,
            Act::Command => self.command().await,
            Act::Forbidden { tenant, to, code } => {
                let what = format!("move {} to {}", self.evidence.homes[*tenant].name, self.moves.cell(*to));
                let (at, began) = (self.now(), Instant::now());
                let answer = self.moves.begin(*tenant, *to, None).await.map(|_| ());
                self.note_answer(what, at, began, &answer, code, None);
                Ok(())
            }
            Act::Elect => self.elect().await,
            Act::HandOver(who) => self.hand_over(*who).await,
            Act::Aim => self.names(Who::Leader).await.map(|_| ()),
        }
    }

    pub(super) async fn network(&mut self, act: &Act) -> Result<(), Trouble> {
        match act {
            Act::Cut(one, other) => self.cut(*one, *other, true).await,
            Act::CutOneWay(from, to) => self.cut(*from, *to, false).await,
            Act::Shape(one, other, condition) => self.shape(*one, *other, *condition).await,
            Act::Narrow(who, bytes_per_second) => {
                let all = self.fleet.names();
                let whom = self.names(*who).await?;
                self.open(
                    "network",
                    &format!("{} sends at most {bytes_per_second} bytes a second", whom.join(", ")),
                );
                for name in &whom {
                    let narrowed = self.fleet.wiring.narrow(name, &all, *bytes_per_second).await;
                    narrowed.map_err(|error| said(&error))?;
                }
                Ok(())
            }
            _ => {
                // Counted before the lanes are as they were; healed though nothing could be counted.
                let slowed = self.fleet.wiring.slowed_bytes().await;
                self.fleet.wiring.heal().await.map_err(|error| said(&error))?;
                self.close("network", None);
                self.evidence.slowed_bytes = self.evidence.slowed_bytes.max(slowed.map_err(|error| said(&error))?);
                Ok(())
            }
        }
    }

    async fn cut(&mut self, one: Who, other: Who, both: bool) -> Result<(), Trouble> {
        if other == Who::Leader {
            // Who the others are depends on who leads.
            self.names(other).await?;
        }
        let (from, to) = (self.names(one).await?, self.names(other).await?);
        let arrow = if both { "⇎" } else { "⇏" };
        for (a, b) in pairs(&from, &to) {
            self.fleet.wiring.cut(a, b).await.map_err(|error| said(&error))?;
            if both {
                self.fleet.wiring.cut(b, a).await.map_err(|error| said(&error))?;
            }
        }
        self.open("network", &format!("{} {arrow} {}", joined(&from), joined(&to)));
        Ok(())
    }

    async fn shape(&mut self, one: Who, other: Who, condition: Condition) -> Result<(), Trouble> {
        let (from, to) = (self.names(one).await?, self.names(other).await?);
        for (a, b) in pairs(&from, &to) {
            for (a, b) in [(a, b), (b, a)] {
                self.fleet.wiring.shape(a, b, condition).await.map_err(|error| said(&error))?;
            }
        }
        let (delay, jitter, loss) =
            (condition.delay.as_millis(), condition.jitter.as_millis(), condition.loss_percent);
        let late = if jitter == 0 { delay.to_string() } else { format!("{delay}–{}", delay + jitter) };
        let how = if loss == 0 { format!("{late} ms late") } else { format!("{late} ms late, {loss} % lost") };
        self.open("network", &format!("{} ⇄ {}: {how}", joined(&from), joined(&to)));
        Ok(())
    }

    pub(super) async fn process(&mut self, act: &Act) -> Result<(), Trouble> {
        let (Act::Freeze(who)
        | Act::Thaw(who)
        | Act::Stutter { who, .. }
        | Act::Steady(who)
        | Act::Kill(who)
        | Act::Start(who)
        | Act::Restart(who)) = act
        else {
            return Ok(());
        };
        for name in self.names(*who).await? {
            match act {
                Act::Freeze(_) => {
                    self.fleet.processes.roster().freeze(&name).map_err(|error| said(&error))?;
                    self.open("process", &format!("{name} stands still"));
                }
                Act::Thaw(_) => {
                    self.fleet.processes.roster().thaw(&name).map_err(|error| said(&error))?;
                    self.close("process", Some(&name));
                }
                Act::Stutter { run_ms, stop_ms, .. } => self.stutter(&name, *run_ms, *stop_ms),
                Act::Steady(_) => self.steady(&name).await,
                Act::Kill(_) => {
                    self.fleet.processes.kill(&name).await.map_err(|error| said(&error))?;
                    self.open("process", &format!("{name} is killed"));
                }
                Act::Start(_) => {
                    self.fleet.processes.start_again(&name).map_err(|error| said(&error))?;
                    self.close("process", Some(&name));
                }
                _ => self.restart(&name).await?,
            }
        }
        Ok(())
    }

    fn stutter(&mut self, name: &str, run_ms: u64, stop_ms: u64) {
        let (stop, roster, whom) =
            (CancellationToken::new(), self.fleet.processes.roster().clone(), name.to_owned());
        let ended = stop.clone();
        let task = tokio::spawn(async move {
            while !ended.is_cancelled() {
                // Killed meanwhile: then there is nobody to freeze.
                let _ = roster.freeze(&whom);
                tokio::time::sleep(Duration::from_millis(stop_ms)).await;
                let _ = roster.thaw(&whom);
                tokio::time::sleep(Duration::from_millis(run_ms)).await;
            }
        });
        self.open("process", &format!("{name} runs {run_ms} of {} ms", run_ms + stop_ms));
        self.stutters.insert(name.to_owned(), (stop, task));
    }

    async fn steady(&mut self, name: &str) {
        if let Some((stop, task)) = self.stutters.remove(name) {
            stop.cancel();
            if let Err(error) = task.await {
                tracing::error!(%error, "a stutter has ended badly");
            }
            self.close("process", Some(name));
        }
    }

    async fn restart(&mut self, name: &str) -> Result<(), Trouble> {
        let index = self.fleet.routers.iter().position(|router| router.name == name);
        let index = index.ok_or("only a router is restarted")?;
        let admin = self.fleet.routers[index].admin.clone();
        self.open("process", &format!("{name} restarts"));
        self.load.withdraw(index);
        // What clients have sent already is answered first.
        tokio::time::sleep(Duration::from_millis(300)).await;
        let ended = self.fleet.processes.stop(name, Duration::from_secs(8)).await.map_err(|error| said(&error))?;
        if !ended {
            self.trouble(format!("{name} did not end when it was asked to"));
        }
        self.fleet.processes.start_again(name).map_err(|error| said(&error))?;
        let began = Instant::now();
        while let Err(reason) = fetch(&admin, "/readyz").await {
            if began.elapsed() > REACH_WITHIN {
                return Err(format!(
                    "{name} is not ready {} s after its restart: {reason}",
                    REACH_WITHIN.as_secs()
                ));
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        self.load.admit(index);
        self.close("process", Some(name));
        Ok(())
    }

    async fn movement(&mut self, act: &Act) -> Result<(), Trouble> {
        match act {
            Act::Move { tenant, to, until } => {
                let name = self.evidence.homes[*tenant].name.clone();
                let id = self.moves.begin(*tenant, *to, *until).await;
                let id = id.map_err(|error| format!("the move of {name} was refused: {}", said(&error)))?;
                self.mark(&format!("{id}: {name} to {}", self.moves.cell(*to)));
            }
            Act::Resume => self.moves.resume().await.map_err(|error| said(&error))?,
            Act::Reach(phase) => {
                let reached = self.moves.reach(*phase, REACH_WITHIN).await;
                if !reached {
                    return Err(format!("the move did not come to {}", phase.as_str()));
                }
            }
            Act::InSync => {
                let has_everything = self.moves.in_sync(REACH_WITHIN).await;
                if !has_everything {
                    return Err("the target does not hold everything".into());
                }
            }
            Act::Rest => {
                let rests = self.moves.rests(REACH_WITHIN).await;
                if !rests {
                    return Err("the move does not rest where it was to stop".into());
                }
            }
            Act::TakeOver { tenant, to } => {
                let taken = self.moves.take_over(*tenant, *to, REACH_WITHIN).await;
                let taken = taken.map_err(|error| format!("the takeover was refused: {}", said(&error)))?;
                let how = if taken.lossless { "nothing is missing" } else { "writes may be missing" };
                self.mark(&format!("{} takes over in {}: {how}", taken.target, taken.move_id));
            }
            Act::Settle => self.moves.settle().await,
            Act::Moves(count) => {
                self.mark(&format!("{count} moves"));
                let trouble = self.moves.many(*count).await;
                self.mark("the moves have ended");
                self.evidence.trouble.extend(trouble);
            }
            Act::Haunt(tenant) => {
                let gates = self.fleet.cells.iter().map(|cell| (cell.id.clone(), cell.gates.clone())).collect();
                if !self.moves.haunt(*tenant, &gates) {
                    return Err("there is nobody to haunt: the tenant has not moved".into());
                }
            }
            _ => {}
        }
        Ok(())
    }

    async fn command(&mut self) -> Result<(), Trouble> {
        let number = self.evidence.commands.len() + 1;
        let name = format!("made-{number}");
        let tenant = NewTenant {
            id: TenantId::new(&name).expect("letters, a hyphen and digits are a label"),
            cell: Some(self.moves.cell(self.fleet.cells.len() - 1)),
            tier: Tier::Bronze,
            residency: String::new(),
        };
        let (at, began) = (self.now(), Instant::now());
        let answer = self.control.create_tenant(tenant, WriteOptions::default()).await.map(|_| ());
        self.note_answer(format!("create tenant {name}"), at, began, &answer, "", Some(name));
        Ok(())
    }

    fn note_answer(
        &mut self,
        what: String,
        at: Micros,
        began: Instant,
        answer: &Result<(), ClientError>,
        wanted: &str,
        made: Option<String>,
    ) {
        let took_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
        let code = answer.as_ref().err().map(|error| error.code().to_owned()).unwrap_or_default();
        let shown = if code.is_empty() { "done" } else { &code };
        self.mark(&format!("{what}: {shown} after {took_ms} ms"));
        let wanted = wanted.to_owned();
        self.evidence.commands.push(Answered { what, at, took_ms, code, wanted, made, kept: false });
    }

    pub(super) async fn elect(&mut self) -> Result<(), Trouble> {
        let began = Instant::now();
        let observer = self.fleet.observer();
        while began.elapsed() < REACH_WITHIN {
            if let Some(leader) = leader_of(&observer, self.victim.as_deref()).await {
                let ms = began.elapsed().as_millis();
                self.mark(&format!("{leader} leads, {ms} ms later"));
                self.evidence.elections.push(leader);
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Err(format!("nobody else leads {} s later", REACH_WITHIN.as_secs()))
    }

    /// Ends whatever the script has left open, so that recovery begins from here.
    pub(super) async fn end_faults(&mut self) {
        for name in self.stutters.keys().cloned().collect::<Vec<_>>() {
            self.steady(&name).await;
        }
        for name in self.injections.keys().cloned().collect::<Vec<_>>() {
            self.mend(&name).await;
        }
        self.set_clocks_right();
        self.enable_all_keys();
        self.let_go_of_databases().await;
        let mut acts = vec![Act::Heal];
        if !self.crowds.is_empty() {
            acts.push(Act::Disperse);
        }
        for act in &acts {
            self.act(act).await;
        }
        let names = self.fleet.names();
        for name in names {
            // Going on is no matter to a process that runs.
            let _ = self.fleet.processes.roster().thaw(&name);
        }
        self.close_all();
        self.evidence.swallowed = self.fleet.wiring.swallowed().await.unwrap_or(0);
        (self.evidence.lost_pieces, self.evidence.overtaken) = self.fleet.wiring.disorder();
    }

    /// Lets moves and haunts come to their ends.
    pub(super) async fn finish_moves(&mut self) {
        self.moves.settle().await;
        self.moves.lay_ghosts().await;
        self.evidence.moving = self.moves.tenants();
        self.evidence.moves = self.moves.traces();
    }

    /// What can be asked only when everything is healed.
    pub(super) async fn look_at_the_end(&mut self) {
        let observer = self.fleet.observer();
        let began = Instant::now();
        loop {
            for node in &observer.controls {
                if let Ok(status) = observer.status(node, Duration::from_secs(1)).await {
                    self.evidence.revisions.insert(node.name.clone(), status.revision);
                }
            }
            let revisions: Vec<u64> = self.evidence.revisions.values().copied().collect();
            let agreed =
                revisions.len() == observer.controls.len() && revisions.windows(2).all(|two| two[0] == two[1]);
            if agreed || began.elapsed() > Duration::from_secs(5) {
                break;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        for router in &self.fleet.routers {
            match router.counter(REDIRECTS).await {
                Ok(count) => self.evidence.redirects += count,
                Err(error) => self.evidence.trouble.push(format!("{} says nothing: {error}", router.name)),
            }
            // Whoever could not be asked has been named.
            self.evidence.replays.0 += router.counter(REPLAYS).await.unwrap_or(0);
            self.evidence.replays.1 += router.counter(RETRIES_DENIED).await.unwrap_or(0);
        }
        for answered in &mut self.evidence.commands {
            let Some(id) = answered.made.as_ref().and_then(|name| TenantId::new(name).ok()) else { continue };
            answered.kept = self.control.get_tenant(&id).await.is_ok();
        }
        for (name, status) in self.fleet.processes.fallen() {
            self.evidence.trouble.push(format!("{name} has ended by itself ({status})"));
        }
    }
}

async fn leader_of(observer: &Observer, but: Option<&str>) -> Option<String> {
    for node in observer.controls.iter().filter(|node| Some(node.name.as_str()) != but) {
        let status = observer.status(node, Duration::from_millis(500)).await;
        if status.is_ok_and(|status| status.is_leader) {
            return Some(node.name.clone());
        }
    }
    None
}
