/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Entry through PVH and SIPI, exceptions, calls that may fault, accesses from level 3. */
#include "layout.h"

    .section .note.pvh, "a"
    .long 4, 4, 18 /* XEN_ELFNOTE_PHYS32_ENTRY */
    .asciz "Xen"
    .long pvh_start

    .data
    .balign 4096
    .globl boot_pml4
boot_pml4:
    .quad boot_pdpt + 3
    .fill 511, 8, 0
boot_pdpt: /* the first 4 GiB, in 2 MiB pages */
    .quad boot_pd + 0x0003, boot_pd + 0x1003, boot_pd + 0x2003, boot_pd + 0x3003
    .fill 508, 8, 0
boot_pd:
    .set frame, 0
    .rept 2048
    .quad frame + 0x83
    .set frame, frame + 0x200000
    .endr

    .globl gdt
gdt:
    .quad 0
    .quad 0x00cf9a000000ffff /* SEL_CODE32 */
    .quad 0x00af9a000000ffff /* SEL_CODE */
    .quad 0x00cf92000000ffff /* SEL_DATA */
    .quad 0
    .quad 0x00cff2000000ffff /* SEL_USER_DATA */
    .quad 0x00affa000000ffff /* SEL_USER_CODE */
    .fill 2 * MAX_CPUS, 8, 0 /* SEL_TSS */
gdt_end:
gdtr:
    .word gdt_end - gdt - 1
    .quad gdt

    .globl start_info
start_info:
    .quad 0

    .bss
    .balign 4096
    .fill MAX_CPUS * STACK_SIZE
stacks_end:

    .text
    .code32
    .globl pvh_start
pvh_start:
    mov %ebx, start_info
    lgdt gdtr
    ljmp $SEL_CODE32, $enter_long
enter_long:
    mov $SEL_DATA, %eax
    mov %eax, %ds
    mov %eax, %es
    mov %eax, %ss
    mov $0x20, %eax /* PAE */
    mov %eax, %cr4
    mov $boot_pml4, %eax
    mov %eax, %cr3
    mov $0xc0000080, %ecx
    rdmsr
    or $0x900, %eax /* LME, NXE */
    wrmsr
    mov $0x80010033, %eax /* PG, WP, NE, ET, MP, PE */
    mov %eax, %cr0
    ljmp $SEL_CODE, $start64

    .code64
start64:
    xor %eax, %eax
    mov %eax, %ds
    mov %eax, %es
    mov %eax, %fs
    mov %eax, %gs
    mov $1, %eax
    cpuid
    shr $24, %ebx /* the APIC's number is ours */
    mov %ebx, %edi
    mov $stacks_end, %rsp
    imul $STACK_SIZE, %rbx, %rbx
    sub %rbx, %rsp
    push $0
    jmp cpu_main

/* Copied to AP_START, below 1 MiB. */
    .code16
    .globl ap_start, ap_end
ap_start:
    cli
    mov %cs, %ax
    mov %ax, %ds
    lgdtl ap_gdtr - ap_start
    mov %cr0, %eax
    or $1, %al
    mov %eax, %cr0
    ljmpl $SEL_CODE32, $enter_long
ap_gdtr:
    .word gdt_end - gdt - 1
    .long gdt
ap_end:

    .code64
/* ---- Exceptions and interrupts ------------------------------------------- */
    .globl trap_entries
    .balign 16
trap_entries: /* 16 bytes each */
    .set vector, 0
    .rept 256
    .balign 16
    .if (vector != 8) && (vector != 17) && ((vector < 10) || (vector > 14))
    push $0
    .endif
    push $vector
    jmp trap_common
    .set vector, vector + 1
    .endr

trap_common:
    .irp r, rax, rcx, rdx, rbx, rbp, rsi, rdi, r8, r9, r10, r11, r12, r13, r14, r15
    push %\r
    .endr
    mov %rsp, %rdi
    cld
    mov %rsp, %rbp
    and $~15, %rsp
    call trap
    mov %rbp, %rsp
    .irp r, r15, r14, r13, r12, r11, r10, r9, r8, rdi, rsi, rbp, rbx, rdx, rcx, rax
    pop %\r
    .endr
    add $16, %rsp
    .globl trap_iret
trap_iret:
    iretq

/* ---- uint64_t try_call(uint64_t (*fn)(uint64_t), uint64_t arg, uint64_t *recover) ---- */
/* Calls fn; a trap that finds *recover set goes to try_recover with RSP from there. */
    .globl try_call, try_recover
try_call:
    .irp r, rbx, rbp, r12, r13, r14, r15
    push %\r
    .endr
    push %rdx
    mov %rsp, (%rdx)
    mov %rdi, %rax
    mov %rsi, %rdi
    call *%rax
try_recover:
    pop %rdx
    movq $0, (%rdx)
    .irp r, r15, r14, r13, r12, rbp, rbx
    pop %\r
    .endr
    ret

/* uint64_t user_call(uint64_t fn, uint64_t arg, uint64_t stack): level 3; only a trap comes back. */
    .globl user_enter
user_enter: /* rdi: struct { fn, arg, stack, flags } */
    push $SEL_USER_DATA
    push 16(%rdi)
    push 24(%rdi)
    push $SEL_USER_CODE
    push (%rdi)
    mov 8(%rdi), %rdi
    iretq

/* call_on(fn, arg, stack) */
    .globl call_on
call_on:
    push %rbx
    mov %rsp, %rbx
    mov %rdx, %rsp
    mov %rdi, %rax
    mov %rsi, %rdi
    call *%rax
    mov %rbx, %rsp
    pop %rbx
    ret

/* ---- What level 3 runs: a page of its own ---------------------------------- */
    .balign 4096
    .globl user_page, user_read, user_write
user_page:
user_read:
    mov (%rdi), %rax
    int $VEC_USER_DONE
    .balign 16
user_write:
    mov %rdi, (%rdi)
    int $VEC_USER_DONE
    .balign 4096
    .section .note.GNU-stack, "", @progbits
