//! A connection that asks for one thing after the other in HTTP/1.1 as bytes: nothing of its own work is in the way of
//! what is measured.

use std::net::SocketAddr;
use std::ops::Range;
use std::time::Duration;

use anyhow::Context;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// How long one answer may take: also of what runs under valgrind.
const ASK_TIME_MAX: Duration = Duration::from_secs(60);

/// A client's connection.
pub(crate) struct Raw {
    stream: TcpStream,
    read: Vec<u8>,
}

impl Raw {
    pub(crate) async fn connect(target: SocketAddr) -> anyhow::Result<Self> {
        let stream = TcpStream::connect(target).await?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, read: Vec::new() })
    }

    /// Sends the head of a request and reads its answer, which has to be 200 and to have a length. Answers the body.
    pub(crate) async fn ask(&mut self, head: &str) -> anyhow::Result<&[u8]> {
        let body =
            tokio::time::timeout(ASK_TIME_MAX, self.exchange(head)).await.context("no answer in a minute")??;
        Ok(&self.read[body])
    }

    /// Answers where in what was read the body is.
    async fn exchange(&mut self, head: &str) -> anyhow::Result<Range<usize>> {
        self.stream.write_all(head.as_bytes()).await?;
        self.read.clear();
        loop {
            anyhow::ensure!(self.stream.read_buf(&mut self.read).await? > 0, "the connection was closed");
            if let Some((body, length)) = answer(&self.read)?
                && self.read.len() >= body + length
            {
                return Ok(body..body + length);
            }
        }
    }
}

/// Where the body of an answer begins, and how long it is. None: its head is not here yet.
fn answer(read: &[u8]) -> anyhow::Result<Option<(usize, usize)>> {
    let Some(end) = read.windows(4).position(|four| four == b"\r\n\r\n") else { return Ok(None) };
    let head = std::str::from_utf8(&read[..end]).context("the head of an answer is no text")?;
    let (first, fields) = head.split_once("\r\n").unwrap_or((head, ""));
    anyhow::ensure!(first.split(' ').nth(1) == Some("200"), "the request was refused: {head}");
    let length = fields.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse().ok()).flatten()
    });
    Ok(Some((end + 4, length.with_context(|| format!("the answer has no length: {head}"))?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_read_once_its_head_is_there_and_must_be_a_good_one() {
        assert_eq!(answer(b"HTTP/1.1 200 OK\r\nContent-Le").unwrap(), None);
        assert_eq!(answer(b"HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\nabc").unwrap(), Some((38, 7)));
        assert!(answer(b"HTTP/1.1 503 Busy\r\ncontent-length: 0\r\n\r\n").is_err());
        assert!(answer(b"HTTP/1.1 200 OK\r\n\r\n").is_err());
    }
}
