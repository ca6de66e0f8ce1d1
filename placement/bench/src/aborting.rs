//! Moves that are called off at any moment, under load; and then, whether anything of them is left.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use cell_client::{ListOptions, WriteOptions, wire};
use cell_figures::{Figure, Figures};
use cell_model::{CellId, MoveIntent, MoveOptions, TenantId};
use tokio_postgres::Client;

use crate::Abort;
use crate::clients::Clients;
use crate::figures::say;
use crate::fleet::Fleet;
use crate::holding::judged;
use crate::load::session;

/// Tenants that are moved and called back at once. Clients write to each.
const TENANTS: u32 = 4;
const CLIENTS: u32 = 3;
/// Documents of each, besides those of its clients.
const DOCUMENTS: u32 = 500;
/// No move is let go on for longer than this before it is called off; many are over by then.
const LONGEST_MS: u64 = 400;
/// What a move has made is gone within this time.
const GONE_WITHIN: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(50);

/// splitmix64: the same moments for the same seed.
struct Moments(u64);

impl Moments {
    fn next(&mut self) -> Duration {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        Duration::from_millis((mixed ^ (mixed >> 31)) % LONGEST_MS)
    }
}

/// How moves have ended.
#[derive(Debug, Default)]
struct Ends {
    aborted: u32,
    /// Called off too late: the tenant was over there already.
    others: u32,
}

pub(crate) async fn run(fleet: &Fleet, wanted: &Abort, figures: &mut Figures) -> Result<()> {
    say(&format!("abort: {} moves of {TENANTS} tenants are called off, seed {}", wanted.aborts, wanted.seed));
    let (mut tenants, mut clients) = (Vec::new(), Vec::new());
    for number in 1..=TENANTS {
        let name = format!("back-{number}");
        tenants.push(fleet.tenant(&name).await?);
        let mut its = Clients::of(fleet.router, &name).await?;
        its.fill(DOCUMENTS).await?;
        its.start(CLIENTS);
        clients.push(its);
    }
    let each = wanted.aborts.div_ceil(TENANTS);
    let driving = tenants.iter().zip(0..).map(|(tenant, place)| {
        let moments = Moments(wanted.seed.wrapping_add(place));
        call_off(fleet, tenant, each, moments)
    });
    let ended = futures::future::try_join_all(driving).await?;
    let quiet = Instant::now();
    let (aborted, others) = ended.iter().fold((0, 0), |sum, ends| (sum.0 + ends.aborted, sum.1 + ends.others));
    let left = left_in_the_end(fleet, &tenants).await?;
    let gone = quiet.elapsed();
    for what in left.iter().take(10) {
        say(&format!("  left: {what}"));
    }
    let wanted = f64::from(wanted.aborts);
    figures.add(Figure::at_least(
        "moves that were called off before their cutover",
        "",
        f64::from(aborted),
        Some(wanted),
    ));
    figures.add(Figure::at_most(
        "moves that were called off too late, and have ended otherwise",
        "",
        f64::from(others),
        None,
        None,
    ));
    let orphans = f64::from(u32::try_from(left.len()).unwrap_or(u32::MAX));
    figures.add(Figure::at_most(format!("orphans after {aborted} aborts"), "", orphans, Some(0.0), None));
    let limit = Some(GONE_WITHIN.as_secs_f64());
    figures.add(Figure::at_most(
        "after the last one, until nothing was left",
        "s",
        gone.as_secs_f64(),
        limit,
        None,
    ));
    for (tenant, its) in tenants.iter().zip(clients) {
        let seen = its.end(&fleet.database_of(tenant).await?).await?;
        judged(&seen, &format!("{each} aborts of {tenant}"), DOCUMENTS + each, figures);
    }
    Ok(())
}

/// Moves a tenant, and calls each move off at some moment, until so many were.
async fn call_off(fleet: &Fleet, tenant: &TenantId, aborts: u32, mut moments: Moments) -> Result<Ends> {
    let mut ends = Ends::default();
    while ends.aborted < aborts {
        let target = fleet.elsewhere(tenant).await?;
        let options = MoveOptions { sync_steady_ms: 100, soak_ms: 0, retain_ms: 0, ..MoveOptions::default() };
        let id = match fleet.control.move_tenant(tenant, &target, options, WriteOptions::default()).await {
            Ok((id, _)) => id,
            // What the move before has left is still being taken away.
            Err(error) if ["MOVE_RUNNING", "COPY_RETAINED"].contains(&error.code()) => {
                tokio::time::sleep(POLL).await;
                continue;
            }
            Err(error) => return Err(error.into()),
        };
        tokio::time::sleep(moments.next()).await;
        let called_off = fleet.control.steer_move(id, MoveIntent::Cancel, WriteOptions::default()).await;
        let ended = fleet.wait(id, |movement| !movement.end.is_empty()).await?;
        match (ended.end.as_str(), ended.end_code.as_str()) {
            ("cancelled", _) => ends.aborted += 1,
            ("completed", _) => ends.others += 1,
            // The move before has completed after all, and its old copy was not deleted yet.
            ("aborted", "COPY_PRESENT") => {}
            (end, code) => bail!("{id} of {tenant} is {end}: {code} {} ({called_off:?})", ended.end_reason),
        }
    }
    say(&format!("  {tenant}: {} called off, {} too late", ends.aborted, ends.others));
    Ok(ends)
}

/// What is there that no move needs, after as much time as there is to take it away.
async fn left_in_the_end(fleet: &Fleet, tenants: &[TenantId]) -> Result<Vec<String>> {
    let clients = [session(&fleet.servers[0].url()).await?, session(&fleet.servers[1].url()).await?];
    let deadline = Instant::now() + GONE_WITHIN;
    loop {
        let mut left = Vec::new();
        for movement in fleet.control.list_moves(ListOptions::default()).await?.items {
            if movement.end.is_empty() {
                left.push(format!("{} is in {}", movement.id, phase(&movement)));
            }
        }
        for (client, cell) in clients.iter().zip(&fleet.cells) {
            left.extend(left_in(client, cell).await?);
            for tenant in tenants {
                if fleet.elsewhere(tenant).await? == *cell {
                    left.extend(left_of(client, cell, tenant).await?);
                }
            }
        }
        if left.is_empty() || Instant::now() > deadline {
            return Ok(left);
        }
        tokio::time::sleep(POLL).await;
    }
}

fn phase(movement: &wire::Move) -> &'static str {
    wire::Phase::try_from(movement.phase).map_or("?", |phase| phase.as_str_name())
}

/// Whatever moves make for themselves.
async fn left_in(client: &Client, cell: &CellId) -> Result<Vec<String>> {
    const LOOK: &str = "
SELECT 'slot ' || slot_name FROM pg_replication_slots
UNION ALL SELECT 'record of ' || kind || ' ' || name FROM cellway.made
UNION ALL SELECT 'reader of the log ' || pid FROM pg_stat_replication
UNION ALL SELECT 'transaction of ' || application_name || ': ' || query FROM pg_stat_activity
           WHERE state LIKE 'idle in transaction%' AND application_name LIKE 'cellway%'
             AND state_change < now() - interval '1 second'
UNION ALL SELECT 'lock of the agent on a tenant, mode ' || mode FROM pg_locks l JOIN pg_stat_activity a USING (pid)
           WHERE l.locktype = 'advisory' AND a.application_name LIKE 'cellway%' AND l.mode = 'ExclusiveLock'
             AND (l.classid, l.objid) <> ((x'63656c'::int)::oid, (x'6c616774'::int)::oid)";
    let rows = client.query(LOOK, &[]).await?;
    Ok(rows.iter().map(|row| format!("{} in {cell}", row.get::<_, String>(0))).collect())
}

/// Rows of a tenant where it does not live, and what the cell remembers of a copy.
async fn left_of(client: &Client, cell: &CellId, tenant: &TenantId) -> Result<Vec<String>> {
    let mut left = Vec::new();
    for table in ["documents", "counters", "answers", "tallies"] {
        let sql = format!("SELECT count(*) FROM {table} WHERE tenant_id = $1");
        let rows: i64 = client.query_one(&sql, &[&tenant.as_str()]).await?.get(0);
        if rows > 0 {
            left.push(format!("{rows} rows of {tenant} in {table} of {cell}"));
        }
    }
    let sql = "SELECT count(*) FROM cellway.copies WHERE tenant = $1";
    if client.query_one(sql, &[&tenant.as_str()]).await?.get::<_, i64>(0) > 0 {
        left.push(format!("the frontier of a copy of {tenant} in {cell}"));
    }
    Ok(left)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_calls_off_at_the_same_moments_and_they_lie_everywhere() {
        let moments = |seed| {
            let mut moments = Moments(seed);
            (0..1_000).map(|_| moments.next()).collect::<Vec<_>>()
        };
        assert_eq!(moments(7), moments(7));
        assert_ne!(moments(7), moments(8));
        for tenth in 0..10_u32 {
            let (from, to) = (u64::from(tenth) * LONGEST_MS / 10, u64::from(tenth + 1) * LONGEST_MS / 10);
            let within = Duration::from_millis(from)..Duration::from_millis(to);
            let found = moments(7).iter().filter(|moment| within.contains(*moment)).count();
            assert!((50..200).contains(&found), "{found} between {from} and {to} ms");
        }
    }
}
