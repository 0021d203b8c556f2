//! The part of HTTP/1.1 that the generator reads: a status, a length, and whether to go on.
//!
//! It refuses to allocate for a good answer and to understand more than it needs: a reply without
//! a length is an error, not a guess.

use thiserror::Error;

/// Where a reply's head ends and its body, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Head {
    /// The status code.
    pub(super) status: u16,
    /// The length of the head with its empty line.
    pub(super) head_len: usize,
    /// The length of the body.
    pub(super) body_len: usize,
    /// The server closes the connection after this reply.
    pub(super) close: bool,
}

/// A reply that the generator cannot read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub(super) enum BadResponse {
    /// The first line is not an HTTP/1 status line.
    #[error("the status line is not HTTP/1")]
    StatusLine,
    /// Neither a length nor a status that has no body.
    #[error("the reply has no Content-Length")]
    NoLength,
    /// A length that is not a number.
    #[error("the Content-Length is not a number")]
    BadLength,
}

/// Reads a reply's head; `None` when it is not complete yet.
pub(super) fn parse_head(bytes: &[u8]) -> Result<Option<Head>, BadResponse> {
    let mut head = Head {
        status: 0,
        head_len: 0,
        body_len: 0,
        close: false,
    };
    let mut has_length = false;
    for line in bytes.split_inclusive(|&byte| byte == b'\n') {
        if line.last() != Some(&b'\n') {
            return Ok(None);
        }
        let is_first = head.head_len == 0;
        head.head_len += line.len();
        if is_first {
            head.status = parse_status(line)?;
            continue;
        }
        match line.first() {
            Some(b'\r' | b'\n') => {
                let bodiless = matches!(head.status, 204 | 304);
                if !has_length && !bodiless {
                    return Err(BadResponse::NoLength);
                }
                if bodiless {
                    head.body_len = 0;
                }
                return Ok(Some(head));
            }
            Some(b'c' | b'C') => {
                if let Some(value) = value_of(line, b"content-length:") {
                    head.body_len = parse_number(value)?;
                    has_length = true;
                } else if let Some(value) = value_of(line, b"connection:") {
                    head.close |= value.eq_ignore_ascii_case(b"close");
                }
            }
            _ => {}
        }
    }
    Ok(None)
}

/// The text of a string field in a flat part of a JSON body, such as a problem's `code`.
pub(super) fn json_text<'a>(body: &'a [u8], field: &str) -> Option<&'a str> {
    let body = std::str::from_utf8(body).ok()?;
    let (_, rest) = body.split_once(&format!("\"{field}\":"))?;
    let (text, _) = rest.trim_start().strip_prefix('"')?.split_once('"')?;
    Some(text)
}

fn parse_status(line: &[u8]) -> Result<u16, BadResponse> {
    let digits = line
        .strip_prefix(b"HTTP/1.")
        .and_then(|rest| rest.get(2..5));
    let number = digits
        .map(parse_number)
        .transpose()
        .map_err(|_| BadResponse::StatusLine)?;
    number
        .and_then(|status| u16::try_from(status).ok())
        .ok_or(BadResponse::StatusLine)
}

/// The trimmed value of a header line whose lower-case name (with its colon) is `name`.
fn value_of<'a>(line: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    let (start, value) = line.split_at_checked(name.len())?;
    start.eq_ignore_ascii_case(name).then(|| value.trim_ascii())
}

fn parse_number(digits: &[u8]) -> Result<usize, BadResponse> {
    std::str::from_utf8(digits)
        .ok()
        .and_then(|text| text.parse().ok())
        .ok_or(BadResponse::BadLength)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_whole_head_is_read_and_every_shorter_one_waits() {
        let text = b"HTTP/1.1 201 Created\r\netag: \"3\"\r\nContent-Length: 12\r\n\r\nhello world!";
        let head = parse_head(text).unwrap().unwrap();
        assert_eq!(
            head,
            Head {
                status: 201,
                head_len: 55,
                body_len: 12,
                close: false
            }
        );
        for cut in 0..head.head_len {
            assert_eq!(parse_head(&text[..cut]), Ok(None), "cut at {cut}");
        }
    }

    #[test]
    fn replies_without_a_length_are_refused() {
        let chunked = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
        assert_eq!(parse_head(chunked), Err(BadResponse::NoLength));
        assert_eq!(
            parse_head(b"HTTP/1.1 200 OK\r\ncontent-length: x\r\n"),
            Err(BadResponse::BadLength)
        );
        assert_eq!(
            parse_head(b"SSH-2.0-OpenSSH\r\n"),
            Err(BadResponse::StatusLine)
        );
        let not_modified = parse_head(b"HTTP/1.1 304 Not Modified\r\nconnection: close\r\n\r\n");
        assert!(not_modified.unwrap().unwrap().close);
    }

    #[test]
    fn codes_are_found_in_problems() {
        let body = br#"{"type":"/problems/overloaded","code": "overloaded","status":503}"#;
        assert_eq!(json_text(body, "code"), Some("overloaded"));
        assert_eq!(json_text(body, "rejection"), None);
    }
}
