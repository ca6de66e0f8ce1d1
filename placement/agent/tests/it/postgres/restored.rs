//! What must never make a second owner where each tenant has a database of its own: one that is not open, and one that was put back
//! to an older state, or whose home was.

use cell_client::StepContext;
use cell_model::{Attempt, Epoch, HeldRole, Leg, MoveId};

use super::each::*;
use super::ground::*;
use super::layouts::{In, ONE, nothing_left, pair};
use super::moving::forth;

/// Nobody may think that nothing is here.
pub(super) async fn is_unopened(ground: &Ground, cell: &Cell) {
    let ended = StepContext { attempt: Attempt(u32::MAX), ..context(2, 1) };
    let pool = &ground.pool;
    assert_eq!(refused(pool.drop_import(&cell.agent, &context(1, 1)).await), "DATABASE_UNOPENED");
    assert_eq!(refused(pool.stop_capture(&cell.agent, &ended).await), "DATABASE_UNOPENED");
    assert_eq!(refused(pool.retire(&cell.agent, &ended).await), "DATABASE_UNOPENED");
    assert_eq!(refused(pool.reclaim(&cell.agent, &ended, Epoch(1)).await), "DATABASE_UNOPENED");
    assert_eq!(refused(pool.revoke(&cell.agent, &outside(1)).await), "DATABASE_UNOPENED");
    assert_eq!(refused(pool.grant(&cell.agent, &outside(1)).await), "DATABASE_UNOPENED");
    let held = pool.held(&cell.agent).await.unwrap_err().to_string();
    assert!(held.contains("DATABASE_UNOPENED"), "{held}");
    assert_eq!(cell.data.name(&tenant()), None);
}

pub(super) async fn why(ground: &Ground, cell: &Cell) -> String {
    ground.pool.grant(&cell.agent, &outside(1)).await.unwrap_err().to_string()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tenant_whose_database_cannot_be_opened_is_never_nothing_and_is_served_when_it_can() {
    let ground = Ground::new();
    let a = ground.open_each("a", ONE).await;
    ground.pool.grant(&a.agent, &outside(1)).await.unwrap();
    let (url, name) = (a.url.clone(), a.name().to_owned());
    let listen = a.close().await;
    say(&url, &name, &format!("ALTER DATABASE \"{name}\" RENAME TO \"{name}-2\"")).await;
    let a = ground.reopen_each("a", &url, &listen).await.unwrap();
    is_unopened(&ground, &a).await;
    assert!(why(&ground, &a).await.contains("DATABASE_MISSING"));
    say(&url, &name, &format!("ALTER DATABASE \"{name}-2\" RENAME TO \"{name}\"")).await;
    is_served(&ground, &a).await;
    assert!(enter(&a.session().await, 1).await.is_ok());
    let held = ground.pool.held(&a.agent).await.unwrap().1;
    assert_eq!((held.len(), held[0].1.role), (1, HeldRole::Owner));
}

/// A backup of a tenant's database, to which nobody is connected.
async fn back_up(url: &str, name: &str) {
    say(url, name, &format!("CREATE DATABASE \"{name}-backup\" TEMPLATE \"{name}\"")).await;
}

/// Puts the backup in the place of the database.
async fn put_back(url: &str, name: &str) {
    let exists = has(url, name).await;
    if exists {
        say(url, name, &format!("DROP DATABASE \"{name}\"")).await;
    }
    say(url, &format!("{name}-backup"), &format!("CREATE DATABASE \"{name}\" TEMPLATE \"{name}-backup\"")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_was_put_back_by_itself_makes_no_second_owner() {
    let ground = Ground::new();
    let (a, b) = pair(&ground, In::Each, In::Shared).await;
    let (url, name) = (a.url.clone(), a.name().to_owned());
    let listen = a.close().await;
    back_up(&url, &name).await;
    let a = ground.reopen_each("a", &url, &listen).await.unwrap();
    forth(&ground, &a, &b).await;
    ground.cut_over(&a, &b, 1, 1, Leg::Forward).await;
    let listen = a.close().await;
    drop_slots(&url, &name).await;
    put_back(&url, &name).await;
    let a = ground.reopen_each("a", &url, &listen).await.unwrap();
    is_unopened(&ground, &a).await;
    let said = why(&ground, &a).await;
    assert!(said.contains("DATABASE_RESTORED") && said.contains("oid = NULL"), "{said}");
    // That it is another one may be right; that it has less than was answered is not.
    a.at_home().await.batch_execute("UPDATE cellway.databases SET oid = NULL").await.unwrap();
    let seen = async {
        while !why(&ground, &a).await.contains("is at change") {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, seen).await.expect("what is said of it is read while the agent runs");
    is_unopened(&ground, &a).await;
    assert!(why(&ground, &a).await.contains("DATABASE_RESTORED"));
    let owners = "SELECT role FROM cellway.databases";
    let role: String = a.at_home().await.query_one(owners, &[]).await.unwrap().get(0);
    assert_eq!(role, "redirect", "what was answered last stands in the home");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_was_put_back_with_everything_that_was_answered_is_taken_when_it_is_said_to_be_the_one() {
    let ground = Ground::new();
    let a = ground.open_each("a", ONE).await;
    ground.pool.grant(&a.agent, &outside(1)).await.unwrap();
    let (url, name) = (a.url.clone(), a.name().to_owned());
    let mut listen = a.close().await;
    back_up(&url, &name).await;
    put_back(&url, &name).await;
    let a = ground.reopen_each("a", &url, &listen).await.unwrap();
    is_unopened(&ground, &a).await;
    a.at_home().await.batch_execute("UPDATE cellway.databases SET oid = NULL").await.unwrap();
    is_served(&ground, &a).await;
    let pinned = "SELECT bool_and(d.oid = k.oid) FROM cellway.databases k JOIN pg_database d ON d.datname = k.name";
    assert!(
        a.at_home().await.query_one(pinned, &[]).await.unwrap().get::<_, bool>(0),
        "and from then on it is that one"
    );
    // Without its records it is a stranger's.
    listen = a.close().await;
    alone(&url, &name).await;
    session(&beside(&url, &name)).await.batch_execute("DROP SCHEMA cellway CASCADE").await.unwrap();
    let a = ground.reopen_each("a", &url, &listen).await.unwrap();
    is_unopened(&ground, &a).await;
    assert!(why(&ground, &a).await.contains("has no records"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_owners_backup_is_taken_where_an_operator_says_that_nothing_newer_is_to_be_had() {
    let ground = Ground::new();
    let a = ground.open_each("a", ONE).await;
    ground.pool.grant(&a.agent, &outside(1)).await.unwrap();
    let (url, name) = (a.url.clone(), a.name().to_owned());
    let listen = a.close().await;
    back_up(&url, &name).await;
    let a = ground.reopen_each("a", &url, &listen).await.unwrap();
    ground.capture(&a, &context(1, 1)).await;
    ground.pool.stop_capture(&a.agent, &context(1, 1)).await.unwrap();
    let listen = a.close().await;
    drop_slots(&url, &name).await;
    put_back(&url, &name).await;
    let a = ground.reopen_each("a", &url, &listen).await.unwrap();
    is_unopened(&ground, &a).await;
    let taken = "UPDATE cellway.databases SET oid = NULL, number = 0, control = NULL \
                 WHERE tenant = 't-1' AND role = 'owner' AND uid = 7 AND epoch = 1";
    assert_eq!(a.at_home().await.execute(taken, &[]).await.unwrap(), 1);
    is_served(&ground, &a).await;
    assert!(enter(&a.session().await, 1).await.is_ok());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_comes_back_after_it_was_dropped_is_nobodys() {
    let ground = Ground::new();
    let a = ground.open_each("a", ONE).await;
    ground.pool.grant(&a.agent, &outside(1)).await.unwrap();
    let (url, name) = (a.url.clone(), a.name().to_owned());
    let listen = a.close().await;
    back_up(&url, &name).await;
    let a = ground.reopen_each("a", &url, &listen).await.unwrap();
    ground.pool.revoke(&a.agent, &outside(1)).await.unwrap();
    nothing_left(&a).await;
    let listen = a.close().await;
    put_back(&url, &name).await;
    let a = ground.reopen_each("a", &url, &listen).await.unwrap();
    let held = ground.pool.held(&a.agent).await.unwrap().1;
    assert_eq!((held.len(), held[0].1.role), (1, HeldRole::Deleted));
    let next = StepContext { uid: cell_model::Uid(8), ..outside(1) };
    assert_eq!(refused(ground.pool.grant(&a.agent, &next).await), "DATABASE_PRESENT", "its records are old");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_home_that_was_put_back_to_before_a_database_was_made_finds_it_again() {
    let ground = Ground::new();
    let a = ground.open_each("a", ONE).await;
    ground.pool.grant(&a.agent, &outside(1)).await.unwrap();
    let url = a.url.clone();
    let listen = a.close().await;
    session(&url).await.batch_execute("DELETE FROM cellway.databases").await.unwrap();
    let a = ground.reopen_each("a", &url, &listen).await.unwrap();
    let held = ground.pool.held(&a.agent).await.unwrap().1;
    assert_eq!((held.len(), held[0].1.role), (1, HeldRole::Owner));
    ground.pool.revoke(&a.agent, &outside(1)).await.unwrap();
    nothing_left(&a).await;
}

/// Waits until the tenant's database is open.
pub(super) async fn is_served(ground: &Ground, cell: &Cell) {
    let granted = async {
        while ground.pool.grant(&cell.agent, &outside(1)).await.is_err() {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, granted).await.expect("it opens by itself");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_home_that_was_put_back_to_when_a_database_was_being_made_or_dropped_leaves_it_to_its_owner() {
    let ground = Ground::new();
    let a = ground.open_each("a", ONE).await;
    ground.pool.grant(&a.agent, &outside(1)).await.unwrap();
    a.session().await.batch_execute("INSERT INTO accounts (name) VALUES ('mine')").await.unwrap();
    let (url, mut listen) = (a.url.clone(), a.close().await);
    for put_back in [
        "stage = 'making', number = 0, control = NULL",
        "stage = 'dropping', number = number - 1",
        // Of an earlier one of that name.
        "stage = 'dropping', number = number - 1, oid = 1",
        "stage = 'making', number = 0, control = NULL, oid = 1",
    ] {
        session(&url).await.batch_execute(&format!("UPDATE cellway.databases SET {put_back}")).await.unwrap();
        let a = ground.reopen_each("a", &url, &listen).await.unwrap();
        is_served(&ground, &a).await;
        let held = ground.pool.held(&a.agent).await.unwrap().1;
        assert_eq!((held.len(), held[0].1.role), (1, HeldRole::Owner), "{put_back}");
        assert_eq!(a.contents("accounts").await.len(), 1, "{put_back}");
        listen = a.close().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_is_not_what_was_to_be_dropped_is_neither_dropped_nor_nothing() {
    let ground = Ground::new();
    let a = ground.open_each("a", ONE).await;
    ground.pool.grant(&a.agent, &outside(1)).await.unwrap();
    let (url, listen) = (a.url.clone(), a.close().await);
    session(&url).await.batch_execute("UPDATE cellway.databases SET stage = 'dropping', number = 9").await.unwrap();
    let a = ground.reopen_each("a", &url, &listen).await.unwrap();
    is_unopened(&ground, &a).await;
    assert!(why(&ground, &a).await.contains("DATABASE_RESTORED"));
    assert!(has_database(&a).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_of_the_pattern_that_cannot_be_looked_into_is_not_passed_by() {
    let ground = Ground::new();
    let a = ground.open_each("a", ONE).await;
    ground.pool.grant(&a.agent, &outside(1)).await.unwrap();
    let (url, name) = (a.url.clone(), a.name().to_owned());
    let listen = a.close().await;
    session(&url).await.batch_execute("DELETE FROM cellway.databases").await.unwrap();
    say(&url, &name, &format!("ALTER DATABASE \"{name}\" ALLOW_CONNECTIONS false")).await;
    let a = ground.reopen_each("a", &url, &listen).await.unwrap();
    is_unopened(&ground, &a).await;
    let said = why(&ground, &a).await;
    assert!(said.contains(&name), "{said}");
    session(&url).await.batch_execute(&format!("ALTER DATABASE \"{name}\" ALLOW_CONNECTIONS true")).await.unwrap();
    is_served(&ground, &a).await;
    assert_eq!(ground.pool.held(&a.agent).await.unwrap().1.len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_whose_records_cannot_be_read_is_neither_passed_by_nor_dropped() {
    let ground = Ground::new();
    let a = ground.open_each("a", ONE).await;
    ground.pool.grant(&a.agent, &outside(1)).await.unwrap();
    let (url, inside) = (a.url.clone(), a.session().await);
    let mut listen = a.close().await;
    // As another version may have it.
    inside.batch_execute("ALTER TABLE cellway.agent RENAME COLUMN layout TO shape").await.unwrap();
    for put_back in [
        "UPDATE cellway.databases SET stage = 'making', number = 0, control = NULL",
        "DELETE FROM cellway.databases",
    ] {
        session(&url).await.batch_execute(put_back).await.unwrap();
        let a = ground.reopen_each("a", &url, &listen).await.unwrap();
        is_unopened(&ground, &a).await;
        assert!(has_database(&a).await, "{put_back}");
        listen = a.close().await;
    }
    inside.batch_execute("ALTER TABLE cellway.agent RENAME COLUMN shape TO layout").await.unwrap();
    let a = ground.reopen_each("a", &url, &listen).await.unwrap();
    is_served(&ground, &a).await;
    assert_eq!(ground.pool.held(&a.agent).await.unwrap().1.len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_crashes_in_the_middle_of_a_move_has_its_databases_opened_again() {
    let ground = Ground::new();
    let server = super::server::Own::start("").await;
    let url = home_on(&server, "").await;
    let a = ground.open("a").await;
    let b = ground.reopen_each("b", &url, "127.0.0.1:0").await.unwrap();
    ground.pool.grant(&a.agent, &outside(1)).await.unwrap();
    let client = a.session().await;
    accounts(&client, 20_000).await;
    let step = context(1, 1);
    ground.copy_half(&a, &b, &step).await;
    server.crash().await;
    client.batch_execute("UPDATE accounts SET name = 'after' WHERE id % 11 = 0").await.unwrap();
    let reached = async {
        loop {
            match ground.pool.import_status_at(&b.agent, &step, 0).await {
                Ok(progress) if progress.backfilled => return,
                Ok(_) => {}
                Err(error) => assert!(error.to_string().contains("DATABASE_UN"), "{error}"),
            }
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, reached).await.expect("in time");
    ground.verify(&a, &b, &step).await;
    assert_eq!(a.contents("accounts").await, b.contents("accounts").await);
    b.close().await;
    a.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_starts_beside_a_backup_and_says_so_where_it_has_to_wait_for_one() {
    let ground = Ground::new();
    let a = ground.open_each("a", ONE).await;
    ground.pool.grant(&a.agent, &outside(1)).await.unwrap();
    let (url, rows) = (a.url.clone(), a.rows.clone().unwrap());
    let listen = a.close().await;
    // As a dump has it, of all that it is going to read.
    let backups = [session(&url).await, session(&rows).await];
    for backup in &backups {
        let sql = "BEGIN; LOCK TABLE cellway.agent, cellway.controls, cellway.copies IN ACCESS SHARE MODE";
        backup.batch_execute(sql).await.unwrap();
    }
    let a = ground.reopen_each("a", &url, &listen).await.unwrap();
    ground.pool.grant(&a.agent, &outside(1)).await.unwrap();
    let listen = a.close().await;
    session(&url).await.batch_execute("DELETE FROM cellway.installed").await.unwrap();
    let blocked = ground.reopen_each("a", &url, &listen).await.map(|_| ()).unwrap_err();
    assert_eq!(blocked.code(), "INSTALL_BLOCKED");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slot_that_waits_for_open_transactions_keeps_no_agent_and_no_database() {
    let ground = Ground::new();
    let server = super::server::Own::start("").await;
    let url = home_on(&server, "").await;
    let a = ground.reopen_each("a", &url, "127.0.0.1:0").await.unwrap();
    ground.pool.grant(&a.agent, &outside(1)).await.unwrap();
    let open = session(&url).await;
    open.batch_execute("BEGIN; SELECT pg_current_xact_id()").await.unwrap();
    assert_eq!(refused(ground.pool.start_capture(&a.agent, &context(1, 1)).await), "BUSY");
    let again = StepContext { move_id: Some(MoveId(21)), ..context(1, 1) };
    assert_eq!(refused(ground.pool.start_capture(&a.agent, &again).await), "BUSY");
    ground.pool.revoke(&a.agent, &outside(1)).await.unwrap();
    assert!(!has_database(&a).await, "though the transaction is open still");
    a.close().await;
    drop(open);
}
