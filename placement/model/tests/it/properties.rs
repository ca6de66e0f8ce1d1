//! Whatever comes, in whatever order: the promises that a record alone can keep.

use cell_model::invariants::check_record_succession;
use cell_model::{
    Attempt, CellState, Command, Difference, Digest, Event, FleetView, Generation, Life, MoveIntent, MoveOptions,
    Outcome, Phase, Rejected, Seq, UnixMillis, pending_effects,
};
use proptest::prelude::*;

use crate::world::{SEALED, World, cell, move_to, tenant};

/// Events as a confused world would send them: any kind, attempts and positions that may or may not fit.
fn any_event() -> impl Strategy<Value = Event> {
    let attempt = (0_u32..6).prop_map(Attempt);
    let seq = prop_oneof![Just(SEALED), (0_u64..200).prop_map(Seq)];
    let generation = (0_u64..2).prop_map(Generation);
    let at = (0_u64..50_000).prop_map(UnixMillis);
    let place = prop_oneof![Just(cell("a")), Just(cell("b")), Just(cell("c"))];
    let digest = Digest { rows: 1, sum: 1 };
    (0_usize..38, attempt, seq, generation, at, place).prop_map(
        move |(kind, attempt, seq, generation, at, cell)| {
            let reason = String::from("any");
            let code = String::from("ANY");
            match kind {
                0 => Event::Granted,
                1 => Event::Revoked { cell },
                2 => Event::Admitted,
                3 => Event::PreflightPassed,
                4 => Event::PreflightFailed { code, reason },
                5 => Event::ImportPrepared { generation },
                6 => Event::CaptureStarted { position: seq },
                7 => Event::BackfillDone { applied: seq },
                8 => Event::CaughtUp { applied: seq },
                9 => Event::FullyVerified { seq, digest },
                10 => Event::Mismatched { reason },
                11 => Event::SyncEngaged,
                12 => Event::ReverseReady { position: seq, generation },
                13 => Event::SyncDegraded { attempt },
                14 => Event::SyncDisengaged,
                15 => Event::HoldDue,
                16 => Event::Sealed { attempt, seq },
                17 => Event::Applied { attempt, seq, generation },
                18 => Event::Verified { attempt, seq, digest },
                19 => Event::HoldMissed { attempt, reason, not_before: at },
                20 => Event::Fenced { attempt, seq },
                21 => Event::Commit { attempt },
                22 => Event::Abort { attempt, reason, not_before: at },
                23 => Event::Unfenced { attempt },
                24 => Event::Activated { generation },
                25 => Event::MappingDelivered,
                26 => Event::SoakPassed,
                27 => Event::ImportDropped,
                28 => Event::CaptureStopped,
                29 => Event::GaveUp { code, reason },
                30 => Event::Retired { cell },
                31 => Event::RetentionOver { cell },
                32 => Event::Differed(Box::new(Difference::of_digests(Phase::Verify, seq, digest, digest))),
                33 => Event::Differed(Box::new(Difference::of_digests(Phase::Hold, seq, digest, digest))),
                34 => Event::Differed(Box::new(Difference::of_digests(Phase::Soak, seq, digest, digest))),
                35 => Event::WritersEnded { count: u32::try_from(seq.get()).unwrap_or_default() },
                36 => Event::RoutersHeld { attempt, seen: 1, fenced: 0 },
                _ => Event::Reclaimed { cell },
            }
        },
    )
}

#[derive(Debug, Clone)]
enum Step {
    /// What the coordinator would do next.
    Advance,
    /// Anything.
    Tell(Event),
    Steer(MoveIntent),
    Move(&'static str),
    Cordon(bool),
    Restart,
    Delete,
    Wait(u64),
}

fn any_step() -> impl Strategy<Value = Step> {
    let steer = prop_oneof![
        Just(MoveIntent::Pause),
        Just(MoveIntent::Resume),
        Just(MoveIntent::Cancel),
        Just(MoveIntent::Rollback),
    ];
    let places = prop_oneof![Just("a"), Just("b"), Just("c")];
    prop_oneof![
        6 => Just(Step::Advance),
        8 => any_event().prop_map(Step::Tell),
        1 => steer.prop_map(Step::Steer),
        2 => places.prop_map(Step::Move),
        1 => any::<bool>().prop_map(Step::Cordon),
        1 => Just(Step::Restart),
        1 => Just(Step::Delete),
        1 => (0_u64..20_000).prop_map(Step::Wait),
    ]
}

fn run(world: &mut World, step: Step) {
    let movement = world.record("t").movement;
    match step {
        Step::Advance if movement.is_none() => {}
        Step::Advance => {
            // An earlier random step may have spoilt what would be right now.
            for event in world.next_events() {
                let _taken_or_refused: Result<Outcome, Rejected> = world.tell("t", event);
            }
        }
        Step::Tell(event) => {
            let _taken_or_refused: Result<Outcome, Rejected> = world.tell("t", event);
        }
        Step::Steer(intent) => {
            if let Some(movement) = movement {
                let _taken_or_refused: Result<Outcome, Rejected> = world.steer(movement.id, intent);
            }
        }
        Step::Move(target) => {
            world.apply(move_to("t", target, MoveOptions { retries: 2, ..MoveOptions::default() }));
        }
        Step::Cordon(on) => {
            let state = if on { CellState::Cordoned } else { CellState::Active };
            world.ok(Command::SetCellState { cell: cell("b"), state });
        }
        Step::Restart => {
            let generation = world.fleet.cell(&cell("b")).unwrap().generation.next();
            let gates = vec!["b:8080".into()];
            world.ok(Command::ReportCell {
                cell: cell("b"),
                generation,
                gates,
                agent: "b:7000".into(),
                partial: false,
            });
        }
        Step::Delete => {
            world.apply(Command::DeleteTenant { tenant: tenant("t") });
        }
        Step::Wait(ms) => world.now += ms,
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_order_of_events_breaks_a_promise_of_the_record(steps in prop::collection::vec(any_step(), 1..80)) {
        let mut world = World::new();
        for step in steps {
            let before = world.record("t");
            run(&mut world, step.clone());
            let after = world.record("t");
            prop_assert_eq!(check_record_succession(&before, &after), vec![]);
            // The epoch rises exactly where who may serve changes.
            if before.owner != after.owner {
                prop_assert_eq!(after.epoch, before.epoch.next());
            }
            // A record that waits for something says for what, unless it waits for the operator.
            let waits = after.life == Life::Live && after.movement.is_some();
            if waits && after.movement.as_ref().unwrap().intent == cell_model::Intent::Run {
                prop_assert!(!pending_effects(&after).is_empty(), "stuck: {:?}", after.movement);
            }
            if after != before {
                prop_assert!(after.rev > before.rev && after.revision > before.revision);
            }
        }
    }

    #[test]
    fn equal_fleets_and_commands_give_equal_results_and_survive_being_written_down(steps in prop::collection::vec(any_step(), 1..60)) {
        let (mut one, mut other) = (World::new(), World::new());
        for step in steps {
            run(&mut one, step.clone());
            run(&mut other, step);
            prop_assert_eq!(&one.fleet, &other.fleet);
        }
        // As the store keeps it: every record through its encoding and back.
        let written = postcard::to_stdvec(one.fleet.head()).unwrap();
        let mut restored = cell_model::Fleet::from_head(postcard::from_bytes(&written).unwrap());
        for change in one.fleet.records() {
            let written = postcard::to_stdvec(&change).unwrap();
            restored.install(postcard::from_bytes(&written).unwrap());
        }
        for entry in one.fleet.audit().after(0) {
            let written = postcard::to_stdvec(&**entry).unwrap();
            restored.restore_audit(postcard::from_bytes(&written).unwrap()).unwrap();
        }
        prop_assert_eq!(restored, one.fleet);
    }
}
