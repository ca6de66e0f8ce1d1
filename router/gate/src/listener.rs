//! Connections of routers: HTTP/1.1 and HTTP/2 with prior knowledge, on one port.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use cell_client::net::{Connection, Listener};
use http::Request;
use http::header::EXPECT;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::application::Application;
use crate::front::Front;
use crate::interim::{Interim, Passing};
use crate::options::HttpLimits;
use crate::tls::Tls;
use crate::unread::Left;
use crate::wire;

/// How much of a body that is refused, or longer than the application takes, is read after the answer has been given, so
/// that the connection can be used again and the answer is not lost in a reset: what a router passes by default.
const LINGER_BYTES_MAX: usize = 8 << 20;
const LINGER: Duration = Duration::from_secs(2);
const HTTP2_STREAMS_MAX: u32 = 256;
const STREAM_WINDOW_BYTES: u32 = 64 << 10;
const CONNECTION_WINDOW_BYTES: u32 = 4 << 20;
const HANDSHAKE: Duration = Duration::from_secs(5);
/// How soon a router's machine is missed that has gone without a word: a tunnel or a stream on which nothing is said would keep its
/// connection for ever.
const ALIVE_AFTER: Duration = Duration::from_secs(30);
const ALIVE_INTERVAL: Duration = Duration::from_secs(10);
const ALIVE_TRIES: u32 = 3;
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Accepts until `shutdown`, and lets every connection finish what it has begun.
pub(crate) async fn accept<A: Application>(
    listener: Listener,
    tls: Option<Arc<Tls>>,
    front: Arc<Front<A>>,
    limits: HttpLimits,
    shutdown: CancellationToken,
    connections: TaskTracker,
) {
    let places = Arc::new(Semaphore::new(limits.connections));
    loop {
        let place = tokio::select! {
            place = Arc::clone(&places).acquire_owned() => place.expect("the semaphore is never closed"),
            () = shutdown.cancelled() => return,
        };
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = shutdown.cancelled() => return,
        };
        match accepted {
            Ok((stream, _)) => {
                let (front, tls, shutdown) = (Arc::clone(&front), tls.clone(), shutdown.clone());
                connections.spawn(async move {
                    receive(stream, tls, front, limits, shutdown).await;
                    drop(place);
                });
            }
            Err(error) => {
                // Out of file descriptors, mostly: the others go on, and some will end.
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn receive<A: Application>(
    mut stream: Connection,
    tls: Option<Arc<Tls>>,
    front: Arc<Front<A>>,
    limits: HttpLimits,
    shutdown: CancellationToken,
) {
    let idle = Duration::from_millis(limits.idle_ms);
    // The builder that tells HTTP/1 from HTTP/2 waits for ever for a first byte.
    tokio::select! {
        first = tokio::time::timeout(idle, stream.readable()) => match first {
            Ok(Ok(())) => {}
            _ => return,
        },
        () = shutdown.cancelled() => return,
    }
    // A small answer is not to wait for the acknowledgement of the one before; the connection works without, too.
    let _ = stream.set_nodelay(true);
    if let Err(error) = keep_alive(&stream) {
        tracing::debug!(%error, "cannot ask whether the other side of a connection is still there");
    }
    let Some(tls) = tls else { return converse(stream, front, limits, shutdown).await };
    let accepted = tokio::select! {
        accepted = tokio::time::timeout(HANDSHAKE, tls.acceptor().accept(stream)) => accepted,
        () = shutdown.cancelled() => return,
    };
    match accepted {
        Ok(Ok(stream)) => converse(stream, front, limits, shutdown).await,
        Ok(Err(error)) => tracing::debug!(%error, "a TLS handshake has failed"),
        Err(_) => tracing::debug!("a TLS handshake was not finished in time"),
    }
}

fn keep_alive(stream: &Connection) -> std::io::Result<()> {
    let Connection::Kernel(stream) = stream else { return Ok(()) };
    let asking = TcpKeepalive::new().with_time(ALIVE_AFTER).with_interval(ALIVE_INTERVAL).with_retries(ALIVE_TRIES);
    SockRef::from(stream).set_tcp_keepalive(&asking)
}

async fn converse<A: Application, S>(
    stream: S,
    front: Arc<Front<A>>,
    limits: HttpLimits,
    shutdown: CancellationToken,
) where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let idle = Duration::from_millis(limits.idle_ms);
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(idle)
        .max_headers(limits.headers.saturating_add(wire::ADDED_FIELDS_MAX))
        .max_buf_size(limits.header_bytes.max(8 * 1024));
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(HTTP2_STREAMS_MAX)
        .max_header_list_size(u32::try_from(limits.header_bytes).unwrap_or(u32::MAX))
        // What a router may send of a body before the gate has let the request in is less than what it keeps to send again.
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .keep_alive_interval(Duration::from_secs(20));
    let interim = Arc::<Interim>::default();
    let stream = Passing::new(stream, Arc::clone(&interim));
    let service = service_fn(move |request| answer(Arc::clone(&front), Arc::clone(&interim), request));
    let connection = builder.serve_connection_with_upgrades(TokioIo::new(stream), service);
    tokio::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = shutdown.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection broke");
    }
}

async fn answer<A: Application>(
    front: Arc<Front<A>>,
    interim: Arc<Interim>,
    mut request: Request<Incoming>,
) -> Result<http::Response<crate::application::ResponseBody>, Infallible> {
    let is_http1 = request.version() < http::Version::HTTP_2;
    let waits = request.headers().contains_key(EXPECT);
    if request.version() == http::Version::HTTP_11 {
        request.extensions_mut().insert(interim.of_request());
    }
    let served = front.serve(request).await;
    if is_http1 {
        interim.answered().await;
    }
    // Who waits to be asked for a body, and was not, sends none.
    if let Some(Left { body, .. }) = served.unread.filter(|left| is_http1 && (left.begun || !waits)) {
        tokio::spawn(linger(body));
    }
    Ok(served.response)
}

/// Reads what a client still sends for a request that has been refused.
async fn linger(mut body: Incoming) {
    let reading = async {
        let mut read = 0;
        while read < LINGER_BYTES_MAX
            && let Some(Ok(frame)) = body.frame().await
        {
            read += frame.data_ref().map_or(0, bytes::Bytes::len);
        }
    };
    // Whatever is left after that time is cut off.
    let _ = tokio::time::timeout(LINGER, reading).await;
}

#[cfg(test)]
mod tests {
    use tokio::net::{TcpListener, TcpStream};

    use super::*;

    #[tokio::test]
    async fn a_connection_on_which_nothing_is_said_is_asked_whether_the_other_side_is_there() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let _client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (accepted, _) = listener.accept().await.unwrap();
        let accepted = Connection::Kernel(accepted);
        keep_alive(&accepted).unwrap();
        let Connection::Kernel(socket) = &accepted else { unreachable!() };
        let socket = SockRef::from(socket);
        assert!(socket.keepalive().unwrap());
        assert_eq!(
            (socket.tcp_keepalive_time().unwrap(), socket.tcp_keepalive_interval().unwrap()),
            (ALIVE_AFTER, ALIVE_INTERVAL)
        );
    }
}
