//! Connections that know when a request's bytes arrived, and that can be cut off.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::extract::connect_info::Connected;
use axum::serve::IncomingStream;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::timeline::micros_since;

#[derive(Debug)]
pub struct Listener {
    pub inner: TcpListener,
    pub origin: Instant,
    /// The sandbox's death: from then on nothing is read or written.
    pub dead: CancellationToken,
}

impl axum::serve::Listener for Listener {
    type Io = Connection;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Connection, SocketAddr) {
        loop {
            if let Ok((stream, address)) = self.inner.accept().await {
                let _ = stream.set_nodelay(true);
                let line = Line::default();
                return (Connection { stream, origin: self.origin, dead: self.dead.clone(), line }, address);
            }
            // Out of file descriptors, most likely: they come back as connections end.
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.inner.local_addr()
    }
}

// How a connection ends; 0 as long as nobody has said.

/// Nothing more is written, and the connection is closed.
const CUT: u8 = 1;
/// The same, with a reset.
const RESET: u8 = 2;
/// The sandbox dies of the next answer.
const LAST_ANSWER: u8 = 3;
const LAST_ANSWER_WRITTEN: u8 = 4;

/// What a handler sees of its connection.
#[derive(Debug, Clone, Default)]
pub struct Line(Arc<LineState>);

#[derive(Debug, Default)]
struct LineState {
    read_at_us: AtomicU64,
    end: AtomicU8,
}

impl Line {
    /// When bytes were last read off the connection: for a request just handed to us, its arrival.
    pub fn read_at_us(&self) -> u64 {
        self.0.read_at_us.load(Ordering::Relaxed)
    }

    /// Nothing more is written.
    pub fn cut(&self) {
        self.end_with(CUT);
    }

    /// The same, and the other side sees a reset.
    pub fn reset(&self) {
        self.end_with(RESET);
    }

    /// Once the answer that is given now is out, the sandbox is dead.
    pub fn die_of_next_answer(&self) {
        self.end_with(LAST_ANSWER);
    }

    fn end_with(&self, end: u8) {
        self.0.end.store(end, Ordering::Relaxed);
    }

    fn end(&self) -> u8 {
        self.0.end.load(Ordering::Relaxed)
    }
}

impl Connected<IncomingStream<'_, Listener>> for Line {
    fn connect_info(stream: IncomingStream<'_, Listener>) -> Self {
        stream.io().line.clone()
    }
}

#[derive(Debug)]
pub struct Connection {
    stream: TcpStream,
    origin: Instant,
    dead: CancellationToken,
    line: Line,
}

impl Connection {
    fn may_go_on(&self) -> io::Result<()> {
        let end = self.line.end();
        if end == RESET {
            self.stream.set_zero_linger()?;
        }
        if end == RESET || end == CUT || self.dead.is_cancelled() {
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        Ok(())
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.may_go_on()?;
        let before = buf.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(cx, buf);
        if polled.is_ready() && buf.filled().len() > before {
            self.line.0.read_at_us.store(micros_since(self.origin), Ordering::Relaxed);
        }
        polled
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.may_go_on()?;
        let polled = Pin::new(&mut self.stream).poll_write(cx, bytes);
        if matches!(polled, Poll::Ready(Ok(_))) && self.line.end() == LAST_ANSWER {
            self.line.end_with(LAST_ANSWER_WRITTEN);
        }
        polled
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.stream).poll_flush(cx);
        if matches!(polled, Poll::Ready(Ok(()))) && self.line.end() == LAST_ANSWER_WRITTEN {
            self.dead.cancel();
        }
        polled
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
