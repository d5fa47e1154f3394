//! A program that does what no program should: `extra="do=overflow"`, `do=follow-zero`, `do=panic`,
//! `do=panic-in-a-line` or `do=fail`. Its domain must end as crashed, and its last line never be
//! reached. With `do=compute` it never waits for anything, and ends when the toolstack wishes so.
#![no_std]
#![no_main]

use core::fmt;
use core::hint::black_box;

use vchan_unikernel::{Guest, println};

vchan_unikernel::main!(misbehave);

/// How long the stack of a guest is, in bytes.
const STACK: usize = 64 << 10;

fn misbehave(guest: &Guest) -> Result<(), &'static str> {
    let what = guest.command_line().value("do").unwrap_or_default();
    println!("about to {what}");
    match what {
        // What this began with is less than a page, so this is the page below the stack.
        "overflow" => recurse(here() - STACK),
        "follow-zero" => follow(black_box(8)),
        "panic" => panic!("asked for a panic"),
        "panic-in-a-line" => println!("a line with {}", Unprintable),
        "fail" => return Err("asked for an error"),
        "compute" => compute(guest),
        _ => {}
    }
    println!("survived");
    Ok(())
}

/// What panics when it is to be printed.
struct Unprintable;

impl fmt::Display for Unprintable {
    fn fmt(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
        panic!("asked for a panic in a line")
    }
}

/// Computes until the domain is to shut down.
fn compute(guest: &Guest) {
    let mut state = 1_u32;
    while guest.heed().is_ok() {
        for _ in 0..1000 {
            state = black_box(state.wrapping_mul(1_664_525).wrapping_add(1));
        }
    }
}

/// An address on the stack.
#[inline(never)]
fn here() -> usize {
    let local = 0_u8;
    (&raw const local).addr()
}

/// Until the stack has grown down to `end`.
#[inline(never)]
fn recurse(end: usize) {
    let frame = black_box([0_u8; 100]);
    if frame.as_ptr().addr() > end {
        recurse(end);
    }
    black_box(frame);
}

/// Reads what is at `address`.
#[allow(unsafe_code, reason = "to be seen to crash")]
fn follow(address: usize) {
    let at = core::ptr::with_exposed_provenance::<u64>(address);
    // SAFETY: nothing is there: the processor refuses.
    black_box(unsafe { at.read_volatile() });
}
