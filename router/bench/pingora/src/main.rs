//! The least that a Pingora proxy can do: tenant from the host, one lookup, one header, one origin.
//!
//! `bench-pingora <listen> <origin> <tenants>`

use std::collections::HashMap;
use std::net::SocketAddr;

use async_trait::async_trait;
use pingora_core::server::Server;
use pingora_core::server::configuration::{Opt, ServerConf};
use pingora_core::upstreams::peer::HttpPeer;
use pingora_core::{Error, ErrorType, Result};
use pingora_http::RequestHeader;
use pingora_proxy::{ProxyHttp, Session, http_proxy_service};

struct Proxy {
    cells: HashMap<String, SocketAddr>,
}

#[async_trait]
impl ProxyHttp for Proxy {
    type CTX = String;

    fn new_ctx(&self) -> String {
        String::new()
    }

    async fn upstream_peer(&self, session: &mut Session, tenant: &mut String) -> Result<Box<HttpPeer>> {
        let host = session.req_header().headers.get("host").and_then(|host| host.to_str().ok()).unwrap_or_default();
        let cell = self.cells.get(host).ok_or_else(|| Error::new(ErrorType::HTTPStatus(404)))?;
        host.clone_into(tenant);
        Ok(Box::new(HttpPeer::new(*cell, false, String::new())))
    }

    async fn upstream_request_filter(
        &self,
        _session: &mut Session,
        request: &mut RequestHeader,
        tenant: &mut String,
    ) -> Result<()> {
        request.insert_header("cell-tenant", tenant.as_str())
    }
}

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let [_, listen, origin, tenants] = arguments.as_slice() else {
        panic!("bench-pingora <listen> <origin> <tenants>");
    };
    let origin: SocketAddr = origin.parse().expect("an address");
    let tenants: u32 = tenants.parse().expect("a number");
    let cells = (0..tenants).map(|tenant| (format!("t-{tenant}.bench.test"), origin)).collect();
    let conf = ServerConf { threads: 1, upstream_keepalive_pool_size: 512, ..ServerConf::default() };
    let mut server = Server::new_with_opt_and_conf(Some(Opt::default()), conf);
    server.bootstrap();
    let mut service = http_proxy_service(&server.configuration, Proxy { cells });
    service.add_tcp(listen);
    server.add_service(service);
    server.run_forever();
}
