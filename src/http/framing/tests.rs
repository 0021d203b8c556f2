//! Heads that agree with the rules, and all the ways not to.

use super::*;

const LIMIT: usize = 32 * 1024;

fn scan(head: &str) -> Scanned {
    HeadScanner::default().scan(head.as_bytes(), LIMIT)
}

fn is_malformed(head: &str) -> bool {
    matches!(scan(head), Scanned::Refused(Violation::Malformed(_)))
}

#[test]
fn a_head_ends_at_its_empty_line() {
    let head = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
    assert_eq!(
        scan(head),
        Scanned::Complete(head.len(), Framing::Length(0))
    );
    let two = format!("{head}GET /next");
    assert_eq!(
        scan(&two),
        Scanned::Complete(head.len(), Framing::Length(0))
    );
    let led = format!("\r\n\r\n{head}");
    assert_eq!(scan(&led), Scanned::Complete(led.len(), Framing::Length(0)));
    let old = "GET / HTTP/1.0\r\n\r\n";
    assert_eq!(scan(old), Scanned::Complete(old.len(), Framing::Length(0)));
}

#[test]
fn the_body_is_framed_one_way() {
    let with = |fields: &str| format!("POST / HTTP/1.1\r\nHost: a\r\n{fields}\r\n");
    let length = with("content-LENGTH:  12 \r\n");
    assert_eq!(
        scan(&length),
        Scanned::Complete(length.len(), Framing::Length(12))
    );
    let chunked = with("Transfer-Encoding: Chunked\r\n");
    assert_eq!(
        scan(&chunked),
        Scanned::Complete(chunked.len(), Framing::Chunked)
    );
    for bad in [
        "Content-Length: 1\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: chunked\r\nContent-Length: 1\r\n",
        "Content-Length: 1\r\nContent-Length: 1\r\n",
        "Content-Length: 1, 1\r\n",
        "Content-Length: +1\r\n",
        "Content-Length: -1\r\n",
        "Content-Length: 0x1\r\n",
        "Content-Length:\r\n",
        "Content-Length: 99999999999999999999\r\n",
        "Transfer-Encoding: gzip, chunked\r\n",
        "Transfer-Encoding: identity\r\n",
        "Transfer-Encoding:\r\n",
        "Transfer-Encoding: xchunked\r\n",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding : chunked\r\n",
        "Content-Length: 1\r\n 2\r\n",
        "X: a\0b\r\n",
        "X: a\rb\r\n",
        ": x\r\n",
        "no colon\r\n",
        "Host: b\r\n",
        "X: y\nZ: w\r\n",
    ] {
        assert!(is_malformed(&with(bad)), "{bad:?}");
    }
    assert!(is_malformed(
        "POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n"
    ));
}

#[test]
fn the_request_line_and_host_are_strict() {
    for bad in [
        "GET / HTTP/1.1\r\n\r\n",
        "GET / HTTP/1.1\nHost: a\n\n",
        "GET / HTTP/1.1\r\nHost: a b\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a,b\r\n\r\n",
        "GET  / HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET / HTTP/2.0\r\nHost: a\r\n\r\n",
        "GET /\r\nHost: a\r\n\r\n",
        "G\u{1}T / HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET /\u{e9} HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET /a\tb HTTP/1.1\r\nHost: a\r\n\r\n",
        " / HTTP/1.1\r\nHost: a\r\n\r\n",
    ] {
        assert!(is_malformed(bad), "{bad:?}");
    }
}

#[test]
fn an_authority_is_a_host_and_perhaps_a_port() {
    for good in [
        "",
        "a",
        "a:",
        "a:80",
        "127.0.0.1:8080",
        "[::1]",
        "[::1]:80",
        "x%41-_.~",
    ] {
        assert!(is_authority(good.as_bytes()), "{good}");
    }
    for bad in [
        "a:b", "a:8 0", "a:80:81", "::1", "[::1", "[]", "[::1]80", "[::1]:x", "u@a", "a/b", "a]",
        "a,b", "a b", "a:-1", "\u{e4}",
    ] {
        assert!(!is_authority(bad.as_bytes()), "{bad}");
        let head = format!("GET / HTTP/1.1\r\nHost: {bad}\r\n\r\n");
        assert!(is_malformed(&head), "{bad}");
    }
}

#[test]
fn sizes_are_bounded_before_the_head_is_complete() {
    let target = "x".repeat(MAX_TARGET_BYTES + 1);
    let refused = |head: &str| match scan(head) {
        Scanned::Refused(violation) => Some(violation),
        Scanned::Partial | Scanned::Complete(..) => None,
    };
    assert_eq!(
        refused(&format!("GET /{target} HTTP/1.1\r\n")),
        Some(Violation::UriTooLong)
    );
    let endless = "x".repeat(MAX_TARGET_BYTES * 2);
    assert_eq!(
        refused(&format!("GET /{endless}")),
        Some(Violation::UriTooLong)
    );
    let long = "x".repeat(LIMIT);
    let head = format!("GET / HTTP/1.1\r\nHost: a\r\nX: {long}");
    assert_eq!(refused(&head), Some(Violation::HeadTooLarge));
    let many = "X: y\r\n".repeat(MAX_FIELDS);
    let head = format!("GET / HTTP/1.1\r\nHost: a\r\n{many}");
    assert_eq!(refused(&head), Some(Violation::HeadTooLarge));
}

#[test]
fn cuts_do_not_change_the_result() {
    let head = b"POST /v1/x HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nX: y\r\n\r\n";
    let mut scanner = HeadScanner::default();
    for end in 0..head.len() {
        assert_eq!(scanner.scan(&head[..end], LIMIT), Scanned::Partial, "{end}");
    }
    let done = Scanned::Complete(head.len(), Framing::Length(3));
    assert_eq!(scanner.scan(head, LIMIT), done);
}

#[test]
fn the_path_is_found_for_the_problem() {
    assert_eq!(target_of(b"\r\nGET /a?b=c HTTP/1.1\r\n"), Some("/a"));
    for none in [
        &b"GET"[..],
        b"",
        b"GET * HTTP/1.1\r\n",
        b"GET /\xff HTTP/1.1\r\n",
    ] {
        assert_eq!(target_of(none), None);
    }
}
