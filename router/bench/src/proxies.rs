//! The proxies that are compared, each started with the same tenants and the same origin, one thread each, on core 0.
//! Those whose program is not here are left out.

mod others;

use std::ffi::{OsStr, OsString};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::Context;
use clap::ValueEnum;
use tempfile::TempDir;

/// What clients speak to the proxies. To the origin they all speak HTTP/1.1 in the clear, and HTTP/2 for gRPC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Wire {
    /// HTTP/1.1 in the clear
    H1,
    /// HTTP/2 with prior knowledge
    H2,
    /// HTTP/1.1 over TLS 1.3
    Tls,
    /// A gRPC call with one message each way, over HTTP/2 on both sides
    Grpc,
}

impl std::fmt::Display for Wire {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::H1 => "HTTP/1.1",
            Self::H2 => "HTTP/2",
            Self::Tls => "TLS 1.3",
            Self::Grpc => "gRPC",
        })
    }
}

impl Wire {
    /// Whether clients speak HTTP/2.
    pub(crate) fn is_http2(self) -> bool {
        matches!(self, Self::H2 | Self::Grpc)
    }
}

/// What all proxies of a comparison have in common.
#[derive(Debug, Clone)]
pub(crate) struct Setting {
    pub(crate) origin: SocketAddr,
    pub(crate) tenants: u32,
    pub(crate) wire: Wire,
    /// Envoy's binary: no package puts it into the path.
    pub(crate) envoy: Option<PathBuf>,
    /// Pingora is a library: the least proxy of it, built beside this bench.
    pub(crate) pingora: Option<PathBuf>,
    /// The router's own program. None: a router of this build, in this one.
    pub(crate) router: Option<PathBuf>,
    /// Where callgrind is to leave what it counts, if it is to.
    pub(crate) counted: Option<PathBuf>,
}

impl Setting {
    /// A proxy's program on core 0, under callgrind where instructions are counted.
    fn program(&self, program: impl AsRef<OsStr>) -> Command {
        let Some(out) = &self.counted else { return on_core(0, program) };
        let mut file = OsString::from("--callgrind-out-file=");
        file.push(out);
        let mut command = on_core(0, "valgrind");
        // Long copies as loops of vectors, as they are for short ones, and not as one instruction that counts by the byte.
        command.env("GLIBC_TUNABLES", "glibc.cpu.x86_rep_movsb_threshold=1000000000");
        command.args(["--quiet", "--tool=callgrind"]).arg(file).arg(program);
        command
    }
}

/// A proxy that runs, until it is dropped.
pub(crate) struct Proxy {
    pub(crate) name: &'static str,
    pub(crate) address: SocketAddr,
    process: Option<Child>,
    files: TempDir,
}

impl Drop for Proxy {
    fn drop(&mut self) {
        if let Some(process) = &mut self.process {
            // It may have ended by itself.
            let _ended = process.kill();
            let _reaped = process.wait();
        }
    }
}

/// How long a proxy may take until it has its table.
pub(crate) const START_TIME_MAX: Duration = Duration::from_secs(120);

impl Proxy {
    /// Seconds of CPU that its threads have taken, user and system, as the scheduler counts them: to the nanosecond,
    /// where `stat` rounds to ten milliseconds.
    pub(crate) fn cpu_seconds(&self) -> anyhow::Result<f64> {
        let Some(process) = &self.process else { return Ok(0.0) };
        let threads = std::fs::read_dir(format!("/proc/{}/task", process.id()))
            .with_context(|| format!("{} has ended", self.name))?;
        let mut nanos = 0_u64;
        for thread in threads {
            let text = std::fs::read_to_string(thread?.path().join("schedstat"))?;
            let field = text.split_whitespace().next().context("schedstat is empty")?;
            nanos += field.parse::<u64>()?;
        }
        Ok(nanos as f64 / 1e9)
    }

    /// Bytes of it that are in memory.
    pub(crate) fn resident_bytes(&self) -> anyhow::Result<u64> {
        let Some(process) = &self.process else { return Ok(0) };
        resident_bytes(&process.id().to_string())
    }

    /// Asks it to end, and waits until it has.
    pub(crate) fn stop(mut self) -> anyhow::Result<()> {
        let Some(mut process) = self.process.take() else { return Ok(()) };
        rustix::process::kill_process(rustix::process::Pid::from_child(&process), rustix::process::Signal::TERM)?;
        process.wait()?;
        Ok(())
    }

    /// The origin itself, asked past all proxies.
    fn direct(origin: SocketAddr) -> anyhow::Result<Self> {
        Ok(Self { name: "direct", address: origin, process: None, files: tempfile::tempdir()? })
    }
}

/// Bytes of a process that are in memory.
pub(crate) fn resident_bytes(process: &str) -> anyhow::Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{process}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.split_whitespace().next()).context("no VmRSS")?;
    Ok(kib.parse::<u64>()? << 10)
}

/// Starts a proxy, where its program is here.
type Start = fn(&Setting) -> anyhow::Result<Option<Proxy>>;

const ALL: [(&str, Start); 6] = [
    ("direct", |setting| Proxy::direct(setting.origin).map(Some)),
    ("cellway", |setting| cellway(setting).map(Some)),
    ("nginx", others::nginx),
    ("haproxy", others::haproxy),
    ("envoy", others::envoy),
    ("pingora", others::pingora),
];

/// The names of all proxies that may be here.
pub(crate) fn names() -> impl Iterator<Item = &'static str> {
    ALL.iter().map(|(name, _)| *name)
}

/// One proxy by its name; none where its program is not here.
pub(crate) fn start_one(name: &str, setting: &Setting) -> anyhow::Result<Option<Proxy>> {
    let (name, start) = ALL.iter().find(|(other, _)| *other == name).context("no such proxy")?;
    // The origin speaks what the proxies speak to it.
    if *name == "direct" && !matches!(setting.wire, Wire::H1 | Wire::Grpc) {
        return Ok(None);
    }
    let proxy = start(setting)?;
    if proxy.is_none() {
        say(&format!("{name} is not here: left out"));
    }
    Ok(proxy)
}

/// Every proxy that can be started.
pub(crate) fn start_all(setting: &Setting) -> anyhow::Result<Vec<Proxy>> {
    names().filter_map(|name| start_one(name, setting).transpose()).collect()
}

#[expect(clippy::print_stderr, reason = "progress, beside the report")]
pub(crate) fn say(text: &str) {
    eprintln!("{text}");
}

/// Runs a program on core 0 until it takes connections at `address`.
fn start(name: &'static str, mut command: Command, address: SocketAddr, files: TempDir) -> anyhow::Result<Proxy> {
    let log = std::fs::File::create(files.path().join("log"))?;
    let process = command
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()
        .with_context(|| format!("cannot start {name}"))?;
    let mut proxy = Proxy { name, address, process: Some(process), files };
    let began = Instant::now();
    while TcpStream::connect(address).is_err() {
        let ended = proxy.process.as_mut().map(Child::try_wait).transpose()?.flatten();
        if ended.is_some() || began.elapsed() > START_TIME_MAX {
            let log = std::fs::read_to_string(proxy.files.path().join("log")).unwrap_or_default();
            anyhow::bail!("{name} does not listen at {address}: {log}");
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(proxy)
}

/// `taskset -c <core> <program>`, which becomes the program itself.
pub(crate) fn on_core(core: u8, program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new("taskset");
    command.args(["-c", &core.to_string()]).arg(program);
    command
}

pub(crate) fn free_address() -> anyhow::Result<SocketAddr> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?)
}

/// By how many bytes memory has grown; no number where it has not: something else was given back meanwhile.
pub(crate) fn grown(before: u64, after: u64) -> f64 {
    after.checked_sub(before).filter(|bytes| *bytes > 0).map_or(f64::NAN, |bytes| bytes as f64)
}

/// Ours says it once it has its table. Anything else in its log is no sign of that.
fn says_where_it_listens(log: &str) -> bool {
    log.lines().any(|line| line.starts_with('{') && line.contains("\"admin\"") && line.contains("\"listen\""))
}

fn host(tenant: u32) -> String {
    format!("t-{tenant}.bench.test")
}

/// Writes a certificate and its key, and both in one file, as HAProxy wants them. Answers the three paths.
fn certificate(folder: &Path) -> anyhow::Result<[PathBuf; 3]> {
    let key = rcgen::KeyPair::generate()?;
    let made = rcgen::CertificateParams::new(vec!["*.bench.test".into(), "127.0.0.1".into()])?.self_signed(&key)?;
    let paths = ["tls.crt", "tls.key", "tls.pem"].map(|name| folder.join(name));
    std::fs::write(&paths[0], made.pem())?;
    std::fs::write(&paths[1], key.serialize_pem())?;
    // A router does not start with a key that anybody may read.
    std::fs::set_permissions(&paths[1], std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
    std::fs::write(&paths[2], made.pem() + &key.serialize_pem())?;
    Ok(paths)
}

fn cellway(setting: &Setting) -> anyhow::Result<Proxy> {
    let Some(program) = &setting.router else { return fleet(setting, None) };
    let (files, address) = (tempfile::tempdir()?, free_address()?);
    let [table, options] = ["table", "router.toml"].map(|name| files.path().join(name));
    let aside = Setting { router: None, counted: None, wire: Wire::H1, ..setting.clone() };
    fleet(&aside, Some(&table))?.stop()?;
    // Its control plane cannot be reached: what it has is in the file.
    let mut said = crate::fleet::options(address, SocketAddr::from(([127, 0, 0, 1], 0)), 1);
    (said.control, said.insecure_plaintext) = (vec!["127.0.0.1:1".into()], true);
    (said.snapshot_file, said.timeouts.quiesce_min) = (Some(table), Duration::ZERO);
    if setting.wire == Wire::Tls {
        let [certificate, key, _] = certificate(files.path())?;
        said.tls = Some(crate::fleet::tls(certificate, key));
    }
    std::fs::write(&options, toml::to_string(&said)?)?;
    let mut command = setting.program(program);
    command.arg("--config").arg(options);
    start("cellway", command, address, files)
}

/// A router of this build in this program, with a control plane of its own. Its table is left in the file when it is stopped.
fn fleet(setting: &Setting, table: Option<&Path>) -> anyhow::Result<Proxy> {
    let (files, address) = (tempfile::tempdir()?, free_address()?);
    let mut command = setting.program(std::env::current_exe()?);
    command.args(["fleet", "--listen", &address.to_string(), "--origin", &setting.origin.to_string()]);
    command.args(["--tenants", &setting.tenants.to_string()]);
    if let Some(table) = table {
        command.arg("--snapshot-file").arg(table);
    }
    if setting.wire == Wire::Tls {
        let [certificate, key, _] = certificate(files.path())?;
        command.arg("--certificate").arg(certificate).arg("--key").arg(key);
    }
    let proxy = start("cellway", command, address, files)?;
    // It listens before it has its table.
    let log = proxy.files.path().join("log");
    let began = Instant::now();
    while !says_where_it_listens(&std::fs::read_to_string(&log)?) {
        anyhow::ensure!(began.elapsed() < START_TIME_MAX, "cellway has no table");
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(proxy)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_that_has_not_grown_was_not_measured() {
        assert!((grown(1_000, 3_000) - 2_000.0).abs() < f64::EPSILON);
        assert!(grown(1_000, 1_000).is_nan() && grown(1_000, 999).is_nan());
    }

    #[test]
    fn ours_has_its_table_once_it_says_where_it_listens() {
        assert!(!says_where_it_listens("") && !says_where_it_listens("WARN no keys to listen with\n"));
        assert!(says_where_it_listens("WARN late\n{\"admin\":\"127.0.0.1:2\",\"listen\":\"127.0.0.1:1\"}\n"));
    }
}
