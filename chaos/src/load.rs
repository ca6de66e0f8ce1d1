//! The load: many clients of many tenants, through the routers, every answer noted.
//!
//! * **background** – writers at a bounded rate over all tenants, and readers that come back to the same documents;
//! * **focus** ([`Load::focus`]) – writers and readers of one tenant, one request after the other, for as long as it
//!   moves: they are what proves that a move was exercised. When its writes begin to be held ([`Load::hurry`]),
//!   they do not wait for their next turn, and what they ask for between holds leaves the machine room for what is
//!   measured. Word of a hold may come when a short one is over: shortly before it some writers [`press`](Running::press)
//!   on, one write right after the other. What such a writer has under way when the gates close is admitted, and a hold
//!   is not sealed before it is answered: so its next write always meets the hold;
//! * **probe** ([`Load::probe`]) – a client that calls the target of a move before it owns: it must not be served;
//! * **bulk** ([`Load::fill`]) – gives tenants their size.
//!
//! Each client is one [`session::Session`]: one request at a time, routers in turn, the tenant named by `Host` and by
//! `X-Tenant-ID` in turn. A part of the writes carries an idempotency key, and a part of those is sent again on
//! purpose. A client never retries: what it sees is what is judged.

pub mod documents;
mod herald;
mod prober;
mod reader;
pub mod session;
mod writer;

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use cell_client::net::Network;
use tokio::sync::broadcast;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::clock::RunClock;
use crate::history::{Nonce, Recorder, SessionId};
use crate::seed::Choices;
use session::{Session, Stamp};

/// How long after an answer a probe asks again.
const PROBE_GAP: Duration = Duration::from_millis(20);
/// Beginnings of holds that a busy writer may have before it.
const HOLDS_KEPT: usize = 16;
/// How long the clients of a focus are in a hurry after a hold has begun: what is answered just before the gates close
/// is followed by a write that meets the hold, and the moment between two owners by a read.
const HURRY: Duration = Duration::from_millis(100);
/// How short the gap of a writer in a hurry is,
const HURRY_WRITER: Duration = Duration::from_millis(1);
/// how much later each writer of a focus begins to hurry than the one before it: one that is sent before the gates have
/// closed is answered, and its writer's next one may come when a short hold is over,
const HURRY_STEP: Duration = Duration::from_micros(1_500);
/// and that of a reader: it is not held with the writes, so it would be a load of its own.
const HURRY_READER: Duration = Duration::from_millis(4);

/// Writers of a focus that press on: a second one, should the first not get its turn.
const PRESSING: u32 = 2;

/// How much, against what.
#[derive(Debug, Clone)]
pub struct LoadOptions {
    /// `host:port` of each router.
    pub routers: Vec<String>,
    /// `acme` is reached as `acme.<domain>`, too.
    pub domain: String,
    /// Writes per second of the background, all its writers together.
    pub writes_per_second: u32,
    /// Reads per second of the background.
    pub reads_per_second: u32,
    /// Clients that write in the background.
    pub writers: u32,
    /// Clients that read in the background.
    pub readers: u32,
    /// A client gives up after this.
    pub deadline: Duration,
    /// Where connections come from.
    pub network: Network,
    /// What the clients' choices follow.
    pub seed: u64,
}

/// A tenant that is to get its size.
#[derive(Debug, Clone)]
pub struct Filling {
    /// Whose.
    pub tenant: Arc<str>,
    /// How many documents.
    pub docs: u32,
    /// How large each is.
    pub doc_bytes: usize,
}

/// The load of one run. Clones steer the same load.
#[derive(Debug, Clone)]
pub struct Load {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    options: LoadOptions,
    clock: RunClock,
    recorder: Recorder,
    choices: Choices,
    session_next: AtomicU32,
    nonce_next: AtomicU64,
    known_keys: KnownKeys,
    holds: broadcast::Sender<Arc<str>>,
    withdrawn: Withdrawn,
}

/// Routers that no client is sent to now, one bit each: what a balancer in front of routers knows.
#[derive(Debug, Clone, Default)]
struct Withdrawn(Arc<AtomicU64>);

impl Withdrawn {
    const fn bit(router: usize) -> u64 {
        1 << (router % 64)
    }

    fn is_out(&self, router: usize) -> bool {
        self.0.load(Ordering::Relaxed) & Self::bit(router) != 0
    }
}

/// A tenant, and a key of it.
type Place = (Arc<str>, Arc<str>);

/// Documents that exist, for readers to choose from: the newest, up to a limit.
#[derive(Debug, Default)]
struct KnownKeys {
    keys: Mutex<Vec<Place>>,
}

impl KnownKeys {
    const KEYS_MAX: usize = 4_096;

    fn add(&self, tenant: &Arc<str>, key: &Arc<str>, choices: &mut Choices) {
        let mut keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        if keys.len() < Self::KEYS_MAX {
            keys.push((tenant.clone(), key.clone()));
        } else {
            let index = choices.index(keys.len());
            keys[index] = (tenant.clone(), key.clone());
        }
    }

    fn pick(&self, choices: &mut Choices) -> Option<Place> {
        let keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        keys.get(choices.index(keys.len())).cloned()
    }
}

/// Clients that run until they are stopped.
#[derive(Debug)]
pub struct Running {
    stop: CancellationToken,
    tasks: JoinSet<()>,
    pressing: Arc<AtomicBool>,
}

impl Running {
    /// Nobody.
    #[must_use]
    pub fn none() -> Self {
        Self { stop: CancellationToken::new(), tasks: JoinSet::new(), pressing: Arc::default() }
    }

    /// Whether the first writers of a focus send one write right after the other: from before a hold until it is over.
    pub fn press(&self, on: bool) {
        self.pressing.store(on, Ordering::Relaxed);
    }

    /// One more client, which ends soon after its token is cancelled.
    pub(crate) fn join<F>(&mut self, client: impl FnOnce(CancellationToken) -> F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        self.tasks.spawn(client(self.stop.clone()));
    }

    /// Lets each client finish its request and waits for it.
    pub async fn stop(mut self) {
        self.stop.cancel();
        while let Some(ended) = self.tasks.join_next().await {
            if let Err(error) = ended {
                tracing::error!(%error, "a load client has ended badly");
            }
        }
    }
}

impl Load {
    /// A load that does nothing yet.
    #[must_use]
    pub fn new(options: LoadOptions, clock: RunClock, recorder: Recorder) -> Self {
        let choices = Choices::new(options.seed);
        Self {
            shared: Arc::new(Shared {
                options,
                clock,
                recorder,
                choices,
                session_next: AtomicU32::new(1),
                nonce_next: AtomicU64::new(1),
                known_keys: KnownKeys::default(),
                holds: broadcast::channel(HOLDS_KEPT).0,
                withdrawn: Withdrawn::default(),
            }),
        }
    }

    /// What clients did.
    #[must_use]
    pub fn recorder(&self) -> &Recorder {
        &self.shared.recorder
    }

    /// The clock of its history.
    #[must_use]
    pub fn clock(&self) -> RunClock {
        self.shared.clock
    }

    /// Writers at a bounded rate over these tenants, and readers.
    #[must_use]
    pub fn background(&self, tenants: &Arc<[Arc<str>]>) -> Running {
        let options = &self.shared.options;
        let mut running = Running::none();
        let period = |rate: u32, clients: u32| Duration::from_secs(1) * clients / rate.max(1);
        for _ in 0..options.writers {
            let pace = Pace::every(period(options.writes_per_second, options.writers));
            let writer = writer::Writer::new(self.session(), tenants.clone(), self.clone());
            running.tasks.spawn(writer.run(pace, running.stop.clone()));
        }
        for _ in 0..options.readers {
            let pace = Pace::every(period(options.reads_per_second, options.readers));
            let reader = reader::Reader::new(self.session(), None, self.clone());
            running.tasks.spawn(reader.run(pace, running.stop.clone()));
        }
        running
    }

    /// Writers and readers of one tenant, one request after the other.
    #[must_use]
    pub fn focus(&self, tenant: &Arc<str>, writers: u32, readers: u32, gap: Duration) -> Running {
        let mut running = Running::none();
        let only: Arc<[Arc<str>]> = Arc::new([tenant.clone()]);
        let mut keys = Vec::new();
        let pace = |hurried: Duration, lag: Duration, pressing: Option<Arc<AtomicBool>>| Pace::Hurried {
            gaps: [gap, hurried],
            lag,
            pressing,
            tenant: tenant.clone(),
            holds: self.shared.holds.subscribe(),
            until: tokio::time::Instant::now(),
        };
        for place in 0..writers {
            let writer = writer::Writer::new(self.session(), only.clone(), self.clone());
            keys.extend(writer.keys_of(tenant));
            let pressing = (place < PRESSING).then(|| running.pressing.clone());
            let pace = pace(HURRY_WRITER, HURRY_STEP * place, pressing);
            running.tasks.spawn(writer.run(pace, running.stop.clone()));
        }
        let keys: Arc<[Place]> = keys.into_iter().map(|key| (tenant.clone(), key)).collect();
        for _ in 0..readers {
            let reader = reader::Reader::new(self.session(), Some(keys.clone()), self.clone());
            let pace = pace(HURRY_READER, Duration::ZERO, None);
            running.tasks.spawn(reader.run(pace, running.stop.clone()));
        }
        running
    }

    /// The clients of this tenant's focus send now: its writes begin to be held, or it is about to be copied, which takes a
    /// few milliseconds where it is small.
    pub fn hurry(&self, tenant: &Arc<str>) {
        // Where no focus runs, nobody listens.
        let _ = self.shared.holds.send(tenant.clone());
    }

    /// No client is sent to this router (counted from 0) until it is admitted again.
    pub fn withdraw(&self, router: usize) {
        self.shared.withdrawn.0.fetch_or(Withdrawn::bit(router), Ordering::Relaxed);
    }

    /// Clients are sent to it again.
    pub fn admit(&self, router: usize) {
        self.shared.withdrawn.0.fetch_and(!Withdrawn::bit(router), Ordering::Relaxed);
    }

    /// A client that calls these gates directly, under this stamp; and who it is in the history.
    #[must_use]
    pub fn probe(&self, tenant: &Arc<str>, gates: &[String], stamp: Stamp) -> (Running, SessionId) {
        let mut running = Running::none();
        let session = self.session().direct(gates, self.shared.options.deadline, stamp);
        let id = session.id;
        let prober = prober::Prober::new(session, tenant.clone());
        running.tasks.spawn(prober.run(Pace::after(PROBE_GAP), running.stop.clone()));
        (running, id)
    }

    /// Gives tenants their documents, so many at a time. Returns when all were tried; `done` is told of each.
    pub async fn fill(&self, fillings: Vec<Filling>, clients: u32, stop: &CancellationToken, done: impl Fn(usize)) {
        let work: Vec<(Arc<str>, usize)> = fillings
            .into_iter()
            .flat_map(|filling| (0..filling.docs).map(move |_| (filling.tenant.clone(), filling.doc_bytes)))
            .collect();
        let work = Arc::new(Mutex::new(work));
        let (told, mut finished) = tokio::sync::mpsc::channel(64);
        let mut tasks = JoinSet::new();
        for _ in 0..clients {
            let (mut session, work, told, stop) = (self.session(), work.clone(), told.clone(), stop.clone());
            let load = self.clone();
            tasks.spawn(async move {
                while !stop.is_cancelled() {
                    let Some((tenant, bytes)) = work.lock().unwrap_or_else(PoisonError::into_inner).pop() else {
                        break;
                    };
                    session.post(&tenant, load.nonce(), bytes, None).await;
                    // Nobody listens any more: then nobody needs to be told.
                    let _ = told.send(bytes).await;
                }
            });
        }
        drop(told);
        while let Some(bytes) = finished.recv().await {
            done(bytes);
        }
        while tasks.join_next().await.is_some() {}
    }

    /// A client that does what its caller says.
    #[must_use]
    pub fn session(&self) -> Session {
        let id: SessionId = self.shared.session_next.fetch_add(1, Ordering::Relaxed);
        let options = &self.shared.options;
        let choices = self.shared.choices.part(u64::from(id));
        let (clock, recorder) = (self.shared.clock, self.shared.recorder.clone());
        Session::new(id, options, clock, recorder, choices).avoiding(self.shared.withdrawn.clone())
    }

    /// A number that nobody else of this load has.
    #[must_use]
    pub fn nonce(&self) -> Nonce {
        self.shared.nonce_next.fetch_add(1, Ordering::Relaxed)
    }

    fn known_keys(&self) -> &KnownKeys {
        &self.shared.known_keys
    }
}

/// When a client sends its next request.
#[derive(Debug)]
enum Pace {
    /// So many a second: what was missed is caught up with, but for not more than a second's worth.
    Rate { period: Duration, next: tokio::time::Instant },
    /// So long after the last answer.
    Gap(Duration),
    /// The same, but much less from the beginning of a hold of the tenant on, or `lag` later, for a moment; at once while
    /// it is pressing.
    Hurried {
        gaps: [Duration; 2],
        lag: Duration,
        pressing: Option<Arc<AtomicBool>>,
        tenant: Arc<str>,
        holds: broadcast::Receiver<Arc<str>>,
        until: tokio::time::Instant,
    },
}

impl Pace {
    fn every(period: Duration) -> Self {
        Self::Rate { period, next: tokio::time::Instant::now() }
    }

    const fn after(gap: Duration) -> Self {
        Self::Gap(gap)
    }

    async fn wait(&mut self) {
        match self {
            Self::Gap(gap) => tokio::time::sleep(*gap).await,
            Self::Hurried { gaps: [gap, hurried], lag, pressing, tenant, holds, until } => {
                if pressing.as_ref().is_some_and(|pressing| pressing.load(Ordering::Relaxed)) {
                    return;
                }
                if tokio::time::Instant::now() < *until {
                    return tokio::time::sleep(*hurried).await;
                }
                let hold = async {
                    loop {
                        match holds.recv().await {
                            Ok(of) if of == *tenant => return,
                            Ok(_) | Err(broadcast::error::RecvError::Lagged(_)) => {}
                            Err(broadcast::error::RecvError::Closed) => std::future::pending::<()>().await,
                        }
                    }
                };
                if tokio::time::timeout(*gap, hold).await.is_ok() {
                    tokio::time::sleep(*lag).await;
                    *until = tokio::time::Instant::now() + HURRY;
                }
            }
            Self::Rate { period, next } => {
                tokio::time::sleep_until(*next).await;
                let earliest = tokio::time::Instant::now().checked_sub(Duration::from_secs(1)).unwrap_or(*next);
                *next = (*next + *period).max(earliest);
            }
        }
    }
}
