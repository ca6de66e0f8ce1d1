//! A way to a server on which answers to an agent are lost: what was to be committed is committed, and the connection is cut before the
//! agent hears of it. Once for each kind of transaction, so that whoever asks again comes to the next one.

use std::collections::BTreeSet;
use std::io;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};

use super::wire::port_of;

/// A message with which a connection may begin: whether the server would speak TLS.
const ASKS_FOR_TLS: [u8; 4] = 80_877_103_u32.to_be_bytes();
/// Whose answers are lost, in the message that names the session.
const AGENT: &[u8] = b"\0cellway agent\0";

/// What is said when something is made durable, as the server says it again.
const ENDS: [&[u8]; 3] = [b"COMMIT\0", b"CREATE DATABASE\0", b"DROP DATABASE\0"];

/// See the module.
pub(super) struct Answers {
    port: u16,
    lost: Arc<Mutex<Lost>>,
}

#[derive(Default)]
struct Lost {
    /// They are lost at the moment.
    now: bool,
    /// What was said in each transaction of which the answer was lost.
    transactions: BTreeSet<String>,
}

/// The answer that is waited for, and what it is to: that one does not arrive.
type Awaited = Arc<Mutex<Option<(&'static [u8], String)>>>;

impl Answers {
    pub(super) async fn of(url: &str) -> Self {
        let (server, lost) = (port_of(url), Arc::<Mutex<Lost>>::default());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (port, here) = (listener.local_addr().unwrap().port(), Arc::clone(&lost));
        tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                tokio::spawn(carry(near, server, Arc::clone(&here)));
            }
        });
        Self { port, lost }
    }

    /// The same address by way of this.
    pub(super) fn url(&self, url: &str) -> String {
        url.replace(&format!(":{}/", port_of(url)), &format!(":{}/", self.port))
    }

    /// From now on.
    pub(super) fn get_lost(&self) {
        *self.lost.lock().unwrap() = Lost { now: true, ..Lost::default() };
    }

    /// From now on they arrive. What was said in the transactions of which they did not.
    pub(super) fn arrive(&self) -> BTreeSet<String> {
        std::mem::take(&mut *self.lost.lock().unwrap()).transactions
    }
}

async fn carry(mut near: TcpStream, server: u16, lost: Arc<Mutex<Lost>>) -> io::Result<()> {
    let mut far = TcpStream::connect(("127.0.0.1", server)).await?;
    near.set_nodelay(true)?;
    far.set_nodelay(true)?;
    let is_agent = loop {
        let length = near.read_u32().await?;
        let mut said = vec![0; length as usize - 4];
        near.read_exact(&mut said).await?;
        far.write_all(&[&length.to_be_bytes()[..], &said].concat()).await?;
        if said != ASKS_FOR_TLS {
            break said.windows(AGENT.len()).any(|part| part == AGENT);
        }
        // It does not.
        near.write_u8(far.read_u8().await?).await?;
    };
    if !is_agent {
        tokio::io::copy_bidirectional(&mut near, &mut far).await?;
        return Ok(());
    }
    let (from_near, to_near) = near.into_split();
    let (from_far, to_far) = far.into_split();
    let awaited = Awaited::default();
    // Whichever ends first takes the other one along.
    tokio::select! {
        ended = ask((from_near, to_far), &awaited, &lost) => ended,
        ended = answer((from_far, to_near), &awaited, &lost) => ended,
    }
}

async fn message(from: &mut BufReader<OwnedReadHalf>) -> io::Result<(u8, Vec<u8>)> {
    let (kind, length) = (from.read_u8().await?, from.read_u32().await?);
    let mut body = vec![0; length as usize - 4];
    from.read_exact(&mut body).await?;
    Ok((kind, body))
}

async fn pass(to: &mut OwnedWriteHalf, kind: u8, body: &[u8]) -> io::Result<()> {
    let length = u32::try_from(body.len() + 4).unwrap();
    to.write_all(&[&[kind][..], &length.to_be_bytes(), body].concat()).await
}

/// The statement in a message, if it is one of those that have any.
fn statement(kind: u8, body: &[u8]) -> Option<String> {
    let mut parts = body.split(|byte| *byte == 0).map(|part| String::from_utf8_lossy(part).into_owned());
    match kind {
        b'Q' => parts.next(),
        // Behind its name.
        b'P' => parts.nth(1),
        _ => None,
    }
}

async fn ask(
    (from, mut to): (OwnedReadHalf, OwnedWriteHalf),
    awaited: &Awaited,
    lost: &Mutex<Lost>,
) -> io::Result<()> {
    let (mut from, mut said) = (BufReader::new(from), Vec::new());
    loop {
        let (kind, body) = message(&mut from).await?;
        if let Some(sql) = statement(kind, &body) {
            let answer = ENDS.into_iter().find(|end| sql.as_bytes().starts_with(&end[..end.len() - 1]));
            if ["BEGIN", "START TRANSACTION"].contains(&sql.as_str()) {
                said.clear();
            }
            said.push(sql);
            let lost = lost.lock().unwrap();
            // A database that is made has another number each time.
            let all = match answer {
                Some(end) if end != ENDS[0] => String::from_utf8_lossy(end).into_owned(),
                _ => said.join("; "),
            };
            *awaited.lock().unwrap() =
                answer.filter(|_| lost.now && !lost.transactions.contains(&all)).map(|answer| (answer, all));
        }
        pass(&mut to, kind, &body).await?;
    }
}

async fn answer(
    (from, mut to): (OwnedReadHalf, OwnedWriteHalf),
    awaited: &Awaited,
    lost: &Mutex<Lost>,
) -> io::Result<()> {
    let mut from = BufReader::new(from);
    loop {
        let (kind, body) = message(&mut from).await?;
        if kind == b'C' {
            let found = awaited.lock().unwrap().take_if(|(answer, _)| *answer == body);
            if let Some((_, transaction)) = found {
                lost.lock().unwrap().transactions.insert(transaction);
                return Ok(());
            }
        }
        pass(&mut to, kind, &body).await?;
    }
}
