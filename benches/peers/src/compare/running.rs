//! A contestant that runs: where it answers, whether it is ready, whether it is still whole.
//!
//! Dropping it stops its processes and removes its directory.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde::Deserialize;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::CompareError;
use super::contestant::Contestant;
use super::process::Process;
use super::start::{START_WITHIN, streaming_standbys};

const LOOK: Duration = Duration::from_millis(50);

/// A started contestant. Fields are dropped in this order: servers before their directory.
#[derive(Debug)]
pub(super) struct Running {
    pub(super) contestant: Contestant,
    /// Where clients find it: one address, or one for each node.
    pub(super) addresses: Vec<SocketAddr>,
    /// Where PostgreSQL's primary has its socket, and its port, when it has standbys.
    pub(super) primary: Option<(PathBuf, u16)>,
    pub(super) processes: Vec<Process>,
    pub(super) _directory: TempDir,
}

impl Drop for Running {
    fn drop(&mut self) {
        // All at once: nodes that wait for each other do not wait for those that are still to stop.
        for process in &mut self.processes {
            process.ask_to_end();
        }
    }
}

impl Running {
    /// Waits until every node answers and is whole.
    pub(super) async fn ready(&mut self) -> Result<(), CompareError> {
        let give_up = Instant::now() + START_WITHIN;
        loop {
            self.check_alive()?;
            let Err(reason) = self.is_ready().await else {
                return Ok(());
            };
            if Instant::now() >= give_up {
                return Err(match self.processes.first() {
                    Some(process) => process.error(format!("after {START_WITHIN:?} {reason}")),
                    None => CompareError::Measure(reason),
                });
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// An error when it has lost a node, so that figures would be those of something else.
    pub(super) async fn still_whole(&mut self) -> Result<(), CompareError> {
        self.check_alive()?;
        self.is_ready().await.map_err(CompareError::Measure)
    }

    fn check_alive(&mut self) -> Result<(), CompareError> {
        self.processes.iter_mut().try_for_each(Process::check_alive)
    }

    /// The error says what is missing.
    async fn is_ready(&self) -> Result<(), String> {
        for &address in &self.addresses {
            self.answers(address).await?;
        }
        if let Some((socket, port)) = &self.primary {
            let standbys = streaming_standbys(socket, *port).await?;
            if standbys != 2 {
                return Err(format!("{standbys} of 2 standbys are synchronous"));
            }
        }
        match (self.contestant, self.addresses.first()) {
            (Contestant::Phalanx3, Some(&first)) => leaders_are_spread(first).await,
            _ => Ok(()),
        }
    }

    async fn answers(&self, address: SocketAddr) -> Result<(), String> {
        let path = match self.contestant {
            // It is enough that a connection is accepted.
            Contestant::Redis => {
                let connected = tokio::net::TcpStream::connect(address).await;
                return connected
                    .map(drop)
                    .map_err(|error| format!("{address}: {error}"));
            }
            Contestant::Etcd3 => "/health",
            _ => "/readyz",
        };
        // Peers without such a page answer 404, which will do.
        match get(address, path).await {
            Ok((status, _)) if status != 503 => Ok(()),
            Ok(_) => Err(format!("{address} says that it is not ready")),
            Err(error) => Err(format!("{address} does not answer: {error}")),
        }
    }
}

#[derive(Debug, Deserialize)]
struct Shards {
    shards: Vec<Shard>,
}

#[derive(Debug, Deserialize)]
struct Shard {
    leader: Option<u64>,
}

/// Whether each node leads as many shards as any other, give or take one. From then on, leaders
/// stay where they are.
async fn leaders_are_spread(node: SocketAddr) -> Result<(), String> {
    let (_, body) = get(node, "/v1/shards")
        .await
        .map_err(|error| format!("{node} does not tell its shards: {error}"))?;
    let Shards { shards } = serde_json::from_slice(&body).map_err(|error| error.to_string())?;
    let led = |id: u64| shards.iter().filter(|s| s.leader == Some(id)).count();
    let counts = [led(1), led(2), led(3)];
    let fewest = counts.iter().min().copied().unwrap_or(0);
    let most = counts.iter().max().copied().unwrap_or(0);
    if counts.iter().sum::<usize>() == shards.len() && !shards.is_empty() && most - fewest <= 1 {
        Ok(())
    } else {
        Err(format!(
            "the nodes lead {counts:?} of {} shards",
            shards.len()
        ))
    }
}

/// One question over a connection of its own: status and body.
async fn get(address: SocketAddr, path: &str) -> std::io::Result<(u16, Vec<u8>)> {
    let exchange = async {
        let mut stream = tokio::net::TcpStream::connect(address).await?;
        let request =
            format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut reply = Vec::new();
        stream.read_to_end(&mut reply).await?;
        Ok::<_, std::io::Error>(reply)
    };
    let reply = tokio::time::timeout(Duration::from_secs(5), exchange)
        .await
        .map_err(|_| std::io::ErrorKind::TimedOut)??;
    split(&reply).ok_or_else(|| std::io::ErrorKind::InvalidData.into())
}

fn split(reply: &[u8]) -> Option<(u16, Vec<u8>)> {
    let head_end = reply.windows(4).position(|window| window == b"\r\n\r\n")?;
    let (head, body) = reply.split_at_checked(head_end + 4)?;
    let status = std::str::from_utf8(head).ok()?.split(' ').nth(1)?;
    Some((status.parse().ok()?, body.to_vec()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replies_are_split() {
        let reply = b"HTTP/1.1 503 Service Unavailable\r\nX: y\r\n\r\n{}";
        assert_eq!(split(reply), Some((503, b"{}".to_vec())));
        assert_eq!(split(b"HTTP/1.1 200 OK\r\n"), None);
        assert_eq!(split(b""), None);
    }
}
