//! Clients: hyper's, one connection for one request, and bare sockets for what hyper would not send.

use std::net::SocketAddr;

use bytes::Bytes;
use http::{HeaderMap, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: String,
}

impl Answer {
    /// The code of a refusal.
    pub(crate) fn code(&self) -> String {
        let problem: serde_json::Value = serde_json::from_str(&self.body).unwrap_or_default();
        problem["code"].as_str().unwrap_or(&self.body).to_owned()
    }
}

/// Sends over HTTP/1.1.
pub(crate) async fn send<B>(address: SocketAddr, request: Request<B>) -> Answer
where
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let stream = TcpStream::connect(address).await.unwrap();
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    read(sender.send_request(request).await.unwrap()).await
}

/// Sends over HTTP/2 with prior knowledge.
pub(crate) async fn send_h2<B>(address: SocketAddr, request: Request<B>) -> Answer
where
    B: http_body::Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let stream = TcpStream::connect(address).await.unwrap();
    let io = TokioIo::new(stream);
    let (mut sender, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await.unwrap();
    tokio::spawn(connection);
    read(sender.send_request(request).await.unwrap()).await
}

pub(crate) async fn read(response: http::Response<hyper::body::Incoming>) -> Answer {
    let (parts, body) = response.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    Answer { status: parts.status, headers: parts.headers, body: String::from_utf8_lossy(&body).into_owned() }
}

/// A request of a tenant, by host.
pub(crate) fn request(method: &str, tenant: &str, path: &str, body: impl Into<Bytes>) -> Request<Full<Bytes>> {
    Request::builder()
        .method(method)
        .uri(path)
        .header("host", format!("{tenant}.example.com"))
        .body(Full::new(body.into()))
        .unwrap()
}

pub(crate) async fn get(address: SocketAddr, tenant: &str, path: &str) -> Answer {
    send(address, request("GET", tenant, path, "")).await
}

pub(crate) async fn post(address: SocketAddr, tenant: &str, path: &str, body: impl Into<Bytes>) -> Answer {
    send(address, request("POST", tenant, path, body)).await
}

/// Writes bytes as they are and reads until the other side closes or `enough` has come.
pub(crate) async fn raw(address: SocketAddr, bytes: &[u8], enough: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(bytes).await.unwrap();
    read_until(&mut stream, enough).await
}

pub(crate) async fn read_until(stream: &mut TcpStream, enough: &str) -> String {
    let mut read = Vec::new();
    let reading = async {
        let mut piece = [0; 4096];
        while !String::from_utf8_lossy(&read).contains(enough) {
            match stream.read(&mut piece).await {
                Ok(0) | Err(_) => break,
                Ok(length) => read.extend_from_slice(&piece[..length]),
            }
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(10), reading).await.unwrap();
    String::from_utf8_lossy(&read).into_owned()
}
