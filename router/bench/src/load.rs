//! Load at a fixed rate: a request is sent when its time has come, however the others fare, and its time counts from when
//! it should have been sent. So a proxy that stalls is not spared what would have come meanwhile.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use clap::Args;
use hdrhistogram::Histogram;
use http::Request;
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http1::SendRequest;
use hyper_util::rt::TokioIo;
use serde::{Deserialize, Serialize};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::Instant;

/// Asks at a fixed rate.
#[derive(Debug, Clone, Args)]
pub(crate) struct Load {
    /// Whom
    #[arg(long)]
    pub(crate) target: SocketAddr,
    /// As whom: t-<this>.bench.test
    #[arg(long, default_value_t = 0)]
    pub(crate) tenant: u32,
    /// As so many tenants in turn, far from each other, from that one on
    #[arg(long, default_value_t = 1)]
    pub(crate) spread: u32,
    /// Requests a second
    #[arg(long)]
    pub(crate) rate: f64,
    /// For so long
    #[arg(long)]
    pub(crate) seconds: u32,
    /// What
    #[arg(long, default_value = "/")]
    pub(crate) path: String,
}

/// What came of it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Outcome {
    pub(crate) asked: u64,
    pub(crate) answered: u64,
    /// Status, or what went wrong, and how often.
    pub(crate) others: std::collections::BTreeMap<String, u64>,
    /// Of what was asked: what was not answered with 200 took [`NEVER_MICROS`].
    pub(crate) p50_ms: f64,
    pub(crate) p99_ms: f64,
    pub(crate) max_ms: f64,
    /// Answered with 200 in a second, before the load had ended.
    pub(crate) goodput: f64,
}

/// The part of requests that has to be answered with 200 for the times of those to say something.
pub(crate) const ANSWERED_MIN: f64 = 0.99;

impl Outcome {
    /// As it counts: where too little was answered, nothing was fast.
    pub(crate) fn judged(self) -> Self {
        if self.asked > 0 && self.answered as f64 >= self.asked as f64 * ANSWERED_MIN {
            return self;
        }
        let never = f64::INFINITY;
        Self { p50_ms: never, p99_ms: never, max_ms: never, ..self }
    }
}

type Sender = SendRequest<Empty<Bytes>>;

/// What all requests of one load share.
struct Shared {
    load: Load,
    idle: Mutex<Vec<Sender>>,
    seen: Mutex<Seen>,
}

#[derive(Debug)]
struct Seen {
    took: Histogram<u64>,
    answered: u64,
    answered_in_time: u64,
    others: std::collections::BTreeMap<String, u64>,
}

const REQUEST_TIME_MAX: Duration = Duration::from_secs(10);
/// As what a request counts that was refused or not answered: more than any that was answered may take.
const NEVER_MICROS: u64 = 60_000_000;

impl Seen {
    fn new() -> anyhow::Result<Self> {
        let took = Histogram::new_with_bounds(1, NEVER_MICROS, 3)?;
        Ok(Self { took, answered: 0, answered_in_time: 0, others: Default::default() })
    }

    /// A request that was answered with 200 after so long, or why it was not.
    fn count(&mut self, outcome: Result<(), String>, took: Duration, in_time: bool) {
        match outcome {
            Ok(()) => {
                self.answered += 1;
                self.answered_in_time += u64::from(in_time);
                self.took.saturating_record(u64::try_from(took.as_micros()).unwrap_or(u64::MAX).max(1));
            }
            Err(other) => {
                *self.others.entry(other).or_default() += 1;
                self.took.saturating_record(NEVER_MICROS);
            }
        }
    }

    fn outcome(&self, asked: u64, seconds: f64) -> Outcome {
        let ms = |micros: u64| micros as f64 / 1_000.0;
        Outcome {
            asked,
            answered: self.answered,
            others: self.others.clone(),
            p50_ms: ms(self.took.value_at_quantile(0.5)),
            p99_ms: ms(self.took.value_at_quantile(0.99)),
            max_ms: ms(self.took.max()),
            goodput: self.answered_in_time as f64 / seconds,
        }
    }
}

/// When requests are due, each said when its time has come, and when it all begins. By a thread of its own: the runtime's
/// timers know whole milliseconds and ring after them, so that requests would go out late and several at once, and that
/// would be most of what is measured.
fn turns(rate: f64, whole: Duration) -> (Instant, mpsc::UnboundedReceiver<Instant>) {
    let (say, turns) = mpsc::unbounded_channel();
    let began = std::time::Instant::now();
    std::thread::spawn(move || {
        for n in 0_u64.. {
            let due = Duration::from_secs_f64(n as f64 / rate);
            if due >= whole {
                return;
            }
            std::thread::sleep(due.saturating_sub(began.elapsed()));
            if say.send(Instant::from_std(began + due)).is_err() {
                return;
            }
        }
    });
    (Instant::from_std(began), turns)
}

impl Load {
    /// As whom request `n` is sent.
    fn tenant_of(&self, n: u64) -> u64 {
        let spread = u64::from(self.spread.max(1));
        (u64::from(self.tenant) + n.wrapping_mul(7_919) % spread) % spread.max(u64::from(self.tenant) + 1)
    }

    pub(crate) async fn run(self) -> anyhow::Result<Outcome> {
        let shared = Arc::new(Shared { load: self, idle: Mutex::default(), seen: Mutex::new(Seen::new()?) });
        let seconds = shared.load.seconds;
        let (began, mut turns) = turns(shared.load.rate, Duration::from_secs(seconds.into()));
        let ends = began + Duration::from_secs(seconds.into());
        let mut asked = 0_u64;
        let mut asking = tokio::task::JoinSet::new();
        while let Some(due) = turns.recv().await {
            let shared = Arc::clone(&shared);
            let tenant = shared.load.tenant_of(asked);
            asking.spawn(async move { shared.ask(tenant, due, ends).await });
            asked += 1;
            while asking.try_join_next().is_some() {}
        }
        while asking.join_next().await.is_some() {}
        let seen = shared.seen.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(seen.outcome(asked, f64::from(seconds)))
    }
}

impl Shared {
    async fn ask(&self, tenant: u64, due: Instant, ends: Instant) {
        let outcome = match tokio::time::timeout(REQUEST_TIME_MAX, self.send(tenant)).await {
            Ok(outcome) => outcome,
            Err(_) => Err("no answer in ten seconds".into()),
        };
        let now = Instant::now();
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.count(outcome, now.duration_since(due), now <= ends);
    }

    /// Sends one request and reads its answer to the end. The error: any other status than 200, or what went wrong.
    async fn send(&self, tenant: u64) -> Result<(), String> {
        let mut sender = self.connection().await?;
        let request =
            Request::get(&self.load.path).header("host", format!("t-{tenant}.bench.test")).body(Empty::new());
        let request = request.map_err(|error| error.to_string())?;
        let answer = sender.send_request(request).await.map_err(|error| error.to_string())?;
        let status = answer.status();
        answer.into_body().collect().await.map_err(|error| error.to_string())?;
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(sender);
        if status == http::StatusCode::OK { Ok(()) } else { Err(status.as_u16().to_string()) }
    }

    fn idle(&self) -> Option<Sender> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop()
    }

    async fn connection(&self) -> Result<Sender, String> {
        while let Some(mut sender) = self.idle() {
            // Ready, once what came before has settled; an error where the other side has closed it.
            if sender.ready().await.is_ok() {
                return Ok(sender);
            }
        }
        let stream = TcpStream::connect(self.load.target).await.map_err(|error| error.to_string())?;
        stream.set_nodelay(true).map_err(|error| error.to_string())?;
        let (sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|error| error.to_string())?;
        tokio::spawn(connection);
        Ok(sender)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn every_turn_comes_once_in_order_and_not_before_its_time() {
        let (began, mut turns) = turns(2_000.0, Duration::from_millis(50));
        for n in 0..100 {
            let due = turns.recv().await.unwrap();
            assert_eq!(due.duration_since(began), Duration::from_secs_f64(f64::from(n) / 2_000.0));
            assert!(Instant::now() >= due);
        }
        assert_eq!(turns.recv().await, None);
    }

    #[test]
    fn times_count_where_nearly_all_that_was_asked_was_answered() {
        let p99 = |asked, answered| {
            let others = std::collections::BTreeMap::default();
            Outcome { asked, answered, others, p50_ms: 1.0, p99_ms: 2.0, max_ms: 3.0, goodput: 1.0 }.judged().p99_ms
        };
        assert_eq!((p99(1_000, 990), p99(1_000, 989)), (2.0, f64::INFINITY));
        assert_eq!(p99(0, 0), f64::INFINITY, "nobody has asked");
    }

    #[test]
    fn what_is_refused_is_not_fast_either() {
        let p99 = |slow: u64, refused: u64| {
            let mut seen = Seen::new().unwrap();
            for n in 0..1_000 {
                let outcome = if n < refused { Err("503".to_owned()) } else { Ok(()) };
                let millis = if n < refused + slow { 500 } else { 1 };
                seen.count(outcome, Duration::from_millis(millis), true);
            }
            assert_eq!((seen.answered, seen.others.get("503").copied()), (1_000 - refused, Some(refused)));
            seen.outcome(1_000, 1.0).judged().p99_ms.round()
        };
        assert_eq!(p99(10, 9), 500.0, "one in a hundred is slow beside those that are refused");
        assert_eq!(p99(0, 9), 1.0);
        assert_eq!(p99(0, 11), f64::INFINITY);
    }
}
