//! The HTTP contract as a client on the other side of a real socket sees it: a real node, requests
//! written byte by byte, replies read byte by byte.
//!
//! Refuses to use an HTTP library on the client's side: it would hide what is tested here.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

#[path = "http_contract/client.rs"]
mod client;
#[path = "http_contract/commands.rs"]
mod commands;
#[path = "http_contract/framing.rs"]
mod framing;
#[path = "http_contract/history.rs"]
mod history;
#[path = "http_contract/http2.rs"]
mod http2;
#[path = "http_contract/node.rs"]
mod node;
#[path = "http_contract/pages.rs"]
mod pages;
#[path = "http_contract/reads.rs"]
mod reads;
#[path = "http_contract/slow.rs"]
mod slow;
