//! Requests of every kind through a router of this build and nothing else: what a build is trained by (`make edge`). With
//! few fields and with many, of one tenant and of thousands, small and large, with bodies, over every wire.

use std::net::SocketAddr;

use anyhow::Context;

use crate::ground::Ground;
use crate::instructions::FIELDS;
use crate::processes::{OriginProcess, at_a_rate, at_full_speed, needs};
use crate::proxies::{self, Wire, say};
use crate::raw::Raw;

/// Sends requests of every kind through a router of this build alone: training for a build that is led by a profile
#[derive(Debug, clap::Args)]
pub(crate) struct Train {
    /// Seconds of each kind of request
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=600))]
    seconds: u32,
}

const TENANTS: u32 = 10_000;
/// Requests of clients that send more than a host.
const USUAL: u32 = 20_000;

impl Train {
    pub(crate) async fn run(&self, ground: &Ground) -> anyhow::Result<()> {
        needs("wrk")?;
        needs("h2load")?;
        for wire in [Wire::H1, Wire::H2, Wire::Tls, Wire::Grpc] {
            let origin = OriginProcess::start(if wire == Wire::Grpc { &["--grpc"] } else { &[] })?;
            let mut setting = ground.setting(TENANTS, wire);
            setting.origin = origin.address;
            let proxy = proxies::start_one("cellway", &setting)?.context("this build's own router is missing")?;
            say(&format!("training over {wire}"));
            if wire == Wire::H1 {
                usual(proxy.address).await.context("requests with more than a host")?;
                at_a_rate(&proxy, TENANTS, 2_000.0, self.seconds)?;
            }
            for (path, seconds) in [("/", self.seconds), ("/100000", self.seconds.div_ceil(3))] {
                let speed = at_full_speed(&proxy, wire, path, seconds)?;
                anyhow::ensure!(speed.cpu_micros.is_finite(), "{wire}, {path}: too little was answered rightly");
            }
            // It leaves its profile when it ends by itself.
            proxy.stop()?;
        }
        Ok(())
    }
}

/// As browsers and services ask: many fields, many tenants, one in four with a body.
async fn usual(target: SocketAddr) -> anyhow::Result<()> {
    let mut connection = Raw::connect(target).await?;
    for request in 0..USUAL {
        let tenant = request.wrapping_mul(7_919) % TENANTS;
        let (method, body) =
            if request % 4 == 0 { ("PUT", "content-length: 5\r\n\r\nhello") } else { ("GET", "\r\n") };
        let message =
            format!("{method} /docs/{request}?page=2 HTTP/1.1\r\nhost: t-{tenant}.bench.test\r\n{FIELDS}{body}");
        connection.ask(&message).await?;
    }
    Ok(())
}
