//! Who is at the other end of a connection.

use std::{fmt, net::IpAddr};

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
}

impl fmt::Display for ClientAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ClientAddress::Ip(ip) => ip.fmt(f),
            ClientAddress::Local => f.write_str("local"),
        }
    }
}
