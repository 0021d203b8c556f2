//! Free loopback ports below the range from which the kernel picks the ports of outgoing
//! connections, so that no client can take a port while its node restarts.
//!
//! Invariant: a port belongs to the process that was given it until that process ends, whether
//! anybody listens there or not.

use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU16, Ordering};

const FIRST: u16 = 20_000;
const COUNT: u16 = 12_000;

static NEXT: AtomicU16 = AtomicU16::new(0);

/// What shows other test processes that a port is taken: the same number of UDP, which nothing here
/// speaks.
static CLAIMS: Mutex<Vec<UdpSocket>> = Mutex::new(Vec::new());

/// An address that nobody listens on now and that no test process has been given.
pub(crate) fn free_address() -> SocketAddr {
    // Test binaries that run at the same time begin at different places.
    let start = (std::process::id().wrapping_mul(97) % u32::from(COUNT)) as u16;
    for _ in 0..COUNT {
        let step = NEXT.fetch_add(1, Ordering::Relaxed);
        let port = FIRST + (start + step % COUNT) % COUNT;
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let Ok(claim) = UdpSocket::bind(address) else {
            continue;
        };
        if TcpListener::bind(address).is_ok() {
            CLAIMS.lock().expect("no test panics with it").push(claim);
            return address;
        }
    }
    panic!("no port between {FIRST} and {} is free", FIRST + COUNT);
}
