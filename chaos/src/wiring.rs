//! How the processes of a fleet are wired together, and how that is broken.
//!
//! | wiring | each process | a cut |
//! |---|---|---|
//! | [`Wiring::Loopback`] | at 127.0.0.1 | there is none (a router has links of its own to the control plane) |
//! | [`Wiring::Proxy`] | at 127.0.0.1, behind a front that knows who calls | lanes of the front carry nothing |
//! | [`Wiring::Spaces`] | in a network namespace of its own, on one bridge | frames go to a card that takes and counts them |
//!
//! Faults are said in pairs of names, one direction each, so that a drill is the same whatever carries it.

mod proxy;
pub mod spaces;

use std::net::Ipv4Addr;

use crate::link::{Condition, LinkError};
use crate::ports::{NoFreePort, Ports};
use crate::process::{Recipe, Roster};

pub use proxy::Proxy;
pub use spaces::{Spaces, SpacesError};

/// Which wiring there is to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Net {
    /// Nothing between the processes.
    Loopback,
    /// Fronts in user space.
    Proxy,
    /// Network namespaces; needs root.
    Namespaces,
}

impl Net {
    /// As reports print it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Loopback => "loopback",
            Self::Proxy => "proxy",
            Self::Namespaces => "namespaces",
        }
    }
}

/// Why processes cannot be wired.
#[derive(Debug, thiserror::Error)]
pub enum WiringError {
    /// No port.
    #[error(transparent)]
    Port(#[from] NoFreePort),
    /// No front.
    #[error(transparent)]
    Link(#[from] LinkError),
    /// No namespaces.
    #[error(transparent)]
    Spaces(#[from] SpacesError),
    /// This wiring cannot do that.
    #[error("{what} is not possible with the wiring {}", net.as_str())]
    Impossible {
        /// What was wanted.
        what: &'static str,
        /// Of what kind it is.
        net: Net,
    },
}

/// The wires of one fleet.
#[derive(Debug)]
pub enum Wiring {
    /// Nothing between.
    Loopback,
    /// Fronts in user space.
    Proxy(Proxy),
    /// Network namespaces.
    Spaces(Spaces),
}

impl Wiring {
    /// Makes it. `run` is what its namespaces are called by.
    ///
    /// # Errors
    /// [`WiringError`].
    pub async fn open(net: Net, run: &str, roster: Roster) -> Result<Self, WiringError> {
        Ok(match net {
            Net::Loopback => Self::Loopback,
            Net::Proxy => Self::Proxy(Proxy::new(roster)),
            Net::Namespaces => Self::Spaces(Spaces::open(run).await?),
        })
    }

    /// Of which kind it is.
    #[must_use]
    pub const fn net(&self) -> Net {
        match self {
            Self::Loopback => Net::Loopback,
            Self::Proxy(_) => Net::Proxy,
            Self::Spaces(_) => Net::Namespaces,
        }
    }

    /// Gives a process its place.
    ///
    /// # Errors
    /// [`WiringError`].
    pub async fn join(&mut self, name: &str) -> Result<(), WiringError> {
        if let Self::Spaces(spaces) = self {
            spaces.join(name).await?;
        }
        Ok(())
    }

    /// `host:port` for a process to listen at.
    ///
    /// # Errors
    /// [`WiringError::Port`].
    pub fn address(&self, name: &str, ports: &mut Ports) -> Result<String, WiringError> {
        let host = match self {
            Self::Loopback | Self::Proxy(_) => Ipv4Addr::LOCALHOST,
            Self::Spaces(spaces) => spaces.host(name),
        };
        Ok(format!("{host}:{}", ports.take()?))
    }

    /// Where the others are to reach what a process offers at this address.
    ///
    /// # Errors
    /// [`WiringError::Link`].
    pub async fn front(&mut self, name: &str, address: &str) -> Result<String, WiringError> {
        match self {
            Self::Loopback | Self::Spaces(_) => Ok(address.to_owned()),
            Self::Proxy(proxy) => Ok(proxy.front(name, address).await?),
        }
    }

    /// How to start a process in its place.
    #[must_use]
    pub fn recipe(&self, recipe: Recipe) -> Recipe {
        match self {
            Self::Loopback | Self::Proxy(_) => recipe,
            Self::Spaces(spaces) => spaces.recipe(recipe),
        }
    }

    /// Nothing that `from` sends reaches `to` from now on.
    ///
    /// # Errors
    /// [`WiringError`].
    pub async fn cut(&self, from: &str, to: &str) -> Result<(), WiringError> {
        match self {
            Self::Loopback => Err(WiringError::Impossible { what: "a cut", net: Net::Loopback }),
            Self::Proxy(proxy) => {
                proxy.set(from, to, Condition { open: false, ..Condition::default() });
                Ok(())
            }
            Self::Spaces(spaces) => Ok(spaces.cut(from, to).await?),
        }
    }

    /// What `from` sends to `to` is delayed, lost now and then, or narrow.
    ///
    /// # Errors
    /// [`WiringError`].
    pub async fn shape(&self, from: &str, to: &str, condition: Condition) -> Result<(), WiringError> {
        match self {
            Self::Proxy(proxy) => {
                proxy.set(from, to, condition);
                Ok(())
            }
            Self::Loopback | Self::Spaces(_) => {
                Err(WiringError::Impossible { what: "delay and loss", net: self.net() })
            }
        }
    }

    /// Everything that a process sends passes a pipe of this width, in bytes per second.
    ///
    /// # Errors
    /// [`WiringError`].
    pub async fn narrow(&self, name: &str, all: &[String], bytes_per_second: u64) -> Result<(), WiringError> {
        match self {
            Self::Loopback => Err(WiringError::Impossible { what: "a narrow pipe", net: Net::Loopback }),
            Self::Proxy(proxy) => {
                proxy.narrow(name, all, bytes_per_second);
                Ok(())
            }
            Self::Spaces(spaces) => Ok(spaces.narrow(name, bytes_per_second).await?),
        }
    }

    /// Ends every fault.
    ///
    /// # Errors
    /// [`WiringError`].
    pub async fn heal(&self) -> Result<(), WiringError> {
        match self {
            Self::Loopback => Ok(()),
            Self::Proxy(proxy) => {
                proxy.heal();
                Ok(())
            }
            Self::Spaces(spaces) => Ok(spaces.heal().await?),
        }
    }

    /// How much has met a cut so far: frames that were swallowed, or pieces and connections that had to wait.
    ///
    /// # Errors
    /// [`WiringError`].
    pub async fn swallowed(&self) -> Result<u64, WiringError> {
        match self {
            Self::Loopback => Ok(0),
            Self::Proxy(proxy) => Ok(proxy.held()),
            Self::Spaces(spaces) => Ok(spaces.swallowed().await?),
        }
    }

    /// Bytes that have passed lanes while these were slow or narrow: none where a slow network met nobody.
    ///
    /// # Errors
    /// [`WiringError`].
    pub async fn slowed_bytes(&self) -> Result<u64, WiringError> {
        match self {
            Self::Loopback => Ok(0),
            Self::Proxy(proxy) => Ok(proxy.slowed_bytes()),
            Self::Spaces(spaces) => Ok(spaces.narrowed_bytes().await?),
        }
    }

    /// Losses and delays follow this seed from now on, where the wiring makes them.
    pub fn seed(&self, seed: u64) {
        if let Self::Proxy(proxy) = self {
            proxy.seed(seed);
        }
    }

    /// Pieces that were lost so far and sent again, and pieces that have overtaken one of another connection.
    #[must_use]
    pub fn disorder(&self) -> (u64, u64) {
        if let Self::Proxy(proxy) = self { proxy.disorder() } else { (0, 0) }
    }

    /// Takes everything down.
    pub async fn dismantle(&mut self) {
        if let Self::Spaces(spaces) = self {
            spaces.dismantle().await;
        }
    }
}
