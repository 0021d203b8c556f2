//! One connection to Redis with one command in flight, and its loop.

use std::io;
use std::net::SocketAddr;
use std::ops::Range;
use std::time::Duration;

use hdrhistogram::{AdditionError, CreationError, Histogram};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::Instant;

use super::resp::{encode, reply_len};
use crate::account::record;

/// Digits of an account's number in its key.
const DIGITS: usize = 8;

/// When to measure and when to end.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Window {
    pub(crate) from: Instant,
    pub(crate) end: Instant,
}

/// What a client saw in the window.
#[derive(Debug)]
pub(crate) struct Seen {
    pub(crate) commands: Histogram<u64>,
    pub(crate) reads: Histogram<u64>,
    pub(crate) errors: u64,
}

impl Seen {
    pub(crate) fn new() -> Result<Self, CreationError> {
        let histogram = || Histogram::new_with_bounds(1, 60_000_000_000, 3);
        Ok(Self {
            commands: histogram()?,
            reads: histogram()?,
            errors: 0,
        })
    }

    pub(crate) fn merge(&mut self, other: Self) -> Result<(), AdditionError> {
        self.errors += other.errors;
        self.commands.add(other.commands)?;
        self.reads.add(other.reads)
    }
}

/// A connection.
#[derive(Debug)]
pub(crate) struct Link {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Link {
    pub(crate) async fn open(address: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(Self {
            stream,
            buffer: vec![0; 4_096],
        })
    }

    /// Sends a command and returns the whole reply.
    pub(crate) async fn exchange(&mut self, request: &[u8]) -> io::Result<&[u8]> {
        self.stream.write_all(request).await?;
        let mut filled = 0;
        loop {
            let room = self.buffer.get_mut(filled..).unwrap_or_default();
            let count = self.stream.read(room).await?;
            if count == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            filled += count;
            let received = self.buffer.get(..filled).unwrap_or_default();
            if let Some(length) = reply_len(received) {
                return Ok(self.buffer.get(..length).unwrap_or_default());
            }
        }
    }
}

/// A request whose account numbers are patched in place.
#[derive(Debug)]
struct Template {
    bytes: Vec<u8>,
    numbers: Vec<Range<usize>>,
}

impl Template {
    /// Finds the places of the number `marker` in a request.
    fn new(bytes: Vec<u8>, marker: &str) -> Self {
        let marker = marker.as_bytes();
        let starts = bytes.windows(marker.len()).enumerate();
        let numbers = starts
            .filter(|(_, part)| *part == marker)
            .map(|(start, _)| start..start + marker.len())
            .collect();
        Self { bytes, numbers }
    }

    fn patch(&mut self, number: u64) -> &[u8] {
        for place in &self.numbers {
            let mut left = number;
            for digit in self
                .bytes
                .get_mut(place.clone())
                .into_iter()
                .flatten()
                .rev()
            {
                // The remainder is below ten.
                *digit = b'0' + (left % 10) as u8;
                left /= 10;
            }
        }
        &self.bytes
    }
}

/// One client.
#[derive(Debug)]
pub(crate) struct Client {
    link: Link,
    deposit: Template,
    withdraw: Template,
    read: Template,
    aggregates: u64,
    reads: f64,
    random: u64,
}

impl Client {
    pub(crate) fn new(link: Link, script: &str, aggregates: u64, reads: f64, number: u64) -> Self {
        let marker = "9".repeat(DIGITS);
        let (account, events) = (format!("account:{marker}"), format!("events:{marker}"));
        let change = |event_type: &str, amount: i64| {
            let record = record(&format!("bench-{marker}"), event_type, 100, amount);
            let record = String::from_utf8_lossy(&record).into_owned();
            let amount = amount.to_string();
            let parts = ["EVALSHA", script, "2", &account, &events, &amount, &record];
            Template::new(encode(&parts), &marker)
        };
        let fields = [
            "HMGET", &account, "owner", "currency", "balance", "sequence",
        ];
        Self {
            deposit: change("MoneyDeposited", 345),
            withdraw: change("MoneyWithdrawn", -123),
            read: Template::new(encode(&fields), &marker),
            link,
            aggregates,
            reads,
            random: number,
        }
    }

    /// Sends the next command when the last one is answered, until the window ends.
    pub(crate) async fn run(mut self, window: Window) -> io::Result<Seen> {
        let mut seen = Seen::new().map_err(io::Error::other)?;
        let mut now = Instant::now();
        while now < window.end {
            let begun = now;
            let number = self.below(self.aggregates);
            let is_read = self.share() < self.reads;
            let is_withdrawal = self.share() < 0.25;
            let template = if is_read {
                &mut self.read
            } else if is_withdrawal {
                &mut self.withdraw
            } else {
                &mut self.deposit
            };
            let reply = self.link.exchange(template.patch(number)).await?;
            let is_error = reply.first() == Some(&b'-');
            now = Instant::now();
            if begun < window.from {
                continue;
            }
            let latency = now.duration_since(begun);
            if is_error {
                seen.errors += 1;
            } else if is_read {
                seen.reads.saturating_record(nanoseconds(latency));
            } else {
                seen.commands.saturating_record(nanoseconds(latency));
            }
        }
        Ok(seen)
    }

    /// SplitMix64, as in the load generator.
    fn next(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.random;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    #[expect(clippy::cast_precision_loss, reason = "53 bits fit an f64 exactly")]
    fn share(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }
}

/// The key of an account.
pub(crate) fn account_key(number: u64) -> String {
    format!("account:{number:0DIGITS$}")
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_keys_and_the_record_are_patched() {
        let marker = "9".repeat(DIGITS);
        let text = format!("a:{marker} e:{marker} r:{marker}");
        let mut template = Template::new(text.into_bytes(), &marker);
        assert_eq!(template.patch(42), b"a:00000042 e:00000042 r:00000042");
        assert_eq!(template.patch(7), b"a:00000007 e:00000007 r:00000007");
    }
}
