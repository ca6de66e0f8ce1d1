//! The table at ten, a hundred thousand and a million tenants: memory of each tenant, and what a request costs where each
//! is another tenant's.

use std::collections::BTreeMap;

use cell_figures::{Figure, Figures, median};

use crate::compare::Extent;
use crate::ground::Ground;
use crate::processes::{OriginProcess, at_a_rate};
use crate::proxies::{self, Wire, say};

const FEW: u32 = 10;
const RATE: f64 = 2_000.0;
/// Envoy has a route for each tenant and takes minutes for so many: it is left out.
const MEASURED: [&str; 3] = ["cellway", "nginx", "haproxy"];
const OURS: &str = "cellway";
/// What a tenant may cost, in bytes, where there are so many.
const BYTES_MAX: f64 = 140.0;
const MANY: u32 = 1_000_000;

/// Memory and CPU with ten, a hundred thousand and a million tenants
#[derive(Debug, clap::Args)]
pub(crate) struct Size {
    #[command(flatten)]
    pub(crate) extent: Extent,
    /// Tenants, beside ten
    #[arg(long, value_delimiter = ',', default_value = "100000,1000000",
          value_parser = clap::value_parser!(u32).range(1_000..=10_000_000))]
    pub(crate) tenants: Vec<u32>,
}

/// What was measured of one proxy at one size.
#[derive(Debug, Clone, Copy)]
struct Sized {
    bytes_per_tenant: f64,
    started_seconds: f64,
    cpu_micros: f64,
    p50_ms: f64,
    p99_ms: f64,
}

type Measured = BTreeMap<(u32, &'static str), Sized>;

impl Size {
    pub(crate) fn measure(&self, ground: &Ground, figures: &mut Figures) -> anyhow::Result<()> {
        let (origin, mut setting) = (OriginProcess::start(&[])?, ground.setting(FEW, Wire::H1));
        (setting.origin, setting.router) = (origin.address, None);
        let mut measured = Measured::new();
        for name in proxies::names().filter(|name| MEASURED.contains(name)) {
            let mut empty = None;
            for tenants in std::iter::once(FEW).chain(self.tenants.iter().copied()) {
                setting.tenants = tenants;
                let began = std::time::Instant::now();
                let Some(proxy) = proxies::start_one(name, &setting)? else { break };
                let started_seconds = began.elapsed().as_secs_f64();
                let resident = proxy.resident_bytes()?;
                let few = *empty.get_or_insert(resident);
                let mut rounds = Vec::new();
                for _ in 0..self.extent.rounds {
                    rounds.push(at_a_rate(&proxy, tenants, RATE, self.extent.seconds)?);
                }
                // Of the few nothing is left to divide.
                let more = f64::from(tenants.saturating_sub(FEW));
                let sized = Sized {
                    bytes_per_tenant: proxies::grown(few, resident) / more,
                    started_seconds,
                    cpu_micros: median(rounds.iter().map(|(_, cpu)| *cpu)),
                    p50_ms: median(rounds.iter().map(|(outcome, _)| outcome.p50_ms)),
                    p99_ms: median(rounds.iter().map(|(outcome, _)| outcome.p99_ms)),
                };
                say(&format!("{name}, {tenants} tenants: {resident} bytes resident, {sized:?}"));
                measured.insert((tenants, name), sized);
            }
        }
        for tenants in std::iter::once(FEW).chain(self.tenants.iter().copied()) {
            tell(&measured, tenants, figures);
        }
        if !self.tenants.contains(&MANY) {
            figures.leave_out(format!("size: the floor of {MANY} tenants, because there were not as many"));
        }
        Ok(())
    }
}

fn tell(measured: &Measured, tenants: u32, figures: &mut Figures) {
    let ours = measured.get(&(tenants, OURS));
    let of = |of: fn(&Sized) -> f64| ours.map_or(f64::NAN, of);
    let measure = |what: &str| format!("{tenants} tenants: {what}");
    if tenants > FEW {
        let floor = (tenants == MANY).then_some(BYTES_MAX);
        figures.add(Figure::at_most(measure("memory of each"), "B", of(|it| it.bytes_per_tenant), floor, None));
        figures.add(Figure::free(measure("started with its table"), "s", of(|it| it.started_seconds)));
    }
    figures.add(Figure::free(measure("p50 of answers at 2,000/s"), "ms", of(|it| it.p50_ms)));
    figures.add(Figure::free(measure("p99 of answers at 2,000/s"), "ms", of(|it| it.p99_ms)));
    for name in MEASURED.iter().filter(|name| **name != OURS) {
        let Some(theirs) = measured.get(&(tenants, *name)) else { continue };
        let pair = |get: fn(&Sized) -> f64| (of(get), get(theirs));
        if tenants > FEW {
            let bytes = pair(|it| it.bytes_per_tenant);
            figures.add(Figure::less_beside(measure("memory of each"), "B", bytes, *name, None));
        }
        let cpu = pair(|it| it.cpu_micros);
        figures.add(Figure::less_beside(measure("CPU for a request at 2,000/s"), "µs", cpu, *name, None));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn missed(bytes: f64, tenants: u32) -> bool {
        let sized =
            Sized { bytes_per_tenant: bytes, started_seconds: 1.0, cpu_micros: 1.0, p50_ms: 1.0, p99_ms: 1.0 };
        let mut figures = Figures::default();
        tell(&Measured::from([((tenants, OURS), sized)]), tenants, &mut figures);
        figures.hold().is_err()
    }

    #[test]
    fn a_tenant_may_cost_so_much_where_there_are_a_million() {
        assert!(!missed(140.0, MANY) && missed(140.1, MANY) && missed(f64::NAN, MANY));
        assert!(!missed(1_000.0, 100_000), "what is made once is much where there are few");
    }
}
