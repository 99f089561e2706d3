// SPDX-License-Identifier: Apache-2.0
//
// Random values: addresses, frames, page-table entries, counts.
#include "fuzz.h"

#define HOLE (VIRT_BASE + 0x30000000) // kernel addresses that are never mapped

// The frames of the initial L4, and of the L3 and L2 above our own mapping. No L1: one that is mapped read-only somewhere in the pool could be
// written there by write-fault emulation, quite legally.
u64 upper_tables[3];

void find_tables(void) {
  const u64 *m2p = (const u64 *)MACH2PHYS_VIRT_START, *table = (const u64 *)start_info->pt_base;
  upper_tables[0] = mfn_of(table);
  static const u32 index[2] = {511, 510};
  for (u32 level = 0; level < 2; level++) {
    upper_tables[level + 1] = table[index[level]] >> 12 & 0xffffffffff;
    table = (const u64 *)(VIRT_BASE + (m2p[upper_tables[level + 1]] << 12));
  }
}

u64 some_number(void) {
  static const u64 numbers[] = {0, 1, 2, 7, 8, 0xfff, 0x1000, 0x1001, 0x7fff, 0xffff, 0x7fffffff, 0x80000000, 0xffffffff, 0x100000000,
    0x7fffffffffff, 0x800000000000, 0xffff7fffffffffff, 0xffff800000000000, 0x7fffffffffffffff, 0x8000000000000000, ~0UL, ~0UL - 7};
  switch (below(4)) {
    case 0: return rnd();
    case 1: return rnd() >> below(64);
    default: return numbers[below(sizeof numbers / sizeof *numbers)] + (one_in(4) ? below(16) - 8 : 0);
  }
}

u64 some_count(void) {
  switch (below(8)) {
    case 0: return 0;
    case 1: return some_number();
    case 2: return below(5000);
    default: return 1 + below(6);
  }
}

u64 some_port(void) {
  u64 port = one_in(6) ? some_number() : one_in(4) ? below(4096) : below(24);
  if (!initial_domain && ((u32)port == start_info->console_evtchn || (u32)port == start_info->store_evtchn)) port = 0;
  return port;
}

u8 *some_pool_page(void) {
  return pool[below(POOL_PAGES)];
}

// All of the initial mapping is vital but the pool.
bool is_vital(u64 mfn) {
  const u64 *p2m = (const u64 *)start_info->mfn_list;
  u64 first = pfn_of(_text_start), last = pfn_of((void *)start_info->pt_base) + start_info->nr_pt_frames + 1;
  u64 pool_first = pfn_of(pool);
  // A contiguous machine range is the usual case; the loop is for the others.
  if (p2m[first] + (last - first) == p2m[last]) {
    if (mfn < p2m[first] || mfn > p2m[last]) return false;
    u64 pfn = first + (mfn - p2m[first]);
    return pfn < pool_first || pfn >= pool_first + POOL_PAGES;
  }
  for (u64 pfn = first; pfn <= last; pfn++)
    if (p2m[pfn] == mfn) return pfn < pool_first || pfn >= pool_first + POOL_PAGES;
  return false;
}

u64 some_mfn(void) {
  u64 mfn;
  switch (below(12)) {
    case 0: return upper_tables[below(3)];
    case 1: mfn = below(start_info->nr_pages * 2); break;
    case 2: mfn = some_number(); break;
    case 3: mfn = start_info->shared_info >> 12; break;
    default: return pool_mfn[below(POOL_PAGES)];
  }
  return is_vital(mfn & 0xffffffffff) ? pool_mfn[0] : mfn;
}

u64 some_pte(void) {
  static const u64 usual[] = {PTE_RW, PTE_RO, PTE_TABLE, PTE_RW | _PAGE_NX, 1, 3, 5, 7, 0, 0x67, 0x63, 0x25};
  u64 flags = usual[below(sizeof usual / sizeof *usual)];
  if (one_in(8)) flags ^= 1UL << below(12);
  if (one_in(16)) flags ^= 1UL << (48 + below(16));
  if (one_in(32)) flags = rnd() & 0xfff0000000000fff;
  return (some_mfn() << 12 & 0x000ffffffffff000) | flags;
}

u64 safe_address(void) {
  u64 inside = one_in(3) ? PAGE_SIZE - below(16) : one_in(3) ? below(PAGE_SIZE) : below(512) * 8;
  switch (below(16)) {
    case 0: return below(8192);
    case 1: return 0x0000800000000000 + (rnd() >> 20);
    case 2: return 0xffff800000000000 + (rnd() >> below(40) & 0x7fffffffffff);
    case 3: return HOLE + below(0x1000000);
    case 4: return start_info->pt_base + inside % 4032; // the L4: read-only, and never written by emulation; an L1 may lie behind it
    case 5: return ~0UL - below(4096);
    case 6: return 0x8000000000 * (1 + below(WINDOW_SLOTS)) + below(8) * PAGE_SIZE + inside; // the window
    default: return (u64)some_pool_page() + inside % PAGE_SIZE;
  }
}

u64 mapping_address(void) {
  if (one_in(8)) return unreadable_address();
  if (one_in(4)) return 0x8000000000 * (1 + below(WINDOW_SLOTS)) + below(64) * PAGE_SIZE;
  return (u64)some_pool_page() + (one_in(8) ? below(PAGE_SIZE) : 0);
}

u64 unreadable_address(void) {
  switch (below(5)) {
    case 0: return below(8192);
    case 1: return 0x0000800000000000 + (rnd() >> 20);
    case 2: return 0xffff810000000000 + (rnd() >> 24);
    case 3: return ~0UL - below(4096);
    default: return HOLE + below(0x1000000);
  }
}

u64 wild_address(void) {
  if (one_in(16)) return (u64)_text_start + below((u64)(_text_end - _text_start));
  return safe_address();
}

void *request(u64 n) {
  for (u64 i = 0; i < n; i += 8) *(u64 *)(args + i) = one_in(3) ? some_number() : below(16);
  return args;
}
