// SPDX-License-Identifier: Apache-2.0
//
// Event channels, grants, memory, scheduling, vCPU and the other services, with arguments good and bad.
#include "fuzz.h"

// The argument: mostly our request, now and then something else.
static u64 argument(void) {
  return one_in(8) ? unreadable_address() : one_in(24) ? (u64)args + PAGE_SIZE - below(12) - 4 : (u64)args;
}

void op_evtchn(void) {
  u32 cmd = (u32)(one_in(24) ? some_number() : below(16));
  if (cmd == 10 || cmd == 14) return; // reset: would close the console
  if (cmd == EVTCHNOP_expand_array && one_in(2)) return;
  memset(args + PAGE_SIZE - 64, 0, 64);
  u32 *words = request(40);
  switch (cmd) {
    case EVTCHNOP_bind_interdomain:
      words[0] = one_in(2) ? DOMID_SELF : (u32)below(3);
      words[1] = (u32)some_port();
      break;
    case EVTCHNOP_bind_virq:
      words[0] = (u32)below(26);
      words[1] = (u32)below(3);
      break;
    case EVTCHNOP_alloc_unbound:
      words[0] = one_in(4) ? (u32)rnd() : DOMID_SELF | DOMID_SELF << 16;
      break;
    case EVTCHNOP_status:
      words[0] = DOMID_SELF;
      words[1] = (u32)some_port();
      break;
    case EVTCHNOP_init_control:
      *(u64 *)words = one_in(2) ? some_mfn() : 0x4000000000;
      words[2] = (u32)(one_in(2) ? below(512) * 8 : some_number());
      words[3] = (u32)below(2);
      break;
    case EVTCHNOP_expand_array: *(u64 *)words = some_mfn(); break;
    default: words[0] = (u32)some_port(); break;
  }
  u64 at = argument();
  if (at != (u64)args && at - (u64)args < PAGE_SIZE) return; // the tail of the page is only zeros, and port 0 is nobody's
  event_op(cmd, (void *)at);
}

static s64 grant_op(u64 cmd, u64 at, u64 n) {
  return hypercall3(__HYPERVISOR_grant_table_op, cmd, at, n);
}

static u8 grant_page[PAGE_SIZE] PAGE_ALIGNED;
static bool grant_ready;

void op_grant_entry(void) {
  if (!grant_ready) {
    u64 frame = 0;
    struct gnttab_setup_table setup = {.dom = DOMID_SELF, .nr_frames = 1, .frame_list = &frame};
    if (grant_op(GNTTABOP_setup_table, (u64)&setup, 1) || setup.status) return;
    grant_ready = update_va(grant_page, frame << 12 | PTE_RW, UVMF_INVLPG) == 0;
    if (!grant_ready) return;
  }
  struct grant_entry_v1 *entry = (struct grant_entry_v1 *)grant_page + 8 + below(32);
  u64 mfn = some_mfn();
  WRITE_ONCE(entry->frame, is_vital((u32)mfn) ? (u32)pool_mfn[0] : (u32)mfn);
  WRITE_ONCE(entry->domid, (u16)(one_in(4) ? rnd() : initial_domain ? 0 : below(4)));
  WRITE_ONCE(entry->flags, (u16)(one_in(4) ? rnd() : 1 | below(2) << 2));
}

void op_grant(void) {
  u64 cmd = one_in(24) ? some_number() & ~0xffUL : below(13), n = 1 + below(3);
  if (cmd == 3 || cmd == 4) return; // dump_table talks, transfer gives away
  for (u64 i = 0; i < n; i++) {
    u64 *q = (u64 *)(args + i * (cmd == GNTTABOP_copy ? 40 : cmd == GNTTABOP_map_grant_ref || cmd == GNTTABOP_setup_table || cmd == 7 || cmd == 9 ? 32 : 24));
    if (cmd == GNTTABOP_setup_table || cmd == 9) q = (u64 *)(args + i * 24);
    for (u32 k = 0; k < 5; k++) q[k] = some_number();
    switch (cmd) {
      case GNTTABOP_map_grant_ref: {
        struct gnttab_map_grant_ref *m = (void *)q;
        m->host_addr = mapping_address();
        m->flags = (u32)(one_in(4) ? rnd() & 0xff : GNTMAP_host_map | (one_in(2) ? GNTMAP_readonly : 0));
        m->ref = (u32)(one_in(8) ? some_number() : 8 + below(32));
        m->dom = (u16)(one_in(8) ? rnd() : initial_domain ? 0 : one_in(2) ? DOMID_SELF : below(4));
        if (m->flags & 0x10) m->host_addr = ma_of((void *)start_info->pt_base) + 8 * (1 + below(WINDOW_SLOTS)); // contains a PTE address
        break;
      }
      case GNTTABOP_unmap_grant_ref:
      case 7: {
        struct gnttab_unmap_grant_ref *u = (void *)q;
        u->host_addr = mapping_address();
        u->dev_bus_addr = cmd == 7 || one_in(2) ? mapping_address() : some_number();
        u->handle = (u32)(one_in(8) ? some_number() : below(24));
        break;
      }
      case GNTTABOP_setup_table:
      case 9: {
        struct gnttab_setup_table *s = (void *)q;
        s->dom = DOMID_SELF;
        s->nr_frames = (u32)(one_in(4) ? some_number() : below(4));
        s->frame_list = (u64 *)safe_address();
        if (cmd == 9) q[0] = (u64)(u32)below(4) | (u64)DOMID_SELF << 32;
        break;
      }
      case GNTTABOP_copy: {
        struct gnttab_copy *c = (void *)q;
        c->flags = (u16)(one_in(8) ? rnd() : below(4));
        c->source = (struct gnttab_copy_ptr){c->flags & 1 ? 8 + below(40) : some_mfn(), one_in(8) ? (u16)rnd() : DOMID_SELF, (u16)some_number(), {0}};
        c->dest = (struct gnttab_copy_ptr){c->flags & 2 ? 8 + below(40) : some_mfn(), one_in(8) ? (u16)rnd() : DOMID_SELF, (u16)some_number(), {0}};
        c->len = (u16)some_number();
        break;
      }
      case GNTTABOP_set_version: q[0] = below(4); break;
      default: q[0] = DOMID_SELF | rnd() << 32; break;
    }
  }
  u64 at = argument();
  if (at != (u64)args && at - (u64)args < PAGE_SIZE) at = unreadable_address();
  grant_op(cmd, at, at == (u64)args ? n : some_count());
}

void op_memory(void) {
  u64 cmd = one_in(24) ? some_number() | 0x20 : below(30);
  if (initial_domain && (cmd == 7 || cmd > 14)) return; // the initial domain may do more than is good for it
  struct xen_memory_reservation *r = request(64);
  if (cmd <= 1 || cmd == 6 || cmd == 11) {
    u64 *list = (u64 *)(args + 1024);
    for (u32 i = 0; i < 8; i++) list[i] = cmd == 6 ? below(start_info->nr_pages) : one_in(4) ? 0x4000000000 + rnd() % 4096 : pool_mfn[below(POOL_PAGES)];
    for (u32 part = 0; part < 2; part++) {
      r[part] = (struct xen_memory_reservation){
        .extent_start = list, .nr_extents = below(4), .extent_order = 0, .mem_flags = one_in(8) ? (u32)rnd() : 0, .domid = DOMID_SELF};
      if (one_in(6)) { // a list nobody can read, with any count and order
        r[part].extent_start = (u64 *)unreadable_address();
        r[part].nr_extents = some_count();
        r[part].extent_order = (u32)(one_in(2) ? below(12) : some_number());
      }
      if (one_in(16)) r[part].domid = (u16)rnd();
    }
    *(u64 *)(args + 64) = some_count(); // exchange: nr_exchanged
  } else {
    u64 *q = (u64 *)args;
    q[0] = one_in(2) ? DOMID_SELF : below(256);
    q[1] = safe_address();
    q[2] = some_mfn();
  }
  hypercall2(__HYPERVISOR_memory_op, cmd, one_in(12) ? unreadable_address() : (u64)args);
}

void op_sched(void) {
  u32 *ports = (u32 *)(args + 256);
  for (u32 i = 0; i < 8; i++) ports[i] = (u32)some_port();
  struct sched_poll poll = {one_in(6) ? (u32 *)unreadable_address() : ports, (u32)(one_in(6) ? some_number() : below(9)), 0, steady_now() + below(20000)};
  switch (below(4)) {
    case 0: sched_op(SCHEDOP_yield, NULL); break;
    case 1: sched_op((u32)(16 + (some_number() & 0xffffff)), (void *)unreadable_address()); break;
    default: sched_op(SCHEDOP_poll, one_in(8) ? (void *)unreadable_address() : &poll); break;
  }
}

void op_vcpu(void) {
  u64 cmd = one_in(16) ? some_number() | 0x20 : below(14), id = one_in(4) ? some_number() : 0;
  if (cmd == 2 && (u32)id == 0) return; // down: the end
  if (cmd <= 1) id = 1 + below(40);
  u64 *q = request(64);
  if (cmd == VCPUOP_register_runstate_memory_area || cmd == 13) q[0] = safe_address();
  if (cmd == VCPUOP_set_periodic_timer) q[0] = 1000000 + below(1000000000);
  if (cmd == VCPUOP_register_vcpu_info) q[0] = 0x4000000000 + (rnd() >> 32);
  hypercall3(__HYPERVISOR_vcpu_op, cmd, id, one_in(8) ? unreadable_address() : (u64)args);
  vcpu_op(VCPUOP_stop_periodic_timer, NULL);
}

void op_timer(void) {
  struct vcpu_set_singleshot_timer shot = {one_in(2) ? steady_now() + below(100000) : some_number(), (u32)below(4), 0};
  vcpu_op(VCPUOP_set_singleshot_timer, one_in(8) ? (void *)unreadable_address() : &shot);
  if (one_in(4)) hypercall1(__HYPERVISOR_set_timer_op, some_number());
  // Let upcalls through for a moment, with masks and pending bits of our own making.
  if (shared && one_in(2)) shared->evtchn_mask[below(4)] = rnd();
  if (shared && one_in(2)) shared->evtchn_pending[below(64)] |= rnd();
  vcpu->evtchn_pending_sel = rnd();
  vcpu->evtchn_upcall_mask = 0;
  xen_version(XENVER_version, NULL);
  vcpu->evtchn_upcall_mask = 1;
}

void op_debugreg(void) {
  u64 number = one_in(8) ? some_number() : below(8);
  hypercall2(__HYPERVISOR_set_debugreg, number, one_in(3) ? below(0x10000) << 16 | 0x400 | below(256) : wild_address());
  hypercall1(__HYPERVISOR_get_debugreg, some_number() & 15);
  hypercall2(__HYPERVISOR_set_debugreg, 7, 0x400);
}

void op_segments(void) {
  u64 mfns[16];
  switch (below(4)) {
    case 0:
      for (u32 i = 0; i < 16; i++) mfns[i] = some_mfn();
      hypercall2(__HYPERVISOR_set_gdt, one_in(6) ? (void *)unreadable_address() : mfns, one_in(4) ? some_number() : below(7170));
      break;
    case 1: hypercall2(__HYPERVISOR_update_descriptor, (one_in(8) ? 0x4000000000 : pool_mfn[below(POOL_PAGES)]) << 12 | below(512) * 8, rnd()); break;
    case 2: hypercall2(__HYPERVISOR_set_segment_base, below(6), one_in(2) ? some_number() : safe_address()); break;
    default: {
      // A pool page full of nearly good descriptors, loaded as table.
      u64 *page = (u64 *)some_pool_page(), mfn = pool_mfn[((u64)page - (u64)pool) / PAGE_SIZE];
      for (u32 i = 0; i < 16; i++) page[i] = 0x00cff3000000ffff ^ (one_in(2) ? 1UL << below(64) : 0);
      update_va(page, mfn << 12 | PTE_RO, UVMF_INVLPG);
      hypercall2(__HYPERVISOR_set_gdt, &mfn, 512);
      break;
    }
  }
}

void op_callbacks(void) {
  struct callback_register *r = (void *)args;
  *r = (struct callback_register){(u16)(2 + below(8)), (u16)below(4), one_in(2) ? wild_address() : some_number()};
  hypercall2(__HYPERVISOR_callback_op, below(4), one_in(8) ? unreadable_address() : (u64)r);
  reinstall_traps();
}

void op_trap_table(void) {
  struct trap_info *t = (void *)args;
  u64 n = below(20);
  for (u64 i = 0; i < n; i++) t[i] = (struct trap_info){(u8)rnd(), (u8)rnd(), (u16)rnd(), wild_address() | 1};
  t[n].address = 0;
  hypercall1(__HYPERVISOR_set_trap_table, one_in(8) ? unreadable_address() : (u64)args);
  reinstall_traps();
}

void op_stack_switch(void) {
  hypercall2(__HYPERVISOR_stack_switch, one_in(2) ? FLAT_KERNEL_DS : rnd() & 0xffff, one_in(2) ? wild_address() : some_number());
  hypercall2(__HYPERVISOR_stack_switch, FLAT_KERNEL_DS, kernel_stack_top);
}

void op_version(void) {
  xen_version((u32)(one_in(8) ? some_number() : below(12)), (void *)(one_in(2) ? safe_address() : wild_address()));
}

void op_multicall(void) {
  struct multicall_entry *calls = (void *)(args + 1024);
  u64 n = 1 + below(6);
  struct mmu_update *update = (void *)(args + 3072);
  *update = (struct mmu_update){pool_mfn[below(POOL_PAGES)] << 12 | below(512) * 8, some_pte()};
  for (u64 i = 0; i < n; i++) {
    static const u8 numbers[] = {1, 13, 14, 17, 17, 55, 25, 9, 5};
    calls[i].op = one_in(16) ? some_number() | 64 : numbers[below(sizeof numbers)];
    for (u32 k = 0; k < 6; k++) calls[i].args[k] = some_number();
    if (calls[i].op == 1) memcpy(calls[i].args, (u64[]){(u64)update, 1, 0, DOMID_SELF}, 32);
    if (calls[i].op == 13) memcpy(calls[i].args, (u64[]){one_in(2) ? unreadable_address() : (u64)calls, one_in(2) ? some_number() : 1}, 16);
    if (calls[i].op == 14) memcpy(calls[i].args, (u64[]){(u64)some_pool_page(), some_pte(), below(8)}, 24);
    if (calls[i].op == 17) memcpy(calls[i].args, (u64[]){below(12), safe_address()}, 16);
    if (calls[i].op == 5) calls[i].args[0] = 0;
  }
  hypercall2(__HYPERVISOR_multicall, one_in(8) ? unreadable_address() : (u64)calls, one_in(16) && 0 ? 0 : n);
  if (one_in(16)) hypercall2(__HYPERVISOR_multicall, unreadable_address(), some_number());
}

void op_assist(void) {
  u64 type = one_in(3) ? VMASST_TYPE_writable_pagetables : one_in(4) ? some_number() : below(6);
  hypercall2(__HYPERVISOR_vm_assist, below(4), type);
  if (one_in(3)) hypercall1(__HYPERVISOR_fpu_taskswitch, some_number());
}

// Any number that cannot end or derail us by design, with anything.
void op_any(void) {
  u64 nr = one_in(8) ? some_number() | 64 : below(64);
  if (nr <= 14 || nr == 15 || nr == 23 || nr == 24 || nr == 25 || nr == 29 || nr == 30 || nr == 32 || nr == 26 || nr == 20 || nr == 22 || nr == 16) return;
  if (initial_domain && nr != 17 && nr != 40 && nr < 64) return;
  hypercall5(nr, one_in(2) ? below(32) : some_number(), unreadable_address(), one_in(2) ? unreadable_address() : some_number(), some_number(), some_number());
}

void op_rings(void) {
  if (!console_ring) return;
  struct xencons_interface *c = console_ring;
  static struct xenstore_domain_interface *xs;
  if (!xs) xs = va_of_mfn(start_info->store_mfn);
  if (one_in(2)) {
    u32 port = start_info->console_evtchn, real = c->out_prod;
    c->in_cons = (u32)some_number();
    if (one_in(2)) c->in_prod = (u32)some_number();
    // An output index far away must not make the host print for ever; then back to where it can go on.
    WRITE_ONCE(c->out_prod, (u32)(c->out_cons + 2049 + (u32)rnd()) | 0x80000000);
    event_op(EVTCHNOP_send, &port);
    WRITE_ONCE(c->out_prod, real);
    return;
  }
  u32 port = start_info->store_evtchn;
  if (one_in(2)) {
    u32 *header = (u32 *)(xs->req + xs->req_prod % 1008 / 4 * 4);
    for (u32 i = 0; i < 4; i++) header[i] = (u32)some_number();
    xs->req_prod += 16;
  } else {
    xs->req_prod = (u32)some_number();
    if (one_in(2)) xs->req_cons = (u32)some_number();
  }
  if (one_in(2)) xs->rsp_cons = (u32)some_number();
  else xs->rsp_cons = xs->rsp_prod;
  if (one_in(8)) xs->connection = (u32)some_number();
  event_op(EVTCHNOP_send, &port);
}
