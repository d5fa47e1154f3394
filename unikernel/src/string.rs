//! The memory functions that the compiler takes for granted.
//!
//! UNSAFETY: their contracts are those of C. The bodies are the processor's string instructions: a
//! loop in Rust would be recognised as what it is and compiled into a call of itself.

#![allow(unsafe_code, reason = "see UNSAFETY above")]

use core::arch::global_asm;

global_asm!(
    ".pushsection .text.memory, \"ax\", @progbits",
    // void *memcpy(void *to, const void *from, size_t count)
    ".globl memcpy",
    "memcpy:",
    "mov rax, rdi",
    "mov rcx, rdx",
    "rep movsb",
    "ret",
    // void *memmove(void *to, const void *from, size_t count)
    ".globl memmove",
    "memmove:",
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
    ".globl memset",
    "memset:",
    "mov r8, rdi",
    "mov eax, esi",
    "mov rcx, rdx",
    "rep stosb",
    "mov rax, r8",
    "ret",
    // int memcmp(const void *left, const void *right, size_t count); bcmp asks for less.
    ".globl memcmp",
    ".globl bcmp",
    "memcmp:",
    "bcmp:",
    "xor eax, eax",
    "mov rcx, rdx",
    // Sets the flags to "equal" for a count of zero, in which case cmpsb leaves them.
    "test eax, eax",
    "repe cmpsb",
    "je 3f",
    "movzx eax, byte ptr [rdi - 1]",
    "movzx ecx, byte ptr [rsi - 1]",
    "sub ecx, eax",
    "mov eax, ecx",
    "3: ret",
    // size_t strlen(const char *text)
    ".globl strlen",
    "strlen:",
    "xor eax, eax",
    "4: cmp byte ptr [rdi + rax], 0",
    "je 5f",
    "inc rax",
    "jmp 4b",
    "5: ret",
    ".popsection",
);
