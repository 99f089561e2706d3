// SPDX-License-Identifier: Apache-2.0
//
// Every trap and callback ends here: it is recorded, offered to the current hook, sent to the resume point or the guard, or ends the guest.
#include "guest.h"

struct trap_record last_trap;
bool (*trap_hook)(struct regs *regs);
void (*event_hook)(void);
u64 resume_rip;
extern u64 guard_sp;

void trap_entry(struct regs *regs);

static _Noreturn void die(const struct regs *regs) {
  print("guest: unexpected trap %lu error %lx rip %lx cs %x rsp %lx cr2 %lx\n", regs->vector, regs->error, regs->rip, regs->cs, regs->rsp, vcpu->cr2);
  guest_shutdown(SHUTDOWN_crash);
}

void trap_entry(struct regs *regs) {
  if (regs->vector == TRAP_event) {
    vcpu->evtchn_upcall_pending = 0;
    barrier();
    // Nobody listens: take the selector all the same, or its set bit would hold back the next event.
    if (event_hook) event_hook();
    else vcpu->evtchn_pending_sel = 0;
    return;
  }
  last_trap.count++;
  last_trap.cr2 = vcpu->cr2;
  last_trap.mask_inside = vcpu->evtchn_upcall_mask;
  last_trap.frame_top = (u64)(regs + 1);
  memcpy(&last_trap.regs, regs, sizeof *regs);
  if (trap_hook && trap_hook(regs)) return;
  if (resume_rip && (regs->cs & 3) == 0) {
    regs->rip = resume_rip;
    regs->rflags &= ~(u64)X86_EFLAGS_TF;
    resume_rip = 0;
    return;
  }
  if (!guard_sp) die(regs);
  regs->rip = (u64)guard_abort;
  regs->rsp = guard_sp;
  regs->cs = BOUNCED_KERNEL_CS;
  regs->ss = FLAT_KERNEL_DS;
  regs->rflags = (regs->rflags & X86_EFLAGS_IF) | 2;
  resume_rip = 0;
}

void traps_init(void) {
  static struct trap_info table[257];
  u32 n = 0;
  for (u32 vector = 0; vector < 256; vector++) {
    if (vector == 2 || vector == 9 || vector == 15 || (vector >= 22 && vector < 0x80)) continue;
    // int3 and into may come from user mode, as may 0x80 and 0x81; 0x90 and above mask events, and 0x82 and above are for nobody but hardware.
    u8 flags = vector == 3 || vector == 4 || vector == 0x80 || vector == 0x81 || vector == 0x90 ? 3 : 0;
    if (vector == 0x90) flags |= 4;
    if (vector == 0x91) flags = 1;
    if (vector > 0x91) break;
    table[n++] = (struct trap_info){.vector = (u8)vector, .flags = flags, .cs = FLAT_KERNEL_CS, .address = trap_stub(vector)};
  }
  hypercall1(__HYPERVISOR_set_trap_table, table);
  struct callback_register callbacks[] = {
    {CALLBACKTYPE_event, 0, (u64)event_callback},
    {CALLBACKTYPE_failsafe, 0, (u64)failsafe_callback},
    {CALLBACKTYPE_syscall, 0, (u64)syscall_callback},
  };
  for (u32 i = 0; i < 3; i++) hypercall2(__HYPERVISOR_callback_op, CALLBACKOP_register, &callbacks[i]);
}
