use std::convert::Infallible;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll};

use cell_model::{Epoch, TenantId, Uid};
use http::HeaderValue;
use http_body::Frame;
use tokio::time::Instant;

use super::*;
use crate::admission::WaitLimits;
use crate::decision::{Grant, Role};
use crate::newest::{Asker, NoMappings};
use crate::wire::Code;

/// A body that knows whether somebody has looked at it.
struct Spied {
    polled: Arc<AtomicBool>,
    left: usize,
}

impl Body for Spied {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.polled.store(true, Ordering::SeqCst);
        if self.left == 0 {
            return Poll::Ready(None);
        }
        self.left -= 1;
        Poll::Ready(Some(Ok(Frame::data(Bytes::from(vec![b'x'; 1024])))))
    }
}

/// Reads the body, counts its calls, and answers as it is told.
struct App {
    calls: Arc<AtomicUsize>,
    not_executed: bool,
}

impl Application for App {
    async fn call(&self, request: Request<RequestBody>) -> Response<ResponseBody> {
        self.calls.fetch_add(1, Ordering::SeqCst);
        let stamp = request.extensions().get::<RequestStamp>().cloned().unwrap();
        let mut response = match request.into_body().collect().await {
            Ok(body) => Response::new(full(format!("{} {}", stamp.tenant, body.to_bytes().len()))),
            Err(error) => {
                assert!(error.downcast_ref::<http_body_util::LengthLimitError>().is_some());
                let mut response = Response::new(full("too long"));
                *response.status_mut() = StatusCode::PAYLOAD_TOO_LARGE;
                response
            }
        };
        response.headers_mut().insert("cell-code", HeaderValue::from_static("FAKED"));
        response.headers_mut().insert("x-own", HeaderValue::from_static("kept"));
        if self.not_executed {
            response.extensions_mut().insert(NotExecuted(Code::Fenced));
        }
        response
    }
}

fn front(role: Option<Role>) -> (Front<App>, Arc<AtomicUsize>) {
    let limits = WaitLimits { wait_ms: 50, ..WaitLimits::default() };
    let gatekeeper = Gatekeeper::new(Asker::new(Arc::new(NoMappings), Duration::from_secs(1)), limits);
    gatekeeper.lease.renew(Instant::now(), Duration::from_secs(3_600));
    let grant = role.map(|role| Grant { uid: Uid(1), epoch: Epoch(1), role });
    gatekeeper.table.install(&TenantId::new("t").unwrap(), grant);
    let calls = Arc::new(AtomicUsize::new(0));
    let front = Front {
        gatekeeper: Arc::new(gatekeeper),
        contexts: None,
        application: Arc::new(App { calls: Arc::clone(&calls), not_executed: false }),
        body_bytes_max: 4 * 1024,
        application_deadline: Duration::from_secs(5),
        writes: TaskTracker::new(),
    };
    (front, calls)
}

fn request(method: Method, epoch: u64, kilobytes: usize) -> (Request<Spied>, Arc<AtomicBool>) {
    let polled = Arc::new(AtomicBool::new(false));
    let mut request = Request::new(Spied { polled: Arc::clone(&polled), left: kilobytes });
    *request.method_mut() = method;
    let stamp = RequestStamp { tenant: TenantId::new("t").unwrap(), uid: Uid(1), epoch: Epoch(epoch) };
    stamp.insert_into(request.headers_mut());
    (request, polled)
}

async fn text(response: Response<ResponseBody>) -> String {
    String::from_utf8(response.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap()
}

#[tokio::test(start_paused = true)]
async fn the_body_of_a_refused_request_is_not_touched() {
    for (role, epoch) in [(Some(Role::Fenced), 1), (Some(Role::Owner), 2), (Some(Role::Deleted), 1), (None, 1)] {
        let (front, calls) = front(role);
        let (request, polled) = request(Method::POST, epoch, 2);
        let served = front.serve(request).await;
        assert!(wire::is_not_executed(served.response.headers()));
        assert!(served.unread.is_some());
        assert!(!polled.load(Ordering::SeqCst), "the body was polled");
        assert_eq!(calls.load(Ordering::SeqCst), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn a_refusal_says_code_hint_and_when_to_try_again() {
    let (front, _) = front(Some(Role::Importing));
    let served = front.serve(request(Method::POST, 1, 0).0).await;
    let headers = served.response.headers();
    assert_eq!(served.response.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(headers[&wire::CODE], "IMPORTING");
    assert_eq!(headers["retry-after"], "1");
    assert_eq!(headers["content-type"], "application/problem+json");
    let document: serde_json::Value = serde_json::from_str(&text(served.response).await).unwrap();
    assert_eq!(document["code"], "IMPORTING");
    assert!(document["hint"].as_str().is_some_and(|hint| !hint.is_empty()));
}

#[tokio::test]
async fn what_is_let_in_carries_its_stamp_and_comes_back_without_reserved_headers() {
    let (front, calls) = front(Some(Role::Owner));
    for method in [Method::POST, Method::GET] {
        let served = front.serve(request(method, 1, 2).0).await;
        assert!(served.unread.is_none());
        assert_eq!(served.response.status(), StatusCode::OK);
        assert!(!served.response.headers().contains_key("cell-code"));
        assert_eq!(served.response.headers()["x-own"], "kept");
        assert_eq!(text(served.response).await, "t 2048");
    }
    assert_eq!(calls.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn a_body_over_the_limit_is_refused_before_or_while_it_is_read() {
    let (front, calls) = front(Some(Role::Owner));
    let (mut announced, polled) = request(Method::PUT, 1, 9);
    announced.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from_static("9216"));
    let served = front.serve(announced).await;
    assert_eq!(served.response.status(), StatusCode::PAYLOAD_TOO_LARGE);
    assert!(!polled.load(Ordering::SeqCst));
    assert_eq!(calls.load(Ordering::SeqCst), 0);

    let served = front.serve(request(Method::PUT, 1, 9).0).await;
    assert_eq!(served.response.status(), StatusCode::PAYLOAD_TOO_LARGE);
    let left = served.unread.expect("the rest is for whoever reads on, or the answer may be lost");
    assert!(left.begun && left.body.left > 0);
    assert_eq!(calls.load(Ordering::SeqCst), 1);
}

async fn probe(path: &str, front: &Front<App>) -> Response<ResponseBody> {
    let mut request = Request::new(http_body_util::Empty::<Bytes>::new());
    *request.uri_mut() = path.parse().unwrap();
    front.serve(request).await.response
}

#[tokio::test]
async fn a_request_without_a_stamp_is_refused_and_a_probe_needs_none() {
    let (front, calls) = front(Some(Role::Owner));
    let unstamped = probe("/docs", &front).await;
    assert_eq!(unstamped.status(), StatusCode::BAD_REQUEST);
    assert_eq!(unstamped.headers()[&wire::CODE], "STAMP_MISSING");
    assert_eq!(probe("/livez", &front).await.status(), StatusCode::OK);
    assert_eq!(probe("/readyz", &front).await.status(), StatusCode::OK);
    front.gatekeeper.lease.end();
    assert_eq!(probe("/readyz", &front).await.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(probe("/livez", &front).await.status(), StatusCode::OK);
    assert_eq!(calls.load(Ordering::SeqCst), 0);
}

#[tokio::test(start_paused = true)]
async fn an_answer_of_the_data_layer_that_nothing_ran_is_told_as_such() {
    let (mut front, calls) = front(Some(Role::Owner));
    front.application = Arc::new(App { calls: Arc::clone(&calls), not_executed: true });
    for method in [Method::POST, Method::GET] {
        let served = front.serve(request(method, 1, 0).0).await;
        assert_eq!(served.response.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert!(wire::is_not_executed(served.response.headers()));
        assert_eq!(served.response.headers()[&wire::CODE], "FENCED");
    }
    assert_eq!(calls.load(Ordering::SeqCst), 2);
}

/// Waits in the handler until it is told to go on.
struct Slow {
    entered: Arc<tokio::sync::Notify>,
    go_on: Arc<tokio::sync::Notify>,
}

impl Application for Slow {
    async fn call(&self, _: Request<RequestBody>) -> Response<ResponseBody> {
        self.entered.notify_one();
        self.go_on.notified().await;
        Response::new(full("done"))
    }
}

#[tokio::test]
async fn a_write_whose_client_goes_away_still_counts_until_it_has_finished() {
    let (quick, _) = front(Some(Role::Owner));
    let (entered, go_on) = (Arc::new(tokio::sync::Notify::new()), Arc::new(tokio::sync::Notify::new()));
    let front = Arc::new(Front {
        gatekeeper: quick.gatekeeper,
        contexts: None,
        application: Arc::new(Slow { entered: Arc::clone(&entered), go_on: Arc::clone(&go_on) }),
        body_bytes_max: quick.body_bytes_max,
        application_deadline: quick.application_deadline,
        writes: quick.writes,
    });
    let client = tokio::spawn({
        let front = Arc::clone(&front);
        async move { front.serve(request(Method::POST, 1, 0).0).await.response.status() }
    });
    entered.notified().await;
    client.abort();
    assert!(client.await.unwrap_err().is_cancelled());
    let holding = Grant { uid: Uid(1), epoch: Epoch(1), role: Role::Holding { hold_id: 7 } };
    let table = &front.gatekeeper.table;
    table.install(&TenantId::new("t").unwrap(), Some(holding));
    assert_eq!(table.writes(), 1);
    assert!(table.outbox().take().is_empty());
    go_on.notify_one();
    tokio::time::timeout(Duration::from_secs(5), table.outbox().filled()).await.unwrap();
    assert_eq!(table.outbox().take(), [7]);
    assert_eq!(table.writes(), 0);
}

/// A body of so many pieces, one every four seconds.
fn slow_body(pieces: u32) -> RequestBody {
    let pieces = futures::stream::unfold(0, move |sent| async move {
        if sent == pieces {
            return None;
        }
        tokio::time::sleep(Duration::from_secs(4)).await;
        Some((Ok::<_, crate::application::BoxError>(Frame::data(Bytes::from_static(b"x"))), sent + 1))
    });
    http_body_util::StreamBody::new(pieces).boxed_unsync()
}

#[tokio::test(start_paused = true)]
async fn an_upload_over_a_slow_line_is_no_slow_application() {
    let (front, calls) = front(Some(Role::Owner));
    for method in [Method::PUT, Method::GET] {
        let (parts, _) = request(method, 1, 0).0.into_parts();
        let began = tokio::time::Instant::now();
        let served = front.serve(Request::from_parts(parts, slow_body(12))).await;
        assert_eq!(served.response.status(), StatusCode::OK);
        assert_eq!(began.elapsed().as_secs(), 48, "each piece came within {:?}", front.application_deadline);
    }
    assert_eq!(calls.load(Ordering::SeqCst), 2);
    let (parts, _) = request(Method::PUT, 1, 0).0.into_parts();
    let silent = http_body_util::StreamBody::new(futures::stream::pending::<
        Result<Frame<Bytes>, crate::application::BoxError>,
    >());
    let began = tokio::time::Instant::now();
    let served = front.serve(Request::from_parts(parts, silent.boxed_unsync())).await;
    assert_eq!(served.response.status(), StatusCode::GATEWAY_TIMEOUT);
    assert_eq!(began.elapsed(), front.application_deadline);
}
