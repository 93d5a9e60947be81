//! What the address for administration answers, and to whom.

use std::net::IpAddr;

use super::{Answer, Origin};
use crate::{
    api,
    route::NoRoute,
    wire::{problem::Problem, request::RequestHead},
};

/// Why the address for administration does not take a request, if it does not: what is asked is
/// for the public one, or a page of a browser asks. Such a page reaches what listens on its own
/// host, by `fetch` or under a name of its own that leads here (DNS rebinding).
pub(super) fn refuse(head: &RequestHead, origin: Origin) -> Option<Answer> {
    let is_asked_of_it =
        head.segments.first().is_some_and(|first| ADMINISTRATION.contains(&&**first));
    // A browser has no way to a `unix:` socket.
    let is_ours = |host: &str| origin.is_local() || is_loopback(host);
    if !is_asked_of_it {
        return Some(api::no_route(NoRoute::NotFound).into());
    }
    if head.headers.contains("origin") || !head.headers.get("host").is_none_or(is_ours) {
        let detail = "this address is for programs on this host, which ask it as localhost";
        return Some(Problem::new(403).detail(detail).into());
    }
    None
}

/// Where the paths begin that the address for administration has.
const ADMINISTRATION: [&str; 4] = ["admin", "health", "metrics", "worker"];

/// Whether a `Host` can only mean this host: `localhost`, or an address of the loopback interface.
fn is_loopback(host: &str) -> bool {
    let (name, port) = host.rsplit_once(':').unwrap_or((host, ""));
    // The last colon of a bare `[::1]` is part of it.
    let name = if port.ends_with(']') { host } else { name };
    let ip = name.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(name);
    name.eq_ignore_ascii_case("localhost")
        || ip.parse::<IpAddr>().is_ok_and(|ip| ip.to_canonical().is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loopback_host_is_told_from_a_name_that_may_lead_anywhere() {
        for host in [
            "localhost",
            "LocalHost:8001",
            "127.0.0.1",
            "127.8.9.10:80",
            "[::1]",
            "[::1]:80",
            "[::ffff:127.0.0.1]:80",
        ] {
            assert!(is_loopback(host), "{host}");
        }
        for host in [
            "",
            ":80",
            "localhost.page.example",
            "page.example:80",
            "127.0.0.1.page.example",
            "10.0.0.1",
            "0.0.0.0",
            "[::]",
            "[::2]:80",
            "[fe80::1]",
            "2130706433",
        ] {
            assert!(!is_loopback(host), "{host}");
        }
    }
}
