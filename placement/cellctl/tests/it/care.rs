//! Looking after a fleet: certificates, the audit trail, the check. No cell runs.

use std::path::Path;

use crate::cli::ControlPlane;
use crate::program::{Said, cellctl};

fn done(said: &Said) {
    assert_eq!(said.code, 0, "{said:?}");
}

/// An authority, and the directory of a certificate.
fn issue(directory: &Path, role: &str, name: &str) -> std::path::PathBuf {
    let (ca, out) = (directory.join("ca"), directory.join(name));
    if !ca.exists() {
        done(&cellctl(&format!("ca init --dir {}", ca.display())));
    }
    done(&cellctl(&format!("ca issue {role} {name} --ca {} --out {}", ca.display(), out.display())));
    out
}

#[test]
fn certificates_are_issued_and_open_the_door_for_their_role() {
    let directory = tempfile::tempdir().unwrap();
    let at = directory.path();
    let control = ControlPlane::start_as(at, Some(issue(at, "control", "node-1")));
    let (admin, viewer) = (issue(at, "admin", "root"), issue(at, "viewer", "guest"));
    let run = |who: &Path, words: &str| {
        cellctl(&format!("{words} --identity {} --endpoints {}", who.display(), control.address))
    };
    done(&run(&admin, "cluster init"));
    done(&run(&admin, "create cell c1 --agent 127.0.0.1:9"));
    assert_eq!(run(&viewer, "get cells -o name").out, "cell/c1\n");
    let denied = run(&viewer, "cordon cell c1");
    assert!(denied.code == 1 && denied.err.contains("ROLE_DENIED"), "{denied:?}");
    let nameless = cellctl(&format!("get cells --endpoints {}", control.address));
    assert!(nameless.code == 64 && nameless.err.contains("IDENTITY_REQUIRED"), "{nameless:?}");
    let shown = run(&viewer, "audit show");
    assert!(shown.out.contains("admin/root") && shown.out.contains("create-cell"), "{shown:?}");
    let again = cellctl(&format!("ca issue admin root --ca {0}/ca --out {0}/root", at.display()));
    assert!(again.code == 1 && again.err.contains("CERTIFICATE_EXISTS"), "{again:?}");
    let nowhere = cellctl(&format!("ca issue admin x --ca {0}/none --out {0}/x", at.display()));
    assert!(nowhere.code == 1 && nowhere.err.contains("AUTHORITY_UNREADABLE"), "{nowhere:?}");
}

#[test]
fn an_export_proves_itself_and_what_was_done_to_it_is_found() {
    let directory = tempfile::tempdir().unwrap();
    let control = ControlPlane::start_as(directory.path(), None);
    done(&control.run("cluster init"));
    done(&control.run("create cell c1 --agent 127.0.0.1:9"));
    for tenant in ["acme", "globex"] {
        done(&control.run(&format!("create tenant {tenant}")));
    }
    assert_eq!(control.run("create tenant acme").code, 1);
    let file = directory.path().join("trail.jsonl");
    done(&control.run(&format!("audit export --out {}", file.display())));
    let again = control.run(&format!("audit export --out {} --after 1", file.display()));
    assert!(again.code == 1 && again.err.contains("EXPORT_EXISTS"), "{again:?}");
    done(&control.run("delete tenant globex --yes"));
    let verified = control.run(&format!("audit verify --against {}", file.display()));
    done(&verified);
    assert!(verified.err.contains("one chain"), "{verified:?}");
    done(&cellctl(&format!("audit verify --file {}", file.display())));
    let of_one = control.run("audit show --tenant acme --no-headers");
    assert_eq!(of_one.out.lines().count(), 2, "made, and refused: {of_one:?}");
    assert!(of_one.out.contains("TENANT_EXISTS"), "{of_one:?}");

    let text = std::fs::read_to_string(&file).unwrap();
    let forged = directory.path().join("forged.jsonl");
    std::fs::write(&forged, text.replacen("tenant/acme", "tenant/evil", 1)).unwrap();
    let found = cellctl(&format!("audit verify --file {}", forged.display()));
    assert!(
        found.code == 1 && found.err.contains("AUDIT_BROKEN") && found.err.contains("audit entry 3"),
        "{found:?}"
    );
    // What the nodes say does not make up for it.
    let believed = control.run(&format!("audit verify --against {}", forged.display()));
    assert!(believed.code == 1 && believed.err.contains("audit entry 3"), "{believed:?}");
    let cut: Vec<&str> = text.lines().skip(2).collect();
    std::fs::write(&forged, cut.join("\n")).unwrap();
    let cut = cellctl(&format!("audit verify --file {}", forged.display()));
    assert!(cut.code == 0 && cut.err.contains("entries 1 to 2 are not in it"), "{cut:?}");
    std::fs::write(&forged, "nonsense").unwrap();
    let found = control.run(&format!("audit verify --against {}", forged.display()));
    assert!(found.code == 1 && found.err.contains("AUDIT_UNREADABLE"), "{found:?}");
}

#[test]
fn a_check_says_what_is_wrong_and_what_to_do_and_exits_accordingly() {
    let directory = tempfile::tempdir().unwrap();
    let control = ControlPlane::start_as(directory.path(), None);
    done(&control.run("cluster init"));
    let plain = control.run("check");
    assert_eq!(plain.code, 3, "plaintext is worth a warning: {plain:?}");
    assert!(plain.out.contains("√ all 1 control nodes answer"), "{plain:?}");
    assert!(plain.out.contains("‼") && plain.out.contains("docs/check.md#encrypted"), "{plain:?}");
    let only = control.run("check --only quorum,audit");
    done(&only);
    done(&control.run("create cell c1 --agent 127.0.0.1:1"));
    let silent = control.run("check --only lag -o json");
    assert_eq!(silent.code, 1, "{silent:?}");
    let document: serde_json::Value = serde_json::from_str(&silent.out).unwrap();
    let findings = document["items"].as_array().unwrap();
    let agents = findings.iter().find(|finding| finding["check"] == "agents-answer").unwrap();
    assert_eq!(agents["mark"], "fails");
    assert!(agents["hint"].as_str().unwrap().contains("cellctl describe cell"), "{agents}");
    let gone = cellctl("check --only quorum --timeout 300ms --insecure-plaintext --endpoints 127.0.0.1:1");
    assert!(gone.code == 1 && gone.out.contains("×"), "{gone:?}");
}

#[test]
fn every_check_has_its_section() {
    let of = |file: &str| {
        std::fs::read_to_string(format!("{}/src/commands/check/{file}", env!("CARGO_MANIFEST_DIR"))).unwrap()
    };
    let rest = ["kept.rs", "members.rs"].map(|file| of(file).split("#[cfg(test)]").next().unwrap().to_owned());
    let source = of("findings.rs") + &rest.concat();
    let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/check.md")).unwrap();
    let sections: Vec<&str> = page.lines().filter_map(|line| line.strip_prefix("## ")).collect();
    assert!(sections.len() > 10, "{sections:?}");
    for section in &sections {
        assert!(source.contains(&format!("\"{section}\"")), "nothing is checked under {section}");
    }
    let words = source.split('"').skip(1).step_by(2);
    let named =
        words.filter(|word| word.contains('-') && word.bytes().all(|b| b.is_ascii_lowercase() || b == b'-'));
    for check in named.filter(|word| *word != "kebab-case") {
        assert!(sections.contains(&check), "docs/check.md has no section {check}");
    }
}
