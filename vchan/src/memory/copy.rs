//! Copying between shared memory and private memory.
//!
//! UNSAFETY: a plain `memcpy` on memory that another domain changes meanwhile is a data race, and
//! the compiler may assume that there is none. On x86-64 the shared side is therefore only touched
//! by inline assembly, which the compiler takes as it is; elsewhere by relaxed atomic accesses. A
//! byte may be read or written twice. Every byte that is copied is one that stood there at some
//! moment, and what it is copied to holds nothing else in the end.

use core::ptr::NonNull;

/// The most bytes that are copied by a few moves, without a call.
pub(crate) const SHORT: usize = 128;

/// Copies from shared memory: `from` is readable for `to.len()` bytes.
#[inline]
pub(super) fn from_shared(from: NonNull<u8>, to: &mut [u8]) {
    copy(from.as_ptr(), to.as_mut_ptr(), to.len());
}

/// Copies to shared memory: `to` is writable for `from.len()` bytes.
#[inline]
pub(super) fn to_shared(from: &[u8], to: NonNull<u8>) {
    copy(from.as_ptr(), to.as_ptr(), from.len());
}

/// Both are valid for `len` bytes and do not overlap (one is private); the callers above are the
/// only ones.
#[inline]
fn copy(from: *const u8, to: *mut u8, len: usize) {
    if len > SHORT {
        copy_long(from, to, len);
    } else {
        copy_short(from, to, len);
    }
}

/// For at most [`SHORT`] bytes; both are valid for `len` bytes and do not overlap.
///
/// A few moves that may overlap cover every small length without a loop: some from the beginning,
/// and as many up to the end.
#[cfg(all(target_arch = "x86_64", not(miri)))]
#[inline]
#[allow(unsafe_code, reason = "see UNSAFETY above")]
fn copy_short(from: *const u8, to: *mut u8, len: usize) {
    use core::arch::asm;
    #[cfg(target_feature = "sse2")]
    if len > 32 {
        if len > 64 {
            // SAFETY: touches the bytes 0..64 and len-64..len of both only.
            unsafe {
                asm!(
                    "movdqu {a}, [{from}]", "movdqu {b}, [{from} + 16]",
                    "movdqu {c}, [{from} + 32]", "movdqu {d}, [{from} + 48]",
                    "movdqu {e}, [{from} + {n} - 64]", "movdqu {f}, [{from} + {n} - 48]",
                    "movdqu {g}, [{from} + {n} - 32]", "movdqu {h}, [{from} + {n} - 16]",
                    "movdqu [{to}], {a}", "movdqu [{to} + 16], {b}",
                    "movdqu [{to} + 32], {c}", "movdqu [{to} + 48], {d}",
                    "movdqu [{to} + {n} - 64], {e}", "movdqu [{to} + {n} - 48], {f}",
                    "movdqu [{to} + {n} - 32], {g}", "movdqu [{to} + {n} - 16], {h}",
                    from = in(reg) from, to = in(reg) to, n = in(reg) len,
                    a = out(xmm_reg) _, b = out(xmm_reg) _, c = out(xmm_reg) _, d = out(xmm_reg) _,
                    e = out(xmm_reg) _, f = out(xmm_reg) _, g = out(xmm_reg) _, h = out(xmm_reg) _,
                    options(nostack, preserves_flags),
                );
            }
        } else {
            // SAFETY: touches the bytes 0..32 and len-32..len of both only.
            unsafe {
                asm!(
                    "movdqu {a}, [{from}]", "movdqu {b}, [{from} + 16]",
                    "movdqu {c}, [{from} + {n} - 32]", "movdqu {d}, [{from} + {n} - 16]",
                    "movdqu [{to}], {a}", "movdqu [{to} + 16], {b}",
                    "movdqu [{to} + {n} - 32], {c}", "movdqu [{to} + {n} - 16], {d}",
                    from = in(reg) from, to = in(reg) to, n = in(reg) len,
                    a = out(xmm_reg) _, b = out(xmm_reg) _, c = out(xmm_reg) _, d = out(xmm_reg) _,
                    options(nostack, preserves_flags),
                );
            }
        }
        return;
    } else if len > 16 {
        // SAFETY: touches the bytes 0..16 and len-16..len of both only.
        unsafe {
            asm!(
                "movdqu {a}, [{from}]", "movdqu {b}, [{from} + {n} - 16]",
                "movdqu [{to}], {a}", "movdqu [{to} + {n} - 16], {b}",
                from = in(reg) from, to = in(reg) to, n = in(reg) len,
                a = out(xmm_reg) _, b = out(xmm_reg) _,
                options(nostack, preserves_flags),
            );
        }
        return;
    }
    if len > 16 {
        copy_long(from, to, len);
    } else if len >= 8 {
        // SAFETY: touches the bytes 0..8 and len-8..len of both only.
        unsafe {
            asm!(
                "mov {a}, [{from}]", "mov {b}, [{from} + {n} - 8]",
                "mov [{to}], {a}", "mov [{to} + {n} - 8], {b}",
                from = in(reg) from, to = in(reg) to, n = in(reg) len,
                a = out(reg) _, b = out(reg) _,
                options(nostack, preserves_flags),
            );
        }
    } else if len >= 4 {
        // SAFETY: touches the bytes 0..4 and len-4..len of both only.
        unsafe {
            asm!(
                "mov {a:e}, [{from}]", "mov {b:e}, [{from} + {n} - 4]",
                "mov [{to}], {a:e}", "mov [{to} + {n} - 4], {b:e}",
                from = in(reg) from, to = in(reg) to, n = in(reg) len,
                a = out(reg) _, b = out(reg) _,
                options(nostack, preserves_flags),
            );
        }
    } else {
        for i in 0..len {
            // SAFETY: `i` is below `len`.
            unsafe {
                asm!(
                    "mov {a}, [{from} + {i}]", "mov [{to} + {i}], {a}",
                    from = in(reg) from, to = in(reg) to, i = in(reg) i, a = out(reg_byte) _,
                    options(nostack, preserves_flags),
                );
            }
        }
    }
}

/// The platform's `memcpy`, which knows the processor, as machine code that the compiler does not
/// look into: it sees a block of assembly, not a copy of bytes that nobody else may change. Both are
/// valid for `len` bytes and do not overlap.
#[cfg(all(target_arch = "x86_64", not(miri)))]
#[inline]
#[allow(unsafe_code, reason = "see UNSAFETY above")]
fn copy_long(from: *const u8, to: *mut u8, len: usize) {
    unsafe extern "C" {
        fn memcpy(to: *mut u8, from: *const u8, len: usize) -> *mut u8;
    }
    // SAFETY: reads `len` bytes of `from` and writes `len` bytes of `to`, both valid and apart. The
    // call follows the C ABI: the stack is aligned on entry to an asm block by its rules, and what
    // the callee may change is named.
    unsafe {
        core::arch::asm!(
            "call {memcpy}",
            memcpy = sym memcpy,
            inout("rdi") to => _, inout("rsi") from => _, inout("rdx") len => _,
            clobber_abi("C"),
        );
    }
}

/// Both are valid for `len` bytes and do not overlap.
#[cfg(not(all(target_arch = "x86_64", not(miri))))]
fn copy_short(from: *const u8, to: *mut u8, len: usize) {
    copy_long(from, to, len);
}

/// Both are valid for `len` bytes and do not overlap.
#[cfg(not(all(target_arch = "x86_64", not(miri))))]
#[allow(unsafe_code, reason = "see UNSAFETY above")]
fn copy_long(from: *const u8, to: *mut u8, len: usize) {
    use core::sync::atomic::{AtomicU8, Ordering::Relaxed};
    for i in 0..len {
        // SAFETY: `i` is below `len`, so both bytes are valid; relaxed atomic accesses may race.
        unsafe {
            let byte = AtomicU8::from_ptr(from.add(i).cast_mut()).load(Relaxed);
            AtomicU8::from_ptr(to.add(i)).store(byte, Relaxed);
        }
    }
}
