//! Follows a chunked body to its end without decoding it.
//!
//! It accepts only the plain form of RFC 9112, section 7.1, so that it cannot disagree with the
//! decoder behind it about where the body ends. Chunk extensions and trailers are stepped over.

/// Longest line of a size with extensions, and of all trailers together, in bytes.
const MAX_LINE_BYTES: usize = 4 * 1024;

/// Where in a chunked body we are.
#[derive(Debug, Default)]
pub(crate) struct ChunkTracker {
    state: State,
    /// Bytes of the present line, or of the trailers.
    line_bytes: usize,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Nothing of the size yet.
    #[default]
    SizeStart,
    /// Digits of the size.
    Size(u64),
    /// After `;`, up to the CR.
    Extension(u64),
    /// The LF after a size line.
    SizeLf(u64),
    /// So many bytes of data, at least one.
    Data(u64),
    /// The CR after data.
    DataCr,
    /// The LF after data.
    DataLf,
    /// The start of a trailer line, or of the last line.
    TrailerStart,
    /// Within a trailer line.
    Trailer,
    /// The LF after a trailer line.
    TrailerLf,
    /// The last LF.
    EndLf,
}

/// The body is not in the plain form.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct BadChunk;

impl ChunkTracker {
    /// Steps over bytes of the body. Gives how many of them belong to it once it has ended,
    /// `None` while it goes on.
    ///
    /// # Errors
    /// [`BadChunk`]: nothing after this can be trusted.
    pub(crate) fn advance(&mut self, bytes: &[u8]) -> Result<Option<usize>, BadChunk> {
        let mut at = 0;
        while let Some(byte) = bytes.get(at) {
            if let State::Data(left) = self.state {
                let here = u64::try_from(bytes.len() - at)
                    .unwrap_or(u64::MAX)
                    .min(left);
                at += usize::try_from(here).unwrap_or(usize::MAX);
                self.state = if here == left {
                    State::DataCr
                } else {
                    State::Data(left - here)
                };
                continue;
            }
            at += 1;
            if self.step(*byte)? {
                return Ok(Some(at));
            }
        }
        Ok(None)
    }

    /// Takes one byte outside of data; tells whether it was the last of the body.
    fn step(&mut self, byte: u8) -> Result<bool, BadChunk> {
        self.line_bytes += 1;
        if self.line_bytes > MAX_LINE_BYTES {
            return Err(BadChunk);
        }
        let plain = byte >= 0x20 && byte != 0x7f || byte == b'\t';
        self.state = match (self.state, byte) {
            (State::SizeStart, _) => State::Size(hex(byte).ok_or(BadChunk)?),
            (State::Size(n) | State::Extension(n), b'\r') => State::SizeLf(n),
            (State::Size(n), b';') => State::Extension(n),
            (State::Size(n), _) if n < 1 << 48 => State::Size(n * 16 + hex(byte).ok_or(BadChunk)?),
            (State::Extension(n), _) if plain => State::Extension(n),
            (State::SizeLf(0), b'\n') => State::TrailerStart,
            (State::SizeLf(n), b'\n') => State::Data(n),
            (State::DataCr, b'\r') => State::DataLf,
            (State::DataLf, b'\n') => {
                self.line_bytes = 0;
                State::SizeStart
            }
            (State::TrailerStart, b'\r') => State::EndLf,
            (State::TrailerStart | State::Trailer, _) if plain => State::Trailer,
            (State::Trailer, b'\r') => State::TrailerLf,
            (State::TrailerLf, b'\n') => State::TrailerStart,
            (State::EndLf, b'\n') => return Ok(true),
            _ => return Err(BadChunk),
        };
        if matches!(self.state, State::Data(_)) {
            self.line_bytes = 0;
        }
        Ok(false)
    }
}

fn hex(byte: u8) -> Option<u64> {
    char::from(byte).to_digit(16).map(u64::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn whole(body: &[u8]) -> Result<Option<usize>, BadChunk> {
        ChunkTracker::default().advance(body)
    }

    #[test]
    fn the_end_is_found_and_what_follows_is_left() {
        let body = b"3\r\nabc\r\nA;x=y\r\n0123456789\r\n0\r\n\r\n";
        assert_eq!(whole(body), Ok(Some(body.len())));
        let mut longer = body.to_vec();
        longer.extend_from_slice(b"GET /");
        assert_eq!(whole(&longer), Ok(Some(body.len())));
        let trailers = b"0\r\nA: b\r\nC: d\r\n\r\n";
        assert_eq!(whole(trailers), Ok(Some(trailers.len())));
    }

    #[test]
    fn cuts_do_not_change_the_result() {
        let body = b"3\r\nabc\r\n11;x\r\n0123456789abcdefg\r\n0\r\nA: b\r\n\r\n";
        let mut tracker = ChunkTracker::default();
        for (at, byte) in body.iter().enumerate() {
            let ended = tracker.advance(&[*byte]).unwrap();
            assert_eq!(ended.is_some(), at + 1 == body.len(), "{at}");
        }
    }

    #[test]
    fn anything_but_the_plain_form_is_refused() {
        for bad in [
            &b"\r\n"[..],
            b"x\r\n",
            b" 3\r\nabc\r\n",
            b"3 \r\nabc\r\n",
            b"3\nabc\n",
            b"3\r\nabcd\r\n",
            b"3\r\nabc\n",
            b"-1\r\n",
            b"0x3\r\nabc\r\n",
            b"fffffffffffffffff\r\n",
            b"3;a\nb\r\nabc\r\n",
            b"0\r\nA\nB\r\n\r\n",
        ] {
            assert_eq!(whole(bad), Err(BadChunk), "{bad:?}");
        }
        let endless = [b'a'; MAX_LINE_BYTES];
        assert_eq!(whole(&[b"1;", &endless[..]].concat()), Err(BadChunk));
    }
}
