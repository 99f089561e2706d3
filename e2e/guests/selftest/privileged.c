// SPDX-License-Identifier: Apache-2.0
//
// Instructions a PV kernel may execute although it runs unprivileged (the hypervisor emulates them), those it may not, and debug registers.
#include "selftest.h"

static volatile u64 watched;

void test_taskswitch(void) {
  u64 cr0;
  EXPECT_EQ(hypercall1(__HYPERVISOR_fpu_taskswitch, 1), 0);
  __asm__ volatile("movq %%cr0, %0" : "=r"(cr0));
  EXPECT_EQ(cr0 & X86_CR0_TS, X86_CR0_TS);
  TRY("fninit", "r"(0UL));
  EXPECT_TRAP(7, 0);
  TRY("fninit", "r"(0UL)); // delivering #NM cleared TS
  EXPECT_NO_TRAP();
  EXPECT_EQ(hypercall1(__HYPERVISOR_fpu_taskswitch, 1), 0);
  TRY("movaps %%xmm0, %%xmm1", "r"(0UL));
  EXPECT_TRAP(7, 0);
  EXPECT_EQ(hypercall1(__HYPERVISOR_fpu_taskswitch, 1), 0);
  __asm__ volatile("clts");
  TRY("movaps %%xmm0, %%xmm1", "r"(0UL));
  EXPECT_NO_TRAP();
  __asm__ volatile("movq %0, %%cr0" ::"r"(cr0)); // with TS
  TRY("fninit", "r"(0UL));
  EXPECT_TRAP(7, 0);
  EXPECT_EQ(hypercall1(__HYPERVISOR_fpu_taskswitch, 0), 0);
}

void test_debugreg(void) {
  EXPECT_EQ(hypercall2(__HYPERVISOR_set_debugreg, 0, &watched), 0);
  EXPECT_EQ(hypercall1(__HYPERVISOR_get_debugreg, 0), &watched);
  EXPECT_EQ(hypercall2(__HYPERVISOR_set_debugreg, 6, 0xffff0ff0), 0);
  u64 value;
  __asm__ volatile("movq %%dr0, %0" : "=r"(value));
  EXPECT_EQ(value, &watched);
  EXPECT_EQ(hypercall2(__HYPERVISOR_set_debugreg, 7, 0x000d0401), 0); // slot 0, local and global, 8 ... here 4 bytes, on writes
  TRY("movl $7, (%0)", "r"(&watched));
  s64 dr6 = hypercall1(__HYPERVISOR_get_debugreg, 6);
  EXPECT_EQ(hypercall2(__HYPERVISOR_set_debugreg, 7, 0x400), 0);
  EXPECT_EQ(watched, 7); // a data breakpoint traps after the store
  EXPECT_TRAP(1, 0);
  EXPECT_EQ(dr6 & 0xf, 1);
  TRY("movl $8, (%0)", "r"(&watched));
  EXPECT_NO_TRAP();
  EXPECT(hypercall2(__HYPERVISOR_set_debugreg, 1, 0xffff800000001000) < 0); // Xen's addresses
  EXPECT(hypercall2(__HYPERVISOR_set_debugreg, 9, 0) < 0);
  EXPECT(hypercall2(__HYPERVISOR_set_debugreg, 7, 0x100000000) < 0);
  hypercall2(__HYPERVISOR_set_debugreg, 0, 0);
}

void test_control_registers(void) {
  u64 cr0, cr3, cr4, cr2;
  __asm__ volatile("movq %%cr0, %0; movq %%cr3, %1; movq %%cr4, %2" : "=r"(cr0), "=r"(cr3), "=r"(cr4));
  EXPECT_EQ(cr0 & 0x80010021, 0x80010021); // PG WP NE PE
  EXPECT_EQ(cr0 & X86_CR0_TS, 0);
  EXPECT_EQ(cr3 & ~4095UL, mfn_of((void *)start_info->pt_base) << 12);
  EXPECT_EQ(cr4 & 0x620, 0x620); // PAE OSFXSR OSXMMEXCPT
  TRY("movq %0, %%cr4", "r"(cr4));
  EXPECT_NO_TRAP();
  __asm__ volatile("movq %%cr4, %0" : "=r"(cr2));
  EXPECT_EQ(cr2, cr4);
  TRY("movq (%0), %%rax", "r"(VIRT_BASE + 0x3fe00000UL));
  __asm__ volatile("movq %%cr2, %0" : "=r"(cr2));
  EXPECT_EQ(cr2, VIRT_BASE + 0x3fe00000UL);
  EXPECT_EQ(last_trap.cr2, cr2);
  TRY("movq %0, %%cr0", "r"(cr0 & ~0x80000000UL)); // paging cannot be turned off
  EXPECT_EQ(last_trap.count, 1);
  EXPECT_EQ(last_trap.regs.vector, 13);
}

static u64 msr_value;
#define READ_MSR(index) TRY("movl %0, %%ecx; rdmsr; shlq $32, %%rdx; orq %%rdx, %%rax; movq %%rax, (%1)", "i"(index), "r"(&msr_value))
#define WRITE_MSR(index, value) TRY("movl %0, %%ecx; movq %1, %%rdx; movl %%edx, %%eax; shrq $32, %%rdx; wrmsr", "i"(index), "r"((u64)(value)))

void test_msrs(void) {
  static u64 words[2] = {0xabcdef, 0x123456};
  u64 value;
  WRITE_MSR(MSR_FS_BASE, words);
  EXPECT_NO_TRAP();
  __asm__ volatile("movq %%fs:0, %0" : "=r"(value));
  EXPECT_EQ(value, words[0]);
  READ_MSR(MSR_FS_BASE);
  EXPECT_EQ(msr_value, words);
  WRITE_MSR(MSR_GS_BASE, words + 1);
  __asm__ volatile("movq %%gs:0, %0" : "=r"(value));
  EXPECT_EQ(value, words[1]);
  READ_MSR(MSR_GS_BASE);
  EXPECT_EQ(msr_value, words + 1);
  WRITE_MSR(MSR_KERNEL_GS_BASE, 0x7000);
  READ_MSR(MSR_KERNEL_GS_BASE);
  EXPECT_EQ(msr_value, 0x7000);
  READ_MSR(MSR_GS_BASE);
  EXPECT_EQ(msr_value, words + 1);
  WRITE_MSR(MSR_FS_BASE, 0x0000900000000000);
  EXPECT_TRAP(13, 0);
  READ_MSR(MSR_EFER);
  EXPECT_NO_TRAP();
  EXPECT_EQ(msr_value & 0x501, 0x501 & msr_value);
  EXPECT_EQ(msr_value & 0x500, 0x500); // long mode
  READ_MSR(0x12345678);
  EXPECT_TRAP(13, 0);
  WRITE_MSR(MSR_FS_BASE, 0);
  WRITE_MSR(MSR_GS_BASE, 0);
  WRITE_MSR(MSR_KERNEL_GS_BASE, 0);
}

static void forced_cpuid(u32 leaf, u32 subleaf, u32 out[4]) {
  // ud2 "xen" cpuid: the hypervisor answers, even where the processor would not trap.
  __asm__ volatile(".byte 0x0f, 0x0b, 0x78, 0x65, 0x6e; cpuid" : "=a"(out[0]), "=b"(out[1]), "=c"(out[2]), "=d"(out[3]) : "0"(leaf), "2"(subleaf));
}

void test_cpuid(void) {
  u32 r[4];
  forced_cpuid(0x40000000, 0, r);
  EXPECT(r[0] >= 0x40000004 && r[0] < 0x40000100);
  EXPECT_EQ(r[1], 0x566e6558);
  EXPECT_EQ(r[2], 0x65584d4d);
  EXPECT_EQ(r[3], 0x4d4d566e);
  forced_cpuid(0x40000001, 0, r);
  EXPECT_EQ(r[0], xen_version(XENVER_version, NULL));
  forced_cpuid(0x40000002, 0, r);
  EXPECT_EQ(r[0], 1);
  EXPECT_EQ(r[1], 0x40000000);
  EXPECT_EQ(r[2] & 1, 1);
  forced_cpuid(0, 0, r);
  EXPECT(r[0] >= 1);
  forced_cpuid(1, 0, r);
  EXPECT_EQ(r[3] & 0x07808111, 0x07808111); // FPU TSC CX8 CMOV MMX FXSR SSE SSE2
  EXPECT_EQ(r[3] & 0x00020008, 0);                           // no PSE, no PSE36
  EXPECT_EQ(r[2] & 0x28, 0);                                 // no MONITOR, no VMX
  forced_cpuid(0x80000001, 0, r);
  EXPECT_EQ(r[3] & 0x20100800, 0x20100800); // long mode, NX, SYSCALL
  EXPECT_EQ(r[3] & 0x04000000, 0);                           // no 1 GiB pages
}

void test_io_ports(void) {
  u32 value = 0;
  struct physdev_set_iopl iopl = {0};
  EXPECT_EQ(hypercall2(__HYPERVISOR_physdev_op, PHYSDEVOP_set_iopl, &iopl), 0);
  TRY("movl $0x5f0, %%edx; inb %%dx, %%al", "r"(0UL));
  EXPECT_TRAP(13, 0);
  TRY("cli", "r"(0UL));
  EXPECT_TRAP(13, 0);
  iopl.iopl = 1;
  EXPECT_EQ(hypercall2(__HYPERVISOR_physdev_op, PHYSDEVOP_set_iopl, &iopl), 0);
  TRY("movl $0x5f0, %%edx; xorl %%eax, %%eax; inl %%dx, %%eax; movl %%eax, (%0)", "r"(&value));
  EXPECT_NO_TRAP();
  EXPECT_EQ(value, 0xffffffff); // nothing is there
  TRY("movl $0x5f0, %%edx; movl $1, %%eax; outb %%al, %%dx; outw %%ax, %%dx; outl %%eax, %%dx", "r"(0UL));
  EXPECT_NO_TRAP();
  // CLI and STI are accepted and change nothing.
  TRY("cli", "r"(0UL));
  EXPECT_NO_TRAP();
  u64 flags;
  __asm__ volatile("pushfq; popq %0" : "=r"(flags));
  EXPECT_EQ(flags & X86_EFLAGS_IF, X86_EFLAGS_IF);
  EXPECT_EQ(vcpu->evtchn_upcall_mask, 1);
  TRY("sti", "r"(0UL));
  EXPECT_NO_TRAP();
  EXPECT_EQ(vcpu->evtchn_upcall_mask, 1);
  iopl.iopl = 4;
  EXPECT_EQ(hypercall2(__HYPERVISOR_physdev_op, PHYSDEVOP_set_iopl, &iopl), -XEN_EINVAL);
  iopl.iopl = 0;
  EXPECT_EQ(hypercall2(__HYPERVISOR_physdev_op, PHYSDEVOP_set_iopl, &iopl), 0);
}

void test_privileged(void) {
  static u8 operand[16];
  u64 flags;
  __asm__ volatile("pushfq; andq $~0x200, (%%rsp); popfq; pushfq; popq %0" : "=r"(flags)::"cc"); // POPF cannot clear IF
  EXPECT_EQ(flags & X86_EFLAGS_IF, X86_EFLAGS_IF);
  TRY("wbinvd", "r"(0UL));
  EXPECT_NO_TRAP();
  TRY("hlt", "r"(0UL));
  EXPECT_TRAP(13, 0);
  TRY("lgdt (%0)", "r"(operand));
  EXPECT_TRAP(13, 0);
  TRY("lidt (%0)", "r"(operand));
  EXPECT_TRAP(13, 0);
  TRY("invlpg (%0)", "r"(operand));
  EXPECT_TRAP(13, 0);
  TRY("xorl %%eax, %%eax; ltr %%ax", "r"(0UL));
  EXPECT_TRAP(13, 0);
  TRY("swapgs", "r"(0UL));
  EXPECT_TRAP(13, 0);
  TRY("movq %0, %%cr3", "r"(0x123UL << 52));
  EXPECT_EQ(last_trap.count, 1);
  TRY("sysretq", "r"(0UL));
  EXPECT_EQ(last_trap.count, 1);
  EXPECT_EQ(last_trap.regs.vector, 13);
}
