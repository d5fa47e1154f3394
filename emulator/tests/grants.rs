//! Sharing pages: who may map what, and what remains when it ends.

use std::sync::atomic::Ordering;

use vchan::host::{GrantRef, Port};
use vchan::memory::{Access, PAGE_SIZE, Region};
use vchan::{DomId, Host};
use vchan_emulator::{Emulator, Limits};

const RW: Access = Access::ReadWrite;

struct World {
    emulator: Emulator,
    dom0: Host,
    guest: Host,
    other: Host,
}

fn domid(number: u16) -> DomId {
    DomId::new(number).unwrap()
}

/// Dom0, domain 1 (`guest`) and domain 2 (`other`).
fn world() -> World {
    let emulator = Emulator::start().unwrap();
    let [dom0, guest, other] = [0, 1, 2].map(|number| {
        emulator.add_domain(domid(number)).unwrap();
        emulator.host(domid(number)).unwrap()
    });
    World {
        emulator,
        dom0,
        guest,
        other,
    }
}

fn byte(region: &Region, offset: usize) -> u8 {
    region.load_byte(offset, Ordering::SeqCst)
}

fn refusal<T>(result: Result<T, vchan::HostError>) -> String {
    result.err().expect("must be refused").to_string()
}

#[test]
fn shared_pages_are_zero_and_seen_by_both() {
    let world = world();
    let shared = world
        .guest
        .grants()
        .share(DomId::DOM0, 3, RW, None)
        .unwrap();
    let mut bytes = vec![1; 3 * PAGE_SIZE];
    shared.region.copy_out(0, &mut bytes);
    assert!(
        bytes.iter().all(|&byte| byte == 0),
        "fresh pages hold nothing of others"
    );
    let mapped = world
        .dom0
        .grants()
        .map(domid(1), &shared.references, RW, None)
        .unwrap();
    assert_eq!(mapped.len(), 3 * PAGE_SIZE);
    mapped.copy_in(2 * PAGE_SIZE + 7, b"seen");
    let mut seen = [0; 4];
    shared.region.copy_out(2 * PAGE_SIZE + 7, &mut seen);
    assert_eq!(&seen, b"seen");
    drop((mapped, shared));
    world.emulator.assert_clean();
}

#[test]
fn references_count_up_from_eight_and_are_reused() {
    let world = world();
    let share = |pages| {
        world
            .guest
            .grants()
            .share(DomId::DOM0, pages, RW, None)
            .unwrap()
    };
    let (control, left, right) = (share(1), share(2), share(2));
    let numbers = |refs: &[GrantRef]| refs.iter().map(|it| it.0).collect::<Vec<_>>();
    assert_eq!(numbers(&control.references), [8]);
    assert_eq!(numbers(&left.references), [9, 10]);
    assert_eq!(numbers(&right.references), [11, 12]);
    drop(left);
    let again = share(3);
    assert_eq!(numbers(&again.references), [9, 10, 13]);
    // Not side by side in number, but so in memory.
    let mapped = world
        .dom0
        .grants()
        .map(domid(1), &again.references, RW, None)
        .unwrap();
    assert_eq!(mapped.len(), 3 * PAGE_SIZE);
}

#[test]
fn only_the_domain_that_a_page_is_for_maps_it() {
    let world = world();
    let shared = world
        .guest
        .grants()
        .share(DomId::DOM0, 1, RW, None)
        .unwrap();
    let stolen = world
        .other
        .grants()
        .map(domid(1), &shared.references, RW, None);
    assert_eq!(
        refusal(stolen),
        "cannot map 1 page of domain 1: grant 8 of domain 1 is not for domain 2"
    );
    let own = world
        .guest
        .grants()
        .map(domid(1), &shared.references, RW, None);
    assert!(refusal(own).contains("is not for domain 1"));
    let absent = world.dom0.grants().map(domid(1), &[GrantRef(9)], RW, None);
    assert!(refusal(absent).contains("domain 1 has no grant 9"));
    let nobody = world.dom0.grants().map(domid(7), &[GrantRef(8)], RW, None);
    assert!(refusal(nobody).contains("there is no domain 7"));
    assert!(refusal(world.dom0.grants().map(domid(1), &[], RW, None)).contains("no grant"));
}

#[test]
fn only_an_unbroken_run_of_one_share_is_mapped() {
    let world = world();
    let share = |pages| {
        world
            .guest
            .grants()
            .share(DomId::DOM0, pages, RW, None)
            .unwrap()
    };
    let (one, two) = (share(1), share(2));
    let map = |refs: &[u32]| {
        let refs: Vec<GrantRef> = refs.iter().copied().map(GrantRef).collect();
        world.dom0.grants().map(domid(1), &refs, RW, None)
    };
    assert_eq!((one.references[0].0, two.references[1].0), (8, 10));
    for bad in [&[8, 9][..], &[10, 9], &[9, 9], &[9, 10, 8]] {
        assert!(
            refusal(map(bad)).contains("does not follow on the one before"),
            "{bad:?}"
        );
    }
    assert_eq!(
        map(&[10]).unwrap().len(),
        PAGE_SIZE,
        "a part is mapped from its own page on"
    );
    two.region.copy_in(PAGE_SIZE, b"x");
    assert_eq!(byte(&map(&[10]).unwrap(), 0), b'x');
}

#[test]
fn a_page_shared_for_reading_is_not_mapped_for_writing() {
    let world = world();
    let shared = world
        .guest
        .grants()
        .share(DomId::DOM0, 1, Access::ReadOnly, None)
        .unwrap();
    let writing = world
        .dom0
        .grants()
        .map(domid(1), &shared.references, RW, None);
    assert!(refusal(writing).contains("is for reading only"));
    let reading = world
        .dom0
        .grants()
        .map(domid(1), &shared.references, Access::ReadOnly, None);
    let reading = reading.unwrap();
    shared.region.copy_in(0, b"r");
    assert_eq!(byte(&reading, 0), b'r');
}

#[test]
fn a_page_that_is_still_mapped_is_kept_back() {
    let world = world();
    let shared = world
        .guest
        .grants()
        .share(DomId::DOM0, 2, RW, None)
        .unwrap();
    let mapped = world
        .dom0
        .grants()
        .map(domid(1), &shared.references[1..], RW, None)
        .unwrap();
    drop(shared);
    let left = world.emulator.leftovers();
    assert_eq!(
        left,
        [
            "domain 1: grant 9 to domain 0 is ended by its owner, but kept back, mapped 1 times",
            "domain 0: 1 pages of domain 1 are mapped"
        ]
    );
    mapped.copy_in(0, b"still there");
    let next = world
        .guest
        .grants()
        .share(DomId::DOM0, 2, RW, None)
        .unwrap();
    assert_eq!(
        next.references,
        [GrantRef(8), GrantRef(10)],
        "9 is not reused"
    );
    drop(mapped);
    drop(next);
    world.emulator.assert_clean();
}

#[test]
fn the_limit_names_itself_and_counts_what_is_kept_back() {
    let world = world();
    let mut limits = Limits::default();
    limits.granted_pages = 3;
    world.emulator.set_limits(limits);
    let shared = world
        .guest
        .grants()
        .share(DomId::DOM0, 2, RW, None)
        .unwrap();
    let mapped = world
        .dom0
        .grants()
        .map(domid(1), &shared.references, RW, None)
        .unwrap();
    drop(shared);
    let error = refusal(world.guest.grants().share(DomId::DOM0, 2, RW, None));
    assert!(
        error.contains("may share 3 pages at a time and shares 2"),
        "{error}"
    );
    assert!(error.contains("xen_gntalloc/parameters/limit"), "{error}");
    drop(mapped);
    assert!(world.guest.grants().share(DomId::DOM0, 3, RW, None).is_ok());
    assert!(
        world
            .guest
            .grants()
            .share(DomId::DOM0, 0, RW, None)
            .is_err()
    );
    assert!(
        world
            .guest
            .grants()
            .share(DomId::DOM0, usize::MAX, RW, None)
            .is_err()
    );
}

#[test]
fn the_limit_of_mapped_pages_names_itself() {
    let world = world();
    let mut limits = Limits::default();
    limits.mapped_pages = 3;
    world.emulator.set_limits(limits);
    let shared = world
        .guest
        .grants()
        .share(DomId::DOM0, 2, RW, None)
        .unwrap();
    let map = || {
        world
            .dom0
            .grants()
            .map(domid(1), &shared.references, RW, None)
    };
    let first = map().unwrap();
    let error = refusal(map());
    assert!(
        error.contains("may map 3 pages at a time and maps 2"),
        "{error}"
    );
    assert!(error.contains("xen_gntdev/parameters/limit"), "{error}");
    drop(first);
    assert!(map().is_ok());
}

#[test]
fn a_process_that_ends_leaves_nothing_behind() {
    let world = world();
    let server = world.guest.events().bind_unbound(DomId::DOM0).unwrap();
    let shared = world
        .guest
        .grants()
        .share(DomId::DOM0, 1, RW, None)
        .unwrap();
    {
        let process = world.emulator.host(DomId::DOM0).unwrap();
        let _shared = process.grants().share(domid(1), 5, RW, None).unwrap();
        let _mapped = process
            .grants()
            .map(domid(1), &shared.references, RW, None)
            .unwrap();
        let _port = process
            .events()
            .bind_interdomain(domid(1), server.port())
            .unwrap();
    }
    drop((server, shared));
    world.emulator.assert_clean();
}

#[test]
fn a_raw_page_is_the_page_itself() {
    let world = world();
    let shared = world
        .guest
        .grants()
        .share(DomId::DOM0, 2, RW, None)
        .unwrap();
    let raw = world
        .emulator
        .raw_page(domid(1), shared.references[1])
        .unwrap();
    raw.copy_in(3, b"hostile");
    assert_eq!(byte(&shared.region, PAGE_SIZE + 3), b'h');
    assert!(world.emulator.raw_page(domid(1), GrantRef(77)).is_err());
}

#[test]
fn what_a_peer_has_not_is_told_from_a_limit_of_ones_own() {
    let world = world();
    let absent = world.dom0.grants().map(domid(1), &[GrantRef(8)], RW, None);
    assert!(absent.unwrap_err().is_stale());
    let absent = world.dom0.events().bind_interdomain(domid(1), Port(4));
    assert!(absent.err().unwrap().is_stale());
    let mut limits = Limits::default();
    (limits.ports, limits.granted_pages) = (0, 0);
    world.emulator.set_limits(limits);
    let full = world.guest.grants().share(DomId::DOM0, 1, RW, None);
    assert!(!full.unwrap_err().is_stale());
    assert!(
        !world
            .guest
            .events()
            .bind_unbound(DomId::DOM0)
            .err()
            .unwrap()
            .is_stale()
    );
}
