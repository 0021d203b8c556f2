//! The etcd peer, driven directly over gRPC: state and event in one transaction per command.
//!
//! There is no HTTP between this driver and etcd, and requests go to the leader, so the comparison
//! favours etcd by the cost of a web server and of a hop. Its own gateway for JSON would cost etcd
//! more than it costs us. Reads are linearizable, which is etcd's default.

mod client;
mod grpc;
mod messages;
mod wire;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::driver::{Choices, Report, Seen, Window};
use client::{Client, ClientError, Known};
use grpc::Channel;
use wire::Message;

/// How long the members may take to agree on a leader.
const LEADER_WITHIN: Duration = Duration::from_secs(30);
const BETWEEN_LOOKS: Duration = Duration::from_millis(50);

/// Settings of the etcd driver.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Args {
    /// Where the members listen for clients.
    #[arg(long, value_delimiter = ',', required = true)]
    addresses: Vec<SocketAddr>,
    /// Clients, each with one request in flight.
    #[arg(long, default_value_t = 64)]
    clients: usize,
    /// HTTP/2 connections that the clients share.
    #[arg(long, default_value_t = 8)]
    connections: usize,
    /// Seconds to measure.
    #[arg(long, default_value_t = 10.0)]
    duration: f64,
    /// Seconds before measuring.
    #[arg(long, default_value_t = 2.0)]
    warmup: f64,
    /// Accounts.
    #[arg(long, default_value_t = 10_000)]
    aggregates: u64,
    /// The share of reads, 0 to 1.
    #[arg(long, default_value_t = 0.0)]
    reads: f64,
    /// The accounts are open already.
    #[arg(long)]
    skip_setup: bool,
}

/// Measures and prints JSON.
pub(crate) fn run(args: &Args) -> Result<(), Box<dyn std::error::Error>> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(measure(args))?.print()
}

async fn measure(args: &Args) -> Result<Report, Box<dyn std::error::Error>> {
    let leader = find_leader(&args.addresses).await?;
    let mut channels = Vec::new();
    for _ in 0..args.connections.clamp(1, args.clients.max(1)) {
        channels.push(Channel::open(leader).await?);
    }
    let known = Arc::new(Known::new(usize::try_from(args.aggregates)?));
    let client = |number: usize| {
        let channel = channels.get(number % channels.len())?.clone();
        let choices = Choices::new(args.aggregates, args.reads, number as u64);
        Some(Client::new(channel, Arc::clone(&known), choices))
    };
    let clients = || (0..args.clients).filter_map(client);
    if !args.skip_setup {
        open_accounts(clients(), args.aggregates).await?;
    }
    let mut channel = channels.first().ok_or("no connection")?.clone();
    let learned = client::learn_all(&mut channel, &known).await?;
    if learned != args.aggregates {
        return Err(format!("{learned} accounts are open, not {}", args.aggregates).into());
    }
    let window = Window::new(args.warmup, args.duration);
    let mut tasks = JoinSet::new();
    for client in clients() {
        tasks.spawn(client.run(window));
    }
    let mut all = Seen::new()?;
    while let Some(seen) = tasks.join_next().await {
        all.merge(seen??)?;
    }
    let mut report = Report::new(&all, args.duration);
    if find_leader(&args.addresses).await? != leader {
        report.but("the leader changed during the run".to_owned());
    }
    Ok(report)
}

/// Opens all accounts, from all clients at once.
async fn open_accounts(
    clients: impl Iterator<Item = Client>,
    accounts: u64,
) -> Result<(), Box<dyn std::error::Error>> {
    let next = Arc::new(AtomicU64::new(0));
    let mut tasks = JoinSet::new();
    for mut client in clients {
        let next = Arc::clone(&next);
        tasks.spawn(async move {
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= accounts {
                    return Ok::<(), ClientError>(());
                }
                client.open(number).await?;
            }
        });
    }
    while let Some(done) = tasks.join_next().await {
        done??;
    }
    Ok(())
}

/// The member that says it is the leader, once one does.
async fn find_leader(addresses: &[SocketAddr]) -> Result<SocketAddr, Box<dyn std::error::Error>> {
    let give_up = Instant::now() + LEADER_WITHIN;
    loop {
        for &address in addresses {
            if leads(address).await.is_ok_and(|leads| leads) {
                return Ok(address);
            }
        }
        if Instant::now() >= give_up {
            return Err("no member says that it leads".into());
        }
        tokio::time::sleep(BETWEEN_LOOKS).await;
    }
}

async fn leads(address: SocketAddr) -> Result<bool, ClientError> {
    let mut channel = Channel::open(address).await?;
    let answer = channel.call(messages::STATUS, &Message::default()).await?;
    let status = messages::status(&answer)?;
    Ok(status.leader != 0 && status.leader == status.member)
}
