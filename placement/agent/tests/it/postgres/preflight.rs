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
async fn a_cell_that_keeps_its_tenants_in_postgresql_says_that_it_takes_none_over_by_force() {
    let ground = Ground::new();
    let a = ground.open("a").await;
    ground.pool.grant(&a.agent, &outside(1)).await.unwrap();
    assert_eq!(refused(ground.pool.look_at_copy(&a.agent, &context(1, 1)).await), "TAKEOVER_UNSUPPORTED");
    assert_eq!(refused(ground.pool.own_by_force(&a.agent, &context(2, 2)).await), "TAKEOVER_UNSUPPORTED");
}
