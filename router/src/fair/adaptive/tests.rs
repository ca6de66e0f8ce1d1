use std::time::Duration;

use proptest::prelude::*;

use super::simulation::{Demand, Seen, Simulation, Work};
use super::*;

const RANGE: LimitRange = LimitRange { initial: 16, min: 2, max: 4_096, slack: Duration::from_millis(3) };

const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

const fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// A cell that answers in 20 ms, and is asked so many times what it can do.
fn cell(places: usize, asked: f64) -> Simulation {
    Simulation::new(RANGE, places, Work::Even(ms(20)), Demand::Even(asked * 50.0 * places as f64))
}

#[track_caller]
fn assert_limits(seen: &Seen, range: std::ops::RangeInclusive<u32>) {
    let (low, usual, high) = (seen.limit_at(5), seen.usual_limit(), seen.limit_at(99));
    assert!(range.contains(&usual) && range.contains(&low) && range.contains(&high), "{low}, {usual}, {high}");
}

#[test]
fn under_twice_the_load_the_cell_gets_what_it_can_work_at_and_hardly_more() {
    for places in [3, 10, 30, 100] {
        let mut cell = cell(places, 2.0);
        cell.run(seconds(15));
        let seen = cell.run(seconds(30));
        let most = places * 5 / 4 + places.isqrt() / 2 + 1;
        assert_limits(&seen, u32::try_from(places).unwrap()..=u32::try_from(most).unwrap());
        let part = seen.goodput() / (places as f64 * 50.0);
        assert!(part >= 0.99, "{places} places: {part}");
    }
}

#[test]
fn ten_places_get_little_more_than_ten_wherever_the_limit_begins() {
    for (initial, settled) in [(4, ms(500)), (16, ms(500)), (64, seconds(2)), (400, seconds(10))] {
        let range = LimitRange { initial, ..RANGE };
        let mut cell = Simulation::new(range, 10, Work::Even(ms(20)), Demand::Even(1_000.0));
        cell.run(settled);
        assert_limits(&cell.run(seconds(30)), 6..=13);
        assert_limits(&cell.run(ms(900)), 12..=13);
    }
}

#[test]
fn the_limit_follows_a_cell_that_gets_more_places_or_fewer() {
    let mut cell = cell(10, 8.0);
    cell.run(seconds(10));
    for (places, range) in [(30, 30..=38), (3, 3..=5), (10, 10..=13), (60, 60..=75), (10, 10..=13)] {
        cell.places = places;
        cell.run(seconds(4));
        assert_limits(&cell.run(seconds(20)), range);
    }
}

#[test]
fn a_cell_whose_work_takes_longer_goes_on_at_what_it_can_do() {
    let mut cell = cell(10, 4.0);
    cell.run(seconds(5));
    for work in [80, 20, 300, 40, 5, 20] {
        cell.work = Work::Even(ms(work));
        let first = cell.run(seconds(5));
        let part = first.goodput() / (10_000.0 / work as f64);
        assert!(part >= 0.85, "{work} ms: {part} at first");
        let then = cell.run(seconds(30));
        let part = then.goodput() / (10_000.0 / work as f64);
        assert!(part >= 0.98, "{work} ms: {part} of what it can do");
    }
}

#[test]
fn work_that_takes_now_longer_now_shorter_does_not_wear_the_limit_down() {
    for (sigma, least) in [(0.3, 0.98), (0.6, 0.96), (1.0, 0.93)] {
        for places in [4, 10, 50] {
            let mut cell = cell(places, 2.0);
            cell.work = Work::Uneven(ms(20), sigma);
            cell.run(seconds(3));
            let seen = cell.run(seconds(60));
            let part = seen.goodput() / (places as f64 * 50.0);
            assert!(part >= least, "{places} places, {sigma}: {part}, {}", seen.usual_limit());
            let most = places as f64 * 1.3 + (places as f64).sqrt() + 3.0;
            assert!(f64::from(seen.usual_limit()) <= most, "{places} places, {sigma}: {}", seen.usual_limit());
        }
    }
}

#[test]
fn a_cell_that_has_little_to_do_keeps_nobody_waiting() {
    for sigma in [0.0, 0.6, 1.2] {
        for rate in [20.0, 100.0, 400.0] {
            let mut cell = Simulation::new(RANGE, 1_000, Work::Uneven(ms(20), sigma), Demand::Chance(rate));
            cell.run(seconds(10));
            let seen = cell.run(seconds(100));
            assert_eq!(seen.refused, 0, "{sigma}, {rate}");
            let late = seen.waited.iter().filter(|waited| **waited > ms(2)).count() as f64;
            let part = late / seen.waited.len() as f64;
            assert!(part <= 0.01, "{sigma}, {rate}: {part}");
        }
    }
}

#[test]
fn a_cell_that_can_do_much_gets_it_within_a_second() {
    let mut cell = Simulation::new(RANGE, 1_000, Work::Even(ms(20)), Demand::Even(20_000.0));
    cell.run(seconds(1));
    let seen = cell.run(seconds(10));
    assert!(seen.refused == 0 && seen.limit_at(0) >= 400, "{}, {}", seen.refused, seen.limit_at(0));
}

#[test]
fn timeouts_lower_the_limit_although_nothing_was_answered() {
    let mut adaptive = Adaptive::new(RANGE);
    for _ in 0..50 {
        adaptive.observe(Window { timeouts: 1, in_flight_peak: 16, ..Window::default() });
    }
    assert_eq!(adaptive.limit(), RANGE.min);
}

#[test]
fn a_probe_in_which_nothing_is_answered_ends() {
    let mut adaptive = Adaptive::new(RANGE);
    let window = |ms, answers| Window {
        answers,
        mean: Duration::from_millis(ms),
        in_flight_peak: 16,
        crowded: 20,
        ..Window::default()
    };
    for ms in [20, 40, 40] {
        adaptive.observe(window(ms, 20));
    }
    assert_eq!(adaptive.limit(), 8, "half of what was in flight");
    for _ in 0..=SETTLING_WINDOWS_MAX {
        adaptive.observe(window(0, 0));
    }
    assert!(adaptive.limit() >= 12, "{adaptive:?}");
}

#[test]
fn what_a_cell_can_do_is_found_out_by_a_probe_or_where_there_is_no_less_to_try() {
    for (range, demand) in [(RANGE, 2.0), (LimitRange { initial: 5, min: 5, ..RANGE }, 4.0)] {
        let mut adaptive = Adaptive::new(range);
        assert!(adaptive.is_finding_out());
        let mut cell = Simulation::new(range, 4, Work::Even(ms(20)), Demand::Even(demand * 200.0));
        assert!(cell.is_finding_out());
        cell.run(seconds(5));
        assert!(!cell.is_finding_out(), "{range:?}");
        adaptive.observe(Window { answers: 20, mean: ms(20), in_flight_peak: 3, ..Window::default() });
        assert!(adaptive.is_finding_out(), "with little to do nothing is found out");
    }
    assert!(!Adaptive::new(LimitRange { initial: 7, min: 7, max: 7, ..RANGE }).is_finding_out(), "it was said");
}

proptest! {
    #[test]
    fn whatever_is_seen_the_limit_stays_within_its_bounds(
        seen in proptest::collection::vec((0..100_u64, 0..3_000_u64, 0..3_u64, 0..9_000_u32, 0..200_u64), 1..300),
    ) {
        let mut adaptive = Adaptive::new(RANGE);
        for (answers, ms, timeouts, in_flight_peak, crowded) in seen {
            let mean = Duration::from_millis(ms);
            adaptive.observe(Window { answers, mean, timeouts, in_flight_peak, crowded });
            prop_assert!((RANGE.min..=RANGE.max).contains(&adaptive.limit()));
            prop_assert!((WINDOW_BRIEF..=WINDOW_LONGEST).contains(&adaptive.window()));
        }
    }
}
