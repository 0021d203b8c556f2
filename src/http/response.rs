//! What every route answers with: a status, headers and a body that is already in memory.

use bytes::{BufMut, Bytes, BytesMut};
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Response, StatusCode};

/// A complete response.
pub(crate) type Reply = Response<Bytes>;

/// A response without headers.
pub(crate) fn reply(status: StatusCode, body: impl Into<Bytes>) -> Reply {
    let mut response = Response::new(body.into());
    *response.status_mut() = status;
    response
}

/// A response with a media type.
pub(crate) fn typed(status: StatusCode, media_type: &'static str, body: impl Into<Bytes>) -> Reply {
    let mut response = reply(status, body);
    let value = HeaderValue::from_static(media_type);
    response.headers_mut().insert(CONTENT_TYPE, value);
    response
}

/// 200 with JSON.
pub(crate) fn json(body: impl Into<Bytes>) -> Reply {
    typed(StatusCode::OK, "application/json", body)
}

/// Renders the head of an HTTP/1.1 response that is sent without the HTTP library, then closes the
/// connection. Its body is appended.
pub(crate) fn render_and_close(response: &Response<()>, body: &[u8]) -> Bytes {
    let mut out = BytesMut::with_capacity(512 + body.len());
    out.put_slice(b"HTTP/1.1 ");
    out.put_slice(response.status().as_str().as_bytes());
    out.put_slice(b" \r\nconnection: close\r\ncontent-length: ");
    out.put_slice(body.len().to_string().as_bytes());
    for (name, value) in response.headers() {
        out.put_slice(b"\r\n");
        out.put_slice(name.as_str().as_bytes());
        out.put_slice(b": ");
        out.put_slice(value.as_bytes());
    }
    out.put_slice(b"\r\n\r\n");
    out.put_slice(body);
    out.freeze()
}
