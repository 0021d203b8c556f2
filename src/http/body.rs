//! Reading a request body, or getting rid of it: bounded in size and time.

use std::error::Error;
use std::io;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header::{CONTENT_LENGTH, EXPECT};
use http::{HeaderMap, Version};
use http_body_util::BodyExt;
use hyper::body::Body;

use super::app::App;
use super::code::Code;
use super::guard::{ConnectionState, LINGER_BYTES};
use super::problem::Problem;
use super::timer::LazyTimer;

/// The most of a body that is read and thrown away before an answer leaves.
const MOST_DISCARDED_BYTES: usize = 256 * 1024;
/// Time for that.
const DISCARD_WITHIN: Duration = Duration::from_secs(2);

/// Reads the whole body. One that arrived with its head is passed on without a copy.
///
/// # Errors
/// 413 over the largest size (at once when the length is announced), 408 when it is not complete in
/// time, 400 `malformed-request` when the client breaks off, 503 when the bodies on their way take
/// too much memory.
pub(crate) async fn read(
    app: &App,
    headers: &HeaderMap,
    body: &mut (impl Body<Data = Bytes, Error: Error + 'static> + Unpin),
    timer: &mut LazyTimer,
) -> Result<Bytes, Problem> {
    let max_bytes = app.limits.max_body_bytes;
    let announced = headers
        .get(CONTENT_LENGTH)
        .and_then(|value| value.to_str().ok()?.parse::<u64>().ok())
        .map(|length| usize::try_from(length).unwrap_or(usize::MAX));
    if announced.is_some_and(|length| length > max_bytes) {
        return Err(too_large(max_bytes));
    }
    let read = async {
        let mut first = Bytes::new();
        let mut all = BytesMut::new();
        // Nothing is counted of a body that arrives in one piece, as nearly all do.
        let mut held = None;
        let mut hold = |bytes| {
            let held = held.get_or_insert_with(|| app.buffers.begin());
            held.grow(bytes)
        };
        while let Some(frame) = body.frame().await {
            let Ok(data) = frame.map_err(|error| broken_off(&error))?.into_data() else {
                continue;
            };
            if first.len().max(all.len()) + data.len() > max_bytes {
                return Err(too_large(max_bytes));
            }
            if first.is_empty() && all.is_empty() {
                if body.is_end_stream() {
                    return Ok(data);
                }
                hold(data.len())?;
                first = data;
            } else {
                hold(data.len())?;
                if all.is_empty() {
                    // Growing by doubling would take twice what is counted.
                    all.reserve(announced.unwrap_or(0));
                }
                all.extend_from_slice(&std::mem::take(&mut first));
                all.extend_from_slice(&data);
            }
            if body.is_end_stream() {
                break;
            }
        }
        Ok(if all.is_empty() { first } else { all.freeze() })
    };
    timer
        .within(app.limits.body_timeout(), read)
        .await
        .unwrap_or_else(|_| Err(too_late()))
}

/// The same with the timer of the connection.
///
/// # Errors
/// See [`read`].
pub(crate) async fn read_for(
    app: &App,
    connection: &ConnectionState,
    headers: &HeaderMap,
    body: &mut (impl Body<Data = Bytes, Error: Error + 'static> + Unpin),
) -> Result<Bytes, Problem> {
    let mut timer = std::mem::take(&mut *connection.timer.lock());
    let bytes = read(app, headers, body, &mut timer).await;
    *connection.timer.lock() = timer;
    bytes
}

/// Reads on to the end of a body that nobody needs, so that the connection can be used again; tells
/// whether it got there. A client may send a body some time after its head, so without this an early
/// answer would cost it the connection.
///
/// It takes neither a long body nor a slow one, nor one that the client keeps back until it is asked
/// for.
pub(crate) async fn discard(
    headers: &HeaderMap,
    body: &mut (impl Body<Data = Bytes> + Unpin),
) -> bool {
    if body.is_end_stream() {
        return true;
    }
    !headers.contains_key(EXPECT) && run_out(body, MOST_DISCARDED_BYTES).await
}

/// Lets a client send the rest of a body that nobody needs, although it has its answer. Over HTTP/2 what is
/// not read resets the stream, and some clients that are still sending forget the answer then.
pub(crate) fn leave(
    version: Version,
    mut body: impl Body<Data = Bytes, Error: Send> + Unpin + Send + 'static,
) {
    if version == Version::HTTP_2 && !body.is_end_stream() {
        tokio::spawn(async move { run_out(&mut body, LINGER_BYTES).await });
    }
}

/// Reads to the end of a body of at most so many bytes; tells whether it got there.
async fn run_out(body: &mut (impl Body<Data = Bytes> + Unpin), most_bytes: usize) -> bool {
    let fits = |bytes: u64| usize::try_from(bytes).is_ok_and(|bytes| bytes <= most_bytes);
    if !fits(body.size_hint().lower()) {
        return false;
    }
    let rest = async {
        let mut left = most_bytes;
        while let Some(frame) = body.frame().await {
            let Ok(frame) = frame else { return false };
            match left.checked_sub(frame.data_ref().map_or(0, Bytes::len)) {
                Some(less) => left = less,
                None => return false,
            }
            if body.is_end_stream() {
                break;
            }
        }
        true
    };
    let ended = tokio::time::timeout(DISCARD_WITHIN, rest).await;
    ended.unwrap_or(false)
}

fn too_large(max_bytes: usize) -> Problem {
    Problem::new(
        Code::ContentTooLarge,
        format!("a body has at most {max_bytes} bytes"),
    )
}

fn too_late() -> Problem {
    Problem::new(Code::RequestTimeout, "the body was not complete in time")
}

/// Why there is no more of a body.
fn broken_off(error: &(dyn Error + 'static)) -> Problem {
    if is_late(error) {
        return too_late();
    }
    Problem::new(
        Code::MalformedRequest,
        "the body ended early or is not framed as announced",
    )
}

/// Whether the guard of the connection has given the body up. Its time limit is twice the one in here; to
/// a process that stood still for longer than both it may be the first that tells.
fn is_late(error: &(dyn Error + 'static)) -> bool {
    let guard = error.downcast_ref::<io::Error>();
    guard.is_some_and(|error| error.kind() == io::ErrorKind::TimedOut)
        || error.source().is_some_and(is_late)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("error reading a body")]
    struct Reading(#[source] io::Error);

    #[test]
    fn a_body_that_the_guard_gave_up_is_late_and_not_malformed() {
        let code = |kind: io::ErrorKind| broken_off(&Reading(kind.into())).code();
        assert_eq!(code(io::ErrorKind::TimedOut), Code::RequestTimeout);
        assert_eq!(code(io::ErrorKind::UnexpectedEof), Code::MalformedRequest);
        assert_eq!(broken_off(&std::fmt::Error).code(), Code::MalformedRequest);
    }
}
