//! Who is at the other end of a connection, and whose word on it is taken.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr},
};

use ipnet::IpNet;

/// Who is at the other end of a connection, as far as its address tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ClientAddress {
    /// Somebody on the network.
    Ip(IpAddr),
    /// A process of this machine, over a `unix:` socket.
    Local,
}

impl ClientAddress {
    /// From this address; an IPv4 address that came as an IPv6 one
    /// (RFC 4291 §2.5.5.2) is an IPv4 address.
    pub fn of_ip(ip: IpAddr) -> ClientAddress {
        ClientAddress::Ip(ip.to_canonical())
    }

    /// What connections are counted by. None for a process of this machine: over a `unix:` socket
    /// all are one.
    pub fn key(self) -> Option<AddressKey> {
        match self {
            ClientAddress::Ip(IpAddr::V4(ip)) => Some(AddressKey::V4(ip)),
            ClientAddress::Ip(IpAddr::V6(ip)) => Some(AddressKey::V6((ip.to_bits() >> 64) as u64)),
            ClientAddress::Local => None,
        }
    }
}

impl fmt::Display for ClientAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ClientAddress::Ip(ip) => ip.fmt(f),
            ClientAddress::Local => f.write_str("local"),
        }
    }
}

/// What is one client to a limit: an IPv4 address, or the /64 of an IPv6 address, in which a single
/// host has as many addresses as it likes (RFC 4291 §2.5.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AddressKey {
    /// The address.
    V4(Ipv4Addr),
    /// Its upper 64 bits.
    V6(u64),
}

/// Proxies whose word on who the client is counts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TrustedProxies {
    nets: Vec<IpNet>,
    local: bool,
}

/// How whoever comes over a `unix:` socket is named among trusted proxies.
const LOCAL: &str = "unix";

impl TrustedProxies {
    /// From addresses, networks such as `10.0.0.0/8`, and `unix`.
    ///
    /// # Errors
    /// Says which of them is none of these.
    pub fn from_list<'a>(names: impl IntoIterator<Item = &'a str>) -> Result<Self, String> {
        let mut proxies = TrustedProxies::default();
        for name in names {
            if name == LOCAL {
                proxies.local = true;
                continue;
            }
            let net = match name.parse::<IpAddr>() {
                Ok(ip) => IpNet::from(ip.to_canonical()),
                Err(_) => name
                    .parse()
                    .map_err(|_| format!("{name:?} is not an address, a network or unix"))?,
            };
            if net.addr() != net.network() {
                return Err(format!("{name:?} is an address inside {}", net.trunc()));
            }
            if is_mapped(&net) {
                return Err(format!("{name:?}: IPv4 addresses are written as such"));
            }
            proxies.nets.push(net);
        }
        Ok(proxies)
    }

    /// The list again.
    pub fn to_list(&self) -> Vec<String> {
        let is_host = |net: &IpNet| net.prefix_len() == net.max_prefix_len();
        let name =
            |net: &IpNet| if is_host(net) { net.addr().to_string() } else { net.to_string() };
        let local = self.local.then(|| LOCAL.to_owned());
        self.nets.iter().map(name).chain(local).collect()
    }

    /// Whether this is one of them.
    pub fn trusts(&self, client: ClientAddress) -> bool {
        match client {
            ClientAddress::Ip(ip) => self.nets.iter().any(|net| net.contains(&ip)),
            ClientAddress::Local => self.local,
        }
    }
}

/// Whether a network is one of IPv4 addresses in the clothes of IPv6: no client is ever seen in it.
fn is_mapped(net: &IpNet) -> bool {
    match net.network() {
        IpAddr::V6(ip) => net.prefix_len() >= 96 && ip.to_ipv4_mapped().is_some(),
        IpAddr::V4(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(text: &str) -> ClientAddress {
        ClientAddress::of_ip(text.parse().unwrap())
    }

    fn proxies(names: &[&str]) -> TrustedProxies {
        TrustedProxies::from_list(names.iter().copied()).unwrap()
    }

    #[test]
    fn one_host_is_one_client_whatever_its_addresses_are() {
        let key = |text| client(text).key().unwrap();
        assert_eq!(key("2001:db8:1:2::1"), key("2001:db8:1:2:ffff:ffff:ffff:ffff"));
        assert_ne!(key("2001:db8:1:2::1"), key("2001:db8:1:3::1"));
        assert_ne!(key("192.0.2.1"), key("192.0.2.2"));
        assert_eq!(key("::ffff:192.0.2.1"), key("192.0.2.1"));
        assert_ne!(key("::ffff:192.0.2.1"), key("::ffff:192.0.2.2"));
        assert_eq!(ClientAddress::Local.key(), None);
    }

    #[test]
    fn who_is_in_the_list_is_trusted_and_nobody_else() {
        let trusted = proxies(&["10.1.0.0/16", "192.0.2.7", "2001:db8::/32", "::1"]);
        for text in ["10.1.2.3", "::ffff:10.1.2.3", "192.0.2.7", "2001:db8:1::1", "::1"] {
            assert!(trusted.trusts(client(text)), "{text}");
        }
        for text in ["10.2.0.0", "192.0.2.8", "2001:db9::1", "::2", "127.0.0.1"] {
            assert!(!trusted.trusts(client(text)), "{text}");
        }
        assert!(!trusted.trusts(ClientAddress::Local));
        assert!(proxies(&["unix"]).trusts(ClientAddress::Local));
        assert!(!TrustedProxies::default().trusts(ClientAddress::Local));
    }

    #[test]
    fn a_network_is_written_as_one() {
        for wrong in ["10.0.0.1/8", "10.0.0.0/33", "localhost", "", "*", "::ffff:10.0.0.0/104"] {
            assert!(TrustedProxies::from_list([wrong]).is_err(), "{wrong}");
        }
        assert_eq!(proxies(&["::ffff:10.0.0.1"]), proxies(&["10.0.0.1"]));
    }
}
