#![allow(
    clippy::arithmetic_side_effects,
    reason = "numbers of the tests themselves"
)]

use std::fs::File;
use std::os::fd::AsFd;
use std::vec::Vec;

use super::*;
use crate::layout::{Geometry, NOTIFY_READ, NOTIFY_WRITE, Place};
use crate::memory::{Access, PAGE_SIZE};

/// Both ends of the right ring (server writes, client reads), over one memory mapped twice.
struct Pair {
    producer: Producer,
    consumer: Consumer,
    page: Arc<Region>,
}

fn pair(write_min: usize, start_index: u32) -> Pair {
    let geometry = Geometry::for_server(2048, write_min).unwrap();
    let size = geometry.order(Ring::Right).bytes();
    let (start, pages) = match geometry.place(Ring::Right) {
        Place::ControlPage(start) => (start, 1),
        Place::Pages(pages) => (PAGE_SIZE, 1 + pages),
    };
    let fd = rustix::fs::memfd_create("ring", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
    rustix::fs::ftruncate(&fd, (pages * PAGE_SIZE) as u64).unwrap();
    let file = File::from(fd);
    let map = || {
        let len = pages * PAGE_SIZE;
        Arc::new(Region::map_file(file.as_fd(), 0, len, Access::ReadWrite).unwrap())
    };
    let (server, client) = (map(), map());
    for offset in [Ring::Right.prod(), Ring::Right.cons()] {
        server.store_index(offset, start_index, Ordering::Relaxed);
    }
    let bytes = |region: &Arc<Region>| Bytes {
        region: Arc::clone(region),
        start,
        size,
    };
    Pair {
        producer: Producer::new(Arc::clone(&server), Side::Server, bytes(&server)).unwrap(),
        consumer: Consumer::new(Arc::clone(&client), Side::Client, bytes(&client)).unwrap(),
        page: client,
    }
}

impl Pair {
    fn write(&mut self, data: &[u8]) -> u32 {
        let count = data
            .len()
            .min(self.producer.room(data.len()).unwrap() as usize);
        self.producer.copy_in(0, &data[..count]);
        let _ = self.producer.publish(count);
        u32::try_from(count).unwrap()
    }

    fn read(&mut self, most: usize) -> Vec<u8> {
        let count = most.min(self.consumer.held(most).unwrap() as usize);
        let mut data = vec![0; count];
        self.consumer.copy_out(0, &mut data);
        let _ = self.consumer.publish(count);
        data
    }
}

fn pattern(len: usize, seed: usize) -> Vec<u8> {
    (0..len)
        .map(|i| (i.wrapping_mul(31) ^ seed ^ (i >> 8)).to_le_bytes()[0])
        .collect()
}

#[test]
fn every_interesting_size_passes_at_every_interesting_place_of_the_index() {
    for size in [1024usize, 2048, 4096, 8192] {
        for start in [
            0,
            1,
            0xFFFF_FFF0,
            0x7FFF_FFFF,
            u32::MAX,
            0xFFFF_F801,
            1023,
            2047,
            4095,
        ] {
            for len in [1, 2, 15, 16, 17, size / 2, size - 1, size] {
                let mut pair = pair(size, start);
                let size = pair.producer.size() as usize;
                for round in 0..5 {
                    let data = pattern(len, round);
                    assert_eq!(pair.write(&data) as usize, len);
                    assert_eq!(pair.consumer.ready().unwrap() as usize, len);
                    assert_eq!(pair.producer.free().unwrap() as usize, size - len);
                    assert_eq!(
                        pair.read(len),
                        data,
                        "size {size} start {start:#x} len {len}"
                    );
                    assert_eq!(pair.producer.free().unwrap() as usize, size);
                }
            }
        }
    }
}

#[test]
fn what_does_not_fit_stays_with_the_caller() {
    let mut pair = pair(1024, 0xFFFF_FFFE);
    let size = pair.producer.size() as usize;
    let data = pattern(size + 100, 3);
    assert_eq!(pair.write(&data) as usize, size);
    assert_eq!(pair.write(&data), 0);
    assert_eq!(pair.read(10), data[..10]);
    assert_eq!(pair.write(&data[size..]), 10);
    assert_eq!(pair.read(size * 2), data[10..size + 10]);
    assert_eq!(pair.read(1), []);
}

#[test]
fn an_event_is_called_for_once_after_it_was_asked_for() {
    let mut pair = pair(4096, 0);
    pair.producer.copy_in(0, b"x");
    assert_eq!(pair.producer.publish(1), Publish::Quiet);
    pair.page
        .set_bits(Side::Server.asked_of_us(), NOTIFY_WRITE, Ordering::Relaxed);
    pair.producer.copy_in(0, b"y");
    assert_eq!(pair.producer.publish(1), Publish::TellPeer);
    pair.producer.copy_in(0, b"z");
    assert_eq!(
        pair.producer.publish(1),
        Publish::Quiet,
        "the bit is one-shot"
    );

    let to = &mut [0];
    pair.page
        .set_bits(Side::Client.asked_of_us(), NOTIFY_WRITE, Ordering::Relaxed);
    assert_eq!(pair.consumer.held(1), Ok(3));
    pair.consumer.copy_out(0, to);
    assert_eq!(
        pair.consumer.publish(1),
        Publish::Quiet,
        "asked for writes, not for reads"
    );
    pair.page
        .set_bits(Side::Client.asked_of_us(), NOTIFY_READ, Ordering::Relaxed);
    pair.consumer.copy_out(0, to);
    assert_eq!(pair.consumer.publish(1), Publish::TellPeer);
    let left = pair
        .page
        .load_byte(Side::Client.asked_of_us(), Ordering::Relaxed);
    assert_eq!(left, NOTIFY_WRITE, "only the own bit is cleared");
}

#[test]
fn impossible_indices_are_the_peers_fault() {
    for start in [0, 0xFFFF_FFF0, 0x8000_0000] {
        for used in [0, 1, 4096] {
            for wrong in [1u32, 2, 4096, 4097, 0x7FFF_FFFF, 0x8000_0000] {
                let mut pair = pair(4096, start);
                assert_eq!(pair.write(&pattern(used, 0)) as usize, used);
                let ready = pair.consumer.ready().unwrap();
                // The writer's index runs ahead of the ring or moves back.
                for found in [
                    start.wrapping_add(4096).wrapping_add(wrong),
                    start.wrapping_add(ready).wrapping_sub(wrong),
                ] {
                    pair.page
                        .store_index(Ring::Right.prod(), found, Ordering::Relaxed);
                    let legal = found.wrapping_sub(start.wrapping_add(ready)) <= 4096 - ready;
                    assert_eq!(
                        pair.consumer.ready().is_ok(),
                        legal,
                        "{start:#x} {used} {wrong}"
                    );
                    if !legal {
                        assert!(pair.consumer.held(8192).is_err());
                    }
                }
                // The reader's index runs ahead of what was written or moves back.
                for found in [
                    start.wrapping_add(ready).wrapping_add(wrong),
                    start.wrapping_sub(wrong),
                ] {
                    pair.page
                        .store_index(Ring::Right.cons(), found, Ordering::Relaxed);
                    assert!(pair.producer.free().is_err(), "{start:#x} {used} {wrong}");
                }
            }
        }
    }
}

#[test]
fn our_own_index_in_the_page_is_only_ever_written() {
    let mut pair = pair(4096, 0);
    assert_eq!(pair.write(b"abc"), 3);
    pair.page
        .store_index(Ring::Right.cons(), 0xDEAD_BEEF, Ordering::Relaxed);
    assert_eq!(pair.read(3), b"abc");
    let written = pair.page.load_index(Ring::Right.cons(), Ordering::Relaxed);
    assert_eq!(written, 3);
}

#[test]
fn nothing_is_not_published_at_once() {
    let mut pair = pair(4096, 0);
    assert_eq!(pair.producer.write_run(&[]), None);
    assert_eq!(pair.producer.write_run(&[1, 2]), Some(Publish::Quiet));
    assert_eq!(pair.consumer.read_run(&mut []), None);
    let mut there = [0];
    assert!(pair.consumer.read_run(&mut there).is_some());
    assert_eq!(pair.consumer.read_run(&mut []), None);
    assert_eq!(there, [1]);
}

#[test]
fn a_peer_that_is_at_work_while_this_side_writes_is_taken_to_be_elsewhere() {
    let mut pair = pair(1024, 0);
    let size = pair.producer.size() as usize;
    let data = pattern(size, 0);
    // What is found in the page decides, each time it is looked at.
    for (written, read, away) in [
        (0, 0, false),
        (size, 0, false),
        (0, 100, true),
        (100, 0, false),
        (0, size - 100, true),
        (0, 100, false),
    ] {
        assert_eq!(pair.write(&data[..written]) as usize, written);
        assert_eq!(pair.read(read).len(), read);
        pair.producer.free().unwrap();
        assert_eq!(pair.producer.is_away(), away, "{written} {read}");
    }
}

#[test]
fn what_is_written_to_a_peer_elsewhere_arrives_whole() {
    for start in [0, 1, 1000, u32::MAX - 500] {
        for len in [1, 15, 16, 33, 64, 65, 128, 129, 400] {
            let mut pair = pair(1024, start);
            // One message stays in the ring, so that it is neither full nor empty.
            assert_eq!(pair.write(&pattern(100, 1)), 100);
            pair.producer.free().unwrap();
            for round in 0..40 {
                assert!(pair.producer.is_away());
                let data = pattern(len, round);
                match pair.producer.write_run_away(&data) {
                    Some(published) => assert_eq!(published, Publish::Quiet),
                    // Around the end, or more than is known to fit.
                    None => assert_eq!(pair.write(&data) as usize, len),
                }
                let kept = if round == 0 { 100 } else { 0 };
                pair.read(kept);
                assert_eq!(pair.read(len), data, "start {start:#x} len {len}");
                assert_eq!(pair.write(&[0]), 1);
                pair.producer.free().unwrap();
                pair.read(1);
            }
        }
    }
}
