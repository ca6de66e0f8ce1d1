//! One kept-alive HTTP/1.1 connection, and what became of a request on it.
//!
//! A request that was surely not sent is told apart from one whose answer never came: the history depends on it.

use std::time::Duration;

use bytes::Bytes;
use cell_client::net::Network;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use tokio::time::timeout;

/// The largest answer that is read.
const ANSWER_BYTES_MAX: usize = 64 << 20;

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// Surely not sent.
    #[error("no connection to {address}: {reason}")]
    NotSent {
        /// `host:port`.
        address: String,
        /// Why.
        reason: String,
    },
    /// Sent, at least in part; it may have been carried out.
    #[error("no answer from {address}: {reason}")]
    NoAnswer {
        /// `host:port`.
        address: String,
        /// Why.
        reason: String,
    },
}

/// A connection that is made when it is needed and kept until it breaks.
#[derive(Debug)]
pub struct Connection {
    address: String,
    deadline: Duration,
    network: Network,
    sender: Option<SendRequest<Full<Bytes>>>,
}

impl Connection {
    /// To `host:port`; a request that has no whole answer after `deadline` is given up.
    #[must_use]
    pub const fn new(address: String, deadline: Duration) -> Self {
        Self { address, deadline, network: Network::Kernel, sender: None }
    }

    /// The same, over another network.
    #[must_use]
    pub fn over(self, network: &Network) -> Self {
        Self { network: network.clone(), ..self }
    }

    /// `host:port`.
    #[must_use]
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Sends a request and reads the whole answer.
    ///
    /// # Errors
    /// [`CallError`]; the connection is then made anew for the next request.
    pub async fn call(&mut self, request: Request<Full<Bytes>>) -> Result<Response<Bytes>, CallError> {
        let deadline = self.deadline;
        let answer = match timeout(deadline, self.ready()).await {
            Ok(Ok(())) => timeout(deadline, self.exchange(request)).await.unwrap_or_else(|_| {
                let reason = format!("nothing within {deadline:?}");
                Err(CallError::NoAnswer { address: self.address.clone(), reason })
            }),
            Ok(Err(refused)) => Err(refused),
            Err(_) => Err(self.not_sent(format!("nothing within {deadline:?}"))),
        };
        if answer.is_err() {
            self.sender = None;
        }
        answer
    }

    async fn ready(&mut self) -> Result<(), CallError> {
        if let Some(sender) = &mut self.sender
            && sender.ready().await.is_ok()
        {
            return Ok(());
        }
        let stream = self.network.connect(&self.address).await.map_err(|error| self.not_sent(error.to_string()))?;
        stream.set_nodelay(true).map_err(|error| self.not_sent(error.to_string()))?;
        let (mut sender, connection) =
            handshake(TokioIo::new(stream)).await.map_err(|error| self.not_sent(error.to_string()))?;
        // Ends with the sender or with the peer; what went wrong is told to whoever waits for an answer.
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a load connection has ended");
            }
        });
        sender.ready().await.map_err(|error| self.not_sent(error.to_string()))?;
        self.sender = Some(sender);
        Ok(())
    }

    async fn exchange(&mut self, request: Request<Full<Bytes>>) -> Result<Response<Bytes>, CallError> {
        let no_answer = |reason: String| CallError::NoAnswer { address: self.address.clone(), reason };
        let Some(sender) = &mut self.sender else {
            return Err(self.not_sent("the connection is gone".into()));
        };
        let answer = sender.try_send_request(request).await.map_err(|mut failed| match failed.take_message() {
            // hyper hands the request back only where not a byte of it was written.
            Some(_) => self.not_sent(failed.error().to_string()),
            None => no_answer(failed.error().to_string()),
        })?;
        let (parts, body) = answer.into_parts();
        let body =
            Limited::new(body, ANSWER_BYTES_MAX).collect().await.map_err(|error| no_answer(error.to_string()))?;
        Ok(Response::from_parts(parts, body.to_bytes()))
    }

    fn not_sent(&self, reason: String) -> CallError {
        CallError::NotSent { address: self.address.clone(), reason }
    }
}

/// The stable code of an error answer (RFC 9457's extension member `code`), or the status where there is none.
#[must_use]
pub fn code_of(status: StatusCode, body: &[u8]) -> String {
    let problem = serde_json::from_slice::<serde_json::Value>(body).ok();
    let code = problem.as_ref().and_then(|problem| problem.get("code")).and_then(serde_json::Value::as_str);
    code.map_or_else(|| format!("HTTP_{}", status.as_u16()), str::to_owned)
}
