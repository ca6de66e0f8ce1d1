//! Acts on the machine below a process: its disk, its syncs, its power, its clocks.

use std::time::{Duration, Instant};

use super::clocks;
use super::script::{Runner, Trouble, said};
use super::syscalls::Injection;
use super::{Act, SyncFault, Who};

/// A node that cannot keep what it was told must end within this time.
const FALLS_WITHIN: Duration = Duration::from_secs(20);
/// A process of ours has its clock by then.
const STARTS_WITHIN: Duration = Duration::from_secs(5);
/// What a log line says where something could not be written or synced.
const WHY: [&str; 2] = ["Input/output error", "No space left"];

impl Runner {
    pub(super) async fn machine(&mut self, act: &Act) -> Result<(), Trouble> {
        match act {
            Act::FillDisk(who) => self.fill_disk(*who).await,
            Act::EmptyDisk(who) => self.empty_disk(*who).await,
            Act::Syncs(who, fault) => self.spoil_syncs(*who, *fault).await,
            Act::Mend(who) => {
                for name in self.names(*who).await? {
                    self.mend(&name).await;
                }
                Ok(())
            }
            Act::Fall(who) => self.fall(*who).await,
            Act::CutPower(who) => self.cut_power(*who).await,
            Act::Clock(who, seconds) => self.set_clock(*who, *seconds).await,
            Act::StartAhead(who, seconds) => self.start_ahead(*who, *seconds).await,
            _ => Ok(()),
        }
    }

    /// A node that is made to lead no more does not lead when its disk fails.
    pub(super) async fn hand_over(&mut self, who: Who) -> Result<(), Trouble> {
        let whom = self.names(who).await?;
        if !self.names(Who::Leader).await?.iter().any(|leader| whom.contains(leader)) {
            return Ok(());
        }
        self.control.move_leader(0).await.map_err(|error| said(&error))?;
        self.elect().await
    }

    async fn fill_disk(&mut self, who: Who) -> Result<(), Trouble> {
        let filler = self.disk.as_ref().ok_or("nobody has a disk of its own")?.filler();
        let names = self.names(who).await?;
        let filled = tokio::task::spawn_blocking(move || fill(&filler)).await;
        let bytes = filled.map_err(|error| error.to_string())?.map_err(|error| said(&error))?;
        self.open("disk", &format!("{}: no room ({} kB of filler)", names.join(", "), bytes / 1_000));
        Ok(())
    }

    async fn empty_disk(&mut self, who: Who) -> Result<(), Trouble> {
        let filler = self.disk.as_ref().ok_or("nobody has a disk of its own")?.filler();
        for name in self.names(who).await? {
            let told = self.log_lines(&name, &["DISK_FULL", "No space left"]);
            self.evidence.disk_full.extend(told.into_iter().take(5));
        }
        std::fs::remove_file(filler).map_err(|error| said(&error))?;
        self.close("disk", None);
        Ok(())
    }

    /// Lines of a process's log that say one of these.
    fn log_lines(&self, name: &str, signs: &[&str]) -> Vec<String> {
        let text = std::fs::read_to_string(self.fleet.processes.log_of(name)).unwrap_or_default();
        let told = text.lines().filter(|line| signs.iter().any(|sign| line.contains(sign)));
        told.map(str::to_owned).collect()
    }

    fn process_of(&self, name: &str) -> Result<u32, Trouble> {
        let all = self.fleet.processes.roster().all();
        let found = all.into_iter().find(|(_, other)| other == name).map(|(id, _)| id);
        found.ok_or_else(|| format!("{name} does not run"))
    }

    async fn spoil_syncs(&mut self, who: Who, fault: SyncFault) -> Result<(), Trouble> {
        for name in self.names(who).await? {
            let told = self.fleet.processes.log_of(&format!("{name}-syncs-{}", self.evidence.faults.len()));
            let injection = Injection::start(self.process_of(&name)?, fault, told).await?;
            self.injections.insert(name.clone(), injection);
            let how = match fault {
                SyncFault::Fail { nth } => format!("has a disk that fails sync number {nth} of a thread"),
                SyncFault::Slow { ms } => format!("has a disk that takes {ms} ms longer for each sync"),
            };
            self.open("disk", &format!("{name} {how}"));
        }
        Ok(())
    }

    /// Its syncs are as they were.
    pub(super) async fn mend(&mut self, name: &str) {
        if let Some(injection) = self.injections.remove(name) {
            self.evidence.injected += injection.stop().await;
            self.close("disk", Some(name));
        }
    }

    async fn fall(&mut self, who: Who) -> Result<(), Trouble> {
        for name in self.names(who).await? {
            let began = Instant::now();
            let status = loop {
                if let Some(status) = self.fleet.processes.ended(&name) {
                    break status;
                }
                if began.elapsed() > FALLS_WITHIN {
                    return Err(format!("{name} still runs {} s later", FALLS_WITHIN.as_secs()));
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            };
            self.mend(&name).await;
            self.open("process", &format!("{name} has ended by itself ({status})"));
            let why = self.log_lines(&name, &WHY).into_iter().next_back();
            self.evidence.fallen.push((name, why));
        }
        Ok(())
    }

    async fn cut_power(&mut self, who: Who) -> Result<(), Trouble> {
        for name in self.names(who).await? {
            let disk = self.disk.as_mut().filter(|disk| disk.node == name);
            let disk = disk.ok_or_else(|| format!("{name} has no disk of its own"))?;
            self.fleet.processes.roster().freeze(&name).map_err(|error| said(&error))?;
            let copied = disk.copy().await;
            self.fleet.processes.kill(&name).await.map_err(|error| said(&error))?;
            let bytes = copied.map_err(|error| said(&error))?;
            disk.come_back().await.map_err(|error| said(&error))?;
            self.evidence.power_cuts.push(format!("{name} ({} MB of disk as they were)", bytes >> 20));
            self.open("process", &format!("{name} has no power"));
        }
        Ok(())
    }

    async fn set_clock(&mut self, who: Who, seconds: i64) -> Result<(), Trouble> {
        for name in self.names(who).await? {
            let clocks = self.clocks.as_ref().ok_or("the clocks of this fleet cannot be set")?;
            clocks.set(&name, seconds).map_err(|error| said(&error))?;
            self.close("clock", Some(&name));
            if seconds == 0 {
                continue;
            }
            if clocks::is_faked(self.process_of(&name)?) {
                self.evidence.clocks.push(format!("{name} by {seconds:+} s"));
            }
            self.open("clock", &format!("{name} has a wall clock that is wrong by {seconds:+} s"));
        }
        Ok(())
    }

    /// Every wall clock is right again.
    pub(super) fn set_clocks_right(&mut self) {
        let names = self.fleet.names();
        let Some(clocks) = &self.clocks else { return };
        let set: Result<(), _> = names.iter().try_for_each(|name| clocks.set(name, 0));
        match set {
            Ok(()) => self.close("clock", None),
            Err(error) => self.trouble(format!("a clock stays wrong: {error}")),
        }
    }

    async fn start_ahead(&mut self, who: Who, seconds: u64) -> Result<(), Trouble> {
        for name in self.names(who).await? {
            let words = clocks::ahead_words(seconds);
            self.fleet.processes.start_again_behind(&name, &words).map_err(|error| said(&error))?;
            let began = Instant::now();
            let wanted = i64::try_from(seconds).ok();
            while clocks::ahead(self.process_of(&name)?) != wanted {
                if began.elapsed() > STARTS_WITHIN {
                    return Err(format!("{name} has the clock of the machine"));
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            self.close("process", Some(&name));
            self.evidence.clocks.push(format!("{name} by +{seconds} s"));
            self.open("clock", &format!("{name} has a monotonic clock that is {seconds} s ahead"));
        }
        Ok(())
    }
}

/// Writes until there is no room; answers how much went in.
fn fill(path: &std::path::Path) -> std::io::Result<u64> {
    use std::io::Write;
    let mut file = std::fs::File::create(path)?;
    let (mut bytes, mut piece) = (0, vec![0x5a_u8; 64 << 10]);
    while !piece.is_empty() {
        match file.write(&piece) {
            Ok(written) if written > 0 => bytes += written as u64,
            Ok(_) => piece.truncate(piece.len() / 2),
            Err(error) if error.kind() == std::io::ErrorKind::StorageFull => piece.truncate(piece.len() / 2),
            Err(error) => return Err(error),
        }
    }
    Ok(bytes)
}
