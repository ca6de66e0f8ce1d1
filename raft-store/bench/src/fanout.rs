//! The watch as routers have it: real nodes that sign what they hand out, a steady writer, many watchers.
//!
//! What is measured is from the answer of a command to the arrival, at a watcher, of a frame that covers its revision. The
//! answer comes after the commit, so the time since the command was sent, which is before it, is told, too.
//!
//! Routers are on machines of their own, and here they share one with the nodes. So what they take of it is kept small and
//! told apart: they live on one thread, do not verify (`cold` does), and read of a frame up to where it goes and how much is in it.

use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::Context;
use cell_figures::{Figure, Figures, median};
use cell_protos::v1;
use cell_protos::v1::control_service_client::ControlServiceClient;
use cell_protos::v1::watch_response::Frame;
use hdrhistogram::Histogram;
use prost::Message;
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio_util::sync::{CancellationToken, DropGuard};
use tonic::Streaming;
use tonic::transport::Channel;

use crate::cell::Cell;
use crate::ground::Ground;
use crate::load::Keys;
use crate::nodes::{Kind, NodeOptions, Nodes, Threads, connect, processor_time};
use crate::{cold, number, say};

/// How long after the last command a watcher may see it.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long the next frame of a snapshot may take.
const FRAME: Duration = Duration::from_secs(60);
const WRITING_CONNECTIONS: usize = 8;
/// Of the thread that reads it.
const OWN: &str = "/proc/thread-self/stat";

/// The watchers and the rate of which the floor is.
const WATCHERS: usize = 100;
const RATE: u32 = 2_000;
const CHANGES_PER_TENANT: u32 = 2;
/// How much of the rate has to have come about, for what was seen to be of it.
const RATE_HELD: f64 = 0.95;

/// Routers that watch, each over a connection of its own, beside a steady writer
#[derive(Debug, clap::Args)]
pub(crate) struct Fanout {
    /// Routers at once
    #[arg(long, value_delimiter = ',', default_values_t = [100, 200])]
    watchers: Vec<usize>,
    /// Changes a second: each new tenant makes two, made and granted
    #[arg(long, default_value_t = RATE)]
    rate: u32,
    /// Seconds of one round
    #[arg(long, default_value_t = 10)]
    seconds: u64,
    /// Rounds with so many routers each; of every measure its median is told
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    #[command(flatten)]
    threads: Threads,
}

/// What the watchers saw.
#[derive(Debug, Clone, Copy)]
struct Seen {
    /// From when a command was sent.
    sent_p99_ms: f64,
    /// Tenants made and granted, by the time that it took until the last of them was seen.
    changes_per_second: f64,
    deliveries_per_second: f64,
    frames_per_second_and_watcher: f64,
    p50_ms: f64,
    p99_ms: f64,
    worst_ms: f64,
    /// Changes that a watcher did not get, of all watchers.
    lost: u64,
    /// Processor time of all nodes for one tenant, with everything that its watchers cost them.
    node_cpu_us: f64,
    /// Processor time of the watchers for one frame that one of them has taken.
    watcher_cpu_us: f64,
    /// How much of all processors the nodes and the watchers took.
    busy: f64,
}

/// What is read of [`v1::WatchItems`] here. Items stay the bytes that they are.
#[derive(Clone, PartialEq, Eq, prost::Message)]
struct Counted {
    #[prost(uint64, tag = "1")]
    revision: u64,
    #[prost(bytes = "bytes", repeated, tag = "2")]
    items: Vec<bytes::Bytes>,
}

/// One watcher's frames: up to which revision, with how many mappings, and when.
type Frames = Vec<(u64, u64, Instant)>;
/// At which revision a command was done, when it was sent and when it was answered.
type Answered = Vec<(u64, Instant, Instant)>;

impl Seen {
    /// Each measure's own median; but what was lost in any of them was lost.
    fn medians(rounds: &[Self]) -> Self {
        let of = |of: fn(&Self) -> f64| median(rounds.iter().map(of));
        Self {
            sent_p99_ms: of(|round| round.sent_p99_ms),
            changes_per_second: of(|round| round.changes_per_second),
            deliveries_per_second: of(|round| round.deliveries_per_second),
            frames_per_second_and_watcher: of(|round| round.frames_per_second_and_watcher),
            p50_ms: of(|round| round.p50_ms),
            p99_ms: of(|round| round.p99_ms),
            worst_ms: of(|round| round.worst_ms),
            lost: rounds.iter().map(|round| round.lost).sum(),
            node_cpu_us: of(|round| round.node_cpu_us),
            watcher_cpu_us: of(|round| round.watcher_cpu_us),
            busy: of(|round| round.busy),
        }
    }

    fn tell(self, watchers: usize, how: &Fanout, figures: &mut Figures) {
        let measure = |what: &str| format!("watch, {watchers} routers at {}/s: {what}", how.rate);
        let asked = watchers == WATCHERS && how.rate >= RATE;
        let floor = asked.then_some(5.0);
        figures.add(Figure::at_most(measure("answered until delivered, p99"), "ms", self.p99_ms, floor, None));
        figures.add(Figure::free(measure("sent until delivered, p99"), "ms", self.sent_p99_ms));
        figures.add(Figure::free(measure("p50"), "ms", self.p50_ms));
        figures.add(Figure::free(measure("worst"), "ms", self.worst_ms));
        let least = asked.then_some(f64::from(how.rate) * RATE_HELD);
        figures.add(Figure::at_least(measure("changes"), "/s", self.changes_per_second, least));
        figures.add(Figure::at_least(measure("deliveries"), "/s", self.deliveries_per_second, None));
        figures.add(Figure::free(measure("frames to each"), "/s", self.frames_per_second_and_watcher));
        figures.add(Figure::at_most(
            measure("changes that did not arrive"),
            "",
            number(self.lost),
            Some(0.0),
            None,
        ));
        figures.add(Figure::free(measure("processor time of all nodes for a tenant"), "µs", self.node_cpu_us));
        let mut free = |what: &str, unit, value| figures.add(Figure::free(measure(what), unit, value));
        free("processor time of a watcher for a frame", "µs", self.watcher_cpu_us);
        free("processors of nodes and watchers", "%", self.busy * 100.0);
    }
}

pub(crate) async fn run(fanout: &Fanout, ground: &Ground, figures: &mut Figures) -> anyhow::Result<()> {
    let directory = ground.directory()?;
    let options = NodeOptions { extra: fanout.threads.words().collect(), control: Some(ground.control()?) };
    let nodes = Nodes::start(Kind::Control, directory.path(), 3, options).await?;
    let address = nodes.addresses[nodes.leader().await?].clone();
    let cell = Cell::make(&address).await?;
    let keys = Keys::default();
    for watchers in &fanout.watchers {
        let mut rounds = Vec::new();
        for _ in 0..fanout.rounds {
            let seen = measure(&nodes, (&address, &cell), *watchers, fanout, &keys).await?;
            say(&format!("{watchers} watchers: {seen:?}\n"));
            rounds.push(seen);
        }
        Seen::medians(&rounds).tell(*watchers, fanout, figures);
    }
    Ok(())
}

async fn measure(
    nodes: &Nodes,
    (address, cell): (&str, &Cell),
    watchers: usize,
    how: &Fanout,
    keys: &Keys,
) -> anyhow::Result<Seen> {
    let watching = Watching::begin(address, watchers).await?;
    let (cpu, begun, granted) = (nodes.cpu()?, Instant::now(), cell.granted());
    let answered = write(address, how.rate / CHANGES_PER_TENANT, Duration::from_secs(how.seconds), keys).await?;
    let (cpu, wrote) = (nodes.cpu()? - cpu, begun.elapsed().as_secs_f64());
    cell.owns(granted + answered.len() as u64).await?;
    tokio::time::sleep(PATIENCE).await;
    let (all_seen, watching_cpu) = watching.end()?;
    let (mut late, mut since_sent) = (Histogram::<u64>::new(3)?, Histogram::<u64>::new(3)?);
    let (mut frames, mut delivered, mut last) = (0, 0, begun);
    for seen in all_seen {
        frames += seen.len();
        delivered += seen.iter().map(|(_, mappings, _)| mappings).sum::<u64>();
        last = seen.last().map_or(last, |(.., arrived)| last.max(*arrived));
        for (revision, sent, at) in &answered {
            let covering = seen.partition_point(|(last, ..)| last < revision);
            if let Some((_, _, arrived)) = seen.get(covering) {
                for (late, from) in [(&mut late, at), (&mut since_sent, sent)] {
                    late.record(u64::try_from(arrived.saturating_duration_since(*from).as_micros())?)?;
                }
            }
        }
    }
    // By the clock, to the last answer and the last arrival: what was asked for is not what has come about.
    let changes = answered.len() as u64 * u64::from(CHANGES_PER_TENANT);
    let (commands, arriving) = (answered.len() as u64, last.duration_since(begun).as_secs_f64());
    let processors = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    // Where nothing arrived, nothing was fast.
    let ms = |micros: u64| if late.is_empty() { f64::NAN } else { number(micros) / 1_000.0 };
    Ok(Seen {
        sent_p99_ms: ms(since_sent.value_at_quantile(0.99)),
        changes_per_second: number(changes) / wrote.max(arriving),
        deliveries_per_second: number(delivered) / arriving,
        frames_per_second_and_watcher: number(frames) / number(watchers) / arriving,
        p50_ms: ms(late.value_at_quantile(0.5)),
        p99_ms: ms(late.value_at_quantile(0.99)),
        worst_ms: ms(late.max()),
        lost: (changes * watchers as u64).saturating_sub(delivered),
        node_cpu_us: cpu.as_secs_f64() * 1e6 / number(commands.max(1)),
        watcher_cpu_us: watching_cpu.as_secs_f64() * 1e6 / number(frames.max(1)),
        busy: (cpu + watching_cpu).as_secs_f64() / wrote / number(processors),
    })
}

/// Watchers on a thread of their own.
struct Watching {
    thread: JoinHandle<anyhow::Result<(Vec<Frames>, Duration)>>,
    /// Without it they end.
    end: DropGuard,
}

impl Watching {
    /// Begins so many, each over a connection of its own, and waits until each has the snapshot.
    async fn begin(address: &str, watchers: usize) -> anyhow::Result<Self> {
        let (address, end, (ready, begun)) = (address.to_owned(), CancellationToken::new(), oneshot::channel());
        let ended = end.clone();
        let live = async move {
            let mut watching = JoinSet::new();
            for _ in 0..watchers {
                watching.spawn(watch(begin(&address).await?, ended.clone()));
            }
            let before = processor_time(OWN)?;
            // Whoever waits is gone only where everything ends.
            let _gone = ready.send(());
            let seen = watching.join_all().await;
            anyhow::Ok((seen, processor_time(OWN)?.saturating_sub(before)))
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let thread = std::thread::Builder::new().name("watchers".into()).spawn(move || runtime.block_on(live))?;
        let watching = Self { thread, end: end.drop_guard() };
        match begun.await {
            Ok(()) => Ok(watching),
            Err(_) => anyhow::bail!("not everybody watches: {:?}", watching.end().err()),
        }
    }

    /// What each has seen, and the processor time of all.
    fn end(self) -> anyhow::Result<(Vec<Frames>, Duration)> {
        drop(self.end);
        self.thread.join().map_err(|_| anyhow::anyhow!("the thread of the watchers has panicked"))?
    }
}

/// Watches, and takes the snapshot.
async fn begin(address: &str) -> anyhow::Result<Streaming<v1::WatchResponse>> {
    let mut client = ControlServiceClient::new(connect(address)?).max_decoding_message_size(16 << 20);
    let request = v1::WatchRequest { client: "bench".into(), ..v1::WatchRequest::default() };
    let mut stream = client.watch(request).await?.into_inner();
    while let Some(response) = next(&mut stream).await? {
        if let Some(Frame::SnapshotEnd(_)) = response.frame {
            return Ok(stream);
        }
    }
    anyhow::bail!("the watch ended within the snapshot")
}

/// The next frame of a snapshot.
async fn next(stream: &mut Streaming<v1::WatchResponse>) -> anyhow::Result<Option<v1::WatchResponse>> {
    Ok(tokio::time::timeout(FRAME, stream.message()).await.context("the snapshot does not go on")??)
}

async fn watch(mut stream: Streaming<v1::WatchResponse>, end: CancellationToken) -> Frames {
    let mut seen = Vec::new();
    loop {
        let next = tokio::select! {
            () = end.cancelled() => return seen,
            next = stream.message() => next,
        };
        match next {
            Ok(Some(v1::WatchResponse { frame: Some(Frame::Changes(sealed)) })) => {
                let Ok(changes) = Counted::decode(sealed.items) else { return seen };
                seen.push((changes.revision, changes.items.len() as u64, Instant::now()));
            }
            Ok(Some(_)) => {}
            Ok(None) | Err(_) => return seen,
        }
    }
}

/// Makes tenants at a steady rate.
async fn write(address: &str, rate: u32, lasting: Duration, keys: &Keys) -> anyhow::Result<Answered> {
    let answered: Arc<Mutex<Answered>> = Arc::default();
    let channels: Vec<Channel> = (0..WRITING_CONNECTIONS).map(|_| connect(address)).collect::<Result<_, _>>()?;
    let (begin, mut sent, mut commands) = (Instant::now(), 0_u32, JoinSet::new());
    let mut tick = tokio::time::interval(Duration::from_millis(2));
    while begin.elapsed() < lasting {
        tick.tick().await;
        let due = begin.elapsed().mul_f64(f64::from(rate)).as_secs();
        while u64::from(sent) < due {
            let mut client = ControlServiceClient::new(channels[sent as usize % channels.len()].clone());
            let answered = Arc::clone(&answered);
            let request = cold::tenant_of(&keys.next());
            commands.spawn(async move {
                let sent = Instant::now();
                let revision = cold::create(&mut client, request).await?;
                answered.lock().unwrap_or_else(PoisonError::into_inner).push((revision, sent, Instant::now()));
                anyhow::Ok(())
            });
            sent += 1;
        }
        while let Some(done) = commands.try_join_next() {
            done??;
        }
    }
    while let Some(done) = commands.join_next().await {
        done??;
    }
    let answered = std::mem::take(&mut *answered.lock().unwrap_or_else(PoisonError::into_inner));
    Ok(answered)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_is_counted_as_it_is_made() {
        let item =
            |mapping: &'static [u8]| v1::WatchItem { item: Some(v1::watch_item::Item::Mapping(mapping.into())) };
        let frame = v1::WatchItems { revision: 1 << 40, items: vec![item(b"one"), item(b""), item(b"three")] };
        let counted = Counted::decode(frame.encode_to_vec().as_slice()).unwrap();
        assert_eq!((counted.revision, counted.items.len()), (frame.revision, 3));
    }

    #[test]
    fn each_measure_of_rounds_has_its_own_median_and_what_was_lost_in_one_was_lost() {
        let round = |p99_ms: f64, changes_per_second: f64, lost: u64| Seen {
            sent_p99_ms: p99_ms + 1.0,
            changes_per_second,
            deliveries_per_second: 1.0,
            frames_per_second_and_watcher: 1.0,
            p50_ms: 1.0,
            p99_ms,
            worst_ms: p99_ms,
            lost,
            node_cpu_us: 1.0,
            watcher_cpu_us: 1.0,
            busy: 0.5,
        };
        let missed = |rounds: &[Seen]| {
            let how =
                Fanout { watchers: vec![WATCHERS], rate: RATE, seconds: 1, rounds: 3, threads: Threads::default() };
            let mut figures = Figures::default();
            Seen::medians(rounds).tell(WATCHERS, &how, &mut figures);
            figures.hold().map_or_else(|missed| missed.missed.len(), |()| 0)
        };
        // One bad moment of the machine is no more than that; two are what there is.
        assert_eq!(missed(&[round(4.0, 1_990.0, 0), round(40.0, 1_000.0, 0), round(4.9, 1_990.0, 0)]), 0);
        assert_eq!(missed(&[round(4.0, 1_990.0, 0), round(5.1, 1_990.0, 0), round(5.1, 1_990.0, 0)]), 1);
        assert_eq!(missed(&[round(4.0, 1_990.0, 0), round(4.0, 1_000.0, 0), round(4.0, 1_000.0, 0)]), 1);
        assert_eq!(missed(&[round(4.0, 1_990.0, 1), round(4.0, 1_990.0, 0), round(4.0, 1_990.0, 0)]), 1);
        // Where nothing arrived, nothing was fast.
        assert_eq!(missed(&[round(f64::NAN, 1_990.0, 0), round(f64::NAN, 1_990.0, 0), round(1.0, 1_990.0, 0)]), 1);
    }
}
