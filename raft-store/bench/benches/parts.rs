//! Parts of the store one by one: `make bench-parts`. What they come to together is what `bench-store` measures.
//!
//! Where it writes: below `CELLWAY_BENCH_DIR`, or else the directory for temporary files.

#![expect(clippy::unwrap_used, reason = "a benchmark that cannot go on has failed")]

use std::hint::black_box;
use std::path::PathBuf;
use std::sync::Arc;

use cell_model::{
    CellId, CellState, CellTraits, ClusterId, Command, Envelope, Fleet, Lineage, NewCell, NewTenant, RequestId,
    TenantId, Tier, UnixMillis,
};
use cell_protos::v1;
use cell_store::engine::{LogEngine, MemoryLog, MemoryState, SegmentLog, SledLog};
use cell_store::{Disk, Member, Store, StoreOptions, parts, tcp_dialer, verify_backup};
use cell_trust::{SigningKey, TrustedKeys, WatchFrame};
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use prost::Message;
use tempfile::TempDir;

/// Tenants of the fleet that is backed up.
const TENANTS: u128 = 20_000;
/// Commands of an entry under load.
const COMMANDS: u128 = 256;

fn directory() -> TempDir {
    let below = std::env::var_os("CELLWAY_BENCH_DIR").map_or_else(std::env::temp_dir, PathBuf::from);
    tempfile::tempdir_in(below).unwrap()
}

fn create_cell() -> Command {
    Command::CreateCell(NewCell {
        id: CellId::new("c1").unwrap(),
        gates: vec!["10.0.0.1:8080".into()],
        agent: "10.0.0.1:7500".into(),
        region: "eu-west-1".into(),
        residency: "eu".into(),
        traits: CellTraits::default(),
    })
}

fn create_tenant(number: u128) -> Command {
    Command::CreateTenant(NewTenant {
        id: TenantId::new(format!("tenant-{number:07}")).unwrap(),
        cell: CellId::new("c1").ok(),
        tier: Tier::Bronze,
        residency: "eu".into(),
    })
}

/// As a client's command comes: with a name, and with who asks.
fn named(number: u128, command: Command) -> Envelope {
    let actor = "operator/alice".to_owned();
    let asked = Some(cell_store::asked(&actor, &command, None));
    let request_id = Some(RequestId(number + 1));
    Envelope { request_id, asked, actor, ..Envelope::new(UnixMillis(1_700_000_000_000), command) }
}

fn tenants(count: u128) -> Vec<Envelope> {
    (0..count).map(|number| named(number, create_tenant(number))).collect()
}

fn codec(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("codec");
    for count in [1, COMMANDS] {
        let commands = tenants(count);
        let entry = parts::written(7, commands.clone());
        group.throughput(Throughput::Bytes(entry.len() as u64));
        let write = |commands: Vec<Envelope>| parts::written(7, commands);
        group.bench_function(format!("write {count}"), |bencher| {
            bencher.iter_batched(|| commands.clone(), write, BatchSize::SmallInput);
        });
        group.bench_function(format!("read {count}"), |bencher| {
            bencher.iter(|| parts::read(black_box(&entry)).unwrap());
        });
    }
    group.finish();
}

fn apply(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("apply");
    let mut fleet = Fleet::new(ClusterId(1), Lineage(1));
    fleet.apply(&named(0, create_cell()));
    let commands = tenants(1_000);
    group.throughput(Throughput::Elements(commands.len() as u64));
    group.bench_function("create 1000 tenants", |bencher| {
        let create = |mut fleet: Fleet| {
            commands.iter().for_each(|command| drop(fleet.apply(command)));
            fleet
        };
        bencher.iter_batched(|| fleet.clone(), create, BatchSize::LargeInput);
    });
    group.throughput(Throughput::Elements(1));
    let mut state = [CellState::Cordoned, CellState::Active].into_iter().cycle();
    group.bench_function("change a cell", |bencher| {
        bencher.iter(|| {
            let command = Command::SetCellState { cell: CellId::new("c1").unwrap(), state: state.next().unwrap() };
            fleet.apply(&Envelope::new(UnixMillis(1), command))
        });
    });
    group.finish();
}

/// What one write waits for on a disk: a row of the log, synced.
fn append(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("append and sync");
    let directory = directory();
    let engines: [(&str, Box<dyn LogEngine>); 2] = [
        ("segments", Box::new(SegmentLog::open(directory.path().join("segments")).unwrap())),
        ("sled", Box::new(SledLog::open(directory.path().join("sled")).unwrap())),
    ];
    for (name, engine) in &engines {
        let mut index = 0;
        for count in [1, COMMANDS] {
            let row = parts::written(7, tenants(count));
            group.throughput(Throughput::Bytes(row.len() as u64));
            group.bench_function(format!("{name} {count}"), |bencher| {
                bencher.iter(|| {
                    index += 1;
                    engine.append(&[(index, row.clone())]).unwrap();
                    engine.sync().unwrap();
                    // As a log is compacted: the directory stays small.
                    if index.is_multiple_of(1_000) {
                        engine.purge_to(index).unwrap();
                    }
                });
            });
        }
    }
    group.finish();
}

/// A frame of a snapshot of the watch.
fn frame() -> Vec<u8> {
    let item = |number: u32| {
        let mapping = vec![u8::try_from(number % 251).unwrap(); 120];
        v1::WatchItem { item: Some(v1::watch_item::Item::Mapping(mapping.into())) }
    };
    v1::WatchItems { revision: 7, items: (0..256).map(item).collect() }.encode_to_vec()
}

fn signing(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("a frame of 256 mappings");
    let key = SigningKey::generate();
    let trusted = TrustedKeys::new([key.public()]);
    let items = frame();
    let signature = WatchFrame(&items).sign(&key);
    let key_id = key.public().key_id();
    group.throughput(Throughput::Bytes(items.len() as u64));
    group.bench_function("sign", |bencher| bencher.iter(|| WatchFrame(black_box(&items)).sign(&key)));
    group.bench_function("verify", |bencher| {
        bencher.iter(|| WatchFrame(black_box(&items)).verify(&key_id, &signature, &trusted).unwrap());
    });
    group.finish();
}

/// A store in memory that leads itself, with tenants.
async fn store() -> Store {
    let address = "127.0.0.1:1".to_owned();
    let disk = Disk::of(Arc::new(MemoryLog::default()), Arc::new(MemoryState::default()));
    let options = StoreOptions::new("in memory", address.clone());
    let store = Store::open_on(options, disk, tcp_dialer()).await.unwrap();
    let node_id = store.claim(ClusterId(1)).await.unwrap();
    store.initialize(ClusterId(1), vec![Member { node_id, address, voter: true }]).await.unwrap();
    while store.read_index().await.is_err() {
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    store.submit(named(0, create_cell())).await.unwrap().result.unwrap();
    let all = tenants(TENANTS);
    for some in all.chunks(1_000) {
        let replies = some.iter().map(|one| Envelope { request_id: None, ..one.clone() });
        for reply in futures::future::join_all(replies.map(|one| store.submit(one))).await {
            reply.unwrap().result.unwrap();
        }
    }
    store
}

/// The state on its way: what a snapshot and a backup are made of, and what reading them back costs.
fn snapshot(criterion: &mut Criterion) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let store = runtime.block_on(store());
    let take = || {
        runtime.block_on(async {
            let (mut backup, mut bytes) = (store.backup().await.unwrap(), Vec::new());
            while let Some(chunk) = backup.chunk().await.unwrap() {
                bytes.extend(chunk);
            }
            bytes
        })
    };
    let bytes = take();
    let directory = directory();
    let file = directory.path().join("backup");
    std::fs::write(&file, &bytes).unwrap();
    let mut group = criterion.benchmark_group(format!("a snapshot of {TENANTS} tenants"));
    group.sample_size(10).throughput(Throughput::Bytes(bytes.len() as u64));
    group.bench_function("make, in chunks", |bencher| bencher.iter(take));
    group.bench_function("read and check", |bencher| bencher.iter(|| verify_backup(&file).unwrap()));
    group.finish();
    runtime.block_on(store.stop());
}

criterion_group!(all, codec, apply, append, signing, snapshot);
criterion_main!(all);
