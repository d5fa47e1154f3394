//! Xen's hypercalls: one typed function each, with the public header's structure beside it.
//!
//! A call that can only fail is safe. A call that changes what lies at an address is `unsafe`.

use core::fmt;

mod call;
pub(crate) mod event;
pub(crate) mod grant;
pub(crate) mod hvm;
pub(crate) mod memory;
pub(crate) mod mmu;
pub(crate) mod sched;
pub(crate) mod trap;

pub(crate) use call::set_up_page;

/// `DOMID_SELF`: the caller, where a hypercall asks for a domain.
const DOMID_SELF: u16 = 0x7ff0;

/// Why Xen refused: an error number of its own, which are those of Linux.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Errno(pub u64);

impl Errno {
    pub(crate) const NOENT: Errno = Errno(2);
    pub(crate) const SRCH: Errno = Errno(3);
    pub(crate) const NOMEM: Errno = Errno(12);
    pub(crate) const INVAL: Errno = Errno(22);

    /// What a hypercall returned: negative is an error.
    fn check(returned: i64) -> Result<i64, Errno> {
        if returned < 0 {
            Err(Errno(returned.unsigned_abs()))
        } else {
            Ok(returned)
        }
    }
}

impl fmt::Display for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self.0 {
            1 => "EPERM: operation not permitted",
            2 => "ENOENT: no such thing",
            3 => "ESRCH: no such domain",
            7 => "E2BIG: too much at once",
            11 => "EAGAIN: not now",
            12 => "ENOMEM: Xen is out of memory",
            13 => "EACCES: permission denied",
            14 => "EFAULT: bad address",
            16 => "EBUSY: in use",
            17 => "EEXIST: there already",
            22 => "EINVAL: invalid argument",
            28 => "ENOSPC: none is left",
            38 => "ENOSYS: this Xen cannot do that",
            other => return write!(f, "Xen's error {other}"),
        };
        f.write_str(name)
    }
}

impl core::error::Error for Errno {}
