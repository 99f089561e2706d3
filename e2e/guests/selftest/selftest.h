// SPDX-License-Identifier: Apache-2.0
//
// The selftest's small framework: a service is a function that returns at the first expectation that does not hold.
#ifndef SELFTEST_H
#define SELFTEST_H
#include "../common/guest.h"

struct service {
  const char *name;
  void (*run)(void);
  bool guest_only; // needs rings that the initial domain of a real Xen does not have
};

// Each notes the first failure of the running service, with the line, and says whether the service must stop.
bool test_stops(bool condition, const char *what, u32 line);
bool test_differs(u64 got, u64 wanted, const char *what, u32 line);
bool test_trap_differs(u64 vector, u64 error, u32 line);
// Ends the running service as skipped, with a reason: for what the machine below cannot do, never for what the hypervisor does wrong.
void test_skip(const char *reason);
#define EXPECT(condition)                                                                                                                            \
  do {                                                                                                                                               \
    if (test_stops(condition, #condition, __LINE__)) return;                                                                                         \
  } while (0)
#define EXPECT_EQ(value, wanted)                                                                                                                     \
  do {                                                                                                                                               \
    if (test_differs((u64)(value), (u64)(wanted), #value, __LINE__)) return;                                                                         \
  } while (0)
// Expects that the TRY just made trapped once with this vector and error code.
#define EXPECT_TRAP(vector, error)                                                                                                                   \
  do {                                                                                                                                               \
    if (test_trap_differs(vector, error, __LINE__)) return;                                                                                          \
  } while (0)
#define EXPECT_NO_TRAP() EXPECT_EQ(last_trap.count, 0)

// mmu.c: a window of 512 pages at WINDOW through tables of our own in slot 1 of the kernel's L4.
#define WINDOW 0x8000000000
extern u8 page_a[PAGE_SIZE], page_b[PAGE_SIZE];
bool int_errors_sound(void); // traps.c
s64 make_read_only(const volatile void *page);
s64 make_writable(const volatile void *page);
u64 l4_entry_ma(u64 slot);

// user.c: user mode with code, data and stack pages below 8 MiB.
#define USER_CODE 0x400000
#define USER_DATA 0x401000
#define USER_RO 0x402000
#define USER_STACK 0x402000
s64 user_setup(void);
void user_teardown(void);

// events.c
void events_start(void); // hooks upcalls and forgets what fired; upcalls stay masked
void events_allow(void); // clears the upcall mask; what is pending arrives now
void events_block(void); // sets the upcall mask
u32 events_fired(u32 port);
bool events_wait(u32 port, u64 timeout_ns);
u16 own_domid(void);

void modes_run(const char *mode);

void test_start_info(void), test_entry_state(void), test_version(void), test_console(void), test_hypercall_page(void), test_multicall(void);
void test_exceptions(void), test_software_interrupts(void), test_page_faults(void), test_interrupt_gate(void), test_iret(void), test_single_step(void);
void test_user_mode(void), test_user_faults(void), test_user_segments(void), test_user_compat(void), test_bad_iret(void), test_segment_base(void);
void test_update_va_mapping(void), test_mmu_update(void), test_page_types(void), test_pinning(void), test_xen_slots(void), test_ptwr(void);
void test_m2p(void), test_new_baseptr(void), test_tlb_flush(void), test_clear_copy_page(void);
void test_set_gdt(void), test_update_descriptor(void), test_ldt(void);
void test_event_ipi(void), test_event_masks(void), test_event_channel(void), test_virq_timer(void), test_poll(void), test_vcpu_info(void), test_fifo(void);
void test_clock(void), test_wallclock(void), test_runstate(void), test_timer_block(void), test_vcpu_op(void);
void test_grant_table(void), test_grant_copy(void), test_grant_map(void);
void test_xenstore(void), test_xenstore_transaction(void), test_xenstore_watch(void), test_xenstore_errors(void), test_control_shutdown(void);
void test_memory_op(void), test_balloon(void);
void test_taskswitch(void), test_debugreg(void), test_control_registers(void), test_msrs(void), test_cpuid(void), test_io_ports(void), test_privileged(void);
void test_x87(void), test_sse(void);
#endif
