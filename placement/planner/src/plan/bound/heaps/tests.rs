use super::{Steps, concave};

/// As many cells, each with as much room.
fn rooms(cells: u32, each: f64) -> Vec<f64> {
    (0..=cells).map(|count| f64::from(count) * each).collect()
}

#[test]
fn what_fits_into_one_cell_may_be_on_one() {
    let steps = Steps::new([(4.0, 16.0)]);
    // A mean of 4 and a deviation of 4.
    assert!((steps.least_roots(&rooms(3, 8.0), 1.0, true).sum - 4.0).abs() < 1e-9);
    assert!(steps.least_roots(&rooms(3, 7.9), 1.0, true).sum > 4.0);
}

#[test]
fn the_steepest_come_first_and_the_rest_fill_what_is_left() {
    let steps = Steps::new([(1.0, 2.0), (2.0, 4.0)]);
    assert!((steps.mean_for(4.0) - 2.0).abs() < 1e-12);
    assert!((steps.mean_for(5.0) - 3.0).abs() < 1e-12);
}

#[test]
fn what_does_not_fit_is_said() {
    let steps = Steps::new([(1.0, 100.0)]);
    assert!(!steps.least_roots(&rooms(10, 5.0), 1.0, true).fits);
    assert!(steps.least_roots(&rooms(100, 5.0), 1.0, true).fits);
}

#[test]
fn concave_values_are_no_lower_and_their_differences_fall() {
    let hull = concave(&[0.0, 1.0, 5.0, 6.0, 6.0, 11.0]);
    assert_eq!(hull, [0.0, 2.5, 5.0, 7.0, 9.0, 11.0]);
}

/// All ways of putting some tenants on three cells: none is below the limit, and the second pass raises it.
#[test]
fn no_placement_has_less_than_the_roots_that_are_found() {
    let mut state = 7u64;
    let mut share = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        f64::from(u32::try_from(state >> 33).unwrap()) / f64::from(1u32 << 31)
    };
    let mut sharper = 0;
    for _ in 0..60 {
        let tenants: Vec<(f64, f64)> = (0..8).map(|_| (0.5 + share(), 0.1 + 2.0 * share().powi(3))).collect();
        let all_means: f64 = tenants.iter().map(|of| of.0).sum();
        let most = all_means * (0.36 + 0.25 * share()) + 1.0;
        let mut least = f64::INFINITY;
        for code in 0..3usize.pow(8) {
            let (mut cells, mut rest) = ([(0.0, 0.0); 3], code);
            for (mean, deviation) in &tenants {
                let cell = &mut cells[rest % 3];
                *cell = (cell.0 + mean, cell.1 + deviation * deviation);
                rest /= 3;
            }
            if cells.iter().all(|(mean, variance): &(f64, f64)| mean + 2.0 * variance.sqrt() <= most) {
                least = least.min(cells.iter().map(|(_, variance)| variance.sqrt()).sum());
            }
        }
        let steps = Steps::new(
            tenants.iter().map(|(mean, deviation)| (deviation * deviation / mean, deviation * deviation)),
        );
        let (once, twice) =
            (steps.least_roots(&rooms(3, most), 2.0, false), steps.least_roots(&rooms(3, most), 2.0, true));
        assert!(twice.fits || least.is_infinite(), "{twice:?} of {least}");
        if !twice.fits {
            continue;
        }
        assert!(once.fits && once.sum <= twice.sum + 1e-9, "{once:?} {twice:?}");
        assert!(twice.sum <= least + 1e-9, "{twice:?} of {least}");
        sharper += u32::from(twice.sum > once.sum + 1e-3);
    }
    assert!(sharper > 10, "the second pass is worth something: {sharper}");
}
