// SPDX-License-Identifier: Apache-2.0
//
// The fuzz guest: random hostile operations, each under a guard that any trap abandons. Command line: seed=N count=N (default 1 and 1000000).
// Prints progress every 65536 operations, at last `fuzz: N operations done`, then powers off.
#include "fuzz.h"

struct guarded_pool guarded_pool PAGE_ALIGNED;
u64 pool_mfn[POOL_PAGES];
u8 args[PAGE_SIZE] PAGE_ALIGNED;
u64 kernel_stack_top;
bool initial_domain;
static u8 kernel_stack[16384] __attribute__((aligned(16)));
static u8 shared_page[PAGE_SIZE] PAGE_ALIGNED;
static u64 state, traps;
static struct vcpu_time_info start_time;

// Every operation as often as it stands here.
void (*const operations[])(void) = {
  op_mmu_update, op_mmu_update, op_mmu_update, op_mmu_update, op_update_va, op_update_va, op_update_va, op_mmuext,     op_mmuext,       op_mmuext,
  op_table_fill, op_table_fill, op_window,     op_window,     op_baseptr,   op_poke,      op_poke,      op_poke,       op_evtchn,       op_evtchn,
  op_grant,      op_grant,      op_grant_entry, op_memory,    op_sched,     op_vcpu,      op_debugreg,  op_segments,   op_segments,     op_callbacks,
  op_trap_table, op_stack_switch, op_version,  op_multicall,  op_multicall, op_assist,    op_any,       op_any,        op_timer,        op_rings,
  op_privileged, op_msr,        op_control,    op_ports,      op_selectors, op_smc,       op_smc,       op_user,       op_iret,
};
const u32 operation_count = sizeof operations / sizeof *operations;

u64 rnd(void) {
  state ^= state << 13;
  state ^= state >> 7;
  state ^= state << 17;
  return state * 0x2545f4914f6cdd1d;
}

u64 below(u64 n) {
  return (rnd() >> 11) % n;
}

void fuzz_failed(const char *what, u64 a, u64 b) {
  print("fuzz: FAIL %s %lx %lx\n", what, a, b);
  guest_shutdown(SHUTDOWN_crash);
}

static bool on_trap(struct regs *regs) {
  traps++;
  if (regs->vector == 1 && (regs->cs & 3) == 0) {
    // One of our own breakpoints or a stray single-step: switch it off and go on.
    hypercall2(__HYPERVISOR_set_debugreg, 7, 0x400);
    regs->rflags &= ~(u64)X86_EFLAGS_TF;
    return true;
  }
  return false;
}

u64 steady_now(void) {
  return time_at(&start_time);
}

// Empties the table first: a vector that we do not handle must not keep a random handler. No breakpoint may hit meanwhile.
void reinstall_traps(void) {
  hypercall2(__HYPERVISOR_set_debugreg, 7, 0x400);
  hypercall1(__HYPERVISOR_set_trap_table, 0);
  traps_init();
}

static void map_shared_info(void) {
  update_va(shared_page, (start_info->shared_info & ~4095UL) | PTE_RW, UVMF_INVLPG);
  shared = (struct shared_info *)shared_page;
  vcpu = &shared->vcpu_info[0];
}

// Our text becomes read-only, so that a hypercall told to write there must fail.
static void protect_text(void) {
  for (u8 *page = _text_start; page < _text_end; page += PAGE_SIZE) update_va(page, mfn_of(page) << 12 | PTE_RO, UVMF_INVLPG);
}

void guest_main(void) {
  console_init();
  initial_domain = is_initial_domain();
  map_shared_info();
  reinstall_traps();
  kernel_stack_top = (u64)kernel_stack + sizeof kernel_stack;
  hypercall2(__HYPERVISOR_stack_switch, FLAT_KERNEL_DS, kernel_stack_top);
  protect_text();
  for (u32 i = 0; i < POOL_PAGES; i++) pool_mfn[i] = mfn_of(pool[i]);
  update_va(guarded_pool.before, 0, UVMF_INVLPG);
  update_va(guarded_pool.behind, 0, UVMF_INVLPG);
  find_tables();
  start_time = vcpu->time;
  user_prepare();
  vcpu_op(VCPUOP_stop_periodic_timer, NULL);
  u64 seed = option_number("seed", 1), count = option_number("count", 1000000);
  state = seed * 0x9e3779b97f4a7c15 + 0x1234567;
  if (!state) state = 1;
  print("fuzz: seed %lu, %lu operations\n", seed, count);
  u64 only = option_number("only", operation_count), trace = option_number("trace", ~0UL);
  trap_hook = on_trap;
  for (u64 done = 0; done < count; done++) {
    if (done && done % 65536 == 0) print("fuzz: %lu operations, %lu traps\n", done, traps);
    u64 which = only < operation_count ? only : below(operation_count);
    if (done >= trace) print("fuzz: operation %lu is number %lu\n", done, which);
    guard_call(operations[which]);
    if (done % 512 == 511) mmu_heal();
  }
  print("fuzz: %lu operations done\n", count);
  guest_shutdown(SHUTDOWN_poweroff);
}
