//! One keep-alive connection with at most one request in flight.
//!
//! It owns the socket and one buffer and refuses to pipeline. A good exchange costs one `write`,
//! one `read` and no allocation. After an error the connection is not used again.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep, sleep_until, timeout};

use super::response::{BadResponse, Head, parse_head};
use super::target::Target;

/// The largest head, and the part of a body that is kept for reading error codes.
const BUFFER_BYTES: usize = 16 * 1024;

/// Why an exchange did not end in a reply.
#[derive(Debug, Error)]
pub(super) enum ExchangeError {
    /// The connection could not be made.
    #[error("failed to connect: {0}")]
    Connect(#[source] io::Error),
    /// The connection was not made in time.
    #[error("not connected in time")]
    ConnectTimeout,
    /// The connection broke.
    #[error("the connection broke: {0}")]
    Broken(#[source] io::Error),
    /// The server closed the connection instead of answering.
    #[error("the server closed the connection before it answered")]
    Closed,
    /// No reply came in time.
    #[error("no reply in time")]
    Timeout,
    /// The reply is not one this client can read.
    #[error("unreadable reply: {0}")]
    Unreadable(#[from] BadResponse),
    /// More bytes than the reply's length says, or a head that is too long.
    #[error("the reply is longer than it says, or its head is longer than {BUFFER_BYTES} bytes")]
    TooLong,
}

impl ExchangeError {
    /// A short name to count by.
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Connect(_) => "connect-failed",
            Self::ConnectTimeout => "connect-timeout",
            Self::Broken(_) => "connection-broken",
            Self::Closed => "connection-closed",
            Self::Timeout => "timeout",
            Self::Unreadable(_) => "unreadable-reply",
            Self::TooLong => "reply-too-long",
        }
    }
}

/// A connected socket.
#[derive(Debug)]
pub(super) struct Connection {
    stream: TcpStream,
    buffer: Box<[u8]>,
    /// How much of the buffer holds the last reply's body, and where it begins.
    body: std::ops::Range<usize>,
    /// Set once and moved on only when it fires, so that a request costs no timer.
    alarm: Pin<Box<Sleep>>,
    patience: Duration,
}

impl Connection {
    /// Connects, waiting for at most `patience`; each exchange gets the same patience.
    pub(super) async fn open(target: &Target, patience: Duration) -> Result<Self, ExchangeError> {
        let stream = timeout(patience, TcpStream::connect(target.address))
            .await
            .map_err(|_| ExchangeError::ConnectTimeout)?
            .map_err(ExchangeError::Connect)?;
        stream.set_nodelay(true).map_err(ExchangeError::Connect)?;
        Ok(Self {
            stream,
            buffer: vec![0; BUFFER_BYTES].into_boxed_slice(),
            body: 0..0,
            alarm: Box::pin(sleep_until(Instant::now() + patience)),
            patience,
        })
    }

    /// Sends a request and reads the whole reply. `begun` is when the patience started to run.
    pub(super) async fn exchange(
        &mut self,
        request: &[u8],
        begun: Instant,
    ) -> Result<Head, ExchangeError> {
        self.stream
            .write_all(request)
            .await
            .map_err(ExchangeError::Broken)?;
        let give_up = begun + self.patience;
        let mut filled = 0;
        let head = loop {
            filled += self.fill(filled, give_up).await?;
            let received = self.buffer.get(..filled).unwrap_or_default();
            if let Some(head) = parse_head(received)? {
                break head;
            }
        };
        let total = head.head_len + head.body_len;
        let mut received = filled;
        while received < total {
            // A body that does not fit is read over its own end: only its beginning is of interest.
            let at = if filled < self.buffer.len() {
                filled
            } else {
                head.head_len
            };
            let count = self.fill(at, give_up).await?;
            received += count;
            filled = filled.max(at + count);
        }
        if received > total {
            return Err(ExchangeError::TooLong);
        }
        self.body = head.head_len..filled;
        Ok(head)
    }

    /// The beginning of the last reply's body.
    pub(super) fn body(&self) -> &[u8] {
        self.buffer.get(self.body.clone()).unwrap_or_default()
    }

    /// Reads what there is into the buffer from `at` on.
    async fn fill(&mut self, at: usize, give_up: Instant) -> Result<usize, ExchangeError> {
        poll_fn(|context| self.poll_fill(context, at, give_up)).await
    }

    fn poll_fill(
        &mut self,
        context: &mut Context<'_>,
        at: usize,
        give_up: Instant,
    ) -> Poll<Result<usize, ExchangeError>> {
        let Some(room) = self.buffer.get_mut(at..).filter(|room| !room.is_empty()) else {
            return Poll::Ready(Err(ExchangeError::TooLong));
        };
        let mut room = ReadBuf::new(room);
        match Pin::new(&mut self.stream).poll_read(context, &mut room) {
            Poll::Ready(Ok(())) if room.filled().is_empty() => {
                return Poll::Ready(Err(ExchangeError::Closed));
            }
            Poll::Ready(Ok(())) => return Poll::Ready(Ok(room.filled().len())),
            Poll::Ready(Err(error)) => return Poll::Ready(Err(ExchangeError::Broken(error))),
            Poll::Pending => {}
        }
        while self.alarm.as_mut().poll(context).is_ready() {
            if Instant::now() >= give_up {
                return Poll::Ready(Err(ExchangeError::Timeout));
            }
            self.alarm.as_mut().reset(give_up);
        }
        Poll::Pending
    }
}
