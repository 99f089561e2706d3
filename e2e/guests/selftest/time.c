// SPDX-License-Identifier: Apache-2.0
//
// The PV clock, wallclock, run state and the small vCPU operations.
#include "selftest.h"

void test_clock(void) {
  const struct vcpu_time_info *t = &vcpu->time;
  EXPECT_EQ(t->version & 1, 0);
  EXPECT(t->tsc_to_system_mul != 0);
  EXPECT(t->tsc_shift > -32 && t->tsc_shift < 32);
  u64 stamp = READ_ONCE(t->tsc_timestamp);
  EXPECT(rdtsc() >= stamp);
  u64 previous = now_ns(), first = previous;
  EXPECT(previous > 0);
  for (u32 i = 0; i < 500; i++) {
    u64 now = now_ns();
    EXPECT(now >= previous);
    previous = now;
  }
  EXPECT(previous > first);
  // The multiplier and the counter agree: 10^9 * 2^32 / mul >> shift is a believable frequency.
  u64 hz = (1000000000UL << 32) / t->tsc_to_system_mul;
  hz = t->tsc_shift < 0 ? hz << -t->tsc_shift : hz >> t->tsc_shift;
  EXPECT(hz >= 1000000 && hz <= 20000000000);
  u64 tsc = rdtsc(), ns = now_ns();
  while (now_ns() < ns + 200000) {
  }
  u64 ticks = rdtsc() - tsc, spent = now_ns() - ns;
  u64 expected = spent * (hz / 1000) / 1000000;
  EXPECT(ticks + expected / 4 + 100000 > expected);
  EXPECT(ticks < expected * 2 + 1000000);
}

void test_wallclock(void) {
  EXPECT_EQ(READ_ONCE(shared->wc_version) & 1, 0);
  u64 boot = (u64)shared->wc_sec_hi << 32 | shared->wc_sec;
  EXPECT(shared->wc_nsec < 1000000000);
  u64 now = boot + now_ns() / 1000000000;
  EXPECT(now > 1577836800); // 2020
  EXPECT(now < 4102444800); // 2100
}

void test_runstate(void) {
  static struct vcpu_runstate_info area;
  struct vcpu_runstate_info info;
  EXPECT_EQ(vcpu_op(VCPUOP_get_runstate_info, &info), 0);
  EXPECT_EQ(info.state, RUNSTATE_running);
  u64 before = info.time[RUNSTATE_running], sum = info.time[0] + info.time[1] + info.time[2] + info.time[3];
  EXPECT(sum > 0);
  struct vcpu_runstate_info *pointer = &area;
  EXPECT_EQ(vcpu_op(VCPUOP_register_runstate_memory_area, &pointer), 0);
  EXPECT_EQ(area.state, RUNSTATE_running);
  EXPECT(area.state_entry_time > 0);
  u64 start = now_ns();
  while (now_ns() < start + 100000) {
  }
  EXPECT_EQ(vcpu_op(VCPUOP_get_runstate_info, &info), 0);
  EXPECT(info.time[RUNSTATE_running] > before);
  EXPECT(info.time[0] + info.time[1] + info.time[2] + info.time[3] > sum);
  // Blocking is accounted as blocked. On a busy host the time-out may be over before the call: try again.
  u64 blocked = area.time[RUNSTATE_blocked];
  for (u32 i = 0; i < 20 && READ_ONCE(area.time[RUNSTATE_blocked]) == blocked; i++) {
    struct sched_poll poll = {NULL, 0, 0, now_ns() + 1000000};
    EXPECT_EQ(sched_op(SCHEDOP_poll, &poll), 0);
  }
  EXPECT(READ_ONCE(area.time[RUNSTATE_blocked]) > blocked);
  EXPECT(area.state_entry_time > start);
}

void test_vcpu_op(void) {
  EXPECT_EQ(hypercall3(__HYPERVISOR_vcpu_op, VCPUOP_is_up, 0, 0), 1);
  EXPECT_EQ(hypercall3(__HYPERVISOR_vcpu_op, VCPUOP_is_up, 511, 0), -XEN_ENOENT);
  EXPECT(hypercall3(__HYPERVISOR_vcpu_op, VCPUOP_is_up, 0xffffffff, 0) < 0);
  EXPECT_EQ(hypercall3(__HYPERVISOR_vcpu_op, 99, 0, 0), -XEN_ENOSYS);
  EXPECT_EQ(sched_op(SCHEDOP_yield, NULL), 0);
}
