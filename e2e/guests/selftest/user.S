// SPDX-License-Identifier: Apache-2.0
//
// Programs for guest-user mode, one page, position independent. Each ends with SYSCALL rax=0xffff, rdi=its result.
  .section .text.user, "ax"
  .balign 4096
  .globl user_page, user_syscall, user_int80, user_read, user_write, user_hlt, user_fs, user_gs, user_rcx, user_flags, user_int, user_compat, user_badint
user_page:
user_syscall: // rdi -> handler adds one to rax
  movl $0x1234, %eax
  movq $0x4444444444444444, %r12
  stc
  syscall
  movq %rax, %rdi
user_leave:
  movl $0xffff, %eax
  syscall
  ud2
user_int80:
  movl $0x5678, %eax
  int $0x80
  movq %rax, %rdi
  jmp user_leave
user_int: // int 0x81: allowed; used to see the frame
  int $0x81
  jmp user_leave
user_badint: // kernel only
  int $0x91
  jmp user_leave
user_read:
  movq (%rdi), %rdi
  jmp user_leave
user_write:
  movq %rsi, (%rdi)
  xorl %edi, %edi
  jmp user_leave
user_hlt:
  hlt
  jmp user_leave
user_fs:
  movq %fs:0, %rdi
  jmp user_leave
user_gs:
  movq %gs:0, %rdi
  jmp user_leave
user_rcx:
  leaq (%rcx, %r11), %rdi
  addq %rax, %rdi
  jmp user_leave
user_flags:
  pushfq
  popq %rdi
  jmp user_leave
user_compat: // far jump to 32-bit code: push the target on the stack, retfq
  subq $16, %rsp
  movq $0xe023, 8(%rsp)
  leaq 1f(%rip), %rax
  movq %rax, (%rsp)
  lretq
  .code32
1:movl $0x11223344, %eax
  incl %eax // opcode 40 is a REX prefix in 64-bit mode
  int $0x80
  movl %eax, %edi
  ljmp $0xe033, $(0x400000 + 2f - user_page)
  .code64
2:jmp user_leave
  .balign 4096, 0xcc
  .section .note.GNU-stack, "", @progbits
