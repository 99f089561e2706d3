// SPDX-License-Identifier: Apache-2.0
//
// Entry point, ELF notes, trap and callback stubs, return to the guest (HYPERVISOR_iret) and the guarded call of both test guests.
// Frames follow the Xen PV bounce frame: RCX, R11, [error code], RIP, CS, RFLAGS, RSP, SS, lowest first. Nothing here needs a hypercall page.
#include "abi.h"

// ---- ELF notes (owner "Xen", xen public/elfnote.h) ----
  .macro note_head type, desc_size
  .balign 4
  .long 4, \desc_size, \type
  .asciz "Xen"
  .endm
  .macro note_string type, text
  note_head \type, (9f - 8f)
8:.asciz "\text"
9:.balign 4
  .endm
  .macro note_quad type, value
  note_head \type, 8
  .quad \value
  .endm

  .section .note.Xen, "a", @note
  note_string 6, "paravane-test"             // GUEST_OS
  note_string 7, "1"                         // GUEST_VERSION
  note_string 5, "xen-3.0"                   // XEN_VERSION
  note_quad 3, VIRT_BASE                     // VIRT_BASE
  note_quad 4, 0                             // PADDR_OFFSET
  note_quad 1, _start                        // ENTRY
#ifdef WITH_HYPERCALL_PAGE
  note_quad 2, hypercall_page                // HYPERCALL_PAGE
#endif
  note_string 10, "!writable_page_tables|pae_pgdir_above_4gb" // FEATURES
  note_string 9, "yes"                       // PAE_MODE
  note_string 8, "generic"                   // LOADER
  note_head 13, 16                           // L1_MFN_VALID: mask, value
  .quad 1, 1
  note_head 17, 4                            // SUPPORTED_FEATURES: writable_page_tables, dom0, linux_rsdp_unrestricted
  .long 0x8801

// ---- entry ----
  .section .text.start, "ax"
  .globl _start
_start:
  // The whole register file at entry is evidence for the selftest: entry_regs[] = rax rbx rcx rdx rsi rdi rbp rsp r8..r15 rflags cs ss ds es fs gs.
  movq %rax, entry_regs(%rip)
  movq %rbx, entry_regs+8(%rip)
  movq %rcx, entry_regs+16(%rip)
  movq %rdx, entry_regs+24(%rip)
  movq %rsi, entry_regs+32(%rip)
  movq %rdi, entry_regs+40(%rip)
  movq %rbp, entry_regs+48(%rip)
  movq %rsp, entry_regs+56(%rip)
  movq %r8, entry_regs+64(%rip)
  movq %r9, entry_regs+72(%rip)
  movq %r10, entry_regs+80(%rip)
  movq %r11, entry_regs+88(%rip)
  movq %r12, entry_regs+96(%rip)
  movq %r13, entry_regs+104(%rip)
  movq %r14, entry_regs+112(%rip)
  movq %r15, entry_regs+120(%rip)
  pushfq
  popq entry_regs+128(%rip)
  movl %cs, %eax
  movq %rax, entry_regs+136(%rip)
  movl %ss, %eax
  movq %rax, entry_regs+144(%rip)
  movl %ds, %eax
  movq %rax, entry_regs+152(%rip)
  movl %es, %eax
  movq %rax, entry_regs+160(%rip)
  movl %fs, %eax
  movq %rax, entry_regs+168(%rip)
  movl %gs, %eax
  movq %rax, entry_regs+176(%rip)
  cld
  movq %rsi, start_info(%rip)
  leaq main_stack_top(%rip), %rsp
  xorl %ebp, %ebp
  call guest_main
  ud2

// ---- traps: one 16-byte stub a vector, 0-255; then 256 event, 257 syscall, 258 failsafe, 259 sysenter, 260 syscall32 ----
  .text
  .balign 16
  .globl trap_stubs
trap_stubs:
  .set vector, 0
  .rept 256
  .balign 16
  popq %rcx
  popq %r11
  .if (vector == 8) || (vector == 10) || (vector == 11) || (vector == 12) || (vector == 13) || (vector == 14) || (vector == 17) || (vector == 21)
  .else
  pushq $0
  .endif
  pushq $vector
  jmp trap_common
  .set vector, vector + 1
  .endr

  .macro callback name, vector
  .balign 16
  .globl \name
\name:
  popq %rcx
  popq %r11
  pushq $0
  pushq $\vector
  jmp trap_common
  .endm
  callback event_callback, 256
  callback syscall_callback, 257
  callback sysenter_callback, 259
  callback syscall32_callback, 260

  .balign 16
  .globl failsafe_callback
failsafe_callback: // RCX R11 DS ES FS GS RIP ...
  popq %rcx
  popq %r11
  popq failsafe_selectors(%rip)
  popq failsafe_selectors+8(%rip)
  popq failsafe_selectors+16(%rip)
  popq failsafe_selectors+24(%rip)
  pushq $0
  pushq $258

trap_common:
  pushq %rax
  pushq %rbx
  pushq %rcx
  pushq %rdx
  pushq %rsi
  pushq %rdi
  pushq %rbp
  pushq %r8
  pushq %r9
  pushq %r10
  pushq %r11
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  cld
  movq %rsp, %rdi
  movq %rsp, %rbp
  andq $-16, %rsp
  call trap_entry
  movq %rbp, %rsp
  .globl trap_return
trap_return:
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %r11
  popq %r10
  popq %r9
  popq %r8
  popq %rbp
  popq %rdi
  popq %rsi
  popq %rdx
  popq %rcx
  popq %rbx
  popq %rax
  // Now: vector, error, RIP, CS, RFLAGS, RSP, SS. HYPERVISOR_iret wants RAX, R11, RCX, flags below RIP.
  movl $0, 28(%rsp)
  movq $0, 8(%rsp)
  movq %rcx, (%rsp)
  pushq %r11
  pushq %rax
  movl $__HYPERVISOR_iret, %eax
  syscall
  ud2

// ---- guarded call: u64 guard_call(void (*fn)(void)) returns 0, or 1 when a trap abandoned fn through guard_abort ----
  .globl guard_call, guard_abort
guard_call:
  pushq %rbx
  pushq %rbp
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  pushq guard_sp(%rip)
  movq %rsp, guard_sp(%rip)
  call *%rdi
  xorl %eax, %eax
  jmp 1f
guard_abort:
  movq guard_sp(%rip), %rsp
  movl $1, %eax
1:popq guard_sp(%rip)
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbp
  popq %rbx
  cld
  ret

// ---- u64 user_call(const u64 regs[6]: rip rsp rdi rsi rflags flags) enters guest-user mode; user_exit(value) from a handler comes back ----
  .globl user_call, user_exit
user_call:
  pushq %rbx
  pushq %rbp
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, user_call_sp(%rip)
  movq 32(%rdi), %rcx
  movq 8(%rdi), %rdx
  movq (%rdi), %rax
  movq 40(%rdi), %r8
  movq 24(%rdi), %rsi
  movq 16(%rdi), %rdi
  pushq $FLAT_USER_DS
  pushq %rdx
  pushq %rcx
  pushq $FLAT_USER_CS
  pushq %rax
  pushq %r8
  pushq $0x2222 // rcx
  pushq $0x1111 // r11
  pushq $0x3333 // rax
  movl $__HYPERVISOR_iret, %eax
  syscall
  ud2
user_exit:
  movq user_call_sp(%rip), %rsp
  movq %rdi, %rax
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbp
  popq %rbx
  cld
  ret

#ifdef WITH_HYPERCALL_PAGE
  .section .text.hypercall_page, "ax"
  .balign 4096
  .globl hypercall_page
hypercall_page:
  .skip 4096, 0xcc
#endif

  .bss
  .balign 16
  .globl entry_regs, start_info, guard_sp, failsafe_selectors, main_stack_top, user_stack_base
entry_regs: .skip 23*8
start_info: .skip 8
guard_sp: .skip 8
user_call_sp: .skip 8
failsafe_selectors: .skip 32
  .balign 4096
main_stack: .skip 16384
main_stack_top:
  .section .note.GNU-stack, "", @progbits
