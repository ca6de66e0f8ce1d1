//! What lies between an agent and its server, and can be cut as a network is.

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// See the module.
pub(super) struct Wire {
    port: u16,
    /// How often it was cut, fell silent, and had its silence end.
    fate: watch::Sender<Fate>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Fate {
    cuts: u32,
    silences: u32,
    ends: u32,
}

/// Where the server listens.
pub(super) fn port_of(url: &str) -> u16 {
    url.rsplit_once(':').unwrap().1.split_once('/').unwrap().0.parse().unwrap()
}

impl Wire {
    pub(super) async fn to(url: &str) -> Self {
        let (server, fate) = (port_of(url), watch::Sender::new(Fate::default()));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (port, fates) = (listener.local_addr().unwrap().port(), fate.clone());
        tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                tokio::spawn(carry(near, server, fates.subscribe()));
            }
        });
        Self { port, fate }
    }

    /// The same address by way of this.
    pub(super) fn url(&self, url: &str) -> String {
        url.replace(&format!(":{}/", port_of(url)), &format!(":{}/", self.port))
    }

    /// Ends every connection. New ones are let through.
    pub(super) fn cut(&self) {
        self.fate.send_modify(|fate| fate.cuts += 1);
    }

    /// Carries nothing more on the connections that there are: whoever has called hears that they are lost, and the server hears
    /// nothing. New ones are let through.
    pub(super) fn fall_silent(&self) {
        self.fate.send_modify(|fate| fate.silences += 1);
    }

    /// The server gives up those of which it has heard nothing.
    pub(super) fn end_the_silent(&self) {
        self.fate.send_modify(|fate| fate.ends += 1);
    }
}

async fn carry(mut near: TcpStream, server: u16, mut fate: watch::Receiver<Fate>) {
    let begun = *fate.borrow();
    let Ok(mut far) = TcpStream::connect(("127.0.0.1", server)).await else { return };
    let is_silent = tokio::select! {
        _ = tokio::io::copy_bidirectional(&mut near, &mut far) => false,
        said = fate.wait_for(|now| now.cuts > begun.cuts || now.silences > begun.silences) => {
            said.is_ok_and(|now| now.cuts == begun.cuts)
        }
    };
    if is_silent {
        drop(near);
        let _over = fate.wait_for(|now| now.ends > begun.ends).await;
    }
}
