//! What an upgraded request becomes: a connection of another protocol, under the admission that the request had.
//!
//! A tunnel counts as a running write for as long as the application holds it, because anything may come through it. So
//! when the grant changes, a hold above all, the tunnel is cut: the application reads its end, lets go of it, and with
//! that the hold is quiesced like by any other write that finishes.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use http::header::{CONNECTION, UPGRADE};
use http::request::Parts;
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_util::sync::{CancellationToken, DropGuard, WaitForCancellationFutureOwned};

use crate::admission::Admission;

/// Whether a request asks for another protocol.
pub(crate) fn asks(parts: &Parts) -> bool {
    let named = |option: &str| option.trim().eq_ignore_ascii_case("upgrade");
    parts.headers.contains_key(UPGRADE)
        && parts
            .headers
            .get_all(CONNECTION)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .any(|value| value.split(',').any(named))
}

/// Left in the extensions of a request that asks for another protocol. An application that answers 101 opens it and speaks
/// that protocol on what it gets.
#[derive(Clone)]
pub struct Upgrade(Arc<Inner>);

struct Inner {
    connection: Mutex<Option<OnUpgrade>>,
    admission: Mutex<Option<Admission>>,
    cut: CancellationToken,
    /// Cancelled when nobody has the tunnel any more.
    ended: CancellationToken,
}

/// Why there is no tunnel.
#[derive(Debug, thiserror::Error)]
pub enum UpgradeError {
    /// It was opened before, or the request cannot be upgraded.
    #[error("the request cannot be upgraded, or has been already")]
    Unavailable,
    /// The connection broke.
    #[error("the connection broke before it was upgraded")]
    Broken(#[source] hyper::Error),
}

impl Upgrade {
    pub(crate) fn new(connection: Option<OnUpgrade>, admission: Admission) -> Self {
        Self(Arc::new(Inner {
            connection: Mutex::new(connection),
            admission: Mutex::new(Some(admission)),
            cut: CancellationToken::new(),
            ended: CancellationToken::new(),
        }))
    }

    /// Cancelled by the gate when the tunnel has to end.
    pub(crate) fn cut(&self) -> CancellationToken {
        self.0.cut.clone()
    }

    /// Cancelled when the application has let go of the tunnel.
    pub(crate) fn ended(&self) -> CancellationToken {
        self.0.ended.clone()
    }

    /// The admission, where the application has not opened the tunnel.
    pub(crate) fn take_admission(&self) -> Option<Admission> {
        self.0.admission.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// The connection, once the answer 101 has gone. To be awaited beside the answer, not before it.
    ///
    /// # Errors
    /// [`UpgradeError`].
    pub async fn open(self) -> Result<Tunnel, UpgradeError> {
        let connection = self.0.connection.lock().unwrap_or_else(PoisonError::into_inner).take();
        let (Some(connection), Some(admission)) = (connection, self.take_admission()) else {
            return Err(UpgradeError::Unavailable);
        };
        let ended = self.0.ended.clone().drop_guard();
        let upgraded = connection.await.map_err(UpgradeError::Broken)?;
        let cut = Box::pin(self.0.cut.clone().cancelled_owned());
        Ok(Tunnel { io: TokioIo::new(upgraded), cut, _admission: admission, _ended: ended })
    }
}

/// A connection of another protocol. Once the tenant is held, moved or gone, reading finds the end and writing fails.
pub struct Tunnel {
    io: TokioIo<Upgraded>,
    cut: Pin<Box<WaitForCancellationFutureOwned>>,
    _admission: Admission,
    _ended: DropGuard,
}

impl Tunnel {
    fn is_cut(&mut self, cx: &mut Context<'_>) -> bool {
        self.cut.as_mut().poll(cx).is_ready()
    }
}

impl AsyncRead for Tunnel {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.is_cut(cx) {
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.io).poll_read(cx, into)
    }
}

impl AsyncWrite for Tunnel {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if self.is_cut(cx) {
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        Pin::new(&mut self.io).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
