use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::string::ToString;
use std::vec::Vec;

use proptest::prelude::*;

use super::*;

#[derive(Default, Debug)]
struct Xen {
    entries: BTreeMap<GrantRef, u64>,
    mapped: BTreeSet<GrantRef>,
    frames: u32,
    most: u32,
    /// Pages that were dropped, in their order.
    freed: Vec<u64>,
}

#[derive(Clone, Default, Debug)]
struct Table(Rc<RefCell<Xen>>);

impl GrantTable for Table {
    fn frames(&self) -> u32 {
        self.0.borrow().frames
    }

    fn add_frame(&mut self) -> Result<(), HostError> {
        let mut xen = self.0.borrow_mut();
        if xen.frames == xen.most {
            return Err(HostError::new("grow the grant table"));
        }
        xen.frames += 1;
        Ok(())
    }

    fn grant(&mut self, reference: GrantRef, _: DomId, frame: u64, _: Access) {
        let mut xen = self.0.borrow_mut();
        assert!(reference.0 >= 8, "Xen's own");
        assert!(reference.0 < xen.frames * 512, "no such entry");
        assert_eq!(xen.entries.insert(reference, frame), None, "in use");
    }

    fn end(&mut self, reference: GrantRef) -> bool {
        let mut xen = self.0.borrow_mut();
        if xen.mapped.contains(&reference) {
            return false;
        }
        xen.entries.remove(&reference).expect("it was granted");
        true
    }
}

#[derive(Debug)]
struct Page(u64, Table);

impl Drop for Page {
    fn drop(&mut self) {
        let mut xen = self.1.0.borrow_mut();
        assert!(
            xen.entries.values().all(|&frame| frame != self.0),
            "still granted"
        );
        xen.freed.push(self.0);
    }
}

fn table(most: u32) -> Table {
    let table = Table::default();
    table.0.borrow_mut().most = most;
    table
}

fn share(grants: &mut Grants<Table, Page>, frame: u64) -> Result<GrantRef, HostError> {
    grants.share(DomId::DOM0, frame, Access::ReadWrite)
}

#[test]
fn references_begin_at_8_and_are_used_again() {
    let table = table(1);
    let mut grants = Grants::new(table.clone());
    let references = [1, 2, 3].map(|frame| share(&mut grants, frame).unwrap());
    assert_eq!(references, [GrantRef(8), GrantRef(9), GrantRef(10)]);
    grants.end(GrantRef(9), Page(2, table.clone()));
    assert_eq!(table.0.borrow().freed, [2]);
    assert_eq!(share(&mut grants, 4).unwrap(), GrantRef(9));
}

#[test]
fn a_page_that_the_peer_maps_is_kept_back_until_it_lets_go() {
    let table = table(1);
    let mut grants = Grants::new(table.clone());
    let reference = share(&mut grants, 1).unwrap();
    table.0.borrow_mut().mapped.insert(reference);
    grants.end(reference, Page(1, table.clone()));
    assert_eq!(grants.kept_back(), 1);
    for frame in 2..20 {
        assert_ne!(share(&mut grants, frame).unwrap(), reference);
    }
    assert!(table.0.borrow().freed.is_empty());
    table.0.borrow_mut().mapped.clear();
    grants.reclaim();
    assert_eq!(grants.kept_back(), 0);
    assert_eq!(table.0.borrow().freed, [1]);
    assert_eq!(share(&mut grants, 30).unwrap(), reference);
}

#[test]
fn the_table_grows_to_its_limit_and_says_what_is_kept_back() {
    let table = table(3);
    let mut grants = Grants::new(table.clone());
    let all = 3 * 512 - 8;
    let references: Vec<_> = (0..all).map(|n| share(&mut grants, n).unwrap()).collect();
    assert_eq!(table.frames(), 3);
    let error = share(&mut grants, all).unwrap_err().to_string();
    assert!(!error.contains("kept back"), "{error}");
    for &reference in &references[..2] {
        table.0.borrow_mut().mapped.insert(reference);
        grants.end(reference, Page(u64::from(reference.0) - 8, table.clone()));
    }
    let error = share(&mut grants, all).unwrap_err().to_string();
    assert!(error.contains("2 pages are kept back"), "{error}");
    table.0.borrow_mut().mapped.clear();
    share(&mut grants, all).unwrap();
}

proptest! {
    #[test]
    fn no_reference_and_no_page_is_used_twice_whatever_the_peer_does(
        steps in prop::collection::vec((0..4_u8, any::<prop::sample::Index>()), 0..300),
    ) {
        let table = table(1);
        let mut grants = Grants::new(table.clone());
        let mut live: Vec<(GrantRef, u64)> = Vec::new();
        let (mut next, mut ended) = (0, 0);
        for (step, index) in steps {
            match step {
                0 => {
                    if let Ok(reference) = share(&mut grants, next) {
                        live.push((reference, next));
                        next += 1;
                    }
                }
                1 if !live.is_empty() => {
                    let (reference, frame) = live.swap_remove(index.index(live.len()));
                    grants.end(reference, Page(frame, table.clone()));
                    ended += 1;
                }
                2 => {
                    let mut xen = table.0.borrow_mut();
                    let all: Vec<_> = xen.entries.keys().copied().collect();
                    if !all.is_empty() {
                        xen.mapped.insert(all[index.index(all.len())]);
                    }
                }
                _ => {
                    let mut xen = table.0.borrow_mut();
                    let all: Vec<_> = xen.mapped.iter().copied().collect();
                    if !all.is_empty() {
                        xen.mapped.remove(&all[index.index(all.len())]);
                    }
                }
            }
            let xen = table.0.borrow();
            prop_assert_eq!(xen.freed.len() + grants.kept_back(), ended);
            prop_assert_eq!(xen.entries.len(), live.len() + grants.kept_back());
        }
        table.0.borrow_mut().mapped.clear();
        grants.reclaim();
        prop_assert_eq!(grants.kept_back(), 0);
        let mut freed = table.0.borrow().freed.clone();
        freed.sort_unstable();
        freed.dedup();
        prop_assert_eq!(freed.len(), ended);
    }
}
