//! What lies between an agent and its server, and can be cut as a network is.

use std::sync::Arc;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;

/// See the module.
pub(super) struct Wire {
    port: u16,
    cut: Arc<Notify>,
}

/// Where the server listens.
fn port_of(url: &str) -> u16 {
    url.rsplit_once(':').unwrap().1.split_once('/').unwrap().0.parse().unwrap()
}

impl Wire {
    pub(super) async fn to(url: &str) -> Self {
        let (server, cut) = (port_of(url), Arc::new(Notify::new()));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (port, cuts) = (listener.local_addr().unwrap().port(), Arc::clone(&cut));
        tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                tokio::spawn(carry(near, server, Arc::clone(&cuts)));
            }
        });
        Self { port, cut }
    }

    /// The same address by way of this.
    pub(super) fn url(&self, url: &str) -> String {
        url.replace(&format!(":{}/", port_of(url)), &format!(":{}/", self.port))
    }

    /// Ends every connection. New ones are let through.
    pub(super) fn cut(&self) {
        self.cut.notify_waiters();
    }
}

async fn carry(mut near: TcpStream, server: u16, cut: Arc<Notify>) {
    let Ok(mut far) = TcpStream::connect(("127.0.0.1", server)).await else { return };
    tokio::select! {
        _ = tokio::io::copy_bidirectional(&mut near, &mut far) => {}
        () = cut.notified() => {}
    }
}
