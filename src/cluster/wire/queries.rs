//! What nodes ask one another on behalf of clients about read models.
//!
//! A request travels as the client sent it, with those of its headers that count, and the answer as
//! the client gets it: so it is the same byte for byte wherever it was asked for.
//!
//! ```text
//! envelope (codec) | status, headers | body
//! ```

use bytes::Bytes;
use phalanx_actors::codec::{self, HEADER_LEN, ValueType};
use serde::{Deserialize, Serialize};

use super::{WireError, open, seal};

/// The version of the protocol between nodes with which read models can be asked for. It is one that
/// was never released without.
pub const QUERIES_SINCE: u32 = 2;

/// A name and its value, which may be any bytes.
pub type Header = (String, Vec<u8>);

/// A client's request to read models.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueryQuestion {
    /// Whether it is a POST; otherwise it is a GET.
    pub posts: bool,
    /// Path and query.
    pub target: String,
    /// Those that count.
    pub headers: Vec<Header>,
    /// For how long the client has been waiting already.
    pub waited_ms: u32,
    /// Within which time there must be an answer.
    pub time_left_ms: u32,
}

/// The answer to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueryAnswer {
    /// As HTTP has it.
    pub status: u16,
    /// Those that count.
    pub headers: Vec<Header>,
    /// As HTTP has it.
    pub body: Bytes,
}

#[derive(Serialize, Deserialize)]
struct Head {
    status: u16,
    headers: Vec<Header>,
}

/// Writes an answer.
///
/// # Errors
/// When it is longer than a message can be.
pub fn query_answer(answer: &QueryAnswer) -> Result<Bytes, WireError> {
    let head = Head {
        status: answer.status,
        headers: answer.headers.clone(),
    };
    seal(ValueType::Housekeeping, 256 + answer.body.len(), |out| {
        codec::append(out, &head)?;
        out.extend_from_slice(&answer.body);
        Ok(())
    })
}

/// Reads an answer. Its body shares the memory of the message.
///
/// # Errors
/// See [`WireError`].
pub fn read_query_answer(message: &Bytes) -> Result<QueryAnswer, WireError> {
    let payload = open(ValueType::Housekeeping, message)?;
    let (head, rest): (Head, _) = codec::take_borrowed(payload)?;
    let end = HEADER_LEN + payload.len();
    Ok(QueryAnswer {
        status: head.status,
        headers: head.headers,
        body: message.slice(end - rest.len()..end),
    })
}

#[cfg(test)]
mod tests {
    use super::super::golden::Golden;
    use super::super::{housekeeping, read_housekeeping};
    use super::*;

    #[test]
    fn queries_of_version_2() {
        let mut golden = Golden::version(2);
        for posts in [false, true] {
            let question = QueryQuestion {
                posts,
                target: "/v1/views/accounts/a-1?after=6:2&wait=2s".to_owned(),
                headers: vec![("prefer".to_owned(), b"wait=2".to_vec())],
                waited_ms: 300,
                time_left_ms: 9_700,
            };
            let name = if posts { "query.ask.post" } else { "query.ask" };
            let stored = golden.check(name, &housekeeping(&question).unwrap());
            assert_eq!(
                read_housekeeping::<QueryQuestion>(&stored).unwrap(),
                question
            );
        }
        for body in [&b"{\"id\":\"a-1\"}"[..], b""] {
            let answer = QueryAnswer {
                status: 504,
                headers: vec![("content-type".to_owned(), b"application/json".to_vec())],
                body: Bytes::from_static(body),
            };
            let name = if body.is_empty() {
                "query.answer.empty"
            } else {
                "query.answer"
            };
            let stored = golden.check(name, &query_answer(&answer).unwrap());
            assert_eq!(read_query_answer(&stored).unwrap(), answer);
        }
        golden.end();
    }

    #[test]
    fn an_answer_that_is_cut_short_is_none() {
        let answer = QueryAnswer {
            status: 200,
            headers: Vec::new(),
            body: Bytes::from_static(b"rows"),
        };
        let message = query_answer(&answer).unwrap();
        for len in 0..message.len() {
            assert!(read_query_answer(&message.slice(..len)).is_err(), "{len}");
        }
    }
}
