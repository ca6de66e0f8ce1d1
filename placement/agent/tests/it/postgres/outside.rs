//! Writers that no gate has let in, in the way of a hold.

use std::time::Duration;

use cell_client::{StepContext, StepError};
use cell_model::Attempt;

use super::ground::*;
use super::moving::forth;

fn attempt(number: u32) -> StepContext {
    StepContext { attempt: Attempt(number), ..context(1, 1) }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hold_ends_writers_that_no_gate_has_let_in_only_where_that_was_asked_for_and_counts_them() {
    let ground = Ground::new();
    let (a, b) = ground.pair().await;
    forth(&ground, &a, &b).await;
    let hold = async |number: u32, budget: Duration, terminates: bool| {
        let held = ground.pool.hold_writes_of(&a.agent, &attempt(number), budget, terminates).await;
        ground.pool.release_hold(&a.agent, &attempt(number)).await.unwrap();
        held
    };
    let insert = |name: &str| format!("INSERT INTO accounts (tenant_id, name) VALUES ('t-1', '{name}')");
    let (psql, cron, request) = (a.session().await, a.session().await, a.session().await);
    psql.batch_execute(&format!("BEGIN; {}", insert("by hand"))).await.unwrap();
    cron.batch_execute(&format!("BEGIN; SELECT cellway.enter('t-1'); {}", insert("of a job"))).await.unwrap();
    enter(&request, 1).await.unwrap();
    request.batch_execute(&insert("of a request")).await.unwrap();
    let short = Duration::from_millis(300);
    let missed = hold(2, short, false).await.unwrap_err().to_string();
    assert!(missed.contains("NOT_QUIESCED"), "{missed}");
    for open in [&psql, &cron, &request] {
        open.batch_execute("SELECT 1").await.unwrap();
    }
    // A request that a gate has let in is waited for, whatever was asked for.
    let missed = hold(3, HOLD, true).await.unwrap_err().to_string();
    assert!(missed.contains("NOT_QUIESCED"), "{missed}");
    for ended in [&psql, &cron] {
        ended.batch_execute("SELECT 1").await.unwrap_err();
    }
    let told = async |number: u32| {
        ground.pool.sync_status_with_writes(&a.agent, &attempt(number)).await.unwrap().ended_writers
    };
    assert_eq!(told(3).await, 2);
    request.batch_execute("COMMIT").await.unwrap();
    let mut number = 4;
    let ended = loop {
        match hold(number, HOLD, true).await {
            Ok((_, ended)) => break ended,
            Err(StepError::Refused { code, .. }) if number < 20 && code == "NOT_QUIESCED" => number += 1,
            Err(error) => panic!("{error}"),
        }
    };
    assert_eq!((ended, told(number).await), (2, 2), "they are counted once");
    let names = a.contents("accounts").await;
    let has = |name: &str| names.iter().any(|row| row.contains(name));
    assert!(has("of a request") && !has("by hand") && !has("of a job"), "{names:?}");
}
