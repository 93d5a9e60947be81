//! Tells a connection that was reset from one that was closed.
//!
//! To `ureq` either is the end of a body that has no length, and that is right for who reads it; who
//! looks for what has cut a stream wants to know. So a transport around its own remembers the reset.

use std::io::ErrorKind;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use ureq::Error;
use ureq::unversioned::transport::{
    Buffers, ConnectionDetails, Connector, DefaultConnector, NextTimeout, Transport,
};

/// Whether a connection of a client was reset.
#[derive(Clone, Debug, Default)]
pub(super) struct WasReset(Arc<AtomicBool>);

impl WasReset {
    pub(super) fn get(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// Connects as `ureq` does by itself, and remembers resets.
#[derive(Debug, Default)]
pub(super) struct Noticing {
    connector: DefaultConnector,
    was_reset: WasReset,
}

impl Noticing {
    pub(super) fn new(was_reset: &WasReset) -> Noticing {
        Noticing { connector: DefaultConnector::new(), was_reset: was_reset.clone() }
    }
}

impl Connector for Noticing {
    type Out = NoticingTransport;

    fn connect(
        &self,
        details: &ConnectionDetails,
        chained: Option<()>,
    ) -> Result<Option<NoticingTransport>, Error> {
        let transport = self.connector.connect(details, chained)?;
        let was_reset = self.was_reset.clone();
        Ok(transport.map(|transport| NoticingTransport { transport, was_reset }))
    }
}

#[derive(Debug)]
pub(super) struct NoticingTransport {
    transport: Box<dyn Transport>,
    was_reset: WasReset,
}

impl Transport for NoticingTransport {
    fn buffers(&mut self) -> &mut dyn Buffers {
        self.transport.buffers()
    }

    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), Error> {
        self.transport.transmit_output(amount, timeout)
    }

    fn await_input(&mut self, timeout: NextTimeout) -> Result<bool, Error> {
        let result = self.transport.await_input(timeout);
        if matches!(&result, Err(Error::Io(error)) if error.kind() == ErrorKind::ConnectionReset) {
            self.was_reset.0.store(true, Ordering::Relaxed);
        }
        result
    }

    fn is_open(&mut self) -> bool {
        self.transport.is_open()
    }

    fn is_tls(&self) -> bool {
        self.transport.is_tls()
    }
}
