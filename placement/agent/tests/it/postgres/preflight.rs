//! What stands in the way of a move is said, with what mends it.

use cell_client::PreflightReport;

use super::ground::*;
use super::server::Own;

async fn look(ground: &Ground, cell: &Cell, as_target: bool) -> PreflightReport {
    ground.pool.preflight(&cell.agent, &context(1, 1), as_target).await.unwrap()
}

async fn findings_of(tables: &str) -> Vec<(String, String)> {
    let ground = Ground::new();
    let url = database().await;
    session(&url).await.batch_execute(tables).await.unwrap();
    let cell = ground.try_open("a", &url, "127.0.0.1:0").await.unwrap();
    ground.pool.grant(&cell.agent, &outside(1)).await.unwrap();
    let report = look(&ground, &cell, false).await;
    report.findings.into_iter().map(|finding| (finding.code, finding.reason)).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tables_that_cannot_be_moved_are_named_with_the_statement_that_mends_them() {
    let found = findings_of(
        "CREATE TABLE no_key (tenant_id text, value text);
         CREATE TABLE global_key (id bigserial PRIMARY KEY, tenant_id text NOT NULL);
         CREATE TABLE good (tenant_id text, id bigint, mail text UNIQUE, PRIMARY KEY (tenant_id, id));
         CREATE TABLE crossing (tenant_id text, id bigint, other bigint REFERENCES global_key (id),
                                PRIMARY KEY (tenant_id, id));
         CREATE TABLE countries (code text PRIMARY KEY);
         CREATE TABLE leads_out (tenant_id text, id bigint, country text REFERENCES countries,
                                 PRIMARY KEY (tenant_id, id));
         CREATE UNLOGGED TABLE fleeting (tenant_id text PRIMARY KEY);
         CREATE TABLE odd (tenant_id text PRIMARY KEY, class regclass)",
    )
    .await;
    let codes: Vec<&str> = found.iter().map(|(code, _)| code.as_str()).collect();
    let expected = [
        "CROSS_TENANT_KEY",
        "UNLOGGED_TABLE",
        "TENANT_NOT_IN_KEY",
        "UNIQUE_WITHOUT_TENANT",
        "KEY_LEADS_OUT",
        "NO_PRIMARY_KEY",
        "COLUMN_UNSUPPORTED",
    ];
    assert_eq!(codes, expected, "{found:?}");
    assert!(found[2].1.contains("ADD PRIMARY KEY (\"tenant_id\", \"id\")"), "{found:?}");
    assert_eq!(findings_of("").await[0].0, "NO_TENANT_TABLES");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_column_that_would_take_a_tenant_for_another_one_is_refused_by_whoever_asks() {
    // Cut off, no number, padded behind a name of the type's own.
    let kinds = ["varchar(2)", "bigint", "padded"];
    for kind in kinds {
        let ground = Ground::new();
        let url = database().await;
        let tables = format!(
            "CREATE DOMAIN padded AS char(9); CREATE TABLE orders (tenant_id {kind}, id bigint, PRIMARY KEY (tenant_id, id))"
        );
        session(&url).await.batch_execute(&tables).await.unwrap();
        let cell = ground.try_open("b", &url, "127.0.0.1:0").await.unwrap();
        assert_eq!(refused(ground.pool.grant(&cell.agent, &outside(1)).await), "TENANT_KEY_TYPE", "{kind}");
        let report = look(&ground, &cell, true).await;
        assert_eq!(report.findings[0].code, "TENANT_KEY_TYPE", "{report:?}");
        let a = cell_model::CellId::new("a").unwrap();
        let imported = ground.pool.prepare_import(&cell.agent, &context(1, 1), &a, "127.0.0.1:1").await;
        assert_eq!(refused(imported), "TENANT_KEY_TYPE", "{kind}");
        let seven = cell_client::StepContext { tenant: cell_model::TenantId::new("007").unwrap(), ..outside(1) };
        assert_eq!(
            refused(ground.pool.grant(&cell.agent, &seven).await),
            "TENANT_KEY_TYPE",
            "{kind}: 7, 00 or blanks"
        );
        let eleven = cell_client::StepContext { tenant: cell_model::TenantId::new("11").unwrap(), ..outside(1) };
        if kind != "padded" {
            ground.pool.grant(&cell.agent, &eleven).await.unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fit_database_passes_and_tells_how_much_there_is() {
    let ground = Ground::new();
    let (a, b) = ground.pair().await;
    accounts(&a.session().await, 25).await;
    let report = look(&ground, &a, false).await;
    assert!(report.findings.is_empty(), "{report:?}");
    assert_eq!(report.rows, 25);
    assert!(look(&ground, &b, true).await.findings.is_empty());
    let plant =
        "SET session_replication_role = replica; INSERT INTO accounts (tenant_id, name) VALUES ('t-1', 'x')";
    b.session().await.batch_execute(plant).await.unwrap();
    assert_eq!(look(&ground, &b, true).await.findings[0].code, "COPY_PRESENT");
    let step = context(1, 1);
    let imported = ground.pool.prepare_import(&b.agent, &step, &a.id, &a.agent).await;
    assert_eq!(refused(imported), "BUSY", "rows that nobody has copied are never mixed with a copy");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_does_not_log_for_decoding_is_found_out() {
    let own = Own::start("wal_level = replica\nmax_replication_slots = 0\n").await;
    let ground = Ground::new();
    let url = own.database().await;
    session(&url).await.batch_execute(TABLES).await.unwrap();
    let cell = ground.try_open("a", &url, "127.0.0.1:0").await.unwrap();
    ground.pool.grant(&cell.agent, &outside(1)).await.unwrap();
    let report = look(&ground, &cell, false).await;
    let codes: Vec<&str> = report.findings.iter().map(|finding| finding.code.as_str()).collect();
    assert_eq!(codes, ["WAL_LEVEL", "NO_SLOT_LEFT"]);
    assert!(report.findings[0].reason.contains("ALTER SYSTEM SET wal_level = logical"));
    cell.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_cannot_be_used_is_said_at_the_door() {
    let ground = Ground::new();
    let url = database().await;
    let admin = session(&url).await;
    admin
        .batch_execute(
            "DO $$ BEGIN CREATE ROLE careful LOGIN PASSWORD 'right'; EXCEPTION WHEN duplicate_object OR unique_violation THEN END $$",
        )
        .await
        .unwrap();
    let open = |url: String| {
        let ground = &ground;
        async move { ground.try_open("a", &url, "127.0.0.1:0").await.err().unwrap() }
    };
    let as_role = |password: &str| url.replace("postgres@", &format!("careful:{password}@"));
    let error = open(as_role("wrong")).await;
    assert_eq!(error.code(), "DATABASE_LOGIN", "{error}");
    // It may log in, and no more.
    assert_eq!(open(as_role("right")).await.code(), "DATABASE_RIGHT");
    let missing = open(format!("{}_missing", url)).await;
    assert_eq!(missing.code(), "DATABASE_MISSING", "{missing}");
    assert_eq!(open("postgres://nobody@127.0.0.1:1/x".into()).await.code(), "DATABASE_UNREACHABLE");
    assert_eq!(open("what?".into()).await.code(), "INVALID_OPTION");
    session(&url).await.batch_execute(TABLES).await.unwrap();
    let first = ground.try_open("a", &url, "127.0.0.1:0").await.unwrap();
    let other = ground.try_open("b", &url, "127.0.0.1:0").await.err().unwrap();
    assert_eq!(other.code(), "AGENT_RUNNING", "one agent for one database");
    first.close().await;
    assert_eq!(ground.try_open("b", &url, "127.0.0.1:0").await.err().unwrap().code(), "OTHER_CELL");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unlike_tables_end_the_move_before_a_row_is_copied() {
    let ground = Ground::new();
    let (a, b) = ground.pair().await;
    accounts(&a.session().await, 5).await;
    b.session().await.batch_execute("ALTER TABLE accounts ALTER name TYPE varchar(50)").await.unwrap();
    let step = context(1, 1);
    ground.capture(&a, &step).await;
    ground.pool.prepare_import(&b.agent, &step, &a.id, &a.agent).await.unwrap();
    let failure = ground.failure(&b, &step).await;
    assert!(failure.starts_with("SCHEMA_DIFFERS") && failure.contains("accounts"), "{failure}");
    assert!(b.rows().await.values().all(Vec::is_empty));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_that_is_changed_in_the_middle_of_a_move_ends_it() {
    let ground = Ground::new();
    let (a, b) = ground.pair().await;
    let client = a.session().await;
    account(&client, "before").await.unwrap();
    let step = context(1, 1);
    ground.copy(&a, &b, &step).await;
    client.batch_execute("ALTER TABLE accounts ADD COLUMN added text").await.unwrap();
    account(&client, "after").await.unwrap();
    let failure = ground.failure(&b, &step).await;
    assert!(failure.starts_with("SCHEMA_CHANGED"), "{failure}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cell_of_another_kind_is_refused_as_the_other_end_of_a_move() {
    let ground = Ground::new();
    let (a, _b) = ground.pair().await;
    let embedded = crate::cells::Ground::new();
    let other = embedded.open("e").await;
    let step = context(1, 1);
    ground.capture(&a, &step).await;
    ground.pool.prepare_import(&other.agent, &step, &a.id, &a.agent).await.unwrap();
    let failed = async {
        loop {
            let progress = ground.pool.import_status(&other.agent, &step).await.unwrap();
            if !progress.failure_code.is_empty() {
                return progress.failure_code;
            }
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    };
    assert_eq!(tokio::time::timeout(PATIENCE, failed).await.unwrap(), "STORAGE_DIFFERS");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cells_that_take_other_rows_are_not_alike() {
    const BASE: &str = "
        CREATE TABLE parents (tenant_id text, id bigint, PRIMARY KEY (tenant_id, id));
        CREATE TABLE things (tenant_id text, id bigint, parent bigint, name varchar(9), size int DEFAULT 1,
                             twice int GENERATED ALWAYS AS (size * 2) STORED, PRIMARY KEY (tenant_id, id),
                             CHECK (tenant_id <> ''), CHECK (name IN ('a', 'b')));
        CREATE INDEX ON things (parent)";
    let ground = Ground::new();
    let (source, target) = (database().await, database().await);
    for url in [&source, &target] {
        session(url).await.batch_execute(BASE).await.unwrap();
    }
    let a = ground.try_open("a", &source, "127.0.0.1:0").await.unwrap();
    let b = ground.try_open("b", &target, "127.0.0.1:0").await.unwrap();
    ground.pool.grant(&a.agent, &outside(1)).await.unwrap();
    let found = async || {
        let (ours, theirs) = (look(&ground, &a, false).await, look(&ground, &b, true).await);
        assert!(ours.findings.is_empty() && theirs.findings.is_empty(), "{ours:?} {theirs:?}");
        ours.unlike(&theirs).map(|found| found.reason)
    };
    assert_eq!(found().await, None);
    let keys = "ALTER TABLE things ADD CONSTRAINT f FOREIGN KEY (tenant_id, parent) REFERENCES parents ON DELETE";
    for (there, here, told) in [
        (
            format!("{keys} CASCADE"),
            "ALTER TABLE things DROP CONSTRAINT f",
            "leads to parents(parent→id) on delete cascade",
        ),
        (
            "ALTER TABLE things ADD CONSTRAINT c CHECK (size > 0)".into(),
            "ALTER TABLE things DROP CONSTRAINT c",
            "(size > 0)",
        ),
        (
            "ALTER TABLE things ALTER size SET DEFAULT 2".into(),
            "ALTER TABLE things ALTER size SET DEFAULT 1",
            "size integer default 2",
        ),
        (
            "ALTER TABLE things DROP twice, ADD twice int GENERATED ALWAYS AS (size * 3) STORED".into(),
            "ALTER TABLE things DROP twice, ADD twice int GENERATED ALWAYS AS (size * 2) STORED",
            "twice integer generated as (size * 3)",
        ),
    ] {
        session(&target).await.batch_execute(&there).await.unwrap();
        let reason = found().await.unwrap_or_else(|| panic!("alike after {there}"));
        assert!(reason.contains(told), "{reason}");
        session(&target).await.batch_execute(here).await.unwrap();
        assert_eq!(found().await, None, "{here}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_of_two_cells_that_would_exclude_each_other_and_numbers_of_objects_are_found() {
    let found = findings_of(
        "CREATE TABLE stays (tenant_id text, id bigint, at int4range, file oid, files oid[], PRIMARY KEY (tenant_id, id),
                             CONSTRAINT apart EXCLUDE USING gist (at WITH &&));
         CREATE TABLE known (tenant_id text, id bigint, PRIMARY KEY (tenant_id, id),
                             CONSTRAINT same EXCLUDE (tenant_id WITH =, id WITH =))",
    )
    .await;
    let codes: Vec<&str> = found.iter().map(|(code, _)| code.as_str()).collect();
    assert_eq!(codes, ["UNIQUE_WITHOUT_TENANT", "COLUMN_UNSUPPORTED", "COLUMN_UNSUPPORTED"], "{found:?}");
    assert!(found[0].1.contains("EXCLUDE USING gist (\"tenant_id\" WITH =, …)"), "{found:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cells_of_two_kinds_are_told_apart_before_a_move() {
    let ground = Ground::new();
    let (a, _b) = ground.pair().await;
    let embedded = crate::cells::Ground::new();
    let other = embedded.open("e").await;
    let ours = look(&ground, &a, false).await;
    let theirs = ground.pool.preflight(&other.agent, &context(1, 1), true).await.unwrap();
    assert_eq!(ours.unlike(&theirs).unwrap().code, "STORAGE_DIFFERS");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transaction_that_is_open_for_long_is_noted_with_what_ends_it() {
    let (own, ground) = (Own::start("max_prepared_transactions = 1\n").await, Ground::new());
    let a = ground.open_on("a", &own.database().await).await;
    ground.pool.grant(&a.agent, &outside(1)).await.unwrap();
    let noted = async || {
        let notes = look(&ground, &a, false).await.notes;
        notes.into_iter().find(|note| note.code == "OPEN_TRANSACTION").map(|note| note.reason)
    };
    assert_eq!(noted().await, None);
    // In a database that is nobody's cell.
    let other = session(&own.database().await).await;
    let open = "SET application_name = 'forgotten'; BEGIN; SELECT pg_current_xact_id()";
    other.batch_execute(open).await.unwrap();
    let old = "SELECT clock_timestamp() > xact_start + interval '1 second' FROM pg_stat_activity \
               WHERE application_name = 'forgotten'";
    until_true(&a.session().await, old).await;
    let reason = noted().await.unwrap();
    assert!(reason.contains("forgotten") && reason.contains("pg_terminate_backend"), "{reason}");
    other.batch_execute("PREPARE TRANSACTION 'forgotten too'").await.unwrap();
    until_true(
        &a.session().await,
        "SELECT prepared < clock_timestamp() - interval '1 second' FROM pg_prepared_xacts",
    )
    .await;
    let reason = noted().await.unwrap();
    assert!(reason.contains("ROLLBACK PREPARED 'forgotten too'"), "{reason}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_target_whose_disk_has_no_room_for_the_copy_is_found_before_it_is_begun() {
    let ground = Ground::new();
    let open = async |name: &str, change: &dyn Fn(&mut cell_agent::DatabaseOptions)| {
        let url = database().await;
        session(&url).await.batch_execute(TABLES).await.unwrap();
        ground.open_with(name, &url, "127.0.0.1:0", |database| change(database)).await.unwrap()
    };
    let a = open("a", &|database| {
        database.data_directory = Some("/".into());
        database.wal_bytes_max = 1 << 60;
    })
    .await;
    ground.pool.grant(&a.agent, &outside(1)).await.unwrap();
    accounts(&a.session().await, 2_000).await;
    let source = look(&ground, &a, false).await;
    assert!(source.disk_bytes > source.bytes && source.bytes > 0, "indexes and heads of rows count: {source:?}");
    assert!(source.notes.iter().any(|note| note.code == "LOG_BUDGET"), "{:?}", source.notes);
    assert_eq!(source.free_bytes, None, "nothing comes to it");

    let unknown = open("b", &|_| {}).await;
    let target = look(&ground, &unknown, true).await;
    assert_eq!((target.free_bytes, source.apart_from(&target)), (None, None), "nobody knows");
    let seen = open("c", &|database| database.data_directory = Some("/".into())).await;
    let target = look(&ground, &seen, true).await;
    assert!(target.free_bytes.is_some_and(|free| free > 0) && target.log_bytes_max > 0, "{target:?}");
    // The databases of the server take more than that already.
    let full = open("d", &|database| database.disk_bytes_max = 1).await;
    let target = look(&ground, &full, true).await;
    assert_eq!(target.free_bytes, Some(0));
    let found = source.apart_from(&target).unwrap();
    assert_eq!(found.code, "DISK_TOO_SMALL");
    assert!(found.reason.contains("0 bytes are free"), "{}", found.reason);
}
