//! Answers in which no end is in sight (gRPC, server-sent events, whatever comes without a length): they would go on at a cell
//! that their tenant has left and say nothing of what is new. So they are ended when it has another owner, some time after,
//! because most answers without a length are nearly over, and not all at once.
//!
//! ```text
//! Open ── the tenant has another owner ──► Moved ── the grace, and a share of the spread ──► Ending ──► ended
//!   ▲                                        │                                                 where a message ends, or
//!   └──────── it is as it was ───────────────┘                                                 after a second anywhere
//! ```
//! One look after the other over those of a thread, and none while there are none; of the table only where it has changed.

mod messages;

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Waker};
use std::time::Duration;

use bytes::Bytes;
use cell_model::{Mapping, MappingState};
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderValue};
use http_body::Frame;
use hyper::body::Incoming;
use tokio::time::Instant;

use self::messages::Messages;
use crate::answer::AnswerError;
use crate::body::Upload;
use crate::context::{RequestCtx, Worker};
use crate::refusal::grpc_trailers;
use crate::table::Entry;

/// How often the streams of a thread are looked at.
const LOOK: Duration = Duration::from_millis(250);
/// How long the end of a message is waited for.
const FAREWELL: Duration = Duration::from_secs(1);
/// The status that a client of gRPC takes for a reason to call again.
const UNAVAILABLE: u16 = 14;

/// Whether the tenant has another owner than the one of `opened`, or is another tenant of the same name, or gone.
pub(crate) fn has_left(opened: &Mapping, now: Option<&Mapping>) -> bool {
    now.is_none_or(|now| {
        (now.lineage, now.uid, now.epoch) != (opened.lineage, opened.uid, opened.epoch)
            || now.owner != opened.owner
            || now.state == MappingState::Deleted
    })
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// The table may have changed between its request and its first look.
    New,
    Open,
    /// The tenant has moved; the stream may go on until then.
    Moved(Instant),
    /// It is to end, and where nothing is half said, before then.
    Ending(Instant),
    Late,
}

struct Watched {
    opened: Arc<Entry>,
    stage: Cell<Stage>,
    waker: RefCell<Option<Waker>>,
}

/// The streams of one thread.
#[derive(Default)]
pub(crate) struct Streams {
    open: RefCell<Open>,
    looks: Cell<bool>,
}

#[derive(Default)]
struct Open {
    slots: Vec<Option<Rc<Watched>>>,
    free: Vec<usize>,
}

impl Open {
    fn is_empty(&self) -> bool {
        self.slots.len() == self.free.len()
    }
}

impl Streams {
    fn enter(&self, watched: Rc<Watched>) -> usize {
        let mut open = self.open.borrow_mut();
        if let Some(slot) = open.free.pop() {
            open.slots[slot] = Some(watched);
            return slot;
        }
        open.slots.push(Some(watched));
        open.slots.len() - 1
    }

    fn leave(&self, slot: usize) {
        let mut open = self.open.borrow_mut();
        open.slots[slot] = None;
        if open.free.len() + 1 == open.slots.len() {
            // Nobody is left: as many at once may never come again.
            *open = Open::default();
        } else {
            open.free.push(slot);
        }
    }

    /// Looks at each. `changed`: the table has, since the last time.
    fn look(
        &self,
        now: Instant,
        changed: bool,
        left: impl Fn(&Mapping) -> bool,
        mut patience: impl FnMut() -> Duration,
    ) {
        for watched in self.open.borrow().slots.iter().flatten() {
            let next = match watched.stage.get() {
                Stage::New if left(&watched.opened.mapping) => Stage::Moved(now + patience()),
                Stage::New => Stage::Open,
                Stage::Open if changed && left(&watched.opened.mapping) => Stage::Moved(now + patience()),
                // Where a table is fetched anew, a tenant is gone for a moment.
                Stage::Moved(_) if changed && !left(&watched.opened.mapping) => Stage::Open,
                Stage::Moved(until) if now >= until => Stage::Ending(now + FAREWELL),
                Stage::Ending(until) if now >= until => Stage::Late,
                same => same,
            };
            if watched.stage.replace(next) != next
                && matches!(next, Stage::Ending(_) | Stage::Late)
                && let Some(waker) = watched.waker.take()
            {
                waker.wake();
            }
        }
    }
}

async fn keep_looking(worker: Rc<Worker>) {
    let (streams, directory) = (&worker.streams, &worker.directory);
    let mut seen = None;
    while streams.looks.get() {
        tokio::time::sleep(LOOK).await;
        let changes = directory.changes();
        let changed = seen.replace(changes) != Some(changes);
        let left = |opened: &Mapping| {
            has_left(opened, directory.find(&opened.tenant).as_deref().map(|entry| &entry.mapping))
        };
        let patience = || {
            let live = worker.live();
            live.timeouts.stream_grace + worker.dice.share_of(live.timeouts.tunnel_close_spread)
        };
        streams.look(Instant::now(), changed, left, patience);
        streams.looks.set(!streams.open.borrow().is_empty());
    }
}

/// How a client is told that there would have been more.
enum Manner {
    /// By a status in the trailers.
    Grpc(Messages),
    /// Not at all: it asks again by itself, with the last event that it has seen.
    Events,
    /// By an answer that breaks off.
    Cut,
}

/// An answer in which no end is in sight.
pub(crate) struct Ongoing {
    worker: Rc<Worker>,
    slot: usize,
    watched: Rc<Watched>,
    manner: Manner,
    upload: Upload<Incoming>,
}

impl Ongoing {
    pub(crate) fn new(worker: &Rc<Worker>, ctx: &RequestCtx, headers: &HeaderMap) -> Option<Box<Self>> {
        let opened = ctx.entry.clone()?;
        let kind = headers.get(CONTENT_TYPE).map(HeaderValue::as_bytes).unwrap_or_default();
        let manner = if ctx.is_grpc && ctx.conn.said.is_none() && kind.starts_with(b"application/grpc") {
            Manner::Grpc(Messages::default())
        } else if kind.starts_with(b"text/event-stream") {
            Manner::Events
        } else {
            Manner::Cut
        };
        let watched = Rc::new(Watched { opened, stage: Cell::new(Stage::New), waker: RefCell::default() });
        let slot = worker.streams.enter(Rc::clone(&watched));
        if !worker.streams.looks.replace(true) {
            tokio::task::spawn_local(keep_looking(Rc::clone(worker)));
        }
        let upload = ctx.upload.clone();
        Some(Box::new(Self { worker: Rc::clone(worker), slot, watched, manner, upload }))
    }

    /// The last of it, where it is to end here.
    pub(crate) fn end(&mut self, cx: &Context<'_>) -> Option<Option<Result<Frame<Bytes>, AnswerError>>> {
        let ends = match (self.watched.stage.get(), &self.manner) {
            (Stage::New | Stage::Open | Stage::Moved(_), _) => false,
            (Stage::Ending(_), Manner::Grpc(messages)) => messages.is_between(),
            (Stage::Ending(_) | Stage::Late, _) => true,
        };
        if !ends {
            let mut waker = self.watched.waker.borrow_mut();
            if waker.as_ref().is_none_or(|waker| !waker.will_wake(cx.waker())) {
                *waker = Some(cx.waker().clone());
            }
            return None;
        }
        // Nobody listens to what the client would still say.
        self.upload.abandon();
        self.worker.metrics.streams_quiesced.inc();
        Some(match self.manner {
            Manner::Grpc(_) => Some(Ok(Frame::trailers(self.status()))),
            Manner::Events => None,
            Manner::Cut => Some(Err(AnswerError::Moved)),
        })
    }

    fn status(&self) -> HeaderMap {
        let tenant = &self.watched.opened.mapping.tenant;
        let message = format!("tenant {tenant} has moved to another cell, and this stream has not: call again");
        grpc_trailers(UNAVAILABLE, "STREAM_MOVED", &message)
    }

    /// As much of a piece as still goes to the client.
    pub(crate) fn pass(&mut self, frame: Frame<Bytes>) -> Frame<Bytes> {
        let ends = matches!(self.watched.stage.get(), Stage::Ending(_));
        self.manner.pass(frame, ends)
    }
}

impl Manner {
    /// `ends`: nothing after the message that has been begun.
    fn pass(&mut self, frame: Frame<Bytes>, ends: bool) -> Frame<Bytes> {
        let Self::Grpc(messages) = self else { return frame };
        match frame.into_data() {
            Ok(data) if ends => {
                let length = messages.pass_to_end(&data);
                Frame::data(data.slice(..length))
            }
            Ok(data) => {
                messages.pass(&data);
                Frame::data(data)
            }
            Err(frame) => frame,
        }
    }
}

impl Drop for Ongoing {
    fn drop(&mut self) {
        self.worker.streams.leave(self.slot);
    }
}

#[cfg(test)]
mod tests;
