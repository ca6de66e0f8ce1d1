//! The same application on PostgreSQL.

use cell_trust::SigningKey;

use super::moving::moves_under_its_writers;
use super::*;

#[path = "../../../../placement/agent/tests/it/postgres/server.rs"]
#[expect(dead_code, reason = "the agent's own tests use more of it")]
pub(crate) mod server;

/// Where the tenants of a cell are.
#[derive(Clone, Copy)]
enum In {
    Shared,
    Own,
    Each,
}

async fn cell(name: &str, layout: In, key: Option<&SigningKey>) -> (Running, String) {
    let url = server::database().await;
    (cell_on(&url, name, layout, key).await, url)
}

async fn cell_on(url: &str, name: &str, layout: In, key: Option<&SigningKey>) -> Running {
    let mut options = Options::new(CellId::new(name).unwrap(), "");
    options.insecure_plaintext = true;
    options.database = Some(url.to_owned());
    options.trusted_keys = key.map(|key| key.public().to_string()).into_iter().collect();
    match layout {
        In::Shared => {}
        In::Own => options.tenant_schema = Some("tenant_{id}".into()),
        In::Each => {
            // Names are the whole server's, and other tests have tenants that are called alike.
            let home = url.rsplit_once('/').unwrap().1;
            options.tenant_database = Some(format!("{home}_{{id}}"));
            options.template_database = format!("{home}-template");
        }
    }
    Running::start(options).await
}

async fn start(layout: In) -> (Running, String) {
    let (cell, url) = cell("c1", layout, None).await;
    cell.grant("t").await;
    cell.grant("u").await;
    (cell, url)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn documents_counters_and_kept_answers_are_as_on_the_embedded_store() {
    for layout in [In::Shared, In::Own, In::Each] {
        documents_counters_and_kept_answers(layout).await;
    }
}

async fn documents_counters_and_kept_answers(layout: In) {
    let (cell, _url) = start(layout).await;
    let mut router = Router::to(cell.gates[0], "t", 1).await;
    let put = router.ask(Method::PUT, "/docs/a", "{\"n\": 1}").await;
    assert_eq!((put.status, put.header("etag")), (StatusCode::CREATED, "\"1\""));
    let read = router.ask(Method::GET, "/docs/a", "").await;
    assert_eq!((read.status, read.text.as_str()), (StatusCode::OK, "{\"n\": 1}"));
    for expected in [5, 10] {
        let counted = router.ask(Method::POST, "/counters/n/increment", "{\"by\": 5}").await;
        assert_eq!(counted.json()["value"], expected);
    }
    let first = router.ask_under(Method::POST, "/docs", "{}", Some("k")).await;
    let again = router.ask_under(Method::POST, "/docs", "{}", Some("k")).await;
    assert_eq!(first.text, again.text);
    assert_eq!(again.header("idempotent-replayed"), "true");
    let other = router.ask_under(Method::POST, "/docs", "[]", Some("k")).await;
    assert_eq!(other.json()["code"], "IDEMPOTENCY_KEY_REUSED");
    let page = router.ask(Method::GET, "/docs?limit=1&values=true", "").await.json();
    assert_eq!(page["items"].as_array().unwrap().len(), 1);
    assert!(page["next"].is_string());
    assert_eq!(router.ask(Method::DELETE, "/docs/a", "").await.status, StatusCode::NO_CONTENT);
    assert_eq!(router.ask(Method::GET, "/docs/a", "").await.status, StatusCode::NOT_FOUND);
    cell.stop().await;
}

async fn each_sees_its_own(cell: &Running) {
    for tenant in ["t", "u"] {
        let mut router = Router::to(cell.gates[0], tenant, 1).await;
        router.ask(Method::PUT, "/docs/mine", format!("\"{tenant}\"")).await;
        let page = router.ask(Method::GET, "/docs?values=true", "").await.json();
        assert_eq!(page["items"].as_array().unwrap().len(), 1);
        assert_eq!(page["items"][0]["value"], tenant);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tenant_sees_its_own_rows_and_a_connection_without_a_tenant_sees_none() {
    let (cell, url) = start(In::Shared).await;
    each_sees_its_own(&cell).await;
    let client = server::session(&url).await;
    client.batch_execute("SET ROLE cellway_documents").await.unwrap();
    let count = "SELECT count(*) FROM documents";
    let seen: i64 = client.query_one(count, &[]).await.unwrap().get(0);
    assert_eq!(seen, 0, "nobody's rows without a tenant");
    client.batch_execute("BEGIN; SELECT cellway.look('u', 1, 1)").await.unwrap();
    let seen: i64 = client.query_one(count, &[]).await.unwrap().get(0);
    assert_eq!(seen, 1);
    let planted = client.batch_execute("INSERT INTO documents VALUES ('t', 'x', 1, '{}')").await;
    assert!(planted.is_err(), "a row of somebody else is never written");
    cell.stop().await;
}

/// Somebody holds a row of a tenant that each write of it changes. One tenant has at most half of the connections: as many of its
/// writes wait for the row until their time is up, all the others are refused before.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tenant_whose_rows_are_locked_is_refused_with_a_code_and_others_are_served() {
    const WRITERS: usize = 24;
    const SHARE: usize = 8;
    let (cell, url) = start(In::Shared).await;
    each_sees_its_own(&cell).await;
    let somebody = server::session(&url).await;
    somebody.batch_execute("BEGIN; SELECT FROM tallies WHERE tenant_id = 't' FOR UPDATE").await.unwrap();
    let gate = cell.gates[0];
    let write = move |tenant: &'static str| async move {
        Router::to(gate, tenant, 1).await.ask(Method::PUT, "/docs/mine", "1").await
    };
    let mut writing: tokio::task::JoinSet<Answer> = (0..WRITERS).map(|_| write("t")).collect();
    let mut codes = Vec::new();
    while let Some(answer) = writing.join_next().await {
        let answer = answer.unwrap();
        assert_eq!(
            (answer.status, answer.header("retry-after")),
            (StatusCode::SERVICE_UNAVAILABLE, "1"),
            "{answer:?}"
        );
        codes.push(answer.json()["code"].as_str().unwrap().to_owned());
        if codes.len() == WRITERS - SHARE {
            assert_eq!(write("u").await.status, StatusCode::OK, "it is beside the one that is locked");
        }
    }
    let count = |wanted: &str| codes.iter().filter(|code| *code == wanted).count();
    let (slow, busy) = (count("DATABASE_SLOW"), count("DATABASE_BUSY"));
    assert!((1..=SHARE).contains(&slow) && slow + busy == WRITERS, "{codes:?}");
    somebody.batch_execute("ROLLBACK").await.unwrap();
    assert_eq!(write("t").await.status, StatusCode::OK);
    cell.stop().await;
}

/// The rights that docs/postgresql.md lists, and not one more.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cell_works_with_the_rights_that_are_documented() {
    let own = server::Own::start("").await;
    // The second one finds the application's role made, and itself let into it.
    for (role, right) in [("first", "CREATEROLE"), ("second", "IN ROLE cellway_documents")] {
        for layout in [In::Shared, In::Own] {
            let url = own.database().await;
            let admin = server::session(&url).await;
            let name = url.rsplit_once('/').unwrap().1;
            let make = format!(
                "DO $$ BEGIN CREATE ROLE {role} LOGIN REPLICATION BYPASSRLS {right}; \
                 EXCEPTION WHEN duplicate_object THEN END $$; \
                 GRANT SET ON PARAMETER session_replication_role TO {role}; ALTER DATABASE {name} OWNER TO {role}"
            );
            admin.batch_execute(&make).await.unwrap();
            let cell = cell_on(&url.replace("postgres@", &format!("{role}@")), "c1", layout, None).await;
            cell.grant("t").await;
            cell.grant("u").await;
            each_sees_its_own(&cell).await;
            cell.stop().await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tenants_with_schemas_of_their_own_do_not_see_each_other() {
    let (cell, url) = start(In::Own).await;
    each_sees_its_own(&cell).await;
    let client = server::session(&url).await;
    let sql = "SELECT (SELECT body FROM tenant_t.documents), (SELECT body FROM tenant_u.documents)";
    let row = client.query_one(sql, &[]).await.unwrap();
    assert_eq!((row.get::<_, &str>(0), row.get::<_, &str>(1)), ("\"t\"", "\"u\""));
    cell.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tenants_with_databases_of_their_own_do_not_see_each_other() {
    let (cell, url) = start(In::Each).await;
    each_sees_its_own(&cell).await;
    for tenant in ["t", "u"] {
        let row = server::session(&format!("{url}_{tenant}")).await;
        let row = row.query_one("SELECT body FROM documents", &[]).await.unwrap();
        assert_eq!(row.get::<_, &str>(0), format!("\"{tenant}\""));
    }
    cell.stop().await;
}

async fn from_layout_to_layout(from: In, to: In) {
    let key = SigningKey::generate();
    let (source, _) = cell("c1", from, Some(&key)).await;
    let (target, _) = cell("c2", to, Some(&key)).await;
    moves_under_its_writers(source, target, &key).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tenant_moves_through_gates_from_shared_tables_to_shared_tables() {
    from_layout_to_layout(In::Shared, In::Shared).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tenant_moves_through_gates_from_shared_tables_into_a_schema_of_its_own() {
    from_layout_to_layout(In::Shared, In::Own).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tenant_moves_through_gates_from_a_schema_of_its_own_to_shared_tables() {
    from_layout_to_layout(In::Own, In::Shared).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tenant_moves_through_gates_from_a_schema_of_its_own_to_another_one() {
    from_layout_to_layout(In::Own, In::Own).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tenant_moves_through_gates_from_shared_tables_into_a_database_of_its_own() {
    from_layout_to_layout(In::Shared, In::Each).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tenant_moves_through_gates_from_a_database_of_its_own_to_a_schema_of_its_own() {
    from_layout_to_layout(In::Each, In::Own).await;
}
