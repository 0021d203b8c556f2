//! Memory that clients can make the node hold outside of the command model: bodies that arrive in
//! pieces, and answers that nobody takes.
//!
//! The command model's permits cover a request from its complete body to its answer. Before and
//! after, a client decides how long the bytes stay, so they are counted here. Invariant: what is
//! held together never exceeds the limit, except that a single one is always let in, however large,
//! or it could never be.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;

use super::code::Code;
use super::problem::Problem;

/// Answers up to this size are not counted: connections and streams bound them well enough.
pub(crate) const SMALL_ANSWER_BYTES: usize = 16 * 1024;

/// Counts what is held.
#[derive(Debug)]
pub(crate) struct Buffers {
    limit: usize,
    held: AtomicUsize,
}

/// Bytes that are counted until this is dropped.
#[derive(Debug)]
pub(crate) struct Held {
    buffers: Arc<Buffers>,
    bytes: usize,
}

impl Buffers {
    /// Holds nothing yet.
    pub(crate) fn new(limit: usize) -> Arc<Self> {
        let held = AtomicUsize::new(0);
        Arc::new(Self { limit, held })
    }

    /// Begins to hold something that may grow.
    pub(crate) fn begin(self: &Arc<Self>) -> Held {
        Held {
            buffers: Arc::clone(self),
            bytes: 0,
        }
    }

    /// Counts an answer until the client has taken it or is gone.
    ///
    /// # Errors
    /// 503 `overloaded`.
    pub(crate) fn answer(self: &Arc<Self>, body: Bytes) -> Result<Bytes, Problem> {
        if body.len() <= SMALL_ANSWER_BYTES {
            return Ok(body);
        }
        let mut held = self.begin();
        held.grow(body.len())?;
        Ok(Bytes::from_owner(HeldAnswer { body, _held: held }))
    }

    /// The same of an answer that must be given, because something was done.
    pub(crate) fn answer_anyway(self: &Arc<Self>, body: Bytes) -> Bytes {
        if body.len() <= SMALL_ANSWER_BYTES {
            return body;
        }
        let mut held = self.begin();
        held.bytes = body.len();
        self.held.fetch_add(held.bytes, Ordering::AcqRel);
        Bytes::from_owner(HeldAnswer { body, _held: held })
    }
}

impl Held {
    /// Counts more bytes.
    ///
    /// # Errors
    /// 503 `overloaded`; what was held before is still counted.
    pub(crate) fn grow(&mut self, bytes: usize) -> Result<(), Problem> {
        let Buffers { limit, held } = &*self.buffers;
        let before = held.fetch_add(bytes, Ordering::AcqRel);
        self.bytes += bytes;
        let others = before + bytes - self.bytes;
        if others > 0 && before + bytes > *limit {
            held.fetch_sub(bytes, Ordering::AcqRel);
            self.bytes -= bytes;
            return Err(Problem::new(
                Code::Overloaded,
                "bodies and answers on their way occupy as much memory as the node allows",
            ));
        }
        Ok(())
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.buffers.held.fetch_sub(self.bytes, Ordering::AcqRel);
    }
}

struct HeldAnswer {
    body: Bytes,
    _held: Held,
}

impl AsRef<[u8]> for HeldAnswer {
    fn as_ref(&self) -> &[u8] {
        &self.body
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_held_is_bounded_and_given_back() {
        let buffers = Buffers::new(100);
        let (mut first, mut second) = (buffers.begin(), buffers.begin());
        first.grow(60).unwrap();
        second.grow(40).unwrap();
        assert!(first.grow(1).is_err() && second.grow(1).is_err());
        drop(second);
        first.grow(40).unwrap();
        drop(first);
        assert_eq!(buffers.held.load(Ordering::Acquire), 0);
    }

    #[test]
    fn one_alone_may_be_larger_than_the_limit() {
        let buffers = Buffers::new(100);
        let mut alone = buffers.begin();
        alone.grow(60).unwrap();
        alone.grow(60).unwrap();
        assert!(buffers.begin().grow(1).is_err());
    }

    #[test]
    fn an_answer_is_held_until_its_last_part_is_gone() {
        let buffers = Buffers::new(SMALL_ANSWER_BYTES);
        let body = Bytes::from(vec![7; SMALL_ANSWER_BYTES + 1]);
        let answer = buffers.answer(body.clone()).unwrap();
        assert_eq!(answer, body);
        assert!(buffers.answer(body.clone()).is_err());
        assert!(buffers.answer(body.slice(1..)).is_ok(), "a small one");
        let part = answer.slice(5..10);
        drop(answer);
        assert!(buffers.answer(body.clone()).is_err());
        drop(part);
        assert!(buffers.answer(body).is_ok());
    }
}
