//! How the others are configured: as little as routing by tenant takes, so that what is compared is the least that they
//! cost. No log, no limits, connections to the origin kept open.

use std::fmt::Write as _;
use std::path::PathBuf;

use super::{Proxy, Setting, Wire, certificate, free_address, host, start};

/// Envoy takes 4.4 KB a tenant and seconds a thousand.
const ENVOY_TENANTS_MAX: u32 = 10_000;

fn is_here(program: &str) -> bool {
    let paths = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&paths).chain([PathBuf::from("/usr/sbin")]).any(|folder| folder.join(program).exists())
}

/// A line for each tenant: its host, and the cell.
fn map(tenants: u32, end: &str) -> Result<String, std::fmt::Error> {
    let mut map = String::new();
    for tenant in 0..tenants {
        writeln!(map, "{} cell_a{end}", host(tenant))?;
    }
    Ok(map)
}

pub(super) fn nginx(setting: &Setting) -> anyhow::Result<Option<Proxy>> {
    if !is_here("nginx") {
        return Ok(None);
    }
    let (files, address) = (tempfile::tempdir()?, free_address()?);
    std::fs::write(files.path().join("map"), map(setting.tenants, ";")?)?;
    let (folder, origin) = (files.path().display(), setting.origin);
    let (listens, secure) = match setting.wire {
        Wire::H1 => ("", String::new()),
        Wire::H2 | Wire::Grpc => ("http2", String::new()),
        Wire::Tls => {
            let [certificate, key, _] = certificate(files.path())?;
            let (certificate, key) = (certificate.display(), key.display());
            let secure =
                format!("ssl_certificate {certificate}; ssl_certificate_key {key}; ssl_protocols TLSv1.3;");
            ("ssl", secure)
        }
    };
    let forwards = if setting.wire == Wire::Grpc {
        "grpc_set_header Host $host; grpc_set_header cell-tenant $host; grpc_pass grpc://$cell;"
    } else {
        "proxy_http_version 1.1; proxy_set_header Connection ''; proxy_set_header Host $host;
      proxy_set_header cell-tenant $host; proxy_pass http://$cell;"
    };
    let config = format!(
        "daemon off; master_process off; pid {folder}/pid; error_log {folder}/error;
worker_rlimit_nofile 20000;
events {{ worker_connections 18000; }}
http {{
  access_log off; keepalive_requests 1000000000; keepalive_timeout 600s; client_body_temp_path {folder};
  proxy_temp_path {folder}; fastcgi_temp_path {folder}; uwsgi_temp_path {folder}; scgi_temp_path {folder};
  map_hash_max_size 2097152; map_hash_bucket_size 128;
  map $host $cell {{ include {folder}/map; default ''; }}
  upstream cell_a {{ server {origin}; keepalive 512; keepalive_requests 1000000000; }}
  server {{
    listen {address} {listens} reuseport backlog=1024; {secure}
    location / {{
      if ($cell = '') {{ return 404; }}
      {forwards}
    }}
  }}
}}
"
    );
    let path = files.path().join("nginx.conf");
    std::fs::write(&path, config)?;
    let mut command = setting.program("/usr/sbin/nginx");
    command.arg("-c").arg(&path).arg("-p").arg(files.path());
    start("nginx", command, address, files).map(Some)
}

pub(super) fn haproxy(setting: &Setting) -> anyhow::Result<Option<Proxy>> {
    if !is_here("haproxy") {
        return Ok(None);
    }
    let (files, address) = (tempfile::tempdir()?, free_address()?);
    let map_path = files.path().join("map");
    std::fs::write(&map_path, map(setting.tenants, "")?)?;
    let listens = match setting.wire {
        Wire::H1 => String::new(),
        Wire::H2 | Wire::Grpc => "proto h2".to_owned(),
        Wire::Tls => format!("ssl crt {} ssl-min-ver TLSv1.3", certificate(files.path())?[2].display()),
    };
    let config = format!(
        "global
  nbthread 1
  maxconn 9000
defaults
  mode http
  timeout connect 5s
  timeout client 600s
  timeout server 600s
  option http-keep-alive
  http-reuse always
frontend in
  bind {address} {listens}
  http-request set-header cell-tenant %[req.hdr(host)]
  use_backend %[req.hdr(host),lower,map_str({map},none)]
backend cell_a
  server a {origin} {speaks} pool-max-conn 512
backend none
  http-request deny deny_status 404
",
        map = map_path.display(),
        origin = setting.origin,
        speaks = if setting.wire == Wire::Grpc { "proto h2" } else { "" },
    );
    let path = files.path().join("haproxy.cfg");
    std::fs::write(&path, config)?;
    let mut command = setting.program("/usr/sbin/haproxy");
    command.args(["-db", "-f"]).arg(&path);
    start("haproxy", command, address, files).map(Some)
}

pub(super) fn envoy(setting: &Setting) -> anyhow::Result<Option<Proxy>> {
    let Some(program) = &setting.envoy else { return Ok(None) };
    let (files, address) = (tempfile::tempdir()?, free_address()?);
    let hosts: Vec<_> = (0..setting.tenants.min(ENVOY_TENANTS_MAX))
        .map(|tenant| {
            serde_json::json!({
                "name": format!("t-{tenant}"), "domains": [host(tenant)],
                "routes": [{ "match": { "prefix": "/" }, "route": { "cluster": "cell_a" } }],
            })
        })
        .collect();
    let socket = |address: std::net::SocketAddr| serde_json::json!({ "socket_address": { "address": address.ip().to_string(), "port_value": address.port() } });
    let kind = |name: &str| format!("type.googleapis.com/envoy.extensions.{name}");
    let many = serde_json::json!([{ "max_connections": 100_000, "max_pending_requests": 100_000, "max_requests": 100_000 }]);
    let mut chain = serde_json::json!({ "filters": [{
        "name": "envoy.filters.network.http_connection_manager",
        "typed_config": {
            "@type": kind("filters.network.http_connection_manager.v3.HttpConnectionManager"),
            "stat_prefix": "in", "generate_request_id": false,
            "route_config": { "name": "r", "virtual_hosts": hosts },
            "http_filters": [{ "name": "envoy.filters.http.router", "typed_config": {
                "@type": kind("filters.http.router.v3.Router"), "dynamic_stats": false } }],
        } }] });
    if setting.wire == Wire::Tls {
        let [certificate, key, _] = certificate(files.path())?;
        chain["transport_socket"] = serde_json::json!({ "name": "envoy.transport_sockets.tls", "typed_config": {
            "@type": kind("transport_sockets.tls.v3.DownstreamTlsContext"),
            "common_tls_context": {
                "tls_params": { "tls_minimum_protocol_version": "TLSv1_3", "tls_maximum_protocol_version": "TLSv1_3" },
                "tls_certificates": [{ "certificate_chain": { "filename": certificate },
                    "private_key": { "filename": key } }] } } });
    }
    let speaks = if setting.wire == Wire::Grpc {
        serde_json::json!({ "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
            "@type": kind("upstreams.http.v3.HttpProtocolOptions"),
            "explicit_http_config": { "http2_protocol_options": {} } } })
    } else {
        serde_json::json!({})
    };
    let config = serde_json::json!({ "static_resources": {
        "listeners": [{ "name": "in", "address": socket(address), "filter_chains": [chain] }],
        "clusters": [{ "name": "cell_a", "type": "STATIC", "connect_timeout": "5s",
            "circuit_breakers": { "thresholds": many }, "typed_extension_protocol_options": speaks,
            "load_assignment": { "cluster_name": "cell_a", "endpoints": [{ "lb_endpoints": [
                { "endpoint": { "address": socket(setting.origin) } }] }] } }],
    } });
    let path = files.path().join("envoy.json");
    std::fs::write(&path, serde_json::to_vec(&config)?)?;
    let mut command = setting.program(program);
    command.arg("-c").arg(&path).args(["--concurrency", "1", "--log-level", "error", "--disable-hot-restart"]);
    start("envoy", command, address, files).map(Some)
}

/// Built from `router/bench/pingora`, a project of its own: it routes by a table as the others do, and does nothing else.
pub(super) fn pingora(setting: &Setting) -> anyhow::Result<Option<Proxy>> {
    let Some(program) = setting.pingora.as_ref().filter(|_| setting.wire == Wire::H1) else { return Ok(None) };
    let (files, address) = (tempfile::tempdir()?, free_address()?);
    let map_path = files.path().join("map");
    std::fs::write(&map_path, map(setting.tenants, "")?)?;
    let mut command = setting.program(program);
    command.arg(address.to_string()).arg(setting.origin.to_string()).arg(&map_path);
    start("pingora", command, address, files).map(Some)
}
