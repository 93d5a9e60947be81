//! Requests that could be read in two ways, or that are meant to break something: bytes, and the
//! status that they get. After each of them the server serves on.

use crate::support::Server;

/// What becomes of the connection after the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Then {
    /// It ends: nobody can say where the next request would begin.
    Closes,
    /// It takes another request.
    Stays,
}
use Then::{Closes, Stays};

struct Row {
    what: &'static str,
    bytes: Vec<u8>,
    status: u16,
    then: Then,
}

fn row(what: &'static str, bytes: impl AsRef<[u8]>, status: u16, then: Then) -> Row {
    Row { what, bytes: bytes.as_ref().to_vec(), status, then }
}

/// A GET with these lines after its Host.
fn get(lines: &str) -> String {
    format!("GET /health HTTP/1.1\r\nHost: h\r\n{lines}\r\n")
}

/// A GET of this target.
fn target(target: &str) -> String {
    format!("GET {target} HTTP/1.1\r\nHost: h\r\n\r\n")
}

/// An append with these lines after its Host, and this body.
fn post(lines: &str, body: &str) -> String {
    format!("POST /runs/1/events HTTP/1.1\r\nHost: h\r\n{lines}\r\n{body}")
}

/// An append in chunked coding, byte for byte.
fn chunks(body: &str) -> String {
    post("Transfer-Encoding: chunked\r\n", body)
}

/// Twelve bytes, `c` in hexadecimal.
const EVENT: &str = "{\"type\":\"A\"}";

fn rows() -> Vec<Row> {
    let mut rows = framing_rows();
    rows.extend(chunk_rows());
    rows.extend(line_rows());
    rows.extend(field_rows());
    rows.extend(target_rows());
    rows
}

/// Where the body ends.
fn framing_rows() -> Vec<Row> {
    let both = "Content-Length: 12\r\nTransfer-Encoding: chunked\r\n";
    let swapped = "Transfer-Encoding: chunked\r\nContent-Length: 12\r\n";
    let body = format!("c\r\n{EVENT}\r\n0\r\n\r\n");
    let length = |value: &str| post(&format!("Content-Length: {value}\r\n"), EVENT);
    let coding = |value: &str| post(&format!("Transfer-Encoding: {value}\r\n"), &body);
    vec![
        row("both framings", post(both, &body), 400, Closes),
        row("both framings, swapped", post(swapped, &body), 400, Closes),
        row("both framings on a GET", get(both), 400, Closes),
        row(
            "two lengths",
            post("Content-Length: 12\r\nContent-Length: 13\r\n", EVENT),
            400,
            Closes,
        ),
        row(
            "one length twice",
            post("Content-Length: 12\r\nContent-Length: 12\r\n", EVENT),
            400,
            Closes,
        ),
        row("a list of lengths", length("12, 12"), 400, Closes),
        row("a length with a plus", length("+5"), 400, Closes),
        row("a length with a minus", length("-5"), 400, Closes),
        row("a hexadecimal length", length("0x5"), 400, Closes),
        row("a length with a space in it", length("1 2"), 400, Closes),
        row("a length with a fraction", length("12.0"), 400, Closes),
        row("an empty length", length(""), 400, Closes),
        row("a length of 2^64", length("18446744073709551616"), 400, Closes),
        row("a length of 30 digits", length(&"9".repeat(30)), 400, Closes),
        row("a length that is too large", length("18446744073709551615"), 413, Closes),
        row("a length in other digits", length("\u{661}\u{662}"), 400, Closes),
        row("a length with zeros before it", length("0012"), 201, Stays),
        row("chunked, then something else", coding("chunked, gzip"), 400, Closes),
        row("chunked twice", coding("chunked, chunked"), 400, Closes),
        row("two codings", coding("gzip, chunked"), 501, Closes),
        row("an unknown coding", coding("gzip"), 501, Closes),
        row("identity", coding("identity"), 501, Closes),
        row("nearly chunked", coding("xchunked"), 501, Closes),
        row("an empty coding", coding(""), 400, Closes),
        row("a quoted coding", coding("\"chunked\""), 501, Closes),
        row("chunked, with a vertical tab", coding("\u{b}chunked"), 400, Closes),
        row(
            "two fields of coding",
            post("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", &body),
            400,
            Closes,
        ),
        row(
            "a coding in HTTP/1.0",
            format!("POST /runs/1/events HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n{body}"),
            400,
            Closes,
        ),
        row("chunked in capitals", coding("CHUNKED"), 201, Stays),
        row("a body of a GET", format!("{}hello", get("Content-Length: 5\r\n")), 200, Stays),
        row(
            "a request hidden in a body of a GET",
            format!(
                "{}{}",
                get("Content-Length: 36\r\n"),
                "GET /nothing HTTP/1.1\r\nHost: host\r\n\r"
            ),
            200,
            Stays,
        ),
    ]
}

/// Chunked bodies.
fn chunk_rows() -> Vec<Row> {
    let sized = |size: &str| chunks(&format!("{size}\r\n{EVENT}\r\n0\r\n\r\n"));
    vec![
        row("chunks", sized("c"), 201, Stays),
        row("a chunk size in capitals", sized("C"), 201, Stays),
        row("a chunk size with zeros before it", sized("0000c"), 201, Stays),
        row("an empty chunk size", sized(""), 400, Closes),
        row("a chunk size with a plus", sized("+c"), 400, Closes),
        row("a chunk size with a minus", sized("-c"), 400, Closes),
        row("a chunk size with 0x", sized("0xc"), 400, Closes),
        row("a chunk size with an underscore", sized("0_c"), 400, Closes),
        row("a chunk size with a space before it", sized(" c"), 400, Closes),
        row("a chunk size with a space after it", sized("c "), 400, Closes),
        row("a chunk size that is no number", sized("x"), 400, Closes),
        row("a chunk size of 17 digits", sized("fffffffffffffffff"), 400, Closes),
        row("a chunk size of 17 zeros", sized(&"0".repeat(17)), 400, Closes),
        row("a chunk extension", sized("c;name=value"), 201, Stays),
        row("a chunk extension without a name", sized("c;"), 201, Stays),
        row("a quoted chunk extension", sized("c;a=\"b c\""), 201, Stays),
        row("a long chunk extension", sized(&format!("c;{}", "x".repeat(300))), 400, Closes),
        row("a huge chunk extension", sized(&format!("c;{}", "x".repeat(100_000))), 400, Closes),
        row("a bare LF in a chunk extension", sized("c;a\nb"), 400, Closes),
        row("a bare CR in a chunk extension", sized("c;a\rb"), 400, Closes),
        row("a NUL in a chunk extension", sized("c;a\0b"), 400, Closes),
        row(
            "a chunk size that ends in LF",
            chunks(&format!("c\n{EVENT}\r\n0\r\n\r\n")),
            400,
            Closes,
        ),
        row("a chunk that ends in LF", chunks(&format!("c\r\n{EVENT}\n0\r\n\r\n")), 400, Closes),
        row(
            "a chunk longer than its size",
            chunks(&format!("b\r\n{EVENT}\r\n0\r\n\r\n")),
            400,
            Closes,
        ),
        row(
            "a chunk shorter than its size",
            chunks(&format!("d\r\n{EVENT}\r\n0\r\n\r\n")),
            400,
            Closes,
        ),
        row("a trailer", chunks(&format!("c\r\n{EVENT}\r\n0\r\nX: y\r\n\r\n")), 201, Stays),
        row(
            "a trailer that names a length",
            chunks(&format!("c\r\n{EVENT}\r\n0\r\nContent-Length: 9\r\n\r\n")),
            201,
            Stays,
        ),
        row(
            "a trailer that is no field",
            chunks(&format!("c\r\n{EVENT}\r\n0\r\nGET /x HTTP/1.1\r\n\r\n")),
            400,
            Closes,
        ),
        row(
            "a trailer that ends in LF",
            chunks(&format!("c\r\n{EVENT}\r\n0\r\nX: y\n\r\n")),
            400,
            Closes,
        ),
        row(
            "a long trailer",
            chunks(&format!("c\r\n{EVENT}\r\n0\r\nX: {}\r\n\r\n", "y".repeat(5_000))),
            431,
            Closes,
        ),
    ]
}

/// Lines and their ends.
fn line_rows() -> Vec<Row> {
    vec![
        row("bare LFs", "GET /health HTTP/1.1\nHost: h\n\n", 400, Closes),
        row(
            "a bare LF after the request line",
            "GET /health HTTP/1.1\nHost: h\r\n\r\n",
            400,
            Closes,
        ),
        row(
            "a bare LF after a field",
            "GET /health HTTP/1.1\r\nHost: h\nX: y\r\n\r\n",
            400,
            Closes,
        ),
        row("a bare LF as the empty line", "GET /health HTTP/1.1\r\nHost: h\r\n\n", 400, Closes),
        row("bare CRs", "GET /health HTTP/1.1\rHost: h\r\r", 400, Closes),
        row("a bare CR in a value", get("X: a\rb\r\n"), 400, Closes),
        row("a CR before CRLF", get("X: a\r\r\n"), 400, Closes),
        row("an empty line first", format!("\r\n{}", get("")), 200, Stays),
        row("two empty lines first", format!("\r\n\r\n{}", get("")), 400, Closes),
        row("a bare LF first", format!("\n{}", get("")), 400, Closes),
        row("a NUL in a value", get("X: a\0b\r\n"), 400, Closes),
        row("a NUL in a name", get("X\0: a\r\n"), 400, Closes),
        row("a NUL in the target", target("/health\0"), 400, Closes),
        row("a NUL first", format!("\0{}", get("")), 400, Closes),
        row("no version", "GET /health\r\n\r\n", 400, Closes),
        row("no target", "GET HTTP/1.1\r\nHost: h\r\n\r\n", 400, Closes),
        row("no method", "/health HTTP/1.1\r\nHost: h\r\n\r\n", 400, Closes),
        row("two spaces", "GET  /health HTTP/1.1\r\nHost: h\r\n\r\n", 400, Closes),
        row("a tab for a space", "GET\t/health HTTP/1.1\r\nHost: h\r\n\r\n", 400, Closes),
        row("a space before the method", " GET /health HTTP/1.1\r\nHost: h\r\n\r\n", 400, Closes),
        row("a space after the version", "GET /health HTTP/1.1 \r\nHost: h\r\n\r\n", 400, Closes),
        row("a method that is no token", "G(T /health HTTP/1.1\r\nHost: h\r\n\r\n", 400, Closes),
        row("an unknown method", "BREW /health HTTP/1.1\r\nHost: h\r\n\r\n", 405, Stays),
        row("a method in small letters", "get /health HTTP/1.1\r\nHost: h\r\n\r\n", 405, Stays),
        row("a version in small letters", "GET /health http/1.1\r\nHost: h\r\n\r\n", 400, Closes),
        row("a version of three numbers", "GET /health HTTP/1.10\r\nHost: h\r\n\r\n", 400, Closes),
        row("HTTP/1.2", "GET /health HTTP/1.2\r\nHost: h\r\n\r\n", 200, Stays),
        row("HTTP/2.0", "GET /health HTTP/2.0\r\nHost: h\r\n\r\n", 505, Closes),
        row("HTTP/0.9", "GET /health HTTP/0.9\r\nHost: h\r\n\r\n", 505, Closes),
        row("the preface of HTTP/2", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505, Closes),
        row("a TLS hello", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400, Closes),
    ]
}

/// Header fields.
fn field_rows() -> Vec<Row> {
    let without_host = "GET /health HTTP/1.1\r\n\r\n";
    let host = |value: &str| format!("GET /health HTTP/1.1\r\nHost: {value}\r\n\r\n");
    let many = |count: usize| get(&"a: b\r\n".repeat(count - 1));
    vec![
        row("a space before a colon", get("X : y\r\n"), 400, Closes),
        row("a tab before a colon", get("X\t: y\r\n"), 400, Closes),
        row(
            "a space before the colon of a length",
            post("Content-Length : 12\r\n", EVENT),
            400,
            Closes,
        ),
        row("obs-fold", get("X: a\r\n b\r\n"), 400, Closes),
        row("obs-fold with a tab", get("X: a\r\n\tb\r\n"), 400, Closes),
        row(
            "a space before the first field",
            "GET /health HTTP/1.1\r\n Host: h\r\n\r\n",
            400,
            Closes,
        ),
        row("a field without a colon", get("X\r\n"), 400, Closes),
        row("a field without a name", get(": x\r\n"), 400, Closes),
        row("a name that is no token", get("X(y): z\r\n"), 400, Closes),
        row("a name that is not ASCII", get("Xä: z\r\n"), 400, Closes),
        row("a control character in a value", get("X: a\x01b\r\n"), 400, Closes),
        row(
            "a value that is not UTF-8",
            b"GET /health HTTP/1.1\r\nHost: h\r\nX: \xff\r\n\r\n",
            200,
            Stays,
        ),
        row("an empty value", get("X:\r\n"), 200, Stays),
        row("no Host", without_host, 400, Closes),
        row("no Host, but HTTP/1.0", "GET /health HTTP/1.0\r\n\r\n", 200, Closes),
        row("two Hosts", get("Host: h\r\n"), 400, Closes),
        row(
            "two Hosts in HTTP/1.0",
            "GET /health HTTP/1.0\r\nHost: a\r\nHost: b\r\n\r\n",
            400,
            Closes,
        ),
        row("a list of Hosts", host("a, b"), 400, Closes),
        row("a Host with a path", host("h/x"), 400, Closes),
        row("a Host with a user", host("u@h"), 400, Closes),
        row("a Host with a bad port", host("h:x"), 400, Closes),
        row("a Host with a port", host("h:80"), 200, Stays),
        row("an IPv6 Host", host("[::1]:80"), 200, Stays),
        row("100 fields", many(100), 200, Stays),
        row("101 fields", many(101), 431, Closes),
        row(
            "a header line of 100 KB",
            get(&format!("X: {}\r\n", "x".repeat(100_000))),
            431,
            Closes,
        ),
        row(
            "a header name of 100 KB",
            get(&format!("{}: x\r\n", "x".repeat(100_000))),
            431,
            Closes,
        ),
        row("100 KB of header lines", get(&"x: yyyyyyyyyy\r\n".repeat(7_000)), 431, Closes),
    ]
}

/// Request targets.
fn target_rows() -> Vec<Row> {
    vec![
        row("absolute form", target("http://h/health"), 200, Stays),
        row("absolute form of https", target("https://h:1/health"), 200, Stays),
        row("absolute form of another scheme", target("ftp://h/health"), 400, Closes),
        row("absolute form without a host", target("http:///health"), 400, Closes),
        row("absolute form with a user", target("http://u:p@h/health"), 400, Closes),
        row("authority form", target("h:443"), 400, Closes),
        row("a tunnel", "CONNECT h:443 HTTP/1.1\r\nHost: h\r\n\r\n", 400, Closes),
        row("an asterisk for GET", target("*"), 400, Closes),
        row("no slash", target("health"), 400, Closes),
        row("a fragment", target("/health#x"), 400, Closes),
        row("a space", target("/heal th"), 400, Closes),
        row("dots", target("/runs/../health"), 404, Stays),
        row("escaped dots", target("/%2e%2e/health"), 404, Stays),
        row("escaped dots behind", target("/runs/%2e%2e"), 404, Stays),
        row("an escaped slash", target("/runs%2f1"), 404, Stays),
        row("a backslash", target("/runs\\1"), 404, Stays),
        row("an escaped NUL", target("/health%00"), 400, Closes),
        row("an escaped NUL in the query", target("/runs?project=%00"), 400, Closes),
        row("escaped line ends", target("/runs/%0d%0aX:y"), 404, Stays),
        row("half an escape", target("/health%2"), 400, Closes),
        row("an escape that is none", target("/health%zz"), 400, Closes),
        row("an overlong slash", target("/%c0%af"), 400, Closes),
        row("an overlong dot", target("/%c0%ae%c0%ae/"), 400, Closes),
        row("an escape that is not UTF-8", target("/%ff"), 400, Closes),
        row("an escaped surrogate", target("/%ed%a0%80"), 400, Closes),
        row("a query that is not UTF-8", target("/runs?project=%ff"), 400, Closes),
        row("UTF-8 that is not escaped", target("/ä"), 400, Closes),
        row("bytes that are not UTF-8", b"GET /\xff\xfe HTTP/1.1\r\nHost: h\r\n\r\n", 400, Closes),
        row("a target of 8 KiB", target(&format!("/{}", "x".repeat(8 * 1024 - 1))), 404, Stays),
        row("a target of more", target(&format!("/{}", "x".repeat(8 * 1024))), 414, Closes),
        row("a target of 100 KB", target(&format!("/{}", "x".repeat(100_000))), 414, Closes),
        row("a query of 100 KB", target(&format!("/?{}", "x".repeat(100_000))), 414, Closes),
    ]
}

/// Everything about a row that is not as it should be.
fn check(server: &Server, row: &Row) -> Result<(), String> {
    let mut client = server.client();
    client.send(&row.bytes);
    let answer = client.try_answer_to("GET").map_err(|error| format!("no answer: {error}"))?;
    if answer.status != row.status {
        let body = String::from_utf8_lossy(&answer.body).into_owned();
        return Err(format!("{} and not {}: {body}", answer.status, row.status));
    }
    if answer.status >= 400 {
        answer.problem();
    }
    let says_close = answer.header("Connection") == Some("close");
    if says_close != (row.then == Closes) {
        return Err(format!("Connection: {:?}", answer.header("Connection")));
    }
    match row.then {
        Closes => client.end()?,
        Stays => {
            client.send(target("/health"));
            let next = client.try_answer_to("GET").map_err(|error| format!("then {error}"))?;
            if next.status != 200 {
                return Err(format!("then {}", next.status));
            }
        }
    }
    let next = server.get("/health");
    if next.status == 200 { Ok(()) } else { Err(format!("/health is {}", next.status)) }
}

#[test]
fn every_dangerous_request_gets_its_answer_and_the_server_serves_on() {
    for server in Server::with_each_driver(&[]) {
        server.new_run();
        let rows = rows();
        let appends = rows.iter().filter(|row| row.status == 201).count();
        let wrong: Vec<String> = rows
            .iter()
            .filter_map(|row| Some(format!("{}: {}", row.what, check(&server, row).err()?)))
            .collect();
        assert!(wrong.is_empty(), "{}\n{}", server.arguments(), wrong.join("\n"));
        assert_eq!(server.events(1).len(), 1 + appends, "nothing else was appended");
    }
}
