//! Databases that were in use before Cellway: who is let in, what is told, and how ids are told apart.

use cell_agent::{DatabaseOptions, inspect_database};
use cell_model::CellId;

use super::ground::*;
use super::server::Own;

async fn observing(ground: &Ground) -> Cell {
    let url = database().await;
    session(&url).await.batch_execute(TABLES).await.unwrap();
    accounts(&session(&url).await, 2).await;
    ground.open_with("a", &url, "127.0.0.1:0", |database| database.observe = true).await.unwrap()
}

fn insert(tenant: &str) -> String {
    format!("INSERT INTO accounts (tenant_id, name) VALUES ('{tenant}', 'n')")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cell_that_observes_lets_in_and_notes_writers_of_tenants_that_it_was_never_granted() {
    let ground = Ground::new();
    let a = observing(&ground).await;
    let client = a.session().await;
    client.batch_execute("SET application_name = 'nightly'").await.unwrap();
    client.batch_execute(&insert("t-1")).await.unwrap();
    client.batch_execute(&insert("t-1")).await.unwrap();
    // Who comes with an epoch comes through a gate: this cell is not where it belongs.
    assert_eq!(enter(&client, 1).await.unwrap_err(), "NOT_OWNER");
    client.batch_execute("ROLLBACK").await.unwrap();
    // A reader makes no note, and is not in anybody's way.
    client.batch_execute("BEGIN READ ONLY; SELECT cellway.look('t-2'); COMMIT").await.unwrap();
    let told = ground.pool.existing(&a.agent).await.unwrap().unwrap();
    assert!(told.observes && !told.more_strangers);
    assert_eq!(told.strangers, ["t-1"]);
    let noted: Vec<(&str, &str)> =
        told.observed.iter().map(|noted| (noted.tenant.as_str(), noted.writer.as_str())).collect();
    assert_eq!(noted, [("t-1", "nightly postgres")]);
    assert!(told.observed[0].first_at_unix_ms > 1_600_000_000_000);

    // Adopted, it is granted where it is, with its rows; a stranger is still let in.
    ground.pool.grant(&a.agent, &outside(1)).await.unwrap();
    assert_eq!(a.rows().await["accounts"].len(), 4);
    enter(&client, 1).await.unwrap();
    client.batch_execute("COMMIT").await.unwrap();
    client.batch_execute(&insert("t-3")).await.unwrap();
    let told = ground.pool.existing(&a.agent).await.unwrap().unwrap();
    assert_eq!(told.strangers, ["t-3"]);

    // Opened again without the option it enforces.
    let url = a.url.clone();
    let listen = a.close().await;
    let a = ground.try_open("a", &url, &listen).await.unwrap();
    let client = a.session().await;
    let refused = client.batch_execute(&insert("t-3")).await.unwrap_err();
    assert_eq!(code(&refused), "NOT_OWNER");
    client.batch_execute(&insert("t-1")).await.unwrap();
    let told = ground.pool.existing(&a.agent).await.unwrap().unwrap();
    assert!(!told.observes && !told.more_observed, "{told:?}");
    let noted: Vec<&str> = told.observed.iter().map(|noted| noted.tenant.as_str()).collect();
    assert_eq!(noted, ["t-3"], "one that has been granted since is none any more");
}

/// What the agent says. It gives up after three seconds, which is short for so much on a machine that does other things.
async fn existing(ground: &Ground, cell: &Cell) -> cell_protos::v1::Existing {
    let deadline = std::time::Instant::now() + 3 * PATIENCE;
    loop {
        match ground.pool.existing(&cell.agent).await {
            Ok(told) => return told.unwrap(),
            Err(error) => assert!(std::time::Instant::now() < deadline, "{error}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strangers_behind_more_known_tenants_than_are_told_are_found_and_more_than_are_told_are_said() {
    let ground = Ground::new();
    let a = observing(&ground).await;
    let client = a.session().await;
    let many = |name: &str, number: u32| {
        format!(
            "SET session_replication_role = replica; \
             INSERT INTO accounts (tenant_id, name) SELECT '{name}-' || n, 'n' FROM generate_series(1, {number}) n; \
             INSERT INTO cellway.observed (tenant, writer) SELECT '{name}-' || n, 'w' FROM generate_series(1, {number}) n"
        )
    };
    client.batch_execute(&many("known", 20_100)).await.unwrap();
    let grant_all = "INSERT INTO cellway.controls (tenant, control) \
                     SELECT tenant, '' FROM cellway.observed WHERE tenant LIKE 'known-%'";
    client.batch_execute(grant_all).await.unwrap();
    client.batch_execute(&many("z", 3)).await.unwrap();
    // As the server would have done by itself; here nothing does.
    client.batch_execute("ANALYZE").await.unwrap();
    let told = existing(&ground, &a).await;
    assert!(!told.more_strangers && !told.more_observed);
    assert_eq!(told.strangers, ["t-1", "z-1", "z-2", "z-3"]);
    let noted: Vec<&str> = told.observed.iter().map(|noted| noted.tenant.as_str()).collect();
    assert_eq!(noted, ["z-1", "z-2", "z-3"]);

    client.batch_execute(&many("y", 10_000)).await.unwrap();
    client.batch_execute("ANALYZE").await.unwrap();
    let told = existing(&ground, &a).await;
    assert!(told.more_strangers && told.more_observed);
    assert_eq!((told.strangers.len(), told.observed.len()), (10_000, 10_000));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writers_of_one_stranger_do_not_wait_for_each_others_note() {
    let ground = Ground::new();
    let a = observing(&ground).await;
    let (first, second) = (a.session().await, a.session().await);
    first.batch_execute(&format!("BEGIN; {}", insert("new"))).await.unwrap();
    second.batch_execute(&format!("SET lock_timeout = '2s'; {}", insert("new"))).await.unwrap();
    first.batch_execute("COMMIT").await.unwrap();
    let told = ground.pool.existing(&a.agent).await.unwrap().unwrap();
    assert_eq!(told.observed.iter().filter(|noted| noted.tenant == "new").count(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tenant_that_has_left_a_cell_that_observes_is_refused_there() {
    let ground = Ground::new();
    let a = observing(&ground).await;
    let b = ground.open("b").await;
    ground.pool.grant(&a.agent, &outside(1)).await.unwrap();
    let step = context(1, 1);
    ground.copy(&a, &b, &step).await;
    ground.verify(&a, &b, &step).await;
    ground.pool.engage_sync(&a.agent, &step, true).await.unwrap();
    ground.reverse(&b.agent, &step).await;
    ground.cut_over(&a, &b, 1, 1, cell_model::Leg::Forward).await;
    let refused = a.session().await.batch_execute(&insert("t-1")).await.unwrap_err();
    assert_eq!(code(&refused), "NOT_OWNER");
    b.session().await.batch_execute(&insert("t-1")).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sequences_are_told_and_the_retrofit_makes_ids_of_two_cells_disjoint() {
    let ground = Ground::new();
    let (a, b) = ground.pair().await;
    accounts(&a.session().await, 7).await;
    let told = ground.pool.existing(&a.agent).await.unwrap().unwrap();
    let of_ids = told.sequences.iter().find(|sequence| sequence.name == "public.accounts_id_seq").unwrap();
    assert_eq!((of_ids.increment, of_ids.last_value, of_ids.is_called), (1, 7, true));
    assert_eq!(told.sequences.len(), 2, "{:?}", told.sequences);
    // As `cellctl cell ids --sql` prints it, for an identity and for a serial.
    for (cell, next) in [(&a, 1_001), (&b, 1_002)] {
        let alter = |name: &str| format!("ALTER SEQUENCE {name} INCREMENT BY 8 RESTART WITH {next};");
        let script = format!("BEGIN; {} {} COMMIT", alter(&told.sequences[0].name), alter(&told.sequences[1].name));
        cell.session().await.batch_execute(&script).await.unwrap();
    }
    ground
        .pool
        .grant(&b.agent, &cell_client::StepContext { tenant: "u".parse().unwrap(), ..outside(1) })
        .await
        .unwrap();
    let insert =
        |tenant: &str| format!("INSERT INTO accounts (tenant_id, name) VALUES ('{tenant}', 'x') RETURNING id");
    let mut handed_out = Vec::new();
    for _ in 0..5 {
        for (cell, tenant, residue) in [(&a, "t-1", 1), (&b, "u", 2)] {
            let id: i64 = cell.session().await.query_one(&insert(tenant), &[]).await.unwrap().get(0);
            assert!(id > 1_000 && id % 8 == residue, "{id} of cell {}", cell.id);
            handed_out.push(id);
        }
    }
    handed_out.sort_unstable();
    handed_out.dedup();
    assert_eq!(handed_out.len(), 10);
    let told = ground.pool.existing(&b.agent).await.unwrap().unwrap();
    assert!(told.sequences.iter().all(|sequence| sequence.increment == 8 && sequence.last_value % 8 == 2));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_is_looked_at_before_a_cell_is_made_of_it_and_nothing_is_changed() {
    let own = Own::start("wal_level = replica\n").await;
    let url = own.database().await;
    let client = session(&url).await;
    client.batch_execute("CREATE TABLE loose (tenant_id text, n int); CREATE TABLE other (n int)").await.unwrap();
    let here = CellId::new("a").unwrap();
    let looked = inspect_database(&here, DatabaseOptions::new(&url)).await.unwrap();
    let codes: Vec<&str> = looked.findings.iter().map(|found| found.code.as_str()).collect();
    assert_eq!(codes, ["WAL_LEVEL", "NO_PRIMARY_KEY"]);
    assert_eq!((looked.cell, looked.tables), (None, 1));
    let sql = "SELECT to_regnamespace('cellway') IS NULL";
    assert!(client.query_one(sql, &[]).await.unwrap().get::<_, bool>(0), "nothing was put into it");

    let ground = Ground::new();
    let known = ground.open("c1").await;
    let looked = inspect_database(&here, DatabaseOptions::new(&known.url)).await.unwrap();
    assert_eq!(looked.cell.as_deref(), Some("c1"));
    let nowhere = "postgres://postgres@127.0.0.1:1/none";
    let refused = inspect_database(&here, DatabaseOptions::new(nowhere)).await.unwrap_err();
    assert_eq!(refused.code(), "DATABASE_UNREACHABLE");
}
