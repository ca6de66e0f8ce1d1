//! Servers, and ways to them, that are silent or slow: what an agent's sessions hold is let go of, and nobody waits for ever.

use std::collections::BTreeSet;
use std::time::Duration;

use cell_client::StepContext;
use tokio_postgres::Client;

use super::each::*;
use super::ground::*;
use super::layouts::ONE;
use super::moving::forth;
use super::server::Own;
use super::surviving::Paused;
use super::wire::Wire;

/// Notes how each session that changes one of the agent's records is set at the server.
const NOTE: &str = "
CREATE TABLE public.noted (pid int, setting text, value text, PRIMARY KEY (pid, setting));
CREATE FUNCTION public.note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
  INSERT INTO public.noted SELECT pg_backend_pid(), s, current_setting(s)
    FROM unnest(ARRAY['tcp_keepalives_idle', 'tcp_keepalives_interval', 'tcp_keepalives_count', 'tcp_user_timeout']) s
      ON CONFLICT DO NOTHING;
  RETURN NULL;
END $$;
CREATE TRIGGER note AFTER UPDATE ON cellway.agent FOR EACH ROW EXECUTE FUNCTION public.note();
CREATE TRIGGER note AFTER UPDATE ON cellway.controls FOR EACH ROW EXECUTE FUNCTION public.note();
CREATE TRIGGER note AFTER UPDATE ON cellway.copies FOR EACH ROW EXECUTE FUNCTION public.note();
ALTER TABLE cellway.copies ENABLE ALWAYS TRIGGER note";

/// The session that holds the lock of the database's agent.
const HOLDER: &str = "SELECT l.pid FROM pg_locks l WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 1 \
    AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database()) \
    AND l.classid = 6514028 AND l.objid = 1818322804";

async fn holder(client: &Client) -> i32 {
    client.query_one(HOLDER, &[]).await.unwrap().get(0)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_server_too_gives_up_sessions_of_an_agent_of_which_it_hears_nothing_for_half_a_minute() {
    let ground = Ground::new();
    let (a, b) = ground.pair().await;
    account(&a.session().await, "one").await.unwrap();
    let mut cells = Vec::new();
    for cell in [a, b] {
        cell.session().await.batch_execute(NOTE).await.unwrap();
        let (id, url, listen) = (cell.id.clone(), cell.url.clone(), cell.close().await);
        cells.push(ground.try_open(id.as_str(), &url, &listen).await.unwrap());
    }
    let [a, b] = &cells[..] else { unreachable!() };
    forth(&ground, a, b).await;
    ground.fence(a, b, &context(1, 1)).await;
    for cell in [a, b] {
        let client = cell.session().await;
        let sql = "SELECT pid, array_agg(setting || ' ' || value ORDER BY setting) FROM public.noted GROUP BY pid";
        let noted = client.query(sql, &[]).await.unwrap();
        for row in &noted {
            let expected = [
                "tcp_keepalives_count 3",
                "tcp_keepalives_idle 10",
                "tcp_keepalives_interval 5",
                "tcp_user_timeout 30000",
            ];
            assert_eq!(row.get::<_, Vec<String>>(1), expected);
        }
        let sessions: BTreeSet<i32> = noted.iter().map(|row| row.get(0)).collect();
        assert!(sessions.contains(&holder(&client).await), "that which holds the agent's lock");
        assert!(sessions.len() > 1, "and those that seal, or apply");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_outlives_a_way_to_its_server_that_has_fallen_silent_and_has_its_lock_again() {
    let ground = Ground::new();
    let direct = database().await;
    session(&direct).await.batch_execute(TABLES).await.unwrap();
    let wire = Wire::to(&direct).await;
    let a = ground.try_open("a", &wire.url(&direct), "127.0.0.1:0").await.unwrap();
    let client = session(&direct).await;
    let silent = holder(&client).await;
    wire.fall_silent();
    // It asks for the lock, in vain, and asks once more.
    let asking = "SELECT pid FROM pg_stat_activity WHERE datname = current_database() \
                     AND query LIKE '%pg_try_advisory_lock%' AND pid NOT IN ($1, pg_backend_pid())";
    let asked = async {
        let mut sessions = BTreeSet::<i32>::new();
        while sessions.len() < 2 {
            sessions.extend(client.query(asking, &[&silent]).await.unwrap().iter().map(|row| row.get::<_, i32>(0)));
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, asked).await.expect("it is tried again");
    assert_eq!(holder(&client).await, silent, "as long as the server has not given up the session");
    wire.end_the_silent();
    let again = format!("SELECT EXISTS ({HOLDER} AND l.pid <> {silent})");
    until_true(&client, &again).await;
    ground.pool.grant(&a.agent, &outside(1)).await.unwrap();
    a.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_drops_one_database_for_long_keeps_no_other_tenants_step_waiting_and_no_agent_from_stopping()
{
    let ground = Ground::new();
    let server = Own::start("").await;
    let url = home_on(&server, ONE).await;
    let a = ground.reopen_each("a", &url, "127.0.0.1:0").await.unwrap();
    let other = StepContext { tenant: "other".parse().unwrap(), ..outside(1) };
    for step in [&outside(1), &other] {
        ground.pool.grant(&a.agent, step).await.unwrap();
    }
    // Every session of the server has to take note that a database goes: this one does not.
    let (watcher, guest) = (session(&url).await, session(&url).await);
    let guest: i32 = guest.query_one("SELECT pg_backend_pid()", &[]).await.unwrap().get(0);
    let paused = Paused::begin(guest);
    let (pool, agent) = (ground.pool.clone(), a.agent.clone());
    let dropped = tokio::spawn(async move { pool.revoke(&agent, &other).await });
    let waits = "SELECT EXISTS (SELECT 1 FROM pg_stat_activity WHERE query LIKE 'DROP DATABASE%' \
                    AND wait_event = 'ProcSignalBarrier')";
    until_true(&watcher, waits).await;
    assert_eq!(refused(ground.pool.revoke(&a.agent, &outside(1)).await), "BUSY");
    tokio::time::timeout(PATIENCE, a.close()).await.expect("it stops");
    assert!(watcher.query_one(waits, &[]).await.unwrap().get::<_, bool>(0), "and the server is at it still");
    dropped.await.unwrap().unwrap_err();
    drop(paused);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_cannot_be_made_because_somebody_alters_the_template_is_given_up_and_tried_again() {
    let ground = Ground::new();
    let a = ground.open_each("a", ONE).await;
    let altering = a.at_home().await;
    let alter = format!("BEGIN; COMMENT ON DATABASE \"{}\" IS 'altered'", name_of(&template(&a.url)));
    altering.batch_execute(&alter).await.unwrap();
    // Refused, or not answered as long as the leader waits.
    ground.pool.grant(&a.agent, &outside(1)).await.unwrap_err();
    let given_up = "SELECT NOT EXISTS (SELECT 1 FROM cellway.databases) AND NOT EXISTS (SELECT 1 FROM pg_stat_activity \
                      WHERE query LIKE 'CREATE DATABASE%' AND datname = current_database() AND state = 'active')";
    until_true(&a.at_home().await, given_up).await;
    assert!(!has_database(&a).await, "it is altered still");
    altering.batch_execute("COMMIT").await.unwrap();
    ground.pool.grant(&a.agent, &outside(1)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_that_starts_while_another_one_installs_in_its_database_says_so() {
    let ground = Ground::new();
    let url = database().await;
    let installing = session(&url).await;
    installing.batch_execute("SELECT pg_advisory_lock(27977539044991353)").await.unwrap();
    let error = ground.try_open("a", &url, "127.0.0.1:0").await.err().unwrap();
    assert!(error.code() == "INSTALL_BLOCKED" && error.to_string().contains("another agent"), "{error}");
}

/// Servers in FIPS mode refuse it; here nobody finds it.
const NO_MD5: &str = "ALTER FUNCTION pg_catalog.md5(text) RENAME TO md5_of_text; \
                      ALTER FUNCTION pg_catalog.md5(bytea) RENAME TO md5_of_bytea";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tenant_moves_between_servers_that_refuse_md5() {
    let ground = Ground::new();
    let (shared, each) = (database().await, home("").await);
    session(&shared).await.batch_execute(TABLES).await.unwrap();
    for url in [&shared, &each, &template(&each)] {
        let client = session(url).await;
        client.batch_execute(NO_MD5).await.unwrap();
        client.query_one("SELECT md5('x')", &[]).await.unwrap_err();
    }
    let a = ground.try_open("a", &shared, "127.0.0.1:0").await.unwrap();
    let b = ground.reopen_each("b", &each, "127.0.0.1:0").await.unwrap();
    ground.pool.grant(&a.agent, &outside(1)).await.unwrap();
    let client = a.session().await;
    account(&client, "one").await.unwrap();
    forth(&ground, &a, &b).await;
    account(&client, "two").await.unwrap();
    ground.cut_over(&a, &b, 1, 1, cell_model::Leg::Forward).await;
    assert_eq!(b.contents("accounts").await, a.contents("accounts").await);
    b.session().await.query_one("SELECT md5('x')", &[]).await.unwrap_err();
}
