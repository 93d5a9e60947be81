//! Any series of valid requests comes out the same, however it is split: against a list of what
//! was put in.

use proptest::prelude::*;

use super::{After, BodyProgress, Connection};
use crate::wire::request::{Method, RequestHead, Version};

/// A request that may be sent, and what is to come out.
fn any_request() -> impl Strategy<Value = (Vec<u8>, String, Vec<u8>)> {
    let chunks = prop::collection::vec(prop::collection::vec(any::<u8>(), 1..40), 0..4);
    ("/[a-z]{0,8}", 0..3, chunks, any::<bool>()).prop_map(|(path, framing, chunks, empty)| {
        let line = if empty { "\r\n" } else { "" };
        let mut bytes = format!("{line}POST {path} HTTP/1.1\r\nHost: h\r\n").into_bytes();
        let content = if framing == 0 { Vec::new() } else { chunks.concat() };
        match framing {
            0 => bytes.extend_from_slice(b"\r\n"),
            1 => {
                let length = format!("Content-Length: {}\r\n\r\n", content.len());
                bytes.extend_from_slice(length.as_bytes());
                bytes.extend_from_slice(&content);
            }
            _ => {
                bytes.extend_from_slice(b"Transfer-Encoding: chunked\r\n\r\n");
                for chunk in &chunks {
                    bytes.extend_from_slice(format!("{:x};e\r\n", chunk.len()).as_bytes());
                    bytes.extend_from_slice(chunk);
                    bytes.extend_from_slice(b"\r\n");
                }
                bytes.extend_from_slice(b"0\r\nTrailer: t\r\n\r\n");
            }
        }
        (bytes, path, content)
    })
}

proptest! {
    #[test]
    fn a_series_of_requests_is_the_same_however_it_is_split(
        requests in prop::collection::vec(any_request(), 1..6),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..20),
    ) {
        let bytes: Vec<u8> = requests.iter().flat_map(|(bytes, ..)| bytes.clone()).collect();
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len())).collect();
        cuts.extend([0, bytes.len()]);
        cuts.sort_unstable();

        let mut connection = Connection::new();
        let mut expected = requests.iter();
        let mut in_hand: Option<(RequestHead, Vec<u8>)> = None;
        for cut in cuts.windows(2) {
            connection.handle_bytes(&bytes[cut[0]..cut[1]]);
            loop {
                if in_hand.is_none() {
                    in_hand = connection.poll_head().unwrap().map(|head| (head, Vec::new()));
                }
                let Some((head, body)) = &mut in_hand else { break };
                if connection.poll_body(body).unwrap() == BodyProgress::Incomplete {
                    break;
                }
                let (_, path, content) = expected.next().unwrap();
                prop_assert_eq!(&head.path, path);
                prop_assert_eq!(&head.method, &Method::Post);
                prop_assert_eq!(head.version, Version::Http11);
                prop_assert_eq!(&*body, content);
                prop_assert_eq!(connection.finish(true), After::Next);
                in_hand = None;
            }
        }
        prop_assert!(expected.next().is_none());
        prop_assert!(connection.is_idle());
        prop_assert_eq!(connection.buffer_capacity(), 0);
    }
}
