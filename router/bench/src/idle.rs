//! What an idle connection costs: so many connections are opened, each asks once and then says nothing more, and the
//! memory of the proxy is compared with what it was before. More than one process has file descriptors for are dealt out among
//! several routers, each with a process that holds its clients.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Context as _;
use cell_figures::{Figure, Figures};
use rustix::process::{Resource, getrlimit, setrlimit};

use crate::ground::Ground;
use crate::hold::Holder;
use crate::processes::OriginProcess;
use crate::proxies::{self, Proxy, Setting, Wire, say};

/// Connections that are opened before the memory is looked at for the first time: what is made once is not theirs.
const FIRST: u32 = 200;
const SETTLE: Duration = Duration::from_secs(4);
/// Clients of one process, and file descriptors that it needs besides.
const OF_ONE_MAX: u32 = 17_000;
const BESIDES: u32 = 1_000;
const OURS: &str = "cellway";
/// What one of ours may cost, and should.
const KIB_MAX: f64 = 12.0;
const KIB_GOAL: f64 = 8.0;

/// Memory of a connection that has asked once and says nothing more
#[derive(Debug, clap::Args)]
pub(crate) struct Idle {
    /// How many of ours, dealt out among routers of 17,000 at the most
    #[arg(long, default_value_t = 50_000, value_parser = clap::value_parser!(u32).range(1_000..=200_000))]
    pub(crate) connections: u32,
    /// How many of each of the others, in one process
    #[arg(long, default_value_t = 8_000, value_parser = clap::value_parser!(u32).range(1_000..=17_000))]
    pub(crate) beside: u32,
}

impl Idle {
    pub(crate) fn measure(&self, ground: &Ground, figures: &mut Figures) -> anyhow::Result<()> {
        let (origin, mut setting) = (OriginProcess::start(&[])?, ground.setting(100, Wire::H1));
        setting.origin = origin.address;
        let mut seen = BTreeMap::new();
        for name in proxies::names().filter(|name| *name != "direct") {
            let connections = if name == OURS { self.connections } else { self.beside };
            if let Some(kib) = kib_of_each(name, &setting, connections)? {
                seen.insert(name, kib);
            }
        }
        let ours = seen.get(OURS).copied().unwrap_or(f64::NAN);
        let measure = format!("memory of each of {} idle connections", self.connections);
        figures.add(Figure::at_most(&*measure, "KiB", ours, Some(KIB_MAX), Some(KIB_GOAL)));
        let measure = format!("memory of an idle connection, of {} beside {}", self.connections, self.beside);
        for (name, theirs) in seen.iter().filter(|(name, _)| **name != OURS) {
            figures.add(Figure::less_beside(&*measure, "KiB", (ours, *theirs), *name, None));
        }
        Ok(())
    }
}

/// How many clients each of several processes has.
fn dealt_out(connections: u32) -> Vec<u32> {
    let processes = connections.div_ceil(OF_ONE_MAX);
    (0..processes).map(|index| connections / processes + u32::from(index < connections % processes)).collect()
}

/// None: the proxy is not here.
fn kib_of_each(name: &'static str, setting: &Setting, connections: u32) -> anyhow::Result<Option<f64>> {
    let shares = dealt_out(connections);
    let most = shares.iter().max().copied().unwrap_or_default();
    allow_descriptors(u64::from(most + 2 * FIRST + BESIDES))?;
    let mut crowd = Vec::new();
    for _ in &shares {
        let Some(proxy) = proxies::start_one(name, setting)? else { return Ok(None) };
        crowd.push(proxy);
    }
    let first = hold(&crowd, &vec![FIRST; crowd.len()])?;
    std::thread::sleep(SETTLE);
    let before = resident_bytes(&crowd)?;
    let mut held = hold(&crowd, &shares)?;
    std::thread::sleep(SETTLE);
    // Allocators give memory back when they are next asked for some.
    let stirred = hold(&crowd, &vec![FIRST; crowd.len()])?;
    std::thread::sleep(SETTLE);
    let after = resident_bytes(&crowd)?;
    // Only what is still open has been measured.
    held.iter_mut().try_for_each(Holder::ask_again).with_context(|| format!("{name} has not held its clients"))?;
    let counted = connections + FIRST * u32::try_from(crowd.len())?;
    let bytes = proxies::grown(before, after) / f64::from(counted);
    say(&format!(
        "{name}: {bytes:.0} bytes a connection, {connections} among {} processes, {before} before and {after} bytes with them",
        crowd.len()
    ));
    drop((first, held, stirred));
    Ok(Some(bytes / 1_024.0))
}

/// So many clients of each, all opened at the same time.
fn hold(crowd: &[Proxy], shares: &[u32]) -> anyhow::Result<Vec<Holder>> {
    let holders = crowd.iter().zip(shares).map(|(proxy, share)| Holder::start(proxy.address, *share));
    let mut holders = holders.collect::<anyhow::Result<Vec<_>>>()?;
    holders.iter_mut().try_for_each(Holder::answered)?;
    Ok(holders)
}

fn resident_bytes(crowd: &[Proxy]) -> anyhow::Result<u64> {
    crowd.iter().map(Proxy::resident_bytes).sum()
}

/// Whoever is started from here on may open so many.
fn allow_descriptors(needed: u64) -> anyhow::Result<()> {
    let mut limit = getrlimit(Resource::Nofile);
    if limit.current.is_none_or(|current| current >= needed) {
        return Ok(());
    }
    if let Some(most) = limit.maximum {
        anyhow::ensure!(
            most >= needed,
            "a process may open {most} files here and this needs {needed}: raise `ulimit -Hn`, or ask for fewer --connections and --beside"
        );
    }
    limit.current = Some(needed);
    setrlimit(Resource::Nofile, limit).context("cannot raise the limit of open files")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_are_dealt_out_among_processes_that_have_descriptors_for_them() {
        assert_eq!(dealt_out(50_000), [16_667, 16_667, 16_666]);
        assert_eq!(dealt_out(17_000), [17_000]);
        assert_eq!(dealt_out(17_001), [8_501, 8_500]);
    }
}
