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
    ["invalid peer certificate", "received fatal alert", "InvalidContentType"]
        .iter()
        .any(|sign| told.contains(sign))
}

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
