//! A5 and A15: bytes that change while they are copied.

use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::thread;

use vchan::layout::Side;
use vchan::memory::{Access, PAGE_SIZE, Region};

use crate::common::guest;
use crate::common::meddler::Meddler;
use crate::victims;

#[test]
fn fault_a05_data_that_changes_while_it_is_copied_is_copied_once() {
    let mut victim = victims(1024, 8192);
    let references = &victim.end(Side::Client).handshake().page[24..];
    let first = u32::from_le_bytes(references[..4].try_into().unwrap());
    let data = victim
        .world
        .emulator
        .raw_page(guest(), vchan::host::GrantRef(first))
        .unwrap();
    let flipper = Meddler::new(move || {
        data.copy_in(0, &[0x11; PAGE_SIZE]);
        data.copy_in(0, &[0xEE; PAGE_SIZE]);
    });
    let (mut torn, mut rounds) = (0, 0);
    while rounds < 500 || torn == 0 {
        assert!(rounds < 10_000, "the flipper was never met");
        rounds += 1;
        victim.end(Side::Server).write_all(&[0x11; 8192]).unwrap();
        flipper.turn();
        let mut copy = [0; 8192];
        victim.end(Side::Client).read_exact(&mut copy).unwrap();
        // What was read no longer changes, whatever the page does.
        let first_look = copy;
        thread::yield_now();
        assert_eq!(copy, first_look);
        assert!(copy.iter().all(|byte| [0x11, 0xEE].contains(byte)));
        torn += usize::from(copy[..PAGE_SIZE].contains(&0xEE));
        // What the flipper cannot reach is as it was written.
        assert_eq!(copy[PAGE_SIZE..], [0x11; PAGE_SIZE]);
    }
}

#[test]
fn fault_a15_copies_of_any_alignment_hold_while_the_page_changes() {
    let fd = rustix::fs::memfd_create("page", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
    rustix::fs::ftruncate(&fd, PAGE_SIZE as u64).unwrap();
    let map = || Region::map_file(fd.as_fd(), 0, PAGE_SIZE, Access::ReadWrite).unwrap();
    let (ours, theirs) = (map(), map());
    theirs.copy_in(0, &[0x5A; PAGE_SIZE]);
    let mut value = 0u8;
    let flipper = Meddler::new(move || {
        value ^= 0xFF;
        // The lower half flips between 0x00 and 0xFF, in runs of odd lengths.
        for at in (0..2000).step_by(37) {
            theirs.copy_in(at, &[value; 37]);
        }
    });
    let (mut torn, mut rounds) = (0, 0);
    while torn < 20 {
        assert!(rounds < 1000, "the flipper was never met");
        rounds += 1;
        flipper.turn();
        for len in (0..70).chain([127, 128, 129, 1000, 1023, 1024, 1025, 1500]) {
            for at in 0..18 {
                let mut out = vec![0xA7; len + 2];
                ours.copy_out(at, &mut out[1..=len]);
                assert_eq!((out[0], out[len + 1]), (0xA7, 0xA7), "{len} bytes at {at}");
                assert!(out[1..=len].iter().all(|b| [0, 0x5A, 0xFF].contains(b)));
                torn += usize::from(out[1..=len].contains(&0) && out[1..=len].contains(&0xFF));
                // Into the upper half, which nobody else touches, with its neighbours as witnesses.
                ours.copy_in(2100 + at, &vec![0x3C; len]);
                let mut back = vec![0; len + 2];
                ours.copy_out(2099 + at, &mut back);
                assert!(back[1..=len].iter().all(|&b| b == 0x3C), "{len} at {at}");
                assert_eq!((back[0], back[len + 1]), (0x5A, 0x5A), "{len} at {at}");
                ours.copy_in(2100 + at, &vec![0x5A; len]);
            }
        }
    }
}
