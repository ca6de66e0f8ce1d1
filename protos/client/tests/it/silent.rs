//! A server that takes every connection and never says a word.

use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::net::TcpListener;

/// Its address. It lives as long as the test's runtime.
pub(crate) async fn server() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        while let Ok((mut connection, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut heard = [0; 1_024];
                while connection.read(&mut heard).await.is_ok_and(|length| length > 0) {}
            });
        }
    });
    address
}

/// An address at which nobody listens.
pub(crate) async fn nobody() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    listener.local_addr().unwrap().to_string()
}

pub(crate) const SHORT: Duration = Duration::from_millis(300);
