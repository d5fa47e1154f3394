//! What the processor refuses: it is said on the console, and the domain ends as crashed.
//!
//! A PVH guest says it on a stack of its own. A PV guest has none for this, so when its stack has
//! overflowed Xen ends it without a word of its own; the registers are in Xen's log then.

use core::arch::asm;
use core::cell::Cell;

use super::{unikernel_exceptions, unikernel_fault_stack_end, unikernel_guard};
use crate::cell::OneCpu;
use crate::machine::{self, Mode, PAGE};
use crate::xen::Errno;
use crate::xen::sched::{self, Reason};
use crate::xen::trap::{self, Trap};
use crate::{console, println};

/// How many exceptions there are.
const EXCEPTIONS: usize = 32;
/// The size of an entry of `unikernel_exceptions`.
const STUB: usize = 8;
const PAGE_FAULT: usize = 14;

/// From now on exceptions are told.
pub(super) fn set_up() -> Result<(), Errno> {
    match machine::mode() {
        Mode::Pv(_) => {
            // The last one ends the table.
            let mut table = [Trap::END; EXCEPTIONS + 1];
            for (vector, trap) in (0..).zip(&mut table[..EXCEPTIONS]) {
                *trap = Trap::new(vector, stub(vector.into()));
            }
            trap::set_table(&table)
        }
        Mode::Pvh => {
            set_up_descriptors();
            Ok(())
        }
    }
}

fn stub(vector: usize) -> usize {
    (&raw const unikernel_exceptions).addr() + vector * STUB
}

/// A descriptor table's place, as `lgdt` and `lidt` want it.
#[repr(C, packed)]
struct Table {
    /// Its last byte.
    limit: u16,
    base: u64,
}

/// In the segment with this selector, which `entry.s` has made, all code runs.
const CODE: u16 = 8;
const CODE_SEGMENT: u64 = 0x0020_9a00_0000_0000;
/// The selector of the task state segment.
const TASK: u16 = 16;
/// The size of one of 64 bits, and where the first stack of its table of stacks (IST) stands.
const TASK_SIZE: usize = 104;
const FIRST_STACK: usize = 36;

/// Two words for each exception.
static GATES: OneCpu<Cell<[u64; 2 * EXCEPTIONS]>> = OneCpu::new(Cell::new([0; 2 * EXCEPTIONS]));
static SEGMENTS: OneCpu<Cell<[u64; 4]>> = OneCpu::new(Cell::new([0; 4]));
static TASK_STATE: OneCpu<Cell<[u8; TASK_SIZE]>> = OneCpu::new(Cell::new([0; TASK_SIZE]));

/// Tells the processor where to go on at an exception, and with which stack.
fn set_up_descriptors() {
    let mut task = [0; TASK_SIZE];
    let stack = (&raw const unikernel_fault_stack_end).addr() as u64;
    task[FIRST_STACK..FIRST_STACK + 8].copy_from_slice(&stack.to_le_bytes());
    TASK_STATE.set(task);

    let task = TASK_STATE.as_ptr().addr() as u64;
    // Present, an available task state segment.
    let low =
        (TASK_SIZE as u64 - 1) | (task & 0xff_ffff) << 16 | 0x89 << 40 | (task >> 24 & 0xff) << 56;
    SEGMENTS.set([0, CODE_SEGMENT, low, task >> 32]);

    let mut gates = [0; 2 * EXCEPTIONS];
    for (vector, gate) in gates.chunks_exact_mut(2).enumerate() {
        let to = stub(vector) as u64;
        // The first stack of the table; present, an interrupt gate.
        gate[0] = (to & 0xffff)
            | u64::from(CODE) << 16
            | 1 << 32
            | 0x8e << 40
            | (to >> 16 & 0xffff) << 48;
        gate[1] = to >> 32;
    }
    GATES.set(gates);

    let table = |base: usize, size: usize| Table {
        limit: u16::try_from(size - 1).expect("a small table"),
        base: base as u64,
    };
    let segments = table(SEGMENTS.as_ptr().addr(), size_of::<[u64; 4]>());
    let gates = table(GATES.as_ptr().addr(), size_of::<[u64; 2 * EXCEPTIONS]>());
    // SAFETY: the tables are whole and stay where they are, the code segment is the same as before,
    // and nothing of the program looks at these registers.
    #[allow(unsafe_code, reason = "see UNSAFETY of `boot`")]
    unsafe {
        asm!(
            "lgdt [{segments}]",
            "lidt [{gates}]",
            "ltr {task:x}",
            segments = in(reg) &raw const segments,
            gates = in(reg) &raw const gates,
            task = in(reg) TASK,
            options(nostack, preserves_flags),
        );
    }
}

/// Where `entry.s` leads to after an exception: `stub` is inside of the entry that it came by, `frame`
/// is what was pushed, `address` the one that was used where the exception is about that.
#[allow(unsafe_code, reason = "see UNSAFETY of `boot`")]
// SAFETY: nothing else has this name.
#[unsafe(no_mangle)]
extern "C" fn unikernel_fault(stub: usize, frame: *const usize, address: usize) -> ! {
    let vector = (stub - (&raw const unikernel_exceptions).addr()) / STUB;
    // Two registers come first for PV; some exceptions have an error code.
    let registers = match machine::mode() {
        Mode::Pv(_) => 2,
        Mode::Pvh => 0,
    };
    let error_code = usize::from(matches!(vector, 8 | 10..=14 | 17 | 21));
    // SAFETY: at least the five words of an exception's frame follow.
    let at = unsafe { frame.add(registers + error_code) };
    // SAFETY: the same.
    let at = unsafe { at.read() };
    let guard = (&raw const unikernel_guard).addr();
    match vector {
        PAGE_FAULT if (guard..guard + PAGE).contains(&address) => {
            println!("the stack has overflowed: the instruction at {at:#x}");
        }
        PAGE_FAULT => {
            println!("nothing is at address {address:#x}: the instruction at {at:#x}");
        }
        _ => println!("exception {vector}: the instruction at {at:#x}"),
    }
    console::drain();
    sched::shutdown(Reason::Crash)
}
