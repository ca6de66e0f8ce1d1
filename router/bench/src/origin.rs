//! A cell's application reduced to an answer: as little work as possible, so that what is measured is the proxy.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use clap::Args;
use http::header::{CONTENT_TYPE, HeaderName};
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Instant;

/// Answers every request with so many bytes. `GET /<bytes>` asks for another number of them.
#[derive(Debug, Clone, Args)]
pub(crate) struct Origin {
    /// Where it listens
    #[arg(long)]
    pub(crate) listen: SocketAddr,
    /// Bytes of an answer
    #[arg(long, default_value_t = 128)]
    pub(crate) bytes: usize,
    /// Answers at once; 0: no limit
    #[arg(long, default_value_t = 0)]
    pub(crate) places: usize,
    /// Milliseconds that an answer takes
    #[arg(long, default_value_t = 0)]
    pub(crate) service_ms: u64,
    /// Answers gRPC calls, over HTTP/2
    #[arg(long)]
    pub(crate) grpc: bool,
    /// Text at the beginning of each answer
    #[arg(long, default_value = "")]
    pub(crate) name: String,
}

/// Places that answer one after the other: as many a second as they can, however late whoever waits is woken. Each knows
/// from when on it is free.
struct Places(Mutex<BinaryHeap<Reverse<Instant>>>);

impl Places {
    /// 0: no limit.
    fn new(count: usize) -> Self {
        Self(Mutex::new(std::iter::repeat_n(Reverse(Instant::now()), count).collect()))
    }

    /// When what comes now is answered, where that takes so long.
    fn done(&self, now: Instant, takes: Duration) -> Instant {
        let mut free = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(Reverse(next)) = free.pop() else { return now + takes };
        let done = next.max(now) + takes;
        free.push(Reverse(done));
        done
    }
}

const HEAD_MAX: usize = 32 << 10;
const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");

impl Origin {
    pub(crate) async fn serve(self) -> anyhow::Result<()> {
        let listener = TcpListener::bind(self.listen).await?;
        self.serve_at(listener).await
    }

    pub(crate) async fn serve_at(self, listener: TcpListener) -> anyhow::Result<()> {
        let places = Arc::new(Places::new(self.places));
        let origin = Arc::new(self);
        loop {
            let (stream, _) = listener.accept().await?;
            let (origin, places) = (Arc::clone(&origin), Arc::clone(&places));
            tokio::spawn(async move {
                // A client that has gone is no matter of the origin's.
                let _gone = origin.connection(stream, &places).await;
            });
        }
    }

    /// Answers each call with one message and the status OK behind it.
    async fn grpc(&self, stream: TcpStream) {
        let usual = self.bytes;
        let service = service_fn(move |call: Request<Incoming>| async move {
            let bytes = call.uri().path().strip_prefix('/').and_then(|path| path.parse().ok()).unwrap_or(usual);
            call.into_body().collect().await?;
            let trailers = HeaderMap::from_iter([(GRPC_STATUS, HeaderValue::from_static("0"))]);
            let body = Full::new(Bytes::from(message(bytes))).with_trailers(async { Some(Ok(trailers)) });
            let mut answer = Response::new(body);
            answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
            Ok::<_, hyper::Error>(answer)
        });
        let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
        // A client that has gone is no matter of the origin's.
        let _gone = server.serve_connection(TokioIo::new(stream), service).await;
    }

    async fn connection(&self, mut stream: TcpStream, places: &Places) -> std::io::Result<()> {
        stream.set_nodelay(true)?;
        if self.grpc {
            self.grpc(stream).await;
            return Ok(());
        }
        let mut read = Vec::with_capacity(4_096);
        let usual = answer(&self.name, self.bytes);
        loop {
            while !read.windows(4).any(|four| four == b"\r\n\r\n") {
                if stream.read_buf(&mut read).await? == 0 || read.len() > HEAD_MAX {
                    return Ok(());
                }
            }
            let asked = asked_bytes(&read);
            read.clear();
            if self.service_ms > 0 {
                tokio::time::sleep_until(places.done(Instant::now(), Duration::from_millis(self.service_ms))).await;
            }
            match asked {
                Some(bytes) => stream.write_all(&answer(&self.name, bytes)).await?,
                None => stream.write_all(&usual).await?,
            }
        }
    }
}

/// The number in `GET /<bytes> HTTP/1.1`.
fn asked_bytes(head: &[u8]) -> Option<usize> {
    let path = head.strip_prefix(b"GET /")?;
    let end = path.iter().position(|byte| *byte == b' ')?;
    std::str::from_utf8(&path[..end]).ok()?.parse().ok().filter(|bytes| *bytes <= 64 << 20)
}

/// A gRPC message of so many bytes, not compressed.
pub(crate) fn message(bytes: usize) -> Vec<u8> {
    let mut message = vec![0];
    message.extend(u32::try_from(bytes).unwrap_or(u32::MAX).to_be_bytes());
    message.resize(message.len() + bytes, b'x');
    message
}

fn answer(name: &str, bytes: usize) -> Vec<u8> {
    let mut body = name.as_bytes().to_vec();
    body.resize(bytes.max(name.len()), b'x');
    let mut answer =
        format!("HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: {}\r\n\r\n", body.len())
            .into_bytes();
    answer.extend(body);
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ten_places_of_twenty_milliseconds_answer_five_hundred_a_second_in_their_order() {
        let (places, at) = (Places::new(10), Instant::now());
        let ms = Duration::from_millis;
        let done: Vec<Duration> = (0..1_000).map(|_| places.done(at, ms(20)) - at).collect();
        assert_eq!((done[0], done[9], done[10], done[999]), (ms(20), ms(20), ms(40), ms(2_000)));
        assert!(done.is_sorted());
        // Nobody has come for a while: what was not used is not made up for.
        assert_eq!(places.done(at + ms(5_000), ms(20)) - at, ms(5_020));
        let unlimited = Places::new(0);
        assert!((0..100).all(|_| unlimited.done(at, ms(20)) - at == ms(20)));
    }
}
