//! gRPC between the nodes over simulated streams, with keep-alives: a simulated stream that has lost a segment never
//! delivers another one, as no segment is ever sent twice.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use cell_client::net::LONGER_THAN_ANY_RUN;
use cell_store::{Dialer, RaftServer};
use futures::{Stream, StreamExt};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tonic::transport::server::Connected;
use tonic::transport::{Endpoint, Server, Uri};
use turmoil::net::{TcpListener, TcpStream};

/// Where peers are reached.
pub(crate) const PORT: u16 = 7_000;
/// How often, and for how long, a silent connection is asked whether it lives.
const KEEP_ALIVE: Duration = Duration::from_millis(400);
const CONNECT_DEADLINE: Duration = Duration::from_millis(500);

/// Calls peers over simulated streams.
pub(crate) fn dialer() -> Dialer {
    Arc::new(|address| {
        let endpoint = Endpoint::from_shared(format!("http://{address}")).map_err(|error| error.to_string())?;
        let endpoint = endpoint
            .connect_timeout(CONNECT_DEADLINE)
            .http2_keep_alive_interval(KEEP_ALIVE)
            .keep_alive_timeout(KEEP_ALIVE)
            .keep_alive_while_idle(true)
            .http2_reset_stream_duration(LONGER_THAN_ANY_RUN);
        Ok(endpoint.connect_with_connector_lazy(tower::service_fn(|uri: Uri| async move {
            let address = (uri.host().unwrap_or_default(), uri.port_u16().unwrap_or_default());
            TcpStream::connect(address).await.map(TokioIo::new)
        })))
    })
}

/// Answers the peers; ends only with an error.
pub(crate) async fn serve(service: RaftServer, listener: TcpListener) -> Result<(), tonic::transport::Error> {
    Server::builder()
        .http2_keepalive_interval(Some(KEEP_ALIVE))
        .http2_keepalive_timeout(Some(KEEP_ALIVE))
        .add_service(service)
        .serve_with_incoming(incoming(listener).boxed())
        .await
}

fn incoming(listener: TcpListener) -> impl Stream<Item = std::io::Result<Accepted>> + Send {
    futures::stream::unfold(listener, |listener| async {
        let accepted = listener.accept().await.map(|(stream, _)| Accepted(stream));
        Some((accepted, listener))
    })
}

/// A simulated stream as tonic's server wants it.
struct Accepted(TcpStream);

impl Connected for Accepted {
    type ConnectInfo = ();

    fn connect_info(&self) {}
}

impl AsyncRead for Accepted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Accepted {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}
