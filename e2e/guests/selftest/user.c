// SPDX-License-Identifier: Apache-2.0
//
// Guest-user mode: a second root table, entry by HYPERVISOR_iret, system calls, int 0x80, faults, segment bases, compatibility mode, and the
// failsafe callback. User tables hang in slot 0 of both roots, so the kernel sees user memory too, as Linux arranges it.
#include "selftest.h"

extern u8 user_page[], user_syscall[], user_int80[], user_int[], user_badint[], user_read[], user_write[], user_hlt[], user_fs[], user_gs[], user_rcx[],
  user_flags[], user_compat[];
static u64 u_l1[512] PAGE_ALIGNED, u_l2[512] PAGE_ALIGNED, u_l3[512] PAGE_ALIGNED, u_l4[512] PAGE_ALIGNED;
static u8 user_data[PAGE_SIZE] PAGE_ALIGNED, user_ro[PAGE_SIZE] PAGE_ALIGNED;

static u64 entry_for(const void *page, u64 flags) {
  return mfn_of(page) << 12 | flags;
}

s64 user_setup(void) {
  u_l1[0] = entry_for(user_page, PTE_RO);
  u_l1[1] = entry_for(user_data, PTE_RW);
  u_l1[2] = entry_for(user_ro, PTE_RO);
  u_l2[2] = entry_for(u_l1, PTE_TABLE); // 0x400000
  u_l3[0] = entry_for(u_l2, PTE_TABLE);
  u_l4[0] = entry_for(u_l3, PTE_TABLE);
  s64 rc = make_read_only(u_l1) | make_read_only(u_l2) | make_read_only(u_l3) | make_read_only(u_l4);
  if (!rc) rc = mmuext(MMUEXT_PIN_L4_TABLE, mfn_of(u_l4), 0);
  if (!rc) rc = mmuext(MMUEXT_NEW_USER_BASEPTR, mfn_of(u_l4), 0);
  if (!rc) rc = mmu_update_one(l4_entry_ma(0), u_l4[0]);
  return rc;
}

void user_teardown(void) {
  trap_hook = NULL;
  mmuext(MMUEXT_NEW_USER_BASEPTR, 0, 0);
  mmuext(MMUEXT_UNPIN_TABLE, mfn_of(u_l4), 0);
  mmu_update_one(l4_entry_ma(0), 0);
  mmuext(MMUEXT_TLB_FLUSH_LOCAL, 0, 0);
  make_writable(u_l4);
  make_writable(u_l3);
  make_writable(u_l2);
  make_writable(u_l1);
  memset(u_l4, 0, PAGE_SIZE);
}

#define FAULTED 0xfa17fa17
static struct regs syscall_regs;
static u8 mask_in_syscall;

static bool user_hook(struct regs *regs) {
  if ((regs->cs & 3) != 3) return false;
  if (regs->vector == TRAP_syscall && regs->rax == 0xffff) user_exit(regs->rdi);
  if (regs->vector == TRAP_syscall || regs->vector == 0x80) {
    memcpy(&syscall_regs, regs, sizeof *regs);
    mask_in_syscall = vcpu->evtchn_upcall_mask;
    regs->rax++;
    return true;
  }
  if (regs->vector == 0x81) return true;
  user_exit(FAULTED);
}

static u64 user_run_flags(const u8 *code, u64 rdi, u64 rsi, u64 flags) {
  u64 regs[6] = {USER_CODE + (u64)(code - user_page), USER_STACK, rdi, rsi, X86_EFLAGS_IF | 2, flags};
  trap_hook = user_hook;
  last_trap.count = 0;
  u64 result = user_call(regs);
  trap_hook = NULL;
  vcpu->evtchn_upcall_mask = 1;
  return result;
}

static u64 user_run(const u8 *code, u64 rdi, u64 rsi) {
  return user_run_flags(code, rdi, rsi, 0);
}

static void user_mode_checks(void) {
  EXPECT_EQ(user_run(user_syscall, 0, 0), 0x1235);
  const struct regs *r = &syscall_regs;
  EXPECT_EQ(r->vector, TRAP_syscall);
  EXPECT_EQ(r->r12, 0x4444444444444444);
  EXPECT_EQ(r->cs & 3, 3);
  EXPECT_EQ(r->cs, FLAT_USER_CS);
  EXPECT_EQ(r->ss, FLAT_USER_DS);
  EXPECT_EQ(r->rsp, USER_STACK);
  EXPECT_EQ(r->rflags & 1, 1);
  EXPECT_EQ(r->rip, r->rcx); // the slot holds what SYSCALL left in RCX
  EXPECT(r->rip > USER_CODE && r->rip < USER_CODE + 64);
  EXPECT_EQ(r->rflags & X86_EFLAGS_IF, X86_EFLAGS_IF);
  EXPECT_EQ(mask_in_syscall, 0);
  // The same, with events masked on entry.
  struct callback_register callback = {CALLBACKTYPE_syscall, CALLBACKF_mask_events, (u64)syscall_callback};
  EXPECT_EQ(hypercall2(__HYPERVISOR_callback_op, CALLBACKOP_register, &callback), 0);
  u64 result = user_run(user_syscall, 0, 0);
  callback.flags = 0;
  EXPECT_EQ(hypercall2(__HYPERVISOR_callback_op, CALLBACKOP_register, &callback), 0);
  EXPECT_EQ(result, 0x1235);
  EXPECT_EQ(mask_in_syscall, 1);
  EXPECT_EQ(syscall_regs.saved_mask, 0);
  EXPECT_EQ(user_run(user_int80, 0, 0), 0x5679);
  EXPECT_EQ(syscall_regs.vector, 0x80);
  EXPECT_EQ(syscall_regs.cs, FLAT_USER_CS);
  EXPECT_EQ(user_run(user_rcx, 0, 0), 0x2222 + 0x1111 + 0x3333); // rcx, r11 and rax of the iret frame
  EXPECT_EQ(user_run_flags(user_syscall, 0, 0, VGCF_in_syscall), 0x1235);
  EXPECT_EQ(user_run(user_flags, 0, 0) & (X86_EFLAGS_IF | 0x3000), X86_EFLAGS_IF);
  // stack_switch: the next bounce lands on the new stack.
  static u8 small_stack[8192] __attribute__((aligned(16)));
  u64 old_top = last_trap.frame_top;
  EXPECT_EQ(hypercall2(__HYPERVISOR_stack_switch, FLAT_KERNEL_DS, small_stack + sizeof small_stack), 0);
  user_run(user_syscall, 0, 0);
  u64 new_top = last_trap.frame_top;
  EXPECT_EQ(hypercall2(__HYPERVISOR_stack_switch, FLAT_KERNEL_DS, old_top), 0);
  EXPECT_EQ(new_top, (u64)small_stack + sizeof small_stack);
  EXPECT_EQ(user_run(user_read, USER_DATA + 8, 0), ((volatile u64 *)user_data)[1]);
  EXPECT_EQ(user_run(user_write, USER_DATA + 8, 0x123456789), 0);
  EXPECT_EQ(((volatile u64 *)user_data)[1], 0x123456789);
}

#define EXPECT_USER_FAULT(code, rdi, wanted_vector, wanted_error)                                                                                    \
  do {                                                                                                                                               \
    EXPECT_EQ(user_run(code, rdi, 0), FAULTED);                                                                                                      \
    EXPECT_TRAP(wanted_vector, wanted_error);                                                                                                        \
    EXPECT_EQ(last_trap.regs.cs, FLAT_USER_CS);                                                                                                      \
    EXPECT_EQ(last_trap.regs.rip, USER_CODE + (u64)(code - user_page));                                                                              \
  } while (0)

static void user_fault_checks(void) {
  EXPECT_USER_FAULT(user_read, 0x700000, 14, 4);
  EXPECT_EQ(last_trap.cr2, 0x700000);
  EXPECT_USER_FAULT(user_write, 0x700008, 14, 6);
  EXPECT_EQ(last_trap.cr2, 0x700008);
  EXPECT_USER_FAULT(user_write, USER_RO + 16, 14, 7);
  EXPECT_USER_FAULT(user_read, (u64)start_info, 14, 4); // the kernel's half is not in the user root
  EXPECT_EQ(last_trap.cr2, (u64)start_info);
  EXPECT_USER_FAULT(user_read, 0x0000f00000000000, 13, 0);
  EXPECT_USER_FAULT(user_hlt, 0, 13, 0);
  if (int_errors_sound()) EXPECT_USER_FAULT(user_badint, 0, 13, 0x91 * 8 + 2); // else software_interrupts says so
  // A user store to a page table stays a fault even with emulation on.
  EXPECT_EQ(hypercall2(__HYPERVISOR_vm_assist, VMASST_CMD_enable, VMASST_TYPE_writable_pagetables), 0);
  EXPECT_EQ(update_va((void *)USER_RO, entry_for(u_l1, PTE_RO), UVMF_INVLPG), 0);
  u64 result = user_run(user_write, USER_RO + 8 * 100, 0);
  hypercall2(__HYPERVISOR_vm_assist, VMASST_CMD_disable, VMASST_TYPE_writable_pagetables);
  update_va((void *)USER_RO, entry_for(user_ro, PTE_RO), UVMF_INVLPG);
  EXPECT_EQ(result, FAULTED);
  EXPECT_TRAP(14, 7);
}

static void user_segment_checks(void) {
  static u64 kernel_words[2] = {0x6b65726e, 0};
  u64 *words = (u64 *)user_data;
  words[16] = 0x66732066;
  words[17] = 0x67732067;
  EXPECT_EQ(hypercall2(__HYPERVISOR_set_segment_base, SEGBASE_FS, USER_DATA + 16 * 8), 0);
  EXPECT_EQ(hypercall2(__HYPERVISOR_set_segment_base, SEGBASE_GS_USER, USER_DATA + 17 * 8), 0);
  EXPECT_EQ(hypercall2(__HYPERVISOR_set_segment_base, SEGBASE_GS_KERNEL, kernel_words), 0);
  u64 fs = user_run(user_fs, 0, 0), gs = user_run(user_gs, 0, 0), kernel_gs;
  __asm__ volatile("movq %%gs:0, %0" : "=r"(kernel_gs));
  hypercall2(__HYPERVISOR_set_segment_base, SEGBASE_FS, 0);
  hypercall2(__HYPERVISOR_set_segment_base, SEGBASE_GS_USER, 0);
  hypercall2(__HYPERVISOR_set_segment_base, SEGBASE_GS_KERNEL, 0);
  EXPECT_EQ(fs, 0x66732066);
  EXPECT_EQ(gs, 0x67732067);
  EXPECT_EQ(kernel_gs, 0x6b65726e);
}

static void user_compat_checks(void) {
  EXPECT_EQ(user_run(user_compat, 0, 0), 0x11223346);
  EXPECT_EQ(syscall_regs.vector, 0x80);
  EXPECT_EQ(syscall_regs.cs, FLAT_RING3_CS32);
  EXPECT_EQ(syscall_regs.rax, 0x11223345);
}

static bool bad_iret_hook(struct regs *regs) {
  if (regs->vector != 13) return false;
  regs->cs = BOUNCED_KERNEL_CS;
  regs->ss = FLAT_KERNEL_DS;
  regs->rip = resume_rip;
  regs->rflags = 2;
  resume_rip = 0;
  return true;
}

void test_bad_iret(void) {
  // HYPERVISOR_iret to a code selector that does not exist: #GP with that selector, reported at the target.
  u64 target;
  last_trap.count = 0;
  trap_hook = bad_iret_hook;
  __asm__ volatile("leaq 1f(%%rip), %0; movq %0, resume_rip(%%rip); movq %%rsp, %%rbx; pushq %1; pushq %%rbx; pushq $0x202; pushq $0x1338;"
                   "pushq %0; pushq $0; pushq $0; pushq $0; pushq $0; movl $23, %%eax; syscall; ud2; 1: movq %%rbx, %%rsp"
                   : "=&r"(target)
                   : "i"(FLAT_KERNEL_DS)
                   : "rax", "rbx", "rcx", "r11", "cc", "memory");
  trap_hook = NULL;
  EXPECT_TRAP(13, 0x1338);
  EXPECT_EQ(last_trap.regs.rip, target);
  EXPECT_EQ(last_trap.regs.cs & 0xfffc, 0x1338);
}

static void with_user(void (*checks)(void)) {
  EXPECT_EQ(user_setup(), 0);
  u64 trapped = guard_call(checks);
  struct trap_record record = last_trap;
  user_teardown();
  last_trap = record;
  if (trapped) {
    // An unexpected trap.
    EXPECT_EQ(record.regs.rip, 0);
  }
}

void test_user_mode(void) {
  with_user(user_mode_checks);
}

void test_user_faults(void) {
  with_user(user_fault_checks);
}

void test_user_segments(void) {
  with_user(user_segment_checks);
}

void test_user_compat(void) {
  with_user(user_compat_checks);
}
