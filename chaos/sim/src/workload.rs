//! What clients ask for: few names, so that they meet, and all kinds of commands, moves included.

use cell_model::{
    CellId, CellState, CellTraits, Command, Event, Generation, Leg, Limits, MoveId, MoveIntent, MoveOptions,
    NewCell, NewTenant, Outcome, Reply, TenantId, Tier, Uid,
};

use crate::chance::Chance;

const CELLS: u64 = 6;
const TENANTS: u64 = 80;
/// How many answers a client remembers to build on.
const REMEMBERED: usize = 8;

/// A tenant as an earlier answer has named it.
#[derive(Debug, Clone)]
struct Known {
    tenant: TenantId,
    uid: Uid,
    move_id: Option<MoveId>,
}

/// One client's choice of commands.
#[derive(Debug)]
pub(crate) struct Workload {
    chance: Chance,
    known: Vec<Known>,
}

impl Workload {
    pub(crate) const fn new(chance: Chance) -> Self {
        Self { chance, known: Vec::new() }
    }

    /// What to do next: a command, or a linearizable read.
    pub(crate) fn next(&mut self) -> Option<Command> {
        Some(match self.chance.between(0, 99) {
            0..15 => return None,
            15..22 => self.create_cell(),
            22..30 => Command::SetCellState { cell: self.cell(), state: self.state() },
            30..36 => Command::ReportCell {
                partial: false,
                cell: self.cell(),
                generation: Generation(self.chance.between(1, 50)),
                gates: vec![format!("10.0.0.1:{}", self.chance.between(1_000, 9_000))],
                agent: "10.0.0.1:9".into(),
            },
            36..55 => self.create_tenant(),
            55..60 => Command::DeleteTenant { tenant: self.tenant() },
            60..75 => self.event().unwrap_or_else(|| self.create_tenant()),
            75..90 => {
                Command::MoveTenant { tenant: self.tenant(), target: self.cell(), options: MoveOptions::default() }
            }
            90..96 => self.steer().unwrap_or_else(|| self.create_tenant()),
            _ => Command::SetLimits(Limits {
                moves_total: u32::try_from(self.chance.between(1, 8)).unwrap_or(1),
                ..Limits::default()
            }),
        })
    }

    /// A write that succeeds in every state, for the proof that writes get through.
    pub(crate) fn sure(&mut self) -> Command {
        Command::SetLimits(Limits {
            moves_queued: u32::try_from(self.chance.between(100, 900)).unwrap_or(100),
            ..Limits::default()
        })
    }

    /// Remembers what an answer has named.
    pub(crate) fn learn(&mut self, reply: &Reply) {
        if let Ok(Outcome::Tenant { tenant, uid, move_id }) = &reply.result {
            self.known.push(Known { tenant: tenant.clone(), uid: *uid, move_id: *move_id });
            if self.known.len() > REMEMBERED {
                self.known.remove(0);
            }
        }
    }

    fn cell(&mut self) -> CellId {
        CellId::new(format!("c{}", self.chance.between(1, CELLS))).expect("it is a name")
    }

    fn tenant(&mut self) -> TenantId {
        TenantId::new(format!("t{}", self.chance.between(1, TENANTS))).expect("it is a name")
    }

    fn state(&mut self) -> CellState {
        if self.chance.percent(70) { CellState::Active } else { CellState::Cordoned }
    }

    fn create_cell(&mut self) -> Command {
        Command::CreateCell(NewCell {
            id: self.cell(),
            gates: vec!["10.0.0.1:80".into()],
            agent: "10.0.0.1:9".into(),
            region: String::new(),
            residency: String::new(),
            traits: CellTraits::default(),
        })
    }

    fn create_tenant(&mut self) -> Command {
        let cell = self.chance.percent(50).then(|| self.cell());
        Command::CreateTenant(NewTenant { id: self.tenant(), cell, tier: Tier::Bronze, residency: String::new() })
    }

    fn recall(&mut self) -> Option<Known> {
        if self.known.is_empty() {
            return None;
        }
        let index = self.chance.index(self.known.len());
        Some(self.known[index].clone())
    }

    /// What a coordinator would report of a tenant, or of its move.
    fn event(&mut self) -> Option<Command> {
        let Known { tenant, uid, move_id } = self.recall()?;
        let event = match (move_id, self.chance.between(0, 3)) {
            (None, _) => Event::Granted,
            (Some(_), 0) if self.chance.percent(50) => Event::Granted,
            (Some(_), 0) => Event::PreflightFailed { code: "SIMULATED".into(), reason: "by chance".into() },
            (Some(_), 1) => Event::PreflightPassed,
            (Some(_), _) => Event::Admitted,
        };
        Some(Command::Record { tenant, uid, move_id, leg: move_id.map(|_| Leg::Forward), event })
    }

    fn steer(&mut self) -> Option<Command> {
        let move_id = self.recall()?.move_id?;
        let intents = [MoveIntent::Pause, MoveIntent::Resume, MoveIntent::Cancel];
        Some(Command::Steer { move_id, intent: intents[self.chance.index(intents.len())] })
    }
}
