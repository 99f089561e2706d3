// SPDX-License-Identifier: Apache-2.0
//
// Page tables: updates of any kind on pool frames, entries of any kind in them, pins, base pointers, stores that ask for write-fault emulation.
#include "fuzz.h"

static u64 spare_l4[512] PAGE_ALIGNED;

static u64 l4_entry(u64 slot) {
  return ma_of((void *)start_info->pt_base) + slot * 8;
}

void op_mmu_update(void) {
  struct mmu_update *updates = (struct mmu_update *)args;
  u64 n = one_in(3) ? 1 + below(8) : 1;
  for (u64 i = 0; i < n; i++) {
    u64 mfn = one_in(16) ? some_number() & 0xffffffffff : pool_mfn[below(POOL_PAGES)];
    if (is_vital(mfn)) mfn = pool_mfn[0];
    updates[i].ptr = mfn << 12 | below(512) * 8 | (one_in(3) ? below(4) : 0);
    if (one_in(64)) updates[i].ptr |= below(8);
    if (one_in(16)) updates[i].ptr = l4_entry(one_in(2) ? 256 + below(16) : 1 + below(WINDOW_SLOTS));
    updates[i].val = some_pte();
  }
  // What lies behind our list is not ours to send: a longer count comes only with a list that cannot be read.
  bool unreadable = one_in(24);
  u64 list = unreadable ? unreadable_address() : (u64)updates;
  u64 count = unreadable ? some_count() | (one_in(3) ? 0x80000000 : 0) : below(n + 1);
  u64 domain = one_in(24) ? rnd() & 0xffff : DOMID_SELF;
  hypercall4(__HYPERVISOR_mmu_update, list, count, one_in(2) ? safe_address() : 0, domain);
}

void op_update_va(void) {
  u64 va = mapping_address();
  u64 flags = one_in(4) ? safe_address() : below(8);
  if (one_in(8)) hypercall4(15 + 7, va, some_pte(), flags, one_in(2) ? DOMID_SELF : rnd() & 0xffff); // update_va_mapping_otherdomain
  else update_va((void *)va, some_pte(), flags);
}

void op_mmuext(void) {
  struct mmuext_op *ops = (struct mmuext_op *)args;
  u64 n = 1 + below(3);
  for (u64 i = 0; i < n; i++) {
    ops[i].cmd = (u32)(one_in(16) ? some_number() : below(22));
    u32 cmd = ops[i].cmd & 0x7fffffff;
    ops[i].arg1 = one_in(2) ? pool_mfn[below(POOL_PAGES)] : some_mfn();
    ops[i].arg2 = one_in(2) ? pool_mfn[below(POOL_PAGES)] : some_number();
    if (cmd == MMUEXT_NEW_BASEPTR) // an empty pool page is a valid L4 and would be the end
      ops[i].arg1 = one_in(2) ? mfn_of((void *)start_info->pt_base) : 0x4000000000 + (rnd() >> 30);
    if ((cmd >= MMUEXT_INVLPG_LOCAL && cmd <= MMUEXT_INVLPG_ALL) || cmd == MMUEXT_SET_LDT) {
      ops[i].arg1 = cmd == MMUEXT_SET_LDT ? safe_address() & ~(one_in(4) ? 0UL : 4095UL) : some_number();
      ops[i].arg2 = cmd == MMUEXT_SET_LDT ? below(9000) : wild_address();
    }
    if (cmd == MMUEXT_UNPIN_TABLE && ops[i].arg1 == mfn_of((void *)start_info->pt_base)) ops[i].arg1 = pool_mfn[1];
  }
  hypercall4(__HYPERVISOR_mmuext_op, args, n, one_in(4) ? safe_address() : 0, one_in(24) ? rnd() & 0xffff : DOMID_SELF);
}

void op_table_fill(void) {
  volatile u64 *page = (volatile u64 *)some_pool_page();
  if (one_in(2)) memset((void *)page, 0, PAGE_SIZE);
  for (u64 n = below(6); n; n--) page[below(512)] = some_pte();
  if (one_in(4)) page[below(512)] = pool_mfn[((u64)page - (u64)pool) / PAGE_SIZE] << 12 | PTE_TABLE; // recursive
  u64 mfn = pool_mfn[((u64)page - (u64)pool) / PAGE_SIZE];
  if (one_in(2)) update_va((void *)page, mfn << 12 | PTE_RO, UVMF_INVLPG);
  if (one_in(2)) mmuext((u32)below(4), mfn, 0);
}

void op_window(void) {
  u64 slot = 1 + below(WINDOW_SLOTS);
  mmu_update_one(l4_entry(slot), one_in(3) ? 0 : pool_mfn[below(POOL_PAGES)] << 12 | PTE_TABLE);
  mmuext(MMUEXT_TLB_FLUSH_LOCAL, 0, 0);
  volatile u64 *at = (volatile u64 *)(0x8000000000 * slot + (rnd() & 0x7fffffff8));
  if (one_in(2)) at = (volatile u64 *)(0x8000000000 * slot + below(64) * PAGE_SIZE);
  if (one_in(2)) *at = some_pte();
  else (void)*at;
}

void op_baseptr(void) {
  const u64 *old = (const u64 *)start_info->pt_base;
  update_va(spare_l4, mfn_of(spare_l4) << 12 | PTE_RW, UVMF_INVLPG);
  for (u32 slot = 0; slot < 512; slot++) WRITE_ONCE(spare_l4[slot], slot >= 256 && slot < 272 ? (one_in(64) ? some_pte() : 0) : old[slot]);
  update_va(spare_l4, mfn_of(spare_l4) << 12 | PTE_RO, UVMF_INVLPG);
  if (!mmuext(MMUEXT_PIN_L4_TABLE, mfn_of(spare_l4), 0)) {
    mmuext(MMUEXT_NEW_BASEPTR, mfn_of(spare_l4), 0);
    mmuext(MMUEXT_UNPIN_TABLE, mfn_of(spare_l4), 0);
    if (one_in(2)) mmuext(MMUEXT_TLB_FLUSH_ALL, 0, 0);
  }
  mmuext(MMUEXT_NEW_BASEPTR, mfn_of(old), 0);
}

void op_poke(void) {
  u64 at = safe_address(), value = one_in(2) ? some_pte() : some_number();
  switch (below(10)) {
    case 0: __asm__ volatile("movb %b1, (%0)" ::"r"(at), "r"(value) : "memory"); break;
    case 1: __asm__ volatile("movw %w1, (%0)" ::"r"(at), "r"(value) : "memory"); break;
    case 2: __asm__ volatile("movl %k1, (%0)" ::"r"(at), "r"(value) : "memory"); break;
    case 3: __asm__ volatile("lock xaddq %1, (%0)" : "+r"(at), "+r"(value)::"memory", "cc"); break;
    case 4: __asm__ volatile("lock cmpxchgq %1, (%0)" ::"r"(at), "r"(value), "a"(0) : "memory", "cc"); break;
    case 5: __asm__ volatile("orq %1, (%0)" ::"r"(at), "r"(value) : "memory", "cc"); break;
    case 6: __asm__ volatile("movq (%0), %1" : "+r"(at), "=r"(value)::"memory"); break;
    case 7: __asm__ volatile("movnti %1, (%0)" ::"r"(at), "r"(value) : "memory"); break;
    case 8: {
      u64 n = below(64), from = (u64)_text_start;
      __asm__ volatile("rep movsb" : "+D"(at), "+S"(from), "+c"(n)::"memory");
      break;
    }
    default: __asm__ volatile("movq %1, (%0)" ::"r"(at), "r"(value) : "memory"); break;
  }
}

// Gives the pool its pages back: mapped writable at their own addresses, no pins, empty windows, lost frames replaced.
void mmu_heal(void) {
  for (u64 slot = 1; slot <= WINDOW_SLOTS; slot++) mmu_update_one(l4_entry(slot), 0);
  mmuext(MMUEXT_NEW_USER_BASEPTR, 0, 0);
  mmuext(MMUEXT_SET_LDT, 0, 0);
  u64 none = 0;
  hypercall2(__HYPERVISOR_set_gdt, &none, 0);
  for (u32 round = 0; round < 2; round++)
    for (u32 i = 0; i < POOL_PAGES; i++) mmuext(MMUEXT_UNPIN_TABLE, pool_mfn[i], 0);
  for (u32 i = 0; i < POOL_PAGES; i++) update_va(pool[i], 0, UVMF_NONE);
  for (u32 i = 0; i < POOL_PAGES; i++) {
    if (!update_va(pool[i], pool_mfn[i] << 12 | PTE_RW, UVMF_INVLPG)) continue;
    u64 frame = pfn_of(pool[i]);
    struct xen_memory_reservation in = {.extent_start = &frame, .nr_extents = 1, .domid = DOMID_SELF};
    if (hypercall2(__HYPERVISOR_memory_op, XENMEM_populate_physmap, &in) != 1 || is_vital(frame)) continue;
    pool_mfn[i] = frame;
    update_va(pool[i], frame << 12 | PTE_RW, UVMF_INVLPG);
  }
  mmuext(MMUEXT_TLB_FLUSH_LOCAL, 0, 0);
}
