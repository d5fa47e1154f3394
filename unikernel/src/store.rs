//! XenStore, over the ring with which the guest is born.

use alloc::boxed::Box;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::task::Waker;

use unikernel_core::store::{StoreEvents, StoreRing};
use vchan::host::{Ongoing, Permissions, Request, Store, Time, Watch};
use vchan::xenstore::WireClient;
use vchan::{DomId, HostError, StoreError, StoreErrorKind, StorePath};

use crate::boot::Ring;
use crate::xen::event;
use crate::{events, power, shared_info};

/// XenStore as the guest's programs use it: the library's client, whose long waits end when the domain
/// is to shut down.
pub(crate) struct GuestStore(WireClient<StoreRing<StorePort>>);

impl GuestStore {
    pub(crate) fn new(ring: Ring) -> GuestStore {
        let events = StorePort(ring.port);
        GuestStore(WireClient::new(StoreRing::new(ring.page, events)))
    }
}

impl Store for GuestStore {
    fn read(&self, path: &StorePath) -> Result<Vec<u8>, StoreError> {
        self.0.read(path)
    }

    fn write(&self, path: &StorePath, value: &[u8]) -> Result<(), StoreError> {
        self.0.write(path, value)
    }

    fn remove(&self, path: &StorePath) -> Result<(), StoreError> {
        self.0.remove(path)
    }

    fn directory(&self, path: &StorePath) -> Result<Vec<String>, StoreError> {
        self.0.directory(path)
    }

    fn permissions(&self, path: &StorePath) -> Result<Permissions, StoreError> {
        self.0.permissions(path)
    }

    fn set_permissions(&self, path: &StorePath, to: &Permissions) -> Result<(), StoreError> {
        self.0.set_permissions(path, to)
    }

    fn is_domain_introduced(&self, domid: DomId) -> Result<bool, StoreError> {
        self.0.is_domain_introduced(domid)
    }

    fn watch(&self, path: &StorePath) -> Result<Box<dyn Watch>, StoreError> {
        Ok(Box::new(GuestWatch(self.0.watch(path)?)))
    }

    fn submit(&self, requests: &[Request<'_>]) -> Box<dyn Ongoing> {
        self.0.submit(requests)
    }
}

struct GuestWatch(Box<dyn Watch>);

impl Watch for GuestWatch {
    fn take(&self) -> Result<bool, StoreError> {
        self.0.take()
    }

    fn wait(&self, deadline: Option<Time>) -> Result<bool, StoreError> {
        loop {
            // First the event: what comes after the looks at the ring is another one, and ends the sleep.
            if let Some(port) = power::port() {
                events::take_of_store(port);
            }
            power::obey().map_err(|error| {
                let doing = "wait for a change in XenStore";
                StoreError::new(StoreErrorKind::Refused, doing).detail(error.to_string())
            })?;
            // Each look reads what is for the other, too. What that one has read for this is seen now;
            // what this one reads for that came later, with an event.
            if self.0.take()? {
                return Ok(true);
            }
            if deadline.is_some_and(|deadline| deadline <= shared_info::now()) {
                return Ok(false);
            }
            events::poll(power::port().as_slice(), deadline);
        }
    }

    fn register(&self, waker: &Waker) {
        self.0.register(waker);
    }
}

/// XenStore's port.
struct StorePort(u32);

impl StoreEvents for StorePort {
    fn notify(&self) -> Result<(), HostError> {
        let told = event::send(self.0);
        told.map_err(|errno| HostError::new("tell XenStore").because(errno))
    }

    fn wait(&self, deadline: Option<Time>) -> Result<(), HostError> {
        if !shared_info::is_pending(self.0) {
            events::poll(&[self.0], deadline);
        }
        events::take_of_store(self.0);
        Ok(())
    }

    fn now(&self) -> Time {
        shared_info::now()
    }
}
