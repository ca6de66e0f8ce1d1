//! How control nodes call each other.

use std::sync::Arc;
use std::time::Duration;

use cell_client::{Link, Server};
use cell_store::Dialer;

/// Peers over this link. The deadlines are those of the store's own dialer.
pub(crate) fn dialer(link: Link) -> Dialer {
    Arc::new(move |address| {
        let endpoint = link.endpoint(address, Server::Control).map_err(|error| error.to_string())?;
        let endpoint = endpoint
            .tcp_nodelay(true)
            .connect_timeout(Duration::from_millis(500))
            .http2_keep_alive_interval(Duration::from_secs(2))
            .keep_alive_timeout(Duration::from_secs(2))
            .keep_alive_while_idle(true);
        Ok(link.channel(&endpoint))
    })
}
