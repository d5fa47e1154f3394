//! XenStore as domains use it through their hosts.

use std::time::Duration;

use vchan::host::{NodeAccess, Permissions};
use vchan::{DomId, Host, StoreErrorKind, StorePath};
use vchan_emulator::{Emulator, Limits};

fn domid(number: u16) -> DomId {
    DomId::new(number).unwrap()
}

fn path(text: &str) -> StorePath {
    text.parse().unwrap()
}

fn world() -> (Emulator, Host, Host) {
    let emulator = Emulator::start().unwrap();
    let [dom0, guest] = [0, 1].map(|number| {
        emulator.add_domain(domid(number)).unwrap();
        emulator.host(domid(number)).unwrap()
    });
    (emulator, dom0, guest)
}

fn read(host: &Host, at: &str) -> Result<String, StoreErrorKind> {
    let value = host.store().read(&path(at)).map_err(|error| error.kind)?;
    Ok(String::from_utf8(value).unwrap())
}

fn write(host: &Host, at: &str, value: &str) -> Result<(), StoreErrorKind> {
    host.store()
        .write(&path(at), value.as_bytes())
        .map_err(|error| error.kind)
}

fn remove(host: &Host, at: &str) -> Result<(), StoreErrorKind> {
    host.store().remove(&path(at)).map_err(|error| error.kind)
}

/// Whether a watch has fired since last asked; waits for it.
fn fires(host: &Host, watch: &dyn vchan::host::Watch) -> bool {
    let deadline = host.events().now().after(Duration::from_secs(30));
    let fired = watch.wait(Some(deadline)).unwrap();
    while watch.take().unwrap() {}
    fired
}

fn is_quiet(watch: &dyn vchan::host::Watch) -> bool {
    std::thread::sleep(Duration::from_millis(20));
    !watch.take().unwrap()
}

#[test]
fn a_domain_begins_with_its_number_its_name_and_a_place_of_its_own() {
    let (_emulator, dom0, guest) = world();
    assert_eq!(read(&guest, "domid").unwrap(), "1");
    assert_eq!(read(&guest, "name").unwrap(), "domain-1");
    assert_eq!(read(&dom0, "name").unwrap(), "Domain-0");
    assert_eq!(read(&dom0, "/local/domain/1/data").unwrap(), "");
    assert_eq!(write(&guest, "name", "me"), Err(StoreErrorKind::Denied));
    assert_eq!(write(&guest, "mine", "me"), Err(StoreErrorKind::Denied));
    assert_eq!(write(&guest, "data/mine", "me"), Ok(()));
    assert_eq!(read(&dom0, "/local/domain/1/data/mine").unwrap(), "me");
    let listed = dom0.store().directory(&path("/local/domain/1")).unwrap();
    assert_eq!(listed, ["name", "domid", "data"]);
}

#[test]
fn what_is_made_inherits_and_is_its_makers() {
    let (_emulator, dom0, guest) = world();
    write(&guest, "data/vchan/0/echo/ring-ref", "8").unwrap();
    let made = guest.store().permissions(&path("data/vchan")).unwrap();
    let private = Permissions {
        owner: domid(1),
        default: NodeAccess::None,
        domains: vec![],
    };
    assert_eq!(made, private);
    let shared = Permissions {
        domains: vec![(domid(0), NodeAccess::Read), (domid(2), NodeAccess::Both)],
        ..private.clone()
    };
    guest
        .store()
        .set_permissions(&path("data/vchan"), &shared)
        .unwrap();
    write(&guest, "data/vchan/new", "1").unwrap();
    assert_eq!(
        guest.store().permissions(&path("data/vchan/new")).unwrap(),
        shared
    );
    write(&guest, "data/vchan", "again").unwrap();
    assert_eq!(
        guest.store().permissions(&path("data/vchan")).unwrap(),
        shared,
        "writing again changes no permissions"
    );
    write(&dom0, "/local/domain/1/data/dom0s", "x").unwrap();
    let by_dom0 = dom0
        .store()
        .permissions(&path("/local/domain/1/data/dom0s"))
        .unwrap();
    assert_eq!(by_dom0, private, "what dom0 makes is the parent's owner's");
}

#[test]
fn only_those_who_may_read_read() {
    let (emulator, _dom0, guest) = world();
    emulator.add_domain(domid(2)).unwrap();
    let other = emulator.host(domid(2)).unwrap();
    write(&guest, "data/key", "secret").unwrap();
    let there = "/local/domain/1/data/key";
    assert_eq!(read(&other, there), Err(StoreErrorKind::Denied));
    let allow = |access| Permissions {
        owner: domid(1),
        default: NodeAccess::None,
        domains: vec![(domid(2), access)],
    };
    let set = |access| {
        guest
            .store()
            .set_permissions(&path("data/key"), &allow(access))
            .unwrap()
    };
    set(NodeAccess::Read);
    assert_eq!(read(&other, there).unwrap(), "secret");
    assert_eq!(write(&other, there, "x"), Err(StoreErrorKind::Denied));
    assert_eq!(remove(&other, there), Err(StoreErrorKind::Denied));
    set(NodeAccess::Write);
    assert_eq!(read(&other, there), Err(StoreErrorKind::Denied));
    assert_eq!(write(&other, there, "x"), Ok(()));
    set(NodeAccess::None);
    assert_eq!(write(&other, there, "y"), Err(StoreErrorKind::Denied));
    // Only the owner says who may, and cannot give it away.
    let other_set = other
        .store()
        .set_permissions(&path(there), &allow(NodeAccess::Both));
    assert_eq!(other_set.unwrap_err().kind, StoreErrorKind::Denied);
    let given_away = Permissions {
        owner: domid(2),
        ..allow(NodeAccess::None)
    };
    let given = guest
        .store()
        .set_permissions(&path("data/key"), &given_away);
    assert_eq!(given.unwrap_err().kind, StoreErrorKind::Denied);
}

#[test]
fn permissions_for_a_domain_that_does_not_exist_are_lost() {
    let (emulator, _dom0, guest) = world();
    write(&guest, "data/key", "v").unwrap();
    let permissions = Permissions {
        owner: domid(1),
        default: NodeAccess::None,
        domains: vec![(domid(3), NodeAccess::Read)],
    };
    let allow = || {
        guest
            .store()
            .set_permissions(&path("data/key"), &permissions)
            .unwrap()
    };
    let there = "/local/domain/1/data/key";
    allow();
    emulator.add_domain(domid(3)).unwrap();
    let late = emulator.host(domid(3)).unwrap();
    assert_eq!(read(&late, there), Err(StoreErrorKind::Denied));
    allow();
    assert_eq!(read(&late, there).unwrap(), "v");
    emulator.destroy_domain(domid(3)).unwrap();
    emulator.add_domain(domid(3)).unwrap();
    let successor = emulator.host(domid(3)).unwrap();
    assert_eq!(
        read(&successor, there),
        Err(StoreErrorKind::Denied),
        "nor are they inherited"
    );
}

#[test]
fn what_is_missing_is_only_told_to_those_who_may_know() {
    let (emulator, dom0, guest) = world();
    assert_eq!(read(&dom0, "/none"), Err(StoreErrorKind::NotFound));
    assert_eq!(
        read(&guest, "data/none/below"),
        Err(StoreErrorKind::NotFound)
    );
    assert_eq!(read(&guest, "none"), Err(StoreErrorKind::NotFound));
    assert_eq!(read(&guest, "/none"), Err(StoreErrorKind::Denied));
    assert_eq!(
        read(&guest, "/local/domain/0/data/vchan"),
        Err(StoreErrorKind::Denied)
    );
    // Removing what is not there is fine where it could have been.
    assert_eq!(remove(&guest, "data/none"), Ok(()));
    write(&guest, "data/a/b/c", "1").unwrap();
    assert_eq!(remove(&guest, "data/a"), Ok(()));
    assert_eq!(read(&guest, "data/a/b/c"), Err(StoreErrorKind::NotFound));
    drop((dom0, guest));
    emulator.assert_clean();
}

/// Why a vchan's client in a guest does not ask the store whether its server's domain still exists.
#[test]
fn a_guest_is_told_the_same_of_a_domain_that_is_there_and_of_one_that_is_not() {
    let (emulator, dom0, guest) = world();
    let told = || {
        let homes = ["", "/name", "/data", "/data/vchan/ring-ref", "/none"];
        let read = homes.map(|below| read(&guest, &format!("/local/domain/2{below}")));
        let homes = guest.store().directory(&path("/local/domain"));
        let introduced = guest.store().is_domain_introduced(domid(2));
        let permissions = guest.store().permissions(&path("data/to-peer"));
        (
            read,
            homes.map_err(|error| error.kind),
            introduced.map_err(|error| error.kind),
            permissions.unwrap(),
        )
    };
    emulator.add_domain(domid(2)).unwrap();
    write(&guest, "data/to-peer", "").unwrap();
    let permissions = Permissions {
        owner: domid(1),
        default: NodeAccess::None,
        domains: vec![(domid(2), NodeAccess::Read)],
    };
    guest
        .store()
        .set_permissions(&path("data/to-peer"), &permissions)
        .unwrap();
    let before = told();
    assert_eq!(before.0, [const { Err(StoreErrorKind::Denied) }; 5]);
    emulator.destroy_domain(domid(2)).unwrap();
    assert_eq!(
        read(&dom0, "/local/domain/2"),
        Err(StoreErrorKind::NotFound)
    );
    assert_eq!(told(), before);
    remove(&guest, "data/to-peer").unwrap();
    drop((dom0, guest));
    emulator.assert_clean();
}

#[test]
fn a_watch_fires_when_set_and_at_changes_at_or_below() {
    let (_emulator, dom0, guest) = world();
    let watch = guest.store().watch(&path("data/vchan")).unwrap();
    assert!(
        fires(&guest, &*watch),
        "once when set, though nothing is there"
    );
    assert!(is_quiet(&*watch));
    write(&guest, "data/vchan/ring-ref", "8").unwrap();
    assert!(fires(&guest, &*watch));
    write(&guest, "data/vchanother", "8").unwrap();
    assert!(is_quiet(&*watch));
    write(&dom0, "/local/domain/1/data/vchan", "by dom0").unwrap();
    assert!(fires(&guest, &*watch));
    remove(&guest, "data").unwrap();
    assert!(fires(&guest, &*watch), "it went with a node above it");
    drop(watch);
    write(&dom0, "/local/domain/1/data", "").unwrap();
}

#[test]
fn a_watch_tells_of_nothing_that_its_owner_may_not_know() {
    let (_emulator, dom0, guest) = world();
    dom0.store()
        .write(&path("/local/domain/0/data/vchan/key"), b"")
        .unwrap();
    let at = path("/local/domain/0/data/vchan/key");
    let watch = guest.store().watch(&at).unwrap();
    assert!(fires(&guest, &*watch));
    write(&dom0, "/local/domain/0/data/vchan/key", "1").unwrap();
    assert!(is_quiet(&*watch), "it may not read it");
    let permissions = |access| Permissions {
        owner: DomId::DOM0,
        default: NodeAccess::None,
        domains: vec![(domid(1), access)],
    };
    dom0.store()
        .set_permissions(&at, &permissions(NodeAccess::Read))
        .unwrap();
    assert!(fires(&guest, &*watch), "now it may");
    dom0.store()
        .set_permissions(&at, &permissions(NodeAccess::None))
        .unwrap();
    assert!(fires(&guest, &*watch), "it could until now");
    dom0.store()
        .set_permissions(&at, &permissions(NodeAccess::None))
        .unwrap();
    assert!(is_quiet(&*watch));
}

#[test]
fn domains_that_come_and_go_are_told_to_dom0_and_whom_it_lets_know() {
    let (emulator, dom0, guest) = world();
    let released = path("@releaseDomain");
    let (ours, theirs) = (
        dom0.store().watch(&released).unwrap(),
        guest.store().watch(&released).unwrap(),
    );
    let introduced = dom0.store().watch(&path("@introduceDomain")).unwrap();
    assert!(fires(&dom0, &*ours) && fires(&guest, &*theirs) && fires(&dom0, &*introduced));
    emulator.add_domain(domid(5)).unwrap();
    assert!(fires(&dom0, &*introduced));
    assert!(dom0.store().is_domain_introduced(domid(5)).unwrap());
    emulator.destroy_domain(domid(5)).unwrap();
    assert!(fires(&dom0, &*ours));
    assert!(is_quiet(&*theirs));
    assert!(!dom0.store().is_domain_introduced(domid(5)).unwrap());
    let everyone = Permissions {
        owner: DomId::DOM0,
        default: NodeAccess::Read,
        domains: vec![],
    };
    dom0.store().set_permissions(&released, &everyone).unwrap();
    emulator.add_domain(domid(5)).unwrap();
    emulator.destroy_domain(domid(5)).unwrap();
    assert!(fires(&guest, &*theirs));
    let asked = guest.store().is_domain_introduced(domid(5));
    assert_eq!(
        asked.unwrap_err().kind,
        StoreErrorKind::Denied,
        "only dom0 may ask"
    );
}

#[test]
fn quotas_bind_guests_and_not_dom0() {
    let (emulator, dom0, guest) = world();
    let mut limits = Limits::default();
    limits.store_nodes = 3;
    limits.store_watches = 1;
    emulator.set_limits(limits);
    write(&guest, "data/a", "").unwrap();
    assert_eq!(write(&guest, "data/b/c", ""), Err(StoreErrorKind::Quota));
    assert_eq!(
        read(&guest, "data/b"),
        Err(StoreErrorKind::NotFound),
        "nothing half-made"
    );
    write(&guest, "data/b", "").unwrap();
    assert_eq!(write(&guest, "data/c", ""), Err(StoreErrorKind::Quota));
    assert_eq!(
        write(&guest, "data/a", &"x".repeat(2048)),
        Err(StoreErrorKind::Quota)
    );
    write(&guest, "data/a", &"x".repeat(2000)).unwrap();
    for name in ["a", "b", "c", "d"] {
        write(&dom0, &format!("/mine/{name}"), &"x".repeat(3000)).unwrap();
    }
    let watches: Vec<_> = ["data/a", "data/b", "data/c"]
        .map(|at| guest.store().watch(&path(at)))
        .into();
    let errors: Vec<_> = watches.iter().filter_map(|it| it.as_ref().err()).collect();
    assert_eq!(errors.len(), 1);
    assert_eq!(errors[0].kind, StoreErrorKind::Quota);
    let many = Permissions {
        owner: domid(1),
        default: NodeAccess::None,
        domains: (0..5)
            .map(|number| (domid(number), NodeAccess::Read))
            .collect(),
    };
    let error = guest
        .store()
        .set_permissions(&path("data/a"), &many)
        .unwrap_err();
    assert_eq!(error.kind, StoreErrorKind::Quota);
}

#[test]
fn a_long_listing_comes_in_parts() {
    let (_emulator, dom0, _guest) = world();
    let names: Vec<String> = (0..300)
        .map(|n| format!("a-rather-long-name-{n}"))
        .collect();
    for name in &names {
        write(&dom0, &format!("/many/{name}"), "").unwrap();
    }
    assert_eq!(dom0.store().directory(&path("/many")).unwrap(), names);
}

#[test]
fn the_nodes_of_a_destroyed_domain_vanish_and_watchers_hear_it() {
    let (emulator, dom0, guest) = world();
    write(&guest, "data/vchan/ring-ref", "8").unwrap();
    let watch = dom0
        .store()
        .watch(&path("/local/domain/1/data/vchan/ring-ref"))
        .unwrap();
    assert!(fires(&dom0, &*watch));
    emulator.destroy_domain(domid(1)).unwrap();
    assert!(fires(&dom0, &*watch));
    assert_eq!(
        read(&dom0, "/local/domain/1"),
        Err(StoreErrorKind::NotFound)
    );
    let cut_off = read(&guest, "domid").unwrap_err();
    assert_eq!(cut_off, StoreErrorKind::Unreachable);
    emulator.add_domain(domid(1)).unwrap();
    let successor = emulator.host(domid(1)).unwrap();
    assert_eq!(
        read(&successor, "data/vchan/ring-ref"),
        Err(StoreErrorKind::NotFound)
    );
    drop(watch);
    emulator.assert_clean();
}

#[test]
fn what_is_left_is_told() {
    let (emulator, _dom0, guest) = world();
    write(&guest, "data/left", "").unwrap();
    let _watch = guest.store().watch(&path("data")).unwrap();
    let left = emulator.leftovers();
    assert_eq!(
        left,
        [
            "domain 1: /local/domain/1/data is watched",
            "XenStore: /local/domain/1/data/left is published"
        ]
    );
}
