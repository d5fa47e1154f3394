//! What cannot go on: said on the console, and the domain ends as crashed.

use core::panic::PanicInfo;

use crate::xen::sched::{self, Reason};
use crate::{console, println};

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    println!("{info}");
    console::drain();
    sched::shutdown(Reason::Crash)
}
