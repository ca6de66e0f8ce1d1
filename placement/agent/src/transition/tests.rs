//! Every order and repetition of steps, tried against the two rules above all.

use cell_model::{CellId, ClusterId, Hold, Lineage, Mapping, MappingState, Rev, Revision, TenantId, Tier};
use proptest::prelude::*;

use super::*;

/// One tenant in one cell, without a disk.
#[derive(Debug, Clone, Default)]
struct Cell {
    control: Option<Control>,
    has_copy: bool,
    complete: bool,
    seq: Seq,
    sealed: Option<(MoveId, Attempt, Seq)>,
}

#[derive(Debug, Clone, Copy)]
enum Step {
    Grant,
    Revoke,
    PrepareImport,
    StartCapture,
    EngageSync(bool),
    PrepareReverse,
    Seal,
    Write,
    Lapse,
    Copied,
    Fence,
    Unfence,
    Activate,
    Deliver,
    DropImport,
    StopCapture,
    Retire,
    Reclaim(u64),
    OwnByForce,
    PutAside(u64),
    Emptied,
}

fn cell(name: &str) -> CellId {
    CellId::new(name).unwrap()
}

fn delivery(uid: Uid, epoch: Epoch) -> (SignedMapping, RoutedMapping) {
    let mapping = Mapping {
        lineage: Lineage(1),
        tenant: TenantId::new("t").unwrap(),
        uid,
        epoch,
        rev: Rev(1),
        revision: Revision(1),
        state: MappingState::Cutover,
        owner: cell("other"),
        peer: None,
        hold: Hold::None,
        tier: Tier::Bronze,
    };
    let routed = RoutedMapping { cluster: ClusterId(1), mapping, owner_gates: vec![], owner_agent: String::new() };
    (SignedMapping { payload: vec![1], key_id: "k".into(), signature: vec![2] }, routed)
}

impl Cell {
    fn known(&self) -> Result<&Control, Refusal> {
        self.control.as_ref().ok_or_else(|| Refusal::new("NOT_OWNER", ""))
    }

    fn end(&mut self, ending: Ending) {
        match ending {
            Ending::Gone => {}
            Ending::Keep(next) => self.control = Some(next),
            Ending::Empty(next) => {
                let role = self.control.as_ref().map(|control| control.role);
                let may =
                    matches!(next.role, Role::Deleted) || !matches!(role, Some(Role::Owner | Role::Fenced { .. }));
                assert!(may, "an owner's rows were deleted: {role:?}");
                (self.control, self.complete) = (Some(next), false);
            }
        }
    }

    fn step(&mut self, step: Step, context: &Context) -> Result<(), Refusal> {
        let other = cell("other");
        let standing = self
            .sealed
            .filter(|seal| (seal.0, seal.1) == (context.move_id, context.attempt))
            .map(|seal| seal.2)
            .ok_or_else(|| Refusal::new("NOT_SEALED", ""));
        let next = match step {
            Step::Grant => grant(self.control.as_ref(), context, self.has_copy)?,
            Step::PrepareImport => {
                prepare_import(self.control.as_ref(), context, self.has_copy, (&other, "other:1"))?
            }
            Step::StartCapture => start_capture(self.known()?, context, self.seq)?,
            Step::EngageSync(engaged) => engage_sync(self.known()?, context, engaged)?,
            Step::PrepareReverse => prepare_reverse(self.known()?, context)?,
            Step::Fence => fence(self.known()?, context, self.seq, standing, self.seq)?,
            Step::Unfence => unfence(self.known()?, context)?,
            Step::Activate => activate(self.known()?, context, self.complete, self.seq, true)?,
            Step::Deliver => {
                let (signed, routed) = delivery(context.uid, context.epoch);
                let follow = Some((&other, "other:1"));
                let delivery = Delivery { signed: &signed, routed: &routed, here: &cell("here"), follow };
                deliver_mapping(self.known()?, context, delivery)?
            }
            Step::OwnByForce => own_by_force(self.known()?, context, self.complete)?,
            Step::PutAside(fenced) => {
                let (signed, routed) = delivery(context.uid, context.epoch);
                let (here, fenced) = (&cell("here"), Epoch(fenced));
                put_aside(self.known()?, context, Verdict { signed: &signed, routed: &routed, here, fenced })?
            }
            Step::StopCapture => stop_capture(self.known()?, context)?,
            Step::Retire => retire(self.known()?, context)?,
            Step::Seal => {
                let next = hold_writes(self.known()?, context)?;
                self.sealed = Some((context.move_id, context.attempt, self.seq));
                next
            }
            Step::Write => {
                if self.known()?.role == Role::Owner && self.sealed.is_none() {
                    self.seq = self.seq.next();
                }
                return Ok(());
            }
            Step::Lapse => {
                self.sealed = None;
                return Ok(());
            }
            Step::Copied => {
                self.complete = self.has_copy && self.known()?.follow.is_some();
                return Ok(());
            }
            Step::Revoke => {
                let ending = Ending::Empty(revoke(self.control.as_ref(), context, self.has_copy)?);
                self.end(ending);
                return Ok(());
            }
            Step::DropImport => {
                let ending = drop_import(self.control.as_ref(), context)?;
                self.end(ending);
                return Ok(());
            }
            Step::Reclaim(epoch) => {
                let ending = reclaim(self.control.as_ref(), context, Epoch(epoch))?;
                self.end(ending);
                return Ok(());
            }
            Step::Emptied => {
                if let Some(control) = self.control.as_mut().filter(|control| control.emptying) {
                    (control.emptying, self.has_copy) = (false, false);
                }
                return Ok(());
            }
        };
        match step {
            Step::Grant => (self.has_copy, self.complete) = (true, true),
            Step::PrepareImport if !self.has_copy => (self.has_copy, self.complete) = (true, false),
            Step::Unfence | Step::Deliver | Step::OwnByForce | Step::PutAside(_) => self.sealed = None,
            _ => {}
        }
        self.control = Some(next);
        Ok(())
    }
}

fn any_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        Just(Step::Grant),
        Just(Step::Revoke),
        Just(Step::PrepareImport),
        Just(Step::StartCapture),
        any::<bool>().prop_map(Step::EngageSync),
        Just(Step::PrepareReverse),
        Just(Step::Seal),
        Just(Step::Write),
        Just(Step::Lapse),
        Just(Step::Copied),
        Just(Step::Fence),
        Just(Step::Unfence),
        Just(Step::Activate),
        Just(Step::Deliver),
        Just(Step::DropImport),
        Just(Step::StopCapture),
        Just(Step::Retire),
        (1u64..4).prop_map(Step::Reclaim),
        Just(Step::OwnByForce),
        (1u64..4).prop_map(Step::PutAside),
        Just(Step::Emptied),
    ]
}

fn any_context() -> impl Strategy<Value = Context> {
    (1u64..3, 1u64..4, 1u64..4, 0u32..3, any::<bool>()).prop_map(|(uid, epoch, move_id, attempt, back)| Context {
        uid: Uid(uid),
        epoch: Epoch(epoch),
        move_id: MoveId(move_id),
        attempt: Attempt(attempt),
        leg: Some(if back { Leg::Back } else { Leg::Forward }),
    })
}

/// A run that goes well, from which random steps then depart.
fn owner_under_hold() -> Cell {
    let context = |epoch, move_id| Context {
        uid: Uid(1),
        epoch: Epoch(epoch),
        move_id: MoveId(move_id),
        attempt: Attempt(1),
        leg: Some(Leg::Forward),
    };
    let mut cell = Cell::default();
    cell.step(Step::Grant, &context(1, 0)).unwrap();
    cell.step(Step::Write, &context(1, 0)).unwrap();
    cell.step(Step::StartCapture, &context(1, 1)).unwrap();
    cell.step(Step::Seal, &context(1, 1)).unwrap();
    cell
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn no_order_of_steps_lowers_an_epoch_or_deletes_what_is_owned(
        under_hold in any::<bool>(),
        steps in proptest::collection::vec((any_step(), any_context()), 1..60),
    ) {
        let mut cell = if under_hold { owner_under_hold() } else { Cell::default() };
        for (step, context) in steps {
            let before = cell.clone();
            let done = cell.step(step, &context);
            let grant = |cell: &Cell| cell.control.as_ref().map(|control| (control.uid, control.epoch));
            prop_assert!(grant(&cell) >= grant(&before), "{step:?} {context:?} {before:?} {cell:?}");
            if let (Some(old), Some(new)) = (&before.control, &cell.control) {
                prop_assert!(new.ended >= old.ended || new.uid > old.uid);
                // A fence ends by a decision at a higher epoch, by a mapping of one, or with the tenant.
                if matches!(old.role, Role::Fenced { .. }) && new.role != old.role {
                    let ended = matches!(step, Step::Unfence if new.epoch > old.epoch)
                        || matches!(step, Step::Deliver | Step::PutAside(_) if context.epoch > old.epoch)
                        || matches!(step, Step::OwnByForce if new.epoch > old.epoch)
                        || matches!(step, Step::Revoke);
                    prop_assert!(ended, "{step:?} ended a fence");
                }
                // Owning begins with a grant, or at a higher epoch.
                if new.role == Role::Owner && old.role != Role::Owner {
                    prop_assert!(matches!(step, Step::Grant) || new.epoch > old.epoch, "{step:?}");
                }
                if matches!(new.role, Role::Fenced { .. }) && old.role != new.role {
                    prop_assert_eq!(before.sealed.map(|seal| seal.2), Some(before.seq), "fenced without a seal");
                }
            }
            // Done again at once, a step answers the same and changes nothing more.
            if done.is_ok() && !matches!(step, Step::Write) {
                let once = cell.clone();
                prop_assert!(cell.step(step, &context).is_ok(), "{step:?} {context:?} {once:?}");
                prop_assert_eq!(&cell.control, &once.control, "{:?}", step);
            }
        }
    }
}

#[test]
fn a_fence_needs_the_seal_of_its_own_attempt_and_no_write_since() {
    let context = |attempt| Context {
        uid: Uid(1),
        epoch: Epoch(1),
        move_id: MoveId(1),
        attempt: Attempt(attempt),
        leg: Some(Leg::Forward),
    };
    let control = owner_under_hold().control.unwrap();
    let none = || Err(Refusal::new("NOT_SEALED", ""));
    assert_eq!(fence(&control, &context(1), Seq(1), none(), Seq(1)).unwrap_err().code, "NOT_SEALED");
    assert_eq!(fence(&control, &context(1), Seq(1), Ok(Seq(1)), Seq(2)).unwrap_err().code, "NOT_SEALED");
    assert_eq!(fence(&control, &context(1), Seq(2), Ok(Seq(1)), Seq(2)).unwrap_err().code, "NOT_SEALED");
    assert_eq!(fence(&control, &context(0), Seq(1), Ok(Seq(1)), Seq(1)).unwrap_err().code, "STALE_ATTEMPT");
    let fenced = fence(&control, &context(1), Seq(1), Ok(Seq(1)), Seq(1)).unwrap();
    assert_eq!(fenced.role, Role::Fenced { move_id: MoveId(1), attempt: Attempt(1), seq: Seq(1) });
    assert_eq!(fence(&fenced, &context(1), Seq(1), none(), Seq(1)).unwrap(), fenced, "again, the same");
    assert_eq!(hold_writes(&fenced, &context(2)).unwrap_err().code, "NOT_OWNER");
}

#[test]
fn whoever_was_taken_over_only_redirects_whatever_it_was_and_gets_no_step_of_that_move_any_more() {
    let (signed, routed) = delivery(Uid(1), Epoch(2));
    let here = cell("here");
    let verdict = Verdict { signed: &signed, routed: &routed, here: &here, fenced: Epoch(1) };
    let context = |epoch, attempt| Context {
        uid: Uid(1),
        epoch: Epoch(epoch),
        move_id: MoveId(1),
        attempt: Attempt(attempt),
        leg: Some(Leg::Forward),
    };
    let owner = owner_under_hold();
    let mut fenced = owner.clone();
    fenced.step(Step::Fence, &context(1, 1)).unwrap();
    let mut importing = Cell::default();
    importing.step(Step::PrepareImport, &context(1, 1)).unwrap();
    for before in [owner, fenced, importing] {
        let control = before.control.unwrap();
        let told = put_aside(&control, &context(2, u32::MAX), verdict).unwrap();
        assert_eq!((told.role, told.epoch, told.capture.is_none()), (Role::Redirect, Epoch(1), true));
        assert!(told.follow.is_none() && told.mapping.is_some());
        for late in [unfence(&told, &context(2, 1)), own_by_force(&told, &context(2, 2), true)] {
            assert_eq!(late.unwrap_err().code, "STALE_ATTEMPT");
        }
        assert!(matches!(reclaim(Some(&told), &context(2, u32::MAX), Epoch(1)), Ok(Ending::Empty(_))));
    }
}

#[test]
fn an_import_that_was_dropped_does_not_come_back_with_a_late_message() {
    let context =
        Context { uid: Uid(1), epoch: Epoch(1), move_id: MoveId(5), attempt: Attempt(0), leg: Some(Leg::Forward) };
    let Ending::Keep(known) = drop_import(None, &context).unwrap() else { panic!("it must be remembered") };
    let late = prepare_import(Some(&known), &context, false, (&cell("other"), "other:1"));
    assert_eq!(late.unwrap_err().code, "STALE_ATTEMPT");
    let next = Context { move_id: MoveId(6), ..context };
    assert!(prepare_import(Some(&known), &next, false, (&cell("other"), "other:1")).is_ok());
}

#[test]
fn a_retained_copy_is_not_dropped_as_if_it_were_an_import() {
    let mut cell = owner_under_hold();
    let context = |epoch| Context {
        uid: Uid(1),
        epoch: Epoch(epoch),
        move_id: MoveId(1),
        attempt: Attempt(1),
        leg: Some(Leg::Forward),
    };
    cell.step(Step::Fence, &context(1)).unwrap();
    assert_eq!(drop_import(cell.control.as_ref(), &context(2)).unwrap_err().code, "OWNS");
    cell.step(Step::Deliver, &context(2)).unwrap();
    assert!(matches!(drop_import(cell.control.as_ref(), &context(2)), Ok(Ending::Keep(_))));
    let early = reclaim(cell.control.as_ref(), &context(2), Epoch(1));
    assert_eq!(early.unwrap_err().code, "BUSY", "it still follows");
    cell.step(Step::Retire, &context(2)).unwrap();
    assert!(matches!(reclaim(cell.control.as_ref(), &context(2), Epoch(1)), Ok(Ending::Empty(_))));
    let (signed, routed) = delivery(Uid(1), Epoch(2));
    let follow = Some((&routed.mapping.owner, "other:1"));
    let here = CellId::new("here").unwrap();
    let late = Delivery { signed: &signed, routed: &routed, here: &here, follow };
    let late = deliver_mapping(cell.control.as_ref().unwrap(), &context(2), late).unwrap();
    assert_eq!(late.follow, None, "a retired copy never follows again");
}
