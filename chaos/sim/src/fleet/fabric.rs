//! Simulated streams, clocks and choices, as a part of Cellway has them of its machine.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use cell_client::Random;
use cell_client::net::{Fabric, Host, Pipe, Port};
use futures::FutureExt as _;
use futures::future::BoxFuture;
use turmoil::net::{TcpListener, TcpStream};

use crate::chance::Chance;
use crate::run::EPOCH;

/// The simulated network.
struct Simulated;

impl Fabric for Simulated {
    fn connect(&self, address: &str) -> BoxFuture<'static, io::Result<Box<dyn Pipe>>> {
        let address = address.to_owned();
        Box::pin(async move {
            let (host, port) = address.rsplit_once(':').ok_or(io::ErrorKind::InvalidInput)?;
            let port: u16 = port.parse().map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
            let stream = TcpStream::connect((host, port)).await?;
            Ok(Box::new(stream) as Box<dyn Pipe>)
        })
    }

    fn listen(&self, address: SocketAddr) -> io::Result<Box<dyn Port>> {
        let bound = TcpListener::bind(address).now_or_never();
        let listener = bound.ok_or_else(|| io::Error::other("a simulated port is bound at once"))??;
        Ok(Box::new(Listening(listener)))
    }
}

struct Listening(TcpListener);

impl Port for Listening {
    fn accept(&self) -> BoxFuture<'_, io::Result<(Box<dyn Pipe>, SocketAddr)>> {
        Box::pin(async move {
            let (stream, peer) = self.0.accept().await?;
            Ok((Box::new(stream) as Box<dyn Pipe>, peer))
        })
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.0.local_addr()
    }
}

/// The wall clock, since 1970. All hosts agree on it.
pub(super) fn wall_clock() -> Duration {
    EPOCH + turmoil::sim_elapsed().unwrap_or_default()
}

/// A machine whose choices follow from `chance`.
pub(super) fn host(chance: Chance) -> Host {
    let chance = Mutex::new(chance);
    let random = Random::new(move || chance.lock().unwrap_or_else(PoisonError::into_inner).number());
    Host::given(Arc::new(Simulated), wall_clock, random)
}
