use cell_model::{Epoch, Hold, Rev, Uid};

use super::*;
use crate::instance::set::InstanceSet;
use crate::table::Endpoints;
use crate::tunnel::tests::mapping;

fn watched() -> Rc<Watched> {
    let endpoints = Endpoints { gates: Arc::new(InstanceSet::new(Vec::new())), agent: String::new() };
    let opened = Arc::new(Entry { mapping: mapping(), endpoints: Arc::new(endpoints) });
    Rc::new(Watched { opened, stage: Cell::new(Stage::New), waker: RefCell::default() })
}

const GRACE: Duration = Duration::from_secs(5);

#[test]
fn a_stream_ends_some_time_after_its_tenant_has_moved_and_goes_on_where_it_has_not() {
    let (streams, stream, began) = (Streams::default(), watched(), Instant::now());
    streams.enter(Rc::clone(&stream));
    let look = |after: Duration, changed, left: bool| {
        streams.look(began + after, changed, |_| left, || GRACE);
        stream.stage.get()
    };
    assert_eq!(look(Duration::ZERO, false, false), Stage::Open);
    assert_eq!(look(LOOK, false, true), Stage::Open, "nothing has changed, so nobody looks it up");
    assert_eq!(look(LOOK, true, true), Stage::Moved(began + LOOK + GRACE));
    assert_eq!(look(LOOK * 2, true, false), Stage::Open, "it is back");
    assert_eq!(look(LOOK * 3, true, true), Stage::Moved(began + LOOK * 3 + GRACE));
    let over = LOOK * 3 + GRACE;
    assert_eq!(look(over - LOOK, false, true), Stage::Moved(began + over));
    assert_eq!(look(over, false, true), Stage::Ending(began + over + FAREWELL));
    assert_eq!(look(over + FAREWELL, false, true), Stage::Late);
}

#[test]
fn a_stream_of_which_the_tenant_moved_before_it_was_looked_at_is_not_missed() {
    let (streams, stream, now) = (Streams::default(), watched(), Instant::now());
    streams.enter(Rc::clone(&stream));
    streams.look(now, false, |_| true, || GRACE);
    assert_eq!(stream.stage.get(), Stage::Moved(now + GRACE));
}

#[test]
fn copying_and_holding_a_tenant_leave_its_streams_alone() {
    let opened = mapping();
    let left = |change: fn(&mut Mapping)| {
        let mut now = mapping();
        now.rev = Rev(10);
        change(&mut now);
        has_left(&opened, Some(&now))
    };
    assert!(!left(|now| now.state = MappingState::Migrating));
    assert!(!left(|now| now.hold = Hold::All));
    assert!(left(|now| now.epoch = Epoch(3)));
    assert!(left(|now| now.uid = Uid(4)));
    assert!(left(|now| now.state = MappingState::Deleted));
    assert!(has_left(&opened, None));
}

#[test]
fn places_are_used_again_and_given_back() {
    let streams = Streams::default();
    let slots: Vec<usize> = (0..3).map(|_| streams.enter(watched())).collect();
    streams.leave(slots[1]);
    assert_eq!(streams.enter(watched()), slots[1]);
    for slot in slots {
        assert!(!streams.open.borrow().is_empty());
        streams.leave(slot);
    }
    assert!(streams.open.borrow().is_empty() && streams.open.borrow().slots.is_empty());
}

#[test]
fn a_message_that_has_been_begun_is_ended_and_nothing_after_it_goes() {
    let mut manner = Manner::Grpc(Messages::default());
    let half = manner.pass(Frame::data(Bytes::from_static(b"\0\0\0\0\x04ab")), false);
    assert_eq!(half.into_data().unwrap(), &b"\0\0\0\0\x04ab"[..]);
    let rest = manner.pass(Frame::data(Bytes::from_static(b"cd\0\0\0\0\x01e")), true);
    assert_eq!(rest.into_data().unwrap(), &b"cd"[..]);
}
