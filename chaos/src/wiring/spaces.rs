//! Wires of the kernel: each process in a network namespace of its own, joined by veth pairs and one bridge.
//!
//! ```text
//!   drill, clients ── uplink ──┐ namespace <run>-switch
//!                              │  bridge ── sink (takes and counts what a cut has swallowed)
//!   <run>-control-1: eth0 ─────┤
//!   <run>-cell-2:    eth0 ─────┘
//! ```
//!
//! **A cut** from A to B is an entry in A's table of neighbours: B's address is at the sink's card. A's frames leave as
//! ever, silently, nobody answers, and the sink's counter says how many there were. It needs iproute2 and nothing else,
//! works one way, and leaves both ends believing that they are connected, which a firewall that rejects would not.
//!
//! **Clean-up.** Everything hangs on namespaces whose names begin with [`MARK`] and say which process runs the drill:
//! deleting them takes bridge, cards and addresses along. What a dead run has left is found by its name, and nothing else
//! is ever touched ([`super::super::drill::leftovers`]).

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::process::Stdio;
use std::sync::{Mutex, PoisonError};

use tokio::io::AsyncWriteExt;
use tokio::process::Command;

use crate::process::Recipe;

/// What the names of our namespaces, mounts and directories begin with.
pub const MARK: &str = "cellway-drill-";

const SINK: &str = "02:00:00:00:ff:ff";
/// Of the range that RFC 2544 sets aside for tests: 198.18.x.0/24.
const NETS: [u8; 2] = [198, 18];
const SWITCH: &str = "switch";

/// Why there are no namespaces.
#[derive(Debug, thiserror::Error)]
pub enum SpacesError {
    /// A command could not be run.
    #[error("cannot run {command:?}")]
    Run {
        /// Which.
        command: String,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// A command refused.
    #[error("{command:?} says: {said}")]
    Refused {
        /// Which.
        command: String,
        /// On its standard error.
        said: String,
    },
    /// Nobody has that name.
    #[error("{name} has no place in the network")]
    Unknown {
        /// Which.
        name: String,
    },
    /// Every network of the range is in use.
    #[error("every network of 198.18.0.0/16 is in use on this machine")]
    NoNetwork,
}

#[derive(Debug, Clone, Copy)]
struct Place {
    octet: u8,
    net: u8,
}

impl Place {
    const fn ip(self) -> Ipv4Addr {
        Ipv4Addr::new(NETS[0], NETS[1], self.net, self.octet)
    }

    fn mac(self) -> String {
        format!("02:00:c6:12:{:02x}:{:02x}", self.net, self.octet)
    }
}

/// See the module.
#[derive(Debug)]
pub struct Spaces {
    run: String,
    net: u8,
    places: BTreeMap<String, Place>,
    standing: bool,
    /// Whose neighbour tables, and whose queues, are not as they were.
    touched: Mutex<BTreeMap<String, ()>>,
}

impl Spaces {
    /// Makes bridge, sink and uplink. `run` is [`MARK`] and what tells this run from others.
    ///
    /// # Errors
    /// [`SpacesError`]; what was made is taken down again.
    pub async fn open(run: &str) -> Result<Self, SpacesError> {
        let net = free_network().await?;
        let mut spaces =
            Self { run: run.to_owned(), net, places: BTreeMap::new(), standing: true, touched: Mutex::default() };
        if let Err(error) = spaces.make_switch().await {
            spaces.dismantle().await;
            return Err(error);
        }
        Ok(spaces)
    }

    async fn make_switch(&self) -> Result<(), SpacesError> {
        let (switch, uplink) = (self.space(SWITCH), self.uplink());
        ip(&["netns", "add", &switch]).await?;
        let inside = format!(
            "link add br0 type bridge mcast_snooping 0\nlink set br0 addrgenmode none\nlink set br0 up\n\
             link add sink0 address {SINK} type veth peer name sink1\n\
             link set sink0 addrgenmode none\nlink set sink1 addrgenmode none\n\
             link set sink1 master br0\n\
             link set sink1 type bridge_slave flood off mcast_flood off bcast_flood off learning off\n\
             link set sink1 up\nlink set sink0 up\n"
        );
        batch(Some(&switch), &inside).await?;
        // What is flooded to every port, and what the bridge says of itself (it has no address to speak from), would be
        // counted as swallowed: only frames to the sink's own address go there.
        run("bridge", &["-n", &switch, "fdb", "replace", SINK, "dev", "sink1", "master", "static"], "").await?;
        let place = Place { octet: 1, net: self.net };
        let outside = format!(
            "link add {uplink} address {} type veth peer name up0 netns {switch}\n\
             addr add {}/24 dev {uplink}\nlink set {uplink} up\n",
            place.mac(),
            place.ip()
        );
        batch(None, &outside).await?;
        batch(Some(&switch), "link set up0 master br0 up\n").await
    }

    pub(super) async fn join(&mut self, name: &str) -> Result<(), SpacesError> {
        let octet = u8::try_from(self.places.len() + 10).map_err(|_| SpacesError::NoNetwork)?;
        let place = Place { octet, net: self.net };
        let (space, switch) = (self.space(name), self.space(SWITCH));
        // Named first, so that it is taken down whatever happens now.
        self.places.insert(name.to_owned(), place);
        ip(&["netns", "add", &space]).await?;
        let card = format!(
            "link add eth0 address {} type veth peer name v{octet} netns {switch}\n\
             addr add {}/24 dev eth0\nlink set eth0 up\nlink set lo up\n",
            place.mac(),
            place.ip()
        );
        batch(Some(&space), &card).await?;
        batch(Some(&switch), &format!("link set v{octet} master br0 up\n")).await
    }

    pub(super) fn host(&self, name: &str) -> Ipv4Addr {
        self.places.get(name).map_or(Ipv4Addr::LOCALHOST, |place| place.ip())
    }

    pub(super) fn recipe(&self, recipe: Recipe) -> Recipe {
        let words = ["netns", "exec", &self.space(&recipe.name)].map(str::to_owned);
        let program = recipe.program.to_string_lossy().into_owned();
        let arguments = words.into_iter().chain([program]).chain(recipe.arguments).collect();
        Recipe { name: recipe.name, program: "ip".into(), arguments }
    }

    pub(super) async fn cut(&self, from: &str, to: &str) -> Result<(), SpacesError> {
        self.neighbour(from, self.place(to)?.ip(), SINK).await
    }

    pub(super) async fn heal(&self) -> Result<(), SpacesError> {
        let touched = std::mem::take(&mut *self.touched.lock().unwrap_or_else(PoisonError::into_inner));
        for (name, ()) in touched {
            let peers = self.places.iter().filter(|(other, _)| **other != name);
            let lines: String = peers
                .map(|(_, place)| {
                    format!("neigh replace {} lladdr {} dev eth0 nud permanent\n", place.ip(), place.mac())
                })
                .collect();
            batch(Some(&self.space(&name)), &lines).await?;
            // Where no pipe is, none can be taken away: that is what was wanted.
            let _ = run("tc", &["-n", &self.space(&name), "qdisc", "del", "dev", "eth0", "root"], "").await;
        }
        Ok(())
    }

    pub(super) async fn narrow(&self, name: &str, bytes_per_second: u64) -> Result<(), SpacesError> {
        self.place(name)?;
        self.touch(name);
        let rate = format!("{}bit", bytes_per_second.saturating_mul(8));
        let space = self.space(name);
        let pipe = ["-n", &space, "qdisc", "replace", "dev", "eth0", "root", "tbf", "rate", &rate];
        let words: Vec<&str> = pipe.into_iter().chain(["burst", "16kb", "latency", "400ms"]).collect();
        run("tc", &words, "").await.map(|_| ())
    }

    /// Bytes that have passed narrow pipes.
    pub(super) async fn narrowed_bytes(&self) -> Result<u64, SpacesError> {
        #[derive(serde::Deserialize)]
        struct Queue {
            kind: String,
            #[serde(default)]
            bytes: u64,
        }
        let touched: Vec<String> =
            self.touched.lock().unwrap_or_else(PoisonError::into_inner).keys().cloned().collect();
        let mut sum = 0;
        for name in touched {
            let said =
                run("tc", &["-n", &self.space(&name), "-s", "-j", "qdisc", "show", "dev", "eth0"], "").await?;
            let queues: Vec<Queue> = serde_json::from_str(&said).map_err(|error| SpacesError::Refused {
                command: "tc -s -j qdisc".into(),
                said: error.to_string(),
            })?;
            sum += queues.iter().filter(|queue| queue.kind == "tbf").map(|queue| queue.bytes).sum::<u64>();
        }
        Ok(sum)
    }

    /// Frames at the sink.
    pub(super) async fn swallowed(&self) -> Result<u64, SpacesError> {
        #[derive(serde::Deserialize)]
        struct Card {
            stats64: Stats,
        }
        #[derive(serde::Deserialize)]
        struct Stats {
            rx: Received,
        }
        #[derive(serde::Deserialize)]
        struct Received {
            packets: u64,
        }
        let switch = self.space(SWITCH);
        let words = ["-n", &switch, "-s", "-j", "link", "show", "dev", "sink0"];
        let said = run("ip", &words, "").await?;
        let cards: Vec<Card> = serde_json::from_str(&said)
            .map_err(|error| SpacesError::Refused { command: "ip -s -j link".into(), said: error.to_string() })?;
        Ok(cards.iter().map(|card| card.stats64.rx.packets).sum())
    }

    pub(super) async fn dismantle(&mut self) {
        if !self.standing {
            return;
        }
        // With its namespace it would go, too, but only some time later.
        if let Err(error) = ip(&["link", "del", &self.uplink()]).await {
            tracing::debug!(%error, "there is no uplink to take away");
        }
        let names: Vec<String> = self.places.keys().cloned().chain([SWITCH.to_owned()]).collect();
        for name in names {
            let space = self.space(&name);
            if let Err(error) = ip(&["netns", "del", &space]).await {
                tracing::warn!(%error, "a network namespace stays; `cellctl drill clean` removes it");
            }
        }
        self.places.clear();
        self.standing = false;
    }

    async fn neighbour(&self, of: &str, peer: Ipv4Addr, card: &str) -> Result<(), SpacesError> {
        self.place(of)?;
        self.touch(of);
        let line = format!("neigh replace {peer} lladdr {card} dev eth0 nud permanent\n");
        batch(Some(&self.space(of)), &line).await
    }

    fn touch(&self, name: &str) {
        self.touched.lock().unwrap_or_else(PoisonError::into_inner).insert(name.to_owned(), ());
    }

    fn place(&self, name: &str) -> Result<Place, SpacesError> {
        self.places.get(name).copied().ok_or_else(|| SpacesError::Unknown { name: name.to_owned() })
    }

    fn space(&self, name: &str) -> String {
        format!("{}-{name}", self.run)
    }

    /// Names of cards have at most 15 characters.
    fn uplink(&self) -> String {
        format!("cw{:x}", std::process::id())
    }
}

/// What [`Spaces::dismantle`] could not do, after a panic.
impl Drop for Spaces {
    fn drop(&mut self) {
        if self.standing {
            for name in self.places.keys().map(String::as_str).chain([SWITCH]) {
                let words = ["netns", "del", &self.space(name)].map(str::to_owned);
                // Nobody is left to be told; `cellctl drill clean` finds what stays.
                let _ = std::process::Command::new("ip").args(words).stderr(Stdio::null()).status();
            }
        }
    }
}

/// Whether namespaces can be made here at all.
///
/// # Errors
/// Why not, as a sentence.
pub async fn possible() -> Result<(), String> {
    if !rustix::process::geteuid().is_root() {
        return Err("network namespaces need root".into());
    }
    // Named like everything of a run that lives: nobody who sweeps takes it for a dead run's.
    let probe = format!("{}-probe", crate::drill::engine::run_name());
    let made = ip(&["netns", "add", &probe]).await;
    // Also where it was made by half.
    let gone = ip(&["netns", "del", &probe]).await;
    made.and(gone).map(|_| ()).map_err(|error| error.to_string())
}

/// A third octet that no address of this machine uses.
async fn free_network() -> Result<u8, SpacesError> {
    let said = run("ip", &["-4", "-o", "addr", "show"], "").await?;
    let start = u8::try_from(std::process::id() % 254).unwrap_or(0);
    let taken = |net: u8| said.contains(&format!(" {}.{}.{net}.", NETS[0], NETS[1]));
    (0..254u8)
        .map(|step| (start.wrapping_add(step)) % 254 + 1)
        .find(|net| !taken(*net))
        .ok_or(SpacesError::NoNetwork)
}

pub(crate) async fn ip(words: &[&str]) -> Result<String, SpacesError> {
    run("ip", words, "").await
}

/// Several commands of `ip` at once, in a namespace.
async fn batch(space: Option<&str>, lines: &str) -> Result<(), SpacesError> {
    let words: Vec<&str> = match space {
        Some(space) => vec!["-n", space, "-batch", "-"],
        None => vec!["-batch", "-"],
    };
    run("ip", &words, lines).await.map(|_| ())
}

/// Runs a tool and answers its standard output.
pub(crate) async fn run(program: &str, words: &[&str], input: &str) -> Result<String, SpacesError> {
    let command = || format!("{program} {}", words.join(" "));
    let failed = |source| SpacesError::Run { command: command(), source };
    let mut child = Command::new(program)
        .args(words)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        // What is typed to end the drill must not end what it cleans up with.
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
        .map_err(failed)?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(input.as_bytes()).await.map_err(failed)?;
    }
    let output = child.wait_with_output().await.map_err(failed)?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(SpacesError::Refused { command: command(), said })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One datagram from a namespace to an address; nobody has to be there.
    async fn say(spaces: &Spaces, from: &str, to: Ipv4Addr) {
        let line = format!("echo word > /dev/udp/{to}/9");
        let words = ["netns", "exec", &spaces.space(from), "bash", "-c", &line];
        run("ip", &words, "").await.unwrap();
    }

    #[tokio::test]
    async fn only_what_a_cut_has_met_is_counted_as_swallowed() {
        // Only root may make namespaces; `make drills` says so, too, and takes the proxy.
        if possible().await.is_err() {
            return;
        }
        let name = format!("{}-test", crate::drill::engine::run_name());
        let mut spaces = Spaces::open(&name).await.unwrap();
        for member in ["one", "other"] {
            spaces.join(member).await.unwrap();
        }
        let (other, nobody) = (spaces.host("other"), Ipv4Addr::new(NETS[0], NETS[1], spaces.net, 250));
        say(&spaces, "one", other).await;
        // Nobody is there: the question who it is goes to every port.
        say(&spaces, "one", nobody).await;
        let before = spaces.swallowed().await.unwrap();
        spaces.cut("one", "other").await.unwrap();
        // Of others, and to others.
        say(&spaces, "other", nobody).await;
        say(&spaces, "one", nobody).await;
        let not_cut = spaces.swallowed().await.unwrap();
        say(&spaces, "one", other).await;
        let after = spaces.swallowed().await.unwrap();
        spaces.heal().await.unwrap();
        say(&spaces, "one", other).await;
        let healed = spaces.swallowed().await.unwrap();
        spaces.dismantle().await;
        assert_eq!((before, not_cut), (0, 0));
        assert!(after >= 1, "the cut has met a datagram");
        assert_eq!(healed, after);
    }
}
