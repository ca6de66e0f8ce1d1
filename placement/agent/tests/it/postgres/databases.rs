//! A database for each tenant: how one is made, taken as it is, opened again and dropped, whenever its agent dies.

use cell_client::{PreflightReport, StepContext};
use cell_model::{Attempt, Epoch, Leg, MoveId};

use super::each::*;
use super::ground::*;
use super::layouts::{In, ONE, alike, change, nothing_left, pair};
use super::moving::forth;
use super::wire::Wire;

fn again(number: u64, epoch: u64) -> StepContext {
    StepContext { move_id: Some(MoveId(number)), ..context(epoch, 1) }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cell_that_was_left_drops_the_database_only_behind_its_tombstone_and_when_nobody_uses_it() {
    let ground = Ground::new();
    let (a, b) = pair(&ground, In::Each, In::Shared).await;
    forth(&ground, &a, &b).await;
    ground.cut_over(&a, &b, 1, 1, Leg::Forward).await;
    let ended = StepContext { attempt: Attempt(u32::MAX), ..context(2, 1) };
    assert_eq!(refused(ground.pool.reclaim(&a.agent, &ended, Epoch(1)).await), "BUSY");
    ground.pool.retire(&a.agent, &ended).await.unwrap();
    ground.pool.stop_capture(&b.agent, &ended).await.unwrap();
    let reader = a.session().await;
    let used = ground.pool.reclaim(&a.agent, &ended, Epoch(1)).await;
    assert_eq!(refused(used), "DATABASE_IN_USE", "nobody is thrown out");
    assert!(has_database(&a).await);
    drop(reader);
    ground.pool.reclaim(&a.agent, &ended, Epoch(1)).await.unwrap();
    nothing_left(&a).await;
    // What this cell was to the tenant is remembered, and an old grant does not come back.
    assert_eq!(refused(ground.pool.grant(&a.agent, &outside(1)).await), "NOT_OWNER");
    ground.copy(&b, &a, &again(50, 2)).await;
    ground.verify(&b, &a, &again(50, 2)).await;
    alike(&a, &b).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tenant_that_is_deleted_takes_its_database_along_and_is_remembered() {
    let ground = Ground::new();
    let a = ground.open_each("a", ONE).await;
    ground.pool.grant(&a.agent, &outside(1)).await.unwrap();
    assert_eq!(a.data.name(&tenant()).as_deref(), Some(a.name()));
    ground.pool.revoke(&a.agent, &outside(1)).await.unwrap();
    nothing_left(&a).await;
    assert_eq!(a.data.name(&tenant()), None);
    assert_eq!(refused(ground.pool.grant(&a.agent, &outside(1)).await), "NOT_OWNER");
    let next = StepContext { uid: cell_model::Uid(8), ..outside(1) };
    ground.pool.grant(&a.agent, &next).await.unwrap();
    assert!(has_database(&a).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn agents_that_die_while_a_database_is_copied_go_on_where_they_were() {
    let ground = Ground::new();
    let (a, b) = pair(&ground, In::Each, In::Each).await;
    let step = context(1, 1);
    ground.capture(&a, &step).await;
    ground.pool.prepare_import(&b.agent, &step, &a.id, &a.agent).await.unwrap();
    let (url, at) = (b.url.clone(), b.kill());
    let b = ground.reopen_each("b", &url, &at).await.unwrap();
    ground.progress(&b, &step, |progress| progress.backfilled).await;
    change(&a).await;
    let (url, at) = (a.url.clone(), a.kill());
    let a = ground.reopen_each("a", &url, &at).await.unwrap();
    change(&a).await;
    ground.verify(&a, &b, &step).await;
    alike(&a, &b).await;
    ground.pool.stop_capture(&a.agent, &step).await.unwrap();
    ground.pool.drop_import(&b.agent, &step).await.unwrap();
    nothing_left(&b).await;
    // With nothing under way, each costs one session.
    let url = a.url.clone();
    let listen = a.close().await;
    let a = ground.reopen_each("a", &url, &listen).await.unwrap();
    let one = format!("SELECT count(*) = 1 FROM pg_stat_activity WHERE datname = '{}'", a.name());
    until_true(&a.at_home().await, &one).await;
}

/// The registry as an agent that died there has left it.
async fn left(url: &str, name: &str, stage: &str, oid: u32) {
    let sql = "INSERT INTO cellway.databases (tenant, name, oid, stage, number) VALUES ('t-1', $1, $2, $3, 0)";
    session(url).await.execute(sql, &[&name, &oid, &stage]).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_that_dies_while_it_makes_a_database_takes_away_the_one_that_it_has_made_and_no_other() {
    let ground = Ground::new();
    let a = ground.open_each("a", ONE).await;
    let (url, name, oid) = (a.url.clone(), a.name().to_owned(), 1_000_000 + std::process::id());
    let mut listen = a.close().await;
    let make = format!("CREATE DATABASE \"{name}\" OID = {oid} TEMPLATE \"{}\"", name_of(&template(&url)));
    for (stage, is_made, is_left) in
        [("making", false, false), ("making", true, false), ("ready", true, false), ("making", true, true)]
    {
        if is_made {
            session(&url).await.batch_execute(&make).await.unwrap();
        }
        let rows = beside(&url, &name);
        if stage == "ready" {
            // Its records were there before.
            let sql = "CREATE SCHEMA cellway; CREATE TABLE cellway.agent (only_one boolean PRIMARY KEY DEFAULT true, \
                       cell text NOT NULL, generation bigint NOT NULL, lineage bigint NOT NULL, term bigint NOT NULL, \
                       layout text NOT NULL DEFAULT 'the database of tenant t-1'); \
                       INSERT INTO cellway.agent VALUES (true, 'a', 1, 0, 0); \
                       CREATE TABLE cellway.grants (tenant text PRIMARY KEY, uid bigint, epoch bigint, role text); \
                       CREATE TABLE cellway.controls (tenant text PRIMARY KEY, control bytea NOT NULL, \
                       number bigint NOT NULL DEFAULT 0)";
            session(&rows).await.batch_execute(sql).await.unwrap();
        } else if is_left {
            session(&rows).await.batch_execute("INSERT INTO accounts (name) VALUES ('mine')").await.unwrap();
        }
        // Somebody else has made it where it is another one than was written down.
        left(&url, &name, stage, oid + u32::from(is_left)).await;
        alone(&url, &name).await;
        let a = ground.reopen_each("a", &url, &listen).await.unwrap();
        assert_eq!(has_database(&a).await, is_left, "{stage}, {is_made}, {is_left}");
        assert!(ground.pool.held(&a.agent).await.unwrap().1.is_empty());
        if is_left {
            assert_eq!(refused(ground.pool.grant(&a.agent, &outside(1)).await), "DATABASE_PRESENT");
            assert_eq!(a.contents("accounts").await.len(), 1, "it may be anybody's");
        } else {
            nothing_left(&a).await;
        }
        listen = a.close().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_somebody_else_makes_at_the_same_moment_is_not_taken_away() {
    let ground = Ground::new();
    let a = ground.open_each("a", ONE).await;
    let (pool, agent) = (ground.pool.clone(), a.agent.clone());
    let held = hold_back(&a.url).await;
    let granted = tokio::spawn(async move { pool.grant(&agent, &outside(1)).await });
    is_making(&a.url).await;
    let make = format!("CREATE DATABASE \"{}\"", a.name());
    a.at_home().await.batch_execute(&make).await.unwrap();
    a.session().await.batch_execute("CREATE TABLE accounts (tenant_id text, name text)").await.unwrap();
    drop(held);
    assert_eq!(refused(granted.await.unwrap()), "DATABASE_PRESENT");
    assert!(has_database(&a).await);
    let known: i64 =
        a.at_home().await.query_one("SELECT count(*) FROM cellway.databases", &[]).await.unwrap().get(0);
    assert_eq!(known, 0);
    assert!(ground.pool.held(&a.agent).await.unwrap().1.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_whose_making_outlives_the_connection_in_which_it_was_said_is_taken_away() {
    let ground = Ground::new();
    let direct = home(ONE).await;
    let wire = Wire::to(&direct).await;
    let a = ground.open_with("a", &wire.url(&direct), "127.0.0.1:0", own(&direct)).await.unwrap();
    let (pool, agent) = (ground.pool.clone(), a.agent.clone());
    let held = hold_back(&direct).await;
    let granted = tokio::spawn(async move { pool.grant(&agent, &outside(1)).await });
    is_making(&direct).await;
    wire.cut();
    granted.await.unwrap().unwrap_err();
    assert!(!has(&direct, a.name()).await, "the server is making it still");
    drop(held);
    // The server ends what it was told, and only then hears that nobody is there any more.
    ended(&direct, a.name()).await;
    assert!(!has(&direct, a.name()).await);
    let again = async {
        while ground.pool.grant(&a.agent, &outside(1)).await.is_err() {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, again).await.expect("nothing is in the way of another one");
}

/// Waits until neither the registry nor the server has a database that is being made.
async fn ended(url: &str, name: &str) {
    let none = format!(
        "SELECT NOT EXISTS (SELECT 1 FROM cellway.databases) AND NOT EXISTS (SELECT 1 FROM pg_database WHERE datname = '{name}') \
            AND NOT EXISTS (SELECT 1 FROM pg_stat_activity WHERE query LIKE 'CREATE DATABASE%{name}%' AND state = 'active' \
                               AND pid <> pg_backend_pid())"
    );
    until_true(&session(url).await, &none).await;
}

/// Keeps every copy of the template waiting until it is dropped.
async fn hold_back(url: &str) -> tokio_postgres::Client {
    let client = session(url).await;
    let sql = format!("BEGIN; COMMENT ON DATABASE \"{}\" IS 'held back'", name_of(&template(url)));
    client.batch_execute(&sql).await.unwrap();
    client
}

async fn is_making(url: &str) {
    let sql = format!(
        "SELECT EXISTS (SELECT 1 FROM pg_stat_activity WHERE datname = '{}' AND wait_event_type = 'Lock' \
                           AND query LIKE 'CREATE DATABASE%')",
        name_of(url)
    );
    until_true(&session(url).await, &sql).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_that_dies_while_it_drops_a_database_ends_that_with_the_slot_in_it() {
    for found in ["whole", "gone", "half dropped"] {
        let ground = Ground::new();
        let (a, b) = pair(&ground, In::Shared, In::Each).await;
        forth(&ground, &a, &b).await;
        ground.pool.stop_capture(&a.agent, &context(1, 1)).await.unwrap();
        let (url, name, rows) = (b.url.clone(), b.name().to_owned(), b.rows.clone().unwrap());
        let reader = b.session().await;
        let kept = ground.pool.drop_import(&b.agent, &context(1, 1)).await;
        assert_eq!(refused(kept), "DATABASE_IN_USE");
        let listen = b.close().await;
        if found == "whole" {
            // As it was before the slot was dropped.
            let slot = "INSERT INTO cellway.made (kind, name) SELECT 'slot', slot_name FROM \
                        pg_create_logical_replication_slot('left_' || pg_backend_pid(), 'pgoutput')";
            session(&rows).await.batch_execute(slot).await.unwrap();
        }
        drop(reader);
        if found != "whole" {
            alone(&url, &name).await;
            drop_slots(&url, &name).await;
        }
        match found {
            "gone" => say(&url, &name, &format!("DROP DATABASE \"{name}\"")).await,
            // As a server leaves it that crashes in the middle.
            "half dropped" => {
                let sql = format!("UPDATE pg_database SET datconnlimit = -2 WHERE datname = '{name}'");
                say(&url, &name, &sql).await;
            }
            _ => {}
        }
        let b = ground.reopen_each("b", &url, &listen).await.unwrap();
        nothing_left(&b).await;
        ground.pool.drop_import(&b.agent, &context(1, 1)).await.unwrap();
        let late = ground.pool.prepare_import(&b.agent, &context(1, 1), &a.id, &a.agent).await;
        assert_eq!(refused(late), "STALE_ATTEMPT", "the copy has ended here, database or not");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_this_agent_has_not_made_is_neither_taken_nor_touched() {
    let ground = Ground::new();
    let (a, b) = pair(&ground, In::Shared, In::Each).await;
    // A tombstone of an older incarnation must not make it the agent's, either.
    let other = ground.open_each("c", ONE).await;
    ground.pool.grant(&other.agent, &outside(1)).await.unwrap();
    ground.pool.revoke(&other.agent, &outside(1)).await.unwrap();
    for cell in [&b, &other] {
        let make = format!("CREATE DATABASE \"{}\" TEMPLATE \"{}\"", cell.name(), name_of(&template(&cell.url)));
        cell.at_home().await.batch_execute(&make).await.unwrap();
        cell.session().await.batch_execute("INSERT INTO accounts (name) VALUES ('before')").await.unwrap();
    }
    let found = look(&ground, &b, true).await;
    assert_eq!(codes(&found), ["DATABASE_PRESENT"], "{found:?}");
    let existing = ground.pool.existing(&b.agent).await.unwrap().unwrap();
    assert_eq!(existing.strangers, ["t-1"], "somebody has rows there");
    ground.capture(&a, &context(1, 1)).await;
    let copied = ground.pool.prepare_import(&b.agent, &context(1, 1), &a.id, &a.agent).await;
    assert_eq!(refused(copied), "DATABASE_PRESENT");
    assert_eq!(refused(ground.pool.grant(&b.agent, &outside(1)).await), "DATABASE_PRESENT");
    let next = StepContext { uid: cell_model::Uid(8), ..outside(1) };
    assert_eq!(refused(ground.pool.grant(&other.agent, &next).await), "DATABASE_PRESENT");
    let (url, listen) = (other.url.clone(), other.close().await);
    let other = ground.reopen_each("c", &url, &listen).await.unwrap();
    assert_eq!(refused(ground.pool.grant(&other.agent, &next).await), "DATABASE_PRESENT");
    for cell in [&b, &other] {
        let client = cell.session().await;
        client.batch_execute("INSERT INTO accounts (name) VALUES ('after')").await.unwrap();
        assert_eq!(cell.contents("accounts").await.len(), 2);
        let untouched = "SELECT NOT EXISTS (SELECT 1 FROM pg_namespace WHERE nspname = 'cellway')";
        assert!(client.query_one(untouched, &[]).await.unwrap().get::<_, bool>(0));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tombstone_that_is_not_as_the_agent_knows_it_is_not_lost_when_a_database_is_begun() {
    let ground = Ground::new();
    let a = ground.open_each("a", ONE).await;
    ground.pool.grant(&a.agent, &outside(1)).await.unwrap();
    ground.pool.revoke(&a.agent, &outside(1)).await.unwrap();
    let home = a.at_home().await;
    home.batch_execute("UPDATE cellway.controls SET control = control || '\\x00'").await.unwrap();
    let next = StepContext { uid: cell_model::Uid(8), ..outside(1) };
    assert_eq!(refused(ground.pool.grant(&a.agent, &next).await), "INTERNAL");
    let kept: i64 = home.query_one("SELECT count(*) FROM cellway.controls", &[]).await.unwrap().get(0);
    assert_eq!(kept, 1);
    assert!(!has_database(&a).await);
    home.batch_execute("UPDATE cellway.controls SET control = substr(control, 1, length(control) - 1)")
        .await
        .unwrap();
    ground.pool.grant(&a.agent, &next).await.unwrap();
}

async fn look(ground: &Ground, cell: &Cell, as_target: bool) -> PreflightReport {
    ground.pool.preflight(&cell.agent, &context(1, 1), as_target).await.unwrap()
}

fn codes(report: &PreflightReport) -> Vec<&str> {
    report.findings.iter().map(|finding| finding.code.as_str()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_template_that_is_unfit_is_named_and_nothing_is_left_of_a_database_that_was_made_of_it() {
    let ground = Ground::new();
    let a = ground.open_each("a", ONE).await;
    let fitting = look(&ground, &a, true).await;
    assert!(fitting.findings.is_empty() && fitting.tables.len() == 4, "{fitting:?}");
    let template = template(&a.url);
    for (spoil, mend, code, of_grant) in [
        (
            "INSERT INTO accounts (name) VALUES ('x')",
            "TRUNCATE accounts CASCADE",
            "TEMPLATE_NOT_EMPTY",
            "TEMPLATE_NOT_EMPTY",
        ),
        ("CREATE TABLE bare (n int)", "DROP TABLE bare", "NO_PRIMARY_KEY", "TABLES_UNFIT"),
        (
            "CREATE SCHEMA cellway; CREATE TABLE cellway.agent (cell text)",
            "DROP SCHEMA cellway CASCADE",
            "TEMPLATE_NOT_EMPTY",
            "TEMPLATE_NOT_EMPTY",
        ),
    ] {
        session(&template).await.batch_execute(spoil).await.unwrap();
        assert_eq!(codes(&look(&ground, &a, true).await), [code], "{spoil}");
        assert_eq!(refused(ground.pool.grant(&a.agent, &outside(1)).await), of_grant, "{spoil}");
        nothing_left(&a).await;
        session(&template).await.batch_execute(mend).await.unwrap();
    }
    let outside_of = "CREATE SCHEMA audit; CREATE TABLE audit.log (id bigserial PRIMARY KEY); CREATE SEQUENCE audit.loose; \
                      SELECT lo_create(0)";
    session(&template).await.batch_execute(outside_of).await.unwrap();
    let found = look(&ground, &a, true).await;
    assert_eq!(codes(&found), ["OUTSIDE_SCHEMA"; 3], "{found:?}");
    assert!(found.findings[2].reason.contains("audit.log"), "{found:?}");
    // A source finds that, and what would keep the database from being dropped.
    ground.pool.grant(&a.agent, &outside(1)).await.unwrap();
    assert_eq!(codes(&look(&ground, &a, false).await), ["OUTSIDE_SCHEMA"; 3]);
    let marked = format!("ALTER DATABASE \"{}\" IS_TEMPLATE true", a.name());
    a.at_home().await.batch_execute(&marked).await.unwrap();
    assert!(codes(&look(&ground, &a, false).await).contains(&"DATABASE_IS_TEMPLATE"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_template_that_somebody_uses_or_that_is_not_there_makes_no_database() {
    let ground = Ground::new();
    let a = ground.open_each("a", ONE).await;
    let template = template(&a.url);
    let name = template.rsplit_once('/').unwrap().1;
    let guest = session(&template).await;
    assert_eq!(refused(ground.pool.grant(&a.agent, &outside(1)).await), "TEMPLATE_IN_USE");
    nothing_left(&a).await;
    drop(guest);
    say(&a.url, name, &format!("ALTER DATABASE \"{name}\" RENAME TO \"{name}-2\"")).await;
    assert_eq!(codes(&look(&ground, &a, true).await), ["TEMPLATE_MISSING"]);
    assert_eq!(refused(ground.pool.grant(&a.agent, &outside(1)).await), "TEMPLATE_MISSING");
    nothing_left(&a).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_more_databases_are_made_than_the_cell_may_have() {
    let ground = Ground::new();
    let url = home(ONE).await;
    let few = |database: &mut cell_agent::DatabaseOptions| {
        own(&url)(database);
        database.tenant_databases_max = 1;
    };
    let a = ground.open_with("a", &url, "127.0.0.1:0", few).await.unwrap();
    ground.pool.grant(&a.agent, &outside(1)).await.unwrap();
    let other = StepContext { tenant: "other".parse().unwrap(), ..outside(1) };
    assert_eq!(refused(ground.pool.grant(&a.agent, &other).await), "TENANT_DATABASES_FULL");
    let looked = ground.pool.preflight(&a.agent, &other, true).await.unwrap();
    assert_eq!(codes(&looked), ["TENANT_DATABASES_FULL"]);
    ground.pool.grant(&a.agent, &outside(1)).await.unwrap();
}
