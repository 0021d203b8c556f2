//! The program `phalanx`: the stock node with its sample aggregates, and its tools.

use std::process::ExitCode;

use phalanx::node::Node;

/// Commands allocate many small, short-lived objects on several threads.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    phalanx::cli::run(std::env::args_os(), || Node::builder().samples())
}
