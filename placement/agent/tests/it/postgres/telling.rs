//! What a cell says of its tenants when a newer control plane asks: what lasts, and nothing that is still to change.

use std::time::Duration;

use cell_client::{AgentPool, StepContext, StepError};
use cell_model::{Epoch, Held, HeldRole, Lineage, TenantId};

use super::ground::*;

/// As the reconciliation begins: a newer leader makes itself known.
async fn announce(pool: &AgentPool, agent: &str) {
    let newer = StepContext { lineage: Lineage(2), tenant: TenantId::new("reconcile").unwrap(), ..outside(1) };
    match pool.preflight(agent, &newer, false).await {
        Ok(_) => {}
        Err(StepError::Refused { code, .. }) if code != "STALE_TERM" => {}
        Err(error) => panic!("{error}"),
    }
}

fn roles(held: &[(TenantId, Held)]) -> Vec<(String, HeldRole, Epoch)> {
    held.iter().map(|(tenant, held)| (tenant.to_string(), held.role, held.epoch)).collect()
}

const WAITS: &str = "SELECT EXISTS (SELECT 1 FROM pg_stat_activity \
                     WHERE wait_event_type = 'Lock' AND query LIKE '%cellway.controls%' AND pid <> pg_backend_pid() \
                       AND datname = current_database())";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_step_of_an_older_leader_that_is_under_way_is_in_what_the_cell_says_and_a_later_one_is_refused() {
    let ground = Ground::new();
    let a = ground.open("a").await;
    let (other, looks) = (a.session().await, a.session().await);

    // The tenant's first grant waits in the database: nothing in memory tells of the tenant yet.
    other.batch_execute("BEGIN; INSERT INTO cellway.controls (tenant, control) VALUES ('t-1', '')").await.unwrap();
    let grant = {
        let (pool, agent) = (ground.pool.clone(), a.agent.clone());
        tokio::spawn(async move { pool.grant(&agent, &outside(1)).await })
    };
    until_true(&looks, WAITS).await;
    announce(&ground.pool, &a.agent).await;
    let mut said = Box::pin(ground.pool.held(&a.agent));
    let early = tokio::time::timeout(Duration::from_millis(300), &mut said).await;
    assert!(early.is_err(), "said before the step was over: {early:?}");
    other.batch_execute("ROLLBACK").await.unwrap();
    assert_eq!(roles(&said.await.unwrap().1), [("t-1".to_owned(), HeldRole::Owner, Epoch(1))]);
    grant.await.unwrap().unwrap();

    // Whatever the older leader asks for now changes nothing of what was said.
    assert_eq!(refused(ground.pool.revoke(&a.agent, &outside(1)).await), "STALE_TERM");
    let said = ground.pool.held(&a.agent).await.unwrap();
    assert_eq!(roles(&said.1), [("t-1".to_owned(), HeldRole::Owner, Epoch(1))]);
}
