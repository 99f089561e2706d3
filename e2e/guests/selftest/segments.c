// SPDX-License-Identifier: Apache-2.0
//
// Segment bases, the guest's own descriptor table, descriptor updates and the LDT.
#include "selftest.h"

static u64 gdt[512] PAGE_ALIGNED, ldt[512] PAGE_ALIGNED;

#define DESC_CODE64 0x00af9b000000ffffUL // DPL 0: Xen raises it to 3
#define DESC_DATA 0x00cff3000000ffffUL   // DPL 3

// A data segment at a 32-bit base.
static u64 data_at(u32 base) {
  return 0x00cff30000000fffUL | (u64)(base & 0xffffff) << 16 | (u64)(base >> 24) << 56;
}

void test_segment_base(void) {
  static u64 words[2] = {0x1122334455667788, 0x99};
  u64 value;
  EXPECT_EQ(hypercall2(__HYPERVISOR_set_segment_base, SEGBASE_FS, words), 0);
  __asm__ volatile("movq %%fs:0, %0" : "=r"(value));
  EXPECT_EQ(value, words[0]);
  EXPECT_EQ(hypercall2(__HYPERVISOR_set_segment_base, SEGBASE_GS_KERNEL, &words[1]), 0);
  __asm__ volatile("movq %%gs:0, %0" : "=r"(value));
  EXPECT_EQ(value, words[1]);
  EXPECT_EQ(hypercall2(__HYPERVISOR_set_segment_base, SEGBASE_GS_USER, &words[0]), 0);
  __asm__ volatile("movq %%gs:0, %0" : "=r"(value)); // the user base is another register
  EXPECT_EQ(value, words[1]);
  EXPECT_EQ(hypercall2(__HYPERVISOR_set_segment_base, SEGBASE_FS, 0x0000900000000000), -XEN_EINVAL);
  EXPECT_EQ(hypercall2(__HYPERVISOR_set_segment_base, 9, 0), -XEN_EINVAL);
  EXPECT_EQ(hypercall2(__HYPERVISOR_set_segment_base, SEGBASE_GS_USER_SEL, 0), 0);
  __asm__ volatile("movq %%gs:0, %0" : "=r"(value));
  EXPECT_EQ(value, words[1]);
  hypercall2(__HYPERVISOR_set_segment_base, SEGBASE_FS, 0);
  hypercall2(__HYPERVISOR_set_segment_base, SEGBASE_GS_KERNEL, 0);
  hypercall2(__HYPERVISOR_set_segment_base, SEGBASE_GS_USER, 0);
}

static s64 gdt_install(void) {
  u64 frame = mfn_of(gdt);
  make_writable(gdt);
  memset(gdt, 0, PAGE_SIZE);
  gdt[1] = DESC_CODE64;
  gdt[2] = DESC_DATA;
  s64 rc = make_read_only(gdt);
  return rc ? rc : hypercall2(__HYPERVISOR_set_gdt, &frame, 512);
}

static s64 gdt_remove(void) {
  __asm__ volatile("xorl %%eax, %%eax; movl %%eax, %%ds; movl %%eax, %%es; movl %%eax, %%fs; movl %%eax, %%gs" ::: "rax");
  s64 rc = hypercall2(__HYPERVISOR_set_gdt, 0, 0);
  return rc | make_writable(gdt);
}

void test_set_gdt(void) {
  u64 frame = mfn_of(gdt);
  EXPECT(hypercall2(__HYPERVISOR_set_gdt, &frame, 512) < 0); // mapped writable
  EXPECT_EQ(gdt_install(), 0);
  EXPECT(make_writable(gdt) < 0); // now a descriptor page
  u32 selector;
  TRY("movl $0x13, %%eax; movl %%eax, %%es", "r"(0UL));
  EXPECT_NO_TRAP();
  __asm__ volatile("movl %%es, %0" : "=r"(selector));
  EXPECT_EQ(selector, 0x13);
  TRY("movl $0x23, %%eax; movl %%eax, %%es", "r"(0UL)); // empty descriptor
  EXPECT_TRAP(13, 0x20);
  TRY("movl $0xfff3, %%eax; movl %%eax, %%es", "r"(0UL)); // behind the end
  EXPECT_EQ(last_trap.count, 1);
  EXPECT_EQ(last_trap.regs.vector, 13);
  // The guest's own 64-bit code segment, entered by a far return; its DPL was raised to 3.
  u32 cs;
  __asm__ volatile("pushq $0x0b; leaq 1f(%%rip), %%rax; pushq %%rax; lretq; 1: movl %%cs, %0; pushq %1; leaq 2f(%%rip), %%rax; pushq %%rax; lretq; 2:"
                   : "=&r"(cs)
                   : "i"(FLAT_KERNEL_CS)
                   : "rax", "memory");
  EXPECT_EQ(cs, 0x0b);
  EXPECT_EQ(gdt[1] >> 45 & 3, 3);
  EXPECT_EQ(gdt_remove(), 0);
  // A descriptor that is not allowed (a call gate to nowhere, a TSS) spoils the whole page.
  gdt[3] = 0x0000890000000067;
  EXPECT_EQ(make_read_only(gdt), 0);
  EXPECT(hypercall2(__HYPERVISOR_set_gdt, &frame, 512) < 0);
  EXPECT_EQ(make_writable(gdt), 0);
  EXPECT_EQ(hypercall2(__HYPERVISOR_set_gdt, &frame, 7169), -XEN_EINVAL);
}

void test_update_descriptor(void) {
  EXPECT_EQ(gdt_install(), 0);
  EXPECT_EQ(hypercall2(__HYPERVISOR_update_descriptor, ma_of(&gdt[4]), DESC_DATA), 0);
  EXPECT_EQ(gdt[4] | 1UL << 40, DESC_DATA | 1UL << 40); // the accessed bit may come
  TRY("movl $0x23, %%eax; movl %%eax, %%es", "r"(0UL));
  EXPECT_NO_TRAP();
  EXPECT_EQ(hypercall2(__HYPERVISOR_update_descriptor, ma_of(&gdt[5]), DESC_DATA & ~(3UL << 45)), 0);
  EXPECT_EQ(gdt[5] >> 45 & 3, 3);
  EXPECT_EQ(hypercall2(__HYPERVISOR_update_descriptor, ma_of(&gdt[6]), 0x0000890000000067), -XEN_EINVAL); // TSS
  EXPECT_EQ(gdt[6], 0);
  EXPECT_EQ(hypercall2(__HYPERVISOR_update_descriptor, ma_of(&gdt[4]) + 4, DESC_DATA), -XEN_EINVAL); // not aligned
  EXPECT_EQ(hypercall2(__HYPERVISOR_update_descriptor, ma_of(&gdt[4]), 0), 0);
  EXPECT_EQ(gdt_remove(), 0);
}

static void ldt_checks(void) {
  *(volatile u64 *)(USER_DATA + 0x40) = 0x1d71d71d7;
  ldt[3] = data_at(USER_DATA);
  EXPECT_EQ(make_read_only(ldt), 0);
  EXPECT_EQ(mmuext(MMUEXT_SET_LDT, (u64)ldt, 16), 0);
  u64 value = 0;
  TRY("movl $0x1f, %%eax; movl %%eax, %%fs; movq %%fs:0x40, %%rax; movq %%rax, (%0)", "r"(&value)); // index 3, table indicator, RPL 3
  EXPECT_NO_TRAP();
  EXPECT_EQ(value, 0x1d71d71d7);
  TRY("movl $0x27, %%eax; movl %%eax, %%es", "r"(0UL)); // empty
  EXPECT_TRAP(13, 0x24);
  EXPECT(make_writable(ldt) < 0);
  EXPECT_EQ(hypercall2(__HYPERVISOR_update_descriptor, ma_of(&ldt[4]), DESC_DATA), 0);
  TRY("movl $0x27, %%eax; movl %%eax, %%es", "r"(0UL));
  EXPECT_NO_TRAP();
  EXPECT_EQ(mmuext(MMUEXT_SET_LDT, (u64)ldt + 1, 16), -XEN_EINVAL);
  EXPECT_EQ(mmuext(MMUEXT_SET_LDT, (u64)ldt, 8193), -XEN_EINVAL);
}

void test_ldt(void) {
  EXPECT_EQ(user_setup(), 0);
  u64 trapped = guard_call(ldt_checks);
  struct trap_record record = last_trap;
  __asm__ volatile("xorl %%eax, %%eax; movl %%eax, %%es; movl %%eax, %%fs" ::: "rax");
  s64 cleared = mmuext(MMUEXT_SET_LDT, 0, 0);
  s64 writable = make_writable(ldt);
  user_teardown();
  if (trapped) EXPECT_EQ(record.regs.rip, 0); // an unexpected trap
  EXPECT_EQ(cleared, 0);
  EXPECT_EQ(writable, 0);
}
