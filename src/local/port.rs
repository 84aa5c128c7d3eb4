//! Free ports of 127.0.0.1.
//!
//! They are chosen below the range that the kernel gives to outgoing connections, so that none is lost while a server
//! restarts. Between the look and the server's own bind somebody else can take one: whoever starts a server tries again.

use std::net::{Ipv4Addr, TcpListener};

use super::{LocalError, Result};

const FIRST: u16 = 20_000;
const LAST: u16 = 32_000;

/// `N` different ports on which nobody listens.
pub(super) fn free<const N: usize>() -> Result<[u16; N]> {
    let mut held: Vec<(u16, TcpListener)> = Vec::with_capacity(N);
    for _ in 0..1_000 {
        let port = rand::random_range(FIRST..=LAST);
        // Held until all are found, so that no port is found twice.
        if let Ok(listener) = TcpListener::bind((Ipv4Addr::LOCALHOST, port)) {
            held.push((port, listener));
        }
        if held.len() == N {
            let mut ports = [0; N];
            for (port, (found, _)) in ports.iter_mut().zip(&held) {
                *port = *found;
            }
            return Ok(ports);
        }
    }
    Err(LocalError::NoPort(FIRST, LAST))
}
