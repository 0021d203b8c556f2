//! Calls with one message each way over one HTTP/2 connection: gRPC without a library.
//!
//! Every call has a deadline. It refuses streams, compression and TLS.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http2::{self, SendRequest};
use hyper::header::{CONTENT_TYPE, TE};
use hyper::{HeaderMap, Method, Request, Uri};
use hyper_util::rt::{TokioExecutor, TokioIo};
use thiserror::Error;
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::wire::Message;

/// How long a call may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// Room for answers on their way, so that none waits for a window.
const WINDOW_BYTES: u32 = 4 << 20;
/// A message's length and whether it is compressed.
const PREFIX_BYTES: usize = 5;

/// Why a call has no answer.
#[derive(Debug, Error)]
pub(crate) enum GrpcError {
    /// The connection could not be made.
    #[error("failed to connect to {address}: {source}")]
    Connect {
        address: SocketAddr,
        #[source]
        source: std::io::Error,
    },
    /// The connection broke.
    #[error("the connection broke: {0}")]
    Broken(#[from] hyper::Error),
    /// The request cannot be formed.
    #[error("failed to form a request: {0}")]
    Request(#[from] hyper::http::Error),
    /// No answer came in time.
    #[error("no answer within {PATIENCE:?}")]
    Timeout,
    /// The server answers with an error.
    #[error("status {status}: {text}")]
    Status { status: String, text: String },
    /// The answer is not one message.
    #[error("the answer is not one message")]
    Malformed,
}

/// A connection; clones share it.
#[derive(Debug, Clone)]
pub(super) struct Channel {
    sender: SendRequest<Full<Bytes>>,
    address: SocketAddr,
}

impl Channel {
    /// Connects.
    pub(super) async fn open(address: SocketAddr) -> Result<Self, GrpcError> {
        let failed = |source| GrpcError::Connect { address, source };
        let stream = timeout(PATIENCE, TcpStream::connect(address))
            .await
            .map_err(|_| GrpcError::Timeout)?
            .map_err(failed)?;
        stream.set_nodelay(true).map_err(failed)?;
        let (sender, connection) = http2::Builder::new(TokioExecutor::new())
            .initial_stream_window_size(WINDOW_BYTES)
            .initial_connection_window_size(WINDOW_BYTES)
            .handshake(TokioIo::new(stream))
            .await?;
        // It ends when the last sender is gone; what breaks it shows in the calls.
        tokio::spawn(async move { connection.await.ok() });
        Ok(Self { sender, address })
    }

    /// One call.
    pub(super) async fn call(
        &mut self,
        path: &'static str,
        message: &Message,
    ) -> Result<Bytes, GrpcError> {
        let uri = Uri::builder()
            .scheme("http")
            .authority(self.address.to_string())
            .path_and_query(path)
            .build()?;
        let request = Request::builder()
            .method(Method::POST)
            .uri(uri)
            .header(CONTENT_TYPE, "application/grpc")
            .header(TE, "trailers")
            .body(Full::new(framed(message.as_bytes())))?;
        timeout(PATIENCE, self.exchange(request))
            .await
            .map_err(|_| GrpcError::Timeout)?
    }

    async fn exchange(&mut self, request: Request<Full<Bytes>>) -> Result<Bytes, GrpcError> {
        self.sender.ready().await?;
        let answer = self.sender.send_request(request).await?;
        let (head, body) = answer.into_parts();
        let body = body.collect().await?;
        // An answer that is only an error has its status in the head.
        check(body.trailers().unwrap_or(&head.headers))?;
        unframed(body.to_bytes())
    }
}

fn check(headers: &HeaderMap) -> Result<(), GrpcError> {
    let text = |name: &str| {
        let value = headers.get(name).map(|value| value.as_bytes());
        String::from_utf8_lossy(value.unwrap_or_default()).into_owned()
    };
    match text("grpc-status").as_str() {
        "0" => Ok(()),
        status => Err(GrpcError::Status {
            status: status.to_owned(),
            text: text("grpc-message"),
        }),
    }
}

fn framed(message: &[u8]) -> Bytes {
    let mut bytes = BytesMut::with_capacity(PREFIX_BYTES + message.len());
    bytes.put_u8(0);
    bytes.put_u32(u32::try_from(message.len()).unwrap_or(u32::MAX));
    bytes.put_slice(message);
    bytes.freeze()
}

fn unframed(mut bytes: Bytes) -> Result<Bytes, GrpcError> {
    if bytes.len() < PREFIX_BYTES || bytes.get_u8() != 0 {
        return Err(GrpcError::Malformed);
    }
    let length = bytes.get_u32();
    if usize::try_from(length) != Ok(bytes.len()) {
        return Err(GrpcError::Malformed);
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_framed_and_found_again() {
        assert_eq!(framed(b"abc"), &b"\0\0\0\0\x03abc"[..]);
        assert_eq!(unframed(framed(b"abc")).unwrap(), &b"abc"[..]);
        assert_eq!(unframed(framed(b"")).unwrap(), &b""[..]);
        for bad in [&b""[..], b"\0\0\0\0", b"\x01\0\0\0\0", b"\0\0\0\0\x02a"] {
            assert!(unframed(Bytes::from_static(bad)).is_err(), "{bad:?}");
        }
    }
}
