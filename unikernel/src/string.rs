//! The memory functions that the compiler takes for granted.
//!
//! UNSAFETY: their contracts are those of C. The bodies are the processor's string instructions: a
//! loop in Rust would be recognised as what it is and compiled into a call of itself.
//!
//! `unikernel/core/tests/string.rs` tests this file, and gives the functions other names than those of
//! the C library.

#![allow(unsafe_code, reason = "see UNSAFETY above")]

/// Defines them, with something before their names.
macro_rules! define {
    ($prefix:literal) => {
        core::arch::global_asm!(
            ".pushsection .text.memory, \"ax\", @progbits",
            // void *memcpy(void *to, const void *from, size_t count)
            concat!(".globl ", $prefix, "memcpy"),
            concat!($prefix, "memcpy:"),
            "mov rax, rdi",
            "mov rcx, rdx",
            "rep movsb",
            "ret",
            // void *memmove(void *to, const void *from, size_t count)
            concat!(".globl ", $prefix, "memmove"),
            concat!($prefix, "memmove:"),
            "mov rax, rdi",
            "mov rcx, rdx",
            // Backwards if `to` lies inside of what is read.
            "mov r8, rdi",
            "sub r8, rsi",
            "cmp r8, rdx",
            "jb 2f",
            "rep movsb",
            "ret",
            "2: lea rdi, [rdi + rdx - 1]",
            "lea rsi, [rsi + rdx - 1]",
            "std",
            "rep movsb",
            "cld",
            "ret",
            // void *memset(void *to, int byte, size_t count)
            concat!(".globl ", $prefix, "memset"),
            concat!($prefix, "memset:"),
            "mov r8, rdi",
            "mov eax, esi",
            "mov rcx, rdx",
            "rep stosb",
            "mov rax, r8",
            "ret",
            // int memcmp(const void *left, const void *right, size_t count); bcmp asks for less.
            concat!(".globl ", $prefix, "memcmp"),
            concat!(".globl ", $prefix, "bcmp"),
            concat!($prefix, "memcmp:"),
            concat!($prefix, "bcmp:"),
            "xor eax, eax",
            "mov rcx, rdx",
            // Sets the flags to "equal" for a count of zero, in which case cmpsb leaves them.
            "test eax, eax",
            "repe cmpsb",
            "je 3f",
            // The bytes that differ, as numbers without a sign.
            "movzx eax, byte ptr [rdi - 1]",
            "movzx ecx, byte ptr [rsi - 1]",
            "sub eax, ecx",
            "3: ret",
            // size_t strlen(const char *text)
            concat!(".globl ", $prefix, "strlen"),
            concat!($prefix, "strlen:"),
            "xor eax, eax",
            "4: cmp byte ptr [rdi + rax], 0",
            "je 5f",
            "inc rax",
            "jmp 4b",
            "5: ret",
            ".popsection",
        );
    };
}

#[cfg(not(test))]
define!("");
#[cfg(test)]
define!("unikernel_");

#[cfg(test)]
mod tests {
    use std::vec::Vec;

    use proptest::prelude::*;

    unsafe extern "C" {
        fn unikernel_memcpy(to: *mut u8, from: *const u8, count: usize) -> *mut u8;
        fn unikernel_memmove(to: *mut u8, from: *const u8, count: usize) -> *mut u8;
        fn unikernel_memset(to: *mut u8, byte: i32, count: usize) -> *mut u8;
        fn unikernel_memcmp(left: *const u8, right: *const u8, count: usize) -> i32;
        fn unikernel_bcmp(left: *const u8, right: *const u8, count: usize) -> i32;
        fn unikernel_strlen(text: *const u8) -> usize;
    }

    fn compare(left: &[u8], right: &[u8]) -> (i32, i32) {
        let count = left.len().min(right.len());
        let (left, right) = (left.as_ptr(), right.as_ptr());
        // SAFETY: both have `count` bytes.
        let order = unsafe { unikernel_memcmp(left, right, count) };
        // SAFETY: the same.
        (order, unsafe { unikernel_bcmp(left, right, count) })
    }

    #[test]
    fn the_first_bytes_that_differ_give_the_order() {
        for (left, right) in [
            ("a", "b"),
            ("ab", "b"),
            ("aab", "aba"),
            ("", ""),
            ("x", "x"),
        ] {
            let count = left.len().min(right.len());
            let (left, right) = (left.as_bytes(), right.as_bytes());
            let expected = left[..count].cmp(&right[..count]);
            assert_eq!(compare(left, right).0.cmp(&0), expected);
            assert_eq!(compare(right, left).0.cmp(&0), expected.reverse());
        }
        // Bytes have no sign.
        assert!(compare(&[0x80], &[0x7f]).0 > 0);
        assert!(compare(&[0, 0xff], &[0, 0]).0 > 0);
    }

    proptest! {
        #[test]
        fn any_two_texts_compare_as_slices_do(same: Vec<u8>, left: Vec<u8>, right: Vec<u8>) {
            let left = [&same[..], &left].concat();
            let right = [&same[..], &right].concat();
            let count = left.len().min(right.len());
            let (order, differs) = compare(&left, &right);
            prop_assert_eq!(order.cmp(&0), left[..count].cmp(&right[..count]));
            prop_assert_eq!(differs != 0, order != 0);
        }

        #[test]
        fn bytes_are_moved_also_where_the_places_overlap(
            memory in prop::collection::vec(any::<u8>(), 0..300),
            a: prop::sample::Index,
            b: prop::sample::Index,
            count: prop::sample::Index,
        ) {
            let mut moved = memory.clone();
            let mut expected = memory.clone();
            let (from, to) = (a.index(memory.len() + 1), b.index(memory.len() + 1));
            let count = count.index(memory.len() + 1 - from.max(to));
            expected.copy_within(from..from + count, to);
            let base = moved.as_mut_ptr();
            let (to, from) = (base.wrapping_add(to), base.wrapping_add(from));
            // SAFETY: both places are inside of the vector, or at its end and empty.
            let returned = unsafe { unikernel_memmove(to, from, count) };
            prop_assert_eq!(returned, to);
            prop_assert_eq!(moved, expected);
        }

        #[test]
        fn bytes_are_copied_and_set(
            from: Vec<u8>,
            byte: u8,
            before in 0..40_usize,
            after in 0..40_usize,
        ) {
            let mut to = std::vec![7; before + from.len() + after];
            let place = to[before..].as_mut_ptr();
            // SAFETY: `to` has so many bytes from there on.
            let returned = unsafe { unikernel_memcpy(place, from.as_ptr(), from.len()) };
            prop_assert_eq!(returned, place);
            let around = |middle: &[u8]| [&[7].repeat(before), middle, &[7].repeat(after)].concat();
            prop_assert_eq!(&to, &around(&from));

            let place = to[before..].as_mut_ptr();
            // Only the lowest byte of the number counts.
            // SAFETY: the same.
            let returned = unsafe { unikernel_memset(place, i32::from(byte) | 0x5500, from.len()) };
            prop_assert_eq!(returned, place);
            prop_assert_eq!(&to, &around(&[byte].repeat(from.len())));
        }

        #[test]
        fn a_text_ends_at_its_first_zero(bytes: Vec<u8>) {
            let text = [&bytes[..], &[0]].concat();
            let expected = text.iter().position(|&byte| byte == 0);
            // SAFETY: it ends with a zero.
            prop_assert_eq!(Some(unsafe { unikernel_strlen(text.as_ptr()) }), expected);
        }
    }
}
