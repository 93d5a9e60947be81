//! The requests that a server must not guess about, in one table: bytes, and the status that
//! refuses them. Among them are their harmless neighbours, which must pass (200).
//!
//! Every row arrives whole, one byte at a time and in random pieces, and always with the same
//! result, down to the words.

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::{BodyProgress, Connection};
use crate::limits::{
    CHUNK_LINE_BYTES_MAX, HEADER_BYTES_MAX, HEADERS_MAX, READ_BYTES, TARGET_BYTES_MAX,
    TRAILER_BYTES_MAX,
};
use crate::wire::request::{Refusal, parse_head};

type Row = (Vec<u8>, u16);

fn row(bytes: impl AsRef<[u8]>, status: u16) -> Row {
    (bytes.as_ref().to_vec(), status)
}

/// A request with this request line.
fn line(line: &str, status: u16) -> Row {
    row(format!("{line}\r\nHost: h\r\n\r\n"), status)
}

/// A GET for this target.
fn target(target: &str, status: u16) -> Row {
    line(&format!("GET {target} HTTP/1.1"), status)
}

/// A POST with these field lines, and this body.
fn post(fields: &str, body: &str, status: u16) -> Row {
    row(format!("POST /runs HTTP/1.1\r\nHost: h\r\n{fields}\r\n\r\n{body}"), status)
}

/// A POST with this chunked body.
fn chunked(body: &str, status: u16) -> Row {
    post("Transfer-Encoding: chunked", body, status)
}

/// A request with these field lines, that has no other.
fn fields(version: &str, fields: &str, status: u16) -> Row {
    row(format!("GET / {version}\r\n{fields}\r\n"), status)
}

fn table() -> Vec<Row> {
    let long = |bytes: usize| "x".repeat(bytes);
    vec![
        // Lines end in CRLF, and only there (RFC 9112 §2.2).
        row("GET / HTTP/1.1\nHost: h\n\n", 400),
        row("GET / HTTP/1.1\r\nHost: h\n\r\n", 400),
        row("GET / HTTP/1.1\r\nHost: h\r\n\n", 400),
        row("GET / HTTP/1.1\rHost: h\r\r", 400),
        row("GET / HTTP/1.1\r\nHost: h\r\r\n\r\n", 400),
        row("GET / HTTP/1.1\r\nHost: h\r\nA: b\rc\r\n\r\n", 400),
        row("\r\nGET / HTTP/1.1\r\nHost: h\r\n\r\n", 200),
        row("\r\n\r\nGET / HTTP/1.1\r\nHost: h\r\n\r\n", 400),
        row("\nGET / HTTP/1.1\r\nHost: h\r\n\r\n", 400),
        row("\rGET / HTTP/1.1\r\nHost: h\r\n\r\n", 400),
        // The request line (RFC 9112 §3).
        line("GET / HTTP/1.1", 200),
        line("GET  / HTTP/1.1", 400),
        line("GET /  HTTP/1.1", 400),
        line("GET / HTTP/1.1 ", 400),
        line(" GET / HTTP/1.1", 400),
        line("GET\t/\tHTTP/1.1", 400),
        line("GET /a b HTTP/1.1", 400),
        line("GET /", 400),
        line("GET", 400),
        line("G{T / HTTP/1.1", 400),
        line("GET /\u{fc} HTTP/1.1", 400),
        line("GET /\u{7f} HTTP/1.1", 400),
        line("GET /\u{1} HTTP/1.1", 400),
        line("get / HTTP/1.1", 200),
        line("BREW / HTTP/1.1", 200),
        row(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400),
        // Versions (RFC 9110 §2.5).
        row("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
        line("GET / HTTP/2.0", 505),
        line("GET / HTTP/3.0", 505),
        line("GET / HTTP/0.9", 505),
        line("GET / HTTP/1.2", 200),
        line("GET / HTTP/1", 400),
        line("GET / HTTP/1.10", 400),
        line("GET / HTTP/11.1", 400),
        line("GET / http/1.1", 400),
        line("GET / HTTP/1,1", 400),
        line("GET / ICY/1.1", 400),
        // The target (RFC 9112 §3.2, RFC 3986).
        target("/runs/1/events/stream?types=A,B&after_id=now", 200),
        target("/a%2Fb/%c3%bc?q=%20+", 200),
        target("http://h/a", 200),
        target("http://h", 200),
        target("http:///a", 400),
        target("http://u:p@h/a", 400),
        target("ftp://h/a", 400),
        target("h:80", 400),
        target("a", 400),
        target("*", 400),
        line("OPTIONS * HTTP/1.1", 200),
        line("OPTIONS *? HTTP/1.1", 400),
        target("/a#b", 400),
        target("/%", 400),
        target("/%2", 400),
        target("/%2x", 400),
        target("/%00", 400),
        target("/?a=%00", 400),
        target("/%ff", 400),
        target("/%c0%af", 400),
        target("/%ed%a0%80", 400),
        target("/%c3/%bc", 400),
        target(&format!("/{}", long(TARGET_BYTES_MAX - 1)), 200),
        target(&format!("/{}", long(TARGET_BYTES_MAX)), 414),
        row(format!("GET /{}", long(TARGET_BYTES_MAX)), 414),
        row(format!("GET /{}", long(100_000)), 414),
        row(format!("GET /{}\n\0", long(100_000)), 414),
        row(long(100_000), 400),
        row(format!("{} / HTTP/1.1\r\n", long(100_000)), 400),
        // Field lines (RFC 9112 §5).
        fields("HTTP/1.1", "Host: h\r\nA: b\r\n", 200),
        fields("HTTP/1.1", "Host: h\r\nA:\r\n", 200),
        fields("HTTP/1.1", "Host: h\r\nA:\tb \t\r\n", 200),
        fields("HTTP/1.1", "Host: h\r\nA: \u{fc}\r\n", 200),
        fields("HTTP/1.1", "Host : h\r\n", 400),
        fields("HTTP/1.1", "Host\t: h\r\n", 400),
        fields("HTTP/1.1", "Host: h\r\nA : b\r\n", 400),
        fields("HTTP/1.1", "Host: h\r\nA: b\r\n c\r\n", 400),
        fields("HTTP/1.1", "Host: h\r\nA: b\r\n\tc\r\n", 400),
        fields("HTTP/1.1", " Host: h\r\n", 400),
        fields("HTTP/1.1", "Host: h\r\n \r\n", 400),
        fields("HTTP/1.1", "Host: h\r\nA\r\n", 400),
        fields("HTTP/1.1", "Host: h\r\n: b\r\n", 400),
        fields("HTTP/1.1", "Host: h\r\nA(: b\r\n", 400),
        fields("HTTP/1.1", "Host: h\r\n\u{fc}: b\r\n", 400),
        fields("HTTP/1.1", "Host: h\r\nA: \0\r\n", 400),
        fields("HTTP/1.1", "Host: h\r\nA\0: b\r\n", 400),
        fields("HTTP/1.1", "Host: h\r\nA: \u{1}\r\n", 400),
        fields("HTTP/1.1", "Host: h\r\nA: \u{1b}[2J\r\n", 400),
        fields("HTTP/1.1", "Host: h\r\nA: \u{7f}\r\n", 400),
        fields("HTTP/1.1", &format!("Host: h\r\n{}", "a:b\r\n".repeat(HEADERS_MAX - 1)), 200),
        fields("HTTP/1.1", &format!("Host: h\r\n{}", "a:b\r\n".repeat(HEADERS_MAX)), 431),
        fields("HTTP/1.1", &format!("Host: h\r\nA: {}\r\n", long(HEADER_BYTES_MAX - 32)), 200),
        fields("HTTP/1.1", &format!("Host: h\r\nA: {}\r\n", long(HEADER_BYTES_MAX - 31)), 431),
        fields("HTTP/1.1", &format!("Host: h\r\nA: {}\r\n", long(100_000)), 431),
        row(format!("GET / HTTP/1.1\r\nA: {}", long(HEADER_BYTES_MAX)), 431),
        row(format!("GET / HTTP/1.1\r\n{}", long(100_000)), 431),
        row(format!("GET / HTTP/1.1{}", long(100_000)), 431),
        // Host (RFC 9112 §3.2).
        fields("HTTP/1.1", "", 400),
        fields("HTTP/1.1", "Host: a\r\nHost: a\r\n", 400),
        fields("HTTP/1.1", "Host: a\r\nhost: b\r\n", 400),
        fields("HTTP/1.1", "Host: a b\r\n", 400),
        fields("HTTP/1.1", "Host: a, b\r\n", 400),
        fields("HTTP/1.1", "Host: a/b\r\n", 400),
        fields("HTTP/1.1", "Host: u@a\r\n", 400),
        fields("HTTP/1.1", "Host: a:80:80\r\n", 400),
        fields("HTTP/1.1", "Host: a:b\r\n", 400),
        fields("HTTP/1.1", "Host: [::1\r\n", 400),
        fields("HTTP/1.1", "Host: \u{fc}\r\n", 400),
        row(b"GET / HTTP/1.1\r\nHost: \xff\r\n\r\n", 400),
        row(b"GET / HTTP/1.1\r\nHost: h\r\nHost: \xff\r\n\r\n", 400),
        row(b"GET / HTTP/1.0\r\nHost: \xff\r\n\r\n", 400),
        row(b"POST / HTTP/1.0\r\nContent-Length: \xff\r\n\r\n", 400),
        row(b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: \xff\r\n\r\n", 400),
        fields("HTTP/1.1", "Host: [::1]:8000\r\n", 200),
        fields("HTTP/1.1", "Host:\r\n", 200),
        fields("HTTP/1.0", "", 200),
        fields("HTTP/1.0", "Host: a\r\nHost: b\r\n", 400),
        fields("HTTP/1.0", "Host: a b\r\n", 400),
        // Where the body ends (RFC 9112 §6).
        post("Content-Length: 5", "hello", 200),
        post("Content-Length: 0", "", 200),
        post("content-length:  005 ", "hello", 200),
        post("Content-Length: 5\r\nContent-Length: 6", "hello", 400),
        post("Content-Length: 5\r\nContent-Length: 5", "hello", 400),
        post("Content-Length: 5, 5", "hello", 400),
        post("Content-Length: +5", "hello", 400),
        post("Content-Length: -1", "", 400),
        post("Content-Length: 0x5", "hello", 400),
        post("Content-Length: 5 5", "hello", 400),
        post("Content-Length: 5.0", "hello", 400),
        post("Content-Length: 5;", "hello", 400),
        post("Content-Length: ", "", 400),
        post("Content-Length: \u{665}", "hello", 400),
        post("Content-Length: 18446744073709551616", "", 400),
        post("Content-Length: 99999999999999999999999999", "", 400),
        post("Content-Length: 5\r\nTransfer-Encoding: chunked", "0\r\n\r\n", 400),
        post("Transfer-Encoding: chunked\r\nContent-Length: 0", "0\r\n\r\n", 400),
        post("Transfer-Encoding: identity\r\nContent-Length: 5", "hello", 400),
        post("Transfer-Encoding: chunked", "0\r\n\r\n", 200),
        post("Transfer-Encoding: cHuNkEd", "0\r\n\r\n", 200),
        post("Transfer-Encoding: chunked, chunked", "0\r\n\r\n", 400),
        post("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked", "0\r\n\r\n", 400),
        post("Transfer-Encoding: chunked, gzip", "0\r\n\r\n", 400),
        post("Transfer-Encoding: chunked\r\nTransfer-Encoding: identity", "0\r\n\r\n", 400),
        post("Transfer-Encoding:", "0\r\n\r\n", 400),
        post("Transfer-Encoding : chunked", "0\r\n\r\n", 400),
        post("Transfer-Encoding:\u{b}chunked", "0\r\n\r\n", 400),
        post("Transfer-Encoding:\r\n chunked", "0\r\n\r\n", 400),
        post("Transfer-Encoding: gzip, chunked", "0\r\n\r\n", 501),
        post("Transfer-Encoding: gzip", "", 501),
        post("Transfer-Encoding: identity", "", 501),
        post("Transfer-Encoding: xchunked", "", 501),
        post("Transfer-Encoding: \"chunked\"", "", 501),
        post("Transfer-Encoding: chunked;q=1", "", 501),
        row("POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
        row("POST / HTTP/1.0\r\nContent-Length: 0\r\n\r\n", 200),
        // Chunks (RFC 9112 §7.1).
        chunked("5\r\nhello\r\n0\r\n\r\n", 200),
        chunked("5;a=b\r\nhello\r\n0\r\nA: b\r\n\r\n", 200),
        chunked("a\r\n0123456789\r\nA\r\n0123456789\r\n000\r\n\r\n", 200),
        chunked("0x5\r\nhello\r\n0\r\n\r\n", 400),
        chunked("+5\r\nhello\r\n0\r\n\r\n", 400),
        chunked("-5\r\nhello\r\n0\r\n\r\n", 400),
        chunked(" 5\r\nhello\r\n0\r\n\r\n", 400),
        chunked("5 \r\nhello\r\n0\r\n\r\n", 400),
        chunked("5 ;a\r\nhello\r\n0\r\n\r\n", 400),
        chunked("\r\nhello\r\n0\r\n\r\n", 400),
        chunked(";a\r\nhello\r\n0\r\n\r\n", 400),
        chunked("g\r\nhello\r\n0\r\n\r\n", 400),
        chunked("5\nhello\r\n0\r\n\r\n", 400),
        chunked("5\r\nhello\n0\r\n\r\n", 400),
        chunked("5\r\nhello\r\n0\n\r\n", 400),
        chunked("5\r\nhello\r\n0\r\n\n", 400),
        chunked("5;a\nb\r\nhello\r\n0\r\n\r\n", 400),
        chunked("5;a\rb\r\nhello\r\n0\r\n\r\n", 400),
        chunked("5\r\nhello!\r\n0\r\n\r\n", 400),
        chunked("5\r\nhell\r\n0\r\n\r\n", 400),
        chunked("00000000000000005\r\nhello\r\n0\r\n\r\n", 400),
        chunked("10000000000000000\r\n", 400),
        chunked("fffffffffffffffff\r\n", 400),
        chunked(&format!("5;{}\r\nhello\r\n0\r\n\r\n", long(CHUNK_LINE_BYTES_MAX)), 400),
        chunked(&format!("5;{}", long(100_000)), 400),
        chunked("0\r\nA : b\r\n\r\n", 400),
        chunked("0\r\nA: b\r\n c\r\n\r\n", 400),
        chunked("0\r\nA\r\n\r\n", 400),
        chunked("0\r\nA: \0\r\n\r\n", 400),
        chunked(&format!("0\r\nA: {}\r\n\r\n", long(TRAILER_BYTES_MAX)), 431),
        // What follows a body is a request of its own.
        post("Content-Length: 5", "helloGET / HTTP/1.1\r\nHost: h\r\n\r\n", 200),
        post("Content-Length: 5", "helloGET / HTTP/1.1\r\n\r\n", 400),
        chunked("0\r\n\r\nGET / HTTP/1.1\r\nHost : h\r\n\r\n", 400),
        chunked("0\r\n\r\n\r\nGET / HTTP/1.1\r\nHost: h\r\n\r\n", 200),
    ]
}

/// How many requests were read in full from these pieces, or the first refusal.
fn feed<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> Result<usize, Refusal> {
    let mut connection = Connection::new();
    let (mut requests, mut in_body) = (0, false);
    for piece in pieces.flat_map(|piece| piece.chunks(READ_BYTES)) {
        assert!(connection.wants_bytes(), "every request is answered at once");
        connection.handle_bytes(piece);
        loop {
            in_body = in_body || connection.poll_head()?.is_some();
            if !in_body || connection.discard_body()? == BodyProgress::Incomplete {
                break;
            }
            requests += 1;
            in_body = false;
            connection.finish(true);
            if !connection.wants_bytes() {
                break;
            }
        }
        assert!(connection.buffer_capacity() <= 2 * super::BUFFER_BYTES_MAX);
    }
    Ok(requests)
}

#[test]
fn dangerous_requests_are_refused_however_they_arrive() {
    let seed = rand::random::<u64>();
    println!("seed {seed}");
    let mut random = StdRng::seed_from_u64(seed);
    for (bytes, status) in table() {
        let name = bytes[..bytes.len().min(200)].escape_ascii();
        let whole = feed(std::iter::once(&bytes[..]));
        match &whole {
            Ok(requests) => assert_eq!((status, *requests > 0), (200, true), "{name}"),
            Err(refusal) => assert_eq!((status, refusal), (refusal.status, refusal), "{name}"),
        }
        if let Err(refusal) = parse_head(&bytes) {
            assert_eq!(Err(refusal), whole, "alone: {name}");
        }
        assert_eq!(feed(bytes.chunks(1)), whole, "one byte at a time: {name}");
        for _ in 0..20 {
            let piece_max = 1 << random.random_range(1..15);
            let mut rest = &bytes[..];
            let mut pieces = Vec::new();
            while !rest.is_empty() {
                let (piece, after) =
                    rest.split_at(random.random_range(1..=piece_max).min(rest.len()));
                pieces.push(piece);
                rest = after;
            }
            assert_eq!(feed(pieces.into_iter()), whole, "in pieces, seed {seed}: {name}");
        }
    }
}

#[test]
fn a_dangerous_request_is_no_less_so_after_a_harmless_one() {
    let harmless = b"POST /runs HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\n{}";
    for (bytes, status) in table() {
        let both = [&harmless[..], &bytes].concat();
        let result = feed(std::iter::once(&both[..])).map_or_else(|r| r.status, |_| 200);
        assert_eq!(result, status, "{}", bytes[..bytes.len().min(200)].escape_ascii());
    }
}
