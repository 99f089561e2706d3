// SPDX-License-Identifier: Apache-2.0
//
// The PV MMU: updates, page types, pinning, write-fault emulation, the machine-to-physical table, base pointers and TLB flushes.
// Invariant: every service leaves slot 1 of the kernel's L4 empty and all its pages writable again.
#include "selftest.h"

u8 page_a[PAGE_SIZE] PAGE_ALIGNED, page_b[PAGE_SIZE] PAGE_ALIGNED;
// Volatile: the processor sets accessed and dirty bits behind the compiler's back.
static volatile u64 l1[512] PAGE_ALIGNED, l2[512] PAGE_ALIGNED, l3[512] PAGE_ALIGNED;
static u64 other_l4[512] PAGE_ALIGNED;

s64 make_read_only(const volatile void *page) {
  return update_va(page, mfn_of(page) << 12 | PTE_RO, UVMF_INVLPG);
}

s64 make_writable(const volatile void *page) {
  return update_va(page, mfn_of(page) << 12 | PTE_RW, UVMF_INVLPG);
}

u64 l4_entry_ma(u64 slot) {
  return ma_of((void *)start_info->pt_base) + slot * 8;
}

static u64 table_entry(const volatile void *table) {
  return mfn_of(table) << 12 | PTE_TABLE;
}

static u64 *const window = (u64 *)WINDOW;

static s64 window_close(void) {
  s64 rc = mmu_update_one(l4_entry_ma(1), 0);
  mmuext(MMUEXT_TLB_FLUSH_LOCAL, 0, 0);
  rc |= make_writable(l1) | make_writable(l2) | make_writable(l3);
  memset((void *)l1, 0, PAGE_SIZE);
  memset((void *)l2, 0, PAGE_SIZE);
  memset((void *)l3, 0, PAGE_SIZE);
  return rc;
}

static s64 window_open(void) {
  window_close();
  l1[0] = mfn_of(page_a) << 12 | PTE_RW;
  l2[0] = table_entry(l1);
  l3[0] = table_entry(l2);
  s64 rc = make_read_only(l1) | make_read_only(l2) | make_read_only(l3);
  return rc ? rc : mmu_update_one(l4_entry_ma(1), table_entry(l3));
}

void test_update_va_mapping(void) {
  *(volatile u64 *)page_a = 0xaaaa;
  *(volatile u64 *)page_b = 0xbbbb;
  EXPECT_EQ(update_va(page_a, mfn_of(page_b) << 12 | PTE_RO, UVMF_INVLPG), 0);
  EXPECT_EQ(*(volatile u64 *)page_a, 0xbbbb);
  EXPECT_EQ(update_va(page_a, 0, UVMF_INVLPG | UVMF_ALL), 0);
  TRY("movq (%0), %%rax", "r"(page_a));
  EXPECT_TRAP(14, 0);
  u64 cpus = 1;
  EXPECT_EQ(update_va(page_a, mfn_of(page_a) << 12 | PTE_RW, UVMF_TLB_FLUSH | (u64)&cpus), 0);
  EXPECT_EQ(*(volatile u64 *)page_a, 0xaaaa);
  // No table reaches the address; a frame that does not exist.
  EXPECT(update_va((void *)(WINDOW + 0x100000000), mfn_of(page_a) << 12 | PTE_RW, UVMF_INVLPG) < 0);
  EXPECT(update_va(page_a, 0x000ffffffffff000 | PTE_RW, UVMF_INVLPG) < 0);
  // Bit 7 of an L1 entry is PAT: without devices a domain has no say in cacheability.
  if (!is_initial_domain()) EXPECT_EQ(update_va(page_a, mfn_of(page_a) << 12 | PTE_RW | _PAGE_PSE, UVMF_INVLPG), -XEN_EINVAL);
  EXPECT_EQ(*(volatile u64 *)page_a, 0xaaaa);
}

void test_mmu_update(void) {
  *(volatile u64 *)page_a = 0xaaaa;
  *(volatile u64 *)page_b = 0xbbbb;
  EXPECT_EQ(window_open(), 0);
  EXPECT_EQ(READ_ONCE(window[0]), 0xaaaa);
  WRITE_ONCE(window[1], 0x1234);
  EXPECT_EQ(((volatile u64 *)page_a)[1], 0x1234);
  EXPECT_EQ(l1[0] & 0x0000fffffffff000, mfn_of(page_a) << 12);
  // Accessed and dirty came from the two accesses; PRESERVE_AD keeps them, a plain update does not.
  EXPECT_EQ(mmu_update_one(ma_of(&l1[0]), mfn_of(page_a) << 12 | _PAGE_PRESENT | _PAGE_RW | _PAGE_USER), 0);
  mmuext(MMUEXT_INVLPG_LOCAL, WINDOW, 0);
  EXPECT_EQ(l1[0] & (_PAGE_ACCESSED | _PAGE_DIRTY), 0);
  (void)READ_ONCE(window[0]);
  EXPECT_EQ(l1[0] & (_PAGE_ACCESSED | _PAGE_DIRTY), _PAGE_ACCESSED);
  WRITE_ONCE(window[1], 5);
  EXPECT_EQ(l1[0] & (_PAGE_ACCESSED | _PAGE_DIRTY), _PAGE_ACCESSED | _PAGE_DIRTY);
  u64 done = 0;
  struct mmu_update batch[3] = {
    {ma_of(&l1[0]) | MMU_PT_UPDATE_PRESERVE_AD, mfn_of(page_a) << 12 | _PAGE_PRESENT | _PAGE_USER},
    {ma_of(&l1[1]) | MMU_NORMAL_PT_UPDATE, mfn_of(page_b) << 12 | PTE_RW},
    {ma_of(&l1[2]), 0x000ffffffffff000 | PTE_RW},
  };
  u32 count = 77;
  EXPECT(hypercall4(__HYPERVISOR_mmu_update, batch, 3, &count, DOMID_SELF) < 0);
  EXPECT_EQ(count, 2);
  mmuext(MMUEXT_INVLPG_LOCAL, WINDOW, 0);
  EXPECT_EQ(l1[0] & (_PAGE_ACCESSED | _PAGE_DIRTY | _PAGE_RW), _PAGE_ACCESSED | _PAGE_DIRTY);
  EXPECT_EQ(READ_ONCE(window[512]), 0xbbbb);
  TRY("movq $1, (%0)", "r"(window));
  EXPECT_TRAP(14, 3);
  // MACHPHYS: the m2p entry of a frame is ours to set.
  const volatile u64 *m2p = (const volatile u64 *)MACH2PHYS_VIRT_START;
  u64 mfn = mfn_of(page_b);
  EXPECT_EQ(mmu_update_one(mfn << 12 | MMU_MACHPHYS_UPDATE, 0x123456), 0);
  done = m2p[mfn];
  EXPECT_EQ(mmu_update_one(mfn << 12 | MMU_MACHPHYS_UPDATE, pfn_of(page_b)), 0);
  EXPECT_EQ(done, 0x123456);
  EXPECT_EQ(m2p[mfn], pfn_of(page_b));
  // Not a page table of ours, not aligned, a wild request array.
  EXPECT(mmu_update_one(0x000ffffffffff000, 0) < 0);
  EXPECT_EQ(hypercall4(__HYPERVISOR_mmu_update, 0x7fff12345678, 1, 0, DOMID_SELF), -XEN_EFAULT);
  // An ordinary page is simply written.
  EXPECT_EQ(mmu_update_one(ma_of(page_b + 16), 0x5555), 0);
  EXPECT_EQ(((volatile u64 *)page_b)[2], 0x5555);
  EXPECT_EQ(window_close(), 0);
  TRY("movq (%0), %%rax", "r"(window));
  EXPECT_TRAP(14, 0);
}

void test_page_types(void) {
  EXPECT_EQ(window_open(), 0);
  // A page table may not be mapped writable: by either call, at any level.
  EXPECT(make_writable(l1) < 0);
  EXPECT(make_writable(l2) < 0);
  EXPECT(make_writable(l3) < 0);
  EXPECT(make_writable((void *)start_info->pt_base) < 0);
  EXPECT(mmu_update_one(ma_of(&l1[5]), mfn_of(l1) << 12 | PTE_RW) < 0);
  EXPECT_EQ(mmu_update_one(ma_of(&l1[5]), mfn_of(l1) << 12 | PTE_RO), 0);
  // A table of the wrong level, and a page that is mapped writable, are no page tables.
  EXPECT(mmu_update_one(ma_of(&l3[1]), table_entry(l1)) < 0);
  EXPECT(mmu_update_one(ma_of(&l2[1]), table_entry(l3)) < 0);
  EXPECT(mmu_update_one(ma_of(&l2[1]), table_entry(page_b)) < 0);
  EXPECT_EQ(l2[1], 0);
  EXPECT_EQ(mmu_update_one(ma_of(&l2[1]), mfn_of(l1) << 12 | PTE_TABLE), 0); // the same L1 twice is fine
  EXPECT_EQ(mmu_update_one(ma_of(&l2[2]), mfn_of(page_b) << 12 | PTE_TABLE | _PAGE_PSE), -XEN_EINVAL);
  // A table with a bad entry is refused as a whole when it is first used.
  memset(page_b, 0, PAGE_SIZE);
  ((volatile u64 *)page_b)[3] = mfn_of(l1) << 12 | PTE_RW;
  EXPECT_EQ(make_read_only(page_b), 0);
  EXPECT(mmu_update_one(ma_of(&l2[1]), table_entry(page_b)) < 0);
  EXPECT_EQ(make_writable(page_b), 0);
  ((volatile u64 *)page_b)[3] = 0;
  EXPECT_EQ(make_read_only(page_b), 0);
  EXPECT_EQ(mmu_update_one(ma_of(&l2[1]), table_entry(page_b)), 0);
  EXPECT(make_writable(page_b) < 0);
  EXPECT_EQ(mmu_update_one(ma_of(&l2[1]), 0), 0);
  EXPECT_EQ(make_writable(page_b), 0);
  // The builder's own L4 still works after all this.
  EXPECT_EQ(window_close(), 0);
}

void test_pinning(void) {
  memset((void *)l1, 0, PAGE_SIZE);
  l1[7] = mfn_of(page_a) << 12 | PTE_RW;
  EXPECT(mmuext(MMUEXT_PIN_L1_TABLE, mfn_of(l1), 0) < 0); // still mapped writable
  EXPECT_EQ(make_read_only(l1), 0);
  EXPECT_EQ(mmuext(MMUEXT_UNPIN_TABLE, mfn_of(l1), 0), -XEN_EINVAL);
  EXPECT_EQ(mmuext(MMUEXT_PIN_L1_TABLE, mfn_of(l1), 0), 0);
  EXPECT_EQ(mmuext(MMUEXT_PIN_L1_TABLE, mfn_of(l1), 0), -XEN_EINVAL); // twice
  EXPECT(make_writable(l1) < 0);
  EXPECT_EQ(mmu_update_one(ma_of(&l1[8]), mfn_of(page_b) << 12 | PTE_RW), 0);
  EXPECT(mmu_update_one(ma_of(&l1[8]), mfn_of(l1) << 12 | PTE_RW) < 0);
  EXPECT_EQ(mmuext(MMUEXT_UNPIN_TABLE, mfn_of(l1), 0), 0);
  EXPECT_EQ(make_writable(l1), 0);
  EXPECT(mmuext(MMUEXT_PIN_L4_TABLE, 0x000000ffffffffff, 0) < 0);
  EXPECT_EQ(mmuext(999, 0, 0), -XEN_ENOSYS);
  memset((void *)l1, 0, PAGE_SIZE);
}

void test_xen_slots(void) {
  memset((void *)l3, 0, PAGE_SIZE);
  EXPECT_EQ(make_read_only(l3), 0);
  for (u64 slot = 256; slot < 272; slot++) {
    EXPECT_EQ(mmu_update_one(l4_entry_ma(slot), table_entry(l3)), -XEN_EINVAL);
    EXPECT_EQ(mmu_update_one(l4_entry_ma(slot), 0), -XEN_EINVAL);
  }
  EXPECT_EQ(mmu_update_one(l4_entry_ma(272), table_entry(l3)), 0);
  EXPECT_EQ(mmu_update_one(l4_entry_ma(272), 0), 0);
  mmuext(MMUEXT_TLB_FLUSH_LOCAL, 0, 0);
  EXPECT_EQ(make_writable(l3), 0);
  // The rest of the reserved range is not for guests, not even to read.
  TRY("movq (%0), %%rax", "r"(0xffff830000000000UL));
  EXPECT_EQ(last_trap.count, 1);
  EXPECT_EQ(last_trap.regs.vector, 14);
}

void test_ptwr(void) {
  *(volatile u64 *)page_a = 0xaaaa;
  *(volatile u64 *)page_b = 0xbbbb;
  EXPECT_EQ(window_open(), 0);
  volatile u64 *entry = &l1[3];
  u64 value = mfn_of(page_b) << 12 | PTE_RW;
  EXPECT_EQ(hypercall2(__HYPERVISOR_vm_assist, VMASST_CMD_disable, VMASST_TYPE_writable_pagetables), 0);
  if (!is_initial_domain()) { // which Xen always helps
    TRY("movq %1, (%0)", "r"(entry), "r"(value));
    EXPECT_TRAP(14, 3);
  }
  EXPECT_EQ(hypercall2(__HYPERVISOR_vm_assist, VMASST_CMD_enable, VMASST_TYPE_writable_pagetables), 0);
  TRY("movq %1, (%0)", "r"(entry), "r"(value));
  EXPECT_NO_TRAP();
  EXPECT_EQ(window[3 * 512], 0xbbbb);
  // Replace by cmpxchg and by xchg, clear by halves.
  u64 seen = *entry, next = mfn_of(page_a) << 12 | PTE_RW;
  bool swapped;
  __asm__ volatile("lock cmpxchgq %3, %1; sete %0" : "=q"(swapped), "+m"(*entry), "+a"(seen) : "r"(next) : "cc", "memory");
  EXPECT(swapped);
  mmuext(MMUEXT_INVLPG_LOCAL, WINDOW + 3 * PAGE_SIZE, 0);
  EXPECT_EQ(READ_ONCE(window[3 * 512]), 0xaaaa);
  TRY("movl $0, (%0)", "r"(entry));
  EXPECT_NO_TRAP();
  mmuext(MMUEXT_INVLPG_LOCAL, WINDOW + 3 * PAGE_SIZE, 0);
  TRY("movq (%0), %%rax", "r"(WINDOW + 3 * PAGE_SIZE));
  EXPECT_TRAP(14, 0);
  EXPECT_EQ(mmu_update_one(ma_of(entry), 0), 0);
  // A forbidden value bounces as the page fault it was, and so does a store to a higher level.
  TRY("movq %1, (%0)", "r"(entry), "r"(mfn_of(l1) << 12 | PTE_RW));
  EXPECT_TRAP(14, 3);
  EXPECT_EQ(*entry, 0);
  TRY("movq %1, (%0)", "r"(&l2[9]), "r"(0UL));
  EXPECT_TRAP(14, 3);
  EXPECT_EQ(hypercall2(__HYPERVISOR_vm_assist, VMASST_CMD_disable, VMASST_TYPE_writable_pagetables), 0);
  EXPECT_EQ(window_close(), 0);
}

void test_m2p(void) {
  const volatile u64 *m2p = (const volatile u64 *)MACH2PHYS_VIRT_START;
  const u64 *p2m = (const u64 *)start_info->mfn_list;
  u64 pages = start_info->nr_pages;
  for (u64 pfn = 0; pfn < pages; pfn += 61) EXPECT_EQ(m2p[p2m[pfn]], pfn);
  TRY("movq $0, (%0)", "r"(&m2p[p2m[1]]));
  EXPECT_EQ(last_trap.count, 1);
  EXPECT_EQ(last_trap.regs.vector, 14);
  EXPECT_EQ(last_trap.regs.error & 2, 2);
  struct xen_machphys_mapping mapping = {0, 0, 0};
  EXPECT_EQ(hypercall2(__HYPERVISOR_memory_op, XENMEM_machphys_mapping, &mapping), 0);
  EXPECT_EQ(mapping.v_start, MACH2PHYS_VIRT_START);
  EXPECT(mapping.v_end > mapping.v_start && mapping.v_end <= 0xffff804000000000);
  EXPECT(mapping.max_mfn >= p2m[pages - 1]);
}

void test_new_baseptr(void) {
  u64 *old = (u64 *)start_info->pt_base;
  make_writable(other_l4);
  memset(other_l4, 0, PAGE_SIZE);
  for (u32 slot = 0; slot < 512; slot++)
    if (slot < 256 || slot > 271) other_l4[slot] = old[slot];
  EXPECT_EQ(make_read_only(other_l4), 0);
  EXPECT_EQ(mmuext(MMUEXT_PIN_L4_TABLE, mfn_of(other_l4), 0), 0);
  EXPECT_EQ(mmuext(MMUEXT_NEW_BASEPTR, mfn_of(other_l4), 0), 0);
  u64 cr3;
  __asm__ volatile("movq %%cr3, %0" : "=r"(cr3));
  u64 pfn = ((const volatile u64 *)MACH2PHYS_VIRT_START)[mfn_of(page_a)];
  s64 in_use = mmuext(MMUEXT_UNPIN_TABLE, mfn_of(other_l4), 0); // drops the pin; the base pointer keeps it a page table
  s64 writable = make_writable(other_l4);
  s64 back = mmuext(MMUEXT_NEW_BASEPTR, mfn_of(old), 0);
  EXPECT_EQ(cr3 & ~4095UL, mfn_of(other_l4) << 12);
  EXPECT_EQ(pfn, pfn_of(page_a));
  EXPECT_EQ(in_use, 0);
  EXPECT(writable < 0);
  EXPECT_EQ(back, 0);
  EXPECT_EQ(make_writable(other_l4), 0);
  __asm__ volatile("movq %%cr3, %0" : "=r"(cr3));
  EXPECT_EQ(cr3 & ~4095UL, mfn_of(old) << 12);
  EXPECT(mmuext(MMUEXT_NEW_BASEPTR, mfn_of(page_a), 0) < 0);
  EXPECT(mmuext(MMUEXT_NEW_BASEPTR, 0x000000ffffffffff, 0) < 0);
}

// Points window page 0 at `page` without a flush, then flushes with one operation and looks.
static bool flush_shows(u8 *page, u64 wanted, u32 cmd, u64 arg1, u64 arg2) {
  (void)READ_ONCE(window[0]);
  if (mmu_update_one(ma_of(&l1[0]), mfn_of(page) << 12 | PTE_RW)) return false;
  if (mmuext(cmd, arg1, arg2)) return false;
  return READ_ONCE(window[0]) == wanted;
}

void test_tlb_flush(void) {
  *(volatile u64 *)page_a = 0xaaaa;
  *(volatile u64 *)page_b = 0xbbbb;
  EXPECT_EQ(window_open(), 0);
  u64 cpus = 1;
  EXPECT(flush_shows(page_b, 0xbbbb, MMUEXT_INVLPG_LOCAL, WINDOW, 0));
  EXPECT(flush_shows(page_a, 0xaaaa, MMUEXT_TLB_FLUSH_LOCAL, 0, 0));
  EXPECT(flush_shows(page_b, 0xbbbb, MMUEXT_INVLPG_ALL, WINDOW, 0));
  EXPECT(flush_shows(page_a, 0xaaaa, MMUEXT_TLB_FLUSH_ALL, 0, 0));
  EXPECT(flush_shows(page_b, 0xbbbb, MMUEXT_INVLPG_MULTI, WINDOW, (u64)&cpus));
  EXPECT(flush_shows(page_a, 0xaaaa, MMUEXT_TLB_FLUSH_MULTI, 0, (u64)&cpus));
  // Upper levels: another L1 behind the same L2 entry.
  memset(page_b, 0, PAGE_SIZE);
  ((volatile u64 *)page_b)[0] = mfn_of(&start_info->magic) << 12 | PTE_RO;
  EXPECT_EQ(make_read_only(page_b), 0);
  EXPECT_EQ(mmu_update_one(ma_of(&l2[0]), table_entry(page_b)), 0);
  mmuext(MMUEXT_TLB_FLUSH_LOCAL, 0, 0);
  EXPECT(starts_with((const char *)WINDOW, "xen-3."));
  EXPECT_EQ(mmu_update_one(ma_of(&l2[0]), table_entry(l1)), 0);
  EXPECT_EQ(window_close(), 0);
  EXPECT_EQ(make_writable(page_b), 0);
}

void test_clear_copy_page(void) {
  memset(page_a, 0x5a, PAGE_SIZE);
  memset(page_b, 0xa5, PAGE_SIZE);
  EXPECT_EQ(mmuext(MMUEXT_COPY_PAGE, mfn_of(page_b), mfn_of(page_a)), 0);
  EXPECT_EQ(page_b[0], 0x5a);
  EXPECT_EQ(page_b[4095], 0x5a);
  EXPECT_EQ(mmuext(MMUEXT_CLEAR_PAGE, mfn_of(page_b), 0), 0);
  EXPECT_EQ(page_b[0] | page_b[4095], 0);
  EXPECT_EQ(make_read_only(page_b), 0);
  EXPECT_EQ(mmuext(MMUEXT_MARK_SUPER, mfn_of(page_a), 0), -XEN_EOPNOTSUPP);
  EXPECT_EQ(make_writable(page_b), 0);
  EXPECT(mmuext(MMUEXT_CLEAR_PAGE, mfn_of((void *)start_info->pt_base), 0) < 0); // a page table
}
