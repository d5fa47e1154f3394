//! The calls to the Xen drivers.
//!
//! UNSAFETY: an `ioctl` reads and writes whatever its number says; the modules beside this one pair
//! each number with the structure that the kernel's header gives it.

use core::ffi::c_int;
use core::mem::size_of;
use std::os::fd::BorrowedFd;

use rustix::io::Errno;
pub(super) use rustix::ioctl::Opcode;
use rustix::ioctl::{Direction, Ioctl, IoctlOutput, opcode};

/// How often a call that a signal has interrupted is made again.
const MOST_TRIES: usize = 16;

/// `_IOC(_IOC_NONE, group, number, sizeof(T))`: the Xen drivers give no direction.
pub(super) const fn number<T>(group: u8, number: u8) -> Opcode {
    opcode::from_components(Direction::None, group, number, size_of::<T>())
}

/// Calls the driver behind `fd` and gives what the call returns, which is not negative.
///
/// # Safety
/// The driver behind any descriptor takes `number` with a pointer to `T`, or refuses it. It accesses
/// nothing but `*argument` and what that names, which must be its to access.
#[allow(unsafe_code, reason = "see UNSAFETY above")]
pub(super) unsafe fn call<T>(
    fd: BorrowedFd<'_>,
    number: Opcode,
    argument: &mut T,
) -> Result<u32, Errno> {
    let mut tries = 0;
    loop {
        let call = Call {
            number,
            argument: &mut *argument,
        };
        // SAFETY: the caller promises that this is what the driver expects.
        match unsafe { rustix::ioctl::ioctl(fd, call) } {
            Err(Errno::INTR) if tries < MOST_TRIES => tries += 1,
            Err(errno) => return Err(errno),
            Ok(returned) => return u32::try_from(returned).map_err(|_| Errno::PROTO),
        }
    }
}

struct Call<'a, T> {
    number: Opcode,
    argument: &'a mut T,
}

// SAFETY: the pointer is that of an exclusive reference, and the output is the number that the call
// returns; nothing is read through the pointer. That the pair of number and `T` is right, the
// caller of `call` has promised.
#[allow(unsafe_code, reason = "see UNSAFETY above")]
unsafe impl<T> Ioctl for Call<'_, T> {
    type Output = c_int;

    const IS_MUTATING: bool = true;

    fn opcode(&self) -> Opcode {
        self.number
    }

    fn as_ptr(&mut self) -> *mut core::ffi::c_void {
        core::ptr::from_mut(self.argument).cast()
    }

    unsafe fn output_from_ptr(
        output: IoctlOutput,
        _: *mut core::ffi::c_void,
    ) -> Result<c_int, Errno> {
        Ok(output)
    }
}
