//! A connection between members, plain or secured, as HTTP/2 sees it.
//!
//! Beside passing bytes it keeps in mind why the other side refused: HTTP/2 shows such errors as
//! text only. Invariant: a byte goes through the same socket in the same form from first to last.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsStream;

use super::verifier::names;
use super::{Proof, TLS_ALERT, words};

/// See the file's description.
#[derive(Debug)]
pub(crate) struct Socket {
    stream: Stream,
    refusal: Refusal,
    /// Whether the next byte is the first that the other side sends.
    at_first: bool,
}

/// The clause of a refusal, once there is one.
#[derive(Debug, Clone, Default)]
pub(crate) struct Refusal(Arc<OnceLock<String>>);

impl Refusal {
    /// The clause, without its subject.
    pub(crate) fn get(&self) -> Option<&str> {
        self.0.get().map(String::as_str)
    }

    fn note(&self, clause: impl Into<String>) {
        let _the_first_counts = self.0.set(clause.into());
    }
}

#[derive(Debug)]
enum Stream {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl Socket {
    /// A plain connection that this node opened: a peer with TLS answers it with an alert.
    pub(super) fn opened(stream: TcpStream) -> Self {
        Self::new(Stream::Plain(stream), true)
    }

    /// A plain connection whose first byte was looked at.
    pub(super) fn accepted(stream: TcpStream) -> Self {
        Self::new(Stream::Plain(stream), false)
    }

    pub(super) fn secured(stream: TlsStream<TcpStream>) -> Self {
        Self::new(Stream::Tls(Box::new(stream)), false)
    }

    fn new(stream: Stream, at_first: bool) -> Self {
        Self {
            stream,
            refusal: Refusal::default(),
            at_first,
        }
    }

    /// What the other side's certificate proves.
    pub(crate) fn proof(&self) -> Proof {
        match &self.stream {
            Stream::Plain(_) => Proof::NotNeeded,
            Stream::Tls(stream) => {
                let (_, session) = stream.get_ref();
                let own = session.peer_certificates().and_then(|chain| chain.first());
                Proof::Names(own.map_or_else(Vec::new, names).into())
            }
        }
    }

    /// Where the other side's refusal will be found.
    pub(crate) fn refusal(&self) -> Refusal {
        self.refusal.clone()
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let before = out.filled().len();
        let read = ready!(match &mut this.stream {
            Stream::Plain(stream) => Pin::new(stream).poll_read(context, out),
            Stream::Tls(stream) => Pin::new(stream.as_mut()).poll_read(context, out),
        });
        if let Err(error) = &read
            && let Some(clause) = words::refusal(error)
        {
            this.refusal.note(clause);
        }
        if this.at_first
            && let Some(first) = out.filled().get(before)
        {
            this.at_first = false;
            if *first == TLS_ALERT {
                this.refusal.note(words::SPEAKS_TLS);
                return Poll::Ready(Err(io::ErrorKind::InvalidData.into()));
            }
        }
        Poll::Ready(read)
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match &mut self.stream {
            Stream::Plain(stream) => Pin::new(stream).poll_write(context, bytes),
            Stream::Tls(stream) => Pin::new(stream.as_mut()).poll_write(context, bytes),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut self.stream {
            Stream::Plain(stream) => Pin::new(stream).poll_write_vectored(context, pieces),
            Stream::Tls(stream) => Pin::new(stream.as_mut()).poll_write_vectored(context, pieces),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match &self.stream {
            Stream::Plain(stream) => stream.is_write_vectored(),
            Stream::Tls(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.stream {
            Stream::Plain(stream) => Pin::new(stream).poll_flush(context),
            Stream::Tls(stream) => Pin::new(stream.as_mut()).poll_flush(context),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.stream {
            Stream::Plain(stream) => Pin::new(stream).poll_shutdown(context),
            Stream::Tls(stream) => Pin::new(stream.as_mut()).poll_shutdown(context),
        }
    }
}
