#![allow(clippy::cast_possible_truncation, reason = "small numbers of tests")]

use std::collections::VecDeque;
use std::vec;
use std::vec::Vec;

use proptest::prelude::*;
use vchan::memory::{Access, PAGE_SIZE};

use super::*;

/// A page of its own.
pub(crate) fn page() -> Region {
    use std::os::fd::AsFd;
    let file = rustix::fs::memfd_create("page", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
    rustix::fs::ftruncate(&file, PAGE_SIZE as u64).unwrap();
    Region::map_file(file.as_fd(), 0, PAGE_SIZE, Access::ReadWrite).unwrap()
}

const LAYOUT: Layout = Layout {
    start: 64,
    size: 32,
    consumer: 8,
    producer: 12,
};

fn at(page: &Region, index: u32) -> (Track, Track) {
    page.store_index(LAYOUT.consumer, index, Ordering::Relaxed);
    page.store_index(LAYOUT.producer, index, Ordering::Relaxed);
    (Track::producer(page, LAYOUT), Track::consumer(page, LAYOUT))
}

proptest! {
    #[test]
    fn bytes_come_out_as_they_went_in(
        begin in any::<u32>(),
        steps in prop::collection::vec((any::<bool>(), 0..80_usize), 1..60),
    ) {
        let page = page();
        let (producer, consumer) = at(&page, begin);
        let mut there = VecDeque::new();
        let mut next = 0_u8;
        for (writes, count) in steps {
            if writes {
                let bytes: Vec<u8> = (0..count).map(|n| next.wrapping_add(n as u8)).collect();
                let written = producer.write(&page, &bytes).unwrap();
                prop_assert_eq!(written, count.min(32 - there.len()));
                there.extend(&bytes[..written]);
                next = next.wrapping_add(written as u8);
            } else {
                let mut bytes = vec![0xEE; count];
                let read = consumer.read(&page, &mut bytes).unwrap();
                prop_assert_eq!(read, count.min(there.len()));
                let expected: Vec<u8> = there.drain(..read).collect();
                prop_assert_eq!(&bytes[..read], &expected[..]);
                prop_assert!(bytes[read..].iter().all(|&byte| byte == 0xEE));
            }
        }
    }

    #[test]
    fn an_index_that_cannot_be_is_refused_and_nothing_is_touched(
        begin in any::<u32>(),
        beyond in 33..u32::MAX,
    ) {
        let page = page();
        let (producer, consumer) = at(&page, begin);
        let mut before = vec![0; PAGE_SIZE];
        page.store_index(LAYOUT.consumer, begin.wrapping_sub(beyond), Ordering::Relaxed);
        page.copy_out(0, &mut before);
        let fault = producer.write(&page, b"bytes").unwrap_err();
        prop_assert_eq!(fault.theirs, begin.wrapping_sub(beyond));
        let mut after = vec![0; PAGE_SIZE];
        page.copy_out(0, &mut after);
        prop_assert!(before == after);

        page.store_index(LAYOUT.producer, begin.wrapping_add(beyond), Ordering::Relaxed);
        let mut to = [0xEE; 64];
        consumer.read(&page, &mut to).unwrap_err();
        prop_assert_eq!(to, [0xEE; 64]);
    }
}

#[test]
fn the_own_index_in_the_page_is_only_written() {
    let page = page();
    let (producer, consumer) = at(&page, 0);
    producer.write(&page, b"four").unwrap();
    // The other end spoils our index: it is what it will read, and nothing else.
    page.store_index(LAYOUT.producer, 1000, Ordering::Relaxed);
    assert_eq!(producer.write(&page, b"more").unwrap(), 4);
    assert_eq!(page.load_index(LAYOUT.producer, Ordering::Relaxed), 8);
    page.store_index(LAYOUT.consumer, 7, Ordering::Relaxed);
    let mut all = [0; 8];
    assert_eq!(consumer.read(&page, &mut all).unwrap(), 8);
    assert_eq!(&all, b"fourmore");
}
