//! A cell's application reduced to an answer: as little work as possible, so that what is measured is the proxy.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

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
    /// Text at the beginning of each answer
    #[arg(long, default_value = "")]
    pub(crate) name: String,
}

const HEAD_MAX: usize = 32 << 10;

impl Origin {
    pub(crate) async fn serve(self) -> anyhow::Result<()> {
        let listener = TcpListener::bind(self.listen).await?;
        self.serve_at(listener).await
    }

    pub(crate) async fn serve_at(self, listener: TcpListener) -> anyhow::Result<()> {
        let places = Arc::new(Semaphore::new(if self.places == 0 { Semaphore::MAX_PERMITS } else { self.places }));
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

    async fn connection(&self, mut stream: TcpStream, places: &Semaphore) -> std::io::Result<()> {
        stream.set_nodelay(true)?;
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
                let _place = places.acquire().await;
                tokio::time::sleep(Duration::from_millis(self.service_ms)).await;
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

fn answer(name: &str, bytes: usize) -> Vec<u8> {
    let mut body = name.as_bytes().to_vec();
    body.resize(bytes.max(name.len()), b'x');
    let mut answer =
        format!("HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: {}\r\n\r\n", body.len())
            .into_bytes();
    answer.extend(body);
    answer
}
