# SPDX-License-Identifier: MIT OR Apache-2.0
#
# Where Xen enters the guest. Both entries end in unikernel_boot(start_info, is_pvh).

# What the domain builder must know: `XEN_ELFNOTE_*` of Xen's public header elfnote.h.
.macro note type:req
    .pushsection .note.Xen, "a", @note
    .balign 4
    .long 4, 2f - 1f, \type
    .asciz "Xen"
1:
.endm
.macro end_note
2:  .balign 4
    .popsection
.endm

note 6 /* GUEST_OS */
    .asciz "vchan-unikernel"
end_note
note 8 /* LOADER: it may be loaded by any */
    .asciz "generic"
end_note
note 5 /* XEN_VERSION: the interface's */
    .asciz "xen-3.0"
end_note
note 1 /* ENTRY of PV */
    .quad unikernel_pv_entry
end_note
note 18 /* PHYS32_ENTRY: of PVH */
    .quad unikernel_pvh_entry
end_note
note 2 /* HYPERCALL_PAGE */
    .quad unikernel_hypercall_page
end_note
note 3 /* VIRT_BASE */
    .quad 0
end_note
note 4 /* PADDR_OFFSET */
    .quad 0
end_note

.section .text.unikernel, "ax", @progbits

# PV: 64-bit mode, paging on, start_info in rsi.
.code64
.globl unikernel_pv_entry
unikernel_pv_entry:
    cld
    lea rsp, [rip + unikernel_stack_end]
    mov rdi, rsi
    xor esi, esi
    xor ebp, ebp
    call unikernel_boot
    ud2

# PVH: 32-bit protected mode, paging off, start_info in ebx.
.code32
.globl unikernel_pvh_entry
unikernel_pvh_entry:
    cld
    cli
    mov ebp, ebx
    lea esp, [unikernel_stack_end]

    # 4 GiB mapped one to one in pages of 2 MiB; the tables are zero to begin with.
    lea eax, [unikernel_l3 + 3]
    mov dword ptr [unikernel_l4], eax
    lea eax, [unikernel_l2 + 3]
    xor ecx, ecx
1:  mov dword ptr [unikernel_l3 + ecx * 8], eax
    add eax, 4096
    inc ecx
    cmp ecx, 4
    jne 1b
    # 0x83: present, writable, 2 MiB.
    mov eax, 0x83
    xor ecx, ecx
2:  mov dword ptr [unikernel_l2 + ecx * 8], eax
    add eax, 0x200000
    inc ecx
    cmp ecx, 2048
    jne 2b
    lea eax, [unikernel_l4]
    mov cr3, eax

    # PAE, OSFXSR, OSXMMEXCPT.
    mov eax, 0x620
    mov cr4, eax
    # EFER.LME
    mov ecx, 0xc0000080
    rdmsr
    or eax, 0x100
    wrmsr
    # Paging, write protection and FPU monitoring on; FPU emulation and task switching off.
    mov eax, cr0
    and eax, 0xfffffff3
    or eax, 0x80010003
    mov cr0, eax
    lgdt [unikernel_gdt_register]
    push 8
    lea eax, [unikernel_pvh_long]
    push eax
    retf

.code64
unikernel_pvh_long:
    xor eax, eax
    mov ds, eax
    mov es, eax
    mov fs, eax
    mov gs, eax
    mov ss, eax
    lea rsp, [rip + unikernel_stack_end]
    mov edi, ebp
    mov esi, 1
    xor ebp, ebp
    call unikernel_boot
    ud2

# One entry of 8 bytes for each of the processor's exceptions: which one, the return address tells.
.balign 8
.globl unikernel_exceptions
unikernel_exceptions:
.rept 32
    call 3f
    .balign 8
.endr
3:  cld
    pop rdi
    mov rsi, rsp
    mov rdx, cr2
    and rsp, -16
    xor ebp, ebp
    call unikernel_fault
    ud2

.balign 8
unikernel_gdt:
    .quad 0
    # Code: 64-bit, present, ring 0.
    .quad 0x00209a0000000000
unikernel_gdt_register:
    .word 15
    .long unikernel_gdt

.section .bss.unikernel, "aw", @nobits
.balign 4096
# Xen writes the hypercalls here, 32 bytes each.
.globl unikernel_hypercall_page
unikernel_hypercall_page:
    .skip 4096
.globl unikernel_l4
unikernel_l4:
    .skip 4096
unikernel_l3:
    .skip 4096
.globl unikernel_l2
unikernel_l2:
    .skip 4 * 4096
.balign 16
# For what is said after the other stack has overflowed: see fault.rs.
unikernel_fault_stack:
    .skip 8 * 1024
.globl unikernel_fault_stack_end
unikernel_fault_stack_end:
.balign 4096
# Nothing is to lie here, so that a stack that grows too long is noticed: see guard.rs.
.globl unikernel_guard
unikernel_guard:
    .skip 4096
    .skip 64 * 1024
unikernel_stack_end:

.text
.code64
