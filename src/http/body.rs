//! Reading a request body: bounded in size and time.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use http::header::CONTENT_LENGTH;
use http_body_util::BodyExt;
use hyper::body::Body;

use super::code::Code;
use super::problem::Problem;
use super::timer::LazyTimer;

/// Reads the whole body. One that arrived with its head is passed on without a copy.
///
/// # Errors
/// 413 over `max_bytes` (at once when the length is announced), 408 when it is not complete within
/// `limit`, 400 `malformed-request` when the client breaks off.
pub(crate) async fn read(
    headers: &HeaderMap,
    mut body: impl Body<Data = Bytes> + Unpin,
    max_bytes: usize,
    limit: Duration,
    timer: &mut LazyTimer,
) -> Result<Bytes, Problem> {
    let announced = headers
        .get(CONTENT_LENGTH)
        .and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    if announced.is_some_and(|length| length > u64::try_from(max_bytes).unwrap_or(u64::MAX)) {
        return Err(too_large(max_bytes));
    }
    let read = async {
        let mut first = Bytes::new();
        let mut all = BytesMut::new();
        while let Some(frame) = body.frame().await {
            let Ok(data) = frame.map_err(|_| broken_off())?.into_data() else {
                continue;
            };
            if first.len().max(all.len()) + data.len() > max_bytes {
                return Err(too_large(max_bytes));
            }
            if first.is_empty() && all.is_empty() {
                first = data;
            } else {
                all.extend_from_slice(&std::mem::take(&mut first));
                all.extend_from_slice(&data);
            }
            if body.is_end_stream() {
                break;
            }
        }
        Ok(if all.is_empty() { first } else { all.freeze() })
    };
    timer.within(limit, read).await.unwrap_or_else(|_| {
        Err(Problem::new(
            Code::RequestTimeout,
            "the body was not complete in time",
        ))
    })
}

fn too_large(max_bytes: usize) -> Problem {
    Problem::new(
        Code::ContentTooLarge,
        format!("a body has at most {max_bytes} bytes"),
    )
}

fn broken_off() -> Problem {
    Problem::new(
        Code::MalformedRequest,
        "the body ended early or is not framed as announced",
    )
}
