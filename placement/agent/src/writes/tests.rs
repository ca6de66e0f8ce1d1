use std::sync::Condvar;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use cell_client::{AgentPool, StepContext};
use cell_gate::RequestStamp;
use cell_model::{Attempt, CellId, Epoch, Lineage, TenantId, Term, Uid};
use cell_trust::SigningKey;
use tokio_util::sync::CancellationToken;

use crate::engine::{Applied, Batch, Engine, EngineError, Entry, MemoryEngine};
use crate::{Agent, AgentOptions, TenantData};

const PATIENCE: Duration = Duration::from_secs(20);

/// A store whose syncs do not end while it is shut.
#[derive(Default)]
struct Slow {
    store: MemoryEngine,
    applied: AtomicU64,
    shut: Mutex<bool>,
    opened: Condvar,
}

impl Slow {
    fn shut(&self, shut: bool) {
        *self.shut.lock().unwrap() = shut;
        self.opened.notify_all();
    }
}

impl Engine for Slow {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, EngineError> {
        self.store.get(key)
    }
    fn scan(&self, from: &[u8], until: &[u8], limit: usize) -> Result<Vec<Entry>, EngineError> {
        self.store.scan(from, until, limit)
    }
    fn apply(&self, batch: &Batch) -> Result<Applied, EngineError> {
        let applied = self.store.apply(batch);
        self.applied.fetch_add(1, Ordering::SeqCst);
        applied
    }
    fn sync(&self) -> Result<(), EngineError> {
        let shut = self.shut.lock().unwrap();
        drop(self.opened.wait_while(shut, |shut| *shut).unwrap());
        Ok(())
    }
}

fn stamp() -> RequestStamp {
    RequestStamp { tenant: TenantId::new("t-1").unwrap(), uid: Uid(7), epoch: Epoch(1) }
}

async fn put(data: &TenantData, key: &'static str, value: &'static str) {
    data.write(&stamp(), |rows| rows.put(key.as_bytes(), value)).await.unwrap();
}

async fn get(data: &TenantData, key: &'static str) -> Option<Vec<u8>> {
    let stamp = stamp();
    let read = data.read(&stamp, |rows| rows.get(key.as_bytes()));
    tokio::time::timeout(PATIENCE, read).await.expect("the read is answered").unwrap()
}

async fn is_pending<T>(reading: &mut (impl Future<Output = T> + Unpin)) -> bool {
    tokio::time::timeout(Duration::from_millis(100), reading).await.is_err()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_read_and_a_refusal_wait_for_the_sync_of_what_they_have_seen_and_of_nothing_else() {
    let (directory, engine) = (tempfile::tempdir().unwrap(), Arc::new(Slow::default()));
    let mut options = AgentOptions::new(CellId::new("a").unwrap(), directory.path().join("a"), "127.0.0.1:0");
    options.insecure_plaintext = true;
    options.trusted_keys = vec![SigningKey::generate().public().to_string()];
    let agent = Agent::open_on(options, Arc::clone(&engine) as Arc<dyn Engine>).await.unwrap();
    let (data, address) = (agent.data(), agent.address().to_string());
    let stop = CancellationToken::new();
    let service = tokio::spawn(agent.run(stop.clone()));
    let grant = StepContext {
        lineage: Lineage(1),
        term: Term(1),
        tenant: stamp().tenant,
        uid: Uid(7),
        move_id: None,
        attempt: Attempt(0),
        epoch: Epoch(1),
        leg: None,
    };
    AgentPool::new(cell_client::AgentOptions::default()).grant(&address, &grant).await.unwrap();
    put(&data, "other", "1").await;
    put(&data, "row", "1").await;

    engine.shut(true);
    let before = engine.applied.load(Ordering::SeqCst);
    let mut write = {
        let data = data.clone();
        tokio::spawn(async move { put(&data, "row", "2").await })
    };
    let applied = async {
        while engine.applied.load(Ordering::SeqCst) == before {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(PATIENCE, applied).await.expect("the write is applied");
    assert_eq!(get(&data, "other").await.unwrap(), b"1");
    assert_eq!(get(&data, "neither").await, None);
    let reader = stamp();
    let scan = |until: &'static [u8]| data.read(&reader, move |rows| rows.scan(b"a", Some(until), 10));
    let others = tokio::time::timeout(PATIENCE, scan(b"p")).await.expect("the scan is answered").unwrap();
    assert_eq!(others.len(), 1);

    let refuse = |key: &'static str| {
        let (data, stamp) = (data.clone(), stamp());
        async move {
            let refused = data.write(&stamp, |rows| match rows.get(key.as_bytes()).unwrap() {
                Some(value) => Err(value),
                None => rows.put(key.as_bytes(), "new").map_err(|_| Vec::new()),
            });
            match tokio::time::timeout(PATIENCE, refused).await.expect("the write is answered") {
                Err(crate::WriteError::App(value)) => value,
                other => panic!("not refused: {other:?}"),
            }
        }
    };
    assert_eq!(refuse("other").await, b"1");
    let mut refusal = Box::pin(refuse("row"));
    assert!(is_pending(&mut refusal).await, "nothing is refused because of what may be lost");

    let (mut read, mut all) = (Box::pin(get(&data, "row")), Box::pin(scan(b"z")));
    assert!(is_pending(&mut write).await, "what may be lost is not acknowledged");
    assert!(is_pending(&mut read).await && is_pending(&mut all).await, "what may be lost is not shown");
    engine.shut(false);
    write.await.unwrap();
    assert_eq!(refusal.await, b"2");
    assert_eq!((read.await.unwrap(), all.await.unwrap().len()), (b"2".to_vec(), 2));
    stop.cancel();
    service.await.unwrap().unwrap();
}
