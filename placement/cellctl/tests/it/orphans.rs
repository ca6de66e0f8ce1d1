//! Moves that are called off, one after the other, at whatever edge they happen to be: nothing of them is left.

use std::time::{Duration, Instant};

use cell_client::{ClientError, ClientOptions, ControlClient, WriteOptions};
use cell_model::{CellId, MoveId, MoveIntent, MoveOptions, Phase, TenantId};

use crate::moves::Fleet;
use crate::server;

const ABORTS: u64 = 30;
/// I15 allows a minute; a test that took as long would say that something is wrong.
const GONE_WITHIN: Duration = Duration::from_secs(20);

async fn ended(control: &ControlClient, id: MoveId) -> String {
    let deadline = Instant::now() + GONE_WITHIN;
    loop {
        let end = control.get_move(id).await.unwrap().end;
        if !end.is_empty() {
            return end;
        }
        assert!(Instant::now() < deadline, "{id} does not end");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Calls a move off once it has been somewhere, and a little later still: the edges are met from both sides.
async fn call_off(control: &ControlClient, tenant: &TenantId, target: &CellId, round: u64) -> String {
    let wanted = [Phase::Preflight, Phase::Prepare, Phase::Backfill, Phase::CatchUp, Phase::Verify, Phase::Sync];
    let stops = wanted[usize::try_from(round).unwrap() % wanted.len()];
    let options = MoveOptions {
        // Each third one is let run into whatever comes; each tenth is a rehearsal, which ends behind the fence.
        until: (!round.is_multiple_of(3)).then_some(stops),
        rehearse: round % 10 == 9,
        sync_steady_ms: 1_000,
        ..MoveOptions::default()
    };
    let asked = control.move_tenant(tenant, target, options, WriteOptions::default()).await;
    let (id, _) = asked.unwrap();
    tokio::time::sleep(Duration::from_millis(round * 37 % 300)).await;
    match control.steer_move(id, MoveIntent::Cancel, WriteOptions::default()).await {
        Ok(_) => {}
        // A rehearsal may have turned back by itself.
        Err(ClientError::Rejected { code, .. }) if code == "MOVE_ENDING" => {}
        Err(error) => panic!("{error}"),
    }
    ended(control, id).await
}

/// Whatever a move can leave in a database, by name.
async fn left(url: &str, is_owner: bool) -> Vec<String> {
    let client = server::session(url).await;
    let mut found = Vec::new();
    let sql = "SELECT 'slot ' || slot_name FROM pg_replication_slots WHERE database = current_database() \
               UNION ALL SELECT 'made ' || kind || ' ' || name FROM cellway.made \
               UNION ALL SELECT 'lock of ' || pid FROM pg_locks WHERE locktype = 'advisory' AND objsubid = 1 \
                 AND database = (SELECT oid FROM pg_database WHERE datname = current_database()) \
                 AND objid = (cellway.lock_key('acme') & 4294967295)::oid";
    found.extend(client.query(sql, &[]).await.unwrap().iter().map(|row| row.get::<_, String>(0)));
    if !is_owner {
        let sql = "SELECT 'row of documents' FROM documents WHERE tenant_id = 'acme' \
                   UNION ALL SELECT 'copy of ' || tenant FROM cellway.copies";
        found.extend(client.query(sql, &[]).await.unwrap().iter().map(|row| row.get::<_, String>(0)));
    }
    found
}

#[test]
fn thirty_moves_that_are_called_off_leave_nothing_in_either_database() {
    let starting = tokio::runtime::Runtime::new().unwrap();
    let databases = starting.block_on(async { [server::database().await, server::database().await] });
    let fleet = Fleet::start(Some(databases.clone()));
    let control = ControlClient::new(vec![fleet.control.address.clone()], ClientOptions::default());
    let (tenant, target) = (TenantId::new("acme").unwrap(), CellId::new("c2").unwrap());
    fleet.runtime.block_on(async {
        let source = server::session(&databases[0]).await;
        let fill =
            "INSERT INTO documents SELECT 'acme', 'd' || i, 1, repeat('x', 500) FROM generate_series(1, 3000) i";
        source.batch_execute(fill).await.unwrap();
        let mut ends = std::collections::BTreeMap::new();
        for round in 0..ABORTS {
            *ends.entry(call_off(&control, &tenant, &target, round).await).or_insert(0) += 1;
        }
        assert!(ends.keys().all(|end| ["cancelled", "rehearsed"].contains(&end.as_str())), "{ends:?}");
        assert!(ends["cancelled"] > 20, "{ends:?}");
        let deadline = Instant::now() + GONE_WITHIN;
        loop {
            let found = [left(&databases[0], true).await, left(&databases[1], false).await];
            if found.iter().all(Vec::is_empty) {
                break;
            }
            assert!(Instant::now() < deadline, "left behind: {found:?}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let rows = "SELECT count(*) FROM documents WHERE tenant_id = 'acme'";
        assert_eq!(source.query_one(rows, &[]).await.unwrap().get::<_, i64>(0), 3_000, "the tenant kept its rows");
    });
    assert_eq!(fleet.describe("tenant acme")["cell"], "c1");
}
