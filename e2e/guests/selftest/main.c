// SPDX-License-Identifier: Apache-2.0
//
// The self-test guest: one line per PV service of the hypervisor below, then a count, then poweroff (or SHUTDOWN_crash when something failed).
// Command line: only=a,b runs those services; mode=... see modes.c.
#include "selftest.h"

static const struct service services[] = {
  {"start_info", test_start_info, false},
  {"entry_state", test_entry_state, false},
  {"version", test_version, false},
  {"console", test_console, true},
  {"hypercall_page", test_hypercall_page, false},
  {"multicall", test_multicall, false},
  {"exceptions", test_exceptions, false},
  {"software_interrupts", test_software_interrupts, false},
  {"page_faults", test_page_faults, false},
  {"interrupt_gate", test_interrupt_gate, false},
  {"iret", test_iret, false},
  {"single_step", test_single_step, false},
  {"update_va_mapping", test_update_va_mapping, false},
  {"mmu_update", test_mmu_update, false},
  {"page_types", test_page_types, false},
  {"pinning", test_pinning, false},
  {"xen_slots", test_xen_slots, false},
  {"ptwr", test_ptwr, false},
  {"m2p", test_m2p, false},
  {"new_baseptr", test_new_baseptr, false},
  {"tlb_flush", test_tlb_flush, false},
  {"clear_copy_page", test_clear_copy_page, false},
  {"user_mode", test_user_mode, false},
  {"user_faults", test_user_faults, false},
  {"user_segments", test_user_segments, false},
  {"user_compat", test_user_compat, false},
  {"bad_iret", test_bad_iret, false},
  {"segment_base", test_segment_base, false},
  {"set_gdt", test_set_gdt, false},
  {"update_descriptor", test_update_descriptor, false},
  {"ldt", test_ldt, false},
  {"taskswitch", test_taskswitch, false},
  {"debugreg", test_debugreg, false},
  {"control_registers", test_control_registers, false},
  {"msrs", test_msrs, false},
  {"cpuid", test_cpuid, false},
  {"io_ports", test_io_ports, false},
  {"privileged", test_privileged, false},
  {"x87", test_x87, false},
  {"sse", test_sse, false},
  {"memory_op", test_memory_op, false},
  {"balloon", test_balloon, false},
  {"vcpu_op", test_vcpu_op, false},
  {"clock", test_clock, false},
  {"wallclock", test_wallclock, false},
  {"runstate", test_runstate, false},
  {"event_ipi", test_event_ipi, false},
  {"event_masks", test_event_masks, false},
  {"event_channel", test_event_channel, false},
  {"virq_timer", test_virq_timer, false},
  {"poll", test_poll, false},
  {"timer_block", test_timer_block, false},
  {"grant_table", test_grant_table, false},
  {"grant_copy", test_grant_copy, false},
  {"grant_map", test_grant_map, false},
  {"xenstore", test_xenstore, true},
  {"xenstore_transaction", test_xenstore_transaction, true},
  {"xenstore_watch", test_xenstore_watch, true},
  {"xenstore_errors", test_xenstore_errors, true},
  {"control_shutdown", test_control_shutdown, true},
  {"vcpu_info", test_vcpu_info, false}, // moves vcpu_info for good
  {"fifo", test_fifo, false},           // leaves the 2-level ABI for good
};

static bool failed;
static char detail[256];
static const char *skip_reason;

static void note(const char *format, ...) {
  if (failed) return;
  failed = true;
  __builtin_va_list args;
  __builtin_va_start(args, format);
  format_text(detail, sizeof detail, format, args);
  __builtin_va_end(args);
}

bool test_stops(bool condition, const char *what, u32 line) {
  if (!condition) note("line %u: %s", line, what);
  return !condition;
}

bool test_differs(u64 got, u64 expected, const char *what, u32 line) {
  if (got != expected) note("line %u: %s is %lx, expected %lx", line, what, got, expected);
  return got != expected;
}

bool test_trap_differs(u64 vector, u64 error, u32 line) {
  const struct trap_record *t = &last_trap;
  bool right = t->count == 1 && t->regs.vector == vector && t->regs.error == error;
  if (!right)
    note("line %u: %lu traps, last %lu error %lx, expected one %lu error %lx", line, t->count, t->regs.vector, t->regs.error, vector, error);
  return !right;
}

void test_skip(const char *reason) {
  skip_reason = reason;
}

static bool wanted(const char *name) {
  const char *list = option("only");
  if (!list) return true;
  u64 n = strlen(name);
  while (*list && *list != ' ') {
    if (starts_with(list, name) && (list[n] == ',' || list[n] == ' ' || !list[n])) return true;
    while (*list && *list != ' ' && *list != ',') list++;
    if (*list == ',') list++;
  }
  return false;
}

static u8 kernel_stack[16384] __attribute__((aligned(16)));
static u8 shared_page[PAGE_SIZE] PAGE_ALIGNED;

void guest_main(void) {
  console_init();
  const char *mode = option("mode");
  if (mode && starts_with(mode, "triple")) modes_run(mode);
  s64 mapped = update_va(shared_page, (start_info->shared_info & ~4095UL) | PTE_RW, UVMF_INVLPG);
  shared = (struct shared_info *)shared_page;
  vcpu = &shared->vcpu_info[0];
  if (mapped) {
    print("selftest: shared_info FAIL cannot be mapped (%ld)\n", mapped);
    guest_shutdown(SHUTDOWN_crash);
  }
  traps_init();
  hypercall2(__HYPERVISOR_stack_switch, FLAT_KERNEL_DS, kernel_stack + sizeof kernel_stack);
  if (mode) modes_run(mode);

  u32 passed = 0, failures = 0, skipped = 0;
  for (u32 i = 0; i < sizeof services / sizeof *services; i++) {
    const struct service *service = &services[i];
    if (!wanted(service->name)) continue;
    failed = false;
    skip_reason = NULL;
    if (service->guest_only && is_initial_domain()) skip_reason = "the initial domain has no rings";
    else if (guard_call(service->run)) {
      const struct regs *r = &last_trap.regs;
      note("unexpected trap %lu error %lx rip %lx cr2 %lx", r->vector, r->error, r->rip, last_trap.cr2);
    }
    trap_hook = NULL;
    event_hook = NULL;
    vcpu->evtchn_upcall_mask = 1;
    if (failed) failures++;
    else if (skip_reason) skipped++;
    else passed++;
    if (failed) print("selftest: %s FAIL %s\n", service->name, detail);
    else if (skip_reason) print("selftest: %s skipped (%s)\n", service->name, skip_reason);
    else print("selftest: %s ok\n", service->name);
  }
  if (skipped) print("selftest: %u passed, %u failed, %u skipped\n", passed, failures, skipped);
  else print("selftest: %u passed, %u failed\n", passed, failures);
  guest_shutdown(failures || !passed ? SHUTDOWN_crash : SHUTDOWN_poweroff);
}
