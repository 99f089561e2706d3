// SPDX-License-Identifier: Apache-2.0
//
// mode=idle blocks for ever · mode=spin[=N] runs N rounds of eight ALU instructions and prints the time · mode=panic ends as SHUTDOWN_crash ·
// mode=triple faults without any handler · mode=echo sends console input back until `q` · mode=reboot asks for a reboot.
#include "selftest.h"

static _Noreturn void spin(void) {
  u64 rounds = option_number("mode=spin", option_number("rounds", 10000000)), left = rounds, a = 1, b = 2, start = now_ns();
  __asm__ volatile(".balign 16; 1: addq %2, %1; xorq %1, %2; rolq $7, %1; leaq 3(%1,%2,2), %2; imulq $3, %1, %1; shrq $1, %2; decq %0; jnz 1b"
                   : "+r"(left), "+r"(a), "+r"(b)::"cc");
  u64 ns = now_ns() - start;
  print("spin: %lu rounds, %lu instructions, %lu ns, result %lx\n", rounds, rounds * 8, ns, a ^ b);
  guest_shutdown(SHUTDOWN_poweroff);
}

static _Noreturn void echo(void) {
  print("echo: ready\n");
  vcpu_op(VCPUOP_stop_periodic_timer, NULL);
  u32 port = start_info->console_evtchn;
  for (;;) {
    char byte;
    while (console_read(&byte)) {
      console_write(&byte, 1);
      if (byte == 'q') {
        print("\necho: bye\n");
        guest_shutdown(SHUTDOWN_poweroff);
      }
    }
    if (!console_ring) {
      sched_op(SCHEDOP_yield, NULL);
      continue;
    }
    // Sleep until the console's channel has something; look once more after clearing it.
    struct sched_poll poll = {&port, 1, 0, 0};
    __atomic_fetch_and(&shared->evtchn_pending[port / 64], ~(1UL << (port % 64)), __ATOMIC_SEQ_CST);
    if (READ_ONCE(console_ring->in_prod) == console_ring->in_cons) sched_op(SCHEDOP_poll, &poll);
  }
}

void modes_run(const char *mode) {
  if (starts_with(mode, "idle")) {
    vcpu_op(VCPUOP_stop_periodic_timer, NULL);
    print("idle: blocking\n");
    for (u32 i = 0; i < 64; i++) shared->evtchn_mask[i] = ~0UL;
    for (;;) sched_op(SCHEDOP_block, NULL);
  }
  if (starts_with(mode, "spin")) spin();
  if (starts_with(mode, "echo")) echo();
  if (starts_with(mode, "panic")) {
    print("panic: on request\n");
    guest_shutdown(SHUTDOWN_crash);
  }
  if (starts_with(mode, "reboot")) {
    print("reboot: on request\n");
    guest_shutdown(SHUTDOWN_reboot);
  }
  if (starts_with(mode, "triple")) {
    print("triple: leaving mapped memory without handlers\n");
    ((void (*)(void))(VIRT_BASE + 0x3fe00000))();
  }
  print("selftest: unknown mode\n");
  guest_shutdown(SHUTDOWN_crash);
}
