//! Moves in which nobody hears that an effect was done: each of its transactions is committed, and the connection is lost before the agent
//! knows. The coordinator asks again, and the next leader once more. Both are told the same, and the move ends as if nothing had been.

use std::collections::BTreeSet;

use cell_client::{AgentPool, StepContext, StepError};
use cell_model::{Attempt, Epoch, MoveId, Term};

use super::answers::Answers;
use super::each::home;
use super::ground::*;
use super::layouts::{In, ONE, ONE_EACH, TABLES, epoch_of, fill, nothing_left};
use super::matrix::open;

/// Rows that are there before.
const ROWS: i32 = 100;

/// Which effect it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Effect {
    Grant,
    PrepareImport,
    EngageSync,
    Unfence,
    DeliverMapping,
    Retire,
    StopCapture,
    Reclaim,
    DropImport,
    Revoke,
}

/// All of a move that comes to its end,
const FORTH: [Effect; 8] = [
    Effect::Grant,
    Effect::PrepareImport,
    Effect::EngageSync,
    Effect::Unfence,
    Effect::DeliverMapping,
    Effect::Retire,
    Effect::StopCapture,
    Effect::Reclaim,
];
/// and of one that is called off, behind which the tenant is deleted.
const OFF: [Effect; 4] = [Effect::PrepareImport, Effect::StopCapture, Effect::DropImport, Effect::Revoke];

impl Effect {
    /// So many kinds of transactions it takes at least.
    fn transactions(self, layout: In) -> usize {
        match (self, layout) {
            // The record, each table or the schema, and the record.
            (Self::Reclaim | Self::DropImport | Self::Revoke, In::Shared) => 2 + TABLES.len(),
            (Self::Reclaim | Self::DropImport | Self::Revoke, In::Own) => 3,
            // The record, the registry and the database.
            (Self::Grant | Self::PrepareImport | Self::Reclaim | Self::DropImport | Self::Revoke, In::Each) => 3,
            _ => 1,
        }
    }
}

/// One move. The first cell is the source.
struct Move {
    ground: Ground,
    layout: In,
    cells: [Cell; 2],
    answers: [Answers; 2],
    unheard: BTreeSet<Effect>,
    step: StepContext,
    written: Vec<String>,
}

impl Move {
    async fn new(layout: In, unheard: &[Effect]) -> Self {
        let ground = Ground::new();
        let (mut cells, mut answers) = (Vec::new(), Vec::new());
        for id in ["a", "b"] {
            let direct = if layout == In::Each { home(ONE).await } else { database().await };
            let tables = match layout {
                In::Shared => format!("{} {ONE_EACH}", super::ground::TABLES),
                In::Own => format!("{TEMPLATE} {ONE}"),
                In::Each => String::new(),
            };
            session(&direct).await.batch_execute(&tables).await.unwrap();
            let way = Answers::of(&direct).await;
            cells.push(open(&ground, layout, id, &way.url(&direct), "127.0.0.1:0").await);
            answers.push(way);
        }
        let (Ok(cells), Ok(answers)) = (cells.try_into(), answers.try_into()) else { unreachable!() };
        let unheard = unheard.iter().copied().collect();
        Self { ground, layout, cells, answers, unheard, step: context(1, 1), written: Vec::new() }
    }

    fn outside(&self) -> StepContext {
        StepContext { move_id: None, attempt: Attempt(0), leg: None, ..self.step.clone() }
    }

    /// Somebody with psql writes in the cell that serves.
    async fn write(&mut self, owner: usize) {
        let cell = &self.cells[owner];
        let (whose, of) = if cell.own { ("", "") } else { ("tenant_id, ", "'t-1', ") };
        let name = format!("written {:02}", self.written.len());
        let sql = format!("INSERT INTO accounts ({whose}name) VALUES ({of}'{name}')");
        cell.session().await.batch_execute(&sql).await.unwrap();
        self.written.push(name);
    }

    /// Asks as a coordinator does, until it is answered.
    async fn insist<T>(
        &self,
        what: Effect,
        say: &impl AsyncFn(&AgentPool, [&Cell; 2]) -> Result<T, StepError>,
    ) -> T {
        let answered = async {
            loop {
                match say(&self.ground.pool, self.cells.each_ref()).await {
                    Ok(answer) => return answer,
                    Err(StepError::Refused { code, .. })
                        if ["DATABASE_UNREACHABLE", "DATABASE_UNOPENED", "BUSY"].contains(&code.as_str()) => {}
                    Err(error) => panic!("{what:?}: {error}"),
                }
                tokio::time::sleep(std::time::Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(PATIENCE, answered).await.unwrap_or_else(|_| panic!("{what:?} is not answered"))
    }

    /// An effect at one of the cells, of which nobody hears if it is to be so.
    async fn say<T: PartialEq + std::fmt::Debug>(
        &mut self,
        what: Effect,
        at: usize,
        step: StepContext,
        say: impl AsyncFn(&AgentPool, [&Cell; 2], &StepContext) -> Result<T, StepError>,
    ) {
        let is_unheard = self.unheard.contains(&what);
        if is_unheard {
            self.answers[at].get_lost();
        }
        let answer =
            self.insist(what, &async |pool: &AgentPool, cells: [&Cell; 2]| say(pool, cells, &step).await).await;
        if is_unheard {
            let lost = self.answers[at].arrive();
            assert!(lost.len() >= what.transactions(self.layout), "{what:?}: {lost:#?}");
            self.step.term = Term(self.step.term.0 + 1);
            let next = StepContext { term: self.step.term, ..step };
            let next = async |pool: &AgentPool, cells: [&Cell; 2]| say(pool, cells, &next).await;
            let again = self.insist(what, &next).await;
            assert_eq!(again, answer, "{what:?}: the next leader is told the same");
        }
    }

    async fn granted(&mut self) {
        let step = self.outside();
        self.say(Effect::Grant, 0, step, async |pool, [a, _], step| pool.grant(&a.agent, step).await).await;
        fill(&self.cells[0], ROWS).await;
        self.write(0).await;
    }

    async fn imported(&mut self) {
        self.ground.capture(&self.cells[0], &self.step).await;
        self.write(0).await;
        let import = async |pool: &AgentPool, [a, b]: [&Cell; 2], step: &StepContext| {
            pool.prepare_import(&b.agent, step, &a.id, &a.agent).await
        };
        self.say(Effect::PrepareImport, 1, self.step.clone(), import).await;
        self.write(0).await;
        self.ground.progress(&self.cells[1], &self.step, |progress| progress.backfilled).await;
        let [a, b] = &self.cells;
        self.ground.verify(a, b, &self.step).await;
    }

    async fn in_sync(&mut self) {
        let sync = async |pool: &AgentPool, [a, _]: [&Cell; 2], step: &StepContext| {
            pool.engage_sync(&a.agent, step, true).await
        };
        self.say(Effect::EngageSync, 0, self.step.clone(), sync).await;
        self.ground.reverse(&self.cells[1].agent, &self.step).await;
        self.write(0).await;
    }

    async fn fenced(&mut self) {
        let [a, b] = &self.cells;
        (self.step, _) = self.ground.fence(a, b, &self.step).await;
        self.step.epoch = Epoch(self.step.epoch.0 + 1);
    }

    /// A cutover that is taken back at the fence.
    async fn taken_back(&mut self) {
        self.fenced().await;
        let unfence =
            async |pool: &AgentPool, [a, _]: [&Cell; 2], step: &StepContext| pool.unfence(&a.agent, step).await;
        self.say(Effect::Unfence, 0, self.step.clone(), unfence).await;
        self.step.attempt = Attempt(self.step.attempt.0 + 1);
        self.write(0).await;
    }

    async fn cut_over(&mut self) {
        self.fenced().await;
        let [a, b] = &self.cells;
        self.ground.pool.activate(&b.agent, &self.step, Some((&a.id, a.agent.as_str()))).await.unwrap();
        self.write(1).await;
        let mapping = self.ground.mapping(&self.cells[1], self.step.epoch.0);
        let deliver = async |pool: &AgentPool, [a, b]: [&Cell; 2], step: &StepContext| {
            pool.deliver_mapping(&a.agent, step, &mapping, Some((&b.id, b.agent.as_str()))).await
        };
        self.say(Effect::DeliverMapping, 0, self.step.clone(), deliver).await;
        self.write(1).await;
        let [a, b] = &self.cells;
        self.ground.verify(b, a, &self.step).await;
    }

    async fn ended(&mut self) {
        let fenced = Epoch(self.step.epoch.0 - 1);
        let ended = |step: &StepContext| StepContext { attempt: Attempt(u32::MAX), ..step.clone() };
        let retire =
            async |pool: &AgentPool, [a, _]: [&Cell; 2], step: &StepContext| pool.retire(&a.agent, step).await;
        self.say(Effect::Retire, 0, ended(&self.step), retire).await;
        self.stopped(1, ended(&self.step)).await;
        let reclaim = async |pool: &AgentPool, [a, _]: [&Cell; 2], step: &StepContext| {
            pool.reclaim(&a.agent, step, fenced).await
        };
        self.say(Effect::Reclaim, 0, ended(&self.step), reclaim).await;
        self.write(1).await;
    }

    /// The capture at one of the cells.
    async fn stopped(&mut self, at: usize, step: StepContext) {
        let stop = async |pool: &AgentPool, cells: [&Cell; 2], step: &StepContext| {
            pool.stop_capture(&cells[at].agent, step).await
        };
        self.say(Effect::StopCapture, at, step, stop).await;
    }

    async fn dropped(&mut self) {
        let drop =
            async |pool: &AgentPool, [_, b]: [&Cell; 2], step: &StepContext| pool.drop_import(&b.agent, step).await;
        self.say(Effect::DropImport, 1, self.step.clone(), drop).await;
    }

    async fn revoked(&mut self) {
        let revoke =
            async |pool: &AgentPool, [a, _]: [&Cell; 2], step: &StepContext| pool.revoke(&a.agent, step).await;
        self.say(Effect::Revoke, 0, self.outside(), revoke).await;
    }

    /// Everything that was written is where the tenant is served, once, and nobody keeps anything of its log.
    async fn is_whole(&self, owner: usize) {
        let cell = &self.cells[owner];
        let sql = "SELECT name FROM accounts WHERE name LIKE 'written %' ORDER BY name";
        let found = cell.session().await.query(sql, &[]).await.unwrap();
        assert_eq!(found.iter().map(|row| row.get::<_, String>(0)).collect::<Vec<_>>(), self.written);
        let filled = usize::try_from(ROWS).unwrap();
        for (table, rows) in TABLES.into_iter().zip([filled + self.written.len(), filled, 50, 1]) {
            assert_eq!(cell.contents(table).await.len(), rows, "{table}");
        }
        assert_eq!(epoch_of(cell).await, self.step.epoch.0);
        let none = "SELECT NOT EXISTS (SELECT 1 FROM pg_replication_slots WHERE database = current_database()) \
                    AND NOT EXISTS (SELECT 1 FROM cellway.made)";
        until_true(&cell.session().await, none).await;
    }
}

/// A move that comes to its end, in its second cutover.
async fn comes_to_its_end(layout: In, unheard: &[Effect]) {
    let mut tenants = Move::new(layout, unheard).await;
    tenants.granted().await;
    tenants.imported().await;
    tenants.in_sync().await;
    if unheard.contains(&Effect::Unfence) {
        tenants.taken_back().await;
        tenants.in_sync().await;
    }
    tenants.cut_over().await;
    tenants.ended().await;
    tenants.is_whole(1).await;
    nothing_left(&tenants.cells[0]).await;
}

/// A move that is called off, one after it of which nothing is in the way, and the end of the tenant.
async fn is_called_off(layout: In, unheard: &[Effect]) {
    let mut tenants = Move::new(layout, unheard).await;
    tenants.granted().await;
    tenants.imported().await;
    tenants.in_sync().await;
    tenants.stopped(0, tenants.step.clone()).await;
    tenants.dropped().await;
    nothing_left(&tenants.cells[1]).await;
    tenants.write(0).await;
    tenants.is_whole(0).await;
    tenants.unheard.clear();
    tenants.step.move_id = Some(MoveId(21));
    tenants.imported().await;
    tenants.stopped(0, tenants.step.clone()).await;
    tenants.dropped().await;
    nothing_left(&tenants.cells[1]).await;
    tenants.unheard = unheard.iter().copied().collect();
    tenants.revoked().await;
    nothing_left(&tenants.cells[0]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_grant_that_nobody_heard_of_is_the_one_that_is_answered_for() {
    comes_to_its_end(In::Shared, &[Effect::Grant]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_import_that_was_prepared_unheard_copies_each_row_once() {
    comes_to_its_end(In::Shared, &[Effect::PrepareImport]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sync_that_was_engaged_unheard_is_engaged() {
    comes_to_its_end(In::Shared, &[Effect::EngageSync]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fence_that_was_taken_back_unheard_lets_writers_in_and_the_next_cutover_come() {
    comes_to_its_end(In::Shared, &[Effect::Unfence]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mapping_that_was_delivered_unheard_has_the_old_owner_follow_from_the_seal_on() {
    comes_to_its_end(In::Shared, &[Effect::DeliverMapping]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_that_was_retired_unheard_is_reclaimed() {
    comes_to_its_end(In::Shared, &[Effect::Retire]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_capture_that_was_stopped_unheard_keeps_no_log() {
    comes_to_its_end(In::Shared, &[Effect::StopCapture]).await;
    is_called_off(In::Shared, &[Effect::StopCapture]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_of_which_each_part_was_reclaimed_unheard_is_reclaimed_whole() {
    comes_to_its_end(In::Shared, &[Effect::Reclaim]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_import_of_which_each_part_was_dropped_unheard_is_dropped_whole() {
    is_called_off(In::Shared, &[Effect::DropImport]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tenant_of_which_each_part_was_deleted_unheard_is_deleted_whole() {
    is_called_off(In::Shared, &[Effect::Revoke]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_schema_each_and_nothing_of_a_move_is_heard_of_at_once() {
    comes_to_its_end(In::Own, &FORTH).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_each_and_nothing_of_a_move_is_heard_of_at_once() {
    comes_to_its_end(In::Each, &FORTH).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_schema_each_and_nothing_of_a_move_that_is_called_off_is_heard_of_at_once() {
    is_called_off(In::Own, &OFF).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_each_and_nothing_of_a_move_that_is_called_off_is_heard_of_at_once() {
    is_called_off(In::Each, &OFF).await;
}

/// Nobody asks again: it is called off as it is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_import_that_nobody_heard_of_goes_when_its_move_is_called_off() {
    for layout in [In::Shared, In::Own] {
        let mut tenants = Move::new(layout, &[]).await;
        tenants.granted().await;
        tenants.ground.capture(&tenants.cells[0], &tenants.step).await;
        let [a, b] = &tenants.cells;
        tenants.answers[1].get_lost();
        let import = tenants.ground.pool.prepare_import(&b.agent, &tenants.step, &a.id, &a.agent).await;
        assert_eq!(refused(import), "DATABASE_UNREACHABLE");
        assert_eq!(tenants.answers[1].arrive().len(), 1);
        tenants.stopped(0, tenants.step.clone()).await;
        tenants.dropped().await;
        nothing_left(&tenants.cells[1]).await;
        tenants.is_whole(0).await;
        tenants.step.move_id = Some(MoveId(21));
        tenants.imported().await;
    }
}

/// The database lets in whom the agent does not know to be let in: the deletion waits for them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_grant_that_nobody_heard_of_is_taken_back_behind_those_whom_it_has_let_in() {
    let mut tenants = Move::new(In::Shared, &[]).await;
    let (step, [a, _]) = (tenants.outside(), &tenants.cells);
    tenants.answers[0].get_lost();
    assert_eq!(refused(tenants.ground.pool.grant(&a.agent, &step).await), "DATABASE_UNREACHABLE");
    assert_eq!(tenants.answers[0].arrive().len(), 1);
    let writer = a.session().await;
    writer.batch_execute("BEGIN; INSERT INTO accounts (tenant_id, name) VALUES ('t-1', 'let in')").await.unwrap();
    assert_eq!(refused(tenants.ground.pool.revoke(&a.agent, &step).await), "NOT_QUIESCED");
    writer.batch_execute("COMMIT").await.unwrap();
    tenants.revoked().await;
    nothing_left(&tenants.cells[0]).await;
}
