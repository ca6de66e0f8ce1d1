//! Lazy connections by `host:port`, kept and shared.

use std::collections::BTreeMap;
use std::error::Error;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tonic::transport::Channel;
use tonic::{Code, Status};

use crate::{Link, Server};

/// Connections that are kept; beyond it all are dropped and made anew as they are needed.
const CHANNELS_MAX: usize = 1_024;

/// Connections by endpoint. Cheap to clone; clones share them.
#[derive(Debug, Clone)]
pub(crate) struct Channels {
    link: Link,
    server: Server,
    connect: Duration,
    open: Arc<Mutex<BTreeMap<String, Channel>>>,
}

impl Channels {
    pub(crate) fn new(link: Link, server: Server, connect: Duration) -> Self {
        Self { link, server, connect, open: Arc::default() }
    }

    /// As [`told`], with what may be behind it on such a link.
    pub(crate) fn told(&self, status: &Status) -> String {
        let told = told(status);
        // What a server has said has no cause here.
        let was_ended = status.source().is_some() && !surely_not_sent(status) && told != WANTS_TLS;
        if was_ended && matches!(self.link, Link::Plaintext) { format!("{told} ({MAY_WANT_TLS})") } else { told }
    }

    /// A channel that connects when it is used, and again after it was lost.
    pub(crate) fn to(&self, endpoint: &str) -> Result<Channel, Status> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(channel) = open.get(endpoint) {
            return Ok(channel.clone());
        }
        let built = self
            .link
            .endpoint(endpoint, self.server)
            .map_err(|error| Status::invalid_argument(format!("{endpoint:?} is not host:port: {error}")))?;
        let built = built
            .connect_timeout(self.connect)
            .tcp_nodelay(true)
            .http2_keep_alive_interval(Duration::from_secs(2))
            .keep_alive_timeout(Duration::from_secs(3))
            .keep_alive_while_idle(false);
        let channel = self.link.channel(&built);
        if open.len() >= CHANNELS_MAX {
            open.clear();
        }
        open.insert(endpoint.to_owned(), channel.clone());
        Ok(channel)
    }
}

/// Whether a status says that there was no connection, so that the request has surely not been sent.
#[must_use]
pub fn surely_not_sent(status: &Status) -> bool {
    let mut cause: Option<&(dyn Error + 'static)> = status.source();
    while let Some(error) = cause {
        if error.is::<tonic::ConnectError>() {
            return true;
        }
        cause = error.source();
    }
    false
}

/// Whether a status says that one side has not believed the other's certificate, or speaks no TLS: nothing was sent, and
/// trying again does not help.
pub(crate) fn tls_refused(status: &Status) -> bool {
    let told = told(status);
    ["invalid peer certificate", "received fatal alert", WANTS_TLS, NO_TLS].iter().any(|sign| told.contains(sign))
}

/// What is said of a node that speaks TLS where it is called without.
pub(crate) const WANTS_TLS: &str = "it wants TLS with certificates, and was called without (--insecure-plaintext)";
/// What is said besides of a connection that has ended before there was an answer, where it was without certificates: a node that wants
/// them ends it so, and often before it can be read why.
pub(crate) const MAY_WANT_TLS: &str =
    "a node that wants TLS with certificates ends a connection without (--insecure-plaintext) so";
/// What is said of one that speaks none.
pub(crate) const NO_TLS: &str = "it speaks no TLS, and was called with a certificate";

/// A status in one line, with what caused it.
pub(crate) fn told(status: &Status) -> String {
    let mut told = match (status.code(), status.message()) {
        (Code::Unknown | Code::Unavailable, message) if !message.is_empty() => message.to_owned(),
        (code, "") => code.description().to_owned(),
        (code, message) => format!("{code:?}: {message}"),
    };
    let mut cause = status.source();
    while let Some(error) = cause {
        let next = error.to_string();
        if !told.contains(&next) {
            told = format!("{told}: {next}");
        }
        cause = error.source();
    }
    // A TLS alert, read as the head of a frame of HTTP/2, is one of more than a megabyte; and no HTTP/2 begins as TLS does.
    for (sign, meant) in [("frame with invalid size", WANTS_TLS), ("InvalidContentType", NO_TLS)] {
        if told.contains(sign) {
            return meant.to_owned();
        }
    }
    told
}

/// The stable code of a refusal, where it has one.
#[must_use]
pub fn code_of(status: &Status) -> Option<String> {
    Some(trailer_of(status, crate::trailer::CODE)).filter(|code| !code.is_empty())
}

/// A trailer as text; empty where there is none.
pub(crate) fn trailer_of(status: &Status, name: &str) -> String {
    status.metadata().get(name).and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::Host;

    /// As a connection ends.
    fn ended(why: &'static str) -> Status {
        Status::from_error(why.into())
    }

    #[test]
    fn a_node_that_speaks_tls_where_it_is_called_without_is_told_from_one_that_goes_away() {
        let over = |link: Link| Channels::new(link, Server::Control, Duration::from_secs(1));
        let plain = over(Link::Plaintext);
        let alert = ended("connection error detected: frame with invalid size");
        assert!(tls_refused(&alert) && plain.told(&alert) == WANTS_TLS);
        // The alert is lost with the connection where that is reset.
        let reset = ended("connection closed");
        assert!(!tls_refused(&reset), "it may be a node that stops");
        assert!(plain.told(&reset).ends_with(&format!("({MAY_WANT_TLS})")), "{}", plain.told(&reset));
        let within = over(Link::Within(Host::default()));
        assert_eq!(within.told(&reset), told(&reset), "nobody else is there");
        let said = Status::unavailable("this node has stopped");
        assert_eq!(plain.told(&said), "this node has stopped");
        let no_tls = ended("received corrupt message of type InvalidContentType");
        assert!(tls_refused(&no_tls) && plain.told(&no_tls).starts_with(NO_TLS));
    }
}
