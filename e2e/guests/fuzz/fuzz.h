// SPDX-License-Identifier: Apache-2.0
//
// The fuzz guest's shared parts: the random source, the frames it plays with, the operations.
//
// INVARIANT: frames that hold the guest's own code, data, stacks, p2m list, start_info and page tables are "vital". No generator returns a vital
// frame for a use that could legally give it away, clear it or map it writable elsewhere, and no generator returns the address of vital data
// for a use that could legally overwrite it. So a hypervisor that obeys the rules lets the guest live to its last line.
#ifndef FUZZ_H
#define FUZZ_H
#include "../common/guest.h"

#define POOL_PAGES 48
#define WINDOW_SLOTS 4 // L4 slots 1 to 4 are free for anything that validates
extern struct guarded_pool {
  u8 before[PAGE_SIZE], pages[POOL_PAGES][PAGE_SIZE], behind[PAGE_SIZE]; // the guards are not mapped
} guarded_pool;
#define pool guarded_pool.pages
extern u64 pool_mfn[POOL_PAGES];
extern u8 args[PAGE_SIZE]; // request structures are built here
extern u64 kernel_stack_top;
extern bool initial_domain;

u64 rnd(void);
u64 below(u64 n);
static inline bool one_in(u64 n) {
  return below(n) == 0;
}
u64 some_count(void);    // small, zero, huge
u64 some_port(void);     // never the console's or xenstore's
u64 some_mfn(void);      // pool, tables, foreign, absent; never vital data
u64 some_pte(void);
u64 safe_address(void);  // pool, hole, read-only or not canonical: a write cannot hurt
u64 wild_address(void);  // the same, and read-only text
u64 mapping_address(void); // where a mapping may be changed: pool, window, or nowhere
u64 unreadable_address(void); // hole, not canonical, reserved
u64 some_number(void);   // interesting 64-bit numbers
bool is_vital(u64 mfn);
u8 *some_pool_page(void);
void *request(u64 n);    // args filled with n random bytes
void fuzz_failed(const char *what, u64 a, u64 b);
void reinstall_traps(void);

void find_tables(void);
u64 steady_now(void); // ns, by the clock parameters of the start: the shared page may be garbage later
void mmu_heal(void);
void user_prepare(void);
extern void (*const operations[])(void);
extern const u32 operation_count;

void op_mmu_update(void), op_update_va(void), op_mmuext(void), op_table_fill(void), op_window(void), op_baseptr(void), op_poke(void);
void op_evtchn(void), op_grant(void), op_grant_entry(void), op_memory(void), op_sched(void), op_vcpu(void), op_debugreg(void), op_segments(void);
void op_callbacks(void), op_trap_table(void), op_stack_switch(void), op_version(void), op_multicall(void), op_assist(void), op_any(void), op_timer(void);
void op_rings(void), op_privileged(void), op_msr(void), op_control(void), op_ports(void), op_selectors(void), op_smc(void), op_user(void), op_iret(void);
#endif
