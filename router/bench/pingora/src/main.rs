//! The least proxy of Pingora that routes by tenant, for `bench-router` to compare with: one thread, a table from host to
//! cell, one header put on. No log, no limits.
//!
//! `least-pingora <listen> <origin> <map>`; the map has a line for each tenant: its host, and the cell.

use std::collections::HashMap;

use async_trait::async_trait;
use pingora_core::server::Server;
use pingora_core::server::configuration::ServerConf;
use pingora_core::upstreams::peer::HttpPeer;
use pingora_core::{Error, ErrorType, Result};
use pingora_http::RequestHeader;
use pingora_proxy::{ProxyHttp, Session, http_proxy_service};

/// As `cell-router` has it.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

struct ByTenant {
    cells: HashMap<String, String>,
    origin: HttpPeer,
}

fn host_of(session: &Session) -> &str {
    session.req_header().headers.get("host").and_then(|host| host.to_str().ok()).unwrap_or_default()
}

#[async_trait]
impl ProxyHttp for ByTenant {
    type CTX = ();

    fn new_ctx(&self) {}

    async fn upstream_peer(&self, session: &mut Session, _: &mut ()) -> Result<Box<HttpPeer>> {
        match self.cells.get(host_of(session)) {
            Some(_) => Ok(Box::new(self.origin.clone())),
            None => Err(Error::explain(ErrorType::HTTPStatus(404), "no such tenant")),
        }
    }

    async fn upstream_request_filter(&self, session: &mut Session, request: &mut RequestHeader, _: &mut ()) -> Result<()> {
        let host = host_of(session).to_owned();
        request.insert_header("cell-tenant", host)
    }
}

fn main() {
    let [listen, origin, map] = std::env::args().skip(1).collect::<Vec<_>>().try_into().expect("<listen> <origin> <map>");
    let map = std::fs::read_to_string(map).expect("the map can be read");
    let cells = map.lines().filter_map(|line| line.split_once(' ')).map(|(host, cell)| (host.into(), cell.into()));
    let proxy = ByTenant { cells: cells.collect(), origin: HttpPeer::new(origin, false, String::new()) };
    let conf = ServerConf { threads: 1, upstream_keepalive_pool_size: 512, ..ServerConf::default() };
    let mut server = Server::new_with_opt_and_conf(None, conf);
    server.bootstrap();
    let mut service = http_proxy_service(&server.configuration, proxy);
    service.add_tcp(&listen);
    server.add_service(service);
    server.run_forever();
}
