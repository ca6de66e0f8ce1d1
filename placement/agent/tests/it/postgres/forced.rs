//! Forced takeover: the copy owns, and the cell that comes back puts aside what it alone has, out of its own log.

use std::time::Duration;

use cell_agent::Committed;
use cell_client::{StepContext, StepError, wire};
use cell_model::{Attempt, Epoch, Leg, MoveId, Seq, Tail};

use super::each::own;
use super::ground::*;
use super::layouts::{In, alike, cell, change, nothing_left, pair};

/// A step for what a move that is over has left.
fn ended(epoch: u64) -> StepContext {
    context(epoch, u32::MAX)
}

/// b has a whole copy, and a answers only what b holds.
pub(super) async fn in_sync(ground: &Ground, a: &Cell, b: &Cell) {
    let step = context(1, 1);
    ground.copy(a, b, &step).await;
    ground.verify(a, b, &step).await;
    ground.pool.engage_sync(&a.agent, &step, true).await.unwrap();
}

/// What was written to a by now is at b.
async fn arrived(ground: &Ground, b: &Cell, step: &StepContext, count: usize) {
    let there = async {
        while b.contents("accounts").await.len() != count {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, there).await.expect("it arrives in time");
    let progress = ground.pool.import_status(&b.agent, step).await.unwrap();
    assert!(progress.failure_code.is_empty(), "{progress:?}");
}

/// A row of somebody who comes with psql.
pub(super) async fn write(door: &Door, own: bool, name: &str) -> Result<u64, tokio_postgres::Error> {
    let (whose, of) = if own { ("", "") } else { ("tenant_id, ", "'t-1', ") };
    door.open().await.execute(&format!("INSERT INTO accounts ({whose}name) VALUES ({of}'{name}')"), &[]).await
}

pub(super) async fn again(ground: &Ground, layout: In, name: &str, (url, listen): (&str, &str)) -> Cell {
    let change = own(url);
    ground
        .open_with(name, url, listen, |database| match layout {
            In::Shared => {}
            In::Own => database.tenant_schema = Some("tenant_{id}".into()),
            In::Each => change(database),
        })
        .await
        .unwrap()
}

pub(super) async fn force(ground: &Ground, cell: &Cell, epoch: u64) -> Seq {
    let forced = ground.pool.own_by_force(&cell.agent, &context(epoch, 2)).await;
    forced.unwrap().0
}

pub(super) async fn try_put_aside(
    ground: &Ground,
    old: &Cell,
    new: &Cell,
    epoch: u64,
    after: Seq,
) -> Result<Tail, StepError> {
    let mapping = ground.mapping(new, epoch);
    ground.pool.put_aside(&old.agent, &ended(epoch), &mapping, Epoch(epoch - 1), after).await
}

/// As the coordinator does: once more until it is done.
pub(super) async fn put_aside(ground: &Ground, old: &Cell, new: &Cell, epoch: u64, after: Seq) -> Tail {
    let told = async {
        loop {
            match try_put_aside(ground, old, new, epoch, after).await {
                Ok(tail) => return tail,
                Err(error) => assert_eq!(refused::<()>(Err(error)), "BUSY"),
            }
        }
    };
    tokio::time::timeout(PATIENCE, told).await.expect("in time")
}

/// Everything that a cell has put aside, in order, with what it means.
async fn tail_of(ground: &Ground, cell: &Cell) -> (Vec<wire::TableMutation>, Vec<wire::TailTable>) {
    let (mut rows, mut after, mut tables) = (Vec::new(), Seq(0), Vec::new());
    loop {
        let page = ground.pool.read_tail(&cell.agent, &tenant(), after).await.unwrap();
        tables = page.tables.map_or(tables, |tables| tables.tables);
        for transaction in page.table_transactions {
            assert!(transaction.seq > after.get(), "in the order in which they were committed");
            after = Seq(transaction.seq);
            rows.extend(transaction.mutations);
        }
        if !page.more {
            return (rows, tables);
        }
    }
}

/// The accounts in a tail, by name.
pub(super) async fn accounts_in_tail(ground: &Ground, cell: &Cell) -> Vec<String> {
    let (rows, tables) = tail_of(ground, cell).await;
    let of = |mutation: &wire::TableMutation| {
        let table = &tables[mutation.table as usize];
        assert_eq!(table.name, "accounts");
        let name = table.columns.iter().position(|column| column == "name").unwrap();
        match &mutation.new_row[name].value {
            Some(wire::table_value::Value::Text(name)) => name.clone(),
            other => panic!("no name: {other:?}"),
        }
    };
    rows.iter().map(of).collect()
}

async fn refuses(cell: &Cell, epoch: u64) -> String {
    enter(&cell.session().await, epoch).await.unwrap_err()
}

/// The owner is lost in Sync; its database takes writes of somebody who comes with psql, before anybody has told it.
async fn a_lost_owner(from: In, to: In) {
    let ground = Ground::new();
    let (a, b) = pair(&ground, from, to).await;
    in_sync(&ground, &a, &b).await;
    let (door, is_own, url) = (a.door(), a.own, a.url.clone());
    write(&door, is_own, "last").await.unwrap();
    assert_eq!(a.data.committed(&stamp(1)).await, Committed::Yes);
    let seen = ground.pool.look_at_copy(&b.agent, &context(1, 1)).await.unwrap();
    assert!(seen.complete && seen.ungated && seen.applied > Seq(0), "{seen:?}");
    let before = a.contents("accounts").await;
    let listen = a.kill();
    write(&door, is_own, "late").await.unwrap();
    write(&door, is_own, "later").await.unwrap();

    let after = force(&ground, &b, 2).await;
    assert!(after >= seen.applied);
    assert_eq!(b.contents("accounts").await, before, "every write that was acknowledged is there, and no other");
    enter(&b.session().await, 2).await.unwrap();
    // Numbers that the lost owner has handed out are not handed out again.
    write(&b.door(), b.own, "new").await.unwrap();
    let drawn = "SELECT max(id), (SELECT max(id) FROM accounts WHERE name <> 'new') FROM accounts";
    let row = b.session().await.query_one(drawn, &[]).await.unwrap();
    assert!(row.get::<_, i64>(0) > row.get::<_, i64>(1) + 900, "well beyond what is known");
    assert_eq!(force(&ground, &b, 2).await, after, "asked again, it says where it took over");
    let later = ground.pool.own_by_force(&b.agent, &context(2, 7)).await.unwrap().0;
    assert_eq!(later, after, "to a later attempt, too");

    // It comes back, and believes that it owns.
    let a = again(&ground, from, "a", (&url, &listen)).await;
    write(&a.door(), a.own, "latest").await.unwrap();
    let tail = put_aside(&ground, &a, &b, 2, after).await;
    assert_eq!((tail.changes, tail.whole), (3, true), "{tail:?}");
    assert_eq!(accounts_in_tail(&ground, &a).await, ["late", "later", "latest"]);
    assert_eq!(refuses(&a, 1).await, "NOT_OWNER");
    assert_eq!(code(&write(&a.door(), a.own, "refused").await.unwrap_err()), "NOT_OWNER");
    assert_eq!(b.contents("accounts").await.len(), before.len() + 1, "nothing is merged");

    // Told again, and after a restart, it says the same; and its slot is not needed.
    assert_eq!(put_aside(&ground, &a, &b, 2, after).await, tail);
    let listen = a.close().await;
    let a = again(&ground, from, "a", (&url, &listen)).await;
    assert_eq!(put_aside(&ground, &a, &b, 2, after).await, tail);
    assert_eq!(accounts_in_tail(&ground, &a).await, ["late", "later", "latest"]);
    let whole = a.rows.clone().unwrap_or_else(|| a.url.clone());
    let none = "SELECT NOT EXISTS (SELECT 1 FROM pg_replication_slots WHERE database = current_database()) \
                   AND NOT EXISTS (SELECT 1 FROM cellway.made)";
    until_true(&session(&whole).await, none).await;
    // Whoever does not know of the tail does not delete it, and no move comes to where it is.
    let other = StepContext { move_id: Some(MoveId(33)), ..ended(2) };
    assert_eq!(refused(ground.pool.reclaim(&a.agent, &other, Epoch(1)).await), "TAIL_QUARANTINED");
    let other = StepContext { move_id: Some(MoveId(34)), attempt: Attempt(1), ..context(2, 1) };
    let come = ground.pool.prepare_import(&a.agent, &other, &b.id, &b.agent).await;
    assert_eq!(refused(come), "BUSY");
    assert_eq!(accounts_in_tail(&ground, &a).await.len(), 3);
    ground.pool.reclaim(&a.agent, &ended(2), Epoch(1)).await.unwrap();
    assert_eq!(refused(ground.pool.read_tail(&a.agent, &tenant(), Seq(0)).await), "NOT_QUARANTINED");
    nothing_left(&a).await;
    let gone = put_aside(&ground, &a, &b, 2, after).await;
    assert_eq!((gone.changes, gone.whole), (0, true), "told once more by somebody who did not hear of it");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_owner_in_shared_tables_is_taken_over_and_its_own_changes_are_kept_apart() {
    a_lost_owner(In::Shared, In::Shared).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_owner_with_a_schema_for_each_is_taken_over_and_its_own_changes_are_kept_apart() {
    a_lost_owner(In::Own, In::Each).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_owner_with_a_database_for_each_is_taken_over_and_its_own_changes_are_kept_apart() {
    a_lost_owner(In::Each, In::Own).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_kind_of_change_is_in_the_tail_also_of_who_had_entered_before_the_cell_was_told() {
    let ground = Ground::new();
    let (a, b) = pair(&ground, In::Shared, In::Own).await;
    in_sync(&ground, &a, &b).await;
    // The evidence was wrong: a lives.
    let after = force(&ground, &b, 2).await;
    change(&a).await;
    let open = a.session().await;
    enter(&open, 1).await.unwrap();
    open.batch_execute("UPDATE accounts SET name = 'entered' WHERE tenant_id = 't-1' AND id = 1").await.unwrap();
    let busy = try_put_aside(&ground, &a, &b, 2, after).await;
    let Err(StepError::Refused { code, reason }) = busy else { panic!("{busy:?}") };
    assert!(code == "BUSY" && reason.contains("still open"), "{code}: {reason}");
    assert_eq!(refuses(&a, 1).await, "NOT_OWNER", "nobody comes in any more");
    open.batch_execute("COMMIT").await.unwrap();
    let tail = put_aside(&ground, &a, &b, 2, after).await;
    assert!(tail.whole && tail.changes == 2, "{tail:?}");
    let (rows, tables) = tail_of(&ground, &a).await;
    let touched = |table: &str, kind: fn(&wire::TableMutation) -> bool| {
        rows.iter().any(|row| tables[row.table as usize].name == table && kind(row))
    };
    assert!(touched("accounts", |row| row.existed && !row.new_row.is_empty()), "an update");
    assert!(touched("entries", |row| row.existed && row.new_row.is_empty()), "a deletion");
    let moved = Some(wire::table_value::Value::Text("moved".into()));
    let is_moved = |row: &wire::TableMutation| row.new_row.first().is_some_and(|key| key.value == moved);
    assert!(
        rows.iter().any(|row| tables[row.table as usize].name == "Odd \" name" && is_moved(row)),
        "another key"
    );
    assert!(touched("settings", |row| !row.existed && !row.new_row.is_empty()), "a row of a table of one");
    let last = rows.last().unwrap();
    assert_eq!(tables[last.table as usize].name, "accounts", "who had entered came last");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_that_waits_for_the_copy_is_answered_as_unknown_and_is_in_the_tail() {
    // It ends because of the takeover, and not because the machine is slow.
    let ground = Ground::with(|agents| agents.write_confirm_ms = Some(60_000));
    let (a, b) = (cell(&ground, "a", In::Shared).await, cell(&ground, "b", In::Shared).await);
    ground.pool.grant(&a.agent, &outside(1)).await.unwrap();
    in_sync(&ground, &a, &b).await;
    let after = force(&ground, &b, 2).await;
    write(&a.door(), false, "late").await.unwrap();
    let unsure = tokio::spawn({
        let data = a.data.clone();
        async move { data.committed(&stamp(1)).await }
    });
    let tail = put_aside(&ground, &a, &b, 2, after).await;
    assert_eq!((tail.changes, tail.whole), (1, true));
    assert_eq!(unsure.await.unwrap(), Committed::Unknown);
    assert_eq!(a.data.committed(&stamp(1)).await, Committed::Unknown, "nor is one that comes later");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_owner_that_is_lost_leaves_a_tail_of_many_pages_and_the_old_one_goes_on() {
    let ground = Ground::new();
    let (a, b) = pair(&ground, In::Own, In::Shared).await;
    in_sync(&ground, &a, &b).await;
    ground.reverse(&b.agent, &context(1, 1)).await;
    ground.cut_over(&a, &b, 1, 1, Leg::Forward).await;
    let step = context(2, 50);
    write(&b.door(), b.own, "shared").await.unwrap();
    arrived(&ground, &a, &step, 401).await;
    alike(&a, &b).await;
    // The follower is away, and the owner's clients do not wait for it.
    let (a_url, a_listen) = (a.url.clone(), a.close().await);
    let client = b.session().await;
    for number in 0..700 {
        let sql = "INSERT INTO accounts (tenant_id, name, big) VALUES ('t-1', $1, repeat('x', 2000))";
        client.execute(sql, &[&format!("n{number:04}")]).await.unwrap();
    }
    let (b_url, b_listen) = (b.url.clone(), b.close().await);
    let a = again(&ground, In::Own, "a", (&a_url, &a_listen)).await;
    let back = StepContext { leg: Some(Leg::Back), ..context(3, 51) };
    let after = ground.pool.own_by_force(&a.agent, &back).await.unwrap().0;
    write(&a.door(), a.own, "goes on").await.unwrap();
    assert_eq!(a.contents("accounts").await.len(), 402);
    let b = again(&ground, In::Shared, "b", (&b_url, &b_listen)).await;
    let tail = put_aside(&ground, &b, &a, 3, after).await;
    assert_eq!((tail.changes, tail.whole), (700, true), "{tail:?}");
    let expected: Vec<String> = (0..700).map(|number| format!("n{number:04}")).collect();
    assert_eq!(accounts_in_tail(&ground, &b).await, expected);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_source_that_is_fenced_takes_back_and_the_target_keeps_what_it_has_done_since() {
    for is_activated in [false, true] {
        let ground = Ground::new();
        let (a, b) = pair(&ground, In::Shared, In::Shared).await;
        in_sync(&ground, &a, &b).await;
        ground.reverse(&b.agent, &context(1, 1)).await;
        let (fenced, sealed) = ground.fence(&a, &b, &context(1, 1)).await;
        let attempt = fenced.attempt.0;
        if is_activated {
            ground.pool.activate(&b.agent, &context(2, attempt), Some((&a.id, &a.agent))).await.unwrap();
            write(&b.door(), b.own, "only here").await.unwrap();
        }
        let (b_url, b_listen) = (b.url.clone(), b.close().await);
        let seen = ground.pool.look_at_copy(&a.agent, &context(2, attempt)).await.unwrap();
        assert!(seen.complete && seen.applied == sealed, "{seen:?}");
        let back = StepContext { leg: Some(Leg::Back), ..context(3, attempt + 1) };
        let after = ground.pool.own_by_force(&a.agent, &back).await.unwrap().0;
        write(&a.door(), a.own, "goes on").await.unwrap();
        let b = again(&ground, In::Shared, "b", (&b_url, &b_listen)).await;
        let tail = put_aside(&ground, &b, &a, 3, after).await;
        let expected: &[&str] = if is_activated { &["only here"] } else { &[] };
        assert_eq!((tail.changes, tail.whole), (expected.len() as u64, true), "{tail:?}");
        assert_eq!(accounts_in_tail(&ground, &b).await, expected);
        // A step of the cutover that comes now is too late.
        let late = ground.pool.activate(&b.agent, &context(2, attempt), None).await;
        assert!(matches!(late, Err(StepError::Refused { .. })), "{late:?}");
        assert_eq!(refuses(&b, 2).await, "NOT_OWNER");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_a_whole_copy_of_this_move_owns_by_force_and_an_owner_is_not_told_that_it_is_none() {
    let ground = Ground::new();
    let (a, b) = pair(&ground, In::Shared, In::Shared).await;
    let c = cell(&ground, "c", In::Shared).await;
    let refusal =
        async |cell: &Cell, step: StepContext| refused(ground.pool.own_by_force(&cell.agent, &step).await);
    ground.copy_half(&a, &b, &context(1, 1)).await;
    let half = ground.pool.look_at_copy(&b.agent, &context(1, 1)).await.unwrap();
    assert!(!half.complete, "{half:?}");
    assert_eq!(refusal(&b, context(2, 2)).await, "NOT_APPLIED");
    ground.hurry(&b, &context(1, 1)).await;
    ground.verify(&a, &b, &context(1, 1)).await;
    assert_eq!(refusal(&c, context(2, 2)).await, "NOT_OWNER", "it knows nothing of the tenant");
    assert_eq!(refusal(&a, context(2, 2)).await, "NOT_IMPORTING", "it owns, and copies nothing");
    let other = StepContext { move_id: Some(MoveId(21)), attempt: Attempt(1), ..context(2, 1) };
    assert_eq!(refusal(&b, other).await, "NOT_IMPORTING", "the copy is another move's");
    let after = force(&ground, &b, 2).await;
    let wrong = ground.mapping(&a, 2);
    let told = ground.pool.put_aside(&b.agent, &ended(2), &wrong, Epoch(1), after).await;
    assert_eq!(refused(told), "OWNS");
    let told = ground.pool.put_aside(&a.agent, &ended(2), &wrong, Epoch(1), after).await;
    assert_eq!(refused(told), "STALE_EPOCH", "a mapping that names itself");
    // A cell that has lost its database redirects all the same, and says that something may be missing.
    let tail = put_aside(&ground, &c, &b, 2, after).await;
    assert_eq!((tail.changes, tail.whole), (0, false));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tail_of_which_the_log_has_lost_something_says_so_also_after_a_restart() {
    for is_started_again in [false, true] {
        let ground = Ground::with(|agents| agents.captured_bytes_max = Some(2 << 20));
        let (a, b) = pair(&ground, In::Shared, In::Shared).await;
        in_sync(&ground, &a, &b).await;
        ground.pool.engage_sync(&a.agent, &context(1, 1), false).await.unwrap();
        let after = force(&ground, &b, 2).await;
        // More than is captured.
        let sql = "INSERT INTO accounts (tenant_id, name, big) SELECT 't-1', 'n', repeat(md5(i::text), 2000)
                     FROM generate_series(1, 50) i";
        a.session().await.batch_execute(sql).await.unwrap();
        let given_up = async {
            while ground.pool.sync_status(&a.agent, &context(1, 1)).await.is_ok() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(PATIENCE, given_up).await.expect("it is given up in time");
        let a = if is_started_again {
            let confirmed = "SELECT NOT EXISTS (SELECT 1 FROM pg_replication_slots s JOIN cellway.made m ON m.name = s.slot_name
                              WHERE confirmed_flush_lsn < (SELECT pg_current_wal_lsn() - 1000000))";
            until_true(&a.session().await, confirmed).await;
            let (url, listen) = (a.url.clone(), a.kill());
            again(&ground, In::Shared, "a", (&url, &listen)).await
        } else {
            a
        };
        let tail = put_aside(&ground, &a, &b, 2, after).await;
        assert!(!tail.whole, "{tail:?}");
        assert_eq!(a.contents("accounts").await.len(), 450, "the rows of the old copy are kept");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn gates_of_an_owner_that_starts_in_mid_move_wait_until_somebody_has_said_that_it_owns() {
    // There is a control plane, and it does not answer.
    let ground = Ground::with(|agents| agents.control = vec!["127.0.0.1:9".into()]);
    for layout in [In::Shared, In::Each] {
        let (a, b) = pair(&ground, layout, In::Shared).await;
        in_sync(&ground, &a, &b).await;
        let served = async |cell: &Cell| {
            let told = ground.pool.describe(&cell.agent, Some(&tenant())).await.unwrap();
            told.grants[0].role()
        };
        assert_eq!(served(&a).await, wire::Role::Owner);
        let (url, listen) = (a.url.clone(), a.kill());
        let a = again(&ground, layout, "a", (&url, &listen)).await;
        assert_eq!(served(&a).await, wire::Role::Fenced, "{layout:?}");
        // What it is has not changed.
        let held = ground.pool.held(&a.agent).await.unwrap().1;
        assert!(format!("{held:?}").contains("Owner"), "{held:?}");
        // Once the move is over there is no question.
        ground.pool.stop_capture(&a.agent, &context(1, 1)).await.unwrap();
        let listen = a.kill();
        let a = again(&ground, layout, "a", (&url, &listen)).await;
        assert_eq!(served(&a).await, wire::Role::Owner);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changes_are_put_aside_to_the_end_by_an_agent_that_was_started_again() {
    let ground = Ground::new();
    let (a, b) = pair(&ground, In::Own, In::Shared).await;
    in_sync(&ground, &a, &b).await;
    let after = force(&ground, &b, 2).await;
    write(&a.door(), a.own, "late").await.unwrap();
    let open = a.session().await;
    enter(&open, 1).await.unwrap();
    let insert = "INSERT INTO accounts (name) VALUES ('entered')";
    open.batch_execute(insert).await.unwrap();
    assert_eq!(refused(try_put_aside(&ground, &a, &b, 2, after).await), "BUSY");
    assert_eq!(refused_tail(&ground, &a).await, "changes are still being put aside");
    let (url, listen) = (a.url.clone(), a.kill());
    let a = again(&ground, In::Own, "a", (&url, &listen)).await;
    open.batch_execute("COMMIT").await.unwrap();
    // Nobody asks.
    let done = async {
        while ground.pool.read_tail(&a.agent, &tenant(), Seq(0)).await.is_err() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, done).await.expect("in time");
    assert_eq!(accounts_in_tail(&ground, &a).await, ["late", "entered"]);
    let tail = put_aside(&ground, &a, &b, 2, after).await;
    assert_eq!((tail.changes, tail.whole), (2, true));
}

async fn refused_tail(ground: &Ground, cell: &Cell) -> String {
    let error = ground.pool.read_tail(&cell.agent, &tenant(), Seq(0)).await.unwrap_err().to_string();
    let known = "changes are still being put aside";
    assert!(error.contains(known), "{error}");
    known.to_owned()
}
