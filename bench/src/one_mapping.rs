//! Two domains in one program that share pages by one mapping.
//!
//! UNSAFETY: a mapping is lent to the other domain, and stays as long as either has it.
//!
//! Each domain maps a shared page anew, so a program that is both has it at two addresses. Some
//! processors find lines in their first cache by the address of the program (the way predictor of AMD's
//! Zen to Zen 3 does) and take a line at its other address for missing: between two calls in one thread,
//! every line of the ring is. Buffers to compare with have one address. Two real domains are two
//! programs, and mostly on two processors. So what is compared in one thread is compared with one mapping.
#![allow(unsafe_code, reason = "see UNSAFETY above")]

use std::ptr::NonNull;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use vchan::host::{GrantRef, Grants, Shared, UnmapNotify};
use vchan::memory::{Access, Region};
use vchan::{DomId, Host, HostError};

/// What is shared now.
type Mappings = Arc<Mutex<Vec<Mapping>>>;

struct Mapping {
    of: DomId,
    references: Vec<GrantRef>,
    region: Weak<Region>,
}

/// Both hosts, each of which has what the other shares where that has it.
pub(crate) fn one_mapping(hosts: [(DomId, Host); 2]) -> [Host; 2] {
    let mappings = Mappings::default();
    hosts.map(|(domid, host)| {
        host.with_grants(Through {
            domid,
            host: host.clone(),
            mappings: Arc::clone(&mappings),
        })
    })
}

struct Through {
    domid: DomId,
    host: Host,
    mappings: Mappings,
}

/// The mapping of `region`, for one more who has it.
fn lent(region: &Arc<Region>, access: Access, keeps: impl Send + Sync + 'static) -> Region {
    let base: NonNull<u8> = region.base();
    let keeper = Box::new((keeps, Arc::clone(region)));
    // SAFETY: it is mapped, readable and writable, until the keeper is dropped, and a `Region` gives out
    // no reference to it.
    unsafe { Region::from_raw(base, region.len(), access, keeper) }
}

impl Grants for Through {
    fn share(
        &self,
        peer: DomId,
        pages: usize,
        access: Access,
        notify: Option<UnmapNotify>,
    ) -> Result<Shared, HostError> {
        let Shared { references, region } =
            self.host.grants().share(peer, pages, access, notify)?;
        let region = Arc::new(region);
        let mut all = self.mappings.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|mapping| mapping.region.strong_count() > 0);
        all.push(Mapping {
            of: self.domid,
            references: references.clone(),
            region: Arc::downgrade(&region),
        });
        let region = lent(&region, Access::ReadWrite, ());
        Ok(Shared { references, region })
    }

    fn map(
        &self,
        peer: DomId,
        references: &[GrantRef],
        access: Access,
        notify: Option<UnmapNotify>,
    ) -> Result<Region, HostError> {
        // The host keeps its books of it as ever.
        let mapped = self.host.grants().map(peer, references, access, notify)?;
        let all = self.mappings.lock().unwrap_or_else(PoisonError::into_inner);
        let shared = all
            .iter()
            .find(|mapping| mapping.of == peer && mapping.references == references);
        Ok(match shared.and_then(|mapping| mapping.region.upgrade()) {
            Some(region) => lent(&region, access, mapped),
            None => mapped,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;

    use super::*;
    use crate::peers::vchan::Emulated;

    #[test]
    fn what_one_domain_shares_the_other_has_at_the_same_address() {
        let emulated = Emulated::start_with_one_mapping().unwrap();
        let [left, right] = emulated.hosts();
        let [left_id, right_id] = Emulated::domids();
        let shared = right.grants();
        let shared = shared.share(left_id, 2, Access::ReadWrite, None).unwrap();
        let grants = left.grants();
        let map = |access| grants.map(right_id, &shared.references, access, None);
        let mapped = map(Access::ReadOnly).unwrap();
        assert_eq!(mapped.base(), shared.region.base());
        shared.region.store_index(4096, 7, Ordering::Release);
        drop(shared.region);
        assert_eq!(mapped.load_index(4096, Ordering::Acquire), 7);
        drop(mapped);
        emulated.emulator().assert_clean();
    }
}
