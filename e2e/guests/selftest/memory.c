// SPDX-License-Identifier: Apache-2.0
//
// memory_op: what the domain has, giving a page back and getting one.
#include "selftest.h"

static s64 memory_op(u32 cmd, void *arg) {
  return hypercall2(__HYPERVISOR_memory_op, cmd, arg);
}

static s64 current_pages(void) {
  u16 self = DOMID_SELF;
  return memory_op(XENMEM_current_reservation, &self);
}

void test_memory_op(void) {
  u16 self = DOMID_SELF;
  s64 current = current_pages(), maximum = memory_op(XENMEM_maximum_reservation, &self);
  EXPECT(current >= (s64)start_info->nr_pages);
  EXPECT(maximum >= current);
  EXPECT(memory_op(XENMEM_maximum_ram_page, NULL) > 0);
  static u8 entries[128 * 20];
  struct xen_memory_map map = {128, 0, entries};
  s64 rc = memory_op(XENMEM_memory_map, &map);
  if (rc != -XEN_ENOSYS) {
    EXPECT_EQ(rc, 0);
    EXPECT(map.nr_entries >= 1 && map.nr_entries <= 128);
    u64 ram = 0;
    for (u32 i = 0; i < map.nr_entries; i++) {
      const struct e820entry *entry = (const struct e820entry *)entries + i;
      if (entry->type == 1) ram += entry->size;
    }
    EXPECT(ram >= (start_info->nr_pages - 1024) << 12);
  }
  EXPECT_EQ(memory_op(63, &map), -XEN_ENOSYS);
  EXPECT_EQ(memory_op(XENMEM_current_reservation, (void *)0x7fff12345678), -XEN_EFAULT);
}

void test_balloon(void) {
  static u8 page[PAGE_SIZE] PAGE_ALIGNED;
  static u8 typed[PAGE_SIZE] PAGE_ALIGNED;
  u64 mfn = mfn_of(page), pfn = pfn_of(page);
  s64 before = current_pages();
  EXPECT_EQ(update_va(page, 0, UVMF_INVLPG), 0);
  u64 frame = mfn;
  struct xen_memory_reservation out = {.extent_start = &frame, .nr_extents = 1, .domid = DOMID_SELF};
  EXPECT_EQ(memory_op(XENMEM_decrease_reservation, &out), 1);
  ((u64 *)start_info->mfn_list)[pfn] = ~0UL;
  s64 between = current_pages();
  EXPECT(update_va(page, mfn << 12 | PTE_RW, UVMF_INVLPG) < 0); // not ours any more
  u64 gone = mfn;
  out.extent_start = &gone;
  EXPECT_EQ(memory_op(XENMEM_decrease_reservation, &out), 0);
  frame = pfn;
  struct xen_memory_reservation in = {.extent_start = &frame, .nr_extents = 1, .domid = DOMID_SELF};
  EXPECT_EQ(memory_op(XENMEM_populate_physmap, &in), 1);
  ((u64 *)start_info->mfn_list)[pfn] = frame;
  EXPECT_EQ(update_va(page, frame << 12 | PTE_RW, UVMF_INVLPG), 0);
  *(volatile u64 *)page = 42;
  EXPECT_EQ(*(volatile u64 *)page, 42);
  EXPECT_EQ(((const volatile u64 *)MACH2PHYS_VIRT_START)[frame], pfn);
  EXPECT_EQ(between, before - 1);
  EXPECT_EQ(current_pages(), before);
  // A wild list is refused; nothing is taken from somebody else.
  in.extent_start = (u64 *)0x7fff12345678;
  EXPECT(memory_op(XENMEM_populate_physmap, &in) <= 0);
  u64 wild = 0x000000ffffffffff;
  out.extent_start = &wild;
  EXPECT_EQ(memory_op(XENMEM_decrease_reservation, &out), 0);
  (void)typed;
}
