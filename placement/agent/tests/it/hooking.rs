//! Hooks: who is told what, how often, under which name and signature, and what a refusal does.

use std::collections::VecDeque;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use cell_agent::{Agent, AgentOptions, HookOptions, HookPhase, HooksOptions};
use cell_client::StepError;
use cell_model::{CellId, Epoch, Leg, Seq};
use cell_trust::{HookCall, SigningKey};
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;

use crate::authority::{Authority, Pair};
use crate::cells::*;

/// A call as it arrived.
#[derive(Debug, Clone)]
struct Call {
    headers: HeaderMap,
    body: Bytes,
}

impl Call {
    fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }

    fn id(&self) -> String {
        self.header("webhook-id").to_owned()
    }

    fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap()
    }
}

/// Something that listens to hooks.
struct Listener {
    url: String,
    calls: Arc<Mutex<Vec<Call>>>,
    /// What it answers next; with nothing left it is content.
    answers: Arc<Mutex<VecDeque<(u16, &'static str)>>>,
}

impl Listener {
    async fn start() -> Self {
        Self::start_at("http", |stream| async move { Some(stream) }).await
    }

    /// Behind TLS, with this certificate.
    async fn start_over_tls(pair: &Pair) -> Self {
        let chain = vec![CertificateDer::from_pem_file(&pair.certificate).unwrap()];
        let key = PrivateKeyDer::from_pem_file(&pair.key).unwrap();
        let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        Self::start_at("https", move |stream| {
            let acceptor = acceptor.clone();
            async move { acceptor.accept(stream).await.ok() }
        })
        .await
    }

    async fn start_at<S, F>(scheme: &str, shake_hands: impl Fn(TcpStream) -> F + Send + 'static) -> Self
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
        F: Future<Output = Option<S>> + Send + 'static,
    {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("{scheme}://{}/moves", listener.local_addr().unwrap());
        let (calls, answers) = <(Arc<Mutex<Vec<Call>>>, Arc<Mutex<VecDeque<_>>>)>::default();
        let (heard, told) = (Arc::clone(&calls), Arc::clone(&answers));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (calls, answers) = (Arc::clone(&heard), Arc::clone(&told));
                let service = hyper::service::service_fn(move |request: Request<Incoming>| {
                    let (calls, answers) = (Arc::clone(&calls), Arc::clone(&answers));
                    async move {
                        let (head, body) = request.into_parts();
                        let body = body.collect().await?.to_bytes();
                        calls.lock().unwrap().push(Call { headers: head.headers, body });
                        let (status, text) = answers.lock().unwrap().pop_front().unwrap_or((204, ""));
                        let mut response = Response::new(Full::new(Bytes::from(text)));
                        *response.status_mut() = StatusCode::from_u16(status).unwrap();
                        Ok::<_, hyper::Error>(response)
                    }
                });
                let shaking = shake_hands(stream);
                tokio::spawn(async move {
                    let Some(stream) = shaking.await else { return };
                    let served = hyper::server::conn::http1::Builder::new();
                    let _ended = served.serve_connection(TokioIo::new(stream), service).await;
                });
            }
        });
        Self { url, calls, answers }
    }

    fn answers(&self, answers: &[(u16, &'static str)]) {
        self.answers.lock().unwrap().extend(answers);
    }

    fn ids(&self) -> Vec<String> {
        self.calls.lock().unwrap().iter().map(Call::id).collect()
    }
}

fn key_file(directory: &Path, mode: u32, text: &str) -> std::path::PathBuf {
    let path = directory.join(format!("hooks-{mode:o}.key"));
    std::fs::write(&path, text).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
    path
}

fn hex(key: &SigningKey) -> String {
    key.to_bytes().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Cells that tell `listener`. Slow machines have time: only what a test is about is bounded.
fn ground(listener: &Listener, key: &SigningKey) -> (Ground, tempfile::TempDir) {
    let keys = tempfile::tempdir().unwrap();
    let mut hook = HookOptions::new(&listener.url);
    (hook.deadline_ms, hook.cutover_deadline_ms) = (3_000, 1_500);
    // A first try that is given only half of the time may be told twice.
    hook.tries = 1;
    let mut ground = Ground::new();
    ground.hooks = Some(HooksOptions { key_file: key_file(keys.path(), 0o600, &hex(key)), hooks: vec![hook] });
    (ground, keys)
}

/// Two cells, and the change at which the tenant of the first one is held, with everything at the second one.
async fn sealed(ground: &Ground) -> (Cell, Cell, Seq) {
    let (a, b) = (ground.open("a").await, ground.open("b").await);
    ground.pool.grant(&a.agent, &outside(1)).await.unwrap();
    a.put(1, "k", "v").await.unwrap();
    copy(ground, &a, &b, &context(1, 1)).await;
    ground.pool.prepare_reverse(&b.agent, &context(1, 1)).await.unwrap();
    let (sealed, _) = seal(ground, &a, &b, &context(1, 1)).await;
    (a, b, sealed)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hook_is_told_of_each_phase_once_under_a_name_and_signature_of_its_own() {
    let (listener, key) = (Listener::start().await, SigningKey::generate());
    let (ground, _keys) = ground(&listener, &key);
    let (a, b, sealed) = sealed(&ground).await;
    for _ in ["the coordinator has not heard the answer", "and asks again"] {
        ground.pool.fence(&a.agent, &context(1, 1), sealed).await.unwrap();
    }
    let step = context(2, 1);
    ground.pool.activate(&b.agent, &step, Some((&a.id, &a.agent))).await.unwrap();
    let mapping = ground.mapping(&b.id, 2);
    ground.pool.deliver_mapping(&a.agent, &step, &mapping, Some((&b.id, &b.agent))).await.unwrap();
    ground.pool.retire(&a.agent, &step).await.unwrap();
    let ended = cell_client::StepContext { attempt: cell_model::Attempt(u32::MAX), ..context(2, 1) };
    ground.pool.stop_capture(&b.agent, &ended).await.unwrap();
    ground.pool.reclaim(&a.agent, &ended, Epoch(1)).await.unwrap();
    assert_eq!(
        listener.ids(),
        [
            "m-20.1.prepare.start-capture.a",
            "m-20.1.prepare.prepare-import.b",
            "m-20.1.hold.hold-writes.a",
            "m-20.1.fence.fence.a",
            "m-20.1.fence.fence.a",
            "m-20.1.activate.activate.b",
            "m-20.ended.reclaim.reclaim.a",
        ]
    );
    // The same order once more, when the tenant is on its way here again: nobody is to delete what belongs to that.
    let next = cell_client::StepContext { move_id: Some(cell_model::MoveId(30)), ..context(2, 1) };
    ground.pool.start_capture(&b.agent, &next).await.unwrap();
    ground.pool.prepare_import(&a.agent, &next, &b.id, &b.agent).await.unwrap();
    let told = listener.ids().len();
    ground.pool.reclaim(&a.agent, &ended, Epoch(1)).await.unwrap();
    assert_eq!(listener.ids().len(), told, "{:?}", listener.ids().last());
    let calls = listener.calls.lock().unwrap().clone();
    let now = calls[0].header("webhook-timestamp").parse().unwrap();
    for call in &calls {
        let (id, at) = (call.id(), call.header("webhook-timestamp").parse().unwrap());
        let signed = HookCall { id: &id, at, body: &call.body };
        signed.verify(call.header("webhook-signature"), &key.public(), now).unwrap();
    }
    let hold = calls[2].json();
    let budget = u64::try_from(HOLD.as_millis()).unwrap();
    assert_eq!(hold["budget_ms"], budget);
    assert_eq!((&hold["tenant"], &hold["move"], &hold["epoch"]), (&"t-1".into(), &"m-20".into(), &1.into()));
    assert_eq!((&hold["phase"], &hold["cell"], &hold["leg"]), (&"hold".into(), &"a".into(), &"forward".into()));
    assert_eq!(calls[0].json().get("budget_ms"), None);
    a.close().await;
    b.close().await;
}

#[tokio::test]
async fn a_hook_that_refuses_to_prepare_is_asked_once_and_its_words_are_told() {
    let (listener, key) = (Listener::start().await, SigningKey::generate());
    let (ground, _keys) = ground(&listener, &key);
    let a = ground.open("a").await;
    ground.pool.grant(&a.agent, &outside(1)).await.unwrap();
    listener.answers(&[(409, r#"{"reason":"a reindex runs"}"#)]);
    let Err(StepError::Refused { code, reason }) = ground.pool.start_capture(&a.agent, &context(1, 1)).await else {
        panic!("not refused");
    };
    assert_eq!(code, "HOOK_REFUSED");
    assert!(reason.contains("prepare") && reason.ends_with("409: a reindex runs"), "{reason}");
    assert_eq!(listener.ids().len(), 1);
    // What was begun is taken back, and that is told, too.
    ground.pool.stop_capture(&a.agent, &context(1, 1)).await.unwrap();
    assert_eq!(listener.ids()[1], "m-20.1.abort.stop-capture.a");
    a.put(1, "k", "v").await.unwrap();
    a.close().await;
}

#[tokio::test]
async fn a_hook_that_fails_is_tried_again_under_the_same_name_and_given_up_in_the_end() {
    let (listener, key) = (Listener::start().await, SigningKey::generate());
    let (mut ground, _keys) = ground(&listener, &key);
    ground.hooks.as_mut().unwrap().hooks[0].tries = 3;
    let a = ground.open("a").await;
    ground.pool.grant(&a.agent, &outside(1)).await.unwrap();
    listener.answers(&[(503, ""), (429, "slowly")]);
    ground.pool.start_capture(&a.agent, &context(1, 1)).await.unwrap();
    assert_eq!(listener.ids(), ["m-20.1.prepare.start-capture.a"; 3]);
    listener.answers(&[(500, "no disk"), (500, "no disk"), (500, "no disk"), (500, "no disk")]);
    let Err(StepError::Refused { code, reason }) = ground.pool.start_capture(&a.agent, &context(1, 1)).await else {
        panic!("not refused");
    };
    assert_eq!((code.as_str(), listener.ids().len()), ("HOOK_FAILED", 6));
    assert!(reason.ends_with("500: no disk"), "{reason}");
    a.close().await;
}

#[tokio::test]
async fn a_hold_that_a_hook_refuses_is_let_go_of() {
    let (listener, key) = (Listener::start().await, SigningKey::generate());
    let (ground, _keys) = ground(&listener, &key);
    let (a, b) = (ground.open("a").await, ground.open("b").await);
    ground.pool.grant(&a.agent, &outside(1)).await.unwrap();
    copy(&ground, &a, &b, &context(1, 1)).await;
    listener.answers(&[(423, "a backup runs")]);
    let held = ground.pool.hold_writes(&a.agent, &context(1, 1), HOLD).await;
    assert_eq!(refused(held), "HOOK_REFUSED");
    // Of this attempt nothing stands any more: a fence on it would be refused.
    a.put(1, "k", "v").await.unwrap();
    assert_eq!(refused(ground.pool.fence(&a.agent, &context(1, 1), cell_model::Seq(1)).await), "NOT_SEALED");
    // The next attempt meets a hook that is content.
    let (sealed, _) = seal(&ground, &a, &b, &context(1, 2)).await;
    ground.pool.fence(&a.agent, &context(1, 2), sealed).await.unwrap();
    a.close().await;
    b.close().await;
}

#[tokio::test]
async fn from_the_fence_on_what_a_hook_says_changes_nothing() {
    let (listener, key) = (Listener::start().await, SigningKey::generate());
    let (mut ground, _keys) = ground(&listener, &key);
    let phases = vec![HookPhase::Fence, HookPhase::Activate, HookPhase::Abort];
    let hooks = ground.hooks.as_mut().unwrap();
    hooks.hooks[0].phases = phases;
    let (a, b) = (ground.open("a").await, ground.open("b").await);
    ground.pool.grant(&a.agent, &outside(1)).await.unwrap();
    copy(&ground, &a, &b, &context(1, 1)).await;
    ground.pool.prepare_reverse(&b.agent, &context(1, 1)).await.unwrap();
    listener.answers(&[(409, "no"), (404, "what?")]);
    cut_over(&ground, &a, &b, 1, 1).await;
    assert_eq!(listener.ids(), ["m-20.1.fence.fence.a", "m-20.1.activate.activate.b"]);
    b.put(2, "k", "v").await.unwrap();

    // Rolled back: a hook that is not told does not keep the tenant from its rows, either.
    let back = |epoch| cell_client::StepContext { leg: Some(Leg::Back), ..context(epoch, 2) };
    let (sealed, _) = seal(&ground, &b, &a, &back(2)).await;
    ground.pool.fence(&b.agent, &back(2), sealed).await.unwrap();
    listener.answers(&[(410, ""), (410, ""), (410, "")]);
    ground.pool.activate(&a.agent, &back(3), None).await.unwrap();
    ground.pool.deliver_mapping(&b.agent, &back(3), &ground.mapping(&a.id, 3), None).await.unwrap();
    ground.pool.drop_import(&b.agent, &back(3)).await.unwrap();
    a.put(3, "k", "w").await.unwrap();
    assert_eq!(listener.ids()[4], "m-20.2.abort.drop-import.b");
    a.close().await;
    b.close().await;
}

#[tokio::test]
async fn a_hook_over_https_is_called_where_its_certificate_is_believed_and_nowhere_else() {
    let (authority, key) = (Authority::new(), SigningKey::generate());
    let listener = Listener::start_over_tls(&authority.server(&["127.0.0.1"])).await;
    let (mut ground, _keys) = ground(&listener, &key);
    let believe = |ground: &mut Ground, authority: &Authority| {
        ground.hooks.as_mut().unwrap().hooks[0].ca_file = Some(authority.file());
    };
    believe(&mut ground, &authority);
    let a = ground.open("a").await;
    ground.pool.grant(&a.agent, &outside(1)).await.unwrap();
    ground.pool.start_capture(&a.agent, &context(1, 1)).await.unwrap();
    assert_eq!(listener.ids(), ["m-20.1.prepare.start-capture.a"]);
    listener.answers(&[(409, "no")]);
    assert_eq!(refused(ground.pool.start_capture(&a.agent, &context(1, 1)).await), "HOOK_REFUSED");
    a.close().await;

    for (whose, names) in [(Authority::new(), ["127.0.0.1"]), (Authority::new(), ["hooks.test"])] {
        let listener = Listener::start_over_tls(&whose.server(&names)).await;
        let (mut ground, _keys) = self::ground(&listener, &key);
        // Signed by somebody else, or for another name.
        believe(&mut ground, if names == ["hooks.test"] { &whose } else { &authority });
        let a = ground.open("a").await;
        ground.pool.grant(&a.agent, &outside(1)).await.unwrap();
        let Err(StepError::Refused { code, reason }) = ground.pool.start_capture(&a.agent, &context(1, 1)).await
        else {
            panic!("not refused");
        };
        assert!(code == "HOOK_FAILED" && reason.contains("no TLS: invalid peer certificate"), "{code}: {reason}");
        assert!(listener.ids().is_empty(), "it is told nothing");
        a.close().await;
    }
}

/// Cells that tell somebody who never answers, and what must be there meanwhile: the kernel takes connections for it, and
/// nobody reads what comes.
async fn ground_of_silence() -> (Ground, (tokio::net::TcpListener, tempfile::TempDir)) {
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/moves", silent.local_addr().unwrap());
    let unheard = Listener { url, calls: Arc::default(), answers: Arc::default() };
    let (mut ground, keys) = ground(&unheard, &SigningKey::generate());
    let hook = &mut ground.hooks.as_mut().unwrap().hooks[0];
    (hook.deadline_ms, hook.cutover_deadline_ms, hook.tries) = (300, 100, 2);
    (ground, (silent, keys))
}

/// Much more than all deadlines of such a hook, and less than what a step may take.
const SILENCE_MAX: std::time::Duration = std::time::Duration::from_secs(5);

#[tokio::test]
async fn a_hook_that_never_answers_costs_its_deadline_and_no_more() {
    let (mut ground, _silent) = ground_of_silence().await;
    let a = ground.open("a").await;
    ground.pool.grant(&a.agent, &outside(1)).await.unwrap();
    let began = std::time::Instant::now();
    let Err(StepError::Refused { code, reason }) = ground.pool.start_capture(&a.agent, &context(1, 1)).await else {
        panic!("not refused");
    };
    assert!(code == "HOOK_FAILED" && reason.contains("no answer within"), "{code}: {reason}");
    assert!(began.elapsed() < SILENCE_MAX, "{:?}", began.elapsed());
    // The step itself is done, so it can be taken back; that nobody hears of it holds nothing up.
    ground.pool.stop_capture(&a.agent, &context(1, 1)).await.unwrap();
    a.put(1, "k", "v").await.unwrap();
    a.close().await;

    ground.hooks.as_mut().unwrap().hooks[0].phases = vec![HookPhase::Hold];
    let (a, b) = (ground.open("c").await, ground.open("b").await);
    ground.pool.grant(&a.agent, &outside(1)).await.unwrap();
    copy(&ground, &a, &b, &context(1, 1)).await;
    assert_eq!(refused(ground.pool.hold_writes(&a.agent, &context(1, 1), HOLD).await), "HOOK_FAILED");
    a.put(1, "k", "v").await.unwrap();
    a.close().await;
    b.close().await;
}

#[tokio::test]
async fn from_the_fence_on_a_hook_that_never_answers_changes_nothing() {
    let (mut ground, _silent) = ground_of_silence().await;
    ground.hooks.as_mut().unwrap().hooks[0].phases = vec![HookPhase::Fence, HookPhase::Activate];
    let (a, b, sealed) = sealed(&ground).await;
    let began = std::time::Instant::now();
    assert_eq!(ground.pool.fence(&a.agent, &context(1, 1), sealed).await.unwrap(), sealed);
    ground.pool.activate(&b.agent, &context(2, 1), Some((&a.id, &a.agent))).await.unwrap();
    assert!(began.elapsed() < SILENCE_MAX, "{:?}", began.elapsed());
    b.put(2, "k", "w").await.unwrap();
    a.close().await;
    b.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hook_is_not_told_again_of_what_a_later_move_has_overtaken() {
    let (listener, key) = (Listener::start().await, SigningKey::generate());
    let (mut ground, _keys) = ground(&listener, &key);
    let hook = &mut ground.hooks.as_mut().unwrap().hooks[0];
    (hook.phases, hook.tries) = (vec![HookPhase::Abort], 10);
    let (a, b) = (ground.open("a").await, ground.open("b").await);
    ground.pool.grant(&a.agent, &outside(1)).await.unwrap();
    copy(&ground, &a, &b, &context(1, 1)).await;
    listener.answers(&[(500, "not now"); 100]);
    let (pool, agent) = (ground.pool.clone(), b.agent.clone());
    let dropping = tokio::spawn(async move { pool.drop_import(&agent, &context(1, 1)).await });
    let told = async {
        while listener.ids().is_empty() {
            tokio::time::sleep(std::time::Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(PATIENCE, told).await.expect("it is told");
    let next = cell_client::StepContext { move_id: Some(cell_model::MoveId(30)), ..context(1, 1) };
    ground.pool.start_capture(&a.agent, &next).await.unwrap();
    ground.pool.prepare_import(&b.agent, &next, &a.id, &a.agent).await.unwrap();
    let told = listener.ids();
    dropping.await.unwrap().unwrap();
    // One may have been on its way.
    assert!(listener.ids().len() <= told.len() + 1, "{:?}", listener.ids());
    assert!(told.iter().all(|id| id == "m-20.1.abort.drop-import.b"), "{told:?}");
    a.close().await;
    b.close().await;
}

#[tokio::test]
async fn hooks_that_cannot_work_keep_an_agent_from_starting_and_say_why() {
    let directory = tempfile::tempdir().unwrap();
    let good = key_file(directory.path(), 0o600, &hex(&SigningKey::generate()));
    let hook = || HookOptions::new("http://127.0.0.1:9/");
    let with = |change: &dyn Fn(&mut HookOptions)| {
        let mut changed = hook();
        change(&mut changed);
        HooksOptions { key_file: good.clone(), hooks: vec![changed] }
    };
    let cases = [
        (HooksOptions { key_file: good.clone(), hooks: vec![] }, "INVALID_OPTION", "between 1 and 16"),
        (HooksOptions { key_file: good.clone(), hooks: vec![hook(); 17] }, "INVALID_OPTION", "not 17"),
        (with(&|hook| hook.tries = 0), "INVALID_OPTION", "tries"),
        (with(&|hook| hook.deadline_ms = 60_000), "INVALID_OPTION", "deadline-ms"),
        (with(&|hook| hook.cutover_deadline_ms = 5), "INVALID_OPTION", "cutover-deadline-ms"),
        (with(&|hook| hook.url = "search.test".into()), "INVALID_OPTION", "http://"),
        (with(&|hook| hook.url = "https://search.test".into()), "INVALID_OPTION", "ca-file"),
        (
            with(&|hook| {
                hook.url = "https://search.test".into();
                hook.ca_file = Some(good.clone());
            }),
            "HOOK_FILE_INVALID",
            "no certificate",
        ),
        (
            HooksOptions { key_file: directory.path().join("none"), hooks: vec![hook()] },
            "HOOK_FILE_INVALID",
            "cannot read",
        ),
        (
            HooksOptions { key_file: key_file(directory.path(), 0o400, "no key"), hooks: vec![hook()] },
            "HOOK_FILE_INVALID",
            "64 hexadecimal digits",
        ),
        (
            HooksOptions { key_file: key_file(directory.path(), 0o644, "x"), hooks: vec![hook()] },
            "HOOK_KEY_EXPOSED",
            "chmod 600",
        ),
    ];
    for (hooks, code, said) in cases {
        let mut options =
            AgentOptions::new(CellId::new("a").unwrap(), directory.path().join("data"), "127.0.0.1:0");
        options.insecure_plaintext = true;
        options.hooks = Some(hooks);
        let error = Agent::open(options).await.map(|_| ()).unwrap_err();
        assert_eq!(error.code(), code, "{error}");
        assert!(error.to_string().contains(said), "{error} lacks {said}");
    }
}
