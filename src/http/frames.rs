//! The HTTP/2 side of the guard: gives up on clients that start something and do not go on.
//!
//! It follows frame headers only, to know whether the client is in the middle of a header block or
//! of a frame, and since when. What frames mean is the HTTP library's business; how long a body may
//! take is the service's.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

use super::guard::ConnectionState;
use super::timer::{LazyTimer, Stall};

/// What an HTTP/2 client says first.
pub(crate) const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;
const END_HEADERS: u8 = 4;

/// Time limits of one connection.
#[derive(Debug, Clone, Copy)]
pub(crate) struct FrameLimits {
    /// For the first header block from the start, and for each later one from its own.
    pub(crate) header_timeout: Duration,
    /// For any other frame from its start, and for a client that does not read.
    pub(crate) frame_timeout: Duration,
    /// Between frames that belong to a request.
    pub(crate) idle_timeout: Duration,
}

/// Where in the sequence of frames the client is.
#[derive(Debug, Default)]
struct FrameTracker {
    header: [u8; 9],
    header_length: usize,
    payload_left: usize,
    /// A header block has begun and not ended.
    in_block: bool,
    /// A header block has ended.
    seen_request: bool,
}

/// What bytes changed.
#[derive(Debug, Default, PartialEq, Eq)]
struct Progress {
    /// A frame of a request began.
    request_frame: bool,
    /// A header block began.
    block_began: bool,
}

impl FrameTracker {
    fn advance(&mut self, mut bytes: &[u8]) -> Progress {
        let mut progress = Progress::default();
        while !bytes.is_empty() {
            let here = self.payload_left.min(bytes.len());
            bytes.advance(here);
            self.payload_left -= here;
            if self.payload_left > 0 {
                break;
            }
            let wanted = (self.header.len() - self.header_length).min(bytes.len());
            let slot = self
                .header
                .get_mut(self.header_length..self.header_length + wanted);
            if let (Some(slot), Some(part)) = (slot, bytes.get(..wanted)) {
                slot.copy_from_slice(part);
            }
            bytes.advance(wanted);
            self.header_length += wanted;
            if self.header_length == self.header.len() {
                self.header_length = 0;
                self.begin_frame(&mut progress);
            }
        }
        progress
    }

    fn begin_frame(&mut self, progress: &mut Progress) {
        let [high, middle, low, kind, flags, ..] = self.header;
        let length = u32::from_be_bytes([0, high, middle, low]);
        self.payload_left = usize::try_from(length).unwrap_or(usize::MAX);
        progress.request_frame |= matches!(kind, DATA | HEADERS | WINDOW_UPDATE | CONTINUATION);
        if matches!(kind, HEADERS | CONTINUATION) {
            progress.block_began |= !self.in_block;
            self.in_block = flags & END_HEADERS == 0;
            self.seen_request |= !self.in_block;
        }
    }

    fn in_frame(&self) -> bool {
        self.header_length > 0 || self.payload_left > 0
    }
}

/// The guarded socket of an HTTP/2 connection.
#[derive(Debug)]
pub(crate) struct FrameGuard<S> {
    io: S,
    limits: FrameLimits,
    shared: Arc<ConnectionState>,
    tracker: FrameTracker,
    /// Read before it was known that this is HTTP/2; begins with the preface.
    received: BytesMut,
    /// Since when the present limit runs.
    since: Instant,
    timer: LazyTimer,
    stall: Stall,
}

impl<S: AsyncRead + AsyncWrite + Unpin> FrameGuard<S> {
    /// Guards a socket from which `received` has been read, the preface included.
    pub(crate) fn new(
        io: S,
        received: BytesMut,
        limits: FrameLimits,
        shared: Arc<ConnectionState>,
    ) -> Self {
        let mut guard = Self {
            io,
            limits,
            shared,
            tracker: FrameTracker::default(),
            received,
            since: Instant::now(),
            timer: LazyTimer::default(),
            stall: Stall::default(),
        };
        let frames = guard.received.get(PREFACE.len()..).unwrap_or_default();
        guard.tracker.advance(frames);
        guard
    }

    fn arrived(&mut self, bytes: &[u8]) {
        let was_in_frame = self.tracker.in_frame();
        let progress = self.tracker.advance(bytes);
        let restart = if !self.tracker.seen_request {
            // The first request has one limit from the start, whatever comes before it.
            false
        } else if self.tracker.in_block {
            progress.block_began
        } else {
            progress.request_frame || !was_in_frame && self.tracker.in_frame()
        };
        if restart {
            self.since = Instant::now();
        }
    }

    fn limit(&self) -> Duration {
        if !self.tracker.seen_request || self.tracker.in_block {
            self.limits.header_timeout
        } else if self.tracker.in_frame() {
            self.limits.frame_timeout
        } else {
            self.limits.idle_timeout
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for FrameGuard<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if !this.received.is_empty() {
            let length = this.received.len().min(buf.remaining());
            buf.put_slice(this.received.get(..length).unwrap_or_default());
            this.received.advance(length);
            return Poll::Ready(Ok(()));
        }
        // The library holds one piece for an answer without a window, and asks for no more.
        if this.shared.is_stalled(this.limits.frame_timeout) {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        let start = buf.filled().len();
        if let Poll::Ready(read) = Pin::new(&mut this.io).poll_read(cx, buf) {
            let fresh = buf.filled().get(start..).unwrap_or_default();
            this.arrived(fresh);
            return Poll::Ready(read);
        }
        loop {
            ready!(this.timer.poll(this.since + this.limit(), cx));
            let waits = this.tracker.in_frame() || this.tracker.in_block;
            if waits || !this.shared.is_answering() {
                return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
            }
            if this.shared.is_stalled(this.limits.frame_timeout) {
                return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
            }
            // It listens to an answer that goes on; the time begins anew.
            this.since = Instant::now();
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for FrameGuard<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.io).poll_write(cx, buf);
        this.stall.watch(this.limits.frame_timeout, cx, written)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.io).poll_write_vectored(cx, bufs);
        this.stall.watch(this.limits.frame_timeout, cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, flags: u8, payload: usize) -> Vec<u8> {
        let length = u32::try_from(payload).unwrap().to_be_bytes();
        let mut frame = vec![length[1], length[2], length[3], kind, flags, 0, 0, 0, 1];
        frame.resize(9 + payload, 0xff);
        frame
    }

    #[test]
    fn header_blocks_are_followed_over_continuations() {
        let bytes = [
            frame(4, 0, 12),
            frame(HEADERS, 0, 300),
            frame(CONTINUATION, 0, 10),
            frame(CONTINUATION, END_HEADERS, 0),
            frame(DATA, 1, 5),
        ]
        .concat();
        let mut tracker = FrameTracker::default();
        let mut in_block = Vec::new();
        for byte in &bytes {
            tracker.advance(&[*byte]);
            in_block.push(tracker.in_block);
        }
        // From the end of the HEADERS frame's header to that of the last CONTINUATION.
        let (from, to) = (21 + 9 - 1, 21 + 309 + 19 + 9 - 1);
        for (at, inside) in in_block.into_iter().enumerate() {
            assert_eq!(inside, (from..to).contains(&at), "{at}");
        }
        assert!(tracker.seen_request && !tracker.in_frame());
        let mut whole = FrameTracker::default();
        let progress = whole.advance(&bytes);
        assert!(progress.block_began && progress.request_frame && !whole.in_block);
        assert_eq!(
            FrameTracker::default().advance(&frame(6, 0, 8)),
            Progress::default()
        );
    }
}
