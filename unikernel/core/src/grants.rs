//! Which grant references are in use, and which pages the peer still maps.

use alloc::vec::Vec;

use vchan::host::GrantRef;
use vchan::memory::Access;
use vchan::{DomId, HostError};

use crate::guard::keeps;

/// References below this one are Xen's own (`GNTTAB_NR_RESERVED_ENTRIES`): the console's and
/// XenStore's pages among them.
const FIRST: u32 = 8;

/// How many entries of version 1 a frame of the table has: each is 8 bytes long.
const ENTRIES_PER_FRAME: u32 = 512;

/// The grant table itself: frames of entries that Xen reads.
pub trait GrantTable {
    /// How many frames the guest has mapped.
    fn frames(&self) -> u32;

    /// Maps one frame more.
    ///
    /// # Errors
    /// When Xen's limit for this domain is reached.
    fn add_frame(&mut self) -> Result<(), HostError>;

    /// Fills the entry of `reference`, which is unused: `peer` may map `frame`, a frame of the
    /// machine.
    fn grant(&mut self, reference: GrantRef, peer: DomId, frame: u64, access: Access);

    /// Empties the entry of `reference`, so that who does not have the page mapped cannot map it any
    /// more. False: the peer has it mapped at this moment. This can be called again later.
    fn end(&mut self, reference: GrantRef) -> bool;
}

/// The pages that this domain shares. `P` is what owns a page: dropping it frees the page.
///
/// A page whose grant has ended may still be mapped by the peer, who may keep it so as long as it
/// likes. Such a page is *kept back*: neither it nor its reference is used for anything else until
/// the peer has let go. Otherwise that peer would read and write what is none of its business
/// (as in Mirage's security advisory MSA02).
#[derive(Debug)]
pub struct Grants<T, P> {
    table: T,
    /// References that were used before and are free.
    free: Vec<GrantRef>,
    /// The first reference that was never used.
    next: u32,
    kept: Vec<(GrantRef, P)>,
}

impl<T: GrantTable, P> Grants<T, P> {
    /// Nothing is shared yet in `table`.
    pub fn new(table: T) -> Grants<T, P> {
        Grants {
            table,
            free: Vec::new(),
            next: FIRST,
            kept: Vec::new(),
        }
    }

    /// Shares a frame with `peer`, under a reference that nothing uses.
    ///
    /// # Errors
    /// When the table is full and cannot grow, saying how many pages are kept back.
    pub fn share(
        &mut self,
        peer: DomId,
        frame: u64,
        access: Access,
    ) -> Result<GrantRef, HostError> {
        self.reclaim();
        let reference = match self.free.pop() {
            Some(reference) => reference,
            None => self.unused()?,
        };
        self.table.grant(reference, peer, frame, access);
        Ok(reference)
    }

    /// Ends a grant. The page is dropped if the peer has let go of it, else kept back.
    pub fn end(&mut self, reference: GrantRef, page: P) {
        if self.table.end(reference) {
            self.free.push(reference);
            return;
        }
        tracing::debug!(%reference, "a page is kept back: the peer still maps it");
        if keeps("page-kept-back") {
            self.kept.push((reference, page));
        }
    }

    /// Looks which of the pages that are kept back the peer has let go of by now; drops those.
    pub fn reclaim(&mut self) {
        let Grants {
            table, free, kept, ..
        } = self;
        kept.retain(|&(reference, _)| {
            let is_free = table.end(reference);
            if is_free {
                free.push(reference);
            }
            !is_free
        });
    }

    /// How many pages are kept back.
    #[must_use]
    pub fn kept_back(&self) -> usize {
        self.kept.len()
    }

    fn unused(&mut self) -> Result<GrantRef, HostError> {
        if self.next >= self.table.frames().saturating_mul(ENTRIES_PER_FRAME) {
            let kept = self.kept.len();
            self.table.add_frame().map_err(|error| match kept {
                0 => error,
                kept => error.hint(alloc::format!(
                    "{kept} pages are kept back because peers still map them"
                )),
            })?;
        }
        let reference = GrantRef(self.next);
        // Frames are few: it does not come near the end.
        self.next = self.next.saturating_add(1);
        Ok(reference)
    }
}

#[cfg(test)]
mod tests;
