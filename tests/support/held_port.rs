//! Ports for programs that are to listen at an address which is known before, or after a restart again.

use std::net::{Ipv4Addr, SocketAddr};

use socket2::{Domain, Socket, Type};

/// A port that the kernel gives to nobody else, neither to who asks for any port nor as the near end
/// of a connection: it is bound here, and not listened on. Who names it, with `SO_REUSEADDR` as
/// servers do, may still listen there.
pub struct HeldPort {
    _socket: Socket,
    address: SocketAddr,
}

impl HeldPort {
    /// One of this address that is free.
    pub fn new(host: Ipv4Addr) -> HeldPort {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("there are descriptors");
        socket.set_reuse_address(true).expect("it is not bound yet");
        socket.bind(&SocketAddr::from((host, 0)).into()).expect("there are ports");
        let address = socket.local_addr().expect("it is bound");
        HeldPort { address: address.as_socket().expect("it is TCP"), _socket: socket }
    }

    /// Where that is.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}
