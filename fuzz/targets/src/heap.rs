//! The heap of a guest without an operating system, as `unikernel-core` configures it: blocks are
//! asked for, made longer and shorter, and given back, and every byte is watched.
//!
//! UNSAFETY: memory is given to the allocator and taken from it through raw pointers, as the guest
//! does. What the allocator must keep to is what this target checks.
#![allow(unsafe_code, reason = "see UNSAFETY above")]

use std::alloc::{GlobalAlloc, Layout};
use std::collections::BTreeMap;
use std::ops::Range;

use arbitrary::{Arbitrary, Unstructured};
use unikernel_core::heap::{Heap, heap};

/// The most steps of one run.
const MOST_STEPS: usize = 400;

/// All the memory that there is, in bytes.
const MEMORY: usize = 256 * 1024;

/// The size of the pieces in which it is given to the heap.
const PIECE: usize = 64 * 1024;

#[derive(Arbitrary, Debug)]
enum Step {
    /// A block of so many bytes, aligned to a power of two of at most a page.
    Allocate { size: u16, align: u8, zeroed: bool },
    /// Another size for one of the blocks.
    Resize { block: u8, size: u16 },
    /// One of the blocks is given back.
    Free { block: u8 },
    /// The heap gets one more piece.
    Grow,
}

/// A block that the program has.
struct Block {
    layout: Layout,
    /// What its bytes were made of.
    seed: u8,
}

struct Run {
    heap: Heap,
    memory: Vec<u8>,
    pieces: Vec<Range<usize>>,
    /// By address.
    blocks: BTreeMap<usize, Block>,
    steps: u8,
}

/// The bytes say what happens.
pub fn run(data: &[u8]) {
    let mut input = Unstructured::new(data);
    let mut run = Run {
        heap: heap(),
        memory: vec![0xA5; MEMORY],
        pieces: Vec::new(),
        blocks: BTreeMap::new(),
        steps: 0,
    };
    // A heap without memory has none to give.
    assert!(run.allocate(16, 0, false).is_none());
    run.grow();
    let before = run.largest();
    for _ in 0..MOST_STEPS {
        match Step::arbitrary(&mut input) {
            Ok(step) if !input.is_empty() => run.step(&step),
            _ => break,
        }
    }
    while let Some(&address) = run.blocks.keys().next() {
        run.free(address);
    }
    // What was given back lies side by side again.
    assert!(run.largest() >= before, "memory was lost");
}

impl Run {
    fn step(&mut self, step: &Step) {
        self.steps = self.steps.wrapping_add(1);
        match *step {
            Step::Allocate {
                size,
                align,
                zeroed,
            } => {
                self.allocate(usize::from(size), align, zeroed);
            }
            Step::Resize { block, size } => {
                if let Some(address) = self.chosen(block) {
                    self.resize(address, usize::from(size));
                }
            }
            Step::Free { block } => {
                if let Some(address) = self.chosen(block) {
                    self.free(address);
                }
            }
            Step::Grow => self.grow(),
        }
    }

    fn chosen(&self, block: u8) -> Option<usize> {
        let nth = usize::from(block) % self.blocks.len().max(1);
        self.blocks.keys().nth(nth).copied()
    }

    fn grow(&mut self) {
        let start = self.pieces.len() * PIECE;
        if start == MEMORY {
            return;
        }
        let piece = &mut self.memory[start..start + PIECE];
        let base = piece.as_mut_ptr();
        // SAFETY: the piece is ours, is given to one heap once, and outlives it.
        let claimed = unsafe { self.heap.lock().claim(base, PIECE) };
        assert!(claimed.is_some(), "a piece of {PIECE} bytes was refused");
        let start = base as usize;
        self.pieces.push(start..start + PIECE);
    }

    fn allocate(&mut self, size: usize, align: u8, zeroed: bool) -> Option<usize> {
        // A program never asks for nothing.
        let layout = Layout::from_size_align(size.max(1), 1 << (align % 13)).ok()?;
        // SAFETY: the layout has a size.
        let pointer = match zeroed {
            // SAFETY: as above.
            true => unsafe { self.heap.alloc_zeroed(layout) },
            // SAFETY: as above.
            false => unsafe { self.heap.alloc(layout) },
        };
        let address = pointer as usize;
        if address == 0 {
            return None;
        }
        if zeroed {
            let bytes = self.bytes(address, layout.size());
            assert!(bytes.iter().all(|&byte| byte == 0), "not zeroed");
        }
        self.have(address, layout);
        Some(address)
    }

    fn resize(&mut self, address: usize, size: usize) {
        let size = size.max(1);
        let Block { layout, seed } = self.blocks.remove(&address).expect("a block");
        self.check(address, layout.size(), seed);
        // SAFETY: the block is the heap's, has this layout, and the new size is not zero.
        let pointer = unsafe { self.heap.realloc(address as *mut u8, layout, size) };
        let moved = pointer as usize;
        if moved == 0 {
            self.check(address, layout.size(), seed);
            self.blocks.insert(address, Block { layout, seed });
            return;
        }
        self.check(moved, layout.size().min(size), seed);
        let layout = Layout::from_size_align(size, layout.align()).expect("a layout");
        self.have(moved, layout);
    }

    fn free(&mut self, address: usize) {
        let Block { layout, seed } = self.blocks.remove(&address).expect("a block");
        self.check(address, layout.size(), seed);
        // SAFETY: the block is the heap's and has this layout; it is ours no more.
        unsafe { self.heap.dealloc(address as *mut u8, layout) };
    }

    /// Takes over a block: it lies where it may, and gets bytes of its own.
    fn have(&mut self, address: usize, layout: Layout) {
        let end = address + layout.size();
        assert_eq!(address % layout.align(), 0, "badly aligned");
        let within = |piece: &Range<usize>| piece.start <= address && end <= piece.end;
        assert!(self.pieces.iter().any(within), "not the heap's memory");
        let before = self.blocks.range(..end).next_back();
        if let Some((&start, block)) = before {
            assert!(start + block.layout.size() <= address, "blocks overlap");
        }
        let seed = self.steps;
        for (n, byte) in self.bytes(address, layout.size()).iter_mut().enumerate() {
            *byte = pattern(seed, n);
        }
        self.blocks.insert(address, Block { layout, seed });
    }

    fn check(&mut self, address: usize, size: usize, seed: u8) {
        let bytes = self.bytes(address, size);
        let kept = bytes
            .iter()
            .enumerate()
            .all(|(n, &b)| b == pattern(seed, n));
        assert!(kept, "a block's bytes were changed");
    }

    fn bytes(&mut self, address: usize, size: usize) -> &mut [u8] {
        // SAFETY: only called for a block of this size that the heap has given to us, or that was
        // refused another size.
        unsafe { std::slice::from_raw_parts_mut(address as *mut u8, size) }
    }

    /// The size of the largest block that there is room for; nothing may be in use.
    fn largest(&mut self) -> usize {
        let (mut fits, mut does_not) = (0, PIECE + 1);
        while does_not - fits > 1 {
            let size = usize::midpoint(fits, does_not);
            match self.allocate(size, 0, false) {
                Some(address) => {
                    self.free(address);
                    fits = size;
                }
                None => does_not = size,
            }
        }
        fits
    }
}

fn pattern(seed: u8, n: usize) -> u8 {
    let low = u8::try_from(n % 251).unwrap_or(0);
    low.wrapping_mul(31).wrapping_add(seed)
}
