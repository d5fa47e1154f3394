//! The host's side of the sockets: who listens where, and the threads that serve.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::{Shutdown, SocketFlags, SocketType};
use vchan::{DomId, HostError};

use crate::machine::{Identity, Machine, Refusal};
use crate::store::Store;
use crate::{Limits, sockets};

mod control;
mod xenstored;

/// What all threads of one host share.
pub(crate) struct Server {
    /// This lock and the next are never held at once.
    machine: Mutex<Machine>,
    store: Mutex<Store>,
    listeners: Mutex<BTreeMap<DomId, Listeners>>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    directory: PathBuf,
}

/// Where the processes of one domain connect.
struct Listeners {
    sockets: Vec<Arc<OwnedFd>>,
    directory: PathBuf,
}

/// What serves a process that has connected.
type Serve = fn(&Server, Identity, OwnedFd);

impl Server {
    pub(crate) fn new(directory: PathBuf, limits: Limits) -> Server {
        Server {
            machine: Mutex::new(Machine::new(limits)),
            store: Mutex::new(Store::new(limits)),
            listeners: Mutex::default(),
            threads: Mutex::default(),
            directory,
        }
    }

    /// The state of the machine. A thread that panicked may have left a request half done, which
    /// is no reason for all others to end.
    pub(crate) fn machine(&self) -> MutexGuard<'_, Machine> {
        lock(&self.machine)
    }

    /// The directory whose sockets the processes of a domain use.
    pub(crate) fn domain_directory(&self, domid: DomId) -> PathBuf {
        self.directory.join(format!("domain-{domid}"))
    }

    pub(crate) fn store(&self) -> MutexGuard<'_, Store> {
        lock(&self.store)
    }

    pub(crate) fn add_domain(self: &Arc<Server>, domid: DomId) -> Result<(), HostError> {
        let doing = || format!("add domain {domid}");
        let added = self.machine().add_domain(domid);
        let domain = added.map_err(|refusal| refusal.into_error(doing()))?;
        self.store().introduce(domain);
        self.open(domain).map_err(|error| {
            self.store().release(domid);
            self.machine().remove_domain(domid);
            let cannot = HostError::new(doing()).because(error);
            cannot.hint("is its directory in use, or its path longer than a socket's may be?")
        })
    }

    pub(crate) fn destroy_domain(&self, domid: DomId) -> Result<(), HostError> {
        if !self.machine().domids().contains(&domid) {
            let refusal = Refusal::new(format!("there is no domain {domid}"));
            return Err(refusal.into_error("destroy a domain"));
        }
        self.close(domid);
        let processes = self.machine().remove_domain(domid);
        self.store().release(domid);
        shut(&processes);
        Ok(())
    }

    pub(crate) fn set_limits(&self, limits: Limits) {
        self.machine().limits = limits;
        self.store().set_limits(limits);
    }

    pub(crate) fn leftovers(&self) -> Vec<String> {
        let mut report = self.machine().report();
        report.extend(self.store().report());
        report
    }

    /// Ends all threads.
    pub(crate) fn stop(&self) {
        let domids: Vec<DomId> = lock(&self.listeners).keys().copied().collect();
        for domid in domids {
            self.close(domid);
        }
        // A thread that has just accepted a process finds no domain to connect it to.
        let mut machine = self.machine();
        for domid in machine.domids() {
            shut(&machine.remove_domain(domid));
        }
        drop(machine);
        // Threads begin threads: so until none is left.
        loop {
            let Some(thread) = lock(&self.threads).pop() else {
                return;
            };
            if thread.join().is_err() {
                tracing::error!("a thread of the emulated host has panicked");
            }
        }
    }

    /// Lets the processes of a domain connect.
    fn open(self: &Arc<Server>, domain: Identity) -> io::Result<()> {
        let directory = self.domain_directory(domain.domid);
        std::fs::create_dir_all(&directory)?;
        let control = sockets::listen(&directory.join("control"), SocketType::SEQPACKET)?;
        let xenstored = sockets::listen(&directory.join("xenstored"), SocketType::STREAM)?;
        let listeners = Listeners {
            sockets: vec![Arc::new(control), Arc::new(xenstored)],
            directory,
        };
        let serve: [Serve; 2] = [control::serve, xenstored::serve];
        for (socket, serve) in listeners.sockets.iter().zip(serve) {
            self.accept_on(Arc::clone(socket), domain, serve);
        }
        lock(&self.listeners).insert(domain.domid, listeners);
        Ok(())
    }

    /// Takes the sockets of a domain away, and with them its directory.
    fn close(&self, domid: DomId) {
        let Some(listeners) = lock(&self.listeners).remove(&domid) else {
            return;
        };
        shut(&listeners.sockets);
        remove(&listeners.directory);
    }

    fn accept_on(self: &Arc<Server>, listener: Arc<OwnedFd>, domain: Identity, serve: Serve) {
        let server = Arc::clone(self);
        self.spawn(move || {
            while let Some(socket) = accept(listener.as_fd()) {
                let serving = Arc::clone(&server);
                server.spawn(move || serve(&serving, domain, socket));
            }
        });
    }

    fn spawn(&self, run: impl FnOnce() + Send + 'static) {
        let mut threads = lock(&self.threads);
        threads.retain(|thread| !thread.is_finished());
        let name = "emulated-host".to_owned();
        match thread::Builder::new().name(name).spawn(run) {
            Ok(thread) => threads.push(thread),
            // The process finds its connection closed.
            Err(error) => tracing::error!("cannot start a thread: {error}"),
        }
    }
}

/// The next process that connects; `None` when the socket was shut.
fn accept(listener: impl AsFd) -> Option<OwnedFd> {
    loop {
        match rustix::net::accept_with(&listener, SocketFlags::CLOEXEC) {
            Ok(socket) => return Some(socket),
            Err(Errno::INTR | Errno::CONNABORTED) => {}
            Err(Errno::INVAL) => return None,
            Err(error) => {
                // Most likely too many open files: better once some are closed.
                tracing::error!("cannot accept a process: {error}");
                thread::sleep(Duration::from_millis(10));
            }
        }
    }
}

/// Ends the connections: whoever waits for the sockets wakes up.
fn shut(sockets: &[Arc<OwnedFd>]) {
    for socket in sockets {
        // It fails where the other side has ended the connection itself.
        let _ = rustix::net::shutdown(socket, Shutdown::Both);
    }
}

pub(crate) fn remove(directory: &Path) {
    if let Err(error) = std::fs::remove_dir_all(directory) {
        tracing::warn!("cannot remove {}: {error}", directory.display());
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
