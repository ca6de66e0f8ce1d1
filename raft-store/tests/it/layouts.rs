//! What an earlier version has written is read: a node that it has stopped, row by row, and a backup that it has made.
//!
//! `tests/layouts/4` was written by the last version of layout 4. With `CELLWAY_WRITE_LAYOUT=FILE` the test below writes the
//! same of today's layout, for the day on which that one is an earlier one.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use cell_model::layout::{EARLIEST, LAYOUT};
use cell_model::{
    AuditHash, CellId, CellState, Command, Crowd, Envelope, Event, Fleet, FleetView, Generation, Limits,
    MoveIntent, MoveOptions, RequestId, Revision, Seq, Sight, TenantId, UnixMillis, verify_chain,
};
use cell_store::engine::{LogEngine, MemoryLog, MemoryState, StateEngine};
use cell_store::{Bounds, Disk, Member, Store, StoreOptions, tcp_dialer, verify_backup};

use crate::fixture::{CLUSTER, create_cell, create_tenant, envelope, eventually};

const ADDRESS: &str = "127.0.0.1:1";
const META: [&str; 4] = ["identity", "cluster", "hard-state", "purged"];

/// What a node leaves behind.
#[derive(Debug, Default, PartialEq, Eq)]
struct Left {
    log: Vec<(u64, Vec<u8>)>,
    meta: BTreeMap<String, Vec<u8>>,
    state: Vec<(Vec<u8>, Vec<u8>)>,
    backup: Vec<u8>,
    revision: u64,
    audit: String,
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Vec<u8> {
    text.as_bytes()
        .chunks(2)
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
        .collect()
}

impl Left {
    fn to_text(&self) -> String {
        let mut text = format!("end {} {}\nbackup - {}\n", self.revision, self.audit, hex(&self.backup));
        for (index, row) in &self.log {
            let _ = writeln!(text, "log {index} {}", hex(row));
        }
        for (name, value) in &self.meta {
            let _ = writeln!(text, "meta {name} {}", hex(value));
        }
        for (key, value) in &self.state {
            let _ = writeln!(text, "state {} {}", hex(key), hex(value));
        }
        text
    }

    fn of_text(text: &str) -> Self {
        let mut left = Self::default();
        for line in text.lines() {
            let words: Vec<&str> = line.split(' ').collect();
            let [kind, key, value] = words[..] else { panic!("{line:.40}") };
            match kind {
                "end" => (left.revision, left.audit) = (key.parse().unwrap(), value.into()),
                "backup" => left.backup = unhex(value),
                "log" => left.log.push((key.parse().unwrap(), unhex(value))),
                "meta" => drop(left.meta.insert(key.into(), unhex(value))),
                "state" => left.state.push((unhex(key), unhex(value))),
                other => panic!("{other}"),
            }
        }
        left
    }

    async fn of_node(store: &Store, log: &MemoryLog, state: &MemoryState) -> Self {
        let mut backup = store.backup().await.unwrap();
        let mut left = Self::default();
        while let Some(chunk) = backup.chunk().await.unwrap() {
            left.backup.extend(chunk);
        }
        (left.revision, left.audit) = told(store);
        store.stop().await;
        left.log = log.range(0, u64::MAX, usize::MAX).unwrap();
        for name in META {
            left.meta.extend(log.get_meta(name).unwrap().map(|value| (name.to_owned(), value)));
        }
        state
            .scan(&mut |key, value| {
                left.state.push((key.to_vec(), value.to_vec()));
                Ok(())
            })
            .unwrap();
        left
    }

    fn log(&self) -> MemoryLog {
        let log = MemoryLog::default();
        log.append(&self.log).unwrap();
        for name in META {
            if let Some(value) = self.meta.get(name) {
                log.put_meta(name, value).unwrap();
            }
        }
        log
    }

    fn state(&self) -> MemoryState {
        let state = MemoryState::default();
        let rows: Vec<_> = self.state.iter().map(|(key, value)| (key.clone(), Some(value.clone()))).collect();
        state.apply(&rows).unwrap();
        state
    }
}

fn told(store: &Store) -> (u64, String) {
    store.view(|fleet| {
        let tip = fleet.audit().last().map_or(AuditHash::default(), |last| last.hash);
        (fleet.head().revision.get(), tip.to_string())
    })
}

async fn open(log: &MemoryLog, state: &MemoryState) -> Store {
    // No snapshot: what is there is all in the rows.
    let bounds = Bounds { snapshot_after: 1_000_000, ..Bounds::default() };
    let options = StoreOptions { bounds, ..StoreOptions::new("in memory", ADDRESS.to_owned()) };
    let disk = Disk::of(std::sync::Arc::new(log.clone()), std::sync::Arc::new(state.clone()));
    Store::open_on(options, disk, tcp_dialer()).await.unwrap()
}

async fn leading(store: &Store) {
    eventually("it leads", async || store.read_index().await.ok()).await;
}

fn tenant(name: &str) -> TenantId {
    TenantId::new(name).unwrap()
}

/// Something of every kind that is written down. What is refused is written down as well.
async fn live(store: &Store) {
    let cell = |name: &str| CellId::new(name).unwrap();
    let at = std::cell::Cell::new(1_000);
    let run = async |command: Command| {
        at.set(at.get() + 1);
        let envelope = Envelope {
            request_id: Some(RequestId(u128::from(at.get()))),
            actor: "operator/alice".into(),
            ..Envelope::new(UnixMillis(at.get()), command)
        };
        eventually("a command runs", async || store.submit(envelope.clone()).await.ok()).await
    };
    let tell = async |name: &str, event: Event| {
        let (uid, within) = store.view(|fleet| {
            let record = fleet.tenant(&tenant(name)).unwrap();
            (record.uid, record.movement.as_ref().map(|movement| (movement.id, movement.leg)))
        });
        let (move_id, leg) = within.unzip();
        run(Command::Record { tenant: tenant(name), uid, move_id, leg, event }).await
    };
    for number in 1..=3 {
        run(create_cell(number)).await.result.unwrap();
        run(create_tenant(number)).await.result.unwrap();
        tell(&format!("t{number}"), Event::Granted).await.result.unwrap();
    }
    let (gates, agent) = (vec!["127.0.0.1:80".into()], "127.0.0.1:81".into());
    run(Command::ReportCell { cell: cell("c1"), generation: Generation(7), gates, agent, partial: true }).await;
    run(Command::SetCellState { cell: cell("c3"), state: CellState::Cordoned }).await.result.unwrap();
    run(Command::SetLimits(Limits { moves_total: 5, ..Limits::default() })).await.result.unwrap();
    let owner = |name: &str| store.view(|fleet| fleet.tenant(&tenant(name)).unwrap().owner.clone());
    for name in ["t1", "t2"] {
        let target = if owner(name) == cell("c1") { cell("c2") } else { cell("c1") };
        run(Command::MoveTenant { tenant: tenant(name), target, options: MoveOptions::default() })
            .await
            .result
            .unwrap();
        for event in [
            Event::Admitted,
            Event::PreflightPassed,
            Event::ImportPrepared { generation: Generation(7) },
            Event::CaptureStarted { position: Seq(3) },
            Event::BackfillDone { applied: Seq(4) },
        ] {
            drop(tell(name, event).await);
        }
    }
    let move_id = store.view(|fleet| fleet.tenant(&tenant("t2")).unwrap().movement.as_ref().unwrap().id);
    run(Command::ThrottleMove { move_id, bytes_per_second: 65_536 }).await.result.unwrap();
    run(Command::Steer { move_id, intent: MoveIntent::Cancel }).await.result.unwrap();
    let routers = vec![("r1".into(), Sight::Seen), ("r2".into(), Sight::Fenced)];
    let crowd = Some(Crowd::of(&routers));
    let saw = Command::RoutersSaw { tenant: tenant("t1"), move_id, revision: Revision(9), routers, crowd };
    run(saw).await.result.unwrap();
    run(Command::DeleteTenant { tenant: tenant("t3") }).await.result.unwrap();
    run(create_tenant(1)).await.result.unwrap_err();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_written_today_is_read_back() {
    let (log, state) = (MemoryLog::default(), MemoryState::default());
    let store = open(&log, &state).await;
    let node_id = store.claim(CLUSTER).await.unwrap();
    let member = Member { node_id, address: ADDRESS.into(), voter: true };
    store.initialize(CLUSTER, vec![member]).await.unwrap();
    leading(&store).await;
    live(&store).await;
    let left = Left::of_node(&store, &log, &state).await;
    drop(store);
    let text = left.to_text();
    assert_eq!(Left::of_text(&text), left);
    if let Some(file) = std::env::var_os("CELLWAY_WRITE_LAYOUT") {
        std::fs::write(file, text).unwrap();
    }
    reads(&left).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_version_before_has_written_is_read() {
    let left = Left::of_text(include_str!("../layouts/4"));
    assert!(left.log.iter().all(|(_, row)| row[0] == EARLIEST), "it is of that layout");
    reads(&left).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_of_the_version_before_is_written_on_and_is_todays_from_then_on() {
    let left = Left::of_text(include_str!("../layouts/4"));
    let (log, state) = (left.log(), left.state());
    let store = open(&log, &state).await;
    leading(&store).await;
    let before = store.view(|fleet| fleet.audit().last_number());
    for number in 10..20 {
        let named = Envelope { request_id: Some(RequestId(number)), ..envelope(create_cell(number)) };
        store.submit(named).await.unwrap().result.unwrap();
    }
    let wanted = store.view(Fleet::clone);
    store.stop().await;
    drop(store);
    assert_eq!(log.get_meta("identity").unwrap().unwrap()[0], LAYOUT, "the version before leaves it alone");
    // Answers, changes and audit entries of both layouts stand in the same rows.
    let store = open(&log, &state).await;
    leading(&store).await;
    assert_eq!(store.view(Fleet::clone), wanted);
    assert_eq!(wanted.audit().last_number(), before + 10);
    assert!(wanted.answer(RequestId(1_001)).is_some() && wanted.answer(RequestId(12)).is_some());
}

/// From the rows of the state, from the log alone, and from the backup.
async fn reads(left: &Left) {
    for state in [left.state(), MemoryState::default()] {
        let store = open(&left.log(), &state).await;
        leading(&store).await;
        assert_eq!(told(&store), (left.revision, left.audit.clone()));
        check(&store.view(Fleet::clone));
        store.stop().await;
    }
    let directory = tempfile::tempdir().unwrap();
    let backup = directory.path().join("backup");
    std::fs::write(&backup, &left.backup).unwrap();
    let summary = verify_backup(&backup).unwrap();
    assert_eq!((summary.revision.get(), summary.tenants), (left.revision, 3));
    restored(&backup).await;
}

fn check(fleet: &Fleet) {
    let entries: Vec<_> = fleet.audit().after(0).map(|entry| cell_model::AuditEntry::clone(entry)).collect();
    verify_chain(&entries).unwrap();
    assert!(entries.len() > 15, "{}", entries.len());
    assert_eq!(fleet.limits().moves_total, 5);
    assert_eq!(fleet.cells().count(), 3);
    let moving = fleet.tenant(&tenant("t1")).unwrap();
    assert!(moving.movement.is_some() && moving.owner != moving.movement.as_ref().unwrap().target);
    assert!(fleet.answer(RequestId(1_001)).unwrap().reply.result.is_ok());
    assert_eq!(fleet.cell(&CellId::new("c1").unwrap()).unwrap().generation, Generation(7));
}

async fn restored(backup: &Path) {
    let directory = tempfile::tempdir().unwrap();
    let at = directory.path().join("data");
    cell_store::restore(backup, &at, ADDRESS, None).await.unwrap();
    let summary = cell_store::verify_directory(&at).await.unwrap();
    assert_eq!(summary.tenants, 3);
}
