//! The last check before a request's first byte, and the first look after its last.
//!
//! The HTTP library connects, waits for a free connection and only then asks for the body, before it writes
//! anything: a small request is buffered whole (head and body) and written at once. So the body is where the deadline
//! is judged, and whether it was handed over tells for certain whether the request can have left.
//!
//! Between that check and the write the process may be stopped. The library keeps the bytes that it was given, without a
//! copy, until the connection has taken them; so the moment they are let go of is the one by which they had left.

use std::fmt;
use std::pin::Pin;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use http_body::{Body, Frame, SizeHint};
use tokio::time::Instant;

use crate::clock;
use crate::failpoint::{self, Point};

const OPEN: u8 = 0;
/// The body was handed to the connection: the request may have left.
const PASSED: u8 = 1;
/// Nothing was handed over, and nothing will be.
const SHUT: u8 = 2;

/// The sender's end. Shutting it and handing the body over exclude each other, so that a request given up on can't
/// slip out afterwards.
#[derive(Debug, Clone)]
pub struct Gate(Arc<State>);

#[derive(Debug)]
struct State {
    phase: AtomicU8,
    send_before: Instant,
    /// The same by a clock that goes on while the machine is suspended.
    awake_before: Duration,
    left_by: OnceLock<Instant>,
}

impl Gate {
    pub fn new(send_before: Instant) -> Self {
        let left = send_before.saturating_duration_since(clock::monotonic());
        let awake_before = clock::uptime() + left;
        let phase = AtomicU8::new(OPEN);
        Self(Arc::new(State { phase, send_before, awake_before, left_by: OnceLock::new() }))
    }

    pub fn body(&self, bytes: Bytes) -> GatedBody {
        GatedBody { gate: self.clone(), bytes: Some(bytes) }
    }

    /// Shuts the gate; true if nothing has passed it, ever.
    pub fn shut(&self) -> bool {
        self.leave_open_for(SHUT) != PASSED
    }

    /// When the last byte had left, if any has; later than it did by a moment at the most.
    pub fn left_by(&self) -> Option<Instant> {
        self.0.left_by.get().copied()
    }

    /// Whether the deadline has passed.
    pub fn is_late(&self) -> bool {
        clock::monotonic() >= self.0.send_before || clock::uptime() >= self.0.awake_before
    }

    fn pass(&self) -> Result<(), GateShut> {
        if self.is_late() {
            self.shut();
            return Err(GateShut);
        }
        match self.leave_open_for(PASSED) {
            PASSED => {
                let _ = failpoint::at(Point::BeforeWrite).now_or_never();
                Ok(())
            }
            _ => Err(GateShut),
        }
    }

    /// Moves on from `OPEN`, if it still is; gives the phase that holds then.
    fn leave_open_for(&self, next: u8) -> u8 {
        match self.0.phase.compare_exchange(OPEN, next, Ordering::AcqRel, Ordering::Acquire) {
            Ok(_) => next,
            Err(phase) => phase,
        }
    }
}

/// The body's error when it was asked for too late.
#[derive(Debug)]
pub struct GateShut;

impl fmt::Display for GateShut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("given up before the first byte")
    }
}

impl std::error::Error for GateShut {}

/// The bytes in the library's hands.
struct Leaving {
    gate: Gate,
    bytes: Bytes,
}

impl AsRef<[u8]> for Leaving {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Leaving {
    fn drop(&mut self) {
        // Once only: there is one body.
        let _ = self.gate.0.left_by.set(clock::monotonic());
    }
}

/// A request body that is handed over at most once, and only before the deadline.
#[derive(Debug)]
pub struct GatedBody {
    gate: Gate,
    bytes: Option<Bytes>,
}

impl Body for GatedBody {
    type Data = Bytes;
    type Error = GateShut;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, GateShut>>> {
        let Some(bytes) = self.bytes.take() else { return Poll::Ready(None) };
        let leaving = || Leaving { gate: self.gate.clone(), bytes };
        Poll::Ready(Some(self.gate.pass().map(|()| Frame::data(Bytes::from_owner(leaving())))))
    }

    fn is_end_stream(&self) -> bool {
        self.bytes.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.bytes.as_ref().map_or(0, |b| b.len() as u64))
    }
}
