//! A socket that hands only complete, unambiguous heads to the HTTP library, and gives up in time.
//!
//! A head that violates a rule is replaced by a request of the guard's own (method [`REFUSED`]), so
//! that the refusal is answered in turn behind the requests before it; nothing is read afterwards.
//! A head that is not complete yet is held back, so the library never waits in the middle of one:
//! all waiting for bytes happens here, each kind with its own limit.
//!
//! ```text
//! socket -> [head scanner | body counter] -> library -> service
//! ```

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, BytesMut};
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::Instant;

use super::chunks::ChunkTracker;
use super::framing::{Framing, HeadScanner, Scanned, Violation, target_of};
use super::timer::{LazyTimer, Stall};

/// The method of the request that stands for a refused head.
pub(crate) const REFUSED: &str = "PHALANX-REFUSED";
const REFUSED_REQUEST: &[u8] =
    b"PHALANX-REFUSED / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";

/// Bytes that are read and thrown away before a connection with unread input is closed: closing
/// at once would reset it, and the client might never see the answer.
pub(crate) const LINGER_BYTES: usize = 4 * 1024 * 1024;
/// Time for that.
const LINGER: Duration = Duration::from_secs(1);

/// A head that was refused, left for the service to answer.
#[derive(Debug)]
pub(crate) struct Refusal {
    /// Why.
    pub(crate) violation: Violation,
    /// The path, as far as it could be read.
    pub(crate) path: String,
}

/// What guard and service of one connection share.
#[derive(Debug, Default)]
pub(crate) struct ConnectionState {
    /// Set before the request that stands for it is handed on.
    pub(crate) refusal: Mutex<Option<Refusal>>,
    /// The time limits of the request in progress.
    pub(crate) timer: Mutex<LazyTimer>,
    /// Answers in progress that may take any time: for each, since when the client has not taken
    /// the last piece.
    answers: Mutex<Vec<Weak<Mutex<Option<Instant>>>>>,
}

impl ConnectionState {
    /// As long as it lives, a client that says nothing is not idle: it listens.
    pub(crate) fn answering(&self) -> Answering {
        let answering = Answering(Arc::default());
        let mut answers = self.answers.lock();
        answers.retain(|answer| answer.strong_count() > 0);
        answers.push(Arc::downgrade(&answering.0));
        answering
    }

    /// Whether the client listens to an answer that may take any time.
    pub(crate) fn is_answering(&self) -> bool {
        let answers = self.answers.lock();
        answers.iter().any(|answer| answer.strong_count() > 0)
    }

    /// Whether there is such an answer of which the client has taken nothing for this long.
    pub(crate) fn is_stalled(&self, longest: Duration) -> bool {
        let answers = self.answers.lock();
        let given = answers.iter().filter_map(Weak::upgrade);
        given
            .filter_map(|answer| *answer.lock())
            .any(|since| since.elapsed() >= longest)
    }
}

/// See [`ConnectionState::answering`].
#[derive(Debug)]
pub(crate) struct Answering(Arc<Mutex<Option<Instant>>>);

impl Answering {
    /// A piece is on its way.
    pub(crate) fn given(&self) {
        *self.0.lock() = Some(Instant::now());
    }

    /// There is room for another piece.
    pub(crate) fn taken(&self) {
        *self.0.lock() = None;
    }
}

/// Limits of one connection.
#[derive(Debug, Clone, Copy)]
pub(crate) struct GuardLimits {
    pub(crate) header_timeout: Duration,
    pub(crate) body_timeout: Duration,
    pub(crate) idle_timeout: Duration,
    pub(crate) max_header_bytes: usize,
}

#[derive(Debug)]
enum Phase {
    Head(HeadScanner),
    Body(u64),
    Chunked(ChunkTracker),
    /// Nothing more is read.
    Refused,
    /// The body's chunks cannot be followed: the library sees an error.
    Broken,
}

/// What to do with bytes that arrived: so many go on, and the rest?
enum Rest {
    Nothing,
    Hold,
    Refuse(Violation),
}

/// A socket that tells of its end although nobody reads from it.
pub(crate) trait Socket: AsyncRead + AsyncWrite + Unpin {
    /// Ready once the other side has closed and everything it sent was read.
    fn poll_left(&self, cx: &mut Context<'_>) -> Poll<()>;
}

impl Socket for TcpStream {
    fn poll_left(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut first = [0];
        match ready!(self.poll_peek(cx, &mut ReadBuf::new(&mut first))) {
            // The next request; what comes behind it, nobody sees.
            Ok(1..) => Poll::Pending,
            Ok(0) | Err(_) => Poll::Ready(()),
        }
    }
}

/// The guarded socket.
#[derive(Debug)]
pub(crate) struct Guard<S> {
    io: S,
    limits: GuardLimits,
    shared: Arc<ConnectionState>,
    phase: Phase,
    /// Whether a complete head was seen; before it, the shorter limit applies.
    seen_head: bool,
    /// The beginning of a head that is not complete.
    held: BytesMut,
    /// Checked bytes that did not come straight from the socket.
    checked: BytesMut,
    waiting_since: Option<Instant>,
    timer: LazyTimer,
    stall: Stall,
    linger: Option<(Instant, usize)>,
}

impl<S: Socket> Guard<S> {
    /// Guards a socket from which `received` has been read.
    pub(crate) fn new(
        io: S,
        received: BytesMut,
        limits: GuardLimits,
        shared: Arc<ConnectionState>,
    ) -> Self {
        let mut guard = Self {
            io,
            limits,
            shared,
            phase: Phase::Head(HeadScanner::default()),
            seen_head: false,
            held: BytesMut::new(),
            checked: BytesMut::new(),
            waiting_since: None,
            timer: LazyTimer::default(),
            stall: Stall::default(),
            linger: None,
        };
        if !received.is_empty() {
            guard.held = received;
            guard.check_held();
        }
        guard
    }

    /// Looks at new bytes in the present phase.
    fn admit(&mut self, bytes: &[u8]) -> (usize, Rest) {
        let mut at = 0;
        while let Some(rest) = bytes.get(at..).filter(|rest| !rest.is_empty()) {
            match &mut self.phase {
                Phase::Refused | Phase::Broken => return (at, Rest::Nothing),
                Phase::Head(scanner) => match scanner.scan(rest, self.limits.max_header_bytes) {
                    Scanned::Partial => return (at, Rest::Hold),
                    Scanned::Refused(violation) => return (at, Rest::Refuse(violation)),
                    Scanned::Complete(length, framing) => {
                        at += length;
                        self.seen_head = true;
                        self.phase = Self::after_head(framing);
                    }
                },
                Phase::Body(left) => {
                    let here = u64::try_from(rest.len()).unwrap_or(u64::MAX).min(*left);
                    at += usize::try_from(here).unwrap_or(usize::MAX);
                    *left -= here;
                    if *left == 0 {
                        self.phase = Phase::Head(HeadScanner::default());
                    }
                }
                Phase::Chunked(tracker) => match tracker.advance(rest) {
                    Err(_) => self.phase = Phase::Broken,
                    Ok(None) => at = bytes.len(),
                    Ok(Some(length)) => {
                        at += length;
                        self.phase = Phase::Head(HeadScanner::default());
                    }
                },
            }
        }
        (at, Rest::Nothing)
    }

    fn after_head(framing: Framing) -> Phase {
        match framing {
            Framing::Length(0) => Phase::Head(HeadScanner::default()),
            Framing::Length(length) => Phase::Body(length),
            Framing::Chunked => Phase::Chunked(ChunkTracker::default()),
        }
    }

    /// Checks what is held, after more was appended.
    fn check_held(&mut self) {
        let held = std::mem::take(&mut self.held);
        let (length, rest) = self.admit(&held);
        self.held = held;
        self.checked.unsplit(self.held.split_to(length));
        match rest {
            Rest::Nothing => self.held.clear(),
            Rest::Hold => {}
            Rest::Refuse(violation) => self.refuse(violation),
        }
    }

    /// Puts a request of our own in the place of the head in `held`.
    fn refuse(&mut self, violation: Violation) {
        let path = target_of(&self.held).unwrap_or("/").to_owned();
        *self.shared.refusal.lock() = Some(Refusal { violation, path });
        self.held.clear();
        self.checked.extend_from_slice(REFUSED_REQUEST);
        self.phase = Phase::Refused;
    }

    /// Nothing arrived: has the present wait taken too long? Ready when there is something to do.
    fn poll_wait(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Waited>> {
        let limit = match &self.phase {
            Phase::Head(_) if self.held.is_empty() && self.seen_head => self.limits.idle_timeout,
            Phase::Head(_) => self.limits.header_timeout,
            // The service has its own limit for the whole body; this one only backs it up.
            Phase::Body(_) | Phase::Chunked(_) => self.limits.body_timeout * 2,
            Phase::Refused | Phase::Broken => return Poll::Pending,
        };
        let since = *self.waiting_since.get_or_insert_with(Instant::now);
        ready!(self.timer.poll(since + limit, cx));
        self.waiting_since = None;
        if self.shared.is_answering() && self.held.is_empty() {
            // The time begins anew; the library asks again when the answer has ended.
            return self.poll_wait(cx);
        }
        Poll::Ready(match &self.phase {
            Phase::Head(_) if !self.held.is_empty() => {
                self.refuse(Violation::Timeout);
                Ok(Waited::Refused)
            }
            Phase::Head(_) | Phase::Refused | Phase::Broken => Ok(Waited::TooLong),
            Phase::Body(_) | Phase::Chunked(_) => Err(io::ErrorKind::TimedOut.into()),
        })
    }

    /// Reads while a head is held back.
    fn poll_more(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let mut scratch = [0; 4096];
        let mut more = ReadBuf::new(&mut scratch);
        ready!(Pin::new(&mut self.io).poll_read(cx, &mut more))?;
        let length = more.filled().len();
        self.held.extend_from_slice(more.filled());
        self.check_held();
        Poll::Ready(Ok(length))
    }

    /// Reads straight into the library's buffer; gives how many bytes arrived.
    fn poll_direct(
        &mut self,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<usize>> {
        let start = buf.filled().len();
        ready!(Pin::new(&mut self.io).poll_read(cx, buf))?;
        let fresh = buf.filled().get(start..).unwrap_or_default();
        let arrived = fresh.len();
        let (length, rest) = self.admit(fresh);
        let back = fresh.get(length..).unwrap_or_default();
        match rest {
            Rest::Nothing => {}
            Rest::Hold => {
                self.held.extend_from_slice(back);
                self.waiting_since = None;
            }
            Rest::Refuse(violation) => {
                self.held.extend_from_slice(back);
                self.refuse(violation);
            }
        }
        buf.set_filled(start + length);
        Poll::Ready(Ok(arrived))
    }

    /// Whether the client may still be sending what nobody will read.
    fn has_unread_input(&self) -> bool {
        !matches!(self.phase, Phase::Head(_)) || !self.held.is_empty()
    }
}

enum Waited {
    /// The connection has been idle for too long, or never said anything.
    TooLong,
    /// There is a refusal to hand on.
    Refused,
}

fn bad_chunk() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "malformed chunked body")
}

impl<S: Socket> AsyncRead for Guard<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        loop {
            if !this.checked.is_empty() {
                let length = this.checked.len().min(buf.remaining());
                buf.put_slice(this.checked.get(..length).unwrap_or_default());
                this.checked.advance(length);
                return Poll::Ready(Ok(()));
            }
            match this.phase {
                // The answer to the refusal closes the connection.
                Phase::Refused => return Poll::Pending,
                Phase::Broken => return Poll::Ready(Err(bad_chunk())),
                Phase::Head(_) | Phase::Body(_) | Phase::Chunked(_) => {}
            }
            let before = buf.filled().len();
            let arrived = if this.held.is_empty() {
                this.poll_direct(cx, buf)?
            } else {
                this.poll_more(cx)?
            };
            match arrived {
                Poll::Ready(0) => return Poll::Ready(Ok(())),
                Poll::Ready(_) if buf.filled().len() > before => {
                    this.waiting_since = None;
                    return Poll::Ready(Ok(()));
                }
                Poll::Ready(_) => {}
                Poll::Pending => match ready!(this.poll_wait(cx))? {
                    Waited::TooLong => return Poll::Ready(Ok(())),
                    Waited::Refused => {}
                },
            }
        }
    }
}

impl<S: Socket> AsyncWrite for Guard<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.io).poll_write(cx, buf);
        this.stall.watch(this.limits.body_timeout, cx, written)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.io).poll_write_vectored(cx, bufs);
        this.stall.watch(this.limits.body_timeout, cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    /// The library flushes whenever it has looked for more to write, and does not read while it answers. A
    /// client that has closed takes the rest of an answer that it waits for, but not one without an end.
    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.shared.is_answering() && this.io.poll_left(cx).is_ready() {
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        Pin::new(&mut this.io).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.linger.is_none() {
            ready!(Pin::new(&mut this.io).poll_shutdown(cx))?;
            if !this.has_unread_input() {
                return Poll::Ready(Ok(()));
            }
        }
        let (since, mut left) = this.linger.unwrap_or((Instant::now(), LINGER_BYTES));
        let mut scratch = [0; 4096];
        loop {
            let mut unread = ReadBuf::new(&mut scratch);
            match Pin::new(&mut this.io).poll_read(cx, &mut unread) {
                Poll::Pending => {
                    this.linger = Some((since, left));
                    ready!(this.timer.poll(since + LINGER, cx));
                    return Poll::Ready(Ok(()));
                }
                Poll::Ready(Ok(())) if !unread.filled().is_empty() => {
                    left = left.saturating_sub(unread.filled().len());
                    if left == 0 {
                        return Poll::Ready(Ok(()));
                    }
                }
                Poll::Ready(_) => return Poll::Ready(Ok(())),
            }
        }
    }
}
