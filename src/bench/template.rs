//! A request that is rendered once and patched before each send.
//!
//! It owns the bytes and the places that change: the aggregate's number, an amount, a retry key.
//! Every changing place has a fixed width, so that patching never moves a byte and never allocates.

use std::ops::Range;

/// Digits of an aggregate's number in its id.
pub(super) const NUMBER_DIGITS: usize = 8;
/// Digits of the amount that `{amount}` stands for.
const AMOUNT_DIGITS: usize = 3;
/// Digits of the counter at the end of a retry key.
const COUNTER_DIGITS: usize = 16;

/// What a template is made of.
#[derive(Debug, Clone, Copy)]
pub(super) struct Shape<'a> {
    /// The `Host` header.
    pub(super) host: &'a str,
    /// The aggregate type.
    pub(super) aggregate_type: &'a str,
    /// What ids begin with.
    pub(super) prefix: &'a str,
    /// What retry keys begin with; `None` sends no key.
    pub(super) key_prefix: Option<&'a str>,
    /// The length of `{pad}`.
    pub(super) payload_bytes: usize,
}

/// A request with holes.
#[derive(Debug, Clone)]
pub(super) struct Template {
    bytes: Vec<u8>,
    number: Range<usize>,
    amount: Option<Range<usize>>,
    counter: Option<Range<usize>>,
}

impl Template {
    /// A command with a JSON body.
    pub(super) fn command(shape: Shape<'_>, command: &str, body: &str) -> Self {
        let (body, amount_in_body) = render_body(body, shape.payload_bytes);
        let mut bytes = Vec::with_capacity(256 + body.len());
        let line = format!("POST /v1/aggregates/{}/", shape.aggregate_type);
        let number = begin(&mut bytes, shape, &line);
        bytes.extend_from_slice(format!("/commands/{command} HTTP/1.1\r\n").as_bytes());
        bytes.extend_from_slice(format!("Host: {}\r\n", shape.host).as_bytes());
        bytes.extend_from_slice(b"Content-Type: application/json\r\n");
        bytes.extend_from_slice(format!("Content-Length: {}\r\n", body.len()).as_bytes());
        let counter = shape.key_prefix.map(|prefix| {
            bytes.extend_from_slice(format!("Idempotency-Key: {prefix}").as_bytes());
            let counter = hole(&mut bytes, COUNTER_DIGITS);
            bytes.extend_from_slice(b"\r\n");
            counter
        });
        bytes.extend_from_slice(b"\r\n");
        let body_at = bytes.len();
        bytes.extend_from_slice(&body);
        let amount = amount_in_body.map(|at| body_at + at..body_at + at + AMOUNT_DIGITS);
        Self {
            bytes,
            number,
            amount,
            counter,
        }
    }

    /// A fresh read that says why it is justified.
    pub(super) fn read(shape: Shape<'_>, justification: &str) -> Self {
        let line = format!("GET /v1/aggregates/{}/", shape.aggregate_type);
        let why = format!("Phalanx-Justification: {justification}\r\n");
        Self::get(shape, &line, &why)
    }

    /// A query for the row of a view whose key is the aggregate's id.
    pub(super) fn row(shape: Shape<'_>, view: &str) -> Self {
        Self::get(shape, &format!("GET /v1/views/{view}/"), "")
    }

    fn get(shape: Shape<'_>, line: &str, header: &str) -> Self {
        let mut bytes = Vec::with_capacity(256);
        let number = begin(&mut bytes, shape, line);
        let rest = format!(" HTTP/1.1\r\nHost: {}\r\n{header}\r\n", shape.host);
        bytes.extend_from_slice(rest.as_bytes());
        Self {
            bytes,
            number,
            amount: None,
            counter: None,
        }
    }

    /// Fills the holes and returns the request. `amount` must have three digits.
    pub(super) fn patch(&mut self, number: u64, amount: u64, counter: u64) -> &[u8] {
        put_decimal(self.bytes.get_mut(self.number.clone()), number);
        if let Some(hole) = &self.amount {
            put_decimal(self.bytes.get_mut(hole.clone()), amount);
        }
        if let Some(hole) = &self.counter {
            put_decimal(self.bytes.get_mut(hole.clone()), counter);
        }
        &self.bytes
    }
}

/// Writes the request line up to the aggregate's number.
fn begin(bytes: &mut Vec<u8>, shape: Shape<'_>, line: &str) -> Range<usize> {
    bytes.extend_from_slice(line.as_bytes());
    bytes.extend_from_slice(shape.prefix.as_bytes());
    hole(bytes, NUMBER_DIGITS)
}

/// Reserves digits.
fn hole(bytes: &mut Vec<u8>, digits: usize) -> Range<usize> {
    let start = bytes.len();
    bytes.resize(start + digits, b'0');
    start..start + digits
}

/// Replaces `{pad}` by characters and the first `{amount}` by a hole.
fn render_body(body: &str, payload_bytes: usize) -> (Vec<u8>, Option<usize>) {
    let padded = body.replace("{pad}", &"x".repeat(payload_bytes));
    let amount = padded.find("{amount}");
    (padded.replacen("{amount}", "100", 1).into_bytes(), amount)
}

/// Writes a number right aligned with leading zeros.
pub(super) fn put_decimal(slot: Option<&mut [u8]>, mut value: u64) {
    for digit in slot.into_iter().flatten().rev() {
        // The remainder is below ten.
        *digit = b'0' + (value % 10) as u8;
        value /= 10;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHAPE: Shape<'static> = Shape {
        host: "h:1",
        aggregate_type: "account",
        prefix: "a-",
        key_prefix: Some("k-"),
        payload_bytes: 4,
    };

    #[test]
    fn a_command_has_its_holes_filled() {
        let mut template = Template::command(
            SHAPE,
            "Deposit",
            r#"{"amount_cents":{amount},"note":"{pad}"}"#,
        );
        template.patch(99_999_999, 555, u64::MAX);
        let text = String::from_utf8(template.patch(42, 123, 7).to_vec()).unwrap();
        assert_eq!(
            text,
            "POST /v1/aggregates/account/a-00000042/commands/Deposit HTTP/1.1\r\nHost: h:1\r\n\
             Content-Type: application/json\r\nContent-Length: 34\r\n\
             Idempotency-Key: k-0000000000000007\r\n\r\n{\"amount_cents\":123,\"note\":\"xxxx\"}"
        );
    }

    #[test]
    fn a_read_says_why() {
        let text = String::from_utf8(Template::read(SHAPE, "operator").patch(1, 0, 0).to_vec());
        assert_eq!(
            text.unwrap(),
            "GET /v1/aggregates/account/a-00000001 HTTP/1.1\r\nHost: h:1\r\n\
             Phalanx-Justification: operator\r\n\r\n"
        );
    }
    #[test]
    fn a_row_is_asked_for_by_the_id() {
        let text = String::from_utf8(Template::row(SHAPE, "accounts").patch(1, 0, 0).to_vec());
        assert_eq!(
            text.unwrap(),
            "GET /v1/views/accounts/a-00000001 HTTP/1.1\r\nHost: h:1\r\n\r\n"
        );
    }
}
