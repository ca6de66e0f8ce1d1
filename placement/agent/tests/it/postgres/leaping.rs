//! Sequences in a takeover by force that does not come about at the first try.

use std::time::Duration;

use super::forced::*;
use super::ground::*;
use super::layouts::{In, pair};

/// The connection on which the takeover is written is lost before it is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_takeover_that_is_tried_again_leaps_its_sequences_once() {
    let ground = Ground::new();
    let (a, b) = pair(&ground, In::Shared, In::Shared).await;
    in_sync(&ground, &a, &b).await;
    let client = b.session().await;
    let last = async || -> i64 {
        let sql = "SELECT last_value FROM accounts_id_seq";
        client.query_one(sql, &[]).await.unwrap().get(0)
    };
    let before = last().await;
    a.kill();
    let in_the_way = b.session().await;
    in_the_way.batch_execute("BEGIN; SELECT 1 FROM cellway.copies FOR UPDATE").await.unwrap();
    let (pool, agent) = (ground.pool.clone(), b.agent.clone());
    let forcing = tokio::spawn(async move { pool.own_by_force(&agent, &context(2, 2)).await });
    let waiting = "FROM pg_stat_activity WHERE application_name = 'cellway agent' \
                   AND datname = current_database() AND wait_event_type = 'Lock'";
    until_true(&client, &format!("SELECT EXISTS (SELECT 1 {waiting})")).await;
    client.query(&format!("SELECT pg_terminate_backend(pid) {waiting}"), &[]).await.unwrap();
    assert!(forcing.await.unwrap().is_err(), "its connection was lost");
    let leapt = last().await;
    assert!(leapt > before + 900, "{before} {leapt}");
    in_the_way.batch_execute("ROLLBACK").await.unwrap();
    // As the coordinator does it: whoever had the lost connection may have to find out first.
    let again = async {
        while let Err(error) = ground.pool.own_by_force(&b.agent, &context(2, 2)).await {
            assert!(error.to_string().contains("DATABASE_UNREACHABLE"), "{error}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), again).await.expect("a connection is made anew");
    assert_eq!(last().await, leapt, "numbers are not endless");
}
