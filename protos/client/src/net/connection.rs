//! One connection, the kernel's or another network's.

use std::fmt;
use std::io;
use std::net::Shutdown;
use std::os::fd::AsFd;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};

use futures::task::AtomicWaker;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tonic::transport::server::{Connected, TcpConnectInfo};

use super::Pipe;

/// How much is read ahead at once where somebody only looks.
const AHEAD_BYTES: usize = 1_024;

/// See the module.
#[derive(Debug)]
pub enum Connection {
    /// The kernel's.
    Kernel(TcpStream),
    /// Of a network that was passed in.
    Given(Box<Given>),
}

/// A stream of a network that was passed in, with what a socket of the kernel can do besides.
pub struct Given {
    pipe: Box<dyn Pipe>,
    /// What was looked at and not taken.
    ahead: Vec<u8>,
    severed: Arc<Severed>,
}

#[derive(Debug, Default)]
struct Severed {
    is: AtomicBool,
    reader: AtomicWaker,
}

impl fmt::Debug for Given {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Given").field("ahead", &self.ahead.len()).finish_non_exhaustive()
    }
}

impl Given {
    /// Looks further. Ready once there is something to look at, or nothing will come.
    fn poll_ahead(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut bytes = [0; AHEAD_BYTES];
        let mut buffer = ReadBuf::new(&mut bytes);
        match Pin::new(&mut self.pipe).poll_read(context, &mut buffer) {
            Poll::Ready(Ok(())) => self.ahead.extend_from_slice(buffer.filled()),
            Poll::Pending | Poll::Ready(Err(_)) if !self.ahead.is_empty() => {}
            Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
            Poll::Pending => return Poll::Pending,
        }
        Poll::Ready(Ok(()))
    }

    fn poll_read(&mut self, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.severed.reader.register(context.waker());
        if self.severed.is.load(Ordering::Acquire) {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        if self.ahead.is_empty() {
            return Pin::new(&mut self.pipe).poll_read(context, buffer);
        }
        let taken = buffer.remaining().min(self.ahead.len());
        buffer.put_slice(&self.ahead[..taken]);
        self.ahead.drain(..taken);
        Poll::Ready(Ok(()))
    }
}

/// Cuts a connection from outside, so that its other end sees it break and not end.
#[derive(Debug)]
pub struct Cut(Knife);

#[derive(Debug)]
enum Knife {
    Kernel(std::net::TcpStream),
    Given(Arc<Severed>),
}

impl Cut {
    /// Now.
    pub fn cut(self) {
        match self.0 {
            Knife::Kernel(socket) => {
                // It may be closed already.
                let _ = socket.shutdown(Shutdown::Both);
            }
            Knife::Given(severed) => {
                severed.is.store(true, Ordering::Release);
                severed.reader.wake();
            }
        }
    }
}

impl Connection {
    pub(super) fn given(pipe: Box<dyn Pipe>) -> Self {
        Self::Given(Box::new(Given { pipe, ahead: Vec::new(), severed: Arc::default() }))
    }

    /// Small messages do not wait for the acknowledgement of those before.
    ///
    /// # Errors
    /// Where the socket cannot do that; it still works.
    pub fn set_nodelay(&self, nodelay: bool) -> io::Result<()> {
        match self {
            Self::Kernel(stream) => stream.set_nodelay(nodelay),
            Self::Given(_) => Ok(()),
        }
    }

    /// Returns when something can be read, or nothing will come.
    ///
    /// # Errors
    /// As the connection says.
    pub async fn readable(&mut self) -> io::Result<()> {
        match self {
            Self::Kernel(stream) => stream.readable().await,
            Self::Given(given) => std::future::poll_fn(|context| given.poll_ahead(context)).await,
        }
    }

    /// Looks at what comes without taking it. 0: nothing will come.
    ///
    /// # Errors
    /// As the connection says.
    pub async fn peek(&mut self, into: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Kernel(stream) => stream.peek(into).await,
            Self::Given(given) => {
                std::future::poll_fn(|context| given.poll_ahead(context)).await?;
                let seen = into.len().min(given.ahead.len());
                into[..seen].copy_from_slice(&given.ahead[..seen]);
                Ok(seen)
            }
        }
    }

    /// What cuts it from outside.
    ///
    /// # Errors
    /// Where there are no file descriptors left.
    pub fn knife(&self) -> io::Result<Cut> {
        Ok(Cut(match self {
            Self::Kernel(stream) => Knife::Kernel(stream.as_fd().try_clone_to_owned()?.into()),
            Self::Given(given) => Knife::Given(Arc::clone(&given.severed)),
        }))
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Kernel(stream) => Pin::new(stream).poll_read(context, buffer),
            Self::Given(given) => given.poll_read(context, buffer),
        }
    }
}

impl AsyncWrite for Connection {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Kernel(stream) => Pin::new(stream).poll_write(context, bytes),
            Self::Given(given) => Pin::new(&mut given.pipe).poll_write(context, bytes),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Kernel(stream) => Pin::new(stream).poll_write_vectored(context, slices),
            Self::Given(given) => Pin::new(&mut given.pipe).poll_write_vectored(context, slices),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Kernel(stream) => stream.is_write_vectored(),
            Self::Given(given) => given.pipe.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Kernel(stream) => Pin::new(stream).poll_flush(context),
            Self::Given(given) => Pin::new(&mut given.pipe).poll_flush(context),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Kernel(stream) => Pin::new(stream).poll_shutdown(context),
            Self::Given(given) => {
                // A second one, after the other end has closed too, is no failure: the kernel takes it as well.
                let ended = ready!(Pin::new(&mut given.pipe).poll_shutdown(context));
                Poll::Ready(ended.or_else(|error| match error.kind() {
                    io::ErrorKind::NotConnected => Ok(()),
                    _ => Err(error),
                }))
            }
        }
    }
}

impl Connected for Connection {
    type ConnectInfo = TcpConnectInfo;

    fn connect_info(&self) -> TcpConnectInfo {
        match self {
            Self::Kernel(stream) => stream.connect_info(),
            Self::Given(_) => TcpConnectInfo { local_addr: None, remote_addr: None },
        }
    }
}
