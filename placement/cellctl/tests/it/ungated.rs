//! Cells whose application nobody changes, and before which nobody stands: real control plane, agents, routers and databases. A
//! tenant moves, and moves back, under writers and readers.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use cell_client::cluster::{InitializeOptions, initialize_with};
use cell_client::{ClientOptions, ControlClient, WriteOptions, wire};
use cell_control::{Service, key_file};
use cell_model::{CellId, CellTraits, MoveId, MoveIntent, MoveOptions, NewCell, NewTenant, TenantId, Tier};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};
use tokio_postgres::Client;
use tokio_util::sync::CancellationToken;

use crate::server;

const TENANT: &str = "acme";
const WITHIN: Duration = Duration::from_secs(60);

fn id(name: &str) -> CellId {
    CellId::new(name).unwrap()
}

async fn eventually<F: Future<Output = bool>>(what: &str, mut holds: impl FnMut() -> F) {
    let deadline = Instant::now() + WITHIN;
    while !holds().await {
        assert!(Instant::now() < deadline, "not within a minute: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Reads a message of HTTP/1.1: its first line, and its body. None: the other side has gone.
async fn read(stream: &mut TcpStream) -> Option<(String, String)> {
    let mut bytes = Vec::new();
    let head = loop {
        if let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            break end + 4;
        }
        let mut piece = [0; 4_096];
        let length = stream.read(&mut piece).await.ok().filter(|length| *length > 0)?;
        bytes.extend_from_slice(&piece[..length]);
    };
    let text = String::from_utf8(bytes[..head].to_vec()).unwrap().to_lowercase();
    let length = text.lines().find_map(|line| line.strip_prefix("content-length:"));
    let length: usize = length.map_or(0, |length| length.trim().parse().unwrap());
    while bytes.len() < head + length {
        let mut piece = [0; 4_096];
        let read = stream.read(&mut piece).await.ok().filter(|length| *length > 0)?;
        bytes.extend_from_slice(&piece[..read]);
    }
    let first = text.lines().next().unwrap_or_default().to_owned();
    Some((first, String::from_utf8(bytes[head..head + length].to_vec()).unwrap()))
}

/// An application that knows nothing of Cellway: notes in a table, and how many there are.
struct Application {
    address: String,
    url: String,
}

impl Application {
    async fn start(tasks: &mut JoinSet<()>) -> Self {
        let url = server::database().await;
        let table = "CREATE TABLE notes (owner text NOT NULL, id text NOT NULL, PRIMARY KEY (owner, id))";
        server::session(&url).await.batch_execute(table).await.unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let sessions: Arc<Mutex<Vec<Client>>> = Arc::default();
        let database = url.clone();
        tasks.spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let (sessions, url) = (Arc::clone(&sessions), database.clone());
                tokio::spawn(async move {
                    while let Some((line, _)) = read(&mut stream).await {
                        let spare = sessions.lock().unwrap().pop();
                        let session = match spare {
                            Some(session) => session,
                            None => server::session(&url).await,
                        };
                        let (status, body) = answer(&session, &line).await;
                        sessions.lock().unwrap().push(session);
                        let length = body.len();
                        let answer = format!("HTTP/1.1 {status} x\r\ncontent-length: {length}\r\n\r\n{body}");
                        if stream.write_all(answer.as_bytes()).await.is_err() {
                            return;
                        }
                    }
                });
            }
        });
        Self { address, url }
    }
}

/// One statement for each request, as somebody wrote it years ago; whatever the database does not do is a 500.
async fn answer(session: &Client, line: &str) -> (u16, String) {
    let mut words = line.split(' ');
    let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let done = match method {
        "post" => {
            let sql = "INSERT INTO notes (owner, id) VALUES ($1, $2)";
            session.execute(sql, &[&TENANT, &path.trim_start_matches('/')]).await.map(|_| "noted".to_owned())
        }
        _ => {
            let row = session.query_one("SELECT count(*) FROM notes WHERE owner = $1", &[&TENANT]).await;
            row.map(|row| row.get::<_, i64>(0).to_string())
        }
    };
    done.map_or_else(|error| (500, format!("{:?}", error.as_db_error())), |body| (200, body))
}

/// Two cells without a gate, a control plane and two routers.
struct Fleet {
    control: ControlClient,
    applications: [Application; 2],
    routers: [SocketAddr; 2],
    /// The same again, if one goes away.
    options: [cell_router::Options; 2],
    running: [Option<(CancellationToken, JoinHandle<()>)>; 2],
    stop: CancellationToken,
    tasks: JoinSet<()>,
    _directory: tempfile::TempDir,
}

fn any_port() -> SocketAddr {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

impl Fleet {
    async fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let (stop, mut tasks) = (CancellationToken::new(), JoinSet::new());
        let key = directory.path().join("key");
        let public = key_file::generate(&key).unwrap().to_string();
        let options = cell_control::Options {
            data_dir: directory.path().join("control"),
            listen: "127.0.0.1:0".parse().unwrap(),
            advertise: None,
            signing_key_file: key,
            identity: None,
            insecure_plaintext: true,
            trusted_keys: Vec::new(),
            cluster: None,
            log_engine: Default::default(),
            read_by_majority: false,
        };
        let service = Service::start(options).await.unwrap();
        let address = vec![service.handle().address().to_owned()];
        let ends = stop.clone();
        tasks.spawn(async move { service.run(ends).await.unwrap() });
        initialize_with(&address, InitializeOptions::default()).await.unwrap();
        let control =
            ControlClient::new(address.clone(), ClientOptions { deadline: WITHIN, ..ClientOptions::default() });
        let applications = [Application::start(&mut tasks).await, Application::start(&mut tasks).await];
        for (name, application) in ["a", "b"].into_iter().zip(&applications) {
            let agent = any_port().to_string();
            let new = NewCell {
                id: id(name),
                gates: vec![application.address.clone()],
                agent: agent.clone(),
                region: String::new(),
                residency: String::new(),
                traits: CellTraits { ungated: true, ..CellTraits::default() },
            };
            control.create_cell(new, WriteOptions::default()).await.unwrap();
            let mut options = sample_cell::Options::new(id(name), directory.path().join(name));
            options.database = Some(application.url.clone());
            options.without_gate = true;
            options.tenant_column = Some("owner".into());
            options.agent_listen = agent;
            options.control.clone_from(&address);
            options.insecure_plaintext = true;
            let ends = stop.clone();
            tasks.spawn(async move { sample_cell::run(options, ends, |_| {}).await.unwrap() });
        }
        let routers = [any_port(), any_port()];
        let options = [0, 1].map(|number| cell_router::Options {
            name: format!("router-{number}"),
            listen: routers[number],
            admin_listen: any_port(),
            control: address.clone(),
            insecure_plaintext: true,
            domains: vec!["cells.test".into()],
            trusted_keys: vec![public.clone()],
            threads: 1,
            ..cell_router::Options::default()
        });
        let tenant = NewTenant {
            id: TenantId::new(TENANT).unwrap(),
            cell: Some(id("a")),
            tier: Tier::Bronze,
            residency: String::new(),
        };
        control.create_tenant(tenant, WriteOptions::default()).await.unwrap();
        let running = [None, None];
        let mut fleet =
            Self { control, applications, routers, options, running, stop, tasks, _directory: directory };
        for number in 0..routers.len() {
            fleet.start_router(number).await;
        }
        fleet
    }

    async fn start_router(&mut self, number: usize) {
        let (options, stop) = (self.options[number].clone(), self.stop.child_token());
        let ends = stop.clone();
        let task = tokio::spawn(async move { cell_router::run(options, ends).await.unwrap() });
        self.running[number] = Some((stop, task));
        let router = self.routers[number];
        eventually("the router serves the tenant", || async {
            request(router, "GET / HTTP/1.1").await.is_some_and(|(line, _)| line.contains(" 200"))
        })
        .await;
    }

    async fn stop_router(&mut self, number: usize) {
        let (stop, task) = self.running[number].take().unwrap();
        stop.cancel();
        task.await.unwrap();
    }

    async fn move_to(&self, target: &str, soak_ms: u32) -> MoveId {
        let how = MoveOptions {
            hold_max_ms: MoveOptions::HOLD_CAP_MS,
            sync_steady_ms: 50,
            soak_ms,
            retain_ms: 1,
            ..MoveOptions::default()
        };
        let tenant = TenantId::new(TENANT).unwrap();
        self.control.move_tenant(&tenant, &id(target), how, WriteOptions::default()).await.unwrap().0
    }

    async fn until(&self, movement: MoveId, there: impl Fn(&wire::Move) -> bool) -> wire::Move {
        let deadline = Instant::now() + WITHIN;
        loop {
            let told = self.control.get_move(movement).await.unwrap();
            if there(&told) {
                return told;
            }
            assert!(told.end.is_empty() && Instant::now() < deadline, "it has not come there: {told:#?}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    async fn notes(&self, cell: usize) -> i64 {
        let session = server::session(&self.applications[cell].url).await;
        session.query_one("SELECT count(*) FROM notes WHERE owner = $1", &[&TENANT]).await.unwrap().get(0)
    }

    async fn stop(mut self) {
        self.stop.cancel();
        for (_, task) in self.running.iter_mut().filter_map(Option::take) {
            task.await.unwrap();
        }
        // The applications do not end by themselves.
        self.tasks.shutdown().await;
    }
}

/// One request through a router: the first line of its answer, and the body.
async fn request(router: SocketAddr, line: &str) -> Option<(String, String)> {
    let mut stream = TcpStream::connect(router).await.ok()?;
    let request = format!("{line}\r\nhost: {TENANT}.cells.test\r\nconnection: close\r\ncontent-length: 0\r\n\r\n");
    stream.write_all(request.as_bytes()).await.ok()?;
    read(&mut stream).await
}

/// What clients have seen.
#[derive(Default)]
struct Seen {
    stopped: AtomicBool,
    acknowledged: AtomicU64,
    failed: Mutex<Vec<String>>,
}

impl Seen {
    fn fail(&self, what: String) {
        self.failed.lock().unwrap().push(what);
    }

    async fn write(self: Arc<Self>, router: SocketAddr, writer: usize) -> Vec<String> {
        let mut noted = Vec::new();
        for number in 0.. {
            if self.stopped.load(Ordering::SeqCst) {
                break;
            }
            let note = format!("note-{writer}-{number}");
            match request(router, &format!("POST /{note} HTTP/1.1")).await {
                Some((line, _)) if line.contains(" 200") => {
                    noted.push(note);
                    self.acknowledged.fetch_add(1, Ordering::SeqCst);
                }
                answer => self.fail(format!("{note}: {answer:?}")),
            }
        }
        noted
    }

    /// Whoever reads sees whatever was acknowledged before.
    async fn read(self: Arc<Self>, router: SocketAddr) {
        while !self.stopped.load(Ordering::SeqCst) {
            let before = self.acknowledged.load(Ordering::SeqCst);
            match request(router, "GET / HTTP/1.1").await {
                Some((line, count)) if line.contains(" 200") => {
                    let count: u64 = count.parse().unwrap();
                    if count < before {
                        self.fail(format!("{count} notes were read, and {before} were acknowledged before"));
                    }
                }
                answer => self.fail(format!("read: {answer:?}")),
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tenant_of_an_application_that_nobody_changes_moves_and_moves_back_and_nothing_is_lost() {
    let fleet = Fleet::start().await;
    let seen = Arc::new(Seen::default());
    let (mut writers, mut readers) = (JoinSet::new(), JoinSet::new());
    for client in 0..4 {
        writers.spawn(Arc::clone(&seen).write(fleet.routers[client % 2], client));
    }
    for router in fleet.routers {
        readers.spawn(Arc::clone(&seen).read(router));
    }
    let enough = |more: u64| {
        let (seen, wanted) = (Arc::clone(&seen), seen.acknowledged.load(Ordering::SeqCst) + more);
        move || {
            let written = seen.acknowledged.load(Ordering::SeqCst) >= wanted;
            async move { written }
        }
    };
    eventually("writers are under way", enough(20)).await;

    let told = fleet
        .control
        .preview_move(&TenantId::new(TENANT).unwrap(), &id("b"), &MoveOptions::default())
        .await
        .unwrap();
    assert!(told.findings.is_empty(), "{:?}", told.findings);
    let notes: Vec<_> =
        told.notes.iter().filter(|note| note.code == "WITHOUT_GATE").map(|note| &*note.cell).collect();
    assert_eq!(notes, ["a", "b"]);

    // There, and back by a move of its own, and there, and back by a rollback.
    for (target, owner) in [("b", 1), ("a", 0)] {
        let ended = fleet.until(fleet.move_to(target, 100).await, |told| !told.end.is_empty()).await;
        assert_eq!(
            (ended.end.as_str(), ended.source_ungated, ended.target_ungated),
            ("completed", true, true),
            "{ended:#?}"
        );
        let held = ended.routers_held.unwrap();
        assert_eq!((held.seen, held.fenced), (2, 0));
        eventually("writers go on", enough(20)).await;
        assert!(fleet.notes(owner).await > 0);
    }
    let movement = fleet.move_to("b", 3_600_000).await;
    fleet.until(movement, |told| told.phase() == wire::Phase::Soak).await;
    fleet.control.steer_move(movement, MoveIntent::Rollback, WriteOptions::default()).await.unwrap();
    let ended = fleet.until(movement, |told| !told.end.is_empty()).await;
    assert_eq!(ended.end, "rolled-back", "{ended:#?}");
    eventually("writers go on", enough(20)).await;

    seen.stopped.store(true, Ordering::SeqCst);
    let mut noted: Vec<String> = writers.join_all().await.into_iter().flatten().collect();
    readers.join_all().await;
    assert_eq!(*seen.failed.lock().unwrap(), Vec::<String>::new(), "nobody fails, and nobody reads what is old");
    let owner = fleet.control.get_tenant(&TenantId::new(TENANT).unwrap()).await.unwrap().mapping.unwrap().owner;
    let session = server::session(&fleet.applications[usize::from(owner == "b")].url).await;
    let rows = session.query("SELECT id FROM notes WHERE owner = $1", &[&TENANT]).await.unwrap();
    let mut kept: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
    noted.sort_unstable();
    kept.sort_unstable();
    assert_eq!(kept, noted, "every note that was acknowledged, and no other");
    fleet.stop().await;
}

/// How many held back, and how many had no lease, when a tenant moved to `target`.
async fn held_back(fleet: &Fleet, target: &str) -> (u32, u32) {
    let ended = fleet.until(fleet.move_to(target, 100).await, |told| !told.end.is_empty()).await;
    assert_eq!(ended.end, "completed", "{ended:#?}");
    let held = ended.routers_held.unwrap();
    (held.seen, held.fenced)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hold_outwaits_the_lease_of_a_router_that_has_gone_and_hears_the_one_that_comes_in_its_place() {
    let mut fleet = Fleet::start().await;
    let seen = Arc::new(Seen::default());
    let mut writers = JoinSet::new();
    for client in 0..2 {
        writers.spawn(Arc::clone(&seen).write(fleet.routers[0], client));
    }
    // It may hold a lease still, and its word of what it sends is the last that was heard.
    fleet.stop_router(1).await;
    assert_eq!(held_back(&fleet, "b").await, (1, 1));
    fleet.start_router(1).await;
    let (line, _) = request(fleet.routers[1], "POST /by-the-new-one HTTP/1.1").await.unwrap();
    assert!(line.contains(" 200"), "{line}");
    assert_eq!(held_back(&fleet, "a").await, (2, 1), "that which has gone is remembered");
    seen.stopped.store(true, Ordering::SeqCst);
    let noted = writers.join_all().await.into_iter().flatten().count();
    assert_eq!(*seen.failed.lock().unwrap(), Vec::<String>::new());
    assert_eq!(fleet.notes(0).await, i64::try_from(noted).unwrap() + 1);
    fleet.stop().await;
}

/// What comes past the routers is the database's to refuse, also where a router that holds nothing back is the one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_writes_past_the_routers_is_fenced_by_the_database_of_a_cell_without_a_gate() {
    let fleet = Fleet::start().await;
    let direct = server::session(&fleet.applications[0].url).await;
    let write =
        async |note: &str| direct.execute("INSERT INTO notes (owner, id) VALUES ($1, $2)", &[&TENANT, &note]).await;
    write("before").await.unwrap();
    let ended = fleet.until(fleet.move_to("b", 100).await, |told| !told.end.is_empty()).await;
    assert_eq!(ended.end, "completed", "{ended:#?}");
    let refused = write("behind").await.unwrap_err();
    assert!(refused.code().is_some_and(|code| code.code().starts_with("CW0")), "{refused:?}");
    assert_eq!(fleet.notes(1).await, 1, "and what it wrote before has gone along");
    fleet.stop().await;
}
