//! How a tenant's own database is left when that does not go as it should, and when an operator has to help.

use std::time::Duration;

use cell_client::StepContext;
use cell_model::{Attempt, HeldRole, Leg};
use tokio_postgres::Client;

use super::each::*;
use super::ground::*;
use super::layouts::{In, ONE, nothing_left, pair};
use super::moving::forth;
use super::restored::{is_served, is_unopened, why};

/// Keeps the registry from being told that a database is to be dropped, until [`allow`].
async fn forbid(home: &Client) {
    let sql = "CREATE FUNCTION public.not_now() RETURNS trigger LANGUAGE plpgsql AS \
                 $$ BEGIN RAISE EXCEPTION 'not now'; END $$; \
               CREATE TRIGGER not_now BEFORE UPDATE ON cellway.databases FOR EACH ROW \
                 WHEN (NEW.stage = 'dropping') EXECUTE FUNCTION public.not_now()";
    home.batch_execute(sql).await.unwrap();
}

async fn allow(home: &Client) {
    home.batch_execute("DROP TRIGGER not_now ON cellway.databases").await.unwrap();
}

/// What the cell says that it is to its tenants.
async fn roles(ground: &Ground, cell: &Cell) -> Vec<HeldRole> {
    ground.pool.held(&cell.agent).await.unwrap().1.iter().map(|(_, held)| held.role).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_could_not_be_left_goes_without_another_step_also_after_a_start() {
    for is_started_again in [false, true] {
        let ground = Ground::new();
        let mut a = ground.open_each("a", ONE).await;
        ground.pool.grant(&a.agent, &outside(1)).await.unwrap();
        let home = a.at_home().await;
        forbid(&home).await;
        assert_eq!(refused(ground.pool.revoke(&a.agent, &outside(1)).await), "DATABASE_FAILED");
        if is_started_again {
            let (url, listen) = (a.url.clone(), a.close().await);
            a = ground.reopen_each("a", &url, &listen).await.unwrap();
        }
        assert!(has_database(&a).await);
        assert_eq!(roles(&ground, &a).await, [HeldRole::Deleted], "and what this cell is to the tenant is told");
        allow(&home).await;
        until_true(&home, "SELECT NOT EXISTS (SELECT 1 FROM cellway.databases)").await;
        nothing_left(&a).await;
        assert_eq!(roles(&ground, &a).await, [HeldRole::Deleted]);
    }
}

/// Drops a tenant's database behind the back of its cell's agent, and starts that again.
async fn lose_database(ground: &Ground, cell: Cell) -> Cell {
    let (id, url, name) = (cell.id.clone(), cell.url.clone(), cell.name().to_owned());
    let listen = cell.close().await;
    drop_slots(&url, &name).await;
    say(&url, &name, &format!("DROP DATABASE \"{name}\"")).await;
    ground.reopen_each(id.as_str(), &url, &listen).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_is_gone_for_good_with_its_tenants_rows_is_let_go_of_when_an_operator_says_so() {
    for is_said_to_go in [false, true] {
        let ground = Ground::new();
        let a = ground.open_each("a", ONE).await;
        ground.pool.grant(&a.agent, &outside(1)).await.unwrap();
        let a = lose_database(&ground, a).await;
        is_unopened(&ground, &a).await;
        let home = a.at_home().await;
        if is_said_to_go {
            // An owner's is never believed to have been left.
            let sql = "UPDATE cellway.databases SET stage = 'dropping' WHERE tenant = 't-1'";
            home.batch_execute(sql).await.unwrap();
            let kept = async {
                while !why(&ground, &a).await.contains("has not left its tenant") {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            };
            tokio::time::timeout(PATIENCE, kept).await.expect("it is not");
            is_unopened(&ground, &a).await;
        }
        let mend = "DELETE FROM cellway.databases WHERE tenant = 't-1'";
        let said = why(&ground, &a).await;
        assert!(said.contains("DATABASE_MISSING") && said.contains(mend), "{said}");
        home.batch_execute(mend).await.unwrap();
        let gone = async {
            while ground.pool.revoke(&a.agent, &outside(1)).await.is_err() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(PATIENCE, gone).await.expect("the tenant can be deleted");
        assert_eq!(roles(&ground, &a).await, [HeldRole::Deleted]);
        let next = StepContext { uid: cell_model::Uid(8), ..outside(1) };
        ground.pool.grant(&a.agent, &next).await.unwrap();
        assert!(has_database(&a).await);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_old_copys_database_that_is_gone_leaves_its_tombstone_when_an_operator_says_so() {
    let ground = Ground::new();
    let (a, b) = pair(&ground, In::Each, In::Shared).await;
    forth(&ground, &a, &b).await;
    ground.cut_over(&a, &b, 1, 1, Leg::Forward).await;
    let a = lose_database(&ground, a).await;
    is_unopened(&ground, &a).await;
    let home = a.at_home().await;
    let said = why(&ground, &a).await;
    let mend = "UPDATE cellway.databases SET stage = 'dropping' WHERE tenant = 't-1'";
    assert!(said.contains("DATABASE_MISSING") && said.contains(mend), "{said}");
    assert_eq!(home.execute(mend, &[]).await.unwrap(), 1);
    until_true(&home, "SELECT NOT EXISTS (SELECT 1 FROM cellway.databases)").await;
    assert_eq!(roles(&ground, &a).await, [HeldRole::Redirect]);
    // The move ends as if the copy had been there.
    let ended = StepContext { attempt: Attempt(u32::MAX), ..context(2, 1) };
    ground.pool.retire(&a.agent, &ended).await.unwrap();
    ground.pool.stop_capture(&b.agent, &ended).await.unwrap();
    ground.pool.reclaim(&a.agent, &ended, cell_model::Epoch(1)).await.unwrap();
    nothing_left(&a).await;
    assert_eq!(refused(ground.pool.grant(&a.agent, &outside(1)).await), "NOT_OWNER");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stage_that_no_agent_of_this_version_writes_is_named_with_what_to_do() {
    let ground = Ground::new();
    let a = ground.open_each("a", ONE).await;
    ground.pool.grant(&a.agent, &outside(1)).await.unwrap();
    let (url, home, listen) = (a.url.clone(), a.at_home().await, a.close().await);
    let strange = "ALTER TABLE cellway.databases DROP CONSTRAINT databases_stage_check; \
                   UPDATE cellway.databases SET stage = 'adopting'";
    home.batch_execute(strange).await.unwrap();
    let error = ground.reopen_each("a", &url, &listen).await.err().unwrap();
    let mend = "DELETE FROM cellway.databases WHERE tenant = 't-1'";
    assert!(error.code() == "DATABASE_FAILED" && error.to_string().contains(mend), "{error}");
    home.batch_execute(mend).await.unwrap();
    let a = ground.reopen_each("a", &url, &listen).await.unwrap();
    is_served(&ground, &a).await;
    assert_eq!(roles(&ground, &a).await, [HeldRole::Owner], "it was looked into");
}
