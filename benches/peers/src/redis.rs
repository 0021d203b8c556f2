//! The Redis peer, driven directly: the rule and the event in one Lua script per command.
//!
//! There is no HTTP between this driver and Redis, so the comparison favours Redis by the cost of
//! a web server.

mod client;
mod resp;

use std::net::SocketAddr;

use tokio::task::JoinSet;

use crate::driver::{Choices, Report, Seen, Window};
use client::{Client, Link};
use resp::encode;

/// Settings of the Redis driver.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Args {
    /// Where Redis listens.
    #[arg(long)]
    address: SocketAddr,
    /// Connections, each with one command in flight.
    #[arg(long, default_value_t = 64)]
    clients: usize,
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

/// Changes an account under the rule and appends its event. Keys: account, events. Arguments:
/// amount (signed), record.
const CHANGE: &str = "
local balance = redis.call('HGET', KEYS[1], 'balance')
if not balance then return redis.error_reply('account-not-open') end
if balance + ARGV[1] < 0 then return redis.error_reply('insufficient-funds') end
redis.call('HINCRBY', KEYS[1], 'balance', ARGV[1])
redis.call('RPUSH', KEYS[2], ARGV[2])
return redis.call('HINCRBY', KEYS[1], 'sequence', 1)";

/// Measures and prints JSON.
pub(crate) fn run(args: &Args) -> Result<(), Box<dyn std::error::Error>> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(measure(args))?.print()
}

async fn measure(args: &Args) -> Result<Report, Box<dyn std::error::Error>> {
    let script = prepare(args).await?;
    let window = Window::new(args.warmup, args.duration);
    let mut tasks = JoinSet::new();
    for number in 0..args.clients {
        let link = Link::open(args.address).await?;
        let choices = Choices::new(args.aggregates, args.reads, number as u64);
        let client = Client::new(link, &script, choices);
        tasks.spawn(client.run(window));
    }
    let mut all = Seen::new()?;
    while let Some(seen) = tasks.join_next().await {
        all.merge(seen??)?;
    }
    Ok(Report::new(&all, args.duration))
}

/// Loads the script and opens the accounts; returns the script's name.
async fn prepare(args: &Args) -> Result<String, Box<dyn std::error::Error>> {
    let mut link = Link::open(args.address).await?;
    let loaded = link.exchange(&encode(&["SCRIPT", "LOAD", CHANGE])).await?;
    let text = String::from_utf8(loaded.to_vec())?;
    let script = text
        .lines()
        .nth(1)
        .ok_or("SCRIPT LOAD gave no name")?
        .to_owned();
    if !args.skip_setup {
        for number in 0..args.aggregates {
            let key = client::account_key(number);
            let owner = "x".repeat(16);
            let fields = [
                "HSET", &key, "owner", &owner, "currency", "EUR", "balance", "1000",
            ];
            let request = encode(&[&fields[..], &["sequence", "2"]].concat());
            let reply = link.exchange(&request).await?;
            if reply.first() == Some(&b'-') {
                return Err(String::from_utf8_lossy(reply).into_owned().into());
            }
        }
    }
    Ok(script)
}
