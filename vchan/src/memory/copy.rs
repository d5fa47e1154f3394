//! Copying between shared memory and private memory.
//!
//! UNSAFETY: a plain `memcpy` on memory that another domain changes meanwhile is a data race, and
//! the compiler may assume that there is none. On x86-64 the shared side is therefore only touched
//! by inline assembly, which the compiler takes as it is; elsewhere by relaxed atomic accesses. A
//! byte may be read or written twice. Every byte that is copied is one that stood there at some
//! moment, and what it is copied to holds nothing else in the end.

use core::ptr::NonNull;
#[cfg(not(all(target_arch = "x86_64", not(miri))))]
use core::sync::atomic::{AtomicU8, Ordering::Relaxed};

#[cfg(all(target_arch = "x86_64", not(miri)))]
use super::PAGE_SIZE;

/// The most bytes that are copied by a few moves, without a call.
pub(crate) const SHORT: usize = 128;

/// The most bytes that are copied by a loop of wide moves. For a few thousand `memcpy` takes
/// `rep movsb`, which begins slowly; beyond this it is the faster.
#[cfg(all(target_arch = "x86_64", not(miri)))]
const MEDIUM: usize = 4096;

/// The same to shared memory whose lines are in the cache of another processor. There `rep movsb`
/// pays earlier: it overwrites them whole without fetching what they hold.
#[cfg(all(target_arch = "x86_64", not(miri)))]
const MEDIUM_AWAY: usize = 2048;

/// Where `rep movsb` is avoided however much is copied: the place that is written begins less than so
/// many bytes behind the one that is read, by where they lie in their pages. There AMD's Zen 3 takes
/// twenty times as long. (What an allocator gives for a large buffer begins 16 bytes behind the
/// beginning of a page, and a ring at the beginning of one.)
#[cfg(all(target_arch = "x86_64", not(miri)))]
const JUST_BEHIND: usize = 64;

/// In how large steps caches hold memory.
#[cfg(all(target_arch = "x86_64", not(miri)))]
const LINE: usize = 64;

/// Copies from shared memory: `from` is readable for `to.len()` bytes. False: there are none. (To
/// say so here costs nothing but where bytes are copied one by one.)
#[cfg(all(target_arch = "x86_64", not(miri)))]
#[inline(always)]
pub(super) fn from_shared(from: NonNull<u8>, to: &mut [u8]) -> bool {
    copy::<MEDIUM>(from.as_ptr(), to.as_mut_ptr(), to.len())
}

/// Copies to shared memory: `to` is writable for `from.len()` bytes. False: there are none.
#[cfg(all(target_arch = "x86_64", not(miri)))]
#[inline(always)]
pub(super) fn to_shared(from: &[u8], to: NonNull<u8>) -> bool {
    copy::<MEDIUM>(from.as_ptr(), to.as_ptr(), from.len())
}

/// The same to memory that was last in the cache of another processor.
#[cfg(all(target_arch = "x86_64", not(miri)))]
#[inline(always)]
pub(super) fn to_shared_away(from: &[u8], to: NonNull<u8>) -> bool {
    copy::<MEDIUM_AWAY>(from.as_ptr(), to.as_ptr(), from.len())
}

/// Begins to fetch `len` bytes, or a line more, from the cache of another processor, to be written: who
/// writes there soon does not have to wait for them. As many are worth it as are copied without
/// `rep movsb`.
#[cfg(all(target_arch = "x86_64", not(miri)))]
#[inline(always)]
pub(super) fn fetch_to_write(at: NonNull<u8>, len: usize) {
    if len <= 2 * LINE {
        fetch_line(at.as_ptr());
        if len > LINE {
            fetch_line(at.as_ptr().wrapping_add(LINE));
        }
    } else if len <= MEDIUM_AWAY {
        for two in (0..len).step_by(2 * LINE) {
            fetch_line(at.as_ptr().wrapping_add(two));
            fetch_line(at.as_ptr().wrapping_add(two + LINE));
        }
    }
}

#[cfg(all(target_arch = "x86_64", not(miri)))]
#[inline(always)]
#[allow(unsafe_code, reason = "see UNSAFETY above")]
fn fetch_line(at: *mut u8) {
    // SAFETY: a hint, which changes nothing and fails for no address; processors that do not know it
    // take it for no instruction at all.
    unsafe {
        core::arch::asm!("prefetchw [{at}]", at = in(reg) at, options(nostack, preserves_flags));
    }
}

/// Both are valid for `len` bytes and do not overlap (one is private); the callers above are the
/// only ones.
#[cfg(all(target_arch = "x86_64", not(miri)))]
#[inline(always)]
fn copy<const MOST: usize>(from: *const u8, to: *mut u8, len: usize) -> bool {
    if len <= SHORT {
        return copy_short(from, to, len);
    }
    if len <= MOST || is_just_behind(from, to) {
        copy_medium(from, to, len);
    } else {
        copy_long(from, to, len);
    }
    true
}

#[cfg(all(target_arch = "x86_64", not(miri)))]
#[inline]
fn is_just_behind(from: *const u8, to: *mut u8) -> bool {
    let behind = to.addr().wrapping_sub(from.addr()) % PAGE_SIZE;
    (1..JUST_BEHIND).contains(&behind)
}

/// For at most [`SHORT`] bytes; both are valid for `len` bytes and do not overlap.
///
/// A few moves that may overlap cover every small length without a loop: some from the beginning,
/// and as many up to the end.
#[cfg(all(target_arch = "x86_64", not(miri)))]
#[inline(always)]
#[allow(unsafe_code, reason = "see UNSAFETY above")]
fn copy_short(from: *const u8, to: *mut u8, len: usize) -> bool {
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
        return true;
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
        return true;
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
        if len == 0 {
            return false;
        }
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
    true
}

/// Whether the processor has moves of 32 bytes, and the system lets them be used.
#[cfg(all(target_arch = "x86_64", not(miri)))]
#[inline]
fn has_avx() -> bool {
    // Who has no `std` may be a system that does not save these registers.
    #[cfg(feature = "std")]
    return std::arch::is_x86_feature_detected!("avx");
    #[cfg(not(feature = "std"))]
    return false;
}

/// For more than [`SHORT`] bytes; both are valid for `len` bytes and do not overlap.
///
/// The first 32 bytes, then blocks of 128 to aligned places, then the last 128: the three may
/// overlap.
#[cfg(all(target_arch = "x86_64", not(miri)))]
#[inline(never)]
#[allow(unsafe_code, reason = "see UNSAFETY above")]
fn copy_medium(from: *const u8, to: *mut u8, len: usize) {
    if !has_avx() {
        return copy_long(from, to, len);
    }
    // SAFETY: touches the bytes 0..len of both only, as there are more than 128 and the loop ends
    // when at most 128 are left. `vzeroupper` changes the registers 0 to 15, which are all named.
    unsafe {
        core::arch::asm!(
            "vmovdqu ymm0, [{from}]",
            "vmovdqu [{to}], ymm0",
            // To the next place that is a multiple of 32: 1 to 32 bytes on.
            "mov {step}, {to}",
            "or {step}, -32",
            "add {left}, {step}",
            "sub {from}, {step}",
            "sub {to}, {step}",
            "cmp {left}, 128",
            "jbe 3f",
            "2:",
            "vmovdqu ymm0, [{from}]",
            "vmovdqu ymm1, [{from} + 32]",
            "vmovdqu ymm2, [{from} + 64]",
            "vmovdqu ymm3, [{from} + 96]",
            "vmovdqa [{to}], ymm0",
            "vmovdqa [{to} + 32], ymm1",
            "vmovdqa [{to} + 64], ymm2",
            "vmovdqa [{to} + 96], ymm3",
            "sub {from}, -128",
            "sub {to}, -128",
            "add {left}, -128",
            "cmp {left}, 128",
            "ja 2b",
            "3:",
            "vmovdqu ymm0, [{from} + {left} - 128]",
            "vmovdqu ymm1, [{from} + {left} - 96]",
            "vmovdqu ymm2, [{from} + {left} - 64]",
            "vmovdqu ymm3, [{from} + {left} - 32]",
            "vmovdqu [{to} + {left} - 128], ymm0",
            "vmovdqu [{to} + {left} - 96], ymm1",
            "vmovdqu [{to} + {left} - 64], ymm2",
            "vmovdqu [{to} + {left} - 32], ymm3",
            "vzeroupper",
            from = inout(reg) from => _, to = inout(reg) to => _, left = inout(reg) len => _,
            step = out(reg) _,
            out("xmm0") _, out("xmm1") _, out("xmm2") _, out("xmm3") _,
            out("xmm4") _, out("xmm5") _, out("xmm6") _, out("xmm7") _,
            out("xmm8") _, out("xmm9") _, out("xmm10") _, out("xmm11") _,
            out("xmm12") _, out("xmm13") _, out("xmm14") _, out("xmm15") _,
            options(nostack),
        );
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

/// Copies from shared memory: `from` is readable for `to.len()` bytes. False: there are none.
#[cfg(not(all(target_arch = "x86_64", not(miri))))]
#[allow(unsafe_code, reason = "see UNSAFETY above")]
pub(super) fn from_shared(from: NonNull<u8>, to: &mut [u8]) -> bool {
    for (i, byte) in to.iter_mut().enumerate() {
        // SAFETY: `i` is below the length.
        let at = unsafe { from.add(i) };
        // SAFETY: the byte is readable, and all who touch it here do so atomically. (It may be in a
        // read-only mapping: a load is a plain load there, as in `mapped`.)
        *byte = unsafe { AtomicU8::from_ptr(at.as_ptr()) }.load(Relaxed);
    }
    !to.is_empty()
}

/// Elsewhere all copies are alike, and nothing is fetched beforehand.
#[cfg(not(all(target_arch = "x86_64", not(miri))))]
pub(super) fn fetch_to_write(_at: NonNull<u8>, _len: usize) {}

#[cfg(not(all(target_arch = "x86_64", not(miri))))]
pub(super) use to_shared as to_shared_away;

/// Copies to shared memory: `to` is writable for `from.len()` bytes. False: there are none.
#[cfg(not(all(target_arch = "x86_64", not(miri))))]
#[allow(unsafe_code, reason = "see UNSAFETY above")]
pub(super) fn to_shared(from: &[u8], to: NonNull<u8>) -> bool {
    for (i, byte) in from.iter().enumerate() {
        // SAFETY: `i` is below the length.
        let at = unsafe { to.add(i) };
        // SAFETY: the byte is writable, and all who touch it here do so atomically.
        unsafe { AtomicU8::from_ptr(at.as_ptr()) }.store(*byte, Relaxed);
    }
    !from.is_empty()
}
