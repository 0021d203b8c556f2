//! One connection to Redis with one command in flight, and its loop.

use std::io;
use std::net::SocketAddr;
use std::ops::Range;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::Instant;

use super::resp::{encode, reply_len};
use crate::account::record;
use crate::driver::{ADDED_CENTS, Choices, Next, Seen, TAKEN_CENTS, Window, event_type};

/// Digits of an account's number in its key.
const DIGITS: usize = 8;

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
    choices: Choices,
}

impl Client {
    pub(crate) fn new(link: Link, script: &str, choices: Choices) -> Self {
        let marker = "9".repeat(DIGITS);
        let (account, events) = (format!("account:{marker}"), format!("events:{marker}"));
        let change = |amount: i64| {
            let record = record(&format!("bench-{marker}"), event_type(amount), 100, amount);
            let record = String::from_utf8_lossy(&record).into_owned();
            let amount = amount.to_string();
            let parts = ["EVALSHA", script, "2", &account, &events, &amount, &record];
            Template::new(encode(&parts), &marker)
        };
        let fields = [
            "HMGET", &account, "owner", "currency", "balance", "sequence",
        ];
        Self {
            deposit: change(ADDED_CENTS),
            withdraw: change(-TAKEN_CENTS),
            read: Template::new(encode(&fields), &marker),
            link,
            choices,
        }
    }

    /// Sends the next command when the last one is answered, until the window ends.
    pub(crate) async fn run(mut self, window: Window) -> io::Result<Seen> {
        let mut seen = Seen::new().map_err(io::Error::other)?;
        let mut now = Instant::now();
        while now < window.end {
            let begun = now;
            let next = self.choices.next();
            let (template, number) = match next {
                Next::Read(number) => (&mut self.read, number),
                Next::Change(number, ..0) => (&mut self.withdraw, number),
                Next::Change(number, _) => (&mut self.deposit, number),
            };
            let reply = self.link.exchange(template.patch(number)).await?;
            let is_error = reply.first() == Some(&b'-');
            now = Instant::now();
            if begun < window.from {
                continue;
            }
            if is_error {
                seen.error();
            } else {
                seen.answer(next, now.duration_since(begun));
            }
        }
        Ok(seen)
    }
}

/// The key of an account.
pub(crate) fn account_key(number: u64) -> String {
    format!("account:{number:0DIGITS$}")
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
