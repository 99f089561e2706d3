// SPDX-License-Identifier: Apache-2.0
//
// Start state, version, console, hypercall page and multicall.
#include "selftest.h"

extern u8 hypercall_page[];

void test_start_info(void) {
  const struct start_info *si = start_info;
  EXPECT(starts_with(si->magic, "xen-3."));
  EXPECT(si->nr_pages >= 1024);
  EXPECT_EQ((u64)si & 4095, 0);
  EXPECT_EQ(si->shared_info & 4095, 0);
  EXPECT(si->shared_info != 0);
  EXPECT_EQ(si->pt_base & 4095, 0);
  EXPECT(si->pt_base >= (u64)_end);
  EXPECT(si->nr_pt_frames >= 4);
  EXPECT_EQ(si->mfn_list & 7, 0);
  EXPECT((u64)si >= (u64)_end);
  if (!is_initial_domain()) {
    EXPECT(si->store_mfn != 0 && si->console_mfn != 0);
    EXPECT(si->store_evtchn != 0 && si->console_evtchn != 0 && si->store_evtchn != si->console_evtchn);
    EXPECT(va_of_mfn(si->store_mfn) != NULL);
  }
  // A builder zeroes .bss and maps a spare half megabyte behind everything it placed.
  EXPECT_EQ(*(volatile u64 *)(si->pt_base + si->nr_pt_frames * PAGE_SIZE), *(volatile u64 *)(si->pt_base + si->nr_pt_frames * PAGE_SIZE));
  const u64 *p2m = (const u64 *)si->mfn_list;
  EXPECT(p2m[0] != ~0UL && p2m[si->nr_pages - 1] != ~0UL);
}

void test_entry_state(void) {
  EXPECT_EQ(entry_regs[4], (u64)start_info); // rsi
  EXPECT_EQ(entry_regs[7] & 15, 0);          // rsp
  EXPECT(entry_regs[7] > start_info->pt_base);
  for (u32 i = 0; i < 16; i++)
    if (i != 4 && i != 7) EXPECT_EQ(entry_regs[i], 0);
  EXPECT_EQ(entry_regs[16] & (X86_EFLAGS_IF | X86_EFLAGS_TF | 0x3000 | 0x400), X86_EFLAGS_IF); // IF set; TF, IOPL, DF clear
  EXPECT_EQ(entry_regs[17], FLAT_KERNEL_CS);
  EXPECT_EQ(entry_regs[18], FLAT_KERNEL_DS);
  EXPECT_EQ(vcpu->evtchn_upcall_mask, 1);
  // The builder's page tables are mapped read-only, everything else writable.
  TRY("movq $0, (%0)", "r"(start_info->pt_base));
  EXPECT_TRAP(14, 3);
  TRY("movq (%0), %%rax; movq %%rax, (%0)", "r"(entry_regs[7] - 8));
  EXPECT_NO_TRAP();
}

void test_version(void) {
  char text[1024] = "";
  s64 version = xen_version(XENVER_version, NULL);
  EXPECT(version >> 16 >= 4 && version >> 16 < 100);
  EXPECT_EQ(xen_version(XENVER_extraversion, text), 0);
  EXPECT(strlen(text) < 16);
  EXPECT_EQ(xen_version(XENVER_capabilities, text), 0);
  EXPECT(strlen(text) >= 14 && strlen(text) < 1024);
  EXPECT(starts_with(text, "xen-3.0-x86_64"));
  EXPECT_EQ(xen_version(XENVER_changeset, text), 0);
  u64 virt_start = 0;
  EXPECT_EQ(xen_version(XENVER_platform_parameters, &virt_start), 0);
  EXPECT_EQ(virt_start, MACH2PHYS_VIRT_START);
  u32 features[2] = {0, 0};
  EXPECT_EQ(xen_version(XENVER_get_features, features), 0);
  EXPECT(features[1] & 1u << XENFEAT_mmu_pt_update_preserve_ad);
  EXPECT(features[1] & 1u << XENFEAT_gnttab_map_avail_bits);
  EXPECT(!(features[1] & 1u << XENFEAT_auto_translated_physmap));
  EXPECT_EQ(xen_version(XENVER_pagesize, NULL), PAGE_SIZE);
  EXPECT_EQ(xen_version(XENVER_guest_handle, text), 0);
  EXPECT_EQ(xen_version(9999, NULL), -XEN_ENOSYS);
  EXPECT_EQ(hypercall1(55, 0), -XEN_ENOSYS);
  EXPECT_EQ(hypercall1(0x123456789, 0), -XEN_ENOSYS);
  EXPECT_EQ(xen_version(XENVER_get_features, (void *)0x7fff12345678), -XEN_EFAULT);
  EXPECT_EQ(xen_version(XENVER_get_features, (void *)MACH2PHYS_VIRT_START), -XEN_EFAULT);
}

void test_console(void) {
  // What was printed so far must drain while we only yield.
  u64 limit = now_ns() + 2000000000;
  while (READ_ONCE(console_ring->out_cons) != console_ring->out_prod && now_ns() < limit) sched_op(SCHEDOP_yield, NULL);
  EXPECT_EQ(console_ring->out_cons, console_ring->out_prod);
}

void test_hypercall_page(void) {
  // Slot 17 (xen_version) is callable and the code is what the ABI says: push rcx; push r11; mov eax, imm32; syscall; pop r11; pop rcx; ret.
  static const u8 head[] = {0x51, 0x41, 0x53, 0xb8, 17, 0, 0, 0, 0x0f, 0x05, 0x41, 0x5b, 0x59, 0xc3};
  EXPECT_EQ(memcmp(hypercall_page + 17 * 32, head, sizeof head), 0);
  s64 result;
  u64 rdi = XENVER_version, rsi = 0;
  __asm__ volatile("call hypercall_page + 17 * 32" : "=a"(result), "+D"(rdi), "+S"(rsi)::"rcx", "rdx", "r8", "r9", "r10", "r11", "memory");
  EXPECT_EQ(result, xen_version(XENVER_version, NULL));
  static const u8 iret_head[] = {0x51, 0x41, 0x53, 0x50, 0xb8, 23, 0, 0, 0, 0x0f, 0x05};
  EXPECT_EQ(memcmp(hypercall_page + 23 * 32, iret_head, sizeof iret_head), 0);
}

void test_multicall(void) {
  u32 features[2] = {0, 0};
  struct multicall_entry calls[4] = {
    {__HYPERVISOR_xen_version, 77, {XENVER_version}},
    {__HYPERVISOR_xen_version, 77, {XENVER_get_features, (u64)features}},
    {55, 77, {0}},
    {__HYPERVISOR_xen_version, 77, {XENVER_pagesize}},
  };
  EXPECT_EQ(hypercall2(__HYPERVISOR_multicall, calls, 4), 0);
  EXPECT_EQ(calls[0].result, xen_version(XENVER_version, NULL));
  EXPECT_EQ(calls[1].result, 0);
  EXPECT(features[1] != 0);
  EXPECT_EQ(calls[2].result, -XEN_ENOSYS);
  EXPECT_EQ(calls[3].result, PAGE_SIZE);
  EXPECT_EQ(hypercall2(__HYPERVISOR_multicall, calls, 0), 0);
  EXPECT_EQ(hypercall2(__HYPERVISOR_multicall, 0x7fff12345678, 1), -XEN_EFAULT);
}
