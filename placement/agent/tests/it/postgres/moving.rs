//! A whole move under writers, forth and back.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use cell_agent::{Committed, TenantDatabase};
use cell_model::Leg;

use super::ground::*;

/// Writers that go to whichever cell owns, as routers would send them, and remember what was acknowledged.
pub(super) struct Writers {
    stop: Arc<AtomicBool>,
    owner: Arc<AtomicU64>,
    acknowledged: Arc<AtomicU64>,
    tasks: Vec<tokio::task::JoinHandle<BTreeMap<String, i64>>>,
}

async fn one_write(
    client: &tokio_postgres::Client,
    (data, own): (&TenantDatabase, bool),
    (key, value): (&str, i64),
    epoch: u64,
) -> bool {
    if enter(client, epoch).await.is_err() {
        client.batch_execute("ROLLBACK").await.unwrap();
        return false;
    }
    let (set, add) = if own {
        (
            "INSERT INTO \"Odd \"\" name\" VALUES ($1, $2) \
             ON CONFLICT (\"the key\") DO UPDATE SET value = excluded.value",
            "INSERT INTO accounts (name) VALUES ('w')",
        )
    } else {
        (
            "INSERT INTO \"Odd \"\" name\" VALUES ($1, 't-1', $2) \
             ON CONFLICT (tenant_id, \"the key\") DO UPDATE SET value = excluded.value",
            "INSERT INTO accounts (tenant_id, name) VALUES ('t-1', 'w')",
        )
    };
    client.execute(set, &[&key, &value.to_string()]).await.unwrap();
    client.batch_execute(add).await.unwrap();
    client.batch_execute("COMMIT").await.unwrap();
    is_confirmed(data, epoch).await;
    true
}

/// A machine that has much else to do may take longer than a request waits. Then the outcome is not known, and is asked for again:
/// what was committed is confirmed in the end.
async fn is_confirmed(data: &TenantDatabase, epoch: u64) {
    let confirmed = async {
        while data.committed(&stamp(epoch)).await == Committed::Unknown {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, confirmed).await.expect("what was committed is confirmed");
}

impl Writers {
    /// Epochs 1 and 3 are served by the first cell, epoch 2 by the second.
    pub(super) async fn start(cells: [&Cell; 2], count: u64) -> Self {
        let (stop, owner, acknowledged) = <(Arc<AtomicBool>, Arc<AtomicU64>, Arc<AtomicU64>)>::default();
        owner.store(1, Ordering::SeqCst);
        let mut tasks = Vec::new();
        for number in 0..count {
            // A database of the tenant's own may not be there yet.
            let (doors, mut clients) = (cells.map(Cell::door), [None, None]);
            let data = cells.map(|cell| (cell.data.clone(), cell.own));
            let (stop, owner, acknowledged) = (stop.clone(), owner.clone(), acknowledged.clone());
            tasks.push(tokio::spawn(async move {
                let (mut done, mut turn) = (BTreeMap::new(), 0_i64);
                while !stop.load(Ordering::SeqCst) {
                    let epoch = owner.load(Ordering::SeqCst);
                    let cell = usize::from(epoch == 2);
                    let key = format!("w{number}-{}", turn % 10);
                    if clients[cell].is_none() {
                        clients[cell] = Some(doors[cell].open().await);
                    }
                    let client = clients[cell].as_ref().unwrap();
                    if one_write(client, (&data[cell].0, data[cell].1), (&key, turn), epoch).await {
                        done.insert(key, turn);
                        acknowledged.fetch_add(1, Ordering::SeqCst);
                        turn += 1;
                    } else {
                        tokio::time::sleep(Duration::from_millis(2)).await;
                    }
                }
                done
            }));
        }
        Self { stop, owner, acknowledged, tasks }
    }

    async fn advance(&self, more: u64) {
        let wanted = self.acknowledged.load(Ordering::SeqCst) + more;
        let advanced = async {
            while self.acknowledged.load(Ordering::SeqCst) < wanted {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        tokio::time::timeout(PATIENCE, advanced).await.expect("writers go on");
    }

    /// What was acknowledged last of each key, and how many writes there were.
    async fn end(self) -> (BTreeMap<String, i64>, u64) {
        self.stop.store(true, Ordering::SeqCst);
        let mut all = BTreeMap::new();
        for task in self.tasks {
            all.extend(task.await.unwrap());
        }
        (all, self.acknowledged.load(Ordering::SeqCst))
    }
}

impl Ground {
    /// Has the way back made, as a coordinator does: a new slot waits for every transaction of the server that is open, also for those of
    /// other tests.
    pub(super) async fn reverse(&self, agent: &str, step: &cell_client::StepContext) {
        let made = async {
            while let Err(error) = self.pool.prepare_reverse(agent, step).await {
                assert_eq!(refused::<()>(Err(error)), "BUSY");
            }
        };
        tokio::time::timeout(PATIENCE, made).await.expect("in time");
    }
}

pub(super) async fn forth(ground: &Ground, a: &Cell, b: &Cell) {
    let step = context(1, 1);
    ground.copy(a, b, &step).await;
    ground.verify(a, b, &step).await;
    ground.pool.engage_sync(&a.agent, &step, true).await.unwrap();
    ground.reverse(&b.agent, &step).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tenant_moves_forth_and_back_under_writers_and_nothing_acknowledged_is_lost() {
    let ground = Ground::new();
    let (a, b) = ground.pair().await;
    accounts(&a.session().await, 500).await;
    forth_and_back_under_writers(&ground, &a, &b).await;
}

/// And every write that was acknowledged is there once, with its last value.
pub(super) async fn forth_and_back_under_writers(ground: &Ground, a: &Cell, b: &Cell) {
    let writers = Writers::start([a, b], 4).await;
    writers.advance(20).await;
    forth(ground, a, b).await;
    writers.advance(20).await;
    ground.cut_over(a, b, 1, 1, Leg::Forward).await;
    writers.owner.store(2, Ordering::SeqCst);
    writers.advance(50).await;
    // The old owner follows the new one, and the way back is the same cutover mirrored: in attempts behind those of the way here.
    let follower = cell_client::StepContext { leg: Some(Leg::Forward), ..context(2, 50) };
    ground.progress(a, &follower, |progress| progress.applied.get() > 0 && progress.lag_ms < 500).await;
    ground.cut_over(b, a, 2, 51, Leg::Back).await;
    writers.owner.store(3, Ordering::SeqCst);
    writers.advance(20).await;
    let (acknowledged, count) = writers.end().await;
    let client = a.session().await;
    let rows = client
        .query("SELECT \"the key\", value FROM \"Odd \"\" name\" WHERE \"the key\" LIKE 'w%'", &[])
        .await
        .unwrap();
    let found: BTreeMap<String, i64> =
        rows.iter().map(|row| (row.get(0), row.get::<_, String>(1).parse().unwrap())).collect();
    assert_eq!(found, acknowledged);
    let appended = "SELECT count(*) FROM accounts WHERE name = 'w'";
    let appended: i64 = client.query_one(appended, &[]).await.unwrap().get(0);
    assert_eq!(appended.cast_unsigned(), count, "each write once");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sequences_are_ahead_of_whatever_the_source_has_handed_out() {
    let ground = Ground::new();
    let (a, b) = ground.pair().await;
    let client = a.session().await;
    account(&client, "one").await.unwrap();
    client.batch_execute("SELECT setval('accounts_id_seq', 5000)").await.unwrap();
    account(&client, "two").await.unwrap();
    forth(&ground, &a, &b).await;
    let step = context(1, 1);
    ground.seal(&a, &b, &step).await;
    // Handed out during the hold, and used by nobody.
    client.batch_execute("SELECT nextval('accounts_id_seq')").await.unwrap();
    let at_b = b.session().await;
    let next: i64 = at_b.query_one("SELECT nextval('accounts_id_seq')", &[]).await.unwrap().get(0);
    assert!(next > 5_002, "{next}");
    let untouched: i64 = at_b.query_one("SELECT nextval('entries_n_seq')", &[]).await.unwrap().get(0);
    assert_eq!(untouched, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_move_that_is_called_off_leaves_nothing_behind() {
    let ground = Ground::new();
    let (a, b) = ground.pair().await;
    accounts(&a.session().await, 100).await;
    let before = a.rows().await;
    forth(&ground, &a, &b).await;
    assert!(a.slots().await > 0 && b.slots().await > 0);
    let step = context(1, 1);
    ground.pool.stop_capture(&a.agent, &step).await.unwrap();
    ground.pool.drop_import(&b.agent, &step).await.unwrap();
    for cell in [&a, &b] {
        let none = "SELECT NOT EXISTS (SELECT 1 FROM pg_replication_slots WHERE database = current_database()) \
                    AND NOT EXISTS (SELECT 1 FROM cellway.made)";
        until_true(&cell.session().await, none).await;
    }
    assert_eq!(a.rows().await, before);
    assert!(b.rows().await.values().all(Vec::is_empty));
    // And a later move finds nothing in its way.
    let next = cell_client::StepContext { move_id: Some(cell_model::MoveId(21)), ..context(1, 1) };
    ground.copy(&a, &b, &next).await;
    ground.verify(&a, &b, &next).await;
    assert_eq!(b.rows().await, before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reclaimed_copy_is_deleted_only_behind_its_tombstone() {
    let ground = Ground::new();
    let (a, b) = ground.pair().await;
    accounts(&a.session().await, 1_200).await;
    forth(&ground, &a, &b).await;
    ground.cut_over(&a, &b, 1, 1, Leg::Forward).await;
    let ended = cell_client::StepContext { attempt: cell_model::Attempt(u32::MAX), ..context(2, 1) };
    assert_eq!(refused(ground.pool.reclaim(&b.agent, &ended, cell_model::Epoch(1)).await), "OWNS");
    assert_eq!(refused(ground.pool.reclaim(&a.agent, &ended, cell_model::Epoch(1)).await), "BUSY");
    ground.pool.retire(&a.agent, &ended).await.unwrap();
    ground.pool.stop_capture(&b.agent, &ended).await.unwrap();
    ground.pool.reclaim(&a.agent, &ended, cell_model::Epoch(1)).await.unwrap();
    assert!(a.rows().await.values().all(Vec::is_empty));
    assert_eq!(b.rows().await["accounts"].len(), 1_200);
    assert_eq!(code(&account(&a.session().await, "late").await.unwrap_err()), "NOT_OWNER");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_slot_serves_many_moves_at_once() {
    let ground = Ground::new();
    let (a, b) = ground.pair().await;
    let mut steps = vec![context(1, 1)];
    for number in 1..6_u64 {
        let id = cell_model::TenantId::new(format!("many-{number}")).unwrap();
        let own = cell_client::StepContext { tenant: id.clone(), ..outside(1) };
        ground.pool.grant(&a.agent, &own).await.unwrap();
        steps.push(cell_client::StepContext {
            tenant: id,
            move_id: Some(cell_model::MoveId(30 + number)),
            ..context(1, 1)
        });
    }
    let client = a.session().await;
    for step in &steps {
        let sql = "INSERT INTO accounts (tenant_id, name) SELECT $1, 'n' || i FROM generate_series(1, 300) i";
        client.execute(sql, &[&step.tenant.as_str()]).await.unwrap();
    }
    for step in &steps {
        ground.capture(&a, step).await;
        ground.pool.prepare_import(&b.agent, step, &a.id, &a.agent).await.unwrap();
    }
    client.batch_execute("UPDATE accounts SET name = name || '!' WHERE id % 3 = 0").await.unwrap();
    for step in &steps {
        ground.progress(&b, step, |progress| progress.backfilled).await;
        ground.verify(&a, &b, step).await;
        assert_eq!(b.rows_of(step.tenant.as_str()).await, a.rows_of(step.tenant.as_str()).await);
    }
    assert_eq!(a.slots().await, 2, "one slot, and its record");
}
