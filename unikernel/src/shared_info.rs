//! The page that Xen shares with the guest: pending events, and the time.
//!
//! Its layout is `struct shared_info` of Xen's header `xen.h`.

use core::cell::OnceCell;
use core::sync::atomic::Ordering;

use unikernel_core::clock::{self, TimeInfo};
use vchan::host::Time;
use vchan::memory::Region;

use crate::cell::OneCpu;

/// `vcpu_info[0].time`, a `struct vcpu_time_info`, and its fields.
const TIME: usize = 32;
const VERSION: usize = TIME;

/// `evtchn_pending` and `evtchn_mask`: a bit for each port.
const PENDING: usize = 32 * 64;
const MASK: usize = PENDING + PORTS / 8;

/// How many ports there are.
const PORTS: usize = 4096;

static PAGE: OneCpu<OnceCell<Region>> = OneCpu::new(OnceCell::new());

/// Masks all ports: nothing is to interrupt the guest, and waiting does not look at the mask.
pub(crate) fn set_up(page: Region) {
    page.copy_in(MASK, &[0xff; PORTS / 8]);
    // It is called once.
    let _ = PAGE.set(page);
}

fn page() -> &'static Region {
    PAGE.get().expect("the guest has been set up")
}

/// The byte and the bit of a port.
fn bit(port: u32) -> (usize, u8) {
    let port = port as usize % PORTS;
    (PENDING + port / 8, 1 << (port % 8))
}

/// Whether an event is pending on `port`.
pub(crate) fn is_pending(port: u32) -> bool {
    let (byte, bit) = bit(port);
    page().load_byte(byte, Ordering::Acquire) & bit != 0
}

/// Takes the pending event of `port`, if there is one.
pub(crate) fn take_pending(port: u32) -> bool {
    let (byte, bit) = bit(port);
    // What the other side did before it sent the event is visible after this.
    is_pending(port) && page().clear_bits(byte, bit, Ordering::AcqRel) & bit != 0
}

/// The system time: how long ago Xen started, as far as the guest is told.
pub(crate) fn now() -> Time {
    loop {
        let version = page().load_index(VERSION, Ordering::Acquire);
        let mut bytes = [0; clock::SIZE];
        page().copy_out(TIME, &mut bytes);
        let counter = read_counter();
        // Odd while Xen writes.
        if version.is_multiple_of(2) && page().load_index(VERSION, Ordering::Acquire) == version {
            return TimeInfo::parse(&bytes).at(counter);
        }
    }
}

/// The processor's time stamp counter.
#[allow(
    unsafe_code,
    reason = "an instruction without effects, which the compiler calls unsafe"
)]
fn read_counter() -> u64 {
    // SAFETY: reading it has no effect, and every processor with long mode has it.
    unsafe { core::arch::x86_64::_rdtsc() }
}
