// SPDX-License-Identifier: Apache-2.0
//
// Grant table version 1: set-up, copies between our own frames and grants, mapping a grant of our own.
#include "selftest.h"

static struct grant_entry_v1 table[512] PAGE_ALIGNED;
static bool table_mapped;

static s64 grant_op(u32 cmd, void *arg, u32 count) {
  return hypercall3(__HYPERVISOR_grant_table_op, cmd, arg, count);
}

static s64 table_map(void) {
  if (table_mapped) return 0;
  u32 version = 1;
  s64 rc = grant_op(GNTTABOP_set_version, &version, 1);
  if (rc) return rc;
  u64 frame = 0;
  struct gnttab_setup_table setup = {.dom = DOMID_SELF, .nr_frames = 1, .frame_list = &frame};
  rc = grant_op(GNTTABOP_setup_table, &setup, 1);
  if (rc || setup.status) return rc ? rc : setup.status;
  rc = update_va(table, frame << 12 | PTE_RW, UVMF_INVLPG);
  table_mapped = rc == 0;
  return rc;
}

static void grant(u32 ref, const void *page, u16 flags) {
  table[ref].domid = own_domid();
  table[ref].frame = (u32)mfn_of(page);
  barrier();
  WRITE_ONCE(table[ref].flags, (u16)(GTF_permit_access | flags));
}

void test_grant_table(void) {
  struct gnttab_query_size size = {.dom = DOMID_SELF};
  EXPECT_EQ(grant_op(GNTTABOP_query_size, &size, 1), 0);
  EXPECT_EQ(size.status, GNTST_okay);
  EXPECT(size.max_nr_frames >= 1 && size.max_nr_frames >= size.nr_frames);
  EXPECT_EQ(table_map(), 0);
  struct gnttab_get_version version = {.dom = DOMID_SELF};
  EXPECT_EQ(grant_op(GNTTABOP_get_version, &version, 1), 0);
  EXPECT_EQ(version.version, 1);
  u32 bad = 3;
  EXPECT_EQ(grant_op(GNTTABOP_set_version, &bad, 1), -XEN_EINVAL);
  EXPECT_EQ(table[100].flags, 0);
  WRITE_ONCE(table[100].frame, 0x1234);
  EXPECT_EQ(READ_ONCE(table[100].frame), 0x1234);
  WRITE_ONCE(table[100].frame, 0);
  if (!is_initial_domain()) {
    // The builder granted the console and xenstore pages to their backend.
    EXPECT_EQ(table[0].flags & 3, GTF_permit_access);
    EXPECT_EQ(table[0].frame, start_info->console_mfn);
    EXPECT_EQ(table[1].flags & 3, GTF_permit_access);
    EXPECT_EQ(table[1].frame, start_info->store_mfn);
  }
  EXPECT_EQ(grant_op(99, &bad, 1), -XEN_ENOSYS);
}

void test_grant_copy(void) {
  EXPECT_EQ(table_map(), 0);
  for (u32 i = 0; i < PAGE_SIZE; i++) page_a[i] = (u8)(i * 7);
  memset(page_b, 0, PAGE_SIZE);
  grant(20, page_a, GTF_readonly);
  struct gnttab_copy copy[3] = {
    {.source = {20, DOMID_SELF, 16, {0}}, .dest = {mfn_of(page_b), DOMID_SELF, 1000, {0}}, .len = 500, .flags = GNTCOPY_source_gref},
    {.source = {mfn_of(page_a), DOMID_SELF, 0, {0}}, .dest = {mfn_of(page_b), DOMID_SELF, 4000, {0}}, .len = 97}, // ends behind the page
    {.source = {400, DOMID_SELF, 0, {0}}, .dest = {mfn_of(page_b), DOMID_SELF, 0, {0}}, .len = 1, .flags = GNTCOPY_source_gref}, // not granted
  };
  EXPECT_EQ(grant_op(GNTTABOP_copy, copy, 3), 0);
  EXPECT_EQ(copy[0].status, GNTST_okay);
  EXPECT_EQ(memcmp(page_b + 1000, page_a + 16, 500), 0);
  EXPECT_EQ(page_b[999] | page_b[1500], 0);
  EXPECT_EQ(copy[1].status, GNTST_bad_copy_arg);
  EXPECT(copy[2].status < 0);
  // A read-only grant is no destination.
  struct gnttab_copy back = {.source = {mfn_of(page_b), DOMID_SELF, 0, {0}}, .dest = {20, DOMID_SELF, 0, {0}}, .len = 8, .flags = GNTCOPY_dest_gref};
  EXPECT_EQ(grant_op(GNTTABOP_copy, &back, 1), 0);
  EXPECT(back.status < 0);
  EXPECT_EQ(table[20].flags, GTF_permit_access | GTF_readonly); // not in use any more
  WRITE_ONCE(table[20].flags, 0);
}

void test_grant_map(void) {
  static u8 hole[PAGE_SIZE] PAGE_ALIGNED;
  EXPECT_EQ(table_map(), 0);
  *(volatile u64 *)page_a = 0x67726e74;
  grant(21, page_a, 0);
  EXPECT_EQ(update_va(hole, 0, UVMF_INVLPG), 0);
  struct gnttab_map_grant_ref map = {.host_addr = (u64)hole, .flags = GNTMAP_host_map, .ref = 21, .dom = own_domid()};
  EXPECT_EQ(grant_op(GNTTABOP_map_grant_ref, &map, 1), 0);
  EXPECT_EQ(map.status, GNTST_okay);
  EXPECT_EQ(READ_ONCE(*(u64 *)hole), 0x67726e74);
  WRITE_ONCE(*(u64 *)hole, 0x77);
  EXPECT_EQ(*(volatile u64 *)page_a, 0x77);
  EXPECT_EQ(table[21].flags, GTF_permit_access | GTF_reading | GTF_writing);
  struct gnttab_unmap_grant_ref unmap = {.host_addr = (u64)hole, .handle = map.handle};
  EXPECT_EQ(grant_op(GNTTABOP_unmap_grant_ref, &unmap, 1), 0);
  EXPECT_EQ(unmap.status, GNTST_okay);
  TRY("movq (%0), %%rax", "r"(hole));
  EXPECT_TRAP(14, 0);
  EXPECT_EQ(table[21].flags, GTF_permit_access);
  unmap.status = 0;
  EXPECT_EQ(grant_op(GNTTABOP_unmap_grant_ref, &unmap, 1), 0);
  EXPECT(unmap.status < 0); // the handle is gone
  map.ref = 400;
  EXPECT_EQ(grant_op(GNTTABOP_map_grant_ref, &map, 1), 0);
  EXPECT(map.status < 0);
  WRITE_ONCE(table[21].flags, 0);
  EXPECT_EQ(make_writable(hole), 0);
}
