//! Commands against a control plane of one node. No cell runs, so tenants stay as they were placed.

use std::path::{Path, PathBuf};

use cell_control::{Handle, Options, Service, key_file};
use cell_model::{Command, Envelope, Fleet, Limits, RequestId, UnixMillis};
use tokio_util::sync::CancellationToken;

use crate::program::{Said, cellctl};

pub(crate) struct ControlPlane {
    pub(crate) address: String,
    /// While it runs.
    handle: Option<Handle>,
    stop: CancellationToken,
    ended: Option<std::thread::JoinHandle<()>>,
}

impl ControlPlane {
    pub(crate) fn start(directory: &Path) -> Self {
        Self::start_as(directory, None)
    }

    /// In plaintext, or with this identity.
    pub(crate) fn start_as(directory: &Path, identity: Option<PathBuf>) -> Self {
        Self::open(directory, "data", "127.0.0.1:0", identity)
    }

    /// In plaintext, with data and address of its own choice.
    pub(crate) fn start_at(directory: &Path, data: &str, listen: &str) -> Self {
        Self::open(directory, data, listen, None)
    }

    fn open(directory: &Path, data: &str, listen: &str, identity: Option<PathBuf>) -> Self {
        let key = directory.join("key");
        if !key.exists() {
            key_file::generate(&key).unwrap();
        }
        let options = Options {
            data_dir: directory.join(data),
            listen: listen.parse().unwrap(),
            advertise: None,
            signing_key_file: key,
            insecure_plaintext: identity.is_none(),
            identity,
            trusted_keys: Vec::new(),
            cluster: None,
            log_engine: Default::default(),
            read_by_majority: false,
        };
        let stop = CancellationToken::new();
        let (told, handle) = std::sync::mpsc::sync_channel::<Handle>(1);
        let ends = stop.clone();
        let ended = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let service = Service::start(options).await.unwrap();
                told.send(service.handle()).unwrap();
                service.run(ends).await.unwrap();
            });
        });
        let handle = handle.recv().unwrap();
        Self { address: handle.address().to_owned(), handle: Some(handle), stop, ended: Some(ended) }
    }

    pub(crate) fn run(&self, words: &str) -> Said {
        cellctl(&format!("{words} --insecure-plaintext --endpoints {}", self.address))
    }
}

impl ControlPlane {
    /// Ends the node; what it has is left as it is.
    pub(crate) fn stop(&mut self) {
        self.handle = None;
        self.stop.cancel();
        if let Some(ended) = self.ended.take() {
            ended.join().unwrap();
        }
    }
}

impl Drop for ControlPlane {
    fn drop(&mut self) {
        self.stop();
    }
}

fn json(said: &Said) -> serde_json::Value {
    serde_json::from_str(&said.out).unwrap_or_else(|error| panic!("{error}: {said:?}"))
}

fn refused(said: &Said, exit: i32, code: &str) {
    assert_eq!(said.code, exit, "{said:?}");
    assert!(said.err.contains(code) && said.out.is_empty(), "{said:?}");
}

#[test]
fn a_cluster_is_made_once_and_tenants_and_cells_are_made_listed_and_described() {
    let directory = tempfile::tempdir().unwrap();
    let control = ControlPlane::start(directory.path());
    let made = control.run("cluster init");
    assert_eq!((made.code, made.out.trim().len()), (0, 16), "{made:?}");
    assert_eq!(control.run("cluster init").out, made.out, "run again it answers the same");
    let status = json(&control.run("cluster status -o json"));
    assert_eq!(status["items"][0]["role"], "leader");

    let created = control.run("create cell c1 --agent 127.0.0.1:9 --gate 127.0.0.1:10 --region here");
    assert_eq!(created.code, 0, "{created:?}");
    assert_eq!(control.run("create cell c2 --agent 127.0.0.1:11").code, 0);
    let created = control.run("create tenant acme --cell c1 --tier gold -o json");
    assert_eq!(json(&created)["items"][0]["cell"], "c1");
    assert_eq!(control.run("get tenants -o name").out, "tenant/acme\n");
    let listed = control.run("get tenants --no-headers");
    assert!(listed.out.starts_with("acme   PROVISIONING   c1"), "{listed:?}");
    assert_eq!(control.run("get tenants --cell c2 -o name").out, "");
    let stale = control.run("get tenants -o name --stale");
    assert!(stale.out == "tenant/acme\n" && stale.err.contains(" has answered as of revision "), "{stale:?}");
    let described = control.run("describe tenant acme");
    assert!(described.out.contains("Tier:          gold\n"), "{described:?}");
    let cell = control.run("describe cell c1");
    assert!(
        cell.out.contains("Gates:         127.0.0.1:10\n") && cell.out.contains("Tenants:       1\n"),
        "{cell:?}"
    );

    let cordoned = control.run("cordon cell c2 -o json");
    assert_eq!(json(&cordoned)["items"][0]["state"], "cordoned");
    assert_eq!(json(&control.run("uncordon cell c2 -o json"))["items"][0]["state"], "active");
}

#[test]
fn bad_input_is_refused_with_a_code_and_a_next_step_and_changes_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let control = ControlPlane::start(directory.path());
    assert_eq!(control.run("cluster init").code, 0);
    assert_eq!(control.run("create cell c1 --agent 127.0.0.1:9").code, 0);
    assert_eq!(control.run("create tenant acme").code, 0);
    let before = control.run("get tenants -o json").out;

    refused(&control.run("describe tenant nobody"), 1, "TENANT_UNKNOWN");
    refused(&control.run("move tenant nobody --to c1"), 1, "TENANT_UNKNOWN");
    refused(&control.run("describe cell c9"), 1, "CELL_UNKNOWN");
    refused(&control.run("create tenant acme"), 1, "TENANT_EXISTS");
    refused(&control.run("create cell c1 --agent 127.0.0.1:9"), 1, "CELL_EXISTS");
    refused(&control.run("create tenant other --cell c9"), 1, "CELL_UNKNOWN");
    refused(&control.run("move cancel m-999999"), 1, "MOVE_UNKNOWN");
    refused(&control.run("delete tenant acme"), 64, "--yes");
    refused(&control.run("create tenant Not_A_Label"), 64, "tenant id");
    refused(&control.run("move cancel 17"), 64, "move id");
    refused(&control.run("get tenants --endpoints nowhere"), 64, "host:port");
    refused(&control.run("get routers --stale"), 64, "the leader alone");
    refused(&control.run("get tenants --expected-revision 3"), 64, "leave it out");
    refused(&control.run("cordon cell c1 --expected-revision 999"), 1, "STALE_REVISION");
    let hinted = control.run("create tenant acme");
    assert!(hinted.err.contains("next: `cellctl describe tenant acme`"), "{hinted:?}");
    assert_eq!(control.run("get tenants -o json").out, before);
}

#[test]
fn a_control_plane_that_is_not_there_is_unavailable_and_not_a_failure() {
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let said = cellctl(&format!("get tenants --timeout 300ms --insecure-plaintext --endpoints {free}"));
    refused(&said, 75, "UNAVAILABLE");
    let status = cellctl(&format!("cluster status --timeout 300ms --insecure-plaintext --endpoints {free}"));
    assert!(status.code == 75 && status.out.contains("unreachable"), "{status:?}");
}

#[test]
fn a_key_is_made_once_and_only_its_public_half_is_printed() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("key");
    let made = cellctl(&format!("keygen --out {}", file.display()));
    assert_eq!((made.code, made.out.trim().len()), (0, 64), "{made:?}");
    assert!(!std::fs::read_to_string(&file).unwrap().contains(made.out.trim()));
    let again = cellctl(&format!("keygen --out {}", file.display()));
    refused(&again, 1, "SIGNING_KEY_EXISTS");
    assert!(again.err.contains(&format!("keygen --show {}", file.display())), "{again:?}");
}

#[test]
fn the_public_half_of_a_key_that_is_there_is_printed_and_the_file_is_left_as_it_is() {
    use std::os::unix::fs::PermissionsExt as _;
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("router.context-key");
    let show = format!("keygen --show {}", file.display());
    refused(&cellctl(&show), 1, "SIGNING_KEY_UNREADABLE");
    // As `openssl rand -hex 32` writes one.
    let secret = format!("{}\n", "07".repeat(32));
    std::fs::write(&file, &secret).unwrap();
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644)).unwrap();
    refused(&cellctl(&show), 1, "SIGNING_KEY_EXPOSED");
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
    let shown = cellctl(&show);
    let public = cell_trust::SigningKey::from_bytes(&[7; 32]).public();
    assert_eq!((shown.code, shown.out.as_str()), (0, format!("{public}\n").as_str()), "{shown:?}");
    assert_eq!(std::fs::read_to_string(&file).unwrap(), secret);
    refused(&cellctl("keygen"), 64, "--show");
    refused(&cellctl(&format!("{show} --out {}", directory.path().join("other").display())), 64, "--show");
    assert!(!directory.path().join("other").exists());
}

#[test]
fn a_server_with_options_that_make_no_sense_says_which() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("options.json");
    std::fs::write(&file, r#"{"listen-on": 1}"#).unwrap();
    let said = cellctl(&format!("run control --options {}", file.display()));
    refused(&said, 64, "listen-on");
}

#[test]
fn completion_and_version_need_no_control_plane() {
    assert!(cellctl("completion bash").out.contains("_cellctl"));
    assert!(cellctl("version").out.starts_with("cellctl 0."));
}

#[test]
fn a_watch_prints_what_there_is_and_what_changes_until_it_is_told_to_end() {
    let directory = tempfile::tempdir().unwrap();
    let control = ControlPlane::start(directory.path());
    assert_eq!(control.run("cluster init").code, 0);
    for cell in ["c1", "c2"] {
        assert_eq!(control.run(&format!("create cell {cell} --agent 127.0.0.1:9")).code, 0);
    }
    for (tenant, cell) in [("acme-eu", "c1"), ("globex", "c1"), ("acme-us", "c2")] {
        assert_eq!(control.run(&format!("create tenant {tenant} --cell {cell}")).code, 0);
    }
    let revision = json(&control.run("describe tenant acme-us -o json"))["revision"].as_u64().unwrap();
    let all = control.run(&format!("watch --until {revision} -o name"));
    assert!(all.code == 0 && all.err.contains(&format!("as of revision {revision}")), "{all:?}");
    assert_eq!(all.out, "limits\ncell/c1\ncell/c2\ntenant/acme-eu\ntenant/acme-us\ntenant/globex\n");
    let of_prefix = control.run(&format!("watch --prefix acme- --cell c1 --until {revision} -o json"));
    let lines: Vec<serde_json::Value> =
        of_prefix.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let told: Vec<_> = lines.iter().map(|line| (line["name"].as_str().unwrap(), line["epoch"].as_u64())).collect();
    assert_eq!(told, [("cell/c1", None), ("tenant/acme-eu", Some(1))]);
    // Behind a revision only what has changed since.
    let since = control.run(&format!("watch --after {} --until {revision} --no-headers", revision - 1));
    assert_eq!(since.out.lines().count(), 1, "{since:?}");
    assert!(since.out.starts_with(&revision.to_string()) && since.out.contains("tenant/acme-us"), "{since:?}");

    refused(&control.run("watch --prefix=-x"), 64, "--prefix");
    refused(&control.run("watch --prefix a --tenant b"), 64, "--tenant");
    refused(&control.run("watch --after 9 --until 8"), 64, "--until");
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let nobody = cellctl(&format!("watch -o name --timeout 300ms --insecure-plaintext --endpoints {free}"));
    refused(&nobody, 75, "UNAVAILABLE");
}

#[test]
fn a_command_whose_answer_is_forgotten_is_not_run_again_and_its_end_stays_unknown() {
    let directory = tempfile::tempdir().unwrap();
    let control = ControlPlane::start(directory.path());
    assert_eq!(control.run("cluster init").code, 0);
    assert_eq!(control.run("create cell c1 --agent 127.0.0.1:9").code, 0);
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    let now = u64::try_from(since.as_millis()).unwrap();
    let words = format!("cordon cell c1 --request-id 000000000000000000000000000000ff@{now}");
    assert_eq!(control.run(&words).code, 0);
    assert_eq!(control.run(&words).code, 0, "it is remembered");
    assert_eq!(control.run("uncordon cell c1").code, 0);
    // A quarter of an hour goes by, with a request each second, and as many more as are remembered for longer than that.
    let store = control.handle.as_ref().unwrap().store();
    let seconds = Fleet::ANSWERS_MIN as u64 + Fleet::ANSWERS_KEPT_MS / 1_000 + 1;
    let requests = (1..=seconds).map(|number| {
        let command = Command::SetLimits(Limits::default());
        let envelope = Envelope::new(UnixMillis(now + number * 1_000), command);
        store.submit(Envelope { request_id: Some(RequestId(u128::from(number) << 64)), ..envelope })
    });
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(futures::future::try_join_all(requests)).unwrap();
    let words = format!("cordon cell c1 --request-id 000000000000000000000000000000ff@{}", now - seconds * 1_000);
    refused(&control.run(&words), 5, "REQUEST_TOO_OLD");
    assert!(control.run(&words).err.contains("next: look whether it ran (`cellctl audit show`"));
    assert_eq!(json(&control.run("describe cell c1 -o json"))["state"], "active");
}

#[test]
fn members_are_listed_without_a_leader_too_and_that_is_said() {
    let directory = tempfile::tempdir().unwrap();
    let mut first = ControlPlane::start(directory.path());
    assert_eq!(first.run("cluster init").code, 0);
    let silent = first.run("store members add 127.0.0.1:1 --timeout 300ms");
    refused(&silent, 75, "NODE_UNREACHABLE");
    assert!(silent.err.contains("next: start it (`cell-control serve`"), "{silent:?}");
    let mut second = ControlPlane::start_at(directory.path(), "second", "127.0.0.1:0");
    let added = first.run(&format!("store members add {} --promote -o json", second.address));
    assert_eq!(json(&added)["items"].as_array().unwrap().len(), 2, "{added:?}");
    let stale = second.run("store members --stale --no-headers");
    assert!(stale.code == 0 && stale.out.contains(&first.address), "{stale:?}");
    assert!(stale.err.contains(" has answered as of revision "), "{stale:?}");
    first.stop();
    let address = second.address.clone();
    second.stop();
    // Of two the one that is started again does not lead.
    let second = ControlPlane::start_at(directory.path(), "second", &address);
    let unled = second.run("store members --timeout 500ms -o json");
    assert_eq!(unled.code, 75, "{unled:?}");
    let items = json(&unled)["items"].as_array().unwrap().clone();
    assert!(items.len() == 2 && items.iter().all(|item| item["role"] == "voter"), "{unled:?}");
    assert!(
        unled.err.contains("(NO_LEADER)") && unled.err.contains(&format!("{address} has answered")),
        "{unled:?}"
    );
    refused(&second.run("store members remove 127.0.0.1:1 --timeout 500ms"), 75, "UNAVAILABLE");
}

#[test]
fn a_backup_is_whole_or_not_there_and_is_never_overwritten() {
    let directory = tempfile::tempdir().unwrap();
    let control = ControlPlane::start(directory.path());
    let out = directory.path().join("fleet.backup");
    let take = |out: &Path| control.run(&format!("store backup --out {}", out.display()));
    assert_eq!(control.run("cluster init").code, 0);
    refused(&take(&directory.path().join("nowhere/fleet.backup")), 1, "BACKUP_UNWRITABLE");
    assert_eq!(take(&out).code, 0);
    refused(&take(&out), 1, "BACKUP_EXISTS");
    let left: Vec<_> =
        std::fs::read_dir(directory.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(left.iter().all(|name| !name.to_string_lossy().contains("partial")), "{left:?}");

    let verify = |path: &Path| cellctl(&format!("store verify {}", path.display()));
    assert!(verify(&out).err.contains("every part has its checksum"));
    let mut bytes = std::fs::read(&out).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    let torn = directory.path().join("torn.backup");
    std::fs::write(&torn, bytes).unwrap();
    let damaged = verify(&torn);
    refused(&damaged, 1, "BACKUP_CORRUPT");
    assert!(damaged.err.contains("torn.backup: "), "of several, which one it is: {damaged:?}");
    for nowhere in ["nonsense", "127.0.0.1", "127.0.0.1:0"] {
        let (data, words) = (directory.path().join("restored"), "store restore --advertise");
        let said = cellctl(&format!("{words} {nowhere} --from {} --data-dir {}", out.display(), data.display()));
        refused(&said, 64, "--advertise");
        assert!(!data.exists(), "nothing was made");
    }
    refused(&verify(&directory.path().join("data")), 1, "DATA_DIRECTORY_LOCKED");
    let empty = directory.path().join("empty");
    std::fs::create_dir(&empty).unwrap();
    refused(&verify(&empty), 1, "next:");
    assert_eq!(std::fs::read_dir(&empty).unwrap().count(), 0, "looking leaves nothing behind");
}
