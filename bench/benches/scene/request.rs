//! Requests as clients send them, served by one connection.

use std::hint::black_box;

use tidewheel::connection::{After, BodyProgress, Connection};

/// What a browser sends when it opens a stream.
pub const BROWSER_GET: &str = concat!(
    "GET /runs/4711/events/stream?types=AGENT_THINKING,TOOL_CALL HTTP/1.1\r\n",
    "Host: 127.0.0.1:8000\r\n",
    "Connection: keep-alive\r\n",
    "sec-ch-ua-platform: \"Linux\"\r\n",
    "Cache-Control: no-cache\r\n",
    "User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) ",
    "Chrome/140.0.0.0 Safari/537.36\r\n",
    "Accept: text/event-stream\r\n",
    "sec-ch-ua: \"Chromium\";v=\"140\", \"Not=A?Brand\";v=\"24\", \"Google Chrome\";v=\"140\"\r\n",
    "sec-ch-ua-mobile: ?0\r\n",
    "Origin: http://localhost:5173\r\n",
    "Sec-Fetch-Site: cross-site\r\n",
    "Sec-Fetch-Mode: cors\r\n",
    "Sec-Fetch-Dest: empty\r\n",
    "Referer: http://localhost:5173/\r\n",
    "Accept-Encoding: gzip, deflate, br, zstd\r\n",
    "Accept-Language: en-US,en;q=0.9\r\n",
    "Last-Event-ID: 123456\r\n\r\n",
);

/// What a publisher sends for one small event.
pub const APPEND: &str = concat!(
    "POST /runs/4711/events HTTP/1.1\r\n",
    "Host: 127.0.0.1:8000\r\n",
    "User-Agent: python-httpx/0.28.1\r\n",
    "Accept: */*\r\n",
    "Content-Type: application/json\r\n",
    "Idempotency-Key: 6f1c2a34-7a0e-4f0f-9a57-1c0b7c3f4d21\r\n",
    "Content-Length: 71\r\n\r\n",
    r#"{"type":"AGENT_THINKING","payload":{"text":"Let me look at the code."}}"#,
);

/// Feeds the pieces of one request, and finishes it.
pub fn serve(connection: &mut Connection, body: &mut Vec<u8>, pieces: &[&[u8]]) {
    body.clear();
    let mut head = None;
    for piece in pieces {
        connection.handle_bytes(black_box(piece));
        head = connection.poll_head().expect("a valid request");
    }
    assert!(head.is_some());
    black_box(&head);
    assert_eq!(connection.poll_body(body), Ok(BodyProgress::Complete));
    assert_eq!(connection.finish(true), After::Next);
    assert!(connection.is_idle());
}
