//! A fleet of three cells and one tenant, and short ways to make things happen to it.

use cell_model::{
    Attempt, CellId, CellTraits, Change, ClusterId, Command, Digest, Envelope, Event, Fleet, FleetView, Generation,
    Leg, Lineage, Move, MoveId, MoveIntent, MoveOptions, MoveRecord, NewCell, NewTenant, Outcome, Phase, Rejected,
    Reply, Seq, SyncMode, TenantId, TenantRecord, Tier, UnixMillis,
};

pub(crate) const SEALED: Seq = Seq(90);

pub(crate) struct World {
    pub(crate) fleet: Fleet,
    pub(crate) now: u64,
}

pub(crate) fn cell(name: &str) -> CellId {
    CellId::new(name).unwrap()
}

pub(crate) fn tenant(name: &str) -> TenantId {
    TenantId::new(name).unwrap()
}

pub(crate) fn new_cell(name: &str) -> Command {
    Command::CreateCell(NewCell {
        id: cell(name),
        gates: vec![format!("{name}:8080")],
        agent: format!("{name}:7000"),
        region: String::new(),
        residency: if name == "c" { "eu".into() } else { String::new() },
        traits: CellTraits::default(),
    })
}

pub(crate) fn new_tenant(name: &str, on: Option<&str>) -> Command {
    Command::CreateTenant(NewTenant {
        id: tenant(name),
        cell: on.map(cell),
        tier: Tier::Bronze,
        residency: String::new(),
    })
}

pub(crate) fn move_to(name: &str, target: &str, options: MoveOptions) -> Command {
    Command::MoveTenant { tenant: tenant(name), target: cell(target), options }
}

impl World {
    /// Cells a, b and c; tenant t, live on a.
    pub(crate) fn new() -> Self {
        crate::rules::go_without();
        let mut world = Self { fleet: Fleet::new(ClusterId(7), Lineage(1)), now: 1_000 };
        for name in ["a", "b", "c"] {
            world.ok(new_cell(name));
        }
        world.add_tenant("t", "a");
        world
    }

    pub(crate) fn add_tenant(&mut self, name: &str, on: &str) {
        self.ok(new_tenant(name, Some(on)));
        self.tell(name, Event::Granted).unwrap();
    }

    pub(crate) fn apply(&mut self, command: Command) -> (Reply, Vec<Change>) {
        self.fleet.apply(&Envelope::new(UnixMillis(self.now), command))
    }

    pub(crate) fn ok(&mut self, command: Command) -> Outcome {
        self.apply(command).0.result.expect("the command is taken")
    }

    pub(crate) fn refused(&mut self, command: Command) -> Rejected {
        let before = self.fleet.clone();
        let (reply, changes) = self.apply(command);
        assert!(changes.is_empty());
        let same = self.fleet.head() == before.head() && self.fleet.records().eq(before.records());
        assert!(same, "a refusal changes nothing but the audit trail");
        assert!(self.fleet.audit().last_number() <= before.audit().last_number() + 1);
        reply.result.expect_err("the command is refused")
    }

    /// Something happened to a tenant, within its move if it has one.
    pub(crate) fn tell(&mut self, name: &str, event: Event) -> Result<Outcome, Rejected> {
        let record = self.record(name);
        let within = record.movement.as_ref().map(|movement| (movement.id, movement.leg));
        self.tell_as(name, event, within)
    }

    pub(crate) fn tell_as(
        &mut self,
        name: &str,
        event: Event,
        within: Option<(MoveId, Leg)>,
    ) -> Result<Outcome, Rejected> {
        let uid = self.record(name).uid;
        let command = Command::Record {
            tenant: tenant(name),
            uid,
            move_id: within.map(|(id, _)| id),
            leg: within.map(|(_, leg)| leg),
            event,
        };
        self.apply(command).0.result
    }

    pub(crate) fn record(&self, name: &str) -> TenantRecord {
        self.fleet.tenant(&tenant(name)).expect("the tenant is there").clone()
    }

    pub(crate) fn movement(&self, name: &str) -> Move {
        *self.record(name).movement.expect("the tenant is moving")
    }

    pub(crate) fn phase(&self, name: &str) -> Phase {
        self.movement(name).phase
    }

    pub(crate) fn attempt(&self, name: &str) -> Attempt {
        self.movement(name).attempt
    }

    pub(crate) fn ended(&self, id: MoveId) -> MoveRecord {
        self.fleet.ended_move(id).expect("the move has ended").clone()
    }

    /// Asks for a move and brings it to where `phase` has just been entered.
    pub(crate) fn moving(&mut self, phase: Phase, options: MoveOptions) -> MoveId {
        self.ok(move_to("t", "b", options));
        let id = self.movement("t").id;
        while self.phase("t") != phase {
            self.advance();
        }
        id
    }

    /// Brings the move from where it is to where `phase` is entered.
    pub(crate) fn moving_on(&mut self, phase: Phase) {
        while self.phase("t") != phase {
            self.advance();
        }
    }

    /// Does what the coordinator would do next, with cells that always succeed.
    pub(crate) fn advance(&mut self) {
        for event in self.next_events() {
            self.tell("t", event).unwrap();
        }
    }

    /// What would happen next in a world that works; time goes on to where it is due.
    pub(crate) fn next_events(&mut self) -> Vec<Event> {
        let movement = self.movement("t");
        let (attempt, seq, generation) = (movement.attempt, SEALED, Generation(0));
        match movement.phase {
            Phase::Preflight => vec![Event::Admitted, Event::PreflightPassed],
            Phase::Prepare => {
                vec![Event::CaptureStarted { position: Seq(5) }, Event::ImportPrepared { generation }]
            }
            Phase::Backfill => vec![Event::BackfillDone { applied: Seq(10) }],
            Phase::CatchUp => match movement.acks.sync {
                SyncMode::Async => vec![Event::CaughtUp { applied: Seq(20) }],
                SyncMode::Engaged { .. } | SyncMode::Degrading => vec![Event::SyncDisengaged],
            },
            Phase::Verify => vec![Event::FullyVerified { seq: Seq(30), digest: Digest { rows: 3, sum: 9 } }],
            Phase::Sync => {
                let ready = [Event::SyncEngaged, Event::ReverseReady { position: Seq(40), generation }];
                let SyncMode::Engaged { .. } = movement.acks.sync else { return ready.to_vec() };
                self.now = self.now.max(movement.not_before.0) + u64::from(movement.sync_steady_ms);
                vec![Event::ReverseReady { position: Seq(40), generation }, Event::HoldDue]
            }
            Phase::Hold => {
                let routers = Event::RoutersHeld { attempt, seen: 2, fenced: 0 };
                let held = [
                    Event::Sealed { attempt, seq },
                    Event::Applied { attempt, seq, generation },
                    Event::Verified { attempt, seq, digest: Digest { rows: 3, sum: 11 } },
                ];
                movement.leaves_ungated().then_some(routers).into_iter().chain(held).collect()
            }
            Phase::Fenced => vec![Event::Fenced { attempt, seq }, Event::Commit { attempt }],
            Phase::Activate => vec![Event::Activated { generation }, Event::MappingDelivered],
            Phase::Soak if movement.intent == cell_model::Intent::Rollback => {
                self.now = self.now.max(movement.not_before.0);
                vec![Event::HoldDue]
            }
            Phase::Soak => {
                self.now += u64::from(movement.soak_ms);
                vec![Event::SoakPassed]
            }
            Phase::Unfence => vec![Event::Unfenced { attempt }],
            Phase::Cleanup => vec![Event::ImportDropped, Event::CaptureStopped],
        }
    }

    pub(crate) fn steer(&mut self, move_id: MoveId, intent: MoveIntent) -> Result<Outcome, Rejected> {
        self.apply(Command::Steer { move_id, intent }).0.result
    }
}
