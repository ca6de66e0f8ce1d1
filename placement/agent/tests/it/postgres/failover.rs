//! A source whose server fails over: to a standby that had not got the fence, and to one that had everything.
//!
//! ```text
//! primary ──streams──► standby        cell b owns by now, at epoch 2
//!    │ fence, redirect     × stopped before
//!    × crashes             │ promoted, at the primary's address: it says that cell a owns, at epoch 1
//! ```

use std::time::Duration;

use cell_client::StepContext;
use cell_model::{Attempt, Epoch, HeldRole, Leg};
use tempfile::TempDir;

use super::each::{home_on, own};
use super::forced::{force, in_sync, try_put_aside};
use super::ground::*;
use super::layouts::{In, ONE, ONE_EACH, TABLES, fill, nothing_left};
use super::server::Own;

/// The server of a cell, its standby, and what its agent has noted.
struct Failing {
    ground: Ground,
    layout: In,
    standbys_confirm: u32,
    url: String,
    notes: TempDir,
    primary: Option<Own>,
    standby: Own,
}

impl Failing {
    /// With cell a on it, which owns the tenant.
    async fn new(layout: In) -> (Self, Cell) {
        Self::waiting_for(0, layout).await
    }

    /// The same with an agent that waits for so many standbys.
    async fn waiting_for(standbys_confirm: u32, layout: In) -> (Self, Cell) {
        let (ground, primary, notes) = (Ground::new(), Own::start("").await, tempfile::tempdir().unwrap());
        let url = match layout {
            In::Each => home_on(&primary, ONE).await,
            _ => primary.database().await,
        };
        let tables = match layout {
            In::Shared => format!("{} {ONE_EACH}", super::ground::TABLES),
            In::Own => format!("{TEMPLATE} {ONE}"),
            In::Each => String::new(),
        };
        session(&url).await.batch_execute(&tables).await.unwrap();
        let standby = primary.standby().await;
        let failing = Self { ground, layout, standbys_confirm, url, notes, primary: Some(primary), standby };
        let a = failing.open("127.0.0.1:0").await;
        failing.ground.pool.grant(&a.agent, &outside(1)).await.unwrap();
        fill(&a, 50).await;
        (failing, a)
    }

    /// The server waits for its standby from now on.
    async fn commits_wait(&self) {
        let client = session(&self.url).await;
        client.batch_execute("ALTER SYSTEM SET synchronous_standby_names = 'walreceiver'").await.unwrap();
        client.batch_execute("SELECT pg_reload_conf()").await.unwrap();
        let waits = "SELECT EXISTS (SELECT 1 FROM pg_stat_replication WHERE sync_state = 'sync')";
        until_true(&client, waits).await;
    }

    /// The standby has everything that there is by now, and is stopped.
    async fn standby_falls_behind(&self) {
        self.standby.catch_up(self.primary.as_ref().unwrap()).await;
        self.standby.stop().await;
    }

    /// The standby is promoted, at the address of its primary, which crashes.
    async fn fails_over(&mut self) {
        self.standby.take_the_place_of(self.primary.take().unwrap()).await;
    }

    async fn open(&self, listen: &str) -> Cell {
        let kept = (self.url.as_str(), self.notes.path());
        let own = own(&self.url);
        let change = |database: &mut cell_agent::DatabaseOptions| {
            database.standbys_confirm = self.standbys_confirm;
            match self.layout {
                In::Shared => {}
                In::Own => database.tenant_schema = Some("tenant_{id}".into()),
                In::Each => own(database),
            }
        };
        self.ground.open_noting("a", kept, listen, change).await.unwrap()
    }

    /// The cell that the tenant moves to.
    async fn target(&self) -> Cell {
        let url = database().await;
        session(&url).await.batch_execute(&format!("{} {ONE_EACH}", super::ground::TABLES)).await.unwrap();
        self.ground.try_open("b", &url, "127.0.0.1:0").await.unwrap()
    }

    /// Up to the moment before the fence.
    async fn prepare(&self, a: &Cell, b: &Cell) {
        let step = context(1, 1);
        self.ground.copy(a, b, &step).await;
        self.ground.verify(a, b, &step).await;
        self.ground.pool.engage_sync(&a.agent, &step, true).await.unwrap();
        self.ground.reverse(&b.agent, &step).await;
    }

    /// What the cell says that it is to the tenant.
    async fn role(&self, cell: &Cell) -> (HeldRole, Epoch) {
        let asked = async {
            loop {
                match self.ground.pool.held(&cell.agent).await {
                    Ok((_, held)) if !held.is_empty() => return (held[0].1.role, held[0].1.epoch),
                    // A database of its own is opened again.
                    _ => tokio::time::sleep(Duration::from_millis(20)).await,
                }
            }
        };
        tokio::time::timeout(PATIENCE, asked).await.expect("it says so in time")
    }
}

/// What a session of the application meets where the tenant is not owned.
async fn refuses(cell: &Cell) -> String {
    enter(&cell.session().await, 1).await.unwrap_err()
}

async fn write(cell: &Cell, name: &str) -> Result<u64, tokio_postgres::Error> {
    let (whose, of) = if cell.own { ("", "") } else { ("tenant_id, ", "'t-1', ") };
    cell.session().await.execute(&format!("INSERT INTO accounts ({whose}name) VALUES ({of}'{name}')"), &[]).await
}

/// Waits until what came with the standby is not believed any more.
async fn is_raised(cell: &Cell) {
    let raised = "SELECT EXISTS (SELECT 1 FROM cellway.put_back) \
                     AND NOT EXISTS (SELECT 1 FROM cellway.grants WHERE role = 'owner')";
    let whole = cell.rows.clone().unwrap_or_else(|| cell.url.clone());
    until_true(&session(&whole).await, raised).await;
}

/// The fence is answered for, the standby has not got it, and is promoted.
async fn a_lost_fence(layout: In, is_started_again: bool) {
    let (mut failing, a) = Failing::new(layout).await;
    let b = failing.target().await;
    failing.prepare(&a, &b).await;
    failing.standby_falls_behind().await;
    failing.ground.cut_over(&a, &b, 1, 1, Leg::Forward).await;
    assert_eq!(refuses(&a).await, "NOT_OWNER");
    let before = b.contents("accounts").await;
    let door = a.door();
    let listen = a.agent.clone();
    let mut asleep = None;
    let a = if is_started_again {
        drop(a.kill());
        None
    } else {
        asleep = Some(a.fall_asleep().await);
        Some(a)
    };
    failing.fails_over().await;
    // Nobody can keep it: the server says that the cell owns, and the agent is not there yet.
    let early = door.open().await;
    let (whose, of) = if layout == In::Shared { ("tenant_id, ", "'t-1', ") } else { ("", "") };
    early.batch_execute(&format!("INSERT INTO accounts ({whose}name) VALUES ({of}'early')")).await.unwrap();
    drop(early);
    drop(asleep);
    let a = match a {
        Some(a) => a,
        None => failing.open(&listen).await,
    };
    is_raised(&a).await;
    assert_eq!(refuses(&a).await, "NOT_OWNER");
    assert_eq!(code(&write(&a, "late").await.unwrap_err()), "NOT_OWNER");
    assert_eq!(failing.role(&a).await, (HeldRole::Redirect, Epoch(1)));
    assert!(enter(&b.session().await, 2).await.is_ok(), "the target is the only owner");
    assert_eq!(b.contents("accounts").await, before);
    // What was written too early is somewhere, and nothing deletes it before somebody has looked.
    let pool = &failing.ground.pool;
    let ended = StepContext { attempt: Attempt(u32::MAX), ..context(2, 1) };
    pool.retire(&a.agent, &ended).await.unwrap();
    let kept = pool.reclaim(&a.agent, &ended, Epoch(1)).await.unwrap_err().to_string();
    assert!(kept.contains("ROWS_KEPT") && kept.contains("owner at epoch 1"), "{kept}");
    let told = pool.describe(&a.agent, Some(&tenant())).await.unwrap();
    assert!(told.storage[0].rows_kept.contains("owner at epoch 1"), "{:?}", told.storage);
    let early = async || a.contents("accounts").await.iter().any(|row| row.contains("early"));
    assert!(early().await);
    let looked = "DELETE FROM cellway.put_back WHERE tenant = 't-1'";
    let whole = a.rows.clone().unwrap_or_else(|| a.url.clone());
    session(&whole).await.batch_execute(looked).await.unwrap();
    let reclaimed = async {
        while pool.reclaim(&a.agent, &ended, Epoch(1)).await.is_err() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, reclaimed).await.expect("it is deleted then");
    nothing_left(&a).await;
    assert_eq!(failing.role(&a).await, (HeldRole::Redirect, Epoch(1)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fence_that_a_promoted_standby_lacks_is_there_again_and_the_target_stays_the_only_owner() {
    a_lost_fence(In::Shared, false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_that_starts_on_a_promoted_standby_without_the_fence_knows_of_it() {
    a_lost_fence(In::Own, true).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fence_that_a_promoted_standby_lacks_is_there_again_in_a_database_of_the_tenants_own() {
    a_lost_fence(In::Each, false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_that_starts_on_a_promoted_standby_knows_what_it_lacks_in_a_database_of_the_tenants_own() {
    a_lost_fence(In::Each, true).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_synchronous_standby_that_is_promoted_has_the_fence_and_everything_else() {
    let (mut failing, a) = Failing::new(In::Shared).await;
    failing.commits_wait().await;
    let b = failing.target().await;
    failing.prepare(&a, &b).await;
    write(&a, "last").await.unwrap();
    let (step, sealed) = failing.ground.fence(&a, &b, &context(1, 1)).await;
    let mut before = Vec::new();
    for table in TABLES {
        before.push(a.contents(table).await);
    }
    failing.fails_over().await;
    for (table, rows) in TABLES.into_iter().zip(before) {
        assert_eq!(a.contents(table).await, rows, "{table}");
    }
    assert_eq!(refuses(&a).await, "FENCED");
    let asked = async {
        while failing.ground.pool.fence(&a.agent, &step, sealed).await.is_err() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, asked).await.expect("asked again, it answers the same");
    let none = "SELECT NOT EXISTS (SELECT 1 FROM cellway.put_back)";
    assert!(session(&a.url).await.query_one(none, &[]).await.unwrap().get::<_, bool>(0), "nothing was missing");
    // And the move goes on.
    let after = context(2, step.attempt.0);
    failing.ground.pool.activate(&b.agent, &after, Some((&a.id, a.agent.as_str()))).await.unwrap();
    let mapping = failing.ground.mapping(&b, 2);
    let delivered = async {
        let follow = Some((&b.id, b.agent.as_str()));
        while failing.ground.pool.deliver_mapping(&a.agent, &after, &mapping, follow).await.is_err() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, delivered).await.expect("it is told of the new owner");
    write(&b, "of b").await.unwrap();
    failing.ground.verify(&b, &a, &after).await;
}

/// The rows of an activated tenant were on the primary alone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_owner_whose_copy_was_lost_serves_nobody_before_an_operator_has_said_so() {
    let (mut failing, a) = Failing::new(In::Shared).await;
    let b = failing.target().await;
    failing.prepare(&a, &b).await;
    failing.ground.cut_over(&a, &b, 1, 1, Leg::Forward).await;
    failing.standby_falls_behind().await;
    // Back again, of which the standby knows nothing: there the tenant is redirected, at epoch 1.
    write(&b, "of b").await.unwrap();
    failing.ground.verify(&b, &a, &context(2, 50)).await;
    failing.ground.cut_over(&b, &a, 2, 51, Leg::Back).await;
    assert!(enter(&a.session().await, 3).await.is_ok());
    let listen = a.kill();
    failing.fails_over().await;
    let a = failing.open(&listen).await;
    assert_eq!(enter(&a.session().await, 3).await.unwrap_err(), "FENCED");
    assert_eq!(failing.role(&a).await, (HeldRole::Fenced, Epoch(3)));
    let taken = "UPDATE cellway.put_back SET taken = true WHERE tenant = 't-1'";
    session(&a.url).await.batch_execute(taken).await.unwrap();
    let listen = a.close().await;
    let a = failing.open(&listen).await;
    assert!(enter(&a.session().await, 3).await.is_ok(), "an operator has decided");
    assert_eq!(failing.role(&a).await, (HeldRole::Owner, Epoch(3)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fence_counts_only_when_as_many_standbys_have_it_as_are_waited_for() {
    let (mut failing, a) = Failing::waiting_for(1, In::Shared).await;
    let b = failing.target().await;
    failing.prepare(&a, &b).await;
    failing.standby.stop().await;
    let step = context(1, 1);
    let pool = failing.ground.pool.clone();
    let sealed = pool.hold_writes(&a.agent, &step, HOLD).await.unwrap();
    pool.await_applied(&b.agent, &step, sealed, HOLD).await.unwrap();
    let behind = pool.fence(&a.agent, &step, sealed).await.unwrap_err().to_string();
    assert!(behind.contains("STANDBY_BEHIND") && behind.contains("0 of 1"), "{behind}");
    assert_eq!(refuses(&a).await, "FENCED");
    // Also to an agent that has been started meanwhile.
    let listen = a.kill();
    let a = failing.open(&listen).await;
    assert_eq!(refused(pool.fence(&a.agent, &step, sealed).await), "STANDBY_BEHIND", "asked again");
    failing.standby.start_again().await;
    let fenced = async {
        while pool.fence(&a.agent, &step, sealed).await.is_err() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, fenced).await.expect("the standby is there again");
    failing.fails_over().await;
    assert_eq!(refuses(&a).await, "FENCED");
    let none = "SELECT NOT EXISTS (SELECT 1 FROM cellway.put_back)";
    until_true(&a.session().await, none).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn preflight_names_standbys_that_no_commit_waits_for_and_an_agent_that_notes_nothing() {
    let (failing, a) = Failing::new(In::Shared).await;
    let pool = failing.ground.pool.clone();
    let notes = async |cell: &Cell| pool.preflight(&cell.agent, &context(1, 1), false).await.unwrap().notes;
    let told = notes(&a).await;
    let told = told.iter().find(|note| note.code == "STANDBY_ASYNCHRONOUS").expect("it is noted");
    assert!(
        told.reason.contains("walreceiver (async)") && told.reason.contains("standbys_confirm = 1"),
        "{told:?}"
    );
    failing.commits_wait().await;
    let codes = async |cell: &Cell| -> Vec<String> {
        notes(cell).await.into_iter().map(|note| note.code).filter(|code| code != "SLOT_WAL_LIMIT").collect()
    };
    assert_eq!(codes(&a).await, Vec::<String>::new());
    let listen = a.close().await;
    let forgetful = failing.ground.try_open("a", &failing.url, &listen).await.unwrap();
    assert_eq!(codes(&forgetful).await, ["NO_DATA_DIRECTORY"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tail_is_answered_for_and_its_log_is_let_go_of_only_when_standbys_have_it() {
    let (mut failing, a) = Failing::waiting_for(1, In::Shared).await;
    let b = failing.target().await;
    let ground = &failing.ground;
    in_sync(ground, &a, &b).await;
    let after = force(ground, &b, 2).await;
    write(&a, "late").await.unwrap();
    failing.standby.stop().await;
    let client = a.session().await;
    let kept = async || -> i64 {
        client.query_one("SELECT count(*) FROM pg_replication_slots WHERE active", &[]).await.unwrap().get(0)
    };
    for _ in 0..2 {
        assert_eq!(refused(try_put_aside(ground, &a, &b, 2, after).await), "STANDBY_BEHIND");
        // Time enough for the reader to end.
        tokio::time::sleep(Duration::from_millis(300)).await;
        assert_eq!(kept().await, 1, "what the standby lacks is in the log still");
    }
    failing.standby.start_again().await;
    let told = async || {
        loop {
            if let Ok(tail) = try_put_aside(&failing.ground, &a, &b, 2, after).await {
                return tail;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let tail = tokio::time::timeout(PATIENCE, told()).await.expect("the standby is there again");
    assert_eq!((tail.changes, tail.whole), (1, true));
    until_true(&client, "SELECT NOT EXISTS (SELECT 1 FROM cellway.made)").await;
    failing.fails_over().await;
    let there =
        "SELECT (SELECT count(*) FROM cellway.tail_changes) = 1 AND (SELECT count(*) FROM cellway.tails) = 1";
    assert!(
        session(&a.url).await.query_one(there, &[]).await.unwrap().get::<_, bool>(0),
        "what was answered is there"
    );
}
