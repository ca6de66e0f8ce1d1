//! What clients get from a cell that owns their tenant.

use super::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_document_written_at_one_instance_is_read_at_the_other() {
    let directory = tempfile::tempdir().unwrap();
    let running = Running::start(options(directory.path())).await;
    running.grant("t").await;
    assert_eq!(running.gates.len(), 2);
    let mut first = Router::to(running.gates[0], "t", 1).await;
    let mut second = Router::to(running.gates[1], "t", 1).await;
    for n in 0..20 {
        let made = first.ask(Method::PUT, "/docs/a", n.to_string()).await;
        assert!(made.status.is_success(), "{made:?}");
        let read = second.ask(Method::GET, "/docs/a", "").await;
        assert_eq!((read.status, read.text), (StatusCode::OK, n.to_string()));
        assert_eq!(read.headers["etag"], made.headers["etag"]);
    }
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tenants_do_not_see_each_other() {
    let directory = tempfile::tempdir().unwrap();
    let running = Running::start(options(directory.path())).await;
    for tenant in ["a", "b"] {
        running.grant(tenant).await;
        let mut router = Router::to(running.gates[0], tenant, 1).await;
        router.ask(Method::PUT, "/docs/same", format!("\"{tenant}\"")).await;
        router.ask_under(Method::POST, "/counters/n/increment", "", Some("key")).await;
    }
    for tenant in ["a", "b"] {
        let mut router = Router::to(running.gates[1], tenant, 1).await;
        assert_eq!(router.ask(Method::GET, "/docs/same", "").await.text, format!("\"{tenant}\""));
        let page = router.ask(Method::GET, "/docs", "").await.json();
        assert_eq!(page["items"].as_array().unwrap().len(), 1);
        assert_eq!(router.ask(Method::GET, "/counters/n", "").await.json()["value"], 1);
    }
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_acknowledged_is_there_after_a_restart_and_so_is_its_key() {
    let directory = tempfile::tempdir().unwrap();
    let running = Running::start(options(directory.path())).await;
    running.grant("t").await;
    let mut router = Router::to(running.gates[0], "t", 1).await;
    let posted = router.ask_under(Method::POST, "/docs", "{\"n\":1}", Some("k")).await;
    assert_eq!(posted.status, StatusCode::CREATED);
    drop(router);
    running.stop().await;

    let running = Running::start(options(directory.path())).await;
    let mut router = Router::to(running.gates[0], "t", 1).await;
    let place = posted.header("location");
    assert_eq!(router.ask(Method::GET, place, "").await.text, "{\"n\":1}");
    let again = router.ask_under(Method::POST, "/docs", "{\"n\":1}", Some("k")).await;
    assert_eq!((again.status, again.header("location")), (StatusCode::CREATED, place));
    assert_eq!(again.header("idempotent-replayed"), "true");
    let other = router.ask_under(Method::POST, "/docs", "{\"n\":2}", Some("k")).await;
    assert_eq!(other.status, StatusCode::UNPROCESSABLE_ENTITY);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_sent_to_both_instances_at_once_is_executed_once() {
    let directory = tempfile::tempdir().unwrap();
    let running = Running::start(options(directory.path())).await;
    running.grant("t").await;
    let mut tasks = Vec::new();
    for n in 0..24 {
        let gate = running.gates[n % 2];
        tasks.push(tokio::spawn(async move {
            let mut router = Router::to(gate, "t", 1).await;
            let key = format!("k{}", n % 3);
            router.ask_under(Method::POST, "/counters/n/increment", "", Some(&key)).await
        }));
    }
    let mut values = std::collections::BTreeMap::<usize, std::collections::BTreeSet<i64>>::new();
    for (n, task) in tasks.into_iter().enumerate() {
        let answer = task.await.unwrap();
        values.entry(n % 3).or_default().insert(answer.json()["value"].as_i64().unwrap());
    }
    assert!(values.values().all(|seen| seen.len() == 1), "one answer for each key: {values:?}");
    let mut router = Router::to(running.gates[0], "t", 1).await;
    assert_eq!(router.ask(Method::GET, "/counters/n", "").await.json()["value"], 3);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_too_long_is_refused_with_a_code() {
    let directory = tempfile::tempdir().unwrap();
    let running = Running::start(options(directory.path())).await;
    running.grant("t").await;
    let mut router = Router::to(running.gates[0], "t", 1).await;
    for (bytes, code) in [(61 * 1024, "DOCUMENT_TOO_LARGE"), (1024 * 1024, "BODY_TOO_LARGE")] {
        let answer = router.ask(Method::PUT, "/docs/a", format!("\"{}\"", "x".repeat(bytes))).await;
        assert_eq!(answer.status, StatusCode::PAYLOAD_TOO_LARGE);
        assert_eq!(answer.json()["code"], code);
        router = Router::to(running.gates[0], "t", 1).await;
    }
    assert_eq!(router.ask(Method::GET, "/docs/a", "").await.status, StatusCode::NOT_FOUND);
    running.stop().await;
}
