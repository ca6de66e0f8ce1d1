//! `cellctl adopt` and `cellctl cell` against a control plane and two cells on databases that were in use before.

use tokio_postgres::Client;

use crate::moves::Fleet;
use crate::server;

struct Used {
    fleet: Fleet,
    databases: [String; 2],
}

impl Used {
    fn start() -> Self {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let databases = runtime.block_on(async { [server::database().await, server::database().await] });
        let fleet = Fleet::start_with(Some(databases.clone()), |options| options.observe = true);
        Self { fleet, databases }
    }

    fn session(&self, cell: usize) -> Client {
        self.fleet.runtime.block_on(server::session(&self.databases[cell]))
    }

    /// Whoever was there before Cellway writes on.
    fn write(&self, cell: usize, tenant: &str) {
        let insert = format!("INSERT INTO documents VALUES ('{tenant}', 'd', 1, '{{}}')");
        self.fleet.runtime.block_on(self.session(cell).batch_execute(&insert)).unwrap();
    }

    fn file(&self, text: &str) -> String {
        let path = self.fleet.directory.path().join("tenants.csv");
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    }

    fn rows(&self, cell: usize, tenant: &str) -> i64 {
        let count = "SELECT count(*) FROM documents WHERE tenant_id = $1";
        self.fleet.runtime.block_on(self.session(cell).query_one(count, &[&tenant])).unwrap().get(0)
    }
}

#[test]
fn tenants_that_are_there_are_adopted_where_they_are_and_can_be_moved_then() {
    let used = Used::start();
    let control = &used.fleet.control;
    for (cell, tenant) in [(0, "old-1"), (0, "old-2"), (1, "stray"), (1, "forgotten")] {
        used.write(cell, tenant);
    }

    let bad = used.file("old-1,c1\nOld Two,c1\nold-1,c2\n");
    let said = control.run(&format!("adopt --from {bad}"));
    assert!(said.code == 1 && said.err.contains("(MANIFEST_INVALID)"), "{said:?}");
    assert!(
        said.err.contains("  line 2: ") && said.err.contains("  line 3: tenant old-1 is in line 1"),
        "{said:?}"
    );

    let wrong = used.file("old-1,c1\nstray,c1\nold-2,c9\nacme,c2\n");
    let said = control.run(&format!("adopt --from {wrong}"));
    assert!(said.code == 1 && said.err.contains("(ADOPTION_FINDINGS)"), "{said:?}");
    for found in [
        "line 2: ROWS_ELSEWHERE: the rows of tenant stray are in c2, not in c1",
        "line 3: CELL_UNKNOWN: there is no cell c9",
        "line 4: TENANT_ELSEWHERE: tenant acme is owned by c1",
    ] {
        assert!(said.out.contains(found), "{found}: {said:?}");
    }
    assert!(control.run("get tenants -o name").out.lines().eq(["tenant/acme"]), "nothing was done");

    let right = used.file("tenant,cell,tier\nold-1,c1,gold\nold-2,c1\nstray,c2\n");
    let looked = control.run(&format!("adopt --from {right} --dry-run"));
    assert_eq!(looked.code, 0, "{looked:?}");
    assert!(looked.out.contains("3 tenants to adopt, 0 adopted already"), "{looked:?}");
    assert!(
        looked.out.contains("UNLISTED: 1 tenants have rows in c2 and stand in no line: forgotten"),
        "{looked:?}"
    );
    assert!(looked.out.contains("UNLISTED_WRITERS: c2 has let in writers"), "{looked:?}");
    assert!(looked.out.contains("OBSERVES: c1 observes"), "{looked:?}");

    let adopted = control.run(&format!("adopt --from {right}"));
    assert_eq!(adopted.code, 0, "{adopted:?}");
    assert!(adopted.err.contains("3 tenants adopted"), "{adopted:?}");
    let described = used.fleet.describe("tenant old-1");
    assert_eq!((described["cell"].as_str(), described["life"].as_str()), (Some("c1"), Some("live")));
    assert_eq!(described["tier"], "gold");
    let again = control.run(&format!("adopt --from {right} -o json"));
    let told: serde_json::Value = serde_json::from_str(&again.out).unwrap();
    assert_eq!((told["new"].as_u64(), told["known"].as_u64()), (Some(0), Some(3)), "{told:#}");

    let moved = control.run("move tenant old-1 --to c2 --watch --steady 10ms --soak 100ms --retain 0s");
    assert_eq!(moved.code, 0, "{moved:?}");
    assert_eq!(used.rows(1, "old-1"), 1);
}

#[test]
fn a_cell_is_enrolled_with_its_database_looked_at_and_its_certificate_made() {
    let used = Used::start();
    let control = &used.fleet.control;
    let url = used.fleet.runtime.block_on(server::database());
    let client = used.fleet.runtime.block_on(server::session(&url));
    used.fleet
        .runtime
        .block_on(client.batch_execute("CREATE TABLE orders (tenant_id text, id bigserial)"))
        .unwrap();
    let authority = used.fleet.directory.path().join("ca").display().to_string();
    assert_eq!(control.run(&format!("ca init --dir {authority}")).code, 0);
    let out = used.fleet.directory.path().join("c3");
    let with = format!("--agent 127.0.0.1:9 --database {url} --ca {authority} --out {}", out.display());

    let said = control.run(&format!("cell enroll c3 {with}"));
    assert!(said.code == 1 && said.err.contains("(DATABASE_UNFIT)"), "{said:?}");
    assert!(said.err.contains("ALTER TABLE \"public\".\"orders\" ADD PRIMARY KEY"), "{said:?}");
    assert!(!out.exists() && !control.run("get cells -o name").out.contains("c3"), "nothing was made");

    used.fleet
        .runtime
        .block_on(client.batch_execute("ALTER TABLE orders ADD PRIMARY KEY (tenant_id, id)"))
        .unwrap();
    let looked = control.run(&format!("cell enroll c3 {with} --dry-run"));
    assert!(looked.code == 0 && looked.err.contains("would be enrolled") && !out.exists(), "{looked:?}");
    for _ in 0..2 {
        let said = control.run(&format!("cell enroll c3 {with}"));
        assert_eq!(said.code, 0, "{said:?}");
        assert!(out.join("tls.crt").exists() && said.out.contains("c3"), "{said:?}");
        assert!(said.err.contains("sample-cell serve --cell c3") && !said.err.contains("postgres://"), "{said:?}");
    }
    let said = control.run("cell enroll c4 --agent 127.0.0.1:9");
    assert!(said.err.contains("(ADDRESS_TAKEN)"), "{said:?}");
    let others = format!("cell enroll c5 --agent 127.0.0.1:8 --database {}", used.databases[0]);
    let said = control.run(&others);
    assert!(said.err.contains("(OTHER_CELL)") && said.err.contains("cell c1"), "{said:?}");
    let template = format!("{}-template", url.rsplit_once('/').unwrap().1);
    let each = format!(
        "cell enroll c5 --agent 127.0.0.1:8 --database {url} --tenant-database own_{{id}} --template-database {template} --dry-run"
    );
    let said = control.run(&each);
    assert!(said.code == 1 && said.err.contains("TEMPLATE_MISSING"), "{said:?}");
    let made = format!("CREATE DATABASE \"{template}\" TEMPLATE \"{}\"", url.rsplit_once('/').unwrap().1);
    drop(client);
    let admin = used.fleet.runtime.block_on(server::session(&used.databases[0]));
    used.fleet.runtime.block_on(admin.batch_execute(&made)).unwrap();
    let said = control.run(&each);
    assert!(said.code == 0 && said.err.contains("1 tables of tenants"), "{said:?}");
    let nowhere = "cell enroll c5 --agent 127.0.0.1:8 --database postgres://postgres@127.0.0.1:1/none";
    let said = control.run(nowhere);
    assert!(said.err.contains("(DATABASE_UNREACHABLE)"), "{said:?}");
}

#[test]
fn cells_are_given_ids_of_their_own_by_sql_that_can_be_run_as_it_is_printed() {
    let used = Used::start();
    let control = &used.fleet.control;
    let orders = "CREATE TABLE orders (tenant_id text, id bigserial, PRIMARY KEY (tenant_id, id)); \
                  GRANT ALL ON orders TO PUBLIC; \
                  INSERT INTO orders (tenant_id) SELECT 'old' FROM generate_series(1, 50)";
    for cell in [0, 1] {
        used.fleet.runtime.block_on(used.session(cell).batch_execute(orders)).unwrap();
    }
    let ids = |words: &str| {
        let said = control.run(&format!("cell ids --stride 16 --headroom 100 {words}"));
        assert_eq!(said.code, 0, "{said:?}");
        said
    };
    let told: serde_json::Value = serde_json::from_str(&ids("-o json").out).unwrap();
    let states: Vec<&str> =
        told["items"].as_array().unwrap().iter().map(|cell| cell["state"].as_str().unwrap()).collect();
    assert_eq!(states, ["to be changed", "to be changed"], "{told:#}");
    for (place, cell) in ["c1", "c2"].into_iter().enumerate() {
        let script = ids(&format!("--sql {cell}")).out;
        assert!(script.starts_with(&format!("-- cell {cell}: ids that are {} modulo 16", place + 1)), "{script}");
        used.fleet.runtime.block_on(used.session(place).batch_execute(&script)).unwrap();
        let insert = "INSERT INTO orders (tenant_id) VALUES ('old') RETURNING id";
        let id: i64 = used.fleet.runtime.block_on(used.session(place).query_one(insert, &[])).unwrap().get(0);
        assert!(id > 150 && id % 16 == i64::try_from(place).unwrap() + 1, "{id}");
    }
    let listed = ids("--no-headers").out;
    assert_eq!(listed.matches("ready").count(), 2, "{listed}");
    let said = control.run("cell ids --stride 2 --sql c9");
    assert!(said.code == 1 && said.err.contains("(CELL_UNKNOWN)"), "{said:?}");
}
