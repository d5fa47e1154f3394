//! Grant tables: which domain shares which pages with whom, and who maps them.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use rustix::fs::{MemfdFlags, SealFlags};
use vchan::DomId;
use vchan::memory::{Access, PAGE_SIZE, Region};

use super::{ConnectionId, Machine, Refusal};
use crate::wire::{MOST_PAGES, Notice};

/// Xen keeps the references below for itself (`GNTTAB_NR_RESERVED_ENTRIES` in `grant_table.h`).
const FIRST_REFERENCE: u32 = 8;

/// What one domain shares.
#[derive(Default)]
pub(super) struct GrantTable {
    shares: BTreeMap<u64, Share>,
    /// Every granted page: its share, and its place in it.
    references: BTreeMap<u32, (u64, usize)>,
}

/// Pages that were shared by one call. They lie side by side in one file.
struct Share {
    connection: ConnectionId,
    peer: DomId,
    access: Access,
    memory: Arc<OwnedFd>,
    pages: Vec<Page>,
    notify: Option<Notice>,
    /// The owner has ended it; what is still here is still mapped by the peer.
    ended: bool,
}

struct Page {
    reference: u32,
    /// Where it lies in the file, in pages.
    place: usize,
    mapped: usize,
}

/// Pages that a process has mapped. They stay mapped whatever becomes of the grant.
pub(super) struct Mapping {
    pub(super) connection: ConnectionId,
    pub(super) mapper: DomId,
    owner: DomId,
    share: u64,
    memory: Arc<OwnedFd>,
    first_page: usize,
    pages: usize,
    notify: Option<Notice>,
}

impl Machine {
    /// Shares fresh, zeroed pages of `domid` with `peer`.
    pub(crate) fn share(
        &mut self,
        connection: ConnectionId,
        domid: DomId,
        peer: DomId,
        pages: usize,
        access: Access,
        notify: Option<Notice>,
    ) -> Result<(u64, Vec<u32>, Arc<OwnedFd>), Refusal> {
        let limit = self.limits.granted_pages;
        if pages == 0 || pages > MOST_PAGES {
            return Err(Refusal::new(format!(
                "one call shares 1 to {MOST_PAGES} pages, not {pages}"
            )));
        }
        let held = self.domain(domid)?.grants.references.len();
        if held + pages > limit {
            return Err(Refusal::new(format!(
                "no space left: domain {domid} may share {limit} pages at a time and shares {held}"
            ))
            .hint(
                "close other channels or use smaller rings; on Linux the limit is in \
                 /sys/module/xen_gntalloc/parameters/limit",
            ));
        }
        let memory = Arc::new(memory(pages)?);
        self.hold_port(domid, notify)?;
        let share = self.fresh_id();
        let table = &mut self.domain_mut(domid)?.grants;
        let references: Vec<u32> = (FIRST_REFERENCE..)
            .filter(|reference| !table.references.contains_key(reference))
            .take(pages)
            .collect();
        for (place, &reference) in references.iter().enumerate() {
            table.references.insert(reference, (share, place));
        }
        let pages = references
            .iter()
            .enumerate()
            .map(|(place, &reference)| Page {
                reference,
                place,
                mapped: 0,
            })
            .collect();
        table.shares.insert(
            share,
            Share {
                connection,
                peer,
                access,
                memory: Arc::clone(&memory),
                pages,
                notify,
                ended: false,
            },
        );
        Ok((share, references, memory))
    }

    /// Ends what [`share`](Machine::share) began. Pages that the peer still maps are kept back.
    pub(crate) fn end_share(&mut self, domid: DomId, share: u64) {
        let Ok(domain) = self.domain_mut(domid) else {
            return;
        };
        let Some(entry) = domain.grants.shares.get_mut(&share) else {
            return;
        };
        if entry.ended {
            return;
        }
        entry.ended = true;
        let (memory, notify) = (Arc::clone(&entry.memory), entry.notify.take());
        let (peer, kept) = (
            entry.peer,
            entry.pages.iter().filter(|page| page.mapped > 0).count(),
        );
        domain.grants.drop_unmapped_pages(share);
        if kept > 0 {
            tracing::warn!(
                "domain {domid} ends a grant of which domain {peer} still maps {kept} pages; they \
                 are kept back until it unmaps them"
            );
        }
        self.give_notice(domid, &memory, 0, notify);
    }

    /// Maps pages of `owner` into a process of `domid`.
    #[allow(clippy::too_many_arguments, reason = "the fields of one request")]
    pub(crate) fn map(
        &mut self,
        connection: ConnectionId,
        domid: DomId,
        owner: DomId,
        references: &[u32],
        access: Access,
        notify: Option<Notice>,
    ) -> Result<(u64, usize, OwnedFd), Refusal> {
        let table = &self.domain(owner)?.grants;
        // Whatever is wrong with them, they are not what the owner shares with this domain now.
        let found = table.find(domid, owner, references, access);
        let (share, first_page) = found.map_err(Refusal::stale)?;
        let memory = match table.shares.get(&share) {
            Some(entry) => Arc::clone(&entry.memory),
            None => return Err(Refusal::new("the grant has just ended")),
        };
        let limit = self.limits.mapped_pages;
        let mapped = self
            .mappings
            .values()
            .filter(|mapping| mapping.mapper == domid);
        let held: usize = mapped.map(|mapping| mapping.pages).sum();
        if held + references.len() > limit {
            return Err(Refusal::new(format!(
                "no space left: domain {domid} may map {limit} pages at a time and maps {held}"
            ))
            .hint(
                "close other channels; on Linux the limit is in \
                 /sys/module/xen_gntdev/parameters/limit",
            ));
        }
        // Reading only is enforced by the descriptor that the process gets.
        let descriptor = match access {
            Access::ReadWrite => memory.try_clone(),
            Access::ReadOnly => reopen_read_only(&memory),
        }
        .map_err(Refusal::system)?;
        self.hold_port(domid, notify)?;
        if let Some(entry) = self.domain_mut(owner)?.grants.shares.get_mut(&share) {
            let places = first_page..first_page + references.len();
            for page in &mut entry.pages {
                page.mapped += usize::from(places.contains(&page.place));
            }
        }
        let mapping = self.fresh_id();
        self.mappings.insert(
            mapping,
            Mapping {
                connection,
                mapper: domid,
                owner,
                share,
                memory,
                first_page,
                pages: references.len(),
                notify,
            },
        );
        Ok((mapping, first_page, descriptor))
    }

    /// Undoes [`map`](Machine::map), and gives the notice that was asked for.
    pub(crate) fn unmap(&mut self, id: u64) {
        if let Some(mapping) = self.forget_mapping(id) {
            self.give_notice(
                mapping.mapper,
                &mapping.memory,
                mapping.first_page,
                mapping.notify,
            );
        }
    }

    /// Removes a mapping from the books without any notice.
    pub(super) fn forget_mapping(&mut self, id: u64) -> Option<Mapping> {
        let mapping = self.mappings.remove(&id)?;
        // Ids are never used twice, so this cannot be a share of a later domain `owner`.
        if let Ok(owner) = self.domain_mut(mapping.owner) {
            owner.grants.unmap(&mapping);
        }
        Some(mapping)
    }

    /// One granted page, to be looked at or changed behind the domains' backs.
    pub(crate) fn raw_page(&self, domid: DomId, reference: u32) -> Result<Region, Refusal> {
        let table = &self.domain(domid)?.grants;
        let found = table.references.get(&reference);
        let entry = found.and_then(|&(share, place)| Some((table.shares.get(&share)?, place)));
        let (share, place) = entry.ok_or_else(|| no_such_grant(domid, reference))?;
        page_of(&share.memory, place).map_err(Refusal::system)
    }

    /// Clears the byte and sends the event, and lets go of the port.
    fn give_notice(&mut self, domid: DomId, memory: &OwnedFd, page: usize, notify: Option<Notice>) {
        let Some(Notice { offset, port }) = notify else {
            return;
        };
        match page_of(memory, page) {
            Ok(region) if usize::from(offset) < region.len() => {
                region.store_byte(usize::from(offset), 0, Ordering::SeqCst);
            }
            Ok(_) => tracing::warn!("unmap-notify byte {offset} is not in the page"),
            Err(error) => tracing::error!("cannot clear an unmap-notify byte: {error}"),
        }
        self.notify_port(domid, port);
        self.release_port(domid, port);
    }
}

impl GrantTable {
    /// The shares of one process.
    pub(super) fn shares_of(&self, connection: ConnectionId) -> Vec<u64> {
        let of = |(&id, share): (&u64, &Share)| (share.connection == connection).then_some(id);
        self.shares.iter().filter_map(of).collect()
    }

    /// What is still granted, in words.
    pub(super) fn report(&self, domid: DomId, to: &mut Vec<String>) {
        for share in self.shares.values() {
            for page in &share.pages {
                let (reference, peer, mapped) = (page.reference, share.peer, page.mapped);
                let state = if share.ended {
                    "ended by its owner, but kept back"
                } else {
                    "granted"
                };
                to.push(format!(
                    "domain {domid}: grant {reference} to domain {peer} is {state}, mapped \
                     {mapped} times"
                ));
            }
        }
    }

    /// The share that `references` are an unbroken run of, and the place of the first in it.
    fn find(
        &self,
        domid: DomId,
        owner: DomId,
        references: &[u32],
        access: Access,
    ) -> Result<(u64, usize), Refusal> {
        let mut run: Option<(u64, usize)> = None;
        for (nth, &reference) in references.iter().enumerate() {
            let found = self.references.get(&reference);
            let Some(&(share, place)) = found else {
                return Err(no_such_grant(owner, reference));
            };
            let entry = self.shares.get(&share);
            let Some(entry) = entry.filter(|entry| entry.peer == domid) else {
                return Err(Refusal::new(format!(
                    "grant {reference} of domain {owner} is not for domain {domid}"
                )));
            };
            if access == Access::ReadWrite && entry.access == Access::ReadOnly {
                return Err(Refusal::new(format!(
                    "grant {reference} of domain {owner} is for reading only"
                )));
            }
            let (first_share, first_place) = *run.get_or_insert((share, place));
            if (first_share, first_place + nth) != (share, place) {
                return Err(Refusal::new(format!(
                    "grant {reference} of domain {owner} does not follow on the one before it: \
                     the emulated host maps only pages that one call shared, in their order"
                )));
            }
        }
        run.ok_or_else(|| Refusal::new("no grant reference was given"))
    }

    fn unmap(&mut self, mapping: &Mapping) {
        let Some(entry) = self.shares.get_mut(&mapping.share) else {
            return;
        };
        let places = mapping.first_page..mapping.first_page + mapping.pages;
        for page in &mut entry.pages {
            if places.contains(&page.place) {
                page.mapped = page.mapped.saturating_sub(1);
            }
        }
        if entry.ended {
            self.drop_unmapped_pages(mapping.share);
        }
    }

    fn drop_unmapped_pages(&mut self, share: u64) {
        let Some(entry) = self.shares.get_mut(&share) else {
            return;
        };
        entry.pages.retain(|page| {
            if page.mapped == 0 {
                self.references.remove(&page.reference);
            }
            page.mapped > 0
        });
        if entry.pages.is_empty() {
            self.shares.remove(&share);
        }
    }
}

impl Mapping {
    /// What is still mapped, in words.
    pub(super) fn report(&self) -> String {
        let Mapping {
            mapper,
            owner,
            pages,
            ..
        } = self;
        format!("domain {mapper}: {pages} pages of domain {owner} are mapped")
    }
}

fn no_such_grant(domid: DomId, reference: u32) -> Refusal {
    Refusal::new(format!("domain {domid} has no grant {reference}"))
}

/// Fresh memory whose size nobody can change: else a peer could make an access beyond its end.
fn memory(pages: usize) -> Result<OwnedFd, Refusal> {
    let make = || {
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let memory = rustix::fs::memfd_create("vchan-emulated-grant", flags)?;
        rustix::fs::ftruncate(&memory, (pages * PAGE_SIZE) as u64)?;
        let seals = SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL;
        rustix::fs::fcntl_add_seals(&memory, seals)?;
        Ok(memory)
    };
    make().map_err(|error: rustix::io::Errno| Refusal::system(error.into()))
}

fn page_of(memory: &OwnedFd, page: usize) -> std::io::Result<Region> {
    let offset = (page * PAGE_SIZE) as u64;
    Region::map_file(memory.as_fd(), offset, PAGE_SIZE, Access::ReadWrite)
}

/// Another descriptor of the same memory through which it cannot be changed.
fn reopen_read_only(memory: &OwnedFd) -> std::io::Result<OwnedFd> {
    use std::os::fd::AsRawFd;
    let path = format!("/proc/self/fd/{}", memory.as_raw_fd());
    Ok(std::fs::File::open(path)?.into())
}
