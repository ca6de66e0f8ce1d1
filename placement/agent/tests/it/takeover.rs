//! Forced takeover between two agents: the copy owns, and the cell that comes back puts aside what it alone has.

use std::time::Duration;

use cell_agent::WriteError;
use cell_client::StepContext;
use cell_model::{Attempt, CopySight, Epoch, Leg, Seq, Tail};

use crate::cells::*;

/// A step for what a move that is over has left.
fn ended(epoch: u64) -> StepContext {
    context(epoch, u32::MAX)
}

/// a owns with these rows, b has a whole copy, and a answers only what b holds.
async fn in_sync(ground: &Ground, rows: usize) -> (Cell, Cell) {
    let (a, b) = (ground.open("a").await, ground.open("b").await);
    ground.pool.grant(&a.agent, &outside(1)).await.unwrap();
    for number in 0..rows {
        a.put(1, &format!("k{number:03}"), "before").await.unwrap();
    }
    copy(ground, &a, &b, &context(1, 1)).await;
    ground.pool.engage_sync(&a.agent, &context(1, 1), true).await.unwrap();
    (a, b)
}

async fn force(ground: &Ground, cell: &Cell, epoch: u64) -> Seq {
    ground.pool.own_by_force(&cell.agent, &context(epoch, 2)).await.unwrap().0
}

async fn put_aside(ground: &Ground, old: &Cell, new: &Cell, epoch: u64, after: Seq) -> Tail {
    let mapping = ground.mapping(&new.id, epoch);
    let fenced = Epoch(epoch - 1);
    ground.pool.put_aside(&old.agent, &ended(epoch), &mapping, fenced, after).await.unwrap()
}

/// Keys of everything that a cell has put aside, in order.
async fn tail_of(ground: &Ground, cell: &Cell) -> Vec<String> {
    let (mut keys, mut after) = (Vec::new(), Seq(0));
    loop {
        let page = ground.pool.read_tail(&cell.agent, &tenant(), after).await.unwrap();
        for transaction in &page.transactions {
            assert!(transaction.seq > after.get(), "in the order in which they were made");
            after = Seq(transaction.seq);
            keys.extend(transaction.mutations.iter().map(|row| String::from_utf8(row.key.to_vec()).unwrap()));
        }
        if !page.more {
            return keys;
        }
    }
}

/// A write that the owner has executed, and that nobody confirms.
async fn unconfirmed(
    cell: &Cell,
    epoch: u64,
    key: &str,
) -> tokio::task::JoinHandle<Result<Seq, WriteError<String>>> {
    let (data, key) = (cell.data.clone(), key.to_owned());
    let before = last(cell, epoch).await;
    let write = tokio::spawn(async move {
        let written =
            data.write(&stamp(epoch), |rows| rows.put(key.as_bytes(), "late").map_err(|e| e.to_string())).await;
        written.map(|((), seq)| seq)
    });
    let executed = async {
        while last(cell, epoch).await == before {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(PATIENCE, executed).await.expect("it is executed");
    write
}

async fn last(cell: &Cell, epoch: u64) -> usize {
    cell.rows(epoch).await.len()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_acknowledged_in_sync_is_at_the_cell_that_owns_by_force() {
    let ground = Ground::new();
    let (a, b) = in_sync(&ground, 40).await;
    for number in 0..20 {
        a.put(1, &format!("s{number:02}"), "in sync").await.unwrap();
    }
    let seen = ground.pool.look_at_copy(&b.agent, &context(1, 1)).await.unwrap();
    let CopySight { complete, applied, heard, .. } = seen;
    assert!(complete && applied == Seq(60) && heard == Seq(60), "{seen:?}");
    let address = a.close().await;

    assert_eq!(force(&ground, &b, 2).await, Seq(60));
    let rows = b.rows(2).await;
    assert_eq!(rows.len(), 60, "every acknowledged write is there");
    assert_eq!(b.put(2, "after", "x").await.unwrap(), Seq(61));
    assert_eq!(force(&ground, &b, 2).await, Seq(60), "asked again, it says where it took over");
    let later = ground.pool.own_by_force(&b.agent, &context(2, 7)).await.unwrap().0;
    assert_eq!(later, Seq(60), "to a later attempt, too: it has changes of its own by now");
    assert_eq!(refused_write(b.put(1, "stale", "x").await), "STALE");

    // It comes back, and believes that it owns.
    let a = ground.open_at("a", &address).await;
    assert_eq!(
        put_aside(&ground, &a, &b, 2, Seq(60)).await,
        Tail { changes: 0, bytes: 0, last: Seq(60), whole: true }
    );
    assert_eq!(refused_write(a.put(1, "stale", "x").await), "NOT_OWNER");
    assert!(tail_of(&ground, &a).await.is_empty());
    ground.pool.reclaim(&a.agent, &ended(2), Epoch(1)).await.unwrap();
    assert_eq!(refused(ground.pool.read_tail(&a.agent, &tenant(), Seq(0)).await), "NOT_QUARANTINED");
    a.close().await;
    b.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_that_waits_for_the_follower_ends_as_unknown_and_is_in_the_tail() {
    let mut ground = Ground::new();
    // It ends because of the takeover, and not because the machine is slow.
    ground.write_confirm_ms = Some(60_000);
    let (a, b) = in_sync(&ground, 5).await;
    // The evidence was wrong: a lives. From here on nobody confirms.
    let after = force(&ground, &b, 2).await;
    let write = unconfirmed(&a, 1, "late").await;
    b.put(2, "late", "another").await.unwrap();
    let tail = put_aside(&ground, &a, &b, 2, after).await;
    assert_eq!((tail.changes, tail.last, tail.whole), (1, Seq(6), true));
    let told = write.await.unwrap();
    assert!(matches!(&told, Err(WriteError::Unknown { reason }) if reason.contains("taken over")), "{told:?}");
    assert_eq!(tail_of(&ground, &a).await, ["late"]);
    assert_eq!(b.rows(2).await[b"late".as_slice()], b"another", "it is never merged");

    // Told again, and after a restart, it says the same.
    assert_eq!(put_aside(&ground, &a, &b, 2, after).await, tail);
    let address = a.close().await;
    let a = ground.open_at("a", &address).await;
    assert_eq!(put_aside(&ground, &a, &b, 2, after).await, tail);
    assert_eq!(tail_of(&ground, &a).await, ["late"]);
    ground.pool.reclaim(&a.agent, &ended(2), Epoch(1)).await.unwrap();
    assert_eq!(refused(ground.pool.read_tail(&a.agent, &tenant(), Seq(0)).await), "NOT_QUARANTINED");
    a.close().await;
    b.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_owner_that_is_lost_leaves_a_tail_of_any_length_and_the_old_one_goes_on() {
    let ground = Ground::new();
    let (a, b) = in_sync(&ground, 10).await;
    ground.pool.prepare_reverse(&b.agent, &context(1, 1)).await.unwrap();
    let sealed = cut_over(&ground, &a, &b, 1, 1).await;
    // The follower is away, and the owner's clients do not wait for it.
    let address = a.close().await;
    let many = 700;
    for number in 0..many {
        b.put(2, &format!("n{number:04}"), &"x".repeat(2_000)).await.unwrap();
    }
    let b_address = b.close().await;
    let a = ground.open_at("a", &address).await;
    let seen = ground.pool.look_at_copy(&a.agent, &context(2, 1)).await.unwrap();
    assert!(seen.complete && seen.applied == sealed, "{seen:?}");
    let back = StepContext { leg: Some(Leg::Back), ..context(3, 2) };
    assert_eq!(ground.pool.own_by_force(&a.agent, &back).await.unwrap().0, sealed);
    a.put(3, "goes-on", "x").await.unwrap();

    let b = ground.open_at("b", &b_address).await;
    let tail = put_aside(&ground, &b, &a, 3, sealed).await;
    assert_eq!((tail.changes, tail.whole, tail.last), (many, true, Seq(sealed.get() + many)));
    let expected: Vec<String> = (0..many).map(|number| format!("n{number:04}")).collect();
    assert_eq!(tail_of(&ground, &b).await, expected);
    // Whoever does not know of the tail does not delete it.
    let other = StepContext { move_id: Some(cell_model::MoveId(33)), ..ended(3) };
    assert_eq!(refused(ground.pool.reclaim(&b.agent, &other, Epoch(2)).await), "TAIL_QUARANTINED");
    assert_eq!(tail_of(&ground, &b).await.len(), expected.len());
    assert_eq!(a.rows(3).await.len(), 11);
    a.close().await;
    b.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_source_that_is_fenced_takes_back_what_the_target_never_got_to_own() {
    let ground = Ground::new();
    let (a, b) = in_sync(&ground, 10).await;
    ground.pool.prepare_reverse(&b.agent, &context(1, 1)).await.unwrap();
    let step = context(1, 1);
    let (sealed, _) = seal(&ground, &a, &b, &step).await;
    ground.pool.fence(&a.agent, &step, sealed).await.unwrap();
    let b_address = b.close().await;
    assert_eq!(force(&ground, &a, 3).await, sealed);
    a.put(3, "k000", "new").await.unwrap();
    // The target was never activated: it has a copy of the past, and nothing of its own.
    let b = ground.open_at("b", &b_address).await;
    let tail = put_aside(&ground, &b, &a, 3, sealed).await;
    assert_eq!((tail.changes, tail.whole), (0, true));
    // A step of the cutover that comes now is too late.
    let late = ground.pool.activate(&b.agent, &context(2, 1), None).await;
    assert_eq!(refused(late), "STALE_ATTEMPT");
    // Reclaimed, and told once more by somebody who did not hear of it: nothing comes back.
    ground.pool.reclaim(&b.agent, &ended(3), Epoch(2)).await.unwrap();
    let again = put_aside(&ground, &b, &a, 3, sealed).await;
    assert_eq!((again.changes, again.whole), (0, true));
    assert_eq!(refused(ground.pool.read_tail(&b.agent, &tenant(), Seq(0)).await), "NOT_QUARANTINED");
    a.close().await;
    b.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_a_whole_copy_of_this_move_owns_by_force_and_an_owner_is_not_told_that_it_is_none() {
    let ground = Ground::new();
    let (a, b) = in_sync(&ground, 3).await;
    let c = ground.open("c").await;
    let of = |cell: &Cell, step: StepContext| {
        let (pool, agent) = (ground.pool.clone(), cell.agent.clone());
        async move { refused(pool.own_by_force(&agent, &step).await) }
    };
    assert_eq!(of(&c, context(2, 2)).await, "NOT_OWNER", "it knows nothing of the tenant");
    assert_eq!(of(&a, context(2, 2)).await, "NOT_IMPORTING", "it owns, and copies nothing");
    let other = StepContext { move_id: Some(cell_model::MoveId(21)), attempt: Attempt(1), ..context(2, 1) };
    assert_eq!(of(&b, other).await, "NOT_IMPORTING", "the copy is another move's");
    // An owner at a higher epoch than the one at which it was taken over is not the one that was meant.
    assert_eq!(force(&ground, &b, 2).await, Seq(3));
    let wrong = ground.mapping(&a.id, 2);
    let told = ground.pool.put_aside(&b.agent, &ended(2), &wrong, Epoch(1), Seq(3)).await;
    assert_eq!(refused(told), "OWNS");
    let own = ground.mapping(&a.id, 2);
    let told = ground.pool.put_aside(&a.agent, &ended(2), &own, Epoch(1), Seq(3)).await;
    assert_eq!(refused(told), "STALE_EPOCH", "a mapping that names itself");
    // A cell that has lost its disk redirects all the same, and says that something may be missing.
    let tail = put_aside(&ground, &c, &b, 2, Seq(3)).await;
    assert_eq!((tail.changes, tail.whole), (0, false));
    for cell in [a, b, c] {
        cell.close().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_left_of_a_tail_that_is_not_whole_can_be_read_all_the_same() {
    let mut ground = Ground::new();
    ground.captured_bytes_max = Some(2 << 20);
    let (a, b) = in_sync(&ground, 3).await;
    ground.pool.engage_sync(&a.agent, &context(1, 1), false).await.unwrap();
    let after = force(&ground, &b, 2).await;
    // More than is captured.
    for number in 0..50 {
        a.put(1, &format!("n{number:02}"), &"x".repeat(60_000)).await.unwrap();
    }
    let tail = put_aside(&ground, &a, &b, 2, after).await;
    assert!(!tail.whole && tail.changes > 0 && tail.changes < 50, "{tail:?}");
    let kept = tail_of(&ground, &a).await;
    assert_eq!(kept.len() as u64, tail.changes);
    assert_eq!(kept[0], "n00");
    a.close().await;
    b.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_owner_that_a_rollback_has_activated_asks_when_it_starts_until_the_move_is_over() {
    let mut ground = Ground::new();
    let (a, b) = in_sync(&ground, 3).await;
    ground.pool.prepare_reverse(&b.agent, &context(1, 1)).await.unwrap();
    cut_over(&ground, &a, &b, 1, 1).await;
    await_backfill(&ground, &a, &context(2, 1)).await;
    let back = |epoch, attempt| StepContext { leg: Some(Leg::Back), ..context(epoch, attempt) };
    let (sealed, _) = seal(&ground, &b, &a, &back(2, 2)).await;
    ground.pool.fence(&b.agent, &back(2, 2), sealed).await.unwrap();
    ground.pool.activate(&a.agent, &back(3, 2), None).await.unwrap();
    a.put(3, "only-here", "x").await.unwrap();
    // It is lost before the store has heard of it, and the other one takes over.
    let address = a.close().await;
    let forward = StepContext { leg: Some(Leg::Forward), ..context(4, 3) };
    assert_eq!(ground.pool.own_by_force(&b.agent, &forward).await.unwrap().0, sealed);
    ground.control = vec!["127.0.0.1:9".into()];
    let a = ground.open_at("a", &address).await;
    assert_eq!(refused_write(a.put(3, "k", "x").await), "UNCONFIRMED");
    let tail = put_aside(&ground, &a, &b, 4, sealed).await;
    assert_eq!((tail.changes, tail.whole), (1, true), "what it has acknowledged meanwhile");
    assert_eq!(tail_of(&ground, &a).await, ["only-here"]);
    let address = a.close().await;
    // Once the move is over there is no question.
    let a = ground.open_at("a", &address).await;
    assert_eq!(refused_write(a.put(3, "k", "x").await), "NOT_OWNER");
    a.close().await;
    b.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_owner_that_starts_in_mid_move_serves_nobody_before_somebody_has_said_that_it_owns() {
    let mut ground = Ground::new();
    let (a, b) = in_sync(&ground, 3).await;
    let address = a.close().await;
    // There is a control plane, and it does not answer.
    ground.control = vec!["127.0.0.1:9".into()];
    let a = ground.open_at("a", &address).await;
    assert_eq!(refused_write(a.put(1, "k", "x").await), "UNCONFIRMED");
    let read = a.data.read(&stamp(1), |rows| rows.get(b"k000")).await;
    assert!(read.is_err(), "a read would be as old as the write that it does not show: {read:?}");
    // What it is has not changed.
    let described = ground.pool.held(&a.agent).await.unwrap().1;
    assert!(format!("{described:?}").contains("Owner"), "{described:?}");
    a.close().await;
    // Without a follower nobody can have taken it over.
    let address = b.close().await;
    ground.control.clear();
    let b = ground.open_at("b", &address).await;
    force(&ground, &b, 2).await;
    let address = b.close().await;
    ground.control = vec!["127.0.0.1:9".into()];
    let b = ground.open_at("b", &address).await;
    b.put(2, "k", "x").await.unwrap();
    b.close().await;
}
