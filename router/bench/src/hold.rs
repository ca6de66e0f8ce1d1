//! Connections that ask once and then say nothing more, held in a process of their own: a process has only so many file
//! descriptors.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::SocketAddr;
use std::process::{Child, ChildStdout, Stdio};
use std::time::Duration;

use anyhow::Context as _;
use tokio::task::JoinSet;

use crate::proxies::on_core;
use crate::raw::Raw;

/// How many are opened, or ask, at once.
const AT_ONCE: u32 = 8;
/// How long opening all of them may take, or asking on all of them again.
const TIME_MAX: Duration = Duration::from_secs(120);
/// What each asks for.
const ASKED: &str = "GET /16 HTTP/1.1\r\nhost: t-7.bench.test\r\nuser-agent: idle\r\naccept: */*\r\n\r\n";

/// Opens connections, asks once on each, and holds them. It says how many have been answered; for each line that it is given
/// it asks on all of them again, and says that; and it ends when nothing more can come.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Hold {
    /// Whom
    #[arg(long)]
    target: SocketAddr,
    /// How many
    #[arg(long)]
    connections: u32,
}

impl Hold {
    pub(crate) async fn run(self) -> anyhow::Result<()> {
        let shares =
            (0..AT_ONCE).map(|part| self.connections / AT_ONCE + u32::from(part < self.connections % AT_ONCE));
        let target = self.target;
        let opening = shares.map(|count| async move {
            let mut held = Vec::new();
            for _ in 0..count {
                // Each asks at once: who has nothing to say is sent away.
                let mut client = Raw::connect(target).await?;
                client.ask(ASKED).await?;
                held.push(client);
            }
            anyhow::Ok(held)
        });
        let mut held = of_all(opening).await.context("opening connections")?;
        let mut lines = std::io::stdin().lock().lines();
        loop {
            println!("{}", held.iter().map(Vec::len).sum::<usize>());
            if lines.next().transpose()?.is_none() {
                return Ok(());
            }
            let asking = held.into_iter().map(|mut held: Vec<Raw>| async move {
                for client in &mut held {
                    client.ask(ASKED).await?;
                }
                anyhow::Ok(held)
            });
            held = of_all(asking).await.context("asking on connections that are held")?;
        }
    }
}

/// What each of them comes to, all in time.
async fn of_all<T: Send + 'static>(
    parts: impl Iterator<Item = impl Future<Output = anyhow::Result<T>> + Send + 'static>,
) -> anyhow::Result<Vec<T>> {
    let working: JoinSet<_> = parts.collect();
    let all = async {
        let outcomes = working.join_all().await;
        outcomes.into_iter().collect::<anyhow::Result<Vec<T>>>()
    };
    tokio::time::timeout(TIME_MAX, all).await.context("that takes more than two minutes")?
}

/// [`Hold`] in a process of its own, on core 1, until it is dropped.
pub(crate) struct Holder {
    process: Child,
    said: BufReader<ChildStdout>,
    connections: u32,
}

impl Holder {
    /// Begins to open them.
    pub(crate) fn start(target: SocketAddr, connections: u32) -> anyhow::Result<Self> {
        let mut process = on_core(1, std::env::current_exe()?)
            .args(["hold", "--target", &target.to_string(), "--connections", &connections.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot start what holds connections: is taskset here?")?;
        let said = BufReader::new(process.stdout.take().context("it was given no output")?);
        Ok(Self { process, said, connections })
    }

    /// Waits until all of them have been answered.
    pub(crate) fn answered(&mut self) -> anyhow::Result<()> {
        let mut line = String::new();
        self.said.read_line(&mut line)?;
        let answered: u32 = line.trim().parse().context("what holds connections has ended: see above")?;
        anyhow::ensure!(answered == self.connections, "{answered} of {} were answered", self.connections);
        Ok(())
    }

    /// Asks on all of them again: whoever has closed one is found out.
    pub(crate) fn ask_again(&mut self) -> anyhow::Result<()> {
        let input = self.process.stdin.as_mut().context("it was given no input")?;
        writeln!(input, "again")?;
        self.answered()
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ended = self.process.kill();
        let _reaped = self.process.wait();
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn a_connection_that_is_closed_meanwhile_is_found_out() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let target = listener.local_addr().unwrap();
        tokio::spawn(async move {
            for times in [2, 1] {
                let (mut stream, _) = listener.accept().await.unwrap();
                tokio::spawn(async move {
                    for _ in 0..times {
                        let mut asked = vec![0; ASKED.len()];
                        stream.read_exact(&mut asked).await.unwrap();
                        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await.unwrap();
                    }
                });
            }
        });
        let mut held = Vec::new();
        for _ in 0..2 {
            held.push(Raw::connect(target).await.unwrap());
        }
        let ask = |mut client: Raw| async move {
            client.ask(ASKED).await?;
            anyhow::Ok(client)
        };
        let held = of_all(held.into_iter().map(ask)).await.unwrap();
        assert!(of_all(held.into_iter().map(ask)).await.is_err());
    }
}
