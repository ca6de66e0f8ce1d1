//! The proxies that are compared, each started with the same tenants and the same origin, one thread each, on core 0.
//! Those whose program is not here are left out.

use std::fmt::Write as _;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::Context;
use tempfile::TempDir;

/// Where the programs are that no package puts into the path.
#[derive(Debug, Clone, Default)]
pub(crate) struct Programs {
    pub(crate) envoy: Option<PathBuf>,
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

/// Envoy takes 4.4 KB a tenant and seconds a thousand.
const ENVOY_TENANTS_MAX: u32 = 10_000;
const START_TIME_MAX: Duration = Duration::from_secs(120);

/// Ticks of the clock in which the kernel counts CPU: 100 a second on every Linux.
const TICKS_PER_SECOND: f64 = 100.0;

impl Proxy {
    /// Seconds of CPU that it has taken.
    pub(crate) fn cpu_seconds(&self) -> anyhow::Result<f64> {
        let Some(process) = &self.process else { return Ok(0.0) };
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", process.id()))
            .with_context(|| format!("{} has ended", self.name))?;
        // The name of the program, in brackets, may hold spaces; user and system time are fields 14 and 15.
        let after = stat.rsplit_once(')').context("no program in stat")?.1;
        let fields: Vec<&str> = after.split_whitespace().collect();
        let ticks: f64 = fields[11].parse::<f64>()? + fields[12].parse::<f64>()?;
        Ok(ticks / TICKS_PER_SECOND)
    }

    /// The origin itself, asked past all proxies.
    pub(crate) fn direct(origin: SocketAddr) -> anyhow::Result<Self> {
        Ok(Self { name: "direct", address: origin, process: None, files: tempfile::tempdir()? })
    }
}

/// Starts a proxy in front of the origin, where its program is here.
type Start = fn(SocketAddr, u32, &Programs) -> anyhow::Result<Option<Proxy>>;

/// Every proxy that can be started.
pub(crate) fn start_all(origin: SocketAddr, tenants: u32, programs: &Programs) -> anyhow::Result<Vec<Proxy>> {
    let mut proxies = vec![Proxy::direct(origin)?, cellway(origin, tenants)?];
    let others: [(&str, Start); 3] = [("nginx", nginx), ("haproxy", haproxy), ("envoy", envoy)];
    for (name, start) in others {
        match start(origin, tenants, programs)? {
            Some(proxy) => proxies.push(proxy),
            None => say(&format!("{name} is not here: left out")),
        }
    }
    Ok(proxies)
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

/// `taskset -c 0 <program>`, which becomes the program itself.
fn on_core_0(program: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = Command::new("taskset");
    command.args(["-c", "0"]).arg(program);
    command
}

fn is_here(program: &str) -> bool {
    let paths = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&paths).chain([PathBuf::from("/usr/sbin")]).any(|folder| folder.join(program).exists())
}

pub(crate) fn free_address() -> anyhow::Result<SocketAddr> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?)
}

fn host(tenant: u32) -> String {
    format!("t-{tenant}.bench.test")
}

fn cellway(origin: SocketAddr, tenants: u32) -> anyhow::Result<Proxy> {
    let address = free_address()?;
    let mut command = on_core_0(std::env::current_exe()?);
    let (listen, origin, tenants) = (address.to_string(), origin.to_string(), tenants.to_string());
    command.args(["fleet", "--listen", &listen, "--origin", &origin, "--tenants", &tenants]);
    let proxy = start("cellway", command, address, tempfile::tempdir()?)?;
    // It listens before it has its table.
    let log = proxy.files.path().join("log");
    let began = Instant::now();
    while std::fs::metadata(&log)?.len() == 0 {
        anyhow::ensure!(began.elapsed() < START_TIME_MAX, "cellway has no table");
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(proxy)
}

fn nginx(origin: SocketAddr, tenants: u32, _: &Programs) -> anyhow::Result<Option<Proxy>> {
    if !is_here("nginx") {
        return Ok(None);
    }
    let (files, address) = (tempfile::tempdir()?, free_address()?);
    let mut map = String::new();
    for tenant in 0..tenants {
        writeln!(map, "{} cell_a;", host(tenant))?;
    }
    std::fs::write(files.path().join("map"), map)?;
    let folder = files.path().display();
    let config = format!(
        "daemon off; master_process off; pid {folder}/pid; error_log {folder}/error;
worker_rlimit_nofile 10000;
events {{ worker_connections 4096; }}
http {{
  access_log off; keepalive_requests 1000000000; client_body_temp_path {folder}; proxy_temp_path {folder};
  fastcgi_temp_path {folder}; uwsgi_temp_path {folder}; scgi_temp_path {folder};
  map_hash_max_size 2097152; map_hash_bucket_size 128;
  map $host $cell {{ include {folder}/map; default ''; }}
  upstream cell_a {{ server {origin}; keepalive 512; keepalive_requests 1000000000; }}
  server {{
    listen {address} reuseport backlog=1024;
    location / {{
      if ($cell = '') {{ return 404; }}
      proxy_http_version 1.1; proxy_set_header Connection ''; proxy_set_header Host $host;
      proxy_set_header cell-tenant $host; proxy_pass http://$cell;
    }}
  }}
}}
"
    );
    let path = files.path().join("nginx.conf");
    std::fs::write(&path, config)?;
    let mut command = on_core_0("/usr/sbin/nginx");
    command.arg("-c").arg(&path).arg("-p").arg(files.path());
    start("nginx", command, address, files).map(Some)
}

fn haproxy(origin: SocketAddr, tenants: u32, _: &Programs) -> anyhow::Result<Option<Proxy>> {
    if !is_here("haproxy") {
        return Ok(None);
    }
    let (files, address) = (tempfile::tempdir()?, free_address()?);
    let mut map = String::new();
    for tenant in 0..tenants {
        writeln!(map, "{} cell_a", host(tenant))?;
    }
    let map_path = files.path().join("map");
    std::fs::write(&map_path, map)?;
    let config = format!(
        "global
  nbthread 1
  maxconn 4000
defaults
  mode http
  timeout connect 5s
  timeout client 60s
  timeout server 60s
  option http-keep-alive
  http-reuse always
frontend in
  bind {address}
  http-request set-header cell-tenant %[req.hdr(host)]
  use_backend %[req.hdr(host),lower,map_str({},none)]
backend cell_a
  server a {origin} pool-max-conn 512
backend none
  http-request deny deny_status 404
",
        map_path.display()
    );
    let path = files.path().join("haproxy.cfg");
    std::fs::write(&path, config)?;
    let mut command = on_core_0("/usr/sbin/haproxy");
    command.args(["-db", "-f"]).arg(&path);
    start("haproxy", command, address, files).map(Some)
}

fn envoy(origin: SocketAddr, tenants: u32, programs: &Programs) -> anyhow::Result<Option<Proxy>> {
    let Some(program) = &programs.envoy else { return Ok(None) };
    let (files, address) = (tempfile::tempdir()?, free_address()?);
    let hosts: Vec<_> = (0..tenants.min(ENVOY_TENANTS_MAX))
        .map(|tenant| {
            serde_json::json!({
                "name": format!("t-{tenant}"), "domains": [host(tenant)],
                "routes": [{ "match": { "prefix": "/" }, "route": { "cluster": "cell_a" } }],
            })
        })
        .collect();
    let socket = |address: SocketAddr| serde_json::json!({ "socket_address": { "address": address.ip().to_string(), "port_value": address.port() } });
    let manager =
        "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager";
    let many = serde_json::json!([{ "max_connections": 100_000, "max_pending_requests": 100_000, "max_requests": 100_000 }]);
    let config = serde_json::json!({ "static_resources": {
        "listeners": [{ "name": "in", "address": socket(address), "filter_chains": [{ "filters": [{
            "name": "envoy.filters.network.http_connection_manager",
            "typed_config": {
                "@type": manager, "stat_prefix": "in", "generate_request_id": false,
                "route_config": { "name": "r", "virtual_hosts": hosts },
                "http_filters": [{ "name": "envoy.filters.http.router", "typed_config": {
                    "@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router",
                    "dynamic_stats": false } }],
            } }] }] }],
        "clusters": [{ "name": "cell_a", "type": "STATIC", "connect_timeout": "5s",
            "circuit_breakers": { "thresholds": many },
            "load_assignment": { "cluster_name": "cell_a", "endpoints": [{ "lb_endpoints": [
                { "endpoint": { "address": socket(origin) } }] }] } }],
    } });
    let path = files.path().join("envoy.json");
    std::fs::write(&path, serde_json::to_vec(&config)?)?;
    let mut command = on_core_0(program);
    command.arg("-c").arg(&path).args(["--concurrency", "1", "--log-level", "error", "--disable-hot-restart"]);
    start("envoy", command, address, files).map(Some)
}
