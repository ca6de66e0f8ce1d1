//! Transactions that were prepared: they hold the tenant's lock, and no process does.

use super::ground::*;
use super::moving::forth;
use super::server::Own;

const PREPARE: &str = "
BEGIN; INSERT INTO accounts (tenant_id, name) VALUES ('t-1', 'in two phases'); PREPARE TRANSACTION 'it''s left'";

async fn pair(own: &Own, ground: &Ground) -> (Cell, Cell) {
    let a = ground.open_on("a", &own.database().await).await;
    let b = ground.open_on("b", &own.database().await).await;
    ground.pool.grant(&a.agent, &outside(1)).await.unwrap();
    (a, b)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_prepared_transaction_that_outlives_the_budget_is_named_with_the_statement_that_ends_it() {
    let (own, ground) = (Own::start("max_prepared_transactions = 4\n").await, Ground::new());
    let (a, b) = pair(&own, &ground).await;
    forth(&ground, &a, &b).await;
    a.session().await.batch_execute(PREPARE).await.unwrap();
    let step = context(1, 1);
    let missed = ground.pool.hold_writes(&a.agent, &step, std::time::Duration::from_millis(200)).await;
    let missed = missed.unwrap_err().to_string();
    assert!(missed.contains("NOT_QUIESCED") && missed.contains("ROLLBACK PREPARED 'it''s left'"), "{missed}");
    let status = ground.pool.sync_status_with_writes(&a.agent, &step).await.unwrap();
    assert!(!status.oldest_write.is_zero(), "{status:?}");
    a.session().await.batch_execute("COMMIT PREPARED 'it''s left'").await.unwrap();
    let (_, _) = ground.seal(&a, &b, &cell_client::StepContext { attempt: cell_model::Attempt(2), ..step }).await;
    assert!(b.rows().await["accounts"].iter().any(|row| row.contains("in two phases")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_waits_for_a_prepared_transaction_and_for_none_of_another_database() {
    let (own, ground) = (Own::start("max_prepared_transactions = 4\n").await, Ground::new());
    let (a, b) = pair(&own, &ground).await;
    accounts(&a.session().await, 5).await;
    let step = context(1, 1);
    ground.capture(&a, &step).await;
    a.session().await.batch_execute(PREPARE).await.unwrap();
    // The same tenant's lock, elsewhere.
    let elsewhere = session(&own.database().await).await;
    let lock = "SELECT pg_advisory_xact_lock_shared(hashtextextended('t-1', 7234017283807667300))";
    elsewhere.batch_execute(&format!("BEGIN; {lock}; PREPARE TRANSACTION 'elsewhere'")).await.unwrap();
    ground.pool.prepare_import(&b.agent, &step, &a.id, &a.agent).await.unwrap();
    let waits = async || ground.pool.import_status(&b.agent, &step).await.unwrap();
    for _ in 0..20 {
        let progress = waits().await;
        assert!(!progress.backfilled && progress.failure_code.is_empty(), "{progress:?}");
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    a.session().await.batch_execute("ROLLBACK PREPARED 'it''s left'").await.unwrap();
    ground.progress(&b, &step, |progress| progress.backfilled).await;
    elsewhere.batch_execute("ROLLBACK PREPARED 'elsewhere'").await.unwrap();
}
