//! A control plane is lost, and restored from a backup that is older than what has happened since.

use crate::moves::Fleet;

fn json(said: &crate::program::Said) -> serde_json::Value {
    serde_json::from_str(&said.out).unwrap_or_else(|error| panic!("{error}: {said:?}"))
}

fn life_of(fleet: &Fleet, tenant: &str) -> String {
    let said = fleet.control.run(&format!("describe tenant {tenant} -o json"));
    if said.code == 0 { json(&said)["life"].as_str().unwrap_or_default().to_owned() } else { "gone".into() }
}

fn make(fleet: &Fleet, tenant: &str) {
    let made = fleet.control.run(&format!("create tenant {tenant} --cell c1"));
    assert_eq!(made.code, 0, "{made:?}");
    fleet.until("it lives", |fleet| life_of(fleet, tenant) == "live");
}

fn verdicts(fleet: &Fleet, words: &str) -> Vec<(String, String)> {
    let said = fleet.control.run(&format!("store reconcile{words} -o json"));
    let items = json(&said)["items"].as_array().unwrap().clone();
    let text = |item: &serde_json::Value, field: &str| item[field].as_str().unwrap().to_owned();
    items.iter().map(|item| (text(item, "tenant"), text(item, "verdict"))).collect()
}

/// Everything after the backup is lost but in the cells; the address stays.
fn lose_and_restore(fleet: &mut Fleet, backup: &std::path::Path, lineage: &str) {
    let address = fleet.control.address.clone();
    fleet.control.stop();
    let restored = fleet.directory.path().join("restored");
    let _ = std::fs::remove_dir_all(&restored);
    let words = format!(
        "store restore --from {} --data-dir {} --advertise {address}{lineage}",
        backup.display(),
        restored.display()
    );
    let said = crate::program::cellctl(&words);
    assert!(said.code == 0 && said.err.contains("cellctl store reconcile"), "{said:?}");
    fleet.control = crate::cli::ControlPlane::start_at(fleet.directory.path(), "restored", &address);
    fleet.until("it leads and the cells report", |fleet| {
        fleet.control.run("get cells").code == 0
            && fleet.control.run("store reconcile").err.matches(" knows of ").count() == 2
    });
}

#[test]
fn a_backup_that_is_older_than_a_cutover_is_reconciled_with_what_the_cells_hold() {
    let mut fleet = Fleet::start(None);
    ["half", "leaves", "stays"].iter().for_each(|tenant| make(&fleet, tenant));
    let backup = fleet.directory.path().join("backup");
    let said = fleet.control.run(&format!("store backup --out {}", backup.display()));
    assert_eq!(said.code, 0, "{said:?}");
    assert!(fleet.control.run("store reconcile --yes").err.contains("nothing to reconcile"));

    let moved = fleet.control.run("move tenant acme --to c2 --tier silver --watch --steady 10ms --soak 100ms");
    assert_eq!(moved.code, 0, "{moved:?}");
    let half = fleet.control.run("move tenant half --to c2 --until sync --steady 10ms -o name");
    let half = half.out.trim().trim_start_matches("move/").to_owned();
    fleet.until("it pauses", |fleet| fleet.describe(&format!("move {half}"))["status"] == "paused");
    assert_eq!(fleet.control.run("delete tenant leaves --yes").code, 0);
    fleet.until("it is deleted", |fleet| life_of(fleet, "leaves") != "deleting");
    make(&fleet, "comes");

    lose_and_restore(&mut fleet, &backup, "");
    // The store believes that nothing has happened, and does nothing about it.
    assert_eq!(fleet.describe("tenant acme")["cell"], "c1");
    for refused in ["move tenant stays --to c2", "create tenant comes --cell c2", "delete tenant stays --yes"] {
        let said = fleet.control.run(refused);
        assert!(said.code == 1 && said.err.contains("(NOT_RECONCILED)"), "{said:?}");
        assert!(said.err.contains("next: `cellctl store reconcile`"), "{said:?}");
    }
    let wanted = [("acme", "moved"), ("comes", "made"), ("half", "called-off"), ("leaves", "deleted")];
    let wanted = wanted.map(|(tenant, verdict)| (tenant.to_owned(), verdict.to_owned()));
    assert_eq!(verdicts(&fleet, ""), wanted);
    assert_eq!(fleet.describe("tenant acme")["cell"], "c1", "looking changes nothing");
    let checked = fleet.control.run("check --only quorum");
    assert!(checked.code == 1 && checked.out.contains("docs/check.md#reconciled"), "{checked:?}");

    let unknown = fleet.control.run("store reconcile --yes --without c9");
    assert!(unknown.code == 1 && unknown.err.contains("(CELL_UNKNOWN)"), "{unknown:?}");
    assert_eq!(verdicts(&fleet, " --yes"), wanted);
    assert!(fleet.control.run("store reconcile").err.contains("nothing to reconcile"));
    let acme = fleet.describe("tenant acme");
    assert_eq!((&acme["cell"], &acme["epoch"]), (&"c2".into(), &2.into()));
    assert_eq!(acme["tier"], "silver", "the old cell hands out the mapping with which it moved");
    assert_eq!((life_of(&fleet, "comes"), life_of(&fleet, "stays")), ("live".into(), "live".into()));
    fleet.until("the deletion is done once more", |fleet| life_of(fleet, "leaves") != "deleting");
    // What the half-done move has left is taken away, and both may be moved, one back to where it has left a copy.
    for (tenant, to) in [("half", "c2"), ("acme", "c1"), ("comes", "c2")] {
        let words = format!("move tenant {tenant} --to {to} --watch --steady 10ms --soak 50ms --retain 0s");
        let moved = fleet.control.run(&words);
        assert!(moved.code == 0 && moved.out.contains(&format!("{tenant} lives on {to}")), "{moved:?}");
    }
    let trail = fleet.control.run("audit show --last 1000 --no-headers").out;
    assert!(trail.contains("adopt") && trail.contains("heard=c1,c2 without="), "{trail}");
    assert_eq!(fleet.control.run("audit verify").code, 0);
}

#[test]
fn a_cell_that_is_not_heard_is_in_the_way_until_somebody_answers_for_it() {
    let mut fleet = Fleet::start(None);
    let made = fleet.control.run("create cell c3 --agent 127.0.0.1:9");
    assert_eq!(made.code, 0, "{made:?}");
    let backup = fleet.directory.path().join("backup");
    assert_eq!(fleet.control.run(&format!("store backup --out {}", backup.display())).code, 0);
    lose_and_restore(&mut fleet, &backup, "");
    let looked = fleet.control.run("store reconcile");
    assert!(looked.code == 1 && looked.err.contains("cell c3 was not heard"), "{looked:?}");
    assert!(looked.err.contains("store reconcile --without c3"), "{looked:?}");
    let refused = fleet.control.run("store reconcile --yes");
    assert!(refused.code == 1 && refused.err.contains("(CELL_NOT_HEARD)"), "{refused:?}");
    let done = fleet.control.run("store reconcile --yes --without c3");
    assert!(done.code == 0 && done.err.contains("1 confirmed, 0 adopted"), "{done:?}");
    assert_eq!(fleet.control.run("check --only quorum").code, 0);

    // It lives on for a while, under a later term, and its cells hear of it.
    let address = fleet.control.address.clone();
    fleet.control.stop();
    fleet.control = crate::cli::ControlPlane::start_at(fleet.directory.path(), "restored", &address);
    fleet.until("both cells were asked", |fleet| {
        let looked = fleet.control.run("move tenant acme --to c2 --dry-run");
        looked.code == 0 && !looked.out.contains("CELL_UNREACHABLE")
    });
    // Then the same backup is restored once more: the cells follow the first restore.
    lose_and_restore(&mut fleet, &backup, "");
    let refused = fleet.control.run("store reconcile --yes --without c3");
    assert!(refused.code == 1 && refused.err.contains("(LINEAGE_TOO_LOW)"), "{refused:?}");
    assert!(refused.err.contains("store restore --lineage"), "{refused:?}");
    lose_and_restore(&mut fleet, &backup, " --lineage 3");
    let done = fleet.control.run("store reconcile --yes --without c3");
    assert!(done.code == 0 && done.err.contains("1 confirmed, 0 adopted"), "{done:?}");
}
