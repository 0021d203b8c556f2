//! Where a request head ends and how its body is framed, decided strictly.
//!
//! The HTTP library behind this is lenient: it takes `Content-Length` together with
//! `Transfer-Encoding`, lines that end in a bare LF, and requests without `Host`. Two programs that
//! read such a head differently can be played off against each other (request smuggling), so every
//! head passes this scanner first and an ambiguous one never reaches the library.
//!
//! Invariant: for every head that the scanner accepts, it and the library agree on where the body
//! ends.

/// The longest request target in bytes.
pub(crate) const MAX_TARGET_BYTES: usize = 8 * 1024;
/// The most header fields of one request. The library's own limit is the same.
pub(crate) const MAX_FIELDS: usize = 100;

/// How a body is delimited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Framing {
    /// So many bytes follow; 0 when there is no body.
    Length(u64),
    /// Chunks follow.
    Chunked,
}

/// Why a head is refused. The connection cannot be used afterwards.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Violation {
    /// 400: it breaks a rule or is ambiguous.
    Malformed(&'static str),
    /// 431.
    HeadTooLarge,
    /// 414.
    UriTooLong,
    /// 408: its time is up.
    Timeout,
}

/// What is known of a head so far.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Scanned {
    /// More bytes are needed.
    Partial,
    /// The head ends before this offset.
    Complete(usize, Framing),
    /// It must not be answered.
    Refused(Violation),
}

/// Scans one head. Each byte is looked at once, however the head is cut into reads.
#[derive(Debug, Default)]
pub(crate) struct HeadScanner {
    /// Where the line that is not complete yet begins.
    line_start: usize,
    /// Up to where no line end was found.
    searched: usize,
    fields: usize,
    hosts: usize,
    seen_request_line: bool,
    is_http_11: bool,
    content_length: Option<u64>,
    chunked: bool,
}

impl HeadScanner {
    /// Looks at all bytes received of the head, from its first one; earlier calls saw a prefix.
    pub(crate) fn scan(&mut self, head: &[u8], max_bytes: usize) -> Scanned {
        loop {
            let tail = head.get(self.searched..).unwrap_or_default();
            let Some(at) = tail.iter().position(|b| *b == b'\n') else {
                self.searched = head.len();
                return self.check_size(head.len(), max_bytes);
            };
            let end = self.searched + at;
            let line = head.get(self.line_start..end).unwrap_or_default();
            self.line_start = end + 1;
            self.searched = end + 1;
            if let Scanned::Refused(violation) = self.check_size(self.line_start, max_bytes) {
                return Scanned::Refused(violation);
            }
            let Some(line) = line.strip_suffix(b"\r") else {
                return Scanned::Refused(Violation::Malformed(
                    "a line of the head does not end with CR LF",
                ));
            };
            match self.line(line) {
                Err(violation) => return Scanned::Refused(violation),
                Ok(false) => {}
                Ok(true) => {
                    return match self.framing() {
                        Ok(framing) => Scanned::Complete(self.line_start, framing),
                        Err(reason) => Scanned::Refused(Violation::Malformed(reason)),
                    };
                }
            }
        }
    }

    fn check_size(&self, received: usize, max_bytes: usize) -> Scanned {
        // Method and version take 32 bytes at most; the rest of a long first line is the target.
        if !self.seen_request_line && received > (MAX_TARGET_BYTES + 32).min(max_bytes) {
            return Scanned::Refused(Violation::UriTooLong);
        }
        if received > max_bytes {
            return Scanned::Refused(Violation::HeadTooLarge);
        }
        Scanned::Partial
    }

    /// Takes one line without its end; tells whether it ends the head.
    fn line(&mut self, line: &[u8]) -> Result<bool, Violation> {
        if !self.seen_request_line {
            // RFC 9112, section 2.2: empty lines before the request line are ignored.
            if !line.is_empty() {
                self.is_http_11 = request_line(line)?;
                self.seen_request_line = true;
            }
            return Ok(false);
        }
        if line.is_empty() {
            return Ok(true);
        }
        self.fields += 1;
        if self.fields > MAX_FIELDS {
            return Err(Violation::HeadTooLarge);
        }
        self.field(line).map_err(Violation::Malformed)?;
        Ok(false)
    }

    fn field(&mut self, line: &[u8]) -> Result<(), &'static str> {
        let colon = line
            .iter()
            .position(|b| *b == b':')
            .ok_or("a header field has no colon")?;
        let (name, value) = line.split_at_checked(colon).unwrap_or_default();
        if name.is_empty() || !name.iter().all(|b| is_token(*b)) {
            return Err("the name of a header field has a character that it cannot have");
        }
        if value.iter().any(|b| is_control(*b)) {
            return Err("a header field has a control character");
        }
        let value = || value.get(1..).unwrap_or_default().trim_ascii();
        match name.len() {
            4 if name.eq_ignore_ascii_case(b"host") => self.host(value()),
            14 if name.eq_ignore_ascii_case(b"content-length") => self.content_length(value()),
            17 if name.eq_ignore_ascii_case(b"transfer-encoding") => {
                self.transfer_encoding(value())
            }
            _ => Ok(()),
        }
    }

    fn host(&mut self, value: &[u8]) -> Result<(), &'static str> {
        self.hosts += 1;
        if is_authority(value) {
            Ok(())
        } else {
            Err("the Host field is not an authority")
        }
    }

    fn content_length(&mut self, value: &[u8]) -> Result<(), &'static str> {
        let digits = (1..=18).contains(&value.len()) && value.iter().all(u8::is_ascii_digit);
        let length = std::str::from_utf8(value)
            .ok()
            .and_then(|text| text.parse().ok());
        let (true, Some(length)) = (digits, length) else {
            return Err("Content-Length is not a number");
        };
        if self.content_length.replace(length).is_some() {
            return Err("Content-Length appears twice");
        }
        Ok(())
    }

    fn transfer_encoding(&mut self, value: &[u8]) -> Result<(), &'static str> {
        if !value.eq_ignore_ascii_case(b"chunked") {
            return Err("the only Transfer-Encoding that is understood is chunked");
        }
        if std::mem::replace(&mut self.chunked, true) {
            return Err("Transfer-Encoding appears twice");
        }
        Ok(())
    }

    fn framing(&self) -> Result<Framing, &'static str> {
        if self.hosts > 1 {
            return Err("Host appears twice");
        }
        if self.hosts == 0 && self.is_http_11 {
            return Err("the Host field is missing");
        }
        match (self.chunked, self.content_length) {
            (true, Some(_)) => Err("both Content-Length and Transfer-Encoding are present"),
            (true, None) if !self.is_http_11 => Err("HTTP/1.0 has no Transfer-Encoding"),
            (true, None) => Ok(Framing::Chunked),
            (false, length) => Ok(Framing::Length(length.unwrap_or(0))),
        }
    }
}

/// Checks `method SP target SP version`; tells whether the version is 1.1.
fn request_line(line: &[u8]) -> Result<bool, Violation> {
    let malformed = Violation::Malformed("the request line is not `method target version`");
    let mut parts = line.split(|b| *b == b' ');
    let (Some(method), Some(target), Some(version), None) =
        (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err(malformed);
    };
    if method.is_empty() || method.len() > 20 || !method.iter().all(|b| is_token(*b)) {
        return Err(malformed);
    }
    if target.len() > MAX_TARGET_BYTES {
        return Err(Violation::UriTooLong);
    }
    check_target(method, target).map_err(Violation::Malformed)?;
    match version {
        b"HTTP/1.1" => Ok(true),
        b"HTTP/1.0" => Ok(false),
        _ => Err(Violation::Malformed("the HTTP version is not supported")),
    }
}

/// Checks a request target (RFC 9112, section 3.2): what passes here, the library takes as well.
fn check_target(method: &[u8], target: &[u8]) -> Result<(), &'static str> {
    let allowed = |b: &u8| b.is_ascii_graphic() && !b"\"<>#".contains(b);
    let mut parts = target.splitn(2, |b| *b == b'?');
    let path = parts.next().unwrap_or_default();
    if !target.iter().all(allowed) || path.contains(&b'`') {
        return Err("the request target has a character that must be percent-encoded");
    }
    let is_known = match target {
        [b'/', ..] => true,
        b"*" => method == b"OPTIONS",
        _ => is_absolute(target),
    };
    if is_known {
        Ok(())
    } else {
        Err("the request target is neither a path nor the address of one")
    }
}

/// `http://host/path`, as a client writes that takes this node for a proxy. Rare, so the library may
/// read it twice.
fn is_absolute(target: &[u8]) -> bool {
    http::Uri::try_from(target).is_ok_and(|uri| {
        matches!(uri.scheme_str(), Some("http" | "https"))
            && uri.authority().is_some_and(|a| !a.host().is_empty())
    })
}

/// `host [":" port]`, or nothing: what the Host field and `:authority` may say (RFC 9110, section 7.2).
pub(crate) fn is_authority(value: &[u8]) -> bool {
    let in_name = |b: &u8| b.is_ascii_alphanumeric() || b"-._~!$&'()*+;=%".contains(b);
    let is_port = |rest: &[u8]| match rest {
        [] => true,
        [b':', digits @ ..] => digits.iter().all(u8::is_ascii_digit),
        _ => false,
    };
    if let [b'[', address @ ..] = value {
        let Some(end) = address.iter().position(|b| *b == b']') else {
            return false;
        };
        let (address, rest) = address.split_at_checked(end).unwrap_or_default();
        let rest = rest.get(1..).unwrap_or_default();
        let in_address = |b: &u8| *b == b':' || in_name(b);
        return !address.is_empty() && address.iter().all(in_address) && is_port(rest);
    }
    let end = value.iter().position(|b| *b == b':');
    let (name, rest) = value
        .split_at_checked(end.unwrap_or(value.len()))
        .unwrap_or_default();
    name.iter().all(in_name) && is_port(rest)
}

/// The path in a request line, for the problem that refuses the head.
pub(crate) fn target_of(head: &[u8]) -> Option<&str> {
    let line = head.split(|b| *b == b'\n').find(|line| line.len() > 1)?;
    let target = line.split(|b| *b == b' ').nth(1)?;
    let path = target.split(|b| *b == b'?').next()?;
    let plain = path.starts_with(b"/") && path.len() <= 1024;
    let text = std::str::from_utf8(path).ok()?;
    (plain && text.bytes().all(|b| b.is_ascii_graphic())).then_some(text)
}

/// `tchar` of RFC 9110, section 5.6.2.
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// Characters that a field value cannot have.
fn is_control(byte: u8) -> bool {
    (byte < 0x20 && byte != b'\t') || byte == 0x7f
}

#[cfg(test)]
mod tests;
