//! The watch as routers have it: real nodes that sign what they hand out, a steady writer, many watchers.
//!
//! What is measured is from the answer of a command to the arrival, at a watcher, of a frame that covers its revision. The
//! answer comes after the commit, so the time since the command was sent, which is before it, is told, too. The watchers do
//! not verify: a hundred of them on the machine of the nodes would be most of what is measured. `cold` does.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context;
use cell_figures::{Figure, Figures};
use cell_protos::v1;
use cell_protos::v1::control_service_client::ControlServiceClient;
use cell_protos::v1::watch_response::Frame;
use hdrhistogram::Histogram;
use prost::Message;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tonic::Streaming;
use tonic::transport::Channel;

use crate::ground::Ground;
use crate::load::Keys;
use crate::nodes::{Kind, NodeOptions, Nodes, connect};
use crate::{cold, number, say};

/// How long after the last command a watcher may see it.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long the next frame of a snapshot may take.
const FRAME: Duration = Duration::from_secs(60);
const WRITING_CONNECTIONS: usize = 8;

/// The watchers and the rate of which the floor is.
const WATCHERS: usize = 100;
const RATE: u32 = 2_000;
/// How much of the rate has to have come about, for what was seen to be of it.
const RATE_HELD: f64 = 0.95;

/// Routers that watch, each over a connection of its own, beside a steady writer
#[derive(Debug, clap::Args)]
pub(crate) struct Fanout {
    /// Routers at once
    #[arg(long, value_delimiter = ',', default_values_t = [100, 200])]
    watchers: Vec<usize>,
    /// New tenants a second
    #[arg(long, default_value_t = RATE)]
    rate: u32,
    /// Seconds of one measurement
    #[arg(long, default_value_t = 10)]
    seconds: u64,
}

/// What the watchers saw.
#[derive(Debug, Clone, Copy)]
struct Seen {
    /// From when a command was sent.
    sent_p99_ms: f64,
    commands_per_second: f64,
    deliveries_per_second: f64,
    frames_per_second_and_watcher: f64,
    p50_ms: f64,
    p99_ms: f64,
    worst_ms: f64,
    /// Changes that a watcher did not get, of all watchers.
    lost: u64,
    /// Processor time of all nodes for one command, with everything that its watchers cost.
    node_cpu_us: f64,
}

/// One watcher's frames: up to which revision, with how many mappings, and when.
type Frames = Vec<(u64, u64, Instant)>;
/// At which revision a command was done, when it was sent and when it was answered.
type Answered = Vec<(u64, Instant, Instant)>;

impl Seen {
    fn tell(self, watchers: usize, how: &Fanout, figures: &mut Figures) {
        let measure = |what: &str| format!("watch, {watchers} routers at {}/s: {what}", how.rate);
        let asked = watchers == WATCHERS && how.rate >= RATE;
        let floor = asked.then_some(5.0);
        figures.add(Figure::at_most(measure("answered until delivered, p99"), "ms", self.p99_ms, floor, None));
        figures.add(Figure::free(measure("sent until delivered, p99"), "ms", self.sent_p99_ms));
        figures.add(Figure::free(measure("p50"), "ms", self.p50_ms));
        figures.add(Figure::free(measure("worst"), "ms", self.worst_ms));
        let least = asked.then_some(f64::from(how.rate) * RATE_HELD);
        figures.add(Figure::at_least(measure("commands"), "/s", self.commands_per_second, least));
        figures.add(Figure::at_least(measure("deliveries"), "/s", self.deliveries_per_second, None));
        figures.add(Figure::free(measure("frames to each"), "/s", self.frames_per_second_and_watcher));
        figures.add(Figure::at_most(
            measure("changes that did not arrive"),
            "",
            number(self.lost),
            Some(0.0),
            None,
        ));
        figures.add(Figure::free(measure("processor time of all nodes for a command"), "µs", self.node_cpu_us));
    }
}

pub(crate) async fn run(fanout: &Fanout, ground: &Ground, figures: &mut Figures) -> anyhow::Result<()> {
    let directory = ground.directory()?;
    let options = NodeOptions { control: Some(ground.control()?), ..NodeOptions::default() };
    let nodes = Nodes::start(Kind::Control, directory.path(), 3, options).await?;
    let address = nodes.addresses[nodes.leader().await?].clone();
    make_cell(&address).await?;
    let keys = Keys::default();
    for watchers in &fanout.watchers {
        let seen = measure(&nodes, &address, *watchers, fanout, &keys).await?;
        say(&format!("{watchers} watchers: {seen:?}\n"));
        seen.tell(*watchers, fanout, figures);
    }
    Ok(())
}

pub(crate) async fn make_cell(address: &str) -> anyhow::Result<()> {
    let cell = v1::Cell {
        id: "cell-1".into(),
        gates: vec!["10.0.0.1:8080".into()],
        agent: "10.0.0.1:9090".into(),
        ..v1::Cell::default()
    };
    let request = v1::CreateCellRequest { cell: Some(cell), options: None };
    ControlServiceClient::new(connect(address)?).create_cell(request).await?;
    Ok(())
}

async fn measure(nodes: &Nodes, address: &str, watchers: usize, how: &Fanout, keys: &Keys) -> anyhow::Result<Seen> {
    let (end, mut watching) = (CancellationToken::new(), JoinSet::new());
    for _ in 0..watchers {
        let stream = begin(address).await?;
        watching.spawn(watch(stream, end.clone()));
    }
    let (cpu, begun) = (nodes.cpu()?, Instant::now());
    let answered = write(address, how.rate, Duration::from_secs(how.seconds), keys).await?;
    let (cpu, wrote) = (nodes.cpu()? - cpu, begun.elapsed().as_secs_f64());
    tokio::time::sleep(PATIENCE).await;
    end.cancel();
    let (mut late, mut since_sent) = (Histogram::<u64>::new(3)?, Histogram::<u64>::new(3)?);
    let (mut frames, mut delivered, mut last) = (0, 0, begun);
    while let Some(seen) = watching.join_next().await {
        let seen = seen?;
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
    let (commands, arriving) = (answered.len() as u64, last.duration_since(begun).as_secs_f64());
    // Where nothing arrived, nothing was fast.
    let ms = |micros: u64| if late.is_empty() { f64::NAN } else { number(micros) / 1_000.0 };
    Ok(Seen {
        sent_p99_ms: ms(since_sent.value_at_quantile(0.99)),
        commands_per_second: number(commands) / wrote,
        deliveries_per_second: number(delivered) / arriving,
        frames_per_second_and_watcher: number(frames) / number(watchers) / arriving,
        p50_ms: ms(late.value_at_quantile(0.5)),
        p99_ms: ms(late.value_at_quantile(0.99)),
        worst_ms: ms(late.max()),
        lost: (commands * watchers as u64).saturating_sub(delivered),
        node_cpu_us: cpu.as_secs_f64() * 1e6 / number(commands.max(1)),
    })
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
                let Ok(changes) = v1::WatchItems::decode(sealed.items) else { return seen };
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
                let revision = client.create_tenant(request).await?.into_inner().revision;
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
