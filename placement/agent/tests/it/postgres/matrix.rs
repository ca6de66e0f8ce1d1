//! A whole move of which one part dies at every edge: behind the effect of each step, whose answer nobody hears, which is before
//! that of the next one. The next leader says the step again, and goes on. Whoever writes meanwhile loses nothing.
//!
//! ```text
//!                    source's agent    target's agent    source's server    target's server     each with the leader
//! each step of a move      ×                 ×                 ×                  ×
//! ```
//! A server may also stand still, before each effect and behind it: its connections stay, and nothing comes through them.

use std::time::Duration;

use cell_client::{AgentPool, StepContext, StepError};
use cell_model::{Attempt, Epoch, Seq, Term};

use super::each::{home_on, own};
use super::ground::*;
use super::layouts::{In, ONE, ONE_EACH, TABLES, fill, nothing_left};
use super::server::Own;

/// How long a server hangs.
const FREEZE: Duration = Duration::from_millis(60);
/// Rows that are there before.
const ROWS: i32 = 200;

/// Who dies at every edge.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Victim {
    Agent(usize),
    Server(usize),
    /// Nothing dies: the server of this cell hangs for a while, twice at each edge.
    Frozen(usize),
}

/// One move. The first cell is the source.
struct Move {
    ground: Ground,
    layout: In,
    cells: [Option<Cell>; 2],
    victim: Victim,
    step: StepContext,
    /// Which cell's clients are answered.
    owner: usize,
    written: usize,
    // They go last.
    servers: [Option<Own>; 2],
}

/// Nothing, or that it is not as far yet.
type Said<T> = Result<Option<T>, StepError>;

impl Move {
    /// With servers of their own where one of them dies.
    async fn new(layout: In, victim: Victim) -> Self {
        let ground = Ground::new();
        let (mut cells, mut servers) = ([None, None], [None, None]);
        for (place, id) in ["a", "b"].into_iter().enumerate() {
            let has_own = [Victim::Server(place), Victim::Frozen(place)].contains(&victim);
            let server = if has_own { Some(Own::start("").await) } else { None };
            let url = match (layout, &server) {
                (In::Each, Some(server)) => home_on(server, ONE).await,
                (In::Each, None) => super::each::home(ONE).await,
                (_, Some(server)) => server.database().await,
                (_, None) => database().await,
            };
            let tables = match layout {
                In::Shared => format!("{} {ONE_EACH}", super::ground::TABLES),
                In::Own => format!("{TEMPLATE} {ONE}"),
                In::Each => String::new(),
            };
            session(&url).await.batch_execute(&tables).await.unwrap();
            cells[place] = Some(open(&ground, layout, id, &url, "127.0.0.1:0").await);
            servers[place] = server;
        }
        let step = context(1, 1);
        Self { ground, layout, cells, victim, step, owner: 0, written: 0, servers }
    }

    fn cells(&self) -> [&Cell; 2] {
        self.cells.each_ref().map(|cell| cell.as_ref().unwrap())
    }

    /// The victim dies, and is there again; and so is another leader.
    async fn fails(&mut self) {
        match self.victim {
            Victim::Agent(place) => {
                let cell = self.cells[place].take().unwrap();
                let (id, url) = (cell.id.clone(), cell.url.clone());
                let listen = cell.kill();
                self.cells[place] = Some(open(&self.ground, self.layout, id.as_str(), &url, &listen).await);
            }
            Victim::Server(place) => self.servers[place].as_ref().unwrap().crash().await,
            Victim::Frozen(_) => self.hangs().await,
        }
        self.step.term = Term(self.step.term.0 + 1);
    }

    /// A server that may hang does so now, whatever is asked of it.
    async fn hangs(&self) {
        if let Victim::Frozen(place) = self.victim {
            self.servers[place].as_ref().unwrap().freeze(FREEZE).await;
        }
    }

    /// Somebody with psql writes where the tenant is served.
    async fn write(&mut self) {
        let cell = self.cells()[self.owner];
        let (whose, of) = if cell.own { ("", "") } else { ("tenant_id, ", "'t-1', ") };
        let number = self.written;
        let sql = format!(
            "INSERT INTO accounts ({whose}name) VALUES ({of}'edge {number}'); \
             UPDATE accounts SET name = name || ', then' WHERE name = 'edge {}'",
            number.wrapping_sub(1)
        );
        cell.session().await.batch_execute(&sql).await.unwrap();
        self.written += 1;
    }

    /// Says a step until it is done, as a leader does.
    async fn say<T>(&self, what: &str, say: &impl AsyncFn(&AgentPool, [&Cell; 2], &StepContext) -> Said<T>) -> T {
        let mut last = None;
        let done = async {
            loop {
                match say(&self.ground.pool, self.cells(), &self.step).await {
                    Ok(Some(done)) => return done,
                    Ok(None) => {}
                    Err(error) => last = Some(error),
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        match tokio::time::timeout(PATIENCE, done).await {
            Ok(done) => done,
            Err(_) => panic!("{what} is not done in time, {:?} having died: {last:?}", self.victim),
        }
    }

    /// A step behind whose effect the victim dies.
    async fn edge<T>(
        &mut self,
        what: &str,
        say: impl AsyncFn(&AgentPool, [&Cell; 2], &StepContext) -> Said<T>,
    ) -> T {
        self.write().await;
        self.hangs().await;
        self.say(what, &say).await;
        self.fails().await;
        self.say(what, &say).await
    }

    /// Hold, seal, and the same rows in both cells; behind the first one the victim dies, and the fence may find the lock gone.
    async fn fence(&mut self) -> Seq {
        self.write().await;
        let (mut missed, mut has_died) = (Vec::new(), false);
        let fenced = async {
            loop {
                match self.try_to_fence(&mut has_died).await {
                    Ok(sealed) => return sealed,
                    Err(error) => missed.push(error.to_string()),
                }
                let _lapsed = self.ground.pool.release_hold(&self.cells()[0].agent, &self.step).await;
                self.step.attempt.0 += 1;
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let sealed = match tokio::time::timeout(2 * PATIENCE, fenced).await {
            Ok(sealed) => sealed,
            Err(_) => panic!("it is not fenced in time: {:?}", missed.last()),
        };
        self.fails().await;
        let again = async |pool: &AgentPool, cells: [&Cell; 2], step: &StepContext| {
            pool.fence(&cells[0].agent, step, sealed).await.map(Some)
        };
        assert_eq!(self.say("the fence", &again).await, sealed, "asked again, it answers the same");
        sealed
    }

    async fn try_to_fence(&mut self, has_died: &mut bool) -> Result<Seq, StepError> {
        let (pool, [a, b]) = (&self.ground.pool, self.cells());
        let sealed = pool.hold_writes(&a.agent, &self.step, HOLD).await?;
        pool.await_applied(&b.agent, &self.step, sealed, HOLD).await?;
        let source = pool.digest_at(&a.agent, &self.step, sealed, HOLD).await?;
        assert_eq!(pool.digest_at(&b.agent, &self.step, sealed, HOLD).await?, source);
        if !std::mem::replace(has_died, true) {
            self.fails().await;
        }
        let agent = &self.cells()[0].agent;
        match self.ground.pool.fence(agent, &self.step, sealed).await {
            Ok(sealed) => Ok(sealed),
            Err(refused @ StepError::Refused { .. }) => Err(refused),
            // Nobody knows: it is asked again under this attempt.
            Err(_) => self.ground.pool.fence(agent, &self.step, sealed).await,
        }
    }

    async fn forth(&mut self) {
        self.edge("the capture", async |pool, [a, _], step| pool.start_capture(&a.agent, step).await.map(Some))
            .await;
        self.edge("the import", async |pool, [a, b], step| {
            pool.prepare_import(&b.agent, step, &a.id, &a.agent).await.map(Some)
        })
        .await;
        self.edge("the copy", async |pool, [_, b], step| {
            let progress = pool.import_status(&b.agent, step).await?;
            assert!(progress.failure_code.is_empty(), "{progress:?}");
            Ok(progress.backfilled.then_some(()))
        })
        .await;
        self.edge("the comparison", async |pool, [a, b], step| {
            let (seq, ours) = pool.scan_digest(&a.agent, step, None).await?;
            let (_, theirs) = pool.scan_digest(&b.agent, step, Some(seq)).await?;
            assert_eq!(theirs, ours);
            Ok(Some(()))
        })
        .await;
        self.edge("sync", async |pool, [a, _], step| pool.engage_sync(&a.agent, step, true).await.map(Some)).await;
        self.edge("the way back", async |pool, [_, b], step| pool.prepare_reverse(&b.agent, step).await.map(Some))
            .await;
    }

    async fn over(&mut self) {
        self.step.epoch = Epoch(2);
        let mapping = self.ground.mapping(self.cells()[1], 2);
        let activate = async |pool: &AgentPool, [a, b]: [&Cell; 2], step: &StepContext| {
            pool.activate(&b.agent, step, Some((&a.id, a.agent.as_str()))).await.map(Some)
        };
        self.say("the activation", &activate).await;
        self.fails().await;
        self.say("the activation", &activate).await;
        self.owner = 1;
        self.edge("the mapping", async |pool, [a, b], step| {
            pool.deliver_mapping(&a.agent, step, &mapping, Some((&b.id, b.agent.as_str()))).await.map(Some)
        })
        .await;
        self.edge("the soak", async |pool, [a, _], step| {
            let progress = pool.import_status(&a.agent, step).await?;
            assert!(progress.failure_code.is_empty(), "{progress:?}");
            Ok((progress.applied > Seq(0) && progress.lag_ms < 500).then_some(()))
        })
        .await;
        self.step.attempt = Attempt(u32::MAX);
        self.edge("the tombstone", async |pool, [a, _], step| pool.retire(&a.agent, step).await.map(Some)).await;
        self.edge("the end of the capture", async |pool, [_, b], step| {
            pool.stop_capture(&b.agent, step).await.map(Some)
        })
        .await;
        self.edge("the end of the old copy", async |pool, [a, _], step| {
            pool.reclaim(&a.agent, step, Epoch(1)).await.map(Some)
        })
        .await;
    }
}

pub(super) async fn open(ground: &Ground, layout: In, id: &str, url: &str, listen: &str) -> Cell {
    match layout {
        In::Each => ground.open_with(id, url, listen, own(url)).await,
        In::Own => return ground.reopen_own(id, url, listen).await,
        In::Shared => ground.try_open(id, url, listen).await,
    }
    .unwrap()
}

async fn dies_at_every_edge(layout: In, victim: Victim) {
    let mut tenants = Move::new(layout, victim).await;
    let [a, _] = tenants.cells();
    tenants.ground.pool.grant(&a.agent, &outside(1)).await.unwrap();
    fill(a, ROWS).await;
    tenants.forth().await;
    tenants.fence().await;
    tenants.over().await;
    let [a, b] = tenants.cells();
    nothing_left(a).await;
    let sql = "SELECT name FROM accounts WHERE name LIKE 'edge %' ORDER BY id";
    let found = b.session().await.query(sql, &[]).await.unwrap();
    let found: Vec<String> = found.iter().map(|row| row.get(0)).collect();
    let then = |number: usize| if number + 1 < tenants.written { ", then" } else { "" };
    let written: Vec<String> =
        (0..tenants.written).map(|number| format!("edge {number}{}", then(number))).collect();
    assert_eq!(found, written, "each once, and as it was last");
    let filled = usize::try_from(ROWS).unwrap();
    let rows = [filled + written.len(), filled, 50, 1];
    for (table, rows) in TABLES.into_iter().zip(rows) {
        assert_eq!(b.contents(table).await.len(), rows, "{table}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn shared_tables_and_a_source_agent_that_dies_at_every_edge_of_a_move() {
    dies_at_every_edge(In::Shared, Victim::Agent(0)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn shared_tables_and_a_target_agent_that_dies_at_every_edge_of_a_move() {
    dies_at_every_edge(In::Shared, Victim::Agent(1)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn shared_tables_and_a_source_server_that_crashes_at_every_edge_of_a_move() {
    dies_at_every_edge(In::Shared, Victim::Server(0)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn shared_tables_and_a_target_server_that_crashes_at_every_edge_of_a_move() {
    dies_at_every_edge(In::Shared, Victim::Server(1)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_each_and_a_source_agent_that_dies_at_every_edge_of_a_move() {
    dies_at_every_edge(In::Each, Victim::Agent(0)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_each_and_a_target_agent_that_dies_at_every_edge_of_a_move() {
    dies_at_every_edge(In::Each, Victim::Agent(1)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_each_and_a_source_server_that_crashes_at_every_edge_of_a_move() {
    dies_at_every_edge(In::Each, Victim::Server(0)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_each_and_a_target_server_that_crashes_at_every_edge_of_a_move() {
    dies_at_every_edge(In::Each, Victim::Server(1)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_schema_each_and_a_source_agent_that_dies_at_every_edge_of_a_move() {
    dies_at_every_edge(In::Own, Victim::Agent(0)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_schema_each_and_a_target_server_that_crashes_at_every_edge_of_a_move() {
    dies_at_every_edge(In::Own, Victim::Server(1)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn shared_tables_and_a_source_server_that_hangs_at_every_edge_of_a_move() {
    dies_at_every_edge(In::Shared, Victim::Frozen(0)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_each_and_a_target_server_that_hangs_at_every_edge_of_a_move() {
    dies_at_every_edge(In::Each, Victim::Frozen(1)).await;
}
