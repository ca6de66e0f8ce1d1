//! An agent that sleeps, is taken for dead, and wakes up when another one has its cell: where each tenant has a database of its own.

use cell_agent::AgentError;
use cell_client::StepContext;

use super::each::*;
use super::ground::*;
use super::layouts::{In, ONE, pair};

/// Ends every session of a cell's agent, as a server does that hears nothing of it for long.
async fn cut_off(cell: &Cell) {
    let sql = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
               WHERE application_name LIKE 'cellway%' AND datname IN ($1, $2)";
    let home = cell.url.rsplit_once('/').unwrap().1;
    cell.at_home().await.query(sql, &[&home, &cell.name()]).await.unwrap();
    alone_of_agents(&cell.url, home, cell.name()).await;
}

async fn alone_of_agents(url: &str, home: &str, name: &str) {
    let sql = format!(
        "SELECT NOT EXISTS (SELECT 1 FROM pg_stat_activity \
          WHERE application_name LIKE 'cellway%' AND datname IN ('{home}', '{name}'))"
    );
    until_true(&session(url).await, &sql).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_that_slept_while_another_one_took_its_place_writes_makes_and_drops_nothing_any_more() {
    let ground = Ground::new();
    let mut old = ground.open_each("a", ONE).await;
    ground.pool.grant(&old.agent, &outside(1)).await.unwrap();
    let sleep = old.fall_asleep().await;
    cut_off(&old).await;
    let new = ground.reopen_each("a", &old.url, "127.0.0.1:0").await.unwrap();
    // A leader that the old one has not heard of, and a tenant that is gone and here again.
    let next = StepContext { uid: cell_model::Uid(8), lineage: cell_model::Lineage(2), ..outside(1) };
    ground.pool.revoke(&new.agent, &StepContext { uid: cell_model::Uid(7), ..next.clone() }).await.unwrap();
    ground.pool.grant(&new.agent, &next).await.unwrap();
    let before = records(&new).await;
    drop(sleep);
    let other = StepContext { tenant: "other".parse().unwrap(), ..outside(1) };
    ground.pool.revoke(&old.agent, &outside(1)).await.unwrap_err();
    ground.pool.grant(&old.agent, &other).await.unwrap_err();
    stops(&mut old).await;
    assert_eq!(records(&new).await, before);
    assert!(!has(&new.url, &new.name().replace("t-1", "other")).await);
    assert!(has_database(&new).await);
    ground.pool.grant(&new.agent, &next).await.unwrap();
}

/// What the databases of a cell say of its tenants.
async fn records(cell: &Cell) -> Vec<String> {
    let home = "SELECT concat_ws(' ', tenant, oid, stage, uid, epoch, role, number) FROM cellway.databases \
                UNION ALL SELECT concat_ws(' ', tenant, number) FROM cellway.controls ORDER BY 1";
    let whole = "SELECT concat_ws(' ', g.tenant, g.uid, g.epoch, g.role, c.number, md5(c.control)) FROM cellway.grants g \
                 JOIN cellway.controls c USING (tenant) ORDER BY 1";
    let mut said = Vec::new();
    for (client, sql) in [(cell.at_home().await, home), (cell.session().await, whole)] {
        said.extend(client.query(sql, &[]).await.unwrap().iter().map(|row| row.get::<_, String>(0)));
    }
    said
}

/// It has found out, and ends.
async fn stops(old: &mut Cell) {
    let ended = tokio::time::timeout(PATIENCE, old.ended()).await.expect("it stops");
    assert!(matches!(ended, Err(AgentError::Database(fault)) if fault.code == "AGENT_RUNNING"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_that_was_overtaken_opens_no_database_that_the_newer_one_has_not_reached() {
    let ground = Ground::new();
    let mut old = ground.open_each("a", ONE).await;
    ground.pool.grant(&old.agent, &outside(1)).await.unwrap();
    let (url, name) = (old.url.clone(), old.name().to_owned());
    let sleep = old.fall_asleep().await;
    cut_off(&old).await;
    // Called as no tenant's is: nobody looks into it.
    let aside = format!("aside-{name}");
    say(&url, &name, &format!("ALTER DATABASE \"{name}\" RENAME TO \"{aside}\"")).await;
    let new = ground.reopen_each("a", &url, "127.0.0.1:0").await.unwrap();
    let still = new.fall_asleep().await;
    say(&url, &aside, &format!("ALTER DATABASE \"{aside}\" RENAME TO \"{name}\"")).await;
    let generation = async || -> i64 {
        let client = new.session().await;
        client.query_one("SELECT generation FROM cellway.agent", &[]).await.unwrap().get(0)
    };
    let before = generation().await;
    drop(sleep);
    stops(&mut old).await;
    assert_eq!(generation().await, before);
    drop(still);
    let granted = async {
        while ground.pool.grant(&new.agent, &outside(1)).await.is_err() {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, granted).await.expect("the newer one opens it");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_that_was_overtaken_makes_no_slot() {
    for layout in [In::Shared, In::Each] {
        let ground = Ground::new();
        let (mut old, other) = pair(&ground, layout, In::Shared).await;
        ground.begin(&old, &other, &context(1, 1)).await;
        let sleep = old.fall_asleep().await;
        let (url, rows) = (old.url.clone(), old.rows.clone().unwrap_or_else(|| old.url.clone()));
        let end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
                   WHERE application_name LIKE 'cellway%' AND datname IN ($1, $2)";
        let names = [name_of(&url), name_of(&rows)];
        session(&url).await.query(end, &[&names[0], &names[1]]).await.unwrap();
        alone_of_agents(&url, names[0], names[1]).await;
        let new = match layout {
            In::Each => ground.reopen_each("a", &url, "127.0.0.1:0").await.unwrap(),
            _ => ground.try_open("a", &url, "127.0.0.1:0").await.unwrap(),
        };
        ground.pool.stop_capture(&new.agent, &context(1, 1)).await.unwrap();
        let none = format!(
            "SELECT NOT EXISTS (SELECT 1 FROM pg_replication_slots WHERE database = '{}') \
                AND NOT EXISTS (SELECT 1 FROM cellway.made)",
            names[1]
        );
        until_true(&session(&rows).await, &none).await;
        drop(sleep);
        stops(&mut old).await;
        assert!(session(&rows).await.query_one(&none, &[]).await.unwrap().get::<_, bool>(0), "{layout:?}");
    }
}
