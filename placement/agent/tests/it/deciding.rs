//! Holds, fences, leaders: who may decide what.

use std::time::Duration;

use cell_client::StepContext;
use cell_model::{Epoch, Lineage, Term, Uid};

use crate::cells::*;

pub(crate) async fn ready(ground: &Ground) -> (Cell, Cell) {
    let (a, b) = (ground.open("a").await, ground.open("b").await);
    ground.pool.grant(&a.agent, &outside(1)).await.unwrap();
    a.put(1, "k", "v").await.unwrap();
    copy(ground, &a, &b, &context(1, 1)).await;
    (a, b)
}

#[tokio::test]
async fn a_hold_that_has_lapsed_is_never_fenced() {
    let ground = Ground::new();
    let (a, _b) = ready(&ground).await;
    let short = Duration::from_millis(80);
    let sealed = ground.pool.hold_writes(&a.agent, &context(1, 1), short).await.unwrap();
    assert_eq!(ground.pool.hold_writes(&a.agent, &context(1, 1), short).await.unwrap(), sealed);
    // The write waits for the hold, which ends by itself.
    a.put(1, "after", "hold").await.unwrap();
    assert_eq!(refused(ground.pool.fence(&a.agent, &context(1, 1), sealed).await), "NOT_SEALED");
    assert_eq!(refused(ground.pool.hold_writes(&a.agent, &context(1, 1), short).await), "NOT_QUIESCED");
    let again = ground.pool.hold_writes(&a.agent, &context(1, 2), HOLD).await.unwrap();
    assert!(again > sealed);
    assert_eq!(refused(ground.pool.fence(&a.agent, &context(1, 2), sealed).await), "NOT_SEALED");
    ground.pool.release_hold(&a.agent, &context(1, 2)).await.unwrap();
    assert_eq!(refused(ground.pool.fence(&a.agent, &context(1, 2), again).await), "NOT_SEALED");
    a.put(1, "after", "release").await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_write_comes_after_the_seal_that_was_fenced() {
    let ground = Ground::new();
    let (a, b) = ready(&ground).await;
    for attempt in 1..=12 {
        let epoch = u64::from(attempt);
        let writers: Vec<_> = (0..8)
            .map(|number| {
                let data = a.data.clone();
                tokio::spawn(async move {
                    let key = format!("race-{attempt}-{number}");
                    let mut last = None;
                    for _ in 0..40 {
                        match data.write(&stamp(epoch), |rows| rows.put(key.as_bytes(), "v")).await {
                            Ok((_, seq)) => last = Some(seq),
                            Err(error) => {
                                assert_eq!(refused_write::<(), _>(Err(error)), "FENCED");
                                break;
                            }
                        }
                    }
                    last
                })
            })
            .collect();
        let step = context(epoch, attempt);
        let sealed = ground.pool.hold_writes(&a.agent, &step, HOLD).await.unwrap();
        ground.pool.fence(&a.agent, &step, sealed).await.unwrap();
        for writer in writers {
            assert!(writer.await.unwrap() <= Some(sealed), "a write was acknowledged after the seal");
        }
        let digest = ground.pool.digest_at(&a.agent, &step, sealed, PATIENCE).await.unwrap();
        ground.pool.await_applied(&b.agent, &step, sealed, PATIENCE).await.unwrap();
        assert_eq!(ground.pool.digest_at(&b.agent, &step, sealed, PATIENCE).await.unwrap(), digest);
        // ABORT: the source owns again, at a higher epoch.
        assert_eq!(refused(ground.pool.unfence(&a.agent, &step).await), "NOT_FENCED", "not without a decision");
        ground.pool.unfence(&a.agent, &context(epoch + 1, attempt)).await.unwrap();
        ground.pool.unfence(&a.agent, &context(epoch + 1, attempt)).await.unwrap();
    }
}

#[tokio::test]
async fn an_older_leader_attempt_epoch_or_uid_is_refused() {
    let ground = Ground::new();
    let (a, _b) = ready(&ground).await;
    let newer = StepContext { term: Term(5), ..context(1, 3) };
    ground.pool.start_capture(&a.agent, &newer).await.unwrap();
    let refusals = [
        (context(1, 3), "STALE_TERM"),
        (StepContext { lineage: Lineage(0), ..newer.clone() }, "STALE_TERM"),
        (StepContext { attempt: cell_model::Attempt(2), ..newer.clone() }, "STALE_ATTEMPT"),
        (StepContext { epoch: Epoch(0), ..newer.clone() }, "STALE_EPOCH"),
        (StepContext { uid: Uid(6), ..newer.clone() }, "STALE_UID"),
        (StepContext { epoch: Epoch(2), ..newer.clone() }, "NOT_OWNER"),
    ];
    for (step, code) in refusals {
        assert_eq!(refused(ground.pool.engage_sync(&a.agent, &step, true).await), code, "{step:?}");
    }
    ground.pool.engage_sync(&a.agent, &newer, true).await.unwrap();
}

#[tokio::test]
async fn a_mapping_that_nobody_trusted_has_signed_is_refused() {
    let ground = Ground::new();
    let (a, b) = ready(&ground).await;
    let step = context(1, 1);
    let mapping = ground.mapping(&b.id, 2);
    let after = context(2, 1);
    assert_eq!(refused(ground.pool.deliver_mapping(&a.agent, &after, &mapping, None).await), "NOT_FENCED");
    let sealed = ground.pool.hold_writes(&a.agent, &step, HOLD).await.unwrap();
    ground.pool.fence(&a.agent, &step, sealed).await.unwrap();
    let stranger = Ground::new().mapping(&b.id, 2);
    assert_eq!(refused(ground.pool.deliver_mapping(&a.agent, &after, &stranger, None).await), "UNTRUSTED");
    let mut bent = mapping.clone();
    bent.payload[0] ^= 1;
    assert_eq!(refused(ground.pool.deliver_mapping(&a.agent, &after, &bent, None).await), "UNTRUSTED");
    let old = ground.mapping(&b.id, 1);
    assert_eq!(refused(ground.pool.deliver_mapping(&a.agent, &after, &old, None).await), "STALE_EPOCH");
    ground.pool.deliver_mapping(&a.agent, &after, &mapping, None).await.unwrap();
}

#[tokio::test]
async fn a_deleted_tenant_leaves_nothing_but_its_tombstone() {
    let ground = Ground::new();
    let a = ground.open("a").await;
    ground.pool.grant(&a.agent, &outside(1)).await.unwrap();
    a.put(1, "k", "v").await.unwrap();
    for _ in 0..2 {
        ground.pool.revoke(&a.agent, &outside(1)).await.unwrap();
    }
    assert_eq!(refused_write(a.put(1, "k", "v").await), "TENANT_DELETED");
    assert_eq!(refused(ground.pool.grant(&a.agent, &outside(1)).await), "NOT_OWNER");
    // The name, made again, is another tenant with nothing of the old one's.
    let reborn = StepContext { uid: Uid(8), ..outside(1) };
    ground.pool.grant(&a.agent, &reborn).await.unwrap();
    let stamp = cell_gate::RequestStamp { uid: Uid(8), ..stamp(1) };
    let rows = a.data.read(&stamp, |rows| rows.scan(b"", None, 10)).await.unwrap();
    assert_eq!(rows, []);
    assert_eq!(refused_write(a.put(1, "k", "v").await), "TENANT_DELETED");
}
