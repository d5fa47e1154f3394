//! Grants of the emulated host, as a domain uses them.

use std::os::fd::AsFd;
use std::sync::Arc;

use vchan::host::{GrantRef, Grants, Shared, UnmapNotify};
use vchan::memory::{Access, PAGE_SIZE, Region};
use vchan::{DomId, HostError};

use super::{CallError, Control, pages as number_of};
use crate::wire::{MOST_PAGES, Reply, Request};

/// The grant tables of the emulated host.
pub(crate) struct EmulatedGrants {
    pub(crate) control: Arc<Control>,
}

/// Asks the host to undo a share or a mapping when dropped, after the memory was unmapped.
struct Undo {
    control: Arc<Control>,
    what: Undone,
}

/// What is undone, by the host's number for it.
#[derive(Clone, Copy)]
enum Undone {
    Share(u64),
    Mapping(u64),
}

impl Grants for EmulatedGrants {
    fn share(
        &self,
        peer: DomId,
        pages: usize,
        access: Access,
        notify: Option<UnmapNotify>,
    ) -> Result<Shared, HostError> {
        let doing = || format!("share {} with domain {peer}", number_of(pages));
        let request = Request::Share {
            peer: peer.number(),
            pages: u32::try_from(pages).unwrap_or(u32::MAX),
            access,
            notify: notify.map(Into::into),
        };
        let answer = self
            .control
            .call(&request)
            .map_err(|error| error.doing(doing()))?;
        let (Reply::Shared { share, references }, Some(memory)) = (answer.0, answer.1.first())
        else {
            return Err(CallError::Nonsense.doing(doing()));
        };
        let undo = self.undo(Undone::Share(share));
        let region = Region::map_file(memory.as_fd(), 0, pages * PAGE_SIZE, Access::ReadWrite)
            .map_err(|error| HostError::new(doing()).because(error))?;
        Ok(Shared {
            references: references.into_iter().map(GrantRef).collect(),
            region: region.then_drop(undo),
        })
    }

    fn map(
        &self,
        peer: DomId,
        references: &[GrantRef],
        access: Access,
        notify: Option<UnmapNotify>,
    ) -> Result<Region, HostError> {
        let count = references.len();
        let doing = || format!("map {} of domain {peer}", number_of(count));
        if count > MOST_PAGES {
            let why = format!("one call maps at most {MOST_PAGES} pages");
            return Err(HostError::new(doing()).because(why));
        }
        let request = Request::Map {
            peer: peer.number(),
            access,
            notify: notify.map(Into::into),
            references: references.iter().map(|reference| reference.0).collect(),
        };
        let answer = self
            .control
            .call(&request)
            .map_err(|error| error.doing(doing()))?;
        let (
            Reply::Mapped {
                mapping,
                first_page,
            },
            Some(memory),
        ) = (answer.0, answer.1.first())
        else {
            return Err(CallError::Nonsense.doing(doing()));
        };
        let undo = self.undo(Undone::Mapping(mapping));
        let offset = u64::from(first_page) * PAGE_SIZE as u64;
        let region = Region::map_file(memory.as_fd(), offset, count * PAGE_SIZE, access)
            .map_err(|error| HostError::new(doing()).because(error))?;
        Ok(region.then_drop(undo))
    }
}

impl EmulatedGrants {
    fn undo(&self, what: Undone) -> Box<Undo> {
        Box::new(Undo {
            control: Arc::clone(&self.control),
            what,
        })
    }
}

impl Drop for Undo {
    fn drop(&mut self) {
        self.control.undo(&match self.what {
            Undone::Share(share) => Request::EndShare { share },
            Undone::Mapping(mapping) => Request::Unmap { mapping },
        });
    }
}
