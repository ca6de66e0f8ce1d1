//! Moves to, from and between cells in which each tenant has a schema of its own, or a database.

use cell_client::StepContext;
use cell_model::{Attempt, Epoch, Leg, MoveId};

use super::each::has_database;
use super::ground::*;
use super::moving::{forth, forth_and_back_under_writers};

/// A table with one row of each tenant, in both layouts.
pub(super) const ONE_EACH: &str = "CREATE TABLE settings (tenant_id text PRIMARY KEY, value text)";
pub(super) const ONE: &str = "CREATE TABLE cellway_template.settings (value text);
                   CREATE UNIQUE INDEX ON cellway_template.settings ((true));
                   ALTER TABLE cellway_template.settings REPLICA IDENTITY FULL";
pub(super) const TABLES: [&str; 4] = ["accounts", "entries", "\"Odd \"\" name\"", "settings"];

/// Where the tenants of a cell are.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum In {
    Shared,
    Own,
    /// A database.
    Each,
}

pub(super) async fn cell(ground: &Ground, name: &str, layout: In) -> Cell {
    let url = database().await;
    let admin = session(&url).await;
    match layout {
        In::Shared => {
            admin.batch_execute(&format!("{} {ONE_EACH}", super::ground::TABLES)).await.unwrap();
            ground.try_open(name, &url, "127.0.0.1:0").await.unwrap()
        }
        In::Own => {
            admin.batch_execute(&format!("{TEMPLATE} {ONE}")).await.unwrap();
            ground.reopen_own(name, &url, "127.0.0.1:0").await
        }
        In::Each => ground.open_each(name, ONE).await,
    }
}

/// Two cells; the first owns the tenant, which has rows in every table.
pub(super) async fn pair(ground: &Ground, from: In, to: In) -> (Cell, Cell) {
    let (a, b) = (cell(ground, "a", from).await, cell(ground, "b", to).await);
    ground.pool.grant(&a.agent, &outside(1)).await.unwrap();
    fill(&a, 400).await;
    (a, b)
}

pub(super) async fn fill(cell: &Cell, count: i32) {
    let (whose, of) = if cell.own { ("", "") } else { ("tenant_id, ", "'t-1', ") };
    let sql = format!(
        "INSERT INTO accounts ({whose}name, mood, price, big, tags, doc, seen, raw, ratio)
           SELECT {of} 'n' || i, 'busy', i + 0.125, repeat(md5(i::text), 20), ARRAY['a', NULL, 'b c'], '{{\"k\": 1.50}}',
                  '2026-02-28 23:59:59.123456+02', '\\x00ff10', 0.1 FROM generate_series(1, {count}) i;
         INSERT INTO entries ({whose}account, amount) SELECT {of} id, id * 1.10 FROM accounts;
         INSERT INTO \"Odd \"\" name\" ({whose}\"the key\", value) SELECT {of} 'k' || i, 'v' FROM generate_series(1, 50) i;
         INSERT INTO settings ({whose}value) VALUES ({of}'first')"
    );
    cell.session().await.batch_execute(&sql).await.unwrap();
}

/// Changes of every kind, in every table, beside a copy.
pub(super) async fn change(cell: &Cell) {
    let sql = "UPDATE accounts SET name = name || '!' WHERE id % 3 = 0;
               DELETE FROM entries WHERE account % 5 = 0;
               UPDATE \"Odd \"\" name\" SET \"the key\" = 'moved' WHERE \"the key\" = 'k7';
               UPDATE settings SET value = 'second'; DELETE FROM settings";
    let (whose, of) = if cell.own { ("", "") } else { ("tenant_id, ", "'t-1', ") };
    let again =
        format!("INSERT INTO settings ({whose}value) VALUES ({of}'third'); UPDATE settings SET value = 'last'");
    cell.session().await.batch_execute(&format!("{sql}; {again}")).await.unwrap();
}

pub(super) async fn alike(a: &Cell, b: &Cell) {
    for table in TABLES {
        assert_eq!(a.contents(table).await, b.contents(table).await, "{table}");
    }
}

/// Nothing of the tenant, and nothing made for it, is in a cell that was to get it.
pub(super) async fn nothing_left(cell: &Cell) {
    if cell.rows.is_some() {
        assert!(!has_database(cell).await, "its database is there still");
        let others = "SELECT NOT EXISTS (SELECT 1 FROM pg_replication_slots \
                       WHERE database LIKE replace(current_database(), '_', '\\_') || '\\_%') \
                      AND NOT EXISTS (SELECT 1 FROM cellway.databases)";
        until_true(&session(&cell.url).await, others).await;
    } else if cell.own {
        assert!(!has_schema(cell).await, "its schema is there still");
    } else {
        for table in TABLES {
            assert!(cell.contents(table).await.is_empty(), "{table}");
        }
    }
    let none = "SELECT NOT EXISTS (SELECT 1 FROM pg_replication_slots WHERE database = current_database()) \
                AND NOT EXISTS (SELECT 1 FROM cellway.made) AND NOT EXISTS (SELECT 1 FROM cellway.copies)";
    until_true(&session(&cell.url).await, none).await;
}

async fn whole_move(from: In, to: In) {
    let ground = Ground::new();
    let (a, b) = pair(&ground, from, to).await;
    forth_and_back_under_writers(&ground, &a, &b).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn from_shared_tables_into_a_schema_and_back_under_writers_nothing_is_lost() {
    whole_move(In::Shared, In::Own).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn from_a_schema_into_shared_tables_and_back_under_writers_nothing_is_lost() {
    whole_move(In::Own, In::Shared).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn from_a_schema_into_a_schema_and_back_under_writers_nothing_is_lost() {
    whole_move(In::Own, In::Own).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn from_shared_tables_into_a_database_and_back_under_writers_nothing_is_lost() {
    whole_move(In::Shared, In::Each).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn from_a_database_into_shared_tables_and_back_under_writers_nothing_is_lost() {
    whole_move(In::Each, In::Shared).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn from_a_schema_into_a_database_and_back_under_writers_nothing_is_lost() {
    whole_move(In::Own, In::Each).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn from_a_database_into_a_schema_and_back_under_writers_nothing_is_lost() {
    whole_move(In::Each, In::Own).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn from_a_database_into_a_database_and_back_under_writers_nothing_is_lost() {
    whole_move(In::Each, In::Each).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_kind_of_change_arrives_in_the_other_layout_and_digests_agree() {
    for (from, to) in [
        (In::Shared, In::Own),
        (In::Own, In::Shared),
        (In::Own, In::Own),
        (In::Shared, In::Each),
        (In::Each, In::Own),
    ] {
        let ground = Ground::new();
        let (a, b) = pair(&ground, from, to).await;
        let step = context(1, 1);
        ground.copy(&a, &b, &step).await;
        change(&a).await;
        let all = ground.verify(&a, &b, &step).await;
        assert!(all.rows > 700, "{all:?}");
        alike(&a, &b).await;
        // And of rows that have changed since, which are compared by their keys.
        change(&a).await;
        ground.seal(&a, &b, &step).await;
        alike(&a, &b).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_move_that_is_called_off_in_any_phase_leaves_no_schema_and_no_row() {
    for (from, to) in [(In::Shared, In::Own), (In::Own, In::Shared)] {
        called_off_in_each_phase(from, to).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_move_that_is_called_off_in_any_phase_leaves_no_database_and_no_slot() {
    for (from, to) in [(In::Shared, In::Each), (In::Each, In::Shared)] {
        called_off_in_each_phase(from, to).await;
    }
}

async fn called_off_in_each_phase(from: In, to: In) {
    let ground = Ground::new();
    let (a, b) = pair(&ground, from, to).await;
    for (number, phase) in ["prepare", "copied", "sync", "hold", "fence"].into_iter().enumerate() {
        let number = u64::try_from(number).unwrap();
        let epoch = epoch_of(&a).await;
        let step = StepContext { move_id: Some(MoveId(40 + number)), ..context(epoch, 1) };
        ground.capture(&a, &step).await;
        ground.pool.prepare_import(&b.agent, &step, &a.id, &a.agent).await.unwrap();
        if phase != "prepare" {
            ground.progress(&b, &step, |progress| progress.backfilled).await;
        }
        if ["sync", "hold", "fence"].contains(&phase) {
            ground.verify(&a, &b, &step).await;
            ground.pool.engage_sync(&a.agent, &step, true).await.unwrap();
            ground.reverse(&b.agent, &step).await;
        }
        let mut after = step.clone();
        if phase == "hold" {
            after = ground.seal(&a, &b, &step).await.0;
            ground.pool.release_hold(&a.agent, &after).await.unwrap();
        } else if phase == "fence" {
            after = ground.fence(&a, &b, &step).await.0;
            after.epoch = Epoch(epoch + 1);
            ground.pool.unfence(&a.agent, &after).await.unwrap();
        }
        ground.pool.stop_capture(&a.agent, &after).await.unwrap();
        ground.pool.drop_import(&b.agent, &after).await.unwrap();
        nothing_left(&b).await;
        // It owns and serves as before.
        let value = format!("after {phase}");
        let client = a.session().await;
        client.execute("UPDATE settings SET value = $1", &[&value]).await.unwrap();
    }
}

/// At which epoch the cell owns the tenant.
pub(super) async fn epoch_of(cell: &Cell) -> u64 {
    let sql = "SELECT epoch FROM cellway.grants WHERE tenant = 't-1' AND role = 'owner'";
    let epoch: i64 = cell.session().await.query_one(sql, &[]).await.unwrap().get(0);
    epoch.cast_unsigned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cell_that_was_left_drops_the_schema_only_behind_its_tombstone_and_takes_the_tenant_again() {
    let ground = Ground::new();
    let (a, b) = pair(&ground, In::Own, In::Shared).await;
    forth(&ground, &a, &b).await;
    ground.cut_over(&a, &b, 1, 1, Leg::Forward).await;
    let ended = StepContext { attempt: Attempt(u32::MAX), ..context(2, 1) };
    assert_eq!(refused(ground.pool.reclaim(&a.agent, &ended, Epoch(1)).await), "BUSY");
    assert!(has_schema(&a).await);
    ground.pool.retire(&a.agent, &ended).await.unwrap();
    ground.pool.stop_capture(&b.agent, &ended).await.unwrap();
    let admin = session(&a.url).await;
    admin.batch_execute("CREATE VIEW public.reads AS SELECT * FROM \"tenant_t-1\".settings").await.unwrap();
    let in_use = ground.pool.reclaim(&a.agent, &ended, Epoch(1)).await;
    assert_eq!(refused(in_use), "SCHEMA_IN_USE", "what others have built is not taken along");
    assert!(has_schema(&a).await);
    admin.batch_execute("DROP VIEW public.reads").await.unwrap();
    ground.pool.reclaim(&a.agent, &ended, Epoch(1)).await.unwrap();
    nothing_left(&a).await;
    let back = StepContext { move_id: Some(MoveId(50)), ..context(2, 1) };
    ground.copy(&b, &a, &back).await;
    ground.verify(&b, &a, &back).await;
    alike(&a, &b).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_that_is_made_during_a_move_ends_it_and_one_that_nobody_looked_at_is_never_dropped() {
    let ground = Ground::new();
    let (a, b) = pair(&ground, In::Own, In::Own).await;
    forth(&ground, &a, &b).await;
    let step = context(1, 1);
    let client = a.session().await;
    client.batch_execute("CREATE TABLE late (id bigint PRIMARY KEY); INSERT INTO late VALUES (1)").await.unwrap();
    let step = ground.hold_is_refused(&a, &step, "SCHEMA_CHANGED").await;
    let failure = ground.failure(&b, &step).await;
    assert!(failure.starts_with("SCHEMA_CHANGED"), "{failure}");
    ground.pool.stop_capture(&a.agent, &step).await.unwrap();
    ground.pool.drop_import(&b.agent, &step).await.unwrap();
    nothing_left(&b).await;
    client.batch_execute("DROP TABLE late").await.unwrap();
    let again = StepContext { move_id: Some(MoveId(41)), ..context(1, 1) };
    ground.copy(&a, &b, &again).await;
    let admin = b.session().await;
    admin.batch_execute("CREATE TABLE \"tenant_t-1\".late (id bigint PRIMARY KEY)").await.unwrap();
    ground.pool.stop_capture(&a.agent, &again).await.unwrap();
    assert_eq!(refused(ground.pool.drop_import(&b.agent, &again).await), "SCHEMA_IN_USE");
    assert!(has_schema(&b).await);
    admin.batch_execute("DROP TABLE \"tenant_t-1\".late").await.unwrap();
    ground.pool.drop_import(&b.agent, &again).await.unwrap();
    nothing_left(&b).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_that_dies_while_a_schema_is_copied_goes_on_where_it_was() {
    let ground = Ground::new();
    let (a, b) = pair(&ground, In::Own, In::Own).await;
    let step = context(1, 1);
    ground.capture(&a, &step).await;
    ground.pool.prepare_import(&b.agent, &step, &a.id, &a.agent).await.unwrap();
    let (url, at) = (b.url.clone(), b.kill());
    let b = ground.reopen_own("b", &url, &at).await;
    ground.progress(&b, &step, |progress| progress.backfilled).await;
    change(&a).await;
    let (url, at) = (a.url.clone(), a.kill());
    let a = ground.reopen_own("a", &url, &at).await;
    change(&a).await;
    ground.verify(&a, &b, &step).await;
    alike(&a, &b).await;
    ground.pool.drop_import(&b.agent, &step).await.unwrap();
    assert!(!has_schema(&b).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tenants_own_sequences_go_on_where_they_were() {
    let ground = Ground::new();
    let (a, b) = pair(&ground, In::Own, In::Own).await;
    let set = "SELECT setval('accounts_id_seq', 5000); CREATE SEQUENCE \"tenant_t-1\".loose INCREMENT BY 5;
               CREATE SEQUENCE \"tenant_t-1\".untouched; ALTER SEQUENCE \"tenant_t-1\".loose RESTART WITH 701";
    a.session().await.batch_execute(set).await.unwrap();
    let template =
        "CREATE SEQUENCE cellway_template.loose INCREMENT BY 5; CREATE SEQUENCE cellway_template.untouched";
    b.session().await.batch_execute(template).await.unwrap();
    forth(&ground, &a, &b).await;
    ground.seal(&a, &b, &context(1, 1)).await;
    let next = async |sequence: &str| -> i64 {
        let sql = format!("SELECT nextval('{sequence}')");
        b.session().await.query_one(&sql, &[]).await.unwrap().get(0)
    };
    assert_eq!(next("accounts_id_seq").await, 5_001);
    assert_eq!(next("entries_n_seq").await, 401);
    assert_eq!(next("loose").await, 701, "set, and not drawn from since");
    assert_eq!(next("untouched").await, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tables_that_differ_by_more_than_whose_a_row_is_end_the_move_before_a_row_is_copied() {
    let ground = Ground::new();
    let (a, b) = pair(&ground, In::Shared, In::Own).await;
    session(&b.url)
        .await
        .batch_execute("ALTER TABLE cellway_template.settings ADD COLUMN more text")
        .await
        .unwrap();
    let looked =
        async |cell: &Cell, as_target| ground.pool.preflight(&cell.agent, &context(1, 1), as_target).await.unwrap();
    let (source, target) = (looked(&a, false).await, looked(&b, true).await);
    assert!(source.findings.is_empty() && target.findings.is_empty(), "{source:?} {target:?}");
    let found = source.unlike(&target).unwrap();
    assert!(found.code == "SCHEMA_DIFFERS" && found.reason.contains("settings"), "{found:?}");
    let step = context(1, 1);
    ground.capture(&a, &step).await;
    ground.pool.prepare_import(&b.agent, &step, &a.id, &a.agent).await.unwrap();
    let failure = ground.failure(&b, &step).await;
    assert!(failure.starts_with("SCHEMA_DIFFERS") && failure.contains("settings"), "{failure}");
}
