//! The same application on PostgreSQL.

use super::*;

#[path = "../../../../placement/agent/tests/it/postgres/server.rs"]
#[expect(dead_code, reason = "the agent's own tests use more of it")]
mod server;

async fn start() -> (Running, String) {
    let url = server::database().await;
    let mut options = Options::new(CellId::new("c1").unwrap(), "");
    options.insecure_plaintext = true;
    options.database = Some(url.clone());
    let cell = Running::start(options).await;
    cell.grant("t").await;
    cell.grant("u").await;
    (cell, url)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn documents_counters_and_kept_answers_are_as_on_the_embedded_store() {
    let (cell, _url) = start().await;
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tenant_sees_its_own_rows_and_a_connection_without_a_tenant_sees_none() {
    let (cell, url) = start().await;
    for tenant in ["t", "u"] {
        let mut router = Router::to(cell.gates[0], tenant, 1).await;
        router.ask(Method::PUT, "/docs/mine", format!("\"{tenant}\"")).await;
        let page = router.ask(Method::GET, "/docs?values=true", "").await.json();
        assert_eq!(page["items"].as_array().unwrap().len(), 1);
        assert_eq!(page["items"][0]["value"], tenant);
    }
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
