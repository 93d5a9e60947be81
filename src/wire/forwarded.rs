//! Who a request comes from, when trusted proxies have passed it on: `X-Forwarded-For`, and
//! `Forwarded` (RFC 7239).
//!
//! Each proxy appends whom it has the request from, so the list is read from its right end, and only
//! as far as those who wrote it are trusted: the client is the first address that no proxy of ours
//! has. What is left of it anybody may have written. An entry that is no address ends the walk where
//! it is, at the last one that was good.
//!
//! `X-Forwarded-For` wins, and `Forwarded` counts only without it: all common proxies write the
//! former, and pass the latter on as a client sent it. To read the one first that our own proxy does not
//! write would be to believe the client.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use super::headers::Headers;
use crate::client_address::{ClientAddress, TrustedProxies};

/// The client of a request that this peer has sent.
pub fn client(peer: ClientAddress, headers: &Headers, trusted: &TrustedProxies) -> ClientAddress {
    if !trusted.trusts(peer) {
        return peer;
    }
    // Bytes that are no text end the walk before it begins: what stands to their right is unknown.
    if headers.contains("x-forwarded-for") {
        let lines: Vec<&str> = readable(headers, "x-forwarded-for");
        let entries = lines.iter().rev().flat_map(|line| line.rsplit(','));
        return walk(peer, entries.map(address), trusted);
    }
    let lines: Vec<&str> = readable(headers, "forwarded");
    let entries = lines.iter().rev().flat_map(|line| line.rsplit(','));
    walk(peer, entries.map(|element| for_parameter(element).and_then(address)), trusted)
}

fn readable<'a>(headers: &'a Headers, name: &str) -> Vec<&'a str> {
    if headers.is_text(name) { headers.get_all(name).collect() } else { Vec::new() }
}

/// The first entry, from the right, that is not trusted; the last good one if there is none.
fn walk(
    peer: ClientAddress,
    entries: impl Iterator<Item = Option<IpAddr>>,
    trusted: &TrustedProxies,
) -> ClientAddress {
    let mut client = peer;
    for entry in entries {
        let Some(ip) = entry else { break };
        client = ClientAddress::of_ip(ip);
        if !trusted.trusts(client) {
            break;
        }
    }
    client
}

/// An entry: an address, with a port or without, an IPv6 address in brackets or not.
fn address(entry: &str) -> Option<IpAddr> {
    let entry = entry.trim_matches([' ', '\t']);
    if let Some(bracketed) = entry.strip_prefix('[') {
        let (ip, rest) = bracketed.split_once(']')?;
        let is_port = rest.is_empty() || rest.strip_prefix(':').is_some_and(is_port);
        return is_port.then(|| ip.parse::<Ipv6Addr>().ok().map(IpAddr::V6))?;
    }
    entry.parse().ok().or_else(|| entry.parse::<SocketAddr>().ok().map(|socket| socket.ip()))
}

/// A port, or a name in its place that keeps it secret (RFC 7239 §6).
fn is_port(text: &str) -> bool {
    let is_part = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    !text.is_empty() && text.bytes().all(is_part)
}

/// The node of an element such as `for="[2001:db8::1]:80";proto=https`; none when that is not simple:
/// twice, or with an escape in it.
fn for_parameter(element: &str) -> Option<&str> {
    let mut found = None;
    for parameter in element.split(';') {
        let (name, value) = parameter.split_once('=')?;
        if name.trim_matches([' ', '\t']).eq_ignore_ascii_case("for")
            && found.replace(value.trim_matches([' ', '\t'])).is_some()
        {
            return None;
        }
    }
    let value = found?;
    match value.strip_prefix('"') {
        Some(quoted) => quoted.strip_suffix('"').filter(|node| !node.contains(['"', '\\'])),
        // A colon or a bracket is none of a token's characters, and proxies write them all the same.
        None => Some(value),
    }
}

#[cfg(test)]
mod tests {
    use rand::{RngExt, SeedableRng, rngs::StdRng, seq::IndexedRandom};

    use super::*;

    fn ip(text: &str) -> ClientAddress {
        ClientAddress::of_ip(text.parse().unwrap())
    }

    fn trusted() -> TrustedProxies {
        TrustedProxies::from_list(["10.0.0.0/8", "fd00::/8", "unix"]).unwrap()
    }

    /// The client of a request with these fields from a proxy at 10.0.0.1.
    fn of(fields: &[(&str, &str)]) -> String {
        let mut headers = Headers::default();
        for (name, value) in fields {
            headers.push(name, value.as_bytes());
        }
        client(ip("10.0.0.1"), &headers, &trusted()).to_string()
    }

    fn x(value: &str) -> String {
        of(&[("X-Forwarded-For", value)])
    }

    #[test]
    fn the_client_is_the_right_most_who_is_no_proxy() {
        assert_eq!(x("192.0.2.1"), "192.0.2.1");
        assert_eq!(x("1.1.1.1, 192.0.2.1, 10.9.9.9"), "192.0.2.1");
        assert_eq!(x("1.1.1.1,192.0.2.1\t,\t10.9.9.9 , 10.1.1.1"), "192.0.2.1");
        assert_eq!(x("10.9.9.9, 10.8.8.8"), "10.9.9.9");
        let lines = [("X-Forwarded-For", "1.1.1.1"), ("x-forwarded-for", "192.0.2.1, 10.2.2.2")];
        assert_eq!(of(&lines), "192.0.2.1");
        assert_eq!(of(&[]), "10.0.0.1");
    }

    #[test]
    fn nobody_else_is_believed() {
        let mut headers = Headers::default();
        headers.push("X-Forwarded-For", b"10.0.0.2");
        headers.push("Forwarded", b"for=10.0.0.2");
        for peer in [ip("192.0.2.9"), ip("127.0.0.1"), ip("2001:db8::1")] {
            assert_eq!(client(peer, &headers, &trusted()), peer);
        }
        let nobody = TrustedProxies::default();
        for peer in [ip("10.0.0.1"), ClientAddress::Local] {
            assert_eq!(client(peer, &headers, &nobody), peer);
        }
        assert_eq!(client(ClientAddress::Local, &headers, &trusted()), ip("10.0.0.2"));
    }

    #[test]
    fn addresses_come_in_every_dress() {
        for (entry, expected) in [
            ("192.0.2.1:80", "192.0.2.1"),
            ("::ffff:192.0.2.1", "192.0.2.1"),
            ("[::ffff:192.0.2.1]:80", "192.0.2.1"),
            ("2001:db8::1", "2001:db8::1"),
            ("[2001:db8::1]", "2001:db8::1"),
            ("[2001:db8::1]:443", "2001:db8::1"),
            ("[2001:DB8:0::1]:_hidden", "2001:db8::1"),
        ] {
            assert_eq!(x(entry), expected, "{entry}");
            assert_eq!(of(&[("Forwarded", &format!("for=\"{entry}\""))]), expected, "{entry}");
        }
    }

    #[test]
    fn what_is_no_address_ends_the_walk() {
        let wrong = [
            "",
            "unknown",
            "_hidden",
            "192.0.2.256",
            "192.0.2.1:",
            "192.0.2.1:99999",
            "[::1",
            "::1]",
            "[192.0.2.1]",
            "[::1]x",
            "[::1]:",
            "192.0.2.1 1",
            "fe80::1%eth0",
            "0x7f.1",
            "192.0.2.01",
        ];
        for entry in wrong {
            assert_eq!(x(&format!("1.1.1.1, {entry}")), "10.0.0.1", "{entry:?}");
            assert_eq!(x(&format!("1.1.1.1, {entry}, 10.3.3.3")), "10.3.3.3", "{entry:?}");
        }
        let mut headers = Headers::default();
        headers.push("X-Forwarded-For", b"1.1.1.1, \xff");
        assert_eq!(client(ip("10.0.0.1"), &headers, &trusted()), ip("10.0.0.1"));
    }

    #[test]
    fn forwarded_counts_where_the_other_is_not() {
        let check = |value: &str, expected: &str| {
            assert_eq!(of(&[("Forwarded", value)]), expected, "{value:?}");
        };
        check("for=192.0.2.1", "192.0.2.1");
        check("for=1.1.1.1, For = 192.0.2.1 ; proto=https;by=10.0.0.1", "192.0.2.1");
        check("for=192.0.2.1, for=\"[fd00::1]:80\"", "192.0.2.1");
        for none in [
            "proto=https",
            "for=192.0.2.1;for=192.0.2.2",
            "for=unknown",
            "for=\"192.0.2.1",
            "for=\"192.0.\\2.1\"",
            "for",
            ";;",
        ] {
            check(&format!("for=1.1.1.1, {none}"), "10.0.0.1");
        }
        // A client behind a proxy that only writes the other may send what it likes here.
        let both = [("Forwarded", "for=1.1.1.1"), ("X-Forwarded-For", "192.0.2.1")];
        assert_eq!(of(&both), "192.0.2.1");
        assert_eq!(of(&[both[0], ("X-Forwarded-For", "nonsense")]), "10.0.0.1");
    }

    /// Whatever a client writes, the proxy's own entry decides.
    #[test]
    fn no_prefix_changes_who_the_proxy_says_it_was() {
        let seed =
            std::env::var("SEED").map_or_else(|_| rand::random(), |seed| seed.parse().unwrap());
        println!("SEED={seed}");
        let mut rng = StdRng::seed_from_u64(seed);
        let pieces = [
            "1.1.1.1", "10.0.0.1", ",", ",,", " ", "\t", "[", "]", ":", "::", "::1", "unknown",
            "for=", "\"", ";", "\\", "=", "65536", "ffff:", "%", "_x", "fd00::7",
        ];
        for _ in 0..20_000 {
            let count = rng.random_range(0..12);
            let noise: String =
                (0..count).map(|_| *pieces.choose(&mut rng).expect("some")).collect();
            let (name, own) = if rng.random_bool(0.5) {
                ("X-Forwarded-For", "192.0.2.1")
            } else {
                ("Forwarded", "for=192.0.2.1")
            };
            // As an entry of the same line, and as a line before.
            assert_eq!(of(&[(name, &format!("{noise},{own}"))]), "192.0.2.1", "{noise:?}");
            assert_eq!(of(&[(name, &noise), (name, own)]), "192.0.2.1", "{noise:?}");
            // Alone it may be anything, but it is read.
            of(&[(name, &noise)]);
        }
    }
}
