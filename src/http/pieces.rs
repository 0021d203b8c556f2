//! A large answer over HTTP/2, in pieces.
//!
//! The library asks for the next piece when the client's window has taken the one before, so this is where
//! a client is seen that takes nothing. Invariant: what the library holds of it does not keep the answer in
//! memory, for each piece is a copy.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};

use super::guard::{Answering, ConnectionState};

/// As much as a frame takes where the client did not ask for larger ones (RFC 9113, section 4.2).
const PIECE_BYTES: usize = 16 * 1024;

/// See the file's description.
#[derive(Debug)]
pub(crate) struct Pieces {
    rest: Bytes,
    answering: Answering,
}

impl Pieces {
    /// All of an answer.
    pub(crate) fn new(connection: &ConnectionState, body: Bytes) -> Self {
        let answering = connection.answering();
        answering.given();
        Self {
            rest: body,
            answering,
        }
    }
}

impl Body for Pieces {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let this = self.get_mut();
        if this.rest.is_empty() {
            return Poll::Ready(None);
        }
        this.answering.given();
        let piece = this.rest.split_to(this.rest.len().min(PIECE_BYTES));
        Poll::Ready(Some(Ok(Frame::data(Bytes::copy_from_slice(&piece)))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(u64::try_from(self.rest.len()).unwrap_or(u64::MAX))
    }
}
