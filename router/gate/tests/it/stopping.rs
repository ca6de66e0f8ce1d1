//! How a gate ends: nobody new, everybody finishes, and the agent hears of it.

use cell_protos::v1::Role;
use http::StatusCode;

use super::*;

#[tokio::test]
async fn a_stopping_gate_finishes_its_writes_and_says_farewell() {
    let cell = cell(Duration::from_secs(60), |_| {}).await;
    cell.agent.grant("t", (1, 1), Role::Owner);
    cell.agent.grant("waits", (1, 1), Role::Fenced);
    let to = cell.gate.address();
    let writing = tokio::spawn(async move { send(to, stamped(Method::POST, "/stuck", "t", 1, "")).await.status() });
    let waiting = tokio::spawn(async move {
        let answer = send(to, stamped(Method::POST, "/", "waits", 1, "")).await;
        (answer.status(), code(&answer).to_string())
    });
    let handle = cell.gate.handle();
    eventually("one write runs and one waits", || {
        cell.app.running.load(Ordering::SeqCst) == 1 && handle.counts().waiting == 1
    })
    .await;
    cell.shutdown.cancel();
    let told = waiting.await.unwrap();
    assert_eq!(told, (StatusCode::SERVICE_UNAVAILABLE, "SHUTTING_DOWN".to_string()));
    assert_eq!(cell.agent.farewells(), 0, "a write is still running");
    cell.app.gate.notify_one();
    assert_eq!(writing.await.unwrap(), StatusCode::OK);
    cell.gate.stopped().await;
    eventually("the agent hears the farewell", || cell.agent.farewells() == 1).await;
}

#[tokio::test]
async fn a_gate_that_stops_with_a_write_running_stays_attached_until_it_has_finished() {
    let cell = cell(Duration::from_secs(60), |options| options.http.quiesce_ms = 100).await;
    cell.agent.grant("t", (1, 1), Role::Owner);
    let to = cell.gate.address();
    let writing = tokio::spawn(async move { send(to, stamped(Method::POST, "/stuck", "t", 1, "")).await.status() });
    eventually("one write runs", || cell.app.running.load(Ordering::SeqCst) == 1).await;
    cell.shutdown.cancel();
    let handle = cell.gate.handle();
    cell.gate.stopped().await;
    assert!(!handle.is_open());
    assert_eq!(handle.counts().writes, 1);
    cell.agent.hold("t", (1, 1), 5);
    assert!(cell.agent.quiesced().is_empty());
    assert_eq!(cell.agent.farewells(), 0);
    cell.app.gate.notify_one();
    assert_eq!(writing.await.unwrap(), StatusCode::OK);
    eventually("the agent hears the farewell", || cell.agent.farewells() == 1).await;
}

#[tokio::test]
async fn a_gate_that_gives_a_silent_agent_up_does_not_pretend_to_have_stopped() {
    let cell = cell(Duration::from_secs(60), |_| {}).await;
    cell.agent.silence(true);
    eventually("the gate attaches anew", || cell.agent.hellos().len() == 2).await;
    eventually("the first stream is cut", || cell.agent.resets() == 1).await;
    assert_eq!(cell.agent.farewells(), 0);
}
