use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

const ROOM: QueueLimits = QueueLimits { per_flow_max: 100, total_max: 1_000 };
const PLAIN: Share = Share { cost: 1.0, weight: 1 };

fn served(queue: &mut FairQueue<u32, u32>, count: usize) -> BTreeMap<u32, usize> {
    let mut served = BTreeMap::new();
    for _ in 0..count {
        *served.entry(queue.pop().unwrap()).or_default() += 1;
    }
    served
}

#[test]
fn who_asks_for_little_is_served_next_however_much_another_has_piled_up() {
    let mut queue = FairQueue::new(ROOM);
    for _ in 0..100 {
        queue.push(&1, PLAIN, "much", Patience::Bounded).unwrap();
    }
    assert_eq!(queue.pop(), Some("much"));
    queue.push(&2, PLAIN, "little", Patience::Bounded).unwrap();
    let turn = (1..).find(|_| queue.pop() == Some("little")).unwrap();
    assert!(turn <= 2, "{turn}");
}

#[test]
fn weights_share_the_turns() {
    let mut queue = FairQueue::new(ROOM);
    for (flow, weight) in [(1, 1), (2, 2), (4, 4)] {
        for _ in 0..100 {
            queue.push(&flow, Share { weight, ..PLAIN }, flow, Patience::Bounded).unwrap();
        }
    }
    assert_eq!(served(&mut queue, 70), BTreeMap::from([(1, 10), (2, 20), (4, 40)]));
}

#[test]
fn what_costs_more_gets_fewer_turns() {
    let mut queue = FairQueue::new(ROOM);
    for (flow, cost) in [(1, 1.0), (3, 3.0)] {
        for _ in 0..100 {
            queue.push(&flow, Share { cost, ..PLAIN }, flow, Patience::Bounded).unwrap();
        }
    }
    assert_eq!(served(&mut queue, 40), BTreeMap::from([(1, 30), (3, 10)]));
}

#[test]
fn leaving_between_requests_does_not_earn_a_turn() {
    let mut queue = FairQueue::new(ROOM);
    for _ in 0..100 {
        queue.push(&1, PLAIN, 1, Patience::Bounded).unwrap();
    }
    // The other one has never more than one request waiting, each of four times the cost.
    let mut turns = BTreeMap::<u32, usize>::new();
    queue.push(&2, Share { cost: 4.0, weight: 1 }, 2, Patience::Bounded).unwrap();
    for _ in 0..50 {
        let flow = queue.pop().unwrap();
        *turns.entry(flow).or_default() += 1;
        if flow == 2 {
            queue.push(&2, Share { cost: 4.0, weight: 1 }, 2, Patience::Bounded).unwrap();
        }
    }
    assert_eq!(turns, BTreeMap::from([(1, 40), (2, 10)]));
}

#[test]
fn the_longest_queue_makes_room_for_a_shorter_one_and_only_for_a_shorter_one() {
    let mut queue = FairQueue::new(QueueLimits { per_flow_max: 8, total_max: 10 });
    for n in 0..8 {
        queue.push(&1, PLAIN, n, Patience::Bounded).unwrap();
    }
    assert_eq!(queue.push(&1, PLAIN, 8, Patience::Bounded).err(), Some(NoPlace::Flow(8)));
    let beyond = queue.push(&1, PLAIN, 8, Patience::Ample).unwrap().ticket;
    assert_eq!(queue.remove(&1, beyond), Some(8), "there is room in all");
    for n in 20..22 {
        assert_eq!(queue.push(&2, PLAIN, n, Patience::Bounded).ok().unwrap().displaced, None);
    }
    for (n, gone) in [(22, 7), (23, 6), (24, 5)] {
        assert_eq!(
            queue.push(&2, PLAIN, n, Patience::Bounded).ok().unwrap().displaced,
            Some(gone),
            "the last of the longest"
        );
    }
    assert_eq!(queue.push(&2, PLAIN, 25, Patience::Bounded).err(), Some(NoPlace::All(10)), "both wait with five");
    assert_eq!(queue.push(&3, PLAIN, 30, Patience::Bounded).ok().unwrap().displaced, Some(24));
    assert_eq!(queue.len(), 10);
}

#[test]
fn who_leaves_is_not_served_and_nobody_loses_a_turn() {
    let mut queue = FairQueue::new(ROOM);
    let tickets: Vec<_> = (0..4).map(|n| queue.push(&1, PLAIN, n, Patience::Bounded).unwrap().ticket).collect();
    assert_eq!(queue.remove(&1, tickets[0]), Some(0));
    assert_eq!(queue.remove(&1, tickets[2]), Some(2));
    assert_eq!(queue.remove(&1, tickets[2]), None);
    assert_eq!((queue.pop(), queue.pop(), queue.pop()), (Some(1), Some(3), None));
}

#[derive(Debug, Clone)]
enum Op {
    Push(u8, u8),
    Pop,
    Leave(u8, u8),
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        4 => (0..6_u8, 1..8_u8).prop_map(|(flow, cost)| Op::Push(flow, cost)),
        3 => Just(Op::Pop),
        1 => (0..6_u8, any::<u8>()).prop_map(|(flow, which)| Op::Leave(flow, which)),
    ]
}

proptest! {
    /// Against a plain list: everybody is served at most once, in order within a flow, and the counts agree.
    #[test]
    fn everyone_is_served_once_in_order_or_has_left(ops in proptest::collection::vec(op(), 1..400)) {
        let limits = QueueLimits { per_flow_max: 5, total_max: 16 };
        let mut queue = FairQueue::new(limits);
        let mut model: Vec<(u8, Ticket)> = Vec::new();
        let mut next = 0;
        for op in ops {
            match op {
                Op::Push(flow, cost) => {
                    let share = Share { cost: f32::from(cost), weight: 1 };
                    if let Ok(pushed) = queue.push(&flow, share, (flow, next), Patience::Bounded) {
                        if let Some(gone) = pushed.displaced {
                            let at = model.iter().position(|held| *held == gone).unwrap();
                            model.remove(at);
                        }
                        prop_assert_eq!(pushed.ticket, next);
                        model.push((flow, next));
                        next += 1;
                    }
                }
                Op::Pop => match queue.pop() {
                    None => prop_assert!(model.is_empty()),
                    Some(served) => {
                        let at = model.iter().position(|held| held.0 == served.0).unwrap();
                        prop_assert_eq!(model.remove(at), served, "first come, first served within a flow");
                    }
                },
                Op::Leave(flow, which) => {
                    let of_flow: Vec<_> = model.iter().filter(|held| held.0 == flow).copied().collect();
                    if !of_flow.is_empty() {
                        let gone = of_flow[usize::from(which) % of_flow.len()];
                        prop_assert_eq!(queue.remove(&flow, gone.1), Some(gone));
                        model.retain(|held| *held != gone);
                    }
                }
            }
            prop_assert_eq!(queue.len(), model.len());
            prop_assert!(queue.len() <= limits.total_max);
            prop_assert_eq!(queue.heads.len(), queue.lengths.len());
            let waiting: usize = queue.lengths.iter().map(|(length, _)| length).sum();
            prop_assert_eq!(waiting, model.len());
        }
    }
}
