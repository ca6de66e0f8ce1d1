//! Retries, whatever the clocks of the leaders do meanwhile.

use cell_model::{ClusterId, Command, Envelope, Fleet, Limits, Lineage, Reply, RequestId, Revision, UnixMillis};
use proptest::prelude::*;

/// The leader's clock is put this far from the right time; then so many commands come, each so long after the one before.
#[derive(Debug, Clone)]
struct Stretch {
    clock_off_ms: i64,
    gap_ms: u64,
    commands: u32,
}

const HOUR_MS: i64 = 3_600_000;

fn stretch() -> impl Strategy<Value = Stretch> {
    let off = prop_oneof![Just(0), Just(HOUR_MS), Just(-HOUR_MS), -48 * HOUR_MS..48 * HOUR_MS, -90_000..90_000_i64];
    let pace = prop_oneof![
        (Just(1_u64), 900..1_600_u32),
        (Just(700_u64), 900..1_600_u32),
        (5_000..3_600_000_u64, 1..40_u32)
    ];
    (off, pace).prop_map(|(clock_off_ms, (gap_ms, commands))| Stretch { clock_off_ms, gap_ms, commands })
}

/// A fleet, the right time, and every request that was made, with when it was and what it was told.
struct World {
    fleet: Fleet,
    now_ms: i64,
    made: Vec<(i64, Reply)>,
}

impl World {
    /// A year after 1970, so that no clock is put back beyond it.
    fn new() -> Self {
        let fleet = Fleet::new(ClusterId(1), Lineage(1));
        Self { fleet, now_ms: 365 * 24 * HOUR_MS, made: Vec::new() }
    }

    fn envelope(&self, number: usize, off_ms: i64) -> Envelope {
        let limits = Limits { moves_queued: u32::try_from(number + 1).unwrap(), ..Limits::default() };
        let at = UnixMillis(u64::try_from(self.now_ms + off_ms).unwrap());
        let request_id = Some(RequestId(number as u128));
        Envelope { request_id, ..Envelope::new(at, Command::SetLimits(limits)) }
    }

    fn go_on(&mut self, stretch: &Stretch) {
        for _ in 0..stretch.commands {
            self.now_ms += stretch.gap_ms.cast_signed();
            let reply = self.fleet.apply(&self.envelope(self.made.len(), stretch.clock_off_ms)).0;
            self.made.push((self.now_ms, reply));
        }
    }

    fn revision(&self) -> Revision {
        self.fleet.head().revision
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn a_retry_runs_once_whatever_the_clocks_of_leaders_do(
        stretches in prop::collection::vec(stretch(), 1..6),
        picks in prop::collection::vec(any::<prop::sample::Index>(), 24),
    ) {
        let mut world = World::new();
        for stretch in stretches {
            world.go_on(&stretch);
            for pick in &picks {
                let number = pick.index(world.made.len());
                let (made_ms, first) = world.made[number].clone();
                let (age_ms, revision) = (world.now_ms - made_ms, world.revision());
                let retry = world.envelope(number, stretch.clock_off_ms);
                // For ten minutes it is answered as the first time, by the id alone.
                if age_ms <= 600_000 {
                    prop_assert_eq!(&world.fleet.apply(&retry).0, &first, "{} ms later", age_ms);
                }
                // With its age, and what the leader adds to it for the way, it never runs again.
                let first_tried = retry.at.get().checked_sub(u64::try_from(age_ms).unwrap() + 10_000).map(UnixMillis);
                let again = world.fleet.apply(&Envelope { first_tried, ..retry }).0;
                let refused = again.result.as_ref().is_err_and(|refused| refused.code() == "REQUEST_TOO_OLD");
                prop_assert!(refused || again == first, "{} ms later: {:?}", age_ms, again);
                prop_assert_eq!(world.revision(), revision);
            }
        }
    }
}

#[test]
fn a_clock_that_jumps_ahead_and_a_thousand_writes_behind_it_make_no_retry_run_again() {
    let mut world = World::new();
    world.go_on(&Stretch { clock_off_ms: 0, gap_ms: 10, commands: 1 });
    world.go_on(&Stretch { clock_off_ms: HOUR_MS, gap_ms: 1, commands: 1_500 });
    let (first, revision) = (world.made[0].1.clone(), world.revision());
    let retry = world.envelope(0, HOUR_MS);
    let first_tried = Some(UnixMillis(retry.at.get() - 12_000));
    assert_eq!(world.fleet.apply(&Envelope { first_tried, ..retry.clone() }).0, first);
    assert_eq!(world.fleet.apply(&retry).0, first);
    assert_eq!(world.revision(), revision);
}

#[test]
fn after_a_clock_that_was_ahead_for_long_fresh_retries_are_not_refused_for_it() {
    let mut world = World::new();
    world.go_on(&Stretch { clock_off_ms: 24 * 365 * HOUR_MS, gap_ms: 1_000, commands: 3_000 });
    assert!(world.fleet.head().forgotten.is_some());
    world.go_on(&Stretch { clock_off_ms: 0, gap_ms: 1_000, commands: 2_500 });
    // It was not sent before, as far as the store knows, and says that it was tried half a minute ago.
    let fresh = world.envelope(world.made.len(), 0);
    let first_tried = Some(UnixMillis(fresh.at.get() - 30_000));
    assert!(world.fleet.apply(&Envelope { first_tried, ..fresh }).0.result.is_ok());
}

#[test]
fn a_clock_that_stands_at_1970_cannot_tell_how_old_a_retry_is_and_runs_none_that_may_be_forgotten() {
    let mut world = World::new();
    world.go_on(&Stretch { clock_off_ms: 0, gap_ms: 1_000, commands: 3_000 });
    assert!(world.fleet.answer(RequestId(0)).is_none(), "it is forgotten");
    let retry = Envelope { at: UnixMillis(90_000), first_tried: Some(UnixMillis(0)), ..world.envelope(0, 0) };
    assert_eq!(world.fleet.apply(&retry).0.result.unwrap_err().code(), "REQUEST_TOO_OLD");
}
