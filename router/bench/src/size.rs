//! The table at ten, a hundred thousand and a million tenants: memory of each tenant, and what a request costs where each
//! is another tenant's.

use serde_json::{Value, json};

use crate::compare::Extent;
use crate::processes::{OriginProcess, at_a_rate, median};
use crate::proxies::{self, Setting, say};

const FEW: u32 = 10;
const RATE: f64 = 2_000.0;
/// Envoy has a route for each tenant and takes minutes for so many: it is left out.
const MEASURED: [&str; 3] = ["cellway", "nginx", "haproxy"];

pub(crate) fn size(extent: Extent, sizes: &[u32], mut setting: Setting) -> anyhow::Result<Value> {
    let origin = OriginProcess::start(&[])?;
    setting.origin = origin.address;
    let mut report = serde_json::Map::new();
    for name in proxies::names().filter(|name| MEASURED.contains(name)) {
        let mut sized = serde_json::Map::new();
        let mut empty = None;
        for tenants in std::iter::once(FEW).chain(sizes.iter().copied()) {
            setting.tenants = tenants;
            let began = std::time::Instant::now();
            let Some(proxy) = proxies::start_one(name, &setting)? else { break };
            let started = began.elapsed().as_secs_f64();
            let resident = proxy.resident_bytes()?;
            let few = *empty.get_or_insert(resident);
            let mut rounds = Vec::new();
            for _ in 0..extent.rounds {
                rounds.push(at_a_rate(&proxy, tenants, RATE, extent.seconds)?);
            }
            let bytes = resident.saturating_sub(few) as f64 / f64::from(tenants - FEW.min(tenants - 1));
            say(&format!("{name}: {tenants} tenants, {bytes:.0} bytes each"));
            sized.insert(
                tenants.to_string(),
                json!({
                    "resident_bytes": resident,
                    "bytes_per_tenant": if tenants > FEW { Some(bytes) } else { None },
                    "started_seconds": started,
                    "cpu_micros_per_request_at_2000": median(rounds.iter().map(|(_, cpu)| *cpu)),
                    "p50_ms_at_2000": median(rounds.iter().map(|(outcome, _)| outcome.p50_ms)),
                    "p99_ms_at_2000": median(rounds.iter().map(|(outcome, _)| outcome.p99_ms)),
                }),
            );
        }
        report.insert(name.to_owned(), Value::Object(sized));
    }
    Ok(json!({ "rounds": extent.rounds, "seconds": extent.seconds, "proxies": report }))
}
