//! The read side over a real journal on a simulated disk, and a real store: most of it twice, with a
//! file and with a PostgreSQL database.

mod damage;
mod edges;
mod follow;
mod hidden;
mod kit;
mod masks;
mod poison;
mod queries;
mod rebuilds;
mod restarts;
#[expect(dead_code, reason = "the tests of real nodes use the rest")]
#[path = "../../tests/support/postgres.rs"]
mod server;
mod shared;

// The server's file looks for it here, as it does among the tests of real nodes.
use crate::test_ports as ports;
