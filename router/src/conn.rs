//! What is known of a client's connection, for the requests that come on it and for the watch over it.

use std::cell::{Cell, OnceCell, RefCell};
use std::net::IpAddr;
use std::rc::{Rc, Weak};
use std::sync::Arc;

use cell_gate::StampValues;
use http::{Extensions, HeaderName, HeaderValue};
use tokio::time::Instant;

use crate::identify::Proven;
use crate::strict::Said;
use crate::table::Entry;

/// A client's connection.
pub(crate) struct Conn {
    pub(crate) peer: IpAddr,
    /// The same as cells are told, from the first request on.
    shown: OnceCell<HeaderValue>,
    /// What a request carries so that a cell's interim answers come here, from the first one on.
    hearing: OnceCell<Extensions>,
    /// Over TLS.
    pub(crate) secure: bool,
    /// The tenant that the client's certificate is for.
    pub(crate) certified: Proven,
    /// The strict reader's other end, on HTTP/1.
    pub(crate) said: Option<Arc<Said>>,
    pub(crate) activity: Activity,
    /// By what its last request was routed: the next one is for the same tenant, mostly.
    last: RefCell<Option<Last>>,
    /// Its place among the connections of its thread. What the connection becomes by an upgrade keeps it.
    _place: Option<Place>,
}

/// A place among the connections of a thread.
pub(crate) type Place = tokio::sync::OwnedSemaphorePermit;

impl Conn {
    pub(crate) fn new(came: Came, certified: Proven, said: Option<Arc<Said>>) -> Rc<Self> {
        let Came { peer, secure, place } = came;
        let (shown, hearing, activity) = (OnceCell::new(), OnceCell::new(), Activity::new());
        let last = RefCell::default();
        Rc::new(Self { peer, shown, hearing, secure, certified, said, activity, last, _place: place })
    }
}

impl Conn {
    /// The client's address as a header value.
    pub(crate) fn shown_peer(&self) -> &HeaderValue {
        self.shown.get_or_init(|| {
            HeaderValue::from_str(&self.peer.to_string()).expect("digits, dots and colons are a header value")
        })
    }

    /// What a request carries, made once: a copy costs half of what making it does.
    pub(crate) fn hearing(&self, make: impl FnOnce() -> Extensions) -> Extensions {
        self.hearing.get_or_init(make).clone()
    }
}

/// Who is told the fields of a head, one by one.
pub(crate) type Say<'s> = dyn FnMut(&HeaderName, &HeaderValue) + 's;

/// A table's entry, and what stands of it in each head that goes by it.
struct Last {
    entry: Arc<Entry>,
    stamp: StampValues,
}

impl Conn {
    /// The entry that the last request went by.
    pub(crate) fn last_entry(&self) -> Option<Arc<Entry>> {
        self.last.borrow().as_ref().map(|last| Arc::clone(&last.entry))
    }

    /// Nothing has been asked for a while: what the next request might use again would only take room.
    pub(crate) fn rests(&self) {
        self.last.take();
    }

    /// Says the stamp of the entry. The next request may go by the same.
    pub(crate) fn stamp(&self, entry: &Arc<Entry>, say: &mut Say<'_>) {
        let mut last = self.last.borrow_mut();
        let last = match &mut *last {
            Some(last) if Arc::ptr_eq(&last.entry, entry) => last,
            other => {
                let mapping = &entry.mapping;
                let stamp = StampValues::new(&mapping.tenant, mapping.uid, mapping.epoch);
                other.insert(Last { entry: Arc::clone(entry), stamp })
            }
        };
        for (name, value) in last.stamp.fields() {
            say(name, value);
        }
    }
}

/// From where and how a connection came.
pub(crate) struct Came {
    pub(crate) peer: IpAddr,
    pub(crate) secure: bool,
    pub(crate) place: Option<Place>,
}

/// Cancelled requests that a connection may have before they are compared with the answered ones.
const CANCELLED_FREE: u32 = 100;

/// What happens on a connection with many requests at once.
pub(crate) struct Activity {
    in_flight: Cell<u32>,
    last: Cell<Instant>,
    answered: Cell<u32>,
    cancelled: Cell<u32>,
    /// Answers on their way, each with when a piece of it was handed over that the client has not made room for yet.
    answers: RefCell<Vec<Weak<Handed>>>,
}

/// When the last piece of an answer was handed over, while nobody asks for the next.
pub(crate) type Handed = Cell<Option<Instant>>;

impl Activity {
    fn new() -> Self {
        Self {
            in_flight: Cell::new(0),
            last: Cell::new(Instant::now()),
            answered: Cell::new(0),
            cancelled: Cell::new(0),
            answers: RefCell::default(),
        }
    }

    /// When nothing has been going on since. None: something is.
    pub(crate) fn idle_since(&self) -> Option<Instant> {
        (self.in_flight.get() == 0).then(|| self.last.get())
    }

    /// Whether the client has asked for anything yet.
    pub(crate) fn has_begun(&self) -> bool {
        [&self.in_flight, &self.answered, &self.cancelled].iter().any(|count| count.get() > 0)
    }

    /// Whether most of what the client asks for it takes back before it is answered: that costs us and not him.
    pub(crate) fn is_abused(&self) -> bool {
        self.cancelled.get() > CANCELLED_FREE && self.cancelled.get() > self.answered.get()
    }

    /// Since when the client has not made room for an answer, the longest of them.
    pub(crate) fn stalled_since(&self) -> Option<Instant> {
        let mut answers = self.answers.borrow_mut();
        answers.retain(|answer| answer.strong_count() > 0);
        answers.iter().filter_map(|answer| answer.upgrade()?.get()).min()
    }
}

/// A request of a connection, until its answer has gone or the client has.
pub(crate) struct Busy {
    conn: Rc<Conn>,
    /// HTTP/1 has one answer at a time and a socket that tells when nobody reads.
    handed: Option<Rc<Handed>>,
    answered: bool,
}

impl Busy {
    pub(crate) fn new(conn: &Rc<Conn>) -> Self {
        let activity = &conn.activity;
        activity.in_flight.set(activity.in_flight.get() + 1);
        let handed = conn.said.is_none().then(Rc::<Handed>::default);
        if let Some(handed) = &handed {
            activity.answers.borrow_mut().push(Rc::downgrade(handed));
        }
        Self { conn: Rc::clone(conn), handed, answered: false }
    }

    /// The answer's head is ready: whoever goes away now has got something.
    pub(crate) fn answered(&mut self) {
        self.answered = true;
    }

    /// A piece was handed over.
    pub(crate) fn handed_over(&self) {
        if let Some(handed) = &self.handed {
            handed.set(Some(Instant::now()));
        }
    }

    /// The next piece is asked for.
    pub(crate) fn asked(&self) {
        if let Some(handed) = &self.handed {
            handed.set(None);
        }
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        let activity = &self.conn.activity;
        activity.in_flight.set(activity.in_flight.get() - 1);
        activity.last.set(Instant::now());
        let counter = if self.answered { &activity.answered } else { &activity.cancelled };
        counter.set(counter.get().saturating_add(1));
    }
}

#[cfg(test)]
mod tests {
    use cell_model::TenantId;

    use super::*;

    fn conn() -> Rc<Conn> {
        Conn::new(Came { peer: IpAddr::from([127, 0, 0, 1]), secure: false, place: None }, Proven::Nobody, None)
    }

    #[tokio::test]
    async fn a_client_that_takes_back_most_of_its_requests_is_abusing() {
        let conn = conn();
        for _ in 0..CANCELLED_FREE {
            drop(Busy::new(&conn));
        }
        assert!(!conn.activity.is_abused(), "some are free");
        drop(Busy::new(&conn));
        assert!(conn.activity.is_abused());
        for _ in 0..=CANCELLED_FREE {
            Busy::new(&conn).answered();
        }
        assert!(!conn.activity.is_abused(), "as many were answered");
    }

    #[tokio::test]
    async fn each_request_of_a_connection_carries_the_stamp_of_its_own_entry() {
        use cell_model::{CellId, Epoch, Hold, Lineage, Mapping, MappingState, Rev, Revision, Tier, Uid};
        let entry = |tenant: &str, epoch| {
            let mapping = Mapping {
                lineage: Lineage(1),
                tenant: TenantId::new(tenant).unwrap(),
                uid: Uid(7),
                epoch: Epoch(epoch),
                rev: Rev(1),
                revision: Revision(1),
                state: MappingState::Active,
                owner: CellId::new("a").unwrap(),
                peer: None,
                hold: Hold::None,
                tier: Tier::Bronze,
            };
            let gates = Arc::new(crate::instance::set::InstanceSet::new(Vec::new()));
            Arc::new(Entry {
                mapping,
                endpoints: Arc::new(crate::table::Endpoints { gates, agent: String::new() }),
            })
        };
        let conn = conn();
        let (one, moved, other) = (entry("t-1", 3), entry("t-1", 4), entry("t-2", 1));
        let mut head = http::HeaderMap::new();
        for (entry, stamp) in [(&one, "t-1 7 3"), (&one, "t-1 7 3"), (&moved, "t-1 7 4"), (&other, "t-2 7 1")] {
            conn.stamp(entry, &mut |name, value| drop(head.insert(name, value.clone())));
            let said = ["cell-tenant", "cell-uid", "cell-epoch"].map(|name| head[name].to_str().unwrap());
            assert_eq!(said.join(" "), stamp);
            assert!(conn.last_entry().is_some_and(|last| Arc::ptr_eq(&last, entry)));
        }
    }

    #[tokio::test]
    async fn an_answer_that_nobody_makes_room_for_is_seen() {
        let conn = conn();
        assert!(conn.activity.idle_since().is_some());
        let busy = Busy::new(&conn);
        assert!(conn.activity.idle_since().is_none() && conn.activity.stalled_since().is_none());
        busy.handed_over();
        assert!(conn.activity.stalled_since().is_some());
        busy.asked();
        assert!(conn.activity.stalled_since().is_none());
        busy.handed_over();
        drop(busy);
        assert!(conn.activity.stalled_since().is_none() && conn.activity.idle_since().is_some());
    }
}
