// SPDX-License-Identifier: Apache-2.0
//
// Event channels: the 2-level ABI first, then (for good) vcpu_info at a place of our own and the FIFO ABI. While a service runs, upcalls are
// masked except where it allows them; what fired is counted per port by the upcall handler.
#include "selftest.h"

#define PORTS 1024
static volatile u32 fired[PORTS];
static volatile u32 upcalls;
static struct evtchn_fifo_control_block control_block PAGE_ALIGNED;
static u32 event_array[1024] PAGE_ALIGNED;
static bool fifo_active;

static void note_fired(u32 port) {
  if (port < PORTS) fired[port]++;
}

static void scan_two_level(void) {
  u64 selector = __atomic_exchange_n(&vcpu->evtchn_pending_sel, 0, __ATOMIC_SEQ_CST);
  while (selector) {
    u32 word = (u32)__builtin_ctzl(selector);
    selector &= selector - 1;
    u64 ready = READ_ONCE(shared->evtchn_pending[word]) & ~READ_ONCE(shared->evtchn_mask[word]);
    __atomic_fetch_and(&shared->evtchn_pending[word], ~ready, __ATOMIC_SEQ_CST);
    for (; ready; ready &= ready - 1) note_fired(word * 64 + (u32)__builtin_ctzl(ready));
  }
}

// Consumes every queue: take the head, unlink it, count it when it is pending and not masked.
static void scan_fifo(void) {
  u32 ready = __atomic_exchange_n(&control_block.ready, 0, __ATOMIC_SEQ_CST);
  for (; ready; ready &= ready - 1) {
    u32 queue = (u32)__builtin_ctz(ready), port = READ_ONCE(control_block.head[queue]);
    while (port && port < 1024) {
      u32 old = READ_ONCE(event_array[port]);
      while (!__atomic_compare_exchange_n(&event_array[port], &old, old & ~(1u << EVTCHN_FIFO_LINKED | ((1u << EVTCHN_FIFO_LINK_BITS) - 1)), false,
                                          __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST)) {
      }
      if ((old & 1u << EVTCHN_FIFO_PENDING) && !(old & 1u << EVTCHN_FIFO_MASKED)) {
        __atomic_fetch_and(&event_array[port], ~(1u << EVTCHN_FIFO_PENDING), __ATOMIC_SEQ_CST);
        note_fired(port);
      }
      port = old & ((1u << EVTCHN_FIFO_LINK_BITS) - 1);
    }
  }
}

static void on_upcall(void) {
  upcalls++;
  if (fifo_active) scan_fifo();
  else scan_two_level();
}

void events_block(void) {
  vcpu->evtchn_upcall_mask = 1;
  barrier();
}

void events_allow(void) {
  vcpu->evtchn_upcall_mask = 0;
  barrier();
  // Whatever is pending is delivered on the way back from any hypercall.
  if (READ_ONCE(vcpu->evtchn_upcall_pending)) xen_version(XENVER_version, NULL);
}

void events_start(void) {
  events_block();
  event_hook = on_upcall;
  vcpu->evtchn_upcall_pending = 0;
  on_upcall(); // whatever was left
  for (u32 i = 0; i < PORTS; i++) fired[i] = 0;
  upcalls = 0;
}

u32 events_fired(u32 port) {
  return fired[port % PORTS];
}

bool events_wait(u32 port, u64 timeout_ns) {
  u64 limit = now_ns() + timeout_ns;
  events_allow();
  while (!events_fired(port) && now_ns() < limit) sched_op(SCHEDOP_yield, NULL);
  events_block();
  return events_fired(port) != 0;
}

static void event_close(u32 port) {
  event_op(EVTCHNOP_close, &port);
}

static u64 pending_bit(u32 port) {
  return shared->evtchn_pending[port / 64] >> (port % 64) & 1;
}

static void set_mask(u32 port, bool on) {
  if (on) __atomic_fetch_or(&shared->evtchn_mask[port / 64], 1UL << (port % 64), __ATOMIC_SEQ_CST);
  else __atomic_fetch_and(&shared->evtchn_mask[port / 64], ~(1UL << (port % 64)), __ATOMIC_SEQ_CST);
}

// Binds an IPI to ourselves. A port keeps the mask bit its number last had: clear it.
static s64 bind_ipi(struct evtchn_bind_ipi *ipi) {
  s64 rc = event_op(EVTCHNOP_bind_ipi, ipi);
  if (!rc && !fifo_active) set_mask(ipi->port, false);
  return rc;
}

void test_event_ipi(void) {
  events_start();
  struct evtchn_bind_ipi ipi = {0, 0};
  EXPECT_EQ(bind_ipi(&ipi), 0);
  EXPECT(ipi.port > 0 && ipi.port < PORTS);
  EXPECT_EQ(event_op(EVTCHNOP_send, &ipi.port), 0);
  EXPECT_EQ(upcalls, 0); // masked
  EXPECT_EQ(vcpu->evtchn_upcall_pending, 1);
  EXPECT_EQ(pending_bit(ipi.port), 1);
  events_allow();
  EXPECT_EQ(upcalls, 1);
  EXPECT_EQ(events_fired(ipi.port), 1);
  EXPECT_EQ(vcpu->evtchn_upcall_mask, 0); // the upcall masked itself and its iret unmasked again
  EXPECT_EQ(event_op(EVTCHNOP_send, &ipi.port), 0); // delivered before send returns to us
  EXPECT_EQ(events_fired(ipi.port), 2);
  events_block();
  struct evtchn_status status = {.dom = DOMID_SELF, .port = ipi.port};
  EXPECT_EQ(event_op(EVTCHNOP_status, &status), 0);
  EXPECT_EQ(status.status, EVTCHNSTAT_ipi);
  EXPECT_EQ(status.vcpu, 0);
  EXPECT_EQ(event_op(EVTCHNOP_close, &ipi.port), 0);
  status.port = ipi.port;
  EXPECT_EQ(event_op(EVTCHNOP_status, &status), 0);
  EXPECT_EQ(status.status, EVTCHNSTAT_closed);
  EXPECT_EQ(event_op(EVTCHNOP_send, &ipi.port), -XEN_EINVAL);
  ipi.vcpu = 999;
  EXPECT_EQ(event_op(EVTCHNOP_bind_ipi, &ipi), -XEN_ENOENT);
  u32 wild = 0x7fffffff;
  EXPECT_EQ(event_op(EVTCHNOP_send, &wild), -XEN_EINVAL);
  EXPECT_EQ(event_op(99, &wild), -XEN_ENOSYS);
}

void test_event_masks(void) {
  events_start();
  struct evtchn_bind_ipi ipi = {0, 0};
  EXPECT_EQ(bind_ipi(&ipi), 0);
  set_mask(ipi.port, true);
  events_allow();
  EXPECT_EQ(event_op(EVTCHNOP_send, &ipi.port), 0);
  EXPECT_EQ(upcalls, 0);
  EXPECT_EQ(pending_bit(ipi.port), 1);
  EXPECT_EQ(event_op(EVTCHNOP_unmask, &ipi.port), 0);
  EXPECT_EQ(shared->evtchn_mask[ipi.port / 64] >> (ipi.port % 64) & 1, 0);
  EXPECT_EQ(events_fired(ipi.port), 1);
  EXPECT_EQ(pending_bit(ipi.port), 0);
  set_mask(ipi.port, true);
  EXPECT_EQ(event_op(EVTCHNOP_unmask, &ipi.port), 0); // nothing pending: nothing happens
  EXPECT_EQ(events_fired(ipi.port), 1);
  // A second send before the first is taken is one event.
  events_block();
  EXPECT_EQ(event_op(EVTCHNOP_send, &ipi.port), 0);
  EXPECT_EQ(event_op(EVTCHNOP_send, &ipi.port), 0);
  events_allow();
  events_block();
  EXPECT_EQ(events_fired(ipi.port), 2);
  event_close(ipi.port);
}

static s64 connect_to_self(u32 *near, u32 *far) {
  struct evtchn_alloc_unbound offer = {DOMID_SELF, DOMID_SELF, 0};
  s64 rc = event_op(EVTCHNOP_alloc_unbound, &offer);
  if (rc) return rc;
  struct evtchn_bind_interdomain bind = {DOMID_SELF, 0, offer.port, 0};
  rc = event_op(EVTCHNOP_bind_interdomain, &bind);
  *near = offer.port;
  *far = bind.local_port;
  return rc;
}

// Our own domain number, as the far end of a channel to ourselves reports it.
u16 own_domid(void) {
  u32 near, far;
  if (connect_to_self(&near, &far)) return DOMID_SELF;
  struct evtchn_status status = {.dom = DOMID_SELF, .port = near};
  s64 rc = event_op(EVTCHNOP_status, &status);
  event_close(near);
  event_close(far);
  return rc ? DOMID_SELF : status.u.interdomain.dom;
}

void test_event_channel(void) {
  events_start();
  u32 near, far;
  struct evtchn_alloc_unbound offer = {DOMID_SELF, DOMID_SELF, 0};
  EXPECT_EQ(event_op(EVTCHNOP_alloc_unbound, &offer), 0);
  struct evtchn_status status = {.dom = DOMID_SELF, .port = offer.port};
  EXPECT_EQ(event_op(EVTCHNOP_status, &status), 0);
  EXPECT_EQ(status.status, EVTCHNSTAT_unbound);
  EXPECT_EQ(event_op(EVTCHNOP_send, &offer.port), 0); // nobody there: dropped
  event_close(offer.port);
  EXPECT_EQ(connect_to_self(&near, &far), 0);
  EXPECT(near != far);
  status = (struct evtchn_status){.dom = DOMID_SELF, .port = near};
  EXPECT_EQ(event_op(EVTCHNOP_status, &status), 0);
  EXPECT_EQ(status.status, EVTCHNSTAT_interdomain);
  EXPECT_EQ(status.u.interdomain.port, far);
  events_allow();
  events_block();
  u32 near_before = events_fired(near), far_before = events_fired(far); // a fresh binding may signal once
  events_allow();
  EXPECT_EQ(event_op(EVTCHNOP_send, &near), 0);
  EXPECT_EQ(events_fired(far), far_before + 1);
  EXPECT_EQ(event_op(EVTCHNOP_send, &far), 0);
  events_block();
  EXPECT_EQ(events_fired(near), near_before + 1);
  struct evtchn_bind_vcpu bind = {near, 0};
  EXPECT_EQ(event_op(EVTCHNOP_bind_vcpu, &bind), 0);
  EXPECT_EQ(event_op(EVTCHNOP_close, &far), 0);
  status = (struct evtchn_status){.dom = DOMID_SELF, .port = near};
  EXPECT_EQ(event_op(EVTCHNOP_status, &status), 0);
  EXPECT_EQ(status.status, EVTCHNSTAT_unbound); // the other end went away
  EXPECT_EQ(event_op(EVTCHNOP_close, &near), 0);
  EXPECT(event_op(EVTCHNOP_close, &near) < 0);
  struct evtchn_bind_interdomain bad = {DOMID_SELF, 0, 3000, 0};
  EXPECT_EQ(event_op(EVTCHNOP_bind_interdomain, &bad), -XEN_EINVAL);
}

static s64 arm_timer(u64 delay_ns) {
  struct vcpu_set_singleshot_timer shot = {now_ns() + delay_ns, 0, 0};
  return vcpu_op(VCPUOP_set_singleshot_timer, &shot);
}

// Binds VIRQ_TIMER, after closing what a failed service may have left.
static s64 bind_timer(u32 *port) {
  static u32 bound;
  if (bound) event_close(bound);
  struct evtchn_bind_virq virq = {VIRQ_TIMER, 0, 0};
  s64 rc = event_op(EVTCHNOP_bind_virq, &virq);
  bound = *port = rc ? 0 : virq.port;
  if (!rc && !fifo_active) set_mask(bound, false);
  return rc;
}

void test_virq_timer(void) {
  events_start();
  EXPECT_EQ(vcpu_op(VCPUOP_stop_periodic_timer, NULL), 0);
  u32 timer;
  EXPECT_EQ(bind_timer(&timer), 0);
  struct evtchn_bind_virq again = {VIRQ_TIMER, 0, 0};
  EXPECT_EQ(event_op(EVTCHNOP_bind_virq, &again), -XEN_EEXIST);
  struct evtchn_bind_virq wild = {4711, 0, 0};
  EXPECT_EQ(event_op(EVTCHNOP_bind_virq, &wild), -XEN_EINVAL);
  u64 start = now_ns();
  EXPECT_EQ(arm_timer(500000), 0);
  EXPECT(events_wait(timer, 1000000000));
  EXPECT(now_ns() - start >= 500000);
  EXPECT_EQ(events_fired(timer), 1);
  // Already past: the event still comes; with the "future" flag it may be refused.
  struct vcpu_set_singleshot_timer past = {now_ns() - 1000, 0, 0};
  EXPECT_EQ(vcpu_op(VCPUOP_set_singleshot_timer, &past), 0);
  EXPECT(({ fired[timer] = 0; events_wait(timer, 1000000000); }));
  past = (struct vcpu_set_singleshot_timer){now_ns() - 1000, VCPU_SSHOTTMR_future, 0};
  s64 refused = vcpu_op(VCPUOP_set_singleshot_timer, &past);
  EXPECT(refused == -XEN_ETIME || refused == 0); // Xen may ignore the flag
  vcpu_op(VCPUOP_stop_singleshot_timer, NULL);
  events_allow();
  events_block();
  // Stopped in time: nothing.
  fired[timer] = 0;
  EXPECT_EQ(arm_timer(2000000), 0);
  EXPECT_EQ(vcpu_op(VCPUOP_stop_singleshot_timer, NULL), 0);
  EXPECT(!events_wait(timer, 4000000));
  // The older interface to the same timer.
  EXPECT_EQ(hypercall1(__HYPERVISOR_set_timer_op, now_ns() + 300000), 0);
  EXPECT(events_wait(timer, 1000000000));
}

void test_poll(void) {
  events_start();
  struct evtchn_bind_ipi ipi = {0, 0};
  EXPECT_EQ(bind_ipi(&ipi), 0);
  set_mask(ipi.port, true);
  // Times out; an event for another port may end a poll early, so ask again, but never many times.
  struct sched_poll poll = {&ipi.port, 1, 0, now_ns() + 1500000};
  u32 polls = 0;
  do {
    EXPECT_EQ(sched_op(SCHEDOP_poll, &poll), 0);
    polls++;
  } while (now_ns() < poll.timeout && polls < 20);
  EXPECT(now_ns() >= poll.timeout);
  EXPECT_EQ(event_op(EVTCHNOP_send, &ipi.port), 0);
  poll.timeout = now_ns() + 5000000000;
  EXPECT_EQ(sched_op(SCHEDOP_poll, &poll), 0); // pending, though masked
  EXPECT(now_ns() < poll.timeout);
  EXPECT_EQ(upcalls, 0);
  poll.nr_ports = 129;
  EXPECT_EQ(sched_op(SCHEDOP_poll, &poll), -XEN_EINVAL);
  u32 wild = 0x7fffffff;
  poll = (struct sched_poll){&wild, 1, 0, 0};
  EXPECT_EQ(sched_op(SCHEDOP_poll, &poll), -XEN_EINVAL);
  EXPECT_EQ(sched_op(99, &poll), -XEN_ENOSYS);
  event_close(ipi.port);
}

void test_timer_block(void) {
  events_start();
  EXPECT_EQ(vcpu_op(VCPUOP_stop_periodic_timer, NULL), 0);
  u32 timer;
  EXPECT_EQ(bind_timer(&timer), 0);
  u64 start = now_ns();
  EXPECT_EQ(arm_timer(2000000), 0);
  while (!events_fired(timer) && now_ns() < start + 1000000000) {
    events_block();
    EXPECT_EQ(sched_op(SCHEDOP_block, NULL), 0); // clears the mask; the upcall comes before it returns
    EXPECT_EQ(vcpu->evtchn_upcall_mask, 0);
  }
  events_block();
  EXPECT_EQ(events_fired(timer), 1);
  EXPECT(now_ns() - start >= 2000000);
}

// After this the whole guest uses vcpu_info at its new place.
void test_vcpu_info(void) {
  static u8 page[PAGE_SIZE] PAGE_ALIGNED;
  events_start();
  struct vcpu_register_vcpu_info info = {mfn_of(page), 4090, 0};
  EXPECT_EQ(vcpu_op(VCPUOP_register_vcpu_info, &info), -XEN_ENXIO); // crosses the page
  info.offset = 128;
  EXPECT_EQ(vcpu_op(VCPUOP_register_vcpu_info, &info), 0);
  vcpu = (struct vcpu_info *)(page + 128);
  EXPECT_EQ(vcpu->evtchn_upcall_mask, 1); // the old contents were carried over
  EXPECT(vcpu->time.tsc_to_system_mul != 0);
  events_allow();
  events_block();
  EXPECT_EQ(vcpu_op(VCPUOP_register_vcpu_info, &info), -XEN_EINVAL); // once only
  struct evtchn_bind_ipi ipi = {0, 0};
  EXPECT_EQ(bind_ipi(&ipi), 0);
  EXPECT_EQ(event_op(EVTCHNOP_send, &ipi.port), 0);
  EXPECT_EQ(vcpu->evtchn_upcall_pending, 1);
  events_allow();
  events_block();
  EXPECT_EQ(events_fired(ipi.port), 1);
  event_close(ipi.port);
  TRY("movq (%0), %%rax", "r"(VIRT_BASE + 0x3fe00000UL));
  EXPECT_EQ(last_trap.cr2, VIRT_BASE + 0x3fe00000UL); // cr2 is reported at the new place
}

void test_fifo(void) {
  events_start();
  struct evtchn_init_control init = {.control_gfn = mfn_of(&control_block), .offset = 4, .vcpu = 0};
  EXPECT_EQ(event_op(EVTCHNOP_init_control, &init), -XEN_EINVAL); // not aligned to 8
  init.offset = 0;
  EXPECT_EQ(event_op(EVTCHNOP_init_control, &init), 0);
  EXPECT_EQ(init.link_bits, EVTCHN_FIFO_LINK_BITS);
  for (u32 i = 0; i < 1024; i++) event_array[i] = 1u << EVTCHN_FIFO_MASKED;
  u64 array = mfn_of(event_array);
  EXPECT_EQ(event_op(EVTCHNOP_expand_array, &array), 0);
  fifo_active = true;
  struct evtchn_bind_ipi low = {0, 0}, high = {0, 0};
  EXPECT_EQ(bind_ipi(&low), 0);
  EXPECT_EQ(bind_ipi(&high), 0);
  struct evtchn_set_priority priority = {high.port, 2};
  EXPECT_EQ(event_op(EVTCHNOP_set_priority, &priority), 0);
  priority.priority = 16;
  EXPECT_EQ(event_op(EVTCHNOP_set_priority, &priority), -XEN_EINVAL);
  // Masked: only the pending bit.
  EXPECT_EQ(event_op(EVTCHNOP_send, &low.port), 0);
  EXPECT_EQ(event_array[low.port] >> 30, 3);
  EXPECT_EQ(event_array[low.port] >> EVTCHN_FIFO_LINKED & 1, 0);
  EXPECT_EQ(control_block.ready, 0);
  // Unmask links it at its queue.
  EXPECT_EQ(event_op(EVTCHNOP_unmask, &low.port), 0);
  EXPECT_EQ(event_array[low.port] >> EVTCHN_FIFO_LINKED, 5); // pending, not masked, linked
  EXPECT_EQ(control_block.ready, 1u << 7);
  EXPECT_EQ(control_block.head[7], low.port);
  event_op(EVTCHNOP_unmask, &high.port);
  EXPECT_EQ(event_op(EVTCHNOP_send, &high.port), 0);
  EXPECT_EQ(control_block.ready, 1u << 7 | 1u << 2);
  EXPECT_EQ(control_block.head[2], high.port);
  events_allow();
  events_block();
  EXPECT_EQ(events_fired(low.port), 1);
  EXPECT_EQ(events_fired(high.port), 1);
  EXPECT_EQ(event_array[low.port] >> EVTCHN_FIFO_LINKED, 0);
  // Two events of one queue hang on each other in order.
  priority = (struct evtchn_set_priority){high.port, 7};
  EXPECT_EQ(event_op(EVTCHNOP_set_priority, &priority), 0);
  EXPECT_EQ(event_op(EVTCHNOP_send, &low.port), 0);
  EXPECT_EQ(event_op(EVTCHNOP_send, &high.port), 0);
  EXPECT_EQ(control_block.head[7], low.port);
  EXPECT_EQ(event_array[low.port] & ((1u << EVTCHN_FIFO_LINK_BITS) - 1), high.port);
  events_allow();
  events_block();
  EXPECT_EQ(events_fired(low.port), 2);
  EXPECT_EQ(events_fired(high.port), 2);
  // The timer comes through the new ABI as well.
  u32 timer;
  EXPECT_EQ(bind_timer(&timer), 0);
  event_op(EVTCHNOP_unmask, &timer);
  EXPECT_EQ(arm_timer(300000), 0);
  EXPECT(events_wait(timer, 1000000000));
  event_close(low.port);
  event_close(high.port);
}
