//! The way to a broker: the client library's own, with what comes from there mended on it.
//!
//! ```text
//!   broker ──> TCP ──> TLS, if the URI says so ──> Mended ──> the library's parser
//! ```
//!
//! The library reads from whatever its runtime calls a TCP stream. So this is a runtime: tokio,
//! but for that name.

use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use async_rs::traits::Reactor;
use async_rs::util::RuntimeParts;
use async_rs::{Runtime, Tokio, TokioRuntime};
use futures_io::{AsyncRead, AsyncWrite};
use futures_util::Stream;
use lapin::tcp::AMQPUriTcpExt;
use lapin::uri::AMQPUri;
use lapin::{AsyncTcpStream, Connection, ConnectionProperties};
use ostler_protocol::rpc::amqp::frames::Mender;

/// The largest frame on a connection that takes messages, bytes: RabbitMQ's own default, since the
/// headers of what a client sends have to fit into one. What a broker asks for must not decide what
/// is kept in memory for it.
pub(super) const FRAME_IN: u32 = 128 << 10;
/// The largest where nothing is taken but what the agent sent: its own headers are short. The library
/// has room for 64 frames on each connection, which sooner or later is all in memory.
pub(super) const FRAME_OUT: u32 = 16 << 10;
/// Bytes read at a time.
const PIECE: usize = 16 << 10;

/// Connect to a broker, with frames of at most so many bytes.
pub(super) async fn connect(
    mut uri: AMQPUri,
    properties: ConnectionProperties,
    frame_max: u32,
) -> lapin::Result<Connection> {
    uri.query.frame_max = Some(frame_max);
    let limit = frame_max as usize;
    let tokio = Tokio::current();
    let runtime = Runtime::new(RuntimeParts::new(tokio.clone(), Mending { tokio, limit }));
    let plain = TokioRuntime::tokio_current();
    let connect = async move |uri: AMQPUri, _| match uri.connect_async(&plain).await {
        Ok(stream) => Ok(AsyncTcpStream::Plain(Mended::new(stream, limit))),
        Err(error) => Err(lapin::Error::from(error)),
    };
    Connection::connector(uri, runtime, connect, properties).await
}

type TokioStream = AsyncTcpStream<<Tokio as Reactor>::TcpStream>;

/// tokio, whose TCP streams are mended.
#[derive(Debug, Clone)]
struct Mending {
    tokio: Tokio,
    limit: usize,
}

impl Reactor for Mending {
    type TcpStream = Mended;
    type Sleep = <Tokio as Reactor>::Sleep;

    fn register<H: Read + Write + AsFd + AsRawFd + Send + 'static>(
        &self,
        socket: H,
    ) -> io::Result<impl AsyncRead + AsyncWrite + Send + Unpin + 'static> {
        self.tokio.register(socket)
    }

    fn sleep(&self, time: Duration) -> Self::Sleep {
        self.tokio.sleep(time)
    }

    fn interval(&self, time: Duration) -> impl Stream<Item = Instant> + Send + 'static {
        self.tokio.interval(time)
    }

    fn tcp_connect_addr(
        &self,
        address: SocketAddr,
    ) -> impl Future<Output = io::Result<Mended>> + Send + 'static {
        let (connecting, limit) = (self.tokio.tcp_connect_addr(address), self.limit);
        async move { Ok(Mended::new(AsyncTcpStream::Plain(connecting.await?), limit)) }
    }
}

/// A stream of frames that are mended as they are read.
struct Mended {
    stream: TokioStream,
    mender: Mender,
    /// What is mended, and how much of it was read.
    ready: Vec<u8>,
    read: usize,
}

impl Mended {
    const fn new(stream: TokioStream, limit: usize) -> Self {
        Self { stream, mender: Mender::new(limit), ready: Vec::new(), read: 0 }
    }
}

impl AsyncRead for Mended {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let Self { stream, mender, ready, read } = self.get_mut();
        while *read == ready.len() {
            ready.clear();
            *read = 0;
            let mut piece = [0; PIECE];
            let count = std::task::ready!(Pin::new(&mut *stream).poll_read(context, &mut piece))?;
            if count == 0 {
                return Poll::Ready(Ok(0));
            }
            mender.take(&piece[..count], ready).map_err(io::Error::other)?;
        }
        let left = &ready[*read..];
        let count = left.len().min(buffer.len());
        buffer[..count].copy_from_slice(&left[..count]);
        *read += count;
        Poll::Ready(Ok(count))
    }
}

impl AsyncWrite for Mended {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(context, buffer)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffers: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write_vectored(context, buffers)
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(context)
    }

    fn poll_close(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_close(context)
    }
}
