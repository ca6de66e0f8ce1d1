//! Schemas of tenants: how they are made, guarded and told apart, and what is refused.

use cell_model::TenantId;

use super::ground::*;

async fn findings(ground: &Ground, cell: &Cell, as_target: bool) -> Vec<(String, String)> {
    let report = ground.pool.preflight(&cell.agent, &context(1, 1), as_target).await.unwrap();
    report.findings.into_iter().map(|finding| (finding.code, finding.reason)).collect()
}

fn codes(found: &[(String, String)]) -> Vec<&str> {
    found.iter().map(|(code, _)| code.as_str()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_tenants_schema_is_as_the_template_with_everything_that_hangs_on_it() {
    let ground = Ground::new();
    let url = database().await;
    let admin = session(&url).await;
    let more = "
        DO $$ BEGIN CREATE ROLE layout_reader NOLOGIN;
        EXCEPTION WHEN duplicate_object OR unique_violation THEN END $$;
        GRANT USAGE ON SCHEMA cellway_template TO layout_reader;
        GRANT SELECT, INSERT ON cellway_template.accounts TO layout_reader;
        GRANT USAGE ON SEQUENCE cellway_template.entries_n_seq TO layout_reader;
        CREATE SEQUENCE cellway_template.loose INCREMENT BY 5 START WITH 100;
        CREATE TABLE cellway_template.bills (id bigint PRIMARY KEY DEFAULT nextval('cellway_template.loose'),
            of bigint REFERENCES cellway_template.bills, at timestamptz DEFAULT now(), big text, CHECK (id > 0))
            WITH (fillfactor = 70);
        CREATE INDEX bills_at ON cellway_template.bills (at) WHERE of IS NULL;
        CREATE FUNCTION public.shout() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.big := upper(NEW.big);
            RETURN NEW; END $$;
        CREATE TRIGGER shouts BEFORE INSERT ON cellway_template.bills FOR EACH ROW EXECUTE FUNCTION public.shout();";
    admin.batch_execute(&format!("{TEMPLATE} {more}")).await.unwrap();
    let cell = ground.reopen_own("a", &url, "127.0.0.1:0").await;
    ground.pool.grant(&cell.agent, &outside(1)).await.unwrap();
    ground.pool.grant(&cell.agent, &outside(1)).await.unwrap();
    let client = cell.session().await;
    client
        .batch_execute("SET ROLE layout_reader; INSERT INTO accounts (name) VALUES ('x'); RESET ROLE")
        .await
        .unwrap();
    let bill = "INSERT INTO bills (big) VALUES ('quiet') RETURNING id, big";
    let first = client.query_one(bill, &[]).await.unwrap();
    assert_eq!((first.get::<_, i64>(0), first.get::<_, &str>(1)), (100, "QUIET"));
    assert_eq!(client.query_one(bill, &[]).await.unwrap().get::<_, i64>(0), 105);
    let of_template: i64 =
        client.query_one("SELECT last_value FROM cellway_template.loose", &[]).await.unwrap().get(0);
    assert_eq!(of_template, 100, "nobody draws from the template's");
    for wrong in [
        "INSERT INTO bills (of) VALUES (7)",
        "INSERT INTO bills (id) VALUES (-1)",
        "INSERT INTO entries (account, amount) VALUES (77, 1)",
    ] {
        assert!(client.batch_execute(wrong).await.is_err(), "{wrong}");
    }
    client.batch_execute("INSERT INTO entries (account, amount) VALUES (1, 1)").await.unwrap();
    client.batch_execute("INSERT INTO \"Odd \"\" name\" VALUES ('k', 'v')").await.unwrap();
    let facts = "SELECT (SELECT reloptions::text FROM pg_class WHERE oid = 'bills'::regclass),
                        (SELECT count(*) FROM pg_indexes WHERE schemaname = 'tenant_t-1' AND indexname LIKE 'bills_at%'),
                        (SELECT count(*) FROM odd_0) + (SELECT count(*) FROM odd_1),
                        has_sequence_privilege('layout_reader', 'entries_n_seq', 'USAGE')";
    let row = client.query_one(facts, &[]).await.unwrap();
    assert_eq!(row.get::<_, &str>(0), "{fillfactor=70}");
    assert_eq!((row.get::<_, i64>(1), row.get::<_, i64>(2), row.get::<_, bool>(3)), (1, 1, true));
    assert!(findings(&ground, &cell, false).await.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writers_of_a_schema_are_let_in_or_refused_as_the_grant_says() {
    let ground = Ground::new();
    let cell = ground.open_own("a").await;
    ground.pool.grant(&cell.agent, &outside(1)).await.unwrap();
    let client = cell.session().await;
    let write = "INSERT INTO accounts (name) VALUES ('direct')";
    client.batch_execute(write).await.unwrap();
    enter(&client, 1).await.unwrap();
    client.batch_execute(&format!("{write}; COMMIT")).await.unwrap();
    client.batch_execute("TRUNCATE entries").await.unwrap();
    ground.pool.revoke(&cell.agent, &outside(2)).await.unwrap();
    assert!(!has_schema(&cell).await, "what is left of a deleted tenant");
    // A schema that nobody has granted is found when the agent starts, and told.
    let admin = session(&cell.url).await;
    let stranger = "CREATE SCHEMA tenant_stranger; CREATE TABLE tenant_stranger.t (id bigint PRIMARY KEY)";
    admin.batch_execute(stranger).await.unwrap();
    let (url, _) = (cell.url.clone(), cell.close().await);
    let cell = ground.reopen_own("a", &url, "127.0.0.1:0").await;
    let refused = admin.batch_execute("INSERT INTO tenant_stranger.t VALUES (1)").await.unwrap_err();
    assert_eq!(code(&refused), "NOT_OWNER");
    let refused = admin.batch_execute("TRUNCATE tenant_stranger.t").await.unwrap_err();
    assert_eq!(code(&refused), "NOT_OWNER");
    let granted = cell_client::StepContext { tenant: TenantId::new("stranger").unwrap(), ..outside(1) };
    ground.pool.grant(&cell.agent, &granted).await.unwrap();
    admin.batch_execute("INSERT INTO tenant_stranger.t VALUES (1)").await.unwrap();
    let schema: String = admin.query_one("SELECT cellway.schema_of('stranger')", &[]).await.unwrap().get(0);
    assert_eq!(schema, "tenant_stranger");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_would_not_go_along_with_a_schema_is_named() {
    let ground = Ground::new();
    let cell = ground.open_own("a").await;
    ground.pool.grant(&cell.agent, &outside(1)).await.unwrap();
    assert_eq!(findings(&ground, &cell, false).await, Vec::new());
    let client = cell.session().await;
    let strange = "
        CREATE VIEW rich AS SELECT * FROM accounts WHERE price > 10;
        CREATE FUNCTION one() RETURNS int LANGUAGE sql AS 'SELECT 1';
        CREATE TYPE color AS ENUM ('red');
        ALTER TABLE entries ENABLE ROW LEVEL SECURITY;
        GRANT SELECT (name) ON accounts TO PUBLIC;
        CREATE TABLE public.countries (code text PRIMARY KEY);
        CREATE TABLE homes (id bigint PRIMARY KEY, country text REFERENCES public.countries);
        CREATE TABLE loose (id bigint);
        CREATE VIEW public.outside AS SELECT * FROM \"tenant_t-1\".homes";
    client.batch_execute(strange).await.unwrap();
    let found = findings(&ground, &cell, false).await;
    let mut named = codes(&found);
    named.sort_unstable();
    let expected = [
        "KEY_LEADS_OUT",
        "NO_PRIMARY_KEY",
        "SCHEMA_OBJECT",
        "SCHEMA_OBJECT",
        "SCHEMA_OBJECT",
        "SCHEMA_OBJECT",
        "SCHEMA_OBJECT",
        "SCHEMA_REFERENCED",
    ];
    assert_eq!(named, expected, "{found:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_target_that_cannot_make_the_schema_says_why() {
    let ground = Ground::new();
    let cell = ground.open_own("b").await;
    let admin = session(&cell.url).await;
    assert_eq!(findings(&ground, &cell, true).await, Vec::new());
    admin.batch_execute("CREATE SCHEMA \"tenant_t-1\"").await.unwrap();
    let found = findings(&ground, &cell, true).await;
    assert_eq!(codes(&found), ["SCHEMA_PRESENT"]);
    assert!(found[0].1.contains("DROP SCHEMA \"tenant_t-1\""), "{found:?}");
    let step = context(1, 1);
    let a = cell_model::CellId::new("a").unwrap();
    let imported = ground.pool.prepare_import(&cell.agent, &step, &a, "127.0.0.1:1").await;
    assert_eq!(refused(imported), "SCHEMA_PRESENT");
    assert!(has_schema(&cell).await, "it is not the mover's to drop");
    admin.batch_execute("DROP SCHEMA \"tenant_t-1\"; DROP SCHEMA cellway_template CASCADE").await.unwrap();
    assert_eq!(codes(&findings(&ground, &cell, true).await), ["NO_TENANT_TABLES"]);
    let imported = ground.pool.prepare_import(&cell.agent, &step, &a, "127.0.0.1:1").await;
    assert_eq!(refused(imported), "TABLES_UNFIT");
    assert!(!has_schema(&cell).await, "a schema is made whole, or not at all");
    let long = TenantId::new("x".repeat(60)).unwrap();
    let long = cell_client::StepContext { tenant: long, ..outside(1) };
    assert_eq!(refused(ground.pool.grant(&cell.agent, &long).await), "SCHEMA_NAME_TOO_LONG");
    let report = ground.pool.preflight(&cell.agent, &long, true).await.unwrap();
    assert_eq!(report.findings[0].code, "SCHEMA_NAME_TOO_LONG");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tenant_whose_schema_would_be_somebody_elses_is_refused() {
    let ground = Ground::new();
    let url = database().await;
    session(&url).await.batch_execute(TEMPLATE).await.unwrap();
    let pattern = |database: &mut cell_agent::DatabaseOptions| database.tenant_schema = Some("cell{id}".into());
    let cell = ground.open_with("a", &url, "127.0.0.1:0", pattern).await.unwrap();
    let way = cell_client::StepContext { tenant: TenantId::new("way").unwrap(), ..outside(1) };
    assert_eq!(refused(ground.pool.grant(&cell.agent, &way).await), "SCHEMA_NAME_RESERVED");
    assert_eq!(ground.pool.existing(&cell.agent).await.unwrap().unwrap().strangers, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_is_not_opened_in_another_layout_than_its_tenants_are_in() {
    let ground = Ground::new();
    let cell = ground.open_own("a").await;
    ground.pool.grant(&cell.agent, &outside(1)).await.unwrap();
    let (url, _) = (cell.url.clone(), cell.close().await);
    let other = ground.try_open("a", &url, "127.0.0.1:0").await.err().unwrap();
    assert_eq!(other.code(), "LAYOUT_CHANGED", "{other}");
    let called =
        ground.open_with("a", &url, "127.0.0.1:0", |database| database.tenant_schema = Some("t_{id}".into())).await;
    assert_eq!(called.err().unwrap().code(), "LAYOUT_CHANGED");
    let stranger =
        ground.open_with("b", &url, "127.0.0.1:0", |database| database.tenant_schema = Some("t_{id}".into())).await;
    assert_eq!(stranger.err().unwrap().code(), "OTHER_CELL");
    let schema_of = "SELECT cellway.schema_of('acme')";
    let schema: String = session(&url).await.query_one(schema_of, &[]).await.unwrap().get(0);
    assert_eq!(schema, "tenant_acme", "whoever is refused has changed nothing");
    let wrong =
        ground.open_with("a", &url, "127.0.0.1:0", |database| database.tenant_schema = Some("tenant".into())).await;
    let wrong = wrong.err().unwrap();
    assert_eq!(wrong.code(), "INVALID_OPTION");
    assert!(wrong.to_string().contains("tenant_{id}"), "{wrong}");
    ground.reopen_own("a", &url, "127.0.0.1:0").await.close().await;
}
