//! A planted fault does what it is named after, and an option that is there but not chosen does nothing.

use sample_cell::Plant;

use super::*;

async fn fenced(plant: Option<Plant>, directory: &Path) -> Running {
    let mut options = options(directory);
    options.plant = plant;
    let running = Running::start(options).await;
    running.grant("t").await;
    let context = context("t", 1, Some(1));
    Router::to(running.gates[0], "t", 1).await.ask(Method::PUT, "/docs/a", "1").await;
    running.steps.start_capture(&running.agent, &context).await.unwrap();
    let sealed = running.steps.hold_writes(&running.agent, &context, Duration::from_secs(2)).await.unwrap();
    running.steps.fence(&running.agent, &context, sealed).await.unwrap();
    running
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_stale_epoch_a_fenced_source_goes_on_serving() {
    let directory = tempfile::tempdir().unwrap();
    let running = fenced(Some(Plant::StaleEpoch), directory.path()).await;
    let mut router = Router::to(running.gates[0], "t", 1).await;
    assert_eq!(router.ask(Method::PUT, "/docs/a", "2").await.status, StatusCode::OK);
    assert_eq!(router.ask(Method::GET, "/docs/a", "").await.text, "2");
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_choice_a_fenced_source_serves_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let running = fenced(None, directory.path()).await;
    let answer = Router::to(running.gates[0], "t", 1).await.ask(Method::PUT, "/docs/a", "2").await;
    assert_eq!((answer.status, answer.header("cell-code")), (StatusCode::SERVICE_UNAVAILABLE, "FENCED"));
    running.stop().await;
}
