//! One `GET` on a connection of its own: to an instance, whether it takes requests, and to another router, what it sees.

use bytes::Bytes;
use cell_client::net::Network;
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};

use crate::tls::TlsBack;

/// Status and body, up to so many bytes. How long it may take is the caller's to say.
pub(crate) async fn get(
    network: &Network,
    address: &str,
    path: &str,
    tls: Option<&TlsBack>,
    bytes_max: usize,
) -> Result<(StatusCode, Bytes), String> {
    let stream = network.connect(address).await.map_err(|error| error.to_string())?;
    match tls {
        None => exchange(stream, address, path, bytes_max).await,
        Some(tls) => {
            let stream = tls.connect(stream, address, false).await.map_err(|error| error.to_string())?;
            exchange(stream, address, path, bytes_max).await
        }
    }
}

async fn exchange<S>(stream: S, address: &str, path: &str, bytes_max: usize) -> Result<(StatusCode, Bytes), String>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|error| error.to_string())?;
    let request = Request::get(path)
        .header(http::header::HOST, address)
        .header(http::header::CONNECTION, "close")
        .body(Empty::<Bytes>::new())
        .map_err(|error| error.to_string())?;
    let asking = async {
        let answer = sender.send_request(request).await.map_err(|error| error.to_string())?;
        let status = answer.status();
        let body =
            Limited::new(answer.into_body(), bytes_max).collect().await.map_err(|error| error.to_string())?;
        Ok((status, body.to_bytes()))
    };
    let (answer, ended) = futures::join!(asking, connection);
    match (answer, ended) {
        (Ok(answer), _) => Ok(answer),
        (Err(_), Err(broken)) => Err(broken.to_string()),
        (Err(reason), Ok(())) => Err(reason),
    }
}
