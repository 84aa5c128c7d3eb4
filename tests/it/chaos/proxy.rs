//! A TCP proxy between a worker and a server: the network, which a test lets go wrong.
//!
//! Each way of a line passes, is slow, or is a hole. A hole keeps what it swallows, as a network that lost its packets
//! does for the sender who will send them again: what was under way arrives when the hole is closed, however late.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// As much as is under way at once in one direction of a connection.
const CHUNK: usize = 16 << 10;
/// Before a taken port is tried again.
const REBIND: Duration = Duration::from_millis(20);

/// One direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Way {
    #[default]
    Pass,
    /// Each chunk takes this long.
    Slow(Duration),
    Hole,
}

/// How the line is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Line {
    /// From the worker to the server.
    pub there: Way,
    pub back: Way,
    /// Nobody listens: a new connection is refused.
    pub refused: bool,
}

#[derive(Debug, Clone, Copy)]
struct State {
    line: Line,
    upstream: SocketAddr,
    /// How often everything was cut.
    cuts: u64,
}

/// Listens as long as it lives.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    state: watch::Sender<State>,
    stop: CancellationToken,
}

impl Proxy {
    pub async fn to(upstream: SocketAddr) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let (state, seen) = watch::channel(State { line: Line::default(), upstream, cuts: 0 });
        let stop = CancellationToken::new();
        let (tasks, until) = (TaskTracker::new(), stop.clone());
        let carried = tasks.clone();
        tasks.spawn(until.run_until_cancelled_owned(listen(listener, address, seen, carried)));
        Ok(Self { address, state, stop })
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// From now on, for connections that are open as for new ones.
    pub fn set(&self, line: Line) {
        self.state.send_modify(|state| state.line = line);
    }

    /// Ends every connection.
    pub fn cut(&self) {
        self.state.send_modify(|state| state.cuts += 1);
    }

    /// The server has come back elsewhere.
    pub fn move_to(&self, upstream: SocketAddr) {
        self.state.send_modify(|state| state.upstream = upstream);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.stop.cancel();
        self.cut();
    }
}

async fn listen(
    mut listener: TcpListener,
    address: SocketAddr,
    mut state: watch::Receiver<State>,
    tasks: TaskTracker,
) {
    let refused = |state: &State| state.line.refused;
    loop {
        let mut seen = state.clone();
        tokio::select! {
            accepted = listener.accept() => {
                if let Ok((client, _)) = accepted {
                    tasks.spawn(carry(client, state.clone()));
                }
            }
            ended = async { seen.wait_for(refused).await.is_err() } => {
                drop(listener);
                if ended || state.wait_for(|state| !refused(state)).await.is_err() {
                    return;
                }
                listener = bind_again(address).await;
            }
        }
    }
}

/// A connection of somebody else may have taken the port meanwhile, for a moment.
async fn bind_again(address: SocketAddr) -> TcpListener {
    loop {
        match TcpListener::bind(address).await {
            Ok(listener) => return listener,
            Err(_) => tokio::time::sleep(REBIND).await,
        }
    }
}

/// One connection, until one side ends it or it is cut.
async fn carry(client: TcpStream, mut state: watch::Receiver<State>) {
    let State { upstream, cuts, .. } = *state.borrow_and_update();
    // Where nobody listens the client's connection ends, as behind any balancer.
    let Ok(server) = TcpStream::connect(upstream).await else { return };
    for stream in [&client, &server] {
        let _ = stream.set_nodelay(true);
    }
    let ((from_client, to_client), (from_server, to_server)) = (client.into_split(), server.into_split());
    tokio::select! {
        () = pump(from_client, to_server, state.clone(), |line| line.there) => {}
        () = pump(from_server, to_client, state.clone(), |line| line.back) => {}
        _ = state.wait_for(|state| state.cuts != cuts) => {}
    }
}

async fn pump(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut state: watch::Receiver<State>,
    way: fn(&Line) -> Way,
) {
    let mut chunk = vec![0; CHUNK];
    loop {
        let Ok(length @ 1..) = from.read(&mut chunk).await else { return };
        let open = state.wait_for(|state| way(&state.line) != Way::Hole).await.map(|state| way(&state.line));
        match open {
            Ok(Way::Slow(delay)) => tokio::time::sleep(delay).await,
            Ok(_) => {}
            Err(_) => return,
        }
        if to.write_all(&chunk[..length]).await.is_err() {
            return;
        }
    }
}
