//! Bad input is named with its place and its remedy; good input comes back as it went in.

use cell_model::Revision;
use cell_planner::{
    FleetDocument, FleetError, FleetTables, Hourly, PROBLEMS_MAX, Place, ProblemCode, ResourceDemand,
};
use proptest::prelude::*;

use crate::world::{Shape, cell, on, random, tenant};

fn refused(document: &FleetDocument) -> FleetError {
    document.build().expect_err("it is wrong")
}

fn two_cells() -> FleetDocument {
    let mut cells = vec![cell("c-1", 10.0), cell("c-2", 10.0)];
    cells[0].region = "eu-1".into();
    cells[0].residency = "eu".into();
    cells[1].region = "us-1".into();
    cells[1].residency = "us".into();
    let tenants = vec![tenant("a", 1.0), tenant("b", 1.0)];
    FleetDocument { revision: Revision(1), cells, tenants, ..FleetDocument::default() }
}

/// The only problem: code, place, sentence, remedy.
fn only(document: &FleetDocument) -> (ProblemCode, Place, String, String) {
    let error = refused(document);
    assert_eq!(error.problems.len(), 1, "{error}");
    let problem = error.problems[0].clone();
    (problem.code, problem.place, problem.sentence, problem.remedy)
}

#[test]
fn an_empty_fleet_is_an_error_and_not_an_empty_answer() {
    let (code, place, _, remedy) = only(&FleetDocument::default());
    assert_eq!((code, place), (ProblemCode::FleetEmpty, Place::Fleet));
    assert_eq!(remedy, "add at least one cell with a capacity");
}

#[test]
fn demands_that_are_no_amounts_are_named_with_their_hour() {
    for (value, told) in
        [(f64::NAN, "is not a number"), (-1.0, "is -1"), (f64::INFINITY, "is inf"), (1e9, "is 1000")]
    {
        let mut document = two_cells();
        let mut values = vec![0.5; 24];
        values[14] = value;
        document.tenants[1].demand.connections.mean = Hourly::ByHour(values);
        let (code, place, sentence, _) = only(&document);
        assert_eq!((code, place), (ProblemCode::DemandInvalid, Place::Tenant(1)));
        assert!(sentence.starts_with(&format!("connections mean of tenant b {told}")), "{sentence}");
        assert!(sentence.ends_with("at 14:00"), "{sentence}");
    }
    let mut document = two_cells();
    document.tenants[0].demand.cpu =
        ResourceDemand { mean: Hourly::ByHour(vec![1.0; 23]), deviation: Hourly::Flat(0.0) };
    assert_eq!(only(&document).2, "cpu mean of tenant a has 23 values");
}

#[test]
fn more_regions_than_tenants_have_labels_for_are_refused() {
    let cells = (0..=u32::from(u16::MAX)).map(|index| {
        let mut cell = cell(&format!("c-{index:05}"), 10.0);
        cell.region = format!("r-{index}");
        cell
    });
    let mut document = FleetDocument { cells: cells.collect(), ..FleetDocument::default() };
    let (code, place, sentence, remedy) = only(&document);
    assert_eq!((code, place), (ProblemCode::FleetTooLarge, Place::Fleet));
    assert_eq!(sentence, "65536 regions, at most 65535 are taken");
    assert_eq!(remedy, "give cells that are alike one name");
    document.cells.truncate(2);
    document.tenants = vec![tenant("a", 1.0)];
    document.tenants[0].region = "r-1".into();
    let fleet = document.build().expect("two regions are few");
    assert_eq!(fleet.to_document().tenants[0].region, "r-1");
}

#[test]
fn capacities_that_are_no_amounts_are_named() {
    let mut document = two_cells();
    document.cells[1].capacity.storage = -5.0;
    document.cells[0].reserve = 1.0;
    let error = refused(&document);
    let told: Vec<_> = error.problems.iter().map(|of| (of.code, of.place, of.sentence.as_str())).collect();
    let code = ProblemCode::CapacityInvalid;
    assert_eq!(
        told,
        [
            (code, Place::Cell(0), "reserve of cell c-1 is 1"),
            (code, Place::Cell(1), "storage capacity of cell c-2 is -5")
        ]
    );
}

#[test]
fn names_that_do_not_exist_come_with_those_that_do() {
    let mut document = two_cells();
    document.tenants[0].region = "mars-1".into();
    let (code, place, sentence, remedy) = only(&document);
    assert_eq!((code, place), (ProblemCode::RegionUnknown, Place::Tenant(0)));
    assert!(sentence.contains("\"mars-1\""), "{sentence}");
    assert_eq!(remedy, "choose one of: eu-1, us-1; or add a cell there");

    let mut document = two_cells();
    document.tenants[0].residency = "moon".into();
    assert_eq!(only(&document).0, ProblemCode::ResidencyUnknown);
    let mut document = two_cells();
    document.tenants[0].cell = "c-9".into();
    assert_eq!(only(&document).0, ProblemCode::CellUnknown);
}

#[test]
fn a_name_twice_is_named_at_the_second_with_the_place_of_the_first() {
    let mut document = two_cells();
    document.tenants[1].id = "a".into();
    document.cells[1].id = "c-1".into();
    let error = refused(&document);
    let told: Vec<_> = error.problems.iter().map(|of| (of.code, of.place, of.sentence.as_str())).collect();
    let code = ProblemCode::IdDuplicate;
    assert_eq!(
        told,
        [
            (code, Place::Cell(1), "cell c-1 is already at cells[0]"),
            (code, Place::Tenant(1), "tenant a is already at tenants[0]")
        ]
    );
}

#[test]
fn constraints_that_cannot_hold_together_are_contradictions() {
    let contradiction = |change: &dyn Fn(&mut FleetDocument)| {
        let mut document = two_cells();
        change(&mut document);
        let (code, _, sentence, remedy) = only(&document);
        assert_eq!(code, ProblemCode::ConstraintsContradict, "{sentence}");
        assert!(!remedy.is_empty());
        sentence
    };
    let told = contradiction(&|fleet| {
        fleet.tenants[0].region = "us-1".into();
        fleet.tenants[0].residency = "eu".into();
    });
    assert_eq!(told, "tenant a: no cell of region us-1 has residency eu");
    let told = contradiction(&|fleet| {
        fleet.tenants[0].residency = "eu".into();
        fleet.tenants[0].pin = "c-2".into();
    });
    assert_eq!(told, "tenant a is pinned to cell c-2, which has another residency");
    let told = contradiction(&|fleet| {
        fleet.tenants[0].tier = cell_model::Tier::Gold;
        fleet.tenants[0].pin = "c-1".into();
        fleet.cells[0].databases = Some(cell_planner::Databases::Shared);
    });
    assert_eq!(told, "tenant a is pinned to cell c-1, which has databases that tenants share");
    let told = contradiction(&|fleet| {
        for tenant in &mut fleet.tenants {
            tenant.group = "g".into();
            tenant.pin = "c-1".into();
        }
    });
    assert_eq!(told, "tenants a and b are of one anti-affinity group and both pinned to cell c-1");
    let told = contradiction(&|fleet| {
        fleet.tenants[0].cell = "c-1".into();
        fleet.tenants[0].moving_to = "c-1".into();
    });
    assert_eq!(told, "moving_to of tenant a is the cell that it is on");
    let told = contradiction(&|fleet| {
        let tenant = &mut fleet.tenants[0];
        (tenant.cell, tenant.moving_to, tenant.arrived_from) = ("c-1".into(), "c-2".into(), "c-2".into());
    });
    assert_eq!(told, "tenant a is on its way and has arrived");
    let told = contradiction(&|fleet| fleet.tenants[0].moving_to = "c-1".into());
    assert_eq!(told, "tenant a is moving but is on no cell");
}

#[test]
fn a_very_wrong_fleet_does_not_print_itself_back() {
    let mut document = two_cells();
    document.tenants = (0..500).map(|index| on("nowhere", tenant(&format!("t-{index}"), 1.0))).collect();
    let error = refused(&document);
    assert_eq!((error.problems.len(), error.unlisted), (PROBLEMS_MAX, 450));
    assert!(error.to_string().ends_with("and 450 more"));
}

#[test]
fn a_file_cut_in_half_says_so() {
    let text = two_cells().to_json();
    let half = &text[..text.len() / 2];
    let error = FleetDocument::from_json(half).expect_err("it is cut");
    let problem = &error.problems[0];
    assert_eq!(problem.code, ProblemCode::FleetSyntax);
    assert_eq!(
        problem.place,
        Place::Text { line: half.lines().count(), column: half.lines().last().unwrap().len() }
    );
    assert!(problem.remedy.contains("ends too early"), "{problem}");

    let mut tables = FleetTables::write(&two_cells());
    tables.tenants.truncate(tables.tenants.len() - 20);
    let error = tables.build(Revision(1)).expect_err("it is cut");
    assert_eq!(error.problems[0].place, Place::TenantLine(3), "{error}");
}

#[test]
fn a_table_is_wrong_by_line_and_column() {
    let cells = "cpu, id,connections,storage\n10,c-1,10,10\n10,c-2,x,10\n".to_owned();
    let tenants = "id,tier,cpu_mean\na,gold,1\n\nb,tin,1 2 3\nc,bronze,1 2 y\n".to_owned();
    let error = FleetTables { cells, tenants }.build(Revision(1)).expect_err("it is wrong");
    let told: Vec<_> = error.problems.iter().map(|of| (of.place, of.sentence.as_str())).collect();
    assert_eq!(
        told,
        [
            (Place::CellLine(3), "column connections is \"x\""),
            (Place::TenantLine(4), "column tier is \"tin\""),
            (Place::TenantLine(5), "column cpu_mean is \"1 2 y\"")
        ]
    );
    let unknown = FleetTables { cells: "id,colour\nc-1,red\n".into(), tenants: "name\na\n".into() };
    let error = unknown.build(Revision(1)).expect_err("it is wrong");
    let told: Vec<_> = error.problems.iter().map(|of| of.sentence.as_str()).collect();
    assert_eq!(told, ["column \"colour\" is not known", "column \"name\" is not known", "there is no column id"]);
}

#[test]
fn the_line_of_what_is_wrong_is_known_however_long_the_table_is_and_however_lines_end() {
    for end in ["\n", "\r\n"] {
        for blank in [0, 1, 3] {
            // Longer than any piece in which it is read; every seventh record has a field of two lines.
            let mut tenants = format!("id,cpu_mean,group{end}");
            let mut wrong = Vec::new();
            for number in 0..600 {
                tenants.push_str(&end.repeat(blank));
                let line = tenants.matches('\n').count() + 1;
                let group = if number % 7 == 0 { "\"a\nb\"" } else { "a" };
                let mean = if number % 100 == 50 { "much" } else { "1" };
                wrong.extend((mean == "much").then_some(Place::TenantLine(line)));
                let short = number % 100 == 70;
                wrong.extend(short.then_some(Place::TenantLine(line)));
                let fields =
                    if short { format!("t-{number}") } else { format!("t-{number},{mean},{group}{number}") };
                let fields = fields.replace(&format!("\"a\nb\"{number}"), &format!("\"a\nb{number}\""));
                tenants.push_str(&format!("{fields}{end}"));
            }
            let cells = format!("id,cpu{end}c-1,10000{end}");
            let error = FleetTables { cells, tenants }.build(Revision(1)).expect_err("it is wrong");
            let told: Vec<_> = error.problems.iter().map(|of| of.place).collect();
            assert_eq!(told, wrong, "{end:?} {blank}");
        }
    }
}

#[test]
fn a_table_that_cannot_be_read_to_its_end_says_so() {
    struct Broken(usize);
    impl std::io::Read for Broken {
        fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
            self.0 += 1;
            if self.0 > 1 {
                return Err(std::io::Error::other("the disk is gone"));
            }
            into[..11].copy_from_slice(b"id\nt-1\nt-2\n");
            Ok(11)
        }
    }
    let error = FleetTables::read(&b"id\nc-1\n"[..], Broken(0), Revision(1)).expect_err("it is cut");
    assert_eq!(error.problems.len(), 1, "{error}");
    assert!(error.to_string().contains("the disk is gone"), "{error}");
}

#[test]
fn a_misspelt_field_is_not_passed_over() {
    let error = FleetDocument::from_json("{\n  \"cells\": [{\"id\": \"c-1\", \"regoin\": \"eu\"}]\n}").unwrap_err();
    assert_eq!(error.problems[0].code, ProblemCode::FleetSyntax);
    assert!(error.to_string().starts_with("line 2, column "), "{error}");
    assert!(error.to_string().contains("regoin"), "{error}");
}

proptest! {
    #![proptest_config(crate::cases(40))]

    #[test]
    fn a_fleet_comes_back_as_it_went_out(seed in any::<u64>()) {
        let shape = Shape { seed, cells: 8, tenants: 40, fill: 0.5, careless: true };
        let packed = random(shape).build().unwrap().to_document();
        let again = FleetDocument::from_json(&packed.to_json()).unwrap();
        prop_assert_eq!(&again, &packed);
        prop_assert_eq!(&again.build().unwrap().to_document(), &packed, "packing packed demands changes nothing");
        let tables = FleetTables::write(&packed).build(packed.revision).unwrap().to_document();
        prop_assert_eq!(tables.to_json(), packed.to_json());
    }

    #[test]
    fn no_text_makes_it_panic(text in "\\PC{0,200}", other in "[a-z0-9,\"\n ]{0,200}") {
        for text in [&text, &other] {
            prop_assert!(FleetDocument::from_json(text).and_then(|document| document.build()).is_err());
            let tables = FleetTables { cells: text.clone(), tenants: text.clone() };
            // An id and nothing else is a fleet, so this may be either; it must only come back.
            if let Err(error) = tables.build(Revision(1)) {
                prop_assert!(!error.problems.is_empty());
            }
        }
    }
}
