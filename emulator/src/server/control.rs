//! Serves the `control` socket: grants and event channels for one process of a domain.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use vchan::DomId;

use super::Server;
use crate::machine::{ConnectionId, Identity, Machine, Opened, Refusal};
use crate::sockets;
use crate::wire::{Reply, Request};

/// Serves until the process ends or breaks the protocol, then cleans up after it.
pub(super) fn serve(server: &Server, domain: Identity, socket: OwnedFd) {
    let socket = Arc::new(socket);
    let Some(id) = server.machine().connect(domain, Arc::clone(&socket)) else {
        return;
    };
    let domid = domain.domid;
    let process = Process { server, domid, id };
    while let Ok(Some((message, _))) = sockets::receive(&socket) {
        let Some(request) = Request::decode(&message) else {
            tracing::warn!("a process of domain {domid} sends what is no request");
            return;
        };
        let answer = process.answer(request);
        let descriptors: Vec<BorrowedFd<'_>> = answer
            .descriptors
            .iter()
            .map(|descriptor| descriptor.as_fd())
            .collect();
        if sockets::send(&socket, &answer.reply.encode(), &descriptors).is_err() {
            return;
        }
    }
}

/// A process of a domain. Dropped in whatever way, it leaves nothing behind.
struct Process<'a> {
    server: &'a Server,
    domid: DomId,
    id: ConnectionId,
}

struct Answer {
    reply: Reply,
    descriptors: Vec<Arc<OwnedFd>>,
}

impl Process<'_> {
    fn answer(&self, request: Request) -> Answer {
        let answer = self.try_answer(&mut self.server.machine(), request);
        answer.unwrap_or_else(|Refusal { why, hint, stale }| {
            Reply::Refused { why, hint, stale }.into()
        })
    }

    fn try_answer(&self, machine: &mut Machine, request: Request) -> Result<Answer, Refusal> {
        let &Process { domid, id, .. } = self;
        match request {
            Request::Share {
                peer,
                pages,
                access,
                notify,
            } => {
                let (peer, pages) = (domain(peer)?, usize::try_from(pages).unwrap_or(usize::MAX));
                let (share, references, memory) =
                    machine.share(id, domid, peer, pages, access, notify)?;
                Ok(Answer {
                    reply: Reply::Shared { share, references },
                    descriptors: vec![memory],
                })
            }
            Request::EndShare { share } => {
                if !machine.owns_share(id, domid, share) {
                    return Err(not_yours());
                }
                machine.end_share(domid, share);
                Ok(Reply::Done.into())
            }
            Request::Map {
                peer,
                access,
                notify,
                references,
            } => {
                let (mapping, first_page, memory) =
                    machine.map(id, domid, domain(peer)?, &references, access, notify)?;
                let first_page = u32::try_from(first_page).unwrap_or(u32::MAX);
                Ok(Answer {
                    reply: Reply::Mapped {
                        mapping,
                        first_page,
                    },
                    descriptors: vec![Arc::new(memory)],
                })
            }
            Request::Unmap { mapping } => {
                if !machine.owns_mapping(id, mapping) {
                    return Err(not_yours());
                }
                machine.unmap(mapping);
                Ok(Reply::Done.into())
            }
            Request::BindUnbound { peer } => {
                Ok(machine.bind_unbound(id, domid, domain(peer)?)?.into())
            }
            Request::BindInterdomain { peer, port } => Ok(machine
                .bind_interdomain(id, domid, domain(peer)?, port)?
                .into()),
            Request::ClosePort { port } => {
                if !machine.owns_port(id, domid, port) {
                    return Err(not_yours());
                }
                machine.close_port(domid, port);
                Ok(Reply::Done.into())
            }
            Request::IsBound { port } => Ok(Reply::Bound(machine.is_bound(domid, port)?).into()),
        }
    }
}

impl Drop for Process<'_> {
    fn drop(&mut self) {
        self.server.machine().disconnect(self.domid, self.id);
    }
}

impl From<Reply> for Answer {
    fn from(reply: Reply) -> Answer {
        Answer {
            reply,
            descriptors: Vec::new(),
        }
    }
}

impl From<Opened> for Answer {
    fn from((port, pending, target): Opened) -> Answer {
        Answer {
            reply: Reply::Port { port },
            descriptors: vec![pending, target],
        }
    }
}

fn domain(number: u16) -> Result<DomId, Refusal> {
    DomId::new(number).map_err(|error| Refusal::new(error.to_string()))
}

fn not_yours() -> Refusal {
    Refusal::new("it belongs to another process, or is gone already")
}
