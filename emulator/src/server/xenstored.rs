//! Serves the `xenstored` socket: the XenStore protocol for one client of a domain.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustix::event::{PollFd, PollFlags};
use rustix::io::Errno;
use vchan::DomId;
use vchan::xenstore::codec::Decoder;

use super::Server;
use crate::machine::Identity;
use crate::store::{ClientId, Outbox};

/// Serves until the client is gone or breaks the protocol, then forgets it.
pub(super) fn serve(server: &Server, domain: Identity, socket: OwnedFd) {
    let outbox = match Outbox::new() {
        Ok(outbox) => Arc::new(outbox),
        Err(error) => {
            tracing::error!("cannot serve a XenStore client: {error}");
            return;
        }
    };
    let socket = Arc::new(socket);
    // The machine can cut the process off by its socket, the store by forgetting the client.
    let Some(process) = server.machine().connect(domain, Arc::clone(&socket)) else {
        return;
    };
    let client = server.store().connect(domain, Arc::clone(&outbox));
    let domid = domain.domid;
    let connection = Connection {
        server,
        domid,
        process,
        client,
        socket,
        outbox,
    };
    if let Some(client) = client
        && let Err(error) = connection.run(client)
    {
        tracing::warn!("a XenStore client of domain {domid} is dropped: {error}");
    }
}

struct Connection<'a> {
    server: &'a Server,
    domid: DomId,
    process: u64,
    client: Option<ClientId>,
    socket: Arc<OwnedFd>,
    outbox: Arc<Outbox>,
}

/// Why a client is dropped.
#[derive(Debug, thiserror::Error)]
enum Dropped {
    #[error("it breaks the protocol: {0}")]
    Protocol(#[from] vchan::xenstore::codec::CodecError),
    #[error("it does not read what it asked for")]
    Deaf,
    #[error(transparent)]
    System(#[from] Errno),
}

impl Connection<'_> {
    fn run(&self, client: ClientId) -> Result<(), Dropped> {
        rustix::io::ioctl_fionbio(&self.socket, true)?;
        let mut decoder = Decoder::new();
        let mut bytes = vec![0; 1 << 14];
        loop {
            let all_sent = match self.outbox.send(&self.socket) {
                Err(Errno::PIPE | Errno::CONNRESET) => return Ok(()),
                Err(Errno::NOBUFS) => return Err(Dropped::Deaf),
                sent => sent?,
            };
            if !self.wait(all_sent)? {
                continue;
            }
            match rustix::io::read(&self.socket, &mut bytes) {
                Ok(0) => return Ok(()),
                Ok(count) => decoder.push(&bytes[..count]),
                Err(Errno::AGAIN | Errno::INTR) => {}
                Err(Errno::CONNRESET) => return Ok(()),
                Err(error) => return Err(error.into()),
            }
            while let Some(request) = decoder.next_message()? {
                self.server.store().handle(client, &request);
            }
        }
    }

    /// Waits until there is something to do. True when it is to read.
    fn wait(&self, all_sent: bool) -> Result<bool, Errno> {
        let mut events = PollFlags::IN;
        events.set(PollFlags::OUT, !all_sent);
        let mut sources = [
            PollFd::new(&*self.socket, events),
            PollFd::from_borrowed_fd(self.outbox.wake(), PollFlags::IN),
        ];
        match rustix::event::poll(&mut sources, None) {
            Ok(_) => {}
            Err(Errno::INTR) => return Ok(false),
            Err(error) => return Err(error),
        }
        let ends = PollFlags::IN | PollFlags::HUP | PollFlags::ERR;
        Ok(sources[0].revents().intersects(ends))
    }
}

impl Drop for Connection<'_> {
    fn drop(&mut self) {
        if let Some(client) = self.client {
            self.server.store().disconnect(client);
        }
        self.server.machine().disconnect(self.domid, self.process);
    }
}
