use std::collections::VecDeque;
use std::convert::Infallible;

use futures::FutureExt as _;
use http_body_util::BodyExt;
use proptest::prelude::*;

use super::*;

struct Pieces(VecDeque<Frame<Bytes>>);

impl Body for Pieces {
    type Data = Bytes;
    type Error = Infallible;
    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(self.0.pop_front().map(Ok))
    }
}

fn upload(pieces: &[usize], body_bytes_max: u64, replay_bytes_max: usize) -> Upload<Pieces> {
    let frames = pieces.iter().zip(letters()).map(|(size, letter)| Frame::data(Bytes::from(vec![letter; *size])));
    let limits = UploadLimits { body_bytes_max, replay_bytes_max, rate_min: 0 };
    Upload::new(Pieces(frames.collect()), limits, Instant::now())
}

fn content(pieces: &[usize]) -> Vec<u8> {
    pieces.iter().zip(letters()).flat_map(|(size, letter)| vec![letter; *size]).collect()
}

fn letters() -> impl Iterator<Item = u8> {
    (b'a'..=b'z').cycle()
}

async fn all_of(body: UploadBody<Pieces>) -> Result<Vec<u8>, UploadFault> {
    Ok(body.collect().await?.to_bytes().to_vec())
}

#[tokio::test]
async fn another_attempt_sends_what_was_kept_and_then_the_rest() {
    let sizes = [10, 20, 30, 5];
    let upload = upload(&sizes, 1_000, 100);
    let mut first = upload.attempt(None);
    first.frame().await.unwrap().unwrap();
    first.frame().await.unwrap().unwrap();
    assert!(upload.can_replay());
    let second = upload.attempt(None);
    assert_eq!(first.frame().await.unwrap().unwrap_err(), UploadFault::Superseded);
    assert_eq!(all_of(second).await.unwrap(), content(&sizes));
    assert_eq!(all_of(upload.attempt(None)).await.unwrap(), content(&sizes));
}

#[tokio::test]
async fn a_body_is_thrown_away_only_once_nobody_sends_it() {
    let upload = upload(&[10, 20, 30, 40], 1_000, 100);
    let mut sending = upload.attempt(None);
    sending.frame().await.unwrap().unwrap();
    assert!(upload.unsent().now_or_never().is_none(), "a cell may read on after it has answered");
    drop(sending);
    upload.unsent().await;
    upload.drain(30).await;
    assert!(upload.received() == 60 && !upload.is_complete(), "so much of it, counted");
    upload.drain(1_000).await;
    assert!(upload.received() == 100 && upload.is_complete() && upload.fault().is_none());
}

#[tokio::test]
async fn trailers_pass_in_every_attempt() {
    let mut trailers = HeaderMap::new();
    trailers.insert("x-sum", "7".parse().unwrap());
    let frames = [Frame::data(Bytes::from_static(b"body")), Frame::trailers(trailers.clone())];
    let limits = UploadLimits { body_bytes_max: 10, replay_bytes_max: 10, rate_min: 0 };
    let upload = Upload::new(Pieces(frames.into()), limits, Instant::now());
    for _ in 0..2 {
        let sent = upload.attempt(None).collect().await.unwrap();
        assert_eq!(sent.trailers(), Some(&trailers));
        assert_eq!(sent.to_bytes(), "body");
    }
}

#[tokio::test]
async fn trailers_beyond_their_limit_end_in_a_fault() {
    let (mut many, mut large) = (HeaderMap::new(), HeaderMap::new());
    for _ in 0..33 {
        many.append("x", "1".parse().unwrap());
    }
    large.insert("x", "y".repeat(8_192).parse().unwrap());
    for trailers in [many, large] {
        let limits = UploadLimits { body_bytes_max: 10, replay_bytes_max: 10, rate_min: 0 };
        let upload = Upload::new(Pieces([Frame::trailers(trailers)].into()), limits, Instant::now());
        assert_eq!(all_of(upload.attempt(None)).await.unwrap_err(), UploadFault::TrailersTooLarge);
    }
}

#[tokio::test]
async fn a_body_over_the_limit_ends_in_a_fault() {
    let upload = upload(&[60, 60], 100, 1_000);
    assert_eq!(all_of(upload.attempt(None)).await.unwrap_err(), UploadFault::TooLarge);
    assert_eq!(upload.fault(), Some(UploadFault::TooLarge));
    assert!(!upload.can_replay());
}

#[tokio::test]
async fn nothing_is_sent_before_the_cell_wants_it() {
    let sizes = [50, 60, 70];
    let upload = upload(&sizes, 1_000, 100);
    for _ in 0..3 {
        let mut refused = upload.attempt(Some(Arc::default()));
        assert!(futures::poll!(std::pin::pin!(refused.frame())).is_pending());
        assert!(upload.can_replay(), "refused now, it can go elsewhere");
    }
    let wanted = Arc::new(Wanted::default());
    let last = upload.attempt(Some(Arc::clone(&wanted)));
    wanted.say();
    assert_eq!(all_of(last).await.unwrap(), content(&sizes));
    assert!(!upload.can_replay(), "more has passed than was kept");
}

proptest! {
    #[test]
    fn every_attempt_sends_the_same_bytes_for_as_long_as_it_can(
        sizes in proptest::collection::vec(0..40_usize, 0..12),
        cuts in proptest::collection::vec(0..14_usize, 0..4),
        replay in 0..200_usize,
    ) {
        let upload = upload(&sizes, 10_000, replay);
        let whole = content(&sizes);
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            for cut in cuts {
                let mut attempt = upload.attempt(None);
                let mut sent = Vec::new();
                for _ in 0..cut {
                    match attempt.frame().await {
                        Some(Ok(frame)) => sent.extend_from_slice(frame.data_ref().unwrap()),
                        _ => break,
                    }
                }
                prop_assert!(whole.starts_with(&sent));
                if !upload.can_replay() {
                    return Ok(());
                }
            }
            prop_assert_eq!(all_of(upload.attempt(None)).await.unwrap(), whole);
            Ok(())
        })?;
    }
}
