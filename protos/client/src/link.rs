//! How this process speaks to others: over mutual TLS, or in plaintext where somebody has said so.

use std::io;
use std::net::IpAddr;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use tonic::transport::{Channel, Endpoint, Error};

use crate::guard::Guard;
use crate::identity::{Identity, IdentityError, Server};
use crate::net::{Host, Listener, Network};
use crate::random::Random;

/// Cheap to clone.
#[derive(Debug, Clone, Default)]
pub enum Link {
    /// Anybody may read and change what is said. For one machine, and for tests.
    #[default]
    Plaintext,
    /// Both sides show a certificate of one authority.
    Mutual(Identity),
    /// In plaintext, on a network that is passed in and that nobody else is on, as in a simulation.
    Within(Host),
}

impl Link {
    /// From what the operator has said: a directory with an identity, or that there is to be none.
    ///
    /// # Errors
    /// [`IdentityError`], also where neither is said.
    pub fn open(identity: Option<&Path>, insecure_plaintext: bool) -> Result<Self, IdentityError> {
        match (identity, insecure_plaintext) {
            (Some(directory), _) => Ok(Self::Mutual(Identity::load(directory)?)),
            (None, true) => Ok(Self::Plaintext),
            (None, false) => Err(IdentityError::NotNamed),
        }
    }

    /// Whether a server may listen there: in plaintext only where nobody else can call.
    ///
    /// # Errors
    /// [`IdentityError::PlaintextBeyondLoopback`]
    pub fn may_listen(&self, address: IpAddr) -> Result<(), IdentityError> {
        match self {
            Self::Plaintext if !address.is_loopback() => Err(IdentityError::PlaintextBeyondLoopback { address }),
            Self::Plaintext | Self::Mutual(_) | Self::Within(_) => Ok(()),
        }
    }

    /// Whose certificate this process shows, if it shows any.
    #[must_use]
    pub const fn identity(&self) -> Option<&Identity> {
        match self {
            Self::Plaintext | Self::Within(_) => None,
            Self::Mutual(identity) => Some(identity),
        }
    }

    /// When the certificate runs out that this process shows, in seconds since 1970; 0 where it shows none.
    #[must_use]
    pub fn certificate_not_after_unix_s(&self) -> u64 {
        let since = |identity: &Identity| identity.not_after().duration_since(UNIX_EPOCH).unwrap_or_default();
        self.identity().map_or(0, |identity| since(identity).as_secs())
    }

    /// What stands before a server of this process.
    #[must_use]
    pub const fn guard(&self) -> Guard {
        match self {
            Self::Plaintext | Self::Within(_) => Guard::Open,
            Self::Mutual(_) => Guard::ByCertificate,
        }
    }

    /// How a server at `host:port` is called.
    ///
    /// # Errors
    /// Where that is no address, or the identity cannot be used.
    pub fn endpoint(&self, address: &str, server: Server) -> Result<Endpoint, Error> {
        match self {
            Self::Plaintext => Endpoint::from_shared(format!("http://{address}")),
            // How long a stream is remembered that was given up is measured by the machine's own clock, whatever the runtime's
            // says; and whether it is remembered decides what goes over the connection.
            Self::Within(_) => Ok(Endpoint::from_shared(format!("http://{address}"))?
                .http2_reset_stream_duration(crate::net::LONGER_THAN_ANY_RUN)),
            Self::Mutual(identity) => {
                Endpoint::from_shared(format!("https://{address}"))?.tls_config(identity.calls(server))
            }
        }
    }

    /// A gRPC server that is called over this link.
    ///
    /// # Errors
    /// Where the identity cannot be used.
    pub fn server(&self) -> Result<tonic::transport::Server, Error> {
        let server = tonic::transport::Server::builder();
        match self {
            Self::Plaintext | Self::Within(_) => Ok(server),
            Self::Mutual(identity) => server.tls_config(identity.serves()),
        }
    }

    /// Where its connections come from.
    #[must_use]
    pub const fn network(&self) -> &Network {
        match self {
            Self::Plaintext | Self::Mutual(_) => &Network::Kernel,
            Self::Within(host) => host.network(),
        }
    }

    /// A gRPC channel that connects when it is used, and again after it was lost.
    #[must_use]
    pub fn channel(&self, endpoint: &Endpoint) -> Channel {
        self.network().channel(endpoint)
    }

    /// A gRPC channel that is connected.
    ///
    /// # Errors
    /// Where it cannot be.
    pub async fn connected(&self, endpoint: &Endpoint) -> Result<Channel, Error> {
        self.network().connected(endpoint).await
    }

    /// Listens at `host:port`; port 0 takes a free one.
    ///
    /// # Errors
    /// As the network says.
    pub async fn listen(&self, address: &str) -> io::Result<Listener> {
        self.network().listen(address).await
    }

    /// The wall clock of the machine.
    #[must_use]
    pub fn now(&self) -> SystemTime {
        match self {
            Self::Plaintext | Self::Mutual(_) => SystemTime::now(),
            Self::Within(host) => host.now(),
        }
    }

    /// Where the random numbers of the machine come from.
    #[must_use]
    pub fn random(&self) -> Random {
        match self {
            Self::Plaintext | Self::Mutual(_) => Random::default(),
            Self::Within(host) => host.random().clone(),
        }
    }
}
